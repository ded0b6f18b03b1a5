//! The same change on several hosts as one line. Pure: events in, lines out.

use std::collections::BTreeMap;

/// Longest list of names in a line; more are counted.
const MAX_NAMES: usize = 8;

/// What changed on one host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// where
    pub host: String,
    /// what changed in a file, where that is known and to be shown
    pub diff: Option<String>,
}

/// A task, or one item of its loop, on the hosts of a play.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Task {
    place: String,
    title: String,
    told: usize,
    changes: Vec<Change>,
}

/// A line with what follows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// the task's name, and the item of a loop
    pub title: String,
    /// `3 hosts (kafka01-03)`
    pub hosts: String,
    /// the same on all of these hosts
    pub diff: Option<String>,
}

/// Changes of a play that are not shown yet.
#[derive(Debug, Default)]
pub struct Changes {
    /// cut off from the front of hosts' names
    prefix: String,
    hosts: usize,
    tasks: Vec<Task>,
    /// changes on hosts that are new, and how many of them are files
    folded: BTreeMap<String, (usize, usize)>,
    new_hosts: Vec<String>,
}

impl Changes {
    /// Names are shown without the prefix; changes on new hosts are only counted.
    pub fn of_cluster(&mut self, prefix: &str, new_hosts: Vec<String>) {
        self.prefix = format!("{prefix}-");
        self.new_hosts = new_hosts;
    }

    /// A play begins; what is left of the one before comes out.
    pub fn play(&mut self, hosts: usize) -> Vec<Line> {
        self.hosts = hosts;
        self.rest()
    }

    /// A task ended on a host, with or without a change. Printed once all hosts of the play have reported.
    pub fn add(&mut self, place: &str, title: &str, host: &str, changed: bool, diff: Option<&str>) -> Vec<Line> {
        if changed && self.new_hosts.iter().any(|n| n == host) {
            let folded = self.folded.entry(host.to_owned()).or_default();
            folded.0 += 1;
            folded.1 += usize::from(diff.is_some());
            return Vec::new();
        }
        let at = self.tasks.iter().position(|t| t.place == place && t.title == title).unwrap_or_else(|| {
            self.tasks.push(Task { place: place.to_owned(), title: title.to_owned(), ..Task::default() });
            self.tasks.len() - 1
        });
        let Some(task) = self.tasks.get_mut(at) else { return Vec::new() };
        task.told += 1;
        if changed {
            task.changes.push(Change { host: host.to_owned(), diff: diff.map(str::to_owned) });
        }
        match task.told >= self.hosts {
            true => {
                let task = self.tasks.remove(at);
                self.lines(task)
            }
            false => Vec::new(),
        }
    }

    /// Changes that not all hosts have reported yet.
    pub fn rest(&mut self) -> Vec<Line> {
        std::mem::take(&mut self.tasks).into_iter().flat_map(|t| self.lines(t)).collect()
    }

    /// New hosts with the number of their changes, as one line.
    pub fn folded(&mut self) -> Option<String> {
        let folded = std::mem::take(&mut self.folded);
        if folded.is_empty() {
            return None;
        }
        let (tasks, files) = folded.values().fold((0, 0), |(t, f), (tasks, files)| (t + tasks, f + files));
        let hosts = self.hosts_text(&folded.into_keys().collect::<Vec<_>>(), "new ");
        Some(format!("{hosts}: {tasks} changes, {files} of them in files; -v shows each"))
    }

    /// One line for each different change.
    fn lines(&self, task: Task) -> Vec<Line> {
        let mut classes: Vec<(Option<String>, Vec<String>)> = Vec::new();
        for change in task.changes {
            match classes.iter_mut().find(|(diff, _)| *diff == change.diff) {
                Some((_, hosts)) => hosts.push(change.host),
                None => classes.push((change.diff, vec![change.host])),
            }
        }
        let line = |(diff, hosts): (_, Vec<String>)| Line { title: task.title.clone(), hosts: self.hosts_text(&hosts, ""), diff };
        classes.into_iter().map(line).collect()
    }

    fn hosts_text(&self, hosts: &[String], kind: &str) -> String {
        let short: Vec<&str> = hosts.iter().map(|h| h.strip_prefix(&self.prefix).unwrap_or(h)).collect();
        match (short.as_slice(), kind) {
            ([one], "") => (*one).to_owned(),
            (many, _) => format!("{} {kind}host{} ({})", many.len(), if many.len() == 1 { "" } else { "s" }, ranges(many)),
        }
    }
}

/// `kafka01-03, zk02`: names that differ in consecutive numbers at their end are a range.
pub fn ranges(names: &[&str]) -> String {
    let mut split: Vec<(&str, &str, Option<u64>)> = names
        .iter()
        .map(|n| {
            let stem = n.trim_end_matches(|c: char| c.is_ascii_digit());
            let digits = n.get(stem.len()..).unwrap_or_default();
            (stem, digits, digits.parse().ok())
        })
        .collect();
    split.sort();
    let mut parts: Vec<(String, &str, &str, &str, Option<u64>)> = Vec::new();
    for (stem, digits, number) in split {
        match parts.last_mut() {
            Some((text, of, first, last, end))
                if *of == stem && last.len() == digits.len() && number.is_some() && *end == number.map(|n| n.wrapping_sub(1)) =>
            {
                (*last, *end) = (digits, number);
                *text = format!("{of}{first}-{digits}");
            }
            _ => parts.push((format!("{stem}{digits}"), stem, digits, digits, number)),
        }
    }
    let more = parts.len().saturating_sub(MAX_NAMES);
    let mut shown: Vec<String> = parts.into_iter().take(MAX_NAMES).map(|p| p.0).collect();
    if more > 0 {
        shown.push(format!("and {more} more"));
    }
    shown.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changes(hosts: usize) -> Changes {
        let mut c = Changes::default();
        c.of_cluster("peter", Vec::new());
        assert_eq!(c.play(hosts), []);
        c
    }

    fn shown(lines: Vec<Line>) -> Vec<String> {
        lines.into_iter().map(|l| format!("{} on {}{}", l.title, l.hosts, l.diff.map(|d| format!(": {d}")).unwrap_or_default())).collect()
    }

    #[test]
    fn the_same_change_is_one_line() {
        let mut c = changes(3);
        assert_eq!(c.add("a:1", "Configuration", "peter-kafka01", true, Some("+x")), []);
        assert_eq!(c.add("a:1", "Configuration", "peter-kafka03", true, Some("+x")), []);
        let lines = c.add("a:1", "Configuration", "peter-kafka02", true, Some("+x"));
        assert_eq!(shown(lines), ["Configuration on 3 hosts (kafka01-03): +x"]);
        // Hosts without a change complete the task as well.
        c.add("a:2", "Unit", "peter-kafka01", false, None);
        c.add("a:2", "Unit", "peter-kafka02", true, None);
        assert_eq!(shown(c.add("a:2", "Unit", "peter-kafka03", false, None)), ["Unit on kafka02"]);
    }

    #[test]
    fn hosts_that_differ_have_lines_of_their_own() {
        let mut c = changes(3);
        c.add("a:1", "C", "peter-kafka01", true, Some("+1"));
        c.add("a:1", "C", "peter-kafka02", true, Some("+2"));
        assert_eq!(
            shown(c.add("a:1", "C", "peter-kafka03", true, Some("+1"))),
            ["C on 2 hosts (kafka01, kafka03): +1", "C on kafka02: +2"]
        );
    }

    #[test]
    fn nothing_is_hidden_without_its_count() {
        let mut c = changes(3);
        c.of_cluster("peter", vec!["peter-kafka03".into(), "peter-zk01".into()]);
        c.add("a:1", "C", "peter-kafka01", true, None);
        c.add("a:1", "C", "peter-kafka03", true, Some("+1"));
        c.add("a:2", "D", "peter-zk01", true, None);
        assert_eq!(shown(c.play(2)), ["C on kafka01"]);
        assert_eq!(c.folded().as_deref(), Some("2 new hosts (kafka03, zk01): 2 changes, 1 of them in files; -v shows each"));
        assert_eq!((c.folded(), c.rest()), (None, vec![]));
    }

    #[test]
    fn ranges_of_names() {
        assert_eq!(ranges(&["zk03", "kafka01", "zk01", "kafka02", "control01", "kafka03"]), "control01, kafka01-03, zk01, zk03");
        assert_eq!(ranges(&["a9", "a10", "b", "b1"]), "a10, a9, b, b1");
        let many: Vec<String> = (0..30).map(|i| format!("h{}", i * 2)).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert!(ranges(&many).ends_with(", and 22 more"), "{}", ranges(&many));
    }
}
