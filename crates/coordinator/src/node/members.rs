//! The ensemble's servers as they change: the leader makes the steps to what the `zoo.cfg` of a majority asks for, the
//! others tell it what theirs asks for.
//!
//! Invariant: one step at a time, each committed before the next; a server is added only when it answers and began with
//! an empty directory, and gets a vote only when it has caught up.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use super::{Node, Status, consensus::Input, locked};
use crate::{
    config::{Config, Member, members_text},
    peer::Ask,
    protocol::{EventType, event},
    raft::{Change, ChangeError, Membership},
    reconfigure::{self, Target, agreed, moved, steps},
    tree::CONFIG_NODE,
};

/// Between two looks.
const PAUSE: Duration = Duration::from_secs(1);
/// For so long after a server told it, its target counts.
const TOLD: Duration = Duration::from_secs(5);
/// Time for an answer of another server.
const ANSWER: Duration = Duration::from_secs(1);
/// Time for a step to be committed, after which it is looked at anew.
const COMMIT: Duration = Duration::from_secs(10);

/// The servers that this one knows: those of its `zoo.cfg`, those of the membership, those that are about to join.
pub(super) fn known(config: &Config, membership: Option<&Membership>, agreed: Option<&Target>) -> BTreeMap<u64, Member> {
    if config.members.is_empty() {
        return BTreeMap::new();
    }
    let mut all = agreed.map(|t| t.0.clone()).unwrap_or_default();
    all.extend(membership.map(|m| reconfigure::members(m, &config.members)).unwrap_or_default());
    all.extend(config.members.iter().map(|(id, m)| (*id, m.clone())));
    all
}

/// Lines that are logged once, until what they say is no longer so.
#[derive(Default)]
struct Said {
    before: HashSet<String>,
    now: HashSet<String>,
}

impl Said {
    fn is_new(&mut self, line: &str) -> bool {
        self.now.insert(line.to_owned()) && !self.before.contains(line)
    }

    fn warn(&mut self, line: String) {
        if self.is_new(&line) {
            tracing::warn!("{line}");
        }
    }

    fn info(&mut self, line: String) {
        if self.is_new(&line) {
            tracing::info!("{line}");
        }
    }

    fn next_round(&mut self) {
        self.before = std::mem::take(&mut self.now);
    }
}

/// A change for people.
fn shown(change: &Change) -> String {
    match change {
        Change::AddLearner(id, line) => format!("server.{id}={line} joins, without a vote until it has caught up"),
        Change::Promote(id) => format!("server.{id} has caught up and gets a vote"),
        Change::Demote(id) => format!("server.{id} becomes an observer"),
        Change::Remove(id) => format!("server.{id} is removed"),
        Change::SetAddress(id, line) => format!("server.{id} is at {line}"),
    }
}

impl Node {
    /// The ensemble's servers, committed or not; empty on a server that stands alone.
    pub fn members(&self) -> BTreeMap<u64, Member> {
        match (&self.view().membership, self.config.members.is_empty()) {
            (_, true) => BTreeMap::new(),
            (Some(m), false) => reconfigure::members(m, &self.config.members),
            (None, false) => self.config.members.clone(),
        }
    }

    /// Whether this server is an observer, in the membership and in its `zoo.cfg`.
    pub(super) fn observes(&self, membership: &Membership) -> bool {
        membership.learners.contains(&self.config.id) && self.config.is_observer()
    }

    /// Whether this server is an observer.
    pub fn is_observer(&self) -> bool {
        self.view().membership.is_some_and(|m| self.observes(&m))
    }

    /// On the leader: the other servers, and which of them have all but what is on its way; voters and others apart.
    pub fn followers(&self) -> (usize, usize, usize) {
        let view = self.view();
        let synced = |voters: bool| {
            let synced = view.status.followers.iter().filter(|(_, matched)| matched + 50 >= view.applied.index);
            synced.filter(|(id, _)| view.membership.as_ref().is_some_and(|m| m.voters.contains(id)) == voters).count()
        };
        (view.status.followers.len(), synced(true), synced(false))
    }

    /// Notes what the `zoo.cfg` of another server asks for.
    pub(super) fn take_target(&self, from: u64, lines: &BTreeMap<u64, String>) -> Result<(), String> {
        let target = Target::from_lines(from, lines)?;
        locked(&self.targets).insert(from, (Instant::now(), target));
        Ok(())
    }

    /// Keeps what this server knows of the others up to date, and changes the ensemble, or tells the leader to.
    pub(super) async fn keep_members(self: Arc<Self>) {
        if self.config.members.is_empty() {
            return;
        }
        let own = Target(self.config.members.clone());
        let mut said = Said::default();
        let mut view = self.consensus.view.clone();
        loop {
            let now = self.view();
            let mut again = false;
            if let Some(m) = now.membership.as_deref() {
                self.show_members(m);
                let targets = self.targets(&own);
                let target = if now.leads() { agreed(m, &targets) } else { None };
                self.peers.set(&known(&self.config, Some(m), target.as_ref()));
                match target {
                    Some(target) if now.status.leads_own_term => again = self.step(now.status.term, m, &targets, &target, &mut said).await,
                    _ if own.differs(m, self.config.id) => self.ask_for(&own, m, now.status.leader, &mut said).await,
                    _ => {}
                }
            }
            if again {
                continue;
            }
            said.next_round();
            let seen = now.membership;
            let _ = tokio::time::timeout(PAUSE, view.wait_for(|v| v.membership != seen)).await;
            if view.has_changed().is_err() {
                return;
            }
        }
    }

    /// What servers ask for now, this one included.
    fn targets(&self, own: &Target) -> BTreeMap<u64, Target> {
        let mut targets = locked(&self.targets);
        targets.retain(|_, (at, _)| at.elapsed() < TOLD);
        let others = targets.iter().map(|(id, (_, target))| (*id, target.clone()));
        others.chain([(self.config.id, own.clone())]).collect()
    }

    /// Shows clients the membership, and tells those that watch it.
    fn show_members(&self, membership: &Membership) {
        let text = members_text(&reconfigure::members(membership, &self.config.members));
        self.with(|_, l| {
            if l.configuration == text {
                return;
            }
            l.configuration = text;
            for connection in l.watches.fire(EventType::DataChanged, CONFIG_NODE) {
                l.connections.send(connection, event(EventType::DataChanged, CONFIG_NODE));
            }
        });
    }

    /// Tells the leader what this server's `zoo.cfg` asks for; without one everybody, since any may become it.
    async fn ask_for(&self, own: &Target, membership: &Membership, leader: Option<u64>, said: &mut Said) {
        let me = self.config.id;
        if !membership.contains(me) && self.standing() == super::Standing::Full {
            said.warn(format!(
                "server.{me} does not belong to the ensemble of {} (hint: if it was removed, stop it; if it is to join, move version-2 in its \
                 dataDir away, add its line to the zoo.cfg of the other servers and restart them one at a time)",
                reconfigure::shown(membership)
            ));
        } else if !own.is_reached(membership) {
            said.info(format!(
                "{} asks for {}, the ensemble has {}: it changes once a majority of the servers was restarted with these lines",
                self.config.path.display(),
                own.shown(),
                reconfigure::shown(membership)
            ));
        }
        let ask = Ask::Target(own.lines());
        for (_, peer) in self.peers.all().into_iter().filter(|(id, _)| leader.is_none_or(|l| l == *id)) {
            let _ = peer.call::<()>(&ask, ANSWER).await;
        }
    }

    /// On the leader: makes the next step that is possible; whether there was one.
    async fn step(&self, term: u64, membership: &Membership, targets: &BTreeMap<u64, Target>, target: &Target, said: &mut Said) -> bool {
        let me = self.config.id;
        if !target.is_reached(membership) && !target.voters().contains(&me) {
            return self.leave_to(target, membership).await;
        }
        let mut all = steps(membership, target);
        if all.is_empty() && target.is_reached(membership) {
            all = moved(membership, targets);
        }
        for change in all {
            if let Change::AddLearner(id, _) = &change
                && let Err(why) = self.may_join(*id).await
            {
                said.warn(format!("server.{id} is to join the ensemble and {why}"));
                continue;
            }
            match self.consensus.change(term, change.clone()).await {
                Ok(index) => {
                    tracing::info!("the ensemble changes: {}", shown(&change));
                    return self.consensus.wait(COMMIT, |v| v.status.commit >= index || v.status.term != term).await;
                }
                Err(ChangeError::Behind(id)) => tracing::debug!("server.{id} has not caught up yet"),
                Err(ChangeError::Unsafe(id)) => {
                    said.warn(format!(
                        "server.{id} is not removed yet: without it fewer than a majority of the servers would be up (hint: start the others)"
                    ));
                }
                Err(ChangeError::Pending | ChangeError::Propose(_)) => return false,
                Err(e) => said.warn(format!("the ensemble does not change: {e}")),
            }
        }
        false
    }

    /// Hands leadership over to a server that stays.
    async fn leave_to(&self, target: &Target, membership: &Membership) -> bool {
        for to in target.voters().intersection(&membership.voters) {
            let (reply, wait) = tokio::sync::oneshot::channel();
            self.consensus.tell(Input::Transfer(Some(*to), reply));
            if let Ok(Some(to)) = wait.await {
                tracing::info!("this server leads and is to leave: leadership goes to server.{to}");
                self.consensus.wait(super::HAND_OVER, |v| !v.leads()).await;
                return false;
            }
        }
        false
    }

    /// Whether a server may be added: it answers, which it does only if it knows this one, and it began with an empty
    /// directory. What another ensemble wrote there could look like a part of this one's log.
    async fn may_join(&self, id: u64) -> Result<(), String> {
        let silent = || "does not answer (hint: start it, with the same lines server.N)".to_owned();
        let peer = self.peers.get(id).ok_or_else(silent)?;
        match peer.call::<Status>(&Ask::Status, ANSWER).await {
            Ok(status) if status.blank => Ok(()),
            Ok(_) => {
                Err("has data of its own (hint: stop it, move version-2 in its dataDir away and start it: it gets everything from the \
                          ensemble)"
                    .into())
            }
            Err(_) => Err(silent()),
        }
    }
}
