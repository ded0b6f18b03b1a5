//! The shards of a broker: one for each partition of `__consumer_offsets` that it leads.
//!
//! [`Coordinator::elected`] and [`Coordinator::resigned`] follow the leadership of the partitions. A shard is loaded on a thread for
//! blocking work; until then its groups answer COORDINATOR_LOAD_IN_PROGRESS.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, PoisonError, RwLock},
    time::{Duration, Instant},
};

use kafka_protocol::ResponseError;
use tokio::sync::watch;

use super::{
    OFFSETS_TOPIC,
    core::Limits,
    partition_for,
    shard::{Shard, Usage},
};
use crate::{cluster::Image, storage::Led, warn_quietly};

/// Pause before a partition that cannot be read or written is loaded again.
const AGAIN: Duration = Duration::from_secs(1);

/// Settings of a broker that groups obey.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupSettings {
    /// of the groups themselves
    pub limits: Limits,
    /// `offset.metadata.max.bytes`
    pub metadata_max_bytes: usize,
    /// `offsets.retention.minutes`, in milliseconds
    pub offsets_retention_ms: i64,
    /// `offsets.retention.check.interval.ms`
    pub retention_check: Duration,
    /// `offsets.commit.timeout.ms`
    pub commit_timeout: Duration,
}

impl Default for GroupSettings {
    /// Kafka's defaults.
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            metadata_max_bytes: 4096,
            offsets_retention_ms: 7 * 86_400_000,
            retention_check: Duration::from_secs(600),
            commit_timeout: Duration::from_secs(5),
        }
    }
}

/// The groups of a broker.
#[derive(Debug)]
pub struct Coordinator {
    settings: Arc<GroupSettings>,
    usage: Arc<Usage>,
    /// origin of the ticks
    begun: Instant,
    shards: RwLock<HashMap<i32, Arc<Shard>>>,
}

impl Coordinator {
    /// Leads nothing yet.
    pub fn new(settings: GroupSettings) -> Arc<Self> {
        Arc::new(Self { settings: Arc::new(settings), usage: Arc::default(), begun: Instant::now(), shards: RwLock::default() })
    }

    fn make(&self, led: Arc<Led>, epoch: i32) -> Arc<Shard> {
        Arc::new(Shard::new(epoch, led, self.settings.clone(), self.usage.clone(), self.begun))
    }

    /// This broker leads a partition of the offsets topic from now on. May be called again for the same epoch. Must be called
    /// within the runtime, and after the partition leads.
    pub fn elected(self: &Arc<Self>, partition: i32, led: Arc<Led>, leader_epoch: i32) {
        let mut shards = self.shards.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(have) = shards.get(&partition) {
            if have.epoch >= leader_epoch && Arc::ptr_eq(&have.led, &led) {
                return;
            }
            // Another broker may have led in between.
            have.close();
        }
        let shard = self.make(led, leader_epoch);
        shards.insert(partition, shard.clone());
        drop(shards);
        tokio::spawn(self.clone().run(partition, shard));
    }

    /// This broker does not lead a partition of the offsets topic any more. An epoch that is older than the shard's is ignored.
    pub fn resigned(&self, partition: i32, leader_epoch: i32) {
        let mut shards = self.shards.write().unwrap_or_else(PoisonError::into_inner);
        if shards.get(&partition).is_some_and(|s| s.epoch <= leader_epoch)
            && let Some(shard) = shards.remove(&partition)
        {
            shard.close();
        }
    }

    async fn run(self: Arc<Self>, partition: i32, mut shard: Arc<Shard>) {
        loop {
            let loading = shard.clone();
            match tokio::task::spawn_blocking(move || loading.load()).await {
                Ok(Ok(())) => shard.run().await,
                Ok(Err(e)) => warn_quietly!("{OFFSETS_TOPIC}-{partition} cannot be loaded: {e:?}; trying again"),
                Err(e) => warn_quietly!("{OFFSETS_TOPIC}-{partition} cannot be loaded: {e}; trying again"),
            }
            // Again, unless another shard has the place by then; one that cannot be written, when the partition leads as before.
            loop {
                if shard.is_closed() {
                    return;
                }
                tokio::time::sleep(AGAIN).await;
                if shard.is_loading() {
                    break;
                }
                let partition_leads = shard.led.partition.leads() && shard.led.partition.leader_epoch() == shard.epoch;
                let mut shards = self.shards.write().unwrap_or_else(PoisonError::into_inner);
                match shards.get(&partition) {
                    Some(current) if !Arc::ptr_eq(current, &shard) => return,
                    None => return,
                    Some(_) if partition_leads => {
                        shard = self.make(shard.led.clone(), shard.epoch);
                        shards.insert(partition, shard.clone());
                        break;
                    }
                    Some(_) => {}
                }
            }
        }
    }

    fn all(&self) -> Vec<Arc<Shard>> {
        self.shards.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// The shard of a partition.
    pub fn shard(&self, partition: i32) -> Option<Arc<Shard>> {
        self.shards.read().unwrap_or_else(PoisonError::into_inner).get(&partition).cloned()
    }

    /// The shard that a group belongs to. Requests other than for offsets must name a group; a name must fit into a record.
    pub fn shard_for(&self, image: &Image, group: &str, may_be_empty: bool) -> Result<Arc<Shard>, ResponseError> {
        if (group.is_empty() && !may_be_empty) || group.len() > i16::MAX as usize {
            return Err(ResponseError::InvalidGroupId);
        }
        let partitions = image.topics.get(OFFSETS_TOPIC).map_or(0, |t| t.partitions.len()) as i32;
        self.shard(partition_for(group, partitions)).ok_or(ResponseError::NotCoordinator)
    }

    /// All groups, sorted, and whether some are still loaded: name, protocol type, state.
    pub fn list(&self) -> (Vec<(String, String, super::core::State)>, bool) {
        let shards = self.all();
        let mut groups: Vec<_> = shards.iter().flat_map(|s| s.list()).collect();
        groups.sort_by(|a, b| a.0.cmp(&b.0));
        (groups, shards.iter().any(|s| s.is_loading()))
    }

    /// Expiry of offsets, and removal of those of deleted topics. Never ends.
    pub async fn maintain(self: Arc<Self>, mut image: watch::Receiver<Arc<Image>>) {
        // With their ids: of a topic that was deleted and made again, only the newest state may be seen here.
        let topics =
            |image: &Image| -> HashMap<String, Option<String>> { image.topics.iter().map(|(n, t)| (n.clone(), t.id.clone())).collect() };
        let mut known = topics(&image.borrow_and_update());
        let mut check = tokio::time::interval(self.settings.retention_check);
        check.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        check.tick().await;
        loop {
            let gone = tokio::select! {
                _ = check.tick() => None,
                changed = image.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let now = topics(&image.borrow_and_update());
                    let is_gone = |(name, id): &(&String, &Option<String>)| now.get(*name).is_none_or(|there| id.is_some() && there != *id);
                    let gone: HashSet<String> = known.iter().filter(is_gone).map(|(name, _)| name.clone()).collect();
                    known = now;
                    if gone.is_empty() {
                        continue;
                    }
                    Some(gone)
                }
            };
            let shards = self.all();
            // Appends are writes to the page cache; many take a while.
            let work = tokio::task::spawn_blocking(move || {
                for shard in shards {
                    match &gone {
                        Some(topics) => shard.topics_deleted(topics),
                        None => shard.expire(),
                    }
                }
            });
            if let Err(e) = work.await {
                tracing::error!("maintenance of groups: {e}");
            }
        }
    }
}
