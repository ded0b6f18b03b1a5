//! Archives from the store, unpacked whole or not at all; in a mount namespace of its own as the store's tests. Packages' names.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::{fs, io::Write, os::unix::fs::MetadataExt, path::Path, process::Command};

use common::{AGENT, Agent, Dir, changed, failed, text, until};
use flate2::{Compression, write::GzEncoder};
use septet_agent_protocol::{Action, Outcome, STORE_DIR, Status};
use sha2::{Digest, Sha256};
use tar::{Builder, EntryType, Header};

/// Bytes of a blob that are sent at a time.
const CHUNK: usize = 4_000_000;

/// An agent over an empty store, after some more commands in its namespace; none where this machine lets no namespace be made.
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

fn agent() -> Option<Agent> {
    agent_after("")
}

/// Puts an archive into the store; its digest.
fn stored(agent: &mut Agent, bytes: &[u8]) -> String {
    let digest = hex::encode(Sha256::digest(bytes));
    for n in 0..bytes.len().div_ceil(CHUNK).max(1) {
        let (offset, total) = ((n * CHUNK) as u64, bytes.len() as u64);
        let request = agent.request(Action::PutBlob { digest: digest.clone(), offset, total, private: false });
        let outcome = agent.ask(&request, &bytes[n * CHUNK..bytes.len().min((n + 1) * CHUNK)]);
        assert_ne!(outcome.status, Status::Failed, "{outcome:?}");
    }
    let missing = agent.act(Action::Missing { digests: vec![digest.clone()] });
    assert_eq!(missing.values["missing"], serde_json::json!([]));
    digest
}

fn action(digest: &str, dest: impl AsRef<Path>, name: &str) -> Action {
    let creates = text(dest.as_ref().join(name));
    Action::Unarchive { digest: digest.to_owned(), dest: text(dest), creates }
}

/// Puts an archive into the store and asks for it.
fn unarchive(agent: &mut Agent, bytes: &[u8], dest: impl AsRef<Path>, name: &str) -> Outcome {
    let digest = stored(agent, bytes);
    agent.act(action(&digest, dest, name))
}

/// An archive in the making.
struct Tgz(Builder<GzEncoder<Vec<u8>>>);

impl Tgz {
    fn new() -> Self {
        Self(Builder::new(GzEncoder::new(Vec::new(), Compression::fast())))
    }

    /// An entry under a name that is written as it stands, however bad.
    fn entry(mut self, kind: EntryType, name: &str, link: &str, mode: u32, content: &[u8]) -> Self {
        let mut h = Header::new_gnu();
        let gnu = h.as_gnu_mut().unwrap();
        gnu.name[..name.len()].copy_from_slice(name.as_bytes());
        gnu.linkname[..link.len()].copy_from_slice(link.as_bytes());
        h.set_entry_type(kind);
        h.set_size(content.len() as u64);
        h.set_mode(mode);
        h.set_mtime(1_700_000_000);
        h.set_cksum();
        self.0.append(&h, content).unwrap();
        self
    }

    fn directory(self, name: &str) -> Self {
        self.entry(EntryType::Directory, name, "", 0o755, b"")
    }

    fn file(self, name: &str, content: &[u8]) -> Self {
        self.entry(EntryType::Regular, name, "", 0o644, content)
    }

    fn link(self, name: &str, to: &str) -> Self {
        self.entry(EntryType::Symlink, name, to, 0o777, b"")
    }

    fn end(self) -> Vec<u8> {
        self.0.into_inner().unwrap().finish().unwrap()
    }
}

fn small() -> Vec<u8> {
    let tgz =
        Tgz::new().directory("kafka/").directory("kafka/bin/").entry(EntryType::Regular, "kafka/bin/run.sh", "", 0o1777, b"#!/bin/sh\n");
    let tgz = tgz.file("kafka/libs/a.jar", &b"bytes ".repeat(50_000)).link("kafka/current", "libs/a.jar");
    tgz.entry(EntryType::Link, "kafka/same", "kafka/libs/a.jar", 0o644, b"").file("beside", b"not named").end()
}

/// Bytes that do not compress.
fn noise(len: usize) -> Vec<u8> {
    let mut x = 88_172_645_463_325_252u64;
    let next = || {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        x.to_le_bytes()
    };
    std::iter::repeat_with(next).flatten().take(len).collect()
}

#[test]
fn what_it_holds_appears_whole_and_once() {
    let (Some(mut agent), dir) = (agent(), Dir::new()) else { return };
    let dest = dir.path("opt");
    let bytes = small();
    let digest = hex::encode(Sha256::digest(&bytes));
    // Before it is in the store: asked for, or foretold.
    let outcome = agent.act(action(&digest, &dest, "kafka"));
    assert_eq!(failed(&outcome, "is not in the store").values["missing_blob"], digest);
    assert!(changed(&agent.check(action(&digest, &dest, "kafka"))));
    assert!(!dest.exists());

    assert_eq!(stored(&mut agent, &bytes), digest);
    assert!(changed(&agent.check(action(&digest, &dest, "kafka"))));
    assert!(!dest.exists());
    let outcome = agent.act(action(&digest, &dest, "kafka"));
    assert!(changed(&outcome));
    assert!(outcome.diff.unwrap().contains("opt/kafka: unpacked"));
    // What it is to be, with nothing beside it.
    assert_eq!(names(&dest), ["kafka"]);
    assert_eq!(names(&dest.join("kafka")), ["bin", "current", "libs", "same"]);
    assert_eq!(dir.read("opt/kafka/libs/a.jar"), "bytes ".repeat(50_000));
    assert_eq!(dir.read("opt/kafka/current"), dir.read("opt/kafka/same"));
    assert_eq!(dir.mode("opt/kafka/bin/run.sh"), 0o755, "others' write and bits beyond permissions are not kept");
    assert_eq!(fs::metadata(dest.join("kafka/libs/a.jar")).unwrap().mtime(), 1_700_000_000);

    // What is there stays as it is, whoever put it there; the blob is not even needed.
    dir.write("opt/kafka/current-change", "mine");
    assert!(!changed(&agent.act(action(&digest, &dest, "kafka"))));
    assert!(!changed(&agent.check(action(&digest, &dest, "kafka"))));
    assert!(!changed(&agent.act(action(&"0".repeat(64), &dest, "kafka"))));
    assert_eq!(dir.read("opt/kafka/current-change"), "mine");
    // Another one goes beside it.
    let other = Tgz::new().file("kafka-2/x", b"2").end();
    assert!(changed(&unarchive(&mut agent, &other, &dest, "kafka-2")));
    assert_eq!(names(&dest), ["kafka", "kafka-2"]);
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn what_is_wrong_is_refused_and_leaves_nothing() {
    let (Some(mut agent), dir) = (agent(), Dir::new()) else { return };
    let dest = dir.path("opt");
    fs::create_dir(&dest).unwrap();
    fs::create_dir(dir.path("outside")).unwrap();
    let outside = text(dir.path("outside"));
    let file = |name: &str| Tgz::new().file("d/before", b"1").file(name, b"evil").end();
    let large = Tgz::new().file("d/large", &noise(2_000_000)).file("d/more", &noise(1_000)).end();
    let mut plain_tar = Builder::new(Vec::new());
    let mut h = Header::new_gnu();
    h.set_size(1);
    h.set_cksum();
    plain_tar.append_data(&mut h, "d/x", &b"x"[..]).unwrap();
    let mut gzip_of_text = GzEncoder::new(Vec::new(), Compression::fast());
    gzip_of_text.write_all(&b"This is text that somebody compressed.\n".repeat(100)).unwrap();
    let mut flipped = large.clone();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 0x10;
    let through_link = Tgz::new().link("d/out", &outside).file("d/out/file", b"evil").end();
    let through_up = Tgz::new().link("d/out", "../../../outside").file("d/out/file", b"evil").end();
    let hard = Tgz::new().entry(EntryType::Link, "d/hard", &format!("{outside}/../secret"), 0o644, b"").end();
    dir.write("secret", "kept");
    let cannot = "cannot be unpacked";
    // (bytes, words)
    let cases: [(&str, Vec<u8>, &str); 14] = [
        ("cut off", large[..large.len() / 2].to_vec(), cannot),
        ("cut off at the end", large[..large.len() - 600].to_vec(), cannot),
        ("flipped", flipped, cannot),
        ("empty", Vec::new(), ""),
        ("text", b"This is not the file that you are looking for.\n".repeat(30), cannot),
        ("no gzip", plain_tar.into_inner().unwrap(), cannot),
        ("gzip of text", gzip_of_text.finish().unwrap(), cannot),
        ("..", file("d/../../outside/file"), "leads out of it"),
        (".. first", file("../outside/file"), "leads out of it"),
        ("absolute", file(&format!("{outside}/file")), "leads out of it"),
        ("symlink", through_link, ""),
        ("symlink up", through_up, ""),
        ("hard link", hard, ""),
        ("another name", Tgz::new().file("other/x", b"x").end(), "holds no d"),
    ];
    for (what, bytes, words) in cases {
        let outcome = unarchive(&mut agent, &bytes, &dest, "d");
        assert_eq!(outcome.status, Status::Failed, "{what}: {outcome:?}");
        assert!(!outcome.msg.is_empty() && outcome.msg.contains(words), "{what}: {}", outcome.msg);
        assert_eq!(names(&dest), Vec::<String>::new(), "{what}: {}", outcome.msg);
        assert_eq!(names(&dir.path("outside")), Vec::<String>::new(), "{what}: {}", outcome.msg);
        assert_eq!(dir.read("secret"), "kept");
    }
    assert_eq!(dir.names(), ["opt", "outside", "secret"]);

    // Where it would go, and what it is called.
    let digest = stored(&mut agent, &small());
    for (dest, creates) in [("/opt", "/opt"), ("/opt", "/other/d"), ("/opt", "/opt/a/b"), ("opt", "opt/kafka"), ("/opt", "/opt/..")] {
        let wrong = Action::Unarchive { digest: digest.clone(), dest: dest.into(), creates: creates.into() };
        failed(&agent.act(wrong), "");
    }
    for bad in ["", "../../etc/passwd", &digest.to_uppercase()] {
        failed(&agent.act(action(bad, &dest, "d")), "is not a SHA-256");
    }
    assert_eq!(names(&dest), Vec::<String>::new());
}

/// Nothing but files, directories and links that stay inside; a word of why, and nothing is left.
#[test]
fn entries_that_have_no_business_in_a_tree_are_refused() {
    let (Some(mut agent), dir) = (agent(), Dir::new()) else { return };
    let dest = dir.path("opt");
    fs::create_dir(&dest).unwrap();
    let entry = |kind, name: &str, link: &str, mode| Tgz::new().file("d/before", b"1").entry(kind, name, link, mode, b"").end();
    let link = |name: &str, to: &str| entry(EntryType::Symlink, name, to, 0o777);
    let hard = |name: &str, to: &str| entry(EntryType::Link, name, to, 0o644);
    let mut sparse = Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
    let mut h = Header::new_gnu();
    h.set_path("d/sparse").unwrap();
    h.set_entry_type(EntryType::GNUSparse);
    h.set_mode(0o644);
    h.set_size(0);
    let gnu = h.as_gnu_mut().unwrap();
    gnu.realsize[..12].copy_from_slice(b"77777777777\0");
    gnu.sparse[0].offset[..12].copy_from_slice(b"77777777777\0");
    gnu.sparse[0].numbytes[..12].copy_from_slice(b"00000000000\0");
    h.set_cksum();
    sparse.append(&h, &b""[..]).unwrap();
    let long_header = Tgz::new().entry(EntryType::XHeader, "pax", "", 0o644, &vec![b'x'; 2_000_000]).file("d/x", b"x").end();
    // (what, bytes, words)
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("a FIFO", entry(EntryType::Fifo, "d/fifo", "", 0o666), "is a FIFO"),
        ("a device", entry(EntryType::Char, "d/null", "", 0o666), "is a device"),
        ("a disk", entry(EntryType::Block, "d/sda", "", 0o666), "is a device"),
        ("a device that is not wanted", entry(EntryType::Char, "null", "", 0o666), "is a device"),
        ("set-user-id", entry(EntryType::Regular, "d/sh", "", 0o4755), "set-user-id"),
        ("set-group-id", entry(EntryType::Regular, "d/sh", "", 0o2755), "set-user-id or set-group-id"),
        ("the top is a link", Tgz::new().link("d", "/etc").end(), "is a link to /etc, which"),
        ("the top is a link to a sibling", Tgz::new().file("e/x", b"1").link("d", "e").end(), "is a link to e, which"),
        ("another top is a link", link("e", "/etc"), "is a link to /etc, which"),
        ("an absolute link", link("d/l", "/etc/passwd"), "is absolute"),
        ("a link up and out", link("d/l", "../e"), "leads out of the archive"),
        ("a link far up and out", link("d/a/b/l", "../../../../etc"), "leads out of the archive"),
        ("a link down and up", link("d/l", "a/../x"), "goes down and up again"),
        ("an empty link", link("d/l", ""), ""),
        ("a hard link out", hard("d/h", "/etc/passwd"), "leads out of it"),
        ("a hard link up", hard("d/h", "../secret"), "leads out of it"),
        ("a hard link to another tree", hard("d/h", "e/x"), "is a hard link to e/x, which is outside of it"),
        ("a hard link to nothing", hard("d/h", "d/none"), "is not a file of it"),
        (
            "a hard link through a link",
            Tgz::new().link("d/l", "a").directory("d/a/").file("d/a/f", b"1").entry(EntryType::Link, "d/h", "d/l/f", 0o644, b"").end(),
            "",
        ),
        (
            "a hard link to a link",
            Tgz::new().file("d/f", b"1").link("d/l", "f").entry(EntryType::Link, "d/h", "d/l", 0o644, b"").end(),
            "is not a file of it",
        ),
        ("a sparse file", sparse.into_inner().unwrap().finish().unwrap(), "sparse file"),
        ("a header of 2 MB", long_header, "a header is over"),
    ];
    for (what, bytes, words) in cases {
        let outcome = unarchive(&mut agent, &bytes, &dest, "d");
        failed(&outcome, words);
        assert_eq!(names(&dest), Vec::<String>::new(), "{what}: {}", outcome.msg);
        assert_eq!(dir.names(), ["opt"], "{what}");
    }
}

#[test]
fn links_that_stay_inside_and_directories_without_an_entry_are_unpacked() {
    let dir = Dir::new();
    let dest = dir.path("opt");
    let tgz = Tgz::new().file("d/a/b/f", b"content").link("d/a/up", "../a/b/f").link("d/a/b/top", "../..").link("d/here", "./a");
    let tgz = tgz.entry(EntryType::Directory, "d/closed/", "", 0o500, b"").file("d/closed/g", b"g").link("d/closed/dangling", "none");
    let tgz = tgz.entry(EntryType::Regular, "d/open", "", 0o666, b"x").file("d/twice", b"1").file("d/twice", b"2");
    let bytes = tgz.entry(EntryType::XGlobalHeader, "pax_global_header", "", 0o644, b"12 comment=x\n").end();
    let Some(mut agent) = agent_after("umask 077;") else { return };
    let outcome = unarchive(&mut agent, &bytes, &dest, "d");
    assert!(changed(&outcome), "{outcome:?}");
    for path in ["opt/d/a/up", "opt/d/a/b/top/a/b/f", "opt/d/here/b/f"] {
        assert_eq!(dir.read(path), "content", "{path}");
    }
    assert_eq!((dir.read("opt/d/closed/g"), dir.read("opt/d/twice")), ("g".into(), "2".into()));
    let modes = ["opt/d", "opt/d/a", "opt/d/a/b", "opt/d/closed", "opt/d/open"].map(|n| dir.mode(n));
    assert_eq!(modes, [0o755, 0o755, 0o755, 0o500, 0o644]);
}

#[test]
fn more_entries_than_are_sensible_are_refused() {
    let (Some(mut agent), dir) = (agent(), Dir::new()) else { return };
    let dest = dir.path("opt");
    let mut tgz = Tgz::new();
    for _ in 0..200_001 {
        tgz = tgz.directory("d/");
    }
    failed(&unarchive(&mut agent, &tgz.end(), &dest, "d"), "more than 200000 entries");
    assert_eq!(names(&dest), Vec::<String>::new());
}

#[test]
fn a_blob_that_rots_is_asked_for_again() {
    let (Some(mut agent), dir) = (agent(), Dir::new()) else { return };
    let dest = dir.path("opt");
    let bytes = Tgz::new().file("d/x", &noise(100_000)).end();
    let digest = stored(&mut agent, &bytes);
    // A byte of a file's content: what unpacks it may not notice.
    agent.shell(&format!("printf x | dd of={STORE_DIR}/{digest} bs=1 seek=50000 conv=notrunc"));
    let outcome = agent.act(action(&digest, &dest, "d"));
    assert_eq!(failed(&outcome, "").values["missing_blob"], digest, "{outcome:?}");
    assert!(!dest.join("d").exists());
    assert!(changed(&unarchive(&mut agent, &bytes, &dest, "d")));
    assert!(fs::read(dest.join("d/x")).unwrap() == noise(100_000));
}

#[test]
fn killed_in_the_middle_it_leaves_no_final_name_and_the_next_one_cleans_up() {
    let (Some(mut first), Some(mut second), dir) = (agent(), agent(), Dir::new()) else { return };
    let dest = dir.path("opt");
    fs::create_dir_all(dest.join(".septet-unpack-1/old")).unwrap();
    fs::create_dir(dest.join("another")).unwrap();
    let mut tgz = Tgz::new();
    for n in 0..100 {
        tgz = tgz.file(&format!("d/{n}"), &vec![0; 2_000_000]);
    }
    let bytes = tgz.file("d/last", b"whole").end();
    let digest = stored(&mut first, &bytes);
    let request = first.request(action(&digest, &dest, "d"));
    let mine = format!(".septet-unpack-{}", first.child.id());
    first.send(&request, &[]);
    until("files are unpacked", || dest.join(&mine).join("d/3").exists());
    first.child.kill().unwrap();
    first.child.wait().unwrap();
    assert_eq!(names(&dest), [mine.as_str(), "another"], "what an earlier run left is gone, what is not of it stays");

    assert!(changed(&unarchive(&mut second, &bytes, &dest, "d")));
    assert_eq!(names(&dest), ["another", "d"]);
    assert_eq!(names(&dest.join("d")).len(), 101);
    assert_eq!(dir.read("opt/d/last"), "whole");
}

#[test]
fn an_end_of_the_channel_ends_it() {
    let (Some(mut agent), dir) = (agent(), Dir::new()) else { return };
    let dest = dir.path("opt");
    let mut tgz = Tgz::new();
    for n in 0..200 {
        tgz = tgz.file(&format!("d/{n}"), &vec![0; 2_000_000]);
    }
    let digest = stored(&mut agent, &tgz.end());
    let request = agent.request(action(&digest, &dest, "d"));
    agent.send(&request, &[]);
    until("files are unpacked", || {
        fs::read_dir(&dest).is_ok_and(|l| l.flatten().any(|e| e.file_name().to_string_lossy().starts_with(".septet-unpack-")))
    });
    agent.close();
    assert_eq!(names(&dest), Vec::<String>::new());
}

#[test]
fn a_full_disk_is_said_and_leaves_nothing() {
    let dir = Dir::new();
    let dest = dir.path("opt");
    fs::create_dir(&dest).unwrap();
    // (limit of the file system, content)
    for (limit, content, files) in [("size=1m", 400_000, 20), ("nr_inodes=10", 10, 40)] {
        let Some(mut agent) = agent_after(&format!("mount -t tmpfs -o {limit} none {} &&", dest.display())) else { return };
        let mut tgz = Tgz::new();
        for n in 0..files {
            tgz = tgz.file(&format!("d/{n}"), &noise(content));
        }
        let outcome = unarchive(&mut agent, &tgz.end(), &dest, "d");
        failed(&outcome, "no space is left while unpacking into");
        let left = agent.shell(&format!("ls -A {}", dest.display()));
        assert_eq!(left.values["stdout"], "");
        // With room it works.
        let fits = Tgz::new().file("d/x", b"fits").end();
        assert!(changed(&unarchive(&mut agent, &fits, &dest, "d")));
    }
}

#[test]
fn names_that_are_none_of_packages_are_refused() {
    let mut agent = Agent::start();
    for bad in ["", "-y", "--reinstall", "a b", "a;b", "a/b", "../x", "$(id)", "ä", "a\nb", "http://x/y.deb"] {
        let names = vec!["coreutils".to_owned(), bad.to_owned()];
        failed(&agent.act(Action::Package { names: names.clone() }), "is not a package's name");
        failed(&agent.check(Action::Package { names }), "is not a package's name");
    }
    if !Path::new("/usr/bin/apt-get").exists() {
        return;
    }
    let names = |n: &str| Action::Package { names: vec!["coreutils".into(), n.into()] };
    assert!(!changed(&agent.act(names("coreutils"))));
    let outcome = agent.check(names("no-such-package-of-septet"));
    assert!(changed(&outcome));
    assert_eq!(outcome.diff.unwrap(), "no-such-package-of-septet: installed\n");
}
