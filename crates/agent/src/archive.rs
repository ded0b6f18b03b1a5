//! `unarchive`: a compressed tar archive from the store, unpacked beside what is there.
//!
//! Invariant: what an archive holds appears at its final path whole or not at all: it is unpacked under another name on the same
//! file system, written to disk, and renamed. What is there already is never changed.

mod extract;

use std::{
    ffi::{OsStr, OsString},
    path::Path,
};

use septet_agent_protocol::Outcome;

use crate::{
    atomic::{FileError, at},
    file::absolute,
    place::{Directory, Follow, find, make_directories},
    store::{self, Found},
};

/// How the names of unfinished work begin.
const UNFINISHED: &str = ".septet-unpack-";
/// Mode of directories above what is unpacked, less the umask, where they are missing.
const PARENT_MODE: u32 = 0o755;

/// A directory that is removed when it is dropped.
struct Workplace<'a> {
    dest: &'a Directory,
    name: OsString,
    dir: Directory,
}

impl<'a> Workplace<'a> {
    fn new(dest: &'a Directory) -> Result<Self, FileError> {
        let name = OsString::from(format!("{UNFINISHED}{}", std::process::id()));
        let path = dest.path.join(&name);
        dest.make(&name, 0o700).map_err(at("make", &path))?;
        let dir = dest.enter(&name).map_err(at("open the directory", &path))?;
        Ok(Self { dest, name, dir })
    }
}

impl Drop for Workplace<'_> {
    fn drop(&mut self) {
        let _ = self.dest.remove_tree(&self.name);
    }
}

/// Unpacks the blob `digest` into `dest`, unless `creates` is there.
pub fn unarchive(digest: &str, dest: &str, creates: &str, check: bool) -> Result<Outcome, FileError> {
    let (dest, creates) = (absolute(dest)?, absolute(creates)?);
    let Some(name) = creates.file_name().filter(|_| creates.parent() == Some(&dest)) else {
        return Err(FileError::Refused(format!("{} is not right below {}", creates.display(), dest.display())));
    };
    match find(&creates, Follow::NAME) {
        Ok(place) if place.found.is_some() => return Ok(Outcome::ok()),
        Err(e) if !e.is_missing() => return Err(e),
        _ => {}
    }
    let shown = Some(format!("{}: unpacked\n", creates.display()));
    if check {
        return Ok(Outcome::changed_if(true).with_diff(shown));
    }
    let blob = match store::open(digest, false)? {
        Found::Blob(file, _) => file,
        Found::Missing(why) => return Ok(Outcome::failed(format!("blob {digest} {why}")).with("missing_blob", digest)),
    };
    let dest = make_directories(&dest, Follow::OWN, PARENT_MODE, &mut |_, _, _| Ok(()))?;
    forget_unfinished(&dest)?;
    let work = Workplace::new(&dest)?;
    extract::unpack(&blob, name, &work.dir)?;
    put_in_place(&work, name, &creates)?;
    Ok(Outcome::changed_if(true).with_diff(shown))
}

fn put_in_place(work: &Workplace<'_>, name: &OsStr, creates: &Path) -> Result<(), FileError> {
    match work.dir.lookup(name).map_err(at("stat", creates))? {
        None => return Err(FileError::Refused(format!("the archive holds no {}", name.display()))),
        Some(found) if !found.meta.is_dir() && !found.meta.is_file() => {
            return Err(FileError::Refused(format!("the archive's {} is neither a directory nor a file", name.display())));
        }
        Some(_) => {}
    }
    // On disk before it has its name: a host that loses its power has all of it or nothing.
    nix::unistd::sync();
    work.dest.rename(&work.dir, name, name).map_err(at("rename into place", creates))?;
    work.dest.sync()
}

/// What a run that was killed left.
fn forget_unfinished(dest: &Directory) -> Result<(), FileError> {
    for name in dest.names().map_err(at("list", &dest.path))?.flatten() {
        if name.as_encoded_bytes().starts_with(UNFINISHED.as_bytes()) {
            dest.remove_tree(&name).map_err(at("remove", &dest.path.join(&name)))?;
        }
    }
    Ok(())
}
