//! What the host is, under the names of Ansible's facts (without their `ansible_` prefix).

use std::{collections::HashMap, fs, path::Path, process::Command};

use septet_agent_protocol::Outcome;
use serde_json::{Value, json};

use crate::atomic::FileError;

fn os_release() -> HashMap<String, String> {
    let text = fs::read_to_string("/etc/os-release").unwrap_or_default();
    text.lines().filter_map(|l| l.split_once('=')).map(|(k, v)| (k.to_owned(), v.trim_matches('"').to_owned())).collect()
}

fn addresses() -> (Vec<String>, Option<String>) {
    let mut all: Vec<(String, String)> = Vec::new();
    if let Ok(list) = nix::ifaddrs::getifaddrs() {
        for i in list {
            if let Some(v4) = i.address.as_ref().and_then(|a| a.as_sockaddr_in()) {
                let ip = v4.ip();
                if !ip.is_loopback() {
                    all.push((i.interface_name.clone(), ip.to_string()));
                }
            }
        }
    }
    // The interface of the default route, as the kernel's table names it.
    let routes = fs::read_to_string("/proc/net/route").unwrap_or_default();
    let device = routes.lines().skip(1).find_map(|l| {
        let mut f = l.split_whitespace();
        let device = f.next()?;
        (f.next()? == "00000000").then(|| device.to_owned())
    });
    let default = all.iter().find(|(name, _)| Some(name) == device.as_ref()).or(all.first()).map(|(_, ip)| ip.clone());
    (all.into_iter().map(|(_, ip)| ip).collect(), default)
}

fn memory_mb(key: &str) -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find(|l| l.starts_with(key)).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|n| n.parse::<u64>().ok()).unwrap_or(0) / 1024
}

/// Gathers the facts: value `facts`.
pub fn gather() -> Result<Outcome, FileError> {
    let name = nix::unistd::gethostname().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let os = os_release();
    let (all, default) = addresses();
    let kernel =
        Command::new("uname").arg("-rm").output().map(|o| String::from_utf8_lossy(&o.stdout).trim().to_owned()).unwrap_or_default();
    let (release, architecture) = kernel.split_once(' ').unwrap_or((&kernel, std::env::consts::ARCH));
    let systemd = Path::new("/run/systemd/system").is_dir();
    let facts: Value = json!({
        "hostname": name.split('.').next().unwrap_or_default(),
        "nodename": name,
        "architecture": architecture,
        "kernel": release,
        "distribution": os.get("NAME").map(|n| n.split(' ').next().unwrap_or_default()).unwrap_or_default(),
        "distribution_version": os.get("VERSION_ID").cloned().unwrap_or_default(),
        "os_family": os.get("ID_LIKE").or(os.get("ID")).cloned().unwrap_or_default(),
        "service_mgr": if systemd { "systemd" } else { "other" },
        "processor_vcpus": std::thread::available_parallelism().map_or(1, usize::from),
        "memtotal_mb": memory_mb("MemTotal:"),
        "memfree_mb": memory_mb("MemAvailable:"),
        "all_ipv4_addresses": all,
        "default_ipv4": { "address": default },
    });
    Ok(Outcome::ok().with("facts", facts))
}
