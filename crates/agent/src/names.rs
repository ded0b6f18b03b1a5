//! `hostname` and `timezone`.

use std::{fs, path::Path};

use septet_agent_protocol::Outcome;

use crate::{
    atomic::{self, FileError, Resolved},
    place::{Follow, find},
};

/// A file of one line.
fn put(path: &Path, line: &str) -> Result<(), FileError> {
    atomic::replace(&find(path, Follow::OWN)?, format!("{line}\n").as_bytes(), &Resolved::default(), |_| Ok(()))
}

/// The kernel's host name and `/etc/hostname`.
pub fn hostname(name: &str, check: bool) -> Result<Outcome, FileError> {
    let label = |l: &str| !l.is_empty() && l.len() <= 63 && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    if name.len() > 64 || !name.split('.').all(label) {
        return Err(FileError::Refused(format!("{name:?} is not a host name")));
    }
    let kernel = nix::unistd::gethostname().map_err(|e| FileError::Refused(format!("gethostname: {e}")))?;
    let kernel = kernel.to_string_lossy().into_owned();
    let path = Path::new("/etc/hostname");
    let file = fs::read_to_string(path).unwrap_or_default();
    if kernel == name && file.trim() == name {
        return Ok(Outcome::ok());
    }
    if !check {
        nix::unistd::sethostname(name).map_err(|e| FileError::Refused(format!("sethostname {name}: {e}")))?;
        put(path, name)?;
    }
    Ok(Outcome::changed_if(true).with_diff(Some(format!("host name: {kernel} → {name}\n"))))
}

/// `/etc/localtime` and, where the distribution keeps it, `/etc/timezone`.
pub fn timezone(name: &str, check: bool) -> Result<Outcome, FileError> {
    let zone = Path::new("/usr/share/zoneinfo").join(name);
    if name.contains("..") || name.starts_with('/') || !zone.is_file() {
        return Err(FileError::Refused(format!("there is no time zone {name:?} on this host (is tzdata installed?)")));
    }
    let link = Path::new("/etc/localtime");
    let text = Path::new("/etc/timezone");
    let old = fs::read_link(link).ok();
    let link_ok = old.as_deref() == Some(&zone);
    let text_ok = !text.exists() || fs::read_to_string(text).is_ok_and(|t| t.trim() == name);
    if link_ok && text_ok {
        return Ok(Outcome::ok());
    }
    if !check {
        if !link_ok {
            atomic::replace_link(&find(link, Follow::NAME)?, zone.as_os_str())?;
        }
        if !text_ok {
            put(text, name)?;
        }
    }
    let before = old.map_or_else(|| "none".into(), |p| p.display().to_string());
    Ok(Outcome::changed_if(true).with_diff(Some(format!("time zone: {before} → {name}\n"))))
}
