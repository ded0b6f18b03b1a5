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

impl Process {
    /// This one.
    pub fn own() -> Self {
        let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
        Self { boot: boot(), pid: i64::from(std::process::id()), began: began(&stat).unwrap_or(0) }
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
}
