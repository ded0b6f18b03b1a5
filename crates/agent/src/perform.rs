//! From an action to the function that does it.

use septet_agent_protocol::{Action, Outcome, Request, Status};

use crate::{account, archive, command, copy, facts, file, lines, names, package, store, systemd, wait_for};

/// Performs one request. An error becomes [`Status::Failed`] with the error's text.
pub fn perform(request: &Request, tail: &[u8]) -> Outcome {
    let check = request.check;
    let result = match &request.action {
        Action::Facts => facts::gather(),
        Action::Missing { digests } => store::missing(digests),
        Action::PutBlob { digest, offset, total, private } => store::put(digest, *offset, *total, *private, tail),
        Action::Copy { path, content, attributes, keep_existing, backup, validate, follow, name_in_directory } => {
            let (keep_existing, backup, validate, follow) = (*keep_existing, *backup, validate.as_deref(), *follow);
            let name_in_directory = name_in_directory.as_deref();
            let ask = copy::Copy { path, content, attributes, keep_existing, backup, validate, follow, name_in_directory };
            copy::copy(&ask, tail, check)
        }
        Action::File { path, state, src, attributes, recurse, follow } => {
            let (state, src, recurse, follow) = (*state, src.as_deref(), *recurse, *follow);
            file::file(&file::Ask { path, state, src, attributes, recurse, follow }, check)
        }
        Action::Lineinfile { path, line, regexp, backrefs, absent, insert, create, attributes } => lines::lineinfile(
            &lines::Target { path, create: *create, attributes, insert },
            &lines::Line { line: line.as_deref(), regexp: regexp.as_deref(), backrefs: *backrefs, absent: *absent },
            check,
        ),
        Action::Blockinfile { path, block, begin, end, insert, create, attributes } => {
            lines::blockinfile(&lines::Target { path, create: *create, attributes, insert }, block, begin, end, check)
        }
        Action::User { .. } | Action::Group { .. } => account::account(&request.action, check),
        Action::Hostname { name } => names::hostname(name, check),
        Action::Timezone { name } => names::timezone(name, check),
        Action::Systemd { .. } => systemd::systemd(&request.action, check),
        Action::Command { .. } => command::command(&request.action, check),
        Action::WaitFor { .. } => wait_for::wait_for(&request.action, check),
        Action::Stat { path, follow, checksum, sha256 } => file::stat(path, *follow, checksum.then_some(*sha256)),
        Action::Slurp { path } => file::slurp(path),
        Action::Unarchive { digest, dest, creates } => archive::unarchive(digest, dest, creates, check),
        Action::Package { names } => package::package(names, check),
        // It has acted by now: see `main`.
        Action::Cancel => Ok(Outcome::ok()),
    };
    let mut outcome = result.unwrap_or_else(|e| Outcome::failed(e.to_string()));
    if request.no_log {
        outcome.diff = None;
        if outcome.status == Status::Failed {
            outcome.msg = "failed; the reason is hidden because of no_log".into();
        }
    }
    outcome
}
