//! DeleteTopics, answered by the controller once the topics are gone.

use std::{sync::Arc, time::Duration};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use kafka_protocol::{
    ResponseError,
    messages::{DeleteTopicsRequest, DeleteTopicsResponse, TopicName, delete_topics_response::DeletableTopicResult},
    protocol::StrBytes,
};

use crate::{
    broker::Broker,
    cluster::{Image, deletion, topics::Refusal},
};

/// The topic of an id.
fn by_id(image: &Image, id: &[u8; 16]) -> Option<String> {
    let id = URL_SAFE_NO_PAD.encode(id);
    image.topics.iter().find(|(_, t)| t.id.as_ref() == Some(&id)).map(|(name, _)| name.clone())
}

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

/// Answers a request.
pub async fn handle(broker: &Arc<Broker>, request: &DeleteTopicsRequest, version: i16) -> DeleteTopicsResponse {
    let image = broker.image();
    // Name, and id where it is asked for by id.
    let mut wanted: Vec<(Option<String>, [u8; 16])> = request.topic_names.iter().map(|n| (Some(n.to_string()), [0; 16])).collect();
    for topic in &request.topics {
        let name = topic.name.as_ref().map(|n| n.to_string());
        wanted.push((name.or_else(|| by_id(&image, topic.topic_id.as_bytes())), *topic.topic_id.as_bytes()));
    }
    let mut results = Vec::new();
    let mut going = Vec::new();
    for (name, id) in wanted {
        let answer = DeletableTopicResult::default().with_error_message(None);
        let answer = if version >= 6 { answer.with_topic_id(uuid::Uuid::from_bytes(id)) } else { answer };
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
    let mut image = broker.image.subscribe();
    let gone = image.wait_for(|i| going.iter().all(|t| !i.topics.contains_key(t)));
    let wait = Duration::from_millis(request.timeout_ms.clamp(0, 60_000) as u64);
    if !going.is_empty() && tokio::time::timeout(wait, gone).await.is_err() {
        for r in results.iter_mut().filter(|r| r.error_code == 0) {
            r.error_code = ResponseError::RequestTimedOut.code();
        }
    }
    DeleteTopicsResponse::default().with_responses(results)
}
