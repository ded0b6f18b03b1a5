//! What is looked at before the first thing is made: everything that would fail later is better lines now.
//!
//! Invariant: nothing is made. Permissions are tried by dry runs.

use std::collections::BTreeMap;

use septet_ec2::{ApiError, Launch, NewVolume};

use super::{
    Ec2,
    policy::{CLOCK_HINT, MAX_SKEW_S, explain, skewed},
};
use crate::{
    address::parse_cidr,
    engine::bundle::{Architecture, Bundles},
    error::{Error, Result},
    identity::ClusterId,
    inventory::{Group, HostId},
    observed::{Observed, Place},
    plan::Step,
    provider::{Check, Verdict},
    ssh::keys,
    state,
};

/// vCPUs of running on-demand standard instances.
const STANDARD_QUOTA: &str = "L-1216C47A";

fn check(name: &'static str, verdict: Verdict, finding: impl Into<String>) -> Check {
    Check { name, verdict, finding: finding.into(), hint: None }
}

fn failed(name: &'static str, e: Error) -> Check {
    Check { name, verdict: Verdict::Fail, finding: e.message, hint: e.hint }
}

/// A host that is to get another type.
struct Roll<'a> {
    id: HostId,
    name: &'a str,
    to: &'a str,
}

/// How a dry run came out: it must have been refused just because it was one.
fn dry(name: &'static str, action: &str, result: std::result::Result<(), ApiError>) -> Check {
    match result {
        Ok(()) => check(name, Verdict::Warn, format!("{action}: the dry run was not recognised as one")),
        Err(e) if e.is_dry_run() => check(name, Verdict::Pass, format!("{action} is allowed")),
        // What a dry run stumbles over beside the permission is found by other checks, with better words.
        Err(e) if !e.is_unauthorized() => check(name, Verdict::Warn, format!("{action} could not be tried: {e}")),
        Err(e) => failed(name, explain(&format!("{action} is refused"), e)),
    }
}

/// Whether the cluster's login key can be read, or kept once it is made.
fn check_key(observed: &Observed) -> Check {
    let found = || {
        if let Some(uuid) = observed.uuid
            && state::has_key(uuid)?
        {
            keys::cluster_key(uuid)?;
            return Ok(check("key", Verdict::Pass, "the cluster's key is here"));
        }
        let dir = state::path()?;
        state::State::open()?;
        tempfile::tempfile_in(&dir).map_err(|e| {
            Error::failed(format!("nothing can be written into {}: {e}", dir.display())).hint("set XDG_STATE_HOME to a directory of yours")
        })?;
        Ok(check("key", Verdict::Pass, format!("one will be made and kept in {}", dir.display())))
    };
    found().unwrap_or_else(|e: Error| failed("key", e))
}

impl Ec2 {
    /// All checks, as far as they make sense.
    pub(super) async fn preflight_now(&self, observed: &Observed, steps: &[Step]) -> Result<Vec<Check>> {
        let client = self.client().await?;
        let new: Vec<HostId> = steps
            .iter()
            .filter_map(|s| match s {
                Step::Create { id, .. } | Step::Replace { id, .. } => Some(*id),
                _ => None,
            })
            .collect();
        let mut out = Vec::new();
        match client.identity().await {
            Ok(who) => out.push(check("credentials", Verdict::Pass, format!("{} of account {}", who.arn, who.account))),
            Err(e) => {
                out.push(failed("credentials", explain("they are not accepted", e)));
                return Ok(out);
            }
        }
        match self.regular_zones().await {
            Ok(zones) if zones.is_empty() => out.push(check("region", Verdict::Fail, format!("{} has no zones", client.region()))),
            Ok(zones) => out.push(check("region", Verdict::Pass, format!("{}: {}", client.region(), zones.join(", ")))),
            Err(e) => {
                out.push(failed("region", e.context(format!("{} cannot be used", client.region()))));
                return Ok(out);
            }
        }
        out.push(self.check_clock(client.stats().clock_skew_s));
        out.push(check_key(observed));
        let rolls: Vec<Roll<'_>> = steps
            .iter()
            .filter_map(|s| match s {
                Step::Resize { id, name, to, .. } => Some(Roll { id: *id, name, to }),
                _ => None,
            })
            .collect();
        let wanted: Vec<HostId> = new.iter().copied().chain(rolls.iter().map(|r| r.id)).collect();
        out.push(self.check_types(&wanted).await);
        out.extend(self.check_rolls(&rolls).await);
        out.push(self.check_images(&new).await);
        let (network, subnet) = self.check_network(observed).await;
        out.push(network);
        out.push(self.check_quota(&new).await);
        if let Some(subnet) = subnet {
            out.extend(self.check_permissions(observed, &new, &subnet).await);
        }
        out.extend(self.check_openness().await);
        Ok(out)
    }

    fn check_clock(&self, skew_s: Option<i64>) -> Check {
        match skew_s {
            None => check("clock", Verdict::Warn, "EC2 did not say what time it is"),
            Some(s) if s.abs() > MAX_SKEW_S => Check { hint: Some(CLOCK_HINT.into()), ..check("clock", Verdict::Fail, skewed(s)) },
            Some(s) if s.abs() > 30 => check("clock", Verdict::Warn, format!("this machine's clock differs by {s} s from EC2's")),
            Some(_) => check("clock", Verdict::Pass, "agrees with EC2's"),
        }
    }

    async fn check_types(&self, wanted: &[HostId]) -> Check {
        let groups: std::collections::BTreeSet<Group> = wanted.iter().map(|h| h.group).collect();
        let name = "instance types";
        let found = async {
            let bundles = Bundles::find()?;
            let mut lines = Vec::new();
            for group in groups {
                for (i, t) in self.settings.types(group).iter().enumerate() {
                    let info = self.type_infos().await?.iter().find(|x| x.name == *t).cloned();
                    let Some(info) = info else { continue };
                    let architecture = info.architectures.iter().find_map(|a| Architecture::parse(a));
                    let architecture = architecture.ok_or_else(|| {
                        Error::failed(format!("{t} is for {}, which Septet has no programs for", info.architectures.join(", ")))
                    })?;
                    // Nothing is made for hosts that nothing could be put on.
                    bundles.of(architecture).map_err(|e| e.context(format!("{t} is for {architecture}")))?;
                    crate::engine::fits(&self.engine, group.role(), info.memory_mib).map_err(|e| e.context(t))?;
                    if i == 0 {
                        lines.push(format!("{group}: {t} ({} vCPU, {} MiB, {architecture})", info.vcpus, info.memory_mib));
                    }
                }
            }
            let zones = self.zones_with_types().await?;
            if zones.is_empty() {
                return Err(Error::failed("no zone has all of the wanted instance types").hint("choose types that one zone has together"));
            }
            Ok::<_, Error>(format!("{}; offered in {}", lines.join(", "), zones.join(", ")))
        };
        match found.await {
            Ok(text) => check(name, Verdict::Pass, text),
            Err(e) => failed(name, e),
        }
    }

    /// Hosts that cannot get the type that is planned for them: nothing of it is begun then.
    async fn check_rolls(&self, rolls: &[Roll<'_>]) -> Option<Check> {
        let infos = self.type_infos().await.map(Vec::as_slice).unwrap_or_default();
        let why = |roll: &Roll<'_>| {
            let seen = self.seen();
            let instance = seen.instances.get(&roll.id)?;
            let who = format!("{} ({})", roll.name, instance.id);
            if instance.spot {
                return Some(format!("{who} is a spot instance, which cannot be stopped"));
            }
            let info = infos.iter().find(|t| t.name == roll.to)?;
            let other = !info.architectures.contains(&instance.architecture);
            other.then(|| format!("{who} is for {}, a {} for {}", instance.architecture, roll.to, info.architectures.join(", ")))
        };
        let wrong: Vec<String> = rolls.iter().filter_map(why).collect();
        (!wrong.is_empty()).then(|| Check {
            hint: Some(
                "terminate such hosts one at a time, each followed by `septet up`: it makes the host again, as what is wanted now, with \
                 the data of its volume"
                    .into(),
            ),
            ..check("another type", Verdict::Fail, wrong.join("; "))
        })
    }

    async fn check_images(&self, new: &[HostId]) -> Check {
        let found = async {
            let mut lines = std::collections::BTreeSet::new();
            for id in new {
                let architecture = self.architecture(id.group).await?;
                let image = self.image(architecture).await?;
                if let Some(size) = self.settings.root_volume.size.filter(|s| *s < image.root_size) {
                    return Err(Error::failed(format!(
                        "the image needs a system volume of {} GiB, `root_volume` says {size}",
                        image.root_size
                    ))
                    .hint("leave its `size` out, or make it at least that"));
                }
                let deprecated = image.deprecated.as_ref().map(|d| format!(", deprecated from {d} on")).unwrap_or_default();
                lines.insert(format!("{} ({}, {}{deprecated})", image.id, image.name, image.architecture));
            }
            Ok::<_, Error>(lines.into_iter().collect::<Vec<_>>().join(", "))
        };
        match found.await {
            Ok(text) => check("image", Verdict::Pass, text),
            Err(e) => failed("image", e),
        }
    }

    /// Whether there is room for the hosts; and a subnet for dry runs.
    async fn check_network(&self, observed: &Observed) -> (Check, Option<String>) {
        if let Some(Place::Zones(layout)) = observed.network.as_ref().map(|n| &n.place) {
            let subnet = layout.subnets.first().map(|s| s.id.clone());
            return (check("network", Verdict::Pass, "the cluster has one"), subnet);
        }
        // Before the network is made: its zones stay.
        let has_data = |zones: &[String]| match observed.kept.values().find(|k| !zones.contains(&k.zone)) {
            Some(kept) => {
                Err(Error::failed(format!("data that was kept lies in zone {}, where the cluster would have no subnet", kept.zone))
                    .hint("add that zone to `zones`, or move the volume with a snapshot"))
            }
            None => Ok(()),
        };
        let found = async {
            let Some(vpc) = self.vpc().await? else {
                let zones = self.own_zones().await?;
                has_data(&zones)?;
                return Ok::<_, Error>((format!("a VPC of the cluster's own will be made, with subnets in {}", zones.join(", ")), None));
            };
            let subnets = self.subnets(&vpc).await?;
            let layout = self.find_layout(&subnets, &self.cluster).await?;
            has_data(&layout.subnets.iter().map(|s| s.zone.clone()).collect::<Vec<_>>())?;
            let zones: Vec<String> = layout.subnets.iter().map(|s| format!("{} ({})", s.zone, s.id)).collect();
            Ok((format!("{vpc}: {}", zones.join(", ")), layout.subnets.first().map(|s| s.id.clone())))
        };
        match found.await {
            Ok((text, subnet)) => (check("network", Verdict::Pass, text), subnet),
            Err(e) => (failed("network", e), None),
        }
    }

    async fn check_quota(&self, new: &[HostId]) -> Check {
        let name = "vCPU quota";
        if self.settings.spot {
            return check(name, Verdict::Warn, "spot instances have quotas of their own, which are not checked");
        }
        let Ok(client) = self.client().await else { return check(name, Verdict::Warn, "not checked") };
        let Ok(types) = self.type_infos().await else { return check(name, Verdict::Warn, "not checked: the types are not known") };
        let of = |t: &str| types.iter().find(|x| x.name == t).map_or(0, |x| x.vcpus);
        let needed: i32 = new.iter().filter_map(|h| self.settings.types(h.group).first()).map(|t| of(t)).sum();
        match client.quota(STANDARD_QUOTA).await {
            Ok(quota) if f64::from(needed) > quota => Check {
                hint: Some("choose smaller types, or ask for more under Service Quotas, `Running On-Demand Standard instances`".into()),
                ..check(name, Verdict::Fail, format!("{needed} vCPUs are needed, the account may run {quota}"))
            },
            Ok(quota) => check(name, Verdict::Pass, format!("{needed} vCPUs are needed, the account may run {quota} in all")),
            Err(e) if e.is_unauthorized() => check(name, Verdict::Warn, "it may not be read with these credentials"),
            Err(e) => check(name, Verdict::Warn, format!("it could not be read: {e}")),
        }
    }

    async fn check_permissions(&self, observed: &Observed, new: &[HostId], subnet: &str) -> Vec<Check> {
        let name = "permissions";
        let Ok(client) = self.client().await else { return Vec::new() };
        let mut out = Vec::new();
        let uuid = observed.uuid.unwrap_or_else(ClusterId::nil);
        if let Some(id) = new.first() {
            let launch = async {
                let image = self.image(self.architecture(id.group).await?).await?;
                let host_tags = self.host_tags(uuid, "dry run", *id);
                let root = NewVolume {
                    device: image.root_device.clone(),
                    size: None,
                    kind: "gp3".into(),
                    iops: None,
                    throughput: None,
                    encrypted: self.settings.root_volume.encrypted,
                    kms_key: self.settings.root_volume.kms_key.clone(),
                    delete_on_termination: true,
                };
                Ok::<_, Error>(Launch {
                    token: uuid::Uuid::new_v4().to_string(),
                    image: image.id,
                    instance_type: self.settings.types(id.group).first().cloned().unwrap_or_default(),
                    subnet: subnet.to_owned(),
                    private_ip: None,
                    public_ip: self.wants_public(id.role()),
                    groups: self.seen().groups.first().map(|g| g.id.clone()).into_iter().collect(),
                    key_name: None,
                    user_data: String::new(),
                    volumes: vec![root],
                    spot: self.settings.spot,
                    ends: self.ttl.is_some(),
                    volume_tags: host_tags.clone(),
                    tags: host_tags,
                })
            };
            if let Ok(launch) = launch.await {
                let result = client.run_instance(&launch, true).await.map(drop);
                // Before the cluster has groups EC2 takes the default one, which the policy need not allow.
                let others =
                    matches!(&result, Err(e) if e.is_unauthorized() && launch.groups.is_empty() && e.message.contains(":security-group/"));
                out.push(if others {
                    check(name, Verdict::Pass, "RunInstances is allowed as far as it can be tried")
                } else {
                    dry(name, "RunInstances", result)
                });
            }
        }
        if observed.network.is_none() {
            let tags: BTreeMap<String, String> = self.common_tags(uuid, "dry run");
            if let Ok(Some(vpc)) = self.vpc().await {
                let made = client.create_group("septet-dry-run", "dry run", &vpc, &tags, true).await.map(drop);
                out.push(dry(name, "CreateSecurityGroup", made));
            }
            if let Ok(key) = keys::new_host_key("dry run") {
                let made = client.import_key("septet-dry-run", &key.public, &tags, true).await.map(drop);
                out.push(dry(name, "ImportKeyPair", made));
            }
        }
        // One line for what is allowed.
        let (good, bad): (Vec<Check>, Vec<Check>) = out.into_iter().partition(|c| c.verdict == Verdict::Pass);
        let mut out = bad;
        if !good.is_empty() {
            let list: Vec<&str> = good.iter().map(|c| c.finding.split(' ').next().unwrap_or_default()).collect();
            out.push(check(name, Verdict::Pass, format!("{} are allowed", list.join(", "))));
        }
        out
    }

    /// What is open that need not be.
    async fn check_openness(&self) -> Vec<Check> {
        let mut out = Vec::new();
        let wide = |list: &[String]| list.iter().any(|c| parse_cidr(c).is_some_and(|(_, bits)| bits < 8));
        match self.ssh_from().await {
            Err(e) => out.push(failed("ssh", e)),
            Ok(list) if wide(&list) => {
                out.push(check("ssh", Verdict::Warn, format!("the control host's port 22 is open to {}", list.join(", "))));
            }
            Ok(list) => out.push(check("ssh", Verdict::Pass, format!("the control host's port 22 is open to {}", list.join(", ")))),
        }
        if wide(&self.settings.external_from) {
            out.push(check(
                "openness",
                Verdict::Warn,
                "the brokers' external listener is open to nearly everybody, and asks for no password",
            ));
        }
        out
    }
}
