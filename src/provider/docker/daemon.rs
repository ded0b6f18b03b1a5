//! Which daemon is used: as the `docker` command decides it, where nothing is said and the usual socket is not there.
//!
//! Invariant: only files are read; nothing is asked of a daemon.

use std::path::{Path, PathBuf};

use serde_json::Value;

/// Where Docker is, if nobody says something else.
const USUAL: &str = "/var/run/docker.sock";

/// A daemon that was found beside the usual place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// where it listens
    pub host: String,
    /// who says so
    pub why: String,
}

/// What is found in this user's surroundings; `None` where `DOCKER_HOST` or the usual socket decides.
pub fn find() -> Option<Found> {
    if std::env::var_os("DOCKER_HOST").is_some_and(|h| !h.is_empty()) || Path::new(USUAL).exists() {
        return None;
    }
    let dir = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    let home = dirs::home_dir();
    let config = dir("DOCKER_CONFIG").or_else(|| home.as_ref().map(|h| h.join(".docker")));
    let context = std::env::var("DOCKER_CONTEXT").ok().filter(|c| !c.is_empty());
    search(config.as_deref(), context, dir("XDG_RUNTIME_DIR").as_deref(), home.as_deref())
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
