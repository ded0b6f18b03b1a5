//! One run at a time on a cluster, whatever machines, users and state directories the runs have: a volume of an agreed name.
//! Creating a volume returns the one that exists, with its first creator's labels, so creation is compare-and-set.
//!
//! Labels cannot change. A lock that is taken over therefore has the next number in its name, and a sign of life is a volume of
//! its own beside the lock. Invariant: a lock whose holder is alive is not taken over.

use std::{collections::HashMap, fs, time::Duration};

use bollard::{
    Docker as Engine,
    models::{Volume, VolumeCreateRequest},
    query_parameters::{ListVolumesOptionsBuilder, RemoveVolumeOptions},
};

use super::{errors::explain, filter};
use crate::{
    clock::now_s,
    error::{Error, Result},
    provider::{
        Holder,
        heartbeat::{Heartbeat, Lost, SILENCE_S},
    },
};

/// The cluster's name, on locks and signs of life.
const LOCK: &str = "septet.lock";
/// Number of a lock; signs of life have none.
const TERM: &str = "septet.lock.term";
/// Distinguishes runs.
const RUN: &str = "septet.lock.run";
const HOLDER: &str = "septet.lock.holder";
const PROCESS: &str = "septet.lock.process";
const WHO: &str = "septet.lock.who";
const SEEN: &str = "septet.lock.seen";
/// Tries while others take and release the lock.
const ATTEMPTS: usize = 6;

/// The right to change a cluster.
pub struct Hold {
    engine: Engine,
    cluster: String,
    run: String,
    heartbeat: Heartbeat,
}

impl Hold {
    /// Waits until it is lost.
    pub fn lost(&self) -> impl Future<Output = Lost> + Send + 'static {
        self.heartbeat.lost()
    }

    /// Gives it back.
    pub async fn release(self) {
        drop(self.heartbeat);
        // What cannot be removed is taken over: by this state directory at once, by others once the process has ended.
        let Ok(all) = volumes(&self.engine, &self.cluster).await else { return };
        for v in all.iter().filter(|v| v.labels.get(RUN) == Some(&self.run)) {
            remove(&self.engine, &v.name).await;
        }
    }
}

/// Which process: kernel and its boot, PID namespace, number, start. Empty where that cannot be determined.
fn process() -> String {
    let read = || {
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
        let space = fs::read_link("/proc/self/ns/pid").ok()?;
        let pid = std::process::id();
        Some(format!("{} {} {pid} {}", boot.trim(), space.display(), started(pid)?))
    };
    read().unwrap_or_default()
}

/// When a process was started, in ticks since the boot.
fn started(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name stands in parentheses and may have any character.
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

/// Whether a process of this PID namespace runs; `None` if it belongs to another.
fn is_alive(process: &str, ours: &str, started: impl Fn(u32) -> Option<u64>) -> Option<bool> {
    let parts = |p: &str| -> Option<(String, u32, u64)> {
        let mut words = p.rsplitn(3, ' ');
        let (start, pid) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
        Some((words.next()?.to_owned(), pid, start))
    };
    let ((theirs, pid, start), (here, _, _)) = (parts(process)?, parts(ours)?);
    (theirs == here).then(|| started(pid) == Some(start))
}

/// Whether a lock's holder has ended. `seen` is its last sign of life, in seconds since 1970.
fn is_stale(labels: &HashMap<String, String>, seen: u64, holder: &Holder, ours: &str, now: u64) -> bool {
    let process = labels.get(PROCESS).map_or("", String::as_str);
    // This state directory's lock file is held by this process.
    let is_us = labels.get(HOLDER) == Some(&holder.id);
    match is_alive(process, ours, started) {
        // What is seen to run is alive, whatever it is called.
        Some(alive) => !alive || (is_us && process == ours),
        None => is_us || now.saturating_sub(seen) > SILENCE_S,
    }
}

fn term(v: &Volume) -> Option<u64> {
    v.labels.get(TERM)?.parse().ok()
}

/// Locks and signs of life of a cluster's name.
async fn volumes(engine: &Engine, cluster: &str) -> Result<Vec<Volume>> {
    let options = ListVolumesOptionsBuilder::default().filters(&filter(LOCK, cluster)).build();
    let list = engine.list_volumes(Some(options)).await.map_err(|e| explain("cannot list locks", e))?;
    Ok(list.volumes.unwrap_or_default())
}

async fn remove(engine: &Engine, name: &str) {
    let _ = engine.remove_volume(name, None::<RemoveVolumeOptions>).await;
}

fn last_seen(all: &[Volume], run: Option<&String>) -> u64 {
    let of_it = all.iter().filter(|v| v.labels.get(RUN) == run);
    of_it.filter_map(|v| v.labels.get(SEEN)?.parse().ok()).max().unwrap_or(0)
}

/// Takes the right to change the cluster of a name.
pub async fn take(engine: &Engine, cluster: &str, holder: &Holder) -> Result<Hold> {
    let (ours, run) = (process(), uuid::Uuid::new_v4().to_string());
    for attempt in 0..ATTEMPTS {
        let all = volumes(engine, cluster).await?;
        let newest = all.iter().filter(|v| term(v).is_some()).max_by_key(|v| term(v));
        if let Some(lock) = newest
            && !is_stale(&lock.labels, last_seen(&all, lock.labels.get(RUN)), holder, &ours, now_s())
        {
            return Err(held(cluster, lock));
        }
        let next = newest.and_then(term).unwrap_or(0).saturating_add(1);
        let labels = HashMap::from([
            (LOCK.to_owned(), cluster.to_owned()),
            (TERM.to_owned(), next.to_string()),
            (RUN.to_owned(), run.clone()),
            (HOLDER.to_owned(), holder.id.clone()),
            (PROCESS.to_owned(), ours.clone()),
            (WHO.to_owned(), holder.text.clone()),
            (SEEN.to_owned(), now_s().to_string()),
        ]);
        let name = format!("septet-lock-{cluster}-{next}");
        let request = VolumeCreateRequest { name: Some(name.clone()), labels: Some(labels), ..Default::default() };
        let made = engine.create_volume(request).await.map_err(|e| explain("cannot take the cluster's lock", e))?;
        // The first to make it holds it. One who had listed before that one's predecessor was removed may have made an older one.
        let now = volumes(engine, cluster).await?;
        let is_newest = now.iter().filter_map(term).max() == Some(next);
        let is_there = now.iter().any(|v| v.name == name && v.labels.get(RUN) == Some(&run));
        if made.labels.get(RUN) == Some(&run) && is_newest && is_there {
            for v in now.iter().filter(|v| v.labels.get(RUN) != Some(&run)) {
                remove(engine, &v.name).await;
            }
            let heartbeat = {
                let (engine, cluster, run, lock) = (engine.clone(), cluster.to_owned(), run.clone(), name.clone());
                Heartbeat::start(move |n| beat(engine.clone(), cluster.clone(), run.clone(), lock.clone(), n))
            };
            return Ok(Hold { engine: engine.clone(), cluster: cluster.to_owned(), run, heartbeat });
        }
        if made.labels.get(RUN) == Some(&run) {
            remove(engine, &name).await;
        }
        tokio::time::sleep(Duration::from_millis(100 * (attempt as u64 + 1))).await;
    }
    Err(Error::failed(format!("cannot take the lock of cluster `{cluster}`: other runs keep taking it")).hint("run the same command again"))
}

fn held(cluster: &str, lock: &Volume) -> Error {
    let by = lock.labels.get(WHO).map_or("unknown holder", String::as_str);
    Error::failed(format!("another run is at work on cluster `{cluster}`: {by}")).hint(format!(
        "wait until it has ended; after a crash on another machine the lock expires {} minutes after its last sign of life, or remove it: docker volume rm {}",
        SILENCE_S / 60,
        lock.name
    ))
}

/// The `n`-th sign of life; whether the lock is still the run's.
async fn beat(engine: Engine, cluster: String, run: String, lock: String, n: u64) -> Result<bool> {
    let labels = HashMap::from([(LOCK.to_owned(), cluster.clone()), (RUN.to_owned(), run.clone()), (SEEN.to_owned(), now_s().to_string())]);
    let name = format!("septet-lock-{cluster}-alive-{run}-{n}");
    let request = VolumeCreateRequest { name: Some(name.clone()), labels: Some(labels), ..Default::default() };
    engine.create_volume(request).await.map_err(|e| explain("cannot renew the cluster's lock", e))?;
    let all = volumes(&engine, &cluster).await?;
    for earlier in all.iter().filter(|v| v.labels.get(RUN) == Some(&run) && term(v).is_none() && v.name != name) {
        remove(&engine, &earlier.name).await;
    }
    let newest = all.iter().filter(|v| term(v).is_some()).max_by_key(|v| term(v));
    let is_ours = newest.is_some_and(|v| v.name == lock && v.labels.get(RUN) == Some(&run));
    if !is_ours {
        remove(&engine, &name).await;
    }
    Ok(is_ours)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_ends_with_its_process_or_with_silence() {
        let us = Holder { id: "us".into(), text: String::new() };
        let ours = process();
        let labels =
            |holder: &str, process: &str| HashMap::from([(HOLDER.to_owned(), holder.to_owned()), (PROCESS.to_owned(), process.to_owned())]);
        // The same state directory, whatever the process, unless it is seen to run.
        assert!(is_stale(&labels("us", &ours), 1000, &us, &ours, 1000));
        assert!(is_stale(&labels("us", "boot pid:[1] 1 1"), 1000, &us, &ours, 1000));
        let parent = std::os::unix::process::parent_id();
        let other = started(parent).and_then(|start| Some(format!("{} {parent} {start}", ours.rsplitn(3, ' ').nth(2)?)));
        assert!(!is_stale(&labels("us", &other.unwrap_or_default()), 1000, &us, &ours, 1_000_000), "a process that runs");
        // Of this machine: alive however long it is silent, ended at once.
        assert!(!is_stale(&labels("them", &ours), 0, &us, &ours, 1_000_000));
        let (rest, start) = ours.rsplit_once(' ').unwrap_or_default();
        assert!(is_stale(&labels("them", &format!("{rest} {}1", start)), 1000, &us, &ours, 1000));
        // Of another: by its silence.
        for elsewhere in ["boot pid:[1] 1 1", ""] {
            assert!(!is_stale(&labels("them", elsewhere), 1000, &us, &ours, 1000 + SILENCE_S));
            assert!(is_stale(&labels("them", elsewhere), 1000, &us, &ours, 1001 + SILENCE_S));
            assert!(!is_stale(&labels("them", elsewhere), 1000, &us, &ours, 10));
        }
    }

    #[test]
    fn another_process_with_the_same_number_is_another() {
        let p = |pid: u32, start: u64| format!("boot pid:[1] {pid} {start}");
        let running = |pid: u32| (pid == 7).then_some(50);
        assert_eq!(is_alive(&p(7, 50), &p(1, 1), running), Some(true));
        assert_eq!(is_alive(&p(7, 49), &p(1, 1), running), Some(false));
        assert_eq!(is_alive(&p(8, 50), &p(1, 1), running), Some(false));
        assert_eq!(is_alive("boot pid:[2] 7 50", &p(1, 1), running), None);
        assert_eq!(is_alive("", &p(1, 1), running), None);
    }
}
