//! The keys: Kafka 3.9's, with types, defaults and what values they take.

use std::sync::LazyLock;

use super::{Refused, Settings};
use crate::{config, replica::RATES};

/// Type of a value, by DescribeConfigs' codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Kind {
    Boolean = 1,
    String = 2,
    Int = 3,
    Short = 4,
    Long = 5,
    Double = 6,
    List = 7,
    Class = 8,
    Password = 9,
}

/// A broker's key.
#[derive(Debug)]
pub struct BrokerKey {
    /// name
    pub name: &'static str,
    /// type
    pub kind: Kind,
    /// can be changed at run time
    pub dynamic: bool,
    /// value where none is set
    pub default: Option<&'static str>,
}

fn kind(word: &str) -> Kind {
    match word {
        "boolean" => Kind::Boolean,
        "int" => Kind::Int,
        "short" => Kind::Short,
        "long" => Kind::Long,
        "double" => Kind::Double,
        "list" => Kind::List,
        "class" => Kind::Class,
        "password" => Kind::Password,
        _ => Kind::String,
    }
}

static BROKER: LazyLock<Vec<BrokerKey>> = LazyLock::new(|| {
    let lines = include_str!("broker_keys.txt").lines().filter(|l| !l.starts_with('#'));
    let parse = |line: &'static str| {
        let mut words = line.splitn(4, ' ');
        let (name, word, dynamic) = (words.next()?, words.next()?, words.next()? == "dynamic");
        let default = words.next().map(|d| if d == "\"\"" { "" } else { d });
        Some(BrokerKey { name, kind: kind(word), dynamic, default })
    };
    let mut keys: Vec<BrokerKey> = lines.filter_map(parse).collect();
    // What the file may have and the list has not is described by its value alone.
    for name in config::OBEYED.iter().chain(config::NOT_OBEYED) {
        if !keys.iter().any(|k| k.name == *name) {
            keys.push(BrokerKey { name, kind: Kind::String, dynamic: false, default: None });
        }
    }
    keys.sort_unstable_by_key(|k| k.name);
    keys
});

/// A broker's key.
pub fn broker_key(name: &str) -> Option<&'static BrokerKey> {
    let at = BROKER.binary_search_by(|k| k.name.cmp(name)).ok()?;
    Some(&BROKER[at])
}

/// All of Kafka's keys, by name, and whether `server.properties` may have them here.
pub fn broker_keys() -> impl Iterator<Item = (&'static BrokerKey, bool)> {
    BROKER.iter().map(|k| (k, config::is_known(k.name)))
}

/// A topic's key.
#[derive(Debug)]
pub struct TopicKey {
    /// name
    pub name: &'static str,
    /// type
    pub kind: Kind,
    /// value where neither topic nor broker sets one
    pub default: &'static str,
    /// the broker's key that gives the value where the topic sets none
    pub broker: Option<&'static str>,
    /// smallest and largest number, or words that are allowed
    pub valid: Valid,
}

/// Values that are allowed.
#[derive(Debug, Clone, Copy)]
#[allow(missing_docs)]
pub enum Valid {
    Any,
    AtLeast(i64),
    Ratio,
    OneOf(&'static [&'static str]),
    /// `[0-9]+:[0-9]+` or `*`
    Replicas,
}

macro_rules! topic_keys {
    ($($name:literal $kind:ident $default:literal $broker:expr, $valid:expr;)*) => {
        &[$(TopicKey { name: $name, kind: Kind::$kind, default: $default, broker: $broker, valid: $valid }),*]
    };
}

const MAX: i64 = i64::MAX;
const CODECS: &[&str] = &["uncompressed", "zstd", "lz4", "snappy", "gzip", "producer"];

/// LogConfig.java
static TOPIC: &[TopicKey] = topic_keys! {
    "cleanup.policy" List "delete" Some("log.cleanup.policy"), Valid::OneOf(&["compact", "delete"]);
    "compression.gzip.level" Int "-1" Some("compression.gzip.level"), Valid::AtLeast(-1);
    "compression.lz4.level" Int "9" Some("compression.lz4.level"), Valid::AtLeast(1);
    "compression.type" String "producer" Some("compression.type"), Valid::OneOf(CODECS);
    "compression.zstd.level" Int "3" Some("compression.zstd.level"), Valid::AtLeast(-131_072);
    "delete.retention.ms" Long "86400000" Some("log.cleaner.delete.retention.ms"), Valid::AtLeast(0);
    "file.delete.delay.ms" Long "60000" Some("log.segment.delete.delay.ms"), Valid::AtLeast(0);
    "flush.messages" Long "9223372036854775807" Some("log.flush.interval.messages"), Valid::AtLeast(1);
    "flush.ms" Long "9223372036854775807" Some("log.flush.interval.ms"), Valid::AtLeast(0);
    "follower.replication.throttled.replicas" List "" None, Valid::Replicas;
    "index.interval.bytes" Int "4096" Some("log.index.interval.bytes"), Valid::AtLeast(0);
    "leader.replication.throttled.replicas" List "" None, Valid::Replicas;
    "local.retention.bytes" Long "-2" Some("log.local.retention.bytes"), Valid::AtLeast(-2);
    "local.retention.ms" Long "-2" Some("log.local.retention.ms"), Valid::AtLeast(-2);
    "max.compaction.lag.ms" Long "9223372036854775807" Some("log.cleaner.max.compaction.lag.ms"), Valid::AtLeast(1);
    "max.message.bytes" Int "1048588" Some("message.max.bytes"), Valid::AtLeast(0);
    "message.downconversion.enable" Boolean "true" Some("log.message.downconversion.enable"), Valid::Any;
    "message.format.version" String "3.0-IV1" Some("log.message.format.version"), Valid::Any;
    "message.timestamp.after.max.ms" Long "9223372036854775807" Some("log.message.timestamp.after.max.ms"), Valid::AtLeast(0);
    "message.timestamp.before.max.ms" Long "9223372036854775807" Some("log.message.timestamp.before.max.ms"), Valid::AtLeast(0);
    "message.timestamp.difference.max.ms" Long "9223372036854775807" Some("log.message.timestamp.difference.max.ms"), Valid::AtLeast(0);
    "message.timestamp.type" String "CreateTime" Some("log.message.timestamp.type"), Valid::OneOf(&["CreateTime", "LogAppendTime"]);
    "min.cleanable.dirty.ratio" Double "0.5" Some("log.cleaner.min.cleanable.ratio"), Valid::Ratio;
    "min.compaction.lag.ms" Long "0" Some("log.cleaner.min.compaction.lag.ms"), Valid::AtLeast(0);
    "min.insync.replicas" Int "1" Some("min.insync.replicas"), Valid::AtLeast(1);
    "preallocate" Boolean "false" Some("log.preallocate"), Valid::Any;
    "remote.log.copy.disable" Boolean "false" None, Valid::Any;
    "remote.log.delete.on.disable" Boolean "false" None, Valid::Any;
    "remote.storage.enable" Boolean "false" None, Valid::Any;
    "retention.bytes" Long "-1" Some("log.retention.bytes"), Valid::Any;
    "retention.ms" Long "604800000" Some("log.retention.ms"), Valid::AtLeast(-1);
    "segment.bytes" Int "1073741824" Some("log.segment.bytes"), Valid::AtLeast(14);
    "segment.index.bytes" Int "10485760" Some("log.index.size.max.bytes"), Valid::AtLeast(4);
    "segment.jitter.ms" Long "0" Some("log.roll.jitter.ms"), Valid::AtLeast(0);
    "segment.ms" Long "604800000" Some("log.roll.ms"), Valid::AtLeast(1);
    "unclean.leader.election.enable" Boolean "false" Some("unclean.leader.election.enable"), Valid::Any;
};

/// All keys of topics, by name.
pub fn topic_keys() -> &'static [TopicKey] {
    TOPIC
}

/// A topic's key.
pub fn topic_key(name: &str) -> Option<&'static TopicKey> {
    TOPIC.iter().find(|k| k.name == name)
}

/// What is wrong with a value, in Kafka's words (ConfigDef.java).
fn wrong(name: &str, kind: Kind, valid: Valid, value: &str) -> Option<String> {
    let text = value.trim();
    let say = |value: &str, why: &str| Some(format!("Invalid value {value} for configuration {name}: {why}"));
    let number = |max: i64, word: &str| match text.parse::<i64>() {
        Ok(n) if (-max - 1..=max).contains(&n) => match valid {
            Valid::AtLeast(min) if n < min => say(text, &format!("Value must be at least {min}")),
            _ => None,
        },
        _ => say(value, &format!("Not a number of type {word}")),
    };
    match kind {
        Kind::Int => number(i32::MAX.into(), "INT"),
        Kind::Short => number(i16::MAX.into(), "SHORT"),
        Kind::Long => number(MAX, "LONG"),
        Kind::Boolean if !["true", "false"].contains(&text.to_ascii_lowercase().as_str()) => {
            say(value, "Expected value to be either true or false")
        }
        Kind::Double => match text.parse::<f64>() {
            Ok(n) if matches!(valid, Valid::Ratio) && n < 0.0 => say(text, "Value must be at least 0"),
            Ok(n) if matches!(valid, Valid::Ratio) && n > 1.0 => say(text, "Value must be no more than 1"),
            Ok(n) if n.is_finite() => None,
            _ => say(value, "Not a number of type DOUBLE"),
        },
        _ => {
            let mut items = text.split(',').map(str::trim).filter(|_| kind == Kind::List && !text.is_empty());
            let one_of = |item: &str, words: &[&str]| {
                (!words.contains(&item)).then(|| say(item, &format!("String must be one of: {}", words.join(", ")))).flatten()
            };
            match valid {
                Valid::OneOf(words) if kind == Kind::List => items.find_map(|i| one_of(i, words)),
                Valid::OneOf(words) => one_of(text, words),
                Valid::Replicas => {
                    let digits = |w: &str| !w.is_empty() && w.bytes().all(|b| b.is_ascii_digit());
                    let good = |i: &str| i.split_once(':').is_some_and(|(p, b)| digits(p) && digits(b));
                    let all = text.is_empty() || text == "*" || items.all(good);
                    (!all).then(|| say(value, "Must be the literal '*' or a list of replicas in the form partition:broker")).flatten()
                }
                _ => None,
            }
        }
    }
}

/// Whether a topic may have these settings.
pub fn check_topic(settings: &Settings) -> Result<(), Refused> {
    for name in settings.keys() {
        if topic_key(name).is_none() {
            return Err(Refused::Config(format!("Unknown topic config name: {name}")));
        }
    }
    for (name, value) in settings {
        if let Some(why) = topic_key(name).and_then(|k| wrong(name, k.kind, k.valid, value)) {
            return Err(Refused::Config(why));
        }
    }
    Ok(())
}

/// Whether a broker may be given these settings at run time.
pub fn check_broker(settings: &Settings) -> Result<(), Refused> {
    let fixed: Vec<&str> = settings.keys().filter(|name| !broker_key(name).is_some_and(|k| k.dynamic)).map(String::as_str).collect();
    if !fixed.is_empty() {
        return Err(Refused::Request(format!("Cannot update these configs dynamically: Set({})", fixed.join(", "))));
    }
    if let Some(name) = settings.keys().find(|name| broker_key(name).is_some_and(|k| k.kind == Kind::Password)) {
        // They would lie in the coordinator as they are.
        return Err(Refused::Request(format!("Cannot keep {name}: passwords are not encrypted here")));
    }
    // Keys that give topics their values take what topics take.
    let valid = |name: &str| match TOPIC.iter().find(|t| t.broker == Some(name)) {
        Some(key) => key.valid,
        None if RATES.contains(&name) => Valid::AtLeast(0),
        None => Valid::Any,
    };
    for (name, value) in settings {
        if let Some(why) = broker_key(name).and_then(|k| wrong(name, k.kind, valid(name), value)) {
            return Err(Refused::Request(why));
        }
    }
    Ok(())
}
