//! Beginning a task: its loop and conditions are evaluated here, its arguments rendered, and the actions sent to the host's agent.

use std::sync::Arc;

use septet_agent_protocol::{Action, Outcome, Request, Status};
use serde_json::{Map, Value, json};

use super::{
    MAX_FLIGHT, MAX_ITEMS, Stop, Worker,
    evaluate::{first_template, holds, imagined, items_of, place_of_template},
    flight::{self, Answer, Completed, Flight, Item},
};
use crate::{
    error::{Error, Result},
    modules::{self, Arguments, Prepared},
    playbook::{
        TaskStatus,
        model::{Task, Work},
        parse,
    },
    ssh::Blob,
    template::{IN_PLAYBOOK, Renderer},
};

impl<'a> Worker<'a> {
    /// Evaluates a task and sends what it asks for.
    pub(super) async fn begin(&mut self, task: &'a Task, handler: bool) -> Result<(), Stop> {
        let alone = task.until.is_some() || task.failed_when.is_some() || self.in_flight >= MAX_FLIGHT;
        if alone {
            self.flush().await?;
            if self.stopping() {
                return Ok(());
            }
        }
        let mut renderer = self.renderer_for(task);
        let looped = task.loop_over.is_some();
        let items = match self.items(&renderer, task) {
            Ok(i) => i,
            // As in Ansible: a list that needs what is not there matters only where the task is to run.
            Err(_) if matches!(holds(&renderer, &task.when), Ok(false)) => {
                self.flush().await?;
                if !self.stopping() {
                    self.skip(task);
                }
                return Ok(());
            }
            Err(e) => return self.fail_after_flush(task, e, handler).await,
        };
        let last = items.len().saturating_sub(1);
        let all: Vec<Value> = if task.loop_control.extended { items.iter().flatten().cloned().collect() } else { Vec::new() };
        let mut flight = Flight { task, items: Vec::new(), looped, handler };
        let mut users: Option<Option<String>> = None;
        for (i, item) in items.into_iter().enumerate() {
            if i > 0 && self.stopping() {
                break;
            }
            if let Some(value) = &item {
                renderer.set(&task.loop_var, value);
                renderer.set("ansible_loop_var", &task.loop_var.clone().into());
                if let Some(name) = &task.loop_control.index_var {
                    renderer.set(name, &i.into());
                }
                if task.loop_control.extended {
                    let n = last + 1;
                    let mut known = json!({ "index": i + 1, "index0": i, "first": i == 0, "last": i == last, "length": n, "revindex": n - i, "revindex0": last - i, "allitems": all });
                    for (key, at) in [("previtem", i.checked_sub(1)), ("nextitem", Some(i + 1))] {
                        if let Some(neighbour) = at.and_then(|at| all.get(at)) {
                            known[key] = neighbour.clone();
                        }
                    }
                    renderer.set("ansible_loop", &known);
                }
            }
            let prepared = holds(&renderer, &task.when).and_then(|on| if on { self.ready(&renderer, task).map(Some) } else { Ok(None) });
            match prepared {
                Ok(None) => flight.items.push(Item { label: item, answer: Answer::Skipped }),
                Ok(Some((_, Prepared::Local { outcome, facts }))) => {
                    for (k, v) in facts {
                        if !self.shared.options.extra_vars.contains_key(&k) {
                            renderer.set(&k, &v);
                        }
                        Arc::make_mut(&mut self.state.registered).insert(k, v);
                    }
                    flight.items.push(Item { label: item, answer: Answer::Ready(Box::new(outcome)) });
                }
                Ok(Some((user, _))) if users.get_or_insert_with(|| user.clone()) != &user => {
                    let e = task.node.error("`become_user` is the same for all items of a loop in this version").to_string();
                    flight.items.push(Item { label: item, answer: Answer::Ready(Box::new(Outcome::failed(e))) });
                }
                Ok(Some((user, Prepared::Remote { action, tail, blob }))) => {
                    // A failed item ends the task, but only behind the last one.
                    let answer = self.submit(task, user, i < last, action, tail, blob).await;
                    match answer {
                        Ok(answer) => flight.items.push(Item { label: item, answer }),
                        Err(stop) => {
                            self.flights.extend(Some(flight).filter(|f| !f.items.is_empty()));
                            let _ = self.flush().await;
                            return Err(stop);
                        }
                    }
                }
                Err(e) if looped => {
                    flight.items.push(Item { label: item, answer: Answer::Ready(Box::new(Outcome::failed(e.to_string()))) });
                }
                Err(e) => return self.fail_after_flush(task, e, handler).await,
            }
        }
        if flight.items.iter().all(|i| matches!(i.answer, Answer::Skipped)) {
            // In its turn: results of earlier tasks come first.
            self.flush().await?;
            if self.stopping() {
                return Ok(());
            }
            self.skip(task);
            if let (Some(name), true) = (&task.register, looped) {
                let left =
                    flight.items.into_iter().map(|i| Completed { label: i.label, outcome: Outcome::new(Status::Skipped), left: true });
                self.register(name, flight::loop_value(task, &left.collect::<Vec<_>>()));
            }
            return Ok(());
        }
        let failed = |i: &Item| matches!(&i.answer, Answer::Ready(o) if o.status == Status::Failed);
        let local_failure = flight.items.iter().any(failed);
        // One that fails for good holds back what is behind it, too, although its failure may not count.
        let may_lack = flight.items.iter().any(|i| matches!(&i.answer, Answer::Coming { blob: Some(_), .. })) && task.ignore_errors;
        // What cannot be evaluated is a failure, which only we see.
        let judged = task.changed_when.iter().flatten().any(|condition| condition.boolean().is_err());
        let coming = flight.items.iter().filter(|i| matches!(i.answer, Answer::Coming { .. })).count();
        self.in_flight += flight.items.len();
        if let Some(name) = &task.register {
            self.unknown.insert(name.clone());
        }
        self.flights.push(flight);
        // Behind several items only we know whether one has failed, or whether a handler has a name that is rendered.
        let several = coming > 0 && last > 0 && !task.ignore_errors;
        let template = |n: &str| crate::template::is_template(n);
        let unsure = !task.notify.is_empty()
            && task.notify.iter().map(String::as_str).chain(self.play.handlers.iter().flat_map(parse::answers_of)).any(template);
        if alone || local_failure || several || unsure || may_lack || judged {
            self.flush().await?;
        }
        Ok(())
    }

    async fn fail_after_flush(&mut self, task: &'a Task, e: Error, handler: bool) -> Result<(), Stop> {
        self.flush().await?;
        if self.stopping() {
            return Ok(());
        }
        if !task.ignore_errors {
            return Err(self.broken(task, e, handler));
        }
        let outcome = Outcome::failed(e.to_string());
        self.report(task, None, &outcome, TaskStatus::Ignored, handler);
        self.counts.ignored += 1;
        if let Some(name) = &task.register {
            self.register(name, flight::result_value(&outcome));
        }
        Ok(())
    }

    fn items(&self, renderer: &Renderer, task: &Task) -> Result<Vec<Option<Value>>> {
        let Some(node) = &task.loop_over else {
            return Ok(vec![None]);
        };
        let value = renderer.value(&node.value()).map_err(|e| e.at(node.place()))?;
        let list = items_of(value, task.loop_kind).map_err(|why| node.error(why))?;
        match list.len() {
            n if n > MAX_ITEMS => Err(node.error(format!("a loop over {n} items; the limit is {MAX_ITEMS}"))),
            _ => Ok(list.into_iter().map(Some).collect()),
        }
    }

    /// Whom to become, and what to do.
    pub(super) fn ready(&self, renderer: &Renderer, task: &Task) -> Result<(Option<String>, Prepared)> {
        let user = self.user_of(renderer, &task.r#become.or(&self.play.r#become), &task.node)?;
        Ok((user, self.prepare(renderer, task)?))
    }

    fn prepare(&self, renderer: &Renderer, task: &Task) -> Result<Prepared> {
        let Work::Module { name, arguments, node } = &task.work else {
            return Err(task.node.error("not a module"));
        };
        let at_arguments = |e: Error| match &e.place {
            // A place in a template file is better than the task's.
            Some(p) if !p.file.to_str().is_some_and(|f| IN_PLAYBOOK.contains(&f)) => e,
            _ => e.at(place_of_template(node, renderer).or_else(|| first_template(node)).unwrap_or_else(|| node.place())),
        };
        // Conditions are expressions already; rendering them would lose what they say.
        let rendered = if *name == "assert" { arguments.clone() } else { renderer.value(arguments).map_err(at_arguments)? };
        let mut environment = self.play.environment.clone();
        environment.extend(task.environment.clone());
        let environment = match renderer.value(&Value::Object(environment)).map_err(at_arguments)? {
            Value::Object(m) => m,
            _ => Map::new(),
        };
        let context = modules::Context { renderer, project: &self.shared.project, environment: &environment, dirs: &task.dirs };
        modules::prepare(name, Arguments::new(name, node, rendered), &context).map_err(at_arguments)
    }

    /// Sends an action. `go_on`: what comes behind it in the batch is performed also if it fails.
    pub(super) async fn submit(
        &mut self,
        task: &Task,
        user: Option<String>,
        go_on: bool,
        action: Action,
        tail: Vec<u8>,
        mut blob: Option<Blob>,
    ) -> Result<Answer, Stop> {
        if let Some(blob) = blob.as_mut() {
            blob.private |= task.no_log;
        }
        if self.absent() {
            return Ok(Answer::Ready(Box::new(imagined(&action, &tail, task.no_log))));
        }
        if self.checking(task)
            && let Action::Systemd { name, restart_if_newer, state: Some(septet_agent_protocol::UnitState::Started), .. } = &action
        {
            // What is under way may be one of the files.
            Box::pin(self.flush()).await?;
            if let Some(file) = restart_if_newer.iter().find(|f| self.state.would_change.contains(*f)) {
                let diff = format!("{name}: restart, since {file} changes\n");
                return Ok(Answer::Ready(Box::new(Outcome::changed_if(true).with_diff(Some(diff)))));
            }
        }
        if self.become_now.as_ref().is_some_and(|now| *now != user) {
            // Another agent: it must not overtake the one before.
            self.flush().await?;
        }
        if self.stopping() {
            return Ok(Answer::Ready(Box::new(Outcome::new(Status::NotRun))));
        }
        let agent = self.connect(user).await?;
        // One that may lack a blob holds back the rest, which is asked again behind it.
        let wished = go_on || task.ignore_errors || task.failed_when.is_some() || task.until.is_some();
        let ignore_errors = wished && blob.is_none();
        let request = Request { id: 0, batch: self.batch, check: self.checking(task), ignore_errors, no_log: task.no_log, action };
        match agent.send(request.clone(), &tail).await {
            Ok(pending) => Ok(Answer::Coming { pending, request: Box::new(request), tail, blob }),
            Err(e) => Err(self.lost(&e)),
        }
    }
}
