//! `unarchive`: a compressed tar archive from here, unpacked on the host.

use std::{
    io::Read,
    path::{Path, PathBuf},
};

use septet_agent_protocol::Action;
use sha2::{Digest, Sha256};

use super::{Arguments, Blob, BlobSource, Context, Prepared};
use crate::error::{Error, Result};

/// SHA-256 of a file, in hex.
pub fn sha256_of_file(path: &Path) -> Result<String> {
    let fail = |e: std::io::Error| Error::failed(format!("{}: {e}", path.display()));
    let mut file = std::fs::File::open(path).map_err(fail)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0u8; 256 * 1024];
    loop {
        match file.read(&mut buffer).map_err(fail)? {
            0 => return Ok(hex::encode(hash.finalize())),
            n => hash.update(&buffer[..n]),
        }
    }
}

/// Prepares it. `creates` must be right below `dest`: what appears there appears whole, and where it is, nothing is done.
/// `checksum: sha256:…` spares reading the archive as long as no host lacks it.
pub fn prepare(a: &mut Arguments<'_>, c: &Context<'_>) -> Result<Prepared> {
    let src = a.need(&["src"])?;
    let dest = a.need(&["dest"])?;
    a.only("remote_src", &false.into(), "put the archive beside the playbook, or use `command: tar -xf SRC -C DEST` with `creates`")?;
    let creates = a.need(&["creates"])?;
    if Path::new(&creates).parent() != Some(Path::new(dest.trim_end_matches('/'))) {
        return Err(a.error("`creates` must be right below `dest`"));
    }
    let checksum = a.text("checksum")?;
    let beside = c.dirs.iter().flat_map(|d| [d.join("files").join(&src), d.join(&src)]);
    let mut named = beside.chain([c.project.root.join("files").join(&src)]);
    let path = named.find(|p| p.is_file()).unwrap_or_else(|| PathBuf::from(&src));
    let digest = match checksum {
        Some(text) => {
            let hex = text.strip_prefix("sha256:").filter(|h| h.len() == 64 && h.bytes().all(|b| b.is_ascii_hexdigit()));
            hex.ok_or_else(|| a.error("`checksum` is `sha256:` and 64 hexadecimal digits"))?.to_ascii_lowercase()
        }
        None => sha256_of_file(&path).map_err(|e| a.error(e.message))?,
    };
    let blob = Blob { digest: digest.clone(), source: BlobSource::File(path), private: false };
    let action = Action::Unarchive { digest, dest: dest.trim_end_matches('/').to_owned(), creates };
    Ok(Prepared::Remote { action, tail: Vec::new(), blob: Some(blob) })
}
