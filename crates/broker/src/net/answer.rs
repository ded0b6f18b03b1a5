//! An answer on its way to a client: bytes, and parts of segment files that are sent from the page cache.
//!
//! Invariant: a part of a file takes no memory while the client is slow, beyond a buffer of 64 KiB for small parts. The thread
//! does not wait for the disk; see [`super::cold`].

use std::{
    io,
    sync::{Mutex, PoisonError},
};

use bytes::{Bytes, BytesMut};
use tokio::{
    io::{AsyncWriteExt, Interest},
    net::{TcpStream, tcp::OwnedWriteHalf},
};

use super::{budget::Share, cold};
use crate::log::Slice;

/// Up to this size pieces are collected and written at once, in bytes.
const COLLECT: usize = 64 * 1024;
/// Bytes of a file that are sent at once; others come to their turn in between.
const SEND: usize = 1024 * 1024;

/// A part of an answer.
#[derive(Debug)]
pub enum Piece {
    /// in memory
    Bytes(Bytes),
    /// in a segment
    File(Slice),
}

impl Piece {
    /// Its length in bytes.
    pub fn len(&self) -> usize {
        match self {
            Self::Bytes(b) => b.len(),
            Self::File(s) => s.len(),
        }
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// An answer, with its length in front.
#[derive(Debug, Default)]
pub struct Answer {
    /// in order
    pub pieces: Vec<Piece>,
    /// the memory that it takes
    pub share: Share,
}

impl From<Bytes> for Answer {
    fn from(bytes: Bytes) -> Self {
        Self { pieces: vec![Piece::Bytes(bytes)], share: Share::default() }
    }
}

/// Buffers that small answers are collected in; they are shared by all connections.
static BUFFERS: Mutex<Vec<BytesMut>> = Mutex::new(Vec::new());
/// Buffers that are kept while nobody uses them.
const KEPT: usize = 16;

/// A buffer of the pool, which goes back to it.
struct Buffer(BytesMut);

impl Buffer {
    fn take() -> Self {
        let pooled = BUFFERS.lock().unwrap_or_else(PoisonError::into_inner).pop();
        Self(pooled.unwrap_or_else(|| BytesMut::with_capacity(COLLECT)))
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let mut buffers = BUFFERS.lock().unwrap_or_else(PoisonError::into_inner);
        if buffers.len() < KEPT {
            self.0.clear();
            buffers.push(std::mem::take(&mut self.0));
        }
    }
}

/// Writes pieces; `moved` is told of every step forward.
pub async fn write(stream: &mut OwnedWriteHalf, pieces: Vec<Piece>, mut moved: impl FnMut()) -> io::Result<()> {
    if let [Piece::Bytes(only)] = &pieces[..] {
        return write_bytes(stream, only, &mut moved).await;
    }
    let mut collected = Buffer::take();
    for piece in pieces {
        if collected.0.len() + piece.len() <= COLLECT {
            match piece {
                Piece::Bytes(b) => collected.0.extend_from_slice(&b),
                Piece::File(slice) => cold::read_into(&slice, &mut collected.0).await?,
            }
            continue;
        }
        write_bytes(stream, &collected.0, &mut moved).await?;
        collected.0.clear();
        match piece {
            Piece::Bytes(b) => write_bytes(stream, &b, &mut moved).await?,
            Piece::File(slice) => send(stream.as_ref(), &slice, &mut moved).await?,
        }
    }
    write_bytes(stream, &collected.0, &mut moved).await
}

async fn write_bytes(stream: &mut OwnedWriteHalf, mut bytes: &[u8], moved: &mut impl FnMut()) -> io::Result<()> {
    while !bytes.is_empty() {
        let n = stream.write(bytes).await?;
        if n == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        bytes = &bytes[n..];
        moved();
    }
    Ok(())
}

async fn send(stream: &TcpStream, slice: &Slice, moved: &mut impl FnMut()) -> io::Result<()> {
    let mut position = slice.position();
    let end = position + slice.len() as u64;
    while position < end {
        let want = usize::try_from(end - position).unwrap_or(SEND).min(SEND);
        // What is not cached would stop this thread, and with it all connections of it.
        cold::warm(&slice.file()?, position, position + want as u64).await?;
        let sent = stream
            .async_io(Interest::WRITABLE, || {
                // Opened for each step: a client that does not read holds no descriptor of a file.
                let file = slice.file()?;
                Ok(rustix::fs::sendfile(stream, &*file, Some(&mut position), want)?)
            })
            .await?;
        if sent == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "a segment is shorter than it was"));
        }
        moved();
    }
    Ok(())
}
