//! Directories that another account owns or can write to. A service account puts links, FIFOs and other files in the way of
//! root's agent; nothing outside its own directory may change, and nothing may block. All of it takes root, to be two accounts.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::{
    fs::{self, OpenOptions},
    os::unix::fs::{FileExt, MetadataExt, PermissionsExt, chown, symlink},
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use common::{AGENT, Agent, Copy, Dir, changed, copy, failed, mode, text};
use rustix::fs::{CWD, FileType, Mode, RenameFlags, mknodat, renameat_with};
use septet_agent_protocol::{Action, Attributes, Content, FileState, Insert, Outcome, Status};

/// An account that runs a service.
const SERVICE: u32 = 12345;
const REFUSED: &str = "a link that another account can replace; refusing to follow it";

fn root() -> bool {
    let is = nix::unistd::geteuid().is_root();
    if !is {
        septet_testing::skip("what only root can cause", "not root");
    }
    is
}

/// A directory of the service's, `data`, and a file and a directory of root's beside it.
fn scene() -> Dir {
    let dir = Dir::new();
    fs::create_dir(dir.path("data")).unwrap();
    chown(dir.path("data"), Some(SERVICE), Some(SERVICE)).unwrap();
    fs::create_dir(dir.path("etc")).unwrap();
    dir.write("etc/passwd", "root\n");
    dir.chmod("etc/passwd", 0o600);
    dir.chmod("etc", 0o755);
    dir
}

/// Root's things are as `scene` left them.
fn unharmed(dir: &Dir, what: &str) {
    assert_eq!(dir.read("etc/passwd"), "root\n", "{what}");
    assert_eq!(fs::read_dir(dir.path("etc")).unwrap().count(), 1, "{what}");
    for (name, bits) in [("etc", 0o755), ("etc/passwd", 0o600)] {
        let meta = fs::metadata(dir.path(name)).unwrap();
        assert_eq!((meta.uid(), meta.gid(), meta.mode() & 0o7777), (0, 0, bits), "{what}: {name}");
    }
}

fn put(agent: &mut Agent, action: Action, content: &str) -> Outcome {
    let request = agent.request(action);
    agent.ask(&request, content.as_bytes())
}

fn theirs(bits: u32) -> Attributes {
    Attributes { owner: Some(SERVICE.to_string()), group: Some(SERVICE.to_string()), mode: Some(bits), mode_change: None }
}

fn file(path: PathBuf, state: FileState, follow: Option<bool>) -> Action {
    Action::File { path: text(path), state, src: None, attributes: theirs(0o644), recurse: false, follow }
}

fn line(path: PathBuf) -> Action {
    let line = Some("evil".to_owned());
    Action::Lineinfile {
        path: text(path),
        line,
        regexp: None,
        backrefs: false,
        absent: false,
        insert: Insert::Eof,
        create: true,
        attributes: theirs(0o644),
    }
}

fn block(path: PathBuf) -> Action {
    let (block, begin, end) = ("evil".into(), "<".into(), ">".into());
    Action::Blockinfile { path: text(path), block, begin, end, insert: Insert::Eof, create: true, attributes: theirs(0o644) }
}

#[test]
fn a_link_at_the_destination_is_replaced_and_not_written_through() {
    if !root() {
        return;
    }
    // A new content; and the one that the victim has, where only attributes would change.
    for content in ["3\n", "root\n"] {
        for target in ["../etc/passwd", "../etc", "nowhere"] {
            let (mut agent, dir) = (Agent::start(), scene());
            symlink(target, dir.path("data/myid")).unwrap();
            let action = || Copy { attributes: theirs(0o640), ..Copy::default() }.to(dir.path("data/myid"));
            let done = put(&mut agent, action(), content);
            assert!(changed(&done) && done.diff.unwrap().contains("instead of a link"));
            unharmed(&dir, target);
            assert!(!dir.path("data/nowhere").exists());
            let meta = fs::symlink_metadata(dir.path("data/myid")).unwrap();
            assert!(meta.is_file() && meta.uid() == SERVICE && meta.mode() & 0o7777 == 0o640, "{meta:?}");
            assert_eq!(dir.read("data/myid"), content);
            assert!(!changed(&put(&mut agent, action(), content)));
        }
    }
}

/// What the service put in the way of a path, and every action on it.
#[test]
fn links_of_another_account_are_refused_and_roots_own_are_followed() {
    if !root() {
        return;
    }
    let links = |dir: &Dir| {
        symlink("../etc", dir.path("data/sub")).unwrap();
        symlink("../etc/passwd", dir.path("data/file")).unwrap();
        dir.path("data")
    };
    type Ask = fn(PathBuf) -> Action;
    // (name, path below data, action)
    let asks: [(&str, &str, Ask); 13] = [
        ("copy below", "sub/passwd", |p| Copy { attributes: theirs(0o644), ..Copy::default() }.to(p)),
        ("copy, new", "sub/new", |p| copy(p)),
        ("lineinfile", "file", line),
        ("lineinfile below", "sub/passwd", line),
        ("blockinfile", "file", block),
        ("blockinfile below, new", "sub/new", block),
        ("file", "file", |p| file(p, FileState::File, None)),
        ("touch below", "sub/new", |p| file(p, FileState::Touch, None)),
        ("directory", "sub", |p| file(p, FileState::Directory, None)),
        ("directory below", "sub/new/deep", |p| file(p, FileState::Directory, None)),
        ("absent below", "sub/passwd", |p| file(p, FileState::Absent, None)),
        ("slurp", "file", |p| Action::Slurp { path: text(p) }),
        ("copy of a file of the host", "copy", |p| {
            let from = text(p.with_file_name("file"));
            Copy { content: Content::HostFile(from), ..Copy::default() }.to(p)
        }),
    ];
    for (name, path, ask) in asks {
        let (mut agent, dir) = (Agent::start(), scene());
        let action = ask(links(&dir).join(path));
        failed(&agent.act(action.clone()), REFUSED);
        failed(&agent.check(action.clone()), REFUSED);
        unharmed(&dir, name);
        assert!(!dir.path("data/copy").exists());
        // A link that the service can rename is no better for being root's; one in a directory of root's is.
        for link in ["data/sub", "data/file"] {
            std::os::unix::fs::lchown(dir.path(link), Some(0), Some(0)).unwrap();
        }
        failed(&agent.act(action.clone()), REFUSED);
        unharmed(&dir, name);
        chown(dir.path("data"), Some(0), Some(0)).unwrap();
        let done = agent.act(action);
        assert_ne!(done.status, Status::Failed, "{name}: {done:?}");
    }
}

#[test]
fn a_directory_that_the_group_or_everybody_writes_to_vouches_for_no_link() {
    if !root() {
        return;
    }
    // (mode of root's directory, whose link, followed)
    let cases =
        [(0o755, 0, true), (0o775, 0, false), (0o777, 0, false), (0o1777, 0, true), (0o1777, SERVICE, false), (0o755, SERVICE, false)];
    for (bits, owner, followed) in cases {
        let (mut agent, dir) = (Agent::start(), scene());
        fs::create_dir(dir.path("shared")).unwrap();
        dir.chmod("shared", bits);
        symlink("../etc/passwd", dir.path("shared/link")).unwrap();
        std::os::unix::fs::lchown(dir.path("shared/link"), Some(owner), None).unwrap();
        let outcome = agent.act(line(dir.path("shared/link")));
        if followed {
            assert!(changed(&outcome), "{bits:o} {owner}");
        } else {
            failed(&outcome, REFUSED);
            unharmed(&dir, "lineinfile");
        }
    }
}

#[test]
fn with_follow_every_link_is_followed_and_without_it_none_at_the_end() {
    if !root() {
        return;
    }
    let (mut agent, dir) = (Agent::start(), scene());
    symlink("../etc", dir.path("data/sub")).unwrap();
    symlink("sub/passwd", dir.path("data/file")).unwrap();
    failed(&agent.act(file(dir.path("data/file"), FileState::File, Some(false))), "is a link and is not a regular file");
    failed(&agent.act(file(dir.path("data/sub"), FileState::Directory, Some(false))), "is a link and is not a directory");
    unharmed(&dir, "follow: false");
    assert!(changed(&agent.act(file(dir.path("data/file"), FileState::File, Some(true)))));
    assert_eq!(fs::metadata(dir.path("etc/passwd")).unwrap().uid(), SERVICE);
    let follow = Copy { follow: true, ..Copy::default() }.to(dir.path("data/file"));
    assert!(changed(&put(&mut agent, follow, "new\n")));
    assert_eq!(dir.read("etc/passwd"), "new\n");
    assert!(dir.path("data/file").is_symlink());
    // A link that is made or removed is meant itself.
    let link = |follow| Action::File {
        path: text(dir.path("data/sub")),
        state: FileState::Link,
        src: Some("elsewhere".into()),
        attributes: Attributes::default(),
        recurse: false,
        follow,
    };
    assert!(changed(&agent.act(link(Some(true)))));
    assert_eq!(fs::read_link(dir.path("data/sub")).unwrap(), Path::new("elsewhere"));
    assert!(changed(&agent.act(file(dir.path("data/sub"), FileState::Absent, Some(true)))));
    assert!(dir.path("etc").is_dir() && !dir.path("data/sub").is_symlink());
}

#[test]
fn names_that_can_be_guessed_are_not_written_to() {
    if !root() {
        return;
    }
    let (mut agent, dir) = (Agent::start(), scene());
    dir.write("data/myid", "1\n");
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    for second in now..now + 60 {
        symlink("../etc/passwd", dir.path(&format!("data/myid.{second}~"))).unwrap();
    }
    let done = put(&mut agent, Copy { backup: true, ..Copy::default() }.to(dir.path("data/myid")), "2\n");
    unharmed(&dir, "backup");
    let kept = PathBuf::from(done.values["backup_file"].as_str().unwrap());
    assert!(fs::symlink_metadata(&kept).unwrap().is_file());
    assert_eq!((fs::read_to_string(&kept).unwrap().as_str(), dir.read("data/myid").as_str()), ("1\n", "2\n"));

    // Beside a link that is made, what has the name of the old temporary one stays.
    dir.write("etc/link.septet-link", "mine");
    let link = Action::File {
        path: text(dir.path("etc/link")),
        state: FileState::Link,
        src: Some("passwd".into()),
        attributes: Attributes::default(),
        recurse: false,
        follow: None,
    };
    assert!(changed(&agent.act(link)));
    assert_eq!(dir.read("etc/link.septet-link"), "mine");
}

#[test]
fn a_backup_of_a_link_is_a_link_and_a_backup_keeps_its_owner() {
    if !root() {
        return;
    }
    let (mut agent, dir) = (Agent::start(), scene());
    let ask = || Copy { backup: true, ..Copy::default() }.to(dir.path("data/f"));
    symlink("../etc/passwd", dir.path("data/f")).unwrap();
    let kept = PathBuf::from(put(&mut agent, ask(), "1\n").values["backup_file"].as_str().unwrap());
    assert_eq!(fs::read_link(kept).unwrap(), Path::new("../etc/passwd"));
    unharmed(&dir, "backup of a link");
    chown(dir.path("data/f"), Some(SERVICE), Some(SERVICE)).unwrap();
    dir.chmod("data/f", 0o4640);
    let kept = PathBuf::from(put(&mut agent, ask(), "2\n").values["backup_file"].as_str().unwrap());
    let meta = fs::metadata(kept).unwrap();
    assert_eq!((meta.uid(), meta.gid(), meta.mode() & 0o7777), (SERVICE, SERVICE, 0o640));
}

#[test]
fn a_second_name_of_an_outside_file_keeps_its_attributes() {
    if !root() {
        return;
    }
    let (mut agent, dir) = (Agent::start(), scene());
    fs::hard_link(dir.path("etc/passwd"), dir.path("data/f")).unwrap();
    let tree = |recurse| Action::File {
        path: text(dir.path("data")),
        state: FileState::Directory,
        src: None,
        attributes: theirs(0o755),
        recurse,
        follow: None,
    };
    for action in [file(dir.path("data/f"), FileState::File, None), tree(true)] {
        failed(&agent.act(action), "has a second name elsewhere");
        unharmed(&dir, "hard link");
    }
    // Content goes to a new inode.
    assert!(changed(&put(&mut agent, Copy { attributes: theirs(0o644), ..Copy::default() }.to(dir.path("data/f")), "new")));
    unharmed(&dir, "hard link, copy");
    // The service's own second names are its own matter.
    fs::hard_link(dir.path("data/f"), dir.path("data/g")).unwrap();
    dir.chmod("data/f", 0o600);
    assert!(changed(&agent.act(file(dir.path("data/f"), FileState::File, None))));
}

#[test]
fn what_is_not_a_regular_file_is_refused_and_blocks_nothing() {
    if !root() {
        return;
    }
    let (mut agent, dir) = (Agent::start(), scene());
    mknodat(CWD, dir.path("data/fifo"), FileType::Fifo, Mode::from_raw_mode(0o666), 0).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(dir.path("data/socket")).unwrap();
    let started = Instant::now();
    for name in ["fifo", "socket"] {
        let path = || dir.path(&format!("data/{name}"));
        failed(&put(&mut agent, copy(path()), "x"), "not a regular file");
        failed(&agent.check(copy(path())), "not a regular file");
        failed(&agent.act(line(path())), "not a regular file");
        failed(&agent.act(Action::Slurp { path: text(path()) }), "not a regular file");
        failed(
            &agent.act(Copy { content: Content::HostFile(text(path())), ..Copy::default() }.to(dir.path("data/f"))),
            "not a regular file",
        );
        failed(&agent.act(file(path(), FileState::File, None)), "not a regular file");
        let stat = agent.act(Action::Stat { path: text(path()), follow: true, checksum: true, sha256: true });
        assert_eq!((&stat.values["stat"]["exists"], &stat.values["stat"]["isreg"]), (&true.into(), &false.into()));
        assert!(!changed(&put(&mut agent, Copy { keep_existing: true, ..Copy::default() }.to(path()), "x")), "as it is");
    }
    assert!(started.elapsed() < Duration::from_secs(10));
}

/// A hole costs its owner nothing; reading all of it would end the agent.
#[test]
fn a_file_of_a_terabyte_is_replaced_like_any_other() {
    if !root() {
        return;
    }
    let (mut agent, dir) = (Agent::start(), scene());
    let vast = |name: &str| {
        let made = OpenOptions::new().create(true).append(true).open(dir.path(name)).unwrap();
        made.set_len(1 << 40).unwrap();
    };
    vast("data/f");
    vast("data/g");
    let started = Instant::now();
    failed(&agent.act(line(dir.path("data/f"))), "");
    failed(&agent.act(Action::Slurp { path: text(dir.path("data/f")) }), "is over");
    failed(&put(&mut agent, Copy { backup: true, ..Copy::default() }.to(dir.path("data/f")), "x"), "is over");
    failed(&agent.act(Copy { content: Content::HostFile(text(dir.path("data/g"))), ..Copy::default() }.to(dir.path("data/f"))), "is over");
    assert!(changed(&put(&mut agent, copy(dir.path("data/f")), "small")));
    assert_eq!(dir.read("data/f"), "small");
    assert!(started.elapsed() < Duration::from_secs(30));
}

/// The service made the file with the bytes that are to come, and keeps it open.
#[test]
fn a_file_that_changes_owner_cannot_be_changed_by_its_old_one() {
    if !root() {
        return;
    }
    let (mut agent, dir) = (Agent::start(), scene());
    let path = dir.write("data/run.sh", "#!/bin/sh\n");
    chown(&path, Some(SERVICE), Some(SERVICE)).unwrap();
    let kept_open = OpenOptions::new().write(true).open(&path).unwrap();
    let attributes = Attributes { owner: Some("0".into()), group: Some("0".into()), mode: Some(0o755), mode_change: None };
    let action = || Copy { attributes: attributes.clone(), ..Copy::default() }.to(&path);
    let done = put(&mut agent, action(), "#!/bin/sh\n");
    assert!(changed(&done) && done.diff.unwrap().contains("owner 12345 → 0"));
    kept_open.write_all_at(b"evil", 0).unwrap();
    assert_eq!(dir.read("data/run.sh"), "#!/bin/sh\n");
    assert!(!changed(&put(&mut agent, action(), "#!/bin/sh\n")));
}

/// Exchanges two names as fast as it can, until it is dropped.
struct Swapping {
    stop: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<u64>>,
}

impl Swapping {
    fn start(a: PathBuf, b: PathBuf) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = thread::spawn(move || {
            let mut swaps = 0;
            while !stopped.load(Ordering::SeqCst) {
                swaps += u64::from(renameat_with(CWD, &a, CWD, &b, RenameFlags::EXCHANGE).is_ok());
            }
            swaps
        });
        Self { stop, thread: Some(thread) }
    }

    fn stop(mut self) -> u64 {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.take().unwrap().join().unwrap()
    }
}

/// How often root's agent is asked while names are exchanged under it.
const RACES: usize = 400;

#[test]
fn a_directory_that_is_exchanged_for_a_link_meanwhile_leads_nowhere() {
    if !root() {
        return;
    }
    let (mut agent, dir) = (Agent::start(), scene());
    fs::create_dir(dir.path("data/sub")).unwrap();
    chown(dir.path("data/sub"), Some(SERVICE), None).unwrap();
    symlink("../etc", dir.path("data/link")).unwrap();
    let swapping = Swapping::start(dir.path("data/sub"), dir.path("data/link"));
    let (mut done, mut refused) = (0, 0);
    for n in 0..RACES {
        let path = dir.path("data/sub/passwd");
        let action = match n % 5 {
            0 => Copy { attributes: theirs(0o644), backup: n % 2 == 0, ..Copy::default() }.to(path),
            1 => line(path),
            2 => file(path, FileState::Absent, None),
            3 => file(dir.path(&format!("data/sub/{n}/deep")), FileState::Directory, None),
            _ => file(path, FileState::Touch, None),
        };
        match put(&mut agent, action, &n.to_string()).status {
            Status::Failed => refused += 1,
            _ => done += 1,
        }
    }
    let swaps = swapping.stop();
    eprintln!("{swaps} swaps, {done} done, {refused} refused");
    unharmed(&dir, "race");
    assert!(swaps > 100 && done > 0 && refused > 0, "nothing was raced: {swaps} swaps, {done} done, {refused} refused");
}

#[test]
fn a_file_that_is_exchanged_for_a_link_meanwhile_leads_nowhere() {
    if !root() {
        return;
    }
    let (mut agent, dir) = (Agent::start(), scene());
    dir.write("data/f", "x");
    symlink("../etc/passwd", dir.path("data/link")).unwrap();
    let swapping = Swapping::start(dir.path("data/f"), dir.path("data/link"));
    for n in 0..RACES {
        // What is there now, link or file, gets the attributes or is replaced.
        let follow = (n % 3 == 0).then_some(false);
        let action = match n % 2 {
            0 => Copy { attributes: theirs(0o644), ..Copy::default() }.to(dir.path("data/f")),
            _ => file(dir.path("data/f"), FileState::File, follow),
        };
        put(&mut agent, action, if n % 4 == 0 { "root\n" } else { "x" });
        dir.chmod("data", 0o755);
    }
    swapping.stop();
    unharmed(&dir, "race");
}

#[test]
fn attributes_of_a_tree_never_reach_what_is_exchanged_into_it() {
    if !root() {
        return;
    }
    let (mut agent, dir) = (Agent::start(), scene());
    fs::create_dir_all(dir.path("data/tree/d/e")).unwrap();
    dir.write("data/tree/d/passwd", "x");
    symlink("../../etc", dir.path("data/tree/link")).unwrap();
    let swapping = Swapping::start(dir.path("data/tree/d"), dir.path("data/tree/link"));
    for n in 0..RACES as u32 {
        let attributes =
            Attributes { owner: Some((SERVICE + n % 2).to_string()), group: None, mode: Some(0o700 + n % 2), mode_change: None };
        let path = text(dir.path("data/tree"));
        agent.act(Action::File { path, state: FileState::Directory, src: None, attributes, recurse: true, follow: None });
    }
    let swaps = swapping.stop();
    unharmed(&dir, "race");
    assert!(swaps > 100, "{swaps} swaps");
}

#[test]
fn without_a_umask_new_things_are_still_not_for_everybody() {
    let dir = Dir::new();
    let mut agent = Agent::start_as(Command::new("sh").args(["-c", &format!("umask 000; exec {AGENT}")]));
    let plain = |name: &str, state| Action::File {
        path: text(dir.path(name)),
        state,
        src: None,
        attributes: Attributes::default(),
        recurse: false,
        follow: None,
    };
    assert!(changed(&agent.act(plain("a/b", FileState::Directory))));
    assert!(changed(&agent.act(plain("a/f", FileState::Touch))));
    assert!(changed(&put(&mut agent, copy(dir.path("a/g")), "x")));
    assert!(changed(&agent.act(line(dir.path("a/h")).with_no_owner())));
    let modes = ["a", "a/b", "a/f", "a/g", "a/h"].map(|n| dir.mode(n));
    assert_eq!(modes, [0o755, 0o755, 0o644, 0o644, 0o644]);
}

trait NoOwner {
    fn with_no_owner(self) -> Self;
}

impl NoOwner for Action {
    fn with_no_owner(mut self) -> Self {
        if let Action::Lineinfile { attributes, .. } = &mut self {
            *attributes = Attributes::default();
        }
        self
    }
}

/// In check mode: a refusal has to come before anything is looked up.
#[test]
fn an_accounts_name_is_never_an_option_or_a_field() {
    let mut agent = Agent::start();
    let user = |name: &str, group: Option<&str>, groups: &[&str], home: Option<&str>, shell: Option<&str>| Action::User {
        name: name.into(),
        absent: false,
        uid: None,
        group: group.map(str::to_owned),
        groups: Some(groups.iter().map(|g| (*g).to_owned()).collect()),
        append: true,
        home: home.map(str::to_owned),
        create_home: false,
        shell: shell.map(str::to_owned),
        system: false,
        comment: None,
    };
    for bad in ["", "-r", "--root=/x", "a:b", "a,root", "a b", "a\nroot", "a/b", &"x".repeat(300)] {
        let group = Action::Group { name: bad.into(), absent: true, gid: None, system: false };
        failed(&agent.check(group), "is not a group's name");
        failed(&agent.check(user(bad, None, &[], None, None)), "is not a user's name");
        failed(&agent.check(user("u", Some(bad), &[], None, None)), "is not a group's name");
        failed(&agent.check(user("u", None, &["wheel", bad], None, None)), "is not a group's name");
    }
    for bad in ["", "home", "-x", "/a:b", "/a\nb"] {
        failed(&agent.check(user("u", None, &[], Some(bad), None)), "is not a path");
        failed(&agent.check(user("u", None, &[], None, Some(bad))), "is not a path");
    }
    assert!(changed(&agent.check(user("no-such.user_1$", None, &["no-such@group"], Some("/home/x y"), Some("/bin/sh")))));
}

/// A destination's name is no part of the shell's command that validates the new file.
#[test]
fn a_name_with_a_shells_characters_is_one_word_for_the_validation() {
    let (mut agent, dir) = (Agent::start(), Dir::new());
    let odd = dir.path("$(touch evil) '; touch evil");
    fs::create_dir(&odd).unwrap();
    let action = Copy { validate: Some(format!("cd {}; grep -q good %s", text(dir.path("")))), attributes: mode(0o600), ..Copy::default() };
    assert!(changed(&put(&mut agent, action.to(odd.join("f")), "good")));
    assert_eq!(dir.names().len(), 1, "{:?}", dir.names());
    assert_eq!(fs::read_to_string(odd.join("f")).unwrap(), "good");
    assert_eq!(fs::metadata(odd.join("f")).unwrap().permissions().mode() & 0o7777, 0o600);
}
