//! The inventory: what the cluster is to be, read strictly.
//!
//! Invariant: an [`Inventory`] that exists is valid: names are DNS labels, counts are sensible, nothing is unknown.

mod ec2;
pub mod edit;
mod engine;
mod group;
mod groups;
mod pattern;
mod ports;
mod static_hosts;

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    path::{Path, PathBuf},
    time::Duration,
};

pub use ec2::{Connect, Ec2Settings, ImageChoice, PublicAddresses, Security, VolumeSettings, VpcChoice};
pub use edit::set_prefix;
pub use engine::{ApacheSettings, ArchiveSource, Engine, Metadata, numbers};
pub use group::{Group, HostId, NotAGroup, Role};
pub use pattern::select;
pub use ports::Ports;
use serde_json::Value;
use sha2::{Digest, Sha256};
pub use static_hosts::{StaticHost, StaticSettings};

use crate::{
    address::Subnet,
    error::{Error, Result},
    identity::{ClusterName, is_label},
    template::{Hostname, Vars},
    yaml::{self, Node},
};

/// A host as it is to be.
#[derive(Debug, Clone, PartialEq)]
pub struct Host {
    /// identity
    pub id: HostId,
    /// its short name
    pub name: String,
    /// variables of its group and its own
    pub vars: Vars,
}

/// Settings of local containers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DockerSettings {
    /// image to use as it is, instead of our own
    pub image: Option<String>,
    /// subnet, as `10.1.2.0/24`; picked free otherwise
    pub subnet: Option<String>,
    /// first of the published ports; picked free otherwise
    pub ports_from: Option<u16>,
}

/// Where hosts come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProviderSettings {
    /// local containers
    Docker(DockerSettings),
    /// instances of EC2
    Ec2(Box<Ec2Settings>),
    /// hosts that exist
    Static(Box<StaticSettings>),
}

impl ProviderSettings {
    /// As in the inventory.
    pub fn name(&self) -> &'static str {
        match self {
            ProviderSettings::Docker(_) => "docker",
            ProviderSettings::Ec2(_) => "ec2",
            ProviderSettings::Static(_) => "static",
        }
    }
    /// Kinds of machines that hosts of a group may be: the wanted one, then what is taken where that is not to be had. Empty
    /// where the provider has no kinds.
    pub fn sizes(&self, group: Group) -> &[String] {
        match self {
            ProviderSettings::Docker(_) | ProviderSettings::Static(_) => &[],
            ProviderSettings::Ec2(settings) => settings.types(group),
        }
    }
}

/// The inventory.
#[derive(Debug, Clone, PartialEq)]
pub struct Inventory {
    /// file it was read from; `None` for the built-in one
    pub path: Option<PathBuf>,
    /// SHA-256 of its text, hex
    pub digest: String,
    /// the cluster's name
    pub cluster: ClusterName,
    /// what every host name starts with
    pub prefix: String,
    /// domain of the full names
    pub domain: Option<String>,
    /// what is deployed
    pub engine: Engine,
    /// where hosts come from
    pub provider: ProviderSettings,
    /// how long the cluster is wanted, counted from when it is made; `septet down --all-expired` takes it away then
    pub ttl: Option<Duration>,
    /// all hosts: control, coordinators, brokers, then the groups of the user's; each by number
    pub hosts: Vec<Host>,
    /// variables for all
    pub vars: Vars,
    /// ports of the engine's listeners
    pub ports: Ports,
    members: BTreeMap<Group, BTreeSet<HostId>>,
    templates: BTreeMap<Group, String>,
    /// what hosts that exist are called in the inventory
    targets: BTreeMap<HostId, String>,
}

/// The inventory that is used where there is none.
pub const BUILT_IN: &str = include_str!("../../inventories/local.yml");

/// What an inventory begins with.
const NO_CLUSTER: &str = "an inventory of Septet's begins with `cluster: NAME` and `prefix: NAME`; hosts follow from `groups: {brokers: {count: 3}}`, their variables are below `vars:`; `septet init` writes one";

/// An error about a file that is Ansible's, in the form of an INI file.
fn not_ini(path: &Path, e: Error) -> Error {
    const MAX_BYTES: u64 = 256 * 1024;
    if std::fs::metadata(path).map_or(true, |m| m.len() > MAX_BYTES) {
        return e;
    }
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let mut lines = text.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with(['#', ';']));
    let section = |l: &str| l.starts_with('[') && l.ends_with(']') && !l.contains(',') && l.len() > 2;
    match lines.any(section) && !text.contains("cluster:") {
        true => Error::invalid(format!("{}: an INI inventory; Septet's inventories are YAML", path.display())).hint(NO_CLUSTER),
        false => e,
    }
}

/// Checks a prefix on its own; host names are checked once they are rendered.
pub fn check_prefix(prefix: &str) -> Result<(), String> {
    if !is_label(prefix) || !prefix.starts_with(|c: char| c.is_ascii_lowercase()) {
        return Err(format!(
            "`{prefix}` cannot begin a host name: lower-case letters, digits and `-`, beginning with a letter and not ending with `-`"
        ));
    }
    Ok(())
}

impl Inventory {
    /// Reads a file.
    pub fn read(path: &Path) -> Result<Self> {
        let node = yaml::read(path).map_err(|e| not_ini(path, e))?;
        let mut this = Self::from_node(&node).map_err(|e| not_ini(path, e))?;
        this.path = Some(path.to_owned());
        Ok(this)
    }

    /// The built-in one.
    pub fn built_in() -> Result<Self> {
        Self::parse(Path::new("inventories/local.yml (built in)"), BUILT_IN)
    }

    /// Parses text.
    pub fn parse(path: &Path, text: &str) -> Result<Self> {
        Self::from_node(&yaml::parse(path, text.to_owned())?)
    }

    fn from_node(root: &Node) -> Result<Self> {
        let mut f = root.fields()?;
        // Ansible's have groups at the top, Septet's the cluster.
        let name_node = match f.need("cluster") {
            Err(e) if e.hint.is_none() => return Err(e.hint(NO_CLUSTER)),
            other => other?,
        };
        let cluster = name_node.as_written()?.parse::<ClusterName>();
        let Ok(cluster) = cluster else {
            return Err(name_node.error("a cluster's name has lower-case letters, digits and `-`, and at most 40 of them"));
        };
        let prefix_node = f.need("prefix")?;
        let prefix = prefix_node.as_written()?;
        check_prefix(&prefix).map_err(|m| prefix_node.error(m).hint("for example `prefix: peter`"))?;
        let domain = match f.take("domain").filter(|n| !n.is_null()) {
            Some(n) => {
                let d = n.as_written()?;
                if !d.split('.').all(|l| is_label(l) && l.len() <= 63) || d.len() > 180 {
                    return Err(n.error(format!("`{d}` is not a domain name")));
                }
                Some(d)
            }
            None => None,
        };
        let engine = f.take("engine").map_or(Ok(Engine::Bundled), engine::engine)?;
        let provider_node = f.take("provider");
        let ttl = f.take("ttl").filter(|n| !n.is_null()).map(duration).transpose()?;
        let vars_node = f.take("vars");
        let vars = vars_node.map_or_else(|| Ok(Vars::new()), variables)?;
        let ports = match vars_node {
            Some(n) => read_ports(n, &vars, engine.metadata())?,
            None => Ports::default(),
        };
        let groups = f.take("groups");
        let provider = match provider_node {
            None => ProviderSettings::Docker(DockerSettings::default()),
            Some(n) => provider(n, groups)?,
        };
        let mut this = Self {
            path: None,
            digest: hex::encode(Sha256::digest(&root.source.text)),
            cluster,
            prefix,
            domain,
            engine,
            provider,
            ttl,
            hosts: Vec::new(),
            vars,
            ports,
            members: BTreeMap::new(),
            templates: BTreeMap::new(),
            targets: BTreeMap::new(),
        };
        let (defaults, given) = match provider_node.filter(|_| matches!(this.provider, ProviderSettings::Static(_))) {
            Some(n) => existing(n)?,
            None => Default::default(),
        };
        this.read_groups(groups, prefix_node, given)?;
        if let Some(n) = provider_node {
            this.find_routes(&defaults, n)?;
        }
        this.check_ports(groups.or(vars_node).unwrap_or(prefix_node))?;
        f.finish()?;
        Ok(this)
    }

    /// Refuses what would let a service listen elsewhere than others look for it.
    fn check_ports(&self, at: &Node) -> Result<()> {
        for host in self.hosts.iter().filter(|h| h.id.role().serves()) {
            if let Some(key) = self.ports.contradicted(&host.vars) {
                return Err(at
                    .error(format!("{}: `{key}` is one for the whole cluster", host.name))
                    .hint("set it under the `vars:` of the inventory"));
            }
            let config = host.vars.get("zookeeper_config").or_else(|| self.vars.get("zookeeper_config"));
            let own = config.and_then(|c| c.get("clientPort")).map(|p| p.as_str().map_or_else(|| p.to_string(), str::to_owned));
            if own.is_some_and(|own| own.trim() != self.ports.zookeeper.to_string()) {
                return Err(at
                    .error(format!("{}: `clientPort` of `zookeeper_config` reaches the coordinators only", host.name))
                    .hint("set `zookeeper_port` under the `vars:` of the inventory: brokers, checks and firewall follow it"));
            }
        }
        Ok(())
    }

    /// How hosts that exist are reached; each is one host only once.
    fn find_routes(&mut self, defaults: &Vars, at: &Node) -> Result<()> {
        let ProviderSettings::Static(settings) = &mut self.provider else { return Ok(()) };
        let mut places = HashSet::new();
        for host in &self.hosts {
            let target = self.targets.get(&host.id).map(String::as_str).unwrap_or_default();
            let found = static_hosts::host(target, host, &[defaults, &self.vars]).map_err(|why| at.error(why))?;
            if !places.insert((found.target.clone(), found.port)) {
                return Err(at.error(format!("`{}` is given twice", found.target)).hint("a host has one place in one group"));
            }
            settings.hosts.insert(host.id, found);
        }
        Ok(())
    }

    /// The same inventory under another prefix.
    pub fn with_prefix(&self, prefix: &str) -> Result<Self> {
        check_prefix(prefix).map_err(Error::invalid)?;
        let mut this = self.clone();
        this.prefix = prefix.to_owned();
        let names: BTreeMap<Group, Hostname> = self.templates.iter().map(|(g, t)| (*g, Hostname::new(t))).collect();
        for host in &mut this.hosts {
            host.name = match names.get(&host.id.group) {
                Some(template) => self.render_name(template, host.id, prefix)?,
                None => host.name.clone(),
            };
            check_name(&host.name).map_err(Error::invalid)?;
        }
        let mut names = HashSet::new();
        if let Some(twice) = this.hosts.iter().find(|h| !names.insert(&h.name)) {
            return Err(Error::invalid(format!("two hosts would be called `{}`", twice.name)));
        }
        Ok(this)
    }

    /// Hosts of a role.
    pub fn of(&self, role: Role) -> impl Iterator<Item = &Host> {
        self.hosts.iter().filter(move |h| h.id.role() == role)
    }

    /// Whether brokers keep the metadata too, and there are no coordinators.
    pub fn is_combined(&self) -> bool {
        self.engine.metadata() == Metadata::Kraft && self.of(Role::Coordinator).next().is_none()
    }

    /// Engine, mode, ports other than the usual ones, and the number of metadata servers, as recorded on the cluster's resources: what cannot be changed on a
    /// cluster that exists.
    pub fn shape(&self) -> String {
        let (mode, keepers) = if self.is_combined() { ("-combined", Role::Broker) } else { ("", Role::Coordinator) };
        format!("{}{mode}{}-{}", self.engine.kind(), self.ports.shape(self.engine.metadata()), self.of(keepers).count())
    }

    /// The node id of a host in Kafka's sense. Controllers have numbers of their own, behind those of any broker.
    pub fn node_id(id: HostId) -> i32 {
        match id.role() {
            Role::Coordinator => 100 + i32::from(id.index),
            _ => id.index.into(),
        }
    }

    /// Hosts that vote on Kafka's own metadata; none with ZooKeeper.
    pub fn voters(&self) -> Vec<&Host> {
        match (self.engine.metadata(), self.is_combined()) {
            (Metadata::Zookeeper, _) => Vec::new(),
            (Metadata::Kraft, true) => self.of(Role::Broker).collect(),
            (Metadata::Kraft, false) => self.of(Role::Coordinator).collect(),
        }
    }

    /// A host by its name, full name, or a name without its prefix (`kafka01`).
    pub fn find(&self, name: &str) -> Option<&Host> {
        let short = name.split('.').next().unwrap_or(name);
        self.hosts.iter().find(|h| h.name == short || h.name.strip_prefix(&self.prefix).and_then(|r| r.strip_prefix('-')) == Some(short))
    }

    /// The name with the domain, or the short name where there is none.
    pub fn fqdn(&self, host: &str) -> String {
        match &self.domain {
            Some(d) => format!("{host}.{d}"),
            None => host.to_owned(),
        }
    }

    /// How the user names this inventory.
    pub fn shown_path(&self) -> String {
        self.path.as_ref().map_or_else(|| "the built-in inventory".into(), |p| p.display().to_string())
    }
}

/// Whether a rendered host name can be one.
pub fn check_name(name: &str) -> Result<(), String> {
    if name.len() > 63 {
        return Err(format!("host name `{name}` has {} characters, a DNS label has at most 63", name.len()));
    }
    if !is_label(name) {
        return Err(format!("host name `{name}` is not a DNS label: lower-case letters, digits and `-` only"));
    }
    Ok(())
}

/// Variables of the user's.
fn variables(n: &Node) -> Result<Vars> {
    let vars = n.object()?;
    if vars.contains_key("septet") {
        return Err(n.error("`septet` holds Septet's own variables and cannot be set").hint("choose another name"));
    }
    Ok(vars)
}

/// Ports of an engine's listeners; `at` is where the variables stand.
fn read_ports(at: &Node, vars: &Vars, metadata: Metadata) -> Result<Ports> {
    let hint = match metadata {
        Metadata::Zookeeper => "each listener needs its own port; 2888 and 3888 are used between coordinators",
        Metadata::Kraft => "each listener needs its own port",
    };
    Ports::read(vars, metadata).map_err(|e| at.error(e).hint(hint))
}

/// A time as `90m`, `8h` or `2d`; a minute at the least, a year at the most.
fn duration(n: &Node) -> Result<Duration> {
    parse_duration(&n.as_written()?).map_err(|e| n.error(e))
}

/// A time as `90m`, `8h` or `2d`; what is wrong with it otherwise.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let bad = || format!("`{text}` is not a time such as 90m, 8h or 2d, from 1m to 365d");
    let split = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(bad)?;
    let seconds = match &text[split..] {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return Err(bad()),
    };
    let number: u64 = text[..split].parse().map_err(|_| bad())?;
    let total = number.checked_mul(seconds).filter(|t| (60..=365 * 86_400).contains(t)).ok_or_else(bad)?;
    Ok(Duration::from_secs(total))
}

fn provider(n: &Node, groups: Option<&Node>) -> Result<ProviderSettings> {
    let mut f = n.fields()?;
    let (docker, ec2, fixed) = (f.take("docker"), f.take("ec2"), f.take("static"));
    f.finish()?;
    match (docker, ec2, fixed) {
        (None, None, Some(_)) => Ok(ProviderSettings::Static(Box::default())),
        (Some(d), None, None) => docker_settings(d),
        (None, Some(e), None) => Ok(ProviderSettings::Ec2(Box::new(ec2::settings(e, &groups::names(groups)?)?))),
        (None, None, None) => Err(n.error("a provider is missing here").hint("write `docker: {}`, `ec2: {}` or `static: {hosts: …}`")),
        _ => Err(n.error("a cluster has one provider").hint("write `docker: {}`, `ec2: {}` or `static: {hosts: …}`")),
    }
}

/// Settings of hosts that exist: variables for all of them, and the hosts by group.
fn existing(n: &Node) -> Result<(Vars, static_hosts::Given)> {
    static_hosts::settings(n.fields()?.need("static")?)
}

fn docker_settings(d: &Node) -> Result<ProviderSettings> {
    let mut f = d.fields()?;
    let text = |n: Option<&Node>| n.map(Node::as_written).transpose();
    let subnet_node = f.take("subnet");
    let settings = DockerSettings {
        image: text(f.take("image"))?,
        subnet: text(subnet_node)?,
        ports_from: f.take("ports_from").map(|n| n.number(1024, 65000)).transpose()?.map(|p| p as u16),
    };
    if let (Some(s), Some(at)) = (&settings.subnet, subnet_node)
        && Subnet::parse(s).is_none()
    {
        return Err(at.error(format!("`{s}` is not a subnet with 24 bits, such as 10.20.30.0/24")));
    }
    f.finish()?;
    Ok(ProviderSettings::Docker(settings))
}

/// Identity of a host, under Ansible's names.
pub fn magic_vars(inventory: &Inventory, host: &Host) -> Vars {
    let mut v = Vars::new();
    let mut put = |k: &str, x: Value| v.insert(k.to_owned(), x);
    put("inventory_hostname", host.name.clone().into());
    put("inventory_hostname_short", host.name.clone().into());
    put("group_names", inventory.groups_of(host.id).into());
    v
}

/// What is the same for all hosts, under Ansible's names.
pub fn common_magic_vars(inventory: &Inventory) -> Vars {
    let mut v = Vars::new();
    let mut put = |k: &str, x: Value| v.insert(k.to_owned(), x);
    put("groups", inventory.groups_var());
    if let Some(path) = &inventory.path {
        put("inventory_file", path.display().to_string().into());
        put("inventory_dir", path.parent().map(|p| p.display().to_string()).unwrap_or_default().into());
    }
    v
}

/// Who a host is, under Septet's names; playbooks see them below `septet.`.
pub fn own_vars(inventory: &Inventory, host: &Host) -> Vars {
    let mut v = Vars::new();
    let mut put = |k: &str, x: Value| v.insert(k.to_owned(), x);
    put("fqdn", inventory.fqdn(&host.name).into());
    put("cluster", inventory.cluster.to_string().into());
    put("prefix", inventory.prefix.clone().into());
    put("domain", inventory.domain.clone().unwrap_or_default().into());
    put("engine", inventory.engine.name().into());
    put("provider", inventory.provider.name().into());
    put("metadata", inventory.engine.metadata().name().into());
    put("node_id", Inventory::node_id(host.id).into());
    put("role", host.id.group.label().into());
    put("index", host.id.index.into());
    v
}
