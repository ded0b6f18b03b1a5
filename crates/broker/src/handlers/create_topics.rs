//! CreateTopics, answered by the controller once it knows the new topics itself.

use std::{collections::HashMap, sync::Arc, time::Duration};

use kafka_protocol::{
    ResponseError,
    messages::{
        CreateTopicsRequest, CreateTopicsResponse,
        create_topics_request::CreatableTopic,
        create_topics_response::{CreatableTopicConfigs, CreatableTopicResult},
    },
    protocol::StrBytes,
};

use super::{alter_configs, describe_configs};
use crate::{
    broker::Broker,
    cluster::{
        topic_ids,
        topics::{self, Refusal},
    },
    configs::{Refused, Settings},
    topic_settings::TopicSettings,
};

fn assignment(broker: &Broker, topic: &CreatableTopic) -> Result<Vec<Vec<i32>>, Refusal> {
    let image = broker.image();
    if topic.assignments.is_empty() {
        let partitions = if topic.num_partitions == -1 { broker.config.num_partitions } else { topic.num_partitions };
        let factor = if topic.replication_factor == -1 { broker.config.default_replication_factor } else { topic.replication_factor };
        let start = topic.name.bytes().map(usize::from).sum();
        return topics::assign(&image, partitions, factor, start);
    }
    let bad = |text: String| (ResponseError::InvalidReplicaAssignment, text);
    if topic.num_partitions != -1 || topic.replication_factor != -1 {
        return Err((ResponseError::InvalidRequest, "give either an assignment, or partitions and replication factor".into()));
    }
    let mut out = vec![Vec::new(); topic.assignments.len()];
    for a in &topic.assignments {
        let ids: Vec<i32> = a.broker_ids.iter().map(|b| b.0).collect();
        let distinct: std::collections::BTreeSet<i32> = ids.iter().copied().collect();
        if ids.is_empty() || distinct.len() != ids.len() {
            return Err(bad("each partition needs replicas, and each on another broker".into()));
        }
        if let Some(id) = ids.iter().find(|id| !image.brokers.contains_key(id)) {
            return Err(bad(format!("there is no broker {id}")));
        }
        let slot = usize::try_from(a.partition_index).ok().and_then(|i| out.get_mut(i)).filter(|s| s.is_empty());
        *slot.ok_or_else(|| bad("partitions must be numbered from 0, each once".into()))? = ids;
    }
    if out.windows(2).any(|w| w[0].len() != w[1].len()) {
        return Err(bad("all partitions need the same number of replicas".into()));
    }
    Ok(out)
}

async fn create(broker: &Broker, topic: &CreatableTopic, validate_only: bool) -> Result<(usize, usize, Settings), Refusal> {
    let name = topic.name.as_str();
    topics::check_name(name)?;
    let image = broker.image();
    if image.controller != Some(broker.id()) {
        return Err((ResponseError::NotController, "This is not the correct controller for this cluster.".into()));
    }
    if image.topics.contains_key(name) {
        return Err((ResponseError::TopicAlreadyExists, format!("Topic '{name}' already exists.")));
    }
    let mut config = Settings::new();
    for c in &topic.configs {
        let key = c.name.to_string();
        let Some(value) = &c.value else {
            return Err((ResponseError::InvalidConfig, format!("Null value not supported for topic configs: {key}")));
        };
        config.insert(key, value.to_string());
    }
    alter_configs::check_for_topic(&config)
        .map_err(|(Refused::Config(why) | Refused::Request(why))| (ResponseError::InvalidConfig, why))?;
    let mut settings = TopicSettings::of(&broker.dynamic.get().config);
    for (key, value) in &config {
        if settings.set(key, value) != Ok(true) {
            tracing::warn!("topic {name}: {key} is kept, but has no effect so far");
        }
    }
    let assignment = assignment(broker, topic)?;
    if validate_only {
        broker.quota.reserve(&image, broker.partition_limits(), name, &assignment, false)?;
        broker.quota.release(name);
    } else {
        let client = broker
            .zookeeper
            .borrow()
            .clone()
            .ok_or((ResponseError::CoordinatorNotAvailable, "no session with the coordinator".to_owned()))?;
        broker.quota.reserve(&image, broker.partition_limits(), name, &assignment, false)?;
        if let Err(e) = topics::create(&client, name, &assignment, &serde_json::json!(config)).await {
            broker.quota.release(name);
            return Err(e);
        }
    }
    Ok((assignment.len(), assignment.first().map_or(0, Vec::len), config))
}

/// Answers a request.
pub async fn handle(broker: &Arc<Broker>, request: &CreateTopicsRequest, version: i16) -> CreateTopicsResponse {
    let mut results = Vec::new();
    let mut made = Vec::new();
    let mut times: HashMap<&str, usize> = HashMap::new();
    request.topics.iter().for_each(|t| *times.entry(t.name.as_str()).or_default() += 1);
    for topic in &request.topics {
        let answer = CreatableTopicResult::default().with_name(topic.name.clone()).with_error_message(None);
        let done = match times.get(topic.name.as_str()) {
            // Once with this error, as on Kafka.
            Some(0) => continue,
            Some(1) => create(broker, topic, request.validate_only).await,
            _ => {
                times.insert(topic.name.as_str(), 0);
                Err((
                    ResponseError::InvalidRequest,
                    format!("Create topics request from client contains multiple entries for topic {}", *topic.name),
                ))
            }
        };
        results.push(match done {
            Ok((partitions, factor, settings)) => {
                made.push(topic.name.to_string());
                if version >= 5 {
                    let configs = describe_configs::of_new_topic(broker, &settings).into_iter().map(|(name, value, from)| {
                        CreatableTopicConfigs::default()
                            .with_name(StrBytes::from_string(name))
                            .with_value(value.map(StrBytes::from_string))
                            .with_config_source(from as i8)
                    });
                    answer
                        .with_num_partitions(partitions as i32)
                        .with_replication_factor(factor as i16)
                        .with_configs(Some(configs.collect()))
                } else {
                    answer
                }
            }
            Err((code, text)) => answer.with_error_code(code.code()).with_error_message(Some(StrBytes::from_string(text))),
        });
    }
    if !request.validate_only {
        let mut image = broker.image.subscribe();
        let all = image.wait_for(|i| made.iter().all(|m| i.topics.get(m).is_some_and(|t| t.partitions.values().all(|p| p.leader >= 0))));
        let wait = Duration::from_millis(request.timeout_ms.clamp(0, 60_000) as u64);
        if tokio::time::timeout(wait, all).await.is_err() {
            let image = broker.image();
            let led = |name: &str| image.topic(name).is_some_and(|t| t.partitions.values().all(|p| p.leader >= 0));
            for r in results.iter_mut().filter(|r| r.error_code == 0 && !led(r.name.as_str())) {
                r.error_code = ResponseError::RequestTimedOut.code();
            }
        }
        if version >= 7 {
            let image = broker.image();
            for r in results.iter_mut().filter(|r| r.error_code == 0) {
                r.topic_id = image.topic(r.name.as_str()).map(|t| topic_ids::uuid(t)).unwrap_or_default();
            }
        }
    }
    CreateTopicsResponse::default().with_topics(results)
}
