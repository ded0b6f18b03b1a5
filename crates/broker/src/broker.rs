//! The broker: its configuration, the partitions that it leads, and what it knows of the cluster.

use std::{
    collections::HashMap,
    fs, io,
    path::PathBuf,
    sync::{Arc, PoisonError, RwLock},
};

use tokio::sync::{Mutex, watch};
use zookeeper_client as zk;

use crate::{
    cluster::{
        Image,
        quota::{PartitionLimits, Quota},
    },
    config::Config,
    groups::{OFFSETS_TOPIC, Offsets, Usage},
    log::{Files, Limits},
    net::{
        admission::Admission,
        budget::{Budget, Budgets},
        descriptors::Descriptors,
    },
    partition::Partition,
};

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
    /// The directory belongs to another broker or cluster.
    #[error("{path}: {reason}")]
    Meta {
        /// `meta.properties`
        path: PathBuf,
        /// what does not fit
        reason: String,
    },
}

/// A partition with, for one of the offsets topic, the offsets in it.
#[derive(Debug)]
pub struct Led {
    /// the partition
    pub partition: Partition,
    /// offsets of the groups that belong to it
    pub offsets: Option<Offsets>,
}

type Partitions = HashMap<(String, i32), Arc<Led>>;

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
    offsets_usage: Usage,
    files: Arc<Files>,
    led: RwLock<Arc<Partitions>>,
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
            offsets_usage: Usage::default(),
            files: Files::new(descriptors.files),
            config,
            image: watch::Sender::new(Arc::default()),
            zookeeper: watch::Sender::new(None),
            led: RwLock::default(),
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
        // The key's type owns its text; a topic's name is short, so the copy is cheap beside the request.
        self.led.read().unwrap_or_else(PoisonError::into_inner).get(&(topic.to_owned(), partition)).cloned()
    }

    /// Takes a new image: opens what this broker leads now, lets go of the rest.
    pub async fn take(&self, image: Image) {
        let _one = self.opening.lock().await;
        let mut led: Partitions = (**self.led.read().unwrap_or_else(PoisonError::into_inner)).clone();
        let mine = |t: &str, p: i32| image.topics.get(t).and_then(|t| t.partitions.get(&p)).filter(|p| p.leader == self.id());
        led.retain(|(t, p), _| mine(t, *p).is_some());
        let limits = Limits { segment_bytes: self.config.segment_bytes, index_interval_bytes: self.config.index_interval_bytes };
        for (name, topic) in &image.topics {
            for (number, state) in &topic.partitions {
                if state.leader != self.id() {
                    continue;
                }
                if let Some(one) = led.get(&(name.clone(), *number)) {
                    one.partition.set_leader_epoch(state.leader_epoch);
                    continue;
                }
                let dir = self.config.log_dir.join(format!("{name}-{number}"));
                let opened = Partition::open(&dir, limits, &self.files, state.leader_epoch, self.config.message_max_bytes);
                let partition = match opened {
                    Ok(p) => p,
                    Err(e) => {
                        tracing::error!("partition {name}-{number} stays offline: {e}");
                        continue;
                    }
                };
                let offsets = if name == OFFSETS_TOPIC {
                    match Offsets::load_in(&partition, self.offsets_usage.clone()) {
                        Ok(o) => Some(o),
                        Err(e) => {
                            tracing::error!("offsets in {name}-{number} cannot be loaded: {e:?}");
                            continue;
                        }
                    }
                } else {
                    None
                };
                led.insert((name.clone(), *number), Arc::new(Led { partition, offsets }));
            }
        }
        *self.led.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(led);
        self.image.send_replace(Arc::new(image));
    }

    /// Writes everything to the disk and says so in Kafka's checkpoint files.
    pub fn shut_down(&self) {
        let led = self.led.read().unwrap_or_else(PoisonError::into_inner).clone();
        let mut lines = Vec::new();
        for ((topic, number), one) in led.iter() {
            match one.partition.flush() {
                Ok(end) => lines.push(format!("{topic} {number} {end}\n")),
                Err(e) => tracing::error!("flush: {e}"),
            }
        }
        lines.sort();
        let text = format!("0\n{}\n{}", lines.len(), lines.concat());
        let dir = &self.config.log_dir;
        for name in ["recovery-point-offset-checkpoint", "replication-offset-checkpoint"] {
            let _ = fs::write(dir.join(name), &text);
        }
    }
}
