//! The broker's session with the coordinator: registration, watches, election, and the image that follows.
//!
//! Invariant: every change that a watch tells of leads to a new reading; a session that ends is replaced by a new
//! one, with a new registration.

use std::{
    fs, io,
    pin::Pin,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use zookeeper_client as zk;

use super::{
    controller::{self, Term},
    image::{self, parse_controller},
    path,
};
use crate::broker::{Broker, StartError};

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

fn now_ms() -> String {
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
            other => tracing::warn!("{other}; connecting again"),
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
}

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

async fn session(broker: &Broker) -> Result<Never, SessionError> {
    let all = &broker.config.zookeeper;
    let (servers, root) = all.split_at(all.find('/').unwrap_or(all.len()));
    let mut client =
        zk::Client::connector().with_session_timeout(Duration::from_millis(broker.config.zookeeper_session_ms)).connect(servers).await?;
    // As Kafka does, the root below which everything lies is made if it is not there.
    let root = root.trim_end_matches('/');
    if !root.is_empty() {
        client.mkdir(root, &PERSISTENT).await?;
        client = client.chroot(root).map_err(|_| zk::Error::BadArguments(&"not a path for a root"))?;
    }
    for p in path::PERSISTENT {
        client.mkdir(p, &PERSISTENT).await?;
    }
    let cluster_id = cluster_id(broker, &client).await?;
    broker.claim_directory(&cluster_id)?;
    register(broker, &client).await?;
    broker.zookeeper.send_replace(Some(client.clone()));

    let mut state = client.state_watcher();
    let (mut ids, mut topics, mut controller, mut signal) =
        (Watched::default(), Watched::default(), Watched::default(), Watched::default());
    let mut term: Option<Term> = None;
    let mut leads = None;
    loop {
        if client.state().is_terminated() {
            return Err(SessionError::Ended);
        }
        if controller.fired() {
            let (stat, watch) = client.check_and_watch_stat(path::CONTROLLER).await?;
            controller.arm(watch);
            leads = match stat {
                Some(_) => match client.get_data(path::CONTROLLER).await {
                    Ok((data, _)) => parse_controller(&data),
                    Err(zk::Error::NoNode) => None,
                    Err(e) => return Err(e.into()),
                },
                None => None,
            };
            if leads != Some(broker.id()) {
                term = None;
            }
        }
        if leads.is_none() {
            term = controller::elect(&client, broker.id(), &now_ms()).await?;
            if term.is_some() {
                leads = Some(broker.id());
            }
        }
        if ids.fired() {
            let (list, watch) = client.list_and_watch_children(path::BROKER_IDS).await?;
            ids.list = list;
            ids.arm(watch);
        }
        if topics.fired() {
            let (list, watch) = client.list_and_watch_children(path::TOPICS).await?;
            topics.list = list;
            topics.arm(watch);
        }
        if signal.fired() {
            let (_, _, watch) = client.get_and_watch_data(path::SIGNAL).await?;
            signal.arm(watch);
        }
        let mut image = image::load(&client, &cluster_id, &ids.list, &topics.list, leads).await?;
        if let Some(term) = term
            && controller::reconcile(&client, term, &image).await?
        {
            image = image::load(&client, &cluster_id, &ids.list, &topics.list, leads).await?;
        }
        if *broker.image() != image {
            broker.take(image).await;
        }
        tokio::select! {
            () = ids.wait() => {}
            () = topics.wait() => {}
            () = controller.wait() => {}
            () = signal.wait() => {}
            next = state.changed() => if next.is_terminated() { return Err(SessionError::Ended) },
            // A broker that restarted quickly may have left a session behind that looks like its new one.
            () = tokio::time::sleep(Duration::from_secs(5)) => ids.event = None,
        }
    }
}

/// A one-shot watch, kept until it fires: dropping one would take it back at the coordinator.
#[derive(Default)]
struct Watched {
    list: Vec<String>,
    event: Option<Pin<Box<dyn Future<Output = zk::WatchedEvent> + Send>>>,
}

impl Watched {
    fn arm(&mut self, watch: zk::OneshotWatcher) {
        self.event = Some(Box::pin(watch.changed()));
    }
    fn fired(&self) -> bool {
        self.event.is_none()
    }
    async fn wait(&mut self) {
        if let Some(event) = &mut self.event {
            event.await;
            self.event = None;
        }
    }
}

/// Reads the cluster's id, or gives it one; a directory's id wins over a new one, so that a coordinator that lost
/// its data does not make every broker a stranger.
async fn cluster_id(broker: &Broker, client: &zk::Client) -> Result<String, SessionError> {
    loop {
        match client.get_data(path::CLUSTER_ID).await {
            Ok((data, _)) => {
                let value: serde_json::Value = serde_json::from_slice(&data).unwrap_or_default();
                return Ok(value["id"].as_str().unwrap_or_default().to_owned());
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

/// Registers this broker. What an earlier run of this very broker left (it remembers its session) is taken away;
/// another broker's registration is waited for, as long as a dead one's can last.
async fn register(broker: &Broker, client: &zk::Client) -> Result<(), SessionError> {
    let memory = broker.config.log_dir.join(".zookeeper-session");
    let at = format!("{}/{}", path::BROKER_IDS, broker.id());
    let endpoints: Vec<String> = broker.config.advertised.iter().map(|l| format!("{}://{}:{}", l.name, l.host, l.port)).collect();
    let map: serde_json::Map<String, serde_json::Value> =
        broker.config.advertised.iter().map(|l| (l.name.clone(), "PLAINTEXT".into())).collect();
    let first = &broker.config.advertised[0];
    let data = serde_json::json!({
        "features": {}, "listener_security_protocol_map": map, "endpoints": endpoints, "jmx_port": -1,
        "port": first.port, "host": first.host, "version": 5, "timestamp": now_ms(),
    })
    .to_string();
    let ephemeral = zk::CreateMode::Ephemeral.with_acls(zk::Acls::anyone_all());
    let until = tokio::time::Instant::now() + Duration::from_millis(broker.config.zookeeper_session_ms * 2);
    loop {
        // Remembered before it is used: a run that is killed in between leaves a number that owns nothing.
        let mine = client.session_id().0;
        let old: Option<i64> = fs::read_to_string(&memory).ok().and_then(|t| t.trim().parse().ok());
        match client.create(&at, data.as_bytes(), &ephemeral).await {
            Ok(_) => {
                fs::write(&memory, mine.to_string()).map_err(|source: io::Error| StartError::Io { path: memory, source })?;
                tracing::info!("registered as broker {} with {}", broker.id(), endpoints.join(","));
                return Ok(());
            }
            Err(zk::Error::NodeExists) => {}
            Err(e) => return Err(e.into()),
        }
        match client.check_stat(&at).await? {
            None => continue,
            Some(stat) if Some(stat.ephemeral_owner) == old || stat.ephemeral_owner == mine => {
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
