//! The journal: what was done, in the order in which it was done; one JSON object a line, in the user's state directory.
//!
//! Invariant: a line is written whole and is on disk before the command says that it is done; lines are only ever added.
//! Nothing is decided by what stands here.

use std::{
    fs::{self, OpenOptions},
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::PathBuf,
};

use serde::Serialize;
use serde_json::json;

use crate::{
    error::{Error, Result},
    provider::now_s,
    ssh::keys,
};

/// Where it is.
pub fn path() -> Result<PathBuf> {
    Ok(keys::state_dir()?.join("journal.jsonl"))
}

/// Adds an entry: what a command did to a cluster.
pub fn record(command: &str, cluster: &str, what: &impl Serialize) -> Result<()> {
    let path = path()?;
    let fail = |e: std::io::Error| Error::failed(format!("{}: {e}", path.display()));
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir).map_err(fail)?;
    }
    let entry = json!({ "at": now_s(), "command": command, "cluster": cluster, "what": what });
    let mut file = OpenOptions::new().create(true).append(true).mode(0o600).open(&path).map_err(fail)?;
    // One write of a whole line: two processes that add at the same time do not mix theirs.
    file.write_all(format!("{entry}\n").as_bytes()).and_then(|()| file.sync_data()).map_err(fail)
}
