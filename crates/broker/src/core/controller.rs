//! The controller's decisions: which states partitions should have, given brokers, topics and what leaders propose.
//!
//! Invariant: a [`Change`] names the version of the state that it replaces, so that it is written only on top of what it was decided on;
//! nothing here counts until [`Cluster::written`] says that it was.

use std::collections::{BTreeMap, BTreeSet};

use kafka_protocol::ResponseError;

use super::{
    elections::{self, Brokers, LeaderAndIsr},
    partition::Proposal,
};

/// A partition's name: topic and number.
pub type Name = (String, i32);

/// A registered broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registration<I> {
    /// Counts its registrations: the transaction that created its znode.
    pub epoch: i64,
    /// It has asked for a controlled shutdown.
    pub stopping: bool,
    /// Addresses and rack.
    pub info: I,
}

/// A state as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// Leader and ISR.
    pub state: LeaderAndIsr,
    /// Version of the znode.
    pub version: i32,
    /// Epoch of the controller that wrote it.
    pub controller_epoch: i32,
}

/// A partition.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Partition {
    /// Brokers with a replica, the preferred leader first; during a reassignment old and new ones.
    pub replicas: Vec<i32>,
    /// Replicas that a reassignment adds.
    pub adding: Vec<i32>,
    /// Replicas that a reassignment removes.
    pub removing: Vec<i32>,
    /// Its state, once it has one.
    pub stored: Option<Stored>,
}

impl Partition {
    /// The replicas that there are after the reassignment.
    pub fn target(&self) -> Vec<i32> {
        self.replicas.iter().copied().filter(|r| !self.removing.contains(r)).collect()
    }

    /// Whether it is being reassigned.
    pub fn reassigned(&self) -> bool {
        !self.adding.is_empty() || !self.removing.is_empty()
    }
}

/// A topic.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Topic {
    /// 128 bits in URL-safe base64.
    pub id: Option<String>,
    /// Version of the topic's znode.
    pub version: i32,
    /// It is being deleted: its partitions stay as they are.
    pub deleting: bool,
    /// By number.
    pub partitions: BTreeMap<i32, Partition>,
}

/// A state to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Which partition.
    pub name: Name,
    /// Its new state.
    pub state: LeaderAndIsr,
    /// Version of the state that is replaced; `None` for a partition's first.
    pub replaces: Option<i32>,
}

/// Brokers and topics, as the controller knows them.
#[derive(Debug, Clone)]
pub struct Cluster<I> {
    /// Living brokers.
    pub brokers: BTreeMap<i32, Registration<I>>,
    /// Topics by name.
    pub topics: BTreeMap<String, Topic>,
    /// Replicas whose log cannot be used: broker and partition.
    pub offline: BTreeSet<(i32, Name)>,
}

impl<I> Default for Cluster<I> {
    fn default() -> Self {
        Self { brokers: BTreeMap::new(), topics: BTreeMap::new(), offline: BTreeSet::new() }
    }
}

impl<I> Cluster<I> {
    /// A partition.
    pub fn partition(&self, name: &Name) -> Option<&Partition> {
        self.topics.get(&name.0)?.partitions.get(&name.1)
    }

    fn partition_mut(&mut self, name: &Name) -> Option<&mut Partition> {
        self.topics.get_mut(&name.0)?.partitions.get_mut(&name.1)
    }

    /// All partitions of topics that are not being deleted.
    pub fn partitions(&self) -> impl Iterator<Item = (Name, &Partition)> {
        let kept = self.topics.iter().filter(|(_, t)| !t.deleting);
        kept.flat_map(|(name, t)| t.partitions.iter().map(|(n, p)| ((name.clone(), *n), p)))
    }

    fn alive(&self, id: i32, name: &Name) -> bool {
        self.brokers.contains_key(&id) && (self.offline.is_empty() || !self.offline.contains(&(id, name.clone())))
    }

    fn with_brokers<T>(&self, name: &Name, decide: impl FnOnce(&Brokers<'_>) -> T) -> T {
        let alive = |id| self.alive(id, name);
        let stopping = |id| self.brokers.get(&id).is_some_and(|b| b.stopping);
        decide(&Brokers { alive: &alive, stopping: &stopping })
    }

    /// States that have to change because brokers came, went or stop. `unclean` says whether a topic allows unclean elections.
    pub fn repairs(&self, unclean: &dyn Fn(&str) -> bool) -> Vec<Change> {
        let one = |(name, p): (Name, &Partition)| {
            let change = self.with_brokers(&name, |brokers| match &p.stored {
                None => elections::first(&p.replicas, brokers),
                Some(s) => elections::repair(&s.state, &p.replicas, brokers, unclean(&name.0)),
            });
            change.map(|state| Change { state, replaces: p.stored.as_ref().map(|s| s.version), name })
        };
        self.partitions().filter_map(one).collect()
    }

    /// States that change because brokers registered anew after they were written, by `written`: the transaction that wrote each state. They
    /// are what they would be had those brokers died and not come back.
    pub fn repairs_of_bounced(&self, written: &BTreeMap<Name, i64>) -> Vec<Change> {
        let one = |(name, p): (Name, &Partition)| {
            let (stored, written) = (p.stored.as_ref()?, *written.get(&name)?);
            let bounced = |id: i32| self.brokers.get(&id).is_some_and(|b| b.epoch > written);
            if !stored.state.isr.iter().any(|r| bounced(*r)) {
                return None;
            }
            let alive = |id| self.alive(id, &name) && !bounced(id);
            let stopping = |id| self.brokers.get(&id).is_some_and(|b| b.stopping);
            let state = elections::repair(&stored.state, &p.replicas, &Brokers { alive: &alive, stopping: &stopping }, false)?;
            Some(Change { state, replaces: Some(stored.version), name })
        };
        self.partitions().filter_map(one).collect()
    }

    /// Partitions that have no leader although a replica is alive: where an unclean election could help.
    pub fn leaderless(&self) -> BTreeSet<String> {
        let dead = |(name, p): &(Name, &Partition)| {
            let led = p.stored.as_ref().is_none_or(|s| s.state.isr.iter().any(|r| self.alive(*r, name)));
            !led && p.replicas.iter().any(|r| self.alive(*r, name))
        };
        self.partitions().filter(dead).map(|(name, _)| name.0).collect()
    }

    /// The state in which the preferred replica leads a partition; none if it does already, or cannot.
    pub fn prefer(&self, name: &Name) -> Option<Change> {
        let p = self.partition(name)?;
        let stored = p.stored.as_ref()?;
        let state = self.with_brokers(name, |brokers| elections::preferred(&stored.state, &p.replicas, brokers))?;
        Some(Change { name: name.clone(), state, replaces: Some(stored.version) })
    }

    /// Preferred leaders of brokers that lead too few of the partitions which prefer them: more than `percentage` of 100 are led
    /// by others (`leader.imbalance.per.broker.percentage`).
    pub fn rebalance(&self, percentage: usize) -> Vec<Change> {
        let mut by_preferred: BTreeMap<i32, (usize, Vec<Name>)> = BTreeMap::new();
        for (name, p) in self.partitions() {
            let (Some(first), Some(stored)) = (p.replicas.first(), &p.stored) else { continue };
            // One that is being reassigned gets its leader when that is done.
            if p.reassigned() {
                continue;
            }
            let entry = by_preferred.entry(*first).or_default();
            entry.0 += 1;
            if stored.state.leader != *first {
                entry.1.push(name);
            }
        }
        let unbalanced = by_preferred.into_values().filter(|(all, others)| others.len() * 100 > all * percentage);
        unbalanced.flat_map(|(_, others)| others).filter_map(|name| self.prefer(&name)).collect()
    }

    /// An unclean election, if the partition has no leader and no in-sync replica is alive.
    pub fn force(&self, name: &Name) -> Option<Change> {
        let p = self.partition(name)?;
        let stored = p.stored.as_ref()?;
        let state = self.with_brokers(name, |brokers| elections::repair(&stored.state, &p.replicas, brokers, true))?;
        (stored.state.leader < 0 || !self.alive(stored.state.leader, name)).then(|| Change {
            name: name.clone(),
            state,
            replaces: Some(stored.version),
        })
    }

    /// Reassignments all of whose new replicas are in sync: the state that ends each.
    pub fn finished_reassignments(&self) -> Vec<Change> {
        let one = |(name, p): (Name, &Partition)| {
            let stored = p.stored.as_ref().filter(|_| p.reassigned())?;
            let state = self.with_brokers(&name, |brokers| elections::reassigned(&stored.state, &p.target(), brokers))?;
            Some(Change { state, replaces: Some(stored.version), name })
        };
        self.partitions().filter_map(one).collect()
    }

    /// Judges a leader's proposal. `Ok(None)`: the ISR is as proposed already. As KafkaController.processAlterPartition.
    pub fn judge(&self, from: i32, name: &Name, proposal: &Proposal) -> Result<Option<Change>, ResponseError> {
        let topic = self.topics.get(&name.0).filter(|t| !t.deleting).ok_or(ResponseError::UnknownTopicOrPartition)?;
        let p = topic.partitions.get(&name.1).ok_or(ResponseError::UnknownTopicOrPartition)?;
        let stored = p.stored.as_ref().ok_or(ResponseError::UnknownTopicOrPartition)?;
        if proposal.leader_epoch > stored.state.leader_epoch || proposal.partition_epoch > stored.version {
            // The leader knows of a newer state than this controller, which must have been replaced.
            return Err(ResponseError::NotController);
        }
        if proposal.leader_epoch < stored.state.leader_epoch {
            return Err(ResponseError::FencedLeaderEpoch);
        }
        let isr: Vec<i32> = proposal.isr.iter().map(|(id, _)| *id).collect();
        let set = |list: &[i32]| list.iter().copied().collect::<BTreeSet<i32>>();
        if set(&isr) == set(&stored.state.isr) {
            return Ok(None);
        }
        if proposal.partition_epoch < stored.version {
            return Err(ResponseError::InvalidUpdateVersion);
        }
        if from != stored.state.leader
            || !isr.contains(&from)
            || set(&isr).len() != isr.len()
            || isr.iter().any(|r| !p.replicas.contains(r))
        {
            return Err(ResponseError::InvalidRequest);
        }
        let eligible = |(id, epoch): &(i32, i64)| {
            let broker = self.brokers.get(id);
            *id == from || broker.is_some_and(|b| !b.stopping && (*epoch < 0 || *epoch == b.epoch)) && self.alive(*id, name)
        };
        if !proposal.isr.iter().all(eligible) {
            return Err(ResponseError::IneligibleReplica);
        }
        // The leadership goes on: its epoch stays.
        let state = LeaderAndIsr { isr, ..stored.state.clone() };
        Ok(Some(Change { name: name.clone(), state, replaces: Some(stored.version) }))
    }

    /// A change was written, and its znode has this version now.
    pub fn written(&mut self, change: &Change, version: i32, controller_epoch: i32) {
        if let Some(p) = self.partition_mut(&change.name) {
            p.stored = Some(Stored { state: change.state.clone(), version, controller_epoch });
        }
    }

    /// Partitions with other replicas that a broker leads: what a controlled shutdown waits for.
    pub fn led_by(&self, id: i32) -> Vec<Name> {
        let led = |(_, p): &(Name, &Partition)| p.replicas.len() > 1 && p.stored.as_ref().is_some_and(|s| s.state.leader == id);
        self.partitions().filter(led).map(|(name, _)| name).collect()
    }

    /// Partitions that a broker has a replica of.
    pub fn replicas_on(&self, id: i32) -> Vec<Name> {
        self.partitions().filter(|(_, p)| p.replicas.contains(&id)).map(|(name, _)| name).collect()
    }

    /// Begins a reassignment, or changes one that goes on; without a target, takes it back. Returns the partition as it is then, or
    /// `None` if nothing changes.
    pub fn reassign(&self, name: &Name, target: Option<&[i32]>) -> Result<Option<Partition>, ResponseError> {
        let topic = self.topics.get(&name.0).filter(|t| !t.deleting).ok_or(ResponseError::UnknownTopicOrPartition)?;
        let p = topic.partitions.get(&name.1).ok_or(ResponseError::UnknownTopicOrPartition)?;
        // What was there before the reassignment that goes on.
        let origin: Vec<i32> = p.replicas.iter().copied().filter(|r| !p.adding.contains(r)).collect();
        let Some(target) = target else {
            if !p.reassigned() {
                return Err(ResponseError::NoReassignmentInProgress);
            }
            // Of the old replicas one must be able to lead.
            let restored = p.stored.as_ref().is_none_or(|s| s.state.isr.iter().any(|r| origin.contains(r) && self.alive(*r, name)));
            if !restored {
                return Err(ResponseError::InvalidReplicaAssignment);
            }
            return Ok(Some(Partition { removing: p.adding.clone(), adding: Vec::new(), ..p.clone() }));
        };
        let distinct: BTreeSet<i32> = target.iter().copied().collect();
        if target.is_empty() || distinct.len() != target.len() || target.iter().any(|r| !self.brokers.contains_key(r)) {
            return Err(ResponseError::InvalidReplicaAssignment);
        }
        let adding: Vec<i32> = target.iter().copied().filter(|r| !origin.contains(r)).collect();
        let rest = origin.iter().chain(&p.replicas).copied().filter(|r| !target.contains(r));
        let mut replicas = target.to_vec();
        for r in rest {
            if !replicas.contains(&r) {
                replicas.push(r);
            }
        }
        let removing: Vec<i32> = replicas.iter().copied().filter(|r| !target.contains(r)).collect();
        let new = Partition { replicas, adding, removing, stored: p.stored.clone() };
        Ok((new != *p).then_some(new))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn cluster(brokers: &[i32], stored: Option<(i32, &[i32])>) -> Cluster<()> {
        let registration = |id: &i32| (*id, Registration { epoch: 100 + i64::from(*id), stopping: false, info: () });
        let stored = stored.map(|(leader, isr)| Stored {
            state: LeaderAndIsr { leader, leader_epoch: 5, isr: isr.to_vec() },
            version: 9,
            controller_epoch: 1,
        });
        let partition = Partition { replicas: vec![1, 2, 3], stored, ..Partition::default() };
        let topic = Topic { partitions: BTreeMap::from([(0, partition)]), ..Topic::default() };
        let topics = BTreeMap::from([("t".to_owned(), topic)]);
        Cluster { brokers: brokers.iter().map(registration).collect(), topics, ..Cluster::default() }
    }

    fn name() -> Name {
        ("t".into(), 0)
    }

    #[test]
    fn new_partitions_wait_for_a_replica() {
        assert_eq!(cluster(&[7], None).repairs(&|_| false), []);
        let changes = cluster(&[3, 7], None).repairs(&|_| false);
        assert_eq!(changes[0].state, LeaderAndIsr { leader: 3, leader_epoch: 0, isr: vec![3] });
        assert_eq!(changes[0].replaces, None);
    }

    /// Registrations 101, 102 and 103.
    #[test]
    fn who_registered_after_a_state_was_written_has_lost_its_place_in_it() {
        let state = |leader, isr: &[i32]| LeaderAndIsr { leader, leader_epoch: 6, isr: isr.to_vec() };
        let cases: [(i64, Option<LeaderAndIsr>); 4] =
            [(103, None), (102, Some(state(1, &[1, 2]))), (101, Some(state(1, &[1]))), (100, Some(state(-1, &[1, 2, 3])))];
        for (written, want) in cases {
            let c = cluster(&[1, 2, 3], Some((1, &[1, 2, 3])));
            let changes = c.repairs_of_bounced(&BTreeMap::from([(name(), written)]));
            assert_eq!(changes.into_iter().map(|c| c.state).next(), want, "{written}");
        }
        let c = cluster(&[1, 2, 3], Some((3, &[2, 3])));
        assert_eq!(c.repairs_of_bounced(&BTreeMap::from([(name(), 102)]))[0].state, state(2, &[2]));
        assert_eq!(c.repairs_of_bounced(&BTreeMap::new()), []);
    }

    #[test]
    fn an_offline_replica_does_not_lead() {
        let mut c = cluster(&[1, 2, 3], Some((1, &[1, 2])));
        c.offline.insert((1, name()));
        assert_eq!(c.repairs(&|_| false)[0].state, LeaderAndIsr { leader: 2, leader_epoch: 6, isr: vec![2] });
        c.topics.get_mut("t").unwrap().deleting = true;
        assert_eq!(c.repairs(&|_| false), []);
    }

    #[test]
    fn proposals_are_judged() {
        use ResponseError::*;
        let mut c = cluster(&[1, 2, 3], Some((1, &[1, 2])));
        c.brokers.get_mut(&3).unwrap().stopping = true;
        let proposal = |isr: &[(i32, i64)], leader_epoch, partition_epoch| Proposal { isr: isr.to_vec(), leader_epoch, partition_epoch };
        let cases = [
            (1, proposal(&[(1, -1), (2, 102)], 5, 8), Ok(None)),
            (1, proposal(&[(1, -1)], 5, 8), Err(InvalidUpdateVersion)),
            (1, proposal(&[(1, -1)], 5, 10), Err(NotController)),
            (1, proposal(&[(1, -1)], 6, 9), Err(NotController)),
            (1, proposal(&[(1, -1)], 4, 9), Err(FencedLeaderEpoch)),
            (2, proposal(&[(2, -1)], 5, 9), Err(InvalidRequest)),
            (1, proposal(&[(2, -1)], 5, 9), Err(InvalidRequest)),
            (1, proposal(&[(1, -1), (9, -1)], 5, 9), Err(InvalidRequest)),
            (1, proposal(&[(1, -1), (2, 102), (3, 103)], 5, 9), Err(IneligibleReplica)),
        ];
        for (from, p, want) in cases {
            assert_eq!(c.judge(from, &name(), &p), want, "{p:?}");
        }
        c.brokers.get_mut(&3).unwrap().stopping = false;
        let p = proposal(&[(1, -1), (2, 102), (3, 99)], 5, 9);
        assert_eq!(c.judge(1, &name(), &p), Err(IneligibleReplica), "it fetched in an earlier life");
        let p = proposal(&[(1, -1), (2, 102), (3, 103)], 5, 9);
        let change = c.judge(1, &name(), &p).unwrap().unwrap();
        assert_eq!((change.state.leader_epoch, change.replaces), (5, Some(9)));
        c.written(&change, 10, 2);
        assert_eq!(c.partition(&name()).unwrap().stored.as_ref().unwrap().version, 10);
    }

    #[test]
    fn a_reassignment_begins_changes_and_ends() {
        let mut c = cluster(&[1, 2, 3, 4, 5], Some((1, &[1, 2, 3])));
        let p = c.reassign(&name(), Some(&[4, 2])).unwrap().unwrap();
        assert_eq!((p.replicas.clone(), p.adding.clone(), p.removing.clone()), (vec![4, 2, 1, 3], vec![4], vec![1, 3]));
        *c.partition_mut(&name()).unwrap() = p;
        assert_eq!(c.reassign(&name(), Some(&[4, 2])), Ok(None));
        let other = c.reassign(&name(), Some(&[5, 2])).unwrap().unwrap();
        assert_eq!((other.replicas, other.adding, other.removing), (vec![5, 2, 1, 3, 4], vec![5], vec![1, 3, 4]));
        let back = c.reassign(&name(), None).unwrap().unwrap();
        assert_eq!((back.target(), back.adding.len()), (vec![2, 1, 3], 0));
        assert_eq!(c.finished_reassignments(), []);
        c.partition_mut(&name()).unwrap().stored.as_mut().unwrap().state.isr.push(4);
        let end = &c.finished_reassignments()[0];
        assert_eq!(end.state, LeaderAndIsr { leader: 4, leader_epoch: 6, isr: vec![2, 4] });
        assert_eq!(c.reassign(&name(), Some(&[9])), Err(ResponseError::InvalidReplicaAssignment));
        assert_eq!(c.reassign(&("u".into(), 0), None), Err(ResponseError::UnknownTopicOrPartition));
    }

    #[test]
    fn leaders_are_rebalanced_beyond_the_percentage() {
        let mut c = cluster(&[1, 2, 3], Some((2, &[1, 2])));
        assert_eq!(c.rebalance(10)[0].state.leader, 1);
        assert_eq!(c.rebalance(100), []);
        c.brokers.get_mut(&1).unwrap().stopping = true;
        assert_eq!(c.rebalance(10), []);
        assert_eq!(c.led_by(2), [name()]);
    }
}
