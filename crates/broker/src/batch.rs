//! Record batches, magic 2: the head is read and two of its fields are set; the records stay as they came.
//! Source: DefaultRecordBatch.java. The CRC-32C covers the bytes from the attributes on, so base offset and
//! leader epoch can be set without a new checksum.

use kafka_protocol::ResponseError;

/// Length of a batch's head in bytes.
pub const HEAD_BYTES: usize = 61;
/// Bytes before the field `batchLength` counts.
pub const LENGTH_OVERHEAD: usize = 12;

/// The head of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Head {
    pub base_offset: i64,
    /// bytes of the whole batch
    pub size: usize,
    pub leader_epoch: i32,
    pub magic: i8,
    pub crc: u32,
    pub attributes: i16,
    pub last_offset_delta: i32,
    pub base_timestamp: i64,
    pub max_timestamp: i64,
    pub producer_id: i64,
    pub producer_epoch: i16,
    pub base_sequence: i32,
    pub count: i32,
}

impl Head {
    /// Offset of the last record.
    pub fn last_offset(&self) -> i64 {
        self.base_offset + i64::from(self.last_offset_delta)
    }
    /// Compression codec, 0 for none.
    pub fn codec(&self) -> i16 {
        self.attributes & 7
    }

    /// Reads a head; `None` if there are too few bytes or the length is impossible.
    pub fn parse(b: &[u8]) -> Option<Self> {
        let h = b.get(..HEAD_BYTES)?;
        let i16_at = |i: usize| i16::from_be_bytes([h[i], h[i + 1]]);
        let i32_at = |i: usize| i32::from_be_bytes([h[i], h[i + 1], h[i + 2], h[i + 3]]);
        let i64_at = |i: usize| (i64::from(i32_at(i)) << 32) | i64::from(i32_at(i + 4) as u32);
        let length = usize::try_from(i32_at(8)).ok()?;
        let size = length.checked_add(LENGTH_OVERHEAD).filter(|s| *s >= HEAD_BYTES)?;
        Some(Self {
            base_offset: i64_at(0),
            size,
            leader_epoch: i32_at(12),
            magic: h[16] as i8,
            crc: i32_at(17) as u32,
            attributes: i16_at(21),
            last_offset_delta: i32_at(23),
            base_timestamp: i64_at(27),
            max_timestamp: i64_at(35),
            producer_id: i64_at(43),
            producer_epoch: i16_at(51),
            base_sequence: i32_at(53),
            count: i32_at(57),
        })
    }

    /// Whether the checksum of the batch that begins at `b` is right.
    pub fn crc_ok(&self, b: &[u8]) -> bool {
        b.get(21..self.size).is_some_and(|body| crc32c::crc32c(body) == self.crc)
    }
}

/// Checks what a producer sent: whole batches, magic 2, right checksum, sensible counts, nothing that needs
/// transactions or control rights. A producer that has an id numbers its records. Returns their heads.
pub fn validate(mut b: &[u8], max_bytes: usize) -> Result<Vec<Head>, ResponseError> {
    let mut out = Vec::new();
    while !b.is_empty() {
        // The magic lies at the same place in all formats.
        match b.get(16) {
            None => return Err(ResponseError::CorruptMessage),
            Some(2) => {}
            Some(_) => return Err(ResponseError::UnsupportedForMessageFormat),
        }
        let head = Head::parse(b).ok_or(ResponseError::CorruptMessage)?;
        if head.size > b.len() || !head.crc_ok(b) {
            return Err(ResponseError::CorruptMessage);
        }
        if head.size > max_bytes {
            return Err(ResponseError::MessageTooLarge);
        }
        if head.count <= 0 || head.last_offset_delta != head.count - 1 || head.attributes & (TRANSACTIONAL | CONTROL | DELETE_HORIZON) != 0
        {
            return Err(ResponseError::InvalidRecord);
        }
        if head.producer_id >= 0 && head.base_sequence < 0 {
            return Err(ResponseError::InvalidRecord);
        }
        if head.codec() > 4 {
            return Err(ResponseError::UnsupportedCompressionType);
        }
        b = &b[head.size..];
        out.push(head);
    }
    if out.is_empty() { Err(ResponseError::InvalidRecord) } else { Ok(out) }
}

/// Sets base offset and leader epoch.
pub fn place(b: &mut [u8], base_offset: i64, leader_epoch: i32) {
    b[..8].copy_from_slice(&base_offset.to_be_bytes());
    b[12..16].copy_from_slice(&leader_epoch.to_be_bytes());
}

/// Attribute of a batch that belongs to a transaction.
pub const TRANSACTIONAL: i16 = 0x10;
/// Attribute of a batch that ends one.
pub const CONTROL: i16 = 0x20;
/// Attribute of a batch whose base timestamp is the time from which its tombstones may go (KIP-534).
pub const DELETE_HORIZON: i16 = 0x40;

/// Attribute of a batch whose records all have the time of the log.
pub const LOG_APPEND_TIME: i16 = 8;

/// Sets the largest timestamp, and whether it is the log's clock that says it. A producer may have set either wrongly.
/// Returns the head as it is then.
pub fn stamp(b: &mut [u8], head: Head, max_timestamp: i64, log_append_time: bool) -> Head {
    let attributes = if log_append_time { head.attributes | LOG_APPEND_TIME } else { head.attributes & !LOG_APPEND_TIME };
    if head.attributes == attributes && head.max_timestamp == max_timestamp {
        return head;
    }
    b[21..23].copy_from_slice(&attributes.to_be_bytes());
    b[35..43].copy_from_slice(&max_timestamp.to_be_bytes());
    let crc = crc32c::crc32c(&b[21..head.size]);
    b[17..21].copy_from_slice(&crc.to_be_bytes());
    Head { max_timestamp, attributes, crc, ..head }
}
