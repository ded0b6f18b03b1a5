//! When this server stands for election.
//!
//! Raft's own timer is off. A server first asks the others whether they would vote for it, and stands only if a
//! majority would: one that is cut off, or behind, disturbs nobody and raises no term. The end of the leader's
//! connection is a hint to ask at once; silence waits for the time-out. A server that cannot write does not stand.

use std::{
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use openraft::{LogId, ServerState};
use serde::{Deserialize, Serialize};

use super::{Node, Standing, locked};
use crate::{
    peer::Ask,
    storage::{MAX_TERM, probe},
};

/// For so long after a leader's last message nobody votes for another: openraft's lease.
pub(super) const LEASE: Duration = Duration::from_millis(700);
/// Shortest silence of a leader after which a server asks for votes; up to half as much again.
const SILENCE: Duration = Duration::from_millis(1500);
/// Time for the answers of the others.
const ASK_TIMEOUT: Duration = Duration::from_millis(500);
/// Time for an election.
const ELECTION: Duration = Duration::from_millis(900);

/// What this server knows of the leader.
#[derive(Debug)]
pub(super) struct Seen {
    /// its last message
    at: Instant,
    /// its connection ended since
    gone: bool,
}

impl Default for Seen {
    fn default() -> Self {
        Self { at: Instant::now(), gone: false }
    }
}

/// The question whether another would vote.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Candidacy {
    /// term of the election
    pub term: u64,
    /// the candidate's last entry
    pub last: Option<LogId<u64>>,
}

impl Node {
    /// A message of the leader was accepted, or a vote was given to one who may become it and needs time for that.
    pub(super) fn saw_leader(&self) {
        *locked(&self.seen) = Seen::default();
    }

    /// When the leader was last heard.
    pub(super) fn leader_silent_for(&self) -> Duration {
        locked(&self.seen).at.elapsed()
    }

    /// A connection of another server ended.
    pub(super) fn lost(&self, server: u64) {
        if self.raft.metrics().borrow().current_leader == Some(server) {
            locked(&self.seen).gone = true;
            self.hint.notify_one();
        }
    }

    /// Whether this server would vote for another.
    pub(super) async fn would_vote(&self, candidacy: Candidacy) -> Result<bool, String> {
        if self.standing() != Standing::Full {
            return Ok(false);
        }
        let (state, acknowledged) = {
            let m = self.raft.metrics();
            let m = m.borrow();
            (m.state, m.millis_since_quorum_ack)
        };
        let leads = state == ServerState::Leader && acknowledged.is_some_and(|ms| u128::from(ms) < 2 * LEASE.as_millis());
        if leads || self.leader_silent_for() <= LEASE {
            return Ok(false);
        }
        Ok(candidacy.term > self.term().await? && candidacy.last >= self.log.last())
    }

    async fn term(&self) -> Result<u64, String> {
        self.raft.with_raft_state(|s| s.vote_ref().leader_id.term).await.map_err(|e| e.to_string())
    }

    /// Stands for election whenever that is due, for as long as the server runs.
    pub(super) async fn stand_for_election(self: Arc<Self>) {
        let mut pause = Duration::ZERO;
        loop {
            if self.standing() != Standing::Full {
                let _ = self.standing.subscribe().wait_for(|s| *s == Standing::Full).await;
            }
            self.wait_for_silence(std::mem::take(&mut pause)).await;
            if self.standing() != Standing::Full || self.is_leader() {
                continue;
            }
            match self.ask_for_votes().await {
                Ok(true) => {
                    if self.raft.trigger().elect().await.is_err() {
                        return;
                    }
                    let known = self.raft.wait(Some(ELECTION)).metrics(|m| m.current_leader.is_some(), "election").await;
                    pause = if known.is_ok() { Duration::ZERO } else { random(200..800) };
                }
                Ok(false) => pause = random(50..150),
                Err(e) => {
                    tracing::error!("this server does not stand for election: {e}");
                    pause = Duration::from_secs(1);
                }
            }
        }
    }

    /// Returns once the leader, if there is one, was silent for too long, and not before this time has passed.
    async fn wait_for_silence(&self, at_least: Duration) {
        tokio::time::sleep(at_least).await;
        let silence = SILENCE + random(0..SILENCE.as_millis() as u64 / 2);
        let hinted = LEASE + random(10..60);
        loop {
            let (elapsed, wanted) = {
                let seen = locked(&self.seen);
                (seen.at.elapsed(), if seen.gone { hinted } else { silence })
            };
            if self.is_leader() {
                self.saw_leader();
            } else if self.peers.is_empty() || elapsed >= wanted {
                return;
            }
            let left = wanted.saturating_sub(elapsed).max(Duration::from_millis(20));
            tokio::select! {
                () = tokio::time::sleep(left) => {}
                () = self.hint.notified() => {}
            }
        }
    }

    /// Whether a majority would vote for this server; an error if it could not write what a leader must write.
    async fn ask_for_votes(&self) -> io::Result<bool> {
        if !self.raft.is_initialized().await.map_err(io::Error::other)? {
            return Ok(false);
        }
        let term = self.term().await.map_err(io::Error::other)?;
        if term >= MAX_TERM {
            return Err(io::Error::other(format!("term {term} is the last that there is")));
        }
        let candidacy = Candidacy { term: term + 1, last: self.log.last() };
        let asked: Vec<_> = self
            .peers
            .values()
            .cloned()
            .map(|peer| tokio::spawn(async move { peer.call::<bool>(&Ask::WouldVote(candidacy), ASK_TIMEOUT).await }))
            .collect();
        let voters = self.peers.len() + 1;
        let needed = voters / 2 + 1;
        let mut votes = 1;
        for answer in asked {
            votes += usize::from(matches!(answer.await, Ok(Ok(true))));
            if votes >= needed {
                break;
            }
        }
        if votes < needed {
            return Ok(false);
        }
        let dir = self.directory();
        tokio::task::spawn_blocking(move || probe(&dir)).await.map_err(io::Error::other)??;
        // Another may have been faster: it is not to be disturbed.
        Ok(self.term().await.map_err(io::Error::other)? == term && self.leader_silent_for() > LEASE)
    }
}

fn random(milliseconds: std::ops::Range<u64>) -> Duration {
    Duration::from_millis(rand::random_range(milliseconds))
}
