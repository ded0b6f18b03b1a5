//! Instances: launched once whatever happens, started, given another type, another login key, another name.
//!
//! Invariant: the token of a launch is on disk before the call. Who comes after a run that was killed asks with the same token,
//! and gets the instance that the first call made, if it made one.

use std::{collections::BTreeMap, time::Duration};

use septet_ec2::{ApiError, Client, Instance, InstanceState, Launch, NewVolume, filter};
use serde::{Deserialize, Serialize};

use super::{
    Ec2,
    image::other_volumes,
    locked,
    observe::DATA_DEVICE,
    policy::explain,
    rules::{self, Kind},
    tags, user_data,
};
use crate::{
    engine::bundle::Architecture,
    error::{Error, Result},
    identity::ClusterId,
    inventory::{Group, HostId, Role, VolumeSettings},
    observed::{
        ObservedHost, ObservedNetwork, Place,
        layout::{Layout, ZoneSubnet},
    },
    provider::Site,
    ssh::keys,
    state::State,
};

/// How long a stop, a start or an attachment may take.
pub(super) const CHANGE_TIMEOUT: Duration = Duration::from_secs(300);
/// How long an instance may take to end.
const END_TIMEOUT: Duration = Duration::from_secs(600);
/// How long a volume may take to be free, or attached.
const ATTACH_TIMEOUT: Duration = Duration::from_secs(90);
/// How long what was made a moment ago may be unknown to the next call.
const KNOWN_TIMEOUT: Duration = Duration::from_secs(30);
/// How long an address of a host that has ended may count as in use.
const ADDRESS_TIMEOUT: Duration = Duration::from_secs(45);
/// How long to wait for an instance to be listed after a launch with an unknown outcome.
const SIGHT_TIMEOUT: Duration = Duration::from_secs(20);

/// What was about to be launched, written down before the call.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Intent {
    token: String,
    subnet: String,
    instance_type: String,
    host_key_private: String,
    host_key_public: String,
}

fn intent_file(id: HostId) -> String {
    format!("launch-{id}.json")
}

/// The intent of a run that was killed, if there is one.
fn read_intent(uuid: ClusterId, id: HostId) -> Result<Option<Intent>> {
    let text = State::cluster(uuid)?.read(&intent_file(id))?;
    Ok(text.and_then(|t| serde_json::from_str(&t).ok()))
}

/// Forgets what was intended, once the instance is listed.
pub fn forget_intent(uuid: ClusterId, id: HostId) -> Result<()> {
    State::cluster(uuid)?.remove(&intent_file(id))
}

fn new_token() -> String {
    uuid::Uuid::new_v4().to_string()
}

fn volume(device: &str, v: &VolumeSettings, delete: bool) -> NewVolume {
    NewVolume {
        device: device.to_owned(),
        size: v.size,
        kind: "gp3".into(),
        iops: v.iops,
        throughput: v.throughput,
        encrypted: v.encrypted,
        kms_key: v.kms_key.clone(),
        delete_on_termination: delete,
    }
}

fn is_dead(i: &Instance) -> bool {
    matches!(i.state, InstanceState::ShuttingDown | InstanceState::Terminated)
}

/// Where and as what a host may be launched, in the order in which it is tried.
fn attempts<'a>(types: &'a [String], layout: &'a Layout, id: HostId, zone: Option<&str>) -> Vec<(&'a String, &'a ZoneSubnet)> {
    let subnets: Vec<&ZoneSubnet> = layout.preference(id).into_iter().filter(|s| zone.is_none_or(|z| s.zone == z)).collect();
    types.iter().flat_map(|t| subnets.iter().map(move |s| (t, *s))).collect()
}

impl Ec2 {
    /// The architecture of a group's wanted type.
    pub(super) async fn architecture(&self, group: Group) -> Result<Architecture> {
        let wanted = self.settings.types(group).first().cloned().unwrap_or_default();
        self.architecture_of(&wanted).await
    }

    async fn architecture_of(&self, instance_type: &str) -> Result<Architecture> {
        let types = self.type_infos().await?;
        let info = types.iter().find(|t| t.name == instance_type);
        let found = info.and_then(|t| t.architectures.iter().find_map(|a| Architecture::parse(a)));
        found.ok_or_else(|| {
            Error::failed(format!("instance type {instance_type} is not known here")).hint("check `instance_type` and `region`")
        })
    }

    /// Launches a host: the wanted type in its zone, then in the other zones, then the alternatives.
    pub(super) async fn create(
        &self,
        id: HostId,
        name: &str,
        network: &ObservedNetwork,
        site: &Site<'_>,
        say: &(dyn Fn(String) + Send + Sync),
    ) -> Result<()> {
        let Place::Zones(layout) = &network.place else {
            return Err(Error::failed(format!("{name}: not an EC2 network")));
        };
        let client = self.client().await?;
        let doing = format!("cannot launch {name}");
        let mut kept = site.observed.kept.get(&id);
        let types = self.settings.types(id.group);
        let mut tries = attempts(types, layout, id, kept.map(|k| k.zone.as_str()));
        if tries.is_empty() {
            let zone = kept.map(|k| k.zone.clone()).unwrap_or_default();
            return Err(Error::failed(format!("{doing}: its data lies in zone {zone}, where the cluster has no subnet"))
                .hint("`septet down --keep-data`, add that zone to `zones`, then `septet up`; or move the volume with a snapshot"));
        }
        // Its predecessor has its address and its data until it has ended.
        let leaving = self.seen().leaving.get(&id).cloned().unwrap_or_default();
        if !leaving.is_empty() {
            say(format!("   {name}: waiting until {} has ended", leaving.join(", ")));
            let ended = self.waiting(client.wait_for(&leaving, InstanceState::Terminated, END_TIMEOUT)).await;
            ended.map_err(|e| explain(&doing, e))?;
            if let Some(k) = kept.filter(|_| self.data_volume(id.role()).is_some()) {
                // What became of its data is known for sure only now.
                let by = [filter("volume-id", &[&k.reference])];
                let there = client.volumes(&by).await.map_err(|e| explain(&doing, e))?;
                if !there.iter().any(|v| v.state == "available" || v.state == "in-use") {
                    say(format!("   {name}: {} went with its instance; {name} gets a new volume", k.reference));
                    kept = None;
                }
            }
        }
        let mut intent = read_intent(site.uuid, id)?;
        if let Some(i) = &intent {
            // What a killed run began with goes first: the same call again launches nothing new.
            tries.sort_by_key(|(t, s)| !(**t == i.instance_type && s.id == i.subnet));
        }
        let mut last: Option<ApiError> = None;
        for (number, (instance_type, subnet)) in tries.iter().enumerate() {
            let before = intent.take().filter(|i| **instance_type == i.instance_type && i.subnet == subnet.id);
            let attempt = Attempt { id, name, instance_type, subnet, layout, with_data: kept.is_none() };
            match self.launch(client, &attempt, before, site, say).await {
                Ok(made) => {
                    locked(&self.made).insert(made.id.clone());
                    if self.data_volume(id.role()).is_some() {
                        locked(&self.with_data).insert(made.id.clone());
                    }
                    return match kept {
                        Some(k) => self.attach(client, &made.id, &k.reference, name).await,
                        None => Ok(()),
                    };
                }
                Err(e) if e.is_capacity() => {
                    let next = tries.get(number + 1);
                    let then = next.map_or("nothing is left to try".into(), |(t, s)| format!("trying {t} in {}", s.zone));
                    say(format!("   {name}: no room for {instance_type} in {} ({}); {then}", subnet.zone, e.code));
                    last = Some(e);
                }
                Err(e) => return Err(explain(&doing, e)),
            }
        }
        let zones: Vec<&str> = layout.subnets.iter().map(|s| s.zone.as_str()).collect();
        let e = last.map_or_else(|| Error::failed(doing.clone()), |e| explain(&doing, e));
        Err(e.hint(format!(
            "none of {} has room for {}: list alternatives, as `instance_type: [{}, m5.large]`, or try later; `septet up` resumes from here",
            zones.join(", "),
            types.join(", "),
            types.first().cloned().unwrap_or_default()
        )))
    }

    async fn launch(
        &self,
        client: &Client,
        a: &Attempt<'_>,
        before: Option<Intent>,
        site: &Site<'_>,
        say: &(dyn Fn(String) + Send + Sync),
    ) -> std::result::Result<Instance, ApiError> {
        let broken = |e: Error| ApiError { action: "RunInstances", code: "Client".into(), status: 0, message: e.message };
        let mut intent = match before {
            Some(intent) => {
                // Perhaps it is there already.
                let by = [filter("client-token", &[&intent.token])];
                if let Some(there) = client.instances(&by).await?.into_iter().find(|i| !is_dead(i)) {
                    return Ok(there);
                }
                intent
            }
            None => self.new_intent(a, site).map_err(broken)?,
        };
        let mut address = a.layout.address_in(a.subnet, a.id).map(|a| a.to_string());
        let (known_by, free_by) = (tokio::time::Instant::now() + KNOWN_TIMEOUT, tokio::time::Instant::now() + ADDRESS_TIMEOUT);
        let mut turns = 0;
        // Each turn is another launch: with another token, or without an address that is in use.
        while turns < 4 {
            turns += 1;
            let launch = self.request(a, &intent, address.clone(), site).await.map_err(broken)?;
            match client.run_instance(&launch, false).await {
                Ok(made) if !is_dead(&made) => return Ok(made),
                // The token is that of a launch whose instance has ended since.
                Ok(_) => intent = self.new_intent(a, site).map_err(broken)?,
                Err(e) if e.code == "IdempotentInstanceTerminated" => intent = self.new_intent(a, site).map_err(broken)?,
                Err(e) if e.code == "IdempotentParameterMismatch" => {
                    // A run before this one launched it otherwise: it counts, as soon as it is listed.
                    if let Some(there) = find_launched(client, &intent.token).await? {
                        return Ok(there);
                    }
                    intent = self.new_intent(a, site).map_err(broken)?;
                }
                Err(e) if e.code == "InvalidIPAddress.InUse" && address.is_some() => {
                    let wanted = address.clone().unwrap_or_default();
                    // The interface of an instance that has ended may still be there for a while.
                    if tokio::time::Instant::now() < free_by && !is_taken(client, a.subnet, &wanted, site.uuid).await? {
                        turns -= 1;
                        self.waiting(tokio::time::sleep(Duration::from_secs(1))).await;
                        continue;
                    }
                    say(format!("   {}: address {wanted} is in use; choosing another", a.name));
                    address = None;
                    intent = self.new_intent(a, site).map_err(broken)?;
                }
                // Groups and key were made a moment ago.
                Err(e) if e.is_not_found() && tokio::time::Instant::now() < known_by => {
                    turns -= 1;
                    self.waiting(tokio::time::sleep(Duration::from_millis(500))).await;
                }
                Err(e) => {
                    if e.is_ambiguous()
                        && let Some(there) = find_launched(client, &intent.token).await?
                    {
                        return Ok(there);
                    }
                    return Err(e);
                }
            }
        }
        Err(ApiError { action: "RunInstances", code: "Client".into(), status: 0, message: "every launch ended at once".into() })
    }

    fn new_intent(&self, a: &Attempt<'_>, site: &Site<'_>) -> Result<Intent> {
        let host_key = keys::new_host_key(&format!("{} of {}", a.id, site.uuid))?;
        let intent = Intent {
            token: new_token(),
            subnet: a.subnet.id.clone(),
            instance_type: a.instance_type.to_owned(),
            host_key_private: host_key.private,
            host_key_public: host_key.public,
        };
        let text = serde_json::to_string(&intent).map_err(|e| Error::failed(e.to_string()))?;
        State::cluster(site.uuid)?.write(&intent_file(a.id), &text)?;
        Ok(intent)
    }

    async fn request(&self, a: &Attempt<'_>, intent: &Intent, private_ip: Option<String>, site: &Site<'_>) -> Result<Launch> {
        let role = a.id.role();
        let image = self.image(self.architecture_of(a.instance_type).await?).await?;
        let mut volumes = Vec::new();
        if !image.root_device.is_empty() {
            volumes.push(volume(&image.root_device, &self.settings.root_volume, true));
        }
        volumes.extend(other_volumes(&image));
        if let Some(data) = self.data_volume(role).filter(|_| a.with_data) {
            volumes.push(volume(DATA_DEVICE, data, self.data_ends()));
        }
        let groups = self.seen().groups.clone();
        let groups = Kind::of_role(role).iter().rev().filter_map(|k| rules::find(&groups, *k)).map(|g| g.id.clone()).collect();
        let host_key = keys::HostKey { private: intent.host_key_private.clone(), public: intent.host_key_public.clone() };
        let mut tags = self.host_tags(site.uuid, a.name, a.id);
        let volume_tags = tags.clone();
        tags.insert(tags::HOST_KEY.into(), host_key.public.split_whitespace().take(2).collect::<Vec<_>>().join(" "));
        Ok(Launch {
            token: intent.token.clone(),
            image: image.id,
            instance_type: a.instance_type.to_owned(),
            subnet: a.subnet.id.clone(),
            private_ip,
            public_ip: self.wants_public(role),
            groups,
            key_name: Some(self.key_name(site.uuid)),
            user_data: user_data::render(&host_key, site.public_key, self.end()),
            volumes,
            spot: self.settings.spot,
            // Of one whose inventory lost its `ttl`, too: its end stands, and an instance that only stopped would cost on.
            ends: self.end().is_some(),
            tags,
            volume_tags,
        })
    }

    /// The volume of its own that a role's data lies on.
    pub(super) fn data_volume(&self, role: Role) -> Option<&VolumeSettings> {
        self.settings.volume.as_ref().filter(|_| role.serves())
    }

    /// Gives a host the volume with its data.
    pub(super) async fn attach(&self, client: &Client, instance: &str, kept: &str, name: &str) -> Result<()> {
        let doing = format!("cannot attach {kept} to {name}");
        let ids = [instance.to_owned()];
        self.waiting(client.wait_for(&ids, InstanceState::Running, CHANGE_TIMEOUT)).await.map_err(|e| explain(&doing, e))?;
        let until = tokio::time::Instant::now() + ATTACH_TIMEOUT;
        let pause = || self.waiting(tokio::time::sleep(Duration::from_millis(500)));
        loop {
            let e = match client.attach_volume(kept, instance, DATA_DEVICE).await {
                Ok(()) => break,
                Err(e) => e,
            };
            // An answer that was lost, and the same call again; or an instance that has just ended and still has it.
            if e.code != "VolumeInUse" && e.code != "IncorrectState" {
                return Err(explain(&doing, e));
            }
            let volumes = client.volumes(&[filter("volume-id", &[kept])]).await.map_err(|e| explain(&doing, e))?;
            if volumes.first().and_then(|v| v.attached.as_ref()).is_some_and(|(i, _)| i == instance) {
                break;
            }
            if tokio::time::Instant::now() > until {
                return Err(explain(&doing, e));
            }
            pause().await;
        }
        // What is put on the host depends on it: it must be listed.
        while !client.instances_by_id(&ids).await.map_err(|e| explain(&doing, e))?.iter().any(|i| i.volumes.values().any(|v| v == kept)) {
            if tokio::time::Instant::now() > until {
                return Err(Error::failed(format!("{doing}: it is not listed as attached")).hint("run `septet up` again"));
            }
            pause().await;
        }
        if self.data_ends() {
            client.delete_on_termination(instance, DATA_DEVICE, true).await.map_err(|e| explain(&doing, e))?;
        }
        Ok(())
    }

    pub(super) fn reference(&self, id: HostId, name: &str) -> Result<String> {
        let seen = self.seen().instances.get(&id).map(|i| i.id.clone());
        seen.ok_or_else(|| Error::failed(format!("{name} no longer exists")).hint("run `septet up` again"))
    }

    /// Starts a stopped host; one that is still stopping is waited for.
    pub(super) async fn start(&self, id: HostId, name: &str) -> Result<()> {
        let client = self.client().await?;
        let reference = self.reference(id, name)?;
        let doing = format!("cannot start {name}");
        self.bring_end(client, &reference).await.map_err(|e| explain(&doing, e))?;
        match client.start_instance(&reference).await {
            Err(e) if e.code == "IncorrectInstanceState" => {
                let ids = [reference.clone()];
                self.waiting(client.wait_for(&ids, InstanceState::Stopped, CHANGE_TIMEOUT)).await.map_err(|e| explain(&doing, e))?;
                client.start_instance(&reference).await.map_err(|e| explain(&doing, e))?;
            }
            other => other.map_err(|e| explain(&doing, e))?,
        }
        locked(&self.made).insert(reference);
        Ok(())
    }

    async fn stopped(&self, client: &Client, reference: &str) -> std::result::Result<(), ApiError> {
        let ids = [reference.to_owned()];
        let now = client.instances_by_id(&ids).await?.into_iter().next().map(|i| i.state);
        if matches!(now, Some(InstanceState::Pending | InstanceState::Running)) {
            client.stop_instance(reference).await?;
        }
        client.wait_for(&ids, InstanceState::Stopped, CHANGE_TIMEOUT).await.map(drop)
    }

    /// Gives a host another instance type: stopped, changed, started. It is started again also where it cannot be changed.
    pub(super) async fn resize(&self, id: HostId, name: &str, to: &str) -> Result<()> {
        let client = self.client().await?;
        let reference = self.reference(id, name)?;
        let doing = format!("cannot make {name} a {to}");
        self.stopped(client, &reference).await.map_err(|e| explain(&doing, e))?;
        let changed = client.modify_type(&reference, to).await;
        let started = match client.start_instance(&reference).await {
            Err(e) if e.is_capacity() && changed.is_ok() => {
                Err(explain(&doing, e).hint(format!("{name} is stopped: choose another `instance_type`, and run `septet up` again")))
            }
            other => other.map_err(|e| explain(&doing, e)),
        };
        changed.map_err(|e| explain(&doing, e))?;
        started?;
        locked(&self.made).insert(reference);
        Ok(())
    }

    /// Plants another login key: it stands in the user data, which can be changed while the instance is stopped, and which is
    /// obeyed at every boot.
    pub(super) async fn plant(&self, host: &ObservedHost, public_key: &str) -> Result<()> {
        let client = self.client().await?;
        let doing = format!("cannot plant a login key on {}", host.name);
        let fail = |e| explain(&doing, e);
        let text = client.user_data(&host.reference).await.map_err(fail)?;
        if self.seen().instances.get(&host.id).is_some_and(|i| i.spot) {
            return Err(Error::failed(format!("{doing}: a spot instance cannot be stopped, and so its user data cannot be changed"))
                .hint(format!("terminate {}; {}", host.reference, self.made_again())));
        }
        let new = user_data::with_key(&text, public_key).ok_or_else(|| {
            Error::failed(format!("{doing}: its user data is not Septet's")).hint(format!("terminate the instance; {}", self.made_again()))
        })?;
        self.stopped(client, &host.reference).await.map_err(fail)?;
        let new = self.end().and_then(|end| user_data::with_end(&new, end)).unwrap_or(new);
        if new != text {
            client.modify_user_data(&host.reference, &new).await.map_err(fail)?;
        }
        client.start_instance(&host.reference).await.map_err(fail)?;
        locked(&self.made).insert(host.reference.clone());
        Ok(())
    }

    /// The name by which the console knows a host, its volumes and its network interface.
    pub(super) async fn rename(&self, id: HostId, to: &str) -> Result<()> {
        let instance = self.seen().instances.get(&id).cloned();
        let Some(instance) = instance else { return Ok(()) };
        let mut ids = vec![instance.id.clone()];
        ids.extend(instance.volumes.values().cloned());
        ids.extend(instance.interfaces.iter().cloned());
        let client = self.client().await?;
        let doing = format!("cannot rename {to}");
        let prefix = (tags::PREFIX.to_owned(), self.prefix.clone());
        // What is the whole cluster's goes with the control host.
        let groups: Vec<String> = self.seen().groups.iter().map(|g| g.id.clone()).collect();
        if id.role() == Role::Control && !groups.is_empty() {
            client.set_tags(&groups, &BTreeMap::from([prefix.clone()])).await.map_err(|e| explain(&doing, e))?;
        }
        let tags = BTreeMap::from([(tags::DISPLAY.to_owned(), to.to_owned()), prefix]);
        client.set_tags(&ids, &tags).await.map_err(|e| explain(&doing, e))
    }
}

/// One way to launch a host.
struct Attempt<'a> {
    id: HostId,
    name: &'a str,
    instance_type: &'a str,
    subnet: &'a ZoneSubnet,
    layout: &'a Layout,
    /// whether its data volume comes with it; otherwise there is one already
    with_data: bool,
}

/// Whether an interface that is not the cluster's has an address.
async fn is_taken(client: &Client, subnet: &ZoneSubnet, address: &str, uuid: ClusterId) -> std::result::Result<bool, ApiError> {
    let by = [filter("subnet-id", &[&subnet.id]), filter("addresses.private-ip-address", &[address])];
    let found = client.interfaces(&by).await?;
    Ok(found.iter().any(|i| tags::marks(&i.tags).is_none_or(|m| m.cluster != uuid)))
}

/// Waits for an instance to be listed by its token.
async fn find_launched(client: &Client, token: &str) -> std::result::Result<Option<Instance>, ApiError> {
    let until = tokio::time::Instant::now() + SIGHT_TIMEOUT;
    loop {
        let found = client.instances(&[filter("client-token", &[token])]).await?;
        if let Some(i) = found.into_iter().next() {
            return Ok(Some(i).filter(|i| !is_dead(i)));
        }
        if tokio::time::Instant::now() > until {
            return Ok(None);
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn other_zones_come_before_other_types_and_data_pins_the_zone() {
        let subnets = ["a", "b"].map(|z| ZoneSubnet::parse(&format!("s-{z}"), z, "10.0.0.0/24").unwrap()).to_vec();
        let layout = Layout { subnets, base: 4 };
        let types = ["big".to_owned(), "small".to_owned()];
        let id = HostId { group: Group::BROKERS, index: 2 };
        let shown = |zone| attempts(&types, &layout, id, zone).iter().map(|(t, s)| format!("{t}@{}", s.zone)).collect::<Vec<_>>();
        assert_eq!(shown(None), ["big@b", "big@a", "small@b", "small@a"]);
        assert_eq!(shown(Some("a")), ["big@a", "small@a"]);
        assert!(shown(Some("z")).is_empty());
    }
}
