//! How the process's descriptors are divided: a part for segment files, a part for connections, and a reserve.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Kept free for listeners, the coordinator's connection, checkpoints, directories.
const RESERVE: usize = 64;
/// Most segment files that are open at once.
const MAX_FILES: usize = 10_000;
const MIN_FILES: usize = 16;

/// The parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Descriptors {
    /// segment files that may be open at once
    pub files: usize,
    /// connections
    pub connections: usize,
}

impl Descriptors {
    /// Divides a number of descriptors.
    pub fn divide(all: usize) -> Self {
        let usable = all.saturating_sub(RESERVE);
        let files = (usable / 2).clamp(MIN_FILES, MAX_FILES);
        Self { files, connections: usable.saturating_sub(files).max(1) }
    }

    /// Raises the limit of open files as far as it may be raised, and divides it.
    pub fn of_process() -> Self {
        let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
        let raised = current != maximum && setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).is_ok();
        let all = if raised { maximum } else { current };
        Self::divide(all.map_or(usize::MAX, |n| usize::try_from(n).unwrap_or(usize::MAX)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_always_have_a_part() {
        // (all, files, connections)
        let cases = [
            (0, 16, 1),
            (64, 16, 1),
            (100, 18, 18),
            (256, 96, 96),
            (1024, 480, 480),
            (100_000, 10_000, 89_936),
            (usize::MAX, 10_000, usize::MAX - 10_064),
        ];
        for (all, files, connections) in cases {
            assert_eq!(Descriptors::divide(all), Descriptors { files, connections }, "{all}");
        }
    }
}
