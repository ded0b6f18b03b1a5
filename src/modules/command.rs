//! `command` and `shell`.

use std::collections::BTreeMap;

use septet_agent_protocol::Action;
use serde_json::Value;

use super::{Arguments, Context, Prepared};
use crate::error::Result;

/// Seconds that a command may take unless it says otherwise.
const DEFAULT_TIMEOUT_S: i64 = 3600;

fn environment(c: &Context<'_>) -> BTreeMap<String, String> {
    c.environment.iter().map(|(k, v)| (k.clone(), crate::template::text_of(v))).collect()
}

/// A path without a pattern: whether one matches is not looked at.
fn path(a: &mut Arguments<'_>, key: &'static str) -> Result<Option<String>> {
    let path = a.text(key)?;
    match &path {
        Some(p) if p.contains(['*', '?', '[']) => Err(a.error(format!("`{key}`: patterns are not supported")).hint("name one file")),
        _ => Ok(path),
    }
}

fn action(a: &mut Arguments<'_>, c: &Context<'_>, argv: Vec<String>, expand: bool) -> Result<Prepared> {
    if argv.is_empty() {
        return Err(a.error("the command is empty"));
    }
    a.only("strip_empty_ends", &Value::Bool(true), "trailing line ends are always removed")?;
    let add_newline = a.boolean("stdin_add_newline")?.unwrap_or(true);
    let stdin = a.text("stdin")?.map(|s| if add_newline { s + "\n" } else { s });
    Ok(Prepared::action(Action::Command {
        argv,
        chdir: a.text("chdir")?,
        creates: path(a, "creates")?,
        removes: path(a, "removes")?,
        stdin,
        environment: environment(c),
        timeout_s: a.number("timeout", 0, 86_400)?.unwrap_or(DEFAULT_TIMEOUT_S) as u64,
        check_safe: false,
        expand,
    }))
}

/// Splits as a shell does, without anything else that one does; `None` where a quote is not closed.
fn split(line: &str) -> Option<Vec<String>> {
    let mut out = Vec::new();
    let (mut word, mut any) = (String::new(), false);
    let mut chars = line.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\\' => {
                any = true;
                word.push(chars.next()?);
            }
            '\'' => {
                any = true;
                loop {
                    match chars.next()? {
                        '\'' => break,
                        c => word.push(c),
                    }
                }
            }
            '"' => {
                any = true;
                loop {
                    match chars.next()? {
                        '"' => break,
                        '\\' => {
                            let c = chars.next()?;
                            if !matches!(c, '"' | '\\') {
                                word.push('\\');
                            }
                            word.push(c);
                        }
                        c => word.push(c),
                    }
                }
            }
            c if c.is_whitespace() => {
                if any || !word.is_empty() {
                    out.push(std::mem::take(&mut word));
                }
                any = false;
            }
            c => word.push(c),
        }
    }
    if any || !word.is_empty() {
        out.push(word);
    }
    Some(out)
}

/// Prepares `command`. `$NAME` and `~` are the host's, as in Ansible; nothing else of a shell is.
pub fn command(a: &mut Arguments<'_>, c: &Context<'_>) -> Result<Prepared> {
    let argv = a.texts_of_list("argv")?;
    let argv = match a.text("cmd")? {
        Some(line) if argv.is_empty() => split(&line).ok_or_else(|| a.error("a quote is not closed"))?,
        Some(_) => return Err(a.error("has both `cmd` and `argv`")),
        None => argv,
    };
    a.only("executable", &Value::Null, "use `shell`")?;
    let expand = a.boolean("expand_argument_vars")?.unwrap_or(true);
    action(a, c, argv, expand)
}

/// Prepares `shell`.
pub fn shell(a: &mut Arguments<'_>, c: &Context<'_>) -> Result<Prepared> {
    let line = a.need(&["cmd"])?;
    let shell = a.text("executable")?.unwrap_or_else(|| "/bin/sh".into());
    action(a, c, vec![shell, "-c".into(), line], false)
}
