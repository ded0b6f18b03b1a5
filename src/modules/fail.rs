//! `fail`: fails, with a message.

use septet_agent_protocol::Outcome;

use super::{Arguments, Context, Prepared};
use crate::error::Result;

/// Prepares it.
pub fn prepare(a: &mut Arguments<'_>, _: &Context<'_>) -> Result<Prepared> {
    let msg = a.text("msg")?.unwrap_or_else(|| "Failed as requested from task".into());
    Ok(Prepared::local(Outcome::failed(msg)))
}
