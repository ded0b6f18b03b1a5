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

fn addresses() -> (Vec<String>, Option<String>, Option<String>) {
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
    (all.into_iter().map(|(_, ip)| ip).collect(), default, device)
}

fn memory_mb(key: &str) -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find(|l| l.starts_with(key)).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|n| n.parse::<u64>().ok()).unwrap_or(0) / 1024
}

/// The installed Java: its major version, and its own description. Nothing where there is none.
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

/// A distribution under Ansible's name.
fn distribution(id: &str, name: &str) -> String {
    let known = match id {
        "debian" => "Debian",
        "ubuntu" => "Ubuntu",
        "amzn" => "Amazon",
        "rhel" => "RedHat",
        "centos" => "CentOS",
        "fedora" => "Fedora",
        "rocky" => "Rocky",
        "almalinux" => "AlmaLinux",
        "ol" => "OracleLinux",
        "alpine" => "Alpine",
        "arch" => "Archlinux",
        "sles" => "SLES",
        "opensuse-leap" => "openSUSE Leap",
        _ => name.split(' ').next().unwrap_or_default(),
    };
    known.to_owned()
}

/// The family of a distribution under Ansible's name.
fn family(id: &str, like: &str) -> String {
    let of = |id: &str| match id {
        "debian" | "ubuntu" | "raspbian" | "linuxmint" | "kali" | "pop" => Some("Debian"),
        "amzn" | "rhel" | "centos" | "fedora" | "rocky" | "almalinux" | "ol" => Some("RedHat"),
        "alpine" => Some("Alpine"),
        "arch" | "manjaro" => Some("Archlinux"),
        "gentoo" => Some("Gentoo"),
        _ if id.contains("suse") || id == "sles" => Some("Suse"),
        _ => None,
    };
    let known = std::iter::once(id).chain(like.split_whitespace()).find_map(of);
    known.map_or_else(|| distribution(id, id), str::to_owned)
}

/// Debian's own file knows the point release.
fn detailed_version(id: &str, version: &str) -> String {
    let detailed = (id == "debian").then(|| fs::read_to_string("/etc/debian_version").ok()).flatten();
    match detailed.map(|d| d.trim().to_owned()).filter(|d| d.starts_with(|c: char| c.is_ascii_digit())) {
        Some(d) => d,
        None => version.to_owned(),
    }
}

fn package_manager() -> &'static str {
    let has = |p: &str| Path::new("/usr/bin").join(p).exists();
    if has("apt-get") {
        "apt"
    } else if has("dnf") {
        "dnf"
    } else if has("yum") {
        "yum"
    } else if Path::new("/sbin/apk").exists() {
        "apk"
    } else if has("zypper") {
        "zypper"
    } else {
        "unknown"
    }
}

/// The full name of the host, as /etc/hosts has it; else the name itself.
fn full_name(name: &str) -> String {
    let hosts = fs::read_to_string("/etc/hosts").unwrap_or_default();
    let lines = hosts.lines().map(|l| l.split('#').next().unwrap_or_default());
    let full = lines.filter_map(|l| {
        let mut names = l.split_whitespace().skip(1);
        let first = names.next()?;
        (first == name || names.any(|n| n == name)).then(|| first.to_owned())
    });
    let dotted = |n: &String| n.split_once('.').is_some_and(|(short, _)| short == name);
    full.into_iter().find(dotted).unwrap_or_else(|| name.to_owned())
}

/// The time in UTC, in the forms that Ansible has.
fn date_time() -> Value {
    let now = std::time::SystemTime::now();
    let clock = command::clock(now);
    let (date, time) = clock.split_once(' ').unwrap_or((&clock, ""));
    let time = time.split('.').next().unwrap_or_default();
    let epoch = now.duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let part = |text: &str, separator: char, i: usize| text.split(separator).nth(i).unwrap_or_default().to_owned();
    json!({
        "date": date,
        "time": time,
        "epoch": epoch.to_string(),
        "iso8601": format!("{date}T{time}Z"),
        "iso8601_basic_short": format!("{}T{}", date.replace('-', ""), time.replace(':', "")),
        "year": part(date, '-', 0),
        "month": part(date, '-', 1),
        "day": part(date, '-', 2),
        "hour": part(time, ':', 0),
        "minute": part(time, ':', 1),
        "second": part(time, ':', 2),
        "tz": "UTC",
        "tz_offset": "+0000",
    })
}

fn uptime() -> u64 {
    let text = fs::read_to_string("/proc/uptime").unwrap_or_default();
    text.split('.').next().and_then(|s| s.parse().ok()).unwrap_or(0)
}

/// Gathers the facts: value `facts`.
pub fn gather() -> Result<Outcome, FileError> {
    let user = nix::unistd::User::from_uid(nix::unistd::Uid::effective()).ok().flatten();
    let name = nix::unistd::gethostname().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let os = os_release();
    let (all, default, device) = addresses();
    let kernel =
        Command::new("uname").arg("-rm").output().map(|o| String::from_utf8_lossy(&o.stdout).trim().to_owned()).unwrap_or_default();
    let (release, architecture) = kernel.split_once(' ').unwrap_or((&kernel, std::env::consts::ARCH));
    let systemd = Path::new("/run/systemd/system").is_dir();
    let id = os.get("ID").cloned().unwrap_or_default();
    let version = os.get("VERSION_ID").cloned().unwrap_or_default();
    let distribution = distribution(&id, os.get("NAME").map_or("", String::as_str));
    let full = full_name(&name);
    let facts: Value = json!({
        "hostname": name.split('.').next().unwrap_or_default(),
        "nodename": name,
        "architecture": architecture,
        "kernel": release,
        "fqdn": full,
        "domain": full.split_once('.').map_or("", |(_, domain)| domain),
        "system": "Linux",
        "machine": architecture,
        "userspace_bits": usize::BITS.to_string(),
        "distribution": distribution,
        "distribution_version": detailed_version(&id, &version),
        "distribution_major_version": version.split('.').next().unwrap_or_default(),
        "distribution_release": os.get("VERSION_CODENAME").cloned().unwrap_or_else(|| "NA".into()),
        "os_family": family(&id, os.get("ID_LIKE").map_or("", String::as_str)),
        "pkg_mgr": package_manager(),
        "user_id": user.as_ref().map_or("", |u| u.name.as_str()),
        "user_uid": nix::unistd::Uid::effective().as_raw(),
        "user_gid": nix::unistd::Gid::effective().as_raw(),
        "user_dir": user.as_ref().map(|u| u.dir.display().to_string()).unwrap_or_default(),
        "user_shell": user.as_ref().map(|u| u.shell.display().to_string()).unwrap_or_default(),
        "env": std::env::vars().map(|(k, v)| (k, Value::from(v))).collect::<serde_json::Map<_, _>>(),
        "swaptotal_mb": memory_mb("SwapTotal:"),
        "swapfree_mb": memory_mb("SwapFree:"),
        "uptime_seconds": uptime(),
        "service_mgr": if systemd { "systemd" } else { "other" },
        "processor_vcpus": std::thread::available_parallelism().map_or(1, usize::from),
        "memtotal_mb": memory_mb("MemTotal:"),
        "memfree_mb": memory_mb("MemAvailable:"),
        "all_ipv4_addresses": all,
        "default_ipv4": { "address": default, "interface": device },
        "date_time": date_time(),
    });
    let mut facts = facts;
    if let (Some(java), Some(map)) = (java(), facts.as_object_mut()) {
        map.insert("java".into(), java);
    }
    Ok(Outcome::ok().with("facts", facts))
}
