//! Work on disk that nobody waits for, done so that nobody waits because of it: on threads that yield to all others, and in pieces.
//!
//! What frees blocks is such work. Where a file system is mounted with `discard`, it tells the device of each block that it frees, and
//! whoever syncs something meanwhile waits for that: some 20 ms for 16 MiB. So a large file loses its name at once and its blocks one
//! piece after the other.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::MetadataExt,
    path::Path,
    thread,
    time::Duration,
};

/// The niceness of what yields to others: a tenth of their share where a processor is wanted by both. With less, a snapshot takes minutes on a
/// machine that is busy, and the log grows meanwhile.
const YIELDING: i32 = 10;
/// Bytes that are freed at once.
const PIECE_BYTES: u64 = 1024 * 1024;
/// Time between two pieces.
const PAUSE: Duration = Duration::from_millis(10);
/// Files that are held open to be freed in pieces, at the most; others are freed as usual.
const MAX_HELD: usize = 64;

/// Runs work on a thread of its own that yields to all others of this machine: whoever waits for a write is not to wait for a processor.
pub(super) fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let run = move || {
        // Of this thread alone, on Linux. Where it cannot be had, the work is done all the same.
        let _ = rustix::process::setpriority_process(None, YIELDING);
        work();
    };
    thread::Builder::new().name(name.to_owned()).spawn(run).map(drop)
}

/// Files whose blocks are freed in pieces once this is dropped. One that has a name then, since it was not replaced after all or has
/// another one, is left as it is.
#[derive(Default)]
pub(super) struct Gone(Vec<File>);

impl Gone {
    /// Removes a file.
    pub(super) fn remove(&mut self, path: &Path) -> io::Result<()> {
        self.hold(path);
        fs::remove_file(path)
    }

    /// Keeps the blocks of a file that is about to lose its name. Nothing happens to one that does not.
    pub(super) fn hold(&mut self, path: &Path) {
        if self.0.len() < MAX_HELD {
            self.0.extend(OpenOptions::new().write(true).open(path));
        }
    }
}

impl Drop for Gone {
    fn drop(&mut self) {
        let files = std::mem::take(&mut self.0);
        // A file without a name is nobody else's, and gets none any more.
        let nameless = |f: File| f.metadata().ok().filter(|m| m.nlink() == 0).map(|m| (m.len(), f));
        let large: Vec<(u64, File)> = files.into_iter().filter_map(nameless).filter(|(length, _)| *length > PIECE_BYTES).collect();
        if !large.is_empty() {
            // Without a thread they are freed at once, here.
            let _ = spawn("gone", move || large.into_iter().for_each(|(length, file)| free(&file, length)));
        }
    }
}

fn free(file: &File, mut length: u64) {
    while length > 0 {
        length = length.saturating_sub(PIECE_BYTES);
        if file.set_len(length).is_err() {
            return;
        }
        thread::sleep(PAUSE);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::time::Instant;

    use super::*;

    fn bytes() -> Vec<u8> {
        vec![1; 5 * PIECE_BYTES as usize + 1]
    }

    #[test]
    fn a_file_loses_its_name_at_once_and_its_blocks_in_time() {
        let dir = tempfile::tempdir().unwrap();
        let (large, small) = (dir.path().join("large"), dir.path().join("small"));
        fs::write(&large, bytes()).unwrap();
        fs::write(&small, "x").unwrap();
        let reader = File::open(&large).unwrap();
        let mut gone = Gone::default();
        gone.remove(&large).unwrap();
        gone.remove(&small).unwrap();
        assert_eq!(gone.remove(&large).unwrap_err().kind(), io::ErrorKind::NotFound);
        assert!(!large.exists() && !small.exists());
        let length = || reader.metadata().unwrap().len();
        assert_eq!(length(), 5 * PIECE_BYTES + 1);
        let begun = Instant::now();
        drop(gone);
        while length() > 0 {
            assert!(begun.elapsed() < Duration::from_secs(20), "{} bytes are left", length());
            thread::sleep(Duration::from_millis(1));
        }
        assert!(begun.elapsed() >= PAUSE * 5, "{:?}", begun.elapsed());
    }

    #[test]
    fn a_file_that_keeps_a_name_keeps_its_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let [held, linked, copy] = ["held", "linked", "copy"].map(|name| dir.path().join(name));
        fs::write(&held, bytes()).unwrap();
        fs::write(&linked, bytes()).unwrap();
        // As a backup of hard links has it.
        fs::hard_link(&linked, &copy).unwrap();
        let mut gone = Gone::default();
        gone.hold(&held);
        gone.remove(&linked).unwrap();
        drop(gone);
        thread::sleep(PAUSE * 20);
        assert!(fs::read(&held).unwrap() == bytes() && fs::read(&copy).unwrap() == bytes());
    }
}
