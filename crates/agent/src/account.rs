//! `user` and `group`, by way of the host's own account tools.

use std::process::Command;

use nix::unistd::{Group, User};
use septet_agent_protocol::{Action, Outcome};

use crate::atomic::FileError;

/// Longest name of an account or group, in bytes; what the kernel's and the tools' tables hold.
const MAX_NAME_BYTES: usize = 256;

fn run(program: &str, args: &[String]) -> Result<(), FileError> {
    let out = Command::new(program).args(args).output().map_err(|e| FileError::Refused(format!("{program} cannot be started: {e}")))?;
    if out.status.success() {
        return Ok(());
    }
    Err(FileError::Refused(format!("{program} {}: {}", args.join(" "), String::from_utf8_lossy(&out.stderr).trim())))
}

fn done(what: String, program: &str, args: Vec<String>, check: bool) -> Result<Outcome, FileError> {
    if !check {
        run(program, &args)?;
    }
    Ok(Outcome::changed_if(true).with_diff(Some(what + "\n")))
}

/// A name that a tool takes for an account's and for nothing else: not an option, not a field of `/etc/passwd`, not a list.
fn checked(kind: &str, name: &str) -> Result<(), FileError> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"._-@$".contains(&b) || b >= 0x80;
    if !name.is_empty() && name.len() <= MAX_NAME_BYTES && !name.starts_with('-') && name.bytes().all(allowed) {
        Ok(())
    } else {
        Err(FileError::Refused(format!("{name:?} is not a {kind}'s name")))
    }
}

fn checked_fields(action: &Action) -> Result<(), FileError> {
    match action {
        Action::Group { name, .. } => checked("group", name),
        Action::User { name, group, groups, home, shell, comment, .. } => {
            checked("user", name)?;
            if let Some(c) = comment.as_ref().filter(|c| c.bytes().any(|b| b == b':' || b.is_ascii_control())) {
                return Err(FileError::Refused(format!("{c:?} is not a comment for an account")));
            }
            group.iter().chain(groups.iter().flatten()).try_for_each(|g| checked("group", g))?;
            let bad = |p: &&String| !p.starts_with('/') || p.bytes().any(|b| b == b':' || b.is_ascii_control());
            match home.iter().chain(shell).find(bad) {
                Some(path) => Err(FileError::Refused(format!("{path:?} is not a path for an account"))),
                None => Ok(()),
            }
        }
        _ => Ok(()),
    }
}

/// The groups that a user is in beside the primary one, as the host's own table has them.
fn further_groups(user: &str) -> Result<Vec<String>, FileError> {
    let table = std::fs::read_to_string("/etc/group").map_err(|e| FileError::Refused(format!("read /etc/group: {e}")))?;
    let member = |line: &&str| line.rsplit(':').next().is_some_and(|members| members.split(',').any(|m| m == user));
    Ok(table.lines().filter(member).filter_map(|l| l.split(':').next()).map(str::to_owned).collect())
}

/// Brings an account to the state asked for.
pub fn account(action: &Action, check: bool) -> Result<Outcome, FileError> {
    checked_fields(action)?;
    let system = |e: nix::Error| FileError::Refused(format!("look up accounts: {e}"));
    match action {
        Action::Group { name, absent, gid, system: is_system } => {
            let old = Group::from_name(name).map_err(system)?;
            match old {
                Some(_) if *absent => done(format!("group {name} removed"), "groupdel", vec![name.clone()], check),
                None if *absent => Ok(Outcome::ok()),
                Some(g) => match gid {
                    Some(want) if g.gid.as_raw() != *want => {
                        done(format!("group {name}: id {want}"), "groupmod", vec!["-g".into(), want.to_string(), name.clone()], check)
                    }
                    _ => Ok(Outcome::ok()),
                },
                None => {
                    let mut args = Vec::new();
                    if *is_system {
                        args.push("-r".to_owned());
                    }
                    if let Some(id) = gid {
                        args.extend(["-g".to_owned(), id.to_string()]);
                    }
                    args.push(name.clone());
                    done(format!("group {name} made"), "groupadd", args, check)
                }
            }
        }
        Action::User { name, absent, uid, group, groups, append, home, create_home, shell, system: is_system, comment } => {
            let old = User::from_name(name).map_err(system)?;
            let mut args: Vec<String> = Vec::new();
            let mut option = |flag: &str, value: &str| args.extend([flag.to_owned(), value.to_owned()]);
            match old {
                Some(_) if *absent => done(format!("user {name} removed"), "userdel", vec![name.clone()], check),
                None if *absent => Ok(Outcome::ok()),
                Some(u) => {
                    if let Some(id) = uid.filter(|id| u.uid.as_raw() != *id) {
                        option("-u", &id.to_string());
                    }
                    if let Some(g) = group {
                        let now = Group::from_gid(u.gid).map_err(system)?.map(|x| x.name);
                        if now.as_deref() != Some(g) && u.gid.as_raw().to_string() != *g {
                            option("-g", g);
                        }
                    }
                    if let Some(h) = home.as_ref().filter(|h| u.dir != std::path::Path::new(h)) {
                        option("-d", h);
                    }
                    if let Some(s) = shell.as_ref().filter(|s| u.shell != std::path::Path::new(s)) {
                        option("-s", s);
                    }
                    if let Some(c) = comment.as_ref().filter(|c| u.gecos.to_bytes() != c.as_bytes()) {
                        option("-c", c);
                    }
                    // As in Ansible: to be added to no group changes nothing.
                    if let Some(wanted) = groups.as_ref().filter(|g| !(*append && g.is_empty())) {
                        let now = further_groups(name)?;
                        let lacking = wanted.iter().any(|g| !now.contains(g));
                        let surplus = !append && now.iter().any(|g| !wanted.contains(g));
                        if lacking || surplus {
                            option("-G", &wanted.join(","));
                            if *append {
                                args.push("-a".into());
                            }
                        }
                    }
                    if args.is_empty() {
                        return Ok(Outcome::ok());
                    }
                    let what = format!("user {name}: {}", args.join(" "));
                    args.push(name.clone());
                    done(what, "usermod", args, check)
                }
                None => {
                    if let Some(id) = uid {
                        option("-u", &id.to_string());
                    }
                    if let Some(g) = group {
                        option("-g", g);
                    }
                    if let Some(h) = home {
                        option("-d", h);
                    }
                    if let Some(s) = shell {
                        option("-s", s);
                    }
                    if let Some(c) = comment {
                        option("-c", c);
                    }
                    if let Some(groups) = groups.as_ref().filter(|g| !g.is_empty()) {
                        option("-G", &groups.join(","));
                    }
                    if *is_system {
                        args.push("-r".into());
                    }
                    args.push(if *create_home { "-m" } else { "-M" }.into());
                    args.push(name.clone());
                    done(format!("user {name} made"), "useradd", args, check)
                }
            }
        }
        other => Err(FileError::Refused(format!("{} is not about accounts", other.name()))),
    }
}
