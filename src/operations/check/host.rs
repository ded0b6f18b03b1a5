//! One host: what it is asked, and what its answer means. Parsing and judging are pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use super::Finding;
use crate::{provider::Verdict, ssh::quote};

/// Less free space than this fails, in KiB; less than the second is a warning.
const MIN_FREE_KIB: u64 = 100_000;
const LOW_FREE_KIB: u64 = 2_000_000;
/// The same for free memory, in KiB.
const MIN_MEMORY_KIB: u64 = 32_000;
const LOW_MEMORY_KIB: u64 = 128_000;
/// Open files that a service should be allowed.
const OPEN_FILES: u64 = 65_536;
/// Memory maps that a process should be allowed.
const MEMORY_MAPS: u64 = 65_530;
/// Connections that may wait to be accepted.
const BACKLOG: u64 = 512;
/// Swappiness from which on a kernel with swap moves a server's memory to disk early.
const SWAPPINESS: u64 = 30;
/// Programs that Septet uses on every host.
const PROGRAMS: [&str; 8] = ["systemctl", "journalctl", "getent", "df", "tar", "head", "setsid", "cut"];

/// What a host is asked.
#[derive(Debug, Clone, Default)]
pub struct Question {
    /// its service, or empty
    pub unit: &'static str,
    /// where its data is, or empty
    pub data: String,
    /// names that it must resolve, with their addresses
    pub names: Vec<(String, String)>,
    /// what it must reach: host, address, port
    pub ports: Vec<(String, String, u16)>,
    /// ports that its own service listens on
    pub own_ports: Vec<u16>,
    /// whether files go from it to the other hosts
    pub relays: bool,
}

/// `$1` unit, `$2` data directory (the nearest above it where it does not exist yet), `$3` programs, `$4` names, `$5` address/port
/// pairs. Names are resolved and ports tried side by side: silence costs 3 s once.
const SCRIPT: &str = r#"date +'clock %s.%N'
disk() { echo "disk $(df -Pk -- "$1" 2>/dev/null | tail -n 1 | tr -s ' ' | cut -d ' ' -f 2,4) $1"; }
disk /
d=$2; while [ -n "$d" ] && [ ! -d "$d" ]; do d=${d%/*}; done
if [ -n "$d" ]; then disk "$d"; fi
sed -n 's/^MemTotal: *\([0-9]*\).*/memory total \1/p; s/^MemAvailable: *\([0-9]*\).*/memory free \1/p; s/^SwapTotal: *\([0-9]*\).*/memory swap \1/p' /proc/meminfo
for f in vm.max_map_count vm.swappiness net.core.somaxconn; do
  p=/proc/sys/$(echo "$f" | tr . /)
  if [ -r "$p" ]; then echo "sysctl $f $(cat "$p")"; fi
done
if [ -n "$1" ]; then
  systemctl show -p ActiveState,LoadState,LimitNOFILE -- "$1" | sed 's/^/unit /'
fi
for p in $3; do command -v "$p" >/dev/null || echo "missing $p"; done
cat /proc/net/tcp /proc/net/tcp6 2>/dev/null | while read -r _ local _ state _; do
  if [ "$state" = 0A ]; then echo "listens $((0x${local##*:}))"; fi
done | sort -u
for n in $4; do
  { a=$(timeout 4 getent ahostsv4 "$n" | head -n 1 | cut -d ' ' -f 1); echo "name $n ${a:--}"; } &
done
if command -v bash >/dev/null; then
  for t in $5; do
    { if timeout 3 bash -c "exec 3<>/dev/tcp/$t" 2>/dev/null; then echo "port $t open"; else echo "port $t closed"; fi; } &
  done
else
  echo nobash
fi
wait
echo end"#;

impl Question {
    /// The command for a shell. Names and addresses are the inventory's and the provider's own types: they have no blanks.
    pub fn command(&self) -> String {
        let mut programs: Vec<&str> = PROGRAMS.to_vec();
        programs.extend(self.relays.then_some("ssh"));
        let names: Vec<&str> = self.names.iter().map(|(n, _)| n.as_str()).collect();
        let ports: Vec<String> = self.ports.iter().map(|(_, address, port)| format!("{address}/{port}")).collect();
        let words = ["sh", "-c", SCRIPT, "sh", self.unit, &self.data, &programs.join(" "), &names.join(" "), &ports.join(" ")];
        words.map(quote).join(" ")
    }
}

/// What a host says.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Facts {
    /// whether its service runs
    pub active: bool,
    /// whether the service is installed
    installed: bool,
    /// the host's clock minus this machine's, and how far that may be off, in seconds
    pub clock: Option<(f64, f64)>,
    /// path, size and free space in KiB
    disks: Vec<(String, u64, u64)>,
    memory_kib: BTreeMap<String, u64>,
    sysctl: BTreeMap<String, u64>,
    open_files: Option<u64>,
    missing: Vec<String>,
    listens: BTreeSet<u16>,
    names: BTreeMap<String, String>,
    /// by `address/port`
    ports: BTreeMap<String, bool>,
    no_bash: bool,
}

/// Seconds since 1970.
pub fn now_s() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs_f64()
}

impl Facts {
    /// From what the script prints between two points in time; `None` if that is not all of it.
    pub fn parse(text: &str, before_s: f64, after_s: f64) -> Option<Self> {
        let mut f = Self::default();
        let mut whole = false;
        for line in text.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            match words.as_slice() {
                ["end"] => whole = true,
                ["nobash"] => f.no_bash = true,
                // It is the first thing that the script does.
                ["clock", at] => f.clock = at.parse::<f64>().ok().map(|at| (at - (before_s + after_s) / 2.0, (after_s - before_s) / 2.0)),
                ["disk", size, free, path @ ..] => {
                    if let (Ok(size), Ok(free)) = (size.parse(), free.parse()) {
                        f.disks.push((path.join(" "), size, free));
                    }
                }
                ["memory", what, kib] => drop(kib.parse().map(|k| f.memory_kib.insert((*what).to_owned(), k))),
                ["sysctl", key, value] => drop(value.parse().map(|v| f.sysctl.insert((*key).to_owned(), v))),
                ["unit", property] => match property.split_once('=') {
                    Some(("ActiveState", state)) => f.active = state == "active",
                    Some(("LoadState", state)) => f.installed = state == "loaded",
                    Some(("LimitNOFILE", n)) => f.open_files = n.parse().ok(),
                    _ => {}
                },
                ["missing", program] => f.missing.push((*program).to_owned()),
                ["listens", port] => f.listens.extend(port.parse::<u16>()),
                ["name", name, address] => drop(f.names.insert((*name).to_owned(), (*address).to_owned())),
                ["port", to, state] => drop(f.ports.insert((*to).to_owned(), *state == "open")),
                _ => {}
            }
        }
        whole.then_some(f)
    }
}

fn size(kib: u64) -> String {
    match kib {
        k if k >= 1_000_000 => format!("{:.1} GB", k as f64 * 1024.0 / 1e9),
        k => format!("{:.0} MB", k as f64 * 1024.0 / 1e6),
    }
}

/// A verdict by how much is left.
fn by_least(left: u64, least: u64, low: u64) -> Verdict {
    match left {
        n if n < least => Verdict::Fail,
        n if n < low => Verdict::Warn,
        _ => Verdict::Pass,
    }
}

/// What the answer of a host means. `active`: hosts whose service runs.
pub fn judge(host: &str, q: &Question, f: &Facts, active: &BTreeSet<&str>) -> Vec<Finding> {
    let mut out = Vec::new();
    for (path, total, free) in &f.disks {
        let finding = Finding::new(
            host,
            "disk",
            by_least(*free, MIN_FREE_KIB, LOW_FREE_KIB.min(total / 10)),
            format!("{path}: {} of {} free", size(*free), size(*total)),
        );
        out.push(finding.advice("free some space, or give the host a larger volume"));
    }
    if let (Some(total), Some(free)) = (f.memory_kib.get("total"), f.memory_kib.get("free")) {
        let finding = format!("{} of {} available", size(*free), size(*total));
        let finding = Finding::new(host, "memory", by_least(*free, MIN_MEMORY_KIB, LOW_MEMORY_KIB), finding);
        out.push(finding.advice("stop what else runs there, or take a host with more memory"));
    }
    out.extend(kernel(host, f));
    if !q.unit.is_empty() && f.installed {
        let files = f.open_files.unwrap_or(u64::MAX);
        let verdict = if files < OPEN_FILES { Verdict::Warn } else { Verdict::Pass };
        let shown = f.open_files.map_or_else(|| "unlimited".to_owned(), |n| n.to_string());
        let finding = Finding::new(host, "limits", verdict, format!("{} may open {shown} files", q.unit));
        out.push(finding.advice(format!("set `LimitNOFILE={OPEN_FILES}` or more in the unit")));
    }
    out.push(match f.missing.as_slice() {
        [] => Finding::pass(host, "packages", "all programs that Septet uses are there"),
        missing => Finding::new(host, "packages", Verdict::Fail, format!("missing: {}", missing.join(", ")))
            .advice("install the packages that have them"),
    });
    if !q.names.is_empty() {
        out.push(names(host, q, f));
    }
    out.extend(ports(host, q, f, active));
    // A passing finding needs no advice.
    for finding in out.iter_mut().filter(|f| f.verdict == Verdict::Pass) {
        finding.hint = None;
    }
    out
}

fn kernel(host: &str, f: &Facts) -> Vec<Finding> {
    let get = |k: &str| f.sysctl.get(k).copied();
    let low = |key: &str, least: u64| {
        let is = get(key).filter(|is| *is < least)?;
        let finding = Finding::new(host, "kernel", Verdict::Warn, format!("{key} is {is}"));
        Some(finding.advice(format!("`sysctl -w {key}={least}`, and the same in /etc/sysctl.d to keep it")))
    };
    let mut out: Vec<Finding> = [low("vm.max_map_count", MEMORY_MAPS), low("net.core.somaxconn", BACKLOG)].into_iter().flatten().collect();
    let swap = f.memory_kib.get("swap").is_some_and(|s| *s > 0);
    if let Some(is) = get("vm.swappiness").filter(|is| swap && *is > SWAPPINESS) {
        let finding = Finding::new(host, "kernel", Verdict::Warn, format!("vm.swappiness is {is}, and there is swap"));
        out.push(finding.advice("`sysctl -w vm.swappiness=1`, and the same in /etc/sysctl.d: a server in swap answers late"));
    }
    if out.is_empty() {
        out.push(Finding::pass(host, "kernel", format!("{} settings are as they must be", f.sysctl.len())));
    }
    out
}

fn names(host: &str, q: &Question, f: &Facts) -> Finding {
    let wrong = q.names.iter().filter_map(|(name, address)| {
        let is = f.names.get(name).map_or("-", String::as_str);
        // A host may know itself by its loopback address.
        let own = name == host && is.starts_with("127.");
        match is {
            _ if is == address || own => None,
            "-" => Some(format!("{name} does not resolve")),
            other => Some(format!("{name} resolves to {other}, not {address}")),
        }
    });
    let wrong: Vec<String> = wrong.collect();
    match wrong.as_slice() {
        [] => Finding::pass(host, "names", format!("{} names resolve", q.names.len())),
        wrong => {
            Finding::new(host, "names", Verdict::Fail, wrong.join("; ")).advice("`septet up` writes the names of all hosts to /etc/hosts")
        }
    }
}

fn ports(host: &str, q: &Question, f: &Facts, active: &BTreeSet<&str>) -> Vec<Finding> {
    let mut out = Vec::new();
    if !q.unit.is_empty() && !f.active {
        let taken: Vec<String> = q.own_ports.iter().filter(|p| f.listens.contains(p)).map(u16::to_string).collect();
        if !taken.is_empty() {
            let text = format!("{} does not run, and another program listens on {}", q.unit, taken.join(", "));
            out.push(Finding::new(host, "ports", Verdict::Fail, text).advice("stop that program: `ss -ltnp` shows it"));
        }
    }
    if f.no_bash {
        out.push(Finding::new(host, "ports", Verdict::Warn, "not tried: bash is missing").advice("install the package `bash`"));
        return out;
    }
    // Nothing listens where a service does not run: that is the service's matter.
    let tried: Vec<&(String, String, u16)> = q.ports.iter().filter(|(target, ..)| active.contains(target.as_str())).collect();
    let closed: Vec<String> = tried
        .iter()
        .filter(|(_, address, port)| f.ports.get(&format!("{address}/{port}")) != Some(&true))
        .map(|(target, _, port)| format!("{target}:{port}"))
        .collect();
    if !closed.is_empty() {
        let finding = Finding::new(host, "ports", Verdict::Fail, format!("cannot connect to {}", closed.join(", ")));
        out.push(finding.advice("a firewall or a security group is in the way, or the service listens on another address"));
    } else if !tried.is_empty() {
        out.push(Finding::pass(host, "ports", format!("{} ports of other hosts are open", tried.len())));
    }
    out
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const WELL: &str = "clock 1000.5\ndisk 100000000 50000000 /\ndisk 100000000 50000000 /data/kafka-logs\nmemory total 8000000\nmemory free 4000000\nmemory swap 0\nsysctl vm.max_map_count 1048576\nsysctl vm.swappiness 60\nsysctl net.core.somaxconn 4096\nunit ActiveState=active\nunit LoadState=loaded\nunit LimitNOFILE=100000\nlistens 22\nlistens 9092\nname p-kafka01 127.0.1.1\nname p-kafka02 10.0.0.2\nport 10.0.0.2/9092 open\nport 10.0.0.3/2181 open\nend\n";

    fn question() -> Question {
        Question {
            unit: "kafka-server.service",
            data: "/data/kafka-logs".into(),
            names: vec![("p-kafka01".into(), "10.0.0.1".into()), ("p-kafka02".into(), "10.0.0.2".into())],
            ports: vec![("p-kafka02".into(), "10.0.0.2".into(), 9092), ("p-zk01".into(), "10.0.0.3".into(), 2181)],
            own_ports: vec![9092],
            relays: false,
        }
    }

    fn judged(from: &str, to: &str) -> Vec<String> {
        assert!(WELL.contains(from), "{from}");
        let facts = Facts::parse(&WELL.replace(from, to), 1000.0, 1000.2).unwrap();
        let findings = judge("p-kafka01", &question(), &facts, &BTreeSet::from(["p-kafka02", "p-zk01"]));
        assert!(findings.iter().all(|f| f.hint.is_some() == (f.verdict != Verdict::Pass)), "{findings:?}");
        let bad = findings.into_iter().filter(|f| f.verdict != Verdict::Pass);
        bad.map(|f| format!("{:?} {}: {}", f.verdict, f.check, f.finding)).collect()
    }

    #[test]
    fn a_host_that_is_well_passes() {
        assert_eq!(judged("end", "end"), [""; 0]);
        assert_eq!(
            Facts::parse(WELL, 1000.0, 1000.2).unwrap().clock.map(|(o, e)| ((o * 10.0).round(), (e * 10.0).round())),
            Some((4.0, 1.0))
        );
        assert_eq!(Facts::parse(&WELL.replace("end\n", ""), 0.0, 0.0), None);
    }

    #[test]
    fn every_check_can_fail() {
        let cases = [
            ("50000000 /data", "90000 /data", "Fail disk: /data/kafka-logs: 92 MB of 102.4 GB free"),
            ("50000000 /data", "1500000 /data", "Warn disk: /data/kafka-logs: 1.5 GB of 102.4 GB free"),
            ("free 4000000", "free 20000", "Fail memory: 20 MB of 8.2 GB available"),
            ("free 4000000", "free 100000", "Warn memory: 102 MB of 8.2 GB available"),
            ("max_map_count 1048576", "max_map_count 1000", "Warn kernel: vm.max_map_count is 1000"),
            ("somaxconn 4096", "somaxconn 128", "Warn kernel: net.core.somaxconn is 128"),
            ("swap 0", "swap 100", "Warn kernel: vm.swappiness is 60, and there is swap"),
            ("LimitNOFILE=100000", "LimitNOFILE=1024", "Warn limits: kafka-server.service may open 1024 files"),
            ("listens 22", "missing tar", "Fail packages: missing: tar"),
            ("p-kafka02 10.0.0.2", "p-kafka02 10.9.9.9", "Fail names: p-kafka02 resolves to 10.9.9.9, not 10.0.0.2"),
            ("p-kafka02 10.0.0.2", "p-kafka02 -", "Fail names: p-kafka02 does not resolve"),
            ("name p-kafka02 10.0.0.2\n", "", "Fail names: p-kafka02 does not resolve"),
            ("10.0.0.2/9092 open", "10.0.0.2/9092 closed", "Fail ports: cannot connect to p-kafka02:9092"),
            ("port 10.0.0.3/2181 open\n", "", "Fail ports: cannot connect to p-zk01:2181"),
            (
                "ActiveState=active",
                "ActiveState=failed",
                "Fail ports: kafka-server.service does not run, and another program listens on 9092",
            ),
            ("listens 22", "nobash", "Warn ports: not tried: bash is missing"),
        ];
        for (from, to, wanted) in cases {
            assert_eq!(judged(from, to), [wanted], "{from} -> {to}");
        }
        // 50 MB of 500 MB is enough where a disk is that small, but not less than is needed.
        assert_eq!(judged("100000000 50000000 /data", "2000000 300000 /data"), [""; 0]);
    }

    #[test]
    fn ports_of_services_that_do_not_run_are_not_missed() {
        let facts = Facts::parse(&WELL.replace("9092 open", "9092 closed"), 0.0, 0.0).unwrap();
        let findings = judge("p-kafka01", &question(), &facts, &BTreeSet::from(["p-zk01"]));
        assert!(findings.iter().all(|f| f.verdict == Verdict::Pass), "{findings:?}");
    }

    /// The script on this machine: what it prints is understood, and a closed port is one.
    #[test]
    fn the_script_on_this_machine() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let open = listener.local_addr().unwrap().port();
        let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let q = Question {
            names: vec![("localhost".into(), "127.0.0.1".into()), ("no-such-host.invalid".into(), "10.0.0.1".into())],
            ports: vec![("a".into(), "127.0.0.1".into(), open), ("b".into(), "127.0.0.1".into(), closed)],
            ..Question::default()
        };
        let before = now_s();
        let out = std::process::Command::new("sh").args(["-c", &q.command()]).output().unwrap();
        let facts = Facts::parse(&String::from_utf8(out.stdout).unwrap(), before, now_s()).unwrap();
        let (off, error) = facts.clock.unwrap();
        assert!(off.abs() <= error + 0.01, "{off} {error}");
        assert!(facts.listens.contains(&open) && !facts.listens.contains(&closed));
        assert!(
            facts.disks.iter().any(|d| d.0 == "/" && d.1 > 0)
                && facts.memory_kib["total"] > 0
                && facts.sysctl.contains_key("vm.max_map_count")
        );
        let findings = judge("h", &q, &facts, &BTreeSet::from(["a", "b"]));
        let of = |check: &str| findings.iter().find(|f| f.check == check).unwrap().finding.clone();
        assert_eq!(of("names"), "no-such-host.invalid does not resolve");
        assert_eq!(of("ports"), format!("cannot connect to b:{closed}"));
    }
}
