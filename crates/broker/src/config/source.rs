//! Reads settings one by one: a value of the wrong form or out of range is an error that names file, line and key.

use std::time::Duration;

use septet_daemon::properties::Properties;

use super::{ConfigError, Listener};
use crate::groups::{GroupSettings, core};

/// A file's properties, read one by one: their types, ranges, and what must fit together.
pub(super) struct Source<'a>(pub(super) &'a Properties);

impl Source<'_> {
    pub(super) fn bad(&self, key: &str, reason: String) -> ConfigError {
        self.0.bad(key, reason)
    }
    pub(super) fn text(&self, key: &str) -> Option<String> {
        self.0.text(key).map(str::to_owned)
    }
    pub(super) fn number(&mut self, key: &'static str, min: i64, max: i64) -> Result<Option<i64>, ConfigError> {
        self.0.number(key, min, max)
    }
    pub(super) fn duration(&mut self, key: &'static str, min: i64, default: u64) -> Result<Duration, ConfigError> {
        Ok(self.0.milliseconds(key, min)?.unwrap_or(Duration::from_millis(default)))
    }
    pub(super) fn groups(&mut self) -> Result<GroupSettings, ConfigError> {
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
    pub(super) fn checked<T>(&mut self, key: &'static str, parse: impl Fn(&str) -> Result<T, String>) -> Result<Option<T>, ConfigError> {
        self.0.parsed(key, parse)
    }
    pub(super) fn boolean(&mut self, key: &'static str) -> Result<Option<bool>, ConfigError> {
        self.0.boolean(key)
    }
    /// There is one protocol so far; who asks for another one is not to be served in the clear.
    pub(super) fn protocols(&self, listeners: &[Listener]) -> Result<(), ConfigError> {
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
    pub(super) fn listeners(&mut self, key: &'static str, may_be_any: bool) -> Result<Option<Vec<Listener>>, ConfigError> {
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
