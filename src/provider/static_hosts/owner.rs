//! The owner's file: whose a host is, what was on it before, and where the cluster keeps data on it.
//!
//! Invariant: data goes only from directories that the file names, and only if they were empty or missing when they came into it,
//! whatever an inventory says later.

use serde::{Deserialize, Serialize};

use crate::inventory::{Group, HostId};

/// What a line of the list of what is there begins with for data.
const DATA: &str = "data ";

/// The line of the list for the services' logs.
const LOGS: &str = "state /var/log/kafka";

/// The owner's file. Fields are only ever added: later versions read what earlier ones wrote.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Owner {
    /// The cluster's identity.
    pub cluster: String,
    /// The cluster's name.
    pub name: String,
    /// The host's group and number.
    pub group: Group,
    pub index: u16,
    /// What the cluster calls it.
    pub host: String,
    /// Engine, mode and the number of metadata servers.
    pub engine: String,
    /// What it was called before.
    #[serde(default)]
    pub hostname_before: String,
    /// What of the things that Septet installs was there before: `kind path` each.
    #[serde(default)]
    pub before: Vec<String>,
    /// Whether [`Owner::before`] says so of logs too; earlier versions did not look at them.
    #[serde(default)]
    pub logs: bool,
    /// Directories that the cluster has kept data in. `None`: written by a version that took them from the inventory.
    #[serde(default)]
    pub data: Option<Vec<String>>,
}

/// Whether a path can be a data directory: absolute, below the root, and one word for a shell.
pub(super) fn is_data_path(path: &str) -> bool {
    let mut parts = path.split('/').skip(1).filter(|p| !p.is_empty()).peekable();
    path.starts_with('/') && parts.peek().is_some() && parts.all(|p| p != "..") && !path.contains([' ', '\t', '\n', '{', '*', '?', '['])
}

impl Owner {
    pub fn id(&self) -> HostId {
        HostId { group: self.group, index: self.index }
    }

    /// Directories that the cluster has data in; `wanted` are the inventory's.
    pub fn data(&self, wanted: &[String]) -> Vec<String> {
        // The file is somebody else's text.
        self.data.as_deref().unwrap_or(wanted).iter().filter(|p| is_data_path(p)).cloned().collect()
    }

    /// The same with those of the inventory that are not among them.
    pub fn with_data(&self, wanted: &[String]) -> Vec<String> {
        let mut all = self.data(wanted);
        all.extend(self.unknown(wanted));
        all
    }

    /// Directories of the inventory that the file does not name.
    pub fn unknown(&self, wanted: &[String]) -> Vec<String> {
        let known = self.data(wanted);
        wanted.iter().filter(|w| !known.contains(w)).cloned().collect()
    }

    /// The file with all directories of the inventory. `listed` is what is in the new ones.
    pub fn adopting(mut self, wanted: &[String], listed: &str) -> Result<Self, String> {
        let new = self.unknown(wanted);
        let there = whole(listed)?.filter(|l| l.strip_prefix(DATA).is_some_and(|p| new.iter().any(|n| n == p)));
        self.before.extend(there.map(str::to_owned));
        self.data = Some(self.with_data(wanted));
        Ok(self)
    }

    /// Whether a thing of the list is the cluster's.
    pub fn owns(&self, line: &str, wanted: &[String]) -> bool {
        let is_data = |path: &str| self.data(wanted).iter().any(|d| d == path);
        !self.before.iter().any(|b| b == line) && (self.logs || line != LOGS) && line.strip_prefix(DATA).is_none_or(is_data)
    }
}

/// The lines of a list that was not cut off.
fn whole(listed: &str) -> Result<impl Iterator<Item = &str>, String> {
    match listed.lines().any(|l| l == "end") {
        true => Ok(listed.lines().filter(|l| *l != "end")),
        false => Err("the list of what is installed is incomplete".into()),
    }
}

/// What a host has that is not the cluster's when it becomes that cluster's: everything but the data that it left there.
pub(super) fn before(listed: &str, kept: Option<&Owner>, wanted: &[String]) -> Result<Vec<String>, String> {
    let left = |line: &str| line.starts_with(DATA) && kept.is_some_and(|k| k.owns(line, wanted));
    Ok(whole(listed)?.filter(|l| !left(l)).map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    fn owner(before: &[&str], data: Option<&[&str]>) -> Owner {
        Owner {
            cluster: "0123e456-e89b-42d3-a456-426614174000".into(),
            name: "lab".into(),
            group: Group::BROKERS,
            index: 1,
            host: "p-kafka01".into(),
            engine: "bundled-3".into(),
            hostname_before: String::new(),
            before: strings(before),
            logs: true,
            data: data.map(strings),
        }
    }

    fn strings(all: &[&str]) -> Vec<String> {
        all.iter().map(|s| (*s).to_owned()).collect()
    }

    #[test]
    fn a_directory_that_the_inventory_names_later_is_not_the_clusters() {
        let owner = owner(&[], Some(&["/data/kafka-logs"]));
        // The inventory was edited, and `down --data` follows without an `up`.
        let wanted = strings(&["/srv/photos"]);
        assert!(owner.owns("data /data/kafka-logs", &wanted));
        assert!(!owner.owns("data /srv/photos", &wanted));
        // With an `up` it is adopted; what was in it stays, and a new one is the cluster's.
        let wanted = strings(&["/srv/photos", "/srv/new"]);
        let adopted = owner.adopting(&wanted, "data /srv/photos\nend\n").unwrap();
        assert!(adopted.unknown(&wanted).is_empty());
        assert!(!adopted.owns("data /srv/photos", &wanted));
        assert!(adopted.owns("data /srv/new", &wanted) && adopted.owns("data /data/kafka-logs", &wanted));
    }

    #[test]
    fn a_list_that_was_cut_off_adopts_nothing() {
        let wanted = strings(&["/srv/photos"]);
        assert!(owner(&[], Some(&[])).adopting(&wanted, "").is_err());
        assert!(before("data /srv/photos\n", None, &wanted).is_err());
    }

    #[test]
    fn what_came_after_a_removal_is_not_the_clusters_and_its_data_is() {
        let kept = owner(&["data /data/theirs", "program /opt/kafka"], Some(&["/data/ours", "/data/theirs"]));
        let wanted = strings(&["/data/ours", "/data/theirs", "/data/new"]);
        let listed = "service /etc/systemd/system/kafka-server.service\nprogram /opt/septet\ndata /data/ours\ndata /data/theirs\ndata /data/new\nend\n";
        let before = before(listed, Some(&kept), &wanted).unwrap();
        let theirs = ["service /etc/systemd/system/kafka-server.service", "program /opt/septet", "data /data/theirs", "data /data/new"];
        assert_eq!(before, theirs);
    }

    #[test]
    fn files_of_earlier_versions_are_read() {
        let text =
            r#"{"cluster":"c","name":"lab","group":"brokers","index":2,"host":"p-kafka02","engine":"bundled-3","before":["data /old"]}"#;
        let read: Owner = serde_json::from_str(text).unwrap();
        let wanted = strings(&["/old", "/data"]);
        assert!(read.owns("data /data", &wanted) && !read.owns("data /old", &wanted));
        // It was not asked whether logs were there before.
        assert!(!read.owns(LOGS, &wanted) && owner(&[], None).owns(LOGS, &wanted) && !owner(&[LOGS], None).owns(LOGS, &wanted));
        assert!(read.unknown(&wanted).is_empty());
    }

    proptest! {
        /// Whatever inventories say, what was in a directory when it was adopted stays.
        #[test]
        fn no_data_of_others_is_ever_owned(
            theirs in proptest::collection::btree_set("/[a-c]{1,2}", 0..6),
            inventories in proptest::collection::vec(proptest::collection::btree_set("/[a-c]{1,2}", 0..4), 1..6),
            last in proptest::collection::btree_set("/[a-c]{1,2}", 0..4),
        ) {
            let list = |paths: &[String]| {
                let there: String = paths.iter().filter(|p| theirs.contains(*p)).map(|p| format!("data {p}\n")).collect();
                format!("{there}end\n")
            };
            let mut owner = owner(&[], Some(&[]));
            for wanted in inventories {
                let wanted: Vec<String> = wanted.into_iter().collect();
                let listed = list(&owner.unknown(&wanted));
                owner = owner.adopting(&wanted, &listed).unwrap();
            }
            let last: Vec<String> = last.into_iter().collect();
            for path in &theirs {
                let line = format!("data {path}");
                prop_assert!(!owner.owns(&line, &last), "{path}");
            }
        }

        #[test]
        fn a_data_path_is_one_word_below_the_root(path in ".{0,20}") {
            if is_data_path(&path) {
                prop_assert!(path.starts_with('/') && !path.trim_matches('/').is_empty());
                prop_assert!(!path.contains(' ') && !path.split('/').any(|p| p == ".."));
            }
        }
    }
}
