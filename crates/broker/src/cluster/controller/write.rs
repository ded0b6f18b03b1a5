//! What the controller writes: states of partitions, in requests of some hundred, and assignments of topics.

use std::collections::BTreeSet;

use futures_util::future::join_all;
use septet_zookeeper as zk;

use super::{Controller, ControllerError};
use crate::{
    cluster::{
        image::{PartitionState, encode_topic, state_path},
        path,
        session::{PERSISTENT, ignore_exists},
    },
    core::controller::Change,
};

/// States in one request.
const TOGETHER: usize = 200;
/// Requests that are under way at once.
const AT_ONCE: usize = 8;

impl Controller {
    /// Writes states. What was written counts from then on; of a partition whose state is not the one that was to be replaced, the state is
    /// read again. Fails if another controller has taken over.
    pub(super) async fn write(&mut self, changes: Vec<Change>) -> Result<(), ControllerError> {
        let fresh: BTreeSet<String> = changes
            .iter()
            .filter(|c| c.replaces.is_none() && !self.with_partitions.contains(&c.name.0))
            .map(|c| c.name.0.clone())
            .collect();
        for topic in fresh {
            ignore_exists(self.client.create(&format!("{}/{topic}/partitions", path::TOPICS), b"", &PERSISTENT).await)?;
            self.with_partitions.insert(topic);
        }
        let chunks: Vec<&[Change]> = changes.chunks(TOGETHER).collect();
        for some in chunks.chunks(AT_ONCE) {
            let results = join_all(some.iter().map(|chunk| commit(&self.client, self.term, chunk))).await;
            for (chunk, result) in some.iter().zip(results) {
                match result {
                    Ok(()) => chunk.iter().for_each(|c| self.note(c)),
                    Err(Refused::Superseded) => return Err(ControllerError::Superseded),
                    Err(Refused::Lost(e)) => {
                        // Whether it was written is not known.
                        for c in *chunk {
                            self.uncertain(c);
                        }
                        return Err(e.into());
                    }
                    Err(Refused::Conflict) => self.one_by_one(chunk).await?,
                }
            }
        }
        Ok(())
    }

    fn note(&mut self, change: &Change) {
        self.cluster.written(change, change.replaces.map_or(0, |v| v + 1), self.term.epoch);
    }

    fn uncertain(&mut self, change: &Change) {
        self.touched.insert(change.name.0.clone());
    }

    async fn one_by_one(&mut self, chunk: &[Change]) -> Result<(), ControllerError> {
        for change in chunk {
            match commit(&self.client, self.term, std::slice::from_ref(change)).await {
                Ok(()) => self.note(change),
                Err(Refused::Superseded) => return Err(ControllerError::Superseded),
                Err(Refused::Lost(e)) => {
                    self.uncertain(change);
                    return Err(e.into());
                }
                Err(Refused::Conflict) => {
                    // The directory may be there from an attempt whose answer was lost.
                    let dir = state_path(&change.name.0, change.name.1);
                    if change.replaces.is_none() && commit_state_only(&self.client, self.term, change).await.is_ok() {
                        self.note(change);
                        continue;
                    }
                    tracing::warn!("{dir}: not the state that was to be replaced; read again");
                    self.read_state(&change.name).await?;
                    // Its replicas may know it no better: a leader whose proposal this was waits for the state that outdates it.
                    self.tell(std::slice::from_ref(&change.name), &BTreeSet::new(), true);
                }
            }
        }
        Ok(())
    }

    /// Writes a topic's assignment. Says whether it was: not if the topic was changed meanwhile, and then it is read again.
    pub(super) async fn write_topic(&mut self, name: &str) -> Result<bool, ControllerError> {
        let Some(topic) = self.cluster.topics.get(name) else { return Ok(false) };
        let data = encode_topic(topic);
        let mut multi = self.client.new_multi_writer();
        multi.add_check_version(path::CONTROLLER_EPOCH, self.term.version)?;
        multi.add_set_data(&format!("{}/{name}", path::TOPICS), &data, Some(topic.version))?;
        match multi.commit().await {
            Ok(_) => {
                if let Some(t) = self.cluster.topics.get_mut(name) {
                    t.version += 1;
                }
                Ok(true)
            }
            Err(zk::MultiWriteError::OperationFailed { index: 0, .. }) => Err(ControllerError::Superseded),
            Err(e) => {
                self.touched.insert(name.to_owned());
                match e {
                    // Changed meanwhile: it is read again, and what is to be done is decided on that.
                    zk::MultiWriteError::OperationFailed { .. } => Ok(false),
                    e => Err(ControllerError::Coordinator(e.into())),
                }
            }
        }
    }
}

enum Refused {
    Superseded,
    /// A state is not the one that was to be replaced.
    Conflict,
    Lost(zk::Error),
}

fn state(change: &Change, epoch: i32) -> Vec<u8> {
    let s = &change.state;
    PartitionState { controller_epoch: epoch, leader: s.leader, leader_epoch: s.leader_epoch, isr: s.isr.clone() }.encode()
}

async fn commit(client: &zk::Client, term: super::Term, chunk: &[Change]) -> Result<(), Refused> {
    let mut multi = client.new_multi_writer();
    let mut add = || -> Result<(), zk::Error> {
        multi.add_check_version(path::CONTROLLER_EPOCH, term.version)?;
        for change in chunk {
            let at = state_path(&change.name.0, change.name.1);
            let data = state(change, term.epoch);
            match change.replaces {
                Some(version) => multi.add_set_data(&at, &data, Some(version))?,
                None => {
                    multi.add_create(at.trim_end_matches("/state"), b"", &PERSISTENT)?;
                    multi.add_create(&at, &data, &PERSISTENT)?;
                }
            }
        }
        Ok(())
    };
    add().map_err(Refused::Lost)?;
    finish(multi.commit().await.map(drop))
}

async fn commit_state_only(client: &zk::Client, term: super::Term, change: &Change) -> Result<(), Refused> {
    let mut multi = client.new_multi_writer();
    let mut add = || -> Result<(), zk::Error> {
        multi.add_check_version(path::CONTROLLER_EPOCH, term.version)?;
        multi.add_create(&state_path(&change.name.0, change.name.1), &state(change, term.epoch), &PERSISTENT)
    };
    add().map_err(Refused::Lost)?;
    finish(multi.commit().await.map(drop))
}

fn finish(result: Result<(), zk::MultiWriteError>) -> Result<(), Refused> {
    match result {
        Ok(()) => Ok(()),
        Err(zk::MultiWriteError::OperationFailed { index: 0, .. }) => Err(Refused::Superseded),
        Err(zk::MultiWriteError::OperationFailed { .. }) => Err(Refused::Conflict),
        Err(e) => Err(Refused::Lost(e.into())),
    }
}
