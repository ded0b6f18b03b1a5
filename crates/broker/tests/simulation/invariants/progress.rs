//! Once faults have ended, every partition gets a leader, a full ISR and equal logs, reassignments end, and producers go on.

use crate::facts::View;

/// What has not come to rest yet.
pub fn unsettled(view: &View<'_>, parts: usize, waiting_producer: Option<usize>) -> Option<String> {
    if let Some(i) = waiting_producer {
        return Some(format!("producer {i} waits"));
    }
    if let Some(b) = view.brokers.iter().find(|b| !b.up || !b.registered) {
        return Some(format!("broker {} is not registered", b.id));
    }
    for part in 0..parts {
        let placement = &view.znodes.tree.placements[part].0;
        if !placement.adding.is_empty() || !placement.removing.is_empty() {
            return Some(format!("partition {part} is being reassigned: {placement:?}, state {:?}", view.znodes.state(part)));
        }
        let Some(state) = view.znodes.state(part) else {
            return Some(format!("partition {part} has no state"));
        };
        let led = state.leader > 0 && view.broker(state.leader).parts.get(&part).is_some_and(|r| r.core.leads());
        if !led || state.isr.len() != placement.replicas.len() {
            return Some(format!("partition {part} of {:?} is not led and in sync: {state:?}", placement.replicas));
        }
        let leader = &view.broker(state.leader).parts[&part];
        for id in &placement.replicas {
            let Some(replica) = view.broker(*id).parts.get(&part) else {
                return Some(format!("broker {id} has no replica of {part}"));
            };
            let end = leader.log.end();
            let differs = (0..end).find(|o| replica.log.get(*o) != leader.log.get(*o));
            if replica.log.end() != end || differs.is_some() || replica.core.high_watermark() != end {
                let (has, hw) = (replica.log.end(), replica.core.high_watermark());
                return Some(format!("broker {id} has {has} of {end} records of {part}, {hw} committed; first difference {differs:?}"));
            }
        }
        if let Some(b) = view.brokers.iter().find(|b| !placement.replicas.contains(&b.id) && b.parts.contains_key(&part)) {
            return Some(format!("broker {} still has a replica of {part}", b.id));
        }
    }
    None
}
