//! Hosts of a play with `any_errors_fatal` begin each task together, so that a failure on one keeps all others from the next task.
//!
//! Invariant: a host that waits is woken by the last one that arrives, leaves or fails; a worker that ends in any way has left.

use std::{collections::BTreeMap, sync::Arc};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use crate::inventory::HostId;

#[derive(Default)]
struct Progress {
    /// tasks that each host has reached, until it leaves
    reached: BTreeMap<HostId, usize>,
    /// hosts by the tasks that they have reached: who is last is known without asking all
    hosts: BTreeMap<usize, usize>,
    /// the first task that a host failed
    failed: Option<usize>,
}

impl Progress {
    /// Tasks that all hosts that are left have reached.
    fn all_reached(&self) -> usize {
        self.hosts.first_key_value().map_or(usize::MAX, |(reached, _)| *reached)
    }

    /// Whether a task before this one failed. Of that one itself all hosts have their part, whichever was quickest.
    fn ends_before(&self, task: usize) -> bool {
        self.failed.is_some_and(|failed| failed < task)
    }

    /// A host that was at `from` is at `to`; `None`: not among the hosts.
    fn moved(&mut self, from: Option<usize>, to: Option<usize>) {
        if let Some(count) = from.and_then(|from| self.hosts.get_mut(&from)) {
            *count -= 1;
        }
        self.hosts.retain(|_, count| *count > 0);
        if let Some(to) = to {
            *self.hosts.entry(to).or_default() += 1;
        }
    }
}

/// The hosts of a batch.
pub struct Lockstep {
    progress: watch::Sender<Progress>,
    /// `--forks`: hosts that work at a time
    limit: Arc<Semaphore>,
}

impl Lockstep {
    /// All hosts, before their first task.
    pub fn new(hosts: impl Iterator<Item = HostId>, limit: Arc<Semaphore>) -> Self {
        let mut progress = Progress { reached: hosts.map(|id| (id, 0)).collect(), ..Progress::default() };
        progress.hosts.insert(0, progress.reached.len());
        progress.hosts.retain(|_, count| *count > 0);
        Self { progress: watch::Sender::new(progress), limit }
    }

    /// Hosts that wait are woken only where that is news for them: the last one arrived, or one failed.
    fn update<T: Default>(&self, change: impl FnOnce(&mut Progress) -> T) -> T {
        let mut out = T::default();
        self.progress.send_if_modified(|p| {
            let before = (p.all_reached(), p.failed);
            out = change(p);
            before != (p.all_reached(), p.failed)
        });
        out
    }

    /// Waits until all hosts that are left have come as far. `None`: one of them failed before.
    async fn arrive(&self, id: HostId) -> Option<OwnedSemaphorePermit> {
        let mut progress = self.progress.subscribe();
        let mine = self.update(|p| {
            let from = p.reached.get(&id).copied();
            let mine = from.unwrap_or_default() + 1;
            p.reached.insert(id, mine);
            p.moved(from, Some(mine));
            mine
        });
        let ended = progress.wait_for(|p| p.ends_before(mine) || p.all_reached() >= mine).await.ok()?.ends_before(mine);
        if ended { None } else { self.limit.clone().acquire_owned().await.ok() }
    }
}

/// One host's place among the others; it leaves when this is dropped.
pub struct Member {
    lockstep: Arc<Lockstep>,
    id: HostId,
    permit: Option<OwnedSemaphorePermit>,
}

impl Member {
    /// A host of the batch.
    pub fn new(lockstep: Arc<Lockstep>, id: HostId) -> Self {
        Self { lockstep, id, permit: None }
    }

    /// Waits for the others before the next task; whether it may begin.
    pub async fn next(&mut self) -> bool {
        self.permit = None;
        self.permit = self.lockstep.arrive(self.id).await;
        self.permit.is_some()
    }

    /// This host failed: no other begins another task.
    pub fn fail(&self) {
        self.lockstep.update(|p| {
            let task = p.reached.get(&self.id).copied().unwrap_or_default();
            p.failed = Some(p.failed.map_or(task, |other| other.min(task)));
        });
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.lockstep.update(|p| {
            let from = p.reached.remove(&self.id);
            p.moved(from, None);
        });
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::inventory::Group;

    fn id(index: u16) -> HostId {
        HostId { group: Group::BROKERS, index }
    }

    #[tokio::test]
    async fn a_failure_keeps_the_others_from_the_next_task() {
        // Who is woken first is a matter of chance.
        for permits in [1, 3].repeat(100) {
            let lockstep = Arc::new(Lockstep::new((1..=3).map(id), Arc::new(Semaphore::new(permits))));
            let began = Arc::new(Mutex::new(Vec::new()));
            let mut hosts = tokio::task::JoinSet::new();
            for n in 1..=3 {
                let (mut member, began) = (Member::new(lockstep.clone(), id(n)), began.clone());
                hosts.spawn(async move {
                    for task in 0..4 {
                        if !member.next().await {
                            return;
                        }
                        if let Ok(mut b) = began.lock() {
                            b.push((task, n));
                        }
                        match (n, task) {
                            // One host has fewer tasks, one fails.
                            (1, 1) => return,
                            (2, 2) => return member.fail(),
                            _ => tokio::task::yield_now().await,
                        }
                    }
                });
            }
            while hosts.join_next().await.is_some() {}
            let mut began = began.lock().map(|b| b.clone()).unwrap_or_default();
            began.sort_unstable();
            assert_eq!(began, [(0, 1), (0, 2), (0, 3), (1, 1), (1, 2), (1, 3), (2, 2), (2, 3)], "{permits} at a time");
        }
    }
}
