//! `package`: software from the host's own package manager.

use std::{process::Command, time::Duration};

use septet_agent_protocol::Outcome;

use crate::{atomic::FileError, command};

/// Seconds that the package manager may take.
const TIMEOUT_S: u64 = 900;

/// How often, and after what pause, one asks for a lock that another holds.
const LOCK_TRIES: u32 = 60;
const LOCK_PAUSE: Duration = Duration::from_secs(5);

/// A package manager.
#[derive(Clone, Copy)]
enum Manager {
    Apt,
    Dnf,
}

fn manager() -> Option<Manager> {
    let there = |p: &str| std::path::Path::new(p).exists();
    if there("/usr/bin/apt-get") {
        Some(Manager::Apt)
    } else if there("/usr/bin/dnf") {
        Some(Manager::Dnf)
    } else {
        None
    }
}

fn run(program: &str, args: &[&str]) -> Result<command::Finished, FileError> {
    let mut c = Command::new(program);
    c.args(args).env("DEBIAN_FRONTEND", "noninteractive").env("LC_ALL", "C");
    command::run(c, None, TIMEOUT_S)
}

fn installed(manager: Manager, name: &str) -> Result<bool, FileError> {
    match manager {
        Manager::Apt => {
            let out = run("dpkg-query", &["-W", "-f=${Status}", name])?;
            Ok(out.code == Some(0) && out.stdout.contains("install ok installed"))
        }
        Manager::Dnf => Ok(run("rpm", &["-q", "--whatprovides", name])?.code == Some(0)),
    }
}

/// Runs apt-get; while another one holds one of its locks, as a host's own upgrades after its boot do, again.
fn apt(args: &[&str]) -> Result<command::Finished, FileError> {
    for _ in 0..LOCK_TRIES {
        let out = run("apt-get", args)?;
        let locked = out.code != Some(0) && (out.stderr.contains("Could not get lock") || out.stderr.contains("Unable to lock"));
        if !locked {
            return Ok(out);
        }
        std::thread::sleep(LOCK_PAUSE);
    }
    run("apt-get", args)
}

fn expect(out: &command::Finished, what: &str) -> Result<(), FileError> {
    if out.code == Some(0) {
        return Ok(());
    }
    let words: Vec<&str> = out.stderr.lines().chain(out.stdout.lines()).filter(|l| !l.trim().is_empty()).collect();
    let tail = words[words.len().saturating_sub(6)..].join("\n");
    Err(FileError::Refused(format!("{what} failed:\n{tail}")))
}

/// Makes sure that packages are installed; those that are stay as they are.
pub fn package(names: &[String], check: bool) -> Result<Outcome, FileError> {
    let bad = |n: &&String| n.is_empty() || n.starts_with('-') || !n.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-._:".contains(&b));
    if let Some(name) = names.iter().find(bad) {
        return Err(FileError::Refused(format!("{name:?} is not a package's name")));
    }
    let Some(manager) = manager() else {
        return Err(FileError::Refused("this host has neither apt-get nor dnf".into()));
    };
    let mut missing: Vec<&str> = Vec::new();
    for name in names {
        if !installed(manager, name)? {
            missing.push(name);
        }
    }
    if missing.is_empty() {
        return Ok(Outcome::ok());
    }
    let shown = missing.iter().map(|n| format!("{n}: installed\n")).collect::<String>();
    let outcome = Outcome::changed_if(true).with_diff(Some(shown));
    if check {
        return Ok(outcome);
    }
    let list = missing.join(" ");
    match manager {
        Manager::Apt => {
            let args = [&["install", "-y", "-q", "--no-install-recommends"][..], &missing].concat();
            let first = apt(&args)?;
            if first.code != Some(0) {
                // What a run that was cut off left half-configured is in the way of everything.
                run("dpkg", &["--configure", "-a", "--force-confdef", "--force-confold"])?;
                // Lists may be missing or old: what they do not know is looked for once more with new ones.
                expect(&apt(&["update", "-q"])?, "apt-get update")?;
                expect(&apt(&args)?, &format!("apt-get install {list}"))?;
            }
        }
        Manager::Dnf => expect(&run("dnf", &[&["install", "-y", "-q"][..], &missing].concat())?, &format!("dnf install {list}"))?,
    }
    Ok(outcome)
}
