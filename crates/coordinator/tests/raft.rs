//! Single steps of the Raft core that the simulation's invariants do not see: work that is done for nothing.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "common/raft_settings.rs"]
mod raft_settings;

use septet_coordinator::raft::{Body, Command, EntryId, HardState, LogView, Membership, Message, Raft, Role, Stored};

use raft_settings::settings;

fn leader() -> Raft {
    let membership = Membership { voters: [1, 2, 3].into(), ..Membership::default() };
    // Everything up to here is in a snapshot only.
    let log = LogView::new(EntryId { term: 1, leader: 1, index: 100 }, Some(membership));
    let mut raft = Raft::new(settings(1), Stored { hard: HardState { term: 1, voted_for: Some(1) }, log, applied: 100 }, true, 1);
    while raft.status().role != Role::Leader {
        raft.tick();
        let mut answers = Vec::new();
        for command in raft.take() {
            match command {
                Command::Write { number, .. } => raft.persisted(number),
                Command::Probe => raft.probed(true),
                Command::Send { to: 2, message: Message { term, body } } => match body {
                    Body::PreVote { .. } => answers.push(Message { term, body: Body::PreVoteAnswer { granted: true } }),
                    Body::Vote { .. } => answers.push(Message { term, body: Body::VoteAnswer { granted: true } }),
                    _ => {}
                },
                _ => {}
            }
        }
        answers.into_iter().for_each(|m| raft.receive(2, m));
    }
    raft
}

/// Snapshots that a leader has read for a server, while its majority answers.
fn snapshots_for(raft: &mut Raft, server: u64, ticks: u64) -> usize {
    let mut sent = 0;
    for _ in 0..ticks {
        raft.tick();
        let mut answers = Vec::new();
        for command in raft.take() {
            match command {
                Command::Write { number, .. } => raft.persisted(number),
                Command::SendEntries { to: 2, term, last, round, .. } => {
                    answers.push(Message { term, body: Body::AppendAck { matched: last.index, round, voting: true } });
                }
                Command::SendSnapshot { to, .. } if to == server => {
                    sent += 1;
                    raft.snapshot_sent(to, None);
                }
                _ => {}
            }
        }
        answers.into_iter().for_each(|m| raft.receive(2, m));
    }
    sent
}

#[test]
fn no_snapshot_is_read_for_a_server_that_is_away() {
    let mut raft = leader();
    let term = raft.status().term;
    let lacks_much = |raft: &mut Raft| {
        let body = Body::AppendRefused { at: 100, hint: EntryId { term: 1, leader: 1, index: 3 }, round: 0, voting: true };
        raft.receive(3, Message { term, body });
    };
    assert_eq!(snapshots_for(&mut raft, 3, 500), 0);
    // One that is there gets its snapshot, and no other once it is away again.
    lacks_much(&mut raft);
    assert!((1..=4).contains(&snapshots_for(&mut raft, 3, 500)));
    assert_eq!(snapshots_for(&mut raft, 3, 500), 0);
    assert_eq!(raft.status().role, Role::Leader);
    lacks_much(&mut raft);
    assert!(snapshots_for(&mut raft, 3, 500) >= 1);
}
