//! One worker per host. Actions that do not wait for one another's results travel together: a task is sent without
//! waiting for those before it, unless it reads what one of them registers.
//!
//! Invariant: results are reported in the order of the tasks; behind a failed task nothing is performed, since the
//! agent does not run the rest of a batch.

mod evaluate;
mod flight;
mod flow;

use std::{
    collections::HashSet,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use evaluate::{first_template, holds, imagined, items_of, place_of_template};
use flight::{Answer, Completed, Flight, Item};
use septet_agent_protocol::{Action, Outcome, Request, Status};
use serde_json::{Map, Value, json};

use super::{
    Event, TaskStatus,
    lockstep::Member,
    model::{Become, Play, Task, Work, is_user_name},
    parse,
    runner::{Counts, Shared, wanted},
};
use crate::{
    error::{Error, Result},
    inventory::Host,
    modules::{self, Arguments, Prepared},
    ssh::{AgentSession, Blob, SshError},
    stop,
    template::{IN_PLAYBOOK, Renderer, Vars},
    yaml::Node,
};

/// How deep `include_tasks` may nest.
const MAX_INCLUDES: usize = 10;
/// Items of one loop, at the most.
const MAX_ITEMS: usize = 10_000;
/// Actions under way on one host.
const MAX_FLIGHT: usize = 200;

/// A number that no batch of this process has had: an agent lives longer than a worker, and remembers the batch that
/// failed last.
fn next_batch() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// What a host has registered in this run.
#[derive(Debug, Clone, Default)]
pub struct HostState {
    /// facts that were gathered
    facts: Vars,
    /// `set_fact` and `register`
    registered: Vars,
    /// in check mode: files that would change, so that a unit that reads them is known to restart
    would_change: HashSet<String>,
    /// the task that failed last and its result, for `rescue`
    failure: Option<(Value, Value)>,
}

impl HostState {
    /// What others see of this host beside what was written for it.
    pub fn seen(&self) -> Vars {
        let mut all = self.facts.clone();
        all.extend(self.registered.clone());
        all
    }

    /// Keeps the facts of an outcome.
    fn add_facts(&mut self, outcome: &Outcome) {
        if let Some(Value::Object(facts)) = outcome.values.get("facts") {
            for (k, v) in facts {
                self.facts.insert(format!("ansible_{k}"), v.clone());
            }
            self.facts.insert("ansible_facts".into(), facts.clone().into());
        }
    }
}

/// Why a host stops.
enum Stop {
    Failed,
    Unreachable,
    /// another host failed, and the play has `any_errors_fatal`
    Others,
}

/// The hosts of a play that are worked on, by name, and how.
pub struct Part {
    /// all
    pub hosts: Vec<String>,
    /// those that run now
    pub batch: Vec<String>,
    /// compare only, silently
    pub dry_run: bool,
}

struct Worker<'a> {
    shared: &'a Shared,
    play: &'a Play,
    host: &'a Host,
    state: &'a mut HostState,
    part: &'a Part,
    member: Option<Member>,
    counts: Counts,
    flights: Vec<Flight<'a>>,
    in_flight: usize,
    batch: u64,
    become_now: Option<Option<String>>,
    agent: Option<std::sync::Arc<AgentSession>>,
    /// the agent was asked to begin nothing more
    cancelled: bool,
    /// registers of tasks in flight
    unknown: HashSet<String>,
    notified: Vec<String>,
    /// handlers that ran, by their place in the play
    ran: HashSet<usize>,
}

/// Runs a play's tasks and handlers on one host.
pub async fn play(
    shared: &Shared,
    play: &Play,
    part: &Part,
    host: &Host,
    state: &mut HostState,
    member: Option<Member>,
) -> (Counts, Vec<String>) {
    let mut worker = Worker {
        shared,
        play,
        host,
        state,
        part,
        member,
        counts: Counts::default(),
        flights: Vec::new(),
        in_flight: 0,
        batch: next_batch(),
        become_now: None,
        agent: None,
        cancelled: false,
        unknown: HashSet::new(),
        notified: Vec::new(),
        ran: HashSet::new(),
    };
    let result = worker.all().await;
    match result {
        Ok(()) | Err(Stop::Others) => {}
        Err(Stop::Failed) => worker.counts.failed += 1,
        Err(Stop::Unreachable) => worker.counts.unreachable += 1,
    }
    if let (true, Some(member)) = (worker.counts.failed + worker.counts.unreachable > 0, &worker.member) {
        member.fail();
    }
    let pending = worker.pending();
    (worker.counts, pending)
}

impl<'a> Worker<'a> {
    fn tell(&self, event: Event) {
        if !self.part.dry_run {
            let _ = self.shared.events.send(event);
        }
    }

    fn checking(&self, task: &Task) -> bool {
        self.part.dry_run || task.check_mode.unwrap_or(self.shared.options.check)
    }

    /// Whether the user wants to stop: the task in hand ends, nothing else begins.
    fn stopping(&self) -> bool {
        stop::asked(&self.shared.interrupted)
    }

    async fn all(&mut self) -> Result<(), Stop> {
        if self.stopping() {
            return Ok(());
        }
        if self.play.gather_facts {
            self.abreast().await?;
            self.gather().await?;
        }
        let play = self.play;
        match self.member {
            None => self.tasks(&play.tasks, false, 0).await?,
            Some(_) => {
                for task in &play.tasks {
                    self.abreast().await?;
                    self.tasks(std::slice::from_ref(task), false, 0).await?;
                    self.flush().await?;
                }
                self.abreast().await?;
            }
        }
        self.flush().await?;
        if self.stopping() { Ok(()) } else { self.handlers().await }
    }

    /// Waits for the other hosts before the next task, where one that fails ends the play for all.
    async fn abreast(&mut self) -> Result<(), Stop> {
        let Some(member) = &mut self.member else { return Ok(()) };
        if member.next().await { Ok(()) } else { Err(Stop::Others) }
    }

    /// Whom to become, rendered.
    fn user_of(&self, renderer: &Renderer, r#become: &Become, node: &Node) -> Result<Option<String>> {
        let Some(name) = r#become.target() else { return Ok(None) };
        let name = renderer.text("become_user", &name).map_err(|e| e.at(node.place()))?;
        if !is_user_name(&name) {
            return Err(node.error(format!("become_user: `{name}` is not a user's name")));
        }
        Ok(Some(name))
    }

    async fn gather(&mut self) -> Result<(), Stop> {
        if self.absent() || !self.state.facts.is_empty() {
            return Ok(());
        }
        let play = self.play;
        let user = match self.user_of(&self.renderer_over(&Vars::new()), &play.r#become, &play.node) {
            Ok(user) => user,
            Err(e) => return Err(self.fail_play(&e)),
        };
        let agent = self.connect(user).await?;
        let outcome = match agent.perform(Action::Facts, false).await {
            Ok(o) => o,
            Err(e) => return Err(self.lost(&e)),
        };
        self.state.add_facts(&outcome);
        Ok(())
    }

    fn absent(&self) -> bool {
        self.shared.fleet.is_none() || self.shared.absent.contains(&self.host.id)
    }

    fn lost(&mut self, e: &SshError) -> Stop {
        self.tell(Event::Unreachable { host: self.host.name.clone(), reason: e.to_string() });
        Stop::Unreachable
    }

    async fn connect(&mut self, user: Option<String>) -> Result<std::sync::Arc<AgentSession>, Stop> {
        if let (Some(agent), Some(now)) = (&self.agent, &self.become_now)
            && *now == user
        {
            return Ok(agent.clone());
        }
        let Some(fleet) = &self.shared.fleet else {
            return Err(self.lost(&SshError::Unreachable("there is no such host yet".into())));
        };
        match fleet.agent(self.host.id, user.as_deref()).await {
            Ok(agent) => {
                self.agent = Some(agent.clone());
                self.become_now = Some(user);
                Ok(agent)
            }
            Err(e) => Err(self.lost(&e)),
        }
    }

    /// Ansible's precedence, for what there is: inventory, facts, play, task, set_fact and register, extra. Output
    /// of a host is data: it is not rendered again, whatever it looks like.
    fn renderer_for(&self, task: &Task) -> Renderer {
        let (project, dirs) = (self.shared.project.clone(), task.dirs.clone());
        let read = move |kind: &str, name: &str| {
            let found = project.find_from(&dirs, kind, Path::new(name), None).map_err(|e| e.message)?;
            Ok(found.bytes().to_vec())
        };
        self.renderer_over(&task.vars).with_files(Arc::new(read))
    }

    /// The same with the item of a loop.
    fn renderer_of_item(&self, task: &Task, item: Option<&Value>) -> Renderer {
        let mut renderer = self.renderer_for(task);
        if let Some(value) = item {
            renderer.set(&task.loop_var, value);
            renderer.set("ansible_loop_var", &task.loop_var.clone().into());
        }
        renderer
    }

    fn renderer_over(&self, vars: &Vars) -> Renderer {
        let given = self.shared.host_vars.get(&self.host.id).cloned().unwrap_or_default();
        let (mut written, mut data) = (given.written, self.state.facts.clone());
        for (k, v) in self.play.vars.iter().chain(vars) {
            data.remove(k);
            written.insert(k.clone(), v.clone());
        }
        data.extend(self.state.registered.clone());
        for (k, v) in &self.shared.options.extra_vars {
            data.remove(k);
            written.insert(k.clone(), v.clone());
        }
        let mut special = given.special;
        special.insert("ansible_play_name".into(), self.play.name.clone().into());
        if let Some(dir) = &self.play.dir {
            let dir = std::path::absolute(dir).unwrap_or_else(|_| dir.clone());
            special.insert("playbook_dir".into(), dir.display().to_string().into());
        }
        for key in ["ansible_play_hosts", "ansible_play_hosts_all", "play_hosts"] {
            special.insert(key.into(), self.part.hosts.clone().into());
        }
        special.insert("ansible_play_batch".into(), self.part.batch.clone().into());
        for (k, v) in special {
            data.remove(&k);
            written.insert(k, v);
        }
        written.retain(|k, _| !data.contains_key(k));
        Renderer::over(written, data).with_hosts(self.shared.hosts.clone()).with_tera(self.shared.for_tera.clone())
    }

    async fn tasks(&mut self, tasks: &'a [Task], handlers: bool, depth: usize) -> Result<(), Stop> {
        for task in tasks {
            if self.stopping() {
                return self.flush().await;
            }
            if let Work::Block { tasks, rescue, always } = &task.work {
                Box::pin(self.block([tasks, rescue, always], handlers, depth)).await?;
                continue;
            }
            if !handlers && !wanted(task, self.play, &self.shared.options) {
                continue;
            }
            if !self.unknown.is_empty() && self.asks_for_unknown(task) {
                self.flush().await?;
            }
            if matches!(task.work, Work::Include { .. } | Work::FlushHandlers) {
                self.flush().await?;
            }
            // What was waited for may have been the task in hand.
            if self.stopping() {
                return self.flush().await;
            }
            match &task.work {
                Work::Include { file, node } => {
                    self.include(task, file, node, handlers, depth).await?;
                }
                Work::FlushHandlers => match holds(&self.renderer_for(task), &task.when) {
                    Ok(true) if !handlers => Box::pin(self.handlers()).await?,
                    Ok(_) => {}
                    Err(e) => return Err(self.broken(task, e, false)),
                },
                _ => self.begin(task, handlers).await?,
            }
        }
        Ok(())
    }

    /// Behind a failure nothing is under way: the agent did not run the rest of the batch.
    fn forget_flights(&mut self) {
        self.flights.clear();
        self.in_flight = 0;
        self.unknown.clear();
        self.batch = next_batch();
    }

    /// Whether a task asks for what a task in flight registers.
    fn asks_for_unknown(&self, task: &Task) -> bool {
        // A template file may ask for anything.
        if matches!(&task.work, Work::Module { name: "template", .. } | Work::Include { .. } | Work::FlushHandlers) {
            return true;
        }
        let renderer = self.renderer_over(&task.vars);
        renderer.asks_for(&task.reads, &self.unknown) || renderer.asks_for(&self.play.reads, &self.unknown)
    }

    /// An error of ours in the play itself.
    fn fail_play(&self, e: &Error) -> Stop {
        self.tell(Event::Task {
            host: self.host.name.clone(),
            task: self.play.name.clone(),
            place: format!("{}:{}", self.play.node.source.path.display(), self.play.node.line),
            item: None,
            status: TaskStatus::Failed,
            msg: e.to_string(),
            diff: None,
            module: "setup".into(),
        });
        Stop::Failed
    }

    /// An error of ours in a task: its templates or arguments.
    fn broken(&mut self, task: &Task, mut e: Error, handler: bool) -> Stop {
        let asks = |p: &crate::error::Place| p.text.contains("hostvars");
        if e.hint.is_none() && e.message.contains("not defined") && e.place.as_ref().is_some_and(asks) {
            e = e.hint("what another host sets or registers is defined in the plays that follow: begin a new play");
        }
        let outcome = Outcome::failed(e.to_string());
        self.report(task, None, &outcome, TaskStatus::Failed, handler);
        self.fail_task(task, flight::result_value(&outcome))
    }

    /// Ends the host's part, unless a `rescue` goes on with what failed.
    fn fail_task(&mut self, task: &Task, result: Value) -> Stop {
        let module = if let Work::Module { name, .. } = &task.work { name } else { "include_tasks" };
        self.state.failure = Some((json!({ "name": task.name, "action": module }), result));
        Stop::Failed
    }

    fn skip(&mut self, task: &Task) {
        self.counts.skipped += 1;
        self.report(task, None, &Outcome::new(Status::Skipped), TaskStatus::Skipped, false);
        if let Some(name) = &task.register {
            self.register(name, flight::result_value(&Outcome::new(Status::Skipped)));
        }
    }

    fn register(&mut self, name: &str, value: Value) {
        self.state.registered.insert(name.to_owned(), value);
    }

    fn report(&self, task: &Task, item: Option<&Value>, outcome: &Outcome, status: TaskStatus, handler: bool) {
        let module = match &task.work {
            Work::Module { name, .. } => (*name).to_owned(),
            Work::Include { .. } => "include_tasks".to_owned(),
            Work::Block { .. } | Work::FlushHandlers => "meta".to_owned(),
        };
        let text = |v: &Value| {
            let label = task.loop_control.label.as_ref();
            let label = label.and_then(|l| self.renderer_of_item(task, Some(v)).text("label", l).ok());
            label.unwrap_or_else(|| match v {
                Value::String(s) => s.clone(),
                other => other.to_string(),
            })
        };
        self.tell(Event::Task {
            host: self.host.name.clone(),
            task: if handler { format!("handler: {}", task.name) } else { task.name.clone() },
            place: task.place(),
            item: item.filter(|_| !task.no_log).map(text),
            status,
            msg: if task.no_log && !outcome.msg.is_empty() { "(hidden by no_log)".into() } else { outcome.msg.clone() },
            diff: outcome.diff.clone().filter(|_| task.diff != Some(false) && !task.no_log),
            module,
        });
    }

    /// Evaluates a task and sends what it asks for.
    async fn begin(&mut self, task: &'a Task, handler: bool) -> Result<(), Stop> {
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
                        self.state.registered.insert(k, v);
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
    fn ready(&self, renderer: &Renderer, task: &Task) -> Result<(Option<String>, Prepared)> {
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
    async fn submit(
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
