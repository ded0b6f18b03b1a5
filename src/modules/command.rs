//! `command` and `shell`.

use std::collections::BTreeMap;

use septet_agent_protocol::Action;
use serde_json::Value;

use super::{Arguments, Context, Prepared};
use crate::{error::Result, playbook::words};

/// Seconds that a command may take unless it says otherwise.
const DEFAULT_TIMEOUT_S: i64 = 3600;

fn environment(c: &Context<'_>) -> BTreeMap<String, String> {
    c.environment
        .iter()
        .map(|(k, v)| {
            let text = match v {
                Value::String(s) => s.clone(),
                other => other.to_string(),
            };
            (k.clone(), text)
        })
        .collect()
}

fn action(a: &mut Arguments<'_>, c: &Context<'_>, argv: Vec<String>) -> Result<Prepared> {
    if argv.is_empty() {
        return Err(a.error("the command is empty"));
    }
    Ok(Prepared::action(Action::Command {
        argv,
        chdir: a.text("chdir")?,
        creates: a.text("creates")?,
        removes: a.text("removes")?,
        stdin: a.text("stdin")?,
        environment: environment(c),
        timeout_s: a.number("timeout", 0, 86_400)?.unwrap_or(DEFAULT_TIMEOUT_S) as u64,
        check_safe: false,
    }))
}

/// Prepares `command`.
pub fn command(a: &mut Arguments<'_>, c: &Context<'_>) -> Result<Prepared> {
    let argv = a.texts("argv")?;
    let argv = match a.text("cmd")? {
        Some(line) if argv.is_empty() => words(&line),
        Some(_) => return Err(a.error("has both `cmd` and `argv`")),
        None => argv,
    };
    action(a, c, argv)
}

/// Prepares `shell`.
pub fn shell(a: &mut Arguments<'_>, c: &Context<'_>) -> Result<Prepared> {
    let line = a.need(&["cmd"])?;
    let shell = a.text("executable")?.unwrap_or_else(|| "/bin/sh".into());
    action(a, c, vec![shell, "-c".into(), line])
}
