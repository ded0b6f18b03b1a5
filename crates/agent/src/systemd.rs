//! `systemd`: a unit's state, whether it starts at boot, and whether it runs what is on disk.

use std::{collections::HashMap, fs, os::unix::fs::MetadataExt, process::Command, time::SystemTime};

use nix::time::{ClockId, clock_gettime};
use septet_agent_protocol::{Action, Outcome, UnitState};

use crate::{atomic::FileError, command};

/// Seconds that a start, stop or restart may take unless the action says otherwise. More than a unit of ours is given to stop
/// (180) and to start (300), so that systemd, which knows why, gives up first.
const DEFAULT_TIMEOUT_S: u64 = 600;

fn systemctl(args: &[&str], timeout_s: u64) -> Result<command::Finished, FileError> {
    let mut c = Command::new("systemctl");
    c.args(args);
    command::run(c, None, timeout_s)
}

fn properties(unit: &str) -> Result<HashMap<String, String>, FileError> {
    let wanted = "LoadState,ActiveState,SubState,UnitFileState,NeedDaemonReload,ExecMainStartTimestampMonotonic,MainPID,CanReload";
    let out = systemctl(&["show", "-p", wanted, "--", unit], 20)?;
    if out.code != Some(0) {
        return Err(FileError::Refused(format!("systemctl show {unit}: {}", out.stderr.trim())));
    }
    Ok(out.stdout.lines().filter_map(|l| l.split_once('=')).map(|(k, v)| (k.to_owned(), v.to_owned())).collect())
}

/// Kernel clock ticks per second in `/proc`, on all Linux systems.
const TICKS_PER_S: u64 = 100;
/// Differences of the two clocks below this are their resolution, not sleep.
const LEAST_SLEEP_US: u64 = 1_000_000;

fn clock_us(id: ClockId) -> Result<u64, FileError> {
    let clock = clock_gettime(id).map_err(|e| FileError::Refused(format!("clock_gettime: {e}")))?;
    Ok(clock.tv_sec() as u64 * 1_000_000 + clock.tv_nsec() as u64 / 1000)
}

/// When a process was started, in microseconds since the boot, sleep of the machine included.
fn process_start_us(pid: &str) -> Option<u64> {
    let pid: u32 = pid.parse().ok().filter(|pid| *pid > 0)?;
    start_of_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

fn start_of_stat(stat: &str) -> Option<u64> {
    // The name stands in parentheses and may have any character.
    let ticks: u64 = stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()?;
    ticks.checked_mul(1_000_000 / TICKS_PER_S)
}

/// A moment by the clock that stands still while the machine sleeps, and by the one that does not, in microseconds.
#[derive(Debug, Clone, Copy)]
struct Moment {
    monotonic_us: u64,
    boot_us: u64,
}

/// Time since a start that systemd gives by the clock that stands still.
fn since_start_us(now: Moment, started_us: u64, started_boot_us: Option<u64>) -> u64 {
    let awake = now.monotonic_us.saturating_sub(started_us);
    let slept = started_boot_us.map_or(0, |boot| now.boot_us.saturating_sub(boot).saturating_sub(awake));
    if slept < LEAST_SLEEP_US { awake } else { awake + slept }
}

/// A file of `files` that changed after the unit's main process was started.
fn newer_than_start<'a>(files: &'a [String], unit: &HashMap<String, String>) -> Result<Option<&'a String>, FileError> {
    let property = |key: &str| unit.get(key).map_or("", String::as_str);
    let started_us = property("ExecMainStartTimestampMonotonic").parse().unwrap_or(0);
    let now = Moment { monotonic_us: clock_us(ClockId::CLOCK_MONOTONIC)?, boot_us: clock_us(ClockId::CLOCK_BOOTTIME)? };
    let since_us = since_start_us(now, started_us, process_start_us(property("MainPID")));
    let wall = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_micros() as i64);
    // The start as wall-clock time: a step of the clock in between can cost a restart, never lose one for long.
    let started_wall_us = wall - since_us as i64;
    Ok(files.iter().find(|f| fs::metadata(f).is_ok_and(|m| m.ctime() * 1_000_000 + m.ctime_nsec() / 1000 > started_wall_us)))
}

/// Brings a unit to the state asked for.
pub fn systemd(action: &Action, check: bool) -> Result<Outcome, FileError> {
    let Action::Systemd { name, state, enabled, daemon_reload, restart_if_newer, timeout_s } = action else {
        return Err(FileError::Refused("not a systemd action".into()));
    };
    let timeout_s = timeout_s.unwrap_or(DEFAULT_TIMEOUT_S);
    if name.is_empty() {
        if *daemon_reload && !check {
            expect(systemctl(&["daemon-reload"], timeout_s)?, "systemctl daemon-reload", None)?;
        }
        return Ok(Outcome::ok());
    }
    if name.starts_with('-') || name.contains(char::is_whitespace) {
        return Err(FileError::Refused(format!("{name:?} is not a unit's name")));
    }
    let mut now = properties(name)?;
    let get = |now: &HashMap<String, String>, key: &str| now.get(key).cloned().unwrap_or_default();
    let unknown = |now: &HashMap<String, String>| get(now, "LoadState") == "not-found";
    if *daemon_reload && !check && (get(&now, "NeedDaemonReload") == "yes" || unknown(&now)) {
        expect(systemctl(&["daemon-reload"], timeout_s)?, "systemctl daemon-reload", None)?;
        now = properties(name)?;
    }
    if unknown(&now) && !check {
        return Err(FileError::Refused(format!("there is no unit {name} on this host")));
    }

    let mut changes = Vec::new();
    if let Some(want) = enabled {
        let file_state = get(&now, "UnitFileState");
        let is = matches!(file_state.as_str(), "enabled" | "enabled-runtime" | "static" | "alias" | "generated" | "indirect");
        if is != *want {
            let verb = if *want { "enable" } else { "disable" };
            changes.push(format!("{verb}d"));
            if !check {
                expect(systemctl(&[verb, "--", name], timeout_s)?, &format!("systemctl {verb} {name}"), None)?;
            }
        }
    }
    let active_state = get(&now, "ActiveState");
    let active = matches!(active_state.as_str(), "active" | "reloading");
    let verb = match state {
        None => None,
        // One that is still starting has read its files already.
        Some(UnitState::Started) if active || active_state == "activating" => match newer_than_start(restart_if_newer, &now)? {
            Some(file) => {
                changes.push(format!("{file} is newer than the running process"));
                Some("restart")
            }
            None => (!active).then_some("start"),
        },
        Some(UnitState::Started) => Some("start"),
        Some(UnitState::Stopped) => (active || active_state == "activating").then_some("stop"),
        Some(UnitState::Restarted) => Some("restart"),
        Some(UnitState::Reloaded) => Some("reload-or-restart"),
    };
    if let Some(verb) = verb {
        changes.push(format!("{active_state} → {verb}"));
        if !check {
            if active_state == "failed" {
                systemctl(&["reset-failed", "--", name], timeout_s)?;
            }
            let began_s = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_secs());
            expect(systemctl(&[verb, "--", name], timeout_s)?, &format!("systemctl {verb} {name}"), Some((name, began_s)))?;
            now = properties(name)?;
        }
    }
    let text = changes.iter().map(|c| format!("{name}: {c}\n")).collect::<String>();
    Ok(Outcome::changed_if(!changes.is_empty())
        .with_diff(Some(text))
        .with("active_state", get(&now, "ActiveState"))
        .with("was_active", active)
        .with("enabled", get(&now, "UnitFileState")))
}

/// Turns a failed call into an error that holds the unit's own last words.
fn expect(out: command::Finished, what: &str, unit: Option<(&str, u64)>) -> Result<(), FileError> {
    if out.code == Some(0) {
        return Ok(());
    }
    let mut text = match out.code {
        Some(code) => format!("{what} ended with {code}: {}", out.stderr.trim()),
        None => format!("{what} did not end in time"),
    };
    if let Some((unit, began_s)) = unit {
        // The program's own lines; systemd's on it, which follow, tell no cause. A program that could not be begun has none.
        let (own, since) = (format!("_SYSTEMD_UNIT={unit}"), format!("--since=@{began_s}"));
        let lines = |of: &[&str]| {
            let mut c = Command::new("journalctl");
            c.args(of).args(["-n", "15", "--no-pager", "-q", "-o", "cat"]);
            command::run(c, None, 10).ok().map(|words| words.stdout.trim_end().to_owned()).filter(|words| !words.is_empty())
        };
        if let Some(words) = lines(&[&own, &since]).or_else(|| lines(&["-u", unit])) {
            text += &format!("\nlast words of {unit}:\n{words}");
        }
    }
    Err(FileError::Refused(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_since_a_start_includes_sleep() {
        const S: u64 = 1_000_000;
        let now = |slept: u64| Moment { monotonic_us: 1000 * S, boot_us: (1000 + slept) * S };
        assert_eq!(since_start_us(now(0), 400 * S, Some(400 * S)), 600 * S);
        // Ticks are coarser than the other clock.
        assert_eq!(since_start_us(now(0), 400 * S, Some(400 * S - 9_000)), 600 * S);
        assert_eq!(since_start_us(now(3600), 400 * S, Some(400 * S)), 4200 * S);
        // Sleep before the start does not count.
        assert_eq!(since_start_us(now(3600), 400 * S, Some(4000 * S)), 600 * S);
        assert_eq!(since_start_us(now(3600), 400 * S, None), 600 * S);
        assert_eq!(since_start_us(now(0), 2000 * S, Some(3000 * S)), 0);
    }

    #[test]
    fn the_start_of_a_process() -> Result<(), FileError> {
        assert_eq!(start_of_stat("7 (a ) b) S 1 7 7 0 -1 4 0 0 0 0 0 0 0 0 20 0 1 0 123 0"), Some(1_230_000));
        assert_eq!(start_of_stat("7 (a"), None);
        let ours = process_start_us(&std::process::id().to_string()).unwrap_or(0);
        let now = clock_us(ClockId::CLOCK_BOOTTIME)?;
        assert!(ours > 0 && ours <= now + 20_000, "{ours} {now}");
        assert_eq!(process_start_us("0"), None);
        Ok(())
    }
}
