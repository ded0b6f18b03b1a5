//! `copy`, `file`, `stat`, `slurp`: whole files, directories and links.

use std::{
    fs::{self, File, OpenOptions},
    io::Read,
    os::unix::fs::{MetadataExt, symlink},
    path::{Path, PathBuf},
    process::Command,
    time::{SystemTime, UNIX_EPOCH},
};

use septet_agent_protocol::{Attributes, Content, FileState, Outcome};
use similar::TextDiff;

use crate::{
    atomic::{self, FileError, Resolved, at},
    command, store,
};

/// Files over this many bytes are compared by digest and not shown as a diff.
const MAX_DIFF_BYTES: usize = 256 * 1024;
/// Largest file that `slurp` returns, in bytes.
const MAX_SLURP_BYTES: u64 = 1024 * 1024;

/// A unified diff, or a line that says why there is none.
pub fn diff(path: &Path, before: Option<&[u8]>, after: &[u8]) -> String {
    let old = before.unwrap_or_default();
    if before == Some(after) {
        return String::new();
    }
    match (std::str::from_utf8(old), std::str::from_utf8(after)) {
        (Ok(a), Ok(b)) if a.len() <= MAX_DIFF_BYTES && b.len() <= MAX_DIFF_BYTES && !a.contains('\0') && !b.contains('\0') => {
            let from = if before.is_some() { path.display().to_string() } else { "/dev/null".into() };
            TextDiff::from_lines(a, b).unified_diff().context_radius(2).header(&from, &path.display().to_string()).to_string()
        }
        _ => format!("{}: {} bytes → {} bytes (not text, or too long to show)\n", path.display(), old.len(), after.len()),
    }
}

/// Arguments of [`copy`].
pub struct Copy<'a> {
    pub path: &'a str,
    pub content: &'a Content,
    pub attributes: &'a Attributes,
    pub keep_existing: bool,
    pub backup: bool,
    pub validate: Option<&'a str>,
}

/// A file with given bytes and attributes.
pub fn copy(ask: &Copy<'_>, tail: &[u8], check: bool) -> Result<Outcome, FileError> {
    let path = absolute(ask.path)?;
    let attributes = Resolved::of(ask.attributes, check)?;
    let old = match fs::read(&path) {
        Ok(bytes) => Some(bytes),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound || e.kind() == std::io::ErrorKind::NotADirectory => None,
        Err(e) => return Err(at("read", &path)(e)),
    };
    if ask.keep_existing && old.is_some() {
        return Ok(Outcome::ok());
    }
    let held;
    let content: &[u8] = match ask.content {
        Content::Tail => tail,
        Content::Stored(digest) => {
            let blob = store::blob_path(digest)?;
            if let Some(old) = &old
                && store::sha256_of(old) == *digest
            {
                held = old.clone();
            } else if check && !blob.exists() {
                return Ok(Outcome::changed_if(true).with_diff(Some(format!("{}: new bytes with SHA-256 {digest}\n", path.display()))));
            } else if !blob.exists() {
                // The orchestrator sends it and asks again: a blob that is not needed is never sent.
                return Ok(Outcome::failed(format!("blob {digest} is not in the store")).with("missing_blob", digest.as_str()));
            } else {
                held = fs::read(&blob).map_err(at("read", &blob))?;
                if store::sha256_of(&held) != *digest {
                    fs::remove_file(&blob).map_err(at("remove the damaged blob", &blob))?;
                    return Ok(Outcome::failed(format!("blob {digest} was damaged")).with("missing_blob", digest.as_str()));
                }
            }
            &held
        }
        Content::HostFile(from) => {
            let from = absolute(from)?;
            held = fs::read(&from).map_err(at("read", &from))?;
            &held
        }
    };
    let same = old.as_deref() == Some(content);
    let mut shown = diff(&path, old.as_deref(), content);
    if same {
        let meta = fs::metadata(&path).map_err(at("look at", &path))?;
        if !attributes.differ(&meta) {
            return Ok(Outcome::ok().with("dest", ask.path));
        }
        shown = format!("{}: {}\n", path.display(), attributes.describe(&meta));
    }
    let mut outcome = Outcome::changed_if(true).with_diff(Some(shown)).with("dest", ask.path);
    if check {
        return Ok(outcome);
    }
    if same {
        attributes.apply(&atomic::behind_links(&path))?;
    } else {
        if ask.backup && old.is_some() {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
            let to = PathBuf::from(format!("{}.{now}~", path.display()));
            fs::copy(&path, &to).map_err(at("back up to", &to))?;
            outcome = outcome.with("backup_file", to.display().to_string());
        }
        atomic::replace(&path, content, &attributes, |temporary| match ask.validate {
            None => Ok(()),
            Some(words) => validate(words, temporary),
        })?;
    }
    Ok(outcome)
}

fn validate(words: &str, file: &Path) -> Result<(), FileError> {
    if !words.contains("%s") {
        return Err(FileError::Refused(format!("validate: {words:?} has no %s for the file")));
    }
    let line = words.replace("%s", &file.display().to_string());
    let mut shell = Command::new("/bin/sh");
    shell.arg("-c").arg(&line);
    let out = command::run(shell, None, 0)?;
    if out.code == Some(0) {
        return Ok(());
    }
    let said = if out.stderr.is_empty() { out.stdout.trim() } else { out.stderr.trim() };
    Err(FileError::Refused(format!("validation failed, the old file stays: {line}: {said}")))
}

/// A path that starts at the root; anything else would depend on where the agent runs.
pub fn absolute(path: &str) -> Result<PathBuf, FileError> {
    if path.starts_with('/') && !path.contains('\0') {
        Ok(PathBuf::from(path))
    } else {
        Err(FileError::Refused(format!("{path:?} is not an absolute path")))
    }
}

/// A path's kind and attributes.
pub fn file(
    path: &str,
    state: FileState,
    src: Option<&str>,
    attributes: &Attributes,
    recurse: bool,
    check: bool,
) -> Result<Outcome, FileError> {
    let shown = path;
    let path = absolute(path)?;
    let meta = fs::symlink_metadata(&path).ok();
    let attributes = Resolved::of(attributes, check)?;
    let mut changes = Vec::new();
    match state {
        FileState::Absent => {
            let Some(meta) = meta else {
                return Ok(Outcome::ok());
            };
            if meta.is_dir() && fs::canonicalize(&path).is_ok_and(|p| p == Path::new("/")) {
                return Err(FileError::Refused("will not remove /".into()));
            }
            if !check {
                let remove = if meta.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
                remove.map_err(at("remove", &path))?;
            }
            return Ok(Outcome::changed_if(true).with_diff(Some(format!("{shown}: removed\n"))));
        }
        FileState::File => {
            let follow = fs::metadata(&path).map_err(at("look at", &path))?;
            if !follow.is_file() {
                return Err(FileError::Refused(format!("{shown} is not a regular file")));
            }
        }
        FileState::Directory => match fs::metadata(&path) {
            Ok(m) if m.is_dir() => {}
            Ok(_) => {
                return Err(FileError::Refused(format!("{shown} is there and is not a directory")));
            }
            Err(_) => {
                changes.push("directory made".to_owned());
                if !check {
                    fs::create_dir_all(&path).map_err(at("make", &path))?;
                }
            }
        },
        FileState::Touch => {
            if meta.is_none() {
                changes.push("empty file made".to_owned());
                if !check {
                    OpenOptions::new().create(true).append(true).open(&path).map_err(at("make", &path))?;
                }
            }
        }
        FileState::Link => {
            let src = src.ok_or_else(|| FileError::Refused("state=link needs src".into()))?;
            match &meta {
                Some(m) if m.file_type().is_symlink() && fs::read_link(&path).is_ok_and(|t| t == Path::new(src)) => {}
                Some(m) if !m.file_type().is_symlink() => {
                    return Err(FileError::Refused(format!("{shown} is there and is not a link")));
                }
                _ => {
                    changes.push(format!("link to {src}"));
                    if !check {
                        let temporary = PathBuf::from(format!("{}.septet-link", path.display()));
                        let _ = fs::remove_file(&temporary);
                        symlink(src, &temporary).map_err(at("link", &temporary))?;
                        fs::rename(&temporary, &path).map_err(at("rename into place", &path))?;
                    }
                }
            }
        }
    }
    if path.exists() || path.is_symlink() {
        // A directory or file that is reached by a link is meant itself, not the link.
        let path = if state == FileState::Link { path } else { atomic::behind_links(&path) };
        set_attributes(&path, &attributes, recurse, check, &mut changes, 0)?;
    }
    let text = changes.iter().map(|c| format!("{shown}: {c}\n")).collect::<String>();
    Ok(Outcome::changed_if(!changes.is_empty()).with_diff(Some(text)))
}

/// How deep `recurse` goes.
const MAX_DEPTH: usize = 64;

fn set_attributes(
    path: &Path,
    attributes: &Resolved,
    recurse: bool,
    check: bool,
    changes: &mut Vec<String>,
    depth: usize,
) -> Result<(), FileError> {
    let meta = fs::symlink_metadata(path).map_err(at("look at", path))?;
    if attributes.differ(&meta) {
        if changes.len() < 20 {
            changes.push(attributes.describe(&meta));
        }
        if !check {
            attributes.apply(path)?;
        }
    }
    if recurse && meta.is_dir() && depth < MAX_DEPTH {
        for entry in fs::read_dir(path).map_err(at("list", path))? {
            set_attributes(&entry.map_err(at("list", path))?.path(), attributes, true, check, changes, depth + 1)?;
        }
    }
    Ok(())
}

/// What is at a path, in the form of Ansible's `stat`.
pub fn stat(path: &str, follow: bool, checksum: bool) -> Result<Outcome, FileError> {
    let place = absolute(path)?;
    let meta = if follow { fs::metadata(&place) } else { fs::symlink_metadata(&place) };
    let mut stat = serde_json::Map::new();
    stat.insert("exists".into(), meta.is_ok().into());
    if let Ok(m) = meta {
        stat.insert("path".into(), path.into());
        stat.insert("isreg".into(), m.is_file().into());
        stat.insert("isdir".into(), m.is_dir().into());
        stat.insert("islnk".into(), m.file_type().is_symlink().into());
        stat.insert("size".into(), m.len().into());
        stat.insert("mode".into(), format!("{:04o}", m.mode() & 0o7777).into());
        stat.insert("uid".into(), m.uid().into());
        stat.insert("gid".into(), m.gid().into());
        stat.insert("mtime".into(), m.mtime().into());
        if checksum && m.is_file() {
            let sum = File::open(&place).and_then(|mut f| store::sha256(&mut f)).map_err(at("read", &place))?;
            stat.insert("checksum".into(), sum.into());
        }
    }
    Ok(Outcome::ok().with("stat", stat))
}

/// The text of a file.
pub fn slurp(path: &str) -> Result<Outcome, FileError> {
    let place = absolute(path)?;
    let mut text = Vec::new();
    let f = File::open(&place).map_err(at("open", &place))?;
    f.take(MAX_SLURP_BYTES + 1).read_to_end(&mut text).map_err(at("read", &place))?;
    if text.len() as u64 > MAX_SLURP_BYTES {
        return Err(FileError::Refused(format!("{path} is over {MAX_SLURP_BYTES} bytes")));
    }
    Ok(Outcome::ok().with("content", String::from_utf8_lossy(&text).into_owned()))
}
