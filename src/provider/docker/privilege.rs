//! The least privilege with which systemd boots on this daemon, found by trying; what was found is remembered per
//! daemon and image.

use std::{collections::HashMap, time::Duration};

use bollard::{
    Docker as Engine,
    container::LogOutput,
    exec::StartExecResults,
    models::{ContainerCreateBody, ExecConfig, HostConfig, HostConfigCgroupnsModeEnum},
    query_parameters::{ListContainersOptionsBuilder, RemoveContainerOptionsBuilder},
};
use futures_util::StreamExt;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep};

use super::errors::explain;
use crate::{
    error::{Error, Result},
    state::State,
};

/// How long a container may take to boot in a probe.
const BOOT_TIMEOUT: Duration = Duration::from_secs(20);
/// Where it is remembered, in the state directory.
const MEMORY: &str = "privilege.json";
/// How much of a container's answer is read.
const MAX_ANSWER_BYTES: usize = 64 * 1024;
/// Label of a probe's container, with the number of the process that made it.
const PROBE: &str = "septet.probe";

/// Privileges that a node gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Privilege {
    /// `CAP_SYS_ADMIN` under Docker's own seccomp profile
    SysAdmin,
    /// `CAP_SYS_ADMIN` without seccomp and AppArmor
    SysAdminUnconfined,
    /// the same with the host's cgroup tree, for daemons that cannot give a private one
    HostCgroup,
    /// everything
    Privileged,
}

impl Privilege {
    const ALL: [Privilege; 4] = [Privilege::SysAdmin, Privilege::SysAdminUnconfined, Privilege::HostCgroup, Privilege::Privileged];

    /// For `-v`.
    pub fn describe(self) -> &'static str {
        match self {
            Privilege::SysAdmin => "CAP_SYS_ADMIN, Docker's seccomp profile, private cgroup namespace",
            Privilege::SysAdminUnconfined => "CAP_SYS_ADMIN, no seccomp profile, private cgroup namespace",
            Privilege::HostCgroup => "CAP_SYS_ADMIN, no seccomp profile, the host's cgroup tree",
            Privilege::Privileged => "privileged",
        }
    }

    /// Sets a container's configuration.
    pub fn apply(self, config: &mut HostConfig) {
        let tmpfs = |p: &str| (p.to_owned(), "rw,nosuid,nodev,mode=755".to_owned());
        config.tmpfs =
            Some(HashMap::from([tmpfs("/run"), tmpfs("/run/lock"), ("/tmp".to_owned(), "rw,nosuid,nodev,mode=1777".to_owned())]));
        config.cgroupns_mode = Some(HostConfigCgroupnsModeEnum::PRIVATE);
        config.cap_add = Some(vec!["SYS_ADMIN".into()]);
        // A node makes no device nodes, no raw packets and no files with capabilities.
        config.cap_drop = Some(["MKNOD", "NET_RAW", "SETFCAP"].map(str::to_owned).to_vec());
        let unconfined = || Some(vec!["seccomp=unconfined".to_owned(), "apparmor=unconfined".to_owned()]);
        match self {
            Privilege::SysAdmin => {}
            Privilege::SysAdminUnconfined => config.security_opt = unconfined(),
            Privilege::HostCgroup => {
                config.security_opt = unconfined();
                config.cgroupns_mode = Some(HostConfigCgroupnsModeEnum::HOST);
                config.binds = Some(vec!["/sys/fs/cgroup:/sys/fs/cgroup:rw".into()]);
            }
            Privilege::Privileged => config.privileged = Some(true),
        }
    }
}

/// Systemd. With cgroup v2 Docker mounts the container's own part of the tree read-only, where systemd cannot make its
/// groups; with `CAP_SYS_ADMIN` a container may change that for its own mount, and does not need the host's tree.
const INIT: &str = "if [ -e /sys/fs/cgroup/cgroup.controllers ]; then mount -o remount,rw /sys/fs/cgroup 2>/dev/null; fi; exec /sbin/init";

/// What a node runs.
pub fn command() -> ContainerCreateBody {
    let cmd = ["/bin/sh", "-c", INIT].map(str::to_owned).to_vec();
    ContainerCreateBody { cmd: Some(cmd), env: Some(vec!["container=docker".into()]), ..Default::default() }
}

/// Finds the privilege for an image on this daemon.
pub async fn find(engine: &Engine, image: &str, say: &(dyn Fn(String) + Send + Sync)) -> Result<Privilege> {
    sweep(engine).await;
    let info = engine.info().await.map_err(|e| explain("cannot ask Docker about itself", e))?;
    let id = engine.inspect_image(image).await.map_err(|e| explain("cannot inspect the node image", e))?.id.unwrap_or_default();
    // The same daemon with the other cgroups, after a change of the kernel's command line, is another one.
    let cgroups = info.cgroup_version.map(|v| v.to_string()).unwrap_or_default();
    let key = memory_key(&info.id.unwrap_or_default(), &info.server_version.unwrap_or_default(), &cgroups, &id);
    let memory = State::open()?;
    let mut known: HashMap<String, Privilege> = memory.read(MEMORY)?.and_then(|t| serde_json::from_str(&t).ok()).unwrap_or_default();
    if let Some(p) = known.get(&key) {
        return Ok(*p);
    }
    let mut reasons = Vec::new();
    for candidate in Privilege::ALL {
        match probe(engine, image, candidate).await {
            Ok(()) => {
                say(format!("containers boot with: {}", candidate.describe()));
                known.insert(key, candidate);
                memory.write(MEMORY, &serde_json::to_string(&known).unwrap_or_default())?;
                return Ok(candidate);
            }
            Err(reason) => reasons.push(format!("{}: {reason}", candidate.describe())),
        }
    }
    Err(Error::failed(format!("systemd boots in no container on this Docker daemon:\n  {}", reasons.join("\n  ")))
        .hint("rootless Docker and some sandboxes do not allow it; a virtual machine with Docker does"))
}

/// Under what it is remembered.
fn memory_key(daemon: &str, version: &str, cgroups: &str, image: &str) -> String {
    format!("{daemon} {version} cgroup-v{cgroups} {image}")
}

/// Removes probes of runs that were killed before they could do so themselves.
async fn sweep(engine: &Engine) {
    let labelled = HashMap::from([("label".to_owned(), vec![PROBE.to_owned()])]);
    let options = ListContainersOptionsBuilder::default().all(true).filters(&labelled).build();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_secs() as i64);
    for c in engine.list_containers(Some(options)).await.unwrap_or_default() {
        let pid = c.labels.as_ref().and_then(|l| l.get(PROBE)).cloned().unwrap_or_default();
        let ended = cfg!(target_os = "linux") && !std::path::Path::new("/proc").join(&pid).exists();
        let old = c.created.is_some_and(|t| now - t > 2 * BOOT_TIMEOUT.as_secs() as i64);
        if ended || old {
            let options = RemoveContainerOptionsBuilder::default().force(true).v(true).build();
            let _ = engine.remove_container(&c.id.unwrap_or_default(), Some(options)).await;
        }
    }
}

async fn probe(engine: &Engine, image: &str, privilege: Privilege) -> std::result::Result<(), String> {
    let mut host_config = HostConfig { network_mode: Some("none".into()), ..Default::default() };
    privilege.apply(&mut host_config);
    let labels = HashMap::from([(PROBE.to_owned(), std::process::id().to_string())]);
    let body = ContainerCreateBody { image: Some(image.to_owned()), labels: Some(labels), host_config: Some(host_config), ..command() };
    let made = engine.create_container(None, body).await.map_err(|e| explain("create", e).message)?;
    let result = match engine.start_container(&made.id, None).await {
        Ok(()) => booted(engine, &made.id).await,
        Err(e) => Err(explain("start", e).message),
    };
    let options = RemoveContainerOptionsBuilder::default().force(true).v(true).build();
    let _ = engine.remove_container(&made.id, Some(options)).await;
    result
}

/// Booted, with a host name that can be set: what a node must be able to do.
async fn booted(engine: &Engine, id: &str) -> std::result::Result<(), String> {
    let until = Instant::now() + BOOT_TIMEOUT;
    let mut last = "it did not boot in time".to_owned();
    while Instant::now() < until {
        let running = engine.inspect_container(id, None).await.ok().and_then(|c| c.state?.running).unwrap_or(false);
        if !running {
            return Err("it ended while booting".into());
        }
        match exec(engine, id, "systemctl is-system-running; hostname septet-probe && hostname").await {
            Ok(out) => {
                let state = out.lines().next().unwrap_or_default().to_owned();
                if matches!(state.as_str(), "running" | "degraded") {
                    return if out.contains("septet-probe") { Ok(()) } else { Err("the host name cannot be set".into()) };
                }
                last = format!("systemd reports `{state}`");
            }
            Err(e) => last = e,
        }
        sleep(Duration::from_millis(200)).await;
    }
    Err(last)
}

/// Runs a script in a container, for 5 s at the most; answers with the beginning of its standard output.
pub async fn exec(engine: &Engine, id: &str, script: &str) -> std::result::Result<String, String> {
    let config = ExecConfig {
        cmd: Some(vec!["sh".into(), "-c".into(), script.into()]),
        attach_stdout: Some(true),
        attach_stderr: Some(true),
        ..Default::default()
    };
    let made = engine.create_exec(id, config).await.map_err(|e| e.to_string())?;
    let StartExecResults::Attached { mut output, .. } = engine.start_exec(&made.id, None).await.map_err(|e| e.to_string())? else {
        return Err("not attached".into());
    };
    let mut text = String::new();
    let read = async {
        while let Some(Ok(m)) = output.next().await {
            if text.len() > MAX_ANSWER_BYTES {
                break;
            }
            if let LogOutput::StdOut { message } = m {
                text.push_str(&String::from_utf8_lossy(&message));
            }
        }
    };
    let _ = tokio::time::timeout(Duration::from_secs(5), read).await;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_cgroup_version_is_another_daemon() {
        assert_ne!(memory_key("d", "29", "1", "i"), memory_key("d", "29", "2", "i"));
    }
}
