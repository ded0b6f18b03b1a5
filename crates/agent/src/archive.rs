//! `unarchive`: a compressed tar archive from the store, unpacked beside what is there.
//!
//! Invariant: what an archive holds appears at its final path whole or not at all: it is unpacked under another name on the same
//! file system, written to disk, and renamed. What is there already is never changed.

use std::{
    fs::{self, File},
    io::{BufReader, Read},
    path::{Component, Path, PathBuf},
};

use flate2::read::GzDecoder;
use septet_agent_protocol::Outcome;

use crate::{
    atomic::{FileError, at, sync_dir},
    command, store,
};

/// Most that an archive may unpack to, in bytes.
const MAX_BYTES: u64 = 8 * 1024 * 1024 * 1024;
/// Most entries.
const MAX_ENTRIES: usize = 200_000;
/// How the names of unfinished work begin.
const UNFINISHED: &str = ".septet-unpack-";

/// Removes a directory when it is dropped.
struct Workplace(PathBuf);

impl Drop for Workplace {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Unpacks the blob `digest` into `dest`, unless `creates` is there.
pub fn unarchive(digest: &str, dest: &str, creates: &str, check: bool) -> Result<Outcome, FileError> {
    let (dest, creates) = (Path::new(dest), Path::new(creates));
    if !dest.is_absolute() || creates.parent() != Some(dest) || creates.file_name().is_none() {
        return Err(FileError::Refused(format!("{} is not right below {}", creates.display(), dest.display())));
    }
    if creates.exists() {
        return Ok(Outcome::ok());
    }
    let shown = Some(format!("{}: unpacked\n", creates.display()));
    if check {
        return Ok(Outcome::changed_if(true).with_diff(shown));
    }
    let blob = store::blob_path(digest)?;
    if !blob.exists() {
        return Ok(Outcome::failed(format!("blob {digest} is not in the store")).with("missing_blob", digest));
    }
    // What rotted in the store may well unpack.
    let found = File::open(&blob).and_then(|mut f| store::sha256(&mut f)).map_err(at("read", &blob))?;
    if found != digest {
        fs::remove_file(&blob).map_err(at("remove the damaged blob", &blob))?;
        return Ok(Outcome::failed(format!("blob {digest} was damaged")).with("missing_blob", digest));
    }
    fs::create_dir_all(dest).map_err(at("make", dest))?;
    forget_unfinished(dest)?;
    let work = Workplace(dest.join(format!("{UNFINISHED}{}", std::process::id())));
    fs::create_dir(&work.0).map_err(at("make", &work.0))?;
    unpack(&blob, &work.0)?;
    let name = creates.file_name().unwrap_or_default();
    let unpacked = work.0.join(name);
    if !unpacked.exists() {
        return Err(FileError::Refused(format!("the archive holds no {}", name.to_string_lossy())));
    }
    // On disk before it has its name: a host that loses its power has all of it or nothing.
    nix::unistd::sync();
    fs::rename(&unpacked, creates).map_err(at("rename into place", creates))?;
    sync_dir(dest)?;
    Ok(Outcome::changed_if(true).with_diff(shown))
}

/// What a run that was killed left.
fn forget_unfinished(dest: &Path) -> Result<(), FileError> {
    for entry in fs::read_dir(dest).map_err(at("list", dest))?.flatten() {
        if entry.file_name().to_string_lossy().starts_with(UNFINISHED) {
            fs::remove_dir_all(entry.path()).map_err(at("remove", &entry.path()))?;
        }
    }
    Ok(())
}

/// Counts what passes, and ends when it is too much or nobody waits for it any more.
struct Limited<R> {
    from: R,
    left: u64,
}

impl<R: Read> Read for Limited<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if command::stopped() {
            return Err(std::io::Error::other("the channel has ended"));
        }
        let n = self.from.read(buffer)?;
        self.left = self.left.checked_sub(n as u64).ok_or_else(|| std::io::Error::other("the archive unpacks to more than is allowed"))?;
        Ok(n)
    }
}

fn unpack(blob: &Path, into: &Path) -> Result<(), FileError> {
    let file = File::open(blob).map_err(at("open", blob))?;
    let from = Limited { from: GzDecoder::new(BufReader::with_capacity(256 * 1024, file)), left: MAX_BYTES };
    let mut archive = tar::Archive::new(from);
    archive.set_preserve_mtime(true);
    // Owner and group are those of the agent; bits beyond permissions are not kept.
    archive.set_preserve_ownerships(false);
    let broken = |e: std::io::Error| match e.kind() {
        std::io::ErrorKind::StorageFull => FileError::Refused(format!("no space is left while unpacking into {}", into.display())),
        _ => {
            let cause = std::error::Error::source(&e).map(|c| format!(": {c}")).unwrap_or_default();
            FileError::Refused(format!("the archive cannot be unpacked: {e}{cause}"))
        }
    };
    for (count, entry) in archive.entries().map_err(broken)?.enumerate() {
        if count >= MAX_ENTRIES {
            return Err(FileError::Refused(format!("the archive has more than {MAX_ENTRIES} entries")));
        }
        let mut entry = entry.map_err(broken)?;
        let path = entry.path().map_err(broken)?.into_owned();
        if path.components().any(|c| !matches!(c, Component::Normal(_) | Component::CurDir)) {
            return Err(FileError::Refused(format!("the archive has a path that leads out of it: {}", path.display())));
        }
        if !entry.unpack_in(into).map_err(broken)? {
            return Err(FileError::Refused(format!("the archive has a path that leads out of it: {}", path.display())));
        }
    }
    // To its very end, where the checksum of it all is.
    std::io::copy(&mut archive.into_inner(), &mut std::io::sink()).map_err(broken)?;
    Ok(())
}
