//! Whether the process of an execution is still there.

use std::fs;

/// A process, told apart from later ones of the same number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// this machine's boot
    pub boot: String,
    /// its number
    pub pid: i64,
    /// when it began, in the kernel's ticks since that boot
    pub began: i64,
}

fn boot() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

/// When a process began, by its line in `/proc/PID/stat`; a name with blanks and parentheses is skipped.
fn began(stat: &str) -> Option<i64> {
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

/// The kernel's ticks per second in `/proc`, on all Linux systems.
const TICKS_PER_S: f64 = 100.0;

impl Process {
    /// This one.
    pub fn own() -> Self {
        let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
        Self { boot: boot(), pid: i64::from(std::process::id()), began: began(&stat).unwrap_or(0) }
    }

    /// How long ago it was started, in seconds, by a clock that nobody sets and that goes on while the machine sleeps; `None` if the
    /// machine was booted since.
    pub fn age_s(&self) -> Option<f64> {
        let uptime = fs::read_to_string("/proc/uptime").ok()?;
        self.age_at_s(&boot(), uptime.split_whitespace().next()?.parse().ok()?)
    }

    /// The same in a boot of a machine that has run for so many seconds.
    pub fn age_at_s(&self, boot: &str, uptime_s: f64) -> Option<f64> {
        (self.boot == boot).then(|| (uptime_s - self.began as f64 / TICKS_PER_S).max(0.0))
    }

    /// Whether it is there.
    pub fn is_alive(&self) -> bool {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid)).unwrap_or_default();
        self.boot == boot() && began(&stat) == Some(self.began)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_told_apart_from_a_later_one() {
        let own = Process::own();
        assert!(own.is_alive());
        assert!(!Process { began: own.began - 1, ..own.clone() }.is_alive());
        assert!(!Process { boot: "another".into(), ..own }.is_alive());
        let line = "7 (a b) c) S 1 7 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4711 1 1";
        assert_eq!(began(line), Some(4711));
        assert_eq!(began("7 (a"), None);
    }

    #[test]
    fn how_long_ago_a_process_was_started() {
        let process = Process { boot: "b".into(), pid: 1, began: 10_050 };
        assert_eq!(process.age_at_s("b", 160.5), Some(60.0));
        assert_eq!(process.age_at_s("c", 160.5), None);
        let own = Process::own();
        assert!(own.age_s().is_some_and(|s| s < 24.0 * 3600.0), "{:?}", own.age_s());
        assert!(Process { began: own.began - 500, ..own.clone() }.age_s() >= own.age_s().map(|s| s + 4.9));
        assert_eq!(Process { boot: "another".into(), ..own }.age_s(), None);
    }
}
