//! `copy`: a file from here, a text, or another file of the same host.

use std::{path::Path, sync::Arc};

use septet_agent_protocol::{Action, Content};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::{Arguments, Blob, BlobSource, Context, Prepared};
use crate::error::Result;

/// Files up to this many bytes travel with the action; larger ones go through the host's store.
const INLINE_BYTES: usize = 512 * 1024;

/// Permissions of accounts that are neither the owner nor in the group.
const OTHERS: u32 = 0o007;

/// The action for bytes that are to be at a path, with the arguments that `copy` and `template` share.
pub fn with_bytes(a: &mut Arguments<'_>, path: String, bytes: Vec<u8>) -> Result<Prepared> {
    if bytes.len() <= INLINE_BYTES {
        return Ok(Prepared::Remote { action: action(a, path, Content::Tail)?, tail: bytes, blob: None });
    }
    let digest: String = Sha256::digest(&bytes).iter().map(|b| format!("{b:02x}")).collect();
    let action = action(a, path, Content::Stored(digest.clone()))?;
    let private = matches!(&action, Action::Copy { attributes, .. } if attributes.mode.is_some_and(|m| m & OTHERS == 0));
    let blob = Blob { digest, source: BlobSource::Bytes(Arc::new(bytes)), private };
    Ok(Prepared::Remote { action, tail: Vec::new(), blob: Some(blob) })
}

fn action(a: &mut Arguments<'_>, path: String, content: Content) -> Result<Action> {
    Ok(Action::Copy {
        path,
        content,
        attributes: a.attributes()?,
        keep_existing: !a.boolean("force")?.unwrap_or(true),
        backup: a.boolean("backup")?.unwrap_or(false),
        validate: a.text("validate")?,
        follow: a.boolean("follow")?.unwrap_or(false),
    })
}

/// A destination that ends with `/` is a directory.
pub fn destination(a: &mut Arguments<'_>, src: Option<&str>) -> Result<String> {
    let dest = a.need(&["dest", "path"])?;
    match (dest.ends_with('/'), src.and_then(|s| Path::new(s).file_name())) {
        (true, Some(name)) => Ok(format!("{dest}{}", name.to_string_lossy())),
        _ => Ok(dest),
    }
}

/// Prepares it.
pub fn prepare(a: &mut Arguments<'_>, c: &Context<'_>) -> Result<Prepared> {
    let src = a.text("src")?;
    let content = a.take("content");
    let remote = a.boolean("remote_src")?.unwrap_or(false);
    let dest = destination(a, src.as_deref())?;
    match (src, content) {
        (Some(_), Some(_)) => Err(a.error("has both `src` and `content`")),
        (None, None) => Err(a.error("`src` or `content` is missing")),
        (Some(src), None) if remote => Ok(Prepared::action(action(a, dest, Content::HostFile(src))?)),
        (Some(src), None) => {
            let found = c.project.find("files", Path::new(&src), None).map_err(|e| a.error(e.message).hint(e.hint.unwrap_or_default()))?;
            with_bytes(a, dest, found.bytes().to_vec())
        }
        (None, Some(Value::String(text))) => with_bytes(a, dest, text.into_bytes()),
        (None, Some(other)) => with_bytes(a, dest, other.to_string().into_bytes()),
    }
}
