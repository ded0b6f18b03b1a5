//! Any request and any answer.

use proptest::{collection::vec, option::of, prelude::*};
use septet_agent_protocol::{
    Action, Attributes, Content, FileState, Insert, ModeChange, Outcome, Request, Response, Status, UnitState, WaitState,
};

fn text() -> BoxedStrategy<String> {
    prop_oneof![vec(any::<char>(), 0..16).prop_map(String::from_iter), "/[a-z/.]{0,20}"].boxed()
}

fn attributes() -> BoxedStrategy<Attributes> {
    let change = of((0..0o10000u32, 0..0o10000u32, 0..0o1000u32)).prop_map(|c| c.map(|(keep, set, set_x)| ModeChange { keep, set, set_x }));
    (of(text()), of(text()), of(0..0o10000u32), change)
        .prop_map(|(owner, group, mode, mode_change)| Attributes { owner, group, mode, mode_change })
        .boxed()
}

fn insert() -> BoxedStrategy<Insert> {
    prop_oneof![Just(Insert::Eof), Just(Insert::Bof), text().prop_map(Insert::After), text().prop_map(Insert::Before)].boxed()
}

fn content() -> BoxedStrategy<Content> {
    prop_oneof![Just(Content::Tail), text().prop_map(Content::Stored), text().prop_map(Content::HostFile)].boxed()
}

fn file_state() -> BoxedStrategy<FileState> {
    prop::sample::select(vec![
        FileState::File,
        FileState::Directory,
        FileState::Absent,
        FileState::Touch,
        FileState::Exists,
        FileState::Any,
        FileState::Link,
    ])
    .boxed()
}

fn unit_state() -> BoxedStrategy<UnitState> {
    prop::sample::select(vec![UnitState::Started, UnitState::Stopped, UnitState::Restarted, UnitState::Reloaded]).boxed()
}

fn files() -> BoxedStrategy<Action> {
    prop_oneof![
        ((text(), content(), attributes(), any::<bool>()), any::<bool>(), of(text()), any::<bool>(), of(text())).prop_map(
            |((path, content, attributes, keep_existing), backup, validate, follow, name_in_directory)| Action::Copy {
                path,
                content,
                attributes,
                keep_existing,
                backup,
                validate,
                follow,
                name_in_directory
            }
        ),
        (text(), file_state(), of(text()), attributes(), any::<bool>(), of(any::<bool>()))
            .prop_map(|(path, state, src, attributes, recurse, follow)| Action::File { path, state, src, attributes, recurse, follow }),
        (text(), of(text()), of(text()), any::<(bool, bool)>(), insert(), any::<bool>(), attributes()).prop_map(
            |(path, line, regexp, (backrefs, absent), insert, create, attributes)| {
                Action::Lineinfile { path, line, regexp, backrefs, absent, insert, create, attributes }
            }
        ),
        (text(), text(), text(), text(), insert(), any::<bool>(), attributes()).prop_map(
            |(path, block, begin, end, insert, create, attributes)| {
                Action::Blockinfile { path, block, begin, end, insert, create, attributes }
            }
        ),
        (text(), any::<bool>(), any::<bool>(), any::<bool>()).prop_map(|(path, follow, checksum, sha256)| Action::Stat {
            path,
            follow,
            checksum,
            sha256
        }),
        text().prop_map(|path| Action::Slurp { path }),
    ]
    .boxed()
}

fn host() -> BoxedStrategy<Action> {
    prop_oneof![
        Just(Action::Facts),
        vec(text(), 0..4).prop_map(|digests| Action::Missing { digests }),
        (text(), any::<u64>(), any::<u64>(), any::<bool>()).prop_map(|(digest, offset, total, private)| Action::PutBlob {
            digest,
            offset,
            total,
            private
        }),
        (
            (text(), any::<bool>(), of(any::<u32>()), of(text()), of(vec(text(), 0..3))),
            (of(text()), any::<bool>(), of(text()), any::<bool>(), any::<bool>(), of(text()))
        )
            .prop_map(|((name, absent, uid, group, groups), (home, create_home, shell, system, append, comment))| {
                Action::User { name, absent, uid, group, groups, append, home, create_home, shell, system, comment }
            }),
        (text(), any::<bool>(), of(any::<u32>()), any::<bool>()).prop_map(|(name, absent, gid, system)| Action::Group {
            name,
            absent,
            gid,
            system
        }),
        text().prop_map(|name| Action::Hostname { name }),
        text().prop_map(|name| Action::Timezone { name }),
        (text(), of(unit_state()), of(any::<bool>()), any::<bool>(), vec(text(), 0..3), of(any::<u64>())).prop_map(
            |(name, state, enabled, daemon_reload, restart_if_newer, timeout_s)| {
                Action::Systemd { name, state, enabled, daemon_reload, restart_if_newer, timeout_s }
            }
        ),
    ]
    .boxed()
}

fn running() -> BoxedStrategy<Action> {
    let command = (
        (vec(text(), 0..4), of(text()), of(text()), of(text()), of(text())),
        (prop::collection::btree_map(text(), text(), 0..3), any::<u64>(), any::<bool>(), any::<bool>()),
    )
        .prop_map(|((argv, chdir, creates, removes, stdin), (environment, timeout_s, check_safe, expand))| Action::Command {
            argv,
            chdir,
            creates,
            removes,
            stdin,
            environment,
            timeout_s,
            check_safe,
            expand,
        });
    let state = prop::sample::select(vec![WaitState::Started, WaitState::Stopped]);
    let wait = (of(text()), of(any::<u16>()), of(text()), state, any::<u64>(), any::<u64>())
        .prop_map(|(host, port, path, state, timeout_s, delay_s)| Action::WaitFor { host, port, path, state, timeout_s, delay_s });
    let unarchive = (text(), text(), text()).prop_map(|(digest, dest, creates)| Action::Unarchive { digest, dest, creates });
    let package = vec(text(), 0..3).prop_map(|names| Action::Package { names });
    prop_oneof![command, wait, unarchive, package, Just(Action::Cancel)].boxed()
}

/// Any request.
pub fn request() -> BoxedStrategy<Request> {
    let action = prop_oneof![3 => files(), 4 => host(), 1 => running()];
    (any::<u64>(), any::<u64>(), any::<bool>(), any::<bool>(), any::<bool>(), action)
        .prop_map(|(id, batch, check, ignore_errors, no_log, action)| Request { id, batch, check, ignore_errors, no_log, action })
        .boxed()
}

fn value() -> BoxedStrategy<serde_json::Value> {
    prop_oneof![
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        any::<u64>().prop_map(Into::into),
        text().prop_map(Into::into),
        vec(text(), 0..3).prop_map(Into::into),
    ]
    .boxed()
}

/// Any answer.
pub fn response() -> BoxedStrategy<Response> {
    let status = prop::sample::select(vec![Status::Ok, Status::Changed, Status::Failed, Status::Skipped, Status::NotRun]);
    (any::<u64>(), status, text(), of(text()), prop::collection::btree_map(text(), value(), 0..4))
        .prop_map(|(id, status, msg, diff, values)| Response { id, outcome: Outcome { status, msg, diff, values } })
        .boxed()
}
