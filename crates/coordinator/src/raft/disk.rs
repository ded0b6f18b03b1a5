//! How slow this server's disk is, as elections see it: writes that are asked for and reported.

/// The longest that counts, in ticks. What took longer was a disk that stood still once, not one by which elections can go.
const MOST: u64 = 50;
/// The longest of which is remembered how long the last one took, in ticks. Elections go by that too, but a disk that stood still for a
/// minute is not to keep servers from standing for minutes after it.
const REMEMBERED: u64 = 300;
/// Parts of a tick.
pub(super) const WHOLE: u64 = 1024;
/// Ticks in which what was measured comes to count half as much.
const HALF: u64 = 100;

/// How long the disk took lately, in ticks: elections go by it.
#[derive(Debug, Default)]
pub(super) struct Disk {
    /// the first write that is not durable, and when it was asked for
    since: Option<(u64, u64)>,
    /// when it was asked whether the disk can be written to
    pub(super) probed: Option<u64>,
    /// the longest of late, and when that was
    slow: u64,
    at: u64,
    /// the last one
    last: u64,
}

impl Disk {
    /// How long a write takes.
    pub(super) fn slow(&self, now: u64) -> u64 {
        self.parts(now).div_ceil(WHOLE)
    }

    /// The same in parts of a tick. It shrinks evenly: servers whose disks stood still together are not to stand together.
    pub(super) fn parts(&self, now: u64) -> u64 {
        let past = now - self.at;
        let halved = (self.slow * WHOLE).checked_shr(u32::try_from(past / HALF).unwrap_or(u32::MAX)).unwrap_or(0);
        halved - halved / 2 * (past % HALF) / HALF
    }

    /// How long the last write took, or the one that is under way has taken so far.
    pub(super) fn latest(&self, now: u64) -> u64 {
        let under_way = self.since.map(|(_, at)| at).into_iter().chain(self.probed).map(|at| now - at);
        under_way.fold(self.last.min(REMEMBERED), u64::max)
    }

    /// A write or a probe took so long.
    pub(super) fn took(&mut self, ticks: u64, now: u64) {
        self.last = ticks;
        let ticks = ticks.min(MOST);
        if ticks * WHOLE >= self.parts(now) {
            (self.slow, self.at) = (ticks, now);
        }
    }

    pub(super) fn wrote(&mut self, number: u64, now: u64) {
        self.since.get_or_insert((number, now));
    }

    pub(super) fn persisted(&mut self, upto: u64, now: u64) {
        if let Some((_, at)) = self.since.take_if(|(number, _)| *number <= upto) {
            self.took(now - at, now);
        }
    }
}
