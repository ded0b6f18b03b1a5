//! What the system knows of this process, from /proc when it is asked.

use std::time::{SystemTime, UNIX_EPOCH};

use super::Registry;

/// Ticks of a second in /proc/self/stat: 100 on every Linux that there is (USER_HZ).
const TICKS: f64 = 100.0;

/// A size in /proc/self/status, in bytes.
fn status(key: &str) -> Option<f64> {
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find_map(|l| l.strip_prefix(key)?.strip_prefix(':'))?;
    Some(line.trim().strip_suffix(" kB")?.trim().parse::<f64>().ok()? * 1024.0)
}

/// User and system time, in seconds.
fn cpu_seconds() -> Option<f64> {
    let text = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The name, in parentheses, may have spaces.
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = |i: usize| fields.get(i)?.parse::<f64>().ok();
    Some((ticks(11)? + ticks(12)?) / TICKS)
}

fn open_descriptors() -> Option<f64> {
    // One of them is that of the directory being read.
    Some(std::fs::read_dir("/proc/self/fd").ok()?.count().saturating_sub(1) as f64)
}

/// Enters them into a registry.
pub fn register(registry: &Registry, program: &str, version: &str) {
    let started = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64());
    registry.gauge("process_start_time_seconds", "Start of the process, in seconds since 1970", &[]).set(started);
    registry.gauge("septet_build_info", "Program and version; always 1", &[("program", program), ("version", version)]).set(1.0);
    registry.ask_gauge("process_resident_memory_bytes", "Memory in use that is resident", &[], || status("VmRSS"));
    registry.ask_gauge("process_virtual_memory_bytes", "Address space in use", &[], || status("VmSize"));
    registry.ask_gauge("process_open_fds", "Open file descriptors", &[], open_descriptors);
    registry.ask_counter("process_cpu_seconds_total", "User and system time spent", &[], cpu_seconds);
}
