//! Logs in tests: appending, and what lies in the files, read with code of the tests' own.

use std::{
    fs,
    path::{Path, PathBuf},
};

use septet_broker::{
    batch::{Head, validate},
    log::{Limits, Log},
};

pub fn limits(segment_bytes: u32, index_interval_bytes: u32) -> Limits {
    Limits { segment_bytes, index_interval_bytes, segment_ms: i64::MAX }
}

/// Appends as a leader of epoch 5 does. Returns the base offset.
pub fn append(log: &mut Log, bytes: &[u8]) -> i64 {
    let heads = validate(bytes, usize::MAX).unwrap();
    log.append(&mut bytes.to_vec(), &heads, 5).unwrap()
}

/// Cuts bytes into batches; all of them must be whole.
pub fn batches(mut bytes: &[u8]) -> Vec<(Head, Vec<u8>)> {
    let mut out = Vec::new();
    while !bytes.is_empty() {
        let head = Head::parse(bytes).expect("a head");
        assert!(head.size <= bytes.len(), "a batch is cut off");
        assert!(head.crc_ok(bytes));
        out.push((head, bytes[..head.size].to_vec()));
        bytes = &bytes[head.size..];
    }
    out
}

/// All that a log has, read from the start in small steps.
pub fn read_all(log: &Log) -> Vec<u8> {
    let (mut offset, mut out) = (log.start_offset(), Vec::new());
    while offset < log.end_offset() {
        let bytes = log.read(offset, 500).unwrap();
        offset = batches(&bytes).last().expect("progress").0.last_offset() + 1;
        out.extend(bytes);
    }
    out
}

/// Base offset and content of the files with an ending, by base offset.
pub fn files(dir: &Path, ending: &str) -> Vec<(i64, Vec<u8>)> {
    let mut paths: Vec<PathBuf> =
        fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).filter(|p| p.extension().is_some_and(|e| e == ending)).collect();
    paths.sort();
    paths.iter().map(|p| (p.file_stem().unwrap().to_str().unwrap().parse().unwrap(), fs::read(p).unwrap())).collect()
}

pub fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for e in fs::read_dir(from).unwrap() {
        let e = e.unwrap();
        fs::copy(e.path(), to.join(e.file_name())).unwrap();
    }
}

fn int(b: &[u8]) -> i64 {
    b.iter().fold(if b[0] >= 128 { -1 } else { 0 }, |n, b| (n << 8) | i64::from(*b))
}

/// Checks the indexes of all segments by the rules of kafka-dump-log (DumpLogSegments.scala), and those by which
/// Kafka finds its way with them.
pub fn check_indexes(dir: &Path, interval: u32) {
    check_indexes_closed(dir, interval, 1);
}

/// The same of a log that was closed several times.
pub fn check_indexes_closed(dir: &Path, interval: u32, closed: usize) {
    let (indexes, times) = (files(dir, "index"), files(dir, "timeindex"));
    for (i, (base, log)) in files(dir, "log").into_iter().enumerate() {
        let mut at = Vec::new();
        let mut position = 0;
        for (head, bytes) in batches(&log) {
            at.push((position, head));
            position += bytes.len() as i64;
        }
        assert_eq!((indexes[i].0, times[i].0), (base, base), "each segment has its indexes");
        let entries: Vec<(i64, i64)> = indexes[i].1.chunks_exact(8).map(|e| (base + int(&e[..4]), int(&e[4..]))).collect();
        assert_eq!(indexes[i].1.len() % 8, 0);
        for (n, (offset, position)) in entries.iter().enumerate() {
            let (_, head) = at.iter().find(|(p, _)| p == position).expect("a batch begins where the index says");
            assert_eq!(head.last_offset(), *offset, "the entry names the last offset of the batch at its position");
            let before = n.checked_sub(1).map_or((-1, 0), |n| entries[n]);
            assert!(*offset > before.0 && position - before.1 > interval.into(), "entries grow, and are not closer than the interval");
        }
        let after = entries.last().map_or(0, |e| e.1);
        let last = at.last().map_or(0, |b| b.0);
        let largest = at.iter().map(|(_, h)| h.size as i64).max().unwrap_or(0);
        assert!(last - after <= i64::from(interval) + largest, "no stretch is left without an entry");
        let mut previous = -1;
        assert_eq!(times[i].1.len() % 12, 0);
        for e in times[i].1.chunks_exact(12) {
            let (time, offset) = (int(&e[..8]), base + int(&e[8..]));
            assert!(time > previous, "times strictly increase");
            previous = time;
            let n = at.iter().position(|(_, h)| h.last_offset() == offset).expect("the entry names the last offset of a batch");
            assert_eq!(at[n].1.max_timestamp, time, "the time is the largest of that batch");
            assert!(at[..n].iter().all(|(_, h)| h.max_timestamp < time), "no batch before it is as late: a look-up would miss it");
        }
        // One for each entry of the other index at the most, and one whenever the segment was closed.
        assert!(times[i].1.len() / 12 <= entries.len() + closed);
    }
}
