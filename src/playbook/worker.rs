//! One worker per host. Actions that do not wait for one another's results travel together: a task is sent without
//! waiting for those before it, unless it reads what one of them registers.
//!
//! Invariant: results are reported in the order of the tasks; behind a failed task nothing is performed, since the
//! agent does not run the rest of a batch.

mod begin;
mod evaluate;
mod flight;
mod flow;
mod vars;

use std::{
    collections::HashSet,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use evaluate::holds;
use flight::Flight;
use septet_agent_protocol::{Action, Outcome, Status};
use serde_json::{Value, json};
pub use vars::{HostState, Part};

use super::{
    Event, TaskStatus,
    lockstep::Member,
    model::{Become, Play, Task, Work, is_user_name},
    runner::{Counts, Shared, wanted},
};
use crate::{
    error::{Error, Result},
    inventory::Host,
    ssh::{AgentSession, SshError},
    stop,
    template::{Layer, Renderer, Vars},
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

/// Why a host stops.
enum Stop {
    Failed,
    Unreachable,
    /// another host failed, and the play has `any_errors_fatal`
    Others,
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
        let mut layers = Vec::with_capacity(16);
        let given = self.shared.host_vars.get(&self.host.id);
        layers.extend(given.iter().flat_map(|g| g.written.iter().cloned()));
        layers.extend([self.state.facts(), self.part.vars.clone()]);
        if !vars.is_empty() {
            layers.push(Layer::written(vars.clone()));
        }
        layers.extend([self.state.registered(), self.part.extra.clone()]);
        layers.extend(given.iter().flat_map(|g| g.special.iter().cloned()));
        layers.extend(self.part.special.iter().cloned());
        Renderer::over(layers).with_hosts(self.shared.hosts.clone()).with_tera(self.shared.for_tera.clone())
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
        Arc::make_mut(&mut self.state.registered).insert(name.to_owned(), value);
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
}
