//! A partition's log: appending, reading, segments, indexes, times.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::time::{Duration, Instant};

use common::{
    batches::{Batch, GOLDEN},
    logs::{append, batches, check_indexes, files, limits, read_all},
    tempdir,
};
use proptest::prelude::*;
use septet_broker::log::{Found, Log};

fn sized(timestamp: i64, bytes: usize) -> Vec<u8> {
    Batch::new(timestamp).values(&[&"x".repeat(bytes)]).build()
}

#[test]
fn batches_are_kept_as_they_came_but_for_offset_and_epoch() {
    let dir = tempdir();
    let mut log = Log::open(dir.path(), limits(10_000, 4096)).unwrap();
    assert_eq!((log.start_offset(), log.end_offset(), log.size()), (0, 0, 0));
    assert!(log.read(0, 1000).unwrap().is_empty());
    let two = [&GOLDEN[..], &Batch::new(7).values(&["a", "b"]).build()].concat();
    assert_eq!(append(&mut log, &two), 0);
    assert_eq!(append(&mut log, &GOLDEN), 5);
    assert_eq!((log.start_offset(), log.end_offset(), log.size()), (0, 8, two.len() as u64 + 97));
    let got = batches(&log.read(0, 1000).unwrap());
    let want = [&two[..], &GOLDEN].concat();
    for ((head, bytes), (came, base)) in got.iter().zip(batches(&want).iter().zip([0, 3, 5])) {
        assert_eq!((head.base_offset, head.leader_epoch), (base, 5));
        assert_eq!((&bytes[8..12], &bytes[16..]), (&came.1[8..12], &came.1[16..]));
    }
    assert_eq!(got.len(), 3);
    log.flush().unwrap();
    assert_eq!(files(dir.path(), "log"), [(0, log.read(0, 1000).unwrap())]);
}

#[test]
fn segments_are_named_by_their_first_offset_and_keep_their_size() {
    let dir = tempdir();
    let mut log = Log::open(dir.path(), limits(300, 4096)).unwrap();
    let one = sized(1, 22).len();
    // Three fit into 300 bytes; one that is larger than a segment has one to itself.
    let all = [vec![sized(1, 22); 4].concat(), sized(2, 400), sized(3, 22)].concat();
    append(&mut log, &all);
    let got: Vec<_> = files(dir.path(), "log").into_iter().map(|(base, bytes)| (base, bytes.len())).collect();
    assert_eq!(one, 90);
    assert_eq!(got, [(0, 270), (3, 90), (4, sized(2, 400).len()), (5, 90)]);
    assert!(dir.path().join("00000000000000000004.index").exists() && dir.path().join("00000000000000000004.timeindex").exists());
    assert_eq!(read_all(&log).len(), all.len());
    // A second log on the directory would write over the first.
    let error = Log::open(dir.path(), limits(300, 4096)).unwrap_err().to_string();
    assert!(error.ends_with("the directory is open already"), "{error}");
    drop(log);
    let again = Log::open(dir.path(), limits(300, 4096)).unwrap();
    assert_eq!((again.start_offset(), again.end_offset(), again.size()), (0, 6, all.len() as u64));
}

#[test]
fn a_read_begins_with_the_batch_that_holds_the_offset() {
    let dir = tempdir();
    for interval in [0, 150, 4096] {
        let _ = std::fs::remove_dir_all(dir.path());
        let mut log = Log::open(dir.path(), limits(700, interval)).unwrap();
        for i in 0..30 {
            let values = vec!["v"; 1 + i % 4];
            append(&mut log, &Batch::new(i as i64).values(&values).build());
        }
        let all: Vec<_> = batches(&read_all(&log)).into_iter().map(|(h, _)| h).collect();
        for offset in 0..log.end_offset() {
            let holder = all.iter().position(|h| h.last_offset() >= offset).unwrap();
            for max in [0, 1, 60, 100, 250, 699, 5000] {
                let bytes = log.read(offset, max).unwrap();
                let got: Vec<_> = batches(&bytes).into_iter().map(|(h, _)| h).collect();
                assert_eq!(got, all[holder..holder + got.len()], "offset {offset} max {max}");
                assert!(!got.is_empty() && (got.len() == 1 || bytes.len() <= max), "offset {offset} max {max}");
            }
        }
        for offset in [log.end_offset(), log.end_offset() + 1, i64::MAX] {
            assert!(log.read(offset, 1000).unwrap().is_empty());
        }
        check_indexes(dir.path(), interval);
    }
}

#[test]
fn indexes_have_kafkas_bytes() {
    let dir = tempdir();
    let mut log = Log::open(dir.path(), limits(10_000, 100)).unwrap();
    // 90 bytes each; the third and the fifth begin more than 100 bytes behind the last entry.
    for time in [10, 20, 30, 40, 50] {
        append(&mut log, &sized(time, 22));
    }
    assert_eq!(files(dir.path(), "index"), [(0, vec![0, 0, 0, 2, 0, 0, 0, 180, 0, 0, 0, 4, 0, 0, 1, 104])]);
    let times = [[0, 0, 0, 0, 0, 0, 0, 30, 0, 0, 0, 2], [0, 0, 0, 0, 0, 0, 0, 50, 0, 0, 0, 4]].concat();
    assert_eq!(files(dir.path(), "timeindex"), [(0, times)]);
    check_indexes(dir.path(), 100);
}

#[test]
fn the_time_index_tells_of_the_latest_batch_so_far() {
    let dir = tempdir();
    let mut log = Log::open(dir.path(), limits(10_000, 100)).unwrap();
    // The batch of time 500 has no entry of its own in the offset index; those of 20 and 30 are not later than it.
    for time in [10, 500, 20, 40, 30, 400, 600] {
        append(&mut log, &sized(time, 22));
    }
    let times = [[0, 0, 0, 0, 0, 0, 1, 244, 0, 0, 0, 1], [0, 0, 0, 0, 0, 0, 2, 88, 0, 0, 0, 6]].concat();
    assert_eq!(files(dir.path(), "timeindex"), [(0, times)]);
    check_indexes(dir.path(), 100);
}

#[test]
fn the_first_record_at_or_after_a_time_is_found() {
    let dir = tempdir();
    let mut log = Log::open(dir.path(), limits(250, 50)).unwrap();
    let of = |base: i64, deltas: &[i64]| {
        let records: Vec<_> = deltas.iter().map(|d| (*d, Some("key"), Some("value"))).collect();
        Batch::new(base).records(&records)
    };
    append(&mut log, &of(1000, &[0, 5, 3]).build()); // 0, 1, 2
    append(&mut log, &of(1010, &[0, -8]).build()); // 3, 4
    append(&mut log, &of(990, &[0, 0]).build()); // 5, 6
    append(&mut log, &of(1020, &[0, 1]).attributes(1).body(b"not to be opened").build()); // 7, 8
    append(&mut log, &of(1030, &[0]).attributes(8).max_timestamp(1040).build()); // 9: the time of the log
    assert!(files(dir.path(), "log").len() > 1);
    let cases = [
        (0, Some((0, 1000))),
        (1000, Some((0, 1000))),
        (1001, Some((1, 1005))),
        (1003, Some((1, 1005))),
        (1005, Some((1, 1005))),
        (1006, Some((3, 1010))),
        (1010, Some((3, 1010))),
        (1011, Some((7, 1021))),
        (1021, Some((7, 1021))),
        (1022, Some((9, 1040))),
        (1040, Some((9, 1040))),
        (1041, None),
        (i64::MAX, None),
    ];
    for round in ["as written", "opened again"] {
        for (time, want) in cases {
            let want = want.map(|(offset, timestamp)| Found { offset, timestamp });
            assert_eq!(log.offset_for_timestamp(time).unwrap(), want, "{time}, {round}");
        }
        drop(log);
        log = Log::open(dir.path(), limits(250, 50)).unwrap();
    }
    let empty = tempdir();
    assert_eq!(Log::open(empty.path(), limits(250, 50)).unwrap().offset_for_timestamp(0).unwrap(), None);
}

/// A producer's checksum says nothing about its records: numbers in them must not be believed.
#[test]
fn records_that_lie_about_themselves_cost_nothing() {
    let huge = [0xfe, 0xff, 0xff, 0xff, 0x0f]; // 2147483647 as a varint
    let bodies = [
        huge.to_vec(),
        vec![],
        vec![0xff; 40],
        vec![0],
        vec![2, 0],
        [&[24, 0, 0, 0, 1, 1][..], &huge, &[0; 10]].concat(),     // headers
        [&[24, 0, 0, 0][..], &huge, &[0; 10]].concat(),           // key
        [&[32, 0][..], &[0xff; 9], &[1, 0, 1, 1, 0, 0]].concat(), // time stamp delta
        [&[32, 0, 0][..], &[0xff, 0xff, 0xff, 0xff, 0x0f], &[1, 1, 0]].concat(), // offset delta
    ];
    for body in bodies {
        for (count, base) in [(1, 10), (i32::MAX, 10), (1, i64::MAX), (1, i64::MIN)] {
            let dir = tempdir();
            let mut log = Log::open(dir.path(), limits(10_000, 0)).unwrap();
            let bytes = Batch::new(base).count(count).last_offset_delta(count - 1).max_timestamp(100).body(&body).build();
            append(&mut log, &bytes);
            let begun = Instant::now();
            let found = log.offset_for_timestamp(50).unwrap();
            assert!(found.is_some_and(|f| (0..i64::from(count)).contains(&f.offset)), "{body:?}: {found:?}");
            assert!(begun.elapsed() < Duration::from_secs(1), "{body:?}");
        }
    }
}

#[test]
fn offsets_that_jump_far_begin_a_new_segment() {
    let dir = tempdir();
    let mut log = Log::open(dir.path(), limits(100_000, 0)).unwrap();
    for _ in 0..3 {
        append(&mut log, &Batch::new(1).count(i32::MAX).last_offset_delta(i32::MAX - 1).body(b"packed").attributes(1).build());
        append(&mut log, &GOLDEN);
    }
    let end = log.end_offset();
    assert_eq!(end, 3 * (i64::from(i32::MAX) + 3));
    check_indexes(dir.path(), 0);
    drop(log);
    let log = Log::open(dir.path(), limits(100_000, 0)).unwrap();
    assert_eq!(log.end_offset(), end);
    for offset in [0, 5, i64::from(i32::MAX), i64::from(i32::MAX) + 2, end - 1] {
        let (head, _) = batches(&log.read(offset, 1).unwrap())[0].clone();
        assert!((head.base_offset..=head.last_offset()).contains(&offset), "{offset}");
    }
}

/// A log that was opened again remembers no batches but the last few, and finds positions by its index.
#[test]
fn readers_find_the_same_with_and_without_what_is_remembered() {
    let dir = tempdir();
    let mut log = Log::open(dir.path(), limits(20_000, 512)).unwrap();
    let batch = |i: i64| Batch::new(i).values(&vec!["x"; 1 + (i % 4) as usize]).build();
    for i in 0..400 {
        append(&mut log, &batch(i));
        if i % 97 == 96 {
            let end = log.end_offset();
            log.truncate_to(end - 7).unwrap();
        }
    }
    let bytes = |log: &Log, from: i64, max: usize, until: i64| {
        let slice = log.slice_until(from, max, true, until).unwrap();
        slice.map(|s| {
            let mut out = bytes::BytesMut::new();
            s.read_into(&mut out).unwrap();
            out.to_vec()
        })
    };
    let end = log.end_offset();
    let questions = (0..=end).flat_map(|from| [(from, 150, end), (from, 100_000, end), (from, 100_000, (from + 9).min(end))]);
    let remembered: Vec<_> = questions.clone().map(|(from, max, until)| bytes(&log, from, max, until)).collect();
    log.flush().unwrap();
    drop(log);
    let again = Log::open(dir.path(), limits(20_000, 512)).unwrap();
    for ((from, max, until), want) in questions.zip(remembered) {
        assert_eq!(bytes(&again, from, max, until), want, "{from} {max} {until}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 64, ..ProptestConfig::default() })]
    /// Whatever is appended, in whatever portions, is read back from every offset, also after the log is opened again.
    #[test]
    fn a_log_gives_back_what_it_got(
        appends in prop::collection::vec(prop::collection::vec((1usize..4, 0usize..80, 0i64..50), 1..4), 1..20),
        segment_bytes in 14u32..600, interval in 0u32..300, reopen in any::<u8>(), max in 0usize..700,
    ) {
        let dir = tempdir();
        let mut log = Log::open(dir.path(), limits(segment_bytes, interval)).unwrap();
        let (mut want, mut records) = (Vec::new(), Vec::new());
        for (i, portion) in appends.iter().enumerate() {
            let mut bytes = Vec::new();
            for (count, length, time) in portion {
                bytes.extend(Batch::new(*time).values(&vec!["y".repeat(*length).as_str(); *count]).build());
                records.extend(vec![*time; *count]);
            }
            append(&mut log, &bytes);
            want.extend(batches(&bytes).into_iter().map(|(_, b)| b[16..].to_vec()));
            if i % 8 == reopen as usize % 8 {
                let before = (files(dir.path(), "index"), files(dir.path(), "timeindex"));
                drop(log);
                log = Log::open(dir.path(), limits(segment_bytes, interval)).unwrap();
                prop_assert_eq!(before, (files(dir.path(), "index"), files(dir.path(), "timeindex")), "indexes are made anew as they were");
            }
        }
        prop_assert_eq!(log.end_offset(), records.len() as i64);
        let all = batches(&read_all(&log));
        prop_assert_eq!(all.iter().map(|(_, b)| b[16..].to_vec()).collect::<Vec<_>>(), want);
        let mut next = 0;
        for (head, _) in &all {
            prop_assert_eq!(head.base_offset, next);
            next = head.last_offset() + 1;
        }
        for offset in 0..next {
            let bytes = log.read(offset, max).unwrap();
            let got = batches(&bytes);
            prop_assert!((got[0].0.base_offset..=got[0].0.last_offset()).contains(&offset));
            prop_assert!(got.len() == 1 || bytes.len() <= max);
        }
        for time in 0..50 {
            let want = records.iter().position(|t| *t >= time).map(|i| Found { offset: i as i64, timestamp: records[i] });
            prop_assert_eq!(log.offset_for_timestamp(time).unwrap(), want);
        }
        let segments = files(dir.path(), "log");
        for (_, bytes) in &segments {
            prop_assert!(bytes.len() <= segment_bytes as usize || batches(bytes).len() == 1);
        }
        prop_assert_eq!(segments.into_iter().flat_map(|(_, b)| b).collect::<Vec<_>>(), read_all(&log));
        check_indexes(dir.path(), interval);
    }
}
