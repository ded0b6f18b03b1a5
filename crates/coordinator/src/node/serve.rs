//! What this server answers to others.
//!
//! Invariant: Raft sees no message that [`check`] refuses, and no snapshot that does not decode.

use std::io::Cursor;

use openraft::{
    BasicNode, Snapshot, SnapshotMeta, Vote,
    raft::{AppendEntriesResponse, InstallSnapshotRequest, VoteRequest, VoteResponse},
};

use super::{Node, Standing};
use crate::{
    peer::{Ask, Serve, check},
    storage::{Machine, TypeConfig},
};

/// Largest snapshot that is taken, in bytes: what one record can hold.
const MAX_SNAPSHOT_BYTES: u64 = u32::MAX as u64;

/// A snapshot of which a part has arrived.
#[derive(Debug)]
pub(super) struct Incoming {
    from: u64,
    meta: SnapshotMeta<u64, BasicNode>,
    bytes: Vec<u8>,
}

fn encoded<T: serde::Serialize>(answer: Result<T, String>) -> Vec<u8> {
    postcard::to_stdvec(&answer).unwrap_or_default()
}

impl Serve for Node {
    fn lost(&self, server: u64) {
        self.lost(server);
    }

    async fn serve(&self, from: u64, ask: Ask) -> Vec<u8> {
        let vote = self.raft.metrics().borrow().vote;
        let term = vote.leader_id.term;
        let checked = match &ask {
            Ask::Append(rpc) => check::append(from, rpc, &vote, &self.log),
            Ask::Vote(rpc) => check::vote(from, rpc, term),
            Ask::Snapshot(rpc) => check::snapshot(from, rpc, term),
            Ask::Propose(commands) => check::proposal(from, commands),
            Ask::ReadIndex | Ask::Status | Ask::WouldVote(_) => Ok(()),
            Ask::Touch(sessions) => check::sessions(sessions),
        };
        if let Err(e) = checked {
            self.refusals.warn(|| format!("refused a message of server.{from}: {e}"));
            return encoded::<()>(Err(format!("refused: {e}")));
        }
        match ask {
            Ask::Append(rpc) => {
                // When it came, not when it was written: a slow disk here is no silence of the leader.
                if rpc.vote >= vote {
                    self.saw_leader();
                }
                encoded::<AppendEntriesResponse<u64>>(self.raft.append_entries(rpc).await.map_err(|e| e.to_string()))
            }
            Ask::Vote(rpc) => encoded::<VoteResponse<u64>>(self.vote(rpc).await),
            Ask::Status => encoded(Ok(self.status())),
            Ask::WouldVote(candidacy) => encoded(self.would_vote(candidacy).await),
            Ask::Snapshot(rpc) => encoded(self.receive_snapshot(from, rpc).await),
            Ask::Propose(commands) => encoded(self.commit(commands).await),
            Ask::ReadIndex => encoded(self.read_index().await),
            Ask::Touch(sessions) => {
                // Only a leader ever forgets them.
                if self.is_leader() {
                    self.hear(sessions);
                }
                encoded(Ok(()))
            }
        }
    }
}

impl Node {
    async fn vote(&self, rpc: VoteRequest<u64>) -> Result<VoteResponse<u64>, String> {
        if self.standing() != Standing::Full {
            let vote = self.raft.with_raft_state(|s| *s.vote_ref()).await.map_err(|e| e.to_string())?;
            return Ok(VoteResponse::new(vote, self.log.last(), false));
        }
        let answer = self.raft.vote(rpc).await.map_err(|e| e.to_string())?;
        if answer.vote_granted {
            self.saw_leader();
        }
        Ok(answer)
    }

    /// Takes a part of a snapshot; `None` asks for it from its beginning.
    async fn receive_snapshot(&self, from: u64, rpc: InstallSnapshotRequest<TypeConfig>) -> Result<Option<Vote<u64>>, String> {
        let mine = self.raft.with_raft_state(|state| *state.vote_ref()).await.map_err(|e| e.to_string())?;
        if rpc.vote < mine {
            return Ok(Some(mine));
        }
        self.saw_leader();
        let mut incoming = self.incoming.lock().await;
        if rpc.offset == 0 {
            *incoming = Some(Incoming { from, meta: rpc.meta.clone(), bytes: Vec::new() });
        }
        let Some(part) = incoming.as_mut().filter(|i| i.from == from && i.meta == rpc.meta && i.bytes.len() as u64 == rpc.offset) else {
            return Ok(None);
        };
        if rpc.offset + rpc.data.len() as u64 > MAX_SNAPSHOT_BYTES {
            *incoming = None;
            return Err(format!("a snapshot of more than {MAX_SNAPSHOT_BYTES} bytes"));
        }
        part.bytes.extend_from_slice(&rpc.data);
        if !rpc.done {
            return Ok(Some(mine));
        }
        let Some(Incoming { bytes, .. }) = incoming.take() else { return Ok(None) };
        if let Err(e) = Machine::check_snapshot(&bytes, &rpc.meta) {
            self.refusals.warn(|| format!("refused a snapshot of server.{from}: {e}"));
            return Err(e);
        }
        let snapshot = Snapshot { meta: rpc.meta, snapshot: Box::new(Cursor::new(bytes)) };
        let answer = self.raft.install_full_snapshot(rpc.vote, snapshot).await.map_err(|e| e.to_string())?;
        Ok(Some(answer.vote))
    }
}
