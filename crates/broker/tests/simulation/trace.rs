//! What happened, as numbers: a hash over all of it, and the end of it for a failure.

use std::collections::VecDeque;

const TAIL: usize = 60;

/// One step: time, what, numbers that belong to it.
type Entry = (i64, &'static str, [i64; 5]);

/// The trace of a run.
pub struct Trace {
    /// FNV-1a over all entries.
    pub hash: u64,
    /// Number of entries.
    pub steps: u64,
    tail: VecDeque<Entry>,
    print: bool,
}

impl Trace {
    /// An empty one; `print` writes each entry to stderr.
    pub fn new(print: bool) -> Self {
        Self { hash: 0xcbf2_9ce4_8422_2325, steps: 0, tail: VecDeque::with_capacity(TAIL), print }
    }

    /// Adds an entry.
    pub fn add(&mut self, now: i64, what: &'static str, args: [i64; 5]) {
        self.steps += 1;
        for word in args.iter().chain([&now, &(what.len() as i64), &i64::from(what.as_bytes()[0])]) {
            self.hash = (self.hash ^ *word as u64).wrapping_mul(0x0100_0000_01b3);
            self.hash ^= self.hash >> 29;
        }
        if self.print {
            eprintln!("{}", show(&(now, what, args)));
        }
        if self.tail.len() == TAIL {
            self.tail.pop_front();
        }
        self.tail.push_back((now, what, args));
    }

    /// The last entries, one a line.
    pub fn tail(&self) -> String {
        self.tail.iter().map(show).collect::<Vec<_>>().join("\n")
    }
}

fn show((now, what, args): &Entry) -> String {
    format!("{now:>6} ms  {what:<22} {args:?}")
}
