//! `server.properties` by Kafka's names, units and defaults. Each key is obeyed, or a warning says that it is
//! not; a bad value names file, line and key.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

use septet_daemon::properties::Properties;

use crate::{
    groups::GroupSettings,
    log::{Compaction, Retention},
    topic_settings::{is_log_append_time, millionths, policy},
};

mod keys;
mod source;

use keys::QUIET;
pub use keys::{LISTENERS, NOT_OBEYED, OBEYED, is_known};
pub use septet_daemon::properties::ConfigError;
use source::Source;

/// An address with a listener's name, as `PLAINTEXT://host:9092`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listener {
    /// its name, upper case
    pub name: String,
    /// host; empty for all addresses
    pub host: String,
    /// port
    pub port: u16,
}

/// The configuration.
#[derive(Debug, Clone)]
pub struct Config {
    /// the file's keys and values, as they are there
    pub raw: BTreeMap<String, String>,
    /// for addresses that the file does not name
    host_name: String,
    /// `broker.id`
    pub broker_id: i32,
    /// `listeners`
    pub listeners: Vec<Listener>,
    /// `advertised.listeners`, or the listeners with this host's name
    pub advertised: Vec<Listener>,
    /// `log.dirs`, of which there may be one
    pub log_dir: PathBuf,
    /// `zookeeper.connect`, with the chroot
    pub zookeeper: String,
    /// `zookeeper.session.timeout.ms`
    pub zookeeper_session_ms: u64,
    /// `num.partitions`
    pub num_partitions: i32,
    /// `min.insync.replicas`
    pub min_insync_replicas: usize,
    /// `unclean.leader.election.enable`
    pub unclean_elections: bool,
    /// `replica.lag.time.max.ms`
    pub replica_lag_max_ms: i64,
    /// `replica.fetch.wait.max.ms`
    pub replica_fetch_wait: Duration,
    /// `replica.fetch.max.bytes`, of one partition
    pub replica_fetch_bytes: i32,
    /// `replica.fetch.response.max.bytes`
    pub replica_fetch_response_bytes: i32,
    /// `controlled.shutdown.enable`
    pub controlled_shutdown: bool,
    /// `auto.leader.rebalance.enable`
    pub auto_rebalance: bool,
    /// `leader.imbalance.check.interval.seconds`
    pub imbalance_check: Duration,
    /// `leader.imbalance.per.broker.percentage`
    pub imbalance_percentage: usize,
    /// `broker.rack`
    pub rack: Option<String>,
    /// `replica.selector.class` is the RackAwareReplicaSelector
    pub rack_aware_reads: bool,
    /// `inter.broker.listener.name`: where brokers reach each other
    pub inter_broker_listener: String,
    /// `default.replication.factor`
    pub default_replication_factor: i16,
    /// `auto.create.topics.enable`
    pub auto_create_topics: bool,
    /// `log.segment.bytes`
    pub segment_bytes: u32,
    /// `log.index.interval.bytes`
    pub index_interval_bytes: u32,
    /// `log.roll.ms`, or `log.roll.hours`
    pub segment_ms: i64,
    /// `log.retention.ms`, or `.minutes`, or `.hours`, and `log.retention.bytes`
    pub retention: Retention,
    /// `log.retention.check.interval.ms`
    pub retention_check: Duration,
    /// `log.cleanup.policy` has `delete`
    pub cleanup_deletes: bool,
    /// `log.message.timestamp.type` is `LogAppendTime`
    pub log_append_time: bool,
    /// `log.segment.delete.delay.ms`
    pub segment_delete_delay: Duration,
    /// `log.flush.offset.checkpoint.interval.ms`
    pub checkpoint_interval: Duration,
    /// `delete.topic.enable`
    pub delete_topics: bool,
    /// `message.max.bytes`
    pub message_max_bytes: usize,
    /// `socket.request.max.bytes`
    pub request_max_bytes: usize,
    /// `offsets.topic.num.partitions`
    pub offsets_partitions: i32,
    /// `offsets.topic.replication.factor`
    pub offsets_replication_factor: i16,
    /// `offsets.topic.segment.bytes`
    pub offsets_segment_bytes: u32,
    /// `group.*`, `offset.metadata.max.bytes`, `offsets.retention.*`, `offsets.commit.timeout.ms`
    pub groups: GroupSettings,
    /// `max.connections`
    pub max_connections: usize,
    /// `max.connections.per.ip`
    pub max_connections_per_ip: usize,
    /// `connections.max.idle.ms`
    pub connections_max_idle: Duration,
    /// `max.incremental.fetch.session.cache.slots`
    pub fetch_session_slots: usize,
    /// `fetch.max.bytes`
    pub fetch_max_bytes: usize,
    /// `queued.max.request.bytes`; unlike Kafka's, never without a limit
    pub queued_request_bytes: usize,
    /// `septet.queued.max.response.bytes`
    pub queued_response_bytes: usize,
    /// `septet.auto.create.max.partitions`
    pub auto_create_max_partitions: usize,
    /// `septet.max.partitions.per.broker`
    pub max_partitions_per_broker: usize,
    /// `producer.id.expiration.ms`
    pub producer_expiration_ms: i64,
    /// `producer.id.expiration.check.interval.ms`
    pub producer_expiration_check: Duration,
    /// `log.cleanup.policy` has `compact`; `log.cleaner.min.cleanable.ratio`, `log.cleaner.min.compaction.lag.ms`,
    /// `log.cleaner.max.compaction.lag.ms`, `log.cleaner.delete.retention.ms`
    pub compaction: Compaction,
    /// `log.cleaner.enable`
    pub cleaner_enabled: bool,
    /// `log.cleaner.dedupe.buffer.size`; it is taken while a log is compacted, and not more than its keys need
    pub cleaner_buffer: usize,
    /// `log.cleaner.backoff.ms`
    pub cleaner_backoff: Duration,
    /// `metrics.port`, for Prometheus on all addresses
    pub metrics_port: Option<u16>,
    /// `septet.max.producers`
    pub max_producers: usize,
}

/// Memory for requests that are received or handled, unless one may be larger, in bytes.
const QUEUED_REQUEST_BYTES: i64 = 128 * 1024 * 1024;
/// Memory for decoded requests and answers, in bytes.
const QUEUED_RESPONSE_BYTES: i64 = 64 * 1024 * 1024;
/// Partitions up to which topics are created automatically.
const AUTO_CREATE_MAX_PARTITIONS: i64 = 2000;
/// Partitions of one broker.
const MAX_PARTITIONS_PER_BROKER: i64 = 4000;
/// Memory for the keys of a log that is compacted, in bytes: 600,000 keys at once. Kafka takes 128 MiB.
const CLEANER_BUFFER: i64 = 16 * 1024 * 1024;
/// Producers that are remembered, counted once for each partition; 250 bytes each.
const MAX_PRODUCERS: i64 = 100_000;

impl Config {
    /// Reads a file. Returns warnings too.
    pub fn read(path: &Path, host_name: &str) -> Result<(Self, Vec<String>), ConfigError> {
        Self::from_properties(&Properties::read(path)?, host_name)
    }

    /// Parses the text of a file.
    pub fn parse(path: &Path, text: &str, host_name: &str) -> Result<(Self, Vec<String>), ConfigError> {
        Self::from_properties(&Properties::parse(path, text)?, host_name)
    }

    fn from_properties(properties: &Properties, host_name: &str) -> Result<(Self, Vec<String>), ConfigError> {
        let this = Self::build(properties, host_name)?;
        let mut warnings = properties.repetitions();
        for entry in properties.entries() {
            let known = if NOT_OBEYED.contains(&entry.key) { "is known but has no effect so far" } else { "is not a known key" };
            if !OBEYED.contains(&entry.key) && !QUIET.contains(&entry.key) {
                warnings.push(entry.warning(known));
            }
        }
        Ok((this, warnings))
    }

    /// The same with other values over those of the file.
    pub fn overlaid(&self, over: &BTreeMap<String, String>) -> Result<Self, ConfigError> {
        let merged = self.raw.iter().chain(over).map(|(k, v)| (k.as_str(), v.as_str()));
        let properties = Properties::of(Path::new("the settings in the coordinator"), merged);
        let mut this = Self::build(&properties, &self.host_name)?;
        this.raw.clone_from(&self.raw);
        Ok(this)
    }

    fn build(properties: &Properties, host_name: &str) -> Result<Self, ConfigError> {
        let mut source = Source(properties);
        let missing = |key| properties.missing(key);

        let broker_id = source.number("broker.id", 0, i32::MAX.into())?.ok_or(missing("broker.id"))? as i32;
        let listeners = match source.listeners("listeners", true)? {
            Some(l) => l,
            None => vec![Listener { name: "PLAINTEXT".into(), host: String::new(), port: 9092 }],
        };
        let advertised = match source.listeners("advertised.listeners", false)? {
            Some(l) => l,
            None => listeners
                .iter()
                .map(|l| match l.host.as_str() {
                    "" | "0.0.0.0" | "::" => Listener { host: host_name.to_owned(), ..l.clone() },
                    _ => l.clone(),
                })
                .collect(),
        };
        if let Some(l) = advertised.iter().find(|a| !listeners.iter().any(|l| l.name == a.name)) {
            return Err(source.bad("advertised.listeners", format!("{} is not one of the listeners", l.name)));
        }
        source.protocols(&listeners)?;
        let dirs_key = if properties.get("log.dirs").is_some() { "log.dirs" } else { "log.dir" };
        let dirs = source.text(dirs_key).unwrap_or_else(|| "/tmp/kafka-logs".into());
        if dirs.is_empty() || dirs.contains(',') {
            let why = if dirs.is_empty() { "is empty" } else { "only one directory is supported so far" };
            return Err(source.bad(dirs_key, why.into()));
        }
        let zookeeper = source.text("zookeeper.connect").filter(|z| !z.is_empty()).ok_or(missing("zookeeper.connect"))?;
        let request_max = source.number("socket.request.max.bytes", 1, i32::MAX.into())?.unwrap_or(104_857_600);
        let queued = source.number("queued.max.request.bytes", -1, i64::MAX)?.filter(|n| *n >= 0);
        if queued.is_some_and(|n| n < request_max) {
            return Err(source.bad("queued.max.request.bytes", format!("is less than socket.request.max.bytes, {request_max}")));
        }
        let forever = i64::MAX / 2;
        // As on Kafka the finer unit wins; -1 is for ever.
        let retention_ms = match source.number("log.retention.ms", -1, i64::MAX)? {
            Some(ms) => ms,
            None => match source.number("log.retention.minutes", -1, i32::MAX.into())? {
                Some(minutes) => minutes * 60_000,
                None => source.number("log.retention.hours", -1, i32::MAX.into())?.unwrap_or(168) * 3_600_000,
            },
        };
        let retention_bytes = source.number("log.retention.bytes", -1, i64::MAX)?.unwrap_or(-1);
        let roll_ms = match source.number("log.roll.ms", 1, i64::MAX)? {
            Some(ms) => ms.min(forever),
            None => source.number("log.roll.hours", 1, i32::MAX.into())?.unwrap_or(168) * 3_600_000,
        };
        let (cleanup_deletes, compacts) = source.checked("log.cleanup.policy", policy)?.unwrap_or((true, false));
        let compaction = Compaction {
            enabled: compacts,
            min_dirty_millionths: source.checked("log.cleaner.min.cleanable.ratio", millionths)?.unwrap_or(500_000),
            min_lag_ms: source.number("log.cleaner.min.compaction.lag.ms", 0, i64::MAX)?.unwrap_or(0),
            max_lag_ms: source.number("log.cleaner.max.compaction.lag.ms", 1, i64::MAX)?.unwrap_or(i64::MAX),
            delete_retention_ms: source.number("log.cleaner.delete.retention.ms", 0, i64::MAX)?.unwrap_or(86_400_000),
        };
        let log_append_time = source.checked("log.message.timestamp.type", is_log_append_time)?.unwrap_or(false);
        let inter_broker_listener = match source.text("inter.broker.listener.name") {
            Some(name) => name.to_ascii_uppercase(),
            None => advertised.iter().find(|l| l.name == "PLAINTEXT").unwrap_or(&advertised[0]).name.clone(),
        };
        let this = Self {
            raw: properties.entries().map(|e| (e.key.to_owned(), e.value.to_owned())).collect(),
            host_name: host_name.to_owned(),
            broker_id,
            listeners,
            advertised,
            log_dir: dirs.into(),
            zookeeper: zookeeper.split(',').map(str::trim).collect::<Vec<_>>().join(","),
            zookeeper_session_ms: source.number("zookeeper.session.timeout.ms", 100, 3_600_000)?.unwrap_or(18_000) as u64,
            num_partitions: source.number("num.partitions", 1, 10_000)?.unwrap_or(1) as i32,
            min_insync_replicas: source.number("min.insync.replicas", 1, 1000)?.unwrap_or(1) as usize,
            unclean_elections: source.boolean("unclean.leader.election.enable")?.unwrap_or(false),
            replica_lag_max_ms: source.number("replica.lag.time.max.ms", 1, forever)?.unwrap_or(30_000),
            replica_fetch_wait: source.duration("replica.fetch.wait.max.ms", 1, 500)?,
            replica_fetch_bytes: source.number("replica.fetch.max.bytes", 0, i32::MAX.into())?.unwrap_or(1 << 20) as i32,
            replica_fetch_response_bytes: source.number("replica.fetch.response.max.bytes", 0, i32::MAX.into())?.unwrap_or(10 << 20) as i32,
            controlled_shutdown: source.boolean("controlled.shutdown.enable")?.unwrap_or(true),
            auto_rebalance: source.boolean("auto.leader.rebalance.enable")?.unwrap_or(true),
            imbalance_check: Duration::from_secs(source.number("leader.imbalance.check.interval.seconds", 1, 86_400)?.unwrap_or(300) as u64),
            imbalance_percentage: source.number("leader.imbalance.per.broker.percentage", 0, 100)?.unwrap_or(10) as usize,
            rack: source.text("broker.rack").filter(|r| !r.is_empty()),
            rack_aware_reads: source.checked("replica.selector.class", is_rack_aware)?.unwrap_or(false),
            inter_broker_listener,
            default_replication_factor: source.number("default.replication.factor", 1, 1000)?.unwrap_or(1) as i16,
            auto_create_topics: source.boolean("auto.create.topics.enable")?.unwrap_or(true),
            segment_bytes: source.number("log.segment.bytes", 14, i32::MAX.into())?.unwrap_or(1 << 30) as u32,
            index_interval_bytes: source.number("log.index.interval.bytes", 0, i32::MAX.into())?.unwrap_or(4096) as u32,
            segment_ms: roll_ms,
            retention: Retention { ms: (retention_ms >= 0).then_some(retention_ms), bytes: u64::try_from(retention_bytes).ok() },
            retention_check: source.duration("log.retention.check.interval.ms", 1, 300_000)?,
            cleanup_deletes,
            log_append_time,
            segment_delete_delay: source.duration("log.segment.delete.delay.ms", 0, 60_000)?,
            checkpoint_interval: source.duration("log.flush.offset.checkpoint.interval.ms", 0, 60_000)?.max(Duration::from_millis(100)),
            delete_topics: source.boolean("delete.topic.enable")?.unwrap_or(true),
            message_max_bytes: source.number("message.max.bytes", 0, i32::MAX.into())?.unwrap_or(1_048_588) as usize,
            request_max_bytes: request_max as usize,
            offsets_partitions: source.number("offsets.topic.num.partitions", 1, 10_000)?.unwrap_or(50) as i32,
            offsets_replication_factor: source.number("offsets.topic.replication.factor", 1, 1000)?.unwrap_or(3) as i16,
            offsets_segment_bytes: source.number("offsets.topic.segment.bytes", 14, i32::MAX.into())?.unwrap_or(104_857_600) as u32,
            groups: source.groups()?,
            max_connections: source.number("max.connections", 1, i32::MAX.into())?.unwrap_or(i32::MAX.into()) as usize,
            max_connections_per_ip: source.number("max.connections.per.ip", 1, i32::MAX.into())?.unwrap_or(i32::MAX.into()) as usize,
            connections_max_idle: source.duration("connections.max.idle.ms", 1, 600_000)?,
            fetch_max_bytes: source.number("fetch.max.bytes", 1024, i32::MAX.into())?.unwrap_or(57_671_680) as usize,
            fetch_session_slots: source.number("max.incremental.fetch.session.cache.slots", 0, i32::MAX.into())?.unwrap_or(1000) as usize,
            queued_request_bytes: queued.unwrap_or(QUEUED_REQUEST_BYTES.max(request_max)) as usize,
            queued_response_bytes: source
                .number("septet.queued.max.response.bytes", 1 << 20, u32::MAX.into())?
                .unwrap_or(QUEUED_RESPONSE_BYTES) as usize,
            auto_create_max_partitions: source
                .number("septet.auto.create.max.partitions", 0, i32::MAX.into())?
                .unwrap_or(AUTO_CREATE_MAX_PARTITIONS) as usize,
            max_partitions_per_broker: source
                .number("septet.max.partitions.per.broker", 1, i32::MAX.into())?
                .unwrap_or(MAX_PARTITIONS_PER_BROKER) as usize,
            producer_expiration_ms: source.number("producer.id.expiration.ms", 1, i32::MAX.into())?.unwrap_or(86_400_000),
            producer_expiration_check: source.duration("producer.id.expiration.check.interval.ms", 1, 600_000)?,
            compaction,
            cleaner_enabled: source.boolean("log.cleaner.enable")?.unwrap_or(true),
            cleaner_buffer: source.number("log.cleaner.dedupe.buffer.size", 1 << 20, i64::MAX)?.unwrap_or(CLEANER_BUFFER) as usize,
            cleaner_backoff: source.duration("log.cleaner.backoff.ms", 0, 15_000)?.max(Duration::from_millis(10)),
            metrics_port: source.number("metrics.port", 1, 65_535)?.map(|n| n as u16),
            max_producers: source.number("septet.max.producers", 1, i32::MAX.into())?.unwrap_or(MAX_PRODUCERS) as usize,
        };
        Ok(this)
    }
}

/// Whether consumers are sent to replicas in their rack, by the name of Kafka's class.
fn is_rack_aware(class: &str) -> Result<bool, String> {
    match class.trim() {
        "" | "org.apache.kafka.common.replica.LeaderSelector" => Ok(false),
        "org.apache.kafka.common.replica.RackAwareReplicaSelector" => Ok(true),
        other => Err(format!("{other:?}: only Kafka's LeaderSelector and RackAwareReplicaSelector are supported")),
    }
}
