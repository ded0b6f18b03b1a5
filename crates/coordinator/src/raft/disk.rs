//! How slow this server's disk is, as elections see it: writes that are asked for and reported.

/// How long the disk took lately, in ticks: elections go by it.
#[derive(Debug, Default)]
pub(super) struct Disk {
    /// the first write that is not durable, and when it was asked for
    since: Option<(u64, u64)>,
    /// when it was asked whether the disk can be written to
    pub(super) probed: Option<u64>,
    /// the longest of late
    pub(super) slow: u64,
}

impl Disk {
    /// A write or a probe took so long. What was long ago counts less and less.
    pub(super) fn took(&mut self, ticks: u64) {
        self.slow = ticks.max(self.slow - self.slow.div_ceil(8));
    }

    pub(super) fn wrote(&mut self, number: u64, now: u64) {
        self.since.get_or_insert((number, now));
    }

    pub(super) fn persisted(&mut self, upto: u64, now: u64) {
        if let Some((_, at)) = self.since.take_if(|(number, _)| *number <= upto) {
            self.took(now - at);
        }
    }
}
