//! Following the cluster within one session: watches, election, the controller's work, and the image.
//!
//! Invariant: every change that a watch tells of leads to a new reading. Each step may be interrupted by a lost connection
//! and done again.

use std::{collections::HashSet, pin::Pin, time::Duration};

use zookeeper_client as zk;

use super::{
    config_changes,
    controller::{self, Controller},
    deletion,
    image::{self, Names, parse_controller},
    path,
    session::{SessionError, now_ms},
};
use crate::broker::Broker;

/// Follows the cluster within one session.
pub struct Follower<'a> {
    broker: &'a Broker,
    client: zk::Client,
    cluster_id: String,
    ids: Watched,
    topics: Watched,
    deleting: Watched,
    controller: Watched,
    signal: Watched,
    configs: Watched,
    config_changes: config_changes::Follower,
    leads: Option<i32>,
    term: Option<Controller>,
    /// topics that are to go and whose replicas this broker has removed
    deleted: HashSet<String>,
}

impl<'a> Follower<'a> {
    /// Nothing is known yet.
    pub fn new(broker: &'a Broker, client: zk::Client, cluster_id: String) -> Self {
        let watched = Watched::default;
        Self {
            broker,
            client,
            cluster_id,
            ids: watched(),
            topics: watched(),
            deleting: watched(),
            controller: watched(),
            signal: watched(),
            configs: watched(),
            config_changes: config_changes::Follower::default(),
            leads: None,
            term: None,
            deleted: HashSet::new(),
        }
    }

    /// Reads everything again at the next [`Follower::follow`].
    pub fn forget_watches(&mut self) {
        for w in [&mut self.ids, &mut self.topics, &mut self.deleting, &mut self.controller, &mut self.signal, &mut self.configs] {
            w.event = None;
        }
    }

    /// Waits until there may be something new.
    pub async fn changed(&mut self) {
        tokio::select! {
            () = self.ids.wait() => {}
            () = self.topics.wait() => {}
            () = self.deleting.wait() => {}
            () = self.controller.wait() => {}
            () = self.signal.wait() => {}
            () = self.configs.wait() => {}
            // A broker that restarted quickly may have left a session behind that looks like its new one.
            () = tokio::time::sleep(Duration::from_secs(5)) => self.ids.event = None,
        }
    }

    /// Reads what has changed, does the controller's work if it is this broker's, and hands the image on. May be
    /// interrupted by an error anywhere, and called again.
    pub async fn follow(&mut self) -> Result<(), SessionError> {
        let client = self.client.clone();
        if self.controller.fired() {
            let (stat, watch) = client.check_and_watch_stat(path::CONTROLLER).await?;
            self.leads = match &stat {
                Some(_) => match client.get_data(path::CONTROLLER).await {
                    Ok((data, _)) => parse_controller(&data),
                    Err(zk::Error::NoNode) => None,
                    Err(e) => return Err(e.into()),
                },
                None => None,
            };
            if self.leads != Some(self.broker.id()) {
                self.term = None;
            } else if self.term.is_none() && stat.is_some_and(|s| s.ephemeral_owner == client.session_id().0) {
                // An election whose answer was lost.
                self.term = Some(Controller::adopt(&client).await?);
            }
            self.controller.arm(watch);
        }
        if self.leads.is_none() {
            self.term = controller::elect(&client, self.broker.id(), &now_ms()).await?;
            if self.term.is_some() {
                self.leads = Some(self.broker.id());
            }
        }
        if self.ids.fired() {
            let (list, watch) = client.list_and_watch_children(path::BROKER_IDS).await?;
            self.ids.list = list;
            self.ids.arm(watch);
        }
        if self.topics.fired() {
            let (list, watch) = client.list_and_watch_children(path::TOPICS).await?;
            self.topics.list = list;
            self.topics.arm(watch);
        }
        if self.deleting.fired() {
            let (list, watch) = client.list_and_watch_children(path::DELETE_TOPICS).await?;
            self.deleting.list = list;
            self.deleting.arm(watch);
        }
        if self.signal.fired() {
            let (_, _, watch) = client.get_and_watch_data(path::SIGNAL).await?;
            self.signal.arm(watch);
        }
        if self.configs.fired() {
            let watch = self.config_changes.read(&client, self.broker).await?;
            self.configs.arm(watch);
        }
        self.config_changes.apply(&client, self.broker).await?;
        let mut image = self.load().await?;
        if let Some(term) = &mut self.term
            && term.reconcile(&client, &image, &self.deleting.list).await?
        {
            image = self.load().await?;
        }
        if *self.broker.image() != image {
            self.broker.take(image).await;
        }
        self.delete_replicas().await
    }

    /// Removes this broker's replicas of topics that are to go, and says so.
    async fn delete_replicas(&mut self) -> Result<(), SessionError> {
        let image = self.broker.image();
        self.deleted.retain(|t| self.deleting.list.contains(t));
        for (topic, info) in &image.topics {
            if !info.deleting || self.deleted.contains(topic) {
                continue;
            }
            match tokio::task::block_in_place(|| self.broker.storage.delete(topic)) {
                Ok(()) => {
                    deletion::confirm(&self.client, topic, self.broker.id()).await?;
                    self.deleted.insert(topic.clone());
                }
                Err(e) => tracing::error!("topic {topic} is not deleted: {e}; trying again"),
            }
        }
        Ok(())
    }

    async fn load(&mut self) -> Result<image::Image, zk::Error> {
        let names = Names {
            cluster_id: &self.cluster_id,
            brokers: &self.ids.list,
            topics: &self.topics.list,
            deleting: &self.deleting.list,
            controller: self.leads,
        };
        image::load(&self.client, &names, &self.broker.image()).await
    }
}

/// A one-shot watch, kept until it fires: dropping one would take it back at the coordinator.
#[derive(Default)]
struct Watched {
    list: Vec<String>,
    event: Option<Pin<Box<dyn Future<Output = zk::WatchedEvent> + Send>>>,
}

impl Watched {
    fn arm(&mut self, watch: zk::OneshotWatcher) {
        self.event = Some(Box::pin(watch.changed()));
    }
    fn fired(&self) -> bool {
        self.event.is_none()
    }
    async fn wait(&mut self) {
        if let Some(event) = &mut self.event {
            event.await;
            self.event = None;
        }
    }
}
