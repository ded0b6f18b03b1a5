//! `copy`: the file is as asked for, and is replaced as a whole or not at all.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::{fs, os::unix::fs::symlink, process::Command};

use common::{AGENT, Agent, Copy, Dir, changed, copy, failed, mode, text};
use septet_agent_protocol::{Action, Attributes, Content, Outcome, Request, Status};

fn put(agent: &mut Agent, action: Action, content: &str) -> Outcome {
    let request = agent.request(action);
    agent.ask(&request, content.as_bytes())
}

/// What check mode says beforehand is what then happens, and check mode itself touches nothing.
#[test]
fn a_file_becomes_as_asked_and_stays_so() {
    struct Case {
        before: Option<(&'static str, u32)>,
        content: &'static str,
        mode: Option<u32>,
        changed: bool,
        after: (&'static str, u32),
        diff: Option<&'static str>,
    }
    let case = |before, content, mode, changed, after, diff| Case { before, content, mode, changed, after, diff };
    let cases = [
        case(None, "a\n", None, true, ("a\n", 0o644), Some("+a\n")),
        case(None, "a\n", Some(0o600), true, ("a\n", 0o600), Some("+++ ")),
        case(None, "", None, true, ("", 0o644), None),
        case(Some(("a\n", 0o640)), "a\n", None, false, ("a\n", 0o640), None),
        case(Some(("a\n", 0o640)), "a\n", Some(0o640), false, ("a\n", 0o640), None),
        case(Some(("a\n", 0o640)), "a\n", Some(0o4755), true, ("a\n", 0o4755), Some("mode 0640 → 4755")),
        case(Some(("a\nb\n", 0o640)), "a\nc\n", None, true, ("a\nc\n", 0o640), Some("-b\n+c\n")),
        case(Some(("a\n", 0o640)), "b", Some(0o400), true, ("b", 0o400), Some("-a\n")),
        case(Some(("a\n", 0o640)), "", None, true, ("", 0o640), Some("-a\n")),
        case(Some(("a\n", 0o640)), "a\0", None, true, ("a\0", 0o640), Some("2 bytes → 2 bytes (not text")),
    ];
    let mut agent = Agent::start();
    for (n, c) in cases.iter().enumerate() {
        let dir = Dir::new();
        if let Some((content, mode)) = c.before {
            dir.write("f", content);
            dir.chmod("f", mode);
        }
        let request =
            agent.request(Copy { attributes: Attributes { mode: c.mode, ..Attributes::default() }, ..Copy::default() }.to(dir.path("f")));
        let check = Request { check: true, ..request.clone() };

        let foreseen = agent.ask(&check, c.content.as_bytes());
        match c.before {
            Some((content, mode)) => assert_eq!((dir.read("f").as_str(), dir.mode("f")), (content, mode), "case {n}"),
            None => assert!(dir.names().is_empty(), "case {n}"),
        }

        let done = agent.ask(&request, c.content.as_bytes());
        assert_eq!(changed(&done), c.changed, "case {n}: {done:?}");
        assert_eq!((dir.read("f").as_str(), dir.mode("f")), c.after, "case {n}");
        assert_eq!(done, foreseen, "case {n}");
        let diff = done.diff.unwrap_or_default();
        match c.diff {
            Some(part) => assert!(diff.contains(part), "case {n}: {diff}"),
            None => assert!(!c.changed || c.content.is_empty(), "case {n}: {diff}"),
        }

        for again in [&request, &check] {
            assert_eq!(agent.ask(again, c.content.as_bytes()).status, Status::Ok, "case {n} again");
        }
        assert_eq!(dir.names(), ["f"], "case {n}: nothing else is left");
    }
}

#[test]
fn keep_existing_leaves_a_file_alone() {
    let (mut agent, dir) = (Agent::start(), Dir::new());
    let keep = || Copy { keep_existing: true, attributes: mode(0o600), ..Copy::default() }.to(dir.path("f"));
    assert!(changed(&put(&mut agent, keep(), "first")));
    dir.chmod("f", 0o644);
    assert!(!changed(&put(&mut agent, keep(), "second")));
    assert_eq!((dir.read("f").as_str(), dir.mode("f")), ("first", 0o644));
}

#[test]
fn a_backup_is_kept_beside_the_new_file() {
    let (mut agent, dir) = (Agent::start(), Dir::new());
    let backup = || Copy { backup: true, ..Copy::default() }.to(dir.path("f"));
    let made = put(&mut agent, backup(), "new");
    assert!(changed(&made) && !made.values.contains_key("backup_file"), "nothing to back up: {made:?}");
    let check = Request { check: true, ..agent.request(backup()) };
    assert!(changed(&agent.ask(&check, b"newer")));
    assert_eq!(dir.names(), ["f"]);
    dir.chmod("f", 0o600);
    let replaced = put(&mut agent, backup(), "newer");
    let kept = replaced.values["backup_file"].as_str().unwrap();
    assert_eq!(fs::read_to_string(kept).unwrap(), "new");
    assert_eq!(dir.mode(kept), 0o600, "a secret stays one in its backup");
    assert_eq!(dir.read("f"), "newer");
    assert!(!changed(&put(&mut agent, backup(), "newer")));
    assert_eq!(dir.names().len(), 2);
}

#[test]
fn a_file_that_does_not_pass_its_validation_is_not_put_in_place() {
    let (mut agent, dir) = (Agent::start(), Dir::new());
    dir.write("f", "old");
    let validate = |words: &str| Copy { validate: Some(words.to_owned()), ..Copy::default() }.to(dir.path("f"));
    // (command, why it is refused)
    let cases = [
        ("grep -q new %s", None),
        ("cat %s >&2; false", Some("validation failed, the old file stays")),
        ("cat %s; false", Some("bad")),
        ("kill -9 $$ # %s", Some("validation failed")),
        ("true", Some("no %s")),
    ];
    for (words, refused) in cases {
        dir.write("f", "old");
        match refused {
            None => assert!(changed(&put(&mut agent, validate(words), "new"))),
            Some(why) => {
                failed(&put(&mut agent, validate(words), "bad"), why);
                assert_eq!(dir.read("f"), "old", "{words}");
            }
        }
        assert_eq!(dir.names(), ["f"], "{words}");
    }
}

#[test]
fn with_follow_a_link_stays_a_link_and_its_target_is_as_asked() {
    let (mut agent, dir) = (Agent::start(), Dir::new());
    dir.write("real", "old");
    symlink("real", dir.path("link")).unwrap();
    // A new content with a mode, then a mode alone: neither may stop at the link.
    for (content, bits) in [("new", 0o600), ("new", 0o640)] {
        let action = || Copy { attributes: mode(bits), follow: true, ..Copy::default() }.to(dir.path("link"));
        assert!(changed(&put(&mut agent, action(), content)));
        assert_eq!(fs::read_link(dir.path("link")).unwrap().to_str(), Some("real"));
        assert_eq!((dir.read("real").as_str(), dir.mode("real")), (content, bits));
        assert!(!changed(&put(&mut agent, action(), content)), "mode {bits:o} again");
    }
    assert_eq!(dir.names(), ["link", "real"]);
}

#[test]
fn no_log_hides_contents_and_reasons() {
    let (mut agent, dir) = (Agent::start(), Dir::new());
    for (content, validate) in [("s3cret", None), ("s3cret2", Some("cat %s; false"))] {
        for check in [true, false] {
            let action = Copy { validate: validate.map(str::to_owned), ..Copy::default() }.to(dir.path("f"));
            let request = Request { no_log: true, check, ..agent.request(action) };
            let outcome = agent.ask(&request, content.as_bytes());
            assert!(!serde_json::to_string(&outcome).unwrap().contains("s3cret"), "{outcome:?}");
            assert_eq!(outcome.status == Status::Failed, !check && validate.is_some());
        }
    }
    assert_eq!(dir.read("f"), "s3cret");
}

#[test]
fn a_file_of_the_same_host_is_copied() {
    let (mut agent, dir) = (Agent::start(), Dir::new());
    let from = dir.write("from", "text\n");
    let action = |from: &str| Copy { content: Content::HostFile(from.to_owned()), ..Copy::default() }.to(dir.path("to"));
    assert!(changed(&agent.check(action(&text(&from)))));
    assert_eq!(dir.names(), ["from"]);
    assert!(changed(&agent.act(action(&text(&from)))));
    assert!(!changed(&agent.act(action(&text(&from)))));
    assert_eq!(dir.read("to"), "text\n");
    failed(&agent.act(action(&text(dir.path("none")))), "No such file");
    failed(&agent.act(action("from")), "not an absolute path");
    assert_eq!(dir.read("to"), "text\n");
}

#[test]
fn what_cannot_be_done_is_refused_with_a_reason() {
    let (mut agent, dir) = (Agent::start(), Dir::new());
    fs::create_dir(dir.path("d")).unwrap();
    let owned = |attributes| Copy { attributes, ..Copy::default() }.to(dir.path("f"));
    let owner = |name: &str| owned(Attributes { owner: Some(name.to_owned()), ..Attributes::default() });
    let group = |name: &str| owned(Attributes { group: Some(name.to_owned()), ..Attributes::default() });
    failed(&put(&mut agent, copy("f"), "x"), "\"f\" is not an absolute path");
    failed(&put(&mut agent, copy(""), "x"), "not an absolute path");
    failed(&put(&mut agent, copy("/x\0y"), "x"), "not an absolute path");
    failed(&put(&mut agent, copy(dir.path("d")), "x"), "directory");
    failed(&put(&mut agent, copy(dir.path("none/f")), "x"), "No such file");
    failed(&put(&mut agent, owner("no-such-user"), "x"), "there is no user \"no-such-user\"");
    failed(&put(&mut agent, group("no-such-group"), "x"), "there is no group \"no-such-group\"");
    // An earlier task would have made the account by then.
    let check = Request { check: true, ..agent.request(owner("no-such-user")) };
    assert!(changed(&agent.ask(&check, b"x")));
    assert_eq!(dir.names(), ["d"]);
}

#[test]
fn owner_and_group_are_set_by_name_and_number() {
    let (mut agent, dir) = (Agent::start(), Dir::new());
    let (uid, gid) = (nix::unistd::geteuid(), nix::unistd::getegid());
    let name = nix::unistd::User::from_uid(uid).unwrap().map(|u| u.name);
    dir.write("f", "x");
    for owner in [Some(uid.to_string()), name].into_iter().flatten() {
        let attributes = Attributes { owner: Some(owner), group: Some(gid.to_string()), mode: None, mode_change: None };
        let mine = Copy { attributes, ..Copy::default() }.to(dir.path("f"));
        assert!(!changed(&put(&mut agent, mine, "x")));
    }
    if !uid.is_root() {
        return;
    }
    let attributes = Attributes { owner: Some("12345".into()), group: Some("12346".into()), mode: Some(0o4750), mode_change: None };
    let other = || Copy { attributes: attributes.clone(), ..Copy::default() }.to(dir.path("f"));
    for content in ["x", "y"] {
        assert!(changed(&put(&mut agent, other(), content)));
        assert!(!changed(&put(&mut agent, other(), content)));
        let Outcome { values, .. } = agent.act(Action::Stat { path: text(dir.path("f")), follow: false, checksum: false, sha256: false });
        let stat = &values["stat"];
        assert_eq!((&stat["uid"], &stat["gid"], &stat["mode"]), (&12345.into(), &12346.into(), &"4750".into()));
    }
    // A new content alone keeps the owner.
    assert!(changed(&put(&mut agent, copy(dir.path("f")), "z")));
    assert!(!changed(&put(&mut agent, other(), "z")));
}

/// As `/etc/hosts` in a container: a rename over it is impossible, so it is written in place.
#[test]
fn a_mount_point_is_written_in_place() {
    let dir = Dir::new();
    let (target, source) = (dir.write("hosts", ""), dir.write("source", "a long old content\n"));
    symlink("hosts", dir.path("link")).unwrap();
    let script = format!("mount --bind {} {} && exec {AGENT}", text(&source), text(&target));
    let unshare = || {
        let mut c = Command::new("unshare");
        c.arg("-Urm");
        c
    };
    if !unshare().arg("true").output().is_ok_and(|o| o.status.success()) {
        septet_testing::skip("a mount", "this machine lets no mount namespace be made");
        return;
    }
    let mut agent = Agent::start_as(unshare().args(["sh", "-c", &script]));
    for (path, content) in [(&target, "new\n"), (&dir.path("link"), "newer\n"), (&target, "")] {
        let copy = || Copy { follow: true, ..Copy::default() }.to(path);
        let outcome = put(&mut agent, copy(), content);
        assert!(changed(&outcome));
        assert_eq!(dir.read("source"), content, "{}", path.display());
        assert!(!changed(&put(&mut agent, copy(), content)));
    }
    assert_eq!(dir.names(), ["hosts", "link", "source"]);
}

#[test]
fn into_a_directory_under_a_name() {
    let (mut agent, dir) = (Agent::start(), Dir::new());
    std::fs::create_dir(dir.path("d")).unwrap();
    let into = |path: String, name: Option<&str>| Copy { name_in_directory: name.map(str::to_owned), ..Copy::default() }.to(path);
    let (there, new) = (text(dir.path("d")), format!("{}/", text(dir.path("new/deep"))));
    for path in [&there, &new] {
        let request = agent.request(into(path.clone(), Some("a.txt")));
        assert_eq!(agent.ask(&request, b"a").status, Status::Changed, "{path}");
        assert_eq!(std::fs::read_to_string(std::path::Path::new(path).join("a.txt")).unwrap(), "a");
    }
    let request = agent.request(into(there, None));
    failed(&agent.ask(&request, b"a"), "is a directory");
}
