//! Settings as administrators see them: keys with types, defaults and sources, and how they are changed.
//!
//! Invariant: this module is pure: maps of text in, values out. What it accepts, the broker can read.

mod dynamic;
mod keys;

use std::collections::BTreeMap;

pub use dynamic::{Dynamic, DynamicConfig};
pub use keys::{BrokerKey, Kind, TopicKey, broker_key, broker_keys, check_broker, check_topic, topic_key, topic_keys};

/// Settings by key, as a znode or a file has them.
pub type Settings = BTreeMap<String, String>;

/// Where a value comes from, by DescribeConfigs' codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum From {
    Topic = 1,
    Broker = 2,
    DefaultBroker = 3,
    File = 4,
    Default = 5,
}

/// One value that a key has, or would have without those before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Synonym {
    /// the key, which may be another one with the same meaning
    pub key: String,
    /// its value
    pub value: String,
    /// where it is set
    pub from: From,
}

/// A key with its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Described {
    /// the key
    pub key: String,
    /// `None` where nothing is set and there is no default
    pub value: Option<String>,
    /// type
    pub kind: Kind,
    /// it can't be changed while the broker runs
    pub read_only: bool,
    /// where the value is set
    pub from: From,
    /// all values, the first is the one that counts
    pub synonyms: Vec<Synonym>,
}

/// A broker's settings by where they are set.
#[derive(Debug, Clone, Copy)]
pub struct Layers<'a> {
    /// `/config/brokers/N`
    pub broker: &'a Settings,
    /// `/config/brokers/<default>`
    pub default: &'a Settings,
    /// `server.properties`
    pub file: &'a Settings,
}

/// Keys that mean the same in other units, the finest first.
fn same(key: &str) -> &[&str] {
    const GROUPS: [&[&str]; 4] = [
        &["log.roll.ms", "log.roll.hours"],
        &["log.roll.jitter.ms", "log.roll.jitter.hours"],
        &["log.flush.interval.ms", "log.flush.scheduler.interval.ms"],
        &["log.retention.ms", "log.retention.minutes", "log.retention.hours"],
    ];
    let group = GROUPS.into_iter().find(|g| g.contains(&key));
    // As on Kafka, the flush scheduler's own key stands alone.
    group.filter(|_| key != "log.flush.scheduler.interval.ms").unwrap_or(&[])
}

/// All values of a broker's key (ConfigHelper.scala, `configSynonyms`).
fn synonyms(key: &str, layers: &Layers<'_>) -> Vec<Synonym> {
    let group = same(key);
    let one = [key];
    let keys = if group.is_empty() { &one[..] } else { group };
    let mut out = Vec::new();
    for (from, settings) in [(From::Broker, layers.broker), (From::DefaultBroker, layers.default), (From::File, layers.file)] {
        let set = keys.iter().filter_map(|k| Some((*k, settings.get(*k)?)));
        out.extend(set.map(|(k, v)| Synonym { key: k.to_owned(), value: v.clone(), from }));
    }
    let defaults = keys.iter().filter_map(|k| Some((*k, broker_key(k)?.default?)));
    out.extend(defaults.map(|(k, v)| Synonym { key: k.to_owned(), value: v.to_owned(), from: From::Default }));
    // Another key's values count only behind one of this key.
    out.into_iter().skip_while(|s| s.key != key).collect()
}

/// Describes a broker's keys: those that its file may have and those that are set at run time, or only those that are set for all
/// brokers.
pub fn describe_broker(layers: &Layers<'_>, defaults_only: bool) -> Vec<Described> {
    // Keys that the file may not have are described where they are set.
    let set = |name: &str| layers.default.contains_key(name) || (!defaults_only && layers.broker.contains_key(name));
    let keys = broker_keys().filter(|(k, known)| set(k.name) || (*known && !defaults_only)).map(|(k, _)| k);
    let describe = |key: &BrokerKey| {
        let mut synonyms = synonyms(key.name, layers);
        let value = if defaults_only { layers.default.get(key.name).cloned() } else { None };
        let own = synonyms.iter().find(|s| s.key == key.name).map(|s| s.value.clone());
        if defaults_only {
            synonyms.retain(|s| s.from == From::DefaultBroker);
        }
        Described {
            key: key.name.to_owned(),
            value: value.or(own),
            kind: key.kind,
            read_only: !key.dynamic,
            from: synonyms.first().map_or(From::Default, |s| s.from),
            synonyms,
        }
    };
    keys.map(describe).collect()
}

/// Describes a topic's keys. `effective` are the values that count where the topic sets none and the key has other units, such as
/// `log.retention.hours`.
pub fn describe_topic(topic: &Settings, layers: &Layers<'_>) -> Vec<Described> {
    topic_keys()
        .iter()
        .map(|key| {
            let own = topic.get(key.name).map(|v| Synonym { key: key.name.to_owned(), value: v.clone(), from: From::Topic });
            let inherited = key.broker.map(|k| synonyms(k, layers)).unwrap_or_default();
            let all: Vec<Synonym> = own.into_iter().chain(inherited).collect();
            let value = all.first().map(|s| s.value.clone()).or_else(|| other_units(key, layers));
            Described {
                key: key.name.to_owned(),
                value: Some(value.unwrap_or_else(|| key.default.to_owned())),
                kind: key.kind,
                read_only: false,
                from: all.first().map_or(From::Default, |s| s.from),
                synonyms: all,
            }
        })
        .collect()
}

/// The value of a topic's time in milliseconds, if the broker sets it in minutes or hours.
fn other_units(key: &TopicKey, layers: &Layers<'_>) -> Option<String> {
    let ms = key.broker?;
    for settings in [layers.broker, layers.default, layers.file] {
        for unit in same(ms) {
            if let Some(n) = settings.get(*unit).and_then(|v| v.trim().parse::<i64>().ok()) {
                let factor = match *unit {
                    u if u.ends_with(".hours") => 3_600_000,
                    u if u.ends_with(".minutes") => 60_000,
                    _ => 1,
                };
                return Some(if n < 0 { n } else { n.saturating_mul(factor) }.to_string());
            }
        }
    }
    None
}

/// How a key is changed, by IncrementalAlterConfigs' codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Operation {
    Set,
    Delete,
    Append,
    Subtract,
}

impl Operation {
    /// From its code.
    pub fn parse(code: i8) -> Option<Self> {
        [Self::Set, Self::Delete, Self::Append, Self::Subtract].get(usize::try_from(code).ok()?).copied()
    }
}

/// Why settings are not changed; a sentence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refused {
    /// the request asks for what makes no sense
    Request(String),
    /// there is no such key, or the value is wrong
    Config(String),
}

/// Changes settings. `current` gives the value of a list that is not set here.
pub fn alter(
    settings: &Settings,
    changes: &[(String, Operation, Option<String>)],
    kind: impl Fn(&str) -> Option<Kind>,
    current: impl Fn(&str) -> Option<String>,
) -> Result<Settings, Refused> {
    let mut out = settings.clone();
    let items = |v: &str| v.split(',').map(str::trim).filter(|i| !i.is_empty()).map(str::to_owned).collect::<Vec<_>>();
    for (i, (key, operation, value)) in changes.iter().enumerate() {
        if changes[..i].iter().any(|(k, ..)| k == key) {
            return Err(Refused::Request(format!("Error due to duplicate config keys : {key}")));
        }
        if *operation == Operation::Delete {
            out.remove(key);
            continue;
        }
        let Some(value) = value else {
            return Err(Refused::Request(format!("Null value not supported for : {key}")));
        };
        if *operation == Operation::Set {
            out.insert(key.clone(), value.clone());
            continue;
        }
        if kind(key) != Some(Kind::List) {
            return Err(Refused::Request(format!("Config value append is not allowed for config key: {key}")));
        }
        let mut list = items(&out.get(key).cloned().or_else(|| current(key)).unwrap_or_default());
        for item in items(value) {
            match operation {
                Operation::Append if !list.contains(&item) => list.push(item),
                Operation::Append => {}
                _ => list.retain(|l| *l != item),
            }
        }
        out.insert(key.clone(), list.join(","));
    }
    Ok(out)
}

#[cfg(test)]
mod tests;
