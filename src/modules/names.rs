//! `hostname` and `timezone`.

use septet_agent_protocol::Action;

use super::{Arguments, Context, Prepared};
use crate::error::Result;

/// Prepares `hostname`.
pub fn hostname(a: &mut Arguments<'_>, _: &Context<'_>) -> Result<Prepared> {
    let name = a.need(&["name"])?;
    a.take("use");
    Ok(Prepared::action(Action::Hostname { name }))
}

/// Prepares `timezone`.
pub fn timezone(a: &mut Arguments<'_>, _: &Context<'_>) -> Result<Prepared> {
    Ok(Prepared::action(Action::Timezone { name: a.need(&["name"])? }))
}
