//! What a log knows of its producers: after appends, a stop, a kill, truncation, retention.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use common::{
    batches::Batch,
    logs::{batches, copy, files, limits},
    tempdir,
};
use kafka_protocol::ResponseError;
use proptest::prelude::*;
use septet_broker::{
    batch::{CONTROL, Head, TRANSACTIONAL, place, validate},
    log::{Aborted, Duplicate, Files, Limits, Log, ProducerQuota, Recovery},
};

const LIMITS: Limits = Limits { segment_bytes: 500, index_interval_bytes: 100, segment_ms: i64::MAX };

fn batch(id: i64, epoch: i16, sequence: i32, count: usize) -> Vec<u8> {
    Batch::new(1000).values(&vec!["value"; count]).producer(id, epoch, sequence).build()
}

fn placed(bytes: &[u8], offset: i64) -> Vec<u8> {
    let mut out = bytes.to_vec();
    place(&mut out, offset, 1);
    out
}

/// A marker of a transaction's coordinator, as Kafka writes it.
fn marker(id: i64, epoch: i16, commit: bool, offset: i64) -> Vec<u8> {
    let key = vec![0, 0, 0, u8::from(commit)];
    let record = (0, Some(key), Some(vec![0, 0, 0, 0, 0, 9]));
    placed(&Batch::new(1000).records(&[record]).attributes(TRANSACTIONAL | CONTROL).producer(id, epoch, -1).build(), offset)
}

fn append(log: &mut Log, bytes: &[u8]) -> i64 {
    let heads = validate(bytes, usize::MAX).unwrap();
    assert_eq!(log.check_producer(&heads[0]), Ok(None));
    log.append(&mut bytes.to_vec(), &heads, 1).unwrap()
}

fn check(log: &Log, bytes: &[u8]) -> Result<Option<Duplicate>, ResponseError> {
    log.check_producer(&Head::parse(bytes).unwrap())
}

fn open(dir: &Path, clean: bool, point: i64) -> Log {
    Log::open_in(dir, LIMITS, &Files::new(8), Recovery { clean, point: Some(point), start: 0 }).unwrap()
}

fn snapshot(dir: &Path, offset: i64) -> PathBuf {
    dir.join(format!("{offset:020}.snapshot"))
}

/// Id, epoch, last sequence and last offset.
fn state(log: &Log) -> BTreeMap<i64, (i16, i32, i64)> {
    log.producers()
        .map(|(id, p)| {
            (id, (p.epoch, p.batches().last().map_or(-1, |b| b.last_sequence), p.batches().last().map_or(-1, |b| b.last_offset)))
        })
        .collect()
}

#[test]
fn the_state_outlives_stops_and_kills() {
    let dir = tempdir();
    let mut log = Log::open(dir.path(), LIMITS).unwrap();
    for i in 0..20 {
        append(&mut log, &batch(i % 3, 1, i as i32 / 3 * 2, 2));
    }
    let want = state(&log);
    assert_eq!(want, [(0, (1, 13, 37)), (1, (1, 13, 39)), (2, (1, 11, 35))].into());
    let bases: Vec<i64> = files(dir.path(), "log").iter().map(|(b, _)| *b).skip(1).collect();
    let snapshots = || files(dir.path(), "snapshot").into_iter().map(|(b, _)| b).collect::<Vec<_>>();
    assert_eq!(snapshots(), bases, "one for each segment but the first");
    // After a kill the rest is read from the batches.
    drop(log);
    let log = open(dir.path(), false, 0);
    assert_eq!(state(&log), want);
    let known = Duplicate { base_offset: 38, last_offset: 39, timestamp: 1000 };
    assert_eq!(check(&log, &batch(1, 1, 12, 2)), Ok(Some(known)));
    assert_eq!(check(&log, &batch(1, 1, 15, 2)), Err(ResponseError::OutOfOrderSequenceNumber));
    drop(log);
    // Also without any snapshot, and with damaged ones.
    for offset in snapshots() {
        fs::write(snapshot(dir.path(), offset), b"torn").unwrap();
    }
    let mut log = open(dir.path(), false, 0);
    assert_eq!((state(&log), snapshots()), (want.clone(), vec![]));
    // A stop writes one at the end; the next start believes it.
    log.flush().unwrap();
    drop(log);
    assert_eq!(snapshots(), [40]);
    let mut log = open(dir.path(), true, 0);
    assert_eq!(state(&log), want);
    assert_eq!(append(&mut log, &batch(1, 1, 14, 1)), 40);
    // The disk is waited for: one at the end takes the place of those that belong to no segment.
    log.flush().unwrap();
    assert_eq!(snapshots(), [41]);
    drop(log);
    fs::remove_file(snapshot(dir.path(), 41)).unwrap();
    assert_eq!(state(&open(dir.path(), true, 0)), [].into(), "a version before this one wrote none: as Kafka, nothing is read");
}

#[test]
fn a_follower_and_truncation_keep_the_state() {
    let dir = tempdir();
    let mut log = Log::open(dir.path(), LIMITS).unwrap();
    let sent: Vec<Vec<u8>> = (0..12).map(|i| placed(&batch(5, 2, i * 2, 2), 2 * i64::from(i))).collect();
    log.append_as_follower(&sent.concat()).unwrap();
    assert_eq!(state(&log), [(5, (2, 23, 23))].into());
    for to in [23, 20, 12, 11, 3, 0] {
        log.truncate_to(to).unwrap();
        let end = to - to % 2;
        let want = if end == 0 { [].into() } else { [(5, (2, end as i32 - 1, end - 1))].into() };
        assert_eq!(state(&log), want, "{to}");
        assert!(files(dir.path(), "snapshot").iter().all(|(offset, _)| *offset <= end), "{to}");
    }
    log.append_as_follower(&sent.concat()).unwrap();
    log.truncate_fully_and_start_at(100).unwrap();
    assert_eq!((state(&log), files(dir.path(), "snapshot")), ([].into(), vec![]));
    // Its records have gone: it goes on with any sequence.
    assert_eq!(check(&log, &batch(5, 2, 700, 1)), Ok(None));
}

#[test]
fn snapshots_go_with_their_segments() {
    let dir = tempdir();
    let mut log = Log::open(dir.path(), LIMITS).unwrap();
    for i in 0..20 {
        append(&mut log, &batch(i % 3, 1, i as i32 / 3 * 2, 2));
    }
    let want = state(&log);
    let gone = log.delete_below(30).unwrap();
    assert!(gone.is_some());
    let (first, last) = (files(dir.path(), "log")[0].0, files(dir.path(), "snapshot"));
    assert!(last.iter().all(|(offset, _)| *offset >= first), "{last:?}");
    assert_eq!(state(&log), want, "it is known what was sent, though it has gone");
    drop((log, gone));
    let log = Log::open_in(dir.path(), LIMITS, &Files::new(8), Recovery { clean: false, point: None, start: 30 }).unwrap();
    assert_eq!(state(&log), want);
}

#[test]
fn a_snapshot_of_what_was_cut_off_is_not_believed() {
    let dir = tempdir();
    let mut log = Log::open(dir.path(), LIMITS).unwrap();
    (0..5).for_each(|i| assert_eq!(append(&mut log, &batch(1, 0, i, 1)), i64::from(i)));
    log.flush().unwrap();
    assert!(snapshot(dir.path(), 5).exists());
    // Nothing is known when it is cut.
    log.expire_producers(i64::MAX, 1);
    log.truncate_to(2).unwrap();
    (0..5).for_each(|i| assert_eq!(append(&mut log, &batch(2, 0, i, 1)), 2 + i64::from(i)));
    drop(log);
    let known = state(&open(dir.path(), false, 0));
    assert_eq!(known[&2], (0, 4, 6));
    assert_ne!(known.get(&1), Some(&(0, 4, 4)), "as it was at offset 5 before");
    // Once all records have gone, a start forgets their producers, as on Kafka.
    let mut log = open(dir.path(), false, 0);
    log.flush().unwrap();
    let gone = log.delete_below(7).unwrap();
    drop((log, gone));
    let log = Log::open_in(dir.path(), LIMITS, &Files::new(8), Recovery { clean: true, point: Some(7), start: 7 }).unwrap();
    assert_eq!(state(&log), [].into());
}

#[test]
fn memory_has_a_limit_that_all_logs_share() {
    let (one, two) = (tempdir(), tempdir());
    let quota = ProducerQuota::new(10);
    let mut logs = [one.path(), two.path()].map(|d| Log::open(d, LIMITS).unwrap());
    logs.iter_mut().for_each(|l| l.set_producer_quota(quota.clone()));
    for i in 0..50 {
        append(&mut logs[i as usize % 2], &batch(i, 0, 0, 1));
    }
    assert_eq!(quota.used(), 10);
    // The last ones are those that are known.
    assert!(check(&logs[1], &batch(49, 0, 0, 1)).unwrap().is_some() && check(&logs[0], &batch(0, 0, 0, 1)).unwrap().is_none());
    logs[0].expire_producers(2000, 1000);
    assert_eq!(quota.used(), 5);
    drop(logs);
    assert_eq!(quota.used(), 0);
}

#[test]
fn transactions_of_a_leader_are_followed() {
    let dir = tempdir();
    let mut log = Log::open(dir.path(), LIMITS).unwrap();
    let data = |id, sequence, offset| {
        placed(&Batch::new(1000).values(&["a", "b"]).attributes(TRANSACTIONAL).producer(id, 0, sequence).build(), offset)
    };
    let sent = [
        data(1, 0, 0),
        data(2, 0, 2),
        placed(&batch(3, 0, 0, 1), 4),
        marker(1, 0, false, 5),
        data(1, 2, 6),
        marker(2, 0, true, 8),
        marker(1, 0, false, 9),
        data(4, 0, 10),
    ];
    for one in &sent {
        log.append_as_follower(one).unwrap();
    }
    let first = Aborted { producer_id: 1, first_offset: 0, last_offset: 5, last_stable_offset: 2 };
    let second = Aborted { producer_id: 1, first_offset: 6, last_offset: 9, last_stable_offset: 10 };
    let looks = |log: &mut Log| {
        assert_eq!(log.aborted_transactions(0, 12), [first, second]);
        assert_eq!(log.aborted_transactions(0, 1), [first]);
        assert_eq!(log.aborted_transactions(6, 12), [second]);
        assert_eq!(log.first_unstable_offset(12), Some(10));
    };
    looks(&mut log);
    assert!(files(dir.path(), "log").len() > 1 && !files(dir.path(), "txnindex").is_empty());
    drop(log);
    let copied = dir.path().join("copy");
    for damage in ["nothing", "no index", "torn index", "no snapshot"] {
        fs::create_dir_all(&copied).unwrap();
        for e in fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().path()).filter(|p| p.is_file()) {
            fs::copy(&e, copied.join(e.file_name().unwrap())).unwrap();
        }
        for (base, bytes) in files(&copied, "txnindex") {
            let path = copied.join(format!("{base:020}.txnindex"));
            match damage {
                "torn index" => fs::write(path, &bytes[..bytes.len() - 3]).unwrap(),
                "no index" => fs::remove_file(path).unwrap(),
                _ => {}
            }
        }
        if damage != "nothing" {
            files(&copied, "snapshot").iter().for_each(|(o, _)| fs::remove_file(snapshot(&copied, *o)).unwrap());
        }
        let mut log = open(&copied, false, 0);
        looks(&mut log);
        log.truncate_to(9).unwrap();
        assert_eq!((log.aborted_transactions(0, 12), log.first_unstable_offset(9)), (vec![first], Some(6)));
        log.truncate_to(5).unwrap();
        assert_eq!((log.aborted_transactions(0, 12), log.first_unstable_offset(5)), (vec![], Some(0)));
        drop(log);
        fs::remove_dir_all(&copied).unwrap();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 96, ..ProptestConfig::default() })]
    /// Whatever happens to the log, what it knows is what its batches say.
    #[test]
    fn the_state_is_what_the_batches_say(ops in prop::collection::vec((0u8..10, 0i64..4, 1usize..4, 0.0f64..1.0), 1..60)) {
        let dir = tempdir();
        let mut log = Log::open(dir.path(), limits(400, 100)).unwrap();
        for (op, id, count, part) in ops {
            match op {
                0..7 => {
                    let next = state(&log).get(&id).map_or(0, |(_, sequence, _)| sequence + 1);
                    append(&mut log, &batch(id, 0, next, count));
                }
                7 => drop(log.truncate_to((log.end_offset() as f64 * part) as i64).unwrap()),
                8 => if let Some(unsynced) = log.unsynced() {
                    let synced = unsynced.sync().unwrap();
                    log.synced(synced);
                },
                _ => {
                    let clean = count == 1;
                    if clean {
                        log.flush().unwrap();
                    }
                    let point = log.recovery_point();
                    let killed = dir.path().join("killed");
                    if part < 0.5 {
                        // The files as a kill leaves them; a copy, since nothing was closed.
                        let _ = fs::remove_dir_all(&killed);
                        fs::create_dir_all(&killed).unwrap();
                        for e in fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().path()).filter(|p| p.is_file()) {
                            fs::copy(&e, killed.join(e.file_name().unwrap())).unwrap();
                        }
                        let copied = Log::open_in(&killed, limits(400, 100), &Files::new(8), Recovery { clean, point: Some(point), start: 0 }).unwrap();
                        prop_assert_eq!(state(&copied), state(&log));
                    } else {
                        drop(log);
                        log = Log::open_in(dir.path(), limits(400, 100), &Files::new(8), Recovery { clean, point: Some(point), start: 0 }).unwrap();
                    }
                }
            }
            let mut want = BTreeMap::new();
            for (h, _) in files(dir.path(), "log").into_iter().flat_map(|(_, b)| batches(&b)) {
                want.insert(h.producer_id, (h.producer_epoch, h.base_sequence + h.last_offset_delta, h.last_offset()));
            }
            prop_assert_eq!(state(&log), want);
        }
    }
}

#[test]
fn a_renamed_directory_takes_its_indexes_along() {
    let dir = tempdir();
    let (a, b) = (dir.path().join("a"), dir.path().join("b"));
    let mut log = Log::open(&a, LIMITS).unwrap();
    append(&mut log, &batch(1, 0, 0, 1));
    // A retired directory takes its index of aborted transactions along.
    log.rename(&b).unwrap();
    log.append_as_follower(
        &[placed(&Batch::new(1).values(&["x"]).attributes(TRANSACTIONAL).producer(2, 0, 0).build(), 1), marker(2, 0, false, 2)].concat(),
    )
    .unwrap();
    assert!(b.join("00000000000000000000.txnindex").exists() && !a.exists());
    copy(&b, &a);
    assert_eq!(open(&a, false, 0).aborted_transactions(0, 9).len(), 1);
}
