//! DeleteTopics, answered by the controller once the topics are gone.

use std::{sync::Arc, time::Duration};

use kafka_protocol::{
    ResponseError,
    messages::{DeleteTopicsRequest, DeleteTopicsResponse, TopicName, delete_topics_response::DeletableTopicResult},
    protocol::StrBytes,
};
use uuid::Uuid;

use crate::{
    broker::Broker,
    cluster::{Image, deletion, topic_ids, topics::Refusal},
};

async fn delete(broker: &Broker, name: &str, version: i16) -> Result<(), Refusal> {
    let image = broker.image();
    if image.controller != Some(broker.id()) {
        return Err((ResponseError::NotController, "This is not the correct controller for this cluster.".into()));
    }
    if !broker.config.delete_topics {
        // Older clients do not know the other code.
        let code = if version < 3 { ResponseError::InvalidRequest } else { ResponseError::TopicDeletionDisabled };
        return Err((code, "Topic deletion is disabled.".into()));
    }
    if !image.topics.contains_key(name) {
        return Err((ResponseError::UnknownTopicOrPartition, "This server does not host this topic-partition.".into()));
    }
    let client = broker.zookeeper.borrow().clone();
    let client = client.ok_or((ResponseError::CoordinatorNotAvailable, "no session with the coordinator".to_owned()))?;
    deletion::request(&client, name).await.map_err(|e| (ResponseError::UnknownServerError, format!("the coordinator: {e}")))
}

fn all_alive(image: &Image, topic: &str) -> bool {
    let partitions = image.topics.get(topic).into_iter().flat_map(|t| t.partitions.values());
    partitions.flat_map(|p| &p.replicas).all(|r| image.brokers.contains_key(r))
}

/// Waits until topics are not known any more, and until some may be made again.
async fn gone(broker: &Broker, topics: &[String], with_znodes: &[String]) {
    let mut image = broker.image.subscribe();
    let _ = image.wait_for(|i| topics.iter().all(|t| !i.topics.contains_key(t))).await;
    let client = broker.zookeeper.borrow().clone();
    let Some(client) = client else { return };
    for topic in with_znodes {
        if let Err(e) = deletion::gone(&client, topic).await {
            tracing::warn!("topic {topic}: {e}");
        }
    }
}

/// Answers a request.
pub async fn handle(broker: &Arc<Broker>, request: &DeleteTopicsRequest, version: i16) -> DeleteTopicsResponse {
    let image = broker.image();
    // Name, and id where it is asked for by id.
    let id_of = |name: &str| image.topic(name).map(|t| topic_ids::uuid(t)).unwrap_or_default();
    let named = |name: &str| (Some(name.to_owned()), id_of(name));
    let mut wanted: Vec<(Option<String>, Uuid)> = request.topic_names.iter().map(|n| named(n)).collect();
    for topic in &request.topics {
        wanted.push(match &topic.name {
            Some(name) => named(name),
            None => (broker.topic_ids.name(&image, topic.topic_id).map(|n| n.to_string()), topic.topic_id),
        });
    }
    let mut results = Vec::new();
    let mut going = Vec::new();
    for (name, id) in wanted {
        let answer = DeletableTopicResult::default().with_error_message(None);
        let answer = if version >= 6 { answer.with_topic_id(id) } else { answer };
        let done = match &name {
            Some(name) => delete(broker, name, version).await,
            None => Err((ResponseError::UnknownTopicId, "This server does not host this topic ID.".into())),
        };
        let answer = match done {
            Ok(()) => {
                going.extend(name.clone());
                answer
            }
            Err((code, text)) => {
                let text = (version >= 5).then(|| StrBytes::from_string(text));
                answer.with_error_code(code.code()).with_error_message(text)
            }
        };
        results.push(answer.with_name(name.map(|n| TopicName(StrBytes::from_string(n)))));
    }
    let wait = Duration::from_millis(request.timeout_ms.clamp(0, 60_000) as u64);
    // Replicas of brokers that are away go when these come back; nobody waits for that.
    let here: Vec<String> = going.iter().filter(|t| all_alive(&image, t)).cloned().collect();
    if !going.is_empty() && tokio::time::timeout(wait, gone(broker, &going, &here)).await.is_err() {
        for r in results.iter_mut().filter(|r| r.error_code == 0) {
            r.error_code = ResponseError::RequestTimedOut.code();
        }
    }
    DeleteTopicsResponse::default().with_responses(results)
}
