//! The codecs that a batch may be compressed with, as streams: memory does not grow with what a batch expands to.
//!
//! Invariant: a stream gives at most `limit` bytes; one that has more ends with an error.

use std::io::{self, BufRead, BufReader, Read};

use ruzstd::decoding::StreamingDecoder;

/// Bytes that are decompressed at once.
const PIECE: usize = 16 * 1024;
/// Smallest limit of a zstd window: RFC 8878 asks every decoder to support 8 MB.
const MIN_WINDOW: u64 = 8 * 1024 * 1024;
/// Largest factor by which snappy can shrink its input (64 bytes in a copy of 3), rounded up.
const SNAPPY_FACTOR: usize = 22;
/// Longest block in the framing of snappy-java that is accepted, in bytes.
const SNAPPY_BLOCK: usize = 32 * 1024 * 1024;
/// Begins the framing of snappy-java.
const XERIAL: &[u8] = b"\x82SNAPPY\0";

fn invalid(text: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}

/// What a batch's records are after decompression.
pub fn open<'a>(codec: i16, body: &'a [u8], limit: u64) -> io::Result<Box<dyn BufRead + 'a>> {
    fn stream<'a>(inner: impl Read + 'a, limit: u64) -> Box<dyn BufRead + 'a> {
        Box::new(BufReader::with_capacity(PIECE, Limited { inner, left: limit }))
    }
    Ok(match codec {
        0 => Box::new(body),
        1 => stream(flate2::bufread::MultiGzDecoder::new(body), limit),
        2 => match body.strip_prefix(XERIAL) {
            Some(framed) => stream(
                Xerial { rest: framed.get(8..).ok_or_else(|| invalid("snappy header is cut off"))?, block: Vec::new(), at: 0 },
                limit,
            ),
            // librdkafka compresses without a framing.
            None => stream(io::Cursor::new(snappy(body, limit)?), limit),
        },
        3 => stream(lz4_flex::frame::FrameDecoder::new(body), limit),
        4 => stream(Zstd { source: Some(body), frame: None, window: MIN_WINDOW.max(body.len() as u64 * 8) }, limit),
        _ => return Err(invalid("unknown codec")),
    })
}

/// Reads no more than it may.
struct Limited<R> {
    inner: R,
    left: u64,
}

impl<R: Read> Read for Limited<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buf)?;
        self.left = self.left.checked_sub(n as u64).ok_or_else(|| invalid("decompresses to more bytes than are allowed"))?;
        Ok(n)
    }
}

/// Decompresses one block.
fn snappy(block: &[u8], limit: u64) -> io::Result<Vec<u8>> {
    let length = snap::raw::decompress_len(block).map_err(io::Error::other)?;
    if length as u64 > limit || length > block.len().saturating_mul(SNAPPY_FACTOR) {
        return Err(invalid("a snappy block announces more bytes than it can hold"));
    }
    snap::raw::Decoder::new().decompress_vec(block).map_err(io::Error::other)
}

/// The framing of snappy-java: blocks, each with its length.
struct Xerial<'a> {
    rest: &'a [u8],
    block: Vec<u8>,
    at: usize,
}

impl Read for Xerial<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        while self.at == self.block.len() {
            if self.rest.is_empty() {
                return Ok(0);
            }
            let (length, rest) = self.rest.split_first_chunk::<4>().ok_or_else(|| invalid("snappy block is cut off"))?;
            let length = u32::from_be_bytes(*length) as usize;
            let block = rest.get(..length).ok_or_else(|| invalid("snappy block is cut off"))?;
            self.block = snappy(block, SNAPPY_BLOCK as u64)?;
            self.at = 0;
            self.rest = &rest[length..];
        }
        let n = (&self.block[self.at..]).read(buf)?;
        self.at += n;
        Ok(n)
    }
}

/// Frames of zstd, one behind the other.
struct Zstd<'a> {
    source: Option<&'a [u8]>,
    frame: Option<StreamingDecoder<&'a [u8], ruzstd::decoding::FrameDecoder>>,
    window: u64,
}

impl Read for Zstd<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        loop {
            if let Some(frame) = &mut self.frame {
                let n = frame.read(buf)?;
                if n > 0 {
                    return Ok(n);
                }
            }
            if let Some(frame) = self.frame.take() {
                self.source = Some(frame.into_inner());
            }
            match self.source.take() {
                Some(rest) if !rest.is_empty() => {
                    let frame = StreamingDecoder::new_with_max_window_size(rest, self.window).map_err(io::Error::other)?;
                    self.frame = Some(frame);
                }
                _ => return Ok(0),
            }
        }
    }
}

/// Compresses the records of a batch as Kafka's clients read it.
pub fn compress(codec: i16, body: Vec<u8>) -> io::Result<Vec<u8>> {
    use std::io::Write;
    Ok(match codec {
        0 => body,
        1 => {
            let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
            out.write_all(&body)?;
            out.finish()?
        }
        2 => {
            // The framing of snappy-java: version 1, compatible with version 1, blocks of 32 KiB.
            let mut out = [XERIAL, &[0, 0, 0, 1, 0, 0, 0, 1]].concat();
            for block in body.chunks(32 * 1024) {
                let block = snap::raw::Encoder::new().compress_vec(block).map_err(io::Error::other)?;
                out.extend((block.len() as u32).to_be_bytes());
                out.extend(block);
            }
            out
        }
        3 => {
            // Kafka's reader wants blocks that do not depend on each other.
            let frame = lz4_flex::frame::FrameInfo::new()
                .block_mode(lz4_flex::frame::BlockMode::Independent)
                .block_size(lz4_flex::frame::BlockSize::Max64KB);
            let mut out = lz4_flex::frame::FrameEncoder::with_frame_info(frame, Vec::new());
            out.write_all(&body)?;
            out.finish().map_err(io::Error::other)?
        }
        4 => ruzstd::encoding::compress_to_vec(&body[..], ruzstd::encoding::CompressionLevel::Fastest),
        _ => return Err(invalid("unknown codec")),
    })
}
