//! A connection to another broker: one request after the other.
//!
//! Invariant: after an error the connection is not used again, so an answer is never taken for that of another request.

use std::{io, time::Duration};

use bytes::{Bytes, BytesMut};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::cluster::control;

/// Time for a connection to be made.
const CONNECT: Duration = Duration::from_secs(3);
/// Longest answer, in bytes.
const MAX_ANSWER: usize = 64 * 1024 * 1024;
/// Room that an answer's buffer begins with, in bytes.
const FIRST_READ: usize = 64 * 1024;

/// An open connection.
#[derive(Debug)]
pub struct Peer {
    stream: TcpStream,
    client_id: String,
    next: i32,
}

fn invalid(text: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}

impl Peer {
    /// Connects to a broker.
    pub async fn connect(host: &str, port: u16, client_id: &str) -> io::Result<Self> {
        let stream = timeout(CONNECT, TcpStream::connect((host, port))).await??;
        stream.set_nodelay(true)?;
        Ok(Self { stream, client_id: client_id.to_owned(), next: 0 })
    }

    /// Sends the body of a request with a flexible header, and waits for the body of its answer.
    pub async fn request(&mut self, key: i16, version: i16, body: &[u8], wait: Duration) -> io::Result<Bytes> {
        self.next = self.next.wrapping_add(1) & i32::MAX;
        let frame = control::frame_request(key, version, self.next, &self.client_id, body);
        let mut answer = timeout(wait, async {
            self.stream.write_all(&frame).await?;
            self.receive().await
        })
        .await??;
        // Correlation id and tagged fields.
        if answer.len() < 5 || answer.split_to(4)[..] != self.next.to_be_bytes() {
            return Err(invalid("the answer belongs to another request".into()));
        }
        if answer.split_to(1)[0] != 0 {
            return Err(invalid("the answer's header has tagged fields".into()));
        }
        Ok(answer)
    }

    async fn receive(&mut self) -> io::Result<Bytes> {
        let length = self.stream.read_i32().await?;
        let length = usize::try_from(length).ok().filter(|n| *n <= MAX_ANSWER);
        let length = length.ok_or_else(|| invalid(format!("an answer of {length:?} bytes")))?;
        let mut answer = BytesMut::new();
        while answer.len() < length {
            let left = length - answer.len();
            // Memory grows with what arrives.
            answer.reserve(left.min(answer.len().max(FIRST_READ)));
            if (&mut self.stream).take(left as u64).read_buf(&mut answer).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(answer.freeze())
    }

    /// Waits until the other side closes the connection, or sends what nobody asked for.
    pub async fn closed(&self) {
        let mut byte = [0];
        let _ = self.stream.peek(&mut byte).await;
    }
}
