//! ElectLeaders, answered by the controller once the brokers know the new leaders.

use std::{collections::BTreeMap, time::Duration};

use kafka_protocol::{
    ResponseError,
    messages::{
        ElectLeadersRequest, ElectLeadersResponse, TopicName,
        elect_leaders_response::{PartitionResult, ReplicaElectionResult},
    },
    protocol::StrBytes,
};

use crate::{
    broker::Broker,
    cluster::{
        Image,
        controller::{Election, Event, Results, ask},
    },
};

/// A sentence for an error, in Kafka's words (Errors.java).
fn sentence(error: ResponseError) -> String {
    match error {
        ResponseError::ElectionNotNeeded => "Leader election not needed for topic partition.".into(),
        ResponseError::PreferredLeaderNotAvailable => "The preferred leader was not available.".into(),
        ResponseError::EligibleLeadersNotAvailable => "Eligible topic partition leaders are not available.".into(),
        ResponseError::UnknownTopicOrPartition => "This server does not host this topic-partition.".into(),
        ResponseError::NotController => "This is not the correct controller for this cluster.".into(),
        other => format!("{other:?}"),
    }
}

async fn elect(broker: &Broker, request: &ElectLeadersRequest) -> Result<Results<()>, ResponseError> {
    let kind = match request.election_type {
        0 => Election::Preferred,
        1 => Election::Unclean,
        _ => return Err(ResponseError::InvalidRequest),
    };
    let names = request.topic_partitions.as_ref().map(|topics| {
        let named = topics.iter().flat_map(|t| t.partitions.iter().map(|p| (t.topic.to_string(), *p)));
        let mut names: Vec<_> = named.collect();
        names.sort_unstable();
        names.dedup();
        names
    });
    let events = broker.controller().ok_or(ResponseError::NotController)?;
    let results = ask(&events, |reply| Event::Elect { kind, names, reply }).await?;
    let led = |image: &Image, topic: &str, number: i32| {
        let partition = image.topic(topic).and_then(|t| t.partitions.get(&number));
        partition.is_none_or(|p| if kind == Election::Preferred { p.replicas.first() == Some(&p.leader) } else { p.leader >= 0 })
    };
    let wait = Duration::from_millis(request.timeout_ms.clamp(0, 60_000) as u64);
    let mut image = broker.image.subscribe();
    let known = image.wait_for(|i| results.iter().filter(|(_, r)| r.is_ok()).all(|((topic, number), _)| led(i, topic, *number)));
    let in_time = tokio::time::timeout(wait, known).await.is_ok();
    Ok(results.into_iter().map(|(name, r)| (name, if in_time { r } else { r.and(Err(ResponseError::RequestTimedOut)) })).collect())
}

/// Answers a request.
pub async fn handle(broker: &Broker, request: &ElectLeadersRequest, version: i16) -> ElectLeadersResponse {
    let (error, results) = match elect(broker, request).await {
        Ok(results) => (0, results),
        Err(e) => {
            // Older clients have no other place for it.
            let named = request.topic_partitions.iter().flatten().flat_map(|t| t.partitions.iter().map(|p| (t.topic.to_string(), *p)));
            (if version >= 1 { e.code() } else { 0 }, named.map(|name| (name, Err(e))).collect())
        }
    };
    let mut topics: BTreeMap<String, Vec<PartitionResult>> = BTreeMap::new();
    for ((topic, number), result) in results {
        let answer = PartitionResult::default().with_partition_id(number).with_error_message(None);
        topics.entry(topic).or_default().push(match result {
            Ok(()) => answer,
            Err(e) => answer.with_error_code(e.code()).with_error_message(Some(StrBytes::from_string(sentence(e)))),
        });
    }
    let topics = topics.into_iter().map(|(name, partitions)| {
        ReplicaElectionResult::default().with_topic(TopicName(StrBytes::from_string(name))).with_partition_result(partitions)
    });
    ElectLeadersResponse::default().with_error_code(error).with_replica_election_results(topics.collect())
}
