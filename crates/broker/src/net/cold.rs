//! Reading parts of files without waiting for the disk on a thread that serves connections.
//!
//! Invariant: bytes that are known not to be in the page cache are read by the blocking pool. Whether they are is asked of the
//! kernel by reads that do not wait (`RWF_NOWAIT`): of all bytes that are read, and of samples of those that are sent from the cache.

use std::{fs::File, io, os::unix::fs::FileExt, sync::Arc};

use bytes::BytesMut;
use rustix::io::{Errno, ReadWriteFlags, preadv2};

use crate::log::Slice;

/// Bytes between samples: the kernel reads ahead in such steps, so that pages are rarely cached singly.
const STEP: u64 = 128 * 1024;
/// Bytes that are read at once to bring them into the cache.
const WARM: usize = 64 * 1024;

/// Reads into a buffer what is cached, and returns how much that was. `None` if the file system cannot tell.
fn read_cached(file: &File, out: &mut [u8], position: u64) -> io::Result<Option<usize>> {
    match preadv2(file, &mut [io::IoSliceMut::new(out)], position, ReadWriteFlags::NOWAIT) {
        Ok(n) => Ok(Some(n)),
        Err(Errno::AGAIN) => Ok(Some(0)),
        Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => Ok(None),
        Err(e) => Err(e.into()),
    }
}

/// Whether samples of a part of a file are in the page cache. Where the file system cannot tell, they count as cached.
fn seems_cached(file: &File, from: u64, to: u64) -> io::Result<bool> {
    let mut at = from;
    loop {
        if read_cached(file, &mut [0], at)? == Some(0) {
            return Ok(false);
        }
        if at + 1 >= to {
            return Ok(true);
        }
        at = (at + STEP).min(to - 1);
    }
}

async fn on_pool<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}

/// Reads a part of a file behind what is in a buffer.
pub async fn read_into(slice: &Slice, out: &mut BytesMut) -> io::Result<()> {
    let file = slice.file()?;
    let start = out.len();
    out.resize(start + slice.len(), 0);
    let done = read_cached(&file, &mut out[start..], slice.position())?.unwrap_or(0);
    if done == slice.len() {
        return Ok(());
    }
    let (position, rest) = (slice.position() + done as u64, slice.len() - done);
    let bytes = on_pool(move || {
        let mut bytes = vec![0; rest];
        file.read_exact_at(&mut bytes, position)?;
        Ok(bytes)
    })
    .await?;
    out[start + done..].copy_from_slice(&bytes);
    Ok(())
}

/// Sees to it that a part of a file is in the page cache, as far as samples tell.
pub async fn warm(file: &Arc<File>, from: u64, to: u64) -> io::Result<()> {
    if from >= to || seems_cached(file, from, to)? {
        return Ok(());
    }
    let file = file.clone();
    on_pool(move || {
        let (mut buffer, mut at) = (vec![0; WARM], from);
        while at < to {
            let want = usize::try_from(to - at).unwrap_or(WARM).min(WARM);
            match file.read_at(&mut buffer[..want], at)? {
                0 => break,
                n => at += n as u64,
            }
        }
        Ok(())
    })
    .await
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use rustix::fs::{Advice, fadvise};

    use super::*;

    /// A file of 1 MiB whose pages are not cached, and its bytes. `None` on a file system that keeps them, as one in memory does.
    fn cold(dir: &std::path::Path) -> Option<(Slice, Vec<u8>)> {
        let bytes: Vec<u8> = (0..1u32 << 20).map(|i| (i % 251) as u8).collect();
        let path = dir.join("f");
        std::fs::write(&path, &bytes).unwrap();
        let file = File::open(&path).unwrap();
        // Pages that the kernel has in hand at that moment stay: asked again, it gives them up. One byte is looked at, since a look makes
        // the kernel read ahead.
        let is_cold = (0..100).any(|_| {
            file.sync_all().unwrap();
            fadvise(&file, 0, None, Advice::DontNeed).unwrap();
            let is_cold = read_cached(&file, &mut [0], 0).unwrap() == Some(0);
            if !is_cold {
                std::thread::sleep(std::time::Duration::from_millis(20));
            }
            is_cold
        });
        is_cold.then(|| (Slice::of_file(&path, 5, bytes.len() as u64 - 10), bytes))
    }

    #[tokio::test]
    async fn cold_parts_are_read_and_warm_ones_are_seen_to_be() {
        // Not in memory: beside the program, which lies on a disk.
        let dir = tempfile::tempdir_in(std::env::current_exe().unwrap().parent().unwrap()).unwrap();
        let Some((slice, bytes)) = cold(dir.path()) else {
            septet_testing::skip(
                "cold_parts_are_read_and_warm_ones_are_seen_to_be",
                "the file system of the programs does not give up its cache",
            );
            return;
        };
        let file = slice.file().unwrap();
        let end = bytes.len() as u64;
        assert!(!seems_cached(&file, 0, end).unwrap());
        warm(&file, 0, end).await.unwrap();
        assert!(seems_cached(&file, 0, end).unwrap());
        let mut out = BytesMut::from(&b"before"[..]);
        read_into(&slice, &mut out).await.unwrap();
        assert!(out[..6] == *b"before" && out[6..] == bytes[5..bytes.len() - 5]);
        drop((file, slice));
        let (slice, _) = cold(dir.path()).unwrap();
        out.clear();
        read_into(&slice, &mut out).await.unwrap();
        assert!(out[..] == bytes[5..bytes.len() - 5], "partly or not cached");
    }

    #[tokio::test]
    async fn a_file_that_is_shorter_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("f"), [7; 100]).unwrap();
        let slice = Slice::of_file(&dir.path().join("f"), 50, 100);
        assert_eq!(read_into(&slice, &mut BytesMut::new()).await.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
}
