//! Jute, ZooKeeper's record encoding: big-endian integers, length-prefixed buffers and strings.
//!
//! Invariant: a reader never allocates more than the bytes that are there, and never panics.

/// Why bytes do not decode.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JuteError {
    /// The record is shorter than its fields.
    #[error("record ends early")]
    Short,
    /// A length is negative or larger than what is left.
    #[error("bad length {0}")]
    Length(i32),
    /// A string is not UTF-8.
    #[error("string is not UTF-8")]
    Utf8,
}

type Result<T> = std::result::Result<T, JuteError>;

/// Reads fields from a record.
#[derive(Debug)]
pub struct Reader<'a>(pub &'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, n: usize) -> Result<&'a [u8]> {
        if self.0.len() < n {
            return Err(JuteError::Short);
        }
        let (head, rest) = self.0.split_at(n);
        self.0 = rest;
        Ok(head)
    }
    /// Whether all was read.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
    /// `boolean`
    pub fn bool(&mut self) -> Result<bool> {
        Ok(self.take(1)?[0] != 0)
    }
    /// `int`
    pub fn int(&mut self) -> Result<i32> {
        let b = self.take(4)?;
        Ok(i32::from_be_bytes([b[0], b[1], b[2], b[3]]))
    }
    /// `long`
    pub fn long(&mut self) -> Result<i64> {
        let b = self.take(8)?;
        Ok(i64::from_be_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]))
    }
    /// `buffer` in which null (-1) and empty are alike
    pub fn buffer(&mut self) -> Result<&'a [u8]> {
        Ok(self.nullable()?.unwrap_or_default())
    }
    /// `buffer`; null (-1) is `None`
    pub fn nullable(&mut self) -> Result<Option<&'a [u8]>> {
        match self.int()? {
            -1 => Ok(None),
            n if n < 0 => Err(JuteError::Length(n)),
            n if n as usize > self.0.len() => Err(JuteError::Length(n)),
            n => self.take(n as usize).map(Some),
        }
    }
    /// `ustring`
    pub fn string(&mut self) -> Result<String> {
        std::str::from_utf8(self.buffer()?).map(str::to_owned).map_err(|_| JuteError::Utf8)
    }
    /// `vector<T>`; each element takes at least `min_bytes`, which bounds the allocation
    pub fn vector<T>(&mut self, min_bytes: usize, mut one: impl FnMut(&mut Self) -> Result<T>) -> Result<Vec<T>> {
        let n = self.int()?;
        if n == -1 {
            return Ok(Vec::new());
        }
        if n < 0 || (n as usize).saturating_mul(min_bytes) > self.0.len() {
            return Err(JuteError::Length(n));
        }
        (0..n).map(|_| one(self)).collect()
    }
}

/// Writes fields of a record.
#[derive(Debug, Default)]
pub struct Writer(pub Vec<u8>);

impl Writer {
    /// A frame with room for its length, see [`Writer::frame`].
    pub fn framed() -> Self {
        Self(vec![0; 4])
    }
    /// Fills in the length of a record begun with [`Writer::framed`].
    pub fn frame(mut self) -> Vec<u8> {
        let n = (self.0.len() - 4) as i32;
        self.0[..4].copy_from_slice(&n.to_be_bytes());
        self.0
    }
    /// Bytes as they are.
    pub fn raw(&mut self, v: &[u8]) -> &mut Self {
        self.0.extend_from_slice(v);
        self
    }
    /// `boolean`
    pub fn bool(&mut self, v: bool) -> &mut Self {
        self.0.push(u8::from(v));
        self
    }
    /// `int`
    pub fn int(&mut self, v: i32) -> &mut Self {
        self.0.extend_from_slice(&v.to_be_bytes());
        self
    }
    /// `long`
    pub fn long(&mut self, v: i64) -> &mut Self {
        self.0.extend_from_slice(&v.to_be_bytes());
        self
    }
    /// `buffer`
    pub fn buffer(&mut self, v: &[u8]) -> &mut Self {
        self.int(v.len() as i32);
        self.0.extend_from_slice(v);
        self
    }
    /// `buffer`; `None` is null (-1)
    pub fn nullable(&mut self, v: Option<&[u8]>) -> &mut Self {
        match v {
            Some(v) => self.buffer(v),
            None => self.int(-1),
        }
    }
    /// `vector<ustring>`
    pub fn strings<'a>(&mut self, all: impl ExactSizeIterator<Item = &'a str>) -> &mut Self {
        self.int(all.len() as i32);
        all.fold(self, |w, v| w.string(v))
    }
    /// `ustring`
    pub fn string(&mut self, v: &str) -> &mut Self {
        self.buffer(v.as_bytes())
    }
}
