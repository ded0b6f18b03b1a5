//! What a log makes of files that a crash, or worse, has left behind.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::{fs, path::Path};

use common::{
    batches::{Batch, GOLDEN},
    logs::{append, batches, check_indexes, copy, files, limits, read_all},
    tempdir,
};
use proptest::prelude::*;
use septet_broker::log::{Limits, Log};

const LIMITS: Limits = Limits { segment_bytes: 100_000, index_interval_bytes: 50, segment_ms: i64::MAX };

/// A log with three batches in one segment: offsets 0–2, 3 and 4–6. Returns its bytes and where the last one begins.
fn three(dir: &Path) -> (Vec<u8>, usize) {
    let mut log = Log::open(dir, LIMITS).unwrap();
    append(&mut log, &GOLDEN);
    append(&mut log, &Batch::new(1_700_000_000_900).values(&["in the middle"]).build());
    append(&mut log, &GOLDEN);
    let bytes = files(dir, "log").remove(0).1;
    let last = bytes.len() - GOLDEN.len();
    (bytes, last)
}

fn segment(dir: &Path, base: i64) -> std::path::PathBuf {
    dir.join(format!("{base:020}.log"))
}

/// The first two batches are there and nothing else, and the log goes on at offset 4.
fn is_cut(dir: &Path, first_two: &[u8], what: &str) {
    let mut log = Log::open(dir, LIMITS).unwrap_or_else(|e| panic!("{what}: {e}"));
    assert_eq!(log.end_offset(), 4, "{what}");
    assert_eq!(fs::read(segment(dir, 0)).unwrap(), first_two, "{what}");
    assert_eq!(log.read(0, 10_000).unwrap(), first_two, "{what}");
    assert_eq!(append(&mut log, &GOLDEN), 4, "{what}");
    assert_eq!(read_all(&log).len(), first_two.len() + GOLDEN.len(), "{what}");
    check_indexes(dir, LIMITS.index_interval_bytes);
    drop(log);
    assert_eq!(Log::open(dir, LIMITS).unwrap().end_offset(), 7, "{what}");
}

#[test]
fn a_torn_tail_is_cut_wherever_it_is_torn() {
    let dir = tempdir();
    let (bytes, last) = three(&dir.path().join("log"));
    for cut in last..bytes.len() {
        let torn = dir.path().join(cut.to_string());
        copy(&dir.path().join("log"), &torn);
        fs::write(segment(&torn, 0), &bytes[..cut]).unwrap();
        is_cut(&torn, &bytes[..last], &format!("torn at byte {cut}"));
    }
}

#[test]
fn a_tail_that_never_reached_the_disk_is_cut() {
    let dir = tempdir();
    let (bytes, last) = three(&dir.path().join("log"));
    let mut tails: Vec<Vec<u8>> = [1, 11, 12, 17, 60, 61, 97, 4096].iter().map(|n| vec![0; *n]).collect();
    tails.extend([1, 12, 61, 500].iter().map(|n| vec![0xff; *n]));
    for n in 0..GOLDEN.len() {
        // The file has its new length, but from some byte on nothing was written.
        let mut tail = bytes[last..].to_vec();
        tail[n..].fill(0);
        if tail != bytes[last..] {
            tails.push(tail);
        }
    }
    for (i, tail) in tails.iter().enumerate() {
        let torn = dir.path().join(i.to_string());
        copy(&dir.path().join("log"), &torn);
        fs::write(segment(&torn, 0), [&bytes[..last], tail].concat()).unwrap();
        is_cut(&torn, &bytes[..last], &format!("tail {i}"));
    }
}

#[test]
fn a_flipped_bit_in_the_tail_never_hurts_what_is_before_it() {
    let dir = tempdir();
    let (bytes, last) = three(&dir.path().join("log"));
    let torn = dir.path().join("torn");
    for byte in 0..GOLDEN.len() {
        for bit in 0..8 {
            let mut damaged = bytes.clone();
            damaged[last + byte] ^= 1 << bit;
            fs::create_dir_all(&torn).unwrap();
            fs::write(segment(&torn, 0), &damaged).unwrap();
            let what = format!("byte {byte} bit {bit}");
            match byte {
                // The checksum does not cover base offset and leader epoch. An offset that goes on is believed, as
                // Kafka believes it, for compaction leaves gaps; one out of an index's reach is not.
                0..8 if byte < 4 || (byte == 4 && bit == 7) => is_cut(&torn, &bytes[..last], &what),
                0..8 | 12..16 => {
                    let log = Log::open(&torn, LIMITS).unwrap();
                    let all = read_all(&log);
                    assert_eq!(&all[..last], &bytes[..last], "{what}");
                    assert!(all.len() == last || all[last + 16..] == bytes[last + 16..], "{what}");
                }
                _ => is_cut(&torn, &bytes[..last], &what),
            }
            fs::remove_dir_all(&torn).unwrap();
        }
    }
}

#[test]
fn damage_in_the_middle_of_the_active_segment_cuts_from_there_on() {
    let dir = tempdir();
    let (mut bytes, _) = three(dir.path());
    bytes[GOLDEN.len() + 70] ^= 4;
    fs::write(segment(dir.path(), 0), &bytes).unwrap();
    let log = Log::open(dir.path(), LIMITS).unwrap();
    assert_eq!(log.end_offset(), 3);
    assert_eq!(log.read(0, 1000).unwrap(), &bytes[..GOLDEN.len()]);
}

#[test]
fn a_damaged_closed_segment_is_an_error_that_names_file_and_byte() {
    let dir = tempdir();
    let good = dir.path().join("good");
    let small = limits(200, 50);
    let mut log = Log::open(&good, small).unwrap();
    for _ in 0..6 {
        append(&mut log, &GOLDEN);
    }
    drop(log);
    let bytes = fs::read(segment(&good, 6)).unwrap();
    assert_eq!(bytes.len(), 2 * GOLDEN.len());
    let flip = |at: usize, mask: u8| {
        let mut b = bytes.clone();
        b[at] ^= mask;
        b
    };
    // (what, content of the second of three segments, byte that is named)
    let cases = [
        ("truncated", bytes[..193].to_vec(), 97),
        ("truncated to a part of a head", bytes[..120].to_vec(), 97),
        ("nothing but a few bytes", bytes[..3].to_vec(), 0),
        ("garbage behind it", [&bytes[..], b"garbage"].concat(), 194),
        ("zeros behind it", [&bytes[..], &[0; 100]].concat(), 194),
        ("magic", flip(97 + 16, 1), 97),
        ("length", flip(97 + 10, 1), 97),
        ("negative length", flip(8, 0x80), 0),
        ("offset goes back", flip(97 + 7, 0x0f), 97),
        ("offset beyond all reach", flip(97, 0x40), 97),
    ];
    for (i, (what, content, byte)) in cases.into_iter().enumerate() {
        let bad = dir.path().join(i.to_string());
        copy(&good, &bad);
        fs::write(segment(&bad, 6), &content).unwrap();
        // With its index, only the end of a segment that reached the disk is looked at.
        fs::remove_file(segment(&bad, 6).with_extension("index")).unwrap();
        let error = Log::open(&bad, small).expect_err(what);
        let want = format!("{}: damaged at byte {byte} of {}", segment(&bad, 6).display(), content.len());
        assert_eq!(error.to_string(), want, "{what}");
        assert_eq!(fs::read(segment(&bad, 6)).unwrap(), content, "{what}: the file is left for a person to look at");
    }
}

#[test]
fn lost_or_wrong_indexes_are_made_anew() {
    let dir = tempdir();
    let small = limits(400, 50);
    let mut log = Log::open(dir.path(), small).unwrap();
    for _ in 0..9 {
        append(&mut log, &GOLDEN);
    }
    let (index, times) = (files(dir.path(), "index"), files(dir.path(), "timeindex"));
    drop(log);
    for base in [0, 12] {
        fs::remove_file(dir.path().join(format!("{base:020}.index"))).unwrap();
        fs::write(dir.path().join(format!("{base:020}.timeindex")), [7; 1000]).unwrap();
    }
    fs::write(dir.path().join(format!("{:020}.index", 24)), [0; 4096]).unwrap();
    let log = Log::open(dir.path(), small).unwrap();
    assert_eq!((files(dir.path(), "index"), files(dir.path(), "timeindex")), (index, times));
    assert_eq!(batches(&read_all(&log)).len(), 9);
}

#[test]
fn other_files_do_not_matter() {
    let dir = tempdir();
    three(dir.path());
    for name in [
        "partition.metadata",
        "leader-epoch-checkpoint",
        "5.log",
        "00000000000000000009.log.deleted",
        "00000000000000000003.snapshot",
        "x.log",
    ] {
        fs::write(dir.path().join(name), "not a segment").unwrap();
    }
    assert_eq!(Log::open(dir.path(), LIMITS).unwrap().end_offset(), 7);
}

#[test]
fn an_empty_active_segment_goes_on_where_it_was_begun() {
    let dir = tempdir();
    three(dir.path());
    fs::write(segment(dir.path(), 7), "").unwrap();
    let mut log = Log::open(dir.path(), LIMITS).unwrap();
    assert_eq!((log.start_offset(), log.end_offset()), (0, 7));
    assert_eq!(append(&mut log, &GOLDEN), 7);
    assert_eq!(batches(&read_all(&log)).len(), 4);
    assert_eq!(log.read(6, 10).unwrap().len(), GOLDEN.len());
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 128, ..ProptestConfig::default() })]
    /// Any bytes as a segment are an error or a log that works, and never more than a damaged tail is lost.
    #[test]
    fn arbitrary_bytes_in_a_segment_never_panic(
        good in 0usize..4, tail in prop::collection::vec(any::<u8>(), 0..200), place in prop::option::of(any::<(i64, bool)>()),
    ) {
        let dir = tempdir();
        let mut tail = tail;
        if let Some((offset, close)) = place {
            // A whole batch at an arbitrary offset.
            let mut b = GOLDEN.to_vec();
            let offset = if close { offset.rem_euclid(1 << 33) } else { offset };
            b[..8].copy_from_slice(&offset.to_be_bytes());
            tail = [b, tail].concat();
        }
        let mut log = Log::open(dir.path(), LIMITS).unwrap();
        for _ in 0..good {
            append(&mut log, &GOLDEN);
        }
        drop(log);
        let mut bytes = fs::read(segment(dir.path(), 0)).unwrap();
        let whole = bytes.len();
        bytes.extend(tail);
        fs::write(segment(dir.path(), 0), &bytes).unwrap();
        let mut log = Log::open(dir.path(), LIMITS).unwrap();
        prop_assert!(log.end_offset() >= 3 * good as i64);
        prop_assert_eq!(&read_all(&log)[..whole], &bytes[..whole]);
        let end = log.end_offset();
        prop_assert_eq!(append(&mut log, &GOLDEN), end);
        let _ = log.offset_for_timestamp(1_700_000_000_002).unwrap();
        check_indexes(dir.path(), LIMITS.index_interval_bytes);
    }
}
