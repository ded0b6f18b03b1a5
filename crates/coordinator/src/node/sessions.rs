//! Sessions as time goes by: which were heard of, and which were not for too long.
//!
//! Invariant: only the leader ends a session for its silence, in an entry that names its term and that it appends
//! itself. What it hears, decides and appends is in one order ([`Node::append`]): a session that was heard of before
//! its end was decided is not ended, and what comes behind that end finds no session.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::{Duration, Instant},
};

use super::{Node, locked};
use crate::{peer, state::Ask};

/// A pause of this process that is longer than this was silence of its own, not of clients.
const MAX_OWN_PAUSE: Duration = Duration::from_millis(1000);

/// When sessions were last heard, in one term: what an earlier one knew must not end a session.
#[derive(Default)]
pub(super) struct Heard {
    term: u64,
    at: HashMap<i64, Instant>,
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

    /// Forgets when sessions were heard: each gets its whole time from now on.
    pub(super) fn forget_silence(&self) {
        locked(&self.heard).at.clear();
    }

    /// Does not count so much of the silence: nobody could be heard.
    fn forgive(&self, late: Duration) {
        let now = Instant::now();
        locked(&self.heard).at.values_mut().for_each(|at| *at = (*at + late).min(now));
    }

    /// On the leader, when sessions end unless they are heard: milliseconds from now, rounded up to a tick.
    pub fn session_expiry(&self) -> Option<BTreeMap<i64, Vec<i64>>> {
        if !self.is_leader() {
            return None;
        }
        let state = locked(&self.state);
        let heard = locked(&self.heard);
        let tick = self.config.tick_ms.max(1) as i64;
        let mut out: BTreeMap<i64, Vec<i64>> = BTreeMap::new();
        for (id, session) in &state.sessions {
            let silent = heard.at.get(id).map_or(0, |at| at.elapsed().as_millis() as i64);
            let left = (i64::from(session.timeout_ms) - silent).max(0);
            out.entry((left / tick + 1) * tick).or_default().push(*id);
        }
        Some(out)
    }

    /// Reports heard sessions to the leader; on the leader, ends those that were not heard in time.
    pub(super) async fn keep_sessions(self: Arc<Self>) {
        let pause = Duration::from_millis((self.config.tick_ms / 4).clamp(50, 500));
        let mut before = Instant::now();
        loop {
            tokio::time::sleep(pause).await;
            // A process that was stopped, or a machine that was suspended, heard nobody, whoever spoke.
            let late = before.elapsed().saturating_sub(pause);
            if late > MAX_OWN_PAUSE {
                self.forgive(late);
            }
            before = Instant::now();
            let sessions: Vec<i64> = std::mem::take(&mut *locked(&self.touched)).into_keys().collect();
            let leader = self.leader_id();
            match leader {
                Some(id) if id == self.config.id => {
                    self.hear(sessions);
                    if self.is_serving() {
                        self.expire().await;
                        // Waiting for a majority is no pause of this process.
                        before = Instant::now();
                    }
                }
                Some(id) => {
                    if let Some(peer) = self.peers.get(id).filter(|_| !sessions.is_empty()) {
                        let ask = peer::Ask::Touch(sessions.clone());
                        if peer.call::<()>(&ask, Duration::from_secs(2)).await.is_err() {
                            sessions.into_iter().for_each(|s| self.touch(s));
                        }
                        // Waiting for a peer is no pause of this process.
                        before = Instant::now();
                    }
                }
                None => sessions.into_iter().for_each(|s| self.touch(s)),
            }
        }
    }

    async fn expire(&self) {
        let order = self.order.lock().await;
        let (ids, term) = {
            let term = self.view().status.term;
            let state = locked(&self.state);
            let mut heard = locked(&self.heard);
            let now = Instant::now();
            if heard.term != term {
                *heard = Heard { term, at: HashMap::new() };
            }
            heard.at.retain(|id, _| state.sessions.contains_key(id));
            let late = state.sessions.iter().filter(|(id, s)| {
                // A session that this leader never heard of gets its whole time from now on.
                now.duration_since(*heard.at.entry(**id).or_insert(now)) > Duration::from_millis(s.timeout_ms.max(0) as u64)
            });
            (late.map(|(id, _)| *id).collect::<Vec<_>>(), term)
        };
        if ids.is_empty() {
            return;
        }
        let named: Vec<String> = ids.iter().take(10).map(|id| format!("0x{id:x}")).collect();
        let more = ids.len() - named.len();
        tracing::info!("sessions timed out: {}{}", named.join(", "), if more > 0 { format!(" and {more} more") } else { String::new() });
        let command = self.own_command(Ask::Expire { ids, term });
        if let Err(e) = self.append(order, term, vec![command]).await {
            tracing::warn!("the end of sessions is not known to be committed: {e}");
        }
    }
}
