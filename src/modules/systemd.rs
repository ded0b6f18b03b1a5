//! `systemd`, `systemd_service`, `service`.

use septet_agent_protocol::{Action, UnitState};

use super::{Arguments, Context, Prepared};
use crate::error::Result;

/// Prepares it. `restart_if_newer` is ours: a list of files; a unit that runs since before one of them changed is
/// restarted, whichever run changed it.
pub fn prepare(a: &mut Arguments<'_>, _: &Context<'_>) -> Result<Prepared> {
    let mut name = String::new();
    for key in ["name", "service", "unit"] {
        name = a.text(key)?.unwrap_or(name);
    }
    let state = match a.choice("state", &["started", "stopped", "restarted", "reloaded", ""], "")? {
        "started" => Some(UnitState::Started),
        "stopped" => Some(UnitState::Stopped),
        "restarted" => Some(UnitState::Restarted),
        "reloaded" => Some(UnitState::Reloaded),
        _ => None,
    };
    let daemon_reload = a.boolean("daemon_reload")?.unwrap_or(false);
    let enabled = a.boolean("enabled")?;
    if name.is_empty() && (state.is_some() || enabled.is_some() || !daemon_reload) {
        return Err(a.error("missing argument `name`"));
    }
    Ok(Prepared::action(Action::Systemd {
        name,
        state,
        enabled,
        daemon_reload,
        restart_if_newer: a.texts("restart_if_newer")?,
        timeout_s: a.number("timeout", 1, 3600)?.map(|n| n as u64),
    }))
}
