//! Which replica leads: the elections of Kafka's Election.scala, for one partition.
//!
//! Invariant: but for an unclean election, a leader is a living member of the ISR. A state that results has a higher leader
//! epoch than the one before it.

/// Leader and in-sync replicas, as they are in a partition's znode.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaderAndIsr {
    /// Leader, -1 for none.
    pub leader: i32,
    /// Counts leaderships.
    pub leader_epoch: i32,
    /// In-sync replicas.
    pub isr: Vec<i32>,
}

/// What is known of brokers when an election is held.
pub struct Brokers<'a> {
    /// Whether a broker is registered and its replica of this partition usable.
    pub alive: &'a dyn Fn(i32) -> bool,
    /// Whether a broker is stopping.
    pub stopping: &'a dyn Fn(i32) -> bool,
}

impl Brokers<'_> {
    fn serves(&self, id: i32) -> bool {
        (self.alive)(id) && !(self.stopping)(id)
    }
}

fn next(now: &LeaderAndIsr, leader: i32, isr: Vec<i32>) -> LeaderAndIsr {
    LeaderAndIsr { leader, leader_epoch: now.leader_epoch + 1, isr }
}

/// The first state of a partition; none while no replica is alive.
pub fn first(replicas: &[i32], brokers: &Brokers<'_>) -> Option<LeaderAndIsr> {
    let isr: Vec<i32> = replicas.iter().copied().filter(|r| (brokers.alive)(*r)).collect();
    let leader = isr.iter().copied().find(|r| brokers.serves(*r)).or(isr.first().copied())?;
    Some(LeaderAndIsr { leader, leader_epoch: 0, isr })
}

/// The state after brokers have died, come back, or begun to stop; none if the one that is there may stay. With `unclean`, a replica
/// that is not in sync may lead if no other can.
pub fn repair(now: &LeaderAndIsr, replicas: &[i32], brokers: &Brokers<'_>, unclean: bool) -> Option<LeaderAndIsr> {
    let leader_stays = now.leader >= 0 && (brokers.alive)(now.leader) && now.isr.contains(&now.leader);
    let stopping = leader_stays && (brokers.stopping)(now.leader);
    let in_sync = |serves: &dyn Fn(i32) -> bool| replicas.iter().copied().find(|r| now.isr.contains(r) && serves(*r));
    let leader = if leader_stays && !stopping {
        now.leader
    } else {
        match in_sync(&|r| brokers.serves(r)).or_else(|| in_sync(&|r| (brokers.alive)(r))) {
            Some(r) => r,
            None if unclean => match replicas.iter().copied().find(|r| brokers.serves(*r)) {
                // What it has is all that is left.
                Some(r) => return Some(next(now, r, vec![r])),
                None => -1,
            },
            None => -1,
        }
    };
    if leader < 0 {
        // Its ISR stays: only a member of it has all that was acknowledged.
        return (now.leader >= 0).then(|| next(now, -1, now.isr.clone()));
    }
    // Without a leader, every member was dead: one that came back may have lost records in a power cut, and has to catch up first.
    let stays = |r: i32| r == leader || now.leader >= 0 && brokers.serves(r);
    let isr: Vec<i32> = now.isr.iter().copied().filter(|r| stays(*r)).collect();
    (leader != now.leader || isr != now.isr).then(|| next(now, leader, isr))
}

/// The state in which the preferred replica leads; none if it does, or cannot.
pub fn preferred(now: &LeaderAndIsr, replicas: &[i32], brokers: &Brokers<'_>) -> Option<LeaderAndIsr> {
    let first = *replicas.first()?;
    let can = first != now.leader && now.leader >= 0 && now.isr.contains(&first) && brokers.serves(first);
    can.then(|| next(now, first, now.isr.clone()))
}

/// The state once all of the `target` replicas of a reassignment are in sync: a leader among them, and none but them in the ISR.
pub fn reassigned(now: &LeaderAndIsr, target: &[i32], brokers: &Brokers<'_>) -> Option<LeaderAndIsr> {
    if !target.iter().all(|r| now.isr.contains(r)) {
        return None;
    }
    let isr: Vec<i32> = now.isr.iter().copied().filter(|r| target.contains(r)).collect();
    let leader = if target.contains(&now.leader) && (brokers.alive)(now.leader) {
        now.leader
    } else {
        target.iter().copied().find(|r| brokers.serves(*r))?
    };
    Some(next(now, leader, isr))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(leader: i32, leader_epoch: i32, isr: &[i32]) -> LeaderAndIsr {
        LeaderAndIsr { leader, leader_epoch, isr: isr.to_vec() }
    }

    /// State, brokers alive, brokers that stop, whether unclean elections are allowed, state afterwards.
    type Case<'a> = (LeaderAndIsr, &'a [i32], &'a [i32], bool, Option<LeaderAndIsr>);

    #[test]
    fn leaders_are_living_in_sync_replicas() {
        let cases: &[Case<'_>] = &[
            (state(1, 0, &[1, 2]), &[1, 2, 3], &[], false, None),
            // A leader dies; a follower dies.
            (state(1, 0, &[1, 2]), &[2, 3], &[], false, Some(state(2, 1, &[2]))),
            (state(1, 0, &[1, 2, 3]), &[1, 3], &[], false, Some(state(1, 1, &[1, 3]))),
            // The last in-sync replica dies, nobody else may lead; it comes back.
            (state(1, 3, &[1]), &[2, 3], &[], false, Some(state(-1, 4, &[1]))),
            (state(-1, 4, &[1]), &[2, 3], &[], false, None),
            (state(-1, 4, &[1]), &[1, 2, 3], &[], false, Some(state(1, 5, &[1]))),
            (state(-1, 4, &[1]), &[2, 3], &[], true, Some(state(2, 5, &[2]))),
            // All in-sync replicas died and came back: the others join when they have caught up with the leader.
            (state(1, 3, &[1, 2]), &[3], &[], false, Some(state(-1, 4, &[1, 2]))),
            (state(-1, 4, &[1, 2]), &[1, 2, 3], &[], false, Some(state(1, 5, &[1]))),
            (state(1, 3, &[1]), &[], &[], true, Some(state(-1, 4, &[1]))),
            // Controlled stop of a leader, of a follower, of the only one in sync.
            (state(1, 0, &[1, 2, 3]), &[1, 2, 3], &[1], false, Some(state(2, 1, &[2, 3]))),
            (state(1, 0, &[1, 2, 3]), &[1, 2, 3], &[2], false, Some(state(1, 1, &[1, 3]))),
            (state(1, 0, &[1]), &[1, 2, 3], &[1], true, None),
            // The leader dies while the other one stops.
            (state(1, 0, &[1, 2]), &[2, 3], &[2], false, Some(state(2, 1, &[2]))),
        ];
        for (now, alive, stopping, unclean, want) in cases {
            let brokers = Brokers { alive: &|id| alive.contains(&id), stopping: &|id| stopping.contains(&id) };
            assert_eq!(repair(now, &[1, 2, 3], &brokers, *unclean), *want, "{now:?}, alive {alive:?}, stopping {stopping:?}");
        }
    }

    #[test]
    fn first_preferred_and_reassigned() {
        let all = Brokers { alive: &|id| id != 4, stopping: &|id| id == 3 };
        assert_eq!(first(&[4, 3, 2, 1], &all), Some(state(2, 0, &[3, 2, 1])));
        assert_eq!(first(&[3], &all), Some(state(3, 0, &[3])));
        assert_eq!(first(&[4], &all), None);
        assert_eq!(preferred(&state(2, 5, &[1, 2]), &[1, 2], &all), Some(state(1, 6, &[1, 2])));
        for (now, replicas) in [(state(1, 5, &[1, 2]), [1, 2]), (state(2, 5, &[2]), [1, 2]), (state(2, 5, &[2, 3]), [3, 2])] {
            assert_eq!(preferred(&now, &replicas, &all), None);
        }
        assert_eq!(reassigned(&state(1, 5, &[1, 2, 5]), &[2, 5], &all), Some(state(2, 6, &[2, 5])));
        assert_eq!(reassigned(&state(1, 5, &[1, 2]), &[2, 5], &all), None);
    }
}
