//! Parts of segment files on their way to a reader.
//!
//! Invariant: while a slice lives, the bytes that it names are in the file as they were, or are not there: reading them
//! fails when a truncation has cut them off. They are never replaced by others.

#[cfg(test)]
use std::path::Path;
use std::{fs, io, sync::Arc};

use bytes::BytesMut;

#[cfg(test)]
use super::Files;
use super::Slot;

/// Part of a segment: whole batches. It takes neither memory nor a descriptor.
#[derive(Debug, Clone)]
pub struct Slice {
    pub(super) file: Arc<Slot>,
    pub(super) position: u64,
    pub(super) len: usize,
}

impl Slice {
    /// The file, which the caller lets go of soon.
    pub fn file(&self) -> io::Result<Arc<fs::File>> {
        self.file.file()
    }
    /// Where it begins.
    pub fn position(&self) -> u64 {
        self.position
    }
    /// Its length in bytes.
    pub fn len(&self) -> usize {
        self.len
    }
    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
    /// Reads it behind what is in a buffer.
    pub fn read_into(&self, out: &mut BytesMut) -> io::Result<()> {
        let start = out.len();
        out.resize(start + self.len, 0);
        std::os::unix::fs::FileExt::read_exact_at(&*self.file()?, &mut out[start..], self.position)
    }

    /// Part of any file.
    #[cfg(test)]
    pub fn of_file(path: &Path, position: u64, len: u64) -> Self {
        let file = Slot::create(&Files::new(10), path.to_owned()).expect("a file");
        Self { file: Arc::new(file), position, len: len as usize }
    }
}
