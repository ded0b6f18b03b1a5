//! `lineinfile` and `blockinfile` on real files; the pure edits have their own tests beside them.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::{fs, os::unix::fs::symlink};

use common::{Agent, Dir, changed, failed, mode, text};
use septet_agent_protocol::{Action, Attributes, Insert};

#[derive(Clone, Default)]
struct Line {
    line: Option<&'static str>,
    regexp: Option<&'static str>,
    absent: bool,
    insert: Insert,
    create: bool,
    attributes: Attributes,
}

impl Line {
    fn at(self, dir: &Dir) -> Action {
        Action::Lineinfile {
            path: text(dir.path("f")),
            line: self.line.map(str::to_owned),
            regexp: self.regexp.map(str::to_owned),
            backrefs: false,
            absent: self.absent,
            insert: self.insert,
            create: self.create,
            attributes: self.attributes,
        }
    }
}

fn block(dir: &Dir, block: &str, insert: Insert, create: bool) -> Action {
    Action::Blockinfile {
        path: text(dir.path("f")),
        block: block.to_owned(),
        begin: "# BEGIN".into(),
        end: "# END".into(),
        insert,
        create,
        attributes: Attributes::default(),
    }
}

/// Check mode foresees the change and touches nothing; then the change is made once.
fn converges(agent: &mut Agent, before: Option<&str>, action: impl Fn(&Dir) -> Action, after: Option<&str>) {
    let dir = Dir::new();
    if let Some(content) = before {
        dir.write("f", content);
        dir.chmod("f", 0o640);
    }
    let now = |dir: &Dir| fs::read_to_string(dir.path("f")).ok();
    let foreseen = agent.check(action(&dir));
    assert_eq!(now(&dir).as_deref(), before, "check mode");
    let done = agent.act(action(&dir));
    assert_eq!(now(&dir).as_deref(), after, "{before:?}");
    assert_eq!(changed(&done), before != after, "{before:?} → {after:?}: {done:?}");
    assert_eq!(done.diff.is_some(), changed(&done));
    assert_eq!(done, foreseen, "{before:?} → {after:?}");
    assert!(!changed(&agent.act(action(&dir))), "{before:?} → {after:?} again");
    assert_eq!(now(&dir).as_deref(), after);
    if after.is_some() {
        assert_eq!(dir.mode("f"), if before.is_some() { 0o640 } else { 0o644 });
    }
}

#[test]
fn lineinfile_brings_a_file_to_its_line() {
    let mut agent = Agent::start();
    let present = |line| Line { line: Some(line), ..Line::default() };
    let absent = |line, regexp| Line { line, regexp, absent: true, ..Line::default() };
    // (before, what, after)
    let cases = [
        (Some("a\n"), present("b"), Some("a\nb\n")),
        (Some("a\nb"), present("b"), Some("a\nb")),
        (Some("a"), present("b"), Some("a\nb\n")),
        (Some(""), present("b"), Some("b\n")),
        (Some("x=1\ny=2\n"), Line { regexp: Some("^x="), ..present("x=3") }, Some("x=3\ny=2\n")),
        (Some("y=2\n"), Line { regexp: Some("^x="), ..present("x=3") }, Some("y=2\nx=3\n")),
        (Some("a\nb\n"), Line { insert: Insert::Bof, ..present("c") }, Some("c\na\nb\n")),
        (Some("a\nb\n"), Line { insert: Insert::After("^a".into()), ..present("c") }, Some("a\nc\nb\n")),
        (Some("a\nb\n"), Line { insert: Insert::Before("^none".into()), ..present("c") }, Some("a\nb\nc\n")),
        (None, Line { create: true, ..present("a") }, Some("a\n")),
        (Some("a\nb\na\n"), absent(Some("a"), None), Some("b\n")),
        (Some("a1\nb\na2\n"), absent(None, Some("^a")), Some("b\n")),
        (Some("b\n"), absent(Some("a"), None), Some("b\n")),
        (Some("a\n"), absent(Some("a"), None), Some("")),
        (None, Line { create: true, ..absent(Some("a"), None) }, None),
    ];
    for (before, line, after) in cases {
        converges(&mut agent, before, |dir| line.clone().at(dir), after);
    }
}

#[test]
fn blockinfile_brings_a_file_to_its_block() {
    let mut agent = Agent::start();
    // (before, block, where, create, after)
    let cases = [
        (Some("a\n"), "x\ny", Insert::Eof, false, Some("a\n# BEGIN\nx\ny\n# END\n")),
        (Some("a\n"), "x\n", Insert::Bof, false, Some("# BEGIN\nx\n# END\na\n")),
        (Some("a\nb\n"), "x", Insert::Before("b".into()), false, Some("a\n# BEGIN\nx\n# END\nb\n")),
        (Some("a\n# BEGIN\nold\nolder\n# END\nb\n"), "x", Insert::Eof, false, Some("a\n# BEGIN\nx\n# END\nb\n")),
        (Some("a\n# BEGIN\nx\n# END\nb\n"), "x", Insert::Bof, false, Some("a\n# BEGIN\nx\n# END\nb\n")),
        (Some("a\n# BEGIN\nx\n# END\nb\n"), "", Insert::Eof, false, Some("a\nb\n")),
        (Some("a\n"), "", Insert::Eof, false, Some("a\n")),
        (None, "x", Insert::Eof, true, Some("# BEGIN\nx\n# END\n")),
        (None, "", Insert::Eof, true, None),
    ];
    for (before, words, insert, create, after) in cases {
        converges(&mut agent, before, |dir| block(dir, words, insert.clone(), create), after);
    }
}

#[test]
fn attributes_are_set_with_the_line_and_without_it() {
    let (mut agent, dir) = (Agent::start(), Dir::new());
    dir.write("real", "a\n");
    symlink("real", dir.path("f")).unwrap();
    for (line, bits) in [("b", 0o600), ("b", 0o640)] {
        let action = || Line { line: Some(line), attributes: mode(bits), ..Line::default() }.at(&dir);
        assert!(changed(&agent.check(action())));
        assert_ne!(dir.mode("real"), bits);
        assert!(changed(&agent.act(action())), "{bits:o}");
        assert_eq!((dir.read("real").as_str(), dir.mode("real")), ("a\nb\n", bits));
        assert!(!changed(&agent.act(action())), "{bits:o} again");
    }
    assert!(dir.path("f").is_symlink());
}

#[test]
fn what_cannot_be_edited_is_refused_and_stays() {
    let (mut agent, dir) = (Agent::start(), Dir::new());
    let line = |line| Line { line: Some(line), ..Line::default() };
    failed(&agent.act(line("a").at(&dir)), "does not exist");
    failed(&agent.act(block(&dir, "x", Insert::Eof, false)), "does not exist");
    assert!(dir.names().is_empty());
    let content = "a\n# BEGIN\nx\n";
    dir.write("f", content);
    failed(&agent.act(block(&dir, "y", Insert::Eof, false)), "has no \"# END\"");
    failed(&agent.act(Line { regexp: Some("("), ..line("b") }.at(&dir)), "bad regular expression");
    failed(&agent.act(Line { insert: Insert::After("(".into()), ..line("b") }.at(&dir)), "bad regular expression");
    failed(&agent.act(Line::default().at(&dir)), "needs line");
    failed(&agent.act(Line { absent: true, ..Line::default() }.at(&dir)), "needs line or regexp");
    let stranger = Attributes { owner: Some("no-such-user".into()), ..Attributes::default() };
    let owned = || Line { attributes: stranger.clone(), ..line("b") }.at(&dir);
    failed(&agent.act(owned()), "no user");
    assert_eq!(dir.read("f"), content);
    // In check mode an earlier task would have made the account by then.
    assert!(changed(&agent.check(owned())));
    assert_eq!(dir.read("f"), content);
    dir.write("f", b"\xff\xfe");
    failed(&agent.act(line("b").at(&dir)), "read");
    assert_eq!(fs::read(dir.path("f")).unwrap(), b"\xff\xfe");
}
