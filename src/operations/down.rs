//! `down`: lists what carries the cluster's UUID, removes it in the order of dependence, lists again until nothing
//! is left, and says so.

use std::time::Duration;

use futures_util::future::join_all;
use serde::Serialize;

use super::{Cluster, Lock};
use crate::{
    error::{Error, Result},
    provider::Resource,
    ssh::keys,
};

/// What was removed, and what a second listing found.
#[derive(Debug, Serialize)]
pub struct Receipt {
    /// the cluster's name
    pub cluster: String,
    /// its identity
    pub uuid: String,
    /// what was removed
    pub removed: Vec<Resource>,
    /// what the last listing found: nothing
    pub left: Vec<Resource>,
}

/// In which order kinds are removed.
const ORDER: [&str; 3] = ["container", "network", "volume"];
/// Listings until everything must be gone.
const ROUNDS: usize = 10;

/// Removes the cluster. `agree` is shown the list and says whether to go on. `None`: there is nothing.
pub async fn down(cluster: &Cluster, agree: impl FnOnce(&[Resource]) -> Result<bool>) -> Result<Option<Receipt>> {
    let _lock = Lock::take(&cluster.inventory)?;
    let observed = cluster.provider.observe().await?;
    let Some(uuid) = observed.uuid else {
        return Ok(None);
    };
    let all = cluster.provider.list(&uuid).await?;
    if all.is_empty() {
        return Ok(None);
    }
    if !agree(&all)? {
        return Err(Error::failed("that is not the cluster's name; nothing was removed"));
    }
    let mut last = String::new();
    let mut left = all.clone();
    for round in 0..ROUNDS {
        for kind in ORDER {
            let these = left.iter().filter(|r| r.kind == kind);
            for result in join_all(these.map(|r| cluster.provider.remove(r))).await {
                if let Err(e) = result {
                    last = e.message;
                }
            }
        }
        left = cluster.provider.list(&uuid).await?;
        if left.is_empty() {
            keys::forget(&uuid)?;
            keys::forget_intent(&cluster.inventory.cluster)?;
            return Ok(Some(Receipt { cluster: cluster.inventory.cluster.clone(), uuid, removed: all, left }));
        }
        tokio::time::sleep(Duration::from_millis(200 * (round as u64 + 1))).await;
    }
    let names: Vec<String> = left.iter().map(|r| format!("{} {}", r.kind, r.name)).collect();
    Err(Error::failed(format!("not everything is gone: {}: {last}", names.join(", "))).hint("run `septet down` again"))
}
