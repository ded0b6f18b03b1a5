//! What hosts need of this machine's kernel, looked at before the first is made.

use std::{collections::HashMap, fs, path::Path};

use bollard::{Docker as Engine, query_parameters::ListContainersOptionsBuilder};

use super::CLUSTER;
use crate::provider::{Check, Verdict};

/// inotify instances that root has in one host: systemd's.
const PER_HOST: usize = 3;
/// Those of a host whose image an earlier version made.
const PER_OLDER_HOST: usize = 5;
/// How many a machine should have left for everything else.
const SPARE: usize = 8;

/// Whether the kernel's limit of inotify instances leaves room for so many more hosts; `None` where it does, or where the limit is
/// another kernel's or another user's. All containers share root's instances; without one systemd starts no service.
pub async fn inotify(engine: &Engine, hosts: usize) -> Option<Check> {
    let info = engine.info().await.ok()?;
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").ok()?;
    let remapped = info.security_options.iter().flatten().any(|o| o.contains("rootless") || o.contains("userns"));
    if remapped || info.kernel_version.as_deref() != Some(kernel.trim()) {
        return None;
    }
    let limit = fs::read_to_string("/proc/sys/fs/inotify/max_user_instances").ok()?.trim().parse().ok()?;
    let used = match of_root(Path::new("/proc")) {
        Some(n) => n,
        // Another user does not see root's: then it is estimated from the hosts that run.
        None => {
            let labelled = HashMap::from([("label".to_owned(), vec![CLUSTER.to_owned()])]);
            let options = ListContainersOptionsBuilder::default().filters(&labelled).build();
            engine.list_containers(Some(options)).await.ok()?.len() * PER_OLDER_HOST + SPARE
        }
    };
    judge(limit, used, hosts)
}

fn judge(limit: usize, used: usize, hosts: usize) -> Option<Check> {
    let needed = hosts * PER_HOST;
    if hosts == 0 || used + needed <= limit {
        return None;
    }
    // Room for this cluster and for some more.
    let better = (used + needed + SPARE).next_power_of_two().max(512);
    Some(Check {
        name: "inotify",
        verdict: Verdict::Fail,
        finding: format!("fs.inotify.max_user_instances is {limit}; root uses {used}, and {hosts} hosts need {needed} more"),
        hint: Some(format!(
            "`sudo sysctl -w fs.inotify.max_user_instances={better}`, and the same in /etc/sysctl.d to keep it; or take a cluster down"
        )),
    })
}

/// inotify instances of root's processes; `None` if they cannot be seen.
fn of_root(proc: &Path) -> Option<usize> {
    use std::os::unix::fs::MetadataExt;
    // The first process is root's: without access to it there is none to the others.
    fs::read_dir(proc.join("1/fd")).ok()?;
    let mut count = 0;
    for entry in fs::read_dir(proc).ok()?.flatten() {
        let is_process = entry.file_name().to_str().is_some_and(|n| n.bytes().all(|b| b.is_ascii_digit()));
        // A process may end while it is looked at.
        if !is_process || !entry.metadata().is_ok_and(|m| m.uid() == 0) {
            continue;
        }
        let open = fs::read_dir(entry.path().join("fd")).into_iter().flatten().flatten();
        count += open.filter(|f| fs::read_link(f.path()).is_ok_and(|l| l.as_os_str() == "anon_inode:inotify")).count();
    }
    Some(count)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_limit_that_would_be_used_up_is_refused_before_a_host_is_made() {
        assert_eq!(judge(128, 100, 7), None);
        assert_eq!(judge(128, 128, 0), None);
        let check = judge(128, 115, 7).unwrap();
        assert_eq!(check.verdict, Verdict::Fail);
        assert_eq!(check.finding, "fs.inotify.max_user_instances is 128; root uses 115, and 7 hosts need 21 more");
        assert!(check.hint.unwrap().contains("sysctl -w fs.inotify.max_user_instances=512"));
        assert!(judge(512, 510, 7).unwrap().hint.unwrap().contains("=1024"));
    }

    #[test]
    fn instances_of_root_are_counted_where_they_can_be_seen() {
        let dir = tempfile::tempdir().unwrap();
        let open = |pid: &str, fd: &str, target: &str| {
            let path = dir.path().join(pid).join("fd");
            fs::create_dir_all(&path).unwrap();
            std::os::unix::fs::symlink(target, path.join(fd)).unwrap();
        };
        assert_eq!(of_root(dir.path()), None);
        open("1", "3", "anon_inode:inotify");
        open("1", "4", "anon_inode:[eventpoll]");
        open("77", "5", "anon_inode:inotify");
        open("net", "5", "anon_inode:inotify");
        // The directories are of the user who runs this test.
        let expected = if rustix::process::geteuid().is_root() { 2 } else { 0 };
        assert_eq!(of_root(dir.path()), Some(expected));
    }
}
