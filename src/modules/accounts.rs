//! `user` and `group`.

use septet_agent_protocol::Action;

use super::{Arguments, Context, Prepared};
use crate::error::Result;

fn id(a: &mut Arguments<'_>, key: &'static str) -> Result<Option<u32>> {
    Ok(a.number(key, 0, u32::MAX.into())?.map(|n| n as u32))
}

/// Prepares `user`.
pub fn user(a: &mut Arguments<'_>, _: &Context<'_>) -> Result<Prepared> {
    let name = a.need(&["name", "user"])?;
    let absent = a.choice("state", &["present", "absent"], "present")? == "absent";
    let append = a.boolean("append")?.unwrap_or(false);
    let groups = if a.has("groups") { Some(a.texts("groups")?) } else { a.take("groups").map(|_| Vec::new()) };
    Ok(Prepared::action(Action::User {
        name,
        absent,
        uid: id(a, "uid")?,
        group: a.text("group")?,
        groups,
        append,
        home: a.text("home")?,
        create_home: a.boolean("create_home")?.unwrap_or(true),
        shell: a.text("shell")?,
        system: a.boolean("system")?.unwrap_or(false),
        comment: a.text("comment")?,
    }))
}

/// Prepares `group`.
pub fn group(a: &mut Arguments<'_>, _: &Context<'_>) -> Result<Prepared> {
    let name = a.need(&["name"])?;
    let absent = a.choice("state", &["present", "absent"], "present")? == "absent";
    Ok(Prepared::action(Action::Group { name, absent, gid: id(a, "gid")?, system: a.boolean("system")?.unwrap_or(false) }))
}
