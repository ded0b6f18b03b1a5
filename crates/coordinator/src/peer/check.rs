//! What a message of another server may say, before Raft sees it.
//!
//! Invariant: no message that passes can make Raft panic or store a term or an index that no election and no log
//! could have reached. A server with the ensemble's secret is trusted to obey Raft beyond that.

use super::SnapshotPart;
use crate::{
    config::MAX_LINE_BYTES,
    protocol::{MAX_PATH_BYTES, Op},
    raft::{Body, EntryId, Membership, Message, Payload},
    state::{Ask, Command},
    storage::{LogStore, MAX_INDEX, MAX_TERM, decode_commands, plausible},
};

/// How far a term may be beyond the one that is stored here. A server that is cut off tries an election about each
/// second: this is 12 days of them.
pub const MAX_TERM_LEAP: u64 = 1 << 20;
/// Commands of one proposal.
const MAX_COMMANDS: usize = 10_000;
/// Sessions of one report.
const MAX_SESSIONS: usize = 1_000_000;

type Checked = Result<(), String>;

fn term(term: u64, stored: u64) -> Checked {
    if term > MAX_TERM || term > stored.saturating_add(MAX_TERM_LEAP) {
        return Err(format!("term {term} is far beyond {stored}, the term stored here"));
    }
    Ok(())
}

/// An entry's id that a server in this term can have.
fn entry_id(id: &EntryId, of: u64) -> Checked {
    plausible(id)?;
    if id.term > of {
        return Err(format!("entry {} is of term {}, behind term {of}", id.index, id.term));
    }
    Ok(())
}

fn index(index: u64) -> Checked {
    if index > MAX_INDEX { Err(format!("index {index} is beyond what an ensemble reaches")) } else { Ok(()) }
}

/// A message of Raft of another server, for one in this term and with this log.
pub fn message(from: u64, message: &Message, stored: u64, log: &LogStore) -> Checked {
    let of = message.term;
    term(of, stored)?;
    match &message.body {
        Body::PreVote { last } | Body::Vote { last, .. } => entry_id(last, of),
        Body::PreVoteAnswer { .. } | Body::VoteAnswer { .. } | Body::TimeoutNow | Body::Blank => Ok(()),
        Body::AppendAck { matched, .. } => index(*matched),
        Body::AppendRefused { at, hint, .. } => index(*at).and_then(|()| plausible(hint)),
        Body::Append { prev, commit, entries, .. } => {
            index(*commit)?;
            let mut before = *prev;
            entry_id(prev, of)?;
            for entry in entries {
                let id = entry.id;
                entry_id(&id, of)?;
                if id.index != before.index + 1 || before.origin() > id.origin() {
                    return Err(format!("entry {id} does not follow {before}"));
                }
                if id.term == of && id.leader != from {
                    return Err(format!("server.{from} speaks for server.{}", id.leader));
                }
                match &entry.payload {
                    Payload::Commands(data) => commands(&decode_commands(data)?)?,
                    Payload::Membership(m) => membership(m)?,
                    _ => {}
                }
                before = id;
            }
            match log.contradicted(std::iter::once(prev).chain(entries.iter().map(|e| &e.id))) {
                // A leader that others have replaced has such entries: it learns of its successor from the answer.
                Some(_) if of < stored => Ok(()),
                Some(id) => Err(format!("entry {id} is not the one that was committed there")),
                None => Ok(()),
            }
        }
    }
}

/// A membership that an ensemble can have.
fn membership(m: &Membership) -> Checked {
    if m.voters.is_empty() || !m.voters.is_disjoint(&m.learners) {
        return Err("a membership without a vote, or with a server in two roles".into());
    }
    let ids = m.voters.iter().chain(&m.learners).chain(m.addresses.keys());
    match ids.into_iter().find(|id| !(1..=255).contains(*id)) {
        Some(id) => Err(format!("a membership with server.{id}")),
        None if m.addresses.values().any(|a| a.len() > MAX_LINE_BYTES) => Err("a membership with an address that is too long".into()),
        None => Ok(()),
    }
}

/// A part of a snapshot.
pub fn snapshot(part: &SnapshotPart, stored: u64) -> Checked {
    term(part.term, stored)?;
    entry_id(&part.last, part.term)
}

/// Commands that clients of another server asked for.
pub fn proposal(from: u64, all: &[Command]) -> Checked {
    if all.len() > MAX_COMMANDS {
        return Err(format!("{} commands at once", all.len()));
    }
    if let Some(other) = all.iter().find(|c| c.origin.server != from) {
        return Err(format!("server.{from} speaks for server.{}", other.origin.server));
    }
    if all.iter().any(|c| matches!(c.ask, Ask::Expire { .. })) {
        return Err("only a leader ends sessions".into());
    }
    if all.iter().any(|c| matches!(c.ask, Ask::Collect { .. })) {
        return Err("only a leader removes containers".into());
    }
    if all.iter().any(|c| matches!(c.ask, Ask::OldWrite { .. })) {
        return Err("a change as an earlier version wrote it".into());
    }
    commands(all)
}

/// The tree checks paths itself; what it does not know is how much a client may leave in it.
fn commands(all: &[Command]) -> Checked {
    let created = all.iter().filter_map(|c| if let Ask::Write { write, .. } = &c.ask { Some(write.ops()) } else { None }).flatten();
    for op in created {
        if let Op::Create(create) = op
            && create.path.len() > MAX_PATH_BYTES
        {
            return Err(format!("a path of {} bytes", create.path.len()));
        }
    }
    Ok(())
}

/// A report of sessions.
pub fn sessions(all: &[i64]) -> Checked {
    if all.len() > MAX_SESSIONS { Err(format!("{} sessions at once", all.len())) } else { Ok(()) }
}
