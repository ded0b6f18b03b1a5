//! The inventory's settings of the provider `ec2`.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use super::Group;
use crate::{
    address::parse_cidr,
    error::Result,
    yaml::{Node, NodeKind, unknown},
};

/// Which machine image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImageChoice {
    /// the newest Amazon Linux 2023
    AmazonLinux2023,
    /// the newest Debian 12
    Debian12,
    /// one by its id
    Id(String),
}

/// Which VPC.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VpcChoice {
    /// the account's default one
    Default,
    /// one of the cluster's own, with this network
    New {
        /// as `10.86.0.0/16`
        cidr: String,
    },
    /// one that exists
    Id(String),
}

/// Which address of the control host is connected to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Connect {
    /// its public one
    Public,
    /// its private one: from inside of the VPC, or through a VPN
    Private,
}

/// How much is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Security {
    /// what is needed
    Least,
    /// everything from everywhere, as in some lessons
    Classroom,
}

/// Which hosts get a public address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PublicAddresses {
    /// the control host, and brokers where clients outside are let in
    Needed,
    /// all of them: they can reach the internet without a NAT gateway
    All,
    /// none
    None,
}

/// A volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeSettings {
    /// GiB; `None` for the image's own size
    pub size: Option<i32>,
    /// operations per second
    pub iops: Option<i32>,
    /// MiB per second
    pub throughput: Option<i32>,
    /// whether it is encrypted
    pub encrypted: bool,
    /// with which key, if not with the account's default one
    pub kms_key: Option<String>,
    /// whether it stays when the cluster ends by itself
    pub keep: bool,
}

/// Settings of EC2.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ec2Settings {
    /// region; that of the profile otherwise
    pub region: Option<String>,
    /// profile of `~/.aws`
    pub profile: Option<String>,
    /// another server than AWS's
    pub endpoint_url: Option<String>,
    /// time for one attempt of a call
    pub call_timeout: Duration,
    /// instance types of each group: the wanted one, then alternatives
    pub instance_types: BTreeMap<Group, Vec<String>>,
    /// machine image
    pub image: ImageChoice,
    /// VPC
    pub vpc: VpcChoice,
    /// subnets, by id; those of the VPC otherwise
    pub subnets: Vec<String>,
    /// zones, by name; all that have a subnet otherwise
    pub zones: Vec<String>,
    /// volume of the system
    pub root_volume: VolumeSettings,
    /// volume of the data; `None` to keep data on the system's
    pub volume: Option<VolumeSettings>,
    /// spot instances
    pub spot: bool,
    /// further tags
    pub tags: BTreeMap<String, String>,
    /// ranges that may log in to the control host, as `1.2.3.4/32`; `None`: the address of the machine that runs Septet
    pub ssh_from: Option<Vec<String>>,
    /// URL that returns the caller's own address
    pub ssh_ask: String,
    /// clients outside that may reach the brokers
    pub external_from: Vec<String>,
    /// which address of the control host is connected to
    pub connect: Connect,
    /// how much is open
    pub security: Security,
    /// which hosts get a public address; `None` for what the engine needs
    pub public_addresses: Option<PublicAddresses>,
}

/// Answers with the caller's own address and nothing else. It is AWS's own.
pub const ASK: &str = "https://checkip.amazonaws.com";

impl Ec2Settings {
    /// Instance types of a group, the wanted one first.
    pub fn types(&self, group: Group) -> &[String] {
        self.instance_types.get(&group).map_or(&[], Vec::as_slice)
    }
}

fn instance_types(n: Option<&Node>, groups: &BTreeSet<Group>) -> Result<BTreeMap<Group, Vec<String>>> {
    let usual = |g: &Group| if *g == Group::CONTROL { "t3.micro" } else { "t3.small" };
    let mut out: BTreeMap<Group, Vec<String>> = groups.iter().map(|g| (*g, vec![usual(g).to_owned()])).collect();
    let Some(n) = n else { return Ok(out) };
    let list = |n: &Node| -> Result<Vec<String>> {
        let all: Vec<String> = n.list().into_iter().map(|n| checked(n, "instance type", is_type)).collect::<Result<_>>()?;
        if all.is_empty() || all.len() > 10 {
            return Err(n.error(
                "expected an instance type, or a list of up to 10: the first is preferred, the others are used where it has no capacity",
            ));
        }
        Ok(all)
    };
    if let NodeKind::Map(_) = &n.kind {
        let mut f = n.fields()?;
        let known: Vec<&str> = groups.iter().map(Group::name).collect();
        for (name, at, n) in f.rest() {
            let group = groups.iter().find(|g| g.name() == name).ok_or_else(|| unknown(at, &name, &known))?;
            out.insert(*group, list(n)?);
        }
        return Ok(out);
    }
    let all = list(n)?;
    Ok(groups.iter().map(|g| (*g, all.clone())).collect())
}

fn is_type(s: &str) -> bool {
    s.split_once('.').is_some_and(|(family, size)| {
        let plain = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        plain(family) && plain(size)
    })
}

fn is_id(prefix: &'static str) -> impl Fn(&str) -> bool {
    move |s| s.strip_prefix(prefix).is_some_and(|h| h.len() >= 8 && h.bytes().all(|b| b.is_ascii_hexdigit()))
}

fn checked(n: &Node, what: &str, good: impl Fn(&str) -> bool) -> Result<String> {
    let text = n.as_written()?;
    if good(&text) { Ok(text) } else { Err(n.error(format!("invalid {what}: `{text}`"))) }
}

/// What to write instead of a range that is none.
fn range_hint(text: &str) -> String {
    let (address, bits) = text.split_once('/').unwrap_or((text, "32"));
    if let (Ok(address), Some(bits)) = (address.parse::<Ipv4Addr>(), bits.parse::<u32>().ok().filter(|b| *b <= 32)) {
        let network = u32::from(address) & u32::MAX.checked_shl(32 - bits).unwrap_or(0);
        return format!("write {}/{bits} for the network, or {address}/32 for the address alone", Ipv4Addr::from(network));
    }
    if address.parse::<Ipv6Addr>().is_ok() {
        return "hosts have IPv4 addresses only: write an IPv4 range such as 203.0.113.7/32 or 10.0.0.0/8".into();
    }
    "write 203.0.113.7/32, or a network such as 10.0.0.0/8".into()
}

fn cidrs(n: &Node) -> Result<Vec<String>> {
    n.list()
        .into_iter()
        .map(|n| {
            let text = n.as_written()?;
            match parse_cidr(&text) {
                Some((address, bits)) => Ok(format!("{address}/{bits}")),
                None => Err(n.error(format!("`{text}` is not an address range")).hint(range_hint(&text))),
            }
        })
        .collect()
}

fn volume(n: Option<&Node>, size: Option<i32>, holds_data: bool) -> Result<VolumeSettings> {
    let mut out = VolumeSettings { size, iops: None, throughput: None, encrypted: true, kms_key: None, keep: false };
    let Some(n) = n else { return Ok(out) };
    let mut f = n.fields()?;
    let number = |n: Option<&Node>, min, max| n.map(|n| n.number(min, max)).transpose().map(|v| v.map(|v| v as i32));
    out.size = number(f.take("size"), 1, 16_384)?.or(size);
    if let Some(n) = f.take("type") {
        checked(n, "volume type (gp3 only)", |t| t == "gp3")?;
    }
    let (iops, throughput) = (f.take("iops"), f.take("throughput"));
    // gp3: at most 500 operations per GiB, and a quarter MiB/s per operation.
    out.iops = number(iops, 3000, 16_000)?;
    out.throughput = number(throughput, 125, 1000)?;
    if let (Some(i), Some(at)) = (out.iops, iops)
        && i > 3000
        && i > out.size.unwrap_or(8) * 500
    {
        return Err(at.error(format!("{i} operations per second need a volume of {} GiB", (i + 499) / 500)));
    }
    if let (Some(t), Some(at)) = (out.throughput, throughput)
        && t * 4 > out.iops.unwrap_or(3000)
    {
        return Err(at.error(format!("{t} MiB/s need {} operations per second", t * 4)).hint(format!("add `iops: {}`", t * 4)));
    }
    if let Some(n) = f.take("encrypted") {
        out.encrypted = n.boolean()?;
    }
    if let Some(n) = f.take("kms_key") {
        out.kms_key = Some(n.as_written()?);
        if !out.encrypted {
            return Err(n.error("a key, and `encrypted: false`"));
        }
    }
    if holds_data && let Some(n) = f.take("keep") {
        out.keep = n.boolean()?;
    }
    f.finish()?;
    Ok(out)
}

fn tags(n: Option<&Node>) -> Result<BTreeMap<String, String>> {
    let mut out = BTreeMap::new();
    let Some(n) = n else { return Ok(out) };
    for (key, at, value) in n.fields()?.rest() {
        let lower = key.to_ascii_lowercase();
        if lower.starts_with("aws:") || lower.starts_with("septet:") || key == "Name" {
            return Err(at.error(format!("tag `{key}` is not yours to set")).hint("`aws:…` is AWS's, `septet:…` and `Name` are Septet's"));
        }
        let text = value.as_written()?;
        if key.is_empty() || key.chars().count() > 128 || text.chars().count() > 256 {
            return Err(at.error("a tag's key has 1 to 128 characters, its value at most 256"));
        }
        out.insert(key, text);
    }
    // EC2 allows 50; Septet has some of its own.
    if out.len() > 35 {
        return Err(n.error(format!("{} tags", out.len())).hint("at most 35"));
    }
    Ok(out)
}

fn word<T: Copy>(n: Option<&Node>, what: &str, words: &[(&str, T)], default: T) -> Result<T> {
    let Some(n) = n else { return Ok(default) };
    let text = n.as_written()?;
    let names: Vec<&str> = words.iter().map(|(w, _)| *w).collect();
    match words.iter().find(|(w, _)| *w == text) {
        Some((_, v)) => Ok(*v),
        None => Err(n.error(format!("invalid {what}: `{text}`")).hint(format!("one of {}", names.join(", ")))),
    }
}

fn url(n: &Node) -> Result<String> {
    checked(n, "URL (http:// or https://)", |s| s.starts_with("http://") || s.starts_with("https://"))
}

/// Reads `ec2:`.
pub fn settings(n: &Node, groups: &BTreeSet<Group>) -> Result<Ec2Settings> {
    let mut f = n.fields()?;
    let text = |n: Option<&Node>| n.filter(|n| !n.is_null()).map(Node::as_written).transpose();
    let region = f
        .take("region")
        .map(|n| checked(n, "region", |s| s.len() > 4 && s.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')));
    let image = match f.take("image") {
        None => ImageChoice::AmazonLinux2023,
        Some(n) => match n.as_written()?.as_str() {
            "amazon-linux-2023" => ImageChoice::AmazonLinux2023,
            "debian-12" => ImageChoice::Debian12,
            id if is_id("ami-")(id) => ImageChoice::Id(id.to_owned()),
            other => {
                return Err(n
                    .error(format!("`{other}` is not an image"))
                    .hint("amazon-linux-2023, debian-12, or an id such as ami-0abcdef1234567890"));
            }
        },
    };
    let vpc = match f.take("vpc") {
        None => VpcChoice::Default,
        Some(n) => match (&n.kind, n.as_written()) {
            (NodeKind::Map(_), _) => {
                let mut v = n.fields()?;
                let new = v.need("new")?;
                v.finish()?;
                let cidr = checked(new, "VPC network of 16 to 22 bits", |s| parse_cidr(s).is_some_and(|(_, b)| (16..=22).contains(&b)))?;
                VpcChoice::New { cidr }
            }
            (_, Ok(s)) if s == "default" => VpcChoice::Default,
            (_, Ok(s)) if s == "new" => VpcChoice::New { cidr: "10.86.0.0/16".into() },
            (_, Ok(s)) if is_id("vpc-")(&s) => VpcChoice::Id(s),
            _ => return Err(n.error("not a VPC").hint("default, new, {new: 10.86.0.0/16}, or an id such as vpc-0abcdef1234567890")),
        },
    };
    let subnet_node = f.take("subnets");
    let subnets: Vec<String> = subnet_node
        .map(Node::list)
        .unwrap_or_default()
        .into_iter()
        .map(|n| checked(n, "subnet id", is_id("subnet-")))
        .collect::<Result<_>>()?;
    if let (Some(at), VpcChoice::New { .. }) = (subnet_node, &vpc) {
        return Err(at.error("a new VPC gets subnets of its own").hint("leave `subnets` out, or name the VPC that they are in"));
    }
    let zones: Vec<String> = f
        .take("zones")
        .map(Node::list)
        .unwrap_or_default()
        .into_iter()
        .map(|n| checked(n, "zone", |s| s.ends_with(|c: char| c.is_ascii_lowercase()) && s.len() > 5))
        .collect::<Result<_>>()?;
    let volume_node = f.take("volume");
    let data = match volume_node.map(|n| &n.kind) {
        Some(NodeKind::Scalar(serde_json::Value::Bool(false))) => None,
        _ => Some(volume(volume_node, Some(20), true)?),
    };
    let (mut ssh_from, mut ssh_ask) = (None, ASK.to_owned());
    if let Some(n) = f.take("ssh") {
        let mut s = n.fields()?;
        ssh_from = s.take("from").map(cidrs).transpose()?.filter(|l| !l.is_empty());
        if let Some(n) = s.take("ask") {
            ssh_ask = url(n)?;
        }
        s.finish()?;
    }
    let mut external_from = Vec::new();
    if let Some(n) = f.take("external") {
        let mut e = n.fields()?;
        external_from = cidrs(e.need("from")?)?;
        e.finish()?;
    }
    let settings = Ec2Settings {
        region: region.transpose()?,
        profile: text(f.take("profile"))?,
        endpoint_url: f.take("endpoint_url").map(url).transpose()?,
        call_timeout: Duration::from_secs(f.take("call_timeout").map(|n| n.number(1, 300)).transpose()?.unwrap_or(20) as u64),
        instance_types: instance_types(f.take("instance_type"), groups)?,
        image,
        vpc,
        subnets,
        zones,
        root_volume: volume(f.take("root_volume"), None, false)?,
        volume: data,
        spot: f.take("spot").map(Node::boolean).transpose()?.unwrap_or(false),
        tags: tags(f.take("tags"))?,
        ssh_from,
        ssh_ask,
        external_from,
        connect: word(f.take("connect"), "way to connect", &[("public", Connect::Public), ("private", Connect::Private)], Connect::Public)?,
        security: word(
            f.take("security"),
            "kind of security",
            &[("least", Security::Least), ("classroom", Security::Classroom)],
            Security::Least,
        )?,
        public_addresses: word(
            f.take("public_addresses"),
            "choice of hosts",
            &[("needed", Some(PublicAddresses::Needed)), ("all", Some(PublicAddresses::All)), ("none", Some(PublicAddresses::None))],
            None,
        )?,
    };
    f.finish()?;
    Ok(settings)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_that_is_none_is_set_right() {
        for (text, wanted) in [
            ("203.0.113.9/24", "write 203.0.113.0/24 for the network, or 203.0.113.9/32 for the address alone"),
            ("10.0.0.1/0", "write 0.0.0.0/0 for the network, or 10.0.0.1/32 for the address alone"),
        ] {
            assert_eq!(range_hint(text), wanted);
        }
        assert!(range_hint("2001:db8::1/64").starts_with("hosts have IPv4 addresses only"));
        assert!(range_hint("10.0.0.0/33").starts_with("write 203.0.113.7/32"));
        assert!(range_hint("anybody").starts_with("write 203.0.113.7/32"));
    }
}
