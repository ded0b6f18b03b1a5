//! The content-addressed store: blobs under their SHA-256, so that bytes that are there are not sent again.
//!
//! Invariant: a file in the store has the digest that is its name; a partial blob has another name.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use septet_agent_protocol::{Outcome, STORE_DIR};
use sha2::{Digest, Sha256};

use crate::atomic::{FileError, at, sync_dir};

/// Largest blob, in bytes.
const MAX_BLOB_BYTES: u64 = 4 * 1024 * 1024 * 1024;

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
    Ok(hex(&hash.finalize()))
}

/// SHA-256 of bytes, in hex.
pub fn sha256_of(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn checked(digest: &str) -> Result<&str, FileError> {
    if digest.len() == 64 && digest.bytes().all(|b| b.is_ascii_hexdigit() && !b.is_ascii_uppercase()) {
        Ok(digest)
    } else {
        Err(FileError::Refused(format!("{digest:?} is not a SHA-256 in hex")))
    }
}

/// Where a blob lies.
pub fn blob_path(digest: &str) -> Result<PathBuf, FileError> {
    Ok(Path::new(STORE_DIR).join(checked(digest)?))
}

/// Which blobs are not there. One whose bytes no longer have its digest is dropped and counts as missing.
pub fn missing(digests: &[String]) -> Result<Outcome, FileError> {
    let mut out = Vec::new();
    for digest in digests {
        let path = blob_path(digest)?;
        match File::open(&path) {
            Ok(f) if sha256(&mut &f).map_err(at("read", &path))? == *digest => {}
            Ok(_) => {
                fs::remove_file(&path).map_err(at("remove the damaged blob", &path))?;
                out.push(digest.clone());
            }
            Err(_) => out.push(digest.clone()),
        }
    }
    Ok(Outcome::ok().with("missing", out))
}

/// Takes one chunk; the last one makes the blob appear.
pub fn put(digest: &str, offset: u64, total: u64, chunk: &[u8]) -> Result<Outcome, FileError> {
    let path = blob_path(digest)?;
    let end = offset.checked_add(chunk.len() as u64).filter(|e| *e <= total && total <= MAX_BLOB_BYTES);
    let Some(end) = end else {
        return Err(FileError::Refused(format!("chunk at {offset} of {} bytes does not fit a blob of {total}", chunk.len())));
    };
    let dir = Path::new(STORE_DIR);
    fs::create_dir_all(dir).map_err(at("make", dir))?;
    let partial = dir.join(format!(".{digest}.partial"));
    let mut f =
        OpenOptions::new().create(true).read(true).write(true).truncate(offset == 0).open(&partial).map_err(at("open", &partial))?;
    f.seek(SeekFrom::Start(offset)).and_then(|_| f.write_all(chunk)).map_err(at("write", &partial))?;
    if end < total {
        return Ok(Outcome::ok());
    }
    f.sync_all().and_then(|()| f.seek(SeekFrom::Start(0))).map_err(at("sync", &partial))?;
    let got = sha256(&mut f).map_err(at("read", &partial))?;
    if got != digest {
        fs::remove_file(&partial).map_err(at("remove", &partial))?;
        return Err(FileError::Refused(format!("the blob that arrived has digest {got}, not {digest}")));
    }
    fs::rename(&partial, &path).map_err(at("rename into place", &path))?;
    sync_dir(dir)?;
    Ok(Outcome::changed_if(true))
}
