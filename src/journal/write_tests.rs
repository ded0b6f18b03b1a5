#![allow(clippy::unwrap_used)]
use proptest::prelude::*;

use super::*;
use crate::journal::{Journal, store::tests::empty};

fn spec(command: &'static str, parameters: &'static str, pid: i64) -> Spec<'static> {
    Spec {
        cluster: "local",
        command,
        parameters,
        who: "ann".into(),
        machine: "m".into(),
        directory: "/d".into(),
        process: process(pid),
        now_ms: 1000 * pid,
    }
}

fn process(pid: i64) -> Process {
    Process { boot: "b".into(), pid, began: 10 * pid }
}

fn finish(db: &mut Connection, execution: i64, error: Option<&Error>) {
    let t = db.transaction().unwrap();
    end(&t, execution, &Ended::of(error), 99_000, 0).unwrap();
    t.commit().unwrap();
}

#[test]
fn what_has_not_succeeded_is_continued_by_the_same_command() {
    let mut db = empty();
    let dead = |_: &Process| false;
    let first = begin(&mut db, &spec("up", "{}", 1), dead).unwrap();
    assert_eq!(first, Begun { execution: 1, instance_began_ms: 1000, first: process(1), continues: None });
    // Killed: its process is gone.
    let second = begin(&mut db, &spec("up", "{}", 2), dead).unwrap();
    let continued = Continued { execution: 1, status: Status::Killed, started_ms: 1000, phase: None };
    // The first execution's process tells how long ago that was.
    assert_eq!(second, Begun { execution: 2, instance_began_ms: 1000, first: process(1), continues: Some(continued) });
    finish(&mut db, 2, Some(&Error::failed("no")));
    // Other parameters are another instance.
    assert_eq!(begin(&mut db, &spec("up", "{\"tags\":\"x\"}", 3), dead).unwrap().continues, None);
    let third = begin(&mut db, &spec("up", "{}", 4), dead).unwrap();
    assert_eq!(third.continues.map(|c| (c.execution, c.status)), Some((2, Status::Failed)));
    finish(&mut db, third.execution, None);
    // What succeeded is done.
    let fifth = Begun { execution: 5, instance_began_ms: 5000, first: process(5), continues: None };
    assert_eq!(begin(&mut db, &spec("up", "{}", 5), dead).unwrap(), fifth);
    let list = Journal::of(db).list(9, Some("local")).unwrap();
    let statuses: Vec<(i64, &str)> = list.iter().map(|e| (e.execution, e.status.name())).collect();
    assert_eq!(statuses, [(5, "running"), (4, "completed"), (3, "killed"), (2, "failed"), (1, "killed")]);
}

#[test]
fn what_has_done_its_work_and_failed_then_is_not_continued() {
    let mut db = empty();
    let dead = |_: &Process| false;
    let first = begin(&mut db, &spec("restart", "{}", 1), dead).unwrap();
    let t = db.transaction().unwrap();
    let ended = Ended::of(Some(&Error::failed("the cluster is not healthy"))).with_work_done(true);
    end(&t, first.execution, &ended, 99_000, 0).unwrap();
    t.commit().unwrap();
    let second = begin(&mut db, &spec("restart", "{}", 2), dead).unwrap();
    assert_eq!((second.continues, second.instance_began_ms), (None, 2000));
    let list = Journal::of(db).list(9, None).unwrap();
    assert_eq!(list.iter().map(|e| e.status.name()).collect::<Vec<_>>(), ["running", "failed"]);
}

#[test]
fn one_that_runs_is_not_continued_and_a_removal_leaves_nothing_to_continue() {
    let mut db = empty();
    begin(&mut db, &spec("up", "{}", 1), |_| true).unwrap();
    let second = begin(&mut db, &spec("up", "{}", 2), |_| true).unwrap();
    assert_eq!(second.continues, None);
    finish(&mut db, 1, Some(&Error::failed("no")));
    let down = begin(&mut db, &spec("down", "{}", 3), |_| true).unwrap();
    finish(&mut db, down.execution, None);
    assert_eq!(begin(&mut db, &spec("up", "{}", 4), |_| false).unwrap().continues, None);
}

#[test]
fn what_the_whole_cluster_went_through_leaves_nothing_to_continue() {
    for (command, parameters, left) in [("up", "{}", false), ("rename", "{\"prefix\":\"p\"}", false), ("up", "{\"tags\":\"x\"}", true)] {
        let mut db = empty();
        let cut_off = begin(&mut db, &spec("restart", "{}", 1), |_| true).unwrap();
        finish(&mut db, cut_off.execution, Some(&Error::failed("no")));
        let whole = begin(&mut db, &spec(command, parameters, 2), |_| true).unwrap();
        finish(&mut db, whole.execution, None);
        let next = begin(&mut db, &spec("restart", "{}", 3), |_| true).unwrap();
        assert_eq!(next.continues.is_some(), left, "{command} {parameters}");
        assert_eq!(next.instance_began_ms, if left { 1000 } else { 3000 });
    }
}

fn task(host: &str, task: &str, status: TaskStatus) -> Event {
    Event::Task {
        host: host.into(),
        task: task.into(),
        place: "p.yml:3".into(),
        item: None,
        status,
        msg: "because".into(),
        diff: None,
        module: "copy".into(),
    }
}

#[test]
fn events_are_written_counted_and_read_back() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("j.db");
    let open = || {
        let mut db = Connection::open(&path).unwrap();
        store::prepare(&mut db).unwrap();
        db
    };
    let mut db = open();
    let begun = begin(&mut db, &spec("up", "{}", 1), |_| true).unwrap();
    let writer = Writer::start(db, begun.execution).unwrap();
    let events = [
        Event::Phase { name: "configure".into() },
        task("a", "Files", TaskStatus::Changed),
        task("b", "Files", TaskStatus::Ok),
        task("b", "Unit", TaskStatus::Failed),
        Event::PhaseEnd { name: "configure".into(), seconds: 1.5, ok: false },
    ];
    events.iter().for_each(|e| writer.event(e));
    writer.end(Ended::of(Some(&Error::failed("failed on b")))).unwrap();
    let journal = Journal::of(open());
    let details = journal.details(1).unwrap();
    assert_eq!(
        (details.execution.status, details.execution.exit_code, details.execution.phase.as_deref()),
        (Status::Failed, Some(1), Some("configure"))
    );
    assert_eq!(details.execution.error.as_deref(), Some("failed on b"));
    let steps: Vec<String> = details
        .steps
        .iter()
        .map(|s| format!("{}|{}|{} {}/{}/{} {}", s.phase, s.host, s.task, s.ok, s.changed, s.failed, s.error.as_deref().unwrap_or("-")))
        .collect();
    let wanted = [
        "configure|| 0/0/1 -",
        "configure||Files 1/1/0 -",
        "configure||Unit 0/0/1 -",
        "configure|a| 0/1/0 -",
        "configure|b| 1/0/1 -",
        "configure|b|Unit 0/0/1 because",
    ];
    assert_eq!(steps, wanted);
    // What found nothing to do is only counted.
    let kept: Vec<Event> = journal.events(1).unwrap().into_iter().map(|(_, e)| e).collect();
    assert_eq!(kept, [events[0].clone(), events[1].clone(), events[3].clone(), events[4].clone()]);
    assert!(journal.details(7).is_err());
}

#[test]
fn a_locked_journal_is_an_error_at_the_end_and_no_wait_before() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("j.db");
    let mut db = Connection::open(&path).unwrap();
    store::prepare(&mut db).unwrap();
    db.busy_timeout(Duration::from_millis(50)).unwrap();
    let begun = begin(&mut db, &spec("up", "{}", 1), |_| true).unwrap();
    let mut other = Connection::open(&path).unwrap();
    let held = other.transaction_with_behavior(TransactionBehavior::Exclusive).unwrap();
    let writer = Writer::start(db, begun.execution).unwrap();
    let before = Instant::now();
    (0..MAX_WAITING * 2).for_each(|_| writer.event(&Event::note("x")));
    assert!(before.elapsed() < Duration::from_secs(2));
    assert!(writer.end(Ended::of(None)).is_err());
    drop(held);
}

proptest! {
    /// Whatever a run tells, the counts of a task are those of all hosts, and those of a host are those of all its tasks.
    #[test]
    fn counts_add_up(tasks in proptest::collection::vec((0..4u8, 0..3u8, 0..5u8), 0..60)) {
        let all = [TaskStatus::Ok, TaskStatus::Changed, TaskStatus::Failed, TaskStatus::Ignored, TaskStatus::Skipped];
        let mut steps = Steps { phase: "p".into(), rows: BTreeMap::new() };
        for (host, name, status) in &tasks {
            steps.add(&task(&format!("h{host}"), &format!("t{name}"), all[usize::from(*status)]));
        }
        let sum = |r: &Row| r.ok + r.changed + r.failed + r.skipped + r.ignored;
        let of = |hosts: bool| steps.rows.iter().filter(|((_, h, t), _)| h.is_empty() != hosts && t.is_empty() == hosts).map(|(_, r)| sum(r)).sum::<i64>();
        prop_assert_eq!(of(true), tasks.len() as i64);
        prop_assert_eq!(of(false), tasks.len() as i64);
        let failures: i64 = steps.rows.iter().filter(|((_, h, t), _)| !h.is_empty() && !t.is_empty()).map(|(_, r)| r.failed).sum();
        prop_assert_eq!(failures, tasks.iter().filter(|t| t.2 == 2).count() as i64);
    }
}
