//! How many partitions there may be: a limit for those that clients cause by naming a topic, and one per broker.
//!
//! Invariant: a topic that was written to the coordinator counts from then on, also before the image shows it.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use kafka_protocol::ResponseError;

use super::{
    Image,
    topics::{Refusal, is_internal},
};

/// A topic that does not appear in the image within this time was not made after all.
const UNSEEN: Duration = Duration::from_secs(60);

/// Topics by name: since when they are let through, and their assignments.
type Unseen = HashMap<String, (Instant, Vec<Vec<i32>>)>;

/// Topics that were let through and are not in the image yet.
#[derive(Debug, Default)]
pub struct Quota {
    unseen: Mutex<Unseen>,
}

/// The limits, with the keys of the configuration that set them.
#[derive(Debug, Clone, Copy)]
pub struct PartitionLimits {
    /// `septet.auto.create.max.partitions`
    pub auto_created: usize,
    /// `septet.max.partitions.per.broker`
    pub per_broker: usize,
}

impl Quota {
    fn unseen(&self) -> MutexGuard<'_, Unseen> {
        self.unseen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets a topic through, or says which limit it would exceed. Kafka's own topics are always let through: there are
    /// few, and groups need them.
    pub fn reserve(
        &self,
        image: &Image,
        limits: PartitionLimits,
        name: &str,
        assignment: &[Vec<i32>],
        automatic: bool,
    ) -> Result<(), Refusal> {
        if is_internal(name) {
            return Ok(());
        }
        let mut unseen = self.unseen();
        unseen.retain(|name, (since, _)| since.elapsed() < UNSEEN && !image.topics.contains_key(name));
        let policy = |text: String| Err((ResponseError::PolicyViolation, text));
        let known = image.topics.iter().filter(|(name, _)| !is_internal(name)).map(|(_, t)| t.partitions.len()).sum::<usize>();
        let all = known + unseen.values().map(|(_, a)| a.len()).sum::<usize>();
        if automatic && all + assignment.len() > limits.auto_created {
            return policy(format!(
                "the cluster has {all} partitions, and topics are created automatically up to {} (septet.auto.create.max.partitions)",
                limits.auto_created
            ));
        }
        // Few brokers and many partitions: a list is quicker than a map.
        let mut brokers: Vec<(i32, usize)> = Vec::new();
        for id in assignment.iter().flatten() {
            match brokers.iter_mut().find(|(b, _)| b == id) {
                Some((_, n)) => *n += 1,
                None => brokers.push((*id, 1)),
            }
        }
        let replicas = image.topics.values().flat_map(|t| t.partitions.values().flat_map(|p| &p.replicas));
        for id in replicas.chain(unseen.values().flat_map(|(_, a)| a.iter().flatten())) {
            if let Some((_, n)) = brokers.iter_mut().find(|(b, _)| b == id) {
                *n += 1;
            }
        }
        if let Some((id, n)) = brokers.iter().find(|(_, n)| *n > limits.per_broker) {
            return policy(format!(
                "broker {id} would have {n} partitions, and it may have {} (septet.max.partitions.per.broker)",
                limits.per_broker
            ));
        }
        unseen.insert(name.to_owned(), (Instant::now(), assignment.to_vec()));
        Ok(())
    }

    /// The topic was not made.
    pub fn release(&self, name: &str) {
        self.unseen().remove(name);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::Arc;

    use super::*;
    use crate::cluster::{PartitionInfo, TopicInfo};

    fn image(topics: &[(&str, i32, usize)]) -> Image {
        let mut image = Image::default();
        for (name, broker, partitions) in topics {
            let info = PartitionInfo { replicas: vec![*broker], leader: *broker, leader_epoch: 0, isr: vec![*broker], offline: Vec::new() };
            let partitions = (0..*partitions as i32).map(|p| (p, info.clone())).collect();
            image.topics.insert((*name).to_owned(), Arc::new(TopicInfo { partitions, ..TopicInfo::default() }));
        }
        image
    }

    #[test]
    fn topics_count_before_and_after_they_are_seen() {
        let quota = Quota::default();
        let limits = PartitionLimits { auto_created: 10, per_broker: 8 };
        let on = |broker: i32, n: usize| vec![vec![broker]; n];
        let now = image(&[("a", 1, 4), ("__consumer_offsets", 1, 2)]);
        assert_eq!(quota.reserve(&now, limits, "b", &on(2, 4), true), Ok(()));
        let (code, text) = quota.reserve(&now, limits, "c", &on(2, 3), true).unwrap_err();
        assert_eq!(code, ResponseError::PolicyViolation);
        assert!(text.starts_with("the cluster has 8 partitions") && text.contains("up to 10"), "{text}");
        // What an administrator asks for is bounded by brokers only.
        let (_, text) = quota.reserve(&now, limits, "c", &on(1, 3), false).unwrap_err();
        assert!(text.starts_with("broker 1 would have 9 partitions, and it may have 8"), "{text}");
        assert_eq!(quota.reserve(&now, limits, "c", &on(2, 4), false), Ok(()));
        quota.release("c");
        // Now it is seen: it counts once.
        let now = image(&[("a", 1, 4), ("b", 2, 4)]);
        assert_eq!(quota.reserve(&now, limits, "d", &on(3, 2), true), Ok(()));
        assert!(quota.reserve(&now, limits, "e", &on(3, 1), true).is_err());
        assert_eq!(quota.reserve(&now, limits, "__consumer_offsets", &on(1, 50), true), Ok(()));
    }
}
