//! The events of a run, in order.

use serde::Serialize;

/// How a task ended on a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
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

/// An event.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case", tag = "event")]
pub enum Event {
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
        #[serde(skip_serializing_if = "Option::is_none")]
        item: Option<String>,
        /// how
        status: TaskStatus,
        /// message
        #[serde(skip_serializing_if = "String::is_empty")]
        msg: String,
        /// what changed
        #[serde(skip_serializing_if = "Option::is_none")]
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
    /// a note on the run as a whole, such as a gate that is waited for
    Note {
        /// what
        text: String,
    },
}
