//! The blob store, in a mount namespace of its own: the host's `/var/lib` is not touched.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::{
    fs,
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::PathBuf,
    process::Command,
};

use common::{AGENT, Agent, Copy, Dir, changed, failed};
use septet_agent_protocol::{Action, Content, Outcome, Request, STORE_DIR};
use sha2::{Digest, Sha256};

/// An agent over an empty store, or none where this machine lets no namespace be made.
fn agent() -> Option<Agent> {
    agent_after("")
}

/// The same, after some more commands in its namespace.
fn agent_after(more: &str) -> Option<Agent> {
    let apart = |script: &str| {
        let mut c = Command::new("unshare");
        c.args(["-Urm", "sh", "-c", &format!("mount -t tmpfs none /var/lib && {script}")]);
        c
    };
    if !apart("true").output().is_ok_and(|o| o.status.success()) {
        septet_testing::skip("a mount", "this machine lets no mount namespace be made");
        return None;
    }
    Some(Agent::start_as(&mut apart(&format!("{more} exec {AGENT}"))))
}

fn digest(content: &[u8]) -> String {
    hex::encode(Sha256::digest(content))
}

fn chunk(agent: &mut Agent, digest: &str, offset: u64, total: u64, bytes: &[u8]) -> Outcome {
    put(agent, digest, (offset, total), bytes, false)
}

fn put(agent: &mut Agent, digest: &str, (offset, total): (u64, u64), bytes: &[u8], private: bool) -> Outcome {
    let request = agent.request(Action::PutBlob { digest: digest.to_owned(), offset, total, private });
    agent.ask(&request, bytes)
}

fn stored(name: &str, to: PathBuf) -> Action {
    Copy { content: Content::Stored(name.to_owned()), ..Copy::default() }.to(to)
}

/// Modes, owners and names of the store, as the shell in the agent's namespace sees them.
fn listed(agent: &mut Agent) -> String {
    let script = format!("cd {STORE_DIR} && stat -c '%a %u' . && for f in $(ls -A); do stat -c '%a %u %n' $f; done");
    agent.shell(&script).values["stdout"].as_str().unwrap().to_owned()
}

fn missing(agent: &mut Agent, digests: &[&str]) -> Vec<String> {
    let outcome = agent.act(Action::Missing { digests: digests.iter().map(|&d| d.to_owned()).collect() });
    assert!(!changed(&outcome));
    serde_json::from_value(outcome.values["missing"].clone()).unwrap()
}

#[test]
fn a_blob_comes_in_chunks_and_is_copied_from_the_store() {
    let (Some(mut agent), dir) = (agent(), Dir::new()) else {
        return;
    };
    let content: Vec<u8> = (0..3_000_000u32).map(|i| (i % 253) as u8).collect();
    let (name, total) = (digest(&content), content.len() as u64);
    let empty = digest(b"");
    assert_eq!(missing(&mut agent, &[&name, &empty]), [name.as_str(), &empty]);
    let stored = |name: &str| Copy { content: Content::Stored(name.to_owned()), ..Copy::default() }.to(dir.path("f"));
    let lacks = |outcome: &Outcome, words: &str| assert_eq!(failed(outcome, words).values["missing_blob"], name);
    lacks(&agent.act(stored(&name)), "is not in the store");
    let hidden = Request { no_log: true, ..agent.request(stored(&name)) };
    lacks(&agent.ask(&hidden, &[]), "no_log");
    assert!(changed(&agent.check(stored(&name))), "it will be there by then");
    for (n, part) in content.chunks(1_000_000).enumerate() {
        assert_eq!(missing(&mut agent, &[&name]), [name.as_str()], "half a blob is none");
        let outcome = chunk(&mut agent, &name, n as u64 * 1_000_000, total, part);
        assert_eq!(changed(&outcome), n == 2);
    }
    assert!(changed(&chunk(&mut agent, &empty, 0, 0, b"")));
    assert!(missing(&mut agent, &[&name, &empty]).is_empty());
    assert!(changed(&agent.check(stored(&name))));
    assert!(dir.names().is_empty());
    assert!(changed(&agent.act(stored(&name))));
    assert!(!changed(&agent.act(stored(&name))));
    assert!(std::fs::read(dir.path("f")).unwrap() == content);
    // A file that is right needs no blob; bytes that rot are noticed, not used, dropped and asked for again.
    let rot = format!("printf x >> {STORE_DIR}/{name}");
    agent.shell(&rot);
    assert!(!changed(&agent.act(stored(&name))));
    dir.write("f", "other");
    lacks(&agent.act(stored(&name)), "was damaged");
    lacks(&agent.act(stored(&name)), "is not in the store");
    assert_eq!(dir.read("f"), "other");
    agent.shell(&rot);
    assert_eq!(missing(&mut agent, &[&name, &empty]), [name.as_str()]);
    lacks(&agent.act(stored(&name)), "is not in the store");
}

#[test]
fn bytes_that_are_not_the_blob_never_get_its_name() {
    let Some(mut agent) = agent() else { return };
    let name = digest(b"abcdef");
    // (offset, total, bytes, words)
    let cases: [(u64, u64, &[u8], &str); 7] = [
        (0, 6, b"abcdeX", "has digest"),
        (3, 6, b"def", "has digest"),
        (0, 3, b"abc", "has digest"),
        (0, 5, b"abcdef", "does not fit"),
        (6, 6, b"x", "does not fit"),
        (u64::MAX, 6, b"ab", "does not fit"),
        (0, u64::MAX, b"abc", "does not fit"),
    ];
    for (offset, total, bytes, words) in cases {
        failed(&chunk(&mut agent, &name, offset, total, bytes), words);
        assert_eq!(missing(&mut agent, &[&name]), [name.as_str()]);
    }
    // A transfer that was cut off begins again, whatever is left of it.
    assert!(!changed(&chunk(&mut agent, &name, 0, 6, b"zzzz")));
    assert!(!changed(&chunk(&mut agent, &name, 0, 6, b"abc")));
    assert!(changed(&chunk(&mut agent, &name, 3, 6, b"def")));
    assert!(missing(&mut agent, &[&name]).is_empty());
    for bad in ["", "../../etc/passwd", &name.to_uppercase(), &name[1..], &format!("{name}0")] {
        failed(&chunk(&mut agent, bad, 0, 6, b"abcdef"), "is not a SHA-256");
        failed(&agent.act(Action::Missing { digests: vec![bad.to_owned()] }), "is not a SHA-256");
    }
    let left = agent.shell(&format!("ls -A {STORE_DIR}"));
    assert_eq!(left.values["stdout"], name, "no partial blob is left");
}

#[test]
fn the_store_is_roots_alone_whatever_the_umask_and_whatever_was_there() {
    let name = digest(b"blob");
    // As an earlier version left it, and with no umask.
    for before in ["", &format!("mkdir -p {STORE_DIR} && chmod 777 {STORE_DIR} && echo secret > {STORE_DIR}/{} &&", digest(b"old"))] {
        let Some(mut agent) = agent_after(&format!("umask 000; {before}")) else { return };
        if !before.is_empty() {
            assert!(!changed(&agent.act(Action::Missing { digests: Vec::new() })));
            assert!(listed(&mut agent).starts_with("700 0\n"), "at the agent's start: {}", listed(&mut agent));
        }
        assert!(changed(&chunk(&mut agent, &name, 0, 4, b"blob")));
        let seen = listed(&mut agent);
        assert!(seen.starts_with("700 0\n") && seen.contains(&format!("600 0 {name}")), "{seen}");
        let parent = agent.shell(&format!("stat -c %a {STORE_DIR}/.."));
        assert_eq!(parent.values["stdout"], "755", "what is restored at boot can be read");
    }
}

#[test]
fn a_private_blob_has_no_name_and_is_used_once() {
    let (Some(mut agent), dir) = (agent(), Dir::new()) else { return };
    let secret: Vec<u8> = b"s3cret ".repeat(200_000);
    let (name, total) = (digest(&secret), secret.len() as u64);
    let on_disk = format!("ls -A {STORE_DIR}");
    for round in ["first", "again"] {
        for (n, part) in secret.chunks(1_000_000).enumerate() {
            assert_eq!(missing(&mut agent, &[&name]), [name.as_str()], "{round}: half a blob is none");
            let outcome = put(&mut agent, &name, (n as u64 * 1_000_000, total), part, true);
            assert_eq!(changed(&outcome), n == 1, "{round}");
        }
        assert_eq!(agent.shell(&on_disk).values["stdout"], "", "{round}");
        assert!(missing(&mut agent, &[&name]).is_empty(), "{round}");
        assert!(changed(&agent.check(stored(&name, dir.path("f")))), "{round}: check mode uses nothing up");
        assert!(changed(&agent.act(stored(&name, dir.path("f")))), "{round}");
        assert!(fs::read(dir.path("f")).unwrap() == secret, "{round}");
        assert!(!changed(&agent.act(stored(&name, dir.path("f")))), "{round}: needs no blob");
        // Used once: the next file of the same bytes needs it anew.
        assert_eq!(failed(&agent.act(stored(&name, dir.path("g"))), "is not in the store").values["missing_blob"], name);
        fs::remove_file(dir.path("f")).unwrap();
    }
    // Pieces that are not in order, and bytes that are not it, are no blob.
    failed(&put(&mut agent, &name, (5, total), b"xx", true), "does not follow");
    assert!(!changed(&put(&mut agent, &name, (0, 4), b"ab", true)));
    failed(&put(&mut agent, &name, (2, 4), b"cd", true), "has digest");
    failed(&put(&mut agent, &name, (2, 4), b"cd", true), "does not follow");
    // Only so many are held at a time.
    for n in 0..20u8 {
        assert!(changed(&put(&mut agent, &digest(&[n]), (0, 1), &[n], true)));
    }
    assert_eq!(missing(&mut agent, &[&digest(&[0]), &digest(&[19])]), [digest(&[0])]);
}

#[test]
fn an_agent_of_another_account_holds_its_blobs_itself() {
    if !nix::unistd::geteuid().is_root() {
        septet_testing::skip("what only root can cause", "not root");
        return;
    }
    let dir = Dir::new();
    let program = dir.path("agent");
    fs::copy(AGENT, &program).unwrap();
    for path in [program.clone(), dir.path("")] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    fs::create_dir(dir.path("home")).unwrap();
    std::os::unix::fs::chown(dir.path("home"), Some(12345), Some(12345)).unwrap();
    let mut agent = Agent::start_as(Command::new(&program).uid(12345).gid(12345));
    assert_eq!(agent.hello.uid, 12345);
    let name = digest(b"abc");
    assert_eq!(failed(&agent.act(stored(&name, dir.path("home/f"))), "is not in the store").values["missing_blob"], name);
    // Not even asked to keep it private it touches the host's store.
    assert!(changed(&chunk(&mut agent, &name, 0, 3, b"abc")));
    assert!(changed(&agent.act(stored(&name, dir.path("home/f")))));
    assert_eq!(dir.read("home/f"), "abc");
}

#[test]
fn what_is_old_and_what_is_too_much_goes() {
    let Some(mut agent) = agent() else { return };
    let [old, recent, large, used, new] = [&b"old"[..], b"recent", b"large", b"used", b"new"].map(digest);
    let put_all = |agent: &mut Agent| {
        for content in [&b"old"[..], b"recent", b"used"] {
            chunk(agent, &digest(content), 0, content.len() as u64, content);
        }
    };
    let names = |agent: &mut Agent| {
        let mut names: Vec<String> = agent.shell(&format!("ls -A {STORE_DIR}")).values["stdout_lines"]
            .as_array()
            .unwrap()
            .iter()
            .map(|n| n.as_str().unwrap().to_owned())
            .collect();
        names.sort();
        names
    };
    let sorted = |names: &[&String]| {
        let mut names: Vec<String> = names.iter().map(|n| (*n).clone()).collect();
        names.sort();
        names
    };
    put_all(&mut agent);
    agent.shell(&format!(
        "cd {STORE_DIR} && touch -d '31 days ago' {old} {used} && touch -d '29 days ago' {recent} && touch -d '2 days ago' .left.partial && touch .fresh"
    ));
    // What is used is not old any more, even if it is only by then that one looks.
    let dir = Dir::new();
    assert!(changed(&agent.act(stored(&used, dir.path("f")))));
    assert_eq!(names(&mut agent), sorted(&[&".fresh".to_owned(), &recent, &used]));
    // Two gibibytes at most, without what was not used for longest.
    agent.shell(&format!("cd {STORE_DIR} && truncate -s 2047M {large} && touch -d '1 day ago' {large}"));
    chunk(&mut agent, &old, 0, 3, b"old");
    assert_eq!(names(&mut agent), sorted(&[&".fresh".to_owned(), &recent, &used, &large, &old]));
    agent.shell(&format!("cd {STORE_DIR} && truncate -s 2049M {large} && touch -d '1 day ago' {large}"));
    chunk(&mut agent, &new, 0, 3, b"new");
    assert_eq!(
        names(&mut agent),
        sorted(&[&".fresh".to_owned(), &used, &old, &new]),
        "the older one is not enough, the large one goes too"
    );
}
