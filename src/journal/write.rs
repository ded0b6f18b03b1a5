//! Writing: an execution begins and ends; between the two a thread of its own writes events, so that no run waits for a disk.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior, params};

use super::{
    process::Process,
    store::{self, failed},
};
use crate::{
    clock::now_ms,
    error::{Error, Kind, Result},
    events::{Continued, Event, Sink, Status, TaskStatus},
};

/// Events that may wait to be written; more are counted.
const MAX_WAITING: usize = 10_000;
/// Events of one execution that are kept; more are counted.
const MAX_EVENTS: i64 = 20_000;
/// Longest diff or message that is kept whole, in bytes.
const MAX_TEXT_BYTES: usize = 16 * 1024;
/// How long events are gathered before they are written.
const GATHER: Duration = Duration::from_millis(200);
/// How long the end of the writing is waited for.
const END_TIMEOUT: Duration = Duration::from_secs(4);

/// What an execution is.
#[derive(Debug, Clone)]
pub struct Spec<'a> {
    pub cluster: &'a str,
    pub command: &'a str,
    /// identifying parameters as JSON, with sorted keys
    pub parameters: &'a str,
    pub who: String,
    pub machine: String,
    pub directory: String,
    pub process: Process,
    pub now_ms: i64,
}

/// An execution that has begun.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Begun {
    pub execution: i64,
    /// when the first execution of its instance began
    pub instance_began_ms: i64,
    /// the process of that execution, or of the oldest of its instance that is kept
    pub first: Process,
    pub continues: Option<Continued>,
}

/// Executions whose process is gone were killed.
pub fn mark_killed(t: &Connection, alive: impl Fn(&Process) -> bool) -> rusqlite::Result<()> {
    let mut query = t.prepare("SELECT id, boot, pid, pid_began FROM execution WHERE status = 'running'")?;
    let row = |r: &rusqlite::Row<'_>| Ok((r.get::<_, i64>(0)?, Process { boot: r.get(1)?, pid: r.get(2)?, began: r.get(3)? }));
    for found in query.query_map([], row)?.collect::<rusqlite::Result<Vec<_>>>()? {
        if !alive(&found.1) {
            t.execute("UPDATE execution SET status = ?1 WHERE id = ?2", params![Status::Killed.name(), found.0])?;
        }
    }
    Ok(())
}

/// Writes down that an execution begins: of the instance that it continues, or of a new one.
pub fn begin(db: &mut Connection, spec: &Spec<'_>, alive: impl Fn(&Process) -> bool) -> rusqlite::Result<Begun> {
    let t = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
    mark_killed(&t, alive)?;
    let open = t
        .query_row(
            "SELECT id, began_ms FROM instance WHERE cluster = ?1 AND command = ?2 AND parameters = ?3 AND finished = 0 ORDER BY id DESC LIMIT 1",
            params![spec.cluster, spec.command, spec.parameters],
            |r| Ok((r.get::<_, i64>(0)?, r.get::<_, i64>(1)?)),
        )
        .optional()?;
    let (instance, instance_began_ms) = match open {
        Some(open) => open,
        None => {
            t.execute(
                "INSERT INTO instance(cluster, command, parameters, began_ms) VALUES(?1, ?2, ?3, ?4)",
                params![spec.cluster, spec.command, spec.parameters, spec.now_ms],
            )?;
            (t.last_insert_rowid(), spec.now_ms)
        }
    };
    let continues = t
        .query_row(
            "SELECT id, status, started_ms, phase FROM execution WHERE instance = ?1 AND status <> 'running' ORDER BY id DESC LIMIT 1",
            [instance],
            |r| {
                let status = Status::parse(&r.get::<_, String>(1)?).unwrap_or(Status::Failed);
                Ok(Continued { execution: r.get(0)?, status, started_ms: r.get(2)?, phase: r.get(3)? })
            },
        )
        .optional()?;
    t.execute(
        "INSERT INTO execution(instance, continues, started_ms, status, who, machine, version, directory, boot, pid, pid_began)
         VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
        params![
            instance,
            continues.as_ref().map(|c| c.execution),
            spec.now_ms,
            Status::Running.name(),
            spec.who,
            spec.machine,
            env!("CARGO_PKG_VERSION"),
            spec.directory,
            spec.process.boot,
            spec.process.pid,
            spec.process.began,
        ],
    )?;
    let execution = t.last_insert_rowid();
    let first = t.query_row("SELECT boot, pid, pid_began FROM execution WHERE instance = ?1 ORDER BY id LIMIT 1", [instance], |r| {
        Ok(Process { boot: r.get(0)?, pid: r.get(1)?, began: r.get(2)? })
    })?;
    t.commit()?;
    Ok(Begun { execution, instance_began_ms, first, continues })
}

/// How an execution ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    status: Status,
    exit_code: u8,
    error: Option<String>,
    hint: Option<String>,
    /// nothing is left for another execution to go on with, although this one failed
    done: bool,
}

impl Ended {
    /// The same of one that has done what its command is for, where it has.
    pub fn with_work_done(self, done: bool) -> Self {
        Self { done: self.done || done, ..self }
    }

    /// By the result of its command.
    pub fn of(error: Option<&Error>) -> Self {
        match error {
            None => Self { status: Status::Completed, exit_code: 0, error: None, hint: None, done: true },
            Some(e) => Self {
                status: if e.kind == Kind::Interrupted { Status::Interrupted } else { Status::Failed },
                exit_code: e.kind.exit_code(),
                error: Some(e.message.clone()).filter(|m| !m.is_empty()),
                hint: e.hint.clone(),
                done: false,
            },
        }
    }
}

/// Writes down that an execution has ended. One that completed finishes its instance; one that has made or removed the whole cluster
/// finishes all instances of it, since nothing of theirs is left to do.
pub fn end(t: &Transaction<'_>, execution: i64, ended: &Ended, now_ms: i64, left_out: u64) -> rusqlite::Result<()> {
    t.execute(
        "UPDATE execution SET ended_ms = ?2, status = ?3, exit_code = ?4, error = ?5, hint = ?6, left_out = left_out + ?7 WHERE id = ?1",
        params![
            execution,
            now_ms,
            ended.status.name(),
            ended.exit_code,
            ended.error,
            ended.hint,
            i64::try_from(left_out).unwrap_or(i64::MAX)
        ],
    )?;
    if ended.status == Status::Completed || ended.done {
        t.execute("UPDATE instance SET finished = 1 WHERE id = (SELECT instance FROM execution WHERE id = ?1)", [execution])?;
    }
    if ended.status == Status::Completed {
        t.execute(
            "UPDATE instance SET finished = 1 WHERE cluster IN (SELECT i.cluster FROM instance i JOIN execution e ON e.instance = i.id
             WHERE e.id = ?1 AND (i.command IN ('down', 'rename') OR i.command = 'up' AND i.parameters = '{}'))",
            [execution],
        )?;
    }
    Ok(())
}

/// Counts of a row of `step`.
#[derive(Debug, Clone, Default, PartialEq)]
struct Row {
    place: Option<String>,
    seconds: Option<f64>,
    ok: i64,
    changed: i64,
    failed: i64,
    skipped: i64,
    ignored: i64,
    error: Option<String>,
    dirty: bool,
}

/// The rows of `step` of one execution, counted from its events. Pure.
#[derive(Debug, Default)]
pub struct Steps {
    phase: String,
    rows: BTreeMap<(String, String, String), Row>,
}

impl Steps {
    fn row(&mut self, host: &str, task: &str) -> &mut Row {
        let row = self.rows.entry((self.phase.clone(), host.to_owned(), task.to_owned())).or_default();
        row.dirty = true;
        row
    }

    /// Counts an event.
    pub fn add(&mut self, event: &Event) {
        match event {
            Event::Phase { name } => {
                self.phase = name.clone();
                self.row("", "");
            }
            Event::PhaseEnd { name, seconds, ok } => {
                self.phase = name.clone();
                let row = self.row("", "");
                (row.seconds, row.failed) = (Some(*seconds), i64::from(!ok));
            }
            Event::Task { host, task, place, status, msg, .. } => {
                for (host, task) in [(host.as_str(), ""), ("", task.as_str())] {
                    let row = self.row(host, task);
                    match status {
                        TaskStatus::Ok => row.ok += 1,
                        TaskStatus::Changed => row.changed += 1,
                        TaskStatus::Failed => row.failed += 1,
                        TaskStatus::Skipped => row.skipped += 1,
                        TaskStatus::Ignored => row.ignored += 1,
                    }
                }
                self.row("", task).place = Some(place.clone());
                if *status == TaskStatus::Failed {
                    let row = self.row(host, task);
                    (row.failed, row.place, row.error) = (row.failed + 1, Some(place.clone()), Some(shortened(msg)));
                }
            }
            Event::Unreachable { host, reason } => {
                let row = self.row(host, "");
                (row.failed, row.error) = (row.failed + 1, Some(shortened(reason)));
            }
            _ => {}
        }
    }

    fn write(&mut self, t: &Transaction<'_>, execution: i64) -> rusqlite::Result<()> {
        let mut insert = t.prepare_cached("INSERT OR REPLACE INTO step VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)")?;
        for ((phase, host, task), r) in self.rows.iter_mut().filter(|(_, r)| r.dirty) {
            insert.execute(params![
                execution, phase, host, task, r.place, r.seconds, r.ok, r.changed, r.failed, r.skipped, r.ignored, r.error
            ])?;
            r.dirty = false;
        }
        t.execute("UPDATE execution SET phase = ?2 WHERE id = ?1", params![execution, Some(&self.phase).filter(|p| !p.is_empty())])?;
        Ok(())
    }
}

/// A text of bounded length.
fn shortened(text: &str) -> String {
    if text.len() <= MAX_TEXT_BYTES {
        return text.to_owned();
    }
    let end = (0..=MAX_TEXT_BYTES).rev().find(|i| text.is_char_boundary(*i)).unwrap_or(0);
    format!("{}…", text.get(..end).unwrap_or_default())
}

/// The event as it is kept; `None` for what is only counted.
fn kept(event: &Event) -> Option<Event> {
    match event {
        Event::Host { .. } | Event::Execution { .. } => None,
        Event::Task { status: TaskStatus::Ok | TaskStatus::Skipped, module, .. } if module != "debug" => None,
        Event::Task { host, task, place, item, status, msg, diff, module } => Some(Event::Task {
            host: host.clone(),
            task: task.clone(),
            place: place.clone(),
            item: item.clone(),
            status: *status,
            msg: shortened(msg),
            diff: diff.as_deref().map(shortened),
            module: module.clone(),
        }),
        other => Some(other.clone()),
    }
}

enum Order {
    Event(i64, Box<Event>),
    End(Ended),
}

/// A thread, and how it ends.
type Thread = (JoinHandle<()>, mpsc::Receiver<rusqlite::Result<()>>);

/// The thread that writes one execution's events.
pub struct Writer {
    orders: mpsc::SyncSender<Order>,
    thread: Mutex<Option<Thread>>,
    lost: AtomicU64,
}

impl Writer {
    /// Begins to write.
    pub fn start(db: Connection, execution: i64) -> std::io::Result<Self> {
        let (orders, given) = mpsc::sync_channel(MAX_WAITING);
        let (done, result) = mpsc::sync_channel(1);
        let work = move || {
            let _ = done.send(write(db, execution, &given));
        };
        let thread = std::thread::Builder::new().name("journal".into()).spawn(work)?;
        Ok(Self { orders, thread: Mutex::new(Some((thread, result))), lost: AtomicU64::new(0) })
    }

    /// Writes what is left and the end. An error is the first that the thread met.
    pub fn end(&self, ended: Ended) -> Result<()> {
        let Some((thread, result)) = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take() else { return Ok(()) };
        let stuck = || Error::failed(format!("the journal was not written within {} s", END_TIMEOUT.as_secs()));
        // A full queue is one that nobody empties.
        let begun = Instant::now();
        let mut order = Order::End(ended);
        loop {
            match self.orders.try_send(order) {
                Err(mpsc::TrySendError::Full(back)) if begun.elapsed() < END_TIMEOUT => order = back,
                Err(mpsc::TrySendError::Full(_)) => return Err(stuck()),
                Ok(()) | Err(mpsc::TrySendError::Disconnected(_)) => break,
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let written = result.recv_timeout(END_TIMEOUT).map_err(|_| stuck())?;
        let _ = thread.join();
        written.map_err(|e| failed(&e))?;
        match self.lost.load(Ordering::Relaxed) {
            0 => Ok(()),
            n => Err(Error::failed(format!("{n} events are missing in the journal: they came faster than it is written"))),
        }
    }
}

impl Sink for Writer {
    fn event(&self, event: &Event) {
        if self.orders.try_send(Order::Event(now_ms(), Box::new(event.clone()))).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Gathers events and writes them together, until the end.
fn write(mut db: Connection, execution: i64, given: &mpsc::Receiver<Order>) -> rusqlite::Result<()> {
    let (mut steps, mut number, mut left_out) = (Steps::default(), 0, 0);
    while let Ok(first) = given.recv() {
        let (begun, mut batch) = (Instant::now(), vec![first]);
        while !matches!(batch.last(), Some(Order::End(_))) && batch.len() < MAX_WAITING {
            match given.recv_timeout(GATHER.saturating_sub(begun.elapsed())) {
                Ok(order) => batch.push(order),
                Err(_) => break,
            }
        }
        let t = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let mut ended = None;
        for order in batch {
            match order {
                Order::End(e) => ended = Some(e),
                Order::Event(at, event) => {
                    steps.add(&event);
                    match kept(&event) {
                        Some(event) if number < MAX_EVENTS => {
                            let text = serde_json::to_string(&event).unwrap_or_default();
                            t.prepare_cached("INSERT INTO output VALUES(?1, ?2, ?3, ?4)")?.execute(params![execution, number, at, text])?;
                            number += 1;
                        }
                        Some(_) => left_out += 1,
                        None => {}
                    }
                }
            }
        }
        steps.write(&t, execution)?;
        if let Some(ended) = &ended {
            end(&t, execution, ended, now_ms(), left_out)?;
        }
        t.commit()?;
        if ended.is_some() {
            return store::prune(&mut db);
        }
    }
    Ok(())
}

#[cfg(test)]
#[path = "write_tests.rs"]
mod tests;
