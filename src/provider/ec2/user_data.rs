//! User data: what an instance runs at its first boot. It makes the login user and plants the host's own SSH key, so that
//! the first contact is verified; and at every boot it makes sure of the login key, so that another one can be planted, and of the
//! timer of the cluster's end, so that a host which no playbook has reached ends too.
//!
//! Invariant: pure. The text stays below EC2's limit of 16 KiB.

use std::fmt::Write;

use super::LOGIN;
use crate::{
    provider::{
        authorized::{bare, of},
        expiry::{End, SERVICE, TIMER, UNITS, WANTS},
    },
    ssh::keys::HostKey,
};

/// The line that marks the text as Septet's.
const WRITTEN: &str = "# Written by Septet.";
/// How a line begins that names a login key which the text plants: one line for each state directory.
const MARK: &str = "# login key: ";
/// How the line begins that has the cluster's end and its name.
const END: &str = "# end: ";
/// Where the commands of each boot begin; they are the end of the text.
const BOOT: &str = "bootcmd:\n";
/// Login keys that are planted, at the most; the oldest go.
const MAX_KEYS: usize = 16;

/// The end that a text names.
fn end_of(text: &str) -> Option<End<'_>> {
    let (at, cluster) = text.lines().find_map(|l| l.strip_prefix(END))?.split_once(' ')?;
    Some(End { at_s: at.parse().ok()?, cluster })
}

/// User data in cloud-init's own form.
pub fn render(host_key: &HostKey, login_key: &str, end: Option<End<'_>>) -> String {
    let mut out = format!("#cloud-config\n{WRITTEN}\n");
    out += &marks(&[login_key], end);
    // Names are Septet's business, not cloud-init's, also at later boots.
    out += "preserve_hostname: true\nmanage_etc_hosts: false\n";
    out += "disable_root: true\nssh_pwauth: false\nssh_deletekeys: true\nssh_keys:\n  ed25519_private: |\n";
    for line in host_key.private.lines() {
        let _ = writeln!(out, "    {line}");
    }
    let _ = writeln!(out, "  ed25519_public: {}", host_key.public);
    let _ = write!(
        out,
        "users:\n  - default\n  - name: {LOGIN}\n    shell: /bin/bash\n    lock_passwd: true\n    sudo: \"ALL=(ALL) NOPASSWD:ALL\"\n    ssh_authorized_keys:\n      - {login_key}\n"
    );
    out += &boot(&[login_key], end);
    out
}

fn marks(keys: &[&str], end: Option<End<'_>>) -> String {
    let end = end.map(|e| format!("{END}{} {}\n", e.at_s, e.cluster));
    keys.iter().map(|k| format!("{MARK}{k}\n")).chain(end).collect()
}

/// What makes sure of the login keys at every boot. On the first one the user is not there yet. Of the lines that are there, only
/// those of the same state directories are replaced.
fn boot(keys: &[&str], end: Option<End<'_>>) -> String {
    let quoted = |text: &str| format!("'{}'", text.replace('\'', ""));
    let ours = |key: &&str| {
        // As in a line: behind the key come `septet`, the cluster's UUID and the state directory's identity.
        let owner = key.split_whitespace().skip(2).take(3).collect::<Vec<_>>().join(" ");
        quoted(if of(key).is_some() { &owner } else { key })
    };
    let patterns: Vec<String> = keys.iter().map(|k| format!("-e {}", ours(k))).collect();
    let lines: Vec<String> = keys.iter().map(|k| quoted(k)).collect();
    format!(
        "{BOOT}  - |\n    d=/home/{LOGIN}/.ssh\n    if [ -d \"$d\" ]; then\n      touch \"$d/authorized_keys\"\n      grep -vF {} \"$d/authorized_keys\" > \"$d/authorized_keys.new\"\n      printf '%s\\n' {} >> \"$d/authorized_keys.new\"\n      chown --reference=\"$d\" \"$d/authorized_keys.new\"\n      chmod 0600 \"$d/authorized_keys.new\"\n      mv -f \"$d/authorized_keys.new\" \"$d/authorized_keys\"\n    fi\n",
        patterns.join(" "),
        lines.join(" ")
    ) + &end.map(timer).unwrap_or_default()
}

/// What makes sure of the timer of the cluster's end at every boot. A later end on the host stays: user data cannot be changed while
/// an instance runs, so `extend` writes to the host alone.
fn timer(end: End<'_>) -> String {
    let units = format!("/{UNITS}");
    let mut script = format!("at=$(sed -n 's/^OnCalendar=@//p' {units}/{TIMER} 2>/dev/null)\n");
    let _ = writeln!(script, "if [ \"${{at:-0}}\" -lt {} ]; then", end.at_s);
    for (name, text) in end.units() {
        let _ = writeln!(script, "  cat > {units}/{name} <<'UNIT'\n{}\nUNIT", text.trim_end());
    }
    let _ = write!(
        script,
        "  mkdir -p {units}/{WANTS}\n  ln -sf {units}/{TIMER} {units}/{WANTS}/\n  systemctl daemon-reload\n  systemctl --no-block restart {TIMER}\nfi\n"
    );
    // A timer that is new does not catch up with an end that has passed; the service asks for the time itself.
    let _ = writeln!(script, "systemctl --no-block start {SERVICE}");
    let indented: String = script.lines().map(|l| if l.is_empty() { "\n".to_owned() } else { format!("    {l}\n") }).collect();
    format!("  - |\n{indented}")
}

/// The same user data with a login key more; one of the same state directory is replaced. `None` where it is not ours.
pub fn with_key(text: &str, login_key: &str) -> Option<String> {
    let (before, old) = parts(text)?;
    let others = old.into_iter().filter(|k| bare(k) != bare(login_key) && (of(k).is_none() || of(k) != of(login_key)));
    let mut keys: Vec<&str> = others.chain([login_key]).collect();
    keys.drain(..keys.len().saturating_sub(MAX_KEYS));
    Some(written(before, &keys, end_of(before)))
}

/// The same user data with another end of the cluster. `None` where it is not ours, or has this end.
pub fn with_end(text: &str, end: End<'_>) -> Option<String> {
    let (before, keys) = parts(text)?;
    Some(written(before, &keys, Some(end))).filter(|new| new != text)
}

/// What is before the commands of each boot, and the login keys; `None` where the text is not ours.
fn parts(text: &str) -> Option<(&str, Vec<&str>)> {
    let (before, _) = text.split_once(BOOT)?;
    let keys: Vec<&str> = before.lines().filter_map(|l| l.strip_prefix(MARK)).collect();
    (!keys.is_empty()).then_some((before, keys))
}

fn written(before: &str, keys: &[&str], end: Option<End<'_>>) -> String {
    let mut out = String::new();
    for line in before.lines().filter(|l| !l.starts_with(MARK) && !l.starts_with(END)) {
        out += line;
        out += "\n";
        if line == WRITTEN {
            out += &marks(keys, end);
        }
    }
    out + &boot(keys, end)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::ssh::keys;

    const SOON: End<'_> = End { at_s: 1_700_000_000, cluster: "lesson" };

    #[test]
    fn it_is_yaml_that_says_what_it_must() {
        let host_key = keys::new_host_key("broker1 of x").unwrap();
        let text = render(&host_key, "ssh-ed25519 AAAAlogin septet u-u-i-d", Some(SOON));
        assert!(text.starts_with("#cloud-config\n") && text.len() < 16 * 1024, "{text}");
        let node = crate::yaml::parse(std::path::Path::new("user-data"), text.clone()).unwrap().value();
        assert_eq!(node["ssh_keys"]["ed25519_private"].as_str().unwrap().trim(), host_key.private.trim());
        assert_eq!(node["ssh_keys"]["ed25519_public"].as_str().unwrap(), host_key.public);
        assert_eq!(node["users"][1]["ssh_authorized_keys"][0], "ssh-ed25519 AAAAlogin septet u-u-i-d");
        assert!(node["bootcmd"][0].as_str().unwrap().contains("'ssh-ed25519 AAAAlogin septet u-u-i-d'"));
        assert_eq!(node["bootcmd"].as_array().unwrap().len(), 2);
        let endless = render(&host_key, "ssh-ed25519 AAAAlogin septet u-u-i-d", None);
        let node = crate::yaml::parse(std::path::Path::new("user-data"), endless).unwrap().value();
        assert_eq!(node["bootcmd"].as_array().unwrap().len(), 1);
    }

    /// Runs the commands of a boot on the units in a directory; what it asks of systemd.
    fn boots(dir: &std::path::Path, text: &str) -> String {
        let node = crate::yaml::parse(std::path::Path::new("user-data"), text.to_owned()).unwrap().value();
        let script = node["bootcmd"][1].as_str().unwrap().replace("/etc/systemd/system", &dir.display().to_string());
        let script = format!("systemctl() {{ echo \"$*\"; }}\n{script}");
        let out = std::process::Command::new("sh").args(["-c", &script]).output().unwrap();
        assert!(out.status.success() && out.stderr.is_empty(), "{out:?}");
        String::from_utf8(out.stdout).unwrap()
    }

    #[test]
    fn a_boot_makes_sure_of_the_end_and_leaves_a_later_one() {
        let dir = tempfile::tempdir().unwrap();
        let unit = |name: &str| std::fs::read_to_string(dir.path().join(name)).unwrap();
        let text = render(&keys::new_host_key("c").unwrap(), "ssh-ed25519 AAAA septet u id-a ann@x", Some(SOON));
        let asks = "--no-block start septet-expiry.service\n";
        assert_eq!(boots(dir.path(), &text), format!("daemon-reload\n--no-block restart septet-expiry.timer\n{asks}"));
        assert!(unit("septet-expiry.timer").contains("OnCalendar=@1700000000\n"), "{}", unit("septet-expiry.timer"));
        assert!(unit("septet-expiry.service").contains("\"$(date +%%s)\" -ge 1700000000 ]"), "{}", unit("septet-expiry.service"));
        assert_eq!(unit("timers.target.wants/septet-expiry.timer"), unit("septet-expiry.timer"));
        // To the byte what the playbook renders, which finds nothing to change then.
        for (name, text) in SOON.units() {
            assert_eq!(unit(name), text);
        }
        // The next boot has nothing to write; nor has it after `extend`.
        assert_eq!(boots(dir.path(), &text), asks);
        let later = End { at_s: 1_700_000_100, ..SOON };
        for (name, text) in later.units() {
            std::fs::write(dir.path().join(name), text).unwrap();
        }
        assert_eq!(boots(dir.path(), &text), asks);
        assert!(unit("septet-expiry.timer").contains("@1700000100\n"));
    }

    #[test]
    fn another_end_keeps_the_keys_and_another_key_keeps_the_end() {
        let (ann, ben) = ("ssh-ed25519 AAAA septet u id-a ann@x", "ssh-ed25519 BBBB septet u id-b ben@y");
        let host_key = keys::new_host_key("c").unwrap();
        let later = End { at_s: 1_800_000_000, ..SOON };
        let text = with_key(&render(&host_key, ann, Some(SOON)), ben).unwrap();
        assert!(text.contains("-lt 1700000000 ]") && end_of(&text) == Some(SOON), "{text}");
        assert_eq!(with_end(&text, SOON), None);
        let new = with_end(&text, later).unwrap();
        assert_eq!(new, text.replace("1700000000", "1800000000"));
        // Of a cluster that had no end when the host was made.
        let endless = with_key(&render(&host_key, ann, None), ben).unwrap();
        assert_eq!(with_end(&endless, later).as_ref(), Some(&new));
        assert_eq!(with_end("#!/bin/sh\n", later), None);
    }

    #[test]
    fn a_key_is_added_beside_those_of_others_and_in_the_place_of_its_own() {
        let host_key = keys::new_host_key("c").unwrap();
        let (ann, ben) = ("ssh-ed25519 AAAA septet u id-a ann@x", "ssh-ed25519 BBBB septet u id-b ben@y");
        let one = render(&host_key, ann, Some(SOON));
        let two = with_key(&one, ben).unwrap();
        assert!(
            two.contains(&format!("{MARK}{ann}\n{MARK}{ben}\n{END}")) && two.contains("-e 'septet u id-a' -e 'septet u id-b'"),
            "{two}"
        );
        assert_eq!(with_key(&two, ben).as_ref(), Some(&two));
        let new = with_key(&two, "ssh-ed25519 CCCC septet u id-a ann@x").unwrap();
        let boot = new.split_once(BOOT).unwrap().1;
        assert!(!boot.contains("AAAA") && boot.contains("BBBB") && boot.contains("CCCC"), "{new}");
        assert_eq!(with_key("#!/bin/sh\n", "k"), None);
        // However many there are, the text stays below the limit.
        let mut many = one;
        for n in 0..100 {
            many = with_key(&many, &format!("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFMarker{n:04}AndSomeMoreToTheUsualLength septet 0123e456-e89b-42d3-a456-426614174000 {n:016x} somebody@machine")).unwrap();
        }
        assert_eq!(many.matches(MARK).count(), MAX_KEYS);
        assert!(many.len() < 16 * 1024, "{}", many.len());
    }

    #[test]
    fn the_commands_of_a_boot_keep_what_others_put_there() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("authorized_keys");
        std::fs::write(&file, "ssh-rsa OWN me\nssh-ed25519 OLD septet u id-a ann@x\n").unwrap();
        let text = boot(&["ssh-ed25519 NEW septet u id-a ann@x", "ssh-ed25519 BBBB septet u id-b ben@y"], None);
        let script = text.lines().skip(2).collect::<Vec<_>>().join("\n").replace("/home/septet/.ssh", &dir.path().display().to_string());
        for _ in 0..2 {
            assert!(std::process::Command::new("sh").args(["-c", &script]).status().unwrap().success());
            let now = std::fs::read_to_string(&file).unwrap();
            assert_eq!(now, "ssh-rsa OWN me\nssh-ed25519 NEW septet u id-a ann@x\nssh-ed25519 BBBB septet u id-b ben@y\n");
        }
    }
}
