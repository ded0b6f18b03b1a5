//! AlterPartitionReassignments and ListPartitionReassignments, answered by the controller (KIP-455).

use std::collections::{BTreeMap, HashSet};

use kafka_protocol::{
    ResponseError,
    messages::{
        AlterPartitionReassignmentsRequest, AlterPartitionReassignmentsResponse, BrokerId, ListPartitionReassignmentsRequest,
        ListPartitionReassignmentsResponse, TopicName,
        alter_partition_reassignments_response::{ReassignablePartitionResponse, ReassignableTopicResponse},
        list_partition_reassignments_response::{OngoingPartitionReassignment, OngoingTopicReassignment},
    },
    protocol::StrBytes,
};

use crate::{
    broker::Broker,
    cluster::controller::{Event, Reassignment, Results, ask},
};

const NOT_CONTROLLER: &str = "This is not the correct controller for this cluster.";

fn sentence(error: ResponseError) -> String {
    match error {
        ResponseError::NoReassignmentInProgress => "No partition reassignment is in progress.".into(),
        ResponseError::UnknownTopicOrPartition => "The partition does not exist.".into(),
        ResponseError::InvalidReplicaAssignment => "Replica assignment has brokers that are not alive, or names one more than once.".into(),
        other => format!("{other:?}"),
    }
}

fn name(topic: String) -> TopicName {
    TopicName(StrBytes::from_string(topic))
}

/// Answers AlterPartitionReassignments: reassignments that have begun go on in the background.
pub async fn alter(broker: &Broker, request: &AlterPartitionReassignmentsRequest) -> AlterPartitionReassignmentsResponse {
    let mut targets = BTreeMap::new();
    for topic in &request.topics {
        for p in &topic.partitions {
            let replicas = p.replicas.as_ref().map(|ids| ids.iter().map(|b| b.0).collect::<Vec<_>>());
            targets.insert((topic.name.to_string(), p.partition_index), replicas);
        }
    }
    let asked: Result<Results<()>, ResponseError> = match broker.controller() {
        Some(events) => ask(&events, |reply| Event::Reassign { targets: targets.into_iter().collect(), reply }).await,
        None => Err(ResponseError::NotController),
    };
    let answer = AlterPartitionReassignmentsResponse::default().with_error_message(None);
    let results = match asked {
        Ok(results) => results,
        Err(e) => return answer.with_error_code(e.code()).with_error_message(Some(StrBytes::from_static_str(NOT_CONTROLLER))),
    };
    let mut topics: BTreeMap<String, Vec<ReassignablePartitionResponse>> = BTreeMap::new();
    for ((topic, number), result) in results {
        let part = ReassignablePartitionResponse::default().with_partition_index(number).with_error_message(None);
        topics.entry(topic).or_default().push(match result {
            Ok(()) => part,
            Err(e) => part.with_error_code(e.code()).with_error_message(Some(StrBytes::from_string(sentence(e)))),
        });
    }
    let topics =
        topics.into_iter().map(|(t, partitions)| ReassignableTopicResponse::default().with_name(name(t)).with_partitions(partitions));
    answer.with_responses(topics.collect())
}

/// Answers ListPartitionReassignments.
pub async fn list(broker: &Broker, request: &ListPartitionReassignmentsRequest) -> ListPartitionReassignmentsResponse {
    let asked = match broker.controller() {
        Some(events) => ask(&events, Event::ListReassignments).await,
        None => Err(ResponseError::NotController),
    };
    let answer = ListPartitionReassignmentsResponse::default().with_error_message(None);
    let going = match asked {
        Ok(going) => going,
        Err(e) => return answer.with_error_code(e.code()).with_error_message(Some(StrBytes::from_static_str(NOT_CONTROLLER))),
    };
    let wanted: Option<HashSet<(&str, i32)>> = request
        .topics
        .as_ref()
        .map(|topics| topics.iter().flat_map(|t| t.partition_indexes.iter().map(|p| (t.name.as_str(), *p))).collect());
    let ids = |list: Vec<i32>| list.into_iter().map(BrokerId).collect::<Vec<_>>();
    let mut topics: BTreeMap<String, Vec<OngoingPartitionReassignment>> = BTreeMap::new();
    for ((topic, number), Reassignment { replicas, adding, removing }) in going {
        if wanted.as_ref().is_none_or(|w| w.contains(&(topic.as_str(), number))) {
            topics.entry(topic).or_default().push(
                OngoingPartitionReassignment::default()
                    .with_partition_index(number)
                    .with_replicas(ids(replicas))
                    .with_adding_replicas(ids(adding))
                    .with_removing_replicas(ids(removing)),
            );
        }
    }
    let topics =
        topics.into_iter().map(|(t, partitions)| OngoingTopicReassignment::default().with_name(name(t)).with_partitions(partitions));
    answer.with_topics(topics.collect())
}
