//! Events: what leaders propose, brokers that stop or are gone, elections and reassignments that are asked for.

use std::collections::BTreeSet;

use kafka_protocol::ResponseError;
use septet_zookeeper as zk;

use super::{Controller, ControllerError, Election, Event, Reassignment, Results};
use crate::{
    cluster::path,
    core::{
        controller::{Change, Name, Partition, Stored},
        partition::Proposal,
    },
};

/// A proposal that is to be answered: which, and how it was judged.
type Judged = (Name, Result<Option<Change>, ResponseError>);

impl Controller {
    /// Handles what has come in. Whoever waits for an answer that is not given is told that this is not the controller.
    pub(super) async fn handle(&mut self, events: Vec<Event>) -> Result<(), ControllerError> {
        let mut result = Ok(());
        for event in events {
            if let Err(e) = self.handle_one(event).await {
                tracing::warn!("controller: {e}");
                result = Err(e);
            }
        }
        result
    }

    async fn handle_one(&mut self, event: Event) -> Result<(), ControllerError> {
        match event {
            Event::Proposals { from, epoch, proposals, reply } => {
                let current = self.cluster.brokers.get(&from).is_some_and(|b| b.epoch == epoch);
                if !current {
                    let _ = reply.send(Err(ResponseError::StaleBrokerEpoch));
                    return Ok(());
                }
                let _ = reply.send(Ok(self.proposals(from, proposals).await?));
            }
            Event::Shutdown { id, epoch, reply } => {
                let _ = reply.send(self.shutdown(id, epoch).await?);
            }
            Event::Gone { id, epoch } => self.gone(id, epoch).await?,
            Event::Assigned { id, epoch, codes } => self.assigned(id, epoch, codes),
            Event::Deleted { id, names } => {
                for name in names {
                    if let Some(gone) = self.deleting.get_mut(&name.0) {
                        gone.insert((id, name));
                    }
                }
            }
            Event::Elect { kind, names, reply } => {
                let _ = reply.send(self.elect(kind, names).await?);
            }
            Event::Reassign { targets, reply } => {
                let _ = reply.send(self.reassign(targets).await?);
            }
            Event::Touched(topic) => drop(self.touched.insert(topic)),
            Event::ListReassignments(reply) => {
                let going = self.cluster.partitions().filter(|(_, p)| p.reassigned());
                let one =
                    |p: &Partition| Reassignment { replicas: p.replicas.clone(), adding: p.adding.clone(), removing: p.removing.clone() };
                let _ = reply.send(going.map(|(name, p)| (name, one(p))).collect());
            }
        }
        Ok(())
    }

    async fn proposals(&mut self, from: i32, proposals: Vec<(Name, Proposal)>) -> Result<Results<Stored>, ControllerError> {
        let judged: Vec<Judged> = proposals
            .into_iter()
            .map(|(name, proposal)| {
                let judged = self.cluster.judge(from, &name, &proposal);
                (name, judged)
            })
            .collect();
        let changes: Vec<Change> = judged.iter().filter_map(|(_, j)| j.as_ref().ok().and_then(Clone::clone)).collect();
        let names: Vec<Name> = changes.iter().map(|c| c.name.clone()).collect();
        self.write(changes).await?;
        // The leader learns of it by the answer; the others have nothing to do.
        self.tell(&names, &BTreeSet::new(), false);
        let answer = |(name, judged): Judged| {
            let result = judged.and_then(|wanted| {
                let stored = self.cluster.partition(&name).and_then(|p| p.stored.clone()).ok_or(ResponseError::UnknownTopicOrPartition)?;
                match wanted {
                    Some(change) if change.state != stored.state => Err(ResponseError::InvalidUpdateVersion),
                    _ => Ok(stored),
                }
            });
            (name, result)
        };
        Ok(judged.into_iter().map(answer).collect())
    }

    /// A broker has answered what it can use of its replicas, and what not.
    fn assigned(&mut self, id: i32, epoch: i64, codes: Vec<(Name, i16)>) {
        if self.cluster.brokers.get(&id).is_none_or(|b| b.epoch != epoch) {
            return;
        }
        let (mut failed, mut usable) = (Vec::new(), Vec::new());
        for (name, code) in codes {
            let entry = (id, name);
            if code == ResponseError::KafkaStorageError.code() {
                if self.cluster.offline.insert(entry.clone()) {
                    failed.push(entry.1);
                }
            } else if code == 0 && self.cluster.offline.remove(&entry) {
                usable.push(entry.1);
            }
        }
        if let Some(first) = failed.first() {
            tracing::warn!("broker {id} cannot use its replicas of {} partitions, such as {}-{}", failed.len(), first.0, first.1);
        }
        if let Some(first) = usable.first() {
            tracing::info!("broker {id} can use its replicas of {} partitions again, such as {}-{}", usable.len(), first.0, first.1);
        }
        failed.append(&mut usable);
        if !failed.is_empty() {
            self.tell(&failed, &BTreeSet::new(), false);
        }
    }

    async fn shutdown(&mut self, id: i32, epoch: i64) -> Result<Result<Vec<Name>, ResponseError>, ControllerError> {
        let Some(broker) = self.cluster.brokers.get_mut(&id) else {
            return Ok(Err(ResponseError::BrokerNotAvailable));
        };
        if epoch >= 0 && epoch < broker.epoch {
            return Ok(Err(ResponseError::StaleBrokerEpoch));
        }
        if !broker.stopping {
            tracing::info!("broker {id} asks to stop");
            broker.stopping = true;
        }
        self.repair().await?;
        // It fetches no more, so that it does not ask to be in sync again.
        if let Some(channel) = self.channels.get(&id) {
            for name in self.cluster.replicas_on(id) {
                let Some(p) = self.cluster.partition(&name) else { continue };
                if let Some(s) = p.stored.as_ref().filter(|s| s.state.leader != id && p.replicas.len() > 1) {
                    channel.stop(&name, s.state.leader_epoch, false);
                }
            }
        }
        Ok(Ok(self.cluster.led_by(id)))
    }

    /// Takes back the registration of a broker at whose address nothing listens.
    async fn gone(&mut self, id: i32, epoch: i64) -> Result<(), ControllerError> {
        if self.cluster.brokers.get(&id).is_none_or(|b| b.epoch != epoch) {
            return Ok(());
        }
        let at = format!("{}/{id}", path::BROKER_IDS);
        match self.client.check_stat(&at).await? {
            Some(stat) if stat.czxid == epoch => {
                tracing::warn!("broker {id}: nothing listens at its address; its registration is taken back");
                match self.client.delete(&at, Some(stat.version)).await {
                    Ok(()) | Err(zk::Error::NoNode | zk::Error::BadVersion) => {}
                    Err(e) => return Err(e.into()),
                }
            }
            _ => {}
        }
        self.ids.forget();
        Ok(())
    }

    async fn elect(&mut self, kind: Election, names: Option<Vec<Name>>) -> Result<Results<()>, ControllerError> {
        let all = names.is_none();
        let names = names.unwrap_or_else(|| self.cluster.partitions().map(|(name, _)| name).collect());
        let (mut results, mut changes) = (Vec::new(), Vec::new());
        for name in names {
            let Some(p) = self.cluster.partition(&name) else {
                results.push((name, Err(ResponseError::UnknownTopicOrPartition)));
                continue;
            };
            let change = match kind {
                Election::Preferred => self.cluster.prefer(&name),
                Election::Unclean => self.cluster.force(&name),
            };
            let needed = match (kind, &p.stored) {
                (Election::Preferred, Some(s)) => p.replicas.first() != Some(&s.state.leader),
                (Election::Unclean, Some(s)) => s.state.leader < 0,
                (_, None) => true,
            };
            match change {
                Some(change) if change.state.leader >= 0 => {
                    changes.push(change);
                    results.push((name, Ok(())));
                }
                _ if !needed => {
                    if !all {
                        results.push((name, Err(ResponseError::ElectionNotNeeded)));
                    }
                }
                _ => {
                    let error = match kind {
                        Election::Preferred => ResponseError::PreferredLeaderNotAvailable,
                        Election::Unclean => ResponseError::EligibleLeadersNotAvailable,
                    };
                    results.push((name, Err(error)));
                }
            }
        }
        self.write_and_tell(changes).await?;
        Ok(results)
    }

    async fn reassign(&mut self, targets: Vec<(Name, Option<Vec<i32>>)>) -> Result<Results<()>, ControllerError> {
        let (mut results, mut begun) = (Vec::new(), Vec::new());
        for (name, target) in targets {
            match self.cluster.reassign(&name, target.as_deref()) {
                Err(e) => results.push((name, Err(e))),
                Ok(None) => results.push((name, Ok(()))),
                Ok(Some(new)) => {
                    results.push((name.clone(), Ok(())));
                    begun.push((name, new));
                }
            }
        }
        let topics: BTreeSet<String> = begun.iter().map(|((topic, _), _)| topic.clone()).collect();
        let mut changes = Vec::new();
        for (name, new) in begun {
            tracing::info!("reassignment of {}-{} to {:?} begins", name.0, name.1, new.target());
            changes.extend(self.replace(&name, new));
        }
        for topic in &topics {
            if !self.write_topic(topic).await? {
                // The topic was changed meanwhile, and is read again: whoever asks anew is judged by that.
                changes.retain(|c| c.name.0 != *topic);
                let of_it = results.iter_mut().filter(|(name, result)| name.0 == *topic && result.is_ok());
                of_it.for_each(|(_, result)| *result = Err(ResponseError::RequestTimedOut));
            }
        }
        self.write_and_tell(changes).await?;
        Ok(results)
    }

    /// Gives a partition other replicas. Returns the change by which replicas hear of it: a new leader epoch.
    fn replace(&mut self, name: &Name, new: Partition) -> Option<Change> {
        let p = self.cluster.topics.get_mut(&name.0)?.partitions.get_mut(&name.1)?;
        *p = new;
        let stored = p.stored.as_ref()?;
        let mut state = stored.state.clone();
        state.leader_epoch += 1;
        Some(Change { name: name.clone(), state, replaces: Some(stored.version) })
    }
}
