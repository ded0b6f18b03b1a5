//! User data: what an instance runs at its first boot. It makes the login user and plants the host's own SSH key, so that
//! the first contact is verified; and at every boot it makes sure of the login key, so that another one can be planted.
//!
//! Invariant: pure. The text stays below EC2's limit of 16 KiB.

use std::fmt::Write;

use super::LOGIN;
use crate::{
    provider::authorized::{bare, of},
    ssh::keys::HostKey,
};

/// The line that marks the text as Septet's.
const WRITTEN: &str = "# Written by Septet.";
/// How a line begins that names a login key which the text plants: one line for each state directory.
const MARK: &str = "# login key: ";
/// Where the commands of each boot begin; they are the end of the text.
const BOOT: &str = "bootcmd:\n";
/// Login keys that are planted, at the most; the oldest go.
const MAX_KEYS: usize = 16;

/// User data in cloud-init's own form.
pub fn render(host_key: &HostKey, login_key: &str) -> String {
    let mut out = format!("#cloud-config\n{WRITTEN}\n");
    out += &marks(&[login_key]);
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
    out += &boot(&[login_key]);
    out
}

fn marks(keys: &[&str]) -> String {
    keys.iter().map(|k| format!("{MARK}{k}\n")).collect()
}

/// What makes sure of the login keys at every boot. On the first one the user is not there yet. Of the lines that are there, only
/// those of the same state directories are replaced.
fn boot(keys: &[&str]) -> String {
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
    )
}

/// The same user data with a login key more; one of the same state directory is replaced. `None` where it is not ours.
pub fn with_key(text: &str, login_key: &str) -> Option<String> {
    let (before, _) = text.split_once(BOOT)?;
    let old: Vec<&str> = before.lines().filter_map(|l| l.strip_prefix(MARK)).collect();
    if old.is_empty() {
        return None;
    }
    let others = old.into_iter().filter(|k| bare(k) != bare(login_key) && (of(k).is_none() || of(k) != of(login_key)));
    let mut keys: Vec<&str> = others.chain([login_key]).collect();
    keys.drain(..keys.len().saturating_sub(MAX_KEYS));
    let mut out = String::new();
    for line in before.lines().filter(|l| !l.starts_with(MARK)) {
        out += line;
        out += "\n";
        if line == WRITTEN {
            out += &marks(&keys);
        }
    }
    Some(out + &boot(&keys))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::ssh::keys;

    #[test]
    fn it_is_yaml_that_says_what_it_must() {
        let host_key = keys::new_host_key("broker1 of x").unwrap();
        let text = render(&host_key, "ssh-ed25519 AAAAlogin septet u-u-i-d");
        assert!(text.starts_with("#cloud-config\n") && text.len() < 16 * 1024, "{text}");
        let node = crate::yaml::parse(std::path::Path::new("user-data"), text.clone()).unwrap().value();
        assert_eq!(node["ssh_keys"]["ed25519_private"].as_str().unwrap().trim(), host_key.private.trim());
        assert_eq!(node["ssh_keys"]["ed25519_public"].as_str().unwrap(), host_key.public);
        assert_eq!(node["users"][1]["ssh_authorized_keys"][0], "ssh-ed25519 AAAAlogin septet u-u-i-d");
        assert!(node["bootcmd"][0].as_str().unwrap().contains("'ssh-ed25519 AAAAlogin septet u-u-i-d'"));
    }

    #[test]
    fn a_key_is_added_beside_those_of_others_and_in_the_place_of_its_own() {
        let host_key = keys::new_host_key("c").unwrap();
        let (ann, ben) = ("ssh-ed25519 AAAA septet u id-a ann@x", "ssh-ed25519 BBBB septet u id-b ben@y");
        let one = render(&host_key, ann);
        let two = with_key(&one, ben).unwrap();
        assert!(two.contains(&format!("{MARK}{ann}\n{MARK}{ben}\n")) && two.contains("-e 'septet u id-a' -e 'septet u id-b'"), "{two}");
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
        let text = boot(&["ssh-ed25519 NEW septet u id-a ann@x", "ssh-ed25519 BBBB septet u id-b ben@y"]);
        let script = text.lines().skip(2).collect::<Vec<_>>().join("\n").replace("/home/septet/.ssh", &dir.path().display().to_string());
        for _ in 0..2 {
            assert!(std::process::Command::new("sh").args(["-c", &script]).status().unwrap().success());
            let now = std::fs::read_to_string(&file).unwrap();
            assert_eq!(now, "ssh-rsa OWN me\nssh-ed25519 NEW septet u id-a ann@x\nssh-ed25519 BBBB septet u id-b ben@y\n");
        }
    }
}
