//! Compaction of logs: what stays, what goes, and what a kill leaves.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
};

use common::{
    batches::Batch,
    logs::{batches, check_indexes, copy, files},
    tempdir,
};
use proptest::prelude::*;
use septet_broker::{
    batch::{CONTROL, DELETE_HORIZON, HEAD_BYTES, Head, TRANSACTIONAL, place, validate},
    log::{Compaction, Files, Limits, Log, Recovery},
    records::{Records, body, check, compress},
};

const LIMITS: Limits = Limits { segment_bytes: 600, index_interval_bytes: 100, segment_ms: i64::MAX };
const NOW: i64 = 1_000_000;
const SETTINGS: Compaction =
    Compaction { enabled: true, min_dirty_millionths: 0, min_lag_ms: 0, max_lag_ms: i64::MAX, delete_retention_ms: 1000 };
static GO: AtomicBool = AtomicBool::new(false);

type Field = Option<Vec<u8>>;

/// Records at a time, compressed.
fn batch(time: i64, records: &[(&str, Option<&str>)], codec: i16) -> Vec<u8> {
    let fields: Vec<_> = records.iter().map(|(k, v)| (0, Some(k.as_bytes()), v.map(str::as_bytes))).collect();
    compressed(&Batch::new(time).records(&fields), codec)
}

fn compressed(plain: &Batch, codec: i16) -> Vec<u8> {
    let body = plain.build()[HEAD_BYTES..].to_vec();
    plain.clone().attributes(codec).body(&compress(codec, body).unwrap()).build()
}

fn append(log: &mut Log, bytes: &[u8]) -> i64 {
    let heads = validate(bytes, usize::MAX).unwrap();
    check(bytes, &heads[0], 1 << 20, true).unwrap();
    log.append(&mut bytes.to_vec(), &heads, 1).unwrap()
}

/// Offset, key, value and time of all records in the files of a log.
fn records(dir: &Path) -> Vec<(i64, Field, Field, i64)> {
    let mut out = Vec::new();
    for (head, bytes) in files(dir, "log").iter().flat_map(|(_, b)| batches(b)).filter(|(h, _)| h.attributes & CONTROL == 0) {
        let body = body(&bytes, &head, 1 << 20).unwrap().unwrap();
        let before = out.len();
        for r in Records::new(&body).map(Result::unwrap) {
            let time = head.base_timestamp + r.timestamp_delta;
            out.push((head.base_offset + i64::from(r.offset_delta), r.key.map(<[u8]>::to_vec), r.value.map(<[u8]>::to_vec), time));
        }
        assert_eq!(out.len() - before, head.count as usize);
        assert!(out.last().is_none_or(|l| l.0 <= head.last_offset()));
    }
    assert!(out.is_sorted_by(|a, b| a.0 < b.0), "offsets grow");
    out
}

/// The last value of each key; none is a tombstone.
fn last_values(records: &[(i64, Field, Field, i64)]) -> BTreeMap<Vec<u8>, (i64, Field)> {
    records.iter().map(|(offset, key, value, _)| (key.clone().unwrap(), (*offset, value.clone()))).collect()
}

/// One round. Returns whether there was anything to do.
fn clean_at(log: &mut Log, high_watermark: i64, now: i64, buffer: usize, settings: &Compaction) -> bool {
    if !log.dirt(settings, high_watermark, now).is_due(settings) {
        return false;
    }
    let plan = log.plan_cleaning(settings, high_watermark, now);
    let map = plan.build(buffer, &GO).unwrap();
    let end = plan.clean(&map, now, &GO, &mut |cleaned| Ok(log.replace(cleaned)?.is_some())).unwrap();
    log.set_cleaned_to(end.expect("nobody else has changed the log"));
    true
}

fn clean(log: &mut Log) {
    let end = log.end_offset();
    while clean_at(log, end, NOW, 1 << 20, &SETTINGS) {}
}

#[test]
fn the_last_value_of_each_key_stays_in_every_codec() {
    for codec in 0..=4 {
        let dir = tempdir();
        let mut log = Log::open(dir.path(), LIMITS).unwrap();
        for i in 0..30 {
            let value = format!("{i} {}", "x".repeat(60));
            append(&mut log, &batch(i, &[("a", Some(&value)), (["b", "c", "d"][i as usize % 3], Some(&value))], codec));
        }
        let (before, size) = (records(dir.path()), log.size());
        let active = files(dir.path(), "log").last().unwrap().0;
        clean(&mut log);
        let after = records(dir.path());
        assert!(log.size() < size / 2 && after.len() < before.len() / 2, "{codec}");
        assert!(after.iter().all(|r| before.contains(r)), "{codec}: a record is as it was, or gone");
        assert_eq!(last_values(&after), last_values(&before), "{codec}");
        let closed: Vec<_> = after.iter().filter(|r| r.0 < active).collect();
        assert_eq!(closed.len(), 4, "{codec}: {closed:?}");
        assert!(before.iter().filter(|r| r.0 >= active).all(|r| after.contains(r)), "{codec}: the active segment is as it was");
        assert_eq!(files(dir.path(), "log").len(), 2, "{codec}: small segments become one");
        assert_eq!((log.start_offset(), log.end_offset(), log.cleaned_to()), (0, 60, active));
        check_indexes(dir.path(), LIMITS.index_interval_bytes);
        // A time is found within a batch that has gaps.
        let last_a = closed.iter().rfind(|r| r.1 == Some(b"a".to_vec())).unwrap();
        assert_eq!(log.offset_for_timestamp(last_a.3).unwrap().unwrap().offset, closed.iter().find(|r| r.3 >= last_a.3).unwrap().0);
        // Nothing is left to do.
        assert!(!clean_at(&mut log, 60, NOW, 1 << 20, &SETTINGS));
        let bytes = files(dir.path(), "log");
        drop(log);
        let log = Log::open(dir.path(), LIMITS).unwrap();
        assert_eq!((files(dir.path(), "log"), log.end_offset()), (bytes, 60));
    }
}

#[test]
fn tombstones_stay_until_their_time_is_over() {
    let dir = tempdir();
    let mut log = Log::open(dir.path(), LIMITS).unwrap();
    append(&mut log, &batch(1, &[("gone", Some("value")), ("here", Some("value"))], 0));
    append(&mut log, &batch(2, &[("gone", None)], 0));
    let fill = |log: &mut Log| {
        for _ in 0..8 {
            append(log, &batch(3, &[("fill", Some(&"x".repeat(100)))], 0));
        }
    };
    fill(&mut log);
    let end = log.end_offset();
    assert!(clean_at(&mut log, end, NOW, 1 << 20, &SETTINGS));
    let tombstone = (2, Some(b"gone".to_vec()), None, 2);
    assert!(records(dir.path()).contains(&tombstone), "with its own time");
    let heads: Vec<Head> = files(dir.path(), "log").iter().flat_map(|(_, b)| batches(b)).map(|(h, _)| h).collect();
    let with: Vec<_> = heads.iter().filter(|h| h.attributes & DELETE_HORIZON != 0).collect();
    assert_eq!(with.iter().map(|h| (h.base_offset, h.base_timestamp, h.max_timestamp)).collect::<Vec<_>>(), [(2, NOW + 1000, 2)]);
    let mut round = |now: i64, there: bool| {
        fill(&mut log);
        let end = log.end_offset();
        assert!(clean_at(&mut log, end, now, 1 << 20, &SETTINGS));
        let all = records(dir.path());
        assert_eq!(all.contains(&tombstone), there);
        assert!(!all.iter().any(|r| r.0 == 0) && all.iter().any(|r| r.0 == 1));
    };
    round(NOW + 999, true);
    round(NOW + 1000, false);
}

#[test]
fn what_may_change_or_is_young_is_not_touched() {
    let dir = tempdir();
    let mut log = Log::open(dir.path(), LIMITS).unwrap();
    for i in 0..40 {
        append(&mut log, &batch(i, &[("k", Some(&"x".repeat(100)))], 0));
    }
    let before = files(dir.path(), "log");
    let bases: Vec<i64> = before.iter().map(|(b, _)| *b).collect();
    assert!(bases.len() > 6);
    for (high_watermark, settings) in [
        (bases[1] - 1, SETTINGS),
        (0, SETTINGS),
        (40, Compaction { min_lag_ms: NOW - 1, ..SETTINGS }),
        (40, Compaction { min_dirty_millionths: 1_000_000, ..SETTINGS }),
    ] {
        assert!(!clean_at(&mut log, high_watermark, NOW, 1 << 20, &settings), "{high_watermark}");
        assert_eq!(files(dir.path(), "log"), before);
    }
    // Below the high watermark only.
    assert!(clean_at(&mut log, bases[3] + 1, NOW, 1 << 20, &SETTINGS));
    let after = files(dir.path(), "log");
    assert_eq!((log.cleaned_to(), records(dir.path())[0].0), (bases[3], bases[3] - 1));
    assert_eq!(after[1..], before[3..]);
    // One round more is due when the lag is over, whatever the ratio.
    let lag = Compaction { min_dirty_millionths: 1_000_000, max_lag_ms: 1000, ..SETTINGS };
    assert!(!clean_at(&mut log, 40, 1005, 1 << 20, &lag) && clean_at(&mut log, 40, NOW, 1 << 20, &lag));
    // A transaction that is not complete.
    let open = Batch::new(1).records(&[(0, Some("t"), Some("v"))]).attributes(TRANSACTIONAL).producer(1, 0, 0).build();
    let first = log.end_offset();
    let mut open = open;
    place(&mut open, first, 1);
    log.append_as_follower(&open).unwrap();
    for i in 0..20 {
        append(&mut log, &batch(i, &[("k", Some(&"x".repeat(100)))], 0));
    }
    let end = log.end_offset();
    clean_at(&mut log, end, NOW, 1 << 20, &SETTINGS);
    assert!(log.cleaned_to() <= first && records(dir.path()).iter().filter(|r| r.0 >= first).count() == 21);
}

#[test]
fn a_small_map_takes_several_rounds() {
    let dir = tempdir();
    let mut log = Log::open(dir.path(), LIMITS).unwrap();
    for i in 0..200 {
        append(&mut log, &batch(i, &[(&format!("key {}", i % 70), Some(&i.to_string())), ("all", Some("x"))], (i % 5) as i16));
    }
    let before = records(dir.path());
    // 20 keys at once.
    let mut rounds = 0;
    let mut last = -1;
    while clean_at(&mut log, 400, NOW, 24 * 23, &SETTINGS) {
        assert!(log.cleaned_to() > last, "each goes on");
        last = log.cleaned_to();
        rounds += 1;
        let after = records(dir.path());
        assert_eq!(last_values(&after), last_values(&before));
        assert!(after.iter().all(|r| before.contains(r)));
    }
    assert!(rounds > 4, "{rounds}");
}

#[test]
fn producers_go_on_after_a_compaction() {
    let dir = tempdir();
    let mut log = Log::open(dir.path(), LIMITS).unwrap();
    let sent = |id: i64, sequence: i32| {
        Batch::new(1).records(&[(0, Some("k"), Some("v")), (0, Some("l"), Some("v"))]).producer(id, 2, sequence).build()
    };
    for i in 0..30 {
        append(&mut log, &sent(i % 3, i as i32 / 3 * 2));
    }
    for i in 0..20 {
        append(&mut log, &batch(i, &[("k", Some(&"x".repeat(100))), ("l", None)], 0));
    }
    let state = |log: &Log| -> BTreeMap<i64, _> { log.producers().map(|(id, p)| (id, (p.epoch, *p.batches().last().unwrap()))).collect() };
    let want = state(&log);
    clean(&mut log);
    let empty: Vec<_> =
        files(dir.path(), "log").iter().flat_map(|(_, b)| batches(b)).filter(|(h, _)| h.count == 0).map(|(h, _)| h).collect();
    assert_eq!(
        empty.iter().map(|h| (h.producer_id, h.base_offset, h.last_offset(), h.base_sequence)).collect::<Vec<_>>(),
        [(0, 54, 55, 18), (1, 56, 57, 18), (2, 58, 59, 18)]
    );
    drop(log);
    // From the batches alone.
    files(dir.path(), "snapshot").iter().for_each(|(o, _)| fs::remove_file(dir.path().join(format!("{o:020}.snapshot"))).unwrap());
    let mut log = Log::open(dir.path(), LIMITS).unwrap();
    assert_eq!(state(&log), want);
    // Once they are forgotten, their batches go.
    log.expire_producers(i64::MAX, 1);
    log.set_cleaned_to(0);
    clean(&mut log);
    assert!(!files(dir.path(), "log").iter().flat_map(|(_, b)| batches(b)).any(|(h, _)| h.producer_id >= 0));
}

#[test]
fn aborted_records_do_not_supersede_others_and_go() {
    let dir = tempdir();
    let mut log = Log::open(dir.path(), LIMITS).unwrap();
    append(&mut log, &batch(1, &[("k", Some("committed"))], 0));
    let follow = |log: &mut Log, b: Batch| {
        let mut bytes = b.build();
        place(&mut bytes, log.end_offset(), 1);
        log.append_as_follower(&bytes).unwrap();
    };
    follow(&mut log, Batch::new(1).records(&[(0, Some("k"), Some("aborted"))]).attributes(TRANSACTIONAL).producer(7, 0, 0));
    let marker = vec![(0, Some(vec![0, 0, 0, 0]), Some(vec![0; 6]))];
    follow(&mut log, Batch::new(1).records(&marker).attributes(TRANSACTIONAL | CONTROL).producer(7, 0, -1));
    for _ in 0..20 {
        append(&mut log, &batch(1, &[("other", Some(&"x".repeat(100)))], 0));
    }
    let aborted = log.aborted_transactions(0, 100);
    assert_eq!(aborted.len(), 1);
    clean(&mut log);
    let all = records(dir.path());
    assert!(all.contains(&(0, Some(b"k".to_vec()), Some(b"committed".to_vec()), 1)) && !all.iter().any(|r| r.0 == 1), "{all:?}");
    assert_eq!(log.aborted_transactions(0, 100), aborted);
    drop(log);
    assert_eq!(Log::open(dir.path(), LIMITS).unwrap().aborted_transactions(0, 100), aborted);
}

#[test]
fn a_log_that_changes_meanwhile_keeps_what_it_has() {
    for change in ["truncated", "cut within", "cut at last", "deleted", "stopped"] {
        let dir = tempdir();
        let mut log = Log::open(dir.path(), LIMITS).unwrap();
        for i in 0..40 {
            // Segments that do not become one.
            append(&mut log, &batch(i, &[(&i.to_string(), Some(&"x".repeat(100)))], 0));
        }
        log.set_cleaned_to(2);
        let stop = AtomicBool::new(false);
        let plan = log.plan_cleaning(&SETTINGS, 40, NOW);
        let map = plan.build(1 << 20, &stop).unwrap();
        let gone = match change {
            "truncated" => {
                log.truncate_to(3).unwrap();
                None
            }
            "cut within" => {
                log.truncate_to(1).unwrap();
                assert_eq!(log.cleaned_to(), 1);
                None
            }
            "cut at last" => None,
            "deleted" => log.delete_below(20).unwrap(),
            _ => {
                stop.store(true, Ordering::Relaxed);
                None
            }
        };
        let mut before = files(dir.path(), "log");
        let done = plan.clean(&map, NOW, &stop, &mut |cleaned| {
            if change == "cut at last" && log.end_offset() > 1 {
                log.truncate_to(1).unwrap();
                before = files(dir.path(), "log");
            }
            Ok(log.replace(cleaned)?.is_some())
        });
        assert!(!matches!(done, Ok(Some(_))), "{change}");
        assert_eq!(files(dir.path(), "log"), before, "{change}");
        assert!(fs::read_dir(dir.path()).unwrap().all(|e| !e.unwrap().path().to_str().unwrap().contains(".cleaned")), "{change}");
        drop(gone);
    }
}

#[test]
fn damage_is_an_error_and_the_log_is_left_alone() {
    let dir = tempdir();
    let mut log = Log::open(dir.path(), LIMITS).unwrap();
    for i in 0..20 {
        append(&mut log, &batch(i, &[("k", Some(&"x".repeat(100)))], 0));
    }
    let path = dir.path().join(format!("{:020}.log", 0));
    let mut bytes = fs::read(&path).unwrap();
    // A bit in a value.
    bytes[HEAD_BYTES + 60] ^= 1;
    fs::write(&path, &bytes).unwrap();
    let before = files(dir.path(), "log");
    let error = log.plan_cleaning(&SETTINGS, 20, NOW).build(1 << 20, &GO).unwrap_err();
    assert!(error.to_string().starts_with(path.to_str().unwrap()), "{error}");
    assert!(log.dirt(&SETTINGS, 20, NOW).is_due(&SETTINGS));
    log.leave_uncleaned();
    assert!(!log.dirt(&SETTINGS, 20, NOW).is_due(&SETTINGS));
    assert_eq!(files(dir.path(), "log"), before);
}

#[test]
fn a_reader_that_has_begun_reads_on() {
    let dir = tempdir();
    let mut log = Log::open(dir.path(), LIMITS).unwrap();
    for i in 0..20 {
        append(&mut log, &batch(i, &[("k", Some(&"x".repeat(100)))], 0));
    }
    let slice = log.slice(0, 400, true).unwrap().unwrap();
    let mut before = bytes::BytesMut::new();
    slice.read_into(&mut before).unwrap();
    let plan = log.plan_cleaning(&SETTINGS, 20, NOW);
    let map = plan.build(1 << 20, &GO).unwrap();
    let mut gone = Vec::new();
    plan.clean(&map, NOW, &GO, &mut |cleaned| {
        gone.push(log.replace(cleaned)?.unwrap());
        Ok(true)
    })
    .unwrap();
    let mut after = bytes::BytesMut::new();
    slice.read_into(&mut after).unwrap();
    assert_eq!(before, after, "the old files wait for their removal");
}

/// The steps in which a group of segments gives way to one, each followed by a kill.
#[test]
fn a_kill_at_any_step_leaves_the_last_values() {
    let dir = tempdir();
    let (before, after, torn) = (dir.path().join("before"), dir.path().join("after"), dir.path().join("torn"));
    let mut log = Log::open(&before, LIMITS).unwrap();
    let mut aborted =
        [Batch::new(1).records(&[(0, Some("a"), Some("aborted"))]), Batch::new(1).records(&[(0, Some(vec![0; 4]), Some(vec![0; 6]))])]
            .map(|b| b.attributes(TRANSACTIONAL).producer(7, 0, 0));
    aborted[1] = aborted[1].clone().attributes(TRANSACTIONAL | CONTROL);
    for b in aborted {
        let mut bytes = b.build();
        place(&mut bytes, log.end_offset(), 1);
        log.append_as_follower(&bytes).unwrap();
    }
    for i in 2..30 {
        append(&mut log, &batch(i, &[(["a", "b", "c"][i as usize % 3], Some(&"x".repeat(80)))], 0));
    }
    let aborted = log.aborted_transactions(0, 30);
    assert_eq!(aborted.len(), 1);
    log.flush().unwrap();
    drop(log);
    copy(&before, &after);
    let mut log = Log::open(&after, LIMITS).unwrap();
    clean(&mut log);
    drop(log);
    let old: Vec<i64> = files(&before, "log").iter().map(|(b, _)| *b).collect();
    let new: Vec<i64> = files(&after, "log").iter().map(|(b, _)| *b).collect();
    assert!(old.len() > 4 && new.len() == 2 && new[0] == 0);
    let name = |base: i64, ending: &str| format!("{base:020}.{ending}");
    // What each step does; none writes a part of a file that counts.
    type Step<'a> = Box<dyn Fn(&Path) + 'a>;
    let mut steps: Vec<Step> = Vec::new();
    for e in ["log", "index", "timeindex", "txnindex"] {
        let bytes = fs::read(after.join(name(0, e))).unwrap();
        let half = bytes[..bytes.len() / 2].to_vec();
        steps.push(Box::new(move |d| fs::write(d.join(format!("{}.cleaned", name(0, e))), &half).unwrap()));
        steps.push(Box::new(move |d| fs::write(d.join(format!("{}.cleaned", name(0, e))), &bytes).unwrap()));
    }
    for e in ["index", "timeindex", "txnindex", "log"] {
        steps.push(Box::new(move |d| {
            fs::rename(d.join(format!("{}.cleaned", name(0, e))), d.join(format!("{}.swap", name(0, e)))).unwrap()
        }));
    }
    for base in &old[..old.len() - 1] {
        for e in ["timeindex", "index", "log", "txnindex"].into_iter().filter(|e| before.join(name(*base, e)).exists()) {
            steps.push(Box::new(move |d| fs::rename(d.join(name(*base, e)), d.join(format!("{}.1.deleted", name(*base, e)))).unwrap()));
        }
    }
    for e in ["index", "timeindex", "txnindex", "log"] {
        steps.push(Box::new(move |d| fs::rename(d.join(format!("{}.swap", name(0, e))), d.join(name(0, e))).unwrap()));
    }
    let all = records(&before);
    let committed: Vec<_> = all.iter().filter(|r| r.0 > 0).cloned().collect();
    let want = last_values(&committed);
    let (mut were_old, mut were_new) = (0, 0);
    for n in 0..=steps.len() {
        for clean in [false, true] {
            let _ = fs::remove_dir_all(&torn);
            copy(&before, &torn);
            steps[..n].iter().for_each(|step| step(&torn));
            let log = Log::open_in(&torn, LIMITS, &Files::new(8), Recovery { clean, point: Some(30), start: 0 }).unwrap();
            let have = records(&torn);
            assert_eq!((last_values(&have), log.end_offset()), (want.clone(), 30), "{n}");
            let (is_old, is_new) = (have == all, files(&torn, "log") == files(&after, "log"));
            assert!(is_old || is_new, "{n}: all or nothing");
            were_old += u32::from(is_old);
            were_new += u32::from(is_new);
            assert_eq!(log.aborted_transactions(0, 30), aborted, "{n}");
            check_indexes(&torn, LIMITS.index_interval_bytes);
            let left = fs::read_dir(&torn).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
            let left: Vec<_> = left.filter(|f| [".swap", ".cleaned", ".deleted"].iter().any(|e| f.ends_with(e))).collect();
            assert!(left.is_empty(), "{n}: {left:?}");
        }
    }
    assert!(were_old >= 16 && were_new >= 16, "{were_old} {were_new}");
}

/// The end of what is compacted stays known, also where its last record goes.
#[test]
fn the_last_batch_of_a_round_stays_without_records() {
    let dir = tempdir();
    let mut log = Log::open(dir.path(), LIMITS).unwrap();
    append(&mut log, &batch(1, &[("k", Some("v"))], 0));
    append(&mut log, &batch(1, &[("k", None)], 0));
    let no_retention = Compaction { delete_retention_ms: 0, ..SETTINGS };
    log.set_limits(Limits { segment_bytes: 1, ..LIMITS });
    append(&mut log, &batch(1, &[("fill", Some("x"))], 0));
    assert!(clean_at(&mut log, 3, NOW, 1 << 20, &no_retention), "this sets the horizon");
    log.set_cleaned_to(0);
    assert!(clean_at(&mut log, 3, NOW + 1, 1 << 20, &no_retention));
    assert_eq!(records(dir.path()).iter().map(|r| r.0).collect::<Vec<_>>(), [2]);
    let heads: Vec<_> = files(dir.path(), "log").iter().flat_map(|(_, b)| batches(b)).map(|(h, _)| (h.base_offset, h.count)).collect();
    assert_eq!(heads, [(1, 0), (2, 1)]);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 64, ..ProptestConfig::default() })]
    /// Rounds of appends, truncations, deletions and compactions, at any high watermark, with any memory.
    #[test]
    fn a_reader_sees_the_last_value_of_each_key(
        ops in prop::collection::vec((0u8..12, prop::collection::vec((0u8..12, prop::option::weighted(0.8, 0u16..500)), 1..6), 0.0f64..1.0, 0i16..5), 5..80),
        buffer in 24usize * 6..24 * 40,
    ) {
        let dir = tempdir();
        let mut log = Log::open(dir.path(), LIMITS).unwrap();
        let mut now = 0;
        // All that was ever written, by offset.
        let mut model: BTreeMap<i64, (Field, Field)> = BTreeMap::new();
        let (mut start, mut committed) = (0, 0);
        for (op, fields, part, codec) in ops {
            now += 100;
            match op {
                0..8 => {
                    let named: Vec<(String, Option<String>)> =
                        fields.iter().map(|(k, v)| (format!("key {k}"), v.map(|v| "v".repeat(v.into())))).collect();
                    let named: Vec<(&str, Option<&str>)> = named.iter().map(|(k, v)| (k.as_str(), v.as_deref())).collect();
                    let first = append(&mut log, &batch(now, &named, codec));
                    for (i, (k, v)) in (first..).zip(named) {
                        model.insert(i, (Some(k.as_bytes().to_vec()), v.map(|v| v.as_bytes().to_vec())));
                    }
                }
                8 => {
                    // Never below a high watermark.
                    log.truncate_to((log.end_offset() as f64 * part.sqrt()).max(committed as f64) as i64).unwrap();
                    model.split_off(&log.end_offset());
                    start = start.min(log.end_offset());
                }
                9 => {
                    start = start + ((log.end_offset() - start) as f64 * part * 0.3) as i64;
                    drop(log.delete_below(start).unwrap());
                }
                10 => {
                    log.flush().unwrap();
                    let (point, cleaned) = (log.recovery_point(), log.cleaned_to());
                    drop(log);
                    log = Log::open_in(dir.path(), LIMITS, &Files::new(8), Recovery { clean: part < 0.5, point: Some(point), start }).unwrap();
                    log.set_cleaned_to(cleaned);
                }
                _ => {
                    let high_watermark = ((log.end_offset() as f64 * part.sqrt()) as i64).max(committed);
                    committed = high_watermark;
                    clean_at(&mut log, high_watermark, now, buffer, &SETTINGS);
                }
            }
            let have = records(dir.path());
            for (offset, key, value, _) in &have {
                prop_assert_eq!(Some(&(key.clone(), value.clone())), model.get(offset), "offset {}", offset);
            }
            // Each key's last record is there; a tombstone, or one below the start, may have gone.
            let last: BTreeMap<_, _> = model.iter().map(|(offset, (key, value))| (key.clone().unwrap(), (*offset, value.clone()))).collect();
            let seen = last_values(&have);
            for (key, (offset, value)) in last {
                match (&value, seen.get(&key)) {
                    (Some(_), found) if offset >= start => prop_assert_eq!(found, Some(&(offset, value))),
                    (None, Some(found)) => prop_assert_eq!(found, &(offset, value), "nothing that a tombstone has ended comes back"),
                    _ => {}
                }
            }
            check_indexes_loosely(dir.path());
        }
    }
}

/// Flushes add time entries, so only their order is looked at here.
fn check_indexes_loosely(dir: &Path) {
    common::logs::check_indexes_closed(dir, LIMITS.index_interval_bytes, 100);
}
