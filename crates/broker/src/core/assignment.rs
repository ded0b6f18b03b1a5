//! Where the replicas of a new topic go, as Kafka's AdminUtils spreads them: leaders round-robin, followers with a shift that
//! changes with each round, and racks alternating where every broker has one.
//!
//! Invariant: a partition's replicas are different brokers, and in different racks as far as there are enough.

use std::collections::BTreeMap;

/// Replicas for `partitions` partitions. `start` and `shift` are where the round begins: random on a real cluster. `None` if there
/// are fewer brokers than replicas.
pub fn assign(
    brokers: &BTreeMap<i32, Option<String>>,
    partitions: usize,
    factor: usize,
    start: usize,
    mut shift: usize,
    first_partition: usize,
) -> Option<Vec<Vec<i32>>> {
    let n = brokers.len();
    if factor == 0 || factor > n {
        return None;
    }
    let racks = brokers.values().cloned().collect::<Option<Vec<String>>>();
    let Some(_) = racks.filter(|_| factor > 1) else {
        let ids: Vec<i32> = brokers.keys().copied().collect();
        let mut out = Vec::with_capacity(partitions);
        for p in first_partition..first_partition + partitions {
            if p > first_partition && p % n == 0 {
                shift += 1;
            }
            let first = (p + start) % n;
            let follower = |j: usize| ids[(first + 1 + (shift + j) % (n - 1).max(1)) % n];
            out.push(std::iter::once(ids[first]).chain((0..factor - 1).map(follower)).collect());
        }
        return Some(out);
    };
    let ids = alternate(brokers);
    let rack = |id: i32| brokers.get(&id).cloned().flatten().unwrap_or_default();
    let number_of_racks = ids.iter().map(|id| rack(*id)).collect::<std::collections::BTreeSet<_>>().len();
    let mut out = Vec::with_capacity(partitions);
    for p in first_partition..first_partition + partitions {
        if p > first_partition && p % n == 0 {
            shift += 1;
        }
        let first = (p + start) % n;
        let mut replicas = vec![ids[first]];
        let mut k = 0;
        while replicas.len() < factor {
            let id = ids[(first + 1 + (shift * number_of_racks + k) % (n - 1).max(1)) % n];
            k += 1;
            let racks: Vec<String> = replicas.iter().map(|r| rack(*r)).collect();
            let fresh_rack = !racks.contains(&rack(id)) || racks.iter().collect::<std::collections::BTreeSet<_>>().len() == number_of_racks;
            let even = replicas.len() >= number_of_racks || fresh_rack;
            // After a whole round any broker will do.
            if !replicas.contains(&id) && (even || k > 2 * n) {
                replicas.push(id);
            }
        }
        out.push(replicas);
    }
    Some(out)
}

/// Brokers so that neighbours are in different racks: one of each rack in turn.
fn alternate(brokers: &BTreeMap<i32, Option<String>>) -> Vec<i32> {
    let mut racks: BTreeMap<&str, std::collections::VecDeque<i32>> = BTreeMap::new();
    for (id, rack) in brokers {
        racks.entry(rack.as_deref().unwrap_or_default()).or_default().push_back(*id);
    }
    let mut out = Vec::with_capacity(brokers.len());
    while out.len() < brokers.len() {
        out.extend(racks.values_mut().filter_map(std::collections::VecDeque::pop_front));
    }
    out
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::{BTreeSet, HashMap};

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn as_kafka_spreads_them() {
        let brokers: BTreeMap<i32, Option<String>> = (0..5).map(|i| (i, None)).collect();
        // The example of AdminUtils: start 0, shift 0.
        let want = [[0, 1, 2], [1, 2, 3], [2, 3, 4], [3, 4, 0], [4, 0, 1], [0, 2, 3], [1, 3, 4], [2, 4, 0], [3, 0, 1], [4, 1, 2]];
        assert_eq!(assign(&brokers, 10, 3, 0, 0, 0).unwrap(), want);
        assert_eq!(assign(&brokers, 1, 6, 0, 0, 0), None);
        assert_eq!(assign(&BTreeMap::from([(7, None)]), 2, 1, 3, 0, 0).unwrap(), [[7], [7]]);
    }

    proptest! {
        #[test]
        fn replicas_are_apart_and_spread(n in 1usize..9, racks in 1usize..4, rackless: bool, factor in 1usize..5, start in 0usize..20, shift in 0usize..20) {
            let brokers: BTreeMap<i32, Option<String>> =
                (0..n).map(|i| (i as i32 * 3, (!rackless).then(|| format!("r{}", i % racks)))).collect();
            let Some(all) = assign(&brokers, n * 4, factor, start, shift, 0) else {
                prop_assert!(factor > n);
                return Ok(());
            };
            let mut leaders: HashMap<i32, usize> = HashMap::new();
            for replicas in &all {
                prop_assert_eq!(replicas.iter().collect::<BTreeSet<_>>().len(), factor);
                *leaders.entry(replicas[0]).or_default() += 1;
                if !rackless {
                    let used: BTreeSet<_> = replicas.iter().map(|r| brokers[r].clone()).collect();
                    prop_assert_eq!(used.len(), factor.min(racks.min(n)));
                }
            }
            prop_assert!(leaders.values().all(|c| *c == 4));
        }
    }
}
