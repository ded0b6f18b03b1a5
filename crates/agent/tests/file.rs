//! `file`, `stat` and `slurp`.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::{fs, os::unix::fs::symlink, path::Path};

use common::{Agent, Dir, changed, failed, mode, text};
use septet_agent_protocol::{Action, Attributes, FileState, Outcome, Status};
use sha2::{Digest, Sha256};

fn file(path: impl AsRef<Path>, state: FileState) -> Action {
    Action::File { path: text(path), state, src: None, attributes: Attributes::default(), recurse: false, follow: None }
}

fn with_mode(path: impl AsRef<Path>, state: FileState, bits: u32) -> Action {
    Action::File { path: text(path), state, src: None, attributes: mode(bits), recurse: false, follow: None }
}

fn link(path: impl AsRef<Path>, src: &str) -> Action {
    Action::File {
        path: text(path),
        state: FileState::Link,
        src: Some(src.to_owned()),
        attributes: Attributes::default(),
        recurse: false,
        follow: None,
    }
}

/// All that is below a directory, with kind, mode and content.
fn picture(dir: &Path, into: &mut Vec<String>) {
    use std::os::unix::fs::MetadataExt;
    let mut entries: Vec<_> = fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect();
    entries.sort();
    for path in entries {
        let meta = fs::symlink_metadata(&path).unwrap();
        let held = match fs::read_link(&path) {
            Ok(to) => text(to),
            Err(_) => fs::read_to_string(&path).unwrap_or_default(),
        };
        into.push(format!("{} {:o} {held}", path.display(), meta.mode()));
        if meta.is_dir() {
            picture(&path, into);
        }
    }
}

#[test]
fn a_path_is_brought_to_its_state_once() {
    type Prepare = fn(&Dir);
    type Ask = fn(&Path) -> Action;
    type Holds = fn(&Dir) -> bool;
    let nothing: Prepare = |_| ();
    let a_file: Prepare = |d| {
        d.write("p", "x");
        d.chmod("p", 0o640);
    };
    let a_dir: Prepare = |d| {
        fs::create_dir_all(d.path("p/deep/er")).unwrap();
        d.write("p/deep/f", "x");
        d.chmod("p", 0o755);
    };
    let a_link: Prepare = |d| symlink("real", d.path("p")).unwrap();
    let a_linked_dir: Prepare = |d| {
        fs::create_dir(d.path("real")).unwrap();
        d.chmod("real", 0o755);
        symlink("real", d.path("p")).unwrap();
    };
    let a_linked_file: Prepare = |d| {
        d.write("real", "x");
        d.chmod("real", 0o640);
        symlink("real", d.path("p")).unwrap();
    };
    let gone: Holds = |d| !d.path("p").is_symlink() && !d.path("p").exists();
    use FileState::{Absent, Directory, Exists, File};
    // (name, before, action on "p", whether it changes, what holds afterwards)
    let cases: Vec<(&str, Prepare, Ask, bool, Holds)> = vec![
        ("directory, new", nothing, |p| file(p, Directory), true, |d| d.path("p").is_dir()),
        ("directory, with parents", nothing, |p| file(p.join("q/r"), Directory), true, |d| d.path("p/q/r").is_dir()),
        ("directory, with a mode", nothing, |p| with_mode(p, Directory, 0o2750), true, |d| d.mode("p") == 0o2750),
        ("directory, there", a_dir, |p| file(p, Directory), false, |d| d.path("p/deep/f").exists()),
        ("directory, other mode", a_dir, |p| with_mode(p, Directory, 0o700), true, |d| d.mode("p") == 0o700 && d.mode("p/deep") != 0o700),
        (
            "directory, behind a link",
            a_linked_dir,
            |p| with_mode(p, Directory, 0o700),
            true,
            |d| d.path("p").is_symlink() && d.mode("real") == 0o700,
        ),
        ("absent, of nothing", nothing, |p| file(p, Absent), false, gone),
        ("absent, below nothing", nothing, |p| file(p.join("q"), Absent), false, gone),
        ("absent, of a file", a_file, |p| file(p, Absent), true, gone),
        ("absent, of a tree", a_dir, |p| file(p, Absent), true, gone),
        ("absent, of a dangling link", a_link, |p| file(p, Absent), true, gone),
        (
            "absent, of a link to a directory",
            a_linked_dir,
            |p| file(p, Absent),
            true,
            |d| !d.path("p").is_symlink() && d.path("real").is_dir(),
        ),
        ("touch, new", nothing, |p| file(p, Exists), true, |d| d.read("p").is_empty()),
        ("touch, with a mode", nothing, |p| with_mode(p, Exists, 0o600), true, |d| d.mode("p") == 0o600),
        ("touch, there", a_file, |p| file(p, Exists), false, |d| d.read("p") == "x" && d.mode("p") == 0o640),
        ("file, as it is", a_file, |p| with_mode(p, File, 0o640), false, |d| d.mode("p") == 0o640),
        ("file, other mode", a_file, |p| with_mode(p, File, 0o4711), true, |d| d.mode("p") == 0o4711 && d.read("p") == "x"),
        (
            "file, behind a link",
            a_linked_file,
            |p| with_mode(p, File, 0o600),
            true,
            |d| d.path("p").is_symlink() && d.mode("real") == 0o600,
        ),
        ("link, new", nothing, |p| link(p, "to"), true, |d| fs::read_link(d.path("p")).unwrap() == Path::new("to")),
        ("link, as it is", a_link, |p| link(p, "real"), false, |d| fs::read_link(d.path("p")).unwrap() == Path::new("real")),
        (
            "link, elsewhere",
            a_linked_dir,
            |p| link(p, "to"),
            true,
            |d| fs::read_link(d.path("p")).unwrap() == Path::new("to") && d.path("real").is_dir(),
        ),
    ];
    let mut agent = Agent::start();
    for (name, prepare, action, changes, holds) in cases {
        let dir = Dir::new();
        prepare(&dir);
        let action = action(&dir.path("p"));
        let (mut before, mut after) = (Vec::new(), Vec::new());
        picture(&dir.path(""), &mut before);
        let foreseen = agent.check(action.clone());
        picture(&dir.path(""), &mut after);
        assert_eq!(before, after, "{name}: check mode changed something");
        assert_eq!(changed(&foreseen), changes, "{name}, check mode: {foreseen:?}");
        let done = agent.act(action.clone());
        assert_eq!(changed(&done), changes, "{name}: {done:?}");
        assert_eq!(done.diff.is_some(), changes, "{name}: {done:?}");
        assert!(holds(&dir), "{name}: {:?}", dir.names());
        assert!(!changed(&agent.act(action)), "{name}: again");
        assert!(dir.names().iter().all(|n| !n.contains("septet")), "{name}: {:?}", dir.names());
    }
}

#[test]
fn recurse_sets_attributes_on_all_that_is_inside_but_behind_no_link() {
    let (mut agent, dir) = (Agent::start(), Dir::new());
    fs::create_dir_all(dir.path("d/e")).unwrap();
    dir.write("d/e/f", "x");
    dir.write("d/g", "x");
    dir.write("outside", "x");
    symlink("../outside", dir.path("d/link")).unwrap();
    symlink("d", dir.path("door")).unwrap();
    for name in ["d", "d/e", "d/e/f", "d/g"] {
        dir.chmod(name, 0o755);
    }
    dir.chmod("outside", 0o644);
    // The second goes in by a link, as a data directory on another disk does.
    for (path, bits) in [("d", 0o700), ("door", 0o750)] {
        let action = || Action::File {
            path: text(dir.path(path)),
            state: FileState::Directory,
            src: None,
            attributes: mode(bits),
            recurse: true,
            follow: None,
        };
        assert!(changed(&agent.check(action())));
        assert_ne!(dir.mode("d/e/f"), bits);
        assert!(changed(&agent.act(action())), "{path}");
        for name in ["d", "d/e", "d/e/f", "d/g"] {
            assert_eq!(dir.mode(name), bits, "{path}: {name}");
        }
        assert_eq!(dir.mode("outside"), 0o644, "{path}");
        assert!(!changed(&agent.act(action())), "{path}");
        assert!(!changed(&agent.check(action())), "{path}");
    }
    // One that is off, deep inside.
    dir.chmod("d/e/f", 0o644);
    let again = agent.act(Action::File {
        path: text(dir.path("d")),
        state: FileState::Directory,
        src: None,
        attributes: mode(0o750),
        recurse: true,
        follow: None,
    });
    assert!(changed(&again) && dir.mode("d/e/f") == 0o750);
}

#[test]
fn what_is_in_the_way_is_refused_and_stays() {
    use FileState::{Absent, Directory, Exists, File, Link};
    let (mut agent, dir) = (Agent::start(), Dir::new());
    dir.write("f", "x");
    fs::create_dir(dir.path("d")).unwrap();
    let cases = [
        (file(dir.path("f"), Directory), "is not a directory"),
        (file(dir.path("f/sub"), Directory), "Not a directory"),
        (file(dir.path("none"), File), "No such file"),
        (file(dir.path("d"), File), "not a regular file"),
        (file(dir.path("none/f"), Exists), "No such file"),
        (link(dir.path("f"), "to"), "is not a link"),
        (link(dir.path("d"), "to"), "is not a link"),
        (file(dir.path("new"), Link), "needs src"),
        (file("relative", Absent), "not an absolute path"),
    ];
    let (mut before, mut after) = (Vec::new(), Vec::new());
    picture(&dir.path(""), &mut before);
    for (action, words) in cases {
        failed(&agent.act(action), words);
    }
    picture(&dir.path(""), &mut after);
    assert_eq!(before, after);
}

/// Asked in check mode only: a refusal has to come before that is looked at.
#[test]
fn the_root_is_not_removed_under_any_of_its_names() {
    let mut agent = Agent::start();
    for path in ["/", "//", "/.", "/./", "/..", "/tmp/..", "/tmp/../."] {
        failed(&agent.check(file(path, FileState::Absent)), "will not remove /");
    }
}

#[test]
fn stat_tells_what_is_there() {
    let (mut agent, dir) = (Agent::start(), Dir::new());
    dir.write("f", "hello");
    dir.chmod("f", 0o640);
    symlink("f", dir.path("link")).unwrap();
    symlink("none", dir.path("dangling")).unwrap();
    fs::create_dir(dir.path("d")).unwrap();
    let mut stat = |name: &str, follow, checksum| {
        let outcome = agent.act(Action::Stat { path: text(dir.path(name)), follow, checksum, sha256: true });
        assert_eq!(outcome.status, Status::Ok);
        outcome.values["stat"].clone()
    };
    // (name, follow, exists, regular, directory, link)
    let cases = [
        ("f", false, true, true, false, false),
        ("d", false, true, false, true, false),
        ("link", false, true, false, false, true),
        ("link", true, true, true, false, false),
        ("dangling", false, true, false, false, true),
        ("dangling", true, false, false, false, false),
        ("none", false, false, false, false, false),
        ("f/below", false, false, false, false, false),
    ];
    for (name, follow, exists, reg, is_dir, is_link) in cases {
        let got = stat(name, follow, false);
        let flag = |key: &str| got.get(key).and_then(|v| v.as_bool()).unwrap_or(false);
        let seen = (flag("exists"), flag("isreg"), flag("isdir"), flag("islnk"));
        assert_eq!(seen, (exists, reg, is_dir, is_link), "{name}: {got}");
        assert!(exists || got.as_object().unwrap().len() == 1, "{name}: {got}");
    }
    let f = stat("f", false, true);
    let sum = hex::encode(Sha256::digest(b"hello"));
    assert_eq!((&f["size"], &f["mode"], &f["checksum"]), (&5.into(), &"0640".into(), &sum.clone().into()));
    assert_eq!(f["uid"], nix::unistd::geteuid().as_raw());
    assert_eq!(stat("link", true, true)["checksum"], sum);
    assert!(stat("link", false, true).get("checksum").is_none());
    assert!(stat("d", false, true).get("checksum").is_none());
}

fn base64(bytes: &[u8]) -> String {
    base64::Engine::encode(&base64::engine::general_purpose::STANDARD, bytes)
}

#[test]
fn slurp_returns_a_whole_file_or_refuses() {
    let (mut agent, dir) = (Agent::start(), Dir::new());
    const LIMIT: usize = 1024 * 1024;
    let mut slurp = |path: &Path| agent.act(Action::Slurp { path: text(path) });
    // A NUL takes six bytes in JSON: the answer is far longer than the file, and still fits.
    for content in ["", "two\nlines", "ünï", &"x".repeat(LIMIT), &"\0".repeat(LIMIT)] {
        let Outcome { status, values, .. } = slurp(&dir.write("f", content));
        assert_eq!(status, Status::Ok);
        assert!(values["content"] == base64(content.as_bytes()), "{} bytes", content.len());
    }
    failed(&slurp(&dir.write("f", "x".repeat(LIMIT + 1))), "is over 1048576 bytes");
    failed(&slurp(&dir.path("none")), "No such file");
    failed(&slurp(&dir.path("")), "directory");
    failed(&slurp(Path::new("f")), "not an absolute path");
}

#[test]
fn a_checksum_is_sha1_unless_another_is_asked_for() {
    let (mut agent, dir) = (Agent::start(), Dir::new());
    dir.write("f", "hello");
    let outcome = agent.act(Action::Stat { path: text(dir.path("f")), follow: false, checksum: true, sha256: false });
    assert_eq!(outcome.values["stat"]["checksum"], "aaf4c61ddcc5e8a2dabede0f3b482cd9aea9434d");
    assert_eq!((&outcome.values["stat"]["isreg"], &outcome.values["stat"]["xusr"]), (&true.into(), &false.into()));
}

#[test]
fn symbolic_modes_start_from_what_is_there() {
    let (mut agent, dir) = (Agent::start(), Dir::new());
    dir.write("f", "x");
    let bits = || dir.mode("f");
    for (from, change, to) in [(0o777, "u=rw,g=r,o=", 0o640), (0o644, "+x", 0o755), (0o666, "go-w", 0o644), (0o600, "a+rX", 0o644)] {
        dir.chmod("f", from);
        let mode_change = Some(septet_agent_protocol::ModeChange::parse(change).unwrap());
        let attributes = Attributes { mode_change, ..Attributes::default() };
        let action = |attributes| Action::File {
            path: text(dir.path("f")),
            state: FileState::Any,
            src: None,
            attributes,
            recurse: false,
            follow: None,
        };
        assert_eq!(agent.act(action(attributes.clone())).status, Status::Changed, "{change}");
        assert_eq!(bits(), to, "{change}");
        assert_eq!(agent.act(action(attributes)).status, Status::Ok, "{change}");
    }
}

/// As Ansible's `touch`: the times are set each time, and that is a change.
#[test]
fn touch_sets_the_times() {
    let (mut agent, dir) = (Agent::start(), Dir::new());
    dir.write("f", "x");
    let old = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000);
    fs::File::options().write(true).open(dir.path("f")).unwrap().set_modified(old).unwrap();
    assert_eq!(agent.check(file(dir.path("f"), FileState::Touch)).status, Status::Changed);
    assert_eq!(fs::metadata(dir.path("f")).unwrap().modified().unwrap(), old);
    assert_eq!(agent.act(file(dir.path("f"), FileState::Touch)).status, Status::Changed);
    assert!(fs::metadata(dir.path("f")).unwrap().modified().unwrap() > old);
    assert_eq!(dir.read("f"), "x");
}
