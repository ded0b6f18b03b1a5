//! The planner: from what is wanted and what exists to the steps between. Pure and synchronous; `up` applies the
//! value that `plan` prints.

pub mod file;
pub mod stage;
pub mod step;

pub use file::{Basis, Digest, PlanFile};
pub use stage::{Order, Plan, Reason, Stage, StageKind};
pub use step::Step;

use crate::{
    error::{Error, Result},
    inventory::{HostId, Inventory, Ports},
    observed::{HostState, Observed, foreign},
};

/// What is known of a host before it is made.
fn about(inventory: &Inventory, observed: &Observed, id: HostId) -> String {
    let mut parts = Vec::new();
    if let Some(size) = inventory.provider.sizes(id.group).first() {
        parts.push(size.clone());
        if let Some(address) = observed.network.as_ref().and_then(|n| n.host(id)) {
            parts.push(format!("at {address}"));
        }
    }
    if let Some(kept) = observed.kept.get(&id) {
        let place = if kept.zone.is_empty() { String::new() } else { format!(" in {}", kept.zone) };
        parts.push(format!("with the data of {}{place}", kept.reference));
    } else if id.role().serves() && !(observed.hosts.is_empty() && observed.kept.is_empty()) {
        parts.push("without data: no volume of it exists".into());
    }
    parts.join(" ")
}

/// A shape without its number, and the number where there is one.
fn split_shape(shape: &str) -> (&str, Option<u16>) {
    match shape.rsplit_once('-').map(|(rest, number)| (rest, number.parse().ok())) {
        Some((rest, Some(number))) => (rest, Some(number)),
        _ => (shape, None),
    }
}

/// Refuses what cannot be changed on a cluster that exists: engine, mode, the number of metadata servers.
fn same_shape(is: &str, inventory: &Inventory) -> Result<()> {
    let wanted = inventory.shape();
    let ((is_kind, is_number), (wanted_kind, wanted_number)) = (split_shape(is), split_shape(&wanted));
    let ((is_kind, is_ports), (wanted_kind, wanted_ports)) = (Ports::split(is_kind), Ports::split(wanted_kind));
    // What was made before numbers were written down did not tell the combined mode either.
    let same = is_kind == wanted_kind || (is_number.is_none() && wanted_kind.strip_suffix("-combined") == Some(is_kind));
    if !same {
        return Err(Error::failed(format!("the cluster runs `{is}`, the inventory wants `{wanted}`: nothing was touched"))
            .hint("another engine or mode reads none of what is there: topics, records and offsets would be lost. Copy what you need with a client to a second cluster (another `cluster:` and `prefix:`); or `septet down`, then `septet up`"));
    }
    if is_ports != wanted_ports {
        return Err(other_ports(&is_ports, &wanted_ports));
    }
    match (is_number, wanted_number) {
        (Some(is), Some(wanted)) if is != wanted => {
            let who = if inventory.is_combined() { "brokers that are controllers too" } else { "coordinators" };
            let back = if inventory.is_combined() { "brokers" } else { "coordinators" };
            Err(Error::failed(format!("the cluster has {is} {who}, the inventory wants {wanted}: nothing was touched")).hint(format!(
                "this version does not change their number, since the quorum would be lost during the change: put `count: {is}` of the {back} back, or make a second cluster (another `cluster:` and `prefix:`)"
            )))
        }
        _ => Ok(()),
    }
}

/// The error that a cluster listens on other ports than those of the inventory.
fn other_ports(is: &[(&'static str, u16)], wanted: &[(&'static str, u16)]) -> Error {
    let of = |list: &[(&str, u16)], key: &str| list.iter().find(|(k, _)| *k == key).map(|(_, p)| *p).or_else(|| Ports::usual(key));
    let differs = |key: &&str| of(is, key) != of(wanted, key);
    let said = |list, name: &str| {
        let all = Ports::KEYS.iter().map(|(k, _)| *k).filter(differs);
        let all: Vec<String> = all.map(|k| format!("{k} {}", of(list, k).unwrap_or_default())).collect();
        format!("{name} {}", all.join(", "))
    };
    Error::failed(format!("{}, {}: nothing was touched", said(is, "the cluster has"), said(wanted, "the inventory wants"))).hint(
        "hosts would look for each other at the old ports during the change: put the values back under `vars:`, or make a second cluster (another `cluster:` and `prefix:`)",
    )
}

/// Makes the plan.
pub fn plan(inventory: &Inventory, observed: &Observed) -> Result<Plan> {
    let mut plan = Plan::default();
    if observed.uuid.is_some() {
        // What was made before engines were written down is of the only engine that there was.
        same_shape(observed.engine.as_deref().unwrap_or("bundled"), inventory)?;
    }
    if observed.network.is_none() {
        if let Some(host) = observed.hosts.iter().find(|h| !observed.rebuild.contains_key(&h.id)) {
            return Err(Error::failed(format!("the cluster's network is gone, but {} exists", host.name))
                .hint("`septet down --keep-data`, then `septet up`: the cluster is made again with the data that it has"));
        }
        plan.add(StageKind::Network, Step::CreateNetwork, Reason::Missing);
    }
    if let Some(extra) = observed.hosts.iter().find(|o| !inventory.hosts.iter().any(|h| h.id == o.id)) {
        return Err(Error::failed(format!(
            "{} (number {} of {}) is no longer in the inventory",
            extra.name, extra.id.index, extra.id.group
        ))
        .hint("this version does not shrink a cluster: put the host back into the inventory, or `septet down`"));
    }
    for adjustment in &observed.adjustments {
        plan.add(StageKind::Settings, Step::Adjust(adjustment.clone()), Reason::OtherSettings);
    }
    for host in &inventory.hosts {
        let name = || host.name.clone();
        if let Some(what) = observed.taken.get(&host.name) {
            return Err(foreign(&host.name, what));
        }
        let Some(is) = observed.host(host.id) else {
            let step = Step::Create { id: host.id, name: name(), about: about(inventory, observed, host.id) };
            plan.add(StageKind::Hosts, step, Reason::Missing);
            continue;
        };
        if let Some(kept) = observed.kept.get(&host.id) {
            let step = Step::Attach { id: host.id, name: name(), volume: kept.reference.clone() };
            plan.add(StageKind::Hosts, step, Reason::DataDetached);
        }
        if let Some(why) = observed.rebuild.get(&host.id) {
            plan.add(StageKind::Hosts, Step::Replace { id: host.id, name: name(), why: why.clone() }, Reason::Broken);
            continue;
        }
        let sizes = inventory.provider.sizes(host.id.group);
        let resize = match (&is.size, sizes.first()) {
            // One of the alternatives is what there was room for: it stays.
            (Some(from), Some(to)) if !sizes.contains(from) => {
                Some(Step::Resize { id: host.id, name: name(), from: from.clone(), to: to.clone() })
            }
            _ => None,
        };
        match is.state {
            HostState::Running => plan.extend(StageKind::Resize, resize, Reason::OtherSize),
            // Nothing is served by it: there is nothing to wait for.
            HostState::Stopped if resize.is_some() => plan.extend(StageKind::Hosts, resize, Reason::OtherSize),
            HostState::Stopped => plan.add(StageKind::Hosts, Step::Start { id: host.id, name: name() }, Reason::Stopped),
            HostState::Paused => plan.add(StageKind::Hosts, Step::Unpause { id: host.id, name: name() }, Reason::Paused),
            HostState::Unfinished => {
                let step = Step::Replace { id: host.id, name: name(), why: "made, but never started".into() };
                plan.add(StageKind::Hosts, step, Reason::Unfinished);
                continue;
            }
        }
        if is.name != host.name {
            let step = Step::Rename { id: host.id, from: is.name.clone(), to: name() };
            plan.add(StageKind::Rename, step, Reason::OtherName);
        }
    }
    Ok(plan)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::{
        address::Subnet,
        inventory::Group,
        inventory::ProviderSettings,
        observed::{Adjustment, KeptVolume, ObservedHost, ObservedNetwork, Opening, Place},
    };

    fn observed(inventory: &Inventory) -> Observed {
        let network = ObservedNetwork { reference: "n".into(), place: Place::Docker { subnet: Subnet::new(10, 1, 2), ports_from: 19000 } };
        let hosts = inventory.hosts.iter().map(|h| ObservedHost {
            id: h.id,
            reference: h.name.clone(),
            name: h.name.clone(),
            state: HostState::Running,
            address: network.host(h.id).unwrap(),
            public: None,
            host_key: String::new(),
            published: Default::default(),
            architecture: None,
            size: None,
            data_volume: None,
            data_is_new: false,
        });
        Observed {
            uuid: Some(crate::identity::ClusterId::nil()),
            network: Some(network.clone()),
            hosts: hosts.collect(),
            ..Observed::default()
        }
    }

    fn shown(p: &Plan) -> String {
        p.all().map(|s| format!("{s}\n")).collect()
    }

    #[test]
    fn from_nothing_everything_is_made_and_then_nothing() {
        let inventory = Inventory::built_in().unwrap();
        let p = plan(&inventory, &Observed::default()).unwrap();
        assert_eq!(p.all().count(), 8);
        assert_eq!(p.all().next(), Some(&Step::CreateNetwork));
        assert!(plan(&inventory, &observed(&inventory)).unwrap().is_empty());
    }

    /// Refused as it is, with the hint; planned once the inventory is as the hint says.
    fn refused_until(first: &str, wrong: &str, words: &str) {
        let read = |groups: &str| {
            let text = format!("cluster: local\nprefix: peter\ngroups: {{{groups}}}\n");
            Inventory::parse(std::path::Path::new("i.yml"), &text).unwrap()
        };
        let (is, wanted) = (read(first), read(wrong));
        let mut seen = observed(&is);
        seen.engine = Some(is.shape());
        let e = plan(&wanted, &seen).unwrap_err();
        assert!(e.hint.as_ref().is_some_and(|h| h.contains(words)), "{e}");
        assert!(plan(&is, &seen).unwrap().is_empty());
    }

    #[test]
    fn another_number_of_coordinators_is_refused_until_it_is_put_back() {
        refused_until("coordinators: {count: 3}", "coordinators: {count: 5}", "put `count: 3` of the coordinators back");
    }

    #[test]
    fn a_host_that_is_left_out_is_refused_until_it_is_put_back() {
        refused_until("brokers: {count: 3}", "brokers: {count: 2}", "put the host back into the inventory");
    }

    #[test]
    fn each_difference_has_its_step() {
        let inventory = Inventory::built_in().unwrap();
        let mut o = observed(&inventory);
        o.hosts[0].state = HostState::Stopped;
        o.hosts[1].state = HostState::Paused;
        o.hosts[2].state = HostState::Unfinished;
        o.hosts[3].name = "old-zk03".into();
        o.hosts.remove(6);
        assert_eq!(
            shown(&plan(&inventory, &o).unwrap()),
            "~ host peter-control01: start\n~ host peter-zk01: unpause\n± host peter-zk02 (made, but never started: made again, data is kept)\n+ host peter-kafka03 (without data: no volume of it exists)\n~ host old-zk03: rename to peter-zk03\n"
        );
    }

    #[test]
    fn a_network_that_is_gone_is_made_again_with_its_hosts() {
        let inventory = Inventory::built_in().unwrap();
        let mut o = observed(&inventory);
        o.network = None;
        // Where hosts cannot be made again in their place, the way that keeps data is named.
        let e = plan(&inventory, &o).unwrap_err().to_string();
        assert!(e.contains("`septet down --keep-data`") && !e.contains("lost"), "{e}");
        o.rebuild = o.hosts.iter().map(|h| (h.id, "its network is gone".to_owned())).collect();
        let p = plan(&inventory, &o).unwrap();
        assert_eq!(p.all().count(), 8);
        assert_eq!(p.all().next(), Some(&Step::CreateNetwork));
        assert_eq!(p.all().nth(1).unwrap().to_string(), "± host peter-control01 (its network is gone: made again, data is kept)");
    }

    fn on_ec2(types: &str) -> Inventory {
        let text = format!("cluster: c\nprefix: p\nprovider: {{ec2: {{instance_type: {types}}}}}\n");
        Inventory::parse(std::path::Path::new("i.yml"), &text).unwrap()
    }

    #[test]
    fn another_kind_of_machine_is_rolled_and_an_alternative_is_not() {
        let inventory = on_ec2("[m5.large, m5a.large]");
        assert!(matches!(inventory.provider, ProviderSettings::Ec2(_)));
        let mut o = observed(&inventory);
        for h in &mut o.hosts {
            h.size = Some("m5.large".into());
        }
        o.hosts[3].size = Some("m5a.large".into());
        assert!(plan(&inventory, &o).unwrap().is_empty());
        o.hosts[5].size = Some("t3.micro".into());
        o.hosts[6].size = Some("t3.micro".into());
        o.hosts[6].state = HostState::Stopped;
        let p = plan(&inventory, &o).unwrap();
        assert_eq!((p.of(&StageKind::Hosts).count(), p.of(&StageKind::Resize).count()), (1, 1));
        assert_eq!(
            p.of(&StageKind::Resize).next().unwrap().to_string(),
            "~ host p-kafka02: from t3.micro to m5.large, stopped and started"
        );
    }

    #[test]
    fn what_is_kept_and_what_is_mended_stand_in_the_plan() {
        let inventory = on_ec2("t3.small");
        let mut o = observed(&inventory);
        o.hosts.iter_mut().for_each(|h| h.size = Some("t3.small".into()));
        let gone = o.hosts.remove(4);
        o.kept.insert(gone.id, KeptVolume { reference: "vol-1".into(), zone: "us-east-1a".into() });
        let open = |p: i32, s: &str| Opening { protocol: "tcp".into(), from_port: p, to_port: p, source: s.into() };
        o.adjustments.push(Adjustment::Openings {
            group: "sg-1".into(),
            name: "control".into(),
            add: vec![open(22, "2.2.2.2/32")],
            remove: vec![open(22, "1.1.1.1/32")],
        });
        assert_eq!(
            shown(&plan(&inventory, &o).unwrap()),
            "~ group control: open 22 from 2.2.2.2/32; close 22 from 1.1.1.1/32\n+ host p-kafka01 (t3.small at 10.1.2.31 with the data of vol-1 in us-east-1a)\n"
        );
    }

    #[test]
    fn the_shape_of_a_cluster_stays() {
        let inventory = |engine: &str, groups: &str| {
            let text = format!("cluster: c\nprefix: p\nengine: {engine}\ngroups: {{{groups}}}\n");
            Inventory::parse(std::path::Path::new("i.yml"), &text).unwrap()
        };
        let combined = "coordinators: {count: 0}";
        let shapes = [
            ("bundled", "", "bundled-3"),
            ("{apache: {version: 3.9.1, metadata: zookeeper}}", "", "apache-zookeeper-3"),
            ("apache", "coordinators: {count: 5}", "apache-kraft-5"),
            ("apache", "coordinators: {count: 0}, brokers: {count: 4}", "apache-kraft-combined-4"),
        ];
        for (engine, groups, shape) in shapes {
            assert_eq!(inventory(engine, groups).shape(), shape);
        }
        let planned = |is: Option<&str>, wanted: &Inventory| {
            let mut o = observed(wanted);
            o.engine = is.map(str::to_owned);
            plan(wanted, &o).map(|p| shown(&p)).map_err(|e| e.to_string())
        };
        let refused = |is: Option<&str>, wanted: &Inventory, words: &[&str]| {
            let e = planned(is, wanted).unwrap_err();
            assert!(words.iter().all(|w| e.contains(w)), "{e}");
        };
        let (bundled, kraft, both) = (inventory("bundled", ""), inventory("apache", ""), inventory("apache", combined));
        for (is, wanted) in [
            (None, &bundled),
            (Some("bundled"), &bundled),
            (Some("bundled-3"), &bundled),
            (Some("apache-kraft"), &kraft),
            (Some("apache-kraft-3"), &kraft),
            (Some("apache-kraft"), &both),
            (Some("apache-kraft-combined-3"), &both),
        ] {
            assert_eq!(planned(is, wanted), Ok(String::new()), "{is:?}");
        }
        let other = ["nothing was touched", "would be lost"];
        for (is, wanted) in [
            (None, &kraft),
            (Some("apache-kraft-3"), &bundled),
            (Some("apache-zookeeper-3"), &kraft),
            (Some("apache-zookeeper"), &both),
            (Some("apache-kraft-3"), &both),
            (Some("apache-kraft-combined-3"), &kraft),
        ] {
            refused(is, wanted, &other);
        }
        refused(Some("apache-kraft-5"), &kraft, &["the cluster has 5 coordinators, the inventory wants 3", "put `count: 5`"]);
        refused(Some("bundled-1"), &bundled, &["the cluster has 1 coordinators", "second cluster"]);
        refused(Some("apache-kraft-combined-5"), &both, &["the cluster has 5 brokers that are controllers too"]);
        let ports = |vars: &str| {
            let text = format!("cluster: c\nprefix: p\nvars: {{{vars}}}\n");
            Inventory::parse(std::path::Path::new("i.yml"), &text).unwrap()
        };
        let (other, default) = (ports("kafka_port: 9192, zookeeper_port: 2182"), ports("kafka_port: 9092"));
        assert_eq!((other.shape().as_str(), default.shape().as_str()), ("bundled-k9192-z2182-3", "bundled-3"));
        assert!(other.shape().parse::<crate::identity::Shape>().is_ok());
        assert_eq!(planned(Some("bundled-k9192-z2182-3"), &other), Ok(String::new()));
        assert_eq!(planned(Some("bundled-3"), &default), Ok(String::new()));
        let said = ["the cluster has kafka_port 9092, zookeeper_port 2181, the inventory wants kafka_port 9192, zookeeper_port 2182"];
        refused(Some("bundled-3"), &other, &said);
        refused(
            Some("bundled-k9192-3"),
            &bundled,
            &["the cluster has kafka_port 9192, the inventory wants kafka_port 9092: nothing was touched"],
        );
        // Who is missing of the recorded number is made again.
        let mut o = observed(&kraft);
        o.engine = Some("apache-kraft-3".into());
        o.hosts.retain(|h| h.id != HostId { group: Group::COORDINATORS, index: 2 });
        assert_eq!(shown(&plan(&kraft, &o).unwrap()), "+ host p-controller02 (without data: no volume of it exists)\n");
    }

    #[test]
    fn others_property_and_surplus_hosts_are_refused() {
        let inventory = Inventory::built_in().unwrap();
        let mut o = observed(&inventory);
        o.hosts.pop();
        o.taken.insert("peter-kafka03".into(), "a container of image x".into());
        assert!(plan(&inventory, &o).unwrap_err().message.contains("left alone"));
        let mut o = observed(&inventory);
        o.hosts[6].id = HostId { group: Group::BROKERS, index: 4 };
        assert!(plan(&inventory, &o).unwrap_err().message.contains("no longer in the inventory"));
        let mut o = observed(&inventory);
        o.network = None;
        assert!(plan(&inventory, &o).is_err());
    }
}

#[cfg(test)]
mod file_tests;
