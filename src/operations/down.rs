//! `down`: lists what carries the cluster's UUID, removes it in the order of dependence, lists again until nothing
//! is left, and says so.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use serde::Serialize;

use super::{Cluster, locked};
use crate::{
    clock::{self, now_s},
    error::{Error, Kind, Result},
    events::Event,
    identity::{ClusterId, ClusterName},
    inventory::Inventory,
    journal::Recorder,
    observed::Resource,
    provider::{self, Expired, Provider},
    report::Reporter,
    state, stop,
};

/// Something that was removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Removal {
    /// what it was
    #[serde(flatten)]
    pub resource: Resource,
    /// when its removal was done, in seconds since 1970
    #[serde(serialize_with = "clock::serialize_s")]
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
    #[serde(serialize_with = "clock::serialize_s")]
    pub began_at: u64,
    /// when the last listing was made
    #[serde(serialize_with = "clock::serialize_s")]
    pub listed_at: u64,
    /// what was removed
    pub removed: Vec<Removal>,
    /// data that was kept because that was asked for
    pub kept: Vec<Resource>,
    /// what the last listing found beside that: nothing, unless the removal failed
    pub left: Vec<Resource>,
    /// hosts that could not be reached and were left out as asked for, each with the reason: what is installed there stays
    pub unreachable: Vec<String>,
}

/// Listings until everything must be gone.
const ROUNDS: usize = 10;
/// Rounds in a row that fail and remove nothing: what failed fails for good.
const MAX_IN_VAIN: usize = 2;

/// How a removal ended: what was done, and why not more.
#[derive(Debug, Clone)]
pub struct Removed {
    /// what was done
    pub receipt: Receipt,
    /// why something is left
    pub error: Option<Error>,
}

/// Removes the cluster, and what other first runs left under its name; or only the identity that is given. `agree` is shown the list
/// and decides whether to go on. Empty: nothing exists.
pub async fn down(
    cluster: &Cluster,
    keep_data: bool,
    only: Option<ClusterId>,
    agree: impl FnOnce(&[Resource]) -> Result<bool>,
) -> Result<Vec<Removed>> {
    let (name, provider) = (&cluster.inventory.cluster, &*cluster.provider);
    locked(name, provider, async {
        cluster.begin();
        let uuids = match identities(provider, name, only).await? {
            found if found.is_empty() && only.is_none() => unlisted(cluster).await?.into_iter().collect(),
            found => found,
        };
        let mut listed = Vec::new();
        for uuid in &uuids {
            listed.push((*uuid, provider.list(*uuid).await?));
        }
        for host in provider.left_out() {
            cluster.reporter.warn(&format!("left out; what is installed there stays: {host}"));
        }
        let all: Vec<Resource> = listed.iter().flat_map(|(_, l)| l).filter(|r| !(keep_data && r.data)).cloned().collect();
        if all.is_empty() {
            return Ok(Vec::new());
        }
        if !agree(&all)? {
            return Err(Error::failed("not confirmed: that is not the cluster's name; nothing was removed"));
        }
        let mut out = Vec::new();
        for (uuid, listed) in listed {
            let removed = remove_all(provider, name, uuid, listed, keep_data, &cluster.interrupted).await?;
            out.extend(removed.inspect(|r| tell(&cluster.reporter, r)));
            if out.last().is_some_and(|r: &Removed| r.error.as_ref().is_some_and(|e| e.kind == Kind::Interrupted)) {
                break;
            }
        }
        Ok(out)
    })
    .await
}

/// What is to be removed: all identities under the name of which one has hosts at the most, those without first.
async fn identities(provider: &dyn Provider, name: &ClusterName, only: Option<ClusterId>) -> Result<Vec<ClusterId>> {
    let all = provider.identities().await?;
    if let Some(uuid) = only {
        if !all.iter().any(|i| i.uuid == uuid) {
            return Err(Error::failed(format!("cluster `{name}` with id {uuid} does not exist")).hint(match all.as_slice() {
                [] => format!("nothing exists under the name `{name}`"),
                some => format!("existing ids: {}", some.iter().map(|i| i.uuid.to_string()).collect::<Vec<_>>().join(", ")),
            }));
        }
        return Ok(vec![uuid]);
    }
    if all.iter().filter(|i| i.hosts > 0).count() > 1 {
        provider::choose(name, all.clone())?;
    }
    let mut all = all;
    all.sort_by_key(|i| i.hosts);
    Ok(all.into_iter().map(|i| i.uuid).collect())
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

/// Opens the provider for the cluster of a name.
pub(super) type Open<'a> = &'a (dyn Fn(&ClusterName) -> Result<Arc<dyn Provider>> + Sync);

/// The inventory's provider, for clusters of other names.
pub(super) fn open_as(inventory: &Inventory) -> impl Fn(&ClusterName) -> Result<Arc<dyn Provider>> + Sync {
    |name| {
        let mut other = inventory.clone();
        other.cluster = name.clone();
        provider::open(&other)
    }
}

/// Expired clusters of the provider. One of which only data is left is not among them unless `data`: that was kept on purpose.
pub(super) async fn expired_now(provider: &dyn Provider, data: bool) -> Result<Vec<Expired>> {
    let Some(lease) = provider.lease() else { return Ok(Vec::new()) };
    let mut out = Vec::new();
    for one in lease.expired(now_s()).await? {
        if is_due(&provider.list(one.uuid).await?, data) {
            out.push(one);
        }
    }
    Ok(out)
}

/// Whether what is left of an expired cluster is to be removed.
fn is_due(listed: &[Resource], data: bool) -> bool {
    listed.iter().any(|r| data || !r.data)
}

/// Removes all expired clusters of the inventory's provider, whatever their names; those of which only data is left if `data`.
/// `agree` is shown them.
pub async fn down_expired(
    inventory: &Inventory,
    data: bool,
    reporter: &Arc<Reporter>,
    interrupted: &AtomicBool,
    agree: impl FnOnce(&[Expired]) -> Result<bool>,
) -> Result<Vec<Removed>> {
    remove_expired(&*provider::open(inventory)?, &open_as(inventory), data, reporter, interrupted, agree).await
}

pub(super) async fn remove_expired(
    provider: &dyn Provider,
    open: Open<'_>,
    data: bool,
    reporter: &Arc<Reporter>,
    interrupted: &AtomicBool,
    agree: impl FnOnce(&[Expired]) -> Result<bool>,
) -> Result<Vec<Removed>> {
    let expired = expired_now(provider, data).await?;
    if expired.is_empty() {
        return Ok(Vec::new());
    }
    if !agree(&expired)? {
        return Err(Error::failed("not confirmed; nothing was removed"));
    }
    let mut receipts: Vec<Removed> = Vec::new();
    for one in expired {
        let removed = async {
            stop::check(interrupted)?;
            let recorder = Recorder::of("down", BTreeMap::from([("expired", one.uuid.to_string())]));
            expired_one(&*open(&one.cluster)?, &one, data, &recorder, reporter, interrupted).await
        };
        match (removed.await, receipts.last_mut()) {
            (Ok(removed), _) => receipts.extend(removed),
            (Err(e), None) => return Err(e),
            // The receipts of those before are not lost.
            (Err(e), Some(before)) => {
                let Removed { error, .. } = before;
                error.get_or_insert(e.context(format!("cluster {}", one.cluster)));
                break;
            }
        }
    }
    Ok(receipts)
}

/// Removes one expired cluster under its lock, with its data. `None`: it was extended or removed since it was listed.
pub(super) async fn expired_one(
    provider: &dyn Provider,
    one: &Expired,
    data: bool,
    recorder: &Recorder,
    reporter: &Arc<Reporter>,
    interrupted: &AtomicBool,
) -> Result<Option<Removed>> {
    let removal = async {
        // Only with the lock does the end stand: `extend` takes it too.
        let expired = match provider.lease() {
            Some(lease) => lease.expired(now_s()).await?,
            None => Vec::new(),
        };
        let listed = provider.list(one.uuid).await?;
        if !expired.iter().any(|e| e.uuid == one.uuid) || !is_due(&listed, data) {
            return Ok(None);
        }
        recorder.begin(reporter, &one.cluster);
        remove_all(provider, &one.cluster, one.uuid, listed, false, interrupted).await
    };
    let removed = locked(&one.cluster, provider, removal).await;
    if let Ok(Some(removed)) = &removed {
        tell(reporter, removed);
    }
    recorder.end(removed.as_ref().map_or_else(Some, |r| r.as_ref().and_then(|r| r.error.as_ref())));
    removed
}

/// The receipt goes into the journal, also of a removal that failed.
fn tell(reporter: &Reporter, removed: &Removed) {
    reporter.emit(&Event::Receipt { receipt: serde_json::to_value(&removed.receipt).unwrap_or_default() });
}

async fn remove_all(
    provider: &dyn Provider,
    name: &ClusterName,
    uuid: ClusterId,
    listed: Vec<Resource>,
    keep_data: bool,
    interrupted: &AtomicBool,
) -> Result<Option<Removed>> {
    let began_at = now_s();
    let (kept, all): (Vec<Resource>, Vec<Resource>) = listed.into_iter().partition(|r| keep_data && r.data);
    if all.is_empty() {
        return Ok(None);
    }
    let (mut last, mut stopped): (Option<Error>, Option<Error>) = (None, None);
    let mut left = all.clone();
    let (mut removed, mut listed_at): (Vec<Removal>, u64) = (Vec::new(), began_at);
    // Consecutive rounds that ended in an error and removed nothing.
    let mut in_vain = 0;
    // Once something is removed, whatever ends this ends it with a receipt.
    for round in 0..ROUNDS {
        let mut failed = false;
        let mut done: Vec<Resource> = Vec::new();
        for kind in provider.removal_order() {
            let these: Vec<Resource> = left.iter().filter(|r| r.kind == *kind).cloned().collect();
            if these.is_empty() {
                continue;
            }
            stopped = stop::check(interrupted).err();
            if stopped.is_some() {
                break;
            }
            match provider.remove(&these).await {
                Ok(()) => done.extend(these),
                Err(e) => {
                    // What comes later depends on this.
                    failed = true;
                    last = Some(e);
                    break;
                }
            }
        }
        match provider.list(uuid).await {
            Ok(listed) => {
                left = listed.into_iter().filter(|r| !(keep_data && r.data)).collect();
                listed_at = now_s();
            }
            Err(e) => {
                // What the provider reported as removed is believed; the rest counts as there.
                left.retain(|l| !done.iter().any(|d| d.id == l.id));
                stopped = stopped.or_else(|| Some(e.context("cannot list what is left")));
            }
        }
        removed.retain(|r| !left.iter().any(|l| l.id == r.resource.id));
        let gone: Vec<&Resource> =
            all.iter().filter(|r| !left.iter().any(|l| l.id == r.id) && !removed.iter().any(|x| x.resource.id == r.id)).collect();
        in_vain = if failed && gone.is_empty() { in_vain + 1 } else { 0 };
        let removed_at = now_s();
        removed.extend(gone.into_iter().map(|r| Removal { resource: r.clone(), removed_at }));
        if left.is_empty() || in_vain >= MAX_IN_VAIN || stopped.is_some() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(200 * (round as u64 + 1))).await;
    }
    let unproven = stopped.as_ref().is_some_and(|e| e.kind != Kind::Interrupted);
    let error = (!left.is_empty() || unproven).then(|| {
        let names: Vec<String> = left.iter().map(|r| format!("{} {}", r.kind, r.name)).collect();
        let names = if names.is_empty() { "not known".to_owned() } else { names.join(", ") };
        match stopped.or(last) {
            Some(e) => Error { message: format!("{}\n  not removed: {names}", e.message), ..e },
            None => Error::failed(format!("not removed: {names}")).hint("run `septet down` again"),
        }
    });
    let unreachable = provider.left_out();
    if error.is_none() && kept.is_empty() && unreachable.is_empty() {
        state::forget(uuid)?;
        state::forget_intent(name, uuid)?;
    }
    let receipt = Receipt { cluster: name.clone(), uuid, began_at, listed_at, removed, kept, left, unreachable };
    Ok(Some(Removed { receipt, error }))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::{Mutex, atomic::Ordering};

    use futures_util::future::BoxFuture;

    use super::*;
    use crate::{
        observed::{Observed, ObservedHost},
        ssh::Endpoint,
    };

    /// Three kinds of things; the user presses Ctrl-C while those of one kind are removed.
    struct Things<'a> {
        left: Mutex<Vec<Resource>>,
        removed: Mutex<Vec<String>>,
        interrupted: &'a AtomicBool,
        at: &'static str,
        list_fails: bool,
    }

    fn nobody<T>() -> T {
        panic!("this is not asked for a removal")
    }

    impl Provider for Things<'_> {
        fn observe(&self) -> BoxFuture<'_, Result<Observed>> {
            nobody()
        }
        fn list(&self, _: ClusterId) -> BoxFuture<'_, Result<Vec<Resource>>> {
            Box::pin(async {
                match self.list_fails {
                    true => Err(Error::failed("the daemon is away")),
                    false => Ok(self.left.lock().unwrap().clone()),
                }
            })
        }
        fn removal_order(&self) -> &'static [&'static str] {
            &["container", "network", "volume"]
        }
        fn remove<'a>(&'a self, resources: &'a [Resource]) -> BoxFuture<'a, Result<()>> {
            Box::pin(async move {
                if resources[0].kind == self.at {
                    self.interrupted.store(true, Ordering::SeqCst);
                }
                self.left.lock().unwrap().retain(|l| !resources.contains(l));
                self.removed.lock().unwrap().extend(resources.iter().map(|r| r.name.clone()));
                Ok(())
            })
        }
        fn endpoint(&self, _: &ObservedHost) -> Result<Endpoint> {
            nobody()
        }
        fn clusters(&self) -> BoxFuture<'_, Result<Vec<crate::provider::Found>>> {
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
            let provider = Things { left: Mutex::new(left), removed: Mutex::default(), interrupted: &interrupted, at, list_fails: false };
            let name = "c".parse().unwrap();
            let listed = provider.list(ClusterId::random()).await.unwrap();
            let ended = remove_all(&provider, &name, ClusterId::random(), listed, false, &interrupted).await.unwrap().unwrap();
            let e = ended.error.unwrap();
            assert_eq!((e.kind, e.kind.exit_code()), (Kind::Interrupted, 130), "{e:?}");
            assert_eq!(*provider.removed.lock().unwrap(), removed);
            // The receipt says what was done all the same.
            let mut names: Vec<String> = ended.receipt.removed.into_iter().map(|r| r.resource.name).collect();
            names.sort();
            assert_eq!(names, removed);
            assert_eq!(ended.receipt.left.len(), 4 - removed.len());
        }
    }

    #[tokio::test]
    async fn a_listing_that_fails_loses_no_receipt() {
        let (interrupted, name) = (AtomicBool::new(false), "c".parse().unwrap());
        let thing = |kind: &'static str, name: &str| Resource { kind, name: name.into(), id: name.into(), data: false };
        let left = vec![thing("volume", "v"), thing("container", "a")];
        let provider = Things {
            left: Mutex::new(left.clone()),
            removed: Mutex::default(),
            interrupted: &interrupted,
            at: "nothing",
            list_fails: true,
        };
        let ended = remove_all(&provider, &name, ClusterId::random(), left, false, &interrupted).await.unwrap().unwrap();
        assert_eq!((ended.receipt.removed.len(), ended.receipt.left.len()), (2, 0));
        assert!(ended.error.unwrap().message.starts_with("cannot list what is left: the daemon is away"));
    }
}
