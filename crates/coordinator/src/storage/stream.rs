//! A record that is written as it is encoded: a snapshot takes no memory beside the state that it is made of.
//!
//! Invariant: what is written goes to disk piece by piece, so that the log, which lies beside it and is synced all the time, never waits
//! for more than a piece.

use std::{
    fs::File,
    io::{self, Seek, SeekFrom, Write},
    path::Path,
};

use serde::Serialize;

use super::{HEAD_BYTES, head, replace_by};

/// Bytes that are handed to the system at once.
const BUFFER_BYTES: usize = 64 * 1024;
/// Bytes after which they are synced.
const PIECE_BYTES: usize = 1024 * 1024;
/// Room that is left for the log, in bytes, and as a part of the file system where that is less: a log that cannot be written ends the
/// server, and a snapshot can be made later.
const RESERVE_BYTES: u64 = 64 * 1024 * 1024;
const RESERVE_PART: u64 = 20;

/// Whether enough is left for the log, of a file system of so many bytes with so many free.
fn leaves_room(free: u64, whole: u64) -> bool {
    free >= RESERVE_BYTES.min(whole / RESERVE_PART)
}

/// A file that counts, sums and syncs what is written to it.
struct Pieces {
    file: File,
    buffer: Vec<u8>,
    length: u64,
    sum: u32,
    unsynced: usize,
}

impl Pieces {
    fn pass_on(&mut self) -> io::Result<()> {
        self.sum = crc32c::crc32c_append(self.sum, &self.buffer);
        self.length += self.buffer.len() as u64;
        self.unsynced += self.buffer.len();
        self.file.write_all(&self.buffer)?;
        self.buffer.clear();
        if self.unsynced >= PIECE_BYTES {
            self.unsynced = 0;
            self.file.sync_data()?;
            let disk = rustix::fs::fstatvfs(&self.file)?;
            if !leaves_room(disk.f_bavail * disk.f_frsize, disk.f_blocks * disk.f_frsize) {
                return Err(io::Error::new(io::ErrorKind::StorageFull, "what is left of the disk is for the log"));
            }
        }
        Ok(())
    }
}

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(BUFFER_BYTES - self.buffer.len());
        self.buffer.extend_from_slice(&bytes[..taken]);
        if self.buffer.len() == BUFFER_BYTES {
            self.pass_on()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes a file of one record, as [`super::record`] makes it, so that it is either the old or the new one.
pub(super) fn replace_record<T: Serialize>(path: &Path, value: &T) -> io::Result<()> {
    replace_by(path, |temporary| write_record(temporary, value))
}

fn write_record<T: Serialize>(path: &Path, value: &T) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(&[0; HEAD_BYTES])?;
    let out = Pieces { file, buffer: Vec::with_capacity(BUFFER_BYTES), length: 0, sum: 0, unsynced: 0 };
    let mut out = postcard::to_io(value, out).map_err(io::Error::other)?;
    out.pass_on()?;
    let length = u32::try_from(out.length)
        .map_err(|_| io::Error::new(io::ErrorKind::FileTooLarge, format!("{}: more than 4 GiB", path.display())))?;
    out.file.seek(SeekFrom::Start(0))?;
    out.file.write_all(&head(length, out.sum))?;
    out.file.sync_all()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::fs;

    use super::{super::record, *};

    #[test]
    fn it_is_the_record_that_is_made_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("r");
        for length in [0, 1, BUFFER_BYTES - 1, BUFFER_BYTES, 3 * PIECE_BYTES + 7] {
            let value: Vec<u8> = (0..length).map(|i| (i % 251) as u8).collect();
            replace_record(&path, &(7u32, &value, "end")).unwrap();
            assert!(fs::read(&path).unwrap() == record(&(7u32, &value, "end")).unwrap(), "{length}");
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn the_log_keeps_some_room() {
        const MIB: u64 = 1024 * 1024;
        assert!(leaves_room(64 * MIB, 100_000 * MIB) && !leaves_room(63 * MIB, 100_000 * MIB));
        assert!(leaves_room(2 * MIB, 40 * MIB) && !leaves_room(MIB, 40 * MIB));
    }

    /// One that cannot be encoded to its end, as on a disk that fills.
    struct Endless;

    impl Serialize for Endless {
        fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            use serde::ser::{Error, SerializeSeq};
            let mut seq = serializer.serialize_seq(Some(usize::MAX))?;
            for _ in 0..3 * PIECE_BYTES {
                seq.serialize_element(&1u8)?;
            }
            Err(S::Error::custom("the disk is full"))
        }
    }

    #[test]
    fn what_cannot_be_written_leaves_the_old_one_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("r");
        replace_record(&path, &7u32).unwrap();
        assert!(replace_record(&path, &Endless).is_err());
        assert_eq!(fs::read(&path).unwrap(), record(&7u32).unwrap());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
