//! What a message of another server may say, before Raft sees it.
//!
//! Invariant: no message that passes can make Raft panic or store a term or an index that no election and no log
//! could have reached. A server with the ensemble's secret is trusted to obey Raft beyond that.

use openraft::{
    EntryPayload, LogId, Vote,
    raft::{AppendEntriesRequest, AppendEntriesResponse, InstallSnapshotRequest, VoteRequest, VoteResponse},
};

use crate::{
    protocol::{MAX_PATH_BYTES, Op},
    state::{Ask, Command},
    storage::{LogStore, MAX_TERM, TypeConfig, plausible},
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

fn own(from: u64, vote: &Vote<u64>) -> Checked {
    if vote.leader_id.node_id != from {
        return Err(format!("server.{from} speaks for server.{}", vote.leader_id.node_id));
    }
    Ok(())
}

fn leader(from: u64, vote: &Vote<u64>, stored: u64) -> Checked {
    own(from, vote)?;
    term(vote.leader_id.term, stored)?;
    if vote.committed { Ok(()) } else { Err("the leader was not elected".into()) }
}

/// A log id that a server with this vote can have.
fn log_id(id: &LogId<u64>, vote: &Vote<u64>) -> Checked {
    plausible(id)?;
    if id.leader_id.term > vote.leader_id.term {
        return Err(format!("entry {} is of term {}, behind term {}", id.index, id.leader_id.term, vote.leader_id.term));
    }
    Ok(())
}

/// A request for a vote.
pub fn vote(from: u64, rpc: &VoteRequest<u64>, stored: u64) -> Checked {
    own(from, &rpc.vote)?;
    term(rpc.vote.leader_id.term, stored)?;
    if rpc.vote.committed {
        return Err("a candidate that was elected already".into());
    }
    rpc.last_log_id.as_ref().map_or(Ok(()), |id| log_id(id, &rpc.vote))
}

/// Entries and heartbeats, for a server with this vote.
pub fn append(from: u64, rpc: &AppendEntriesRequest<TypeConfig>, mine: &Vote<u64>, log: &LogStore) -> Checked {
    leader(from, &rpc.vote, mine.leader_id.term)?;
    for id in rpc.prev_log_id.iter().chain(&rpc.leader_commit) {
        log_id(id, &rpc.vote)?;
    }
    let mut before = rpc.prev_log_id;
    for entry in &rpc.entries {
        let id = entry.log_id;
        log_id(&id, &rpc.vote)?;
        if id.index != before.map_or(0, |b| b.index + 1) || before.is_some_and(|b| b.leader_id > id.leader_id) {
            return Err(format!("entry {id} does not follow {before:?}"));
        }
        if let EntryPayload::Normal(batch) = &entry.payload {
            commands(&batch.0)?;
        }
        before = Some(id);
    }
    let all = rpc.prev_log_id.iter().chain(rpc.entries.iter().map(|e| &e.log_id));
    match log.contradicted(all) {
        // A leader that others have replaced has such entries: it learns of its successor from the answer.
        Some(_) if rpc.vote < *mine => Ok(()),
        Some(id) => Err(format!("entry {id} is not the one that was committed there")),
        None => Ok(()),
    }
}

/// A part of a snapshot.
pub fn snapshot(from: u64, rpc: &InstallSnapshotRequest<TypeConfig>, stored: u64) -> Checked {
    leader(from, &rpc.vote, stored)?;
    rpc.meta.last_log_id.as_ref().map_or(Ok(()), |id| log_id(id, &rpc.vote))
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

/// An answer to a request for a vote that was sent with this vote.
pub fn vote_answer(answer: &VoteResponse<u64>, sent: &Vote<u64>) -> Checked {
    term(answer.vote.leader_id.term, sent.leader_id.term)?;
    answer.last_log_id.as_ref().map_or(Ok(()), plausible)
}

/// An answer to entries that were sent with this vote.
pub fn append_answer(answer: &AppendEntriesResponse<u64>, sent: &Vote<u64>) -> Checked {
    match answer {
        AppendEntriesResponse::Success | AppendEntriesResponse::Conflict => Ok(()),
        // Not an answer that any version gives.
        AppendEntriesResponse::PartialSuccess(_) => Err("a part of the entries was taken".into()),
        AppendEntriesResponse::HigherVote(higher) => higher_vote(higher, sent),
    }
}

/// A vote that another server has, which is higher than the one it was sent.
pub fn higher_vote(higher: &Vote<u64>, sent: &Vote<u64>) -> Checked {
    if higher.leader_id.node_id == sent.leader_id.node_id && higher.committed && higher > sent {
        return Err("a leadership of this server's that it does not know of".into());
    }
    term(higher.leader_id.term, sent.leader_id.term)
}
