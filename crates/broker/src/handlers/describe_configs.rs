//! DescribeConfigs: settings of topics and of this broker, with where they come from.
//!
//! Invariant: a topic's settings are read from the coordinator, so that an administrator sees what was changed through any broker.

use std::{collections::HashSet, sync::Arc};

use futures_util::future::join_all;
use kafka_protocol::{
    ResponseError,
    messages::{
        DescribeConfigsRequest, DescribeConfigsResponse,
        describe_configs_request::DescribeConfigsResource,
        describe_configs_response::{DescribeConfigsResourceResult, DescribeConfigsResult, DescribeConfigsSynonym},
    },
    protocol::StrBytes,
};

use crate::{
    broker::Broker,
    cluster::{
        config_changes::{self, Entity},
        topics::Refusal,
    },
    configs::{Described, From, Layers, describe_broker, describe_topic},
    net::budget::Share,
};

/// Types of resources, by their codes.
pub const TOPIC: i8 = 2;
/// A broker, or with an empty name all brokers.
pub const BROKER: i8 = 4;

/// Memory that a resource takes in an answer, in bytes.
const TOPIC_BYTES: usize = 20 * 1024;
const BROKER_BYTES: usize = 64 * 1024;
/// Topics that are read at once.
const AT_ONCE: usize = 64;

/// A broker's entity, which must be this broker's or that of all.
pub fn broker_entity(broker: &Broker, name: &str) -> Result<Entity, Refusal> {
    match name {
        "" => Ok(Entity::Brokers),
        n if n.parse() == Ok(broker.id()) => Ok(Entity::Broker(broker.id())),
        n => Err((
            ResponseError::InvalidRequest,
            format!("Unexpected broker id, expected {} or empty string, but received {n}", broker.id()),
        )),
    }
}

async fn described(broker: &Broker, resource: &DescribeConfigsResource) -> Result<Vec<Described>, Refusal> {
    let name = resource.resource_name.as_str();
    let dynamic = broker.dynamic.get();
    let layers = Layers { broker: &dynamic.broker, default: &dynamic.default, file: &broker.config.raw };
    match resource.resource_type {
        TOPIC => {
            let image = broker.image();
            if image.topic(name).is_none() {
                return Err((ResponseError::UnknownTopicOrPartition, "This server does not host this topic-partition.".into()));
            }
            let client = broker.zookeeper.borrow().clone();
            let settings = match client {
                Some(client) => config_changes::read(&client, &Entity::Topic(name.to_owned())).await.ok().map(|(settings, _)| settings),
                None => None,
            };
            Ok(describe_topic(&settings.unwrap_or_else(|| broker.topic_configs.given(name)), &layers))
        }
        BROKER => Ok(describe_broker(&layers, broker_entity(broker, name)? == Entity::Brokers)),
        other => Err((ResponseError::InvalidRequest, format!("Unsupported resource type: {other}"))),
    }
}

fn text(s: String) -> StrBytes {
    StrBytes::from_string(s)
}

fn entry(d: Described, request: &DescribeConfigsRequest, version: i16) -> DescribeConfigsResourceResult {
    let synonym = |s: crate::configs::Synonym| {
        DescribeConfigsSynonym::default().with_name(text(s.key)).with_value(Some(text(s.value))).with_source(s.from as i8)
    };
    let synonyms = if request.include_synonyms { d.synonyms.into_iter().map(synonym).collect() } else { Vec::new() };
    let out = DescribeConfigsResourceResult::default()
        .with_name(text(d.key))
        .with_value(d.value.map(text))
        .with_read_only(d.read_only)
        .with_config_source(d.from as i8)
        .with_synonyms(synonyms);
    if version >= 3 { out.with_config_type(d.kind as i8).with_documentation(None) } else { out }
}

async fn result(
    broker: &Broker,
    request: &DescribeConfigsRequest,
    resource: &DescribeConfigsResource,
    version: i16,
) -> DescribeConfigsResult {
    let out = DescribeConfigsResult::default()
        .with_resource_type(resource.resource_type)
        .with_resource_name(resource.resource_name.clone())
        .with_error_message(None);
    match described(broker, resource).await {
        Ok(mut all) => {
            if let Some(keys) = &resource.configuration_keys {
                // Java's administrators' client asks with an empty list for all.
                let wanted: HashSet<&str> = keys.iter().map(|k| k.as_str()).collect();
                all.retain(|d| wanted.is_empty() || wanted.contains(d.key.as_str()));
            }
            out.with_configs(all.into_iter().map(|d| entry(d, request, version)).collect())
        }
        Err((code, why)) => out.with_error_code(code.code()).with_error_message(Some(text(why))),
    }
}

/// Answers a request. The share is for the answer.
pub async fn handle(broker: &Arc<Broker>, request: &DescribeConfigsRequest, version: i16) -> (DescribeConfigsResponse, Share) {
    // A resource that is named again is answered once.
    let mut seen = HashSet::new();
    let image = broker.image();
    let resources: Vec<_> = request.resources.iter().filter(|r| seen.insert((r.resource_type, r.resource_name.as_str()))).collect();
    let bytes = resources.iter().map(|r| match r.resource_type {
        TOPIC if image.topic(r.resource_name.as_str()).is_some() => TOPIC_BYTES,
        BROKER => BROKER_BYTES,
        _ => 0,
    });
    let share = broker.budgets.responses.take(bytes.sum()).await;
    let mut results = Vec::with_capacity(resources.len());
    for some in resources.chunks(AT_ONCE) {
        results.extend(join_all(some.iter().map(|r| result(broker, request, r, version))).await);
    }
    (DescribeConfigsResponse::default().with_results(results), share)
}

/// Settings of a topic that was made with these, as CreateTopics answers them: name, value, source.
pub fn of_new_topic(broker: &Broker, settings: &crate::configs::Settings) -> Vec<(String, Option<String>, From)> {
    let dynamic = broker.dynamic.get();
    let layers = Layers { broker: &dynamic.broker, default: &dynamic.default, file: &broker.config.raw };
    describe_topic(settings, &layers).into_iter().map(|d| (d.key, d.value, d.from)).collect()
}
