//! Power that goes, and disks that forget: of what was not synced any sectors may be missing, and nothing that was reported is lost or cut off
//! because of it; damage to what was reported is refused.
#![allow(clippy::unwrap_used, missing_docs)]

use std::{
    fs,
    path::{Path, PathBuf},
};

use proptest::prelude::*;
use septet_coordinator::{
    raft::{Data, Entry, EntryId, Payload},
    storage::{LogStore, LogWrite, StorageFault},
};
use tempfile::TempDir;
use tokio::sync::watch;

const SECTOR: usize = 512;
/// Length of a mark, which follows what was reported.
const MARK: usize = 30;

fn open(dir: &Path) -> Result<LogStore, StorageFault> {
    LogStore::open(dir, watch::channel(u64::MAX).1)
}

fn all(log: &LogStore) -> Vec<Entry> {
    log.read(1..=u64::MAX, usize::MAX).unwrap()
}

fn newest(dir: &Path) -> PathBuf {
    let found = fs::read_dir(dir).unwrap().map(|e| e.unwrap().path());
    found.filter(|p| p.file_name().unwrap().to_str().unwrap().starts_with("log.")).max().unwrap()
}

/// Where each record begins, and the end.
fn boundaries(bytes: &[u8]) -> Vec<usize> {
    let next = |at: &usize| (*at < bytes.len()).then(|| at + 12 + u32::from_be_bytes(bytes[*at..at + 4].try_into().unwrap()) as usize);
    std::iter::successors(Some(0), next).collect()
}

/// Entries that are written and synced together: their sizes, and what their bytes are.
type Group = Vec<(usize, u8)>;

fn group() -> impl Strategy<Value = Group> {
    // Zeros, too: sectors of them are there whether they were written or not.
    let size = prop_oneof![3 => 0..200usize, 2 => 0..3000usize, 1 => 4000..20_000usize];
    prop::collection::vec((size, prop_oneof![Just(0), any::<u8>()]), 1..6)
}

/// A log whose groups were reported, one after the other, in files that begin where the process was started again.
struct Written {
    dir: TempDir,
    /// entries of each group
    groups: Vec<Vec<Entry>>,
    /// newest file: its name, and the length that it had after each group that lies in it
    file: PathBuf,
    lengths: Vec<usize>,
}

fn write(groups: &[(bool, Group)]) -> Written {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
        let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        let mut log = open(dir.path()).unwrap();
        let (mut written, mut index, mut file, mut lengths) = (Vec::new(), 0, PathBuf::new(), Vec::new());
        for (again, group) in groups {
            if *again {
                log = open(dir.path()).unwrap();
            }
            let entries: Vec<_> = group
                .iter()
                .map(|(size, byte)| {
                    index += 1;
                    let data = Data(vec![*byte; *size].into());
                    Entry { id: EntryId { term: 1, leader: 1, index }, payload: Payload::Commands(data) }
                })
                .collect();
            log.write_all(LogWrite { entries: entries.clone(), ..LogWrite::default() }).await.unwrap();
            written.push(entries);
            if newest(dir.path()) != file {
                file = newest(dir.path());
                lengths.clear();
            }
            lengths.push(fs::metadata(&file).unwrap().len() as usize);
        }
        Written { dir, groups: written, file, lengths }
    })
}

/// What became of a sector that was not synced.
#[derive(Debug, Clone, Copy)]
enum Sector {
    Written,
    Missing,
    /// written when so many of the records that begin in it were there
    Earlier(usize),
}

fn sector() -> impl Strategy<Value = Sector> {
    prop_oneof![3 => Just(Sector::Written), 3 => Just(Sector::Missing), 1 => (0..4usize).prop_map(Sector::Earlier)]
}

fn cut_power(bytes: &mut [u8], synced: usize, fates: &[Sector]) {
    let boundaries = boundaries(bytes);
    for (i, at) in (synced / SECTOR * SECTOR..bytes.len()).step_by(SECTOR).enumerate() {
        let end = (at + SECTOR).min(bytes.len());
        let from = match fates[i % fates.len()] {
            Sector::Written => end,
            Sector::Missing => at,
            Sector::Earlier(n) => {
                let mut there = boundaries.iter().copied().filter(|b| (at.max(synced)..end).contains(b));
                there.nth(n).unwrap_or(end)
            }
        };
        bytes[from.max(synced)..end].fill(0);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(debug_assertions) { 400 } else { 4000 }))]

    /// Power goes while the last group is being written: it was not reported.
    #[test]
    fn what_was_not_reported_never_keeps_a_server_from_starting(
        groups in prop::collection::vec((prop::bool::weighted(0.2), group()), 2..6),
        fates in prop::collection::vec(sector(), 1..60),
        shorter in prop::option::weighted(0.3, any::<prop::sample::Index>()),
    ) {
        let written = write(&groups);
        let mut bytes = fs::read(&written.file).unwrap();
        // The mark of the last group is written after its sync, and the one before it was not synced.
        bytes.truncate(bytes.len() - MARK);
        let synced = written.lengths.iter().rev().nth(1).map_or_else(|| boundaries(&bytes)[1], |n| n - MARK);
        cut_power(&mut bytes, synced, &fates);
        if let Some(at) = shorter {
            bytes.truncate(synced + at.index(bytes.len() - synced + 1));
        }
        fs::write(&written.file, &bytes).unwrap();
        let entries = written.groups.concat();
        let reported = entries.len() - written.groups.last().unwrap().len();
        let log = open(written.dir.path()).unwrap();
        let kept = all(&log);
        prop_assert!(kept.len() >= reported && kept[..] == entries[..kept.len()], "{} of {reported} reported", kept.len());
        // It goes on from there, and is opened again.
        let next = Entry { id: EntryId { term: 2, leader: 2, index: kept.len() as u64 + 1 }, payload: Payload::Blank };
        let write = LogWrite { entries: vec![next.clone()], ..LogWrite::default() };
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(log.write_all(write)).unwrap();
        drop(log);
        prop_assert_eq!(all(&open(written.dir.path()).unwrap()), [kept, vec![next]].concat());
    }

    /// A disk changes what was reported, or forgets sectors of it, whether or not power goes later.
    #[test]
    fn damage_to_what_was_reported_is_refused(
        groups in prop::collection::vec((prop::bool::weighted(0.2), group()), 2..6),
        at in any::<prop::sample::Index>(),
        forgets in any::<bool>(),
        bit in 0..8u8,
        fates in prop::option::of(prop::collection::vec(sector(), 1..60)),
    ) {
        let written = write(&groups);
        let mut bytes = fs::read(&written.file).unwrap();
        let mut marked = bytes.len() - MARK;
        // Without the last mark the one before it must show what is damage, if it is on the disk.
        if let (Some(fates), Some(before)) = (&fates, written.lengths.iter().rev().nth(1)) {
            bytes.truncate(marked);
            cut_power(&mut bytes, *before, fates);
            marked = before - MARK;
        }
        let at = at.index(marked);
        let before = bytes.clone();
        if forgets {
            bytes[at / SECTOR * SECTOR..(at / SECTOR * SECTOR + SECTOR).min(marked)].fill(0);
        } else {
            bytes[at] ^= 1u8 << bit;
        }
        let first = bytes.iter().zip(&before).position(|(a, b)| a != b);
        fs::write(&written.file, &bytes).unwrap();
        match open(written.dir.path()) {
            Err(StorageFault::Damaged { path, offset, .. }) => {
                prop_assert!(path == written.file && first.is_some_and(|first| offset <= first as u64), "{path:?} at {offset}: {first:?}");
                prop_assert_eq!(fs::read(&written.file).unwrap(), bytes, "what is refused is left as it is");
            }
            Err(other) => prop_assert!(false, "{other}"),
            Ok(_) => prop_assert_eq!(first, None, "opened"),
        }
    }
}

/// What clients store is not taken for a mark of the file, even if it looks like one of another file: only who knew the number in the head of
/// the file could store one.
#[test]
fn what_clients_store_is_no_mark() {
    let entry = |index, data: Vec<u8>| Entry { id: EntryId { term: 1, leader: 1, index }, payload: Payload::Commands(Data(data.into())) };
    let lie = |number: &[u8], at: usize| {
        let mut body = vec![0x85, 0];
        body.extend_from_slice(number);
        body.extend_from_slice(&(at as u64).to_be_bytes());
        let length = (body.len() as u32).to_be_bytes();
        [&length[..], &crc32c::crc32c(&length).to_be_bytes(), &crc32c::crc32c(&body).to_be_bytes(), &body].concat()
    };
    for knows in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let log = open(dir.path()).unwrap();
        let append = |entries: Vec<Entry>| {
            let write = LogWrite { entries, ..LogWrite::default() };
            tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(log.write_all(write)).unwrap();
        };
        append(vec![entry(1, vec![3; 10])]);
        let file = newest(dir.path());
        let begin = fs::read(&file).unwrap();
        let real = lie(&begin[14..22], begin.len() - MARK);
        assert_eq!(begin[begin.len() - MARK..], real, "this is how a mark looks");
        let number = if knows { begin[14..22].to_vec() } else { vec![7; 8] };
        let lost = vec![5; 3000];
        // The record of the third entry is as long as the data and what is before them.
        let at = begin.len() + boundaries(&postcard_record(&entry(2, lost.clone())))[1] + 12 + 2 + 4 + 1;
        append(vec![entry(2, lost), entry(3, lie(&number, at))]);
        let mut bytes = fs::read(&file).unwrap();
        assert_eq!(bytes[at..at + MARK], lie(&number, at));
        bytes.truncate(bytes.len() - MARK);
        bytes[begin.len() + 600..begin.len() + 2200].fill(0);
        fs::write(&file, bytes).unwrap();
        match open(dir.path()) {
            Ok(log) => assert!(!knows && all(&log) == [entry(1, vec![3; 10])]),
            Err(e) => assert!(knows, "{e}"),
        }
    }
}

/// The record of an entry, as it begins: its length, and no checksums.
fn postcard_record(entry: &Entry) -> Vec<u8> {
    let body = postcard::to_stdvec(entry).unwrap();
    let length = (body.len() as u32 + 2).to_be_bytes();
    [&length[..], &[0; 10], &body].concat()
}
