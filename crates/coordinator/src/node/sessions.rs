//! Sessions as time goes by: which were heard of, and which were not for too long.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{Node, locked};
use crate::{peer, state::Ask};

/// When sessions were last heard, in one term: what an earlier one knew must not end a session.
#[derive(Default)]
pub(super) struct Heard {
    pub(super) term: u64,
    pub(super) at: HashMap<i64, Instant>,
}

impl Node {
    /// A client of this session was heard here.
    pub fn touch(&self, session: i64) {
        locked(&self.touched).insert(session, ());
    }

    pub(super) fn hear(&self, sessions: impl IntoIterator<Item = i64>) {
        let now = Instant::now();
        let mut heard = locked(&self.heard);
        for s in sessions {
            heard.at.insert(s, now);
        }
    }

    /// Reports heard sessions to the leader; on the leader, ends those that were not heard in time.
    pub(super) async fn keep_sessions(self: Arc<Self>) {
        let pause = Duration::from_millis((self.config.tick_ms / 4).clamp(50, 500));
        loop {
            tokio::time::sleep(pause).await;
            let sessions: Vec<i64> = std::mem::take(&mut *locked(&self.touched)).into_keys().collect();
            let leader = self.raft.metrics().borrow().current_leader;
            match leader {
                Some(id) if id == self.config.id => {
                    self.hear(sessions);
                    if self.is_serving() {
                        self.expire().await;
                    }
                }
                Some(id) => {
                    if let Some(peer) = self.peers.get(&id).filter(|_| !sessions.is_empty()) {
                        let ask = peer::Ask::Touch(sessions.clone());
                        if peer.call::<()>(&ask, Duration::from_secs(2)).await.is_err() {
                            sessions.into_iter().for_each(|s| self.touch(s));
                        }
                    }
                }
                None => sessions.into_iter().for_each(|s| self.touch(s)),
            }
        }
    }

    async fn expire(&self) {
        let late: Vec<i64> = {
            let term = self.raft.metrics().borrow().current_term;
            let state = locked(&self.state);
            let mut heard = locked(&self.heard);
            let now = Instant::now();
            if heard.term != term {
                *heard = Heard { term, at: HashMap::new() };
            }
            heard.at.retain(|id, _| state.sessions.contains_key(id));
            state
                .sessions
                .iter()
                // A session that this leader never heard of gets its whole time from now on.
                .filter(|(id, s)| {
                    now.duration_since(*heard.at.entry(**id).or_insert(now)) > Duration::from_millis(s.timeout_ms.max(0) as u64)
                })
                .map(|(id, _)| *id)
                .collect()
        };
        for id in late {
            tracing::info!("session 0x{id:x} timed out");
            let _ = self.command(Ask::CloseSession { id }).await.await;
        }
    }
}
