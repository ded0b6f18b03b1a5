//! The broker's session with the coordinator: how it begins, is registered, is kept, and ends.
//!
//! Invariant: a session is kept until the coordinator has ended it. What was under way on a connection that is lost is
//! tried again within the same session; only a session that has ended is replaced, with a new registration.

use std::{
    fs, io,
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use septet_zookeeper as zk;

use super::{config_changes, election::Election, image::OURS, path};
use crate::{
    broker::{Broker, StartError},
    config::Listener,
};

/// How persistent znodes are made.
pub const PERSISTENT: zk::CreateOptions<'static> = zk::CreateMode::Persistent.with_acls(zk::Acls::anyone_all());

/// Why a session ended.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// The coordinator.
    #[error("coordinator: {0}")]
    Zookeeper(#[from] zk::Error),
    /// The log directory belongs elsewhere.
    #[error("{0}")]
    Directory(#[from] StartError),
    /// The number is taken.
    #[error("broker.id {0} is registered by another broker")]
    Taken(i32),
    /// What is written at `/cluster/id` names no cluster.
    #[error("coordinator: {path} is no JSON object with an id: {0:?}", path = path::CLUSTER_ID)]
    ClusterId(String),
    /// The session's time is over.
    #[error("the session with the coordinator has ended")]
    Ended,
}

/// Success, also when the node is there already.
pub fn ignore_exists<T>(result: Result<T, zk::Error>) -> Result<(), zk::Error> {
    match result {
        Ok(_) | Err(zk::Error::NodeExists) => Ok(()),
        Err(e) => Err(e),
    }
}

/// Milliseconds since 1970, as znodes have them.
pub fn now_ms() -> String {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis()).to_string()
}

/// Keeps a session for as long as the broker runs. Ends only with an error that another try cannot mend.
pub async fn run(broker: Arc<Broker>) -> SessionError {
    loop {
        let error = match session(&broker).await {
            Ok(never) => match never {},
            Err(e) => e,
        };
        broker.zookeeper.send_replace(None);
        match error {
            SessionError::Directory(_) | SessionError::Taken(_) => return error,
            other => tracing::warn!("{other}; a new session begins"),
        }
        tokio::time::sleep(TRY_AGAIN).await;
    }
}

/// Pause before something is tried again.
const TRY_AGAIN: Duration = Duration::from_millis(300);
/// Longest time for leaving, when the coordinator does not answer.
const LEAVE: Duration = Duration::from_secs(3);

/// Takes back this broker's registration, and its place as the controller, so that nobody waits for the end of a
/// session that is not used any more. [`run`] must have been ended before.
pub async fn leave(broker: &Broker) {
    let Some(client) = broker.zookeeper.send_replace(None) else {
        return;
    };
    let registration = format!("{}/{}", path::BROKER_IDS, broker.id());
    let work = async {
        for at in [registration.as_str(), path::CONTROLLER] {
            if let Ok(Some(stat)) = client.check_stat(at).await
                && stat.ephemeral_owner == client.session_id().0
                && let Err(e) = client.delete(at, Some(stat.version)).await
            {
                tracing::warn!("{at} is not taken back: {e}");
            }
        }
    };
    if tokio::time::timeout(LEAVE, work).await.is_err() {
        tracing::warn!("the coordinator does not answer; others notice when the session's time is over");
    }
}

enum Never {}

async fn session(broker: &Arc<Broker>) -> Result<Never, SessionError> {
    let all = &broker.config.zookeeper;
    let (servers, root) = all.split_at(all.find('/').unwrap_or(all.len()));
    let mut client =
        zk::Client::connector().with_session_timeout(Duration::from_millis(broker.config.zookeeper_session_ms)).connect(servers).await?;
    // As Kafka does, the root below which everything lies is made if it is not there.
    let root = root.trim_end_matches('/');
    if !root.is_empty() {
        client.mkdir(root, &PERSISTENT).await?;
        client = client.chroot(root).map_err(|_| zk::Error::BadArguments("not a path for a root"))?;
    }
    let mut state = client.state_watcher();
    while let Err(e) = prepare(broker, &client).await {
        try_again(&state, e).await?;
    }
    while let Err(e) = register(broker, &client).await {
        try_again(&state, e).await?;
    }
    broker.zookeeper.send_replace(Some(client.clone()));
    let mut follower = Election::new(broker.clone(), client);
    loop {
        while let Err(e) = follower.follow().await {
            try_again(&state, e).await?;
        }
        tokio::select! {
            () = follower.changed() => {}
            next = state.changed() => {
                if next.is_terminated() {
                    return Err(SessionError::Ended);
                }
                // Watches may have been lost with the connection.
                follower.forget_watches();
            }
        }
    }
}

/// Waits before another attempt within the session; fails if time does not mend the reason, or the session has ended.
async fn try_again(state: &zk::StateWatcher, error: SessionError) -> Result<(), SessionError> {
    match error {
        SessionError::Zookeeper(_) if state.peek_state().is_terminated() => Err(SessionError::Ended),
        SessionError::Zookeeper(e) => {
            tracing::warn!("coordinator: {e}; the session goes on, trying again");
            tokio::time::sleep(TRY_AGAIN).await;
            Ok(())
        }
        other => Err(other),
    }
}

/// Makes what Kafka makes at its start, and finds or gives the cluster's id.
async fn prepare(broker: &Broker, client: &zk::Client) -> Result<(), SessionError> {
    for p in path::PERSISTENT {
        client.mkdir(p, &PERSISTENT).await?;
    }
    let id = cluster_id(broker, client).await?;
    broker.claim_directory(&id)?;
    // Addresses that are set at run time are registered from the beginning.
    config_changes::read_broker(client, broker).await?;
    Ok(())
}

/// Reads the cluster's id, or gives it one; a directory's id wins over a new one, so that a coordinator that lost
/// its data does not make every broker a stranger.
async fn cluster_id(broker: &Broker, client: &zk::Client) -> Result<String, SessionError> {
    loop {
        match client.get_data(path::CLUSTER_ID).await {
            Ok((data, _)) => {
                let value: serde_json::Value = serde_json::from_slice(&data).unwrap_or_default();
                return match value["id"].as_str() {
                    Some(id) if is_cluster_id(id) => Ok(id.to_owned()),
                    _ => Err(SessionError::ClusterId(String::from_utf8_lossy(&data).chars().take(100).collect())),
                };
            }
            Err(zk::Error::NoNode) => {}
            Err(e) => return Err(e.into()),
        }
        let id = broker.stored_cluster_id()?.unwrap_or_else(|| URL_SAFE_NO_PAD.encode(uuid::Uuid::new_v4().as_bytes()));
        client.mkdir("/cluster", &PERSISTENT).await?;
        let data = serde_json::json!({ "version": "1", "id": id }).to_string();
        ignore_exists(client.create(path::CLUSTER_ID, data.as_bytes(), &PERSISTENT).await)?;
    }
}

/// What can be the id of a cluster: it becomes a line of `meta.properties`.
fn is_cluster_id(id: &str) -> bool {
    (1..=128).contains(&id.len()) && id.chars().all(|c| c.is_ascii_graphic())
}

/// First line of the file that a session is remembered in: the version of its format.
const MEMORY_VERSION: &str = "version=0";

/// Writes down the session that owns this broker's registration.
fn remember(memory: &Path, session: i64) -> Result<(), StartError> {
    match fs::write(memory, format!("{MEMORY_VERSION}\nsession={session}\n")) {
        // Not known to the next run, which then waits for the end of the session.
        Err(e) if matches!(e.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) => {
            tracing::warn!("{}: {e}", memory.display());
            Ok(())
        }
        done => done.map_err(|source| StartError::Io { path: memory.to_owned(), source }),
    }
}

/// The session that owned this broker's registration in an earlier run. A file without a version holds the number alone.
fn remembered(memory: &Path) -> Option<i64> {
    let text = fs::read_to_string(memory).ok()?;
    match text.split_once('\n') {
        Some((MEMORY_VERSION, rest)) => rest.trim().strip_prefix("session=")?.parse().ok(),
        _ => text.trim().parse().ok(),
    }
}

fn addresses(listeners: &[Listener]) -> Vec<String> {
    listeners.iter().map(|l| format!("{}://{}:{}", l.name, l.host, l.port)).collect()
}

/// The data of this broker's registration.
fn registration(broker: &Broker) -> String {
    let config = broker.dynamic.get().config.clone();
    let map: serde_json::Map<String, serde_json::Value> = config.advertised.iter().map(|l| (l.name.clone(), "PLAINTEXT".into())).collect();
    let first = &config.advertised[0];
    let mut data = serde_json::json!({
        "features": {}, "listener_security_protocol_map": map, "endpoints": addresses(&config.advertised), "jmx_port": -1,
        "port": first.port, "host": first.host, "version": 5, "timestamp": now_ms(),
    });
    data[OURS] = true.into();
    if let Some(rack) = &config.rack {
        data["rack"] = rack.as_str().into();
    }
    data.to_string()
}

/// Writes this broker's registration anew, with the addresses that it advertises now, as KafkaZkClient.updateBrokerInfo. One that begins
/// later has them anyway.
pub async fn update_registration(broker: &Broker) {
    let at = format!("{}/{}", path::BROKER_IDS, broker.id());
    loop {
        let Some(client) = broker.zookeeper.borrow().clone() else { return };
        let done = match client.check_stat(&at).await {
            Ok(Some(stat)) if stat.ephemeral_owner == client.session_id().0 => {
                client.set_data(&at, registration(broker).as_bytes(), Some(stat.version)).await.map(drop)
            }
            other => other.map(drop),
        };
        match done {
            Ok(()) | Err(zk::Error::NoNode) => return,
            Err(e) => tracing::warn!("registration: {e}; trying again"),
        }
        tokio::time::sleep(TRY_AGAIN).await;
    }
}

/// Registers this broker. What an earlier run of this very broker left (it remembers its session) is taken away;
/// another broker's registration is waited for, as long as a dead one's can last.
pub async fn register(broker: &Broker, client: &zk::Client) -> Result<(), SessionError> {
    let memory = broker.config.log_dir.join(".zookeeper-session");
    let at = format!("{}/{}", path::BROKER_IDS, broker.id());
    let data = registration(broker);
    let ephemeral = zk::CreateMode::Ephemeral.with_acls(zk::Acls::anyone_all());
    let until = tokio::time::Instant::now() + Duration::from_millis(broker.config.zookeeper_session_ms * 2);
    loop {
        let mine = client.session_id().0;
        let old = remembered(&memory);
        match client.create(&at, data.as_bytes(), &ephemeral).await {
            Ok(created) => {
                broker.set_epoch(created.stat.czxid);
                remember(&memory, mine)?;
                tracing::info!(
                    "registered as broker {} with {}",
                    broker.id(),
                    addresses(&broker.dynamic.get().config.advertised).join(",")
                );
                return Ok(());
            }
            Err(zk::Error::NodeExists) => {}
            Err(e) => return Err(e.into()),
        }
        match client.check_stat(&at).await? {
            None => continue,
            // Made by a request whose answer was lost.
            Some(stat) if stat.ephemeral_owner == mine => {
                broker.set_epoch(stat.czxid);
                remember(&memory, mine)?;
                return Ok(());
            }
            Some(stat) if Some(stat.ephemeral_owner) == old => {
                tracing::info!("taking over the registration of this broker's earlier session");
                match client.delete(&at, Some(stat.version)).await {
                    Ok(()) | Err(zk::Error::NoNode | zk::Error::BadVersion) => {}
                    Err(e) => return Err(e.into()),
                }
                // An earlier run that was the controller left that behind too.
                if let Some(c) = client.check_stat(path::CONTROLLER).await?.filter(|c| Some(c.ephemeral_owner) == old) {
                    let _ = client.delete(path::CONTROLLER, Some(c.version)).await;
                }
            }
            Some(_) if tokio::time::Instant::now() > until => {
                return Err(SessionError::Taken(broker.id()));
            }
            Some(_) => tokio::time::sleep(Duration::from_millis(500)).await,
        }
    }
}
