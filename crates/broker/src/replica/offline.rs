//! The log directory fails, and may be used again: leaderships go to other brokers, as on Kafka by a notification of the controller.
//!
//! Invariant: the controller is told after nothing here leads or follows any more; one that was full is used again under a new
//! registration, as after a start.

use std::{io, path::Path, sync::Arc, time::Duration};

use septet_zookeeper as zk;

use crate::{broker::Broker, cluster::path, log_dir::Failure};

/// How often it is looked for room.
const LOOK: Duration = Duration::from_secs(1);
/// Pause before the coordinator is tried again.
const TRY_AGAIN: Duration = Duration::from_millis(300);
/// Room that is waited for: a part of the file system, within these limits in bytes.
const ROOM_PART: u64 = 50;
const ROOM: (u64, u64) = (1 << 20, 1 << 30);

/// Watches over the log directory. Never ends.
pub async fn watch(broker: Arc<Broker>) {
    let mut failure = broker.storage.shared.log_dir.subscribe();
    loop {
        if failure.wait_for(Option::is_some).await.is_err() {
            return;
        }
        broker.replicas.stop_all(&broker).await;
        notify(&broker).await;
        loop {
            let why = *failure.borrow_and_update();
            if why != Some(Failure::Full) {
                // What did not reach a broken disk is not known: only a start finds out what is there.
                let _ = failure.wait_for(Option::is_none).await;
                break;
            }
            tokio::time::sleep(LOOK).await;
            let dir = broker.config.log_dir.clone();
            match tokio::task::spawn_blocking(move || has_room(&dir)).await {
                Ok(Ok(true)) => {
                    tracing::info!("there is room in the log directory again; this broker registers anew");
                    broker.storage.shared.log_dir.recovered();
                    register_anew(&broker).await;
                    break;
                }
                Ok(Ok(false)) => {}
                Ok(Err(e)) => tracing::debug!("{}: {e}", broker.config.log_dir.display()),
                Err(e) => tracing::error!("looking for room: {e}"),
            }
        }
    }
}

/// Whether the file system has some room, and takes a file.
fn has_room(dir: &Path) -> io::Result<bool> {
    let space = rustix::fs::statvfs(dir)?;
    let (total, free) = (space.f_blocks.saturating_mul(space.f_frsize), space.f_bavail.saturating_mul(space.f_frsize));
    if free < (total / ROOM_PART).clamp(ROOM.0, ROOM.1) {
        return Ok(false);
    }
    let probe = dir.join(".room");
    let written = std::fs::write(&probe, vec![0; 1 << 16]).and_then(|()| std::fs::File::open(&probe)?.sync_all());
    let _ = std::fs::remove_file(&probe);
    written.map(|()| true)
}

/// The session with the coordinator, once there is one.
async fn client(broker: &Broker) -> Option<zk::Client> {
    let mut sessions = broker.zookeeper.subscribe();
    sessions.wait_for(Option::is_some).await.ok()?.clone()
}

/// Has the controller ask this broker for its replicas: it answers that it cannot use them.
async fn notify(broker: &Broker) {
    let data = serde_json::json!({ "version": 1, "broker": broker.id(), "event": 1 }).to_string();
    let numbered = zk::CreateMode::PersistentSequential.with_acls(zk::Acls::anyone_all());
    let at = format!("{}/{}", path::LOG_DIR_EVENTS, path::LOG_DIR_EVENT);
    while let Some(client) = client(broker).await {
        match client.create(&at, data.as_bytes(), &numbered).await {
            Ok(_) => return,
            Err(e) => tracing::warn!("the controller is not told of the log directory: {e}; trying again"),
        }
        tokio::time::sleep(TRY_AGAIN).await;
    }
}

/// Takes this broker's registration back; the session makes another, whose epoch makes all take it for a broker that has started.
async fn register_anew(broker: &Broker) {
    let at = format!("{}/{}", path::BROKER_IDS, broker.id());
    while let Some(client) = client(broker).await {
        let done = match client.check_stat(&at).await {
            Ok(Some(stat)) if stat.ephemeral_owner == client.session_id().0 => client.delete(&at, Some(stat.version)).await,
            Ok(_) => Ok(()),
            Err(e) => Err(e),
        };
        match done {
            Ok(()) | Err(zk::Error::NoNode | zk::Error::BadVersion) => return,
            Err(e) => tracing::warn!("registration: {e}; trying again"),
        }
        tokio::time::sleep(TRY_AGAIN).await;
    }
}
