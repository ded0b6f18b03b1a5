//! Settings of a topic: those that it was made with, over those of the broker.

use std::{collections::BTreeMap, time::Duration};

use crate::{
    config::Config,
    log::{Compaction, Limits, Retention},
    replica::REPLICAS,
};

/// What a partition of the topic goes by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TopicSettings {
    /// `segment.bytes`, `segment.ms`, `index.interval.bytes`
    pub limits: Limits,
    /// `max.message.bytes`
    pub max_message_bytes: usize,
    /// `retention.ms`, `retention.bytes`
    pub retention: Retention,
    /// `cleanup.policy` has `delete`
    pub deletes: bool,
    /// `cleanup.policy` has `compact`, and the settings for it
    pub compaction: Compaction,
    /// `message.timestamp.type` is `LogAppendTime`
    pub log_append_time: bool,
    /// `file.delete.delay.ms`
    pub delete_delay: Duration,
    /// `min.insync.replicas`
    pub min_insync_replicas: usize,
    /// `unclean.leader.election.enable`
    pub unclean_elections: bool,
}

/// Settings of topics that are kept without effect so far.
const NOT_OBEYED: &[&str] = &["compression.type", "flush.messages", "flush.ms", "preallocate", "segment.index.bytes", "segment.jitter.ms"];

fn number(value: &str, min: i64, max: i64) -> Result<i64, String> {
    match value.trim().parse::<i64>() {
        Ok(n) if (min..=max).contains(&n) => Ok(n),
        _ => Err(format!("{value:?} is not a number from {min} to {max}")),
    }
}

fn boolean(value: &str) -> Result<bool, String> {
    match value.trim().to_ascii_lowercase().as_str() {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err(format!("{value:?} is neither true nor false")),
    }
}

/// -1 is without a limit.
fn limit(n: i64) -> Option<i64> {
    (n >= 0).then_some(n)
}

/// Whether `cleanup.policy` deletes, and whether it compacts.
pub fn policy(value: &str) -> Result<(bool, bool), String> {
    let (mut deletes, mut compacts) = (false, false);
    for word in value.split(',').map(str::trim).filter(|w| !w.is_empty()) {
        match word {
            "delete" => deletes = true,
            "compact" => compacts = true,
            other => return Err(format!("{other:?} is neither delete nor compact")),
        }
    }
    Ok((deletes, compacts))
}

/// A part of one, in millionths.
pub fn millionths(value: &str) -> Result<u32, String> {
    match value.trim().parse::<f64>() {
        Ok(part) if (0.0..=1.0).contains(&part) => Ok((part * 1e6).round() as u32),
        _ => Err(format!("{value:?} is not a number from 0 to 1")),
    }
}

/// Whether timestamps are those of the log.
pub fn is_log_append_time(value: &str) -> Result<bool, String> {
    match value.trim() {
        "CreateTime" => Ok(false),
        "LogAppendTime" => Ok(true),
        other => Err(format!("{other:?} is neither CreateTime nor LogAppendTime")),
    }
}

/// What is wrong with a setting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wrong {
    /// there is no such key
    Key,
    /// the value
    Value(String),
}

impl TopicSettings {
    /// A broker's defaults.
    pub fn of(config: &Config) -> Self {
        Self {
            limits: Limits {
                segment_bytes: config.segment_bytes,
                index_interval_bytes: config.index_interval_bytes,
                segment_ms: config.segment_ms,
            },
            max_message_bytes: config.message_max_bytes,
            retention: config.retention,
            deletes: config.cleanup_deletes,
            compaction: config.compaction,
            log_append_time: config.log_append_time,
            delete_delay: config.segment_delete_delay,
            min_insync_replicas: config.min_insync_replicas,
            unclean_elections: config.unclean_elections,
        }
    }

    /// The same for `__consumer_offsets`: compacted, not deleted, in smaller segments, as on Kafka.
    pub fn of_offsets(self, config: &Config) -> Self {
        let limits = Limits { segment_bytes: config.offsets_segment_bytes.min(self.limits.segment_bytes), ..self.limits };
        Self { deletes: false, compaction: Compaction { enabled: true, ..self.compaction }, limits, ..self }
    }

    /// The same with a topic's settings. One that is wrong there is logged, and the broker's counts.
    pub fn with(mut self, topic: &str, settings: &BTreeMap<String, String>) -> Self {
        for (key, value) in settings {
            if let Err(Wrong::Value(why)) = self.set(key, value) {
                tracing::warn!("topic {topic}: {key}: {why}; the broker's setting counts");
            }
        }
        self
    }

    /// What a log keeps to: a segment is not open for longer than its records may wait for compaction (LogConfig.maxSegmentMs).
    pub fn log_limits(&self) -> Limits {
        let Compaction { enabled, max_lag_ms, .. } = self.compaction;
        let segment_ms = if enabled { self.limits.segment_ms.min(max_lag_ms) } else { self.limits.segment_ms };
        Limits { segment_ms, ..self.limits }
    }

    /// Sets one. Says whether it has an effect.
    pub fn set(&mut self, key: &str, value: &str) -> Result<bool, Wrong> {
        const MAX: i64 = i64::MAX;
        const INT: i64 = i32::MAX as i64;
        let parse = || -> Result<Self, String> {
            let mut new = *self;
            match key {
                "segment.bytes" => new.limits.segment_bytes = number(value, 14, INT)? as u32,
                "segment.ms" => new.limits.segment_ms = number(value, 1, MAX)?,
                "index.interval.bytes" => new.limits.index_interval_bytes = number(value, 0, INT)? as u32,
                "max.message.bytes" => new.max_message_bytes = number(value, 0, INT)? as usize,
                "retention.ms" => new.retention.ms = limit(number(value, -1, MAX)?),
                "retention.bytes" => new.retention.bytes = limit(number(value, -1, MAX)?).map(|n| n as u64),
                "file.delete.delay.ms" => new.delete_delay = Duration::from_millis(number(value, 0, MAX)? as u64),
                "min.insync.replicas" => new.min_insync_replicas = number(value, 1, INT)? as usize,
                "unclean.leader.election.enable" => new.unclean_elections = boolean(value)?,
                "cleanup.policy" => (new.deletes, new.compaction.enabled) = policy(value)?,
                "min.cleanable.dirty.ratio" => new.compaction.min_dirty_millionths = millionths(value)?,
                "min.compaction.lag.ms" => new.compaction.min_lag_ms = number(value, 0, MAX)?,
                "max.compaction.lag.ms" => new.compaction.max_lag_ms = number(value, 1, MAX)?,
                "delete.retention.ms" => new.compaction.delete_retention_ms = number(value, 0, MAX)?,
                "message.timestamp.type" => new.log_append_time = is_log_append_time(value)?,
                // Those of throttles are looked at by [`crate::replica::Throttles`].
                _ => {}
            }
            Ok(new)
        };
        if NOT_OBEYED.contains(&key) {
            return Ok(false);
        }
        let known = [
            "segment.bytes",
            "segment.ms",
            "index.interval.bytes",
            "max.message.bytes",
            "retention.ms",
            "retention.bytes",
            "file.delete.delay.ms",
            "cleanup.policy",
            "min.cleanable.dirty.ratio",
            "min.compaction.lag.ms",
            "max.compaction.lag.ms",
            "delete.retention.ms",
            "message.timestamp.type",
            "min.insync.replicas",
            "unclean.leader.election.enable",
            REPLICAS[0],
            REPLICAS[1],
        ];
        if !known.contains(&key) {
            return Err(Wrong::Key);
        }
        *self = parse().map_err(Wrong::Value)?;
        Ok(true)
    }
}

impl Default for TopicSettings {
    /// Kafka's defaults.
    fn default() -> Self {
        const WEEK_MS: i64 = 7 * 86_400_000;
        Self {
            limits: Limits { segment_bytes: 1 << 30, index_interval_bytes: 4096, segment_ms: WEEK_MS },
            max_message_bytes: 1_048_588,
            retention: Retention { ms: Some(WEEK_MS), bytes: None },
            deletes: true,
            compaction: Compaction::default(),
            log_append_time: false,
            delete_delay: Duration::from_secs(60),
            min_insync_replicas: 1,
            unclean_elections: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topics_settings_win_and_wrong_ones_are_told() {
        let mut s = TopicSettings::default();
        for (key, value) in [
            ("segment.bytes", "100"),
            ("segment.ms", "5"),
            ("retention.ms", "-1"),
            ("retention.bytes", "1000"),
            ("max.message.bytes", "10"),
            ("message.timestamp.type", "LogAppendTime"),
            ("file.delete.delay.ms", "0"),
            ("cleanup.policy", "delete"),
            ("index.interval.bytes", "0"),
            ("min.insync.replicas", "2"),
            ("unclean.leader.election.enable", "True"),
        ] {
            assert_eq!(s.set(key, value), Ok(true), "{key}");
        }
        let limits = Limits { segment_bytes: 100, index_interval_bytes: 0, segment_ms: 5 };
        let retention = Retention { ms: None, bytes: Some(1000) };
        let want = TopicSettings {
            limits,
            retention,
            max_message_bytes: 10,
            log_append_time: true,
            delete_delay: Duration::ZERO,
            min_insync_replicas: 2,
            unclean_elections: true,
            ..TopicSettings::default()
        };
        assert_eq!(s, want);
        assert_eq!(s.set("segment.jitter.ms", "2"), Ok(false));
        for (key, value) in [
            ("cleanup.policy", "compact"),
            ("min.cleanable.dirty.ratio", "0.25"),
            ("min.compaction.lag.ms", "1"),
            ("max.compaction.lag.ms", "2"),
            ("delete.retention.ms", "3"),
        ] {
            assert_eq!(s.set(key, value), Ok(true), "{key}");
        }
        let compaction = Compaction { enabled: true, min_dirty_millionths: 250_000, min_lag_ms: 1, max_lag_ms: 2, delete_retention_ms: 3 };
        assert_eq!((s.deletes, s.compaction), (false, compaction));
        assert_eq!((s.set("segment.ms", "10"), s.log_limits().segment_ms), (Ok(true), 2), "or the active segment would wait for longer");
        assert_eq!((s.set("cleanup.policy", "compact,delete"), s.deletes), (Ok(true), true));
        assert_eq!(s.set("retenttion.ms", "2"), Err(Wrong::Key));
        for (key, value) in [
            ("segment.bytes", "13"),
            ("segment.ms", "0"),
            ("retention.ms", "week"),
            ("cleanup.policy", "burn"),
            ("min.cleanable.dirty.ratio", "1.1"),
            ("min.cleanable.dirty.ratio", "NaN"),
            ("max.compaction.lag.ms", "0"),
            ("message.timestamp.type", "now"),
        ] {
            assert!(matches!(s.set(key, value), Err(Wrong::Value(_))), "{key}");
        }
    }
}
