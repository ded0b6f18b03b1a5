//! Whether servers of a role understand those that take their place. Where they do not, a roll would stop half way: each one that
//! comes back stands alone. They are restarted together instead.
//!
//! Invariant: it only reads. A program on a host is searched for its mark, never run: a service that was taken over may have put
//! another one in its place.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use super::Cluster;
use crate::{
    engine::{self, bundle::Architecture, bundle::PeerProtocol},
    error::{Error, Result},
    health::ask_host,
    inventory::{Engine, HostId, Inventory, Role},
    observed::{HostState, Observed},
    ssh::Fleet,
};

/// How long a host may take to answer; the agent may have to be brought to it first.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// Arguments: unit, installed program, mark. Says which mark the running program has, and the installed one. What a process runs is
/// read as its own account: in a container root may not look at it. What cannot be read is not said, so it counts as not differing.
const SCRIPT: &str = r#"find_mark() { grep -a -o -m 1 -e "$1[0-9]*" | head -n 1; }
pid=$(systemctl show -p MainPID --value -- "$1")
if [ "${pid:-0}" != 0 ] && account=$(stat -c %U "/proc/$pid"); then
  as_account() { runuser -u "$account" -- head -c "$1" "/proc/$pid/exe" 2>/dev/null; }
  if [ -n "$(as_account 4 | tail -c +2)" ]; then echo "running $(as_account 268435456 | find_mark "$3")"; fi
fi
if [ -r "$2" ]; then echo "installed $(head -c 268435456 -- "$2" | find_mark "$3")"; fi
echo end"#;

/// What a host has. `None`: nothing runs, or is installed; `Some(None)`: a program from before there was a mark.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Spoken {
    running: Option<Option<PeerProtocol>>,
    installed: Option<Option<PeerProtocol>>,
}

impl Spoken {
    /// From what the script prints; `None` if that is not all of it.
    fn parse(text: &str) -> Option<Self> {
        let of = |word: &str| text.lines().find_map(|l| l.strip_prefix(word)).map(|rest| PeerProtocol::find(rest.as_bytes()));
        text.lines().any(|l| l == "end").then(|| Self { running: of("running"), installed: of("installed") })
    }

    /// Whether the program that is to run does not speak what the running one does.
    fn differs(self, wanted: Option<Option<PeerProtocol>>) -> bool {
        matches!((self.running, wanted), (Some(is), Some(wanted)) if is != wanted)
    }
}

/// Name of the bundled program of a role.
fn program(role: Role) -> Option<&'static str> {
    match role {
        Role::Control | Role::Plain => None,
        Role::Coordinator => Some("septet-coordinator"),
        Role::Broker => Some("septet-broker"),
    }
}

async fn ask(inventory: &Inventory, fleet: &Arc<Fleet>, ids: &[HostId]) -> Result<BTreeMap<HostId, Spoken>> {
    let name = |id: HostId| inventory.hosts.iter().find(|h| h.id == id).map(|h| h.name.clone()).unwrap_or_default();
    let asks = ids.iter().filter_map(|id| Some((*id, program(id.role())?, inventory.engine.unit(id.role())?))).map(
        |(id, program, unit)| async move {
            let installed = format!("{}/{program}", engine::PROGRAM_DIR);
            let argv = ["sh", "-c", SCRIPT, "sh", unit, &installed, PeerProtocol::MARK];
            let failed = |why: String| {
                Error::failed(format!("{}: cannot ask which peer protocol {program} speaks: {why}", name(id)))
                    .hint("nothing was restarted; `septet health` says more")
            };
            let answer = tokio::time::timeout(ANSWER_TIMEOUT, ask_host(fleet, id, Some("root"), &argv)).await;
            let said = answer.map_err(|_| failed("no answer in time".into()))?.map_err(|e| failed(e.to_string()))?;
            Spoken::parse(&said).map(|s| (id, s)).ok_or_else(|| failed("the answer is incomplete".into()))
        },
    );
    fleet.all(asks).await.into_iter().collect()
}

/// Whether hosts that are due for a restart would come back with another protocol. The new program is installed already.
pub async fn differ(inventory: &Inventory, fleet: &Arc<Fleet>, role: Role, due: &[HostId]) -> Result<bool> {
    if !matches!(inventory.engine, Engine::Bundled) || program(role).is_none() {
        return Ok(false);
    }
    Ok(ask(inventory, fleet, due).await?.values().any(|s| s.differs(s.installed)))
}

/// For `plan`: the roles whose hosts run another protocol than the bundle's programs speak.
pub async fn differing(cluster: &Cluster, observed: &Observed, fleet: &Arc<Fleet>) -> Result<Vec<Role>> {
    let mut roles = Vec::new();
    if !matches!(cluster.inventory.engine, Engine::Bundled) {
        return Ok(roles);
    }
    for role in [Role::Coordinator, Role::Broker] {
        let hosts = || observed.hosts.iter().filter(|h| h.id.role() == role && h.state == HostState::Running);
        let ids: Vec<HostId> = hosts().map(|h| h.id).collect();
        let spoken = ask(&cluster.inventory, fleet, &ids).await?;
        for host in hosts() {
            let bundle = cluster.bundles.of(host.architecture.unwrap_or(Architecture::NATIVE))?;
            let wanted = if role == Role::Broker { &bundle.broker } else { &bundle.coordinator };
            if spoken.get(&host.id).is_some_and(|s| s.differs(Some(wanted.peer_protocol))) {
                roles.push(role);
                break;
            }
        }
    }
    Ok(roles)
}

/// What the user should know of a restart of all.
pub fn note(role: Role) -> String {
    format!("{}: the new version speaks another peer protocol: all restart together", role.hosts())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn only_what_runs_can_differ_from_what_is_installed() {
        let differs = |text: &str| {
            let s = Spoken::parse(text).unwrap();
            s.differs(s.installed)
        };
        assert!(!differs("running septet-peer-protocol=3\ninstalled septet-peer-protocol=3\nend\n"));
        assert!(differs("running septet-peer-protocol=3\ninstalled septet-peer-protocol=4\nend\n"));
        // From before there was a mark, and back.
        assert!(differs("running \ninstalled septet-peer-protocol=3\nend\n"));
        assert!(differs("running septet-peer-protocol=3\ninstalled \nend\n"));
        assert!(!differs("running \ninstalled \nend\n"));
        // Nothing runs; nothing is installed.
        assert!(!differs("installed septet-peer-protocol=4\nend\n"));
        assert!(!differs("running septet-peer-protocol=3\nend\n"));
        assert_eq!(Spoken::parse("running septet-peer-protocol=3\n"), None);
    }
}
