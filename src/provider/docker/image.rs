//! The node image: Debian with systemd, OpenSSH and a login user. A local tag if it is there; else built on a
//! public base image; else, where nothing can be pulled, made with debootstrap and imported.

use std::{collections::HashMap, path::Path, process::Stdio, time::Duration};

use bollard::{
    Docker as Engine, body_full, body_try_stream,
    query_parameters::{BuildImageOptionsBuilder, CreateImageOptionsBuilder},
};
use futures_util::{StreamExt, TryStreamExt};
use sha2::{Digest, Sha256};

use super::{
    LOGIN,
    create::add,
    errors::{explain, is_status},
};
use crate::error::{Error, Result};

/// Numeric id of the login user.
pub const LOGIN_UID: u64 = 1000;

const REPOSITORY: &str = "septet-node";
const BASE: &str = "debian:bookworm-slim";
const SUITE: &str = "bookworm";
const PACKAGES: &str = "systemd systemd-sysv dbus openssh-server sudo iproute2 procps ca-certificates tzdata less";
/// What the variant with Java has beside them.
const JAVA: &str = "openjdk-17-jre-headless";
/// Time for a build, which may fetch some hundred megabytes.
const BUILD_TIMEOUT: Duration = Duration::from_secs(1800);
/// A registry that does not answer in this time is not there.
const PULL_TIMEOUT: Duration = Duration::from_secs(60);

/// What turns a Debian into a node: the same for both ways. Units that a container has no use for are masked, which
/// makes it boot in a second.
const SETUP: &str = r#"set -e
rm -f /etc/ssh/ssh_host_* /etc/machine-id /var/lib/dbus/machine-id
: > /etc/machine-id
useradd -m -u 1000 -s /bin/bash septet
mkdir -p /home/septet/.ssh /data
chown septet:septet /home/septet/.ssh
chmod 700 /home/septet/.ssh
echo 'septet ALL=(ALL) NOPASSWD: ALL' > /etc/sudoers.d/septet
echo 'Defaults:septet !requiretty' >> /etc/sudoers.d/septet
chmod 0440 /etc/sudoers.d/septet
mkdir -p /etc/ssh/sshd_config.d
cat > /etc/ssh/sshd_config.d/septet.conf <<'END'
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin no
HostKey /etc/ssh/ssh_host_ed25519_key
UseDNS no
MaxSessions 64
MaxStartups 64:30:128
AllowTcpForwarding yes
END
for u in systemd-udevd.service systemd-udev-trigger.service systemd-modules-load.service sys-kernel-config.mount \
  sys-kernel-debug.mount sys-kernel-tracing.mount dev-hugepages.mount dev-mqueue.mount systemd-remount-fs.service \
  getty.target console-getty.service systemd-logind.service apt-daily.timer apt-daily-upgrade.timer e2scrub_all.timer \
  fstrim.timer dpkg-db-backup.timer motd-news.timer systemd-firstboot.service systemd-timesyncd.service \
  systemd-networkd.service systemd-resolved.service e2scrub_reap.service systemd-ask-password-console.path \
  systemd-ask-password-wall.path; do
  ln -sf /dev/null /etc/systemd/system/$u
done
mkdir -p /etc/systemd/system/multi-user.target.wants /etc/systemd/journald.conf.d
ln -sf /lib/systemd/system/ssh.service /etc/systemd/system/multi-user.target.wants/ssh.service
ln -sf /lib/systemd/system/multi-user.target /etc/systemd/system/default.target
printf '[Journal]\nStorage=persistent\nSystemMaxUse=50M\n' > /etc/systemd/journald.conf.d/septet.conf
mkdir -p /var/log/journal
sed -i 's/^session.*pam_systemd.so.*//; s/^session.*pam_motd.so.*//; s/^session.*pam_mail.so.*//' /etc/pam.d/sshd /etc/pam.d/common-session
rm -rf /var/lib/apt/lists/* /var/cache/apt/archives/*.deb /usr/share/doc/* /usr/share/man/*
"#;

/// What is installed.
fn packages(java: bool) -> String {
    if java { format!("{PACKAGES} {JAVA}") } else { PACKAGES.to_owned() }
}

fn recipe(java: bool) -> String {
    let mut hash = Sha256::new();
    for part in [BASE, SUITE, &packages(java), SETUP] {
        hash.update(part.as_bytes());
    }
    let short = hex::encode(&hash.finalize()[..6]);
    if java { format!("java-{short}") } else { short }
}

/// Makes sure of an image, and returns its tag.
pub async fn ensure(engine: &Engine, chosen: Option<&str>, java: bool, say: &(dyn Fn(String) + Send + Sync)) -> Result<String> {
    if let Some(tag) = chosen {
        return match engine.inspect_image(tag).await {
            Ok(_) => Ok(tag.to_owned()),
            Err(e) if is_status(&e, 404) => Err(Error::failed(format!("image `{tag}` of the inventory is not there"))
                .hint(format!("`docker pull {tag}`, or leave `image` out"))),
            Err(e) => Err(explain("cannot inspect the node image", e)),
        };
    }
    let tag = format!("{REPOSITORY}:{}", recipe(java));
    match engine.inspect_image(&tag).await {
        Ok(_) => return Ok(tag),
        Err(e) if is_status(&e, 404) => {}
        Err(e) => return Err(explain("cannot inspect the node image", e)),
    }
    say(format!("node image {tag} is not here; building it from {BASE}"));
    let reason = match build(engine, &tag, java).await {
        Ok(()) => return Ok(tag),
        Err(e) => e.message,
    };
    say(format!("that does not work here ({reason}); making it with debootstrap instead"));
    debootstrap(engine, java, say).await.map_err(|e| e.context("the node image cannot be made"))?;
    Ok(tag)
}

async fn build(engine: &Engine, tag: &str, java: bool) -> Result<()> {
    // Pulled first, with a time limit of its own: a build without a network would wait for long.
    let pull = async {
        if engine.inspect_image(BASE).await.is_ok() {
            return Ok::<(), Error>(());
        }
        let (name, version) = BASE.split_once(':').unwrap_or((BASE, "latest"));
        let options = CreateImageOptionsBuilder::default().from_image(name).tag(version).build();
        let mut progress = engine.create_image(Some(options), None, None);
        while let Some(step) = progress.next().await {
            step.map_err(|e| explain(&format!("pull {BASE}"), e))?;
        }
        Ok(())
    };
    tokio::time::timeout(PULL_TIMEOUT, pull).await.map_err(|_| Error::failed(format!("pull {BASE}: no answer")))??;

    let packages = packages(java);
    let dockerfile = format!(
        "FROM {BASE}\nCOPY setup.sh /setup.sh\nRUN apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends {packages} && sh /setup.sh && rm /setup.sh\nSTOPSIGNAL SIGRTMIN+3\nCMD [\"/sbin/init\"]\n"
    );
    let mut tar = tar::Builder::new(Vec::new());
    add(&mut tar, "Dockerfile", dockerfile.as_bytes(), 0o644, 0)?;
    add(&mut tar, "setup.sh", SETUP.as_bytes(), 0o755, 0)?;
    let options = BuildImageOptionsBuilder::default()
        .dockerfile("Dockerfile")
        .t(tag)
        .rm(true)
        .labels(&HashMap::from([("septet.image", recipe(java))]))
        .build();
    let patient = engine.clone().with_timeout(BUILD_TIMEOUT);
    let mut progress = patient.build_image(options, None, Some(body_full(tar.into_inner()?.into())));
    let mut last = String::new();
    while let Some(step) = progress.next().await {
        match step {
            Ok(s) => last = s.stream.filter(|t| !t.trim().is_empty()).unwrap_or(last),
            Err(e) => return Err(explain(&format!("build: {}", last.trim()), e)),
        }
    }
    Ok(())
}

/// One shell, so that a user who is not root is asked for a password once at the most. The tree that it makes belongs to
/// root, so the same shell removes it, however it ends.
fn bootstrap_script(program: &Path, include: &str, work: &Path) -> String {
    let (program, work) = (program.display(), work.display());
    format!(
        "set -e\nroot={work}/root\n\
         trap 'umount $root/proc $root/sys 2>/dev/null || :; rm -rf --one-file-system $root' EXIT\ntrap 'exit 1' HUP INT TERM\n\
         {program} --variant=minbase --include={include} {SUITE} $root\ncp {work}/setup.sh $root/setup.sh\n\
         chroot $root /bin/sh /setup.sh\nrm $root/setup.sh\ntar -C $root --numeric-owner -cf {work}/root.tar .\n\
         chmod 0644 {work}/root.tar\n"
    )
}

async fn debootstrap(engine: &Engine, java: bool, say: &(dyn Fn(String) + Send + Sync)) -> Result<()> {
    let find = |name: &str| ["/usr/sbin", "/usr/bin", "/sbin"].iter().map(|d| Path::new(d).join(name)).find(|p| p.is_file());
    let Some(program) = find("debootstrap") else {
        return Err(
            Error::failed("debootstrap is not installed").hint("`sudo apt-get install debootstrap`, or give Docker access to a registry")
        );
    };
    let work = tempfile::Builder::new().prefix("septet-image-").tempdir()?;
    let archive = work.path().join("root.tar");
    std::fs::write(work.path().join("setup.sh"), SETUP)?;
    let packages = packages(java);
    let include = packages.replace(' ', ",");
    let script = bootstrap_script(program.as_path(), &include, work.path());
    let root_user = std::fs::metadata("/proc/self").is_ok_and(|m| std::os::unix::fs::MetadataExt::uid(&m) == 0);
    let mut command = if root_user { tokio::process::Command::new("/bin/sh") } else { tokio::process::Command::new("sudo") };
    if !root_user {
        command.args(["-n", "/bin/sh"]);
    }
    say(format!("debootstrap {SUITE} with {packages}"));
    let running =
        command.arg("-c").arg(&script).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true).output();
    let out = tokio::time::timeout(BUILD_TIMEOUT, running).await.map_err(|_| Error::failed("debootstrap: not done in time"))??;
    if !out.status.success() {
        let text = String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr);
        let tail: Vec<&str> = text.lines().rev().take(8).collect();
        let tail = tail.into_iter().rev().collect::<Vec<_>>().join("\n  ");
        return Err(Error::failed(format!("debootstrap failed:\n  {tail}"))
            .hint("without a network it needs a mirror that can be reached; is this user root, or has sudo without a password?"));
    }
    say("importing it into Docker".into());
    let file = tokio::fs::File::open(&archive).await?;
    let stream = futures_util::stream::try_unfold(file, |mut f| async move {
        use tokio::io::AsyncReadExt;
        let mut chunk = bytes::BytesMut::with_capacity(1024 * 1024);
        let n = f.read_buf(&mut chunk).await?;
        Ok::<_, std::io::Error>((n > 0).then(|| (chunk.freeze(), f)))
    });
    let options = CreateImageOptionsBuilder::default()
        .from_src("-")
        .repo(REPOSITORY)
        .tag(&recipe(java))
        .changes(vec!["CMD [\"/sbin/init\"]".into(), format!("LABEL septet.image={}", recipe(java))])
        .build();
    let patient = engine.clone().with_timeout(BUILD_TIMEOUT);
    patient
        .create_image(Some(options), Some(body_try_stream(stream)), None)
        .try_collect::<Vec<_>>()
        .await
        .map_err(|e| explain("import the image", e))?;
    Ok(())
}

const _: () = assert!(LOGIN.len() == 6, "SETUP names the login user");

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_bootstrap_that_fails_leaves_no_tree() {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("debootstrap");
        // Its fourth argument is the tree.
        std::fs::write(&program, "mkdir -p $4/etc && touch $4/etc/made && echo made && exit 7\n").unwrap();
        let script = bootstrap_script(Path::new(&format!("/bin/sh {}", program.display())), "a,b", dir.path());
        let out = std::process::Command::new("/bin/sh").arg("-c").arg(&script).output().unwrap();
        assert_eq!((out.status.code(), out.stdout.as_slice()), (Some(7), b"made\n".as_slice()), "{out:?}");
        assert!(!dir.path().join("root").exists());
    }
}
