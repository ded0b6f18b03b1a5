//! CreatePartitions, answered by the controller once the new partitions have leaders.

use std::{collections::HashMap, sync::Arc, time::Duration};

use kafka_protocol::{
    ResponseError,
    messages::{
        CreatePartitionsRequest, CreatePartitionsResponse, create_partitions_request::CreatePartitionsTopic,
        create_partitions_response::CreatePartitionsTopicResult,
    },
    protocol::StrBytes,
};

use crate::{
    broker::Broker,
    cluster::{
        Image, TopicInfo,
        controller::Event,
        partitions,
        topics::{self, Refusal},
    },
};

/// Replicas of the partitions that are new.
fn assignment(image: &Image, topic: &TopicInfo, wanted: &CreatePartitionsTopic) -> Result<Vec<Vec<i32>>, Refusal> {
    let (now, count) = (topic.partitions.len(), usize::try_from(wanted.count).unwrap_or(0));
    if count == now {
        return Err((ResponseError::InvalidPartitions, format!("Topic already has {now} partitions.")));
    }
    if count < now {
        let why = format!("Topic currently has {now} partitions, which is higher than the requested {}.", wanted.count);
        return Err((ResponseError::InvalidPartitions, why));
    }
    let first = topic.partitions.get(&0).map(|p| p.replicas.clone()).unwrap_or_default();
    let Some(assignments) = &wanted.assignments else {
        let start = image.brokers.keys().position(|id| first.first() == Some(id)).unwrap_or(0);
        let all = topics::assign(image, wanted.count, i16::try_from(first.len()).unwrap_or(i16::MAX), start)?;
        return Ok(all.into_iter().skip(now).collect());
    };
    let bad = |why: String| Err((ResponseError::InvalidReplicaAssignment, why));
    if assignments.len() != count - now {
        return bad(format!("Increasing the number of partitions by {} but {} assignments provided.", count - now, assignments.len()));
    }
    let mut out = Vec::new();
    for (number, a) in (now..).zip(assignments) {
        let ids: Vec<i32> = a.broker_ids.iter().map(|b| b.0).collect();
        let unknown: Vec<String> = ids.iter().filter(|id| !image.brokers.contains_key(id)).map(ToString::to_string).collect();
        if !unknown.is_empty() {
            return bad(format!("Unknown broker(s) in replica assignment: {}.", unknown.join(", ")));
        }
        if ids.is_empty() || ids.iter().enumerate().any(|(i, id)| ids[..i].contains(id)) {
            return bad(format!("Duplicate brokers not allowed in replica assignment: {ids:?} for partition id {number}."));
        }
        if ids.len() != first.len() {
            return bad(format!(
                "Inconsistent replication factor between partitions, partition 0 has {} while partition {number} has {}.",
                first.len(),
                ids.len()
            ));
        }
        out.push(ids);
    }
    Ok(out)
}

async fn add(broker: &Broker, wanted: &CreatePartitionsTopic, validate_only: bool) -> Result<(), Refusal> {
    let image = broker.image();
    if image.controller != Some(broker.id()) {
        return Err((ResponseError::NotController, "This is not the correct controller for this cluster.".into()));
    }
    let name = wanted.name.as_str();
    let Some(topic) = image.topics.get(name) else {
        return Err((ResponseError::UnknownTopicOrPartition, format!("The topic '{name}' does not exist.")));
    };
    let added = assignment(&image, topic, wanted)?;
    broker.quota.reserve(&image, broker.partition_limits(), name, &added, false)?;
    broker.quota.release(name);
    if validate_only {
        return Ok(());
    }
    let client = broker.zookeeper.borrow().clone();
    let client = client.ok_or((ResponseError::CoordinatorNotAvailable, "no session with the coordinator".to_owned()))?;
    partitions::add(&client, name, topic.partitions.len(), &added).await?;
    let events = broker.controller().ok_or((ResponseError::NotController, "This broker is not the controller any more.".to_owned()))?;
    let _ = events.send(Event::Touched(name.to_owned())).await;
    Ok(())
}

/// Answers a request.
pub async fn handle(broker: &Arc<Broker>, request: &CreatePartitionsRequest) -> CreatePartitionsResponse {
    let mut times: HashMap<&str, usize> = HashMap::new();
    request.topics.iter().for_each(|t| *times.entry(t.name.as_str()).or_default() += 1);
    let (mut results, mut made) = (Vec::new(), Vec::new());
    for topic in &request.topics {
        let answer = CreatePartitionsTopicResult::default().with_name(topic.name.clone()).with_error_message(None);
        let done = match times.insert(topic.name.as_str(), 0) {
            Some(1) => add(broker, topic, request.validate_only).await,
            // Once with this error, as on Kafka.
            Some(0) => continue,
            _ => Err((ResponseError::InvalidRequest, "Duplicate topic in request.".into())),
        };
        results.push(match done {
            Ok(()) => {
                made.push((topic.name.to_string(), topic.count));
                answer
            }
            Err((code, why)) => answer.with_error_code(code.code()).with_error_message(Some(StrBytes::from_string(why))),
        });
    }
    if !request.validate_only && !made.is_empty() {
        let mut image = broker.image.subscribe();
        let led = |t: &TopicInfo, count: i32| (0..count).all(|n| t.partitions.get(&n).is_some_and(|p| p.leader >= 0));
        let all = image.wait_for(|i| made.iter().all(|(name, count)| i.topics.get(name).is_none_or(|t| led(t, *count))));
        let wait = Duration::from_millis(request.timeout_ms.clamp(0, 60_000) as u64);
        if tokio::time::timeout(wait, all).await.is_err() {
            let image = broker.image();
            let done = |name: &str| made.iter().all(|(n, count)| n != name || image.topic(name).is_none_or(|t| led(t, *count)));
            for r in results.iter_mut().filter(|r| r.error_code == 0 && !done(r.name.as_str())) {
                r.error_code = ResponseError::RequestTimedOut.code();
            }
        }
    }
    CreatePartitionsResponse::default().with_results(results)
}
