//! `file`: directories, links, attributes, absence.

use septet_agent_protocol::{Action, FileState};

use super::{Arguments, Context, Prepared};
use crate::error::Result;

/// Prepares it.
pub fn prepare(a: &mut Arguments<'_>, _: &Context<'_>) -> Result<Prepared> {
    let path = a.need(&["path", "dest", "name"])?;
    let state = match a.choice("state", &["file", "directory", "absent", "touch", "link"], "file")? {
        "directory" => FileState::Directory,
        "absent" => FileState::Absent,
        "touch" => FileState::Touch,
        "link" => FileState::Link,
        _ => FileState::File,
    };
    let (src, attributes) = (a.text("src")?, a.attributes()?);
    let recurse = a.boolean("recurse")?.unwrap_or(false);
    let follow = a.boolean("follow")?;
    Ok(Prepared::action(Action::File { path, state, src, attributes, recurse, follow }))
}
