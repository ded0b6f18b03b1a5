//! One host: its unit, the room on its disks, its limits and its clock. Parsing and judging are pure.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use std::sync::Arc;

use super::ask_host;
use crate::{
    inventory::HostId,
    ssh::{Fleet, SshError},
};

/// Less free space than this is a problem whatever the disk's size, in bytes.
pub const MIN_FREE_BYTES: u64 = 100_000_000;
/// So is less than this share of a disk, in percent, as long as it is less than [`PLENTY_BYTES`].
pub const MIN_FREE_PERCENT: u64 = 5;
/// Free space that is enough whatever its share, in bytes.
pub const PLENTY_BYTES: u64 = 10_000_000_000;
/// The same for inodes: too few, and enough.
const MIN_FREE_INODES: u64 = 1000;
const PLENTY_INODES: u64 = 100_000;
/// Share of a limit that counts as nearly reached, in percent.
pub const NEAR_PERCENT: u64 = 90;
/// Restarts by systemd that make a loop, as long as the last one is not over.
const LOOP_RESTARTS: u64 = 3;
/// How long a unit must run until its restarts are over, in seconds.
const STABLE_S: f64 = 60.0;
/// Difference between a host's clock and the others' that is a problem, in seconds, beside what the measurement leaves open.
pub const MAX_CLOCK_S: f64 = 1.0;

/// Prints what is known of a unit `$1` and of the disks of a directory `$2`; either may be empty.
const SCRIPT: &str = r#"date +'clock %s.%N'
pid=0
if [ -n "$1" ]; then
  shown=$(systemctl show -p ActiveState,SubState,UnitFileState,NRestarts,Result,MainPID,TasksCurrent,TasksMax,ExecMainStartTimestampMonotonic -- "$1")
  echo "$shown"
  pid=$(echo "$shown" | sed -n 's/^MainPID=//p')
fi
echo "uptime $(cut -d ' ' -f 1 /proc/uptime)"
disk() {
  space=$(df -Pk -- "$1" 2>/dev/null | tail -n 1 | tr -s ' ' | cut -d ' ' -f 2,4)
  inodes=$(df -Pi -- "$1" 2>/dev/null | tail -n 1 | tr -s ' ' | cut -d ' ' -f 2,4)
  echo "disk $space $inodes $1"
}
disk /
if [ -n "$2" ] && [ -d "$2" ]; then
  disk "$2"
  cut -d ' ' -f 2 /proc/mounts | grep -F -- "$2/" | grep -v "^/proc\|^/sys" | head -n 20 | while read -r below; do disk "$below"; done
fi
if [ "${pid:-0}" -gt 0 ] 2>/dev/null && [ -d "/proc/$pid" ]; then
  echo "files $(ls "/proc/$pid/fd" | wc -l) $(sed -n 's/^Max open files *\([^ ]*\).*/\1/p' "/proc/$pid/limits")"
  echo "maps $(wc -l < "/proc/$pid/maps") $(cat /proc/sys/vm/max_map_count)"
fi
echo end"#;

/// A file system.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Disk {
    path: String,
    total_bytes: u64,
    free_bytes: u64,
    inodes: u64,
    free_inodes: u64,
}

/// What a host reports.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Seen {
    unit: BTreeMap<String, String>,
    disks: Vec<Disk>,
    /// used and limit, by what is limited
    limits: Vec<(&'static str, u64, u64)>,
    uptime_s: f64,
    /// the host's clock minus this machine's, and how far that may be off, in seconds
    pub clock: Option<(f64, f64)>,
}

/// Asks a host. `unit` and `dir` are empty where it has none.
pub async fn ask(fleet: &Arc<Fleet>, id: HostId, unit: &str, dir: &str) -> Result<Seen, SshError> {
    // The agent is started first: only the question itself is timed.
    fleet.agent(id, Some("root")).await?;
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs_f64();
    let before = now();
    let text = ask_host(fleet, id, Some("root"), &["sh", "-c", SCRIPT, "sh", unit, dir]).await?;
    let after = now();
    let mut seen = parse(&text).ok_or_else(|| SshError::Agent("the report on the host is incomplete".into()))?;
    seen.clock = seen.clock.map(|(clock, _)| (clock - (before + after) / 2.0, (after - before) / 2.0));
    Ok(seen)
}

/// From what the script prints; `None` if that is not all of it.
fn parse(text: &str) -> Option<Seen> {
    let mut seen = Seen::default();
    let mut whole = false;
    for line in text.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let number = |i: usize| words.get(i).and_then(|w| w.parse::<u64>().ok());
        match words.first().copied().unwrap_or_default() {
            "end" => whole = true,
            "clock" => seen.clock = words.get(1).and_then(|w| w.parse().ok()).map(|c| (c, 0.0)),
            "uptime" => seen.uptime_s = words.get(1).and_then(|w| w.parse().ok()).unwrap_or(0.0),
            "disk" => {
                // What has no numbers, or no inodes of its own, cannot be judged.
                let (Some(total), Some(free)) = (number(1), number(2)) else { continue };
                seen.disks.push(Disk {
                    path: words.get(5..).unwrap_or_default().join(" "),
                    total_bytes: total.saturating_mul(1024),
                    free_bytes: free.saturating_mul(1024),
                    inodes: number(3).unwrap_or(0),
                    free_inodes: number(4).unwrap_or(0),
                });
            }
            "files" => seen.limits.extend(number(1).zip(number(2)).map(|(used, max)| ("open files", used, max))),
            "maps" => seen.limits.extend(number(1).zip(number(2)).map(|(used, max)| ("memory maps", used, max))),
            _ => {
                if let Some((key, value)) = line.split_once('=') {
                    seen.unit.insert(key.to_owned(), value.to_owned());
                }
            }
        }
    }
    let tasks = |k: &str| seen.unit.get(k).and_then(|v| v.parse::<u64>().ok());
    seen.limits.extend(tasks("TasksCurrent").zip(tasks("TasksMax")).map(|(used, max)| ("tasks", used, max)));
    whole.then_some(seen)
}

/// Bytes for a person.
fn bytes(n: u64) -> String {
    match n {
        n if n >= 1_000_000_000 => format!("{:.1} GB", n as f64 / 1e9),
        n => format!("{:.1} MB", n as f64 / 1e6),
    }
}

/// What is wrong with a host; `unit` is empty where it has none.
pub fn problems(unit: &str, seen: &Seen) -> Vec<String> {
    let mut out = Vec::new();
    if !unit.is_empty() {
        let get = |k: &str| seen.unit.get(k).map(String::as_str).unwrap_or_default();
        if get("ActiveState") != "active" {
            out.push(format!("{unit} is {} ({}, result {})", get("ActiveState"), get("SubState"), get("Result")));
        }
        if get("UnitFileState") != "enabled" {
            out.push(format!("{unit} is not enabled: it would not start at boot"));
        }
        let restarts: u64 = get("NRestarts").parse().unwrap_or(0);
        let started_s = get("ExecMainStartTimestampMonotonic").parse::<u64>().unwrap_or(0) as f64 / 1e6;
        let runs_s = (seen.uptime_s - started_s).max(0.0);
        if restarts >= LOOP_RESTARTS && runs_s < STABLE_S {
            out.push(format!("{unit} restarts in a loop: {restarts} restarts, the last one {runs_s:.0} s ago"));
        }
    }
    for disk in &seen.disks {
        let (free, total) = (disk.free_bytes, disk.total_bytes);
        let share = |free: u64, total: u64| free.saturating_mul(100) / total.max(1);
        if total > 0 && (free < MIN_FREE_BYTES || (free < PLENTY_BYTES && share(free, total) < MIN_FREE_PERCENT)) {
            let percent = share(free, total);
            out.push(format!("{} is nearly full: {} of {} free ({percent} %)", disk.path, bytes(free), bytes(total)));
        }
        let (free, total) = (disk.free_inodes, disk.inodes);
        if total > 0 && (free < MIN_FREE_INODES || (free < PLENTY_INODES && share(free, total) < MIN_FREE_PERCENT)) {
            out.push(format!("{} is nearly out of inodes: {free} of {total} free", disk.path));
        }
    }
    for (what, used, max) in &seen.limits {
        if *max > 0 && used.saturating_mul(100) >= max.saturating_mul(NEAR_PERCENT) {
            out.push(format!("{unit} uses {used} of {max} {what}"));
        }
    }
    out
}

/// Hosts whose clocks differ from the others', with how far.
pub fn clocks(offsets: &BTreeMap<HostId, (f64, f64)>) -> Vec<(HostId, String)> {
    let mut sorted: Vec<(f64, f64)> = offsets.values().copied().collect();
    sorted.sort_by(|a, b| a.0.total_cmp(&b.0));
    let Some((median, open)) = sorted.get(sorted.len() / 2).copied() else { return Vec::new() };
    let off = offsets.iter().filter(|(_, (offset, own))| (offset - median).abs() > MAX_CLOCK_S + own + open);
    off.map(|(id, (offset, _))| {
        let difference = offset - median;
        let direction = if difference > 0.0 { "ahead of" } else { "behind" };
        (*id, format!("its clock is {:.1} s {direction} the other hosts'", difference.abs()))
    })
    .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::inventory::Group;

    const WELL: &str = "clock 1700000000.5\nActiveState=active\nSubState=running\nUnitFileState=enabled\nNRestarts=0\nResult=success\nMainPID=77\nTasksCurrent=20\nTasksMax=1000\nExecMainStartTimestampMonotonic=100000000\nuptime 1000.5\ndisk 100000000 50000000 1000000 900000 /\ndisk 100000000 50000000 1000000 900000 /data/kafka-logs\nfiles 100 100000\nmaps 300 65530\nend\n";

    fn reported(from: &str, to: &str) -> Vec<String> {
        assert!(WELL.contains(from), "{from}");
        problems("kafka-server.service", &parse(&WELL.replace(from, to)).unwrap())
    }

    #[test]
    fn a_host_that_is_well() {
        assert_eq!(reported("end", "end"), [""; 0]);
        assert_eq!(parse(WELL).unwrap().clock, Some((1_700_000_000.5, 0.0)));
        assert_eq!(parse(&WELL.replace("end\n", "")), None);
        // Without numbers there is nothing to judge.
        assert_eq!(reported("disk 100000000 50000000 1000000 900000 /data", "disk   /data"), [""; 0]);
        assert_eq!(reported("1000000 900000 /data", "0 0 /data"), [""; 0]);
    }

    #[test]
    fn full_disks_are_named() {
        let data = "disk 100000000 50000000 1000000 900000 /data";
        assert_eq!(reported(data, "disk 3072 0 1000000 900000 /data"), ["/data/kafka-logs is nearly full: 0.0 MB of 3.1 MB free (0 %)"]);
        assert_eq!(reported(data, "disk 100000000 4000000 1000000 900000 /data").len(), 1);
        // 4 % of a large disk is plenty.
        assert_eq!(reported(data, "disk 1000000000 40000000 1000000 900000 /data"), [""; 0]);
        let inodes = reported(data, "disk 100000000 50000000 1000000 40000 /data");
        assert_eq!(inodes, ["/data/kafka-logs is nearly out of inodes: 40000 of 1000000 free"]);
    }

    #[test]
    fn units_that_restart_in_a_loop() {
        let restarted = |n: u64, at_s: u64| {
            reported("NRestarts=0\n", &format!("NRestarts={n}\n")).len()
                + problems(
                    "u",
                    &parse(&WELL.replace("NRestarts=0", &format!("NRestarts={n}")).replace("=100000000", &format!("={at_s}000000")))
                        .unwrap(),
                )
                .len()
        };
        assert_eq!((restarted(26, 999), restarted(26, 900), restarted(2, 999)), (1, 0, 0));
        let text = WELL.replace("NRestarts=0", "NRestarts=26").replace("=100000000", "=990000000");
        assert_eq!(
            problems("kafka-server.service", &parse(&text).unwrap()),
            ["kafka-server.service restarts in a loop: 26 restarts, the last one 10 s ago"]
        );
    }

    #[test]
    fn limits_that_are_nearly_reached() {
        assert_eq!(reported("files 100 100000", "files 90000 100000"), ["kafka-server.service uses 90000 of 100000 open files"]);
        assert_eq!(reported("maps 300 65530", "maps 65000 65530"), ["kafka-server.service uses 65000 of 65530 memory maps"]);
        assert_eq!(reported("TasksCurrent=20", "TasksCurrent=950"), ["kafka-server.service uses 950 of 1000 tasks"]);
        assert_eq!(reported("TasksMax=1000", "TasksMax=infinity"), [""; 0]);
    }

    /// The script on this machine, with `systemctl` and `date` of the test's own before those of the system.
    fn on_this_machine(dir: &std::path::Path, main_pid: u32, seconds_ahead: i64) -> Seen {
        use std::os::unix::fs::PermissionsExt;
        let put = |name: &str, text: String| {
            let path = dir.join(name);
            std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        };
        put("systemctl", format!("echo ActiveState=active; echo UnitFileState=enabled; echo NRestarts=0; echo MainPID={main_pid}"));
        put("date", format!("exec /bin/date -d '{seconds_ahead} seconds' \"$@\""));
        let path = format!("{}:/usr/bin:/bin", dir.display());
        let now = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
        let before = now();
        let out = std::process::Command::new("/bin/sh").args(["-c", SCRIPT, "sh", "u.service", "/tmp"]).env("PATH", path).output().unwrap();
        let mut seen = parse(&String::from_utf8(out.stdout).unwrap()).unwrap();
        seen.clock = seen.clock.map(|(clock, _)| (clock - (before + now()) / 2.0, (now() - before) / 2.0));
        seen
    }

    #[test]
    fn a_real_process_near_its_limit_and_a_clock_that_is_ahead() {
        let dir = tempfile::tempdir().unwrap();
        // Nine of ten descriptors: three, and those that the shell opens.
        let script = "ulimit -n 10; exec 3</dev/null 4</dev/null 5</dev/null 6</dev/null 7</dev/null 8</dev/null; echo begun; read -r _";
        let mut child = std::process::Command::new("/bin/sh")
            .args(["-c", script])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut begun = [0; 6];
        std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut begun).unwrap();
        let seen = on_this_machine(dir.path(), child.id(), 7);
        drop(child.stdin.take());
        child.wait().unwrap();
        let found = problems("u.service", &seen);
        assert!(found.iter().any(|p| p.starts_with("u.service uses ") && p.ends_with(" of 10 open files")), "{found:?}");
        assert!(seen.disks.iter().any(|d| d.path == "/" && d.total_bytes > 0), "{seen:?}");

        let id = |index| HostId { group: Group::BROKERS, index };
        let right = on_this_machine(dir.path(), 0, 0).clock.unwrap();
        let off = clocks(&BTreeMap::from([(id(1), right), (id(2), right), (id(3), seen.clock.unwrap())]));
        assert_eq!(off.len(), 1, "{off:?} {seen:?}");
        assert!(off[0].0 == id(3) && off[0].1.ends_with("s ahead of the other hosts'"), "{off:?}");
    }

    #[test]
    fn clocks_are_compared_with_one_another() {
        let offsets = |of: &[(f64, f64)]| -> BTreeMap<HostId, (f64, f64)> {
            of.iter().enumerate().map(|(i, o)| (HostId { group: Group::BROKERS, index: i as u16 + 1 }, *o)).collect()
        };
        // All of them differ from this machine, which does not matter.
        assert_eq!(clocks(&offsets(&[(50.0, 0.01), (50.2, 0.01), (50.9, 0.01)])), []);
        let off = clocks(&offsets(&[(0.0, 0.01), (0.1, 0.01), (-7.0, 0.01), (0.0, 0.01)]));
        assert_eq!(off, [(HostId { group: Group::BROKERS, index: 3 }, "its clock is 7.0 s behind the other hosts'".to_owned())]);
        // A slow answer leaves more open.
        assert_eq!(clocks(&offsets(&[(0.0, 0.1), (0.0, 0.1), (3.0, 4.0)])), []);
    }
}
