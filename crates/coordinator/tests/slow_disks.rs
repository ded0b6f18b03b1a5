//! Servers whose disks take seconds for each write elect a leader in bounded time, and so do those whose disks stood still once.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "common/raft_settings.rs"]
mod raft_settings;

use std::collections::VecDeque;

use septet_coordinator::raft::{Body, Command, Entry, EntryId, HardState, LogView, Membership, Message, Payload, Raft, Role, Stored};

use raft_settings::settings;

const SERVERS: [u64; 3] = [1, 2, 3];

/// Ticks until there is a leader, where a write takes so many.
fn elected(seed: u64, write_ticks: u64) -> Option<u64> {
    let membership = Membership { voters: SERVERS.into(), ..Membership::default() };
    let mut servers: Vec<Raft> = SERVERS
        .iter()
        .map(|me| {
            let log = LogView::new(EntryId { term: 1, leader: 1, index: 1 }, Some(membership.clone()));
            let stored = Stored { hard: HardState { term: 1, voted_for: Some(1) }, log, applied: 1 };
            Raft::new(settings(*me), stored, true, seed * 10 + me)
        })
        .collect();
    // A sync takes with it what was written when it began, as the driver does it: the last number that it takes, and when it is done.
    let mut syncs: Vec<Option<(u64, u64)>> = vec![None; 3];
    let mut written = [0; 3];
    let mut probes: Vec<Option<u64>> = vec![None; 3];
    let mut way: VecDeque<(u64, u64, Message)> = VecDeque::new();
    for now in 0..20_000 {
        for (i, raft) in servers.iter_mut().enumerate() {
            raft.tick();
            if let Some((number, _)) = syncs[i].take_if(|(_, at)| *at <= now) {
                raft.persisted(number);
                if written[i] > number {
                    syncs[i] = Some((written[i], now + write_ticks));
                }
            }
            if probes[i].take_if(|at| *at <= now).is_some() {
                raft.probed(true);
            }
        }
        for (from, to, message) in std::mem::take(&mut way) {
            servers[to as usize - 1].receive(from, message);
        }
        for (i, raft) in servers.iter_mut().enumerate() {
            for command in raft.take() {
                match command {
                    Command::Write { number, .. } => {
                        written[i] = number;
                        syncs[i].get_or_insert((number, now + write_ticks));
                    }
                    Command::Send { to, message } => way.push_back((SERVERS[i], to, message)),
                    Command::Probe => probes[i] = Some(now + write_ticks),
                    _ => {}
                }
            }
            if raft.status().role == Role::Leader {
                return Some(now);
            }
        }
    }
    None
}

#[test]
fn a_leader_is_elected_however_slow_the_disks_are() {
    for write_ticks in [0, 5, 10, 20, 30, 50, 100, 150, 200, 300] {
        let mut all: Vec<Option<u64>> = (0..50).map(|seed| elected(seed, write_ticks)).collect();
        all.sort_unstable_by_key(|ticks| ticks.unwrap_or(u64::MAX));
        println!("writes of {write_ticks} ticks: {:?} at the median, {:?} at the most", all[25], all[49]);
        let most = all[49].unwrap_or_else(|| panic!("no leader where writes take {write_ticks} ticks: {all:?}"));
        assert!(most <= 1500.max(40 * write_ticks), "{most} ticks where writes take {write_ticks}");
    }
}

/// Ticks from the last word of the leader until a follower asks for votes, whose disk stood still for so long before.
fn stands_after(seed: u64, stall_ticks: u64) -> u64 {
    let membership = Membership { voters: SERVERS.into(), ..Membership::default() };
    let first = EntryId { term: 1, leader: 1, index: 1 };
    let stored =
        Stored { hard: HardState { term: 1, voted_for: Some(1) }, log: LogView::new(first, Some(membership)), applied: first.index };
    let mut raft = Raft::new(settings(2), stored, true, seed);
    let append = |entries| Message { term: 1, body: Body::Append { prev: first, commit: 1, round: 0, entries } };
    let entry = Entry { id: EntryId { index: 2, ..first }, payload: Payload::Blank };
    raft.receive(1, append(vec![entry]));
    for now in 0..=stall_ticks {
        if now % 5 == 0 {
            raft.receive(1, append(Vec::new()));
        }
        raft.tick();
    }
    raft.persisted(1);
    raft.receive(1, append(Vec::new()));
    raft.take();
    let asks = |c: &Command| matches!(c, Command::Send { message: Message { body: Body::PreVote { .. }, .. }, .. });
    (1..100_000)
        .find(|_| {
            raft.tick();
            raft.take().iter().any(asks)
        })
        .unwrap()
}

#[test]
fn a_disk_that_stood_still_once_delays_no_election_for_long() {
    for stall_ticks in [0, 50, 500, 5000] {
        let mut all: Vec<u64> = (0..200).map(|seed| stands_after(seed, stall_ticks)).collect();
        all.sort_unstable();
        println!("a pause of {stall_ticks} ticks: {} at the median, {} at the most", all[100], all[199]);
        assert!(all[0] >= 60 && all[199] <= if stall_ticks == 0 { 90 } else { 250 }, "{all:?}");
    }
}
