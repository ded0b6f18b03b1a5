//! The broker's session with the coordinator: registration, watches, election, and the image that follows.
//!
//! Invariant: every change that a watch tells of leads to a new reading. A session is kept until the coordinator has
//! ended it: a connection that is lost, or a request on it, is tried again within the same session. Only a session that
//! has ended is replaced, with a new registration.

use std::{
    collections::HashSet,
    fs,
    path::Path,
    pin::Pin,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use zookeeper_client as zk;

use super::{
    controller::{self, Controller},
    deletion,
    image::{self, Names, parse_controller},
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
    let mut state = client.state_watcher();
    let cluster_id = loop {
        match prepare(broker, &client).await {
            Ok(id) => break id,
            Err(e) => try_again(&state, e).await?,
        }
    };
    while let Err(e) = register(broker, &client).await {
        try_again(&state, e).await?;
    }
    broker.zookeeper.send_replace(Some(client.clone()));
    let mut follower = Follower::new(broker, client, cluster_id);
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
async fn prepare(broker: &Broker, client: &zk::Client) -> Result<String, SessionError> {
    for p in path::PERSISTENT {
        client.mkdir(p, &PERSISTENT).await?;
    }
    let id = cluster_id(broker, client).await?;
    broker.claim_directory(&id)?;
    Ok(id)
}

/// Follows the cluster within one session.
struct Follower<'a> {
    broker: &'a Broker,
    client: zk::Client,
    cluster_id: String,
    ids: Watched,
    topics: Watched,
    deleting: Watched,
    controller: Watched,
    signal: Watched,
    leads: Option<i32>,
    term: Option<Controller>,
    /// topics that are to go and whose replicas this broker has removed
    deleted: HashSet<String>,
}

impl<'a> Follower<'a> {
    fn new(broker: &'a Broker, client: zk::Client, cluster_id: String) -> Self {
        let watched = Watched::default;
        Self {
            broker,
            client,
            cluster_id,
            ids: watched(),
            topics: watched(),
            deleting: watched(),
            controller: watched(),
            signal: watched(),
            leads: None,
            term: None,
            deleted: HashSet::new(),
        }
    }

    fn forget_watches(&mut self) {
        for w in [&mut self.ids, &mut self.topics, &mut self.deleting, &mut self.controller, &mut self.signal] {
            w.event = None;
        }
    }

    /// Waits until there may be something new.
    async fn changed(&mut self) {
        tokio::select! {
            () = self.ids.wait() => {}
            () = self.topics.wait() => {}
            () = self.deleting.wait() => {}
            () = self.controller.wait() => {}
            () = self.signal.wait() => {}
            // A broker that restarted quickly may have left a session behind that looks like its new one.
            () = tokio::time::sleep(Duration::from_secs(5)) => self.ids.event = None,
        }
    }

    /// Reads what has changed, does the controller's work if it is this broker's, and hands the image on. May be
    /// interrupted by an error anywhere, and called again.
    async fn follow(&mut self) -> Result<(), SessionError> {
        let client = self.client.clone();
        if self.controller.fired() {
            let (stat, watch) = client.check_and_watch_stat(path::CONTROLLER).await?;
            self.leads = match &stat {
                Some(_) => match client.get_data(path::CONTROLLER).await {
                    Ok((data, _)) => parse_controller(&data),
                    Err(zk::Error::NoNode) => None,
                    Err(e) => return Err(e.into()),
                },
                None => None,
            };
            if self.leads != Some(self.broker.id()) {
                self.term = None;
            } else if self.term.is_none() && stat.is_some_and(|s| s.ephemeral_owner == client.session_id().0) {
                // An election whose answer was lost.
                self.term = Some(Controller::adopt(&client).await?);
            }
            self.controller.arm(watch);
        }
        if self.leads.is_none() {
            self.term = controller::elect(&client, self.broker.id(), &now_ms()).await?;
            if self.term.is_some() {
                self.leads = Some(self.broker.id());
            }
        }
        if self.ids.fired() {
            let (list, watch) = client.list_and_watch_children(path::BROKER_IDS).await?;
            self.ids.list = list;
            self.ids.arm(watch);
        }
        if self.topics.fired() {
            let (list, watch) = client.list_and_watch_children(path::TOPICS).await?;
            self.topics.list = list;
            self.topics.arm(watch);
        }
        if self.deleting.fired() {
            let (list, watch) = client.list_and_watch_children(path::DELETE_TOPICS).await?;
            self.deleting.list = list;
            self.deleting.arm(watch);
        }
        if self.signal.fired() {
            let (_, _, watch) = client.get_and_watch_data(path::SIGNAL).await?;
            self.signal.arm(watch);
        }
        let mut image = self.load().await?;
        if let Some(term) = &mut self.term
            && term.reconcile(&client, &image, &self.deleting.list).await?
        {
            image = self.load().await?;
        }
        if *self.broker.image() != image {
            self.broker.take(image).await;
        }
        self.delete_replicas().await
    }

    /// Removes this broker's replicas of topics that are to go, and says so.
    async fn delete_replicas(&mut self) -> Result<(), SessionError> {
        let image = self.broker.image();
        self.deleted.retain(|t| self.deleting.list.contains(t));
        for (topic, info) in &image.topics {
            if !info.deleting || self.deleted.contains(topic) {
                continue;
            }
            match tokio::task::block_in_place(|| self.broker.storage.delete(topic)) {
                Ok(()) => {
                    deletion::confirm(&self.client, topic, self.broker.id()).await?;
                    self.deleted.insert(topic.clone());
                }
                Err(e) => tracing::error!("topic {topic} is not deleted: {e}; trying again"),
            }
        }
        Ok(())
    }

    async fn load(&mut self) -> Result<image::Image, zk::Error> {
        let names = Names {
            cluster_id: &self.cluster_id,
            brokers: &self.ids.list,
            topics: &self.topics.list,
            deleting: &self.deleting.list,
            controller: self.leads,
        };
        image::load(&self.client, &names, &self.broker.image()).await
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

/// First line of the file that a session is remembered in: the version of its format.
const MEMORY_VERSION: &str = "version=0";

/// Writes down the session that owns this broker's registration.
fn remember(memory: &Path, session: i64) -> Result<(), StartError> {
    fs::write(memory, format!("{MEMORY_VERSION}\nsession={session}\n")).map_err(|source| StartError::Io { path: memory.to_owned(), source })
}

/// The session that owned this broker's registration in an earlier run. A file without a version holds the number alone.
fn remembered(memory: &Path) -> Option<i64> {
    let text = fs::read_to_string(memory).ok()?;
    match text.split_once('\n') {
        Some((MEMORY_VERSION, rest)) => rest.trim().strip_prefix("session=")?.parse().ok(),
        _ => text.trim().parse().ok(),
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
        let mine = client.session_id().0;
        let old = remembered(&memory);
        match client.create(&at, data.as_bytes(), &ephemeral).await {
            Ok(_) => {
                remember(&memory, mine)?;
                tracing::info!("registered as broker {} with {}", broker.id(), endpoints.join(","));
                return Ok(());
            }
            Err(zk::Error::NodeExists) => {}
            Err(e) => return Err(e.into()),
        }
        match client.check_stat(&at).await? {
            None => continue,
            // Made by a request whose answer was lost.
            Some(stat) if stat.ephemeral_owner == mine => {
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
