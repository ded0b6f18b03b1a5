//! The inventory's settings of the provider `static`: hosts that exist.
//!
//! They are named below `provider: {static: {hosts: …}}` by group, or below `groups:` as in Ansible's inventories; how one is reached
//! stands in variables under Ansible's names (`ansible_host`, `ansible_user`, `ansible_port`, …), of the host, its groups or all.

use std::{collections::BTreeMap, net::IpAddr, path::PathBuf};

use serde_json::Value;

use super::{Group, Host, HostId, groups::group_name};
use crate::{
    error::Result,
    template::Vars,
    visible::Secret,
    yaml::{Node, NodeKind},
};

/// Settings of hosts that exist.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StaticSettings {
    /// How each host is reached.
    pub hosts: BTreeMap<HostId, StaticHost>,
    /// Whether unknown host keys are accepted and written to `known_hosts`; asked for on the command line only.
    pub accept_new: bool,
    /// Whether a removal leaves out hosts that cannot be reached; asked for on the command line only.
    pub ignore_unreachable: bool,
    /// For `sudo` on hosts that have none of their own; asked for on the command line only.
    pub become_password: Option<Secret>,
    /// `--forks`: hosts that are asked at the same time; 0 for the usual number.
    pub forks: usize,
}

/// How a host is reached, as far as the inventory says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StaticHost {
    /// An address, a name, or a `Host` of OpenSSH's configuration.
    pub target: String,
    /// Login name.
    pub user: Option<String>,
    /// Port of sshd.
    pub port: Option<u16>,
    /// A private key.
    pub key: Option<PathBuf>,
    /// Another configuration of OpenSSH's than the user's own.
    pub config: Option<PathBuf>,
    /// The address that the other hosts reach it at; `None` for the one that sshd was reached at.
    pub address: Option<IpAddr>,
    /// For `sudo`.
    pub become_password: Option<Secret>,
    /// A file with the password for `sudo` on its first line.
    pub become_password_file: Option<PathBuf>,
}

/// Hosts by group in the order of their numbers: what each is called, and its variables.
pub(super) type Given = BTreeMap<Group, Vec<(String, Vars)>>;

/// The settings' own words, and the variables that Ansible has for the same.
const WORDS: [(&str, &str); 8] = [
    ("host", "ansible_host"),
    ("user", "ansible_user"),
    ("port", "ansible_port"),
    ("key", "ansible_ssh_private_key_file"),
    ("ssh_config", "septet_ssh_config"),
    ("address", "septet_address"),
    ("become_password", "ansible_become_password"),
    ("become_password_file", "ansible_become_password_file"),
];

/// Reads the settings: variables for all hosts, and hosts by group.
pub(super) fn settings(n: &Node) -> Result<(Vars, Given)> {
    let (mut vars, mut given) = (Vars::new(), Given::new());
    if n.is_null() {
        return Ok((vars, given));
    }
    let mut f = n.fields()?;
    let hosts = f.take("hosts").filter(|h| !h.is_null());
    for (word, name) in WORDS.iter().skip(1) {
        if let Some(value) = f.take(word) {
            vars.insert((*name).to_owned(), value.value());
        }
    }
    f.finish()?;
    if let Some(hosts) = hosts {
        for (name, at, of_group) in hosts.fields()?.rest() {
            given.insert(group_name(&name, at)?, list(of_group)?);
        }
    }
    Ok((vars, given))
}

/// A host, a list of hosts, or a mapping of hosts to their variables.
fn list(n: &Node) -> Result<Vec<(String, Vars)>> {
    // `{host: ADDRESS, …}` is one host; a mapping of hosts has mappings, or nothing, as values.
    let is_host = |(k, v): &(Node, Node)| k.written() == Some("host") && matches!(&v.kind, NodeKind::Scalar(v) if !v.is_null());
    if let NodeKind::Map(fields) = &n.kind
        && !fields.iter().any(is_host)
    {
        return n.fields()?.rest().into_iter().map(|(name, _, vars)| Ok((name, words(vars.object()?)))).collect();
    }
    let one = |n: &Node| match &n.kind {
        NodeKind::Map(_) => {
            let mut vars = words(n.object()?);
            match vars.remove("ansible_host") {
                Some(Value::String(host)) => Ok((host, vars)),
                _ => Err(n.error("a host is missing here").hint("write its address or name, or `{host: ADDRESS, user: NAME}`")),
            }
        }
        _ => Ok((n.as_written()?, Vars::new())),
    };
    n.list().into_iter().map(one).collect()
}

fn words(vars: Vars) -> Vars {
    let name = |k: String| WORDS.iter().find(|(w, _)| *w == k).map_or(k, |(_, n)| (*n).to_owned());
    vars.into_iter().map(|(k, v)| (name(k), v)).collect()
}

/// Variables of Ansible's that Septet does not follow: the values that change nothing here, and what to do instead.
const NOT_FOLLOWED: [(&[&str], &[&str], &str); 6] = [
    (
        &["ansible_ssh_common_args", "ansible_ssh_extra_args", "ansible_ssh_args", "ansible_ssh_executable"],
        &[],
        "write it into the OpenSSH configuration that `ssh_config:` names",
    ),
    (&["ansible_connection"], &["ssh", "smart", "ansible.builtin.ssh"], "hosts are reached over SSH"),
    (
        &["ansible_password", "ansible_ssh_pass", "ansible_ssh_password"],
        &[],
        "logins are by key: `key:`, an agent, or the OpenSSH configuration",
    ),
    (&["ansible_become_method"], &["sudo", "ansible.builtin.sudo"], "root's rights are had by `sudo`"),
    (&["ansible_become_user"], &["root"], "Septet installs as root"),
    (
        &["ansible_host_key_checking", "ansible_ssh_host_key_checking"],
        &["true", "yes"],
        "host keys are always checked; `--accept-new` accepts unknown ones once",
    ),
];

/// What is wrong with a variable that would be expected to have an effect.
fn not_followed<'a>(host: &Host, value: impl Fn(&[&str]) -> Option<&'a Value>) -> Option<String> {
    NOT_FOLLOWED.iter().flat_map(|(names, fine, instead)| names.iter().map(move |name| (name, fine, instead))).find_map(
        |(name, fine, instead)| {
            let given = value(&[name])?;
            let text = given.as_str().map_or_else(|| given.to_string(), str::to_owned).to_lowercase();
            (!fine.contains(&text.as_str())).then(|| format!("{}: `{name}` is not followed: {instead}", host.name))
        },
    )
}

/// How a host is reached: its own variables win over those of all hosts.
pub(super) fn host(target: &str, host: &Host, all: &[&Vars]) -> std::result::Result<StaticHost, String> {
    let value = |names: &[&str]| {
        names.iter().find_map(|n| host.vars.get(*n).or_else(|| all.iter().find_map(|v| v.get(*n))).filter(|v| !v.is_null()))
    };
    if let Some(why) = not_followed(host, value) {
        return Err(why);
    }
    let text = |names: &[&str]| -> std::result::Result<Option<String>, String> {
        match value(names) {
            None => Ok(None),
            Some(Value::String(s)) if s.contains("{{") => {
                Err(format!("{}: `{}` is not rendered here; write the value itself", host.name, names[0]))
            }
            Some(Value::String(s)) => Ok(Some(s.clone())),
            Some(Value::Number(n)) => Ok(Some(n.to_string())),
            Some(_) => Err(format!("{}: `{}` is not a string", host.name, names[0])),
        }
    };
    let port = text(&["ansible_port", "ansible_ssh_port"])?;
    let port =
        port.map(|p| p.parse::<u16>().ok().filter(|p| *p > 0).ok_or_else(|| format!("{}: `{p}` is not a port", host.name))).transpose()?;
    let address = text(&["septet_address"])?;
    let address = address.map(|a| a.parse().map_err(|_| format!("{}: `{a}` is not an address", host.name))).transpose()?;
    Ok(StaticHost {
        target: text(&["ansible_host", "ansible_ssh_host"])?.unwrap_or_else(|| target.to_owned()),
        user: text(&["ansible_user", "ansible_ssh_user"])?,
        port,
        key: text(&["ansible_ssh_private_key_file", "ansible_private_key_file"])?.map(expand),
        config: text(&["septet_ssh_config"])?.map(expand),
        address,
        become_password: text(&["ansible_become_password", "ansible_become_pass", "ansible_sudo_pass"])?.map(Secret::new),
        become_password_file: text(&["ansible_become_password_file"])?.map(expand),
    })
}

fn expand(path: String) -> PathBuf {
    match path.strip_prefix("~/").zip(dirs::home_dir()) {
        Some((rest, home)) => home.join(rest),
        None => PathBuf::from(path),
    }
}
