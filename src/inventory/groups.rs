//! `groups:`: which hosts there are, and the groups that they are in.
//!
//! A group makes hosts of its own (`count:`), or it gathers hosts (`hosts:`) and groups (`children:`), as Ansible's do. The engine's
//! groups are always there.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use serde_json::Value;

use super::{Engine, Group, Host, HostId, Inventory, Metadata, ProviderSettings, check_name, static_hosts::Given, variables};
use crate::{
    error::{Result, nearest},
    template::{Hostname, Vars},
    yaml::{Node, NodeKind},
};

/// Most hosts of a group of the user's.
const MAX_HOSTS: i64 = 10_000;
/// Most groups of an inventory.
const MAX_GROUPS: usize = 256;
/// Deepest nesting of `children:`.
const MAX_DEPTH: usize = 16;
/// Names that mean something else in patterns, or on labels.
const RESERVED: [(&str, &str); 4] = [
    ("all", "it has every host: variables of all hosts are below `vars:`"),
    ("ungrouped", "every host has a group"),
    ("broker", "did you mean `brokers`?"),
    ("coordinator", "did you mean `coordinators`?"),
];

/// A group that the engine needs.
struct Need {
    group: Group,
    least: i64,
    default: u16,
    most: i64,
    hostname: &'static str,
}

fn needs(engine: &Engine) -> [Need; 3] {
    let kraft = engine.metadata() == Metadata::Kraft;
    let need = |group, (least, default, most), hostname| Need { group, least, default, most, hostname };
    [
        need(Group::CONTROL, (1, 1, 1), "{{ prefix }}-control{{ index | pad(width=2) }}"),
        match kraft {
            // None: the brokers are controllers too.
            true => need(Group::COORDINATORS, (0, 3, 7), "{{ prefix }}-controller{{ index | pad(width=2) }}"),
            false => need(Group::COORDINATORS, (1, 3, 7), "{{ prefix }}-zk{{ index | pad(width=2) }}"),
        },
        need(Group::BROKERS, (1, 3, 100), "{{ prefix }}-kafka{{ index | pad(width=2) }}"),
    ]
}

/// Name of a free group's hosts; `_` cannot stand in one.
fn free_hostname(group: Group) -> String {
    format!("{{{{ prefix }}}}-{}{{{{ index | pad(width=2) }}}}", group.name().replace('_', "-"))
}

/// What is written of a group.
#[derive(Default)]
struct Spec<'a> {
    count: Option<&'a Node>,
    hostname: Option<&'a Node>,
    vars: Vars,
    /// `hosts:`: numbers of own hosts, or names of hosts of other groups
    hosts: Vec<(String, &'a Node, Vars)>,
    children: Vec<(Group, &'a Node)>,
}

/// Groups by name, in the order in which they are written.
struct Written<'a> {
    specs: Vec<(Group, &'a Node, Spec<'a>)>,
}

impl<'a> Written<'a> {
    fn read(root: Option<&'a Node>) -> Result<Self> {
        let mut this = Self { specs: Vec::new() };
        if let Some(root) = root {
            for (name, at, node) in root.fields()?.rest() {
                this.add(&name, at, node, 0)?;
            }
        }
        Ok(this)
    }

    fn add(&mut self, name: &str, at: &'a Node, node: &'a Node, depth: usize) -> Result<Group> {
        let group = group_name(name, at)?;
        if depth > MAX_DEPTH || self.specs.len() >= MAX_GROUPS {
            return Err(at.error(format!("more than {MAX_GROUPS} groups, or nested deeper than {MAX_DEPTH}")));
        }
        // A child that is only named is defined elsewhere.
        if depth > 0 && is_empty(node) {
            return Ok(group);
        }
        if self.specs.iter().any(|(g, ..)| *g == group) {
            return Err(at
                .error(format!("`{name}` is given twice"))
                .hint("keep one of them; a child that is defined elsewhere is only named"));
        }
        let place = self.specs.len();
        self.specs.push((group, at, Spec::default()));
        let mut spec = Spec::default();
        if !node.is_null() {
            let mut f = node.fields()?;
            spec.count = f.take("count");
            spec.hostname = f.take("hostname");
            spec.vars = f.take("vars").map_or_else(|| Ok(Vars::new()), variables)?;
            if let Some(n) = f.take("hosts").filter(|n| !n.is_null()) {
                spec.hosts = named(n)?
                    .into_iter()
                    .map(|(k, at, v)| Ok((k, at, v.map_or_else(|| Ok(Vars::new()), variables)?)))
                    .collect::<Result<_>>()?;
            }
            if let Some(n) = f.take("children").filter(|n| !n.is_null()) {
                for (child, at, inner) in named(n)? {
                    let child = match inner {
                        Some(inner) => self.add(&child, at, inner, depth + 1)?,
                        None => group_name(&child, at)?,
                    };
                    spec.children.push((child, at));
                }
            }
            f.finish()?;
        }
        self.specs[place].2 = spec;
        Ok(group)
    }

    /// The depth of each group below the top: what is deeper wins. An error where groups contain one another.
    fn depths(&self) -> Result<BTreeMap<Group, usize>> {
        let mut depths: BTreeMap<Group, usize> = self.specs.iter().map(|(g, ..)| (*g, 0)).collect();
        // Each round fixes one level more; a circle never comes to rest.
        for _ in 0..=self.specs.len() {
            let mut changed = false;
            for (group, _, spec) in &self.specs {
                let own = depths.get(group).copied().unwrap_or_default();
                for (child, at) in &spec.children {
                    let depth = depths.get_mut(child).ok_or_else(|| {
                        let e = at.error(format!("no group is called `{child}`"));
                        match nearest(child.name(), self.specs.iter().map(|(g, ..)| g.name())) {
                            Some(near) => e.hint(format!("did you mean `{near}`?")),
                            None => e,
                        }
                    })?;
                    if *depth < own + 1 {
                        *depth = own + 1;
                        changed = true;
                    }
                }
            }
            if !changed {
                return Ok(depths);
            }
        }
        let (_, at, _) = &self.specs[0];
        let inside = self.specs.iter().find(|(g, ..)| depths.get(g).is_some_and(|d| *d > self.specs.len()));
        let (group, at) = inside.map_or((self.specs[0].0, at), |(g, at, _)| (*g, at));
        Err(at.error(format!("`{group}` contains itself, by way of its `children`")))
    }
}

fn is_empty(node: &Node) -> bool {
    node.is_null() || matches!(&node.kind, NodeKind::Map(m) if m.is_empty())
}

/// A mapping of names to what belongs to them, or a list of names.
fn named(n: &Node) -> Result<Vec<(String, &Node, Option<&Node>)>> {
    match &n.kind {
        NodeKind::Map(_) => Ok(n.fields()?.rest().into_iter().map(|(k, at, v)| (k, at, Some(v))).collect()),
        _ => n.list().into_iter().map(|n| Ok((n.as_written()?, n, None))).collect(),
    }
}

pub(super) fn group_name(name: &str, at: &Node) -> Result<Group> {
    if let Some((_, why)) = RESERVED.iter().find(|(r, _)| *r == name) {
        return Err(at.error(format!("unknown key `{name}`")).hint(*why));
    }
    let group: Group = name.parse().map_err(|e: super::NotAGroup| at.error(format!("`{name}` is not a group: {e}")))?;
    let own = [Group::CONTROL, Group::COORDINATORS, Group::BROKERS];
    match nearest(name, own.iter().map(Group::name)) {
        Some(near) if !own.contains(&group) => Err(at.error(format!("unknown key `{name}`")).hint(format!("did you mean `{near}`?"))),
        _ => Ok(group),
    }
}

/// The names of all groups that are written, and of those that the engine needs; for settings that name groups.
pub(super) fn names(root: Option<&Node>) -> Result<BTreeSet<Group>> {
    let written = Written::read(root)?.specs.into_iter().map(|(g, ..)| g);
    Ok(written.chain([Group::CONTROL, Group::COORDINATORS, Group::BROKERS]).collect())
}

impl Inventory {
    /// Reads `groups:` into hosts, members and templates of names.
    pub(super) fn read_groups(&mut self, root: Option<&Node>, prefix_node: &Node, mut given: Given) -> Result<()> {
        let mut written = Written::read(root)?;
        for group in given.keys() {
            if !written.specs.iter().any(|(g, ..)| g == group) {
                written.specs.push((*group, prefix_node, Spec::default()));
            }
        }
        let exist = matches!(self.provider, ProviderSettings::Static(_)).then_some(());
        let needs = needs(&self.engine);
        for need in needs.iter().rev() {
            if !written.specs.iter().any(|(g, ..)| *g == need.group) {
                written.specs.insert(0, (need.group, prefix_node, Spec::default()));
            }
        }
        let depths = written.depths()?;
        // The engine's hosts come first, the others as they are written.
        written.specs.sort_by_key(|(g, ..)| g.role());
        let (mut taken, mut host_vars) = (HashSet::new(), BTreeMap::new());
        for (group, at, spec) in &written.specs {
            let need = needs.iter().find(|n| n.group == *group);
            let own = exist.map(|()| Self::existing(need.is_some(), spec, given.remove(group).unwrap_or_default()));
            self.make_hosts((*group, at), need, (spec, own), prefix_node, (&mut taken, &mut host_vars))?;
        }
        self.gather(&written, &mut host_vars)?;
        self.set_vars(&written, &depths, host_vars);
        Ok(())
    }

    /// The hosts of a group that exist: those of the provider's settings, then those that the group names as Ansible's groups do. A
    /// group that is not the engine's and has neither gathers hosts of others.
    fn existing(needed: bool, spec: &Spec<'_>, mut given: Vec<(String, Vars)>) -> Vec<(String, Vars)> {
        let is_own = needed || !given.is_empty() || spec.hosts.iter().any(|(_, _, v)| v.keys().any(|k| k.starts_with("ansible_")));
        let named = spec.hosts.iter().filter(|(key, ..)| is_own && key.parse::<u16>().is_err());
        given.extend(named.map(|(key, _, vars)| (key.clone(), vars.clone())));
        given
    }

    /// A group's own hosts.
    fn make_hosts(
        &mut self,
        (group, group_at): (Group, &Node),
        need: Option<&Need>,
        (spec, existing): (&Spec<'_>, Option<Vec<(String, Vars)>>),
        prefix_node: &Node,
        (taken, host_vars): (&mut HashSet<String>, &mut BTreeMap<HostId, Vars>),
    ) -> Result<()> {
        let coordinators = group == Group::COORDINATORS;
        let (least, mut count, most) = need.map_or((0, 0, MAX_HOSTS), |n| (n.least, n.default, n.most));
        if let Some(existing) = &existing {
            let there = existing.len() as i64;
            if !(least..=most).contains(&there) || (coordinators && there % 2 == 0 && there > 0) {
                let wanted = if coordinators { "1, 3, 5 or 7".to_owned() } else { format!("{least} to {most}") };
                let e = group_at.error(format!("{there} hosts for group `{group}`, which takes {wanted}"));
                return Err(e.hint(format!("name its hosts below `provider: {{static: {{hosts: {{{group}: [ADDRESS]}}}}}}`")));
            }
            if let Some(n) = spec.count.filter(|n| n.number(0, MAX_HOSTS).ok() != Some(there)) {
                return Err(n.error(format!("`{group}` has {there} hosts")).hint("leave `count` out: hosts that exist are counted"));
            }
            count = existing.len() as u16;
        } else if let Some(n) = spec.count {
            count = n.number(least, most).map_err(|e| if coordinators { e.hint("take 1, 3, 5 or 7") } else { e })? as u16;
            if coordinators && count % 2 == 0 && count > 0 {
                let e = n.error(format!("{count} coordinators"));
                return Err(e.hint("an even number fails as early as one less: take 1, 3, 5 or 7"));
            }
        }
        if need.is_some() || spec.count.is_some() {
            let own = |key: &str| existing.as_ref().is_some_and(|e| e.iter().any(|(t, _)| t == key));
            for (key, at, vars) in spec.hosts.iter().filter(|(key, ..)| !own(key)) {
                let index = key.parse::<u16>().ok().filter(|i| (1..=count).contains(i));
                let index = index.ok_or_else(|| at.error(format!("`{key}` is not a host number: 1 to {count}")))?;
                host_vars.insert(HostId { group, index }, vars.clone());
            }
        }
        let (template, at) = match spec.hostname {
            Some(n) => (n.as_written()?, n),
            None => (need.map_or_else(|| free_hostname(group), |n| n.hostname.to_owned()), prefix_node),
        };
        let names = Hostname::new(&template);
        for index in 1..=count {
            let id = HostId { group, index };
            let name = self.render_name(&names, id, &self.prefix).map_err(|e| at.error(e.message))?;
            if let Err(reason) = check_name(&name) {
                let hint = if std::ptr::eq(at, prefix_node) {
                    "choose a shorter prefix"
                } else {
                    "choose a shorter or simpler `hostname`, or a shorter prefix"
                };
                return Err(at.error(reason).hint(hint));
            }
            if !taken.insert(name.clone()) {
                let twice = format!("two hosts would be called `{name}`");
                return Err(match spec.hostname {
                    Some(at) => at.error(twice).hint("use {{ index }} in `hostname`"),
                    None => group_at.error(twice).hint("choose another name for the group, or give its hosts a `hostname`"),
                });
            }
            if let Some((target, vars)) = existing.as_ref().and_then(|e| e.get(usize::from(index) - 1)) {
                self.targets.insert(id, target.clone());
                host_vars.entry(id).or_default().extend(vars.clone());
            }
            self.hosts.push(Host { id, name, vars: Vars::new() });
        }
        self.templates.insert(group, template);
        Ok(())
    }

    /// Members of every group: its own hosts, those that it names, and those of its children.
    fn gather(&mut self, written: &Written<'_>, host_vars: &mut BTreeMap<HostId, Vars>) -> Result<()> {
        let mut members: BTreeMap<Group, BTreeSet<HostId>> = written.specs.iter().map(|(g, ..)| (*g, BTreeSet::new())).collect();
        for host in &self.hosts {
            members.entry(host.id.group).or_default().insert(host.id);
        }
        for (group, _, spec) in &written.specs {
            let makes = spec.count.is_some() || group.role() != super::Role::Plain || self.hosts.iter().any(|h| h.id.group == *group);
            for (name, at, vars) in spec.hosts.iter().filter(|_| !makes) {
                let host = self.find(name).map(|h| h.id).ok_or_else(|| {
                    let e = at.error(format!("no host is called `{name}`"));
                    match nearest(name, self.hosts.iter().map(|h| h.name.as_str())) {
                        Some(near) => e.hint(format!("did you mean `{near}`?")),
                        None => e.hint("a group with `count:` makes hosts; one without names hosts of other groups, as `kafka01`"),
                    }
                })?;
                members.entry(*group).or_default().insert(host);
                host_vars.entry(host).or_default().extend(vars.clone());
            }
        }
        // Children's children come in as often as there are levels.
        for _ in 0..written.specs.len() {
            let mut grown = false;
            for (group, _, spec) in &written.specs {
                for (child, _) in &spec.children {
                    let of_child = members.get(child).cloned().unwrap_or_default();
                    let own = members.entry(*group).or_default();
                    let before = own.len();
                    own.extend(of_child);
                    grown |= own.len() > before;
                }
            }
            if !grown {
                break;
            }
        }
        self.members = members;
        Ok(())
    }

    /// A host's variables: those of its groups, the innermost last, then its own.
    fn set_vars(&mut self, written: &Written<'_>, depths: &BTreeMap<Group, usize>, mut host_vars: BTreeMap<HostId, Vars>) {
        let mut order: Vec<(usize, &str, Group, &Vars)> = written
            .specs
            .iter()
            .filter(|(.., s)| !s.vars.is_empty())
            .map(|(g, _, s)| (depths.get(g).copied().unwrap_or_default(), g.name(), *g, &s.vars))
            .collect();
        order.sort_by(|a, b| (a.0, a.1).cmp(&(b.0, b.1)));
        for host in &mut self.hosts {
            for (.., group, vars) in &order {
                if self.members.get(group).is_some_and(|m| m.contains(&host.id)) {
                    host.vars.extend((*vars).clone());
                }
            }
            host.vars.extend(host_vars.remove(&host.id).unwrap_or_default());
        }
    }

    pub(super) fn render_name(&self, template: &Hostname, id: HostId, prefix: &str) -> Result<String> {
        let mut vars = Vars::new();
        vars.insert("prefix".into(), prefix.into());
        vars.insert("index".into(), id.index.into());
        vars.insert("role".into(), id.group.label().into());
        vars.insert("group".into(), id.group.name().into());
        vars.insert("cluster".into(), self.cluster.to_string().into());
        template.render(&vars)
    }

    /// The hosts of each group, in the inventory's order; `all` is none of them.
    pub fn members(&self) -> &BTreeMap<Group, BTreeSet<HostId>> {
        &self.members
    }

    /// Whether a host is in a group, directly or by way of its children.
    pub fn is_in(&self, id: HostId, group: &str) -> bool {
        group.parse::<Group>().ok().and_then(|g| self.members.get(&g)).is_some_and(|m| m.contains(&id))
    }

    /// The names of a host's groups, by name.
    pub fn groups_of(&self, id: HostId) -> Vec<&str> {
        let mut names: Vec<&str> = self.members.iter().filter(|(_, m)| m.contains(&id)).map(|(g, _)| g.name()).collect();
        names.sort_unstable();
        names
    }

    /// Hosts by group, as Ansible's `groups`.
    pub(super) fn groups_var(&self) -> Value {
        let mut groups = serde_json::Map::new();
        for (group, members) in &self.members {
            let names = self.hosts.iter().filter(|h| members.contains(&h.id)).map(|h| h.name.clone());
            groups.insert(group.name().into(), names.collect());
        }
        groups.insert("all".into(), self.hosts.iter().map(|h| h.name.clone()).collect());
        groups.insert("ungrouped".into(), Vec::<String>::new().into());
        groups.into()
    }
}
