//! Host patterns, as Ansible's: names, groups and globs joined by `:` or `,`; `!` takes away, `&` keeps what is in
//! both.

use globset::{GlobBuilder, GlobMatcher};

use super::{Group, Host, Inventory};
use crate::error::{Error, Result, nearest};

/// Hosts that a pattern selects, in the inventory's order.
pub fn select<'a>(inventory: &'a Inventory, pattern: &str) -> Result<Vec<&'a Host>> {
    let mut include: Vec<bool> = vec![false; inventory.hosts.len()];
    let mut terms: Vec<&str> = pattern.split([':', ',']).map(str::trim).filter(|t| !t.is_empty()).collect();
    if terms.is_empty() {
        return Err(Error::invalid("the host pattern is empty"));
    }
    // As in Ansible: first what is added, then what must be in both, then what is taken away.
    terms.sort_by_key(|t| match t.as_bytes()[0] {
        b'&' => 1,
        b'!' => 2,
        _ => 0,
    });
    if terms[0].starts_with(['!', '&']) {
        include.fill(true);
    }
    for term in terms {
        let (sign, name) = match term.as_bytes()[0] {
            b'!' => ('!', &term[1..]),
            b'&' => ('&', &term[1..]),
            _ => ('+', term),
        };
        let hits = matching(inventory, name)?;
        for (slot, hit) in include.iter_mut().zip(hits) {
            match sign {
                '+' => *slot |= hit,
                '&' => *slot &= hit,
                _ => *slot &= !hit,
            }
        }
    }
    Ok(inventory.hosts.iter().zip(include).filter(|(_, i)| *i).map(|(h, _)| h).collect())
}

fn matching(inventory: &Inventory, name: &str) -> Result<Vec<bool>> {
    let all = name == "all" || name == "*";
    let glob = glob(name);
    let fits = |text: &str| glob.as_ref().is_some_and(|g| g.is_match(text));
    let hits: Vec<bool> = inventory
        .hosts
        .iter()
        .map(|h| {
            all || inventory.is_in(h.id, name)
                || (glob.is_none() && inventory.find(name).is_some_and(|f| f.id == h.id))
                || fits(&h.name)
                || h.name.strip_prefix(&inventory.prefix).is_some_and(|r| fits(r.trim_start_matches('-')))
                || inventory.groups_of(h.id).iter().any(|g| fits(g))
                || fits(&inventory.fqdn(&h.name))
        })
        .collect();
    // A group that exists and is empty (no coordinators where brokers are controllers too) selects no host.
    let is_group = all || inventory.members().keys().any(|g| g.name() == name);
    if !hits.contains(&true) && glob.is_none() && !is_group {
        let groups = || std::iter::once("all").chain(inventory.members().keys().map(Group::name));
        let names = groups().chain(inventory.hosts.iter().map(|h| h.name.as_str()));
        let e = Error::invalid(format!("no host or group is called `{name}`"));
        return Err(match nearest(name, names) {
            Some(n) => e.hint(format!("did you mean `{n}`?")),
            None => e.hint(format!("groups: {}", groups().collect::<Vec<_>>().join(", "))),
        });
    }
    Ok(hits)
}

/// `*`, `?` and `[a-z]` as in a shell; `None` where it is no pattern.
fn glob(pattern: &str) -> Option<GlobMatcher> {
    if !pattern.contains(['*', '?', '[']) {
        return None;
    }
    // Braces are not special to Ansible; no name has them.
    GlobBuilder::new(pattern).backslash_escape(false).build().ok().map(|g| g.compile_matcher())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn patterns_select_as_ansible_does() {
        let inventory = Inventory::built_in().unwrap();
        let names = |p: &str| {
            select(&inventory, p).unwrap().iter().map(|h| h.name.trim_start_matches("peter-").to_owned()).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(names("all"), "control01 zk01 zk02 zk03 kafka01 kafka02 kafka03");
        assert_eq!(names("brokers"), "kafka01 kafka02 kafka03");
        assert_eq!(names("control:coordinators"), "control01 zk01 zk02 zk03");
        assert_eq!(names("all:!brokers"), "control01 zk01 zk02 zk03");
        assert_eq!(names("!brokers:all:!zk02"), "control01 zk01 zk03");
        assert_eq!(names("*01:&brokers"), "kafka01");
        assert_eq!(names("peter-kafka0[1-2]"), "kafka01 kafka02");
        assert_eq!(names("kafka0?,zk01"), "zk01 kafka01 kafka02 kafka03");
        assert_eq!(names("nothing*"), "");
        assert!(select(&inventory, "broker").unwrap_err().hint.unwrap().contains("brokers"));
    }
}
