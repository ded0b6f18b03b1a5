//! Frames between servers: `length:u32 number:u64 body tag[32]`, the tag only with a secret.
//!
//! Invariant: a tag covers the frame and its place in the connection, so a frame that was injected, changed,
//! repeated, left out or moved ends the connection; memory grows with what arrives, not with a length.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::secret::{Secret, TAG_BYTES};

/// Key of one direction of a connection, and the number of the next frame in it.
#[derive(Debug)]
pub struct Seal {
    key: Option<Secret>,
    next: u64,
}

impl Seal {
    /// At the beginning of a connection.
    pub fn new(key: Option<Secret>) -> Self {
        Self { key, next: 0 }
    }

    /// Writes a frame with a body of at most `max` bytes.
    pub async fn write(&mut self, to: &mut (impl AsyncWrite + Unpin), number: u64, body: &[u8], max: usize) -> io::Result<()> {
        if body.len() > max {
            return Err(io::Error::other(format!("a message of {} bytes is too long for a peer, {max} at most", body.len())));
        }
        let mut head = [0; 12];
        head[..4].copy_from_slice(&(body.len() as u32).to_be_bytes());
        head[4..].copy_from_slice(&number.to_be_bytes());
        let mut frame = Vec::with_capacity(head.len() + body.len() + TAG_BYTES);
        frame.extend_from_slice(&head);
        frame.extend_from_slice(body);
        if let Some(key) = &self.key {
            frame.extend_from_slice(&key.tag(&[&self.next.to_be_bytes(), &head, body]));
        }
        self.next += 1;
        to.write_all(&frame).await
    }

    /// Reads a frame: its number and its body of at most `max` bytes.
    pub async fn read(&mut self, from: &mut (impl AsyncRead + Unpin), max: usize) -> io::Result<(u64, Vec<u8>)> {
        let mut head = [0; 12];
        from.read_exact(&mut head).await?;
        let length = head[..4].iter().fold(0usize, |n, b| n << 8 | usize::from(*b));
        let number = head[4..].iter().fold(0u64, |n, b| n << 8 | u64::from(*b));
        if length > max {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("a frame of {length} bytes, {max} at most")));
        }
        let mut body = Vec::with_capacity(length.min(64 * 1024));
        let got = (&mut *from).take(length as u64).read_to_end(&mut body).await?;
        if got != length {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
        }
        if let Some(key) = &self.key {
            let mut tag = [0; TAG_BYTES];
            from.read_exact(&mut tag).await?;
            if !key.verify(&[&self.next.to_be_bytes(), &head, &body], &tag) {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "a frame with a wrong tag: it was forged, changed or repeated"));
            }
        }
        self.next += 1;
        Ok((number, body))
    }
}
