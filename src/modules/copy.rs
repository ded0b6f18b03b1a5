//! `copy`: a file from here, a text, or another file of the same host.

use std::{path::Path, sync::Arc};

use septet_agent_protocol::{Action, Attributes, Content};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::{Arguments, Blob, BlobSource, Context, Prepared};
use crate::error::Result;

/// Files up to this many bytes travel with the action; larger ones go through the host's store.
const INLINE_BYTES: usize = 512 * 1024;

/// Permissions of accounts that are neither the owner nor in the group.
const OTHERS: u32 = 0o007;
/// Mode of a new file unless another is asked for.
const NEW_FILE_MODE: u32 = 0o644;

/// The action for bytes that are to be at a path, or under a name in it where it is a directory, with the arguments that `copy`
/// and `template` share.
pub fn with_bytes(a: &mut Arguments<'_>, path: String, bytes: Vec<u8>, name: Option<&str>) -> Result<Prepared> {
    if bytes.len() <= INLINE_BYTES {
        return Ok(Prepared::Remote { action: action(a, path, Content::Tail, name)?, tail: bytes, blob: None });
    }
    let digest = hex::encode(Sha256::digest(&bytes));
    let action = action(a, path, Content::Stored(digest.clone()), name)?;
    let mode = |a: &Attributes| a.mode.or(a.mode_change.map(|c| c.apply(NEW_FILE_MODE, false)));
    let private = matches!(&action, Action::Copy { attributes, .. } if mode(attributes).is_some_and(|m| m & OTHERS == 0));
    let blob = Blob { digest, source: BlobSource::Bytes(Arc::new(bytes)), private };
    Ok(Prepared::Remote { action, tail: Vec::new(), blob: Some(blob) })
}

fn action(a: &mut Arguments<'_>, path: String, content: Content, name: Option<&str>) -> Result<Action> {
    Ok(Action::Copy {
        path,
        content,
        attributes: a.attributes()?,
        keep_existing: !a.boolean("force")?.unwrap_or(true),
        backup: a.boolean("backup")?.unwrap_or(false),
        validate: a.text("validate")?,
        follow: a.boolean("follow")?.unwrap_or(false),
        name_in_directory: name.map(str::to_owned),
    })
}

/// The last part of a path.
pub fn file_name(src: &str) -> Option<&str> {
    Path::new(src).file_name().and_then(|n| n.to_str())
}

/// Prepares it.
pub fn prepare(a: &mut Arguments<'_>, c: &Context<'_>) -> Result<Prepared> {
    let src = a.text("src")?;
    let content = a.take("content");
    let remote = a.boolean("remote_src")?.unwrap_or(false);
    let dest = a.need(&["dest", "path"])?;
    match (src, content) {
        (Some(_), Some(_)) => Err(a.error("has both `src` and `content`")),
        (None, None) => Err(a.error("missing argument `src` or `content`")),
        (Some(src), None) if remote => {
            let name = file_name(&src).map(str::to_owned);
            Ok(Prepared::action(action(a, dest, Content::HostFile(src), name.as_deref())?))
        }
        (Some(src), None) => {
            let is_directory = |d: &std::path::PathBuf| d.join("files").join(&src).is_dir() || d.join(&src).is_dir();
            if src.ends_with('/') || c.dirs.iter().chain([&c.project.root]).any(is_directory) {
                return Err(a
                    .error(format!("`{src}` is a directory"))
                    .hint("copy its files one by one with `loop`, or an archive with `unarchive`"));
            }
            let found = c.project.find_from(c.dirs, "files", Path::new(&src), None);
            let found = found.map_err(|e| a.error(e.message).hint(e.hint.unwrap_or_default()))?;
            with_bytes(a, dest, found.bytes().to_vec(), file_name(&src))
        }
        (None, Some(Value::String(text))) => with_bytes(a, dest, text.into_bytes(), None),
        // As in Ansible: lists and maps become JSON.
        (None, Some(list @ (Value::Array(_) | Value::Object(_)))) => {
            with_bytes(a, dest, crate::template::json_text(&list).into_bytes(), None)
        }
        (None, Some(other)) => with_bytes(a, dest, crate::template::text_of(&other).into_bytes(), None),
    }
}
