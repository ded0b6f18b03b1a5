//! From the membership in the log to the one that the `zoo.cfg` of the servers ask for: which target counts, and by
//! which steps it is reached.
//!
//! The membership in the log is authoritative; `server.N` lines are what the operator wants. During a rolling edit
//! servers differ, so the leader acts on a target only while a majority of the voters have it in their `zoo.cfg`: two
//! targets cannot have one at once, whoever leads. Every step changes one voter, a server that joins is a learner
//! until it has caught up, and voters leave only when those that are to join have joined.
//!
//! Invariant: pure; [`steps`] of an agreed target end at it, and no step takes the majority from the servers that
//! agreed.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    config::{MAX_LINE_BYTES, Member, parse_line, parse_stored},
    raft::{Change, Membership},
};

/// Greatest number of a server.
const MAX_ID: u64 = 255;

/// Servers that a `zoo.cfg` asks for, by number.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Target(pub BTreeMap<u64, Member>);

impl Target {
    /// Numbers of the servers with a vote.
    pub fn voters(&self) -> BTreeSet<u64> {
        self.ids(false)
    }

    /// Numbers of the servers without one.
    pub fn observers(&self) -> BTreeSet<u64> {
        self.ids(true)
    }

    fn ids(&self, observer: bool) -> BTreeSet<u64> {
        self.0.iter().filter(|(_, m)| m.observer == observer).map(|(id, _)| *id).collect()
    }

    /// Whether it has the servers of a membership, in their roles.
    pub fn is_reached(&self, membership: &Membership) -> bool {
        self.voters() == membership.voters && self.observers() == membership.learners
    }

    /// Whether a membership is not as the `zoo.cfg` of this server has it: servers, roles, or addresses of others.
    pub fn differs(&self, membership: &Membership, me: u64) -> bool {
        let moved = |(id, m): (&u64, &Member)| *id != me && membership.addresses.get(id) != Some(&m.line());
        !self.is_reached(membership) || self.0.iter().any(moved)
    }

    /// As it is sent to the leader.
    pub fn lines(&self) -> BTreeMap<u64, String> {
        self.0.iter().map(|(id, m)| (*id, m.line())).collect()
    }

    /// What another server sent.
    pub fn from_lines(from: u64, lines: &BTreeMap<u64, String>) -> Result<Self, String> {
        if !lines.contains_key(&from) {
            return Err(format!("server.{from} sent servers without itself"));
        }
        let mut servers = BTreeMap::new();
        for (id, line) in lines {
            if !(1..=MAX_ID).contains(id) || line.len() > MAX_LINE_BYTES {
                return Err(format!("server.{id}: not a number from 1 to {MAX_ID}, or a line of {} bytes", line.len()));
            }
            servers.insert(*id, parse_line(line).map_err(|e| format!("server.{id}: {e}"))?);
        }
        Ok(Self(servers))
    }

    /// For people: `server.1, server.2, server.3 (observer)`.
    pub fn shown(&self) -> String {
        let name = |(id, m): (&u64, &Member)| format!("server.{id}{}", if m.observer { " (observer)" } else { "" });
        self.0.iter().map(name).collect::<Vec<_>>().join(", ")
    }
}

/// A membership for people.
pub fn shown(membership: &Membership) -> String {
    let voters = membership.voters.iter().map(|id| (*id, ""));
    let learners = membership.learners.iter().map(|id| (*id, " (no vote)"));
    let all: BTreeMap<u64, &str> = voters.chain(learners).collect();
    all.iter().map(|(id, role)| format!("server.{id}{role}")).collect::<Vec<_>>().join(", ")
}

/// The servers of a membership; those that this server's `zoo.cfg` has are where that says.
pub fn members(membership: &Membership, own: &BTreeMap<u64, Member>) -> BTreeMap<u64, Member> {
    let ids = membership.voters.iter().chain(&membership.learners);
    let known = ids.filter_map(|id| Some((*id, own.get(id).cloned().or_else(|| parse_stored(membership.addresses.get(id)?))?)));
    known.map(|(id, m)| (id, Member { observer: !membership.voters.contains(&id), ..m })).collect()
}

/// Where a server of a membership is, for people.
pub fn address(membership: &Membership, id: u64) -> Option<String> {
    parse_stored(membership.addresses.get(&id)?).map(|m| format!("{}:{}", m.host, m.port))
}

/// Whether voters of a membership that stay are a majority of it. Otherwise nobody could say that what the others
/// acknowledged is not lost.
pub fn keeps_majority(membership: &Membership, target: &Target) -> bool {
    target.voters().intersection(&membership.voters).count() >= membership.quorum()
}

/// The target that a majority of the voters have, with the addresses that most of them know for each server. Of a
/// server's own address the others decide: its own line may be one that only it can use, such as 0.0.0.0.
pub fn agreed(membership: &Membership, targets: &BTreeMap<u64, Target>) -> Option<Target> {
    let of_voters: Vec<(u64, &Target)> = membership.voters.iter().filter_map(|id| Some((*id, targets.get(id)?))).collect();
    let alike = |a: &Target, b: &Target| a.voters() == b.voters() && a.observers() == b.observers();
    let group = |t: &Target| of_voters.iter().filter(|(_, other)| alike(t, other)).copied().collect::<Vec<_>>();
    let group = of_voters.iter().map(|(_, t)| group(t)).find(|g| g.len() >= membership.quorum())?;
    let (_, any) = group.first()?;
    let line = |id: u64, own: &Member| {
        let mut counts: BTreeMap<String, (usize, &Member)> = BTreeMap::new();
        for (_, member) in group.iter().filter(|(from, _)| *from != id).filter_map(|(from, t)| Some((from, t.0.get(&id)?))) {
            counts.entry(member.line()).or_insert((0, member)).0 += 1;
        }
        counts.into_values().max_by_key(|(count, _)| *count).map_or_else(|| own.clone(), |(_, m)| m.clone())
    };
    let target = Target(any.0.iter().map(|(id, own)| (*id, line(*id, own))).collect());
    keeps_majority(membership, &target).then_some(target)
}

/// The changes that lead to a target, of which the first that is possible comes next. Empty when it is reached.
pub fn steps(membership: &Membership, target: &Target) -> Vec<Change> {
    let (voters, all) = (target.voters(), &target.0);
    let mut out = Vec::new();
    let here = |id: &u64| membership.contains(*id);
    out.extend(membership.learners.iter().filter(|id| !all.contains_key(id)).map(|id| Change::Remove(*id)));
    out.extend(membership.learners.iter().filter(|id| voters.contains(id)).map(|id| Change::Promote(*id)));
    out.extend(all.iter().filter(|(id, _)| !here(id)).map(|(id, m)| Change::AddLearner(*id, m.line())));
    // Nobody leaves before those that come in its place have their votes.
    if voters.is_subset(&membership.voters) {
        for id in membership.voters.difference(&voters) {
            out.push(if all.contains_key(id) { Change::Demote(*id) } else { Change::Remove(*id) });
        }
    }
    out
}

/// Changes of addresses that more than half of the other voters know.
pub fn moved(membership: &Membership, targets: &BTreeMap<u64, Target>) -> Vec<Change> {
    let mut out = Vec::new();
    for (id, stored) in &membership.addresses {
        let others: Vec<&u64> = membership.voters.iter().filter(|v| *v != id).collect();
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        for line in others.iter().filter_map(|v| Some(targets.get(v)?.0.get(id)?.line())) {
            *counts.entry(line).or_default() += 1;
        }
        let most = counts.into_iter().find(|(_, n)| n * 2 > others.len());
        out.extend(most.filter(|(line, _)| line != stored).map(|(line, _)| Change::SetAddress(*id, line)));
    }
    out
}

#[cfg(test)]
mod tests;
