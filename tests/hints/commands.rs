//! Hints about this machine: its directories, users and programs.

use std::{os::unix::fs::PermissionsExt, path::Path, process::Command};

/// Somebody who has no account, and so no home directory by themselves.
const NOBODY: u32 = 54_321;

/// septet without Docker, in a directory of its own; what it says on standard error.
fn septet(dir: &Path, env: &[(&str, &Path)], as_nobody: bool) -> String {
    let mut c = match as_nobody {
        true => {
            let mut c = Command::new("setpriv");
            c.args([format!("--reuid={NOBODY}"), format!("--regid={NOBODY}"), "--clear-groups".into()]).arg(dir.join("program"));
            c
        }
        false => Command::new(env!("CARGO_BIN_EXE_septet")),
    };
    // A socket that nobody listens on.
    let socket = dir.join("docker.sock");
    if !socket.exists() {
        drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
        std::fs::set_permissions(&socket, std::fs::Permissions::from_mode(0o777)).unwrap();
    }
    c.arg("up").current_dir(dir).env_clear().env("PATH", "/usr/bin:/bin").env("DOCKER_HOST", format!("unix://{}", socket.display()));
    c.envs(env.iter().map(|(k, v)| (k, v)));
    String::from_utf8(c.output().unwrap().stderr).unwrap()
}

/// Without Docker, this is how far a run gets.
const AS_FAR_AS_DOCKER: &str = "Docker is not running";

fn is_root() -> bool {
    let able = rustix::process::geteuid().is_root() && Command::new("setpriv").arg("--version").output().is_ok_and(|o| o.status.success());
    if !able {
        eprintln!("SKIPPED: another user can only be tried by root, with setpriv");
    }
    able
}

#[test]
fn a_link_in_the_state_directory_is_moved_aside() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    std::fs::create_dir_all(state.join("septet")).unwrap();
    let link = state.join("septet/locks");
    std::os::unix::fs::symlink(dir.path(), &link).unwrap();
    let run = || septet(dir.path(), &[("XDG_STATE_HOME", &state)], false);
    let err = run();
    assert!(err.contains("septet/locks") && err.contains("hint: ") && err.contains("move it aside"), "{err}");
    std::fs::rename(&link, dir.path().join("aside")).unwrap();
    assert!(run().contains(AS_FAR_AS_DOCKER));
}

#[test]
fn a_state_directory_of_another_user() {
    if !is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (theirs, mine) = (dir.path().join("theirs"), dir.path().join("mine"));
    std::fs::create_dir_all(theirs.join("septet")).unwrap();
    std::os::unix::fs::chown(theirs.join("septet"), Some(NOBODY), None).unwrap();
    let run = |state: &Path| septet(dir.path(), &[("XDG_STATE_HOME", state)], false);
    let err = run(&theirs);
    assert!(err.contains("belongs to another user") && err.contains("hint: set XDG_STATE_HOME to a directory of your own"), "{err}");
    assert!(run(&mine).contains(AS_FAR_AS_DOCKER));
    std::os::unix::fs::chown(theirs.join("septet"), Some(0), None).unwrap();
    assert!(run(&theirs).contains(AS_FAR_AS_DOCKER));
}

#[test]
fn no_home_directory_and_no_bundle() {
    if !is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
    std::fs::copy(env!("CARGO_BIN_EXE_septet"), dir.path().join("program")).unwrap();
    // The programs are not beside this copy.
    let err = septet(dir.path(), &[("HOME", dir.path())], true);
    assert!(err.contains("septet-agent: No such file") && err.contains("or set SEPTET_BUNDLE to their directory"), "{err}");
    let bundle = dir.path().join("bundle");
    std::fs::create_dir(&bundle).unwrap();
    for name in ["septet-agent", "septet-coordinator", "septet-broker"] {
        std::os::unix::fs::symlink("/bin/true", bundle.join(name)).unwrap();
    }
    let err = septet(dir.path(), &[("SEPTET_BUNDLE", &bundle)], true);
    assert!(err.contains("there is no home directory") && err.contains("hint: set HOME or XDG_STATE_HOME"), "{err}");
    for name in ["HOME", "XDG_STATE_HOME"] {
        let err = septet(dir.path(), &[(name, dir.path()), ("SEPTET_BUNDLE", &bundle)], true);
        assert!(err.contains(AS_FAR_AS_DOCKER), "{name}: {err}");
    }
}

#[cfg(not(feature = "ec2"))]
#[test]
fn without_ec2_it_says_how_to_build_it() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("inventories")).unwrap();
    std::fs::write(dir.path().join("inventories/local.yml"), "cluster: c\nprefix: p\nprovider: {ec2: {region: eu-central-1}}\n").unwrap();
    let err = septet(dir.path(), &[("HOME", dir.path())], false);
    assert!(err.contains("without EC2") && err.contains("hint: build it with its default features"), "{err}");
    let manifest = include_str!("../../Cargo.toml");
    assert!(manifest.contains("default = [\"ec2\"]"));
}

/// Commands of ours that hints name exist, with the options that they name.
#[test]
fn commands_in_hints_exist() {
    let mut files = Vec::new();
    super::registry::sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut files);
    let mut seen = std::collections::BTreeSet::new();
    for path in files {
        let text = std::fs::read_to_string(path).unwrap();
        for part in text.split("`septet ").skip(1) {
            let command = part.split('`').next().unwrap();
            if !command.contains(['{', '\n', '…', '"']) {
                seen.insert(command.to_owned());
            }
        }
    }
    assert!(seen.contains("up") && seen.contains("down --keep-data"), "{seen:?}");
    for command in seen {
        let words: Vec<&str> = command.split(' ').take_while(|w| *w != "--").filter(|w| !w.chars().all(char::is_uppercase)).collect();
        let help = Command::new(env!("CARGO_BIN_EXE_septet")).args([words[0], "--help"]).output().unwrap();
        let text = String::from_utf8_lossy(&help.stdout).into_owned();
        assert!(help.status.success(), "`septet {command}`: there is no such command");
        for option in words.iter().filter(|w| w.starts_with('-')) {
            assert!(text.contains(option), "`septet {command}`: there is no {option}");
        }
    }
}
