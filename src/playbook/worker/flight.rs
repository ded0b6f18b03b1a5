//! Actions in flight on one host: their answers, judged by the task's conditions, and reported in the
//! order of the tasks.

use std::time::Duration;

use septet_agent_protocol::{Outcome, Request, Status};
use serde_json::{Map, Value, json};

use super::{Stop, Worker, evaluate::holds, next_batch};
use crate::{
    error::Result,
    modules::Prepared,
    playbook::{
        TaskStatus,
        model::{Task, Work},
    },
    ssh::{AgentSession, Blob, SshError},
    stop,
    template::{Renderer, is_template},
    yaml::{Node, NodeKind},
};

/// An answer that is here or on its way, with what it takes to ask again.
pub(super) enum Answer {
    Ready(Box<Outcome>),
    /// of an item whose `when` does not hold
    Skipped,
    Coming {
        pending: crate::ssh::Pending,
        request: Box<Request>,
        tail: Vec<u8>,
        blob: Option<Blob>,
    },
}

pub(super) struct Item {
    pub(super) label: Option<Value>,
    pub(super) answer: Answer,
}

/// What became of an item.
pub(super) struct Completed {
    pub(super) label: Option<Value>,
    pub(super) outcome: Outcome,
    /// its `when` did not hold
    pub(super) left: bool,
}

pub(super) struct Flight<'a> {
    pub(super) task: &'a Task,
    pub(super) items: Vec<Item>,
    pub(super) looped: bool,
    pub(super) handler: bool,
}

impl<'a> Worker<'a> {
    /// Waits for all actions in flight and reports their results.
    pub(super) async fn flush(&mut self) -> Result<(), Stop> {
        let mut flights = std::mem::take(&mut self.flights);
        self.in_flight = 0;
        self.unknown.clear();
        self.batch = next_batch();
        for i in 0..flights.len() {
            let mut results = Vec::new();
            for j in 0..flights[i].items.len() {
                let outcome = match self.outcome(&mut flights, i, j).await {
                    Ok(o) => o,
                    Err(e) => {
                        // What other items of the task did is done all the same.
                        self.count_and_report(flights[i].task, flights[i].handler, &results);
                        return Err(self.lost(&e));
                    }
                };
                let (label, left) = (flights[i].items[j].label.clone(), matches!(flights[i].items[j].answer, Answer::Skipped));
                let outcome = if left { outcome } else { self.judge(flights[i].task, label.as_ref(), outcome).await? };
                let not_run = outcome.status == Status::NotRun;
                results.push(Completed { label, outcome, left });
                if not_run {
                    break;
                }
            }
            // Nothing of this task began, and nothing of those behind it.
            if self.stopping() && results.iter().all(|r| r.left || r.outcome.status == Status::NotRun) {
                return Ok(());
            }
            let (task, looped, handler) = (flights[i].task, flights[i].looped, flights[i].handler);
            self.conclude(task, looped, handler, results)?;
        }
        Ok(())
    }

    /// The outcome of one request; a blob that the host lacks is sent, and everything from there on asked again.
    async fn outcome(&mut self, flights: &mut [Flight<'a>], i: usize, j: usize) -> Result<Outcome, SshError> {
        for _ in 0..3 {
            let (outcome, blob, stopped) = match &mut flights[i].items[j].answer {
                Answer::Ready(o) => return Ok((**o).clone()),
                Answer::Skipped => return Ok(Outcome::new(Status::Skipped)),
                Answer::Coming { pending, blob, request, .. } => {
                    let outcome = self.answer(pending).await?;
                    let stopped = outcome.status == Status::Failed && !request.ignore_errors;
                    (outcome, blob.clone(), stopped)
                }
            };
            let lacks = outcome.status == Status::Failed && outcome.values.contains_key("missing_blob");
            let (Some(blob), Some(agent), true) = (blob, self.agent.clone(), lacks) else {
                flights[i].items[j].answer = Answer::Ready(Box::new(outcome.clone()));
                // The rest of a loop's items run all the same; behind them there is nothing yet.
                if let (true, Some(agent)) = (stopped && j + 1 < flights[i].items.len() && !self.stopping(), self.agent.clone()) {
                    self.ask_again(&agent, flights, i, j + 1).await?;
                }
                return Ok(outcome);
            };
            if self.stopping() {
                return Ok(Outcome::new(Status::NotRun));
            }
            let sent = match &self.shared.fleet {
                Some(fleet) => fleet.put(self.host.id, &agent, &blob).await,
                None => agent.put(&blob).await,
            };
            match sent {
                Err(_) if self.stopping() => return Ok(Outcome::new(Status::NotRun)),
                other => other?,
            }
            self.ask_again(&agent, flights, i, j).await?;
        }
        Err(SshError::Agent("a blob is missing although it was sent".into()))
    }

    /// Waits for an answer. If the user wants to stop meanwhile, the agent is asked to begin nothing more, and answers that too.
    async fn answer(&mut self, pending: &mut crate::ssh::Pending) -> Result<Outcome, SshError> {
        if !self.cancelled {
            tokio::select! {
                biased;
                answer = &mut *pending => return answer.map_err(|_| gone())?,
                () = stop::raised(&self.shared.interrupted) => {}
            }
            self.cancelled = true;
            if let Some(agent) = &self.agent {
                agent.cancel().await?;
            }
        }
        pending.await.map_err(|_| gone())?
    }

    /// Asks again, from an item on, for what the agent did not run.
    async fn ask_again(&mut self, agent: &AgentSession, flights: &mut [Flight<'a>], i: usize, j: usize) -> Result<(), SshError> {
        self.batch = next_batch();
        for (a, flight) in flights.iter_mut().enumerate().skip(i) {
            for (b, item) in flight.items.iter_mut().enumerate() {
                if a == i && b < j {
                    continue;
                }
                if let Answer::Coming { pending, request, tail, .. } = &mut item.answer {
                    request.batch = self.batch;
                    *pending = agent.send((**request).clone(), tail).await?;
                }
            }
        }
        Ok(())
    }

    /// Applies `until`, `failed_when` and `changed_when`.
    async fn judge(&mut self, task: &'a Task, item: Option<&Value>, mut outcome: Outcome) -> Result<Outcome, Stop> {
        if outcome.status == Status::NotRun {
            return Ok(outcome);
        }
        // What check mode did not run has nothing to wait for.
        if let Some(until) = task.until.as_ref().filter(|_| outcome.status != Status::Skipped) {
            // As in Ansible: once, and then as often as `retries` says, three times if it does not.
            let attempts = task.retries.saturating_add(1);
            for attempt in 1..=attempts {
                outcome.values.insert("attempts".into(), attempt.into());
                let failed = outcome.status == Status::Failed;
                let met = self.with_result(task, item, &outcome, |r| Ok(holds(r, until)? && !(until.is_empty() && failed)));
                match met {
                    Ok(true) => break,
                    Ok(false) if attempt == attempts => {
                        outcome.status = Status::Failed;
                        outcome.values.insert("attempts".into(), task.retries.into());
                        if outcome.msg.is_empty() {
                            outcome.msg = format!("`until` does not hold after {attempt} tries");
                        }
                        break;
                    }
                    Ok(false) => {}
                    Err(e) => return Err(self.broken(task, e, false)),
                }
                if self.stopping() || self.absent() || self.checking(task) {
                    break;
                }
                tokio::select! {
                    () = tokio::time::sleep(Duration::from_secs(task.delay_s)) => {}
                    () = stop::raised(&self.shared.interrupted) => break,
                }
                let again = self.ready(&self.renderer_of_item(task, item), task);
                outcome = match again {
                    Ok((_, Prepared::Local { outcome, .. })) => outcome,
                    Ok((user, Prepared::Remote { action, tail, blob })) => {
                        match Box::pin(self.submit(task, user, true, action, tail, blob)).await? {
                            Answer::Ready(o) => *o,
                            Answer::Skipped => Outcome::new(Status::Skipped),
                            Answer::Coming { mut pending, .. } => match self.answer(&mut pending).await {
                                Ok(o) => o,
                                Err(e) => return Err(self.lost(&e)),
                            },
                        }
                    }
                    Err(e) => return Err(self.broken(task, e, false)),
                };
            }
        }
        if let Some(conditions) = &task.failed_when {
            match self.with_result(task, item, &outcome, |r| holds(r, conditions)) {
                Ok(true) => {
                    outcome.status = Status::Failed;
                    if outcome.msg.is_empty() {
                        outcome.msg = "`failed_when` holds".into();
                    }
                }
                Ok(false) if outcome.status == Status::Failed => outcome.status = Status::Changed,
                Ok(false) => {}
                Err(e) => return Err(self.broken(task, e, false)),
            }
        }
        if let Some(conditions) = &task.changed_when
            && matches!(outcome.status, Status::Ok | Status::Changed)
        {
            match self.with_result(task, item, &outcome, |r| holds(r, conditions)) {
                Ok(changed) => outcome.status = if changed { Status::Changed } else { Status::Ok },
                Err(e) => return Err(self.broken(task, e, false)),
            }
        }
        Ok(outcome)
    }

    fn with_result<T>(&self, task: &Task, item: Option<&Value>, outcome: &Outcome, f: impl FnOnce(&Renderer) -> Result<T>) -> Result<T> {
        let mut renderer = self.renderer_of_item(task, item);
        if let Some(name) = &task.register {
            renderer.set(name, &result_value(outcome));
        }
        f(&renderer)
    }

    /// Counts a task's results and reports those of items that were not left out.
    fn count_and_report(&mut self, task: &Task, handler: bool, results: &[Completed]) {
        for Completed { label, outcome, .. } in results.iter().filter(|r| !r.left) {
            let status = match outcome.status {
                Status::Ok => TaskStatus::Ok,
                Status::Changed => TaskStatus::Changed,
                Status::Failed if task.ignore_errors => TaskStatus::Ignored,
                Status::Failed => TaskStatus::Failed,
                Status::Skipped => TaskStatus::Skipped,
                Status::NotRun => continue,
            };
            self.report(task, label.as_ref(), outcome, status, handler);
        }
        let any = |s: Status| results.iter().any(|r| r.outcome.status == s);
        let (failed, changed) = (any(Status::Failed), any(Status::Changed) || results.iter().any(|r| self.would_run(task, &r.outcome)));
        match (failed, changed) {
            (true, _) if task.ignore_errors => self.counts.ignored += 1,
            (true, _) => {}
            (false, true) => self.counts.changed += 1,
            (false, false) if any(Status::Ok) => self.counts.ok += 1,
            (false, false) if results.is_empty() => {}
            (false, false) => self.counts.skipped += 1,
        }
    }

    /// Whether a look at what a rolling play would change met a command, whose work only a run shows: its host is due, unless the
    /// command changes nothing by its own `changed_when`.
    fn would_run(&self, task: &Task, outcome: &Outcome) -> bool {
        let never = |conditions: &Vec<Node>| conditions.iter().any(|c| matches!(&c.kind, NodeKind::Scalar(Value::Bool(false))));
        let is_command = matches!(&task.work, Work::Module { name: "command" | "shell", .. });
        let left_out = outcome.status == Status::Skipped && !outcome.values.is_empty();
        self.part.dry_run && is_command && left_out && !task.changed_when.as_ref().is_some_and(never)
    }

    /// Counts, reports, registers, notifies; stops the host at a failure.
    fn conclude(&mut self, task: &'a Task, looped: bool, handler: bool, results: Vec<Completed>) -> Result<(), Stop> {
        let any = |s: Status| results.iter().any(|r| r.outcome.status == s);
        if results.iter().all(|r| r.left || r.outcome.status == Status::NotRun) {
            // A failure before this one has stopped the host already; here there was none.
            let outcome = Outcome::failed("the agent did not run this, although nothing failed before it");
            self.report(task, None, &outcome, TaskStatus::Failed, handler);
            return Err(Stop::Failed);
        }
        let (failed, changed) = (any(Status::Failed), any(Status::Changed));
        if self.checking(task) {
            let files = results
                .iter()
                .filter(|r| r.outcome.status == Status::Changed)
                .filter_map(|r| r.outcome.values.get("dest")?.as_str().map(str::to_owned));
            self.state.would_change.extend(files);
        }
        self.count_and_report(task, handler, &results);
        for r in &results {
            self.state.add_facts(&r.outcome);
        }
        let result =
            || if looped { loop_value(task, &results) } else { results.first().map(|r| result_value(&r.outcome)).unwrap_or_default() };
        if let Some(name) = &task.register {
            self.register(name, result());
        }
        if changed && !failed {
            // Once, unless the items may make different names of it.
            let names = if task.notify.iter().any(|n| is_template(n)) { results.len() } else { 1 };
            for r in results.iter().filter(|r| r.outcome.status == Status::Changed).take(names) {
                if let Err(e) = self.notify(task, r.label.as_ref()) {
                    return Err(self.broken(task, e, handler));
                }
            }
        }
        if failed && !task.ignore_errors { Err(self.fail_task(task, result())) } else { Ok(()) }
    }
}

fn gone() -> SshError {
    SshError::Lost("the agent has ended".into())
}

/// The results of a loop as a variable.
pub(super) fn loop_value(task: &Task, results: &[Completed]) -> Value {
    let any = |s: Status| results.iter().any(|r| r.outcome.status == s);
    let list: Vec<Value> = results
        .iter()
        .map(|r| {
            let mut v = result_value(&r.outcome);
            if let (Value::Object(m), Some(l)) = (&mut v, &r.label) {
                m.insert(task.loop_var.clone(), l.clone());
                m.insert("ansible_loop_var".into(), task.loop_var.clone().into());
            }
            v
        })
        .collect();
    if results.is_empty() {
        return json!({ "changed": false, "skipped": true, "skipped_reason": "No items in the list", "results": [] });
    }
    let skipped = results.iter().all(|r| r.outcome.status == Status::Skipped);
    let msg = match (any(Status::Failed), skipped) {
        (true, _) => "One or more items failed",
        (false, true) => "All items skipped",
        (false, false) => "All items completed",
    };
    json!({ "results": list, "skipped": skipped, "changed": any(Status::Changed), "msg": msg, "failed": any(Status::Failed) })
}

/// Where results stand in Ansible's; the rest comes before the last two.
const FIRST: [&str; 9] = ["changed", "stdout", "stderr", "rc", "cmd", "start", "end", "delta", "msg"];
const LAST: [&str; 2] = ["stdout_lines", "stderr_lines"];

/// A result as a variable, in Ansible's form and order.
pub(super) fn result_value(outcome: &Outcome) -> Value {
    if outcome.status == Status::Skipped && outcome.values.is_empty() {
        return json!({ "changed": false, "skipped": true, "skip_reason": "Conditional result was False" });
    }
    let mut values = outcome.values.clone();
    let changed = outcome.status == Status::Changed || values.remove("changed") == Some(Value::Bool(true));
    let failed = outcome.status == Status::Failed;
    values.insert("changed".into(), changed.into());
    if failed || !outcome.msg.is_empty() {
        values.entry("msg".into()).or_insert_with(|| outcome.msg.clone().into());
    }
    let mut m = Map::new();
    for key in FIRST {
        m.extend(values.remove_entry(key));
    }
    let last: Vec<_> = LAST.iter().filter_map(|k| values.remove_entry(*k)).collect();
    m.extend(values);
    m.extend(last);
    m.insert("failed".into(), failed.into());
    if outcome.status == Status::Skipped {
        m.insert("skipped".into(), true.into());
    }
    Value::Object(m)
}
