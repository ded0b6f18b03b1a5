//! `down`: lists what carries the cluster's UUID, removes it in the order of dependence, lists again until nothing
//! is left, and says so.

use std::{sync::atomic::AtomicBool, time::Duration};

use serde::Serialize;

use super::{Cluster, locked};
use crate::{
    error::{Error, Result},
    identity::{ClusterId, ClusterName},
    inventory::Inventory,
    journal,
    provider::{self, Expired, Provider, Resource, now_s},
    state, stop,
};

/// Something that was removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Removal {
    /// what it was
    #[serde(flatten)]
    pub resource: Resource,
    /// when its removal was done, in seconds since 1970
    pub removed_at: u64,
}

/// What was removed, what was kept, and what a second listing found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Receipt {
    /// the cluster's name
    pub cluster: ClusterName,
    /// its identity
    pub uuid: ClusterId,
    /// when it began, in seconds since 1970
    pub began_at: u64,
    /// when the last listing was made
    pub listed_at: u64,
    /// what was removed
    pub removed: Vec<Removal>,
    /// data that was kept because that was asked for
    pub kept: Vec<Resource>,
    /// what the last listing found beside that: nothing
    pub left: Vec<Resource>,
}

/// Listings until everything must be gone.
const ROUNDS: usize = 10;

/// Removes the cluster. `agree` is shown the list and says whether to go on. `None`: there is nothing.
pub async fn down(cluster: &Cluster, keep_data: bool, agree: impl FnOnce(&[Resource]) -> Result<bool>) -> Result<Option<Receipt>> {
    let name = &cluster.inventory.cluster;
    locked(name, &*cluster.provider, async {
        let uuid = match cluster.provider.observe().await?.uuid {
            Some(uuid) => Some(uuid),
            None => unlisted(cluster).await?,
        };
        match uuid {
            Some(uuid) => remove_all(&*cluster.provider, name, uuid, keep_data, &cluster.interrupted, agree).await,
            None => Ok(None),
        }
    })
    .await
}

/// The identity of a cluster that a run of ours had begun to make, where the provider lists late what it makes: it is looked for
/// a while. Nobody else's run is known here.
async fn unlisted(cluster: &Cluster) -> Result<Option<ClusterId>> {
    let Some(uuid) = state::begun(&cluster.inventory.cluster)? else { return Ok(None) };
    let until = tokio::time::Instant::now() + cluster.provider.listed_within();
    loop {
        if !cluster.provider.list(uuid).await?.is_empty() {
            return Ok(Some(uuid));
        }
        if tokio::time::Instant::now() >= until {
            return Ok(None);
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// Removes all clusters of the inventory's provider whose time is over, whatever their names. `agree` is shown them.
pub async fn down_expired(
    inventory: &Inventory,
    interrupted: &AtomicBool,
    agree: impl FnOnce(&[Expired]) -> Result<bool>,
) -> Result<Vec<Receipt>> {
    let expired = provider::open(inventory)?.expired(now_s()).await?;
    if expired.is_empty() {
        return Ok(Vec::new());
    }
    if !agree(&expired)? {
        return Err(Error::failed("nothing was removed"));
    }
    let mut receipts = Vec::new();
    for one in expired {
        let mut of_it = inventory.clone();
        of_it.cluster = one.cluster.clone();
        let provider = provider::open(&of_it)?;
        stop::check(interrupted)?;
        let removal = remove_all(&*provider, &one.cluster, one.uuid, false, interrupted, |_| Ok(true));
        receipts.extend(locked(&one.cluster, &*provider, removal).await?);
    }
    Ok(receipts)
}

async fn remove_all(
    provider: &dyn Provider,
    name: &ClusterName,
    uuid: ClusterId,
    keep_data: bool,
    interrupted: &AtomicBool,
    agree: impl FnOnce(&[Resource]) -> Result<bool>,
) -> Result<Option<Receipt>> {
    let began_at = now_s();
    let (kept, all): (Vec<Resource>, Vec<Resource>) = provider.list(uuid).await?.into_iter().partition(|r| keep_data && r.data);
    if all.is_empty() {
        return Ok(None);
    }
    if !agree(&all)? {
        return Err(Error::failed("that is not the cluster's name; nothing was removed"));
    }
    let mut last: Option<Error> = None;
    let mut left = all.clone();
    let mut removed: Vec<Removal> = Vec::new();
    for round in 0..ROUNDS {
        for kind in provider.removal_order() {
            let these: Vec<Resource> = left.iter().filter(|r| r.kind == *kind).cloned().collect();
            if these.is_empty() {
                continue;
            }
            stop::check(interrupted)?;
            match provider.remove(&these).await {
                Ok(()) => {
                    let removed_at = now_s();
                    let fresh = these.into_iter().filter(|r| !removed.iter().any(|x| x.resource.id == r.id)).collect::<Vec<_>>();
                    removed.extend(fresh.into_iter().map(|resource| Removal { resource, removed_at }));
                }
                // What comes later hangs on this; and what fails twice alike fails for good.
                Err(e) if last.as_ref().is_some_and(|l| l.message == e.message) => return Err(e),
                Err(e) => {
                    last = Some(e);
                    break;
                }
            }
        }
        left = provider.list(uuid).await?.into_iter().filter(|r| !(keep_data && r.data)).collect();
        let listed_at = now_s();
        removed.retain(|r| !left.iter().any(|l| l.id == r.resource.id));
        if left.is_empty() {
            // What disappeared with something else, or under a call that failed.
            for r in &all {
                if !removed.iter().any(|x| x.resource.id == r.id) {
                    removed.push(Removal { resource: r.clone(), removed_at: listed_at });
                }
            }
            if kept.is_empty() {
                state::forget(uuid)?;
                state::forget_intent(name)?;
            }
            let receipt = Receipt { cluster: name.clone(), uuid, began_at, listed_at, removed, kept, left };
            journal::record("down", name, &receipt)?;
            return Ok(Some(receipt));
        }
        tokio::time::sleep(Duration::from_millis(200 * (round as u64 + 1))).await;
    }
    let names: Vec<String> = left.iter().map(|r| format!("{} {}", r.kind, r.name)).collect();
    let why = last.map(|e| format!(": {e}")).unwrap_or_default();
    Err(Error::failed(format!("not everything is gone: {}{why}", names.join(", "))).hint("run `septet down` again"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::{Mutex, atomic::Ordering};

    use super::*;
    use crate::{
        error::Kind,
        plan::Step,
        playbook::runner::Boxed,
        provider::{Observed, ObservedHost, ObservedNetwork, Site},
        ssh::Endpoint,
    };

    /// Three kinds of things; the user presses Ctrl-C while those of one kind are removed.
    struct Things<'a> {
        left: Mutex<Vec<Resource>>,
        removed: Mutex<Vec<String>>,
        interrupted: &'a AtomicBool,
        at: &'static str,
    }

    fn nobody<T>() -> T {
        panic!("this is not asked for a removal")
    }

    impl Provider for Things<'_> {
        fn observe(&self) -> Boxed<'_, Result<Observed>> {
            nobody()
        }
        fn prepare<'a>(&'a self, _: &'a (dyn Fn(String) + Send + Sync)) -> Boxed<'a, Result<String>> {
            nobody()
        }
        fn create_network<'a>(&'a self, _: &'a Site<'a>) -> Boxed<'a, Result<ObservedNetwork>> {
            nobody()
        }
        fn apply<'a>(
            &'a self,
            _: &'a Step,
            _: &'a ObservedNetwork,
            _: &'a Site<'a>,
            _: &'a (dyn Fn(String) + Send + Sync),
        ) -> Boxed<'a, Result<()>> {
            nobody()
        }
        fn plant_key<'a>(&'a self, _: &'a ObservedHost, _: &'a str) -> Boxed<'a, Result<()>> {
            nobody()
        }
        fn list(&self, _: ClusterId) -> Boxed<'_, Result<Vec<Resource>>> {
            Box::pin(async { Ok(self.left.lock().unwrap().clone()) })
        }
        fn removal_order(&self) -> &'static [&'static str] {
            &["container", "network", "volume"]
        }
        fn remove<'a>(&'a self, resources: &'a [Resource]) -> Boxed<'a, Result<()>> {
            Box::pin(async move {
                if resources[0].kind == self.at {
                    self.interrupted.store(true, Ordering::SeqCst);
                }
                self.left.lock().unwrap().retain(|l| !resources.contains(l));
                self.removed.lock().unwrap().extend(resources.iter().map(|r| r.name.clone()));
                Ok(())
            })
        }
        fn expired(&self, _: u64) -> Boxed<'_, Result<Vec<Expired>>> {
            nobody()
        }
        fn endpoint(&self, _: &ObservedHost) -> Result<Endpoint> {
            nobody()
        }
        fn login(&self) -> &'static str {
            nobody()
        }
        fn outside(&self, _: &ObservedHost, _: u16) -> Option<String> {
            nobody()
        }
    }

    #[tokio::test]
    async fn an_interruption_stops_between_two_kinds() {
        for (at, removed) in [("container", vec!["a", "b"]), ("network", vec!["a", "b", "n"])] {
            let interrupted = AtomicBool::new(false);
            let thing = |kind: &'static str, name: &str| Resource { kind, name: name.into(), id: name.into(), data: false };
            let left = vec![thing("volume", "v"), thing("network", "n"), thing("container", "a"), thing("container", "b")];
            let provider = Things { left: Mutex::new(left), removed: Mutex::default(), interrupted: &interrupted, at };
            let name = "c".parse().unwrap();
            let e = remove_all(&provider, &name, ClusterId::random(), false, &interrupted, |_| Ok(true)).await.unwrap_err();
            assert_eq!(e.kind, Kind::Interrupted, "{e:?}");
            assert_eq!(*provider.removed.lock().unwrap(), removed);
        }
    }
}
