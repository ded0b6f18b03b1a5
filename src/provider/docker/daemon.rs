//! Which daemon is used: as the `docker` command decides it, where nothing is said and the usual socket is not there; and whether
//! the ports that it publishes can be reached from here.
//!
//! Invariant: only files and the environment are read; nothing is asked of a daemon.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::error::{Error, Result};

/// The default address of Docker.
const USUAL: &str = "/var/run/docker.sock";

/// A daemon that was found beside the usual place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// where it listens
    pub host: String,
    /// source of the setting
    pub why: String,
}

/// What to do about a daemon on another machine.
const ELSEWHERE_HINT: &str = "run septet on that machine, or use the Docker of this one: unset DOCKER_HOST and DOCKER_CONTEXT";

/// The daemon of `DOCKER_HOST`, of the usual socket, or what is found in this user's surroundings; `None` where there is no sign of one.
pub fn find() -> Option<Found> {
    if let Some(host) = std::env::var("DOCKER_HOST").ok().filter(|h| !h.is_empty()) {
        return Some(Found { host, why: "DOCKER_HOST".into() });
    }
    if Path::new(USUAL).exists() {
        return Some(Found { host: format!("unix://{USUAL}"), why: "the usual socket".into() });
    }
    let dir = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    let home = dirs::home_dir();
    let config = dir("DOCKER_CONFIG").or_else(|| home.as_ref().map(|h| h.join(".docker")));
    let context = std::env::var("DOCKER_CONTEXT").ok().filter(|c| !c.is_empty());
    search(config.as_deref(), context, dir("XDG_RUNTIME_DIR").as_deref(), home.as_deref())
}

impl Found {
    /// Whether it is where Docker usually is: nothing worth telling.
    pub fn is_usual(&self) -> bool {
        self.host.strip_prefix("unix://") == Some(USUAL)
    }

    /// Refuses a daemon on another machine: hosts publish their ports on the loopback address of Docker's machine.
    pub fn must_be_here(&self) -> Result<()> {
        let Self { host, why } = self;
        let (scheme, rest) = host.split_once("://").unwrap_or(("", host));
        let refused = |reason: &str| Err(Error::failed(format!("Docker at {host} ({why}): {reason}")).hint(ELSEWHERE_HINT));
        match scheme {
            "unix" | "npipe" => Ok(()),
            "tcp" | "http" | "https" => {
                let name = rest.split('/').next().unwrap_or_default();
                let name = name.rsplit_once(':').map_or(name, |(n, _)| n).trim_matches(['[', ']']);
                let here = name == "localhost" || name.parse::<std::net::IpAddr>().is_ok_and(|a| a.is_loopback());
                if here {
                    return Ok(());
                }
                refused(
                    "another machine; the ports of a cluster are published on 127.0.0.1 of that machine, where this one cannot reach them",
                )
            }
            "ssh" => refused("Docker over SSH is not supported; the ports of a cluster are published on 127.0.0.1 of that machine"),
            _ => refused("not an address of Docker: unix://…, or tcp:// to this machine"),
        }
    }
}

/// The id of the Docker container that a process runs in, from its `/proc/self/mountinfo`: Docker mounts some files of `/etc` from a
/// directory with that name.
pub fn own_container(mountinfo: &str) -> Option<String> {
    let is_id = |w: &&str| w.len() == 64 && w.bytes().all(|b| b.is_ascii_hexdigit());
    mountinfo.lines().find_map(|line| {
        let mut fields = line.split(' ').skip(3);
        let (root, target) = (fields.next()?, fields.next()?);
        let ours = ["/etc/hostname", "/etc/hosts", "/etc/resolv.conf"].contains(&target) && root.contains("/containers/");
        ours.then(|| root.split('/').find(is_id)).flatten().map(str::to_owned)
    })
}

/// What is wrong with running inside of a container of the daemon that makes the hosts.
pub fn inside(name: &str) -> Error {
    Error::failed(format!(
        "septet runs in the container {name} of the same Docker: the ports of a cluster are published on 127.0.0.1 of Docker's machine, \
         not in this container"
    ))
    .hint("run septet on Docker's machine, or this container with `--network host`")
}

/// The current context's endpoint, else a socket of this user's own.
fn search(config: Option<&Path>, context: Option<String>, runtime: Option<&Path>, home: Option<&Path>) -> Option<Found> {
    if let Some(found) = config.and_then(|c| of_context(c, context)) {
        return Some(found);
    }
    let sockets = [runtime.map(|r| r.join("docker.sock")), home.map(|h| h.join(".docker/run/docker.sock"))];
    let socket = sockets.into_iter().flatten().find(|s| s.exists())?;
    Some(Found { host: format!("unix://{}", socket.display()), why: "a socket of this user's".into() })
}

fn of_context(config: &Path, context: Option<String>) -> Option<Found> {
    let read = |path: &Path| -> Option<Value> { serde_json::from_str(&std::fs::read_to_string(path).ok()?).ok() };
    let name = match context {
        Some(name) => name,
        None => read(&config.join("config.json"))?.get("currentContext")?.as_str()?.to_owned(),
    };
    // Directories have names that are digests; which context it is stands in the file.
    let metas = std::fs::read_dir(config.join("contexts/meta")).ok()?;
    let meta = metas.flatten().filter_map(|d| read(&d.path().join("meta.json"))).find(|m| m["Name"] == name.as_str())?;
    let host = meta.pointer("/Endpoints/docker/Host")?.as_str().filter(|h| !h.is_empty())?;
    Some(Found { host: host.to_owned(), why: format!("the docker context `{name}`") })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_daemon_elsewhere_is_refused_with_the_reason() {
        let check = |host: &str| Found { host: host.into(), why: "DOCKER_HOST".into() }.must_be_here();
        for here in ["unix:///var/run/docker.sock", "tcp://localhost:2375", "tcp://127.0.0.1:2375", "tcp://[::1]:2375", "http://127.0.0.1"]
        {
            assert_eq!(check(here), Ok(()), "{here}");
        }
        for (elsewhere, reason) in [
            ("tcp://docker:2376", "another machine"),
            ("tcp://10.0.0.7:2375", "another machine"),
            ("tcp://127.0.0.1.example.com:2375", "another machine"),
            ("ssh://me@there", "over SSH is not supported"),
            ("fd://", "not an address of Docker"),
            ("nonsense", "not an address of Docker"),
        ] {
            let e = check(elsewhere).unwrap_err();
            assert!(e.message.contains(reason) && e.message.contains("DOCKER_HOST") && e.hint.is_some(), "{elsewhere}: {e}");
        }
    }

    #[test]
    fn the_container_of_this_process_is_known_by_its_mounts() {
        let id = "8a798b0c".repeat(8);
        let line = |root: &str, target: &str| format!("620 601 8:1 {root} {target} rw,relatime - ext4 /dev/sda1 rw");
        let inside = line(&format!("/var/lib/docker/containers/{id}/hostname"), "/etc/hostname");
        assert_eq!(own_container(&format!("{}\n{inside}\n", line("/", "/"))), Some(id.clone()));
        assert_eq!(own_container(&line("/", "/")), None);
        // A user's own mount of such a path says nothing.
        assert_eq!(own_container(&line(&format!("/var/lib/docker/containers/{id}"), "/mnt")), None);
        assert_eq!(own_container("nonsense"), None);
    }

    #[test]
    fn the_current_context_then_sockets_of_the_users_own() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        let (config, runtime) = (dir.path().join(".docker"), dir.path().join("run"));
        let ask = |context: Option<&str>| search(Some(&config), context.map(str::to_owned), Some(&runtime), Some(dir.path()));
        let host = |context: Option<&str>| ask(context).map(|f| f.host);
        assert_eq!(host(None), None);
        write(".docker/run/docker.sock", "");
        assert_eq!(host(None), Some(format!("unix://{}/.docker/run/docker.sock", dir.path().display())));
        write("run/docker.sock", "");
        assert_eq!(host(None), Some(format!("unix://{}/run/docker.sock", dir.path().display())));
        write(".docker/contexts/meta/0a/meta.json", "no JSON");
        write(".docker/contexts/meta/1b/meta.json", r#"{"Name": "b", "Endpoints": {"docker": {"Host": "unix:///b.sock"}}}"#);
        write(".docker/contexts/meta/2c/meta.json", r#"{"Name": "c", "Endpoints": {"docker": {"Host": "tcp://c:1"}}}"#);
        write(".docker/config.json", r#"{"currentContext": "c"}"#);
        assert_eq!(ask(None).unwrap(), Found { host: "tcp://c:1".into(), why: "the docker context `c`".into() });
        assert_eq!(host(Some("b")).as_deref(), Some("unix:///b.sock"));
        // One that is not there decides nothing.
        write(".docker/config.json", r#"{"currentContext": "default"}"#);
        assert_eq!(host(None), Some(format!("unix://{}/run/docker.sock", dir.path().display())));
    }
}
