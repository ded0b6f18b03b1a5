//! `file`: directories, links, attributes, absence.

use septet_agent_protocol::{Action, FileState};

use super::{Arguments, Context, Prepared};
use crate::error::Result;

/// Prepares it.
pub fn prepare(a: &mut Arguments<'_>, _: &Context<'_>) -> Result<Prepared> {
    let path = a.need(&["path", "dest", "name"])?;
    let recurse = a.boolean("recurse")?.unwrap_or(false);
    a.without("state", "hard", "use `command: ln SRC DEST` with `creates: DEST`")?;
    let state = match a.choice("state", &["file", "directory", "absent", "touch", "link"], "")? {
        // As in Ansible: without a state it is what is there.
        "" if recurse => FileState::Directory,
        "" => FileState::Any,
        "directory" => FileState::Directory,
        "absent" => FileState::Absent,
        "touch" => {
            let preserved = |v: Option<String>| v.as_deref() == Some("preserve");
            match (preserved(a.text("access_time")?), preserved(a.text("modification_time")?)) {
                (true, true) => FileState::Exists,
                (false, false) => FileState::Touch,
                _ => return Err(a.error("`access_time` and `modification_time` are both `preserve`, or neither is given")),
            }
        }
        "link" => FileState::Link,
        _ => FileState::File,
    };
    let (src, attributes) = (a.text("src")?, a.attributes()?);
    let follow = a.boolean("follow")?;
    Ok(Prepared::action(Action::File { path, state, src, attributes, recurse, follow }))
}
