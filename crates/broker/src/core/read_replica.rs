//! Which replica a consumer reads from (KIP-392).
//!
//! Invariant: a follower is named only if it is in sync and has the offset that is asked for; otherwise the leader serves.

/// A replica that could serve a fetch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Broker.
    pub id: i32,
    /// Log end, as the leader knows it.
    pub end: i64,
    /// Milliseconds since it last had everything; 0 for the leader.
    pub behind_ms: i64,
}

/// Chooses as Kafka's RackAwareReplicaSelector: the leader if it is in the reader's rack, else the follower there that has most, else
/// the leader. `rack` gives the rack of a living broker that has the reader's listener. `None` for the leader.
pub fn in_rack<'a>(wanted: &str, leader: i32, followers: &[Candidate], rack: impl Fn(i32) -> Option<&'a str>) -> Option<i32> {
    if wanted.is_empty() || rack(leader) == Some(wanted) {
        return None;
    }
    let near = followers.iter().filter(|f| rack(f.id) == Some(wanted));
    near.max_by_key(|f| (f.end, std::cmp::Reverse(f.behind_ms), f.id)).map(|f| f.id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_that_has_most_is_chosen() {
        let rack = |id: i32| match id {
            1 => Some("a"),
            2..=4 => Some("b"),
            _ => None,
        };
        let follower = |id, end, behind_ms| Candidate { id, end, behind_ms };
        let all = [follower(2, 10, 5), follower(3, 12, 9), follower(4, 12, 3), follower(5, 99, 0)];
        let cases = [
            ("", 1, &all[..], None),
            ("a", 1, &all, None),
            ("b", 1, &all, Some(4)),
            ("b", 1, &all[..2], Some(3)),
            ("b", 2, &all, None),
            ("c", 1, &all, None),
            ("b", 1, &[], None),
            ("a", 2, &all, None),
        ];
        for (wanted, leader, followers, chosen) in cases {
            assert_eq!(in_rack(wanted, leader, followers, rack), chosen, "{wanted:?} {leader} {followers:?}");
        }
        assert_eq!(in_rack("b", 1, &[follower(2, 7, 1), follower(3, 7, 1)], rack), Some(3), "of equals, the one with the largest number");
    }
}
