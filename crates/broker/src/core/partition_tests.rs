//! Leaders and followers of one partition, step by step.
#![allow(clippy::unwrap_used)]
use super::*;

const LAG: Lag = Lag { max_ms: 100 };

fn assignment(isr: &[i32], leader_epoch: i32, partition_epoch: i32) -> Assignment {
    Assignment { replicas: vec![1, 2, 3], isr: isr.to_vec(), leader: 1, leader_epoch, partition_epoch }
}

fn fetch(r: &mut Replication, id: i32, offset: i64, now: i64) -> Effects {
    r.follower_fetched(id, 7, offset, 0, now, LAG, true)
}

#[test]
fn the_high_watermark_waits_for_all_in_sync_replicas() {
    let mut r = Replication::new(1, 0, 10);
    r.become_leader(assignment(&[1, 2, 3], 0, 0), 10, 0);
    assert_eq!(r.high_watermark(), 0);
    assert_eq!(fetch(&mut r, 2, 10, 1), Effects::default());
    assert!(fetch(&mut r, 3, 10, 1).high_watermark_moved);
    assert_eq!(r.high_watermark(), 10);
    assert!(!r.appended(20, 2, LAG).high_watermark_moved);
    fetch(&mut r, 2, 20, 3);
    assert_eq!(r.high_watermark(), 10);
    fetch(&mut r, 3, 15, 3);
    assert_eq!(r.high_watermark(), 15);
}

#[test]
fn a_partition_needs_no_more_replicas_in_sync_than_it_has() {
    let under = |replicas: &[i32], isr: &[i32], min| {
        let mut r = Replication::new(1, 0, 10);
        r.become_leader(Assignment { replicas: replicas.to_vec(), ..assignment(isr, 0, 0) }, 10, 0);
        r.is_under_min_isr(min)
    };
    assert!(under(&[1, 2, 3], &[1], 2) && !under(&[1, 2, 3], &[1, 3], 2));
    assert!(!under(&[1], &[1], 2));
    assert!(under(&[1, 2], &[1], 3) && !under(&[1, 2], &[2, 1], 3));
}

#[test]
fn a_follower_that_lags_leaves_and_joins_again() {
    let mut r = Replication::new(1, 0, 0);
    r.become_leader(assignment(&[1, 2, 3], 0, 5), 0, 0);
    r.appended(10, 0, LAG);
    fetch(&mut r, 2, 10, 50);
    assert_eq!(r.tick(100, LAG).propose, None);
    let p = r.tick(101, LAG).propose.unwrap();
    assert_eq!(p, Proposal { isr: vec![(1, -1), (2, 7)], leader_epoch: 0, partition_epoch: 5 });
    // While it is pending nothing else is proposed, and the removed one still counts.
    assert_eq!((r.tick(200, LAG).propose, r.high_watermark()), (None, 0));
    let isr = vec![1, 2];
    let answer = Answer::State { leader: 1, leader_epoch: 0, isr, partition_epoch: 6 };
    assert!(r.answered(&p, answer, 201, LAG).high_watermark_moved);
    assert_eq!(r.high_watermark(), 10);
    assert_eq!(fetch(&mut r, 3, 9, 210).propose, None);
    let p = fetch(&mut r, 3, 10, 211).propose.unwrap();
    assert_eq!(p.isr, [(1, -1), (2, 7), (3, 7)]);
    // It counts before it is confirmed.
    r.appended(12, 212, LAG);
    fetch(&mut r, 2, 12, 213);
    assert_eq!(r.high_watermark(), 10);
    assert_eq!(r.answered(&p, Answer::Rejected, 214, LAG), Effects::default());
    assert_eq!(r.high_watermark(), 10, "it is about to join");
    assert!(r.tick(400, LAG).high_watermark_moved, "it has lagged for too long");
}

/// The controller has written that 3 is in sync, and its answer is lost; or another decision on the old state arrives before it. In
/// both cases 3 may be elected, so what it does not have is not committed.
#[test]
fn a_proposal_counts_until_it_is_answered() {
    let mut r = Replication::new(1, 0, 0);
    r.become_leader(assignment(&[1, 2], 0, 5), 0, 0);
    r.appended(10, 0, LAG);
    fetch(&mut r, 2, 10, 1);
    let p = fetch(&mut r, 3, 10, 1).propose.unwrap();
    r.appended(20, 2, LAG);
    fetch(&mut r, 2, 20, 3);
    assert_eq!(r.answered(&p, Answer::Retry, 500, LAG).propose, Some(p.clone()), "the same again");
    r.become_leader(assignment(&[1, 2], 0, 5), 20, 501);
    assert!(!r.tick(1000, LAG).high_watermark_moved);
    assert_eq!((r.high_watermark(), r.pending()), (10, Some(&p)));
    let state = |isr: &[i32], partition_epoch| Answer::State { leader: 1, leader_epoch: 0, isr: isr.to_vec(), partition_epoch };
    assert_eq!(r.answered(&p, state(&[1, 2, 3], 6), 1001, LAG), Effects::default());
    assert_eq!((r.assignment().isr.len(), r.high_watermark(), r.pending()), (3, 10, None));
    // An answer that a newer decision has overtaken, and one to a proposal that is not pending any more.
    assert_eq!(r.answered(&p, state(&[1, 2], 5), 1002, LAG), Effects::default());
    assert_eq!(r.assignment().isr.len(), 3);
    assert!(r.answered(&p, state(&[1, 2], 7), 1003, LAG).high_watermark_moved);
    assert_eq!((r.assignment().isr.len(), r.high_watermark()), (2, 20));
    // One that is outdated goes with the next decision, also if that is the one that is known.
    let p = fetch(&mut r, 3, 20, 1004).propose.unwrap();
    assert_eq!(r.answered(&p, Answer::Outdated, 1005, LAG), Effects::default());
    assert_eq!(fetch(&mut r, 3, 20, 1006).propose, None);
    r.become_leader(assignment(&[1, 2], 0, 7), 20, 1007);
    assert!(fetch(&mut r, 3, 20, 1008).propose.is_some());
}

#[test]
fn a_new_leader_waits_until_followers_have_been_heard_of() {
    let mut r = Replication::new(1, 5, 10);
    r.become_leader(assignment(&[1, 2], 3, 9), 10, 1000);
    r.appended(11, 1001, LAG);
    assert_eq!(r.high_watermark(), 5);
    fetch(&mut r, 2, 8, 1002);
    assert_eq!(r.high_watermark(), 8);
    // One that is not in sync joins only when it has all of earlier leaders.
    assert_eq!(fetch(&mut r, 3, 9, 1003).propose, None);
    assert!(fetch(&mut r, 3, 10, 1004).propose.is_some());
}

#[test]
fn consumers_are_sent_to_in_sync_followers_that_have_the_offset() {
    let mut r = Replication::new(1, 0, 10);
    let ids = |r: &Replication, offset| r.read_replicas(offset, 50).into_iter().map(|c| (c.id, c.end, c.behind_ms)).collect::<Vec<_>>();
    r.become_leader(assignment(&[1, 2], 0, 0), 10, 0);
    assert_eq!(ids(&r, 0), [], "nothing is known of them yet");
    r.follower_fetched(2, 7, 8, 3, 20, LAG, true);
    r.follower_fetched(3, 7, 9, 0, 20, LAG, true);
    assert_eq!(ids(&r, 5), [(2, 8, 50)]);
    assert_eq!(ids(&r, 2), [], "it begins at 3");
    assert_eq!(ids(&r, 9), [], "it ends at 8");
    fetch(&mut r, 2, 10, 30);
    assert_eq!(ids(&r, 10), [(2, 10, 20)]);
    assert!(!r.follows());
    r.become_follower(assignment(&[2, 1], 1, 1));
    assert!(r.follows() && ids(&r, 10).is_empty());
    r.resign();
    assert!(!r.follows());
}

#[test]
fn answers_of_an_earlier_leadership_change_nothing() {
    let mut r = Replication::new(1, 0, 0);
    r.become_leader(assignment(&[1, 2], 0, 5), 0, 0);
    r.appended(10, 0, LAG);
    let p = r.tick(1000, LAG).propose.unwrap();
    r.become_leader(assignment(&[1, 2], 1, 6), 10, 1000);
    let answer = Answer::State { leader: 1, leader_epoch: 0, isr: vec![1], partition_epoch: 6 };
    assert_eq!(r.answered(&p, answer, 1001, LAG), Effects::default());
    assert_eq!((r.assignment().isr.len(), r.high_watermark()), (2, 0));
    assert!(r.follower_fetched(2, -1, 4, 0, 1002, LAG, true).high_watermark_moved);
    assert_eq!(r.follower_fetched(9, -1, 4, 0, 1002, LAG, true), Effects::default());
}

#[test]
fn a_pending_proposal_counts_until_there_is_a_newer_state() {
    let mut r = Replication::new(1, 0, 0);
    r.become_leader(assignment(&[1, 2], 0, 5), 0, 0);
    let p = fetch(&mut r, 3, 0, 1).propose.unwrap();
    r.appended(10, 2, LAG);
    fetch(&mut r, 2, 10, 500);
    // The state it was proposed on is sent again, then an older one.
    r.become_leader(assignment(&[1, 2], 0, 5), 10, 501);
    r.become_leader(assignment(&[1], 0, 4), 10, 502);
    // The controller that answers has elected another since.
    let answer = Answer::State { leader: 2, leader_epoch: 1, isr: vec![1, 2, 3], partition_epoch: 7 };
    r.answered(&p, answer, 503, LAG);
    assert_eq!((r.pending(), r.high_watermark()), (Some(&p), 0), "broker 3 may be in the ISR");
    assert_eq!((r.assignment().isr.as_slice(), r.assignment().partition_epoch), (&[1, 2][..], 5));
    r.become_leader(assignment(&[1, 2, 3], 0, 6), 10, 504);
    assert_eq!((r.pending(), r.high_watermark()), (None, 0));
}

#[test]
fn a_follower_cuts_what_its_leader_does_not_have() {
    // Local epochs: 1 from 0 to 10, 3 from 10 to 20.
    let local = |e: i32| match e {
        i32::MIN..=0 => Some((e, 0)),
        1 | 2 => Some((1, 10)),
        _ => Some((3, 20)),
    };
    // (leader's answer, where, settled)
    let cases = [
        ((1, 8), (8, true)),
        ((1, 15), (10, true)),
        ((2, 15), (10, false)),
        ((3, 18), (18, true)),
        ((0, 20), (0, true)),
        ((-1, -1), (6, true)),
    ];
    for (leader, want) in cases {
        assert_eq!(truncation(leader, local, 20, 6), want, "{leader:?}");
    }
}
