//! Labels of things that others make on the same Docker daemon.

use std::{fs, path::Path};

use super::harness::{Cluster, docker, docker_try, enabled};

/// A volume of a stranger's; removed when dropped.
struct Volume(String);

impl Volume {
    fn new(name: &str, labels: &[(&str, &str)]) -> Self {
        let labels: Vec<String> = labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
        let mut args = vec!["volume", "create"];
        labels.iter().for_each(|l| args.extend(["--label", l.as_str()]));
        args.push(name);
        Self(docker(&args))
    }
    fn is_there(&self) -> bool {
        docker_try(&["volume", "inspect", &self.0]).code == Some(0)
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        docker_try(&["volume", "rm", "-f", &self.0]);
    }
}

fn victim(cluster: &Cluster) -> std::path::PathBuf {
    let dir = cluster.path().join("victim");
    fs::create_dir_all(&dir).unwrap();
    fs::write(dir.join("photo"), "of the user").unwrap();
    fs::write(cluster.path().join("other.lock"), "somebody's").unwrap();
    dir
}

#[track_caller]
fn is_untouched(dir: &Path) {
    assert_eq!(fs::read_to_string(dir.join("photo")).unwrap(), "of the user");
    assert_eq!(fs::read_to_string(dir.with_file_name("other.lock")).unwrap(), "somebody's");
}

#[test]
fn labels_are_no_paths() {
    if !enabled("labels_are_no_paths") {
        return;
    }
    let cluster = Cluster::new("h");
    let dir = victim(&cluster);
    let name = cluster.name.clone();
    let of = |suffix: &str| format!("{name}-{suffix}");
    let path = ("septet.cluster", "../../../victim");
    let expired = Volume::new(&of("expired"), &[path, ("septet.name", "old"), ("septet.expires", "1")]);
    let named = Volume::new(&of("named"), &[path, ("septet.name", &name), ("septet.role", "broker"), ("septet.index", "1")]);
    let uuid = ("septet.cluster", "0123e456-e89b-42d3-a456-426614174000");
    let other = ("septet.cluster", "1123e456-e89b-42d3-a456-426614174000");
    let locked = Volume::new(&of("locked"), &[other, ("septet.name", "../../../other"), ("septet.expires", "1")]);
    let nobody = Volume::new(&of("nobody"), &[("septet.name", &name), ("septet.role", "broker"), ("septet.index", "2")]);

    cluster.ok(&["down", "--all-expired", "--data", "--yes"]);
    cluster.ok(&["down", "--yes"]).says(&[&name]);
    is_untouched(&dir);
    // A plan takes none of them for a host's data.
    let plan = cluster.ok(&["plan"]);
    assert!(!plan.out.contains(&of("named")) && !plan.out.contains(&of("nobody")), "{}", plan.show());
    for v in [&expired, &named, &locked, &nobody] {
        assert!(v.is_there(), "{}", v.0);
    }
    // One that is sound and expired is removed, so the look was a real one.
    let sound = Volume::new(&of("sound"), &[uuid, ("septet.name", "e2e-old"), ("septet.expires", "1")]);
    // Nothing but data is left of it, which is not taken for rubbish.
    cluster.ok(&["down", "--all-expired", "--yes"]);
    assert!(sound.is_there());
    let ran = cluster.ok(&["down", "--all-expired", "--data", "--yes"]);
    assert!(!sound.is_there(), "{}", ran.show());
    assert!(locked.is_there(), "it has no name that could be shown or locked");
}
