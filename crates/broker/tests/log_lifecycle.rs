//! From stop to start, and from the first record to its end: recovery points, clean starts, retention, epochs.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::{
    fs,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use common::{
    batches::{Batch, GOLDEN},
    logs::{append, check_indexes, files, limits, read_all},
    tempdir,
};
use septet_broker::{
    batch::validate,
    log::{Epoch, Files, Found, Limits, Log, Recovery, Retention},
};

fn segment(dir: &Path, base: i64, ending: &str) -> PathBuf {
    dir.join(format!("{base:020}.{ending}"))
}

fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as i64
}

fn open(dir: &Path, limits: Limits, recovery: Recovery) -> Log {
    Log::open_in(dir, limits, &Files::new(8), recovery).unwrap()
}

const SMALL: u32 = 400;

/// A log of four segments: offsets 0, 12, 24, 36, with three batches of three records in the last one.
fn four(dir: &Path) -> Log {
    let mut log = Log::open(dir, limits(SMALL, 50)).unwrap();
    (0..15).for_each(|_| {
        append(&mut log, &GOLDEN);
    });
    assert_eq!(files(dir, "log").iter().map(|(base, _)| *base).collect::<Vec<_>>(), [0, 12, 24, 36]);
    log
}

fn flip(path: &Path, at: u64) {
    let file = fs::File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 1], at).unwrap();
}

#[test]
fn after_a_clean_stop_the_data_is_not_read() {
    let dir = tempdir();
    let mut log = four(dir.path());
    log.flush().unwrap();
    assert_eq!(log.recovery_point(), 45);
    let (all, indexes, times) = (read_all(&log), files(dir.path(), "index"), files(dir.path(), "timeindex"));
    drop(log);
    // Damage that a look at the records would find. (Nothing else can show that they are not looked at.)
    for base in [0, 12, 24, 36] {
        flip(&segment(dir.path(), base, "log"), 75);
    }
    let log = open(dir.path(), limits(SMALL, 50), Recovery { clean: true, ..Recovery::default() });
    assert_eq!((log.start_offset(), log.end_offset(), log.recovery_point(), log.size()), (0, 45, 45, all.len() as u64));
    assert_eq!((files(dir.path(), "index"), files(dir.path(), "timeindex")), (indexes, times), "indexes are left as they are");
    assert_eq!(log.read(40, 10).unwrap().len(), GOLDEN.len());
    drop(log);
    for base in [0, 12, 24, 36] {
        flip(&segment(dir.path(), base, "log"), 75);
    }
    let mut log = open(dir.path(), limits(SMALL, 50), Recovery { clean: true, ..Recovery::default() });
    assert_eq!(read_all(&log), all);
    assert_eq!(append(&mut log, &GOLDEN), 45);
    check_indexes(dir.path(), 50);
}

#[test]
fn only_what_is_above_the_recovery_point_is_checked() {
    for point in [0, 12, 15, 24, 27, 36, 39, 45] {
        for damaged in [0, 12, 24, 36] {
            let dir = tempdir();
            drop(four(dir.path()));
            flip(&segment(dir.path(), damaged, "log"), 75);
            let log = open(dir.path(), limits(SMALL, 50), Recovery { point: Some(point), ..Recovery::default() });
            let what = format!("recovery point {point}, damage in the first batch of segment {damaged}");
            // A batch that is checked and found damaged goes, with all that follows. What is below the point stays: it was on
            // the disk, and nobody looks at it again before it is read.
            let cut = damaged >= point;
            assert_eq!(log.end_offset(), if cut { damaged } else { 45 }, "{what}");
            assert_eq!(log.recovery_point(), point.min(log.end_offset()), "{what}");
            let left = files(dir.path(), "log").iter().map(|(base, _)| *base).max().unwrap();
            assert_eq!(left, if cut { damaged } else { 36 }, "{what}: segments behind it are removed");
            let names = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
            assert_eq!(names.filter(|n| n.ends_with("index") && n[..20].parse::<i64>().unwrap() > left).count(), 0, "{what}");
            drop(log);
            let mut log = Log::open(dir.path(), limits(SMALL, 50)).unwrap();
            let end = log.end_offset();
            assert_eq!(append(&mut log, &GOLDEN), end, "{what}");
        }
    }
}

#[test]
fn indexes_that_do_not_fit_are_made_anew() {
    let dir = tempdir();
    let mut log = four(dir.path());
    log.flush().unwrap();
    let (all, indexes) = (read_all(&log), files(dir.path(), "index"));
    drop(log);
    for (what, content) in [
        ("zeros", vec![0; 160]),
        ("entries of other batches", [0u8, 0, 0, 9, 0, 0, 0, 97].repeat(3)),
        ("positions behind the end", [0u8, 0, 0, 5, 0x7f, 0, 0, 0].repeat(3)),
        ("nothing", vec![]),
        ("half an entry", vec![0; 5]),
    ] {
        for recovery in
            [Recovery { clean: true, ..Recovery::default() }, Recovery { point: Some(45), ..Recovery::default() }, Recovery::default()]
        {
            fs::write(segment(dir.path(), 12, "index"), &content).unwrap();
            fs::write(segment(dir.path(), 36, "index"), &content).unwrap();
            let log = open(dir.path(), limits(SMALL, 50), recovery);
            assert_eq!(read_all(&log), all, "{what}");
            assert_eq!(files(dir.path(), "index"), indexes, "{what}");
        }
    }
}

#[test]
fn the_disk_is_waited_for_while_others_append() {
    let dir = tempdir();
    let mut log = four(dir.path());
    let unsynced = log.unsynced().unwrap();
    append(&mut log, &GOLDEN);
    let synced = unsynced.sync().unwrap();
    log.synced(synced);
    assert_eq!((log.recovery_point(), log.end_offset()), (45, 48));
    log.flush().unwrap();
    assert_eq!(log.recovery_point(), 48);
    assert!(log.unsynced().is_none());
}

fn at_times(dir: &Path, times: &[i64]) -> Log {
    let mut log = Log::open(dir, limits(100, 50)).unwrap();
    times.iter().for_each(|t| {
        append(&mut log, &Batch::new(*t).values(&["x".repeat(40).as_str()]).build());
    });
    log
}

fn keep(ms: Option<i64>, bytes: Option<u64>) -> Retention {
    Retention { ms, bytes }
}

#[test]
fn old_segments_go_by_time() {
    let dir = tempdir();
    let hour = 3_600_000;
    let mut log = at_times(dir.path(), &[now() - 5 * hour, now() - 2 * hour, now() - 4 * hour, now() - hour, now()]);
    assert!(log.expire(keep(None, None), i64::MAX).unwrap().is_none());
    assert!(log.expire(keep(Some(6 * hour), None), i64::MAX).unwrap().is_none());
    let gone = log.expire(keep(Some(3 * hour), None), i64::MAX).unwrap().unwrap();
    assert_eq!(log.start_offset(), 1, "the one of four hours stays behind the one of two");
    assert!(gone.paths().len() == 3 && gone.paths().iter().all(|p| p.exists() && p.to_str().unwrap().ends_with(".deleted")));
    let paths = gone.paths();
    drop(gone);
    assert!(paths.iter().all(|p| !p.exists()));
    // The active segment goes as well, and the offsets go on.
    std::thread::sleep(Duration::from_millis(20));
    let gone = log.expire(keep(Some(1), None), i64::MAX).unwrap();
    assert_eq!((log.start_offset(), log.end_offset(), log.size()), (5, 5, 0));
    assert_eq!(append(&mut log, &GOLDEN), 5);
    drop(log);
    // Left behind by a stop before they were removed.
    std::mem::forget(gone);
    assert!(fs::read_dir(dir.path()).unwrap().any(|e| e.unwrap().path().to_str().unwrap().ends_with(".deleted")));
    let log = Log::open(dir.path(), limits(100, 50)).unwrap();
    assert_eq!((log.start_offset(), log.end_offset()), (5, 8));
    assert!(!fs::read_dir(dir.path()).unwrap().any(|e| e.unwrap().path().to_str().unwrap().ends_with(".deleted")));
}

#[test]
fn old_segments_go_by_size_and_never_below_it() {
    let dir = tempdir();
    let mut log = at_times(dir.path(), &[now(); 6]);
    let one = log.size() / 6;
    for (bytes, left) in [(7 * one, 6), (6 * one, 6), (5 * one + 1, 6), (5 * one, 5), (2 * one + 10, 3), (0, 1)] {
        drop(log.expire(keep(None, Some(bytes)), i64::MAX).unwrap());
        assert_eq!(log.end_offset() - log.start_offset(), left, "{bytes}");
    }
}

#[test]
fn records_below_an_offset_are_deleted() {
    let dir = tempdir();
    let mut log = four(dir.path());
    for (offset, start, segments) in [(0, 0, 4), (5, 5, 4), (13, 13, 3), (24, 24, 2), (45, 45, 1), (99, 45, 1), (3, 45, 1)] {
        drop(log.delete_below(offset).unwrap());
        assert_eq!((log.start_offset(), files(dir.path(), "log").len()), (start, segments), "{offset}");
    }
    assert_eq!(append(&mut log, &GOLDEN), 45);
    drop(log);
    let log = open(dir.path(), limits(SMALL, 50), Recovery { start: 46, ..Recovery::default() });
    assert_eq!((log.start_offset(), log.end_offset()), (46, 48));
    assert_eq!(log.offset_for_timestamp(0).unwrap().map(|f| f.offset), Some(46), "not what was deleted");
    drop(log);
    let log = open(dir.path(), limits(SMALL, 50), Recovery { start: 1000, ..Recovery::default() });
    assert_eq!((log.start_offset(), log.end_offset()), (48, 48), "a start behind the end is the end");
}

#[test]
fn a_segment_is_closed_after_a_time() {
    let dir = tempdir();
    let hours = |n: i64| 1_700_000_000_000 + n * 3_600_000;
    let mut log = Log::open(dir.path(), Limits { segment_ms: 3_600_000, ..limits(100_000, 50) }).unwrap();
    for (time, segments) in [(0, 1), (1, 1), (2, 2), (1, 2), (3, 2), (5, 3)] {
        append(&mut log, &Batch::new(hours(time)).values(&["x"]).build());
        assert_eq!(files(dir.path(), "log").len(), segments, "hour {time}");
    }
    drop(log);
    // It goes by the first batch's time after a start, too.
    let mut log = Log::open(dir.path(), Limits { segment_ms: 3_600_000, ..limits(100_000, 50) }).unwrap();
    append(&mut log, &Batch::new(hours(6)).values(&["x"]).build());
    assert_eq!(files(dir.path(), "log").len(), 3);
    append(&mut log, &Batch::new(hours(6) + 1).values(&["x"]).build());
    assert_eq!(files(dir.path(), "log").len(), 4);
}

#[test]
fn epochs_are_noted_and_found_again() {
    let dir = tempdir();
    let mut log = Log::open(dir.path(), limits(SMALL, 50)).unwrap();
    let in_epoch = |log: &mut Log, epoch: i32| {
        let heads = validate(&GOLDEN, usize::MAX).unwrap();
        log.append(&mut GOLDEN.to_vec(), &heads, epoch).unwrap()
    };
    for e in [0, 0, 2, 2, 7, 7, 7] {
        in_epoch(&mut log, e);
    }
    let file = dir.path().join("leader-epoch-checkpoint");
    let text = "0\n3\n0 0\n2 6\n7 12\n";
    assert_eq!(fs::read_to_string(&file).unwrap(), text);
    let want = [Epoch { epoch: 0, start: 0 }, Epoch { epoch: 2, start: 6 }, Epoch { epoch: 7, start: 12 }];
    drop(log);
    // Lost in a crash: the batches that are checked have them.
    fs::write(&file, "0\n1\n0 0\n").unwrap();
    let log = open(dir.path(), limits(SMALL, 50), Recovery { point: Some(0), ..Recovery::default() });
    assert_eq!(log.epochs(), want);
    assert_eq!(fs::read_to_string(&file).unwrap(), text);
    drop(log);
    // The log lost its end: so do the epochs.
    let last = segment(dir.path(), 12, "log");
    fs::File::options().write(true).open(last).unwrap().set_len(10).unwrap();
    let mut log = open(dir.path(), limits(SMALL, 50), Recovery { point: Some(0), ..Recovery::default() });
    assert_eq!((log.epochs(), log.end_offset()), (&want[..2], 12));
    in_epoch(&mut log, 8);
    drop(log.delete_below(7).unwrap());
    assert_eq!(log.epochs(), [Epoch { epoch: 2, start: 7 }, Epoch { epoch: 8, start: 12 }]);
}

/// By the index, not by reading: the same answer as by reading everything.
#[test]
fn times_are_found_in_any_order_of_batches() {
    let mut seed = 7u64;
    let mut next = move |n: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) % n
    };
    for round in 0..30 {
        let dir = tempdir();
        let interval = [0, 100, 400][round % 3];
        let mut log = Log::open(dir.path(), limits(3000, interval)).unwrap();
        let mut times = Vec::new();
        for i in 0..80 {
            // Growing, falling, or anything.
            let time = match round % 4 {
                0 => i * 10,
                1 => 1000 - i * 10,
                _ => next(1000) as i64,
            };
            let delta = next(20) as i64 - 10;
            append(&mut log, &Batch::new(time).records(&[(0, None, Some("x")), (delta, None, Some("y"))]).build());
            times.extend([time, time + delta]);
        }
        for clean in [false, true] {
            for t in -20..1030 {
                let want = times.iter().position(|time| *time >= t).map(|i| Found { offset: i as i64, timestamp: times[i] });
                assert_eq!(log.offset_for_timestamp(t).unwrap(), want, "round {round}, time {t}");
            }
            log.flush().unwrap();
            drop(log);
            log = open(dir.path(), limits(3000, interval), Recovery { clean, ..Recovery::default() });
        }
        check_indexes(dir.path(), interval);
    }
}
