//! What exists of a cluster: its instances, its security groups, and volumes without a host.

use std::{collections::BTreeMap, time::Duration};

use septet_ec2::{Client, Instance, InstanceState, filter, tag_filter};
use tokio::time::Instant;

use super::{
    Ec2, Seen, locked,
    policy::{explain, explain_first},
    tags,
};
use crate::{
    engine::bundle::Architecture,
    error::{Error, Result},
    identity::ClusterId,
    inventory::HostId,
    observed::{Adjustment, HostState, KeptVolume, Observed, ObservedHost, ObservedNetwork, Place},
    provider::{
        Expired, expired, identity,
        marks::{Marks, shown_name},
    },
};

/// Device name of the data volume in the launch request.
pub const DATA_DEVICE: &str = "/dev/sdf";
/// States of instances that are looked at: those that exist, and those that hold what the next one needs until they have ended.
const SEEN: [&str; 5] = ["pending", "running", "stopping", "stopped", "shutting-down"];
/// States of instances that exist.
pub(super) const ALIVE: [&str; 4] = ["pending", "running", "stopping", "stopped"];
/// How long instances may take to run.
const RUN_TIMEOUT: Duration = Duration::from_secs(300);
/// What is behind an instance that ends at once.
const KEY_HINT: &str = "most often these credentials may not use the KMS key of a volume: docs/ec2.md has the statement for `kms_key`";
/// What to do about two clusters of one name.
const TWO_HINT: &str = "give one of them another name, or remove what carries its tag `septet:cluster`";
/// How long EC2 may take to show by its tags what it shows by its id.
const LISTED_TIMEOUT: Duration = Duration::from_secs(60);

fn host(id: HostId, i: &Instance, marks: Marks) -> Option<ObservedHost> {
    Some(ObservedHost {
        id,
        reference: i.id.clone(),
        name: shown_name(i.tags.get(tags::DISPLAY).map(String::as_str).unwrap_or_default(), &i.id).into(),
        state: match i.state {
            InstanceState::Pending | InstanceState::Running => HostState::Running,
            _ => HostState::Stopped,
        },
        address: i.private_ip.as_deref()?.parse().ok()?,
        public: i.public_ip.as_deref().and_then(|a| a.parse().ok()),
        host_key: marks.host_key.map(String::from).unwrap_or_default(),
        published: BTreeMap::new(),
        architecture: Architecture::parse(&i.architecture),
        size: Some(i.instance_type.clone()),
        data_volume: i.volumes.get(DATA_DEVICE).cloned(),
        data_is_new: !i.tags.contains_key(tags::FORMATTED),
    })
}

impl Ec2 {
    /// One look. Volumes are looked for only where a host is missing.
    pub(super) async fn observe_now(&self) -> Result<Observed> {
        let client = self.client().await?;
        let ours = tag_filter(tags::NAME, &self.cluster);
        let by = [ours.clone(), filter("instance-state-name", &SEEN)];
        let only = [ours.clone()];
        let (instances, groups) = tokio::join!(client.instances(&by), client.groups(&only));
        let skew_s = client.stats().clock_skew_s;
        let mut instances = instances.map_err(|e| explain_first("cannot list instances", e, skew_s))?;
        let mut groups = groups.map_err(|e| explain_first("cannot list security groups", e, skew_s))?;
        // What carries no cluster's UUID is not ours, whatever else is written on it.
        instances.retain(|i| tags::marks(&i.tags).is_some());
        groups.retain(|g| tags::marks(&g.tags).is_some());
        // The oldest is the host; a second one in its place was never meant to be.
        instances.sort_by(|a, b| (a.launched, &a.id).cmp(&(b.launched, &b.id)));
        let mut observed = Observed::default();
        let mut seen = Seen { instances: BTreeMap::new(), groups, leaving: BTreeMap::new() };
        let mut uuids: Vec<ClusterId> = Vec::new();
        let all = instances.iter().map(|i| &i.tags).chain(seen.groups.iter().map(|g| &g.tags));
        observed.engine = all.filter_map(tags::marks).find_map(|m| m.engine).map(String::from);
        for i in instances {
            let Some(marks) = tags::marks(&i.tags) else { continue };
            uuids.push(marks.cluster);
            let Some(id) = marks.host else { continue };
            if i.state == InstanceState::ShuttingDown {
                seen.leaving.entry(id).or_default().push(i.id);
                continue;
            }
            if seen.instances.contains_key(&id) {
                observed.adjustments.push(Adjustment::Surplus { name: self.name_of(id), reference: i.id });
                continue;
            }
            observed.hosts.extend(host(id, &i, marks));
            seen.instances.insert(id, i);
        }
        uuids.extend(seen.groups.iter().filter_map(|g| tags::marks(&g.tags)).map(|m| m.cluster));
        // Hosts that lack their data: those that are not there, and those whose volume was not attached any more.
        let lacks = |id: &HostId| match seen.instances.get(id) {
            None => true,
            Some(i) => self.data_volume(id.role()).is_some() && !i.volumes.contains_key(DATA_DEVICE),
        };
        // A volume that came with another instance is known by its own tag only.
        let unsure = observed.hosts.iter().any(|h| h.data_volume.is_some() && h.data_is_new);
        if unsure || self.hosts.iter().any(|h| lacks(&h.id)) {
            let mut volumes = client.volumes(&only).await.map_err(|e| explain("cannot list volumes", e))?;
            // Of two that could be a host's, the one with a file system is its data.
            volumes.sort_by_key(|v| !v.tags.contains_key(tags::FORMATTED));
            for v in volumes {
                let Some(marks) = tags::marks(&v.tags) else { continue };
                if let Some(host) = observed.hosts.iter_mut().find(|h| h.data_volume.as_ref() == Some(&v.id)) {
                    host.data_is_new &= !v.tags.contains_key(tags::FORMATTED);
                }
                let of = v.attached.as_ref().map(|(instance, device)| (instance, device.as_str()));
                let leaves = |id: &HostId| matches!(of, Some((i, DATA_DEVICE)) if seen.leaving.get(id).is_some_and(|l| l.contains(i)));
                let id = marks.host;
                // One that leaves leaves its data behind, unless that goes with it.
                if v.state != "available" && (v.ends_with_instance || !id.as_ref().is_some_and(leaves)) {
                    continue;
                }
                uuids.push(marks.cluster);
                observed.engine = observed.engine.take().or_else(|| marks.engine.map(String::from));
                if let Some(id) = id.filter(lacks) {
                    observed.kept.entry(id).or_insert(KeptVolume { reference: v.id, zone: v.zone });
                }
            }
        }
        if uuids.is_empty() {
            uuids = self.leftover_uuids(client).await?;
        }
        observed.uuid = identity(&self.cluster, uuids.into_iter(), TWO_HINT)?;
        observed.hosts.sort_by_key(|h| h.id);
        let hosts_group = super::rules::find(&seen.groups, super::rules::Kind::Hosts);
        observed.network = hosts_group.and_then(|g| {
            let layout = tags::read_layout(&g.tags)?;
            Some(ObservedNetwork { reference: g.id.clone(), place: Place::Zones(layout) })
        });
        *self.seen() = seen;
        Ok(observed)
    }

    /// Identities of what is made first and removed last: a run that was killed may have left nothing else.
    async fn leftover_uuids(&self, client: &Client) -> Result<Vec<ClusterId>> {
        let by = [tag_filter(tags::NAME, &self.cluster)];
        let (keys, subnets, tables, gateways, vpcs) =
            tokio::join!(client.key_pairs(&by), client.subnets(&by), client.route_tables(&by), client.gateways(&by), client.vpcs(&by));
        let fail = |e| explain("cannot list what is left of the cluster", e);
        let all = keys.map_err(fail)?.into_iter().map(|k| k.tags);
        let all = all.chain(subnets.map_err(fail)?.into_iter().map(|s| s.tags));
        let all = all.chain(tables.map_err(fail)?.into_iter().map(|t| t.tags));
        let all = all.chain(gateways.map_err(fail)?.into_iter().map(|g| g.tags));
        let all = all.chain(vpcs.map_err(fail)?.into_iter().map(|v| v.tags));
        // The lock has a tag of this name too, and no UUID in it: it is no part of the cluster.
        Ok(all.filter_map(|t| tags::marks(&t)).map(|m| m.cluster).collect())
    }

    /// Waits until what this process launched or started runs, and is found by its tags too.
    pub(super) async fn settle_now(&self) -> Result<Observed> {
        let made: Vec<String> = locked(&self.made).iter().cloned().collect();
        if !made.is_empty() {
            let running = self.client().await?.wait_for(&made, InstanceState::Running, RUN_TIMEOUT).await;
            running.map_err(|e| {
                let key = e.message.contains("Client.InternalError");
                let hint = if key { KEY_HINT } else { "`septet up` resumes from here" };
                explain("instances do not come up", e).hint(hint)
            })?;
        }
        let until = Instant::now() + LISTED_TIMEOUT;
        loop {
            let observed = self.observe_now().await?;
            // Their volumes too: what is not listed would be taken for not there.
            let with_data = locked(&self.with_data).clone();
            let whole = |h: &ObservedHost| h.state == HostState::Running && (h.data_volume.is_some() || !with_data.contains(&h.reference));
            let listed = made.iter().all(|id| observed.hosts.iter().any(|h| h.reference == *id && whole(h)));
            if listed {
                locked(&self.made).clear();
                if let Some(uuid) = observed.uuid {
                    for h in &observed.hosts {
                        super::launch::forget_intent(uuid, h.id)?;
                    }
                }
                return Ok(observed);
            }
            if Instant::now() > until {
                return Err(
                    Error::failed("instances that were launched are not listed under the cluster's tags").hint("run `septet up` again")
                );
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }

    /// Writes down that these hosts' volumes have file systems: on the volumes, which may come to other instances, and on the instances,
    /// which are looked at anyway.
    pub(super) async fn note_formatted_now(&self, hosts: &[ObservedHost]) -> Result<()> {
        let with = |h: &ObservedHost| Some([h.reference.clone(), h.data_volume.clone()?]);
        let ids: Vec<String> = hosts.iter().filter_map(with).flatten().collect();
        if ids.is_empty() {
            return Ok(());
        }
        let tags = BTreeMap::from([(tags::FORMATTED.to_owned(), "yes".to_owned())]);
        let noted = self.client().await?.set_tags(&ids, &tags).await;
        noted.map_err(|e| explain("cannot note which data volumes have file systems", e))
    }

    /// Differences from the inventory that can be fixed in place.
    pub(super) async fn adjustments_now(&self, observed: &Observed) -> Result<Vec<Adjustment>> {
        // A second instance in a host's place was seen while looking.
        let mut out: Vec<Adjustment> = observed.adjustments.clone();
        if observed.network.is_none() {
            return Ok(out);
        }
        out.extend(self.rule_adjustments().await?);
        out.extend(self.data_adjustments());
        let mut retag: BTreeMap<BTreeMap<String, String>, (Vec<String>, Vec<String>)> = BTreeMap::new();
        let seen = self.seen();
        let things = seen.instances.values().map(|i| (&i.tags, i.id.clone(), i.volumes.values().cloned().collect::<Vec<_>>()));
        let things = things.chain(seen.groups.iter().map(|g| (&g.tags, g.id.clone(), Vec::new())));
        for (is, id, more) in things {
            let missing = self.missing_tags(is);
            if !missing.is_empty() {
                let entry = retag.entry(missing).or_default();
                entry.0.push(is.get(tags::DISPLAY).cloned().unwrap_or_else(|| id.clone()));
                entry.1.push(id);
                entry.1.extend(more);
            }
        }
        out.extend(retag.into_iter().map(|(tags, (names, ids))| Adjustment::Tags { name: names.join(", "), ids, tags }));
        Ok(out)
    }

    /// Expired clusters, of any name.
    pub(super) async fn expired_now(&self, now: u64) -> Result<Vec<Expired>> {
        let client = self.client().await?;
        let by = [filter("tag-key", &[tags::EXPIRES])];
        let alive = [by[0].clone(), filter("instance-state-name", &ALIVE)];
        let (instances, volumes, groups) = tokio::join!(client.instances(&alive), client.volumes(&by), client.groups(&by));
        let doing = "cannot list expired clusters";
        let all = instances.map_err(|e| explain(doing, e))?.into_iter().map(|i| i.tags);
        let all = all.chain(volumes.map_err(|e| explain(doing, e))?.into_iter().map(|v| v.tags));
        let all = all.chain(groups.map_err(|e| explain(doing, e))?.into_iter().map(|g| g.tags));
        Ok(expired(all.filter_map(|t| tags::marks(&t)), now))
    }
}
