//! Makes record batches byte by byte, right ones and wrong ones, with code that shares nothing with the broker's.

/// What Kafka 3.9.1 made (`MemoryRecords.withRecords`) of three records: k1 = first at 1700000000000, null = second
/// 5 ms later, k3 = null at 3 ms.
pub const GOLDEN: [u8; 97] = [
    0, 0, 0, 0, 0, 0, 0, 0, // base offset
    0, 0, 0, 0x55, // length of what follows
    0xff, 0xff, 0xff, 0xff, // leader epoch
    2,    // magic
    0x3d, 0xbb, 0x7a, 0x41, // CRC-32C of what follows
    0, 0, // attributes
    0, 0, 0, 2, // last offset delta
    0, 0, 0x01, 0x8b, 0xcf, 0xe5, 0x68, 0x00, // base time stamp
    0, 0, 0x01, 0x8b, 0xcf, 0xe5, 0x68, 0x05, // largest time stamp
    0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, // producer id
    0xff, 0xff, // producer epoch
    0xff, 0xff, 0xff, 0xff, // base sequence
    0, 0, 0, 3, // count
    // length, attributes, time stamp delta, offset delta, key, value, headers
    0x1a, 0, 0, 0, 4, b'k', b'1', 10, b'f', b'i', b'r', b's', b't', 0, //
    0x18, 0, 10, 2, 1, 12, b's', b'e', b'c', b'o', b'n', b'd', 0, //
    0x10, 0, 6, 4, 4, b'k', b'3', 1, 0, //
];

/// Key and value of a record.
pub type KeyAndValue = (Option<Vec<u8>>, Option<Vec<u8>>);

/// Key and value of each record of an uncompressed batch.
pub fn keys_and_values(batch: &[u8]) -> Vec<KeyAndValue> {
    fn number(b: &mut &[u8]) -> i64 {
        let (mut z, mut shift) = (0u64, 0);
        loop {
            let byte = b[0];
            *b = &b[1..];
            z |= u64::from(byte & 0x7f) << shift;
            shift += 7;
            if byte < 0x80 {
                return (z >> 1) as i64 ^ -((z & 1) as i64);
            }
        }
    }
    fn field(b: &mut &[u8]) -> Option<Vec<u8>> {
        let n = usize::try_from(number(b)).ok()?;
        let (one, rest) = b.split_at(n);
        *b = rest;
        Some(one.to_vec())
    }
    let (mut rest, mut out) = (&batch[61..], Vec::new());
    while !rest.is_empty() {
        let n = number(&mut rest) as usize;
        let (mut record, tail) = rest.split_at(n);
        record = &record[1..];
        number(&mut record);
        assert_eq!(number(&mut record), out.len() as i64, "offsets within a batch count up");
        out.push((field(&mut record), field(&mut record)));
        assert_eq!(record, [0], "no headers");
        rest = tail;
    }
    out
}

fn varint(out: &mut Vec<u8>, n: i64) {
    let mut z = ((n << 1) ^ (n >> 63)) as u64;
    while z >= 0x80 {
        out.push(z as u8 | 0x80);
        z >>= 7;
    }
    out.push(z as u8);
}

fn bytes(out: &mut Vec<u8>, b: Option<&[u8]>) {
    varint(out, b.map_or(-1, |b| b.len() as i64));
    out.extend(b.unwrap_or_default());
}

/// A batch in the making.
#[derive(Clone)]
pub struct Batch {
    base_timestamp: i64,
    max_timestamp: i64,
    magic: u8,
    attributes: i16,
    count: i32,
    last_offset_delta: i32,
    producer: (i64, i16, i32),
    body: Vec<u8>,
}

#[allow(dead_code)]
impl Batch {
    pub fn new(base_timestamp: i64) -> Self {
        Self {
            base_timestamp,
            max_timestamp: base_timestamp,
            magic: 2,
            attributes: 0,
            count: 0,
            last_offset_delta: -1,
            producer: (-1, -1, -1),
            body: Vec::new(),
        }
    }
    /// Adds records: time stamp delta, key, value.
    pub fn records<T: AsRef<[u8]>>(mut self, records: &[(i64, Option<T>, Option<T>)]) -> Self {
        for (delta, key, value) in records {
            let mut one = vec![0];
            varint(&mut one, *delta);
            varint(&mut one, self.count.into());
            bytes(&mut one, key.as_ref().map(AsRef::as_ref));
            bytes(&mut one, value.as_ref().map(AsRef::as_ref));
            varint(&mut one, 0);
            varint(&mut self.body, one.len() as i64);
            self.body.extend(one);
            self.count += 1;
            self.last_offset_delta += 1;
            self.max_timestamp = self.max_timestamp.max(self.base_timestamp + delta);
        }
        self
    }
    /// Adds records without keys, all at the base time stamp.
    pub fn values(self, values: &[&str]) -> Self {
        self.records(&values.iter().map(|v| (0, None, Some(*v))).collect::<Vec<_>>())
    }
    /// Puts something else in the place of the records.
    pub fn body(mut self, body: &[u8]) -> Self {
        self.body = body.to_vec();
        self
    }
    pub fn magic(mut self, magic: u8) -> Self {
        self.magic = magic;
        self
    }
    pub fn attributes(mut self, attributes: i16) -> Self {
        self.attributes = attributes;
        self
    }
    /// Id and epoch of the producer, and its number for the first record.
    pub fn producer(mut self, id: i64, epoch: i16, sequence: i32) -> Self {
        self.producer = (id, epoch, sequence);
        self
    }
    pub fn count(mut self, count: i32) -> Self {
        self.count = count;
        self
    }
    pub fn last_offset_delta(mut self, delta: i32) -> Self {
        self.last_offset_delta = delta;
        self
    }
    pub fn max_timestamp(mut self, timestamp: i64) -> Self {
        self.max_timestamp = timestamp;
        self
    }
    pub fn build(&self) -> Vec<u8> {
        let mut tail = self.attributes.to_be_bytes().to_vec();
        tail.extend(self.last_offset_delta.to_be_bytes());
        tail.extend(self.base_timestamp.to_be_bytes());
        tail.extend(self.max_timestamp.to_be_bytes());
        tail.extend(self.producer.0.to_be_bytes());
        tail.extend(self.producer.1.to_be_bytes());
        tail.extend(self.producer.2.to_be_bytes());
        tail.extend(self.count.to_be_bytes());
        tail.extend(&self.body);
        let mut out = vec![0; 8];
        out.extend((9 + tail.len() as i32).to_be_bytes());
        out.extend((-1i32).to_be_bytes());
        out.push(self.magic);
        out.extend(crc32c::crc32c(&tail).to_be_bytes());
        out.extend(tail);
        out
    }
}
