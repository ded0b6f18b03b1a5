//! What makes the order of tasks more than a list: blocks with `rescue` and `always`, included files, and handlers.

use std::{collections::HashSet, path::Path};

use serde_json::Value;

use super::{
    MAX_INCLUDES, Stop, Worker,
    evaluate::{given, holds},
    next_batch,
};
use crate::{
    error::Result,
    playbook::{model::Task, parse},
    template::Vars,
    yaml::Node,
};

impl<'a> Worker<'a> {
    /// Handlers that were notified and did not run yet.
    pub(super) fn due(&self) -> impl Iterator<Item = usize> {
        let names: Vec<String> = self.play.handlers.iter().map(|h| self.rendered_name(&h.name)).collect();
        let answers = move |i: usize, h: &Task| {
            // As in Ansible: of several handlers with one name the first answers to it; all that listen do.
            let named = names.iter().position(|n| *n == names[i]) == Some(i) && self.notified.contains(&names[i]);
            named || h.listen.iter().any(|l| self.notified.contains(&self.rendered_name(l)))
        };
        self.play.handlers.iter().enumerate().filter(move |(i, h)| !self.ran.contains(i) && answers(*i, h)).map(|(i, _)| i)
    }

    /// What was notified and did not run, as it was notified.
    pub(super) fn pending(&self) -> Vec<String> {
        let due: Vec<usize> = self.due().collect();
        let waits = |n: &&String| due.iter().any(|i| parse::answers_of(&self.play.handlers[*i]).any(|a| self.rendered_name(a) == **n));
        self.notified.iter().filter(waits).cloned().collect()
    }

    /// A name that a handler answers to; one that cannot be rendered stays as it is.
    fn rendered_name(&self, name: &str) -> String {
        let rendered = || self.renderer_over(&Vars::new()).text("handler", name).ok();
        if crate::template::is_template(name) { rendered().unwrap_or_else(|| name.to_owned()) } else { name.to_owned() }
    }

    /// Remembers what a task notifies. A name that no handler answers to is an error.
    pub(super) fn notify(&mut self, task: &Task, item: Option<&Value>) -> Result<()> {
        if task.notify.is_empty() {
            return Ok(());
        }
        let rendered = |name: &String| match crate::template::is_template(name) {
            true => self.renderer_of_item(task, item).text("notify", name).map_err(|e| e.at(task.node.place())),
            false => Ok(name.clone()),
        };
        let names = task.notify.iter().map(rendered).collect::<Result<Vec<_>>>()?;
        let answers: Vec<String> = self.play.handlers.iter().flat_map(parse::answers_of).map(|a| self.rendered_name(a)).collect();
        for name in names {
            if !answers.contains(&name) {
                return Err(parse::no_handler(task, &name, &answers.iter().map(String::as_str).collect::<Vec<_>>()));
            }
            if !self.notified.contains(&name) {
                self.notified.push(name);
            }
        }
        Ok(())
    }

    /// Runs what was notified. A handler may notify another one; each runs once for each time it is flushed.
    pub(super) async fn handlers(&mut self) -> Result<(), Stop> {
        let play = self.play;
        loop {
            if self.stopping() {
                // What is left is named as notified and not run.
                return Ok(());
            }
            let Some(i) = self.due().next() else { break };
            self.ran.insert(i);
            self.tasks(std::slice::from_ref(&play.handlers[i]), true, 0).await?;
            self.flush().await?;
        }
        // What ran may be notified again by later tasks.
        self.notified.clear();
        self.ran.clear();
        Ok(())
    }

    /// Tries tasks; when one fails, runs those of `rescue`; runs those of `always` in any case.
    pub(super) async fn block(&mut self, [tasks, rescue, always]: [&'a Vec<Task>; 3], handlers: bool, depth: usize) -> Result<(), Stop> {
        self.flush().await?;
        let mut ended = match self.tasks(tasks, handlers, depth).await {
            Ok(()) => self.flush().await,
            Err(e) => Err(e),
        };
        if matches!(ended, Err(Stop::Failed)) && !rescue.is_empty() {
            self.forget_flights();
            if let Some((task, result)) = self.state.failure.take() {
                self.register("ansible_failed_task", task);
                self.register("ansible_failed_result", result);
            }
            ended = match self.tasks(rescue, handlers, depth).await {
                Ok(()) => self.flush().await,
                Err(e) => Err(e),
            };
            if ended.is_ok() {
                self.counts.rescued += 1;
            }
        }
        if matches!(ended, Err(Stop::Unreachable)) || always.is_empty() {
            return ended;
        }
        self.forget_flights();
        self.tasks(always, handlers, depth).await?;
        self.flush().await?;
        ended
    }

    pub(super) async fn include(&mut self, task: &Task, file: &str, node: &Node, handlers: bool, depth: usize) -> Result<(), Stop> {
        let loaded = (|| {
            let renderer = self.renderer_for(task);
            if !holds(&renderer, &task.when)? {
                return Ok(None);
            }
            if depth >= MAX_INCLUDES {
                return Err(node.error("task files include one another too deeply"));
            }
            let name = renderer.text("include_tasks", file).map_err(|e| e.at(node.place()))?;
            let mut tasks = parse::task_file(&self.shared.project, self.play.dir.as_ref(), Path::new(&name), &task.dirs, node)?;
            let answers: Vec<&str> = self.play.handlers.iter().flat_map(parse::answers_of).collect();
            if let Some(e) = parse::missing_handlers(&tasks, &answers).into_iter().next() {
                return Err(e);
            }
            tasks.iter_mut().for_each(|inner| given(inner, task));
            Ok(Some(tasks))
        })();
        let tasks = match loaded {
            Ok(Some(tasks)) => tasks,
            Ok(None) => {
                self.skip(task);
                return Ok(());
            }
            Err(e) => return Err(self.broken(task, e, false)),
        };
        let (shared, play, host, part) = (self.shared, self.play, self.host, self.part);
        let mut inner = Worker {
            shared,
            play,
            host,
            state: &mut *self.state,
            part,
            member: None,
            counts: std::mem::take(&mut self.counts),
            flights: Vec::new(),
            in_flight: 0,
            batch: next_batch(),
            become_now: self.become_now.clone(),
            agent: self.agent.clone(),
            cancelled: self.cancelled,
            unknown: HashSet::new(),
            notified: std::mem::take(&mut self.notified),
            ran: std::mem::take(&mut self.ran),
        };
        let result = match Box::pin(inner.tasks(&tasks, handlers, depth + 1)).await {
            Ok(()) => inner.flush().await,
            Err(e) => Err(e),
        };
        let counts = std::mem::take(&mut inner.counts);
        let (notified, ran) = (std::mem::take(&mut inner.notified), std::mem::take(&mut inner.ran));
        drop(inner);
        (self.counts, self.notified, self.ran, self.batch) = (counts, notified, ran, next_batch());
        result
    }
}
