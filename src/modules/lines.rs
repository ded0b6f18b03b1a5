//! `lineinfile` and `blockinfile`.

use septet_agent_protocol::{Action, Insert};

use super::{Arguments, Context, Prepared};
use crate::error::Result;

fn insert(a: &mut Arguments<'_>) -> Result<Insert> {
    let (after, before) = (a.text("insertafter")?, a.text("insertbefore")?);
    Ok(match (after.as_deref(), before.as_deref()) {
        (Some(_), Some(_)) => return Err(a.error("has both `insertafter` and `insertbefore`")),
        (None | Some("EOF"), None) => Insert::Eof,
        (None, Some("BOF")) => Insert::Bof,
        (Some(p), None) => Insert::After(p.into()),
        (None, Some(p)) => Insert::Before(p.into()),
    })
}

/// Prepares `lineinfile`.
pub fn lineinfile(a: &mut Arguments<'_>, _: &Context<'_>) -> Result<Prepared> {
    let path = a.need(&["path", "dest", "name"])?;
    let line = a.text("line")?;
    let regexp = match (a.text("regexp")?, a.text("search_string")?) {
        (Some(_), Some(_)) => return Err(a.error("has both `regexp` and `search_string`")),
        (regexp, search) => regexp.or(search.map(|s| regex::escape(&s))),
    };
    let backrefs = a.boolean("backrefs")?.unwrap_or(false);
    if backrefs && regexp.is_none() {
        return Err(a.error("`backrefs` needs `regexp`"));
    }
    a.only("firstmatch", &false.into(), "write a `regexp` or `insertafter` that matches one line only")?;
    let absent = a.choice("state", &["present", "absent"], "present")? == "absent";
    if line.is_none() && (!absent || regexp.is_none()) {
        return Err(a.error("missing argument `line`"));
    }
    let insert = insert(a)?;
    let create = a.boolean("create")?.unwrap_or(false);
    Ok(Prepared::action(Action::Lineinfile { path, line, regexp, backrefs, absent, insert, create, attributes: a.attributes()? }))
}

/// Prepares `blockinfile`.
pub fn blockinfile(a: &mut Arguments<'_>, _: &Context<'_>) -> Result<Prepared> {
    let path = a.need(&["path", "dest", "name"])?;
    let block = a.text("block")?.unwrap_or_default();
    let absent = a.choice("state", &["present", "absent"], "present")? == "absent";
    let marker = a.text("marker")?.unwrap_or_else(|| "# {mark} ANSIBLE MANAGED BLOCK".into());
    if !marker.contains("{mark}") || marker.contains('\n') {
        return Err(a.error("`marker` must be one line with {mark} in it"));
    }
    let begin = marker.replace("{mark}", &a.text("marker_begin")?.unwrap_or_else(|| "BEGIN".into()));
    let end = marker.replace("{mark}", &a.text("marker_end")?.unwrap_or_else(|| "END".into()));
    let insert = insert(a)?;
    let create = a.boolean("create")?.unwrap_or(false);
    let block = if absent { String::new() } else { block };
    Ok(Prepared::action(Action::Blockinfile { path, block, begin, end, insert, create, attributes: a.attributes()? }))
}
