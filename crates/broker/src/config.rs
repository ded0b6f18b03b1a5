//! `server.properties` by Kafka's names, units and defaults. Each key is obeyed, or a warning says that it is
//! not; a bad value names file, line and key.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

use septet_daemon::properties::Properties;

use crate::{
    groups::{GroupSettings, core},
    log::{Compaction, Retention},
    topic_settings::{is_log_append_time, millionths, policy},
};

pub use septet_daemon::properties::ConfigError;

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

/// Keys of Kafka's that are accepted without effect so far.
pub const NOT_OBEYED: &[&str] = &[
    "log.cleaner.threads",
    "log.cleaner.io.buffer.size",
    "log.cleaner.io.buffer.load.factor",
    "log.cleaner.io.max.bytes.per.second",
    "num.network.threads",
    "num.io.threads",
    "socket.send.buffer.bytes",
    "socket.receive.buffer.bytes",
    "num.recovery.threads.per.data.dir",
    "transaction.state.log.replication.factor",
    "transaction.state.log.min.isr",
    "log.flush.interval.messages",
    "log.flush.interval.ms",
    "num.replica.fetchers",
    "zookeeper.connection.timeout.ms",
    "inter.broker.protocol.version",
    "log.message.format.version",
    "compression.type",
    "queued.max.requests",
    "log.index.size.max.bytes",
    "broker.id.generation.enable",
    "reserved.broker.max.id",
    "background.threads",
    "log.dir.failure.timeout.ms",
];

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

/// Keys of listeners that a broker may be given at run time, for itself only.
pub const LISTENERS: [&str; 3] = ["advertised.listeners", "listener.security.protocol.map", "listeners"];

/// Keys that are obeyed.
pub const OBEYED: &[&str] = &[
    "broker.id",
    "listeners",
    "advertised.listeners",
    "log.dirs",
    "log.dir",
    "zookeeper.connect",
    "zookeeper.session.timeout.ms",
    "num.partitions",
    "default.replication.factor",
    "auto.create.topics.enable",
    "log.segment.bytes",
    "log.index.interval.bytes",
    "log.roll.ms",
    "log.roll.hours",
    "log.retention.ms",
    "log.retention.minutes",
    "log.retention.hours",
    "log.retention.bytes",
    "log.retention.check.interval.ms",
    "log.cleanup.policy",
    "log.message.timestamp.type",
    "log.segment.delete.delay.ms",
    "log.flush.offset.checkpoint.interval.ms",
    "delete.topic.enable",
    "message.max.bytes",
    "socket.request.max.bytes",
    "offsets.topic.num.partitions",
    "offsets.topic.replication.factor",
    "offsets.topic.segment.bytes",
    "offsets.retention.minutes",
    "offsets.retention.check.interval.ms",
    "offsets.commit.timeout.ms",
    "offset.metadata.max.bytes",
    "group.initial.rebalance.delay.ms",
    "group.min.session.timeout.ms",
    "group.max.session.timeout.ms",
    "group.max.size",
    "max.connections",
    "max.connections.per.ip",
    "connections.max.idle.ms",
    "fetch.max.bytes",
    "max.incremental.fetch.session.cache.slots",
    "queued.max.request.bytes",
    "septet.queued.max.response.bytes",
    "septet.auto.create.max.partitions",
    "septet.max.partitions.per.broker",
    "producer.id.expiration.ms",
    "producer.id.expiration.check.interval.ms",
    "septet.max.producers",
    "metrics.port",
    "min.insync.replicas",
    "unclean.leader.election.enable",
    "replica.lag.time.max.ms",
    "replica.fetch.wait.max.ms",
    "replica.fetch.max.bytes",
    "replica.fetch.response.max.bytes",
    "controlled.shutdown.enable",
    "auto.leader.rebalance.enable",
    "leader.imbalance.check.interval.seconds",
    "leader.imbalance.per.broker.percentage",
    "broker.rack",
    "replica.selector.class",
    "log.cleaner.enable",
    "log.cleaner.min.cleanable.ratio",
    "log.cleaner.min.compaction.lag.ms",
    "log.cleaner.max.compaction.lag.ms",
    "log.cleaner.delete.retention.ms",
    "log.cleaner.dedupe.buffer.size",
    "log.cleaner.backoff.ms",
    "offsets.topic.segment.bytes",
];

/// Checked above, and right as they are while there is one protocol and no traffic between brokers.
const QUIET: &[&str] = &["listener.security.protocol.map", "inter.broker.listener.name", "security.inter.broker.protocol"];

/// Whether `server.properties` may have a key.
pub fn is_known(key: &str) -> bool {
    [OBEYED, NOT_OBEYED, QUIET].iter().any(|keys| keys.contains(&key))
}

/// Whether consumers are sent to replicas in their rack, by the name of Kafka's class.
fn is_rack_aware(class: &str) -> Result<bool, String> {
    match class.trim() {
        "" | "org.apache.kafka.common.replica.LeaderSelector" => Ok(false),
        "org.apache.kafka.common.replica.RackAwareReplicaSelector" => Ok(true),
        other => Err(format!("{other:?}: only Kafka's LeaderSelector and RackAwareReplicaSelector are supported")),
    }
}

struct Source<'a>(&'a Properties);

impl Source<'_> {
    fn bad(&self, key: &str, reason: String) -> ConfigError {
        self.0.bad(key, reason)
    }
    fn text(&self, key: &str) -> Option<String> {
        self.0.text(key).map(str::to_owned)
    }
    fn number(&mut self, key: &'static str, min: i64, max: i64) -> Result<Option<i64>, ConfigError> {
        self.0.number(key, min, max)
    }
    fn duration(&mut self, key: &'static str, min: i64, default: u64) -> Result<Duration, ConfigError> {
        Ok(self.0.milliseconds(key, min)?.unwrap_or(Duration::from_millis(default)))
    }
    fn groups(&mut self) -> Result<GroupSettings, ConfigError> {
        const INT: i64 = i32::MAX as i64;
        let limits = core::Limits {
            initial_rebalance_delay_ms: self.number("group.initial.rebalance.delay.ms", 0, INT)?.unwrap_or(3000),
            min_session_ms: self.number("group.min.session.timeout.ms", 1, INT)?.unwrap_or(6000) as i32,
            max_session_ms: self.number("group.max.session.timeout.ms", 1, INT)?.unwrap_or(1_800_000) as i32,
            max_size: self.number("group.max.size", 1, INT)?.unwrap_or(INT) as usize,
        };
        if limits.max_session_ms < limits.min_session_ms {
            let why = format!("is less than group.min.session.timeout.ms, {}", limits.min_session_ms);
            return Err(self.bad("group.max.session.timeout.ms", why));
        }
        Ok(GroupSettings {
            limits,
            metadata_max_bytes: self.number("offset.metadata.max.bytes", 0, i16::MAX.into())?.unwrap_or(4096) as usize,
            offsets_retention_ms: self.number("offsets.retention.minutes", 1, INT)?.unwrap_or(10_080) * 60_000,
            retention_check: self.duration("offsets.retention.check.interval.ms", 1, 600_000)?,
            commit_timeout: self.duration("offsets.commit.timeout.ms", 1, 5000)?,
        })
    }
    fn checked<T>(&mut self, key: &'static str, parse: impl Fn(&str) -> Result<T, String>) -> Result<Option<T>, ConfigError> {
        self.0.parsed(key, parse)
    }
    fn boolean(&mut self, key: &'static str) -> Result<Option<bool>, ConfigError> {
        self.0.boolean(key)
    }
    /// There is one protocol so far; who asks for another one is not to be served in the clear.
    fn protocols(&self, listeners: &[Listener]) -> Result<(), ConfigError> {
        let only = |what: &str| format!("{what:?}: only PLAINTEXT is supported so far");
        let map = self.text("listener.security.protocol.map");
        for pair in map.iter().flat_map(|m| m.split(',')).filter(|p| !p.trim().is_empty()) {
            if pair.split_once(':').map(|(_, p)| p.trim()) != Some("PLAINTEXT") {
                return Err(self.bad("listener.security.protocol.map", only(pair)));
            }
        }
        let mapped = |name: &str| {
            map.iter().flat_map(|m| m.split(',')).any(|p| p.split_once(':').is_some_and(|(n, _)| n.trim().eq_ignore_ascii_case(name)))
        };
        if let Some(l) = listeners.iter().find(|l| ["SSL", "SASL_PLAINTEXT", "SASL_SSL"].contains(&l.name.as_str()) && !mapped(&l.name)) {
            return Err(self.bad("listeners", only(&l.name)));
        }
        if let Some(p) = self.text("security.inter.broker.protocol").filter(|p| !p.eq_ignore_ascii_case("PLAINTEXT")) {
            return Err(self.bad("security.inter.broker.protocol", only(&p)));
        }
        if let Some(name) = self.text("inter.broker.listener.name").filter(|n| !listeners.iter().any(|l| l.name.eq_ignore_ascii_case(n))) {
            return Err(self.bad("inter.broker.listener.name", format!("{name} is not one of the listeners")));
        }
        Ok(())
    }
    fn listeners(&mut self, key: &'static str, may_be_any: bool) -> Result<Option<Vec<Listener>>, ConfigError> {
        let Some(value) = self.text(key) else {
            return Ok(None);
        };
        let mut out: Vec<Listener> = Vec::new();
        for one in value.split(',').map(str::trim).filter(|o| !o.is_empty()) {
            let parsed = one.split_once("://").and_then(|(name, rest)| {
                let (host, port) = rest.rsplit_once(':').filter(|_| !name.is_empty())?;
                Some(Listener { name: name.to_ascii_uppercase(), host: host.trim_matches(['[', ']']).to_owned(), port: port.parse().ok()? })
            });
            let Some(l) = parsed else {
                return Err(self.bad(key, format!("{one:?} must be NAME://host:port")));
            };
            if !may_be_any && matches!(l.host.as_str(), "" | "0.0.0.0" | "::") {
                return Err(self.bad(key, format!("{one:?} is no address that a client could use")));
            }
            if out.iter().any(|o| o.name == l.name || (may_be_any && o.port == l.port && l.port != 0)) {
                return Err(self.bad(key, format!("{one:?}: name and port must be given once")));
            }
            out.push(l);
        }
        if out.is_empty() {
            return Err(self.bad(key, "is empty".into()));
        }
        Ok(Some(out))
    }
}
