//! Carries out what the controller decides: LeaderAndIsr, UpdateMetadata, StopReplica.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use kafka_protocol::ResponseError;
use tokio::sync::Mutex;

use super::Fetchers;
use crate::{
    broker::Broker,
    cluster::{
        BrokerInfo, Image, PartitionInfo,
        control::{LEADER_DURING_DELETE, LeaderAndIsr, Origin, PartitionErrors, StopReplica, UpdateMetadata},
        topics::check_name,
    },
    config::Listener,
    core::partition::Assignment,
    groups::OFFSETS_TOPIC,
};

/// How long a controller's decision waits for the settings of its topics: less than the time that controllers wait for an answer.
const SETTINGS_TIMEOUT: Duration = Duration::from_secs(20);

/// The newest controller that was heard of, and its newest connection.
#[derive(Debug, Default)]
struct Heard {
    epoch: i32,
    connection: u64,
}

/// What is remembered of controllers, and the fetchers. One request of a controller is carried out at a time.
#[derive(Debug, Default)]
pub struct Manager {
    heard: Mutex<Heard>,
    /// Fetching from leaders.
    pub fetchers: Fetchers,
}

/// Text of a topic's id; `None` for the zero id.
fn id_text(id: &[u8; 16]) -> Option<String> {
    (*id != [0; 16]).then(|| URL_SAFE_NO_PAD.encode(id))
}

impl Manager {
    /// Refuses a request of a controller that was replaced, or for an earlier registration of this broker, or that came on an earlier
    /// connection of the same controller: what was decided later may have overtaken it there. `connection` counts them.
    fn check(broker: &Broker, heard: &mut Heard, origin: &Origin, connection: u64) -> Result<(), ResponseError> {
        // Before it has registered, a request is for its earlier life.
        if origin.broker_epoch >= 0 && (broker.epoch() < 0 || origin.broker_epoch < broker.epoch()) {
            return Err(ResponseError::StaleBrokerEpoch);
        }
        let Origin { controller_id, controller_epoch, .. } = origin;
        if *controller_epoch < heard.epoch {
            tracing::warn!("request of controller {controller_id} with epoch {controller_epoch} refused: epoch {} is known", heard.epoch);
            return Err(ResponseError::StaleControllerEpoch);
        }
        if *controller_epoch == heard.epoch && connection < heard.connection {
            tracing::warn!("request of controller {controller_id} refused: it has opened another connection since");
            return Err(ResponseError::StaleControllerEpoch);
        }
        *heard = Heard { epoch: *controller_epoch, connection };
        Ok(())
    }

    /// Leads and follows as the controller says.
    pub async fn leader_and_isr(
        &self,
        broker: &Arc<Broker>,
        request: &LeaderAndIsr,
        connection: u64,
    ) -> Result<PartitionErrors, ResponseError> {
        let topics: Vec<_> = request.topics.iter().filter(|t| check_name(&t.name).is_ok()).collect();
        // Before the turn is taken: what else the controller wants does not wait for the coordinator.
        let known = broker.topic_configs.load(broker, topics.iter().map(|t| t.name.as_str()), SETTINGS_TIMEOUT).await;
        let mut heard = self.heard.lock().await;
        Self::check(broker, &mut heard, &request.origin, connection)?;
        if let Err(e) = known {
            tracing::error!("what the controller decided is not carried out: {e}");
            return Err(ResponseError::NetworkException);
        }
        // Opening many logs takes a while: connections go on elsewhere.
        let errors = tokio::task::block_in_place(|| {
            let settings = |name: &str| broker.topic_configs.settings(broker, name);
            let wanted = topics.iter().flat_map(|t| t.partitions.iter().map(move |p| (t, p.index)));
            let ids: BTreeMap<&str, Option<String>> = topics.iter().map(|t| (t.name.as_str(), id_text(&t.id))).collect();
            let id = |name: &str| ids.get(name).and_then(|i| i.as_deref());
            let usable = wanted.filter(|_| !broker.storage.shared.log_dir.is_offline());
            broker.storage.host(usable.map(|(t, index)| (t.name.as_str(), id(&t.name), index, settings(&t.name))));
            let mut errors = PartitionErrors::new();
            for topic in &topics {
                for p in &topic.partitions {
                    let offline = broker.storage.shared.log_dir.is_offline();
                    let error = match broker.storage.get(&topic.name, p.index).filter(|_| !offline) {
                        None => ResponseError::KafkaStorageError.code(),
                        Some(led) => {
                            let assignment = Assignment {
                                replicas: p.replicas.clone(),
                                isr: p.isr.clone(),
                                leader: p.leader,
                                leader_epoch: p.leader_epoch,
                                partition_epoch: p.partition_epoch,
                            };
                            let at = request.leaders.iter().find(|l| l.id == p.leader).map(|l| (l.host.clone(), l.port));
                            self.assign(broker, topic, p.index, &led, assignment, at)
                        }
                    };
                    errors.push((topic.name.clone(), p.index, error));
                }
            }
            errors
        });
        Ok(errors)
    }

    fn assign(
        &self,
        broker: &Arc<Broker>,
        topic: &crate::cluster::control::TopicState,
        index: i32,
        led: &Arc<crate::storage::Led>,
        assignment: Assignment,
        at: Option<(String, i32)>,
    ) -> i16 {
        let (leader, epoch) = (assignment.leader, assignment.leader_epoch);
        if !led.partition.assign(assignment) {
            return ResponseError::StaleControllerEpoch.code();
        }
        let key = (topic.name.clone(), index);
        if leader == broker.id() {
            self.fetchers.unfollow(&key);
        } else {
            let at = at.and_then(|(host, port)| Some((host, u16::try_from(port).ok()?)));
            let at = at.or_else(|| broker.image().brokers.get(&leader).and_then(|b| b.endpoint(&broker.config.inter_broker_listener)));
            match at.filter(|_| leader >= 0) {
                Some(at) => self.fetchers.follow(broker, leader, at, key, topic.id, led.clone(), epoch),
                None => self.fetchers.unfollow(&key),
            }
        }
        if topic.name == OFFSETS_TOPIC {
            broker.groups_assigned(index, led, leader == broker.id(), epoch);
        }
        0
    }

    /// Leads and follows nothing any more: the log directory cannot be used.
    pub async fn stop_all(&self, broker: &Broker) {
        let _one = self.heard.lock().await;
        for ((topic, index), led) in broker.storage.all() {
            self.fetchers.unfollow(&(topic.clone(), index));
            led.partition.resign();
            if topic == OFFSETS_TOPIC {
                broker.groups_assigned(index, &led, false, led.partition.leader_epoch());
            }
        }
    }

    /// Knows what the controller tells of brokers and topics.
    pub async fn update_metadata(&self, broker: &Arc<Broker>, request: &UpdateMetadata, connection: u64) -> Result<(), ResponseError> {
        let mut heard = self.heard.lock().await;
        Self::check(broker, &mut heard, &request.origin, connection)?;
        let old = broker.image();
        let mut image = Image { controller: Some(request.origin.controller_id), ..(*old).clone() };
        // None with the first of several requests of a new controller: those that were known still are.
        if !request.brokers.is_empty() {
            image.brokers = request.brokers.iter().map(|b| (b.id, info(b))).collect();
        }
        for topic in request.topics.iter().filter(|t| check_name(&t.name).is_ok()) {
            let id = id_text(&topic.id);
            let known = image.topics.get(&topic.name).filter(|t| t.id == id || id.is_none());
            let mut new = known.map(|t| (**t).clone()).unwrap_or_default();
            new.id = id.or(new.id);
            for p in &topic.partitions {
                if p.leader == LEADER_DURING_DELETE {
                    new.partitions.remove(&p.index);
                    continue;
                }
                // From a connection that was lost: it was overtaken by what came over the next one.
                if new.partitions.get(&p.index).is_some_and(|known| known.leader_epoch > p.leader_epoch) {
                    continue;
                }
                new.partitions.insert(
                    p.index,
                    PartitionInfo {
                        replicas: p.replicas.clone(),
                        leader: p.leader,
                        leader_epoch: p.leader_epoch,
                        isr: p.isr.clone(),
                        offline: p.offline.clone(),
                    },
                );
            }
            if new.partitions.is_empty() {
                image.topics.remove(&topic.name);
                broker.topic_configs.forget(&topic.name);
                broker.storage.shared.traffic.forget(&topic.name);
            } else {
                image.topics.insert(topic.name.clone(), Arc::new(new));
            }
        }
        if *old != image {
            broker.image.send_replace(Arc::new(image));
        }
        Ok(())
    }

    /// Stops fetching replicas, and deletes those that are to go.
    pub async fn stop_replica(
        &self,
        broker: &Arc<Broker>,
        request: &StopReplica,
        connection: u64,
    ) -> Result<PartitionErrors, ResponseError> {
        let mut heard = self.heard.lock().await;
        Self::check(broker, &mut heard, &request.origin, connection)?;
        let errors = tokio::task::block_in_place(|| {
            let mut errors = PartitionErrors::new();
            for (topic, partitions) in request.topics.iter().filter(|(t, _)| check_name(t).is_ok()) {
                for p in partitions {
                    let key = (topic.clone(), p.index);
                    let led = broker.storage.get(topic, p.index);
                    // One that was overtaken by a newer decision is not carried out.
                    let stale = p.leader_epoch >= 0 && led.as_ref().is_some_and(|l| l.partition.leader_epoch() > p.leader_epoch);
                    if stale {
                        errors.push((key.0, key.1, ResponseError::FencedLeaderEpoch.code()));
                        continue;
                    }
                    self.fetchers.unfollow(&key);
                    if let Some(led) = &led {
                        led.partition.resign();
                        if topic == OFFSETS_TOPIC {
                            broker.groups_assigned(p.index, led, false, led.partition.leader_epoch());
                        }
                    }
                    let done = if p.delete { broker.storage.delete(topic, p.index) } else { Ok(()) };
                    let error = done.err().map_or(0, |e| {
                        tracing::error!("replica {topic}-{} is not deleted: {e}", p.index);
                        ResponseError::KafkaStorageError.code()
                    });
                    errors.push((key.0, key.1, error));
                }
            }
            if errors.iter().any(|(.., code)| *code == 0)
                && let Err(e) = broker.storage.checkpoint()
            {
                tracing::error!("checkpoint: {e}");
            }
            errors
        });
        broker.storage.wake.notify_one();
        Ok(errors)
    }
}

fn info(b: &crate::cluster::control::LiveBroker) -> BrokerInfo {
    let endpoint = |e: &crate::cluster::control::Endpoint| {
        Some(Listener { name: e.listener.clone(), host: e.host.clone(), port: u16::try_from(e.port).ok()? })
    };
    BrokerInfo { endpoints: b.endpoints.iter().filter_map(endpoint).collect(), rack: b.rack.clone(), ours: false }
}
