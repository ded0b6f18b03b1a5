//! The part of a command that is about the journal: it begins an execution once the command has the cluster's lock, and ends it.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
};

use rusqlite::Connection;

use super::{
    process::Process,
    store::{self, failed},
    write::{self, Begun, Ended, Spec, Writer},
};
use crate::{
    clock::now_ms,
    error::{Error, Result},
    events::Event,
    identity::ClusterName,
    report::Reporter,
};

struct Recording {
    begun: Begun,
    writer: Arc<Writer>,
    reporter: Arc<Reporter>,
}

/// Records one command, or nothing.
#[derive(Default)]
pub struct Recorder {
    /// the command, as `up`, and its identifying parameters
    command: Option<(&'static str, BTreeMap<&'static str, String>)>,
    recording: OnceLock<Option<Recording>>,
    /// nothing is left for another execution to go on with
    done: AtomicBool,
}

impl Recorder {
    /// Records nothing: for commands that change nothing.
    pub fn off() -> Self {
        Self::default()
    }

    /// Records a command. Another execution with the same parameters continues one that has not succeeded. Values that may be
    /// secret belong in as digests.
    pub fn of(command: &'static str, parameters: BTreeMap<&'static str, String>) -> Self {
        Self { command: Some((command, parameters)), ..Self::default() }
    }

    /// An execution begins; only the first call has an effect. Called with the cluster's lock, so that no other execution of its
    /// runs. What the execution continues is told.
    pub fn begin(&self, reporter: &Arc<Reporter>, cluster: &ClusterName) {
        let Some((command, parameters)) = &self.command else { return };
        let own = Attempt { process: Process::own(), now_ms: now_ms(), is_alive: Process::is_alive };
        self.recording.get_or_init(|| match store::open().and_then(|db| start(db, own, command, parameters, reporter, cluster)) {
            Ok(recording) => Some(recording),
            Err(e) => {
                reporter.warn(&format!("this run is not recorded: {}", e.message));
                None
            }
        });
    }

    /// For tests: the same in a journal of theirs, as a process of theirs.
    #[cfg(test)]
    pub fn begin_as(&self, db: Connection, attempt: Attempt, reporter: &Arc<Reporter>, cluster: &ClusterName) -> Result<()> {
        let Some((command, parameters)) = &self.command else { return Ok(()) };
        let recording = start(db, attempt, command, parameters, reporter, cluster)?;
        drop(self.recording.set(Some(recording)));
        Ok(())
    }

    fn recording(&self) -> Option<&Recording> {
        self.recording.get()?.as_ref()
    }

    /// When the first execution of the instance began, in milliseconds since 1970; `None` where nothing is recorded.
    pub fn instance_began_ms(&self) -> Option<i64> {
        self.recording().map(|r| r.begun.instance_began_ms)
    }

    /// The process of that execution: how long ago it was started can be told whatever was done to this machine's clock.
    pub fn instance_process(&self) -> Option<&Process> {
        self.recording().map(|r| &r.begun.first)
    }

    /// Whether the execution continues another.
    pub fn is_continued(&self) -> bool {
        self.recording().is_some_and(|r| r.begun.continues.is_some())
    }

    /// What the command is for is done, whatever it finds afterwards: the same command begins anew.
    pub fn done(&self) {
        self.done.store(true, Ordering::SeqCst);
    }

    /// The command has ended.
    pub fn end(&self, error: Option<&Error>) {
        let Some(r) = self.recording() else { return };
        if let Err(e) = r.writer.end(Ended::of(error).with_work_done(self.done.load(Ordering::SeqCst))) {
            r.reporter.warn(&e.message);
        }
    }
}

/// Which process makes an attempt at a command, and when.
pub struct Attempt {
    /// The process.
    pub process: Process,
    /// Now, in milliseconds since 1970.
    pub now_ms: i64,
    /// Whether the process of another attempt is still there.
    pub is_alive: fn(&Process) -> bool,
}

fn start(
    mut db: Connection,
    Attempt { process, now_ms, is_alive }: Attempt,
    command: &'static str,
    parameters: &BTreeMap<&'static str, String>,
    reporter: &Arc<Reporter>,
    cluster: &ClusterName,
) -> Result<Recording> {
    let spec = Spec {
        cluster,
        command,
        parameters: &serde_json::to_string(parameters).unwrap_or_default(),
        who: std::env::var("USER").or_else(|_| std::env::var("LOGNAME")).unwrap_or_default(),
        machine: std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned(),
        directory: std::env::current_dir().map(|d| d.display().to_string()).unwrap_or_default(),
        process,
        now_ms,
    };
    let begun = write::begin(&mut db, &spec, is_alive).map_err(|e| failed(&e))?;
    let writer = Arc::new(Writer::start(db, begun.execution)?);
    reporter.emit(&Event::Execution {
        execution: begun.execution,
        command: command.to_owned(),
        cluster: cluster.to_string(),
        continues: begun.continues.clone(),
    });
    reporter.add(writer.clone());
    Ok(Recording { begun, writer, reporter: reporter.clone() })
}
