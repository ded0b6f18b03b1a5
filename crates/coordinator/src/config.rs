//! `zoo.cfg` and `myid`: each key is obeyed, or a warning says that it is not; a bad value names its line.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use septet_daemon::properties::Properties;

use crate::peer::secret::Secret;

pub use septet_daemon::properties::ConfigError;

/// A server of the ensemble.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// host name or address; resolved anew at each connection
    pub host: String,
    /// port for the servers among themselves
    pub port: u16,
}

/// The configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// this server's number; 1 when it stands alone
    pub id: u64,
    /// all servers by number; empty when it stands alone
    pub members: BTreeMap<u64, Member>,
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
    "admin.enableServer",
    "admin.serverPort",
    "admin.serverAddress",
    "maxCnxns",
    "standaloneEnabled",
    "reconfigEnabled",
    "peerType",
    "preAllocSize",
    "globalOutstandingLimit",
    "forceSync",
    "leaderServes",
    "serverCnxnFactory",
    "secureClientPort",
    "metricsProvider.className",
    "metricsProvider.httpPort",
    "dynamicConfigFile",
    "skipACL",
    "extendedTypesEnabled",
    "cnxTimeout",
    "localSessionsEnabled",
    "localSessionsUpgradingEnabled",
];

/// All four-letter words that this server knows.
pub const FOUR_LETTER_WORDS: &[&str] = &["ruok", "srvr", "stat", "mntr", "conf", "isro"];

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
            data_dir: PathBuf::new(),
            client_port: 0,
            client_address: "0.0.0.0".into(),
            tick_ms: 3000,
            min_session_timeout_ms: -1,
            max_session_timeout_ms: -1,
            max_client_connections: 60,
            snap_count: 100_000,
            four_letter_words: vec!["srvr".into()],
            max_request_bytes: 0xf_ffff,
            listen_everywhere: false,
            peer_secret_file: None,
            peer_secret: None,
            path: path.into(),
        };
        let mut warnings = Vec::new();
        for entry in properties.all() {
            let (key, value) = (entry.key, entry.value);
            let bad = |reason: String| entry.bad(reason);
            let number = |min: i64, max: i64| entry.number(min, max);
            match key {
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
                _ if key.starts_with("server.") => {
                    let id: u64 = key[7..]
                        .parse()
                        .ok()
                        .filter(|id| (1..=255).contains(id))
                        .ok_or_else(|| bad("the number must be 1 to 255".into()))?;
                    let member = parse_member(value).map_err(&bad)?;
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
        let missing = |reason: &str| properties.bad_file(reason);
        if c.data_dir.as_os_str().is_empty() {
            return Err(missing("dataDir is not set"));
        }
        if c.client_port == 0 {
            return Err(missing("clientPort is not set"));
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

/// `host:port:electionPort[:participant][;[address:]clientPort]`
fn parse_member(value: &str) -> Result<Member, String> {
    let form = "must be host:port:electionPort";
    let address = value.split(';').next().unwrap_or_default();
    let (host, rest) = match address.strip_prefix('[') {
        Some(v6) => v6.split_once("]:").ok_or(form)?,
        None => address.split_once(':').ok_or(form)?,
    };
    let mut parts = rest.split(':');
    let port = |p: Option<&str>| p.and_then(|p| p.parse::<u16>().ok()).filter(|p| *p > 0).ok_or(form);
    let first = port(parts.next())?;
    port(parts.next())?;
    match parts.next() {
        None | Some("participant") => {}
        Some("observer") => return Err("observers are not supported".into()),
        Some(other) => return Err(format!("{other:?} is not a role")),
    }
    if host.is_empty() {
        return Err(form.into());
    }
    Ok(Member { host: host.to_owned(), port: first })
}
