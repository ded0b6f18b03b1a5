//! The controller's work: a leader for every partition.
//!
//! Invariant: a state is written only together with a check of `/controller_epoch`, so that a controller that was
//! replaced cannot write any more.

use zookeeper_client as zk;

use super::{
    deletion,
    image::{Image, PartitionInfo, PartitionState, state_path},
    path,
    session::{PERSISTENT, ignore_exists},
    topics,
};

/// This broker as controller, for one term.
#[derive(Debug)]
pub struct Controller {
    /// value of `/controller_epoch`
    epoch: i32,
    /// version of that znode, which fences
    version: i32,
    /// states were written, or may have been by a controller before, that other brokers were not told of
    unannounced: bool,
}

/// Tries to become the controller. `None` if another one is.
pub async fn elect(client: &zk::Client, id: i32, timestamp: &str) -> Result<Option<Controller>, zk::Error> {
    let data = serde_json::json!({ "version": 2, "brokerid": id, "timestamp": timestamp, "kraftControllerEpoch": -1 }).to_string();
    let ephemeral = zk::CreateMode::Ephemeral.with_acls(zk::Acls::anyone_all());
    ignore_exists(client.create(path::CONTROLLER_EPOCH, b"0", &PERSISTENT).await)?;
    let (old, stat) = client.get_data(path::CONTROLLER_EPOCH).await?;
    let epoch = String::from_utf8_lossy(&old).trim().parse::<i32>().unwrap_or(0) + 1;
    let mut multi = client.new_multi_writer();
    multi.add_create(path::CONTROLLER, data.as_bytes(), &ephemeral)?;
    multi.add_set_data(path::CONTROLLER_EPOCH, epoch.to_string().as_bytes(), Some(stat.version))?;
    match multi.commit().await {
        Ok(_) => {
            tracing::info!("this broker is the controller, epoch {epoch}");
            Ok(Some(Controller { epoch, version: stat.version + 1, unannounced: true }))
        }
        Err(zk::MultiWriteError::OperationFailed { source: zk::Error::NodeExists | zk::Error::BadVersion, .. }) => Ok(None),
        Err(e) => Err(e.into()),
    }
}

/// The state that a partition should have, if it is not the one that it has. Unclean election is off: a partition
/// whose in-sync replicas are all gone has no leader, and keeps its ISR.
pub fn wanted(now: &PartitionInfo, alive: impl Fn(i32) -> bool) -> Option<PartitionState> {
    let fresh = now.leader_epoch < 0;
    let isr: Vec<i32> = if fresh { now.replicas.iter().copied().filter(|r| alive(*r)).collect() } else { now.isr.clone() };
    let leader = if now.leader >= 0 && alive(now.leader) && isr.contains(&now.leader) {
        now.leader
    } else {
        now.replicas.iter().copied().find(|r| alive(*r) && isr.contains(r)).unwrap_or(-1)
    };
    if fresh && isr.is_empty() {
        return None;
    }
    (fresh || leader != now.leader).then(|| PartitionState { leader, leader_epoch: now.leader_epoch + 1, isr })
}

impl Controller {
    /// The term of a session that owns `/controller`: both znodes were written by one request.
    pub async fn adopt(client: &zk::Client) -> Result<Self, zk::Error> {
        let (data, stat) = client.get_data(path::CONTROLLER_EPOCH).await?;
        let epoch = String::from_utf8_lossy(&data).trim().parse().unwrap_or(0);
        tracing::info!("this broker is the controller, epoch {epoch}");
        Ok(Self { epoch, version: stat.version, unannounced: true })
    }

    /// Gives every partition the state that it should have. Says whether anything was written. After an error it is
    /// called again, and announces then what was written before.
    pub async fn reconcile(&mut self, client: &zk::Client, image: &Image, deleting: &[String]) -> Result<bool, zk::Error> {
        let mut wrote = false;
        deletion::finish(client, self.version, deleting, image).await?;
        for (topic, info) in &image.topics {
            if info.deleting {
                continue;
            }
            if info.id.is_none() {
                // Made by a version that gave no ids.
                wrote |= topics::give_id(client, topic, info.version).await?;
            }
            for (number, now) in &info.partitions {
                let Some(state) = wanted(now, |id| image.brokers.contains_key(&id)) else {
                    continue;
                };
                let at = state_path(topic, *number);
                let data = state.encode(self.epoch);
                if now.leader_epoch < 0 {
                    let dir = at.trim_end_matches("/state").to_owned();
                    client.mkdir(&dir, &PERSISTENT).await?;
                }
                let mut multi = client.new_multi_writer();
                multi.add_check_version(path::CONTROLLER_EPOCH, self.version)?;
                if now.leader_epoch < 0 {
                    multi.add_create(&at, &data, &PERSISTENT)?;
                } else {
                    multi.add_set_data(&at, &data, None)?;
                }
                // Before the request, whose answer may be lost.
                self.unannounced = true;
                match multi.commit().await {
                    Ok(_) => wrote = true,
                    Err(zk::MultiWriteError::OperationFailed { index: 0, .. }) => {
                        tracing::warn!("another controller has taken over");
                        return Ok(wrote);
                    }
                    Err(zk::MultiWriteError::OperationFailed { source: zk::Error::NodeExists | zk::Error::NoNode, .. }) => wrote = true,
                    Err(e) => return Err(e.into()),
                }
            }
        }
        if self.unannounced {
            client.set_data(path::SIGNAL, self.epoch.to_string().as_bytes(), None).await?;
            self.unannounced = false;
        }
        Ok(wrote)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leaders_are_taken_from_living_in_sync_replicas() {
        let p = |leader, leader_epoch, isr: &[i32]| PartitionInfo { replicas: vec![1, 2, 3], leader, leader_epoch, isr: isr.to_vec() };
        let state = |leader, leader_epoch, isr: &[i32]| Some(PartitionState { leader, leader_epoch, isr: isr.to_vec() });
        // (now, alive, wanted)
        let cases = [
            (p(-1, -1, &[]), vec![1, 2, 3], state(1, 0, &[1, 2, 3])),
            (p(-1, -1, &[]), vec![2], state(2, 0, &[2])),
            (p(-1, -1, &[]), vec![], None),
            (p(1, 0, &[1, 2]), vec![1, 2, 3], None),
            (p(1, 0, &[1, 2]), vec![2, 3], state(2, 1, &[1, 2])),
            (p(1, 3, &[1]), vec![2, 3], state(-1, 4, &[1])),
            (p(-1, 4, &[1]), vec![2, 3], None),
            (p(-1, 4, &[1]), vec![1, 2, 3], state(1, 5, &[1])),
        ];
        for (now, alive, want) in cases {
            assert_eq!(wanted(&now, |id| alive.contains(&id)), want, "{now:?} with {alive:?}");
        }
    }
}
