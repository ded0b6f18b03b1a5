//! What a run does, as one typed stream: phases, steps of the provider, plays, tasks and gates, in the order in which they happen.
//!
//! Invariant: an event says by its type and fields what happened. A [`Sink`] shows or keeps it; none decides anything by the words
//! of a text.

use serde::{Deserialize, Serialize};

/// How a task ended on a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TaskStatus {
    /// nothing to do
    Ok,
    /// done (in check mode: would be)
    Changed,
    /// not done
    Failed,
    /// failed, and the task has `ignore_errors`
    Ignored,
    /// its condition did not hold, or it cannot be known in check mode
    Skipped,
}

/// Where a host stands in a roll.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GateState {
    /// checking that it is safe to stop
    Before,
    /// it must not stop yet, or is not back yet, for the reasons given
    Blocked,
    /// restarted, waiting for it to rejoin
    After,
    /// it is back
    Open,
}

/// How much a note matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// for `-v`
    Detail,
    /// for everybody
    Info,
    /// not as it may be thought to be
    Warning,
}

/// How an execution ended, or that it did not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// its process is there
    Running,
    /// with exit code 0
    Completed,
    /// with another one
    Failed,
    /// stopped by the user
    Interrupted,
    /// its process is gone and left no end
    Killed,
}

impl Status {
    /// As it is written down and shown.
    pub fn name(self) -> &'static str {
        match self {
            Status::Running => "running",
            Status::Completed => "completed",
            Status::Failed => "failed",
            Status::Interrupted => "interrupted",
            Status::Killed => "killed",
        }
    }

    /// The status of a name.
    pub fn parse(name: &str) -> Option<Self> {
        let all = [Status::Running, Status::Completed, Status::Failed, Status::Interrupted, Status::Killed];
        all.into_iter().find(|s| s.name() == name)
    }
}

/// The execution that another one continues.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Continued {
    /// its number
    pub execution: i64,
    /// how it ended
    pub status: Status,
    /// when it began, in milliseconds since 1970
    pub started_ms: i64,
    /// the phase in which it ended
    #[serde(skip_serializing_if = "Option::is_none")]
    pub phase: Option<String>,
}

/// An event.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "event")]
pub enum Event {
    /// the run is in the journal
    Execution {
        /// its number
        execution: i64,
        /// the command, as `up`
        command: String,
        /// the cluster's name
        cluster: String,
        /// what it continues
        #[serde(default, skip_serializing_if = "Option::is_none")]
        continues: Option<Continued>,
    },
    /// a phase begins
    Phase {
        /// its name
        name: String,
    },
    /// a phase ended
    PhaseEnd {
        /// its name
        name: String,
        /// how long it took, in seconds
        seconds: f64,
        /// whether nothing failed
        ok: bool,
    },
    /// a step of the provider is done
    Step {
        /// the step as a line
        summary: String,
    },
    /// a play begins
    Play {
        /// its name
        name: String,
        /// how many hosts it has
        hosts: usize,
    },
    /// a host begins a play
    Host {
        /// which
        host: String,
        /// the play's name
        play: String,
    },
    /// a task ended
    Task {
        /// where
        host: String,
        /// its name
        task: String,
        /// `file:line`
        place: String,
        /// the item of a loop
        #[serde(default, skip_serializing_if = "Option::is_none")]
        item: Option<String>,
        /// how
        status: TaskStatus,
        /// message
        #[serde(default, skip_serializing_if = "String::is_empty")]
        msg: String,
        /// what changed
        #[serde(default, skip_serializing_if = "Option::is_none")]
        diff: Option<String>,
        /// the module, for what is shown always
        module: String,
    },
    /// a host cannot be reached
    Unreachable {
        /// which
        host: String,
        /// why
        reason: String,
    },
    /// a host's place in a roll
    Gate {
        /// which
        host: String,
        /// where it stands
        state: GateState,
        /// what keeps the gate closed: `brokers: topic t has 2 of 3 replicas in sync: partition 0`
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        reasons: Vec<String>,
    },
    /// how far a roll is
    Progress {
        /// hosts that are done
        done: usize,
        /// all hosts of the roll
        total: usize,
        /// an estimate of what is left, in seconds
        left_s: u64,
    },
    /// a handler was notified and did not run
    PendingHandler {
        /// where
        host: String,
        /// which
        handler: String,
    },
    /// what a removal did
    Receipt {
        /// the receipt
        receipt: serde_json::Value,
    },
    /// something else that is worth knowing
    Note {
        /// how much it matters
        level: Level,
        /// what
        text: String,
    },
}

impl Event {
    /// A note for everybody.
    pub fn note(text: impl Into<String>) -> Self {
        Event::Note { level: Level::Info, text: text.into() }
    }
}

/// Receives the events of a run.
pub trait Sink: Send + Sync {
    /// Takes an event. It must not wait for long: the run waits for it.
    fn event(&self, event: &Event);
}
