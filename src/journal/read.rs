//! Reading: what `septet history` shows.

use rusqlite::{Connection, OptionalExtension, Row, params};
use serde::Serialize;

use super::{
    process::Process,
    store::{self, failed},
    write::mark_killed,
};
use crate::{
    clock,
    error::{Error, Result},
    events::{Event, Status},
};

/// An execution.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Execution {
    /// its number
    pub execution: i64,
    /// the command, as `up`
    pub command: String,
    /// identifying parameters
    pub parameters: serde_json::Value,
    /// the cluster's name
    pub cluster: String,
    /// number of its instance: executions of one instance continue one another
    pub instance: i64,
    /// the execution that it continues
    pub continues: Option<i64>,
    /// when it began, in milliseconds since 1970
    #[serde(serialize_with = "time", rename = "started")]
    pub started_ms: i64,
    /// when it ended; `None` while it runs, and where it was killed
    #[serde(serialize_with = "optional_time", rename = "ended")]
    pub ended_ms: Option<i64>,
    /// how it ended
    pub status: Status,
    /// the process's exit code
    pub exit_code: Option<i64>,
    /// the last phase that began
    pub phase: Option<String>,
    /// the user
    pub who: String,
    /// the machine
    pub machine: String,
    /// number of its process
    pub process: i64,
    /// where it was run
    pub directory: String,
    /// Septet's version
    pub version: String,
    /// why it failed
    pub error: Option<String>,
    /// what to do
    pub hint: Option<String>,
    /// events that were not kept, since there were too many
    pub left_out: i64,
}

/// A row of counts: a phase (no host, no task), a host in it, a task in it, or a task that failed on a host.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Step {
    /// the phase; empty for commands without phases
    pub phase: String,
    /// the host, or empty
    pub host: String,
    /// the task, or empty
    pub task: String,
    /// `file:line` of the task
    pub place: Option<String>,
    /// how long the phase took
    pub seconds: Option<f64>,
    /// nothing to do
    pub ok: i64,
    /// changed
    pub changed: i64,
    /// failed
    pub failed: i64,
    /// skipped
    pub skipped: i64,
    /// failed, with `ignore_errors`
    pub ignored: i64,
    /// why it failed
    pub error: Option<String>,
}

/// An execution with its steps.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Details {
    /// the execution
    #[serde(flatten)]
    pub execution: Execution,
    /// its steps, by phase
    pub steps: Vec<Step>,
}

fn time<S: serde::Serializer>(ms: &i64, s: S) -> std::result::Result<S::Ok, S::Error> {
    s.serialize_str(&clock::rfc3339(*ms))
}

fn optional_time<S: serde::Serializer>(ms: &Option<i64>, s: S) -> std::result::Result<S::Ok, S::Error> {
    match ms {
        Some(ms) => time(ms, s),
        None => s.serialize_none(),
    }
}

const COLUMNS: &str = "SELECT e.id, i.command, i.parameters, i.cluster, i.id, e.continues, e.started_ms, e.ended_ms, e.status, e.exit_code,
 e.phase, e.who, e.machine, e.directory, e.version, e.error, e.hint, e.left_out, e.pid
 FROM execution e JOIN instance i ON i.id = e.instance";

fn execution(r: &Row<'_>) -> rusqlite::Result<Execution> {
    Ok(Execution {
        execution: r.get(0)?,
        command: r.get(1)?,
        parameters: serde_json::from_str(&r.get::<_, String>(2)?).unwrap_or_default(),
        cluster: r.get(3)?,
        instance: r.get(4)?,
        continues: r.get(5)?,
        started_ms: r.get(6)?,
        ended_ms: r.get(7)?,
        status: Status::parse(&r.get::<_, String>(8)?).unwrap_or(Status::Failed),
        exit_code: r.get(9)?,
        phase: r.get(10)?,
        who: r.get(11)?,
        machine: r.get(12)?,
        directory: r.get(13)?,
        version: r.get(14)?,
        error: r.get(15)?,
        hint: r.get(16)?,
        left_out: r.get(17)?,
        process: r.get(18)?,
    })
}

/// The journal of this state directory.
pub struct Journal {
    db: Connection,
}

impl Journal {
    /// Opens it. Executions whose process is gone are marked as killed.
    pub fn open() -> Result<Self> {
        let db = store::open()?;
        mark_killed(&db, Process::is_alive).map_err(|e| failed(&e))?;
        Ok(Self { db })
    }

    /// The last executions, of one cluster where one is named, the latest first.
    pub fn list(&self, limit: u32, cluster: Option<&str>) -> Result<Vec<Execution>> {
        let all = || -> rusqlite::Result<Vec<Execution>> {
            let text = format!("{COLUMNS} WHERE ?1 IS NULL OR i.cluster = ?1 ORDER BY e.id DESC LIMIT ?2");
            self.db.prepare(&text)?.query_map(params![cluster, limit], execution)?.collect()
        };
        all().map_err(|e| failed(&e))
    }

    /// The execution that runs on a cluster, if one does.
    pub fn running(&self, cluster: &str) -> Result<Option<Execution>> {
        let text = format!("{COLUMNS} WHERE i.cluster = ?1 AND e.status = 'running' ORDER BY e.id DESC LIMIT 1");
        self.db.query_row(&text, [cluster], execution).optional().map_err(|e| failed(&e))
    }

    fn execution(&self, number: i64) -> Result<Execution> {
        let found = self.db.query_row(&format!("{COLUMNS} WHERE e.id = ?1"), [number], execution).optional();
        found
            .map_err(|e| failed(&e))?
            .ok_or_else(|| Error::invalid(format!("there is no execution {number} in the journal")).hint("`septet history` lists them"))
    }

    /// An execution with its steps.
    pub fn details(&self, number: i64) -> Result<Details> {
        let execution = self.execution(number)?;
        let steps = || -> rusqlite::Result<Vec<Step>> {
            let text =
                "SELECT phase, host, task, place, seconds, ok, changed, failed, skipped, ignored, error FROM step WHERE execution = ?1";
            let row = |r: &Row<'_>| {
                Ok(Step {
                    phase: r.get(0)?,
                    host: r.get(1)?,
                    task: r.get(2)?,
                    place: r.get(3)?,
                    seconds: r.get(4)?,
                    ok: r.get(5)?,
                    changed: r.get(6)?,
                    failed: r.get(7)?,
                    skipped: r.get(8)?,
                    ignored: r.get(9)?,
                    error: r.get(10)?,
                })
            };
            self.db.prepare(text)?.query_map([number], row)?.collect()
        };
        Ok(Details { execution, steps: steps().map_err(|e| failed(&e))? })
    }

    /// The events that were kept of an execution, with their times in milliseconds since 1970. What another version wrote and this
    /// one cannot read is left out.
    pub fn events(&self, number: i64) -> Result<Vec<(i64, Event)>> {
        self.execution(number)?;
        let rows = || {
            let row = |r: &Row<'_>| Ok((r.get::<_, i64>(0)?, r.get::<_, String>(1)?));
            let text = "SELECT at_ms, event FROM output WHERE execution = ?1 ORDER BY number";
            self.db.prepare(text)?.query_map([number], row)?.collect::<rusqlite::Result<Vec<_>>>()
        };
        let rows = rows().map_err(|e| failed(&e))?;
        Ok(rows.into_iter().filter_map(|(at, text)| Some((at, serde_json::from_str(&text).ok()?))).collect())
    }
}

#[cfg(test)]
impl Journal {
    /// One that is open.
    pub fn of(db: Connection) -> Self {
        Self { db }
    }
}
