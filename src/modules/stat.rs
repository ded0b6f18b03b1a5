//! `stat` and `slurp`.

use septet_agent_protocol::Action;

use super::{Arguments, Context, Prepared};
use crate::error::Result;

/// Prepares `stat`.
pub fn stat(a: &mut Arguments<'_>, _: &Context<'_>) -> Result<Prepared> {
    let path = a.need(&["path", "dest", "name"])?;
    let follow = a.boolean("follow")?.unwrap_or(false);
    let checksum = a.boolean("get_checksum")?.unwrap_or(true);
    let algorithm = a.choice("checksum_algorithm", &["sha1", "sha256"], "sha1")?;
    // What they would add is left out.
    for key in ["get_mime", "get_attributes"] {
        a.boolean(key)?;
    }
    Ok(Prepared::action(Action::Stat { path, follow, checksum, sha256: algorithm == "sha256" }))
}

/// Prepares `slurp`. As in Ansible, the content comes in Base64.
pub fn slurp(a: &mut Arguments<'_>, _: &Context<'_>) -> Result<Prepared> {
    Ok(Prepared::action(Action::Slurp { path: a.need(&["src", "path"])? }))
}

/// Prepares `setup`: the facts, once more.
pub fn setup(a: &mut Arguments<'_>, _: &Context<'_>) -> Result<Prepared> {
    for key in ["gather_subset", "gather_timeout", "filter"] {
        a.only(key, &serde_json::Value::Null, "all facts are gathered")?;
    }
    Ok(Prepared::action(Action::Facts))
}
