//! What the host is, under the names of Ansible's facts (without their `ansible_` prefix).

use std::{collections::HashMap, fs, path::Path, process::Command};

use septet_agent_protocol::Outcome;
use serde_json::{Value, json};

use crate::{atomic::FileError, command};

/// Seconds that Java may take to say its version.
const JAVA_TIMEOUT_S: u64 = 20;

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

/// What Java there is: its major version, and what it says of itself. Nothing where there is none.
fn java() -> Option<Value> {
    let home = std::env::var("JAVA_HOME").ok().map(|h| format!("{h}/bin/java")).filter(|p| Path::new(p).exists());
    let program = home.unwrap_or_else(|| "java".into());
    let mut c = Command::new(&program);
    c.arg("-version");
    let out = command::run(c, None, JAVA_TIMEOUT_S).ok().filter(|o| o.code == Some(0))?;
    // `openjdk version "17.0.15" 2025-04-15`; before 9 it was `java version "1.8.0_412"`.
    let line = out.stderr.lines().chain(out.stdout.lines()).find(|l| l.contains(" version \""))?.to_owned();
    let version = line.split('"').nth(1)?;
    let mut parts = version.split(['.', '_', '-', '+']).map(|p| p.parse::<u32>().ok());
    let first = parts.next()??;
    let major = if first == 1 { parts.next()?? } else { first };
    Some(json!({ "major": major, "version": version, "line": line }))
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
    let mut facts = facts;
    if let (Some(java), Some(map)) = (java(), facts.as_object_mut()) {
        map.insert("java".into(), java);
    }
    Ok(Outcome::ok().with("facts", facts))
}
