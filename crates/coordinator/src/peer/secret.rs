//! The ensemble's secret: read once at start, used as a key for HMAC-SHA256, never shown.
//!
//! Invariant: a file that others can read, or with too little in it, is refused.

use std::{
    fs::{self, File},
    io::Read,
    os::unix::fs::MetadataExt,
    path::Path,
    sync::Arc,
};

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// Length of a tag, in bytes.
pub const TAG_BYTES: usize = 32;
/// Shortest secret, in bytes.
const MIN_BYTES: usize = 16;
/// Largest file that is read, in bytes.
const MAX_FILE_BYTES: u64 = 4096;

/// A key that all servers of the ensemble share, or one derived from it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Arc<[u8]>);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(…)")
    }
}

impl Secret {
    /// Reads a secret from a file: hexadecimal digits, or any bytes, without white space around them. The error is
    /// the reason alone, without the path.
    pub fn read(path: &Path) -> Result<Self, String> {
        // Checked before it is opened as well: opening a FIFO would wait for a writer.
        if !fs::metadata(path).map_err(|e| e.to_string())?.is_file() {
            return Err("is not a regular file".into());
        }
        let file = File::open(path).map_err(|e| e.to_string())?;
        let meta = file.metadata().map_err(|e| e.to_string())?;
        if !meta.is_file() {
            return Err("is not a regular file".into());
        }
        if meta.mode() & 0o007 != 0 {
            return Err(format!(
                "mode {:04o} gives access to others than owner and group (hint: chmod o= {})",
                meta.mode() & 0o7777,
                path.display()
            ));
        }
        let mut bytes = Vec::new();
        file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(|e| e.to_string())?;
        if bytes.len() as u64 > MAX_FILE_BYTES {
            return Err(format!("is larger than {MAX_FILE_BYTES} bytes"));
        }
        Self::parse(&bytes)
    }

    fn parse(text: &[u8]) -> Result<Self, String> {
        let text = text.trim_ascii();
        if text.is_empty() {
            return Err("is empty".into());
        }
        let bytes = from_hex(text).unwrap_or_else(|| text.to_vec());
        if bytes.len() < MIN_BYTES {
            return Err(format!("holds a secret of {} bytes, at least {MIN_BYTES} are needed", bytes.len()));
        }
        Ok(Self(bytes.into()))
    }

    /// A secret that nobody else has.
    pub fn random() -> Self {
        Self(rand::random::<[u8; 32]>().to_vec().into())
    }

    /// A secret for one purpose, which says nothing about this one.
    pub fn derive(&self, purpose: &[u8], context: &[u8]) -> Self {
        Self(self.tag(&[purpose, context]).to_vec().into())
    }

    fn mac(&self, parts: &[&[u8]]) -> Hmac<Sha256> {
        // HMAC takes keys of any length, so this cannot fail; a key of zeros would only make every check fail.
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).unwrap_or_else(|_| Hmac::new(&Default::default()));
        parts.iter().for_each(|part| mac.update(part));
        mac
    }

    /// Tag over parts, which the caller must make unambiguous.
    pub fn tag(&self, parts: &[&[u8]]) -> [u8; TAG_BYTES] {
        self.mac(parts).finalize().into_bytes().into()
    }

    /// Compares a tag in constant time.
    pub fn verify(&self, parts: &[&[u8]], tag: &[u8]) -> bool {
        self.mac(parts).verify_slice(tag).is_ok()
    }
}

/// Bytes of a text that is nothing but pairs of hexadecimal digits.
fn from_hex(text: &[u8]) -> Option<Vec<u8>> {
    let digit = |b: u8| (b as char).to_digit(16);
    if !text.len().is_multiple_of(2) {
        return None;
    }
    text.chunks_exact(2).map(|pair| Some((digit(pair[0])? * 16 + digit(pair[1])?) as u8)).collect()
}
