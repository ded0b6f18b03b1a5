#![allow(clippy::unwrap_used)]
use super::*;
use crate::events::{GateState, TaskStatus};

fn execution(number: i64, status: Status) -> Execution {
    Execution {
        execution: number,
        command: "up".into(),
        parameters: serde_json::json!({ "tags": "brokers" }),
        cluster: "local".into(),
        instance: 3,
        continues: (number > 1).then_some(number - 1),
        started_ms: 1_795_894_812_000,
        ended_ms: (!matches!(status, Status::Running | Status::Killed)).then_some(1_795_894_831_600),
        status,
        exit_code: (status == Status::Failed).then_some(1),
        phase: Some("configure".into()),
        who: "ann".into(),
        machine: "desk".into(),
        process: 77,
        directory: "/home/ann".into(),
        version: "0.1.0".into(),
        error: (status == Status::Failed).then(|| "failed on peter-kafka02".into()),
        hint: (status == Status::Failed).then(|| "`septet up` resumes from here".into()),
        left_out: 0,
    }
}

/// Local times depend on this machine's zone.
fn without_time(text: &str) -> String {
    let mut text = text.replace(&clock::local(1_795_894_812_000), "(local time)");
    // Its length decides the width of a column.
    while text.contains("   ") {
        text = text.replace("   ", "  ");
    }
    text
}

#[test]
fn the_list() {
    let all = [Status::Running, Status::Failed, Status::Interrupted, Status::Killed, Status::Completed];
    let list: Vec<Execution> = all.into_iter().zip([5, 4, 3, 2, 1]).map(|(s, n)| execution(n, s)).collect();
    insta::assert_snapshot!(without_time(&table(&list, 1_795_894_900_000)));
    assert_eq!(table(&[], 0), "nothing was run on this machine yet");
}

#[test]
fn one_execution_with_its_failure() {
    let step = |host: &str, task: &str, failed: i64, error: Option<&str>| Step {
        phase: "configure".into(),
        host: host.into(),
        task: task.into(),
        place: (!task.is_empty()).then(|| "playbooks/brokers.yml:12".into()),
        seconds: (host.is_empty() && task.is_empty()).then_some(10.5),
        ok: 3,
        changed: 1,
        failed,
        skipped: 2,
        ignored: 0,
        error: error.map(str::to_owned),
    };
    let steps = vec![
        step("", "", 1, None),
        step("", "Broker", 1, None),
        step("peter-kafka01", "", 0, None),
        step("peter-kafka02", "", 1, None),
        step("peter-kafka02", "Broker", 1, Some("kafka-server.service is failed\nsee its log\u{1b}[2J")),
    ];
    let details = Details { execution: execution(4, Status::Failed), steps };
    insta::assert_snapshot!(without_time(&shown(&details, 0)));
}

#[test]
fn the_output_again() {
    let task = |host: &str, status, msg: &str| Event::Task {
        host: host.into(),
        task: "Broker".into(),
        place: "brokers.yml:12".into(),
        item: None,
        status,
        msg: msg.into(),
        diff: None,
        module: "systemd".into(),
    };
    let gate = |state, reasons: &[&str]| Event::Gate {
        host: "peter-kafka02".into(),
        state,
        reasons: reasons.iter().map(|r| (*r).to_owned()).collect(),
    };
    let events = vec![
        Event::Phase { name: "configure".into() },
        Event::Step { summary: "+ host peter-kafka02".into() },
        Event::Play { name: "Brokers".into(), hosts: 3 },
        task("peter-kafka01", TaskStatus::Changed, ""),
        task("peter-kafka03", TaskStatus::Changed, ""),
        gate(GateState::Before, &[]),
        gate(GateState::Blocked, &["brokers: topic t has 2 of 3 replicas in sync: partition 0", "another"]),
        gate(GateState::After, &[]),
        gate(GateState::Open, &[]),
        Event::Progress { done: 1, total: 3, left_s: 95 },
        task("peter-kafka02", TaskStatus::Failed, "it does not start"),
        Event::Note { level: crate::events::Level::Warning, text: "old keys".into() },
        Event::PendingHandler { host: "peter-kafka02".into(), handler: "restart".into() },
        Event::Receipt { receipt: serde_json::json!({"cluster": "local", "removed": [{"kind": "volume", "name": "v"}], "left": []}) },
        Event::PhaseEnd { name: "configure".into(), seconds: 1.0, ok: false },
    ];
    insta::assert_snapshot!(replayed(events.into_iter().map(|e| (0, e)).collect(), false));
}
