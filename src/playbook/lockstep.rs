//! Hosts of a play with `any_errors_fatal` begin each task together, so that a failure on one keeps all others from the next task.
//!
//! Invariant: a host that waits is woken by the last one that arrives, leaves or fails; a worker that ends in any way has left.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

use crate::inventory::HostId;

#[derive(Default)]
struct Progress {
    /// tasks that each host has reached, until it leaves
    reached: BTreeMap<HostId, usize>,
    failed: bool,
}

/// The hosts of a batch.
pub struct Lockstep {
    progress: Mutex<Progress>,
    changed: Notify,
    /// `--forks`: hosts that work at a time
    limit: Arc<Semaphore>,
}

impl Lockstep {
    /// All hosts, before their first task.
    pub fn new(hosts: impl Iterator<Item = HostId>, limit: Arc<Semaphore>) -> Self {
        let reached = hosts.map(|id| (id, 0)).collect();
        Self { progress: Mutex::new(Progress { reached, failed: false }), changed: Notify::new(), limit }
    }

    fn update<T>(&self, change: impl FnOnce(&mut Progress) -> T) -> T {
        let out = change(&mut self.progress.lock().unwrap_or_else(PoisonError::into_inner));
        self.changed.notify_waiters();
        out
    }

    /// Waits until all hosts that are left have come as far. `None`: one of them failed.
    async fn arrive(&self, id: HostId) -> Option<OwnedSemaphorePermit> {
        let mine = self.update(|p| {
            let mine = p.reached.entry(id).or_default();
            *mine += 1;
            *mine
        });
        loop {
            let woken = self.changed.notified();
            tokio::pin!(woken);
            woken.as_mut().enable();
            let (failed, ready) = {
                let p = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
                (p.failed, p.reached.values().all(|r| *r >= mine))
            };
            if failed {
                return None;
            }
            if ready {
                return self.limit.clone().acquire_owned().await.ok();
            }
            woken.await;
        }
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
        self.lockstep.update(|p| p.failed = true);
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.lockstep.update(|p| p.reached.remove(&self.id));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inventory::Group;

    fn id(index: u16) -> HostId {
        HostId { group: Group::BROKERS, index }
    }

    #[tokio::test]
    async fn a_failure_keeps_the_others_from_the_next_task() {
        for permits in [1, 3] {
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
