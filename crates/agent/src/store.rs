//! The content-addressed store: blobs under their SHA-256, so that bytes that are there are not sent again.
//!
//! Invariants: a file in the store has the digest that is its name; a partial blob has another name. The store is root's
//! alone, whatever the mode of the files that its blobs become. A private blob, and any blob of an agent that does not run as
//! root, has no name at all: it is held by this process, until it is used or the process ends.

use std::{
    ffi::OsStr,
    fs::{File, OpenOptions, Permissions},
    io::{self, Read, Seek, SeekFrom, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt},
    path::Path,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use rustix::fs::OFlags;
use septet_agent_protocol::{Outcome, STATE_DIR, STORE_DIR};
use sha2::{Digest, Sha256};

use crate::{
    atomic::{FileError, at},
    place::{Directory, Follow, find, make_directories},
};

/// Largest blob, in bytes.
pub const MAX_BLOB_BYTES: u64 = 4 * 1024 * 1024 * 1024;
/// Bytes that blobs may take together; those not used for longest go first.
const MAX_STORE_BYTES: u64 = 2 * 1024 * 1024 * 1024;
/// How long a blob stays that is not used.
const MAX_AGE: Duration = Duration::from_secs(30 * 24 * 3600);
/// How long an unfinished blob stays.
const MAX_UNFINISHED_AGE: Duration = Duration::from_secs(24 * 3600);
/// Blobs that this process holds at most; the oldest goes first.
const MAX_HELD: usize = 16;
/// The store belongs to root alone.
const STORE_MODE: u32 = 0o700;
const STATE_MODE: u32 = 0o755;

/// SHA-256 of a stream, in hex.
pub fn sha256(from: &mut impl Read) -> io::Result<String> {
    let mut hash = Sha256::new();
    let mut buffer = vec![0u8; 128 * 1024];
    loop {
        match from.read(&mut buffer)? {
            0 => break,
            n => hash.update(&buffer[..n]),
        }
    }
    Ok(hex::encode(hash.finalize()))
}

fn checked(digest: &str) -> Result<&str, FileError> {
    if digest.len() == 64 && digest.bytes().all(|b| b.is_ascii_hexdigit() && !b.is_ascii_uppercase()) {
        Ok(digest)
    } else {
        Err(FileError::Refused(format!("{digest:?} is not a SHA-256 in hex")))
    }
}

/// A blob without a name.
struct Held {
    digest: String,
    file: File,
    len: u64,
    whole: bool,
}

static HELD: Mutex<Vec<Held>> = Mutex::new(Vec::new());

fn held() -> MutexGuard<'static, Vec<Held>> {
    HELD.lock().unwrap_or_else(PoisonError::into_inner)
}

fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// What became of a look for a blob.
pub enum Found {
    /// its bytes, and how many
    Blob(File, u64),
    /// why it cannot be used
    Missing(&'static str),
}

/// The store's directory, made if it is missing, closed to others if an earlier version left it open.
fn directory() -> Result<Directory, FileError> {
    let path = Path::new(STORE_DIR);
    let name = path.file_name().unwrap_or_default();
    let state = make_directories(Path::new(STATE_DIR), Follow::OWN, STATE_MODE, &mut |_, _, _| Ok(()))?;
    close_to_others(&state, STATE_MODE)?;
    if state.lookup(name).map_err(at("stat", path))?.is_none() {
        state.make(name, STORE_MODE).map_err(at("make", path))?;
    }
    let dir = state.enter(name).map_err(at("open the directory", path))?;
    close_to_others(&dir, STORE_MODE)?;
    Ok(dir)
}

fn close_to_others(dir: &Directory, mode: u32) -> Result<(), FileError> {
    if dir.meta().uid() != nix::unistd::geteuid().as_raw() {
        return Err(FileError::Refused(format!("{} belongs to another account (user id {})", dir.path.display(), dir.meta().uid())));
    }
    if dir.meta().mode() & 0o7777 & !mode != 0 {
        let mode = Permissions::from_mode(mode);
        std::fs::set_permissions(dir.proc_path(), mode).map_err(at("change the mode of", &dir.path))?;
    }
    Ok(())
}

/// Opens a file of the store. Nobody else can make names there, so its path is safe.
fn open_in(dir: &Directory, name: &str, options: &mut OpenOptions) -> io::Result<File> {
    options.custom_flags((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits() as i32).open(dir.proc_path().join(name))
}

/// At the start of an agent: what an earlier version or an earlier run left is closed to others, and what is old goes.
pub fn tidy() -> Result<(), FileError> {
    if !is_root() || !exists() {
        return Ok(());
    }
    prune(&directory()?, "")
}

fn exists() -> bool {
    find(Path::new(STORE_DIR), Follow::OWN).is_ok_and(|place| place.found.is_some())
}

/// A blob for use. One that this process holds is given away with that, except in check mode.
pub fn open(digest: &str, check: bool) -> Result<Found, FileError> {
    let digest = checked(digest)?;
    let mut blobs = held();
    if let Some(i) = blobs.iter().position(|b| b.whole && b.digest == digest) {
        let path = Path::new(digest);
        let file = if check { blobs[i].file.try_clone().map_err(at("open blob", path))? } else { blobs.remove(i).file };
        let len = file.metadata().map_err(at("read blob", path))?.len();
        return Ok(Found::Blob(file, len));
    }
    drop(blobs);
    const LACKING: Found = Found::Missing("is not in the store");
    if !is_root() || !exists() {
        return Ok(LACKING);
    }
    let dir = directory()?;
    let path = dir.path.join(digest);
    let mut file = match open_in(&dir, digest, OpenOptions::new().read(true)) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(LACKING),
        Err(e) => return Err(at("open", &path)(e)),
    };
    // What rotted may still unpack, or be a file.
    if sha256(&mut file).map_err(at("read", &path))? != digest {
        dir.unlink(OsStr::new(digest)).map_err(at("remove the damaged blob", &path))?;
        return Ok(Found::Missing("was damaged"));
    }
    file.rewind().and_then(|()| file.set_modified(SystemTime::now())).map_err(at("read", &path))?;
    prune(&dir, digest)?;
    let len = file.metadata().map_err(at("read", &path))?.len();
    Ok(Found::Blob(file, len))
}

/// Which blobs are not there. One whose bytes no longer have its digest is dropped and counts as missing.
pub fn missing(digests: &[String]) -> Result<Outcome, FileError> {
    let mut out = Vec::new();
    for digest in digests {
        let there = matches!(open(digest, true)?, Found::Blob(..));
        if !there {
            out.push(digest.clone());
        }
    }
    Ok(Outcome::ok().with("missing", out))
}

/// Takes one chunk; the last one makes the blob appear.
pub fn put(digest: &str, offset: u64, total: u64, private: bool, chunk: &[u8]) -> Result<Outcome, FileError> {
    let digest = checked(digest)?;
    let end = offset.checked_add(chunk.len() as u64).filter(|e| *e <= total && total <= MAX_BLOB_BYTES);
    let Some(end) = end else {
        return Err(FileError::Refused(format!("chunk at {offset} of {} bytes does not fit a blob of {total}", chunk.len())));
    };
    if private || !is_root() { hold(digest, offset, end == total, chunk) } else { store(digest, offset, end == total, chunk) }
}

fn wrong_digest(got: &str, digest: &str) -> FileError {
    FileError::Refused(format!("the blob that arrived has digest {got}, not {digest}"))
}

fn hold(digest: &str, offset: u64, last: bool, chunk: &[u8]) -> Result<Outcome, FileError> {
    let fail = |doing| at(doing, Path::new(digest));
    let mut blobs = held();
    if offset == 0 {
        blobs.retain(|b| b.digest != digest);
        if blobs.len() >= MAX_HELD {
            blobs.remove(0);
        }
        let file = if is_root() { tempfile::tempfile_in(directory()?.proc_path()) } else { tempfile::tempfile() };
        let file = file.map_err(fail("make a temporary file for blob"))?;
        blobs.push(Held { digest: digest.to_owned(), file, len: 0, whole: false });
    }
    let Some(i) = blobs.iter().position(|b| b.digest == digest && !b.whole && b.len == offset) else {
        return Err(FileError::Refused(format!("chunk at {offset} does not follow the one before it")));
    };
    let blob = &mut blobs[i];
    blob.file.write_all(chunk).map_err(fail("write blob"))?;
    blob.len += chunk.len() as u64;
    if !last {
        return Ok(Outcome::ok());
    }
    let got = blob.file.rewind().and_then(|()| sha256(&mut blob.file)).map_err(fail("read blob"))?;
    if got != digest {
        blobs.remove(i);
        return Err(wrong_digest(&got, digest));
    }
    blob.whole = true;
    Ok(Outcome::changed_if(true))
}

fn store(digest: &str, offset: u64, last: bool, chunk: &[u8]) -> Result<Outcome, FileError> {
    let dir = directory()?;
    let partial = format!(".{digest}.partial");
    let shown = dir.path.join(&partial);
    let mut options = OpenOptions::new();
    let options = options.create(true).read(true).write(true).truncate(offset == 0).mode(0o600);
    let mut f = open_in(&dir, &partial, options).map_err(at("open", &shown))?;
    f.seek(SeekFrom::Start(offset)).and_then(|_| f.write_all(chunk)).map_err(at("write", &shown))?;
    if !last {
        return Ok(Outcome::ok());
    }
    f.sync_all().and_then(|()| f.seek(SeekFrom::Start(0))).map_err(at("sync", &shown))?;
    let got = sha256(&mut f).map_err(at("read", &shown))?;
    if got != digest {
        dir.unlink(OsStr::new(&partial)).map_err(at("remove", &shown))?;
        return Err(wrong_digest(&got, digest));
    }
    dir.rename(&dir, OsStr::new(&partial), OsStr::new(digest)).map_err(at("rename into place", &shown))?;
    dir.sync()?;
    prune(&dir, digest)?;
    Ok(Outcome::changed_if(true))
}

/// Removes what is too old, and then what was not used for longest until the rest is within its limit. `keep` stays.
fn prune(dir: &Directory, keep: &str) -> Result<(), FileError> {
    let fail = || at("list", &dir.path);
    let (now, mut blobs) = (SystemTime::now(), Vec::new());
    for name in dir.names().map_err(fail())? {
        let name = name.map_err(fail())?;
        let Some(found) = dir.lookup(&name).map_err(fail())?.filter(|f| f.meta.is_file() && name != keep) else { continue };
        let used = found.meta.modified().map_err(fail())?;
        let most = if name.as_encoded_bytes().starts_with(b".") { MAX_UNFINISHED_AGE } else { MAX_AGE };
        blobs.push((now.duration_since(used).is_ok_and(|age| age > most), used, found.meta.len(), name));
    }
    // What is too old comes first, then by age.
    blobs.sort_by_key(|(expired, used, ..)| (!expired, *used));
    let kept = dir.lookup(OsStr::new(keep)).ok().flatten().map_or(0, |f| f.meta.len());
    let mut total = blobs.iter().fold(kept, |sum, (_, _, len, _)| sum.saturating_add(*len));
    for (expired, _, len, name) in blobs {
        if !expired && total <= MAX_STORE_BYTES {
            break;
        }
        dir.unlink(&name).map_err(at("remove", &dir.path.join(&name)))?;
        total = total.saturating_sub(len);
    }
    Ok(())
}
