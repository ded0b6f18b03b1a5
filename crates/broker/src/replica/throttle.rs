//! Throttles of replication, for reassignments: `leader.replication.throttled.rate` and `follower.replication.throttled.rate` of a broker,
//! and the replicas of topics that they are for (ReplicationQuotaManager.scala).
//!
//! Invariant: a replica in sync is never held back; without a rate nothing is.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{
        Mutex, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use crate::{configs::Settings, core::quota::Rate};

/// `leader.replication.throttled.rate` and the same of followers, among the settings of brokers.
pub const RATES: [&str; 2] = ["leader.replication.throttled.rate", "follower.replication.throttled.rate"];
/// The same of topics: which replicas.
pub const REPLICAS: [&str; 2] = ["leader.replication.throttled.replicas", "follower.replication.throttled.replicas"];

/// Replicas of a topic that are throttled on this broker.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Throttled {
    All,
    Some(BTreeSet<i32>),
}

impl Throttled {
    /// From `*`, or `partition:broker` with commas between. `None` for no replica here; what is not such a pair is left out.
    fn parse(value: &str, me: i32) -> Option<Self> {
        if value.trim() == "*" {
            return Some(Self::All);
        }
        let pair = |item: &str| {
            let (partition, broker) = item.trim().split_once(':')?;
            (broker.parse() == Ok(me)).then_some(())?;
            partition.parse().ok()
        };
        let partitions: BTreeSet<i32> = value.split(',').filter_map(pair).collect();
        (!partitions.is_empty()).then_some(Self::Some(partitions))
    }
}

/// One of the two sides: what this broker sends as a leader, or takes as a follower.
#[derive(Debug)]
pub struct Side {
    /// bytes a second; `u64::MAX` for no limit
    limit: AtomicU64,
    rate: Mutex<Rate>,
    topics: RwLock<HashMap<String, Throttled>>,
    begun: Instant,
}

impl Side {
    fn new() -> Self {
        Self { limit: AtomicU64::new(u64::MAX), rate: Mutex::default(), topics: RwLock::default(), begun: Instant::now() }
    }

    fn now(&self) -> i64 {
        i64::try_from(self.begun.elapsed().as_millis()).unwrap_or(i64::MAX)
    }

    fn limit(&self) -> Option<u64> {
        Some(self.limit.load(Ordering::Relaxed)).filter(|l| *l < u64::MAX)
    }

    /// Whether a partition's replication is measured and held back here.
    pub fn is_throttled(&self, topic: &str, partition: i32) -> bool {
        self.limit().is_some()
            && match self.topics.read().unwrap_or_else(PoisonError::into_inner).get(topic) {
                Some(Throttled::All) => true,
                Some(Throttled::Some(partitions)) => partitions.contains(&partition),
                None => false,
            }
    }

    /// Whether more than the limit went through in the last seconds.
    pub fn is_exceeded(&self) -> bool {
        let Some(limit) = self.limit() else { return false };
        let now = self.now();
        self.rate.lock().unwrap_or_else(PoisonError::into_inner).per_second(now) > limit as f64
    }

    /// Counts bytes of a throttled partition.
    pub fn record(&self, bytes: usize) {
        let now = self.now();
        self.rate.lock().unwrap_or_else(PoisonError::into_inner).record(bytes as u64, now);
    }

    fn set(&self, topic: &str, throttled: Option<Throttled>) {
        let mut topics = self.topics.write().unwrap_or_else(PoisonError::into_inner);
        match throttled {
            Some(throttled) => drop(topics.insert(topic.to_owned(), throttled)),
            None => drop(topics.remove(topic)),
        }
    }
}

/// Both sides of a broker.
#[derive(Debug)]
pub struct Throttles {
    me: i32,
    /// What this broker sends to followers.
    pub leader: Side,
    /// What this broker fetches.
    pub follower: Side,
}

impl Throttles {
    /// Without a limit.
    pub fn new(me: i32) -> Self {
        Self { me, leader: Side::new(), follower: Side::new() }
    }

    /// Takes a topic's settings.
    pub fn take_topic(&self, topic: &str, settings: &Settings) {
        for (side, key) in [&self.leader, &self.follower].into_iter().zip(REPLICAS) {
            side.set(topic, settings.get(key).and_then(|value| Throttled::parse(value, self.me)));
        }
    }

    /// Forgets a topic.
    pub fn forget(&self, topic: &str) {
        self.take_topic(topic, &Settings::new());
    }

    /// Takes what is set at run time for this broker, and for all brokers. As on Kafka the file has no such keys.
    pub fn take_rates(&self, broker: &Settings, default: &Settings) {
        for (side, key) in [&self.leader, &self.follower].into_iter().zip(RATES) {
            let rate = broker.get(key).or_else(|| default.get(key)).and_then(|v| v.trim().parse::<u64>().ok());
            // As large a number as a Long may have is no limit.
            let limit = rate.filter(|r| *r < i64::MAX as u64).unwrap_or(u64::MAX);
            side.limit.store(limit, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(pairs: &[(&str, &str)]) -> Settings {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn lists_name_replicas_of_this_broker() {
        let t = Throttles::new(7);
        t.take_rates(&settings(&[(RATES[0], "100")]), &settings(&[(RATES[0], "1"), (RATES[1], "5")]));
        t.take_topic("t", &settings(&[(REPLICAS[0], "0:7,1:8, 2:7"), (REPLICAS[1], "*")]));
        let throttled = |side: &Side| (0..4).filter(|p| side.is_throttled("t", *p)).collect::<Vec<_>>();
        assert_eq!((throttled(&t.leader), throttled(&t.follower)), (vec![0, 2], vec![0, 1, 2, 3]));
        assert!(!t.leader.is_throttled("other", 0));
        assert_eq!((t.leader.limit(), t.follower.limit()), (Some(100), Some(5)));
        t.take_topic("t", &settings(&[(REPLICAS[0], "0:8"), (REPLICAS[1], "")]));
        assert_eq!((throttled(&t.leader), throttled(&t.follower)), (vec![], vec![]));
        t.take_topic("t", &settings(&[(REPLICAS[1], "*")]));
        t.take_rates(&Settings::new(), &settings(&[(RATES[1], "9223372036854775807")]));
        assert!(throttled(&t.follower).is_empty(), "there is no limit any more");
    }

    #[test]
    fn a_limit_is_exceeded_until_time_has_passed() {
        let t = Throttles::new(1);
        t.leader.record(1_000_000);
        assert!(!t.leader.is_exceeded(), "no limit");
        t.take_rates(&settings(&[(RATES[0], "999999")]), &Settings::new());
        assert!(t.leader.is_exceeded() && !t.follower.is_exceeded());
        t.take_rates(&settings(&[(RATES[0], "1000000")]), &Settings::new());
        assert!(!t.leader.is_exceeded());
        t.take_rates(&settings(&[(RATES[0], "0")]), &Settings::new());
        t.follower.record(1);
        assert!(t.leader.is_exceeded());
    }
}
