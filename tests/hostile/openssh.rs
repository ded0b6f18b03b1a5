//! A transfer between two servers of OpenSSH's, on loopback, as the control host and a broker have them.

use std::{
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use russh::keys::{PrivateKey, ssh_key::LineEnding};
use septet::{
    inventory::{Group, HostId},
    ssh::{Cargo, Endpoint, Fleet, Lands},
};
use sha2::{Digest, Sha256};

use crate::ssh_server::new_key;

const SSHD: &str = "/usr/sbin/sshd";
const CONTROL: HostId = HostId::CONTROL;
const BROKER: HostId = HostId { group: Group::BROKERS, index: 1 };

/// Whether the test can run.
fn can_run(test: &str) -> bool {
    let there = Path::new(SSHD).exists();
    if !there {
        septet_testing::skip(test, &format!("{SSHD} is missing: `scripts/setup test` installs it"));
    }
    there
}

fn user() -> String {
    String::from_utf8(Command::new("id").arg("-un").output().unwrap().stdout).unwrap().trim().to_owned()
}

struct Sshd {
    process: Child,
    endpoint: Endpoint,
    log: PathBuf,
}

impl Drop for Sshd {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Sshd {
    /// A server that lets `key` log in; its `sudo` and `ssh` are those in `bin`.
    async fn start(dir: &Path, name: &str, key: &PrivateKey, bin: &Path) -> Self {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let (host_key, file) = (new_key(), |what: &str| dir.join(format!("{name}.{what}")));
        std::fs::write(file("key"), host_key.to_openssh(LineEnding::LF).unwrap().as_bytes()).unwrap();
        std::fs::set_permissions(file("key"), PermissionsExt::from_mode(0o600)).unwrap();
        std::fs::write(file("authorized"), key.public_key().to_openssh().unwrap()).unwrap();
        let config = format!(
            "ListenAddress 127.0.0.1:{port}\nHostKey {}\nAuthorizedKeysFile {}\nStrictModes no\nUsePAM no\nPidFile none\nPermitRootLogin yes\n\
             PasswordAuthentication no\nLogLevel DEBUG1\nSetEnv PATH={}:/usr/bin:/bin\n",
            file("key").display(),
            file("authorized").display(),
            bin.display()
        );
        std::fs::write(file("config"), config).unwrap();
        if user() == "root" {
            std::fs::create_dir_all("/run/sshd").unwrap();
        }
        let process =
            Command::new(SSHD).args(["-D", "-f"]).arg(file("config")).arg("-E").arg(file("log")).stdin(Stdio::null()).spawn().unwrap();
        let endpoint = Endpoint {
            name: name.into(),
            host: "127.0.0.1".into(),
            port,
            host_key: host_key.public_key().to_openssh().unwrap(),
            own: None,
        };
        for _ in 0..100 {
            if tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_ok() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Self { process, endpoint, log: file("log") }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }
}

fn executable(path: &Path, script: &str) {
    std::fs::write(path, script).unwrap();
    std::fs::set_permissions(path, PermissionsExt::from_mode(0o755)).unwrap();
}

struct Site {
    dir: tempfile::TempDir,
    control: Sshd,
    broker: Sshd,
    fleet: Fleet,
    digest: String,
}

impl Site {
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let bin = dir.path().join("bin");
        std::fs::create_dir(&bin).unwrap();
        // The user of the test is root to itself.
        executable(&bin.join("sudo"), "#!/bin/sh\n[ \"$1\" = -n ] && shift\nexec \"$@\"\n");
        let key = Arc::new(new_key());
        let control = Sshd::start(dir.path(), "control", &key, &bin).await;
        let broker = Sshd::start(dir.path(), "broker", &key, &bin).await;
        let endpoints = [(CONTROL, control.endpoint.clone()), (BROKER, broker.endpoint.clone())].into();
        let fleet = Fleet::new(endpoints, &user(), key, [].into());
        let bytes: Vec<u8> = (0..3_000_000u32).map(|i| (i / 7) as u8).collect();
        let digest: String = Sha256::digest(&bytes).iter().map(|b| format!("{b:02x}")).collect();
        std::fs::create_dir_all(dir.path().join("septet/store")).unwrap();
        std::fs::write(dir.path().join("septet/store/blob"), bytes).unwrap();
        Self { dir, control, broker, fleet, digest }
    }

    /// Both hosts are this machine: the file is replaced by itself, as another inode.
    async fn transfer(&self, digest: &str) -> Result<bool, String> {
        use std::os::unix::fs::MetadataExt;
        let path = self.dir.path().join("septet/store/blob");
        let inode = || std::fs::metadata(&path).unwrap().ino();
        let before = inode();
        let cargo = Cargo { path: path.to_str().unwrap(), digest, lands: Lands::Blob };
        self.fleet.relay(BROKER, cargo).await.map_err(|e| e.to_string())?;
        Ok(inode() != before)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn openssh_relays_with_a_signature_for_that_host() {
    if !can_run("openssh_relays_with_a_signature_for_that_host") {
        return;
    }
    let site = Site::start().await;
    for _ in 0..3 {
        assert_eq!(site.transfer(&site.digest).await, Ok(true), "{}\n{}", site.control.log(), site.broker.log());
    }
    assert!(!site.fleet.control().await.unwrap().cannot_relay());
    let log = site.broker.log();
    assert_eq!(log.matches("Accepted key").count() / 2, 3, "{log}");
    assert!(log.contains("publickey-hostbound-v00@openssh.com"), "{log}");
    // What arrives damaged is not put in place.
    let error = site.transfer(&"0".repeat(64)).await.unwrap_err();
    assert!(error.contains("damaged"), "{error}");
    site.fleet.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_openssh_that_does_not_name_the_host_gets_no_signature() {
    if !can_run("an_openssh_that_does_not_name_the_host_gets_no_signature") {
        return;
    }
    let site = Site::start().await;
    let ssh = site.dir.path().join("bin/ssh");
    executable(&ssh, "#!/bin/sh\nexec /usr/bin/ssh -o PubkeyAuthentication=unbound \"$@\"\n");
    let error = site.transfer(&site.digest).await.unwrap_err();
    assert!(error.contains("Permission denied") || error.contains("refused"), "{error}");
    assert!(site.fleet.control().await.unwrap().cannot_relay());
    assert!(!site.broker.log().contains("Accepted publickey"), "{}", site.broker.log());
    site.fleet.close().await;
}
