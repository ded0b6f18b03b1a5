//! What the tests of all crates change valid bytes with, to see that no decoder panics, hangs, or takes memory by a length that
//! it was told.
//!
//! Purpose: a fixed number of iterations from a seed, so that a failure comes again. The same decoders are targets of libFuzzer, in `fuzz/`.
//! Invariant: a run of a seed mutates the same bytes in the same way, on every machine.

use std::{
    fmt::Write,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    time::{Duration, Instant},
};

pub use peak_alloc::PeakAlloc;

/// Longest time for one input, on a machine that is busy.
const LIMIT: Duration = Duration::from_secs(10);
/// Longest input.
const MAX_BYTES: usize = 1 << 20;
/// Bytes of an input that are shown when it fails.
const SHOWN: usize = 4096;
/// Numbers at which decoders break, where they do.
const NUMBERS: [i64; 14] =
    [0, 1, -1, -2, 2, 0x7f, 0x80, 0xff, i16::MAX as i64, i16::MIN as i64, i32::MAX as i64, i32::MIN as i64, i64::MAX, i64::MIN];

/// Random numbers from a seed (SplitMix64).
#[derive(Debug, Clone)]
pub struct Rng(u64);

impl Rng {
    /// From a seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next one.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// One below a number; 0 below 0.
    pub fn below(&mut self, n: usize) -> usize {
        (self.next_u64() % (n.max(1) as u64)) as usize
    }

    /// One of a list that is not empty.
    pub fn pick<'a, T>(&mut self, list: &'a [T]) -> &'a T {
        &list[self.below(list.len())]
    }
}

fn part(bytes: &[u8], rng: &mut Rng) -> std::ops::Range<usize> {
    let from = rng.below(bytes.len() + 1);
    let most = (bytes.len() - from).min(if rng.below(4) == 0 { usize::MAX } else { 16 });
    from..from + rng.below(most + 1)
}

/// A number in the place of what was there, in 1 to 8 bytes, or as a varint.
fn set_number(bytes: &mut Vec<u8>, rng: &mut Rng) {
    let at = rng.below(bytes.len());
    let n = if rng.below(3) == 0 { rng.next_u64() as i64 } else { rng.pick(&NUMBERS).wrapping_sub(i64::from(rng.below(3) == 0)) };
    let wide = n.to_be_bytes();
    let new: Vec<u8> = match rng.below(5) {
        0 => wide[7..].to_vec(),
        1 => wide[6..].to_vec(),
        2 => wide[4..].to_vec(),
        3 => wide.to_vec(),
        _ => {
            let (mut n, mut out) = (n as u64, Vec::new());
            while n >= 0x80 {
                out.push(n as u8 | 0x80);
                n >>= 7;
            }
            out.push(n as u8);
            out
        }
    };
    let end = (at + new.len()).min(bytes.len());
    bytes.splice(at..end, new);
}

/// One change of bytes. `others` are samples that it may take parts of.
fn change(bytes: &mut Vec<u8>, others: &[Vec<u8>], rng: &mut Rng) {
    if bytes.is_empty() {
        bytes.extend((0..rng.below(32)).map(|_| rng.next_u64() as u8));
        return;
    }
    match rng.below(9) {
        0 => {
            let at = rng.below(bytes.len());
            bytes[at] ^= 1 << rng.below(8);
        }
        1 => {
            let at = rng.below(bytes.len());
            bytes[at] = rng.next_u64() as u8;
        }
        2..=4 => set_number(bytes, rng),
        5 => {
            let n = rng.below(bytes.len());
            bytes.truncate(n);
        }
        6 => {
            let gone = part(bytes, rng);
            bytes.drain(gone);
        }
        7 => {
            let copy = bytes[part(bytes, rng)].to_vec();
            let at = rng.below(bytes.len() + 1);
            let times = 1 + rng.below(3);
            bytes.splice(at..at, copy.repeat(times));
        }
        _ => {
            let other = rng.pick(others);
            let copy = other[part(other, rng)].to_vec();
            let at = part(bytes, rng);
            bytes.splice(at, copy);
        }
    }
}

/// One of the samples, changed a few times.
pub fn mutate(samples: &[Vec<u8>], rng: &mut Rng) -> Vec<u8> {
    let mut bytes = rng.pick(samples).clone();
    for _ in 0..1 + rng.below(4) {
        change(&mut bytes, samples, rng);
    }
    bytes.truncate(MAX_BYTES);
    bytes
}

/// A decoder, and how it is tried.
pub struct Target<'a> {
    /// its name, for failures
    pub name: &'a str,
    /// valid inputs, at least one
    pub samples: Vec<Vec<u8>>,
    /// how many inputs are made of them
    pub iterations: u32,
    /// memory that it may take at once, in bytes, and 64 times its input beside
    pub memory: usize,
    /// the decoder; what it returns is dropped
    pub decode: &'a dyn Fn(&[u8]),
}

fn shown(bytes: &[u8]) -> String {
    let mut out = String::new();
    for b in bytes.iter().take(SHOWN) {
        let _ = write!(out, "{b:02x}");
    }
    out
}

/// Tries a decoder with its samples, then with what is made of them. `heap` is the allocator of the process, in which nothing else runs.
///
/// # Panics
/// If the decoder does, or takes longer or more memory than it may; the input is printed.
pub fn run(target: &Target<'_>, seed: u64, heap: &PeakAlloc) {
    let mut rng = Rng::new(seed ^ target.name.bytes().fold(0u64, |h, b| h.wrapping_mul(31) ^ u64::from(b)));
    let samples = target.samples.iter().cloned();
    let mutated = (0..target.iterations).map(|_| mutate(&target.samples, &mut rng));
    for input in samples.chain(mutated) {
        heap.reset_peak_usage();
        let (before, begun) = (heap.current_usage(), Instant::now());
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| (target.decode)(&input))) {
            eprintln!("{}: panics on {}", target.name, shown(&input));
            resume_unwind(panic);
        }
        let (took, taken) = (begun.elapsed(), heap.peak_usage().saturating_sub(before));
        let limit = target.memory + 64 * input.len();
        assert!(took < LIMIT, "{}: {took:?} for {}", target.name, shown(&input));
        assert!(taken <= limit, "{}: {taken} bytes for {} bytes: {}", target.name, input.len(), shown(&input));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_bytes_and_other_seeds_give_others() {
        let samples = vec![b"a sample of some length".to_vec(), vec![0; 40]];
        let some = |seed| {
            let mut rng = Rng::new(seed);
            (0..200).map(|_| mutate(&samples, &mut rng)).collect::<Vec<_>>()
        };
        assert_eq!(some(1), some(1));
        assert_ne!(some(1), some(2));
        let different: std::collections::BTreeSet<_> = some(1).into_iter().collect();
        assert!(different.len() > 190, "{}", different.len());
    }

    #[test]
    fn an_empty_sample_grows() {
        let mut rng = Rng::new(5);
        assert!((0..50).any(|_| !mutate(&[Vec::new()], &mut rng).is_empty()));
    }

    /// That the checks of a run can fail.
    #[test]
    fn a_panic_is_found() {
        static HEAP: PeakAlloc = PeakAlloc;
        let fails = |decode: &dyn Fn(&[u8])| {
            let target = Target { name: "t", samples: vec![vec![0; 100]], iterations: 200, memory: 1000, decode };
            catch_unwind(AssertUnwindSafe(|| run(&target, 7, &HEAP))).is_err()
        };
        assert!(!fails(&|_| {}));
        assert!(fails(&|b| assert!(b.iter().all(|x| *x < 0x80))));
    }
}
