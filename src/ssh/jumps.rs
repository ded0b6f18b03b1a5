//! Jump hosts of hosts that Septet did not make: one connection to each, over which all hosts behind it are reached. sshd refuses logins
//! beyond `MaxStartups` (10 at a time as it ships), so a connection for each host behind a jump host would fail for some of them.
//!
//! Invariant: of those that wait for the same jump host, one connects; where that fails, it fails for all that waited.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError},
    time::Instant,
};

use super::{Connection, Own, SshError};

/// What tells one way from another: login, address and port of each jump host on it.
type Way = Vec<(String, String, u16)>;

/// A jump host's connection, and when the last attempt ended that failed.
#[derive(Default)]
struct Slot {
    open: Option<Arc<Connection>>,
    failed: Option<(Instant, SshError)>,
}

/// Connections to jump hosts.
#[derive(Default)]
pub struct Jumps(std::sync::Mutex<HashMap<Way, Arc<tokio::sync::Mutex<Slot>>>>);

impl Jumps {
    fn slot(&self, hops: &[Own]) -> Arc<tokio::sync::Mutex<Slot>> {
        let way = hops.iter().map(|h| (h.user.clone(), h.host.clone(), h.port)).collect();
        self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(way).or_default().clone()
    }

    /// The connection to the last of these jump hosts, each reached through the one before; `None` where there is none.
    pub(super) async fn last(&self, hops: &[Own]) -> Result<Option<Arc<Connection>>, SshError> {
        let Some((hop, before)) = hops.split_last() else { return Ok(None) };
        let asked = Instant::now();
        let slot = self.slot(hops);
        let mut slot = slot.lock().await;
        if let Some(open) = slot.open.as_ref().filter(|c| !c.is_closed()) {
            return Ok(Some(open.clone()));
        }
        if let Some((_, e)) = slot.failed.as_ref().filter(|(at, _)| *at >= asked) {
            return Err(e.clone());
        }
        let opened = async {
            let through = Box::pin(self.last(before)).await?;
            Connection::open_hop(hop, through).await.map_err(|e| match e {
                // What a person has to decide is not buried.
                SshError::UnknownHost { .. } | SshError::HostKey { .. } | SshError::Config(_) => e,
                other => SshError::Jump { name: hop.place(), why: other.to_string() },
            })
        };
        match opened.await {
            Ok(connection) => {
                let connection = Arc::new(connection);
                *slot = Slot { open: Some(connection.clone()), failed: None };
                Ok(Some(connection))
            }
            Err(e) => {
                *slot = Slot { open: None, failed: Some((Instant::now(), e.clone())) };
                Err(e)
            }
        }
    }
}

/// Two ways are the same whatever is connected.
impl PartialEq for Jumps {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Jumps {}

impl std::fmt::Debug for Jumps {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Jumps")
    }
}
