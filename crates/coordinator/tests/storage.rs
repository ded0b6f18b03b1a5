//! What is on disk: it is all there after a restart, a torn tail goes, and damage is refused by name.
#![allow(clippy::unwrap_used, missing_docs)]

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use openraft::{
    CommittedLeaderId, Entry, EntryPayload, LogId, RaftLogReader, RaftSnapshotBuilder, Vote,
    storage::{RaftLogStorage, RaftLogStorageExt, RaftStateMachine},
};
use proptest::prelude::*;
use septet_coordinator::{
    state::{Applied, Ask, Command, Origin, State},
    storage::{Batch, Hooks, LogStore, Machine, StorageFault, TypeConfig},
};
use tempfile::TempDir;
use tokio::sync::watch;

const TERM: u64 = 2;

/// In memory where there is such a place: these are thousands of small files.
fn tempdir() -> std::io::Result<TempDir> {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir())
}

fn id(index: u64) -> LogId<u64> {
    LogId::new(CommittedLeaderId::new(TERM, 1), index)
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

fn entry(index: u64, bytes: usize) -> Entry<TypeConfig> {
    Entry { log_id: id(index), payload: EntryPayload::Normal(Batch(vec![command(bytes, index)])) }
}

/// A log for which everything is in snapshots, so that anything may be purged.
fn open(dir: &Path) -> Result<LogStore, StorageFault> {
    LogStore::open(dir, watch::channel(u64::MAX).1)
}

async fn append(log: &mut LogStore, entries: impl IntoIterator<Item = Entry<TypeConfig>>) {
    log.blocking_append(entries.into_iter().collect::<Vec<_>>()).await.unwrap();
}

async fn all(log: &mut LogStore) -> Vec<Entry<TypeConfig>> {
    log.try_get_log_entries(..).await.unwrap()
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

/// Bytes of a log with these entries from index 0 on, and where each record begins.
async fn written(sizes: &[usize]) -> (String, Vec<u8>, Vec<usize>) {
    let dir = tempdir().unwrap();
    let mut log = open(dir.path()).unwrap();
    let mut starts = Vec::new();
    for (i, size) in sizes.iter().enumerate() {
        starts.push(segments(dir.path()).last().map_or(0, |p| fs::metadata(p).unwrap().len() as usize));
        append(&mut log, [entry(i as u64, *size)]).await;
    }
    let file = segments(dir.path()).pop().unwrap();
    (file.file_name().unwrap().to_str().unwrap().to_owned(), fs::read(file).unwrap(), starts)
}

#[tokio::test]
async fn the_log_survives_a_restart() {
    let dir = tempdir().unwrap();
    let want: Vec<_> = (0..20).map(|i| entry(i, 100 * i as usize)).collect();
    {
        let mut log = open(dir.path()).unwrap();
        assert_eq!(log.get_log_state().await.unwrap().last_log_id, None);
        append(&mut log, want[..10].to_vec()).await;
        append(&mut log, want[10..].to_vec()).await;
        log.save_vote(&Vote::new(TERM, 1)).await.unwrap();
        log.save_vote(&Vote::new_committed(TERM + 1, 3)).await.unwrap();
    }
    for _ in 0..3 {
        let mut log = open(dir.path()).unwrap();
        assert_eq!(all(&mut log).await, want);
        assert_eq!(log.read_vote().await.unwrap(), Some(Vote::new_committed(TERM + 1, 3)));
        let state = log.get_log_state().await.unwrap();
        assert_eq!((state.last_purged_log_id, state.last_log_id), (None, Some(id(19))));
        assert_eq!(log.try_get_log_entries(3..=4).await.unwrap(), want[3..5]);
        assert!(log.try_get_log_entries(30..40).await.unwrap().is_empty());
    }
}

#[tokio::test]
async fn a_torn_tail_is_cut_off_wherever_it_tore() {
    let (name, bytes, starts) = written(&[0, 40, 700, 3, 900]).await;
    let last = *starts.last().unwrap();
    for cut in last..bytes.len() {
        let dir = with_log(&name, &bytes[..cut]);
        let mut log = open(dir.path()).unwrap_or_else(|e| panic!("cut at {cut}: {e}"));
        assert_eq!(all(&mut log).await.len(), 4, "cut at {cut}");
        assert_eq!(fs::metadata(dir.path().join(&name)).unwrap().len() as usize, last);
        if cut % 40 == 0 {
            append(&mut log, [entry(4, 10)]).await;
            let mut log = open(dir.path()).unwrap();
            assert_eq!(all(&mut log).await.last(), Some(&entry(4, 10)), "cut at {cut}");
        }
    }
    // A power failure may leave the file longer than what was written, with sectors of zeros.
    let sector = last.next_multiple_of(512);
    for (from, to) in [(last, bytes.len()), (sector, bytes.len()), (sector, sector + 512)] {
        let mut zeros = bytes.clone();
        zeros[from..to].fill(0);
        let dir = with_log(&name, &zeros);
        assert_eq!(all(&mut open(dir.path()).unwrap()).await.len(), 4, "zeros from {from} to {to}");
    }
    let dir = with_log(&name, &[&bytes[..], &[0; 3000]].concat());
    assert_eq!(all(&mut open(dir.path()).unwrap()).await.len(), 5);
}

#[tokio::test]
async fn a_flipped_bit_is_refused_with_file_and_offset() {
    let (name, bytes, starts) = written(&[0, 40, 300, 3, 60]).await;
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
    let mut damaged = bytes.clone();
    damaged[starts[2] + 50] ^= 1;
    let dir = with_log(&name, &damaged);
    let text = open(dir.path()).err().unwrap().to_string();
    assert_eq!(text, format!("{}: damaged at byte {}: checksum does not match", dir.path().join(&name).display(), starts[2]));
}

#[tokio::test]
async fn a_torn_record_is_only_believed_in_the_last_file() {
    let dir = tempdir().unwrap();
    append(&mut open(dir.path()).unwrap(), (0..3).map(|i| entry(i, 10))).await;
    append(&mut open(dir.path()).unwrap(), (3..5).map(|i| entry(i, 10))).await;
    let files = segments(dir.path());
    assert_eq!(files.len(), 2);
    let bytes = fs::read(&files[0]).unwrap();
    fs::write(&files[0], &bytes[..bytes.len() - 1]).unwrap();
    assert!(matches!(open(dir.path()), Err(StorageFault::Damaged { path, .. }) if path == files[0]));
    // A file that is lost, first or in between, leaves a gap.
    for lost in [0, 1] {
        let dir = tempdir().unwrap();
        for i in 0..3 {
            append(&mut open(dir.path()).unwrap(), [entry(i, 10)]).await;
        }
        fs::remove_file(&segments(dir.path())[lost]).unwrap();
        let text = open(dir.path()).err().unwrap().to_string();
        assert!(text.ends_with(&format!("entries {lost} to {lost} are missing")), "{text}");
    }
}

#[tokio::test]
async fn truncate_and_purge_last() {
    let dir = tempdir().unwrap();
    let mut log = open(dir.path()).unwrap();
    append(&mut log, (0..10).map(|i| entry(i, 10))).await;
    log.truncate(id(6)).await.unwrap();
    append(&mut log, [entry(6, 99)]).await;
    log.purge(id(3)).await.unwrap();
    let want = vec![entry(4, 10), entry(5, 10), entry(6, 99)];
    for _ in 0..2 {
        assert_eq!(all(&mut log).await, want);
        let state = log.get_log_state().await.unwrap();
        assert_eq!((state.last_purged_log_id, state.last_log_id), (Some(id(3)), Some(id(6))));
        log = open(dir.path()).unwrap();
    }
    // All of it, and then beyond, as when a snapshot arrives.
    log.purge(id(50)).await.unwrap();
    append(&mut log, [entry(51, 10)]).await;
    let mut log = open(dir.path()).unwrap();
    assert_eq!(all(&mut log).await, [entry(51, 10)]);
    assert_eq!(log.get_log_state().await.unwrap().last_purged_log_id, Some(id(50)));
}

#[tokio::test]
async fn files_go_when_all_in_them_is_purged() {
    let dir = tempdir().unwrap();
    for i in 0..5 {
        append(&mut open(dir.path()).unwrap(), [entry(2 * i, 10), entry(2 * i + 1, 10)]).await;
    }
    let mut log = open(dir.path()).unwrap();
    for (upto, left) in [(0, 5), (1, 4), (6, 2), (9, 1)] {
        log.purge(id(upto)).await.unwrap();
        assert_eq!(segments(dir.path()).len(), left, "purged up to {upto}");
    }
    let mut log = open(dir.path()).unwrap();
    assert!(all(&mut log).await.is_empty());
    assert_eq!(log.get_log_state().await.unwrap().last_log_id, Some(id(9)));
}

#[tokio::test]
async fn nothing_is_purged_before_a_snapshot_covers_it() {
    let dir = tempdir().unwrap();
    let (covered, covers) = watch::channel(3);
    let mut log = LogStore::open(dir.path(), covers).unwrap();
    append(&mut log, (0..5).map(|i| entry(i, 10))).await;
    let mut purging = log.clone();
    let mut purge = Box::pin(purging.purge(id(3)));
    let early = tokio::time::timeout(Duration::from_millis(100), &mut purge).await;
    assert!(early.is_err());
    assert_eq!(all(&mut log).await.len(), 5);
    covered.send_replace(4);
    purge.await.unwrap();
    assert_eq!(all(&mut log).await, [entry(4, 10)]);
}

#[tokio::test]
async fn what_goes_to_a_follower_at_once_fits_a_message() {
    let dir = tempdir().unwrap();
    let mut log = open(dir.path()).unwrap();
    let mega = 1 << 20;
    append(&mut log, (0..12).map(|i| entry(i, if i == 8 { 6 * mega } else { mega - 200 }))).await;
    let mut sent = Vec::new();
    let mut next = 0;
    while next < 12 {
        let some = log.limited_get_log_entries(next, 12).await.unwrap();
        let size: usize = some.iter().map(|e| postcard::to_stdvec(e).unwrap().len()).sum();
        assert!(!some.is_empty() && (size <= 4 * mega || some.len() == 1), "{} entries of {size} bytes", some.len());
        next = some.last().unwrap().log_id.index + 1;
        sent.extend(some);
    }
    assert_eq!(sent, all(&mut log).await);
}

#[tokio::test]
async fn what_is_not_in_memory_comes_from_the_files() {
    let dir = tempdir().unwrap();
    let mut log = open(dir.path()).unwrap();
    // More than is held in memory, over several files, in which a later record replaces an earlier one.
    let size = |i: u64| if i.is_multiple_of(7) { 3 << 20 } else { 1 << 20 };
    append(&mut log, (0..30).map(|i| entry(i, size(i)))).await;
    log.truncate(id(20)).await.unwrap();
    append(&mut log, (20..60).map(|i| entry(i, size(i) + 1))).await;
    let want: Vec<_> = (0..60).map(|i| entry(i, size(i) + usize::from(i >= 20))).collect();
    assert!(segments(dir.path()).len() > 2);
    for round in 0..2 {
        assert_eq!(all(&mut log).await, want, "round {round}");
        assert_eq!(log.try_get_log_entries(3..5).await.unwrap(), want[3..5]);
        assert_eq!(log.limited_get_log_entries(1, 60).await.unwrap(), want[1..4]);
        log = open(dir.path()).unwrap();
    }
    assert_eq!(log.index_before_last(5 << 20), Some(55));
    log.purge(id(9)).await.unwrap();
    assert_eq!(all(&mut log).await, want[10..]);
    // Damage that comes later is an error, not another entry.
    let file = segments(dir.path()).into_iter().next().unwrap();
    let mut bytes = fs::read(&file).unwrap();
    let at = bytes.len() - 1000;
    bytes[at] ^= 1;
    fs::write(&file, bytes).unwrap();
    assert!(log.try_get_log_entries(..).await.is_err());
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
    open(dir.path()).unwrap().save_vote(&Vote::new(TERM, 1)).await.unwrap();
    let mut m = machine(dir.path()).unwrap();
    m.apply((0..5).map(|i| entry(i, 50))).await.unwrap();
    m.build_snapshot().await.unwrap();
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
            let (mut model, mut purged): (Vec<Entry<TypeConfig>>, u64) = (Vec::new(), 0);
            for s in steps {
                match s {
                    Step::Append(n, bytes) => {
                        let from = purged + model.len() as u64;
                        let new: Vec<_> = (from..from + n as u64).map(|i| entry(i, bytes)).collect();
                        append(&mut log, new.clone()).await;
                        model.extend(new);
                    }
                    Step::Truncate(at) if !model.is_empty() => {
                        let keep = at.index(model.len());
                        log.truncate(id(purged + keep as u64)).await.unwrap();
                        model.truncate(keep);
                    }
                    Step::Purge(at) if !model.is_empty() => {
                        let drop = at.index(model.len()) + 1;
                        log.purge(id(purged + drop as u64 - 1)).await.unwrap();
                        model.drain(..drop);
                        purged += drop as u64;
                    }
                    Step::Reopen => log = open(dir.path()).unwrap(),
                    _ => {}
                }
                assert_eq!(all(&mut log).await, model);
            }
            assert_eq!(all(&mut open(dir.path()).unwrap()).await, model);
        });
    }
}
