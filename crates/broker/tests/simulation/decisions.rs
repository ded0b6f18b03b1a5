//! What the core decides, changed where a planted bug says so.

use septet_broker::core::{
    controller::{Change, Cluster},
    elections::LeaderAndIsr,
};

use crate::{bugs::Bug, ctx::Ctx};

/// States that have to change.
pub fn repairs(cluster: &Cluster<()>, ctx: &Ctx) -> Vec<Change> {
    let mut changes = cluster.repairs(&|_| ctx.has(Bug::UncleanElection));
    for c in &mut changes {
        if ctx.has(Bug::LeaderEpochNotRaised) && c.replaces.is_some() {
            c.state.leader_epoch -= 1;
        }
        if ctx.has(Bug::IsrEmptied) && c.state.leader < 0 {
            c.state.isr.clear();
        }
    }
    if ctx.has(Bug::IsrEmptied) {
        for (name, p) in cluster.partitions() {
            let empty = p.stored.as_ref().filter(|s| s.state.isr.is_empty());
            let alive = p.replicas.iter().copied().find(|r| cluster.brokers.contains_key(r));
            if let (Some(s), Some(leader)) = (empty, alive) {
                let state = LeaderAndIsr { leader, leader_epoch: s.state.leader_epoch + 1, isr: vec![leader] };
                changes.push(Change { name, state, replaces: Some(s.version) });
            }
        }
    }
    changes
}

/// States that end reassignments.
pub fn finished_reassignments(cluster: &Cluster<()>, ctx: &Ctx) -> Vec<Change> {
    let mut changes = cluster.finished_reassignments();
    if ctx.has(Bug::ReassignedBeforeInSync) {
        changes = cluster
            .partitions()
            .filter(|(_, p)| p.reassigned())
            .filter_map(|(name, p)| {
                let s = p.stored.as_ref()?;
                let isr: Vec<i32> = p.target().into_iter().filter(|r| cluster.brokers.contains_key(r)).collect();
                let state = LeaderAndIsr { leader: *isr.first()?, leader_epoch: s.state.leader_epoch + 1, isr };
                Some(Change { name, state, replaces: Some(s.version) })
            })
            .collect();
    }
    changes
}
