//! What there is on EC2, as far as Septet looks: plain values.

use std::collections::{BTreeMap, BTreeSet};

/// Tags by key.
pub type Tags = BTreeMap<String, String>;

/// A filter of a Describe call: a name and the values it may have.
pub type Filter = (String, Vec<String>);

/// A filter by one of several values.
pub fn filter(name: &str, values: &[&str]) -> Filter {
    (name.to_owned(), values.iter().map(|v| (*v).to_owned()).collect())
}

/// A filter by a tag's value.
pub fn tag_filter(key: &str, value: &str) -> Filter {
    filter(&format!("tag:{key}"), &[value])
}

/// What an instance is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum InstanceState {
    Pending,
    Running,
    Stopping,
    Stopped,
    ShuttingDown,
    Terminated,
}

/// An instance.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Instance {
    pub id: String,
    pub state: InstanceState,
    /// why it is in that state, in EC2's words
    pub reason: String,
    pub instance_type: String,
    /// `x86_64` or `arm64`
    pub architecture: String,
    pub image: String,
    pub subnet: String,
    pub zone: String,
    pub private_ip: Option<String>,
    pub public_ip: Option<String>,
    pub groups: Vec<String>,
    /// device name to volume id
    pub volumes: BTreeMap<String, String>,
    /// devices whose volumes are deleted when it is terminated
    pub deleted_with_it: BTreeSet<String>,
    /// ids of its network interfaces
    pub interfaces: Vec<String>,
    pub tags: Tags,
    /// seconds since 1970
    pub launched: i64,
    pub spot: bool,
    pub client_token: String,
}

/// A volume.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Volume {
    pub id: String,
    pub zone: String,
    /// GiB
    pub size: i32,
    /// `available`, `in-use`, …
    pub state: String,
    /// instance it is attached to, and as which device
    pub attached: Option<(String, String)>,
    /// whether it is deleted when that instance is terminated
    pub ends_with_instance: bool,
    /// when it was made, in seconds since 1970
    pub made: i64,
    pub tags: Tags,
}

/// Where traffic may come from.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum RuleSource {
    /// addresses, as `10.0.0.0/8` or `::/0`
    Cidr(String),
    /// members of a security group
    Group(String),
}

/// An inbound rule. All protocols together are `-1`, and have no ports: from -1 to -1.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)]
pub struct Rule {
    /// `tcp`, `udp`, `icmp`, `-1` or a number
    pub protocol: String,
    pub from_port: i32,
    pub to_port: i32,
    pub source: RuleSource,
}

/// A security group.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Group {
    pub id: String,
    pub name: String,
    pub vpc: String,
    pub rules: Vec<Rule>,
    pub tags: Tags,
}

/// A key pair.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct KeyPair {
    pub id: String,
    pub name: String,
    pub tags: Tags,
}

/// A VPC.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Vpc {
    pub id: String,
    pub cidr: String,
    pub is_default: bool,
    pub tags: Tags,
}

/// A subnet.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Subnet {
    pub id: String,
    pub vpc: String,
    pub zone: String,
    pub cidr: String,
    pub default_for_zone: bool,
    pub free_addresses: i32,
    pub tags: Tags,
}

/// An internet gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Gateway {
    pub id: String,
    /// VPCs it is attached to
    pub vpcs: Vec<String>,
    pub tags: Tags,
}

/// A table of routes.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct RouteTable {
    pub id: String,
    pub vpc: String,
    /// subnets that have this table, and not the main one
    pub subnets: Vec<String>,
    /// whether it is that of all other subnets of its VPC
    pub main: bool,
    /// whether what leaves goes to an internet gateway
    pub leads_out: bool,
    pub tags: Tags,
}

/// A network interface: the owner of an address.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Interface {
    pub subnet: String,
    pub addresses: Vec<String>,
    pub tags: Tags,
}

/// A machine image.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Image {
    pub id: String,
    pub name: String,
    /// `x86_64` or `arm64`
    pub architecture: String,
    pub root_device: String,
    /// GiB that its root volume has at the least
    pub root_size: i32,
    /// of the volumes that it has beside the root volume
    pub other_devices: Vec<String>,
    /// ISO 8601
    pub created: String,
    /// from when on it is deprecated, ISO 8601; it can be launched all the same
    pub deprecated: Option<String>,
}

/// An instance type.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct TypeInfo {
    pub name: String,
    pub vcpus: i32,
    pub memory_mib: i64,
    /// `x86_64`, `arm64`
    pub architectures: Vec<String>,
}

/// A type that a zone has.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)]
pub struct Offering {
    pub instance_type: String,
    pub zone: String,
}

/// A volume that comes with an instance.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct NewVolume {
    /// as `/dev/sdf`
    pub device: String,
    /// GiB; the image's own size if left out
    pub size: Option<i32>,
    /// as `gp3`; the image's own if empty
    pub kind: String,
    pub iops: Option<i32>,
    pub throughput: Option<i32>,
    pub encrypted: bool,
    pub kms_key: Option<String>,
    pub delete_on_termination: bool,
}

/// One instance to launch.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Launch {
    /// so that the same call twice launches once
    pub token: String,
    pub image: String,
    pub instance_type: String,
    pub subnet: String,
    pub private_ip: Option<String>,
    pub public_ip: bool,
    pub groups: Vec<String>,
    pub key_name: Option<String>,
    /// as cloud-init reads it; encoded here
    pub user_data: String,
    pub volumes: Vec<NewVolume>,
    pub spot: bool,
    /// whether it is terminated when it stops itself
    pub ends: bool,
    /// of the instance
    pub tags: Tags,
    /// of its volumes
    pub volume_tags: Tags,
}
