//! `wait_for`.

use septet_agent_protocol::{Action, WaitState};

use super::{Arguments, Context, Prepared};
use crate::error::Result;

/// Prepares it.
pub fn prepare(a: &mut Arguments<'_>, _: &Context<'_>) -> Result<Prepared> {
    let host = a.text("host")?;
    let port = a.number("port", 1, 65535)?.map(|p| p as u16);
    let path = a.text("path")?;
    if port.is_some() == path.is_some() {
        return Err(a.error("needs either `port` or `path`"));
    }
    let state = match a.choice("state", &["started", "present", "stopped", "absent"], "started")? {
        "stopped" | "absent" => WaitState::Stopped,
        _ => WaitState::Started,
    };
    let timeout_s = a.number("timeout", 0, 86_400)?.unwrap_or(300) as u64;
    let delay_s = a.number("delay", 0, 86_400)?.unwrap_or(0) as u64;
    Ok(Prepared::action(Action::WaitFor { host, port, path, state, timeout_s, delay_s }))
}
