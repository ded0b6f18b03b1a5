//! `zoo.cfg` and `myid`: each key is obeyed, or a warning says that it is not; a bad value names its line.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

mod members;

pub use members::{MAX_LINE_BYTES, Member, parse as parse_line, parse_stored, text as members_text};
use septet_daemon::properties::Properties;

use crate::peer::secret::Secret;

pub use septet_daemon::properties::ConfigError;

/// When containers and nodes with a TTL are removed (ContainerManager).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Containers {
    /// between two looks, in milliseconds
    pub check_interval_ms: u64,
    /// removals in a minute
    pub max_per_minute: u64,
    /// for a container that never had a child, in milliseconds; 0 for ever
    pub max_never_used_ms: i64,
}

/// The HTTP server for `/commands/…`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admin {
    /// address
    pub address: String,
    /// port
    pub port: u16,
    /// path before a command's name, such as `/commands`
    pub url: String,
}

/// The HTTP server for `/metrics`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Metrics {
    /// address
    pub address: String,
    /// port
    pub port: u16,
}

/// The configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// this server's number; 1 when it stands alone
    pub id: u64,
    /// all servers by number; empty when it stands alone
    pub members: BTreeMap<u64, Member>,
    /// `peerType` if it is set: whether it is `observer`. The server's line counts, as in ZooKeeper
    pub peer_type_observer: Option<bool>,
    /// where everything is kept
    pub data_dir: PathBuf,
    /// port for clients
    pub client_port: u16,
    /// address for clients
    pub client_address: String,
    /// basic unit of time, in milliseconds
    pub tick_ms: u64,
    /// shortest session timeout granted, in milliseconds
    pub min_session_timeout_ms: i32,
    /// longest session timeout granted, in milliseconds
    pub max_session_timeout_ms: i32,
    /// connections per client address, 0 for no limit
    pub max_client_connections: usize,
    /// connections of all clients, 0 for no limit but that of descriptors (`maxCnxns`)
    pub max_connections: usize,
    /// TTL nodes are offered (`extendedTypesEnabled`)
    pub extended_types: bool,
    /// `reconfigEnabled`: the operation is answered as not implemented instead of as disabled
    pub reconfig_enabled: bool,
    /// ACLs are not checked (`skipACL`)
    pub skip_acl: bool,
    /// hard limits of quotas are obeyed (`enforceQuota`)
    pub enforce_quota: bool,
    /// without a majority, clients that may be read-only are served (`readonlymode.enabled`)
    pub read_only_mode: bool,
    /// `user:digest` of the one who may do everything (`DigestAuthenticationProvider.superDigest`)
    pub super_digest: Option<String>,
    /// when containers are removed
    pub containers: Containers,
    /// the admin server, if there is one
    pub admin: Option<Admin>,
    /// where Prometheus may ask, if anywhere
    pub metrics: Option<Metrics>,
    /// log entries between two snapshots
    pub snap_count: u64,
    /// four-letter words that are answered
    pub four_letter_words: Vec<String>,
    /// largest request, in bytes (`jute.maxbuffer`)
    pub max_request_bytes: usize,
    /// the port of the servers listens on all addresses, not only on those of this server's name
    pub listen_everywhere: bool,
    /// file with the secret of the ensemble
    pub peer_secret_file: Option<PathBuf>,
    /// what is in it, as it was at the start
    pub peer_secret: Option<Secret>,
    /// the file it was read from
    pub path: PathBuf,
}

/// Keys of ZooKeeper's that are accepted without effect.
const NOT_OBEYED: &[&str] = &[
    "dataLogDir",
    "initLimit",
    "syncLimit",
    "electionAlg",
    "autopurge.snapRetainCount",
    "autopurge.purgeInterval",
    "standaloneEnabled",
    "preAllocSize",
    "forceSync",
    "leaderServes",
    "serverCnxnFactory",
    "secureClientPort",
    "metricsProvider.className",
    "metricsProvider.exportJvmInfo",
    "metricsProvider.numWorkerThreads",
    "metricsProvider.maxQueueSize",
    "metricsProvider.workerShutdownTimeoutMs",
    "dynamicConfigFile",
    "cnxTimeout",
    "admin.idleTimeout",
    "admin.httpVersion",
    "admin.portUnification",
    "admin.forceHttps",
    "clientPortListenBacklog",
    "connectToLearnerMasterLimit",
    "digest.enabled",
    "snapshot.compression.method",
    "snapshot.trust.empty",
    "snapSizeLimitInKb",
    "txnLogSizeLimitInKb",
    "commitProcessor.numWorkerThreads",
    "nio.numSelectorThreads",
    "nio.numWorkerThreads",
    "maxResponseCacheSize",
    "maxGetChildrenResponseCacheSize",
    "largeRequestMaxBytes",
    "largeRequestThreshold",
    "globalOutstandingLimit",
    "observerMasterPort",
    "oraclePath",
    "portUnification",
    "quorum.cnxn.threads.size",
    "secureClientPortAddress",
    "sessionRequireClientSASLAuth",
    "sslQuorum",
    "sslQuorumReloadCertFiles",
    "syncEnabled",
    "tcpKeepAlive",
    "clientTcpKeepAlive",
    "fsync.warningthresholdms",
    "watchManagerName",
    "requestThrottleLimit",
    "localSessionsEnabled",
    "localSessionsUpgradingEnabled",
];

/// The provider of metrics that there is.
const PROMETHEUS: &str = "org.apache.zookeeper.metrics.prometheus.PrometheusMetricsProvider";

/// All four-letter words that this server knows.
pub const FOUR_LETTER_WORDS: &[&str] = &[
    "conf", "cons", "crst", "dirs", "dump", "envi", "gtmk", "hash", "isro", "mntr", "ruok", "srst", "srvr", "stat", "stmk", "wchc", "wchp",
    "wchs",
];

impl Config {
    /// Reads a configuration file and the `myid` beside its data. Returns warnings too.
    pub fn read(path: &Path) -> Result<(Self, Vec<String>), ConfigError> {
        let (mut config, mut warnings) = Self::from_properties(&Properties::read(path)?)?;
        if !config.members.is_empty() {
            let file = config.data_dir.join("myid");
            let text = std::fs::read_to_string(&file).map_err(|source| ConfigError::Read { path: file.clone(), source })?;
            let id = text.trim().parse().ok().filter(|id| (1..=255).contains(id));
            let bad = |reason: String| ConfigError::Value { path: file.clone(), line: 1, key: "myid".into(), reason };
            config.id = id.ok_or_else(|| bad(format!("{:?} is not a number from 1 to 255", text.trim())))?;
            if !config.members.contains_key(&config.id) {
                return Err(bad(format!("{} is not one of the servers in {}", config.id, path.display())));
            }
            if config.peer_type_observer.is_some_and(|observer| observer != config.is_observer()) {
                warnings.push(format!("{}: peerType is not the role in the line of server.{}, which counts", path.display(), config.id));
            }
        }
        if config.members.len() > 1 && config.peer_secret_file.is_none() {
            warnings.push(format!(
                "{}: peerSecretFile is not set: ANY HOST THAT REACHES THE PORT OF THE SERVERS CAN CHANGE AND DESTROY ALL DATA; \
                 set it to a file with the same secret on all servers",
                path.display()
            ));
        }
        if let Some(file) = &config.peer_secret_file {
            let bad = |reason| ConfigError::File { path: file.clone(), reason: format!("peerSecretFile: {reason}") };
            let secret = Secret::read(file).map_err(bad)?;
            config.peer_secret = Some(secret);
        }
        Ok((config, warnings))
    }

    /// Parses the text of `zoo.cfg`.
    pub fn parse(path: &Path, text: &str) -> Result<(Self, Vec<String>), ConfigError> {
        Self::from_properties(&Properties::parse(path, text)?)
    }

    fn from_properties(properties: &Properties) -> Result<(Self, Vec<String>), ConfigError> {
        let path = properties.path();
        let mut c = Self {
            id: 1,
            members: BTreeMap::new(),
            peer_type_observer: None,
            data_dir: PathBuf::new(),
            client_port: 0,
            client_address: "0.0.0.0".into(),
            tick_ms: 3000,
            min_session_timeout_ms: -1,
            max_session_timeout_ms: -1,
            max_client_connections: 60,
            max_connections: 0,
            extended_types: false,
            reconfig_enabled: false,
            skip_acl: false,
            enforce_quota: false,
            read_only_mode: false,
            super_digest: None,
            containers: Containers { check_interval_ms: 60_000, max_per_minute: 10_000, max_never_used_ms: 0 },
            admin: None,
            metrics: None,
            snap_count: 100_000,
            four_letter_words: vec!["srvr".into()],
            max_request_bytes: 0xf_ffff,
            listen_everywhere: false,
            peer_secret_file: None,
            peer_secret: None,
            path: path.into(),
        };
        let mut warnings = Vec::new();
        let mut admin = Admin { address: "0.0.0.0".into(), port: 8080, url: "/commands".into() };
        let mut with_admin = false;
        let mut metrics = Metrics { address: "0.0.0.0".into(), port: 7000 };
        let mut with_metrics = false;
        for entry in properties.all() {
            let (key, value) = (entry.key, entry.value);
            let bad = |reason: String| entry.bad(reason);
            let number = |min: i64, max: i64| entry.number(min, max);
            let yes = || match value.to_ascii_lowercase().as_str() {
                "yes" if key == "skipACL" => Ok(true),
                "no" if key == "skipACL" => Ok(false),
                _ => entry.boolean(),
            };
            // ZooKeeper makes a key that it does not know a system property with this prefix.
            match key.strip_prefix("zookeeper.").unwrap_or(key) {
                "maxCnxns" => c.max_connections = number(0, 10_000_000)? as usize,
                "extendedTypesEnabled" => c.extended_types = yes()?,
                "reconfigEnabled" => c.reconfig_enabled = yes()?,
                "skipACL" => c.skip_acl = yes()?,
                "enforceQuota" => c.enforce_quota = yes()?,
                "readonlymode.enabled" => c.read_only_mode = yes()?,
                "DigestAuthenticationProvider.superDigest" => c.super_digest = Some(value.into()).filter(|v: &String| !v.is_empty()),
                "znode.container.checkIntervalMs" => c.containers.check_interval_ms = number(1, 86_400_000)? as u64,
                "znode.container.maxPerMinute" => c.containers.max_per_minute = number(1, 1_000_000)? as u64,
                "znode.container.maxNeverUsedIntervalMs" => c.containers.max_never_used_ms = number(0, i64::MAX)?,
                "metricsProvider.className" if value == PROMETHEUS => with_metrics = true,
                "metricsProvider.httpHost" => metrics.address = value.into(),
                "metricsProvider.httpPort" => metrics.port = number(1, 65535)? as u16,
                "admin.enableServer" => with_admin = yes()?,
                "admin.serverPort" => admin.port = number(1, 65535)? as u16,
                "admin.serverAddress" => admin.address = value.into(),
                "admin.commandURL" if !value.starts_with('/') => return Err(bad("must begin with a slash".into())),
                "admin.commandURL" => admin.url = value.trim_end_matches('/').into(),
                "dataDir" if value.is_empty() => return Err(bad("is empty".into())),
                "dataDir" => c.data_dir = value.into(),
                "clientPort" => c.client_port = number(1, 65535)? as u16,
                "clientPortAddress" => c.client_address = value.into(),
                "tickTime" => c.tick_ms = number(100, 3_600_000)? as u64,
                "minSessionTimeout" => c.min_session_timeout_ms = number(-1, i32::MAX.into())? as i32,
                "maxSessionTimeout" => c.max_session_timeout_ms = number(-1, i32::MAX.into())? as i32,
                "maxClientCnxns" => c.max_client_connections = number(0, 1_000_000)? as usize,
                "snapCount" => c.snap_count = number(2, 100_000_000)? as u64,
                "jute.maxbuffer" => c.max_request_bytes = number(1024, 64 * 1024 * 1024)? as usize,
                "quorumListenOnAllIPs" => c.listen_everywhere = value.eq_ignore_ascii_case("true"),
                "peerSecretFile" if value.is_empty() => return Err(bad("is empty".into())),
                "peerSecretFile" => c.peer_secret_file = Some(value.into()),
                "4lw.commands.whitelist" => {
                    c.four_letter_words = match value {
                        "*" => FOUR_LETTER_WORDS.iter().map(|w| (*w).to_owned()).collect(),
                        list => list.split(',').map(|w| w.trim().to_owned()).filter(|w| !w.is_empty()).collect(),
                    };
                    for w in c.four_letter_words.iter().filter(|w| !FOUR_LETTER_WORDS.contains(&w.as_str())) {
                        warnings.push(format!("{}:{}: four-letter word {w:?} is not supported", path.display(), entry.line));
                    }
                }
                "peerType" => match value.to_ascii_lowercase().as_str() {
                    "observer" => c.peer_type_observer = Some(true),
                    "participant" => c.peer_type_observer = Some(false),
                    _ => return Err(bad("must be observer or participant".into())),
                },
                _ if key.starts_with("server.") => {
                    let id: u64 = key[7..]
                        .parse()
                        .ok()
                        .filter(|id| (1..=255).contains(id))
                        .ok_or_else(|| bad("the number must be 1 to 255".into()))?;
                    let member = members::parse(value).map_err(&bad)?;
                    if c.members.insert(id, member).is_some() {
                        return Err(bad("is given twice".into()));
                    }
                }
                _ if NOT_OBEYED.contains(&key) || key.starts_with("authProvider.") || key.starts_with("ssl.") => {
                    warnings.push(entry.warning("is known but has no effect here"));
                }
                _ => warnings.push(entry.warning("is not a known key")),
            }
        }
        c.admin = with_admin.then_some(admin);
        c.metrics = with_metrics.then_some(metrics);
        let missing = |reason: &str| properties.bad_file(reason);
        if c.data_dir.as_os_str().is_empty() {
            return Err(missing("dataDir is not set"));
        }
        if c.client_port == 0 {
            return Err(missing("clientPort is not set"));
        }
        if !c.members.is_empty() && c.members.values().all(|m| m.observer) {
            return Err(missing("all servers are observers: an ensemble needs participants"));
        }
        let tick = i32::try_from(c.tick_ms).unwrap_or(i32::MAX);
        if c.min_session_timeout_ms < 0 {
            c.min_session_timeout_ms = tick.saturating_mul(2);
        }
        if c.max_session_timeout_ms < 0 {
            c.max_session_timeout_ms = tick.saturating_mul(20);
        }
        if c.min_session_timeout_ms > c.max_session_timeout_ms {
            return Err(missing("minSessionTimeout is larger than maxSessionTimeout"));
        }
        Ok((c, warnings))
    }
}
