//! AlterConfigs and IncrementalAlterConfigs: settings of topics and brokers, written to the coordinator, from where every broker
//! takes them.
//!
//! Invariant: what is written was checked; a resource is changed as a whole or not at all.

use std::{collections::HashMap, sync::Arc, time::Duration};

use kafka_protocol::{
    ResponseError,
    messages::{
        AlterConfigsRequest, AlterConfigsResponse, IncrementalAlterConfigsRequest, IncrementalAlterConfigsResponse,
        alter_configs_response::AlterConfigsResourceResponse,
        incremental_alter_configs_response::AlterConfigsResourceResponse as IncrementalResourceResponse,
    },
    protocol::StrBytes,
};
use septet_zookeeper as zk;

use super::describe_configs::{BROKER, TOPIC, broker_entity};
use crate::{
    broker::Broker,
    cluster::{
        config_changes::{self, Entity},
        topics::{Refusal, check_config_size},
    },
    config::{ConfigError, LISTENERS},
    configs::{self, Layers, Operation, Refused, Settings, alter, broker_key, check_broker, check_topic, topic_key},
    replica::RATES,
    topic_settings::TopicSettings,
};

/// Longest wait for this broker to obey what it has written.
const OBEY: Duration = Duration::from_secs(2);

/// Why a change is not made.
enum Failed {
    Refused(Refused),
    Lost(zk::Error),
}

impl From<Refused> for Failed {
    fn from(r: Refused) -> Self {
        Self::Refused(r)
    }
}

impl From<zk::Error> for Failed {
    fn from(e: zk::Error) -> Self {
        Self::Lost(e)
    }
}

/// Checks a topic's settings. They lie in one znode and have a size.
pub fn check_for_topic(settings: &Settings) -> Result<(), Refused> {
    check_topic(settings)?;
    if settings.get("remote.storage.enable").is_some_and(|v| v.trim().eq_ignore_ascii_case("true")) {
        return Err(Refused::Config(
            "Tiered Storage functionality is disabled in the broker. Topic cannot be configured with remote log storage.".into(),
        ));
    }
    let map = settings.iter().map(|(k, v)| (k.clone(), v.clone().into())).collect();
    check_config_size(&map).map_err(|(_, why)| Refused::Config(why))
}

fn check(broker: &Broker, entity: &Entity, settings: &Settings) -> Result<(), Refused> {
    match entity {
        Entity::Topic(_) => check_for_topic(settings),
        Entity::Brokers => {
            check_broker(settings)?;
            let own: Vec<&str> = LISTENERS.into_iter().filter(|key| settings.contains_key(*key)).collect();
            if own.is_empty() {
                return Ok(());
            }
            let why = "Cannot update these configs at default cluster level, broker id must be specified: Set";
            Err(Refused::Request(format!("{why}({})", own.join(", "))))
        }
        Entity::Broker(_) => {
            check_broker(settings)?;
            check_listeners(broker, settings)
        }
    }
}

/// Whether listeners may be changed so: those of the file and what is set make sense together, and brokers reach this one as before.
fn check_listeners(broker: &Broker, settings: &Settings) -> Result<(), Refused> {
    if !LISTENERS.iter().any(|key| settings.contains_key(*key)) {
        return Ok(());
    }
    let refused = |why: String| Err(Refused::Request(why));
    let config = match broker.config.overlaid(settings) {
        Ok(config) => config,
        Err(ConfigError::Value { key, reason, .. }) => return refused(format!("{key}: {reason}")),
        Err(e) => return refused(e.to_string()),
    };
    let name = &broker.config.inter_broker_listener;
    if config.inter_broker_listener != *name || !config.advertised.iter().any(|l| l.name == *name) {
        return refused(format!("Advertised listener must be specified for inter-broker listener ListenerName({name})"));
    }
    Ok(())
}

/// The value of a list where it is not set here.
fn inherited(broker: &Broker, entity: &Entity, key: &str) -> Option<String> {
    let dynamic = broker.dynamic.get();
    let layers = Layers { broker: &dynamic.broker, default: &dynamic.default, file: &broker.config.raw };
    let all = match entity {
        Entity::Topic(_) => configs::describe_topic(&Settings::new(), &layers),
        _ => configs::describe_broker(&layers, false),
    };
    all.into_iter().find(|d| d.key == key)?.value
}

/// Changes one resource.
async fn apply(
    broker: &Broker,
    kind: i8,
    name: &str,
    work: impl Fn(&Entity, &Settings) -> Result<Settings, Refused>,
    validate_only: bool,
) -> Result<(), Refusal> {
    let entity = match kind {
        TOPIC if broker.image().topic(name).is_some() => Entity::Topic(name.to_owned()),
        TOPIC => return Err((ResponseError::UnknownTopicOrPartition, "This server does not host this topic-partition.".into())),
        BROKER => broker_entity(broker, name)?,
        other => return Err((ResponseError::InvalidRequest, format!("Unsupported resource type: {other}"))),
    };
    let client = broker.zookeeper.borrow().clone();
    let client = client.ok_or((ResponseError::CoordinatorNotAvailable, "no session with the coordinator".to_owned()))?;
    let checked = |before: &Settings| -> Result<Settings, Failed> {
        let after = work(&entity, before)?;
        check(broker, &entity, &after)?;
        Ok(after)
    };
    let changed = if validate_only {
        let before = config_changes::read(&client, &entity).await.map_err(Failed::Lost);
        before.and_then(|(before, _)| checked(&before)).map(drop)
    } else {
        match config_changes::change(&client, &entity, checked).await {
            Ok(settings) => {
                warn_without_effect(&entity, &settings);
                config_changes::obeyed(broker, &entity, &settings, OBEY).await;
                Ok(())
            }
            Err(e) => Err(e),
        }
    };
    changed.map_err(|e| match e {
        Failed::Refused(Refused::Request(why)) => (ResponseError::InvalidRequest, why),
        Failed::Refused(Refused::Config(why)) if why.starts_with("Invalid value") => {
            let why = format!("Invalid config value for resource ConfigResource(type=TOPIC, name='{name}'): {why}");
            (ResponseError::InvalidConfig, why)
        }
        Failed::Refused(Refused::Config(why)) => (ResponseError::InvalidConfig, why),
        Failed::Lost(e) => (ResponseError::UnknownServerError, format!("the coordinator: {e}")),
    })
}

/// Each setting is obeyed, or the log says that it is not.
fn warn_without_effect(entity: &Entity, settings: &Settings) {
    let mut probe = TopicSettings::default();
    for (key, value) in settings {
        let obeyed = match entity {
            Entity::Topic(_) => probe.set(key, value) == Ok(true),
            _ => [crate::config::OBEYED, &LISTENERS, &RATES].iter().any(|keys| keys.contains(&key.as_str())),
        };
        if !obeyed {
            tracing::warn!("{}: {key} is kept, but has no effect so far", entity.path());
        }
    }
}

/// How often each resource is named: one that is named twice is refused.
fn times<'a>(resources: impl Iterator<Item = (i8, &'a str)>) -> HashMap<(i8, &'a str), usize> {
    let mut out = HashMap::new();
    resources.for_each(|r| *out.entry(r).or_default() += 1);
    out
}

const TWICE: &str = "Each resource must appear at most once";

/// Answers IncrementalAlterConfigs.
pub async fn incremental(broker: &Arc<Broker>, request: &IncrementalAlterConfigsRequest) -> IncrementalAlterConfigsResponse {
    let times = times(request.resources.iter().map(|r| (r.resource_type, r.resource_name.as_str())));
    let mut responses = Vec::new();
    for r in &request.resources {
        let changes: Option<Vec<_>> = r
            .configs
            .iter()
            .map(|c| Some((c.name.to_string(), Operation::parse(c.config_operation)?, c.value.as_ref().map(|v| v.to_string()))))
            .collect();
        let work = |entity: &Entity, before: &Settings| {
            let changes = changes.as_ref().ok_or_else(|| Refused::Request("Unknown operation on a configuration".into()))?;
            let kind = |key: &str| match entity {
                Entity::Topic(_) => topic_key(key).map(|k| k.kind),
                _ => broker_key(key).map(|k| k.kind),
            };
            alter(before, changes, kind, |key| inherited(broker, entity, key))
        };
        let done = match times.get(&(r.resource_type, r.resource_name.as_str())) {
            Some(1) => apply(broker, r.resource_type, r.resource_name.as_str(), work, request.validate_only).await,
            _ => Err((ResponseError::InvalidRequest, TWICE.into())),
        };
        let (code, why) = done.err().map_or((0, None), |(code, why)| (code.code(), Some(StrBytes::from_string(why))));
        responses.push(
            IncrementalResourceResponse::default()
                .with_error_code(code)
                .with_error_message(why)
                .with_resource_type(r.resource_type)
                .with_resource_name(r.resource_name.clone()),
        );
    }
    IncrementalAlterConfigsResponse::default().with_responses(responses)
}

/// Answers AlterConfigs, which names all settings that a resource is to have.
pub async fn whole(broker: &Arc<Broker>, request: &AlterConfigsRequest) -> AlterConfigsResponse {
    let times = times(request.resources.iter().map(|r| (r.resource_type, r.resource_name.as_str())));
    let mut responses = Vec::new();
    for r in &request.resources {
        let changes: Vec<_> =
            r.configs.iter().map(|c| (c.name.to_string(), Operation::Set, c.value.as_ref().map(|v| v.to_string()))).collect();
        let work = |_: &Entity, _: &Settings| alter(&Settings::new(), &changes, |_| None, |_| None);
        let done = match times.get(&(r.resource_type, r.resource_name.as_str())) {
            Some(1) => apply(broker, r.resource_type, r.resource_name.as_str(), work, request.validate_only).await,
            _ => Err((ResponseError::InvalidRequest, TWICE.into())),
        };
        let (code, why) = done.err().map_or((0, None), |(code, why)| (code.code(), Some(StrBytes::from_string(why))));
        responses.push(
            AlterConfigsResourceResponse::default()
                .with_error_code(code)
                .with_error_message(why)
                .with_resource_type(r.resource_type)
                .with_resource_name(r.resource_name.clone()),
        );
    }
    AlterConfigsResponse::default().with_responses(responses)
}
