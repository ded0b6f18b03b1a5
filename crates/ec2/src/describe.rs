//! What exists. These calls change nothing and may be repeated at will.

use std::collections::{BTreeMap, BTreeSet};

use aws_sdk_ec2::types as sdk;

use crate::{
    ApiError, Client, Filter, Gateway, Group, Image, Instance, InstanceState, Interface, KeyPair, RouteTable, Rule, RuleSource, Subnet,
    Tags, Volume, Vpc,
};

/// Things of one kind that are taken from one answer, at the most: what does not end is an error.
const MAX_ITEMS: usize = 20_000;

pub(crate) fn tags(list: Option<Vec<sdk::Tag>>) -> Tags {
    list.unwrap_or_default().into_iter().filter_map(|t| Some((t.key?, t.value.unwrap_or_default()))).collect()
}

pub(crate) fn filters(list: &[Filter]) -> Option<Vec<sdk::Filter>> {
    let made = list.iter().map(|(name, values)| sdk::Filter::builder().name(name).set_values(Some(values.clone())).build());
    (!list.is_empty()).then(|| made.collect())
}

fn state(s: Option<sdk::InstanceState>) -> InstanceState {
    match s.and_then(|s| s.name) {
        Some(sdk::InstanceStateName::Running) => InstanceState::Running,
        Some(sdk::InstanceStateName::Stopping) => InstanceState::Stopping,
        Some(sdk::InstanceStateName::Stopped) => InstanceState::Stopped,
        Some(sdk::InstanceStateName::ShuttingDown) => InstanceState::ShuttingDown,
        Some(sdk::InstanceStateName::Terminated) => InstanceState::Terminated,
        _ => InstanceState::Pending,
    }
}

pub(crate) fn instance(i: sdk::Instance) -> Option<Instance> {
    let (mut volumes, mut deleted_with_it) = (BTreeMap::new(), BTreeSet::new());
    for (device, ebs) in i.block_device_mappings.unwrap_or_default().into_iter().filter_map(|m| Some((m.device_name?, m.ebs?))) {
        let Some(volume) = ebs.volume_id else { continue };
        if ebs.delete_on_termination == Some(true) {
            deleted_with_it.insert(device.clone());
        }
        volumes.insert(device, volume);
    }
    Some(Instance {
        id: i.instance_id?,
        state: state(i.state),
        reason: i.state_reason.and_then(|r| r.message).unwrap_or_default(),
        instance_type: i.instance_type.map(|t| t.as_str().to_owned()).unwrap_or_default(),
        architecture: i.architecture.map(|a| a.as_str().to_owned()).unwrap_or_default(),
        image: i.image_id.unwrap_or_default(),
        subnet: i.subnet_id.unwrap_or_default(),
        zone: i.placement.and_then(|p| p.availability_zone).unwrap_or_default(),
        private_ip: i.private_ip_address.filter(|a| !a.is_empty()),
        public_ip: i.public_ip_address.filter(|a| !a.is_empty()),
        groups: i.security_groups.unwrap_or_default().into_iter().filter_map(|g| g.group_id).collect(),
        volumes,
        deleted_with_it,
        interfaces: i.network_interfaces.unwrap_or_default().into_iter().filter_map(|n| n.network_interface_id).collect(),
        tags: tags(i.tags),
        launched: i.launch_time.map_or(0, |t| t.secs()),
        spot: i.instance_lifecycle == Some(sdk::InstanceLifecycleType::Spot),
        client_token: i.client_token.unwrap_or_default(),
    })
}

fn rules(list: Option<Vec<sdk::IpPermission>>) -> Vec<Rule> {
    let mut out = Vec::new();
    for p in list.unwrap_or_default() {
        let protocol = p.ip_protocol.unwrap_or_else(|| "-1".into());
        let (from_port, to_port) = (p.from_port.unwrap_or(-1), p.to_port.unwrap_or(-1));
        let cidrs = p.ip_ranges.unwrap_or_default().into_iter().filter_map(|r| r.cidr_ip);
        let cidrs = cidrs.chain(p.ipv6_ranges.unwrap_or_default().into_iter().filter_map(|r| r.cidr_ipv6)).map(RuleSource::Cidr);
        let groups = p.user_id_group_pairs.unwrap_or_default().into_iter().filter_map(|g| g.group_id).map(RuleSource::Group);
        out.extend(cidrs.chain(groups).map(|source| Rule { protocol: protocol.clone(), from_port, to_port, source }));
    }
    out.sort();
    out
}

fn image(i: sdk::Image) -> Option<Image> {
    let root = i.root_device_name.unwrap_or_default();
    let volumes = i.block_device_mappings.unwrap_or_default().into_iter().filter_map(|m| Some((m.device_name?, m.ebs?)));
    let (of_root, others): (Vec<_>, Vec<_>) = volumes.partition(|(device, _)| *device == root);
    Some(Image {
        id: i.image_id.unwrap_or_default(),
        name: i.name.unwrap_or_default(),
        architecture: i.architecture.map(|a| a.as_str().to_owned()).unwrap_or_default(),
        root_size: of_root.into_iter().find_map(|(_, ebs)| ebs.volume_size).unwrap_or(0),
        other_devices: others.into_iter().map(|(device, _)| device).collect(),
        root_device: root,
        created: i.creation_date.unwrap_or_default(),
        deprecated: i.deprecation_time,
    })
}

fn of_reservation(r: sdk::Reservation) -> Vec<Instance> {
    r.instances.unwrap_or_default().into_iter().filter_map(instance).collect()
}

/// Reads all pages of a call and turns them into ours.
macro_rules! all_pages {
    ($self:ident, $action:literal, $call:expr, $convert:expr) => {{
        let mut stream = $call.into_paginator().items().send();
        let mut out = Vec::new();
        $self
            .timed(async {
                while let Some(item) = stream.next().await {
                    let item = item.map_err(|e| ApiError::from_sdk($action, e))?;
                    #[allow(clippy::redundant_closure_call)]
                    out.extend($convert(item));
                    if out.len() > MAX_ITEMS {
                        return Err(ApiError::empty($action, "end"));
                    }
                }
                Ok(())
            })
            .await?;
        Ok(out)
    }};
}

impl Client {
    /// Instances, also terminated ones unless a filter says otherwise.
    pub async fn instances(&self, by: &[Filter]) -> Result<Vec<Instance>, ApiError> {
        let call = self.ec2.describe_instances().set_filters(filters(by));
        all_pages!(self, "DescribeInstances", call, of_reservation)
    }

    /// Instances by id.
    pub async fn instances_by_id(&self, ids: &[String]) -> Result<Vec<Instance>, ApiError> {
        let call = self.ec2.describe_instances().set_instance_ids(Some(ids.to_vec()));
        all_pages!(self, "DescribeInstances", call, of_reservation)
    }

    /// Volumes.
    pub async fn volumes(&self, by: &[Filter]) -> Result<Vec<Volume>, ApiError> {
        let call = self.ec2.describe_volumes().set_filters(filters(by));
        all_pages!(self, "DescribeVolumes", call, |v: sdk::Volume| Some(Volume {
            id: v.volume_id.unwrap_or_default(),
            zone: v.availability_zone.unwrap_or_default(),
            size: v.size.unwrap_or(0),
            state: v.state.map(|s| s.as_str().to_owned()).unwrap_or_default(),
            made: v.create_time.map_or(0, |t| t.secs()),
            ends_with_instance: v.attachments.iter().flatten().any(|a| a.delete_on_termination.unwrap_or_default()),
            attached: v.attachments.unwrap_or_default().into_iter().find_map(|a| Some((a.instance_id?, a.device.unwrap_or_default()))),
            tags: tags(v.tags),
        }))
    }

    /// Security groups.
    pub async fn groups(&self, by: &[Filter]) -> Result<Vec<Group>, ApiError> {
        let call = self.ec2.describe_security_groups().set_filters(filters(by));
        all_pages!(self, "DescribeSecurityGroups", call, |g: sdk::SecurityGroup| Some(Group {
            id: g.group_id.unwrap_or_default(),
            name: g.group_name.unwrap_or_default(),
            vpc: g.vpc_id.unwrap_or_default(),
            rules: rules(g.ip_permissions),
            tags: tags(g.tags),
        }))
    }

    /// Key pairs.
    pub async fn key_pairs(&self, by: &[Filter]) -> Result<Vec<KeyPair>, ApiError> {
        let call = self.ec2.describe_key_pairs().set_filters(filters(by));
        let answer = self.timed(call.send()).await.map_err(|e| ApiError::from_sdk("DescribeKeyPairs", e))?;
        let all = answer.key_pairs.unwrap_or_default().into_iter();
        Ok(all
            .map(|k| KeyPair { id: k.key_pair_id.unwrap_or_default(), name: k.key_name.unwrap_or_default(), tags: tags(k.tags) })
            .collect())
    }

    /// VPCs.
    pub async fn vpcs(&self, by: &[Filter]) -> Result<Vec<Vpc>, ApiError> {
        let call = self.ec2.describe_vpcs().set_filters(filters(by));
        all_pages!(self, "DescribeVpcs", call, |v: sdk::Vpc| Some(Vpc {
            id: v.vpc_id.unwrap_or_default(),
            cidr: v.cidr_block.unwrap_or_default(),
            is_default: v.is_default.unwrap_or(false),
            tags: tags(v.tags),
        }))
    }

    /// Subnets.
    pub async fn subnets(&self, by: &[Filter]) -> Result<Vec<Subnet>, ApiError> {
        let call = self.ec2.describe_subnets().set_filters(filters(by));
        all_pages!(self, "DescribeSubnets", call, |s: sdk::Subnet| Some(Subnet {
            id: s.subnet_id.unwrap_or_default(),
            vpc: s.vpc_id.unwrap_or_default(),
            zone: s.availability_zone.unwrap_or_default(),
            cidr: s.cidr_block.unwrap_or_default(),
            default_for_zone: s.default_for_az.unwrap_or(false),
            free_addresses: s.available_ip_address_count.unwrap_or(0),
            tags: tags(s.tags),
        }))
    }

    /// Internet gateways.
    pub async fn gateways(&self, by: &[Filter]) -> Result<Vec<Gateway>, ApiError> {
        let call = self.ec2.describe_internet_gateways().set_filters(filters(by));
        all_pages!(self, "DescribeInternetGateways", call, |g: sdk::InternetGateway| Some(Gateway {
            id: g.internet_gateway_id.unwrap_or_default(),
            vpcs: g.attachments.unwrap_or_default().into_iter().filter_map(|a| a.vpc_id).collect(),
            tags: tags(g.tags),
        }))
    }

    /// Tables of routes.
    pub async fn route_tables(&self, by: &[Filter]) -> Result<Vec<RouteTable>, ApiError> {
        let call = self.ec2.describe_route_tables().set_filters(filters(by));
        all_pages!(self, "DescribeRouteTables", call, |t: sdk::RouteTable| {
            let out = |r: &sdk::Route| {
                r.destination_cidr_block.as_deref() == Some("0.0.0.0/0") && r.gateway_id.as_deref().is_some_and(|g| g.starts_with("igw-"))
            };
            let associations = t.associations.unwrap_or_default();
            Some(RouteTable {
                id: t.route_table_id.unwrap_or_default(),
                vpc: t.vpc_id.unwrap_or_default(),
                main: associations.iter().any(|a| a.main == Some(true)),
                subnets: associations.into_iter().filter_map(|a| a.subnet_id).collect(),
                leads_out: t.routes.unwrap_or_default().iter().any(out),
                tags: tags(t.tags),
            })
        })
    }

    /// Network interfaces, for the addresses that are taken.
    pub async fn interfaces(&self, by: &[Filter]) -> Result<Vec<Interface>, ApiError> {
        let call = self.ec2.describe_network_interfaces().set_filters(filters(by));
        all_pages!(self, "DescribeNetworkInterfaces", call, |n: sdk::NetworkInterface| {
            let mut addresses: Vec<String> =
                n.private_ip_addresses.unwrap_or_default().into_iter().filter_map(|a| a.private_ip_address).collect();
            addresses.extend(n.private_ip_address);
            addresses.sort();
            addresses.dedup();
            Some(Interface { subnet: n.subnet_id.unwrap_or_default(), addresses, tags: tags(n.tag_set) })
        })
    }

    /// Images of an owner. Deprecated ones are not among them.
    pub async fn images(&self, owner: &str, by: &[Filter]) -> Result<Vec<Image>, ApiError> {
        let call = self.ec2.describe_images().owners(owner).set_filters(filters(by));
        all_pages!(self, "DescribeImages", call, image)
    }

    /// An image, also a deprecated one, which EC2 shows only to those that name its id outside of filters.
    pub async fn image_by_id(&self, id: &str) -> Result<Option<Image>, ApiError> {
        let call = self.ec2.describe_images().image_ids(id).send();
        let answer = self.timed(call).await.map_err(|e| ApiError::from_sdk("DescribeImages", e))?;
        Ok(answer.images.unwrap_or_default().into_iter().find_map(image))
    }
}
