//! Configuration that `up` would change on hosts. The playbooks of an upgrade write it too, so an upgrade says how much of it there is.
//!
//! Invariant: nothing is changed on a host: the playbooks run in check mode, as for `plan`.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use serde::Serialize;

use super::{super::Access, Cluster, hosts::Runs};
use crate::{
    engine::PROGRAM_DIR,
    error::Result,
    events::{Event, Sink, TaskStatus},
    inventory::{Engine, HostId},
    operations::{
        configure::{play, succeeded},
        up::other_names,
    },
    playbook::parse,
    report::{Human, Reporter, counted},
    stop,
};

/// Modules that write what is in a file.
const WRITING: [&str; 4] = ["template", "copy", "lineinfile", "blockinfile"];
/// Versions that hosts of one cluster are expected to have at most; more are not compared.
const MAX_VERSIONS: usize = 4;

/// Configuration that is applied beside an upgrade.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Pending {
    /// Hosts where files would change.
    pub hosts: Vec<String>,
    /// How many files, over all hosts.
    pub files: usize,
}

impl Pending {
    /// For people, in one line.
    pub fn text(&self) -> String {
        format!(
            "configuration is pending, and the upgrade applies it as `septet up` does: {} on {} ({})",
            counted(self.files, "file"),
            counted(self.hosts.len(), "host"),
            self.hosts.join(", ")
        )
    }
}

/// A file that a task writes: the task's place, and the item of a loop.
type Written = (String, Option<String>);

/// Files that tasks write, by host.
#[derive(Default)]
struct Files(Mutex<BTreeMap<String, BTreeSet<Written>>>);

impl Sink for Files {
    fn event(&self, event: &Event) {
        let Event::Task { host, place, item, status: TaskStatus::Changed, module, diff, .. } = event else { return };
        // The programs are what the upgrade is for.
        let is_program = diff.as_ref().is_some_and(|d| d.starts_with(&format!("{PROGRAM_DIR}/septet-")));
        if WRITING.contains(&module.as_str()) && !is_program {
            let mut files = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            files.entry(host.clone()).or_default().insert((place.clone(), item.clone()));
        }
    }
}

/// How many files the playbooks would write on each host, with the inventory as it is.
async fn look(cluster: &Cluster, access: &Access, playbooks: &[&str]) -> Result<BTreeMap<String, usize>> {
    let mut plays = Vec::new();
    for name in playbooks {
        plays.extend(parse::playbook(&cluster.project, &Path::new("playbooks").join(name).to_string_lossy())?);
    }
    let files = Arc::new(Files::default());
    cluster.reporter.add(files.clone());
    let names = other_names(cluster, &access.observed, &access.fleet).await?;
    let mut options = cluster.options.clone();
    options.check = true;
    succeeded(play(cluster, &access.observed, &names, Some(access.fleet.clone()), &plays, options).await?)?;
    stop::check(&cluster.interrupted)?;
    let files = files.0.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(files.iter().map(|(host, files)| (host.clone(), files.len())).collect())
}

/// Whether a host counts in a look that was made as if the inventory had a version. Units and settings follow from the version, so a host is
/// looked at as if it had to stay at what it has: then what differs is configuration.
fn counts(runs: &Runs, version: Option<&str>) -> bool {
    version.is_none_or(|version| runs.all().any(|has| has == version))
}

/// For each host the fewest files of all looks in which it counts: one whose upgrade was cut off has files of either version.
fn fewest(looks: &[(Option<String>, BTreeMap<String, usize>)], seen: &[(String, Runs)]) -> Option<Pending> {
    let mut pending = Pending { hosts: Vec::new(), files: 0 };
    for (name, runs) in seen {
        let of_host = looks.iter().filter(|(version, _)| counts(runs, version.as_deref()));
        let files = of_host.map(|(_, files)| files.get(name).copied().unwrap_or(0)).min().unwrap_or(0);
        if files > 0 {
            pending.hosts.push(name.clone());
            pending.files += files;
        }
    }
    (pending.files > 0).then_some(pending)
}

/// What the playbooks would change beside the upgrade; `None` if that is nothing.
pub async fn find(cluster: &mut Cluster, access: &Access, seen: &BTreeMap<HostId, Runs>, playbooks: &[&str]) -> Result<Option<Pending>> {
    let versions: Vec<Option<String>> = match &cluster.inventory.engine {
        Engine::Bundled => vec![None],
        Engine::Apache(_) => {
            let all: BTreeSet<&str> = seen.values().flat_map(Runs::all).collect();
            all.into_iter().take(MAX_VERSIONS).map(|v| Some(v.to_owned())).collect()
        }
    };
    // What the playbooks tell is not what the command does.
    let (reporter, inventory) = (cluster.reporter.clone(), cluster.inventory.clone());
    let mut looks = Ok(Vec::new());
    for version in versions {
        cluster.reporter = Arc::new(Reporter::of(Human::kept(false, false)));
        if let (Engine::Apache(a), Some(version)) = (&mut cluster.inventory.engine, &version) {
            a.version.clone_from(version);
        }
        match (look(cluster, access, playbooks).await, &mut looks) {
            (Ok(files), Ok(looks)) => looks.push((version, files)),
            (Err(e), _) => looks = Err(e),
            (Ok(_), Err(_)) => break,
        }
    }
    (cluster.reporter, cluster.inventory) = (reporter, inventory);
    let name = |id: HostId| cluster.inventory.hosts.iter().find(|h| h.id == id).map(|h| h.name.clone()).unwrap_or_default();
    let seen: Vec<(String, Runs)> = seen.iter().map(|(id, runs)| (name(*id), runs.clone())).collect();
    Ok(fewest(&looks?, &seen))
}

#[cfg(test)]
mod tests {
    use super::{super::hosts::Running, *};

    fn task(module: &str, status: TaskStatus, place: &str, diff: Option<&str>) -> Event {
        Event::Task {
            host: "a".into(),
            task: "t".into(),
            place: place.into(),
            item: None,
            status,
            msg: String::new(),
            diff: diff.map(str::to_owned),
            module: module.into(),
        }
    }

    #[test]
    fn files_are_counted_and_programs_and_services_are_not() {
        let files = Files::default();
        let text = "--- /etc/septet/zoo.cfg\n+++ /etc/septet/zoo.cfg\n@@ -1 +1 @@\n-a\n+b\n";
        for event in [
            task("template", TaskStatus::Changed, "p:1", Some(text)),
            // Told again by a rolling play's look; one file.
            task("template", TaskStatus::Changed, "p:1", Some(text)),
            // A secret has no diff.
            task("copy", TaskStatus::Changed, "p:2", None),
            task(
                "copy",
                TaskStatus::Changed,
                "p:3",
                Some("/opt/septet/bin/septet-broker: 5 bytes → 6 bytes (not text, or too long to show)\n"),
            ),
            task("copy", TaskStatus::Changed, "p:3", Some("/opt/septet/bin/septet-coordinator: new bytes with SHA-256 00\n")),
            task("template", TaskStatus::Ok, "p:4", None),
            task("systemd", TaskStatus::Changed, "p:5", Some("kafka-server.service: restart\n")),
            task("file", TaskStatus::Changed, "p:6", None),
        ] {
            files.event(&event);
        }
        let files = files.0.lock().unwrap_or_else(PoisonError::into_inner);
        assert_eq!(files.get("a").map(BTreeSet::len), Some(2), "{files:?}");
    }

    #[test]
    fn what_follows_from_the_version_is_not_pending() {
        let has = |name: &str, running: &str, installed: &str| {
            (name.to_owned(), Runs { running: Running::This(running.into()), installed: Some(installed.into()) })
        };
        // The third was cut off between the installation and the restart.
        let seen = [has("a", "3.9.1", "3.9.1"), has("b", "4.1.1", "4.1.1"), has("c", "3.9.1", "4.1.1")];
        let look = |version: &str, files: [usize; 3]| {
            let files = ["a", "b", "c"].into_iter().map(str::to_owned).zip(files).filter(|(_, n)| *n > 0).collect();
            (Some(version.to_owned()), files)
        };
        assert_eq!(fewest(&[look("3.9.1", [0, 3, 3]), look("4.1.1", [3, 0, 0])], &seen), None);
        // A setting is new, and not on any host yet.
        let pending = fewest(&[look("3.9.1", [1, 3, 3]), look("4.1.1", [3, 1, 1])], &seen);
        let expected = Pending { hosts: vec!["a".into(), "b".into(), "c".into()], files: 3 };
        assert_eq!(pending.as_ref(), Some(&expected));
        assert_eq!(
            expected.text(),
            "configuration is pending, and the upgrade applies it as `septet up` does: 3 files on 3 hosts (a, b, c)"
        );
        // The bundled engine has one look for all hosts.
        let bundled = [(None, BTreeMap::from([("b".to_owned(), 1)]))];
        let pending = fewest(&bundled, &seen);
        assert_eq!(pending.map(|p| p.text()).unwrap_or_default().rsplit(": ").next(), Some("1 file on 1 host (b)"));
    }
}
