//! The network that hosts are put into: a VPC (the account's, a named one or ours), one subnet a zone, a row of addresses in
//! them, the security groups themselves, and the key pair; `rules.rs` has what they let in.
//!
//! Invariant: the group `hosts` is made before the first host, in one call with the tags that say where the row of addresses
//! lies; the group identifies the network.

use futures_util::future::{BoxFuture, join_all};
use std::{net::Ipv4Addr, time::Duration};

use septet_ec2::{ApiError, Client, Group, InstanceState, Subnet, Tags, filter, tag_filter};
use sha2::{Digest, Sha256};

use super::{
    Ec2,
    observe::DATA_DEVICE,
    policy::explain,
    rules::{self, Kind},
    tags,
};
use crate::{
    address::parse_cidr,
    error::{Error, Result},
    identity::ClusterId,
    inventory::{HostId, VpcChoice},
    observed::{
        Adjustment, ObservedNetwork, Place,
        layout::{Layout, ZoneSubnet},
    },
    provider::Site,
};

/// How often one looks for what was made, half a second apart.
const LISTED_TRIES: u32 = 60;
/// How long what was made a moment ago may be unknown to the next call.
const KNOWN_TIMEOUT: Duration = Duration::from_secs(30);
/// Zones for which a VPC of ours gets a subnet.
const OWN_ZONES: usize = 4;

/// Makes something that has no client token, once: looks first, unless its name is one that EC2 gives only once, and looks again
/// after an ambiguous answer.
async fn once<'a, T>(
    find: impl Fn() -> BoxFuture<'a, std::result::Result<Option<T>, ApiError>> + Send,
    make: impl Fn() -> BoxFuture<'a, std::result::Result<T, ApiError>> + Send,
    unique: bool,
) -> std::result::Result<T, ApiError> {
    if !unique && let Some(found) = find().await? {
        return Ok(found);
    }
    let mut attempt = 0u32;
    loop {
        attempt += 1;
        let e = match make().await {
            Ok(made) => return Ok(made),
            Err(e) => e,
        };
        let there = e.is_ambiguous() || e.is_duplicate() || e.code == "InvalidSubnet.Conflict";
        if attempt >= 5 || !(there || e.is_transient()) {
            return Err(e);
        }
        // What was made a moment ago may not be listed yet.
        for _ in 0..if there { 5 } else { 1 } {
            tokio::time::sleep(Duration::from_millis(400 * u64::from(attempt))).await;
            if let Some(found) = find().await? {
                return Ok(found);
            }
        }
    }
}

/// Repeats a call that names what was made a moment ago: it may not be known everywhere yet.
pub(super) async fn when_known<'a, T>(
    call: impl Fn() -> BoxFuture<'a, std::result::Result<T, ApiError>> + Send,
) -> std::result::Result<T, ApiError> {
    let until = tokio::time::Instant::now() + KNOWN_TIMEOUT;
    loop {
        match call().await {
            Err(e) if e.is_not_found() && tokio::time::Instant::now() < until => tokio::time::sleep(Duration::from_millis(500)).await,
            other => return other,
        }
    }
}

impl Ec2 {
    /// Mends one difference.
    pub(super) async fn adjust(&self, what: &Adjustment) -> Result<()> {
        let client = self.client().await?;
        match what {
            Adjustment::Openings { group, name, add, remove } => self.adjust_openings(group, name, add, remove).await,
            Adjustment::Membership { name, ids, .. } => self.adjust_membership(name, ids).await,
            Adjustment::Tags { name, ids, tags } => {
                client.set_tags(ids, tags).await.map_err(|e| explain(&format!("cannot set tags of {name}"), e))
            }
            // Once the hosts' timers are set: see `Lease::timers_are_set`.
            Adjustment::DataEnds { ends: true, .. } => Ok(()),
            Adjustment::DataEnds { name, ids, .. } => {
                let all = join_all(ids.iter().map(|id| client.delete_on_termination(id, DATA_DEVICE, false))).await;
                let done: std::result::Result<(), _> = all.into_iter().collect();
                done.map_err(|e| explain(&format!("cannot say what becomes of the data of {name}"), e))
            }
            // Volumes have their places for data: nothing is written on hosts.
            Adjustment::Data { .. } => Ok(()),
            Adjustment::Surplus { name, reference } => {
                let ids = [reference.clone()];
                let doing = format!("cannot terminate {reference}, a second {name}");
                let fail = |e| explain(&doing, e);
                let data = client.instances_by_id(&ids).await.map_err(fail)?.into_iter().find_map(|i| i.volumes.get(DATA_DEVICE).cloned());
                self.spare_data(client, &ids).await.map_err(fail)?;
                client.terminate_instances(&ids).await.map_err(fail)?;
                client.wait_for(&ids, InstanceState::Terminated, Duration::from_secs(300)).await.map_err(fail)?;
                // The volume that came with it was never used: it would be taken for the host's data one day.
                let Some(data) = data else { return Ok(()) };
                let found = client.volumes(&[filter("volume-id", &[&data])]).await.map_err(fail)?;
                match found.first() {
                    Some(v) if !v.tags.contains_key(tags::FORMATTED) && v.tags.contains_key(tags::CLUSTER) => {
                        client.delete_volume(&data).await.or_else(|e| if e.is_not_found() { Ok(()) } else { Err(fail(e)) })
                    }
                    _ => Ok(()),
                }
            }
        }
    }

    /// The VPC that a new cluster goes into; `None` for one of its own.
    pub(super) async fn vpc(&self) -> Result<Option<String>> {
        let by = match &self.settings.vpc {
            VpcChoice::New { .. } => return Ok(None),
            VpcChoice::Default => filter("is-default", &["true"]),
            VpcChoice::Id(id) => filter("vpc-id", &[id]),
        };
        let found = self.client().await?.vpcs(&[by]).await.map_err(|e| explain("cannot list VPCs", e))?;
        match (found.into_iter().next(), &self.settings.vpc) {
            (Some(vpc), _) => Ok(Some(vpc.id)),
            (None, VpcChoice::Id(id)) => {
                Err(Error::failed(format!("there is no VPC {id} in this region")).hint("check `vpc` and `region`"))
            }
            (None, _) => Err(Error::failed("this account has no default VPC in this region")
                .hint("write `vpc: new` below `ec2:` to have one made for the cluster, or name one")),
        }
    }

    /// Subnets that hosts can be put into: one a zone, in zones that have the wanted types.
    pub(super) async fn subnets(&self, vpc: &str) -> Result<Vec<Subnet>> {
        let s = &self.settings;
        let mut all = self.client().await?.subnets(&[filter("vpc-id", &[vpc])]).await.map_err(|e| explain("cannot list subnets", e))?;
        if let Some(missing) = s.subnets.iter().find(|id| !all.iter().any(|a| a.id == **id)) {
            return Err(Error::failed(format!("there is no subnet {missing} in {vpc}")).hint("check `subnets` and `vpc`"));
        }
        all.retain(|a| match (s.subnets.is_empty(), &s.vpc) {
            (false, _) => s.subnets.contains(&a.id),
            (true, VpcChoice::Default) => a.default_for_zone,
            (true, _) => true,
        });
        if let Some(missing) = s.zones.iter().find(|z| !all.iter().any(|a| a.zone == **z)) {
            return Err(Error::failed(format!("{vpc} has no subnet in zone {missing}")).hint("check `zones` and `subnets`"));
        }
        all.retain(|a| s.zones.is_empty() || s.zones.contains(&a.zone));
        self.only_public(vpc, &mut all).await?;
        let offered = self.zones_with_types().await?;
        all.retain(|a| offered.contains(&a.zone));
        if s.subnets.is_empty() && s.zones.is_empty() {
            // Subnets in Local and Wavelength Zones are used only where they are named.
            let regular = self.regular_zones().await?;
            all.retain(|a| regular.contains(&a.zone));
        }
        if all.is_empty() {
            return Err(Error::failed(format!("no zone with a subnet of {vpc} has all of the wanted instance types"))
                .hint("choose other instance types, zones or subnets"));
        }
        // One a zone, the one with most room; then zones by name.
        all.sort_by(|a, b| (&a.zone, b.free_addresses, &a.id).cmp(&(&b.zone, a.free_addresses, &b.id)));
        all.dedup_by(|b, a| a.zone == b.zone);
        all.truncate(tags::MAX_ZONES);
        Ok(all)
    }

    /// A row of free addresses in subnets.
    pub(super) async fn find_layout(&self, subnets: &[Subnet], seed: &str) -> Result<Layout> {
        let ids: Vec<&str> = subnets.iter().map(|s| s.id.as_str()).collect();
        let client = self.client().await?;
        let interfaces = client.interfaces(&[filter("subnet-id", &ids)]).await.map_err(|e| explain("cannot list addresses in use", e))?;
        let taken: Vec<Ipv4Addr> = interfaces.iter().flat_map(|i| &i.addresses).filter_map(|a| a.parse().ok()).collect();
        let places: Option<Vec<ZoneSubnet>> = subnets.iter().map(|s| ZoneSubnet::parse(&s.id, &s.zone, &s.cidr)).collect();
        let wanted: Vec<HostId> = self.hosts.iter().map(|h| h.id).collect();
        places.and_then(|p| Layout::find(p, &wanted, &taken, seed)).ok_or_else(|| {
            Error::failed(format!("the subnets {} have no row of free addresses for {} hosts", ids.join(", "), wanted.len()))
                .hint("choose larger or emptier subnets, or write `vpc: new`")
        })
    }

    /// Makes sure of everything that hosts need around them.
    pub(super) async fn make_network(&self, site: &Site<'_>) -> Result<ObservedNetwork> {
        let client = self.client().await?;
        let seen = self.seen().groups.clone();
        let (vpc, layout) = match site.observed.network.as_ref().map(|n| &n.place) {
            Some(Place::Zones(layout)) => (seen.first().map(|g| g.vpc.clone()).unwrap_or_default(), layout.clone()),
            _ => {
                let (vpc, subnets) = match self.vpc().await? {
                    Some(id) => (id.clone(), self.subnets(&id).await?),
                    None => self.own_vpc(client, site.uuid).await?,
                };
                let layout = self.find_layout(&subnets, &site.uuid.to_string()).await?;
                (vpc, layout)
            }
        };
        if !site.public_key.is_empty() {
            self.key_pair(client, site).await?;
        }
        let mut groups = Vec::new();
        // `hosts` first: its tags hold the layout of addresses.
        for kind in self.kinds().into_iter().rev() {
            groups.push(self.group(client, site.uuid, &vpc, kind, &layout).await?);
        }
        // Steps of the plan mend rules of groups that were there, after their hosts are members of new ones; hosts that are made now
        // need what is to be open.
        if groups.iter().any(|group| !seen.iter().any(|s| s.id == group.id)) {
            self.open_all(client, &groups).await?;
        }
        let reference = groups.first().map(|g| g.id.clone()).unwrap_or_default();
        self.seen().groups = groups;
        Ok(ObservedNetwork { reference, place: Place::Zones(layout) })
    }

    /// Name of one of the cluster's security groups.
    pub(super) fn group_name(&self, uuid: ClusterId, kind: Kind) -> String {
        format!("septet-{}-{}-{}", self.cluster, uuid.short(), kind.name())
    }

    async fn group(&self, client: &Client, uuid: ClusterId, vpc: &str, kind: Kind, layout: &Layout) -> Result<Group> {
        let known = rules::find(&self.seen().groups, kind).cloned();
        if let Some(group) = known {
            return Ok(group);
        }
        let name = self.group_name(uuid, kind);
        let about = format!("{} of cluster {}, made by Septet", kind.name(), self.cluster);
        let mut tags = self.common_tags(uuid, &name);
        tags.insert(tags::GROUP.into(), kind.name().to_owned());
        if kind == Kind::Hosts {
            tags::write_layout(layout, &mut tags);
        }
        let by = [tag_filter(tags::CLUSTER, &uuid.to_string()), tag_filter(tags::GROUP, kind.name())];
        let made = once(
            || Box::pin(async { Ok(client.groups(&by).await?.into_iter().next()) }),
            || {
                Box::pin(async {
                    let id = when_known(|| Box::pin(client.create_group(&name, &about, vpc, &tags, false))).await?;
                    Ok(Group { id, name: name.clone(), vpc: vpc.to_owned(), rules: Vec::new(), tags: tags.clone() })
                })
            },
            true,
        );
        made.await.map_err(|e| explain(&format!("cannot make security group {name}"), e))
    }

    /// The cluster's public key under a name of its own; another key under that name is one of a lost state directory.
    async fn key_pair(&self, client: &Client, site: &Site<'_>) -> Result<()> {
        let name = self.key_name(site.uuid);
        let print = hex::encode(&Sha256::digest(site.public_key.as_bytes())[..16]);
        let doing = format!("cannot import the key pair {name}");
        let by = [tag_filter(tags::CLUSTER, &site.uuid.to_string())];
        let find = || async { Ok(client.key_pairs(&by).await?.into_iter().find(|k| k.name == name)) };
        let found = find().await.map_err(|e: ApiError| explain(&doing, e))?;
        if let Some(old) = found {
            if old.tags.get("septet:key") == Some(&print) {
                return Ok(());
            }
            client.delete_key(&old.id).await.map_err(|e| explain(&doing, e))?;
        }
        let mut tags = self.common_tags(site.uuid, &name);
        tags.insert("septet:key".into(), print);
        let made = once(
            || Box::pin(async { Ok(find().await?.map(|k| k.id)) }),
            || Box::pin(client.import_key(&name, site.public_key, &tags, false)),
            true,
        );
        made.await.map(drop).map_err(|e| explain(&doing, e))
    }

    /// Name of the cluster's key pair.
    pub(super) fn key_name(&self, uuid: ClusterId) -> String {
        format!("septet-{}-{}", self.cluster, uuid.short())
    }

    /// A VPC of the cluster's own with a way to the internet and a subnet a zone.
    async fn own_vpc(&self, client: &Client, uuid: ClusterId) -> Result<(String, Vec<Subnet>)> {
        let VpcChoice::New { cidr } = &self.settings.vpc else {
            return Err(Error::failed("no VPC of its own is wanted"));
        };
        let name = format!("septet-{}", self.cluster);
        let tags = self.common_tags(uuid, &name);
        let by = [tag_filter(tags::CLUSTER, &uuid.to_string())];
        let doing = |what: &str| {
            let what = format!("cannot make {what}");
            move |e| explain(&what, e)
        };
        let vpc = once(
            || Box::pin(async { Ok(client.vpcs(&by).await?.into_iter().next().map(|v| v.id)) }),
            || Box::pin(client.create_vpc(cidr, &tags)),
            false,
        );
        let vpc = vpc.await.map_err(doing("the VPC"))?;
        let gateway = once(
            || Box::pin(async { Ok(client.gateways(&by).await?.into_iter().next().map(|g| g.id)) }),
            || Box::pin(client.create_gateway(&tags)),
            false,
        );
        let gateway = gateway.await.map_err(doing("the internet gateway"))?;
        when_known(|| Box::pin(client.attach_gateway(&gateway, &vpc))).await.map_err(doing("the route to the internet"))?;
        let zones = self.own_zones().await?;
        let (network, bits) = parse_cidr(cidr).ok_or_else(|| Error::failed(format!("`{cidr}` is not a network")))?;
        // Four subnets: a quarter each.
        let size = 1u32 << (32 - u32::from(bits) - 2);
        for (i, zone) in zones.iter().enumerate() {
            let part = format!("{}/{}", Ipv4Addr::from(u32::from(network) + size * i as u32), bits + 2);
            let tags = self.common_tags(uuid, &format!("{name}-{zone}"));
            let made = once(
                || Box::pin(async { Ok(client.subnets(&by).await?.into_iter().find(|s| s.zone == *zone).map(|s| s.id)) }),
                || Box::pin(when_known(|| Box::pin(client.create_subnet(&vpc, &part, zone, &tags)))),
                false,
            );
            made.await.map_err(doing(&format!("the subnet in {zone}")))?;
        }
        // What was made a moment ago may not be listed yet.
        for _ in 0..LISTED_TRIES {
            let listed = client.subnets(&by).await.map_err(doing("the subnets"))?;
            if zones.iter().all(|z| listed.iter().any(|s| s.zone == *z)) {
                self.default_route(client, uuid, &vpc, &gateway, &listed, &tags).await.map_err(doing("the route to the internet"))?;
                return Ok((vpc.clone(), self.subnets(&vpc).await?));
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        Err(Error::failed("the subnets that were made are not listed").hint("run `septet up` again"))
    }

    /// Zones for which a VPC of the cluster's own gets a subnet. Local and Wavelength Zones are not among them: volumes, addresses and
    /// gateways are different there.
    pub(super) async fn own_zones(&self) -> Result<Vec<String>> {
        let (with_types, regular) = (self.zones_with_types().await?, self.regular_zones().await?);
        let mut zones: Vec<String> = with_types.into_iter().filter(|z| regular.contains(z)).collect();
        if let Some(missing) = self.settings.zones.iter().find(|z| !zones.contains(z)) {
            let known = regular.contains(missing);
            let why = if known { "does not have all of the wanted instance types" } else { "is not an Availability Zone of this region" };
            return Err(Error::failed(format!("{missing} {why}")).hint(format!("`vpc: new` can use {}", zones.join(", "))));
        }
        zones.retain(|z| self.settings.zones.is_empty() || self.settings.zones.contains(z));
        zones.truncate(OWN_ZONES);
        if zones.is_empty() {
            return Err(Error::failed("no zone has all of the wanted instance types").hint("choose types that one zone has together"));
        }
        Ok(zones)
    }

    /// The region's Availability Zones, without Local and Wavelength Zones.
    pub(super) async fn regular_zones(&self) -> Result<&Vec<String>> {
        self.zones
            .get_or_try_init(|| async { self.client().await?.zones().await.map_err(|e| explain("cannot list the region's zones", e)) })
            .await
    }

    /// A table of routes of the cluster's own for its subnets. The VPC's main table carries no tag, so that a policy could not tell it
    /// from those of others.
    async fn default_route(
        &self,
        client: &Client,
        uuid: ClusterId,
        vpc: &str,
        gateway: &str,
        subnets: &[Subnet],
        tags: &Tags,
    ) -> std::result::Result<(), ApiError> {
        let by = [filter("vpc-id", &[vpc]), tag_filter(tags::CLUSTER, &uuid.to_string())];
        let table = once(
            || Box::pin(async { Ok(client.route_tables(&by).await?.into_iter().next().map(|t| t.id)) }),
            || Box::pin(when_known(|| Box::pin(client.create_route_table(vpc, tags)))),
            false,
        );
        let table = table.await?;
        when_known(|| Box::pin(client.route_out(&table, gateway))).await?;
        for subnet in subnets {
            when_known(|| Box::pin(client.associate_route_table(&table, &subnet.id))).await?;
        }
        Ok(())
    }

    /// Refuses subnets of others' VPCs that no way leads to from the internet, where the hosts are to be reached from there; where none
    /// is named, they are left out.
    async fn only_public(&self, vpc: &str, all: &mut Vec<Subnet>) -> Result<()> {
        let named = !self.settings.subnets.is_empty();
        let ours = matches!(self.settings.vpc, VpcChoice::New { .. });
        let default = matches!(self.settings.vpc, VpcChoice::Default) && !named;
        if ours || default || !self.groups().iter().any(|g| self.wants_public(g.role())) {
            return Ok(());
        }
        let tables = self.client().await?.route_tables(&[filter("vpc-id", &[vpc])]).await;
        let tables = tables.map_err(|e| explain("cannot list route tables", e))?;
        let is_public = |s: &Subnet| {
            let own = tables.iter().find(|t| t.subnets.contains(&s.id));
            own.or_else(|| tables.iter().find(|t| t.main)).is_some_and(|t| t.leads_out)
        };
        let private: Vec<String> = all.iter().filter(|s| !is_public(s)).map(|s| s.id.clone()).collect();
        if private.is_empty() || (!named && private.len() < all.len()) {
            all.retain(is_public);
            return Ok(());
        }
        Err(Error::failed(format!("{} of {vpc} have no route to an internet gateway: hosts there cannot be reached from outside", private.join(", ")))
            .hint("name public ones in `subnets`, or write `connect: private` and run septet where it reaches the VPC, with `public_addresses: none`"))
    }

    /// Zones that have, for each group, the wanted type or one of its alternatives.
    pub(super) async fn zones_with_types(&self) -> Result<Vec<String>> {
        let mut types: Vec<String> = self.groups().iter().flat_map(|g| self.settings.types(*g).iter().cloned()).collect();
        types.sort();
        types.dedup();
        let offered =
            self.client().await?.offerings(&types).await.map_err(|e| explain("cannot ask which zones have the instance types", e))?;
        let has = |zone: &str, t: &String| offered.iter().any(|o| o.zone == zone && o.instance_type == *t);
        let mut zones: Vec<String> = offered.iter().map(|o| o.zone.clone()).collect();
        zones.sort();
        zones.dedup();
        zones.retain(|z| self.groups().iter().all(|g| self.settings.types(*g).iter().any(|t| has(z, t))));
        Ok(zones)
    }
}
