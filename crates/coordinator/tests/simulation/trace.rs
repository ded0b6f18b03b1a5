//! What happened: a hash of everything, and lines for people when asked for.

/// The trace of one run.
pub struct Trace {
    print: bool,
    pub hash: u64,
}

impl Trace {
    pub fn new(print: bool) -> Self {
        Self { print, hash: 0xcbf2_9ce4_8422_2325 }
    }

    /// Adds a number to the hash.
    pub fn mix(&mut self, n: u64) {
        for byte in n.to_le_bytes() {
            self.hash = (self.hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    /// A line, made only if it is shown.
    pub fn line(&self, now: u64, text: impl FnOnce() -> String) {
        if self.print {
            println!("{now:>6} {}", text());
        }
    }
}
