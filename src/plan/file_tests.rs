//! Plan files as they are written, read and compared.
#![allow(clippy::unwrap_used)]

use std::{collections::BTreeMap, path::Path};

use proptest::prelude::*;

use super::{Basis, Digest, Order, Plan, PlanFile, Reason, StageKind, Step, file::SeenHost};
use crate::{
    error::Kind,
    identity::{ClusterId, ClusterName},
    inventory::{Group, HostId},
    observed::{Adjustment, HostState, Opening},
};

fn broker(index: u16) -> HostId {
    HostId { group: Group::BROKERS, index }
}

fn basis() -> Basis {
    let host = |index| SeenHost {
        id: broker(index),
        name: format!("p-kafka0{index}"),
        reference: format!("id{index}"),
        state: HostState::Running,
        size: None,
    };
    Basis {
        septet: "0.1.0".into(),
        inventory: Digest::of("inventory"),
        playbooks: Digest::of("playbooks"),
        options: Digest::of("options"),
        programs: BTreeMap::from([("septet-broker".into(), "a".repeat(64))]),
        network: Some("n".into()),
        shape: Some("bundled-3".into()),
        hosts: (1..4).map(host).collect(),
    }
}

fn task(index: u16, diff: &str) -> Step {
    let (name, place) = (format!("p-kafka0{index}"), "brokers.yml:33".into());
    Step::Task { id: broker(index), name, task: "Configuration".into(), place, item: None, diff: Some(Digest::of(diff).into()) }
}

fn plan() -> Plan {
    let mut plan = Plan::default();
    let play = StageKind::Play { name: "Brokers, running".into() };
    plan.add_in(play, Order::Rolling, task(1, "x"), Reason::Differs);
    plan.add(StageKind::Names, Step::RemoveNames { names: ["old".to_owned()].into() }, Reason::Renamed);
    plan.add(StageKind::Hosts, Step::Start { id: broker(2), name: "p-kafka02".into() }, Reason::Stopped);
    plan.add(StageKind::Network, Step::CreateNetwork, Reason::Missing);
    plan
}

fn of(cluster: &str, uuid: Option<&str>, basis: Basis, plan: Plan) -> PlanFile {
    let cluster: ClusterName = cluster.parse().unwrap();
    PlanFile::new(&cluster, uuid.map(|u| u.parse::<ClusterId>().unwrap()), basis, plan, "2026-11-29T01:00:00Z".into())
}

const ID: &str = "0123e456-e89b-42d3-a456-426614174000";

fn one() -> PlanFile {
    of("lab", Some(ID), basis(), plan())
}

/// The error between a plan of then and one of now.
fn differs(now: PlanFile) -> String {
    one().is_still(&now).unwrap_err().to_string()
}

#[test]
fn stages_follow_one_another_whatever_was_added_first() {
    let text = serde_json::to_value(plan()).unwrap();
    let stages: Vec<&str> = text.as_array().unwrap().iter().map(|s| s["stage"].as_str().unwrap()).collect();
    assert_eq!(stages, ["network", "hosts", "play", "names"]);
    let rolling = &text[2];
    assert_eq!((&rolling["order"], &rolling["name"]), (&"rolling".into(), &"Brokers, running".into()));
    assert_eq!((&rolling["steps"][0]["step"], &rolling["steps"][0]["reason"]), (&"task".into(), &"differs".into()));
    // What is inside of hosts is not the provider's.
    assert_eq!(plan().of_provider().all().count(), 2);
}

#[test]
fn what_has_changed_since_is_named() {
    assert_eq!(one().is_still(&one()), Ok(()));
    let head = "the plan of 2026-11-29T01:00:00Z does not apply any more: nothing was touched\n";
    let anew = "hint: `septet plan --out FILE` makes a new one";
    let mut now = basis();
    now.inventory = Digest::of("another");
    now.programs.insert("septet-broker".into(), "b".repeat(64));
    now.hosts[0].state = HostState::Stopped;
    now.hosts[1].reference = "another".into();
    now.hosts.remove(2);
    assert_eq!(
        differs(of("lab", Some(ID), now, plan())),
        format!(
            "{head}  the inventory was changed\n  septet-broker: was aaaaaaaaaaaa, is bbbbbbbbbbbb\n  p-kafka01: was running, is stopped\n  p-kafka02: was made again\n  and 1 more\n{anew}"
        )
    );
    let mut steps = Plan::default();
    steps.add(StageKind::Network, Step::CreateNetwork, Reason::Missing);
    steps.add(StageKind::Hosts, Step::Start { id: broker(3), name: "p-kafka03".into() }, Reason::Stopped);
    let text = differs(of("lab", Some(ID), basis(), steps));
    assert!(text.contains("to be done now, and not in the plan: ~ host p-kafka03: start"), "{text}");
    assert!(text.contains("in the plan, and not to be done now: ~ host p-kafka02: start"), "{text}");
    // The same task with another result.
    let mut other = plan();
    other.stages.iter_mut().flat_map(|s| &mut s.steps).for_each(|s| {
        if let Step::Task { diff, .. } = &mut s.step {
            *diff = None;
        }
    });
    assert!(differs(of("lab", Some(ID), basis(), other)).contains("p-kafka01: Configuration"));
    let text = differs(of("lab", Some("1123e456-e89b-42d3-a456-426614174000"), basis(), plan()));
    assert!(text.starts_with("the plan is for another cluster called `lab`"), "{text}");
    assert!(differs(of("lab", None, basis(), plan())).contains("the cluster does not exist any more"));
    let e = one().is_still(&of("other", Some(ID), basis(), plan())).unwrap_err();
    assert!(e.kind == Kind::Invalid && e.to_string().contains("the inventory is of `other`"), "{e}");
}

fn read(text: &[u8]) -> Result<PlanFile, String> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("p");
    std::fs::write(&path, text).unwrap();
    PlanFile::read(&path).map_err(|e| {
        assert_eq!(e.kind, Kind::Invalid);
        e.to_string().replace(&dir.path().display().to_string(), "DIR")
    })
}

#[test]
fn what_is_no_plan_is_refused() {
    let whole = serde_json::to_string(&one()).unwrap();
    assert_eq!(read(whole.as_bytes()), Ok(one()));
    let newer = whole.replace("\"septet_plan\":1", "\"septet_plan\":2");
    assert_eq!(
        read(newer.as_bytes()).unwrap_err(),
        "DIR/p: a plan of format 2; this septet reads format 1\nhint: `septet plan --out FILE` makes a new one"
    );
    // A newer format may look like anything else.
    assert!(read(b"{\"septet_plan\": 7, \"stages\": 3}").unwrap_err().contains("a plan of format 7"));
    for (from, to) in [
        ("\"lab\"", "\"../lab\""),
        (ID, "../../x"),
        ("\"hosts\"", "\"hostz\""),
        ("\"parallel\"", "\"sideways\""),
        ("\"group\":\"brokers\"", "\"group\":\"-o\""),
        (Digest::of("inventory").short(), "--inventory=x"),
    ] {
        assert!(whole.contains(from), "{from}");
        let e = read(whole.replacen(from, to, 1).as_bytes()).unwrap_err();
        assert!(e.contains("not a plan"), "{to}: {e}");
    }
    for bad in ["", "[]", "{}", "cluster: lab", &"[".repeat(100_000), &whole[..whole.len() / 2]] {
        assert!(read(bad.as_bytes()).unwrap_err().contains("not a plan"));
    }
    let dir = tempfile::tempdir().unwrap();
    assert!(PlanFile::read(dir.path()).unwrap_err().message.ends_with("not a file"));
    assert!(PlanFile::read(Path::new("/dev/zero")).unwrap_err().message.ends_with("not a file"));
    let huge = dir.path().join("huge");
    std::fs::File::create(&huge).unwrap().set_len(65 * 1024 * 1024).unwrap();
    assert!(PlanFile::read(&huge).unwrap_err().message.contains("larger than 64 MiB"));
}

#[test]
fn only_its_owner_reads_a_plan() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("p");
    std::fs::write(&path, "what was there").unwrap();
    one().write(&path).unwrap();
    assert_eq!(PlanFile::read(&path).unwrap(), one());
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    assert!(one().write(&dir.path().join("none/p")).is_err());
}

fn step() -> impl Strategy<Value = Step> {
    let text = "[ -~äß\u{202e}\n]{0,12}";
    let host = (1..200u16, text, text, text).prop_map(|(i, a, b, c)| (broker(i), a, b, c));
    (host, 0..12u8).prop_map(|((id, name, a, b), kind)| match kind {
        0 => Step::CreateNetwork,
        1 => Step::Create { id, name, about: a },
        2 => Step::Replace { id, name, why: a },
        3 => Step::Start { id, name },
        4 => Step::Resize { id, name, from: a, to: b },
        5 => Step::Attach { id, name, volume: a },
        6 => Step::PlantKey { id, name },
        7 => Step::Task { id, name, task: a.clone(), place: b, item: Some(a), diff: None },
        11 => Step::SetEnd { ttl_s: u64::from(id.index) },
        8 => Step::RemoveNames { names: [name, a, b].into() },
        9 => {
            let open = |source: String| Opening { protocol: "tcp".into(), from_port: 22, to_port: 23, source };
            Step::Adjust(Adjustment::Openings { group: name, name: a.clone(), add: vec![open(a)], remove: vec![open(b)] })
        }
        _ => Step::Adjust(Adjustment::Tags { name, ids: vec![a.clone()], tags: [(a, b)].into() }),
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn a_plan_is_read_as_it_was_written(steps in proptest::collection::vec((step(), 0..4u8), 0..20)) {
        let mut plan = Plan::default();
        for (step, kind) in steps {
            match kind {
                0 => plan.add(StageKind::Settings, step, Reason::OtherSettings),
                1 => plan.add(StageKind::Hosts, step, Reason::Missing),
                2 => plan.add_in(StageKind::Keys, Order::Rolling, step, Reason::KeyRefused),
                _ => plan.add_in(StageKind::Play { name: "p".into() }, Order::Parallel, step, Reason::Differs),
            }
        }
        let file = of("lab", None, basis(), plan);
        let again = read(serde_json::to_string_pretty(&file).unwrap().as_bytes()).unwrap();
        prop_assert_eq!(&again, &file);
        prop_assert_eq!(again.is_still(&file), Ok(()));
    }

    #[test]
    fn no_bytes_make_reading_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        drop(read(&bytes));
    }
}
