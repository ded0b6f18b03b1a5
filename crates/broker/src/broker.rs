//! The broker: its configuration, the partitions that it leads, and what it knows of the cluster.

use std::{fs, io, path::PathBuf, sync::Arc, time::Duration};

use tokio::sync::{Mutex, watch};
use zookeeper_client as zk;

use crate::{
    cluster::{
        Image, TopicInfo,
        producer_ids::ProducerIds,
        quota::{PartitionLimits, Quota},
        topic_ids::TopicIds,
        topics::is_internal,
    },
    config::Config,
    fetch_sessions::Sessions,
    log::{Files, LogError, ProducerQuota},
    net::{
        admission::Admission,
        budget::{Budget, Budgets},
        descriptors::Descriptors,
    },
    storage::{Led, Storage},
    topic_settings::TopicSettings,
};

/// How often it is looked for files that are to be removed.
const REMOVAL: Duration = Duration::from_secs(1);

/// Why a broker does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A file of the log directory.
    #[error("{path}: {source}")]
    Io {
        /// which
        path: PathBuf,
        /// the system's reason
        source: io::Error,
    },
    /// A checkpoint of the log directory.
    #[error("{0}")]
    Log(#[from] LogError),
    /// The directory belongs to another broker or cluster.
    #[error("{path}: {reason}")]
    Meta {
        /// `meta.properties`
        path: PathBuf,
        /// what does not fit
        reason: String,
    },
}

/// The broker.
pub struct Broker {
    /// its configuration
    pub config: Config,
    /// what it knows of the cluster
    pub image: watch::Sender<Arc<Image>>,
    /// the session with the coordinator, once there is one
    pub zookeeper: watch::Sender<Option<zk::Client>>,
    /// connections of all listeners
    pub admission: Arc<Admission>,
    /// memory for requests and answers
    pub budgets: Budgets,
    /// partitions that were let through
    pub quota: Quota,
    /// ids for idempotent producers
    pub producer_ids: ProducerIds,
    /// sessions of fetches
    pub fetch_sessions: Sessions,
    /// topics by id
    pub topic_ids: TopicIds,
    /// partitions that this broker has
    pub storage: Storage,
    opening: Mutex<()>,
    _lock: fs::File,
}

impl Broker {
    /// Takes the log directory.
    pub fn open(config: Config) -> Result<Self, StartError> {
        let dir = config.log_dir.clone();
        let io = |path: PathBuf| move |source| StartError::Io { path, source };
        fs::create_dir_all(&dir).map_err(io(dir.clone()))?;
        let lock = dir.join(".lock");
        let file = fs::File::create(&lock).map_err(io(lock.clone()))?;
        if file.try_lock().is_err() {
            return Err(StartError::Meta { path: lock, reason: "another broker uses this directory".into() });
        }
        let descriptors = Descriptors::of_process();
        let connections = config.max_connections.min(descriptors.connections);
        tracing::info!("up to {} segment files are kept open, up to {connections} connections are served", descriptors.files);
        Ok(Self {
            admission: Admission::new(connections, config.max_connections_per_ip),
            budgets: Budgets { requests: Budget::new(config.queued_request_bytes), responses: Budget::new(config.queued_response_bytes) },
            quota: Quota::default(),
            producer_ids: ProducerIds::default(),
            storage: Storage::open(&dir, Files::new(descriptors.files), ProducerQuota::new(config.max_producers))?,
            fetch_sessions: Sessions::new(config.fetch_session_slots),
            topic_ids: TopicIds::default(),
            config,
            image: watch::Sender::new(Arc::default()),
            zookeeper: watch::Sender::new(None),
            opening: Mutex::default(),
            _lock: file,
        })
    }

    /// This broker's number.
    pub fn id(&self) -> i32 {
        self.config.broker_id
    }

    /// How many partitions there may be.
    pub fn partition_limits(&self) -> PartitionLimits {
        PartitionLimits { auto_created: self.config.auto_create_max_partitions, per_broker: self.config.max_partitions_per_broker }
    }

    /// What is known of the cluster now.
    pub fn image(&self) -> Arc<Image> {
        self.image.borrow().clone()
    }

    /// Cluster id that the directory was made for, checked against this broker's number.
    pub fn stored_cluster_id(&self) -> Result<Option<String>, StartError> {
        let path = self.config.log_dir.join("meta.properties");
        let text = match fs::read_to_string(&path) {
            Ok(t) => t,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(StartError::Io { path, source }),
        };
        let get =
            |key: &str| text.lines().filter_map(|l| l.split_once('=')).find(|(k, _)| k.trim() == key).map(|(_, v)| v.trim().to_owned());
        if let Some(version) = get("version").filter(|v| v != "0") {
            let reason = format!("has version {version}: only version 0 is understood, that of a broker with ZooKeeper");
            return Err(StartError::Meta { path, reason });
        }
        if let Some(id) = get("broker.id").filter(|id| *id != self.id().to_string()) {
            return Err(StartError::Meta { path, reason: format!("belongs to broker {id}, this one is {}", self.id()) });
        }
        Ok(get("cluster.id"))
    }

    /// Writes `meta.properties`, or refuses a directory of another cluster.
    pub fn claim_directory(&self, cluster_id: &str) -> Result<(), StartError> {
        let path = self.config.log_dir.join("meta.properties");
        match self.stored_cluster_id()? {
            Some(old) if old == cluster_id => return Ok(()),
            Some(old) => {
                return Err(StartError::Meta { path, reason: format!("belongs to cluster {old}, the coordinator says {cluster_id}") });
            }
            None => {}
        }
        let text = format!("#\nversion=0\nbroker.id={}\ncluster.id={cluster_id}\n", self.id());
        let temporary = path.with_extension("properties.tmp");
        let write = || {
            fs::write(&temporary, &text)?;
            fs::File::open(&temporary)?.sync_all()?;
            fs::rename(&temporary, &path)?;
            fs::File::open(&self.config.log_dir)?.sync_all()
        };
        write().map_err(|source| StartError::Io { path: path.clone(), source })
    }

    /// A partition that this broker leads.
    pub fn led(&self, topic: &str, partition: i32) -> Option<Arc<Led>> {
        self.storage.get(topic, partition).filter(|l| l.partition.leads())
    }

    /// Takes a new image: leads what this broker leads now, and nothing else.
    pub async fn take(&self, image: Image) {
        let _one = self.opening.lock().await;
        // Opening many logs takes a while: connections go on elsewhere.
        tokio::task::block_in_place(|| self.lead(&image));
        self.image.send_replace(Arc::new(image));
    }

    fn lead(&self, image: &Image) {
        let mine = |key: &(String, i32)| {
            let topic = image.topics.get(&key.0)?;
            topic.partitions.get(&key.1).filter(|p| p.leader == self.id() && !topic.deleting)
        };
        for (key, led) in self.storage.all() {
            if mine(&key).is_none() {
                led.partition.resign();
            }
        }
        let defaults = TopicSettings::of(&self.config);
        let settings = |name: &str, topic: &TopicInfo| {
            // Committed offsets are compacted, not deleted, as on Kafka.
            let defaults = if is_internal(name) { TopicSettings { deletes: false, ..defaults } } else { defaults };
            defaults.with(name, &topic.config)
        };
        let all = || {
            image.topics.iter().filter(|(_, t)| !t.deleting).flat_map(|(name, t)| {
                t.partitions.iter().filter(|(_, p)| p.leader == self.id()).map(move |(number, state)| (name, t, *number, state))
            })
        };
        self.storage.host(all().map(|(name, t, number, _)| (name.as_str(), t.id.as_deref(), number, settings(name, t))));
        for (name, topic, number, state) in all() {
            if let Some(led) = self.storage.get(name, number) {
                led.partition.set_settings(settings(name, topic));
                led.partition.lead(state.leader_epoch);
            }
        }
    }

    /// Background work: checkpoints, retention, removal. Never ends.
    pub async fn maintain(self: Arc<Self>) {
        let mut checkpoint = tokio::time::interval(self.config.checkpoint_interval);
        let mut retention = tokio::time::interval(self.config.retention_check);
        let mut removal = tokio::time::interval(REMOVAL);
        let mut producers = tokio::time::interval(self.config.producer_expiration_check);
        for timer in [&mut checkpoint, &mut retention, &mut removal, &mut producers] {
            timer.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            // The first tick is at once.
            timer.tick().await;
        }
        loop {
            let work: fn(&Storage) = tokio::select! {
                _ = checkpoint.tick() => Storage::sync,
                () = self.storage.wake.notified() => Storage::sync,
                _ = retention.tick() => Storage::expire,
                _ = removal.tick() => Storage::remove_due,
                _ = producers.tick() => {
                    self.storage.expire_producers(self.config.producer_expiration_ms);
                    continue;
                }
            };
            let broker = self.clone();
            if let Err(e) = tokio::task::spawn_blocking(move || work(&broker.storage)).await {
                tracing::error!("background work: {e}");
            }
        }
    }

    /// Writes everything to the disk and says so in Kafka's checkpoint files.
    pub fn shut_down(&self) {
        self.storage.shut_down();
    }
}
