#![allow(clippy::unwrap_used)]
use proptest::prelude::*;

use super::*;
use crate::batch::CONTROL;

fn head(id: i64, epoch: i16, sequence: i32, offset: i64, count: i32) -> Head {
    Head {
        base_offset: offset,
        size: 100,
        leader_epoch: 0,
        magic: 2,
        crc: 0,
        attributes: 0,
        last_offset_delta: count - 1,
        base_timestamp: offset,
        max_timestamp: offset,
        producer_id: id,
        producer_epoch: epoch,
        base_sequence: sequence,
        count,
    }
}

fn transactional(h: Head) -> Head {
    Head { attributes: TRANSACTIONAL, ..h }
}

fn control(id: i64, epoch: i16, offset: i64) -> Head {
    Head { attributes: TRANSACTIONAL | CONTROL, base_sequence: -1, ..head(id, epoch, -1, offset, 1) }
}

#[test]
fn sequences_epochs_and_duplicates_are_as_in_kafka() {
    use ResponseError::{InvalidProducerEpoch as Epoch, OutOfOrderSequenceNumber as Order};
    let duplicate = |base_offset, last_offset| Ok(Some(Duplicate { base_offset, last_offset, timestamp: base_offset }));
    let mut p = Producers::default();
    assert_eq!(p.check(&head(-1, -1, -1, 0, 1)), Ok(None));
    p.update(&head(-1, -1, -1, 0, 1), None);
    assert!(p.is_empty());
    // One that is not known may begin with any sequence.
    assert_eq!(p.check(&head(7, 3, 500, 0, 2)), Ok(None));
    for i in 0..7 {
        assert_eq!(p.check(&head(7, 3, 500 + 2 * i, 0, 2)), Ok(None), "{i}");
        p.update(&head(7, 3, 500 + 2 * i, 10 + 2 * i64::from(i), 2), None);
    }
    let cases = [
        ((3, 514, 2), Ok(None)),
        ((3, 515, 2), Err(Order)),
        ((3, 512, 2), duplicate(22, 23)),
        ((3, 504, 2), duplicate(14, 15)),
        // The sixth from the end is not remembered any more.
        ((3, 502, 2), Err(Order)),
        // The same first sequence, but another batch.
        ((3, 512, 1), Err(Order)),
        ((2, 514, 2), Err(Epoch)),
        ((2, 512, 2), Err(Epoch)),
        ((4, 0, 2), Ok(None)),
        ((4, 514, 2), Err(Order)),
    ];
    for ((epoch, sequence, count), want) in cases {
        assert_eq!(p.check(&head(7, epoch, sequence, 0, count)), want, "{epoch} {sequence} {count}");
    }
    p.update(&head(7, 4, 0, 30, 1), None);
    assert_eq!(p.check(&head(7, 3, 512, 0, 2)), Err(Epoch));
    assert_eq!(p.check(&head(7, 4, 0, 0, 1)), duplicate(30, 30));
}

#[test]
fn after_the_largest_sequence_comes_0() {
    let mut p = Producers::default();
    let big = head(1, 0, i32::MAX - 1, 0, 4);
    assert_eq!(last_sequence(&big), 1);
    p.update(&big, None);
    assert_eq!(p.check(&big), Ok(Some(Duplicate { base_offset: 0, last_offset: 3, timestamp: 0 })));
    assert_eq!(p.check(&head(1, 0, 2, 4, 1)), Ok(None));
    p.update(&head(2, 0, i32::MAX, 0, 1), None);
    assert_eq!(p.check(&head(2, 0, 0, 4, 1)), Ok(None));
    assert_eq!(p.check(&head(2, 0, 1, 4, 1)), Err(ResponseError::OutOfOrderSequenceNumber));
}

#[test]
fn transactions_hold_the_stable_offset_back_until_their_end_is_replicated() {
    let mut p = Producers::default();
    p.update(&transactional(head(1, 0, 0, 10, 2)), None);
    p.update(&transactional(head(2, 0, 0, 12, 2)), None);
    p.update(&transactional(head(1, 0, 2, 14, 2)), None);
    assert_eq!(p.first_unstable_offset(16), Some(10));
    assert_eq!(p.check(&head(1, 0, 4, 16, 1)), Err(ResponseError::InvalidTxnState));
    let marker = |aborted| Some(Marker { aborted, coordinator_epoch: 6 });
    let done = p.update(&control(1, 0, 16), marker(true)).unwrap();
    assert_eq!(done, Completed { producer_id: 1, first_offset: 10, last_offset: 16, aborted: true, last_stable_offset: 12 });
    assert_eq!((p.first_unstable_offset(16), p.first_unstable_offset(17)), (Some(10), Some(12)));
    let done = p.update(&control(2, 1, 17), marker(false)).unwrap();
    assert_eq!((done.aborted, done.last_stable_offset), (false, 18));
    assert_eq!((p.first_unstable_offset(17), p.first_unstable_offset(18)), (Some(12), None));
    // Without records there was nothing to end; the epoch counts all the same.
    assert_eq!(p.update(&control(2, 2, 18), marker(true)), None);
    assert_eq!(p.check(&head(2, 1, 2, 19, 1)), Err(ResponseError::InvalidProducerEpoch));
    assert_eq!(p.check(&head(2, 2, 0, 19, 1)), Ok(None));
    assert_eq!(p.check(&head(2, 2, 1, 19, 1)), Err(ResponseError::OutOfOrderSequenceNumber));
}

#[test]
fn transactions_that_are_not_replicated_take_a_bounded_memory() {
    let mut p = Producers::default();
    for i in 0..20_000 {
        p.update(&transactional(head(1, 0, i, 2 * i64::from(i), 1)), None);
        p.update(&control(1, 0, 2 * i64::from(i) + 1), Some(Marker { aborted: false, coordinator_epoch: 0 }));
    }
    assert_eq!(p.unreplicated.len(), MAX_UNREPLICATED);
    assert_eq!((p.first_unstable_offset(0), p.first_unstable_offset(20_001), p.first_unstable_offset(40_000)), (Some(0), Some(0), None));
}

#[test]
fn silent_producers_expire_and_make_room() {
    let quota = ProducerQuota::new(3);
    let mut p = Producers::default();
    p.update(&head(1, 0, 0, 100, 1), None);
    p.set_quota(quota.clone());
    p.update(&transactional(head(2, 0, 0, 200, 1)), None);
    p.update(&head(3, 0, 0, 300, 1), None);
    assert_eq!(quota.used(), 3);
    p.expire(1100, 1000);
    assert_eq!(quota.used(), 2);
    p.expire(1200, 1000);
    assert_eq!(quota.used(), 2, "not within a transaction");
    p.update(&head(4, 0, 0, 400, 1), None);
    p.update(&head(3, 0, 1, 401, 1), None);
    // The fourth displaces the one that was silent for longest and has no transaction.
    p.update(&head(5, 0, 0, 500, 1), None);
    let ids: std::collections::BTreeSet<i64> = p.iter().map(|(id, _)| id).collect();
    assert_eq!((ids, quota.used()), ([2, 3, 5].into(), 3));
    let mut other = Producers::default();
    other.set_quota(quota.clone());
    // Another log has none to displace: it remembers one more all the same.
    other.update(&head(6, 0, 0, 1, 1), None);
    assert_eq!(quota.used(), 4);
    drop(p);
    assert_eq!(quota.used(), 1);
}

proptest! {
    /// A producer that sends in order and sends again what it is not sure of: each batch is stored once.
    #[test]
    fn what_is_sent_again_is_stored_once(
        counts in prop::collection::vec(1..5i32, 1..40), again in prop::collection::vec(any::<prop::sample::Index>(), 0..40), start in any::<bool>(),
    ) {
        let mut p = Producers::default();
        let mut next = if start { i32::MAX - 20 } else { 0 };
        let (mut offset, mut sent) = (0i64, Vec::new());
        let mut again = again.into_iter();
        for count in counts {
            let h = head(9, 1, next, offset, count);
            prop_assert_eq!(p.check(&h), Ok(None));
            p.update(&h, None);
            next = last_sequence(&h).checked_add(1).unwrap_or(0);
            offset += i64::from(count);
            sent.push(h);
            if let Some(i) = again.next() {
                let old = i.get(&sent);
                let recent = sent.iter().rev().take(BATCHES).any(|s| s == old);
                let want = recent.then_some(Duplicate { base_offset: old.base_offset, last_offset: old.last_offset(), timestamp: old.max_timestamp });
                prop_assert_eq!(p.check(old), if recent { Ok(want) } else { Err(ResponseError::OutOfOrderSequenceNumber) });
            }
        }
    }
}
