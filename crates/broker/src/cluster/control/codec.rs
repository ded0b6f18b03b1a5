//! Fields of flexible messages (KIP-482).

use bytes::{BufMut, Bytes, BytesMut};

use super::Malformed;

/// Reads fields.
pub struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }
    fn take(&mut self, n: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.0.split_at_checked(n).ok_or(Malformed)?;
        self.0 = rest;
        Ok(taken)
    }
    fn fixed<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        self.take(N)?.try_into().map_err(|_| Malformed)
    }
    pub fn i8(&mut self) -> Result<i8, Malformed> {
        Ok(i8::from_be_bytes(self.fixed()?))
    }
    pub fn bool(&mut self) -> Result<bool, Malformed> {
        Ok(self.i8()? != 0)
    }
    pub fn i16(&mut self) -> Result<i16, Malformed> {
        Ok(i16::from_be_bytes(self.fixed()?))
    }
    pub fn i32(&mut self) -> Result<i32, Malformed> {
        Ok(i32::from_be_bytes(self.fixed()?))
    }
    pub fn i64(&mut self) -> Result<i64, Malformed> {
        Ok(i64::from_be_bytes(self.fixed()?))
    }
    pub fn bytes16(&mut self) -> Result<[u8; 16], Malformed> {
        self.fixed()
    }
    fn varint(&mut self) -> Result<usize, Malformed> {
        let mut out = 0u32;
        for shift in (0..35).step_by(7) {
            let [b] = self.fixed()?;
            out |= u32::from(b & 0x7f).checked_shl(shift).ok_or(Malformed)?;
            if b & 0x80 == 0 {
                return Ok(out as usize);
            }
        }
        Err(Malformed)
    }
    pub fn nullable_string(&mut self) -> Result<Option<String>, Malformed> {
        let Some(n) = self.varint()?.checked_sub(1) else {
            return Ok(None);
        };
        String::from_utf8(self.take(n)?.to_vec()).map(Some).map_err(|_| Malformed)
    }
    pub fn string(&mut self) -> Result<String, Malformed> {
        self.nullable_string()?.ok_or(Malformed)
    }
    /// An array; null is an empty one. Each element takes at least a byte, which bounds the loop.
    pub fn array<T>(&mut self, mut element: impl FnMut(&mut Self) -> Result<T, Malformed>) -> Result<Vec<T>, Malformed> {
        let n = self.varint()?.saturating_sub(1);
        if n > self.0.len() {
            return Err(Malformed);
        }
        // Grows with what is really there.
        let mut out = Vec::new();
        for _ in 0..n {
            out.push(element(self)?);
        }
        Ok(out)
    }
    pub fn i32s(&mut self) -> Result<Vec<i32>, Malformed> {
        self.array(Self::i32)
    }
    /// Skips tagged fields.
    pub fn tags(&mut self) -> Result<(), Malformed> {
        for _ in 0..self.varint()? {
            self.varint()?;
            let n = self.varint()?;
            self.take(n)?;
        }
        Ok(())
    }
}

/// Writes fields.
#[derive(Default)]
pub struct Writer(BytesMut);

impl Writer {
    pub fn finish(self) -> Bytes {
        self.0.freeze()
    }
    pub fn i8(&mut self, n: i8) {
        self.0.put_i8(n);
    }
    pub fn bool(&mut self, b: bool) {
        self.0.put_u8(b.into());
    }
    pub fn i16(&mut self, n: i16) {
        self.0.put_i16(n);
    }
    pub fn i32(&mut self, n: i32) {
        self.0.put_i32(n);
    }
    pub fn i64(&mut self, n: i64) {
        self.0.put_i64(n);
    }
    pub fn raw(&mut self, bytes: &[u8]) {
        self.0.put_slice(bytes);
    }
    fn varint(&mut self, mut n: usize) {
        while n >= 0x80 {
            self.0.put_u8(n as u8 | 0x80);
            n >>= 7;
        }
        self.0.put_u8(n as u8);
    }
    pub fn string(&mut self, s: &str) {
        self.varint(s.len() + 1);
        self.0.put_slice(s.as_bytes());
    }
    pub fn nullable_string(&mut self, s: Option<&str>) {
        match s {
            Some(s) => self.string(s),
            None => self.varint(0),
        }
    }
    pub fn array<T>(&mut self, list: &[T], mut element: impl FnMut(&mut Self, &T)) {
        self.varint(list.len() + 1);
        list.iter().for_each(|e| element(self, e));
    }
    pub fn i32s(&mut self, list: &[i32]) {
        self.array(list, |w, n| w.i32(*n));
    }
    pub fn tags(&mut self) {
        self.0.put_u8(0);
    }
}
