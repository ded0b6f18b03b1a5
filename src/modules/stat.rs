//! `stat` and `slurp`.

use septet_agent_protocol::Action;

use super::{Arguments, Context, Prepared};
use crate::error::Result;

/// Prepares `stat`.
pub fn stat(a: &mut Arguments<'_>, _: &Context<'_>) -> Result<Prepared> {
    let path = a.need(&["path", "dest", "name"])?;
    let follow = a.boolean("follow")?.unwrap_or(false);
    let checksum = a.boolean("get_checksum")?.unwrap_or(true);
    Ok(Prepared::action(Action::Stat { path, follow, checksum }))
}

/// Prepares `slurp`. The content comes as text.
pub fn slurp(a: &mut Arguments<'_>, _: &Context<'_>) -> Result<Prepared> {
    Ok(Prepared::action(Action::Slurp { path: a.need(&["src", "path"])? }))
}
