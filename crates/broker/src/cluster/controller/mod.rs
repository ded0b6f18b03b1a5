//! The controller: reads the znodes, decides by [`Cluster`], writes states, and tells the brokers.
//!
//! Invariant: a state is written only together with a check of `/controller_epoch`, so that a controller that was replaced cannot
//! write any more; brokers are told what was written, never what is about to be.

mod channel;
mod load;
mod requests;
mod write;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use kafka_protocol::ResponseError;
use septet_zookeeper as zk;
use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};

use super::{
    BrokerInfo, deletion, path,
    session::{PERSISTENT, SessionError, ignore_exists, now_ms},
    watched::Watched,
};
use crate::{
    broker::Broker,
    core::{
        controller::{Change, Cluster, Name, Stored},
        partition::Proposal,
    },
};
use channel::Channel;

/// Events that wait for the controller.
const EVENTS: usize = 1024;
/// Events that are handled before states are written.
const TOGETHER: usize = 512;
/// Pause before work that failed is tried again.
const TRY_AGAIN: Duration = Duration::from_millis(300);

/// What an election is held for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Election {
    /// The first replica is to lead.
    Preferred,
    /// Any replica may lead if no in-sync one can.
    Unclean,
}

/// Answers to what was asked for partitions.
pub type Results<T> = Vec<(Name, Result<T, ResponseError>)>;

/// A reassignment that goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Reassignment {
    pub replicas: Vec<i32>,
    pub adding: Vec<i32>,
    pub removing: Vec<i32>,
}

/// What the controller is asked or told.
#[derive(Debug)]
pub enum Event {
    /// Leaders propose ISR changes.
    Proposals {
        /// The leader.
        from: i32,
        /// Its registration.
        epoch: i64,
        /// Proposals of its partitions.
        proposals: Vec<(Name, Proposal)>,
        /// The states as they are then.
        reply: oneshot::Sender<Result<Results<Stored>, ResponseError>>,
    },
    /// A broker is about to stop.
    Shutdown {
        /// Which.
        id: i32,
        /// Its registration, -1 if it does not say.
        epoch: i64,
        /// What it still leads.
        reply: oneshot::Sender<Result<Vec<Name>, ResponseError>>,
    },
    /// Nothing listens where a broker is registered.
    Gone {
        /// Which.
        id: i32,
        /// Its registration.
        epoch: i64,
    },
    /// A broker has answered LeaderAndIsr.
    Assigned {
        /// Which.
        id: i32,
        /// Its registration.
        epoch: i64,
        /// Partitions with their codes.
        codes: Vec<(Name, i16)>,
    },
    /// A broker has deleted replicas.
    Deleted {
        /// Which.
        id: i32,
        /// Partitions.
        names: Vec<Name>,
    },
    /// An election is asked for.
    Elect {
        /// Of which kind.
        kind: Election,
        /// Partitions; all without a list.
        names: Option<Vec<Name>>,
        /// `ELECTION_NOT_NEEDED` and the like.
        reply: oneshot::Sender<Results<()>>,
    },
    /// Reassignments are asked for, or taken back.
    Reassign {
        /// Partitions with their targets.
        targets: Vec<(Name, Option<Vec<i32>>)>,
        /// Whether they have begun.
        reply: oneshot::Sender<Results<()>>,
    },
    /// A topic's znode was changed by this broker.
    Touched(String),
    /// Reassignments that go on.
    ListReassignments(oneshot::Sender<BTreeMap<Name, Reassignment>>),
}

/// Where events are sent.
pub type Events = mpsc::Sender<Event>;

/// Asks, and waits for the answer; `NOT_CONTROLLER` if this broker is not the controller any more.
pub async fn ask<T>(events: &Events, make: impl FnOnce(oneshot::Sender<T>) -> Event) -> Result<T, ResponseError> {
    let (send, receive) = oneshot::channel();
    events.send(make(send)).await.map_err(|_| ResponseError::NotController)?;
    receive.await.map_err(|_| ResponseError::NotController)
}

/// A controller's term.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Term {
    /// Value of `/controller_epoch`.
    pub epoch: i32,
    /// Version of that znode, which fences.
    pub version: i32,
}

impl Term {
    /// Tries to become the controller. `None` if another one is.
    pub async fn elect(client: &zk::Client, id: i32) -> Result<Option<Self>, zk::Error> {
        let data = serde_json::json!({ "version": 2, "brokerid": id, "timestamp": now_ms(), "kraftControllerEpoch": -1 }).to_string();
        let ephemeral = zk::CreateMode::Ephemeral.with_acls(zk::Acls::anyone_all());
        ignore_exists(client.create(path::CONTROLLER_EPOCH, b"0", &PERSISTENT).await)?;
        let (old, stat) = client.get_data(path::CONTROLLER_EPOCH).await?;
        let epoch = epoch_of(&old)?.saturating_add(1);
        let mut multi = client.new_multi_writer();
        multi.add_create(path::CONTROLLER, data.as_bytes(), &ephemeral)?;
        multi.add_set_data(path::CONTROLLER_EPOCH, epoch.to_string().as_bytes(), Some(stat.version))?;
        match multi.commit().await {
            Ok(_) => Ok(Some(Self { epoch, version: stat.version + 1 })),
            Err(zk::MultiWriteError::OperationFailed { source: zk::Error::NodeExists | zk::Error::BadVersion, .. }) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    /// The term of a session that owns `/controller`: both znodes were written by one request. `None` if it owns it no longer when the
    /// epoch has been read, which may be another controller's by then.
    pub async fn adopt(client: &zk::Client) -> Result<Option<Self>, zk::Error> {
        let (data, stat) = client.get_data(path::CONTROLLER_EPOCH).await?;
        let owner = client.check_stat(path::CONTROLLER).await?.map(|s| s.ephemeral_owner);
        if owner != Some(client.session_id().0) {
            return Ok(None);
        }
        Ok(Some(Self { epoch: epoch_of(&data)?, version: stat.version }))
    }
}

/// An epoch that nobody can read is not taken for the first: brokers that have heard of later ones would refuse what is decided.
fn epoch_of(data: &[u8]) -> Result<i32, zk::Error> {
    let text = String::from_utf8_lossy(data);
    text.trim().parse().map_err(|_| zk::Error::BadArguments("what /controller_epoch holds is no number"))
}

/// Why a controller ends.
#[derive(Debug, thiserror::Error)]
pub enum ControllerError {
    /// The coordinator.
    #[error("coordinator: {0}")]
    Coordinator(#[from] zk::Error),
    /// Another controller was elected.
    #[error("another controller has taken over")]
    Superseded,
}

/// The controller for one term.
pub struct Controller {
    broker: Arc<Broker>,
    client: zk::Client,
    term: Term,
    cluster: Cluster<BrokerInfo>,
    channels: BTreeMap<i32, Channel>,
    events: mpsc::WeakSender<Event>,
    /// topics that are being deleted, with the replicas that are gone
    deleting: BTreeMap<String, BTreeSet<(i32, Name)>>,
    /// topics that allow unclean elections, as far as it was asked
    unclean: BTreeMap<String, bool>,
    /// topics whose znodes have `partitions`
    with_partitions: BTreeSet<String>,
    ids: Watched,
    /// data of registrations, by broker
    registrations: BTreeMap<i32, Watched>,
    topics: Watched,
    wishes: Watched,
    log_dirs: Watched,
    touched: BTreeSet<String>,
    /// brokers that have not been told everything
    untold: BTreeSet<i32>,
    /// the living brokers have changed, and nobody was told
    brokers_changed: bool,
    /// brokers have died, and the states do not all say so
    died: bool,
    /// transactions that states were written by, while `fresh`
    decided: BTreeMap<Name, i64>,
    /// everything is read and told anew
    fresh: bool,
}

/// Runs a term. Ends when the term does, with the error that says so.
pub async fn run(broker: Arc<Broker>, client: zk::Client, term: Term) -> ControllerError {
    tracing::info!("this broker is the controller, epoch {}", term.epoch);
    let (events, mut receive) = mpsc::channel(EVENTS);
    let mut this = Controller {
        client: client.clone(),
        term,
        cluster: Cluster::default(),
        channels: BTreeMap::new(),
        events: events.downgrade(),
        deleting: BTreeMap::new(),
        unclean: BTreeMap::new(),
        with_partitions: BTreeSet::new(),
        ids: Watched::default(),
        registrations: BTreeMap::new(),
        topics: Watched::default(),
        wishes: Watched::default(),
        log_dirs: Watched::default(),
        touched: BTreeSet::new(),
        untold: BTreeSet::new(),
        brokers_changed: false,
        died: false,
        decided: BTreeMap::new(),
        fresh: true,
        broker: broker.clone(),
    };
    broker.controller.send_replace(Some(events));
    let error = this.work(&mut receive).await;
    broker.controller.send_replace(None);
    error
}

/// Ends when one of several watches fires.
async fn any(watches: &mut BTreeMap<i32, Watched>) {
    if watches.is_empty() {
        return std::future::pending().await;
    }
    futures_util::future::select_all(watches.values_mut().map(|w| Box::pin(w.wait()))).await;
}

impl Controller {
    async fn work(&mut self, receive: &mut mpsc::Receiver<Event>) -> ControllerError {
        let mut state = self.client.state_watcher();
        let check = self.broker.config.imbalance_check;
        let mut rebalance = tokio::time::interval_at(Instant::now() + check, check);
        rebalance.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut events = Vec::new();
        loop {
            match self.round(std::mem::take(&mut events)).await {
                Ok(()) => {}
                Err(ControllerError::Coordinator(e)) if !state.peek_state().is_terminated() => {
                    tracing::warn!("controller: {e}; trying again");
                    self.read_again();
                    tokio::time::sleep(TRY_AGAIN).await;
                    continue;
                }
                Err(e) => return e,
            }
            tokio::select! {
                () = self.ids.wait() => {}
                () = any(&mut self.registrations) => {}
                () = self.topics.wait() => {}
                () = self.wishes.wait() => {}
                () = self.log_dirs.wait() => {}
                n = receive.recv_many(&mut events, TOGETHER) => if n == 0 { return ControllerError::Superseded },
                _ = rebalance.tick() => if self.broker.config.auto_rebalance {
                    let changes = self.cluster.rebalance(self.broker.config.imbalance_percentage);
                    if let Err(ControllerError::Superseded) = self.write_and_tell(changes).await {
                        return ControllerError::Superseded;
                    }
                },
                next = state.changed() => {
                    if next.is_terminated() {
                        return ControllerError::Superseded;
                    }
                    // Watches may have been lost with the connection.
                    self.read_again();
                }
            }
        }
    }

    fn read_again(&mut self) {
        self.registrations.clear();
        for w in [&mut self.ids, &mut self.topics, &mut self.wishes, &mut self.log_dirs] {
            w.forget();
        }
    }

    /// Reads what has changed, handles events, writes states and tells of them.
    async fn round(&mut self, events: Vec<Event>) -> Result<(), ControllerError> {
        let replies = self.handle(events).await;
        if let Err(ControllerError::Superseded) = replies {
            return replies;
        }
        if self.wishes.fired() {
            let (list, watch) = self.client.list_and_watch_children(path::DELETE_TOPICS).await?;
            self.wishes.list = list;
            self.wishes.arm(watch);
        }
        self.read_topics().await?;
        self.read_brokers().await?;
        self.read_log_dirs().await?;
        self.repair().await?;
        self.finish_reassignments().await?;
        self.go_on_deleting().await?;
        self.fresh = false;
        drop(replies);
        Ok(())
    }

    /// Gives every partition the state that it should have.
    async fn repair(&mut self) -> Result<(), ControllerError> {
        for topic in self.cluster.leaderless() {
            if !self.unclean.contains_key(&topic) {
                let allowed = match self.broker.topic_configs.read(&self.broker, &[&topic]).await {
                    Ok(()) => self.broker.topic_configs.settings(&self.broker, &topic).unclean_elections,
                    Err(e) => {
                        tracing::warn!("{e}; it gets no unclean leader");
                        false
                    }
                };
                self.unclean.insert(topic, allowed);
            }
        }
        let changes = self.cluster.repairs(&|topic| self.unclean.get(topic).copied().unwrap_or(false));
        self.unclean.clear();
        self.write_and_tell(changes).await
    }

    async fn write_and_tell(&mut self, changes: Vec<Change>) -> Result<(), ControllerError> {
        if changes.is_empty() {
            return Ok(());
        }
        let (elections, unclean) = self.elections(&changes);
        let begun = Instant::now();
        let names: Vec<Name> = changes.iter().map(|c| c.name.clone()).collect();
        let fresh: BTreeSet<Name> = changes.iter().filter(|c| c.replaces.is_none()).map(|c| c.name.clone()).collect();
        self.write(changes).await?;
        let metrics = &self.broker.storage.shared.replication;
        if elections {
            metrics.elections.observe(begun.elapsed().as_secs_f64() * 1000.0);
        }
        metrics.unclean_elections.add(unclean);
        self.tell(&names, &fresh, true);
        Ok(())
    }

    /// Whether changes elect leaders, and how many from outside of the ISR.
    fn elections(&self, changes: &[Change]) -> (bool, u64) {
        let mut unclean = 0;
        let mut any = false;
        for change in changes.iter().filter(|c| c.state.leader >= 0) {
            let Some(before) = self.cluster.partition(&change.name).and_then(|p| p.stored.as_ref()) else { continue };
            any |= before.state.leader != change.state.leader;
            unclean += u64::from(!before.state.isr.contains(&change.state.leader));
        }
        (any, unclean)
    }

    async fn finish_reassignments(&mut self) -> Result<(), ControllerError> {
        let ended = self.cluster.finished_reassignments();
        if ended.is_empty() {
            return Ok(());
        }
        let mut names: Vec<Name> = ended.iter().map(|c| c.name.clone()).collect();
        self.write(ended).await?;
        let mut removed: Vec<(Name, Vec<i32>)> = Vec::new();
        for name in &names {
            if let Some(p) = self.cluster.topics.get_mut(&name.0).and_then(|t| t.partitions.get_mut(&name.1)) {
                removed.push((name.clone(), p.removing.clone()));
                p.replicas = p.target();
                p.adding.clear();
                p.removing.clear();
            }
        }
        let topics: BTreeSet<String> = names.iter().map(|(t, _)| t.clone()).collect();
        for topic in topics {
            if !self.write_topic(&topic).await? {
                names.retain(|(t, _)| *t != topic);
                removed.retain(|((t, _), _)| *t != topic);
            }
        }
        self.tell(&names, &BTreeSet::new(), true);
        for (name, brokers) in removed {
            tracing::info!("reassignment of {}-{} is complete", name.0, name.1);
            let epoch = self.cluster.partition(&name).and_then(|p| p.stored.as_ref()).map_or(-1, |s| s.state.leader_epoch);
            for id in brokers {
                if let Some(channel) = self.channels.get(&id) {
                    channel.stop(&name, epoch, true);
                }
            }
        }
        Ok(())
    }

    /// Removes the znodes of topics whose replicas are gone.
    async fn go_on_deleting(&mut self) -> Result<(), ControllerError> {
        let done: Vec<String> = self
            .deleting
            .iter()
            .filter(|(topic, gone)| {
                let partitions = self.cluster.topics.get(*topic).map(|t| &t.partitions);
                let mut all = partitions.into_iter().flatten().flat_map(|(n, p)| p.replicas.iter().map(move |r| (*r, *n)));
                all.all(|(broker, n)| gone.contains(&(broker, ((*topic).clone(), n))))
            })
            .map(|(topic, _)| topic.clone())
            .collect();
        for topic in done {
            deletion::remove(&self.client, self.term.version, &topic).await?;
            tracing::info!("topic {topic} is deleted");
            self.deleting.remove(&topic);
            self.cluster.topics.remove(&topic);
            self.with_partitions.remove(&topic);
            self.wishes.list.retain(|t| *t != topic);
            self.topics.forget();
        }
        Ok(())
    }
}

impl From<ControllerError> for SessionError {
    fn from(e: ControllerError) -> Self {
        match e {
            ControllerError::Coordinator(e) => Self::Zookeeper(e),
            ControllerError::Superseded => Self::Ended,
        }
    }
}
