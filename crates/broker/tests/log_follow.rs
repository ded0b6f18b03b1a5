//! A follower's log: batches as a leader has them, truncation, and a new beginning.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::{fs, path::Path};

use common::{
    batches::{Batch, GOLDEN},
    logs::{append, batches, check_indexes, check_indexes_closed, copy, files, limits},
    tempdir,
};
use proptest::prelude::*;
use septet_broker::{
    batch::{Head, place},
    log::{Epoch, Files, Limits, Log, Recovery},
};

const LIMITS: Limits = Limits { segment_bytes: 400, index_interval_bytes: 50, segment_ms: i64::MAX };

/// A batch as a leader has it.
fn placed(bytes: &[u8], offset: i64, epoch: i32) -> Vec<u8> {
    let mut out = bytes.to_vec();
    place(&mut out, offset, epoch);
    out
}

fn golden(offset: i64, epoch: i32) -> Vec<u8> {
    placed(&GOLDEN, offset, epoch)
}

/// Base and last offset and epoch of all batches, as they lie in the files.
fn all(dir: &Path) -> Vec<(i64, i64, i32)> {
    let logs = files(dir, "log").into_iter().flat_map(|(_, bytes)| batches(&bytes));
    logs.map(|(h, _)| (h.base_offset, h.last_offset(), h.leader_epoch)).collect()
}

#[test]
fn a_follower_keeps_offsets_epochs_and_gaps() {
    let dir = tempdir();
    let mut log = Log::open(dir.path(), LIMITS).unwrap();
    let late = Batch::new(1_800_000_000_000).values(&["late"]).build();
    let sent = [golden(0, 1), golden(10, 1), placed(&late, 20, 3), golden(21, 4)].concat();
    // The last one is cut off, as leaders do it at the limit of a fetch.
    let taken = log.append_as_follower(&sent[..sent.len() - 1]).unwrap();
    assert_eq!((taken.first_offset, taken.last_offset, taken.max_timestamp), (0, 20, 1_800_000_000_000));
    assert_eq!((taken.bytes, log.end_offset()), (2 * 97 + late.len(), 21));
    let taken = log.append_as_follower(&sent[taken.bytes..]).unwrap();
    assert_eq!((taken.first_offset, taken.last_offset), (21, 23));
    let nothing = log.append_as_follower(&golden(24, 4)[..60]).unwrap();
    assert_eq!((nothing.first_offset, nothing.last_offset, nothing.max_timestamp, nothing.bytes), (24, 23, -1, 0));
    let want = [Epoch { epoch: 1, start: 0 }, Epoch { epoch: 3, start: 20 }, Epoch { epoch: 4, start: 21 }];
    let looks = |log: &Log| {
        assert_eq!(all(dir.path()), [(0, 2, 1), (10, 12, 1), (20, 20, 3), (21, 23, 4)]);
        assert_eq!((log.start_offset(), log.end_offset(), log.epochs()), (0, 24, &want[..]));
        // Within a gap reading goes on behind it.
        assert_eq!(Head::parse(&log.read(5, 10).unwrap()).unwrap().base_offset, 10);
        assert_eq!(log.offset_for_timestamp(1_750_000_000_000).unwrap().unwrap().offset, 20);
    };
    looks(&log);
    drop(log);
    looks(&Log::open(dir.path(), LIMITS).unwrap());
    check_indexes(dir.path(), LIMITS.index_interval_bytes);
}

#[test]
fn what_a_leader_would_not_send_is_refused_as_a_whole() {
    let dir = tempdir();
    let mut log = Log::open(dir.path(), LIMITS).unwrap();
    log.append_as_follower(&golden(0, 1)).unwrap();
    let good = golden(3, 1);
    let with = |at: usize, byte: u8| {
        let mut b = good.clone();
        b[at] = byte;
        b
    };
    let cases: [(&str, Vec<u8>); 10] = [
        ("below the end", golden(2, 1)),
        ("below the end of the one before", [golden(3, 1), golden(5, 1)].concat()),
        ("negative offset", golden(-3, 1)),
        ("offset without an end", golden(i64::MAX - 2, 1)),
        ("magic", with(16, 1)),
        ("checksum", with(96, 9)),
        ("length below a head's", with(11, 3)),
        ("negative length", with(8, 0x80)),
        ("last offset delta", placed(&Batch::new(1).values(&["a"]).last_offset_delta(-1).build(), 3, 1)),
        ("count", placed(&Batch::new(1).values(&["a"]).count(-1).build(), 3, 1)),
    ];
    for (what, bytes) in cases {
        for sent in [bytes.clone(), [golden(3, 1), bytes].concat()] {
            let error = log.append_as_follower(&sent).expect_err(what);
            assert!(error.is_bad_data(), "{what}: {error}");
            assert_eq!((all(dir.path()), log.end_offset()), (vec![(0, 2, 1)], 3), "{what}");
        }
    }
    // Compaction leaves batches without a record.
    log.append_as_follower(&placed(&Batch::new(1).count(0).last_offset_delta(4).build(), 3, 2)).unwrap();
    assert_eq!(log.end_offset(), 8);
}

#[test]
fn a_batch_far_away_gets_a_segment_that_can_index_it() {
    let dir = tempdir();
    let far = 5_000_000_000;
    let mut log = Log::open(dir.path(), LIMITS).unwrap();
    log.append_as_follower(&golden(far, 1)).unwrap();
    log.append_as_follower(&golden(2 * far, 1)).unwrap();
    assert_eq!(files(dir.path(), "log").iter().map(|(base, _)| *base).collect::<Vec<_>>(), [0, far, 2 * far]);
    drop(log);
    let mut log = Log::open(dir.path(), LIMITS).unwrap();
    assert_eq!((log.start_offset(), log.end_offset()), (0, 2 * far + 3));
    assert_eq!(Head::parse(&log.read(0, 10).unwrap()).unwrap().base_offset, far);
    // The empty first segment does not keep the others from going.
    let gone = log.expire(septet_broker::log::Retention { ms: None, bytes: Some(1) }, i64::MAX).unwrap();
    assert!(gone.is_some());
    assert_eq!(log.start_offset(), 2 * far);
}

#[test]
fn an_empty_log_takes_a_batch_that_begins_below_it() {
    let dir = tempdir();
    let mut log = Log::open(dir.path(), LIMITS).unwrap();
    log.truncate_fully_and_start_at(11).unwrap();
    assert!(log.append_as_follower(&golden(5, 1)).unwrap_err().is_bad_data(), "it ends below");
    log.append_as_follower(&golden(10, 1)).unwrap();
    assert_eq!((log.start_offset(), log.end_offset(), log.start_is_within()), (11, 13, true));
    assert!(log.append_as_follower(&golden(12, 1)).is_err());
}

/// Twelve batches of three records in three segments, with epochs 1, 2 and 3.
fn twelve(dir: &Path) -> Log {
    let mut log = Log::open(dir, LIMITS).unwrap();
    for i in 0..12 {
        log.append_as_follower(&golden(3 * i, 1 + i as i32 / 4)).unwrap();
    }
    assert_eq!(files(dir, "log").iter().map(|(base, _)| *base).collect::<Vec<_>>(), [0, 12, 24]);
    log
}

#[test]
fn truncation_leaves_what_ends_before_an_offset() {
    for to in 0..40 {
        let dir = tempdir();
        let mut log = twelve(dir.path());
        log.flush().unwrap();
        assert_eq!(log.truncate_to(to).unwrap(), to < 36, "{to}");
        let end = (to - to % 3).min(36);
        let looks = |log: &Log| {
            assert_eq!((log.start_offset(), log.end_offset(), log.recovery_point()), (0, end, end), "{to}");
            let want: Vec<_> = (0..end / 3).map(|i| (3 * i, 3 * i + 2, 1 + i as i32 / 4)).collect();
            assert_eq!(all(dir.path()), want, "{to}");
            let epochs: Vec<_> = (0..3).map(|i| Epoch { epoch: i + 1, start: 12 * i64::from(i) }).filter(|e| e.start < end).collect();
            assert_eq!(log.epochs(), epochs, "{to}");
            check_indexes(dir.path(), LIMITS.index_interval_bytes);
        };
        looks(&log);
        drop(log);
        let point = Some(end);
        let mut log = Log::open_in(dir.path(), LIMITS, &Files::new(8), Recovery { clean: false, point, start: 0 }).unwrap();
        looks(&log);
        assert_eq!(append(&mut log, &GOLDEN), end);
        check_indexes(dir.path(), LIMITS.index_interval_bytes);
    }
}

#[test]
fn an_offset_below_the_first_segment_empties_the_log() {
    let dir = tempdir();
    let mut log = Log::open(dir.path(), LIMITS).unwrap();
    log.truncate_fully_and_start_at(100).unwrap();
    log.append_as_follower(&golden(100, 1)).unwrap();
    assert!(log.truncate_to(50).unwrap());
    assert_eq!((log.start_offset(), log.end_offset(), log.epochs(), log.size()), (50, 50, &[][..], 0));
    assert!(log.truncate_to(-1).unwrap_err().is_bad_data());
}

#[test]
fn a_log_begins_anew_where_it_is_told() {
    for to in [0, 5, 12, 36, 5_000_000_000] {
        let dir = tempdir();
        let mut log = twelve(dir.path());
        let gone = log.truncate_fully_and_start_at(to).unwrap().unwrap();
        assert_eq!(gone.paths().len(), 9);
        assert!(gone.paths().iter().all(|p| p.exists()));
        drop(gone);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 4, "a segment and the epochs");
        assert_eq!((log.start_offset(), log.end_offset(), log.recovery_point(), log.epochs()), (to, to, to, &[][..]));
        log.append_as_follower(&golden(to, 9)).unwrap();
        drop(log);
        let log = Log::open(dir.path(), LIMITS).unwrap();
        assert_eq!((log.start_offset(), log.end_offset(), log.epochs()), (to, to + 3, &[Epoch { epoch: 9, start: to }][..]));
    }
}

/// A slice on its way to a follower, which names bytes that are cut off, then or later never shows others.
#[test]
fn a_slice_never_shows_bytes_that_took_the_place_of_others() {
    for (to, files) in [(0, 1), (3, 1), (12, 1), (15, 1), (30, 1), (0, 100), (15, 100)] {
        let dir = tempdir();
        let files = Files::new(files);
        let mut log = Log::open_in(dir.path(), LIMITS, &files, Recovery::default()).unwrap();
        for i in 0..12 {
            log.append_as_follower(&golden(3 * i, 1)).unwrap();
        }
        let slices: Vec<_> = (0..12).map(|i| log.slice(3 * i, 97, true).unwrap().unwrap()).collect();
        log.truncate_to(to).unwrap();
        for i in to / 3..12 {
            log.append_as_follower(&placed(&Batch::new(7).values(&["other", "one", &"x".repeat(60)]).build(), 3 * i, 2)).unwrap();
        }
        for (i, slice) in slices.iter().enumerate() {
            let mut out = bytes::BytesMut::new();
            match slice.read_into(&mut out) {
                Ok(()) => assert_eq!(out, golden(3 * i as i64, 1), "{to} {i}"),
                Err(_) => assert!(3 * i as i64 >= to, "{to} {i}: it was not cut off"),
            }
        }
        drop(slices);
        // Without a reader the same file is used again.
        let segments = common::logs::files(dir.path(), "log").len();
        log.truncate_to(to + 3).unwrap();
        assert!(common::logs::files(dir.path(), "log").len() <= segments);
        check_indexes(dir.path(), LIMITS.index_interval_bytes);
    }
}

#[test]
fn a_sync_that_began_before_a_truncation_says_nothing_about_what_follows() {
    let dir = tempdir();
    let mut log = twelve(dir.path());
    let unsynced = log.unsynced().unwrap();
    log.truncate_to(12).unwrap();
    log.append_as_follower(&golden(12, 7)).unwrap();
    log.synced(unsynced.sync().unwrap());
    assert!(log.recovery_point() <= 12);
    let synced = log.unsynced().unwrap().sync().unwrap();
    log.synced(synced);
    assert_eq!(log.recovery_point(), 15);
}

/// The steps of a truncation are applied one by one to a copy of the files: whatever a kill leaves is a log with the first
/// batches of the old one, and at least those that were to stay.
#[test]
fn a_kill_within_a_truncation_leaves_a_log_that_is_whole() {
    for (to, anew) in [(3, false), (12, false), (17, false), (24, false), (30, false), (0, true), (50, true)] {
        let dir = tempdir();
        let (before, after) = (dir.path().join("before"), dir.path().join("after"));
        let mut log = twelve(&before);
        log.flush().unwrap();
        drop(log);
        let old = all(&before);
        copy(&before, &after);
        let mut log = Log::open(&after, LIMITS).unwrap();
        let keep = match anew {
            true => log.truncate_fully_and_start_at(to).map(|_| 0).unwrap(),
            false => log.truncate_to(to).map(|_| to / 3).unwrap(),
        };
        drop(log);
        let name = |base: i64, ending: &str| format!("{base:020}.{ending}");
        let mut steps = Vec::new();
        for base in [24, 12, 0] {
            let stays = after.join(name(base, "log")).exists() && !anew;
            steps.extend(["timeindex", "index", "log"].map(|e| (name(base, e), stays)));
        }
        // Files that go do so from the last one on; then the last that stays is cut, its indexes first.
        steps.sort_by_key(|(_, stays)| *stays);
        steps.push(("leader-epoch-checkpoint".to_owned(), true));
        if anew {
            steps.extend(["log", "index", "timeindex"].map(|e| (name(to, e), true)));
        }
        let torn = dir.path().join("torn");
        for n in 0..=steps.len() {
            let _ = fs::remove_dir_all(&torn);
            copy(&before, &torn);
            for (name, stays) in &steps[..n] {
                match stays {
                    true => drop(fs::copy(after.join(name), torn.join(name)).unwrap()),
                    false => fs::remove_file(torn.join(name)).unwrap(),
                }
            }
            for clean in [false, true] {
                let mut log = Log::open_in(&torn, LIMITS, &Files::new(8), Recovery { clean, point: Some(36), start: 0 }).unwrap();
                let have = all(&torn);
                assert!(have.len() >= keep as usize && old.starts_with(&have), "{to} {anew} {n}: {have:?}");
                check_indexes(&torn, LIMITS.index_interval_bytes);
                let end = log.end_offset();
                assert!(log.epochs().iter().all(|e| e.start < end.max(1)), "{:?}", log.epochs());
                append(&mut log, &GOLDEN);
                drop(log);
                assert_eq!(Log::open(&torn, LIMITS).unwrap().end_offset(), end + 3);
                fs::remove_dir_all(&torn).unwrap();
                copy(&before, &torn);
                for (name, stays) in &steps[..n] {
                    match stays {
                        true => drop(fs::copy(after.join(name), torn.join(name)).unwrap()),
                        false => fs::remove_file(torn.join(name)).unwrap(),
                    }
                }
            }
        }
    }
}

#[derive(Debug, Clone)]
enum Op {
    Lead(usize),
    Follow { gap: i64, sizes: Vec<usize>, torn: usize },
    Truncate(f64),
    Anew(i64),
    Delete(f64),
    Reopen { clean: bool },
}

fn ops() -> impl Strategy<Value = Op> {
    prop_oneof![
        1 => (1usize..4).prop_map(Op::Lead),
        4 => (0i64..20, prop::collection::vec(1usize..120, 1..5), 0usize..90).prop_map(|(gap, sizes, torn)| Op::Follow { gap, sizes, torn }),
        3 => (-0.1f64..1.2).prop_map(Op::Truncate),
        1 => (0i64..400).prop_map(Op::Anew),
        1 => (0.0f64..1.0).prop_map(Op::Delete),
        1 => any::<bool>().prop_map(|clean| Op::Reopen { clean }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 256, ..ProptestConfig::default() })]
    /// The log against a list of batches.
    #[test]
    fn appends_and_truncations_are_those_of_a_list(ops in prop::collection::vec(ops(), 1..40), hold in any::<bool>()) {
        let dir = tempdir();
        let small = limits(900, 100);
        let mut log = Log::open(dir.path(), small).unwrap();
        // Base offset, next offset, bytes.
        let mut model: Vec<(i64, i64, Vec<u8>)> = Vec::new();
        let (mut start, mut end, mut epoch) = (0i64, 0i64, 0);
        let mut held = Vec::new();
        let mut closed = 1;
        for op in ops {
            epoch += 1;
            if hold && let Some((offset, _, bytes)) = model.last() {
                held.push((log.slice(*offset, 1, true).unwrap().unwrap(), bytes.clone()));
            }
            match op {
                Op::Lead(n) => for _ in 0..n {
                    let mut bytes = GOLDEN.to_vec();
                    let heads = septet_broker::batch::validate(&bytes, 1000).unwrap();
                    prop_assert_eq!(log.append(&mut bytes, &heads, epoch).unwrap(), end);
                    model.push((end, end + 3, bytes));
                    end += 3;
                },
                Op::Follow { gap, sizes, torn } => {
                    let mut sent = Vec::new();
                    end += gap;
                    for size in sizes {
                        let batch = placed(&Batch::new(if size % 3 == 0 { 1000 - end } else { 1000 + end }).values(&["x", &"y".repeat(size)]).build(), end, epoch);
                        sent.extend_from_slice(&batch);
                        model.push((end, end + 2, batch));
                        end += 2;
                    }
                    let whole = sent.len();
                    sent.extend_from_slice(&golden(end, epoch)[..torn]);
                    let taken = log.append_as_follower(&sent).unwrap();
                    prop_assert_eq!((taken.bytes, taken.last_offset + 1), (whole, end));
                }
                Op::Truncate(part) => {
                    let to = (end as f64 * part) as i64;
                    if to < 0 {
                        prop_assert!(log.truncate_to(to).is_err());
                        continue;
                    }
                    prop_assert_eq!(log.truncate_to(to).unwrap(), to < end);
                    let first = files(dir.path(), "log")[0].0;
                    if to < end {
                        let cut = model.iter().position(|(_, next, _)| *next > to).unwrap_or(model.len());
                        end = model.get(cut).map_or(to, |b| b.0.min(to)).max(first);
                        model.truncate(cut);
                        start = start.min(end);
                    }
                }
                Op::Anew(to) => {
                    log.truncate_fully_and_start_at(to).unwrap();
                    model.clear();
                    (start, end) = (to, to);
                }
                Op::Delete(part) => {
                    let to = start + ((end - start) as f64 * part) as i64;
                    log.delete_below(to).unwrap();
                    start = start.max(to);
                    let first = files(dir.path(), "log")[0].0;
                    model.retain(|(base, ..)| *base >= first);
                }
                Op::Reopen { clean } => {
                    log.flush().unwrap();
                    closed += 1;
                    // A directory is opened once in a process.
                    held.clear();
                    drop(log);
                    log = Log::open_in(dir.path(), small, &Files::new(4), Recovery { clean, point: Some(end), start }).unwrap();
                    // A gap at the end is not in any file.
                    let last = model.last().map_or(0, |b| b.1).max(files(dir.path(), "log").last().unwrap().0);
                    end = last.min(end);
                    start = start.min(end);
                }
            }
            prop_assert_eq!((log.start_offset(), log.end_offset()), (start, end));
            let have: Vec<u8> = files(dir.path(), "log").into_iter().flat_map(|(_, b)| b).collect();
            prop_assert_eq!(&have, &model.iter().flat_map(|(_, _, b)| b.clone()).collect::<Vec<_>>());
            for (base, next, bytes) in &model {
                prop_assert_eq!(&log.read(*base, 1).unwrap(), bytes);
                prop_assert_eq!(&log.read(*next - 1, 1).unwrap(), bytes);
            }
            prop_assert!(log.epochs().iter().all(|e| e.start <= end) && log.recovery_point() <= end);
            check_indexes_closed(dir.path(), 100, closed);
            for (slice, bytes) in &held {
                let mut out = bytes::BytesMut::new();
                if slice.read_into(&mut out).is_ok() {
                    prop_assert_eq!(&out[..], &bytes[..]);
                }
            }
        }
    }
}
