//! Framing: `length:u32 crc32c:u32 json_length:u32` (big-endian), then `json` and a binary tail.
//!
//! `length` counts the JSON and the tail; the CRC-32C covers the JSON length, the JSON and the tail,
//! so that every byte behind the first eight is checked.

use std::io::{self, Read, Write};

use serde::{Serialize, de::DeserializeOwned};

/// Largest body (JSON and tail) that is sent or accepted, in bytes.
pub const MAX_FRAME_BYTES: usize = 8 * 1024 * 1024;

/// Length of a frame's head in bytes.
pub const HEAD_BYTES: usize = 12;

/// Why a frame could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The stream failed.
    #[error("stream failed: {0}")]
    Io(#[from] io::Error),
    /// The peer closed the stream between two frames.
    #[error("stream closed")]
    Closed,
    /// The stream ended inside a frame.
    #[error("stream ended inside a frame ({got} of {want} bytes)")]
    Torn {
        /// bytes that arrived
        got: usize,
        /// bytes that the head promised
        want: usize,
    },
    /// A length is over [`MAX_FRAME_BYTES`] or contradicts itself.
    #[error("frame of {0} bytes is over the limit of {MAX_FRAME_BYTES}, or its lengths contradict each other")]
    Length(usize),
    /// The checksum does not match: bytes were changed in flight.
    #[error("frame checksum is {got:#010x}, the head says {want:#010x}")]
    Checksum {
        /// computed
        got: u32,
        /// stated in the head
        want: u32,
    },
    /// The JSON is not what this side expects.
    #[error("frame does not parse: {0}")]
    Json(#[from] serde_json::Error),
}

/// The parsed head of a frame.
#[derive(Debug, Clone, Copy)]
pub struct Head {
    length: usize,
    crc: u32,
    json_length: usize,
}

impl Head {
    /// Parses a head and checks its limits.
    pub fn parse(head: &[u8; HEAD_BYTES]) -> Result<Self, FrameError> {
        let word = |i: usize| u32::from_be_bytes([head[i], head[i + 1], head[i + 2], head[i + 3]]);
        let this = Self { length: word(0) as usize, crc: word(4), json_length: word(8) as usize };
        if this.length > MAX_FRAME_BYTES || this.json_length > this.length {
            return Err(FrameError::Length(this.length.max(this.json_length)));
        }
        Ok(this)
    }

    /// Bytes that follow the head.
    pub fn body_len(&self) -> usize {
        self.length
    }

    /// Checks a body against this head and splits it into message and tail.
    pub fn decode<T: DeserializeOwned>(&self, body: &[u8]) -> Result<(T, Vec<u8>), FrameError> {
        if body.len() != self.length {
            return Err(FrameError::Torn { got: body.len(), want: self.length });
        }
        let got = checksum(self.json_length, body);
        if got != self.crc {
            return Err(FrameError::Checksum { got, want: self.crc });
        }
        let (json, tail) = body.split_at(self.json_length);
        Ok((serde_json::from_slice(json)?, tail.to_vec()))
    }
}

fn checksum(json_length: usize, body: &[u8]) -> u32 {
    let crc = crc32c::crc32c(&(json_length as u32).to_be_bytes());
    crc32c::crc32c_append(crc, body)
}

/// One frame as bytes.
pub fn encode<T: Serialize>(message: &T, tail: &[u8]) -> Result<Vec<u8>, FrameError> {
    let json = serde_json::to_vec(message)?;
    let length = json.len() + tail.len();
    if length > MAX_FRAME_BYTES {
        return Err(FrameError::Length(length));
    }
    let mut out = Vec::with_capacity(HEAD_BYTES + length);
    out.extend_from_slice(&(length as u32).to_be_bytes());
    let crc = crc32c::crc32c(&(json.len() as u32).to_be_bytes());
    let crc = crc32c::crc32c_append(crc32c::crc32c_append(crc, &json), tail);
    out.extend_from_slice(&crc.to_be_bytes());
    out.extend_from_slice(&(json.len() as u32).to_be_bytes());
    out.extend_from_slice(&json);
    out.extend_from_slice(tail);
    Ok(out)
}

/// Reads one frame from a blocking stream.
pub fn read_frame<T: DeserializeOwned>(from: &mut impl Read) -> Result<(T, Vec<u8>), FrameError> {
    let mut head = [0u8; HEAD_BYTES];
    match fill(from, &mut head)? {
        0 => return Err(FrameError::Closed),
        HEAD_BYTES => {}
        got => {
            return Err(FrameError::Torn { got, want: HEAD_BYTES });
        }
    }
    let head = Head::parse(&head)?;
    let mut body = vec![0u8; head.body_len()];
    let got = fill(from, &mut body)?;
    if got != body.len() {
        return Err(FrameError::Torn { got, want: body.len() });
    }
    head.decode(&body)
}

/// Writes one frame to a blocking stream and flushes it.
pub fn write_frame<T: Serialize>(to: &mut impl Write, message: &T, tail: &[u8]) -> Result<(), FrameError> {
    to.write_all(&encode(message, tail)?)?;
    to.flush()?;
    Ok(())
}

fn fill(from: &mut impl Read, into: &mut [u8]) -> io::Result<usize> {
    let mut got = 0;
    while got < into.len() {
        match from.read(&mut into[got..]) {
            Ok(0) => break,
            Ok(n) => got += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(got)
}
