//! What is on disk: it is all there after a restart, a torn tail goes, and damage is refused by name.
#![allow(clippy::unwrap_used, missing_docs)]

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use proptest::prelude::*;
use septet_coordinator::{
    raft::{Entry, EntryId, HardState, Membership, Payload},
    state::{Applied, Ask, Command, Origin, State},
    storage::{Hooks, LogStore, LogWrite, Machine, StorageFault, encode_commands},
};
use tempfile::TempDir;
use tokio::sync::watch;

const TERM: u64 = 2;

/// In memory where there is such a place: these are thousands of small files.
fn tempdir() -> std::io::Result<TempDir> {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir())
}

fn id(index: u64) -> EntryId {
    EntryId { term: TERM, leader: 1, index }
}

fn command(bytes: usize, seed: u64) -> Command {
    let password = (0..bytes).map(|i| (i as u64 * 7 + seed) as u8 | 1).collect();
    Command {
        origin: Origin { server: 1, boot: 2 },
        seq: seed,
        time_ms: 3,
        ask: Ask::CreateSession { id: seed as i64, password, timeout_ms: 4 },
    }
}

fn entry(index: u64, bytes: usize) -> Entry {
    Entry { id: id(index), payload: Payload::Commands(encode_commands(&[command(bytes, index)]).unwrap()) }
}

/// A log for which everything is in snapshots, so that anything may be purged.
fn open(dir: &Path) -> Result<LogStore, StorageFault> {
    LogStore::open(dir, watch::channel(u64::MAX).1)
}

async fn append(log: &LogStore, entries: impl IntoIterator<Item = Entry>) {
    log.write_all(LogWrite { entries: entries.into_iter().collect(), ..LogWrite::default() }).await.unwrap();
}

async fn truncate(log: &LogStore, from: u64) {
    log.write_all(LogWrite { truncate: Some(from), ..LogWrite::default() }).await.unwrap();
}

async fn vote(log: &LogStore, term: u64, voted_for: u64) {
    let hard = Some(HardState { term, voted_for: Some(voted_for) });
    log.write_all(LogWrite { hard, ..LogWrite::default() }).await.unwrap();
}

fn all(log: &LogStore) -> Vec<Entry> {
    log.read(1..=u64::MAX, usize::MAX).unwrap()
}

fn segments(dir: &Path) -> Vec<PathBuf> {
    let name = |p: &PathBuf| p.file_name().unwrap().to_str().unwrap().starts_with("log.");
    let mut found: Vec<_> = fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).filter(name).collect();
    found.sort();
    found
}

/// A directory whose one log file has these bytes.
fn with_log(name: &str, bytes: &[u8]) -> TempDir {
    let dir = tempdir().unwrap();
    fs::write(dir.path().join(name), bytes).unwrap();
    dir
}

/// Bytes of a log with these entries from index 1 on, each written alone.
async fn written(sizes: &[usize]) -> (String, Vec<u8>) {
    let dir = tempdir().unwrap();
    let log = open(dir.path()).unwrap();
    for (i, size) in sizes.iter().enumerate() {
        append(&log, [entry(i as u64 + 1, *size)]).await;
    }
    let file = segments(dir.path()).pop().unwrap();
    (file.file_name().unwrap().to_str().unwrap().to_owned(), fs::read(file).unwrap())
}

/// Where each record begins.
fn starts(bytes: &[u8]) -> Vec<usize> {
    let next = |at: &usize| {
        let next = at + 12 + u32::from_be_bytes(bytes[*at..at + 4].try_into().unwrap()) as usize;
        (next < bytes.len()).then_some(next)
    };
    std::iter::successors(Some(0), next).collect()
}

/// The same as format 4 has it: entries, and nothing else.
fn of_format_4(bytes: &[u8]) -> Vec<u8> {
    let starts = starts(bytes);
    let ends = starts.iter().skip(1).copied().chain([bytes.len()]);
    let records = starts.iter().zip(ends).map(|(start, end)| &bytes[*start..end]);
    records.filter(|r| r[12..14] == [0x84, 0]).collect::<Vec<_>>().concat()
}

#[tokio::test]
async fn the_log_survives_a_restart() {
    let dir = tempdir().unwrap();
    let want: Vec<_> = (1..21).map(|i| entry(i, 100 * i as usize)).collect();
    {
        let log = open(dir.path()).unwrap();
        assert_eq!(log.last(), EntryId::default());
        append(&log, want[..10].to_vec()).await;
        append(&log, want[10..].to_vec()).await;
        vote(&log, TERM, 1).await;
        vote(&log, TERM + 1, 3).await;
    }
    for _ in 0..3 {
        let log = open(dir.path()).unwrap();
        assert_eq!(all(&log), want);
        assert_eq!(log.hard_state(), HardState { term: TERM + 1, voted_for: Some(3) });
        assert_eq!((log.purged(), log.last()), (EntryId::default(), id(20)));
        assert_eq!(log.read(4..=5, usize::MAX).unwrap(), want[3..5]);
        assert!(log.read(30..=40, usize::MAX).unwrap().is_empty());
    }
}

#[tokio::test]
async fn a_torn_tail_is_cut_off_wherever_it_tore() {
    let (name, bytes) = written(&[0, 40, 700, 3, 900]).await;
    // The last entry was not reported: no mark follows it.
    let unmarked = &bytes[..*starts(&bytes).last().unwrap()];
    for bytes in [unmarked.to_vec(), of_format_4(&bytes)] {
        let last = *starts(&bytes).last().unwrap();
        for cut in last..bytes.len() {
            let dir = with_log(&name, &bytes[..cut]);
            let log = open(dir.path()).unwrap_or_else(|e| panic!("cut at {cut}: {e}"));
            assert_eq!(all(&log).len(), 4, "cut at {cut}");
            assert_eq!(fs::metadata(dir.path().join(&name)).unwrap().len() as usize, last);
            if cut % 40 == 0 {
                append(&log, [entry(5, 10)]).await;
                let log = open(dir.path()).unwrap();
                assert_eq!(all(&log).last(), Some(&entry(5, 10)), "cut at {cut}");
            }
        }
        // A power failure may leave the file longer than what was written, with sectors of zeros.
        let sector = last.next_multiple_of(512);
        for (from, to) in [(last, bytes.len()), (sector, bytes.len()), (sector, sector + 512)] {
            let mut zeros = bytes.clone();
            zeros[from..to].fill(0);
            let dir = with_log(&name, &zeros);
            assert_eq!(all(&open(dir.path()).unwrap()).len(), 4, "zeros from {from} to {to}");
        }
        let dir = with_log(&name, &[&bytes[..], &[0; 3000]].concat());
        assert_eq!(all(&open(dir.path()).unwrap()).len(), 5);
    }
    // The mark that follows it may be torn, too; and a file that was only just begun.
    for cut in unmarked.len()..=bytes.len() {
        assert_eq!(all(&open(with_log(&name, &bytes[..cut]).path()).unwrap()).len(), 5, "cut at {cut}");
    }
    for cut in 0..=starts(&bytes)[1] {
        let dir = with_log("log.00000000000000000001", &bytes[..cut]);
        let log = open(dir.path()).unwrap();
        assert!(all(&log).is_empty());
        append(&log, [entry(1, 10)]).await;
        assert_eq!(all(&open(dir.path()).unwrap()), [entry(1, 10)], "cut at {cut}");
    }
}

#[tokio::test]
async fn a_flipped_bit_is_refused_with_file_and_offset() {
    let (name, bytes) = written(&[0, 40, 300, 3, 60]).await;
    for bytes in [of_format_4(&bytes), bytes.clone()] {
        let starts = starts(&bytes);
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut damaged = bytes.clone();
                damaged[at] ^= 1 << bit;
                let dir = with_log(&name, &damaged);
                let file = dir.path().join(&name);
                let start = starts.iter().rfind(|s| **s <= at).unwrap();
                match open(dir.path()) {
                    Err(StorageFault::Damaged { path, offset, .. }) => {
                        assert_eq!((path, offset), (file.clone(), *start as u64), "bit {bit} of {at}")
                    }
                    other => panic!("bit {bit} of {at}: {:?}", other.map(|_| "opened")),
                }
                assert_eq!(fs::read(&file).unwrap(), damaged, "what is refused is left as it is");
            }
        }
    }
    let starts = starts(&bytes);
    let mut damaged = bytes.clone();
    damaged[starts[5] + 50] ^= 1;
    let dir = with_log(&name, &damaged);
    let text = open(dir.path()).err().unwrap().to_string();
    assert_eq!(text, format!("{}: damaged at byte {}: checksum does not match", dir.path().join(&name).display(), starts[5]));
}

#[tokio::test]
async fn a_torn_record_is_only_believed_in_the_last_file() {
    let dir = tempdir().unwrap();
    append(&open(dir.path()).unwrap(), (1..4).map(|i| entry(i, 10))).await;
    append(&open(dir.path()).unwrap(), (4..6).map(|i| entry(i, 10))).await;
    let files = segments(dir.path());
    assert_eq!(files.len(), 2);
    let bytes = fs::read(&files[0]).unwrap();
    fs::write(&files[0], &bytes[..bytes.len() - 1]).unwrap();
    assert!(matches!(open(dir.path()), Err(StorageFault::Damaged { path, .. }) if path == files[0]));
    // A file that is lost, first or in between, leaves a gap.
    for lost in [0, 1] {
        let dir = tempdir().unwrap();
        for i in 1..4 {
            append(&open(dir.path()).unwrap(), [entry(i, 10)]).await;
        }
        fs::remove_file(&segments(dir.path())[lost]).unwrap();
        let text = open(dir.path()).err().unwrap().to_string();
        assert!(text.ends_with(&format!("entries {} to {} are missing", lost + 1, lost + 1)), "{text}");
    }
}

/// What is behind a write that failed could not be read back: there would be a gap, or the failed write's first bytes.
#[tokio::test]
async fn nothing_is_written_behind_a_write_that_failed() {
    let dir = tempdir().unwrap();
    let log = open(dir.path()).unwrap();
    append(&log, [entry(1, 10)]).await;
    // The next record needs a file of its own, which cannot be made.
    truncate(&log, 2).await;
    let taken = dir.path().join(format!("log.{:020}", 2));
    fs::create_dir(&taken).unwrap();
    for index in 2..5 {
        let failed = log.write_all(LogWrite { entries: vec![entry(index, 10)], ..LogWrite::default() }).await;
        assert!(failed.is_err(), "entry {index} is reported as durable");
    }
    fs::remove_dir(taken).unwrap();
    assert_eq!(all(&open(dir.path()).unwrap()), [entry(1, 10)]);
}

#[tokio::test]
async fn truncate_and_purge_last() {
    let dir = tempdir().unwrap();
    let mut log = open(dir.path()).unwrap();
    append(&log, (1..10).map(|i| entry(i, 10))).await;
    truncate(&log, 6).await;
    append(&log, [entry(6, 99)]).await;
    log.purge(id(3)).await.unwrap();
    let want = vec![entry(4, 10), entry(5, 10), entry(6, 99)];
    for _ in 0..2 {
        assert_eq!(all(&log), want);
        assert_eq!((log.purged(), log.last()), (id(3), id(6)));
        log = open(dir.path()).unwrap();
    }
    // All of it, and then beyond, as when a snapshot arrives.
    log.reset(id(50)).await.unwrap();
    append(&log, [entry(51, 10)]).await;
    let log = open(dir.path()).unwrap();
    assert_eq!(all(&log), [entry(51, 10)]);
    assert_eq!(log.purged(), id(50));
}

#[tokio::test]
async fn files_go_when_all_in_them_is_purged() {
    let dir = tempdir().unwrap();
    for i in 0..5 {
        append(&open(dir.path()).unwrap(), [entry(2 * i + 1, 10), entry(2 * i + 2, 10)]).await;
    }
    let log = open(dir.path()).unwrap();
    for (upto, left) in [(1, 5), (2, 4), (7, 2), (10, 1)] {
        log.purge(id(upto)).await.unwrap();
        assert_eq!(segments(dir.path()).len(), left, "purged up to {upto}");
    }
    let log = open(dir.path()).unwrap();
    assert!(all(&log).is_empty());
    assert_eq!(log.last(), id(10));
}

#[tokio::test]
async fn nothing_is_purged_before_a_snapshot_covers_it() {
    let dir = tempdir().unwrap();
    let (covered, covers) = watch::channel(3);
    let log = LogStore::open(dir.path(), covers).unwrap();
    append(&log, (1..5).map(|i| entry(i, 10))).await;
    assert!(log.purge(id(3)).await.is_err());
    assert_eq!(all(&log).len(), 4);
    covered.send_replace(4);
    log.purge(id(3)).await.unwrap();
    assert_eq!(all(&log), [entry(4, 10)]);
}

#[tokio::test]
async fn a_log_that_a_snapshot_replaced_is_gone_wherever_the_process_ended() {
    let other = |index| Entry { id: EntryId { term: TERM - 1, leader: 3, index }, ..entry(index, 10) };
    for purged in [5, 20] {
        let dir = tempdir().unwrap();
        append(&open(dir.path()).unwrap(), (1..10).map(other)).await;
        let elsewhere = tempdir().unwrap();
        let log = open(elsewhere.path()).unwrap();
        log.reset(id(purged)).await.unwrap();
        // The record of it was written, the files of the log were not removed.
        fs::copy(elsewhere.path().join("purged"), dir.path().join("purged")).unwrap();
        let log = open(dir.path()).unwrap();
        assert_eq!((log.last(), all(&log)), (id(purged), vec![]));
        append(&log, [entry(purged + 1, 10)]).await;
        assert_eq!(all(&open(dir.path()).unwrap()), [entry(purged + 1, 10)]);
    }
}

#[tokio::test]
async fn the_first_membership_is_kept() {
    let dir = tempdir().unwrap();
    let membership = Membership { voters: [1, 2, 3].into(), ..Membership::default() };
    let log = open(dir.path()).unwrap();
    log.form(membership.clone()).await.unwrap();
    append(&log, (1..3).map(|i| entry(i, 10))).await;
    let log = open(dir.path()).unwrap();
    assert_eq!(log.formation(), Some(membership));
    assert_eq!(all(&log).len(), 2);
}

#[tokio::test]
async fn writes_that_wait_together_are_reported_in_their_order() {
    let dir = tempdir().unwrap();
    let log = open(dir.path()).unwrap();
    let (done, mut order) = tokio::sync::mpsc::unbounded_channel();
    for i in 1..200 {
        let done = done.clone();
        let truncate = (i % 50 == 0).then_some(i);
        log.write(LogWrite { truncate, entries: vec![entry(i, 30)], hard: None }, move |r| done.send(r.map(|()| i)).unwrap());
    }
    for i in 1..200 {
        assert_eq!(order.recv().await.unwrap().unwrap(), i);
    }
    assert_eq!(all(&open(dir.path()).unwrap()).len(), 199);
}

#[tokio::test]
async fn what_goes_to_a_follower_at_once_fits_a_message() {
    let dir = tempdir().unwrap();
    let log = open(dir.path()).unwrap();
    let mega = 1 << 20;
    append(&log, (1..13).map(|i| entry(i, if i == 8 { 6 * mega } else { mega - 200 }))).await;
    let mut sent = Vec::new();
    let mut next = 1;
    while next < 13 {
        let some = log.read(next..=12, 4 * mega).unwrap();
        let size: usize = some.iter().map(|e| postcard::to_stdvec(e).unwrap().len()).sum();
        assert!(!some.is_empty() && (size <= 4 * mega || some.len() == 1), "{} entries of {size} bytes", some.len());
        next = some.last().unwrap().id.index + 1;
        sent.extend(some);
    }
    assert_eq!(sent, all(&log));
}

#[tokio::test]
async fn what_is_not_in_memory_comes_from_the_files() {
    let dir = tempdir().unwrap();
    let mut log = open(dir.path()).unwrap();
    // More than is held in memory, over several files, in which a later record replaces an earlier one.
    let size = |i: u64| if i.is_multiple_of(7) { 3 << 20 } else { 1 << 20 };
    append(&log, (1..30).map(|i| entry(i, size(i)))).await;
    truncate(&log, 20).await;
    append(&log, (20..60).map(|i| entry(i, size(i) + 1))).await;
    let want: Vec<_> = (1..60).map(|i| entry(i, size(i) + usize::from(i >= 20))).collect();
    assert!(segments(dir.path()).len() > 2);
    for round in 0..2 {
        assert_eq!(all(&log), want, "round {round}");
        assert_eq!(log.read(3..=4, usize::MAX).unwrap(), want[2..4]);
        assert_eq!(log.read(1..=60, 4 << 20).unwrap(), want[0..3]);
        log = open(dir.path()).unwrap();
    }
    assert_eq!(log.index_before_last(5 << 20), Some(55));
    log.purge(id(9)).await.unwrap();
    assert_eq!(all(&log), want[9..]);
    // Damage that comes later is an error, not another entry.
    let file = segments(dir.path()).into_iter().next().unwrap();
    let mut bytes = fs::read(&file).unwrap();
    let at = bytes.len() - 1000;
    bytes[at] ^= 1;
    fs::write(&file, bytes).unwrap();
    assert!(log.read(1..=u64::MAX, usize::MAX).is_err());
}

struct NoHooks;

impl Hooks for NoHooks {
    fn applied(&self, _: &State, _: &Command, _: Applied) {}
    fn replaced(&self, _: &State) {}
}

fn machine(dir: &Path) -> Result<Machine, StorageFault> {
    Machine::open(dir, Arc::new(Mutex::new(State::default())), Arc::new(NoHooks), watch::channel(0).0)
}

#[tokio::test]
async fn a_damaged_snapshot_or_vote_is_refused() {
    let dir = tempdir().unwrap();
    vote(&open(dir.path()).unwrap(), TERM, 1).await;
    let m = machine(dir.path()).unwrap();
    m.apply((1..6).map(|i| entry(i, 50)).collect()).unwrap();
    m.snapshot().await.unwrap();
    let state = m.state.lock().unwrap().clone();
    assert_eq!(*machine(dir.path()).unwrap().state.lock().unwrap(), state);
    for name in ["snapshot", "vote"] {
        let path = dir.path().join(name);
        let bytes = fs::read(&path).unwrap();
        let cuts = (0..bytes.len()).map(|n| bytes[..n].to_vec());
        let flips = (0..bytes.len() * 8).map(|i| {
            let mut b = bytes.clone();
            b[i / 8] ^= 1 << (i % 8);
            b
        });
        for damaged in cuts.chain(flips) {
            fs::write(&path, damaged).unwrap();
            let error = if name == "vote" { open(dir.path()).err() } else { machine(dir.path()).err() };
            assert!(matches!(error, Some(StorageFault::Damaged { path: p, .. }) if p == path));
        }
        fs::write(&path, bytes).unwrap();
    }
    // A replacement that was not finished is not looked at.
    fs::write(dir.path().join("snapshot.tmp"), b"half").unwrap();
    assert_eq!(*machine(dir.path()).unwrap().state.lock().unwrap(), state);
}

#[derive(Debug, Clone)]
enum Step {
    Append(usize, usize),
    Truncate(prop::sample::Index),
    Purge(prop::sample::Index),
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1..4usize, 0..200usize).prop_map(|(n, bytes)| Step::Append(n, bytes)),
        1 => any::<prop::sample::Index>().prop_map(Step::Truncate),
        1 => any::<prop::sample::Index>().prop_map(Step::Purge),
        2 => Just(Step::Reopen),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Whatever the history, what is on disk is what a plain list would hold.
    #[test]
    fn as_a_plain_list_would_do(steps in prop::collection::vec(step(), 1..25)) {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
            let dir = tempdir().unwrap();
            let mut log = open(dir.path()).unwrap();
            let (mut model, mut purged): (Vec<Entry>, u64) = (Vec::new(), 0);
            for s in steps {
                match s {
                    Step::Append(n, bytes) => {
                        let from = purged + model.len() as u64 + 1;
                        let new: Vec<_> = (from..from + n as u64).map(|i| entry(i, bytes)).collect();
                        append(&log, new.clone()).await;
                        model.extend(new);
                    }
                    Step::Truncate(at) if !model.is_empty() => {
                        let keep = at.index(model.len());
                        truncate(&log, purged + keep as u64 + 1).await;
                        model.truncate(keep);
                    }
                    Step::Purge(at) if !model.is_empty() => {
                        let drop = at.index(model.len()) + 1;
                        log.purge(id(purged + drop as u64)).await.unwrap();
                        model.drain(..drop);
                        purged += drop as u64;
                    }
                    Step::Reopen => log = open(dir.path()).unwrap(),
                    _ => {}
                }
                assert_eq!(all(&log), model);
            }
            assert_eq!(all(&open(dir.path()).unwrap()), model);
        });
    }
}
