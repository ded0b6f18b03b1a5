//! The ensemble changes only towards servers that a majority of the voters asked for a moment ago, and ends at them.

use std::collections::BTreeMap;

use septet_coordinator::{
    raft::Role,
    reconfigure::{Target, agreed, steps},
};

use super::Invariant;
use crate::facts::{Fact, View};

/// Milliseconds for which what a server asked for may count.
const MOMENT_MS: u64 = 6000;

/// Looks at each change, when an operator edits files at all.
pub struct Agreement;

impl Invariant for Agreement {
    fn name(&self) -> &'static str {
        "agreement"
    }

    fn check(&mut self, fact: &Fact<'_>, view: &View<'_>) -> Result<(), String> {
        match fact {
            Fact::Changed { server, from, change, now, .. } if view.servers.values().any(|s| !s.asks.is_empty()) => {
                // What each had in that time: with the oldest that may count, up to the newest.
                let had = |asks: &[(u64, Target)]| {
                    let ends = asks.iter().skip(1).map(|(at, _)| *at).chain([u64::MAX]);
                    asks.iter()
                        .zip(ends)
                        .filter(|(_, end)| end.saturating_add(MOMENT_MS) > *now)
                        .map(|((_, t), _)| t.clone())
                        .collect::<Vec<_>>()
                };
                let asked: BTreeMap<u64, Vec<Target>> = view.servers.iter().map(|(id, s)| (*id, had(&s.asks))).collect();
                let fits = |t: &Target| {
                    let same: BTreeMap<u64, Target> =
                        asked.iter().filter(|(_, all)| all.contains(t)).map(|(id, _)| (*id, t.clone())).collect();
                    agreed(from, &same).is_some() && steps(from, t).contains(change)
                };
                match asked.values().flatten().any(fits) {
                    true => Ok(()),
                    false => Err(format!("{server} makes {change:?} of {from:?}, and no majority asks for that")),
                }
            }
            Fact::Settled => {
                let leaders = view.servers.values().filter(|s| s.raft.as_ref().is_some_and(|r| r.status().role == Role::Leader));
                let Some(leader) = leaders.max_by_key(|s| s.led) else { return Ok(()) };
                let asked: BTreeMap<u64, Target> =
                    view.servers.iter().filter_map(|(id, s)| Some((*id, s.asks.last()?.1.clone()))).collect();
                match agreed(&leader.membership, &asked) {
                    Some(target) if !target.is_reached(&leader.membership) => {
                        Err(format!("{} are asked for, the ensemble has {:?}", target.shown(), leader.membership))
                    }
                    _ => Ok(()),
                }
            }
            _ => Ok(()),
        }
    }
}
