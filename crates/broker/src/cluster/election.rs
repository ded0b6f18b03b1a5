//! Within one session: this broker's registration stays, there is a controller, and it is this broker if nobody else is; changed
//! settings are obeyed.
//!
//! Invariant: the controller's work runs only while `/controller` is owned by this session.

use std::{io, sync::Arc, time::Duration};

use septet_zookeeper as zk;
use tokio::task::JoinHandle;

use super::{
    config_changes,
    controller::{self, ControllerError, Term},
    image::{parse_broker, parse_controller},
    path,
    session::{SessionError, register},
    watched::Watched,
};
use crate::{broker::Broker, net::peer::Peer};

/// Pause between attempts to reach the controller.
const BACK_OFF: Duration = Duration::from_millis(100);
/// Refused connections, one after the other, that prove that nothing listens.
const PROOF: usize = 2;

/// What is known of the controller within one session.
pub struct Election {
    broker: Arc<Broker>,
    client: zk::Client,
    controller: Watched,
    registration: Watched,
    configs: Watched,
    config_changes: config_changes::Follower,
    term: Option<JoinHandle<ControllerError>>,
    /// looks whether another controller lives
    probe: Option<JoinHandle<()>>,
}

impl Drop for Election {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Election {
    /// Nothing is known yet.
    pub fn new(broker: Arc<Broker>, client: zk::Client) -> Self {
        Self {
            broker,
            client,
            controller: Watched::default(),
            registration: Watched::default(),
            configs: Watched::default(),
            config_changes: config_changes::Follower::default(),
            term: None,
            probe: None,
        }
    }

    fn stop(&mut self) {
        if let Some(term) = self.term.take() {
            term.abort();
            self.broker.controller.send_replace(None);
        }
        if let Some(probe) = self.probe.take() {
            probe.abort();
        }
    }

    /// Reads everything again at the next [`Election::follow`].
    pub fn forget_watches(&mut self) {
        self.controller.forget();
        self.registration.forget();
        self.configs.forget();
    }

    /// Waits until there may be something new.
    pub async fn changed(&mut self) {
        let term = async {
            match &mut self.term {
                Some(term) => {
                    let _ = term.await;
                }
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = self.controller.wait() => {}
            () = self.registration.wait() => {}
            () = self.configs.wait() => {}
            () = term => {
                self.term = None;
                self.controller.forget();
            }
        }
    }

    /// Looks after the registration and the controller. May be interrupted by an error anywhere, and called again.
    pub async fn follow(&mut self) -> Result<(), SessionError> {
        if self.registration.fired() {
            let at = format!("{}/{}", path::BROKER_IDS, self.broker.id());
            let (stat, watch) = self.client.check_and_watch_stat(&at).await?;
            if stat.is_none_or(|s| s.ephemeral_owner != self.client.session_id().0) {
                // Taken back by a controller that could not reach this broker.
                tracing::warn!("this broker's registration is gone; it registers again");
                drop(watch);
                register(&self.broker, &self.client).await?;
                let (_, watch) = self.client.check_and_watch_stat(&at).await?;
                self.registration.arm(watch);
            } else {
                self.registration.arm(watch);
            }
        }
        while self.controller.fired() {
            let (stat, watch) = self.client.check_and_watch_stat(path::CONTROLLER).await?;
            let Some(stat) = stat else {
                self.stop();
                if let Some(term) = Term::elect(&self.client, self.broker.id()).await? {
                    self.begin(term);
                }
                // Read again: by now there is one, or it was gone again.
                continue;
            };
            if stat.ephemeral_owner == self.client.session_id().0 {
                if self.term.is_none() {
                    // An election whose answer was lost, or a term that ended by an error.
                    let Some(term) = Term::adopt(&self.client).await? else { continue };
                    self.begin(term);
                }
            } else {
                self.stop();
                match self.client.get_data(path::CONTROLLER).await {
                    Ok((data, _)) => self.watch_over(parse_controller(&data), stat.czxid),
                    Err(zk::Error::NoNode) => continue,
                    Err(e) => return Err(e.into()),
                }
            }
            self.controller.arm(watch);
        }
        if self.configs.fired() {
            let watch = self.config_changes.read(&self.client, &self.broker).await?;
            self.configs.arm(watch);
        }
        self.config_changes.apply(&self.client, &self.broker).await?;
        Ok(())
    }

    fn begin(&mut self, term: Term) {
        self.term = Some(tokio::spawn(controller::run(self.broker.clone(), self.client.clone(), term)));
    }

    /// Keeps a connection to the controller. Once nothing listens there, its znode is taken back, so that another is elected before
    /// its session has ended.
    fn watch_over(&mut self, id: Option<i32>, czxid: i64) {
        let Some(id) = id.filter(|id| *id != self.broker.id()) else { return };
        let (broker, client) = (self.broker.clone(), self.client.clone());
        self.probe = Some(tokio::spawn(async move {
            if let Err(e) = until_gone(&broker, &client, id).await {
                tracing::debug!("controller, broker {id}: {e}");
                return;
            }
            match client.check_stat(path::CONTROLLER).await {
                Ok(Some(stat)) if stat.czxid == czxid => {
                    tracing::warn!("nothing listens at the address of the controller, broker {id}; its place is taken back");
                    let _ = client.delete(path::CONTROLLER, Some(stat.version)).await;
                }
                _ => {}
            }
        }));
    }
}

/// Ends when connections to a broker were refused, one after the other, and it is known to have listened before.
async fn until_gone(broker: &Broker, client: &zk::Client, id: i32) -> Result<(), zk::Error> {
    let (mut refused, mut reached) = (0, false);
    while refused < PROOF {
        let (data, _) = match client.get_data(&format!("{}/{id}", path::BROKER_IDS)).await {
            Ok(found) => found,
            // Its session ends, or it registers anew; the controller's znode has a watch of its own.
            Err(zk::Error::NoNode) => {
                tokio::time::sleep(BACK_OFF).await;
                continue;
            }
            Err(e) => return Err(e),
        };
        let info = parse_broker(&data);
        let Some((host, port)) = info.endpoint(&broker.config.inter_broker_listener) else {
            tokio::time::sleep(BACK_OFF * 10).await;
            continue;
        };
        match Peer::connect(&host, port, &format!("broker-{}", broker.id())).await {
            Ok(peer) => {
                (refused, reached) = (0, true);
                peer.closed().await;
            }
            Err(e) if e.kind() == io::ErrorKind::ConnectionRefused && (reached || info.ours) => refused += 1,
            Err(_) => refused = 0,
        }
        if refused < PROOF {
            tokio::time::sleep(BACK_OFF).await;
        }
    }
    Ok(())
}
