//! What the controller reads: brokers, topics, states.

use std::collections::{BTreeMap, BTreeSet};

use septet_zookeeper as zk;

use super::{Controller, ControllerError};
use crate::{
    cluster::{
        image::{PartitionState, parse_broker, parse_log_dir_event, parse_topic, read_all, state_path},
        path, topics,
        topics::check_name,
    },
    core::{
        controller::{Name, Registration, Stored, Topic},
        elections::LeaderAndIsr,
    },
};

impl Controller {
    /// Reads registrations. A broker that registered anew is treated as one that died and came back.
    pub(super) async fn read_brokers(&mut self) -> Result<(), ControllerError> {
        self.read_registrations().await?;
        if !self.ids.fired() {
            return self.tell_of_brokers().await;
        }
        let (list, watch) = self.client.list_and_watch_children(path::BROKER_IDS).await?;
        self.ids.list = list;
        self.ids.arm(watch);
        let paths = self.ids.list.iter().map(|id| format!("{}/{id}", path::BROKER_IDS)).collect();
        let nodes = read_all(&self.client, paths).await?;
        let mut found = BTreeMap::new();
        for id in &self.ids.list {
            if let (Ok(number), Some((data, stat))) = (id.parse::<i32>(), nodes.get(&format!("{}/{id}", path::BROKER_IDS))) {
                found.insert(number, Registration { epoch: stat.czxid, stopping: false, info: parse_broker(data) });
            }
        }
        let gone: Vec<i32> =
            self.cluster.brokers.iter().filter(|(id, b)| found.get(id).is_none_or(|f| f.epoch != b.epoch)).map(|(id, _)| *id).collect();
        if !gone.is_empty() {
            tracing::info!("brokers {gone:?} are gone");
            for id in &gone {
                self.cluster.brokers.remove(id);
                self.cluster.offline.retain(|(b, _)| b != id);
                self.channels.remove(id);
                self.untold.remove(id);
            }
            (self.died, self.brokers_changed) = (true, true);
        }
        if self.died {
            // Before one of them is back: it may have lost what it had not written to the disk.
            self.repair().await?;
            self.died = false;
        }
        let new: Vec<i32> = found.keys().filter(|id| !self.cluster.brokers.contains_key(id)).copied().collect();
        for (id, registration) in found {
            match self.cluster.brokers.get_mut(&id) {
                // What it listens on may be another with the same epoch only if the data was written anew.
                Some(known) => known.info = registration.info,
                None => drop(self.cluster.brokers.insert(id, registration)),
            }
        }
        for id in new {
            tracing::info!("broker {id} is here");
            self.open_channel(id);
            self.untold.insert(id);
            self.brokers_changed = true;
        }
        // Those that are new are watched from now on.
        self.read_registrations().await?;
        self.tell_of_brokers().await
    }

    /// Reads registrations whose data was written anew, with other addresses.
    async fn read_registrations(&mut self) -> Result<(), ControllerError> {
        let ids: Vec<i32> = self.cluster.brokers.keys().copied().collect();
        self.registrations.retain(|id, _| ids.contains(id));
        for id in ids {
            if self.registrations.get(&id).is_some_and(|w| !w.fired()) {
                continue;
            }
            let (data, stat, watch) = match self.client.get_and_watch_data(&format!("{}/{id}", path::BROKER_IDS)).await {
                Ok(read) => read,
                // The list of brokers says so too.
                Err(zk::Error::NoNode) => continue,
                Err(e) => return Err(e.into()),
            };
            self.registrations.entry(id).or_default().arm(watch);
            let info = parse_broker(&data);
            if let Some(known) = self.cluster.brokers.get_mut(&id).filter(|b| b.epoch == stat.czxid && b.info != info) {
                tracing::info!("broker {id} has other addresses");
                known.info = info;
                // What is told over the connection of before is told again over a new one.
                self.open_channel(id);
                self.untold.insert(id);
                self.brokers_changed = true;
            }
        }
        Ok(())
    }

    /// Tells of brokers that came or went, and those that came of everything. What fails here is done at the next call.
    async fn tell_of_brokers(&mut self) -> Result<(), ControllerError> {
        if std::mem::take(&mut self.brokers_changed) {
            self.tell_brokers(&self.untold);
        }
        if self.untold.is_empty() {
            return Ok(());
        }
        if self.fresh {
            self.repair_bounced().await?;
        }
        // First states, and leaders of partitions that had none.
        self.repair().await?;
        for id in std::mem::take(&mut self.untold) {
            self.tell_all(id);
        }
        Ok(())
    }

    /// A new controller did not see brokers die that came back before it read anything: those that registered after a state was written
    /// are in its ISR for what they had before. As if they had died and come back now, they leave it, and a leader among them gets a new
    /// epoch: under the old one, it could write other records where its followers have some that it lost.
    async fn repair_bounced(&mut self) -> Result<(), ControllerError> {
        let changes = self.cluster.repairs_of_bounced(&self.decided);
        if !changes.is_empty() {
            tracing::info!("{} partitions have replicas on brokers that came back while there was no controller", changes.len());
            self.write_and_tell(changes).await?;
        }
        self.decided.clear();
        Ok(())
    }

    /// Reads which brokers have lost a log directory: they are asked for their replicas, and answer for each whether it can be used. As
    /// KafkaController.processLogDirEventNotification.
    pub(super) async fn read_log_dirs(&mut self) -> Result<(), ControllerError> {
        if !self.log_dirs.fired() {
            return Ok(());
        }
        let (list, watch) = self.client.list_and_watch_children(path::LOG_DIR_EVENTS).await?;
        let events: Vec<String> =
            list.iter().filter(|n| n.starts_with(path::LOG_DIR_EVENT)).map(|n| format!("{}/{n}", path::LOG_DIR_EVENTS)).collect();
        let nodes = read_all(&self.client, events.clone()).await?;
        let mut brokers: BTreeSet<i32> = BTreeSet::new();
        brokers.extend(nodes.values().filter_map(|(data, _)| parse_log_dir_event(data)));
        for id in brokers {
            tracing::warn!("broker {id} says that its log directory has failed");
            self.tell_all(id);
        }
        for event in events {
            match self.client.delete(&event, None).await {
                Ok(()) | Err(zk::Error::NoNode) => {}
                Err(e) => return Err(e.into()),
            }
        }
        self.log_dirs.arm(watch);
        Ok(())
    }

    /// Reads topics that are new, were touched, or are to be deleted.
    pub(super) async fn read_topics(&mut self) -> Result<(), ControllerError> {
        let mut names: BTreeSet<String> = std::mem::take(&mut self.touched);
        if self.topics.fired() {
            let (list, watch) = self.client.list_and_watch_children(path::TOPICS).await?;
            self.topics.list = list;
            self.topics.arm(watch);
            let there: BTreeSet<&String> = self.topics.list.iter().collect();
            // Removed by another hand than this controller's.
            let gone: Vec<String> = self.cluster.topics.keys().filter(|t| !there.contains(t)).cloned().collect();
            for topic in gone {
                tracing::warn!("topic {topic}: its znode is gone without a request to delete it; its replicas stay");
                self.cluster.topics.remove(&topic);
                self.with_partitions.remove(&topic);
            }
            // A name becomes a directory's.
            names.extend(self.topics.list.iter().filter(|t| check_name(t).is_ok() && !self.cluster.topics.contains_key(*t)).cloned());
        }
        let result = self.load_topics(&names).await;
        if result.is_err() {
            self.touched.extend(names);
        }
        result?;
        let wishes: Vec<String> = self.wishes.list.iter().filter(|t| check_name(t).is_ok()).cloned().collect();
        for topic in wishes {
            if !self.deleting.contains_key(&topic) {
                self.begin_deleting(&topic);
            }
        }
        Ok(())
    }

    async fn load_topics(&mut self, names: &BTreeSet<String>) -> Result<(), ControllerError> {
        if names.is_empty() {
            return Ok(());
        }
        let nodes = read_all(&self.client, names.iter().map(|t| format!("{}/{t}", path::TOPICS)).collect()).await?;
        let mut read: BTreeMap<String, Topic> = BTreeMap::new();
        for name in names {
            let Some((data, stat)) = nodes.get(&format!("{}/{name}", path::TOPICS)) else { continue };
            let Some(mut topic) = parse_topic(data) else {
                tracing::error!("{}/{name}: not a topic's assignment; the topic is left alone", path::TOPICS);
                continue;
            };
            topic.version = stat.version;
            if topic.id.is_none() {
                // Made by a version that gave no ids.
                match topics::give_id(&self.client, name, stat.version).await? {
                    Some((id, version)) => (topic.id, topic.version) = (Some(id), version),
                    None => {
                        self.touched.insert(name.clone());
                        continue;
                    }
                }
            }
            topic.deleting = self.deleting.contains_key(name);
            read.insert(name.clone(), topic);
        }
        let paths: Vec<String> = read.iter().flat_map(|(name, t)| t.partitions.keys().map(move |n| state_path(name, *n))).collect();
        let states = read_all(&self.client, paths).await?;
        let mut tell = Vec::new();
        for (name, mut topic) in read {
            for (number, p) in &mut topic.partitions {
                let state = states.get(&state_path(&name, *number));
                p.stored = state.and_then(|(data, stat)| stored(data, stat));
                if let (true, Some((_, stat))) = (self.fresh, state) {
                    self.decided.insert((name.clone(), *number), stat.mzxid);
                }
                if p.stored.is_some() {
                    self.with_partitions.insert(name.clone());
                    tell.push((name.clone(), *number));
                }
            }
            self.cluster.topics.insert(name, topic);
        }
        if !self.fresh {
            self.tell(&tell, &BTreeSet::new(), true);
        }
        Ok(())
    }

    /// Reads a state again that is not what it was taken for.
    pub(super) async fn read_state(&mut self, name: &Name) -> Result<(), ControllerError> {
        let found = match self.client.get_data(&state_path(&name.0, name.1)).await {
            Ok((data, stat)) => stored(&data, &stat),
            Err(zk::Error::NoNode) => None,
            Err(e) => return Err(e.into()),
        };
        if let Some(p) = self.cluster.topics.get_mut(&name.0).and_then(|t| t.partitions.get_mut(&name.1)) {
            p.stored = found;
        }
        Ok(())
    }

    fn begin_deleting(&mut self, topic: &str) {
        self.deleting.insert(topic.to_owned(), BTreeSet::new());
        let Some(t) = self.cluster.topics.get_mut(topic) else {
            // Nothing is left but the wish, which goes with the znodes.
            return;
        };
        t.deleting = true;
        self.tell_deletion(topic, None);
    }
}

fn stored(data: &[u8], stat: &zk::Stat) -> Option<Stored> {
    let s = PartitionState::parse(data)?;
    Some(Stored {
        state: LeaderAndIsr { leader: s.leader, leader_epoch: s.leader_epoch, isr: s.isr },
        version: stat.version,
        controller_epoch: s.controller_epoch,
    })
}
