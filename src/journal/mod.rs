//! The journal: what was done, in the order in which it was done; one JSON object a line, in the user's state directory.
//!
//! Invariant: a line is written whole and is on disk before the command reports success; lines are only ever added.
//! Nothing is decided by what stands here.

use std::{io::Write, path::PathBuf};

use serde::Serialize;
use serde_json::json;

use crate::{
    error::{Error, Result},
    provider::now_s,
    state::{self, State},
};

const FILE: &str = "journal.jsonl";

/// Where it is.
pub fn path() -> Result<PathBuf> {
    Ok(state::path()?.join(FILE))
}

/// Adds an entry: what a command did to a cluster.
pub fn record(command: &str, cluster: &str, what: &impl Serialize) -> Result<()> {
    let path = path()?;
    let fail = |e: std::io::Error| Error::failed(format!("{}: {e}", path.display()));
    let entry = json!({ "at": now_s(), "command": command, "cluster": cluster, "what": what });
    let mut file = State::open()?.open_file(FILE, true)?;
    // One write of a whole line: two processes that add at the same time do not mix theirs.
    file.write_all(format!("{entry}\n").as_bytes()).and_then(|()| file.sync_data()).map_err(fail)
}
