//! User data: what an instance is told before its first boot. It makes the login user and plants the host's own SSH key, so that
//! the first contact is verified; and at every boot it makes sure of the login key, so that another one can be planted.
//!
//! Invariant: pure. The text stays below EC2's limit of 16 KiB.

use std::fmt::Write;

use super::LOGIN;
use crate::ssh::keys::HostKey;

/// The line that says which login key the text plants.
const MARK: &str = "# login key: ";

/// User data in cloud-init's own form.
pub fn render(host_key: &HostKey, login_key: &str) -> String {
    let mut out = String::from("#cloud-config\n# Written by Septet.\n");
    let _ = writeln!(out, "{MARK}{login_key}");
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
    // On the first boot the user is not there yet. Later the line is the only one of Septet's; what others put there stays.
    let _ = write!(
        out,
        "bootcmd:\n  - |\n    d=/home/{LOGIN}/.ssh\n    if [ -d \"$d\" ]; then\n      touch \"$d/authorized_keys\"\n      grep -vE ' septet( [0-9a-f-]+)?$' \"$d/authorized_keys\" > \"$d/authorized_keys.new\"\n      printf '%s\\n' '{} septet' >> \"$d/authorized_keys.new\"\n      chown --reference=\"$d\" \"$d/authorized_keys.new\"\n      chmod 0600 \"$d/authorized_keys.new\"\n      mv -f \"$d/authorized_keys.new\" \"$d/authorized_keys\"\n    fi\n",
        bare(login_key)
    );
    out
}

/// A public key without its comment.
fn bare(key: &str) -> String {
    key.split_whitespace().take(2).collect::<Vec<_>>().join(" ")
}

/// The same user data with another login key; `None` where it is not ours.
pub fn with_key(text: &str, login_key: &str) -> Option<String> {
    let old = text.lines().find_map(|l| l.strip_prefix(MARK))?;
    Some(text.replace(old, login_key).replace(&bare(old), &bare(login_key)))
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
        assert!(node["bootcmd"][0].as_str().unwrap().contains("'ssh-ed25519 AAAAlogin septet'"));
    }

    #[test]
    fn another_login_key_replaces_the_old_one_everywhere() {
        let host_key = keys::new_host_key("c").unwrap();
        let text = render(&host_key, "ssh-ed25519 AAAAold septet 1");
        let new = with_key(&text, "ssh-ed25519 AAAAnew septet 1").unwrap();
        assert!(!new.contains("AAAAold"), "{new}");
        assert_eq!(new, render(&host_key, "ssh-ed25519 AAAAnew septet 1"));
        assert_eq!(with_key("#!/bin/sh\n", "k"), None);
    }
}
