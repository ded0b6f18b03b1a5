//! The blob store, in a mount namespace of its own: the host's `/var/lib` is not touched.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::process::Command;

use common::{AGENT, Agent, Copy, Dir, changed, failed};
use septet_agent_protocol::{Action, Content, Outcome, Request, STORE_DIR};
use sha2::{Digest, Sha256};

/// An agent over an empty store, or none where this machine lets no namespace be made.
fn agent() -> Option<Agent> {
    let apart = |script: &str| {
        let mut c = Command::new("unshare");
        c.args(["-Urm", "sh", "-c", &format!("mount -t tmpfs none /var/lib && {script}")]);
        c
    };
    if !apart("true").output().is_ok_and(|o| o.status.success()) {
        eprintln!("skipped: this machine lets no mount namespace be made");
        return None;
    }
    Some(Agent::start_as(&mut apart(&format!("exec {AGENT}"))))
}

fn digest(content: &[u8]) -> String {
    Sha256::digest(content).iter().map(|b| format!("{b:02x}")).collect()
}

fn chunk(agent: &mut Agent, digest: &str, offset: u64, total: u64, bytes: &[u8]) -> Outcome {
    let request = agent.request(Action::PutBlob { digest: digest.to_owned(), offset, total });
    agent.ask(&request, bytes)
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
