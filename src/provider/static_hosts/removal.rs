//! What Septet installed on hosts that exist: listed, and removed with proof.
//!
//! Invariant: what was there before the host became the cluster's is not listed, and so never removed.

use std::collections::BTreeMap;

use super::{KEPT, OWNER, Owner, StaticHosts, scripts};
use crate::{
    error::{Error, Result},
    identity::ClusterId,
    inventory::HostId,
    observed::Resource,
    ssh::all,
};

/// Services stop before what they run is removed; the owner's file goes last, so that a removal that was cut off goes on.
pub(super) const ORDER: [&str; 8] = ["service", "names", "program", "configuration", "account", "state", "data", "owner"];

/// Between a host's target and what is on it, in a resource's id.
const SEPARATOR: char = ' ';

impl StaticHosts {
    /// What a host has of the cluster of this identity.
    async fn list_one(&self, id: HostId, owner: &Owner, is_kept: bool) -> Result<Vec<Resource>> {
        let text = self.run(id, scripts::LIST, &["", &owner.data(&self.data).join(" ")]).await?;
        if !text.lines().any(|l| l == "end") {
            return Err(Error::failed(format!("{}: the list of what is installed is incomplete", owner.host)));
        }
        let there = text.lines().filter(|l| *l != "end" && owner.owns(l, &self.data));
        let resource = |line: &str| {
            let (kind, what) = line.split_once(' ')?;
            let kind = ORDER.into_iter().find(|k| *k == kind)?;
            Some(Resource { kind, name: format!("{}: {what}", owner.host), id: format!("{id}{SEPARATOR}{what}"), data: kind == "data" })
        };
        let mut out: Vec<Resource> = there.filter_map(resource).collect();
        if is_kept {
            // Of a cluster that was removed only data counts.
            out.retain(|r| r.data);
        }
        if !is_kept || !out.is_empty() {
            let mark = if is_kept { KEPT } else { OWNER };
            out.push(Resource {
                kind: "owner",
                name: format!("{}: {mark}", owner.host),
                id: format!("{id}{SEPARATOR}{mark}"),
                data: is_kept,
            });
        }
        Ok(out)
    }

    pub(super) async fn list_now(&self, uuid: ClusterId) -> Result<Vec<Resource>> {
        let mut asks = Vec::new();
        for (wanted, probe) in self.look_for_removal().await? {
            let ours = |o: &Owner| o.cluster.parse().ok() == Some(uuid) && self.cluster == o.name;
            if let Some(owner) = probe.owner.filter(ours) {
                asks.push((wanted.id, owner, false));
            } else if let Some(kept) = probe.kept.filter(ours) {
                asks.push((wanted.id, kept, true));
            }
        }
        let lists = all(self.at_once, asks.iter().map(|(id, owner, kept)| self.list_one(*id, owner, *kept))).await;
        let mut out: Vec<Resource> = lists.into_iter().collect::<Result<Vec<_>>>()?.into_iter().flatten().collect();
        out.sort_by(|a, b| (&a.id, &a.name).cmp(&(&b.id, &b.name)));
        Ok(out)
    }

    pub(super) async fn remove_now(&self, resources: &[Resource]) -> Result<()> {
        let mut by_host: BTreeMap<HostId, Vec<(&'static str, &str)>> = BTreeMap::new();
        for r in resources {
            let (host, what) = r.id.split_once(SEPARATOR).ok_or_else(|| Error::failed(format!("{}: not a host's", r.id)))?;
            let wanted = self.wanted.iter().find(|w| w.id.to_string() == host);
            let id = wanted.ok_or_else(|| Error::failed(format!("{host} is not in the inventory")))?.id;
            by_host.entry(id).or_default().push((r.kind, what));
        }
        all(self.at_once, by_host.into_iter().map(|(id, things)| self.remove_on(id, things))).await.into_iter().collect()
    }

    async fn remove_on(&self, id: HostId, things: Vec<(&'static str, &str)>) -> Result<()> {
        for (kind, what) in things {
            let owner = self.seen(id).and_then(|s| s.probe.owner);
            if kind == "owner" {
                self.release(id, owner).await?;
                continue;
            }
            let before = owner.map(|o| o.hostname_before).unwrap_or_default();
            self.run(id, scripts::REMOVE, &[kind, what, &before]).await?;
        }
        Ok(())
    }

    /// Takes the owner's file away; where data is left, a mark says whose it is.
    async fn release(&self, id: HostId, owner: Option<Owner>) -> Result<()> {
        let paths = owner.as_ref().map(|o| o.data(&self.data)).unwrap_or_default();
        let left = self.run(id, scripts::LIST, &["", &paths.join(" ")]).await?;
        let has_data = owner.as_ref().is_some_and(|o| left.lines().any(|l| l.starts_with("data ") && o.owns(l, &self.data)));
        match owner.filter(|_| has_data) {
            Some(owner) => {
                let text = serde_json::to_string(&owner).map_err(|e| Error::failed(e.to_string()))?;
                self.run(id, scripts::REWRITE, &[KEPT, &text]).await?;
                self.run(id, "rm -f -- \"$1\"", &[OWNER]).await.map(drop)
            }
            None => self.run(id, "rm -f -- \"$1\" \"$2\"; rmdir \"$(dirname \"$1\")\" 2>/dev/null || :", &[OWNER, KEPT]).await.map(drop),
        }
    }
}
