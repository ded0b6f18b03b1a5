//! Secrets on the user's machine and in the account: what others may read there.

use std::{
    fs,
    os::unix::{fs::MetadataExt, process::CommandExt},
    path::Path,
    time::Duration,
};

use serde_json::json;

use super::{cloud::Cloud, cluster::Cluster, harness::Ran};

const SECRET: &str = "hunter2-in-the-clear";

fn all_text(dir: &Path) -> String {
    let mut out = String::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => out += &all_text(&path),
            false => out += &String::from_utf8_lossy(&fs::read(&path).unwrap()),
        }
    }
    out
}

#[test]
fn variables_of_the_command_line_are_in_no_lock() {
    let Some(cloud) = Cloud::new("variables_of_the_command_line_are_in_no_lock") else { return };
    let cluster = Cluster::new(&cloud, "quiet");
    cloud.fault(json!({"action": "CreateSecurityGroup", "kind": "hang"}));
    let mut first = cluster.start(cluster.command(&["up", "-e", &format!("db_password={SECRET}")]));
    cloud.awaits("it is at work", |calls| calls.iter().any(|c| c.result.as_deref() == Some("hang")));
    assert!(!cloud.state().to_string().contains(SECRET), "in a tag");
    assert!(!all_text(&cluster.state()).contains(SECRET), "in the state directory");
    let mut other = cluster.command(&["up"]);
    other.env("XDG_STATE_HOME", cluster.path().join("other"));
    for ran in [cluster.run(&["up"]), Ran::of(other, "", Duration::from_secs(60))] {
        let ran = ran.code(1).says(&["another run is at work on cluster `quiet`", "(septet up)"]);
        assert!(!ran.err.contains(SECRET) && !ran.out.contains(SECRET), "{}", ran.show());
    }
    first.kill().unwrap();
    first.wait().unwrap();
    cluster.down();
}

#[test]
fn the_state_directory_is_private_whatever_the_umask() {
    let Some(cloud) = Cloud::new("the_state_directory_is_private_whatever_the_umask") else { return };
    let cluster = Cluster::new(&cloud, "mode");
    // An older version, under the same umask, left it open.
    let old = cluster.state().join("septet/locks");
    fs::create_dir_all(&old).unwrap();
    for dir in [cluster.state().join("septet"), old] {
        fs::set_permissions(&dir, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    }
    let mut sh = std::process::Command::new("sh");
    let septet = cluster.command(&["up"]);
    let words: Vec<_> = std::iter::once(septet.get_program()).chain(septet.get_args()).collect();
    sh.arg0("sh").args(["-c", "umask 000; exec \"$@\"", "sh"]).args(words).current_dir(cluster.path());
    sh.envs(septet.get_envs().filter_map(|(k, v)| Some((k, v?))));
    Ran::of(sh, "", Duration::from_secs(120)).code(1);
    let root = cluster.state().join("septet");
    let mut seen = 0;
    let mut open = Vec::new();
    let mut dirs = vec![root];
    while let Some(dir) = dirs.pop() {
        let mut check = |path: &Path| {
            seen += 1;
            let mode = path.symlink_metadata().unwrap().mode() & 0o7777;
            if mode & 0o077 != 0 {
                open.push(format!("{} {mode:o}", path.display()));
            }
        };
        check(&dir);
        for entry in fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { dirs.push(path) } else { check(&path) }
        }
    }
    assert!(seen > 6, "{seen}");
    assert_eq!(open, Vec::<String>::new());
    cluster.down();
}
