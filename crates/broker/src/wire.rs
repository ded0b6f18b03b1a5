//! Checks a request's lengths before it is decoded.
//!
//! The message crate allocates by the lengths that it reads, before it sees whether the bytes are there; a number
//! of two thousand million in a frame of fifty bytes would end the process. So every array and string of a request
//! is walked first, by the layout of the request in a small notation, and must fit into the frame.
//!
//! Notation: `b` 1 byte, `h` 2, `i` 4, `l` 8 bytes, `u` 16 bytes (an id), `s` string or null, `y` bytes or null, `I` array of plain
//! 4-byte numbers, `S` array of plain strings, `[` … `]` array of structures, `<N` … `>` the structure in the tagged field N, `{N` … `}` the plain
//! value there. A field may be followed by `@min-max`, the versions that have it.
//!
//! The message crate reads a tagged field that it knows without a look at its length: one that is not as long as it says would have all
//! that follows read from another place than here.

/// Layout of a request.
#[derive(Debug, Clone, Copy)]
pub struct Layout {
    /// first version with compact lengths and tagged fields
    pub flexible: i16,
    /// the fields
    pub fields: &'static str,
}

#[derive(Debug)]
struct Field {
    kind: u8,
    /// of a tagged field
    tag: usize,
    min: i16,
    max: i16,
    inner: Vec<Field>,
}

fn parse(words: &mut std::str::SplitWhitespace<'_>) -> Vec<Field> {
    let mut out: Vec<Field> = Vec::new();
    while let Some(word) = words.next() {
        let (kind, range) = word.split_once('@').unwrap_or((word, ""));
        let (min, max) = match range.split_once('-') {
            Some((a, b)) => (a.parse().unwrap_or(0), b.parse().unwrap_or(i16::MAX)),
            None => (0, i16::MAX),
        };
        match kind.as_bytes() {
            b"]" | b">" | b"}" => break,
            [kind @ (b'[' | b'<' | b'{'), ..] => {
                let (kind, tag) = (*kind, word[1..].split('@').next().and_then(|n| n.parse().ok()).unwrap_or(0));
                let inner = parse(words);
                out.push(Field { kind, tag, min, max, inner });
            }
            [kind] => out.push(Field { kind: *kind, tag: 0, min, max, inner: Vec::new() }),
            _ => {}
        }
    }
    out
}

/// Elements of all arrays and tagged fields of one request, at the most. An element may be one byte on the wire and a hundred in
/// memory, so the length of the frame alone bounds nothing.
pub const MAX_ELEMENTS: usize = 50_000;
/// Memory of one element after decoding, with its part of the answer, in bytes.
pub const ELEMENT_BYTES: usize = 320;

struct Walk<'a> {
    rest: &'a [u8],
    version: i16,
    compact: bool,
    elements: usize,
}

impl Walk<'_> {
    fn skip(&mut self, n: usize) -> Option<()> {
        self.rest = self.rest.get(n..)?;
        Some(())
    }
    fn fixed<const N: usize>(&mut self) -> Option<[u8; N]> {
        let b = self.rest.get(..N)?.try_into().ok()?;
        self.skip(N)?;
        Some(b)
    }
    fn varint(&mut self) -> Option<usize> {
        let mut out = 0usize;
        for i in 0..5 {
            let [b] = self.fixed::<1>()?;
            out |= usize::from(b & 0x7f) << (7 * i);
            if b & 0x80 == 0 {
                return Some(out);
            }
        }
        None
    }
    /// A length; null counts as nothing.
    fn length(&mut self, short: bool) -> Option<usize> {
        if self.compact {
            return Some(self.varint()?.saturating_sub(1));
        }
        let n = if short { i16::from_be_bytes(self.fixed()?).into() } else { i32::from_be_bytes(self.fixed()?) };
        match n {
            -1 => Some(0),
            n => usize::try_from(n).ok(),
        }
    }
    /// Counts elements, each of which takes at least a byte: this bounds every loop by the frame.
    fn count(&mut self, n: usize) -> Option<()> {
        self.elements = self.elements.saturating_add(n);
        (n <= self.rest.len() && self.elements <= MAX_ELEMENTS).then_some(())
    }
    /// A structure with its tagged fields.
    fn fields(&mut self, fields: &[Field]) -> Option<()> {
        self.plain(fields)?;
        if !self.compact {
            return Some(());
        }
        let tags = self.varint()?;
        self.count(tags)?;
        for _ in 0..tags {
            let (tag, n) = (self.varint()?, self.varint()?);
            let behind = self.rest.len().checked_sub(n)?;
            let known = |f: &&Field| matches!(f.kind, b'<' | b'{') && f.tag == tag && (f.min..=f.max).contains(&self.version);
            match fields.iter().find(known) {
                Some(f) if f.kind == b'<' => self.fields(&f.inner)?,
                Some(f) => self.plain(&f.inner)?,
                None => self.skip(n)?,
            }
            if self.rest.len() != behind {
                return None;
            }
        }
        Some(())
    }
    /// Fields that are always there.
    fn plain(&mut self, fields: &[Field]) -> Option<()> {
        let version = self.version;
        for f in fields.iter().filter(|f| (f.min..=f.max).contains(&version)) {
            match f.kind {
                b'b' => self.skip(1)?,
                b'h' => self.skip(2)?,
                b'i' => self.skip(4)?,
                b'l' => self.skip(8)?,
                b'u' => self.skip(16)?,
                b's' => {
                    let n = self.length(true)?;
                    self.skip(n)?;
                }
                b'I' => {
                    let n = self.length(false)?;
                    self.count(n)?;
                    self.skip(n.checked_mul(4)?)?;
                }
                b'S' => {
                    let n = self.length(false)?;
                    self.count(n)?;
                    for _ in 0..n {
                        let n = self.length(true)?;
                        self.skip(n)?;
                    }
                }
                b'y' => {
                    let n = self.length(false)?;
                    self.skip(n)?;
                }
                b'<' | b'{' => {}
                _ => {
                    let n = self.length(false)?;
                    self.count(n)?;
                    for _ in 0..n {
                        self.fields(&f.inner)?;
                    }
                }
            }
        }
        Some(())
    }
}

/// The number of elements in a request's body, if every length in it fits.
pub fn weigh(layout: &Layout, version: i16, body: &[u8]) -> Option<usize> {
    let fields = parse(&mut layout.fields.split_whitespace());
    let mut walk = Walk { rest: body, version, compact: version >= layout.flexible, elements: 0 };
    walk.fields(&fields)?;
    Some(walk.elements)
}

/// Whether every length in a request's body fits into it.
pub fn fits(layout: &Layout, version: i16, body: &[u8]) -> bool {
    weigh(layout, version, body).is_some()
}

/// Whether the head of a request (key, version, correlation id, client id, tags) is whole.
pub fn header_fits(frame: &[u8], flexible: bool) -> bool {
    let Some(rest) = frame.get(8..) else {
        return false;
    };
    let mut walk = Walk { rest, version: 0, compact: false, elements: 0 };
    let client_id = walk.length(true).and_then(|n| walk.skip(n));
    walk.compact = flexible;
    client_id.is_some() && walk.fields(&[]).is_some()
}
