//! Plays with `rolling: true`: which hosts are due, and in whose order they go.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::sync::Arc;

use futures_util::future::BoxFuture;
use septet::{
    error::{Error, Result},
    inventory::{HostId, Role},
    playbook::{Gate, Order, Recap},
};
use support::{Case, Ran};

/// Writes down what it is asked. Each role's order has its first host among those that serve nothing.
#[derive(Default)]
struct FakeGate(std::sync::Mutex<Vec<String>>);

impl FakeGate {
    fn note(&self, text: String) {
        self.0.lock().unwrap().push(text);
    }
}

fn short(id: HostId) -> String {
    format!("{}{}", id.role(), id.index)
}

impl Gate for FakeGate {
    fn order(&self, role: Role, hosts: Vec<HostId>) -> BoxFuture<'_, Result<Order>> {
        self.note(format!("order {role}: {}", hosts.iter().map(|h| short(*h)).collect::<Vec<_>>().join(" ")));
        let (first, mut then) = (hosts[..1].to_vec(), hosts[1..].to_vec());
        then.reverse();
        Box::pin(async move { Ok(Order { first, then, note: None }) })
    }
    fn before(&self, id: HostId) -> BoxFuture<'_, Result<()>> {
        self.note(format!("before {}", short(id)));
        Box::pin(async move {
            match short(id).as_str() {
                "broker2" => Err(Error::failed("a partition would be offline")),
                _ => Ok(()),
            }
        })
    }
    fn after(&self, id: HostId) -> BoxFuture<'_, Result<()>> {
        self.note(format!("after {}", short(id)));
        Box::pin(async { Ok(()) })
    }
}

/// The control host is due first, and says nothing of the brokers: each role has a gate of its own.
#[test]
fn a_rolling_play_over_several_roles_asks_each_roles_gate() {
    let gate = Arc::new(FakeGate::default());
    let case =
        Case::playbook("- hosts: all\n  gather_facts: false\n  rolling: true\n  tasks:\n    - {name: t, copy: {content: a, dest: /a}}\n")
            .options(|o| o.check = false);
    let (events, ended) = case.run_under(gate.clone());
    let asked = gate.0.lock().unwrap().clone();
    assert_eq!(
        asked,
        [
            "order control: control1",
            "order coordinator: coordinator1 coordinator2 coordinator3",
            "before coordinator3",
            "after coordinator3",
            "before coordinator2",
            "after coordinator2",
            "order broker: broker1 broker2 broker3",
            "before broker3",
            "after broker3",
            "before broker2",
        ]
    );
    let e = ended.unwrap_err();
    assert!(e.message.contains("the roll stopped before peter-kafka02: a partition would be offline"), "{e}");
    let touched: Vec<String> = Ran { events, recap: Recap::default() }.hosts_with("t");
    assert!(!touched.contains(&"peter-kafka02".to_owned()) && touched.len() == 6, "{touched:?}");
}

/// What a command does only a run shows, so its hosts are due, unless it is said to change nothing.
#[test]
fn a_rolling_play_of_commands_runs() {
    let asked = |task: &str| {
        let gate = Arc::new(FakeGate::default());
        let play = format!("- hosts: coordinators\n  gather_facts: false\n  rolling: true\n  tasks:\n    - {task}\n");
        let (_, ended) = Case::playbook(&play).options(|o| o.check = false).run_under(gate.clone());
        ended.unwrap();

        gate.0.lock().unwrap().clone()
    };
    let all = ["order coordinator: coordinator1 coordinator2 coordinator3", "before coordinator3", "after coordinator3"];
    for task in ["command: systemctl kill x", "{shell: 'true', register: r, changed_when: r.rc == 0}", "{command: x, loop: [1, 2]}"] {
        let asked = asked(task);
        assert_eq!(asked[..3], all, "{task}");
    }
    for task in ["{command: x --version, changed_when: false}", "{command: x, when: false}", "debug: {msg: x}"] {
        assert!(asked(task).is_empty(), "{task}");
    }
}
