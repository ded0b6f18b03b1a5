//! A compromised host opens channels to the client, above all to its agent.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use septet::{
    engine::bundle::Program,
    health::Checker,
    inventory::{Group, HostId, Inventory},
    observed::{HostState, Observed, ObservedHost},
    ssh::Fleet,
};

use crate::ssh_server::{Behaviour, HOST_BOUND, Host, Seen, USER, new_key};

const CONTROL: HostId = HostId::CONTROL;
const BROKER: HostId = HostId { group: Group::BROKERS, index: 1 };
const AGENT: &str = "0123";

fn program(dir: &tempfile::TempDir) -> Program {
    let path = dir.path().join("agent");
    std::fs::write(&path, "an agent").unwrap();
    Program { path, digest: AGENT.into(), peer_protocol: None }
}

fn fleet(hosts: &[(HostId, &Host)], program: &Program) -> Arc<Fleet> {
    let endpoints = hosts.iter().map(|(id, h)| (*id, h.endpoint.clone())).collect();
    let agents = hosts.iter().map(|(id, _)| (*id, program.clone())).collect();
    Arc::new(Fleet::new(endpoints, USER, Arc::new(new_key()), agents))
}

fn observed(id: HostId, host: &Host) -> ObservedHost {
    ObservedHost {
        id,
        reference: String::new(),
        name: host.endpoint.name.clone(),
        state: HostState::Running,
        address: [127, 0, 0, 1].into(),
        public: None,
        host_key: host.endpoint.host_key.clone(),
        published: BTreeMap::new(),
        architecture: None,
        size: None,
        data_volume: None,
        data_is_new: false,
    }
}

/// Waits until a host has tried everything at a moment.
async fn has_tried(host: &Host, when: &str) {
    let last = format!("direct-streamlocal at {when}");
    for _ in 0..400 {
        if host.seen.lock().unwrap().tried.contains(&last) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("{} did not come to {when}: {:?}", host.endpoint.name, host.seen.lock().unwrap().tried);
}

#[track_caller]
fn got_nothing(host: &Host) {
    let Seen { opened, signed, .. } = &*host.seen.lock().unwrap();
    assert!(opened.is_empty() && signed.is_empty(), "{}: opened {opened:?}, signed {signed:?}", host.endpoint.name);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_host_opens_a_channel_while_health_runs() {
    let behaviour = || Behaviour { agent: AGENT.into(), has_agent: true, ..Default::default() };
    let (control, broker) = (Host::start("control", new_key(), behaviour()).await, Host::start("broker", new_key(), behaviour()).await);
    let dir = tempfile::tempdir().unwrap();
    let fleet = fleet(&[(CONTROL, &control), (BROKER, &broker)], &program(&dir));
    let inventory = Inventory::built_in().unwrap();
    let observed = Observed { hosts: vec![observed(CONTROL, &control), observed(BROKER, &broker)], ..Default::default() };
    let report = Checker { inventory: &inventory, observed: &observed, fleet: Some(&fleet) }.check().await;
    // It came as far as the broker itself.
    assert!(report.problems.iter().any(|p| p.host == "broker"), "{report:?}");
    assert!(!report.problems.iter().any(|p| p.reason.contains("SSH")), "{report:?}");
    for host in [&control, &broker] {
        let id = if host.endpoint.name == "control" { CONTROL } else { BROKER };
        let out = fleet.connection(id).await.unwrap().exec("true", &[], Duration::from_secs(5)).await.unwrap();
        assert_eq!(out.code, Some(0));
        for when in ["connect", "exec"] {
            has_tried(host, when).await;
        }
        got_nothing(host);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_control_host_gets_the_one_signature_that_a_transfer_needs() {
    let (control_key, broker_key, other_key) = (new_key(), new_key(), new_key());
    let blob = |key: &russh::keys::PrivateKey| Some(key.public_key().to_bytes().unwrap());
    let requests = vec![
        ("publickey", None),
        (HOST_BOUND, blob(&control_key)),
        (HOST_BOUND, blob(&other_key)),
        (HOST_BOUND, None),
        (HOST_BOUND, blob(&broker_key)),
        (HOST_BOUND, blob(&broker_key)),
    ];
    let behaviour = Behaviour { agent: AGENT.into(), has_agent: true, requests, ..Default::default() };
    let control = Host::start("control", control_key, behaviour).await;
    let broker = Host::start("broker", broker_key, Behaviour { agent: AGENT.into(), ..Default::default() }).await;
    let dir = tempfile::tempdir().unwrap();
    let fleet = fleet(&[(CONTROL, &control), (BROKER, &broker)], &program(&dir));

    // The broker lacks the agent, so the control host is to hand it on; it fails, so the agent is sent from here.
    fleet.agent(BROKER, None).await.unwrap();
    has_tried(&control, "after the transfer").await;
    has_tried(&broker, "exec").await;
    let relay = control.seen.lock().unwrap().relay.clone();
    // The last is about the channel that it left open.
    assert_eq!(relay, [false, false, false, false, true, false, false]);
    got_nothing(&broker);
    {
        // While the transfer runs it may open another agent channel, over which it gets nothing.
        let Seen { opened, signed, .. } = &*control.seen.lock().unwrap();
        assert!(opened.iter().all(|o| o == "agent at exec") && signed.is_empty(), "opened {opened:?}, signed {signed:?}");
    }

    // Having asked for a login without a host, it is not used again.
    let relays = || control.seen.lock().unwrap().commands.iter().filter(|c| c.contains("ssh -F")).count();
    assert_eq!(relays(), 1);
    assert!(fleet.control().await.unwrap().cannot_relay());
}
