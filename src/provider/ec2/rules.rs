//! Who may reach what: one security group per role, one for what all hosts have in common, and the way from other rules to these.
//!
//! Invariants: the wanted rules follow from the inventory alone; what is opened is opened before anything is closed, and the
//! group of all hosts, in which earlier versions had the rules of every role, is closed last, after the hosts are members of
//! their role's groups.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use septet_ec2::{Client, Group, Instance, Rule, RuleSource};

use super::{Ec2, network::when_known, policy::explain, tags};
use crate::{
    engine::listeners::{Listener, Purpose},
    error::{Error, Result},
    inventory::{HostId, Role, Security, VpcChoice},
    observed::{Adjustment, Opening},
    provider::SSH_PORT,
};

/// Everything, for lessons.
const ANYWHERE: &str = "0.0.0.0/0";
/// How long EC2 may take until other groups of an instance count. What depended on rules that are closed is cut otherwise.
const MEMBERSHIP_DELAY: Duration = Duration::from_secs(3);
/// How long EC2 may take to show other groups of an instance.
const MEMBERSHIP_TIMEOUT: Duration = Duration::from_secs(30);

/// What a security group is for. In the order in which they are changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Coordinators,
    Brokers,
    Control,
    /// all hosts
    Hosts,
}

impl Kind {
    pub const ALL: [Kind; 4] = [Kind::Coordinators, Kind::Brokers, Kind::Control, Kind::Hosts];

    /// As in the tag `septet:group`, in names of groups, and as the source of an [`Opening`].
    pub fn name(self) -> &'static str {
        match self {
            Kind::Coordinators => "coordinators",
            Kind::Brokers => "brokers",
            Kind::Control => "control",
            Kind::Hosts => "hosts",
        }
    }

    /// The security groups of a role's hosts.
    pub fn of_role(role: Role) -> &'static [Self] {
        match role {
            Role::Control => &[Kind::Control, Kind::Hosts],
            Role::Coordinator => &[Kind::Coordinators, Kind::Hosts],
            Role::Broker => &[Kind::Brokers, Kind::Hosts],
            Role::Plain => &[Kind::Hosts],
        }
    }
}

/// The group of a kind.
pub fn find(groups: &[Group], kind: Kind) -> Option<&Group> {
    groups.iter().find(|g| g.tags.get(tags::GROUP).is_some_and(|k| k == kind.name()))
}

/// What decides over the rules.
#[derive(Debug, Clone)]
struct Wishes<'a> {
    security: Security,
    listeners: &'a [Listener],
    ssh_from: &'a [String],
    external_from: &'a [String],
}

impl Wishes<'_> {
    /// What a group is to let in, and nothing else.
    fn openings(&self, kind: Kind) -> Vec<Opening> {
        let open = |from: u16, to: u16, source: &str| Opening {
            protocol: "tcp".into(),
            from_port: from.into(),
            to_port: to.into(),
            source: source.to_owned(),
        };
        let of = |port: u16, kinds: &[Kind]| kinds.iter().map(|k| open(port, port, k.name())).collect::<Vec<_>>();
        let from = |port: u16, list: &[String]| list.iter().map(|c| open(port, port, c)).collect::<Vec<_>>();
        let mut out = match kind {
            Kind::Hosts => match self.security {
                Security::Classroom => vec![open(0, 65535, ANYWHERE)],
                Security::Least => of(SSH_PORT, &[Kind::Control]),
            },
            Kind::Control => from(SSH_PORT, self.ssh_from),
            Kind::Coordinators => self.served(Role::Coordinator, of),
            Kind::Brokers => self.served(Role::Broker, of),
        };
        if kind == Kind::Brokers {
            let outside = self.listeners.iter().filter(|l| l.purpose == Purpose::External);
            outside.for_each(|l| out.extend(from(l.port, self.external_from)));
        }
        out.sort();
        out.dedup();
        out
    }

    /// What the listeners of a role let in from the cluster's other hosts.
    fn served(&self, role: Role, of: impl Fn(u16, &[Kind]) -> Vec<Opening>) -> Vec<Opening> {
        let kinds = |l: &Listener| l.from.iter().filter_map(|r| Kind::of_role(*r).first().copied()).collect::<Vec<_>>();
        self.listeners.iter().filter(|l| l.role == role).flat_map(|l| of(l.port, &kinds(l))).collect()
    }
}

/// A rule as it is shown: groups of ours by their kind.
fn opening(r: &Rule, groups: &[Group]) -> Opening {
    let source = match &r.source {
        RuleSource::Cidr(c) => c.clone(),
        RuleSource::Group(id) => {
            let ours = Kind::ALL.into_iter().find(|k| find(groups, *k).is_some_and(|g| g.id == *id));
            ours.map_or_else(|| id.clone(), |k| k.name().to_owned())
        }
    };
    Opening { protocol: r.protocol.clone(), from_port: r.from_port, to_port: r.to_port, source }
}

/// A rule as EC2 takes it. An error if it names a group that does not exist.
fn rule(o: &Opening, groups: &[Group]) -> Result<Rule> {
    let source = match Kind::ALL.into_iter().find(|k| k.name() == o.source) {
        Some(kind) => {
            let group = find(groups, kind).ok_or_else(|| {
                Error::failed(format!("the security group `{}` no longer exists", kind.name())).hint("run `septet up` again")
            })?;
            RuleSource::Group(group.id.clone())
        }
        None if o.source.starts_with("sg-") => RuleSource::Group(o.source.clone()),
        None => RuleSource::Cidr(o.source.clone()),
    };
    Ok(Rule { protocol: o.protocol.clone(), from_port: o.from_port, to_port: o.to_port, source })
}

/// What is to be opened and closed so that just the wanted rules hold.
fn difference(is: &[Opening], wanted: &[Opening]) -> (Vec<Opening>, Vec<Opening>) {
    let add = wanted.iter().filter(|o| !is.contains(o)).cloned().collect();
    let remove = is.iter().filter(|o| !wanted.contains(o)).cloned().collect();
    (add, remove)
}

impl Ec2 {
    /// The groups that the cluster has.
    pub(super) fn kinds(&self) -> Vec<Kind> {
        let has = |role| self.hosts.iter().any(|h| h.id.role() == role);
        Kind::ALL.into_iter().filter(|k| *k != Kind::Coordinators || has(Role::Coordinator)).collect()
    }

    /// What each group is to let in.
    async fn wanted(&self) -> Result<Vec<(Kind, Vec<Opening>)>> {
        let ssh_from = self.ssh_from().await?;
        let wishes = self.wishes(&ssh_from);
        Ok(self.kinds().into_iter().map(|kind| (kind, wishes.openings(kind))).collect())
    }

    fn wishes<'a>(&'a self, ssh_from: &'a [String]) -> Wishes<'a> {
        Wishes { security: self.settings.security, listeners: &self.listeners, ssh_from, external_from: &self.settings.external_from }
    }

    /// Resources of a new cluster beside its hosts, and their openings; makes no calls.
    pub(super) fn planned_resources(&self) -> Vec<String> {
        let mut out = Vec::new();
        if let VpcChoice::New { cidr } = &self.settings.vpc {
            out.push(format!("VPC {cidr} with subnets, a route table and an internet gateway"));
        }
        let own = || vec![self.caller.get().cloned().unwrap_or_else(|| "this machine's address".to_owned())];
        let ssh_from = self.settings.ssh_from.clone().unwrap_or_else(own);
        let wishes = self.wishes(&ssh_from);
        for kind in self.kinds() {
            let open: Vec<String> = wishes.openings(kind).iter().map(ToString::to_string).collect();
            let open = if open.is_empty() { "nothing".to_owned() } else { open.join(", ") };
            out.push(format!("security group {}: lets in {open}", kind.name()));
        }
        out.push("key pair: the cluster's login key, kept in this user's state directory".to_owned());
        let with_data = self.hosts.iter().filter(|h| self.data_volume(h.id.role()).is_some()).count();
        if let Some(v) = self.settings.volume.as_ref().filter(|_| with_data > 0) {
            let size = v.size.map(|s| format!(", {s} GiB")).unwrap_or_default();
            let encrypted = if v.encrypted { ", encrypted" } else { "" };
            let fate = if self.data_ends() { "end with the cluster's life" } else { "outlive their hosts" };
            out.push(format!("{with_data} data volumes (gp3{size}{encrypted}), which {fate}"));
        }
        out
    }

    /// What of groups and memberships is otherwise than wanted, in the order in which it is mended.
    pub(super) async fn rule_adjustments(&self) -> Result<Vec<Adjustment>> {
        let (groups, instances): (Vec<Group>, Vec<(HostId, Instance)>) = {
            let seen = self.seen();
            (seen.groups.clone(), seen.instances.iter().map(|(id, i)| (*id, i.clone())).collect())
        };
        let mut out = Vec::new();
        let mut last = None;
        for (kind, wanted) in self.wanted().await? {
            let group = find(&groups, kind);
            let is: Vec<Opening> = group.map(|g| g.rules.iter().map(|r| opening(r, &groups)).collect()).unwrap_or_default();
            let (add, remove) = difference(&is, &wanted);
            if group.is_some() && add.is_empty() && remove.is_empty() {
                continue;
            }
            // `create_network` makes a group that is missing, under this name.
            let uuid = groups.iter().find_map(|g| tags::marks(&g.tags)).map(|m| m.cluster);
            let name = match (group, uuid) {
                (Some(g), _) => g.name.clone(),
                (None, Some(uuid)) => self.group_name(uuid, kind),
                (None, None) => continue,
            };
            let adjustment = Adjustment::Openings { group: group.map(|g| g.id.clone()).unwrap_or_default(), name, add, remove };
            match kind {
                Kind::Hosts => last = Some(adjustment),
                _ => out.push(adjustment),
            }
        }
        let mut changes: BTreeMap<[Vec<String>; 2], Vec<(String, String)>> = BTreeMap::new();
        for (id, instance) in &instances {
            let wanted = Kind::of_role(id.role());
            let is = |kind: Kind| find(&groups, kind).is_some_and(|g| instance.groups.contains(&g.id));
            let join: Vec<String> = wanted.iter().filter(|k| !is(**k)).map(|k| k.name().to_owned()).collect();
            let leave: Vec<String> = Kind::ALL.iter().filter(|k| !wanted.contains(k) && is(**k)).map(|k| k.name().to_owned()).collect();
            if !(join.is_empty() && leave.is_empty()) {
                changes.entry([join, leave]).or_default().push((self.name_of(*id), instance.id.clone()));
            }
        }
        out.extend(changes.into_iter().map(|([join, leave], hosts)| {
            let (names, ids): (Vec<String>, Vec<String>) = hosts.into_iter().unzip();
            Adjustment::Membership { name: names.join(", "), ids, join, leave }
        }));
        out.extend(last);
        Ok(out)
    }

    /// Opens what is to be open, in groups that were there and in new ones; closes nothing.
    pub(super) async fn open_all(&self, client: &Client, groups: &[Group]) -> Result<()> {
        for (kind, wanted) in self.wanted().await? {
            let Some(group) = find(groups, kind) else { continue };
            let is: Vec<Opening> = group.rules.iter().map(|r| opening(r, groups)).collect();
            let (add, _) = difference(&is, &wanted);
            self.allow(client, group, &add, groups).await?;
        }
        Ok(())
    }

    async fn allow(&self, client: &Client, group: &Group, add: &[Opening], groups: &[Group]) -> Result<()> {
        if add.is_empty() {
            return Ok(());
        }
        let rules = add.iter().map(|o| rule(o, groups)).collect::<Result<Vec<_>>>()?;
        let allowed = when_known(|| Box::pin(client.allow(&group.id, &rules))).await;
        allowed.map_err(|e| explain(&format!("cannot change what {} lets in", group.name), e))
    }

    /// Opens and closes ports of one group.
    pub(super) async fn adjust_openings(&self, id: &str, name: &str, add: &[Opening], remove: &[Opening]) -> Result<()> {
        let client = self.client().await?;
        let groups = self.seen().groups.clone();
        let group = groups.iter().find(|g| if id.is_empty() { g.name == name } else { g.id == id });
        let group =
            group.ok_or_else(|| Error::failed(format!("the security group {name} no longer exists")).hint("run `septet up` again"))?;
        // Opened first: this machine may be about to be let in by it.
        self.allow(client, group, add, &groups).await?;
        if remove.is_empty() {
            return Ok(());
        }
        let rules = remove.iter().map(|o| rule(o, &groups)).collect::<Result<Vec<_>>>()?;
        client.disallow(&group.id, &rules).await.map_err(|e| explain(&format!("cannot change what {name} lets in"), e))
    }

    /// Makes instances members of the groups of their roles, and of none of our others. Groups of others stay.
    pub(super) async fn adjust_membership(&self, name: &str, ids: &[String]) -> Result<()> {
        let client = self.client().await?;
        let doing = format!("cannot change the security groups of {name}");
        let fail = |e| explain(&doing, e);
        let wanted: BTreeMap<String, BTreeSet<String>> = {
            let seen = self.seen();
            let of = |id: &HostId, i: &Instance| {
                let own = Kind::of_role(id.role()).iter().filter_map(|k| find(&seen.groups, *k)).map(|g| g.id.clone());
                let others = i.groups.iter().filter(|g| !seen.groups.iter().any(|ours| ours.id == **g)).cloned();
                (i.id.clone(), own.chain(others).collect())
            };
            seen.instances.iter().filter(|(_, i)| ids.contains(&i.id)).map(|(id, i)| of(id, i)).collect()
        };
        for (id, groups) in &wanted {
            let list: Vec<String> = groups.iter().cloned().collect();
            when_known(|| Box::pin(client.modify_groups(id, &list))).await.map_err(fail)?;
        }
        let ids: Vec<String> = wanted.keys().cloned().collect();
        let until = tokio::time::Instant::now() + MEMBERSHIP_TIMEOUT;
        loop {
            let is = client.instances_by_id(&ids).await.map_err(fail)?;
            let of = |id: &String| is.iter().find(|i| i.id == *id).map(|i| i.groups.iter().cloned().collect::<BTreeSet<_>>());
            if wanted.iter().all(|(id, groups)| of(id).as_ref() == Some(groups)) {
                break;
            }
            if tokio::time::Instant::now() > until {
                return Err(Error::failed(format!("{doing}: they are not listed")).hint("run `septet up` again"));
            }
            self.waiting(tokio::time::sleep(Duration::from_millis(500))).await;
        }
        self.waiting(tokio::time::sleep(MEMBERSHIP_DELAY)).await;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::{engine::listeners::listeners, inventory::Inventory};

    fn of(more: &str) -> Vec<Listener> {
        listeners(&Inventory::parse(std::path::Path::new("i.yml"), &format!("cluster: c\nprefix: p\n{more}")).unwrap())
    }

    fn wishes(listeners: &[Listener]) -> Wishes<'_> {
        Wishes { security: Security::Least, listeners, ssh_from: &[], external_from: &[] }
    }

    fn shown(w: &Wishes, kind: Kind) -> String {
        w.openings(kind).iter().map(Opening::to_string).collect::<Vec<_>>().join(", ")
    }

    #[test]
    fn each_role_lets_in_what_it_serves_from_those_who_need_it() {
        let own = ["10.0.0.0/8".to_owned()];
        let bundled = of("");
        let zookeeper = Wishes { ssh_from: &own, external_from: &own, ..wishes(&bundled) };
        assert_eq!(
            shown(&zookeeper, Kind::Coordinators),
            "2181 from brokers, 2181 from control, 2181 from coordinators, 2888 from coordinators, 3888 from coordinators"
        );
        assert_eq!(shown(&zookeeper, Kind::Brokers), "9092 from brokers, 9092 from control, 19092 from 10.0.0.0/8");
        assert_eq!(shown(&zookeeper, Kind::Control), "22 from 10.0.0.0/8");
        assert_eq!(shown(&zookeeper, Kind::Hosts), "22 from control");
        let apache = "engine: {apache: {version: 4.1.1}}\n";
        let listeners = of(apache);
        let kraft = wishes(&listeners);
        assert_eq!(shown(&kraft, Kind::Coordinators), "9093 from brokers, 9093 from control, 9093 from coordinators");
        assert_eq!(shown(&kraft, Kind::Brokers), "9092 from brokers, 9092 from control");
        let listeners = of(&format!("{apache}groups: {{coordinators: {{count: 0}}}}\n"));
        let combined = wishes(&listeners);
        assert_eq!(shown(&combined, Kind::Coordinators), "");
        assert_eq!(shown(&combined, Kind::Brokers), "9092 from brokers, 9092 from control, 9093 from brokers, 9093 from control");
        let listeners = of("vars: {kafka_port: 9192, external_port: 29092, zookeeper_port: 2182}\ngroups: {clients: {count: 1}}\n");
        let other = Wishes { external_from: &own, ..wishes(&listeners) };
        assert_eq!(shown(&other, Kind::Brokers), "9192 from brokers, 9192 from control, 9192 from hosts, 29092 from 10.0.0.0/8");
        assert!(shown(&other, Kind::Coordinators).starts_with("2182 from brokers, 2182 from control, 2182 from coordinators, "));
    }

    #[test]
    fn a_group_is_brought_to_just_the_wanted_rules() {
        let group = |kind: Kind| Group {
            id: format!("sg-{}", kind.name()),
            name: kind.name().into(),
            vpc: String::new(),
            rules: Vec::new(),
            tags: [(tags::GROUP.to_owned(), kind.name().to_owned())].into(),
        };
        let groups = [group(Kind::Control), group(Kind::Hosts)];
        let r = |source: RuleSource| Rule { protocol: "tcp".into(), from_port: 22, to_port: 22, source };
        let is: Vec<Opening> =
            [RuleSource::Cidr("1.1.1.1/32".into()), RuleSource::Group("sg-hosts".into()), RuleSource::Group("sg-other".into())]
                .map(|s| opening(&r(s), &groups))
                .to_vec();
        let (add, remove) = difference(&is, &wishes(&of("")).openings(Kind::Hosts));
        let shown = |list: &[Opening]| list.iter().map(Opening::to_string).collect::<Vec<_>>().join(", ");
        assert_eq!(
            (shown(&add).as_str(), shown(&remove).as_str()),
            ("22 from control", "22 from 1.1.1.1/32, 22 from hosts, 22 from sg-other")
        );
        assert_eq!(rule(&add[0], &groups).unwrap(), r(RuleSource::Group("sg-control".into())));
        for o in &remove {
            assert_eq!(opening(&rule(o, &groups).unwrap(), &groups), *o);
        }
        assert!(rule(&add[0], &groups[1..]).is_err(), "the group is not there");
    }
}
