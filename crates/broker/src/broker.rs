//! The broker: its configuration, the partitions that it leads, and what it knows of the cluster.

use std::{
    fs, io,
    path::PathBuf,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use septet_daemon::metrics::Registry;
use septet_zookeeper as zk;
use tokio::sync::watch;

use crate::{
    cluster::{
        Image,
        controller::Events,
        producer_ids::ProducerIds,
        quota::{PartitionLimits, Quota},
        topic_configs::TopicConfigs,
        topic_ids::TopicIds,
    },
    config::Config,
    configs::DynamicConfig,
    fetch_sessions::Sessions,
    groups::Coordinator,
    log::{Files, LogError, ProducerQuota},
    metrics::{self, Requests},
    net::{
        admission::Admission,
        budget::{Budget, Budgets},
        descriptors::Descriptors,
        listeners::Listeners,
    },
    partition::Shared,
    replica::Manager,
    storage::{Led, Storage},
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
    /// its configuration, as the file has it
    pub config: Config,
    /// its configuration, with what is set at run time
    pub dynamic: DynamicConfig,
    cluster_id: OnceLock<String>,
    /// what it knows of the cluster
    pub image: watch::Sender<Arc<Image>>,
    /// the session with the coordinator, once there is one
    pub zookeeper: watch::Sender<Option<zk::Client>>,
    /// listeners that are open
    pub listeners: Listeners,
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
    /// replicas of this broker
    pub replicas: Manager,
    /// settings of topics
    pub topic_configs: TopicConfigs,
    /// takes events while this broker is the controller
    pub controller: watch::Sender<Option<Events>>,
    epoch: AtomicI64,
    /// what is measured
    pub metrics: Arc<Registry>,
    /// requests by API
    pub requests: Requests,
    /// consumer groups of the partitions of the offsets topic that this broker leads
    pub groups: Arc<Coordinator>,
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
        let metrics = metrics::registry();
        let shared = Shared::measured(config.broker_id, config.replica_lag_max_ms, metrics.clone());
        Ok(Self {
            listeners: Listeners::default(),
            admission: Admission::new(descriptors.connections, config.max_connections, config.max_connections_per_ip),
            budgets: Budgets { requests: Budget::new(config.queued_request_bytes), responses: Budget::new(config.queued_response_bytes) },
            quota: Quota::default(),
            producer_ids: ProducerIds::default(),
            storage: Storage::open(&dir, Files::new(descriptors.files), ProducerQuota::new(config.max_producers), shared.clone())?,
            groups: Coordinator::new(config.groups.clone()),
            fetch_sessions: Sessions::new(config.fetch_session_slots),
            topic_ids: TopicIds::default(),
            dynamic: DynamicConfig::new(config.clone()),
            config,
            cluster_id: OnceLock::new(),
            image: watch::Sender::new(Arc::default()),
            zookeeper: watch::Sender::new(None),
            replicas: Manager::default(),
            topic_configs: TopicConfigs::new(shared.throttles.clone()),
            controller: watch::Sender::new(None),
            epoch: AtomicI64::new(-1),
            requests: Requests::new(metrics.clone()),
            metrics,
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

    /// The id of the cluster, which no run changes; empty until the first session with a coordinator. It is known before this broker
    /// is registered, so before others can ask for it.
    pub fn cluster_id(&self) -> &str {
        self.cluster_id.get().map_or("", String::as_str)
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

    /// Belongs to this cluster from now on: writes `meta.properties`, or refuses a directory of another cluster.
    pub fn claim_directory(&self, cluster_id: &str) -> Result<(), StartError> {
        self.write_meta_properties(cluster_id)?;
        self.cluster_id.get_or_init(|| cluster_id.to_owned());
        Ok(())
    }

    fn write_meta_properties(&self, cluster_id: &str) -> Result<(), StartError> {
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

    /// Epoch of this broker's registration, -1 before the first.
    pub fn epoch(&self) -> i64 {
        self.epoch.load(Ordering::Acquire)
    }

    /// This broker has registered.
    pub fn set_epoch(&self, epoch: i64) {
        self.epoch.fetch_max(epoch, Ordering::AcqRel);
    }

    /// Waits until the controller has told this broker of itself.
    pub async fn ready(&self) {
        let id = self.id();
        if !self.image.borrow().brokers.contains_key(&id) {
            let _ = self.image.subscribe().wait_for(|i| i.brokers.contains_key(&id)).await;
        }
    }

    /// Where the controller takes events, if this broker is the controller.
    pub fn controller(&self) -> Option<Events> {
        self.controller.borrow().clone()
    }

    /// A partition of the offsets topic is led, or followed, from now on.
    pub fn groups_assigned(&self, index: i32, led: &Arc<Led>, leads: bool, epoch: i32) {
        match leads {
            true => self.groups.elected(index, led.clone(), epoch),
            false => self.groups.resigned(index, epoch),
        }
    }

    /// Compacts one partition after the other. Never ends.
    async fn compact(self: Arc<Self>) {
        loop {
            let broker = self.clone();
            let config = self.dynamic.get().config.clone();
            let buffer = config.cleaner_buffer;
            let found = tokio::task::spawn_blocking(move || broker.storage.clean_one(buffer)).await;
            if let Err(e) = &found {
                tracing::error!("compaction: {e}");
            }
            if !found.unwrap_or(false) {
                tokio::time::sleep(config.cleaner_backoff).await;
            }
        }
    }

    /// Background work: checkpoints, retention, removal, compaction. Never ends.
    pub async fn maintain(self: Arc<Self>) {
        match self.config.cleaner_enabled {
            true => drop(tokio::join!(self.clone().keep_house(), self.compact())),
            false => self.keep_house().await,
        }
    }

    async fn keep_house(self: Arc<Self>) {
        let mut checkpoint = tokio::time::interval(self.config.checkpoint_interval);
        let mut retention = tokio::time::interval(self.config.retention_check);
        let mut removal = tokio::time::interval(REMOVAL);
        let mut producers = tokio::time::interval(self.config.producer_expiration_check);
        for timer in [&mut checkpoint, &mut retention, &mut removal, &mut producers] {
            timer.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            // The first tick is at once.
            timer.tick().await;
        }
        let mut groups = std::pin::pin!(self.groups.clone().maintain(self.image.subscribe()));
        loop {
            let work: fn(&Storage) = tokio::select! {
                () = &mut groups => return,
                _ = checkpoint.tick() => Storage::sync,
                () = self.storage.wake.notified() => Storage::sync,
                _ = retention.tick() => Storage::expire,
                _ = removal.tick() => Storage::remove_due,
                _ = producers.tick() => {
                    self.storage.expire_producers(self.dynamic.get().config.producer_expiration_ms);
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
