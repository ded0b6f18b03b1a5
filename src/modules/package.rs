//! `package`: software from the host's own package manager.

use septet_agent_protocol::Action;

use super::{Arguments, Context, Prepared};
use crate::error::Result;

/// Prepares it.
pub fn prepare(a: &mut Arguments<'_>, _: &Context<'_>) -> Result<Prepared> {
    let names = a.texts("name")?;
    if names.is_empty() {
        return Err(a.error("missing argument `name`"));
    }
    a.choice("state", &["present", "installed"], "present")?;
    Ok(Prepared::action(Action::Package { names }))
}
