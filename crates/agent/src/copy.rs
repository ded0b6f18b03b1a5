//! `copy` (and `template`, which is a copy by the time it arrives): a file with given bytes and attributes.
//!
//! Invariant: without `follow` a link at the destination is replaced, never written through; the old file, its backup and the
//! new file are one inode each, opened once.

use std::{
    ffi::{OsStr, OsString},
    fs::File,
    io::{self, Cursor, Read, Seek},
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    process::Command,
    time::{SystemTime, UNIX_EPOCH},
};

use septet_agent_protocol::{Attributes, Content, Outcome};
use similar::TextDiff;

use crate::{
    atomic::{self, FileError, Resolved, at},
    command,
    file::absolute,
    place::{Follow, Handle, Place, find, make_directories, not_there},
    store::{self, Found},
};

/// Files over this many bytes are compared by their bytes and not shown as a diff.
const MAX_DIFF_BYTES: u64 = 256 * 1024;
/// Largest file that is copied on a host or kept as a backup, in bytes. A hole in a file costs its owner nothing.
const MAX_COPY_BYTES: u64 = store::MAX_BLOB_BYTES;
/// Mode of a directory that is made for the file, less the umask.
const NEW_DIRECTORY_MODE: u32 = 0o755;
/// Backups that one second can make of one file.
const MAX_BACKUPS_PER_SECOND: usize = 100;

/// A unified diff, or a line with the reason why there is none.
pub fn diff(path: &Path, before: Option<&[u8]>, after: &[u8]) -> String {
    let old = before.unwrap_or_default();
    if before == Some(after) {
        return String::new();
    }
    let shown = |b: &[u8]| b.len() as u64 <= MAX_DIFF_BYTES && !b.contains(&0);
    match (std::str::from_utf8(old), std::str::from_utf8(after)) {
        (Ok(a), Ok(b)) if shown(old) && shown(after) => {
            let from = if before.is_some() { path.display().to_string() } else { "/dev/null".into() };
            TextDiff::from_lines(a, b).unified_diff().context_radius(2).header(&from, &path.display().to_string()).to_string()
        }
        _ => not_shown(path, old.len() as u64, after.len() as u64),
    }
}

fn not_shown(path: &Path, before: u64, after: u64) -> String {
    format!("{}: {before} bytes → {after} bytes (not text, or too long to show)\n", path.display())
}

/// Arguments of [`copy`].
pub struct Copy<'a> {
    pub path: &'a str,
    pub content: &'a Content,
    pub attributes: &'a Attributes,
    pub keep_existing: bool,
    pub backup: bool,
    pub validate: Option<&'a str>,
    pub follow: bool,
    pub name_in_directory: Option<&'a str>,
}

/// The path of the file itself: where a directory was asked for, or a path that ends with `/`, it is the name in there.
fn in_directory(ask: &Copy<'_>, check: bool) -> Result<PathBuf, FileError> {
    let path = absolute(ask.path)?;
    let follow = if ask.follow { Follow::ANY } else { Follow::OWN };
    let there = match find(&path, follow) {
        Ok(place) => place.found.filter(|f| f.meta.is_dir()).is_some(),
        Err(e) if e.is_missing() => false,
        Err(_) if !ask.path.ends_with('/') => false,
        Err(e) => return Err(e),
    };
    if !there && !ask.path.ends_with('/') {
        return Ok(path);
    }
    let Some(name) = ask.name_in_directory else {
        return Err(FileError::Refused(format!("{} is a directory, and the content has no name", ask.path)));
    };
    if !there && !check {
        make_directories(&path, follow, NEW_DIRECTORY_MODE, &mut |_, _, _| Ok(()))?;
    }
    Ok(path.join(name))
}

/// The new bytes.
enum Bytes<'a> {
    Held(&'a [u8]),
    File(File, u64),
}

impl Bytes<'_> {
    fn len(&self) -> u64 {
        match self {
            Bytes::Held(b) => b.len() as u64,
            Bytes::File(_, len) => *len,
        }
    }

    /// From their beginning.
    fn read(&self) -> io::Result<Box<dyn Read + '_>> {
        Ok(match self {
            Bytes::Held(b) => Box::new(Cursor::new(b)),
            Bytes::File(f, len) => {
                let mut f = f;
                f.rewind()?;
                Box::new(f.take(*len))
            }
        })
    }

    /// Whether a file holds just these.
    fn are_in(&self, file: &File, len: u64) -> io::Result<bool> {
        if len != self.len() {
            return Ok(false);
        }
        let (mut ours, mut theirs) = (self.read()?, file.take(len));
        let (mut a, mut b) = (vec![0; 64 * 1024], vec![0; 64 * 1024]);
        loop {
            let n = fill(&mut ours, &mut a)?;
            if n != fill(&mut theirs, &mut b)? || a[..n] != b[..n] {
                return Ok(false);
            }
            if n == 0 {
                return Ok(true);
            }
        }
    }
}

fn fill(from: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut got = 0;
    while got < buffer.len() {
        match from.read(&mut buffer[got..])? {
            0 => break,
            n => got += n,
        }
    }
    Ok(got)
}

/// A file with given bytes and attributes.
pub fn copy(ask: &Copy<'_>, tail: &[u8], check: bool) -> Result<Outcome, FileError> {
    let attributes = Resolved::of(ask.attributes, check)?;
    let path = in_directory(ask, check)?;
    let dest = path.display().to_string();
    let done = || Outcome::changed_if(true).with("dest", dest.as_str());
    let place = match find(&path, if ask.follow { Follow::ANY } else { Follow::NAME }) {
        Ok(place) => Some(place),
        // An earlier task would have made the directory by then.
        Err(e) if check && e.is_missing() => None,
        Err(e) => return Err(e),
    };
    let found = place.as_ref().and_then(|p| p.found.as_ref());
    if ask.keep_existing && found.is_some() {
        return Ok(Outcome::ok());
    }
    let old = match found {
        Some(f) if f.meta.is_file() => Some((f, f.read().map_err(at("read", &path))?)),
        Some(f) if f.meta.is_symlink() => None,
        Some(f) if f.meta.is_dir() => return Err(FileError::Refused(format!("{} is a directory", path.display()))),
        Some(_) => return Err(FileError::Refused(format!("{} is not a regular file", path.display()))),
        None => None,
    };
    // Another account may still hold its file open for writing: under a new owner it gets a new inode.
    let taken_over = old.as_ref().is_some_and(|(h, _)| h.is_foreign() && attributes.moves_owner(&h.meta));
    let content = match ask.content {
        Content::Tail => Bytes::Held(tail),
        Content::Stored(digest) => {
            if let Some((handle, file)) = &old
                && !taken_over
                && handle.meta.len() <= store::MAX_BLOB_BYTES
                && store::sha256(&mut &*file).map_err(at("read", &path))? == *digest
            {
                return keep(&dest, place.as_ref(), handle, &attributes, check);
            }
            match store::open(digest, check)? {
                Found::Blob(file, len) => Bytes::File(file, len),
                Found::Missing(_) if check => {
                    return Ok(done().with_diff(Some(format!("{}: new bytes with SHA-256 {digest}\n", path.display()))));
                }
                // The orchestrator sends it and asks again: a blob that is not needed is never sent.
                Found::Missing(why) => return Ok(Outcome::failed(format!("blob {digest} {why}")).with("missing_blob", digest.as_str())),
            }
        }
        Content::HostFile(from) => host_file(from, ask.follow)?,
    };
    if let Some((handle, file)) = &old {
        let mut file = file;
        file.rewind().map_err(at("read", &path))?;
        let same = content.are_in(file, handle.meta.len()).map_err(at("read", &path))?;
        if same && !taken_over {
            return keep(&dest, place.as_ref(), handle, &attributes, check);
        }
    }
    let shown = describe(&path, found, old.as_ref().map(|(_, f)| f), &content, &attributes).map_err(at("read", &path))?;
    let mut outcome = done().with_diff(Some(shown));
    let Some(place) = place.as_ref().filter(|_| !check) else {
        return Ok(outcome);
    };
    if let (true, Some(found)) = (ask.backup, found) {
        let kept = backup(place, found, old.as_ref().map(|(_, f)| f))?;
        outcome = outcome.with("backup_file", path.with_file_name(kept).display().to_string());
    }
    let bytes = content.read().map_err(at("read", &path))?;
    atomic::replace(place, bytes, &attributes, |temporary| match ask.validate {
        None => Ok(()),
        Some(words) => validate(words, temporary),
    })?;
    Ok(outcome)
}

/// The bytes are there: at most attributes change.
fn keep(dest: &str, place: Option<&Place>, old: &Handle, attributes: &Resolved, check: bool) -> Result<Outcome, FileError> {
    let outcome = Outcome::ok().with("dest", dest);
    let Some(place) = place.filter(|_| attributes.differ(&old.meta)) else {
        return Ok(outcome);
    };
    if !check {
        attributes.apply(&place.dir, old, Path::new(dest))?;
    }
    let shown = format!("{dest}: {}\n", attributes.describe(&old.meta));
    Ok(Outcome::changed_if(true).with("dest", dest).with_diff(Some(shown)))
}

fn host_file<'a>(from: &str, follow: bool) -> Result<Bytes<'a>, FileError> {
    let from = absolute(from)?;
    let place = find(&from, if follow { Follow::ANY } else { Follow::OWN })?;
    let handle = place.found.ok_or_else(|| at("read", &from)(not_there()))?;
    let file = handle.read().map_err(at("read", &from))?;
    match handle.meta.len() {
        len if len > MAX_COPY_BYTES => Err(FileError::Refused(format!("{} is over {MAX_COPY_BYTES} bytes", from.display()))),
        len => Ok(Bytes::File(file, len)),
    }
}

fn describe(path: &Path, found: Option<&Handle>, old: Option<&File>, new: &Bytes<'_>, attributes: &Resolved) -> io::Result<String> {
    let mut text = String::new();
    if let Some(link) = found.filter(|f| f.meta.is_symlink()) {
        let target = link.target()?;
        text = format!("{}: a file instead of a link to {}\n", path.display(), target.display());
    }
    let old_len = found.filter(|_| old.is_some()).map_or(0, |f| f.meta.len());
    if old_len > MAX_DIFF_BYTES || new.len() > MAX_DIFF_BYTES {
        return Ok(text + &not_shown(path, old_len, new.len()));
    }
    let read = |from: &mut dyn Read| {
        let mut bytes = Vec::new();
        from.take(MAX_DIFF_BYTES).read_to_end(&mut bytes).map(|_| bytes)
    };
    let before = match old {
        Some(mut file) => {
            file.rewind()?;
            Some(read(&mut file)?)
        }
        None => None,
    };
    let shown = diff(path, before.as_deref(), &read(&mut new.read()?)?);
    if let (true, Some(found)) = (shown.is_empty(), found.filter(|_| old.is_some())) {
        return Ok(format!("{}: {}\n", path.display(), attributes.describe(&found.meta)));
    }
    Ok(text + &shown)
}

/// Keeps what is at a place beside it, under a name that nothing has yet. Owner and permissions are those of the original, or
/// a secret would be one no longer.
fn backup(place: &Place, found: &Handle, old: Option<&File>) -> Result<OsString, FileError> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let shown = place.path();
    let name = |n: usize| {
        let mut name = place.name.clone();
        name.push(if n == 0 { format!(".{now}~") } else { format!(".{now}.{n}~") });
        name
    };
    let fail = |e| at("back up", &shown)(e);
    for n in 0..MAX_BACKUPS_PER_SECOND {
        let name = name(n);
        match back_up_as(place, found, old, &name) {
            Ok(()) => return Ok(name),
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(fail(e)),
        }
    }
    Err(fail(io::ErrorKind::AlreadyExists.into()))
}

fn back_up_as(place: &Place, found: &Handle, old: Option<&File>, name: &OsStr) -> io::Result<()> {
    let Some(mut from) = old else {
        return place.dir.link(&found.target()?, name);
    };
    if found.meta.len() > MAX_COPY_BYTES {
        return Err(io::Error::other(format!("it is over {MAX_COPY_BYTES} bytes")));
    }
    let mut to = place.dir.create(name, 0o600)?;
    let filled = from.rewind().and_then(|()| io::copy(&mut from.take(MAX_COPY_BYTES), &mut to)).and_then(|_| {
        let (was, is) = (&found.meta, to.metadata()?);
        if (was.uid(), was.gid()) != (is.uid(), is.gid()) {
            std::os::unix::fs::fchown(&to, Some(was.uid()), Some(was.gid()))?;
        }
        to.set_permissions(PermissionsExt::from_mode(was.mode() & 0o777))?;
        to.sync_all()
    });
    if filled.is_err() {
        let _ = place.dir.unlink(name);
    }
    filled
}

fn validate(words: &str, file: &Path) -> Result<(), FileError> {
    if !words.contains("%s") {
        return Err(FileError::Refused(format!("validate: {words:?} has no %s for the file")));
    }
    let line = words.replace("%s", &word(&file.display().to_string()));
    let mut shell = Command::new("/bin/sh");
    shell.arg("-c").arg(&line);
    let out = command::run(shell, None, 0)?;
    if out.code == Some(0) {
        return Ok(());
    }
    let said = if out.stderr.is_empty() { out.stdout.trim() } else { out.stderr.trim() };
    Err(FileError::Refused(format!("validation failed, the old file stays: {line}: {said}")))
}

/// A path as one word of a shell's; one without special characters as it is, since the command may have quotes around it.
fn word(path: &str) -> String {
    if path.bytes().all(|b| b.is_ascii_alphanumeric() || b"/._-+,:@=".contains(&b)) {
        path.to_owned()
    } else {
        format!("'{}'", path.replace('\'', "'\\''"))
    }
}
