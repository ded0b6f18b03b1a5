//! What a broker knows of the cluster, and how it is read from the coordinator.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use futures_util::future::join_all;
use kafka_protocol::ResponseError;
use septet_zookeeper as zk;
use serde_json::Value;

use super::path;
use crate::{
    config::Listener,
    core::controller::{Partition, Topic},
};

/// A registered broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BrokerInfo {
    /// where it can be reached, by listener
    pub endpoints: Vec<Listener>,
    /// `broker.rack`
    pub rack: Option<String>,
    /// A broker of this program, which listens before it registers: a refused connection is proof that it is gone. Apache's brokers
    /// listen at the end of their start, seconds after they registered.
    pub ours: bool,
}

impl BrokerInfo {
    /// Host and port of a listener, or of the first one.
    pub fn endpoint(&self, listener: &str) -> Option<(String, u16)> {
        let at = self.endpoints.iter().find(|e| e.name == listener).or(self.endpoints.first())?;
        Some((at.host.clone(), at.port))
    }
}

/// A partition's state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionInfo {
    /// brokers that hold it
    pub replicas: Vec<i32>,
    /// leader, -1 for none
    pub leader: i32,
    /// counts the leaders
    pub leader_epoch: i32,
    /// replicas that are in sync
    pub isr: Vec<i32>,
    /// replicas that cannot be used, or whose brokers are gone
    pub offline: Vec<i32>,
}

/// A topic.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TopicInfo {
    /// the topic's id: 128 bits in URL-safe base64
    pub id: Option<String>,
    /// partitions by number
    pub partitions: BTreeMap<i32, PartitionInfo>,
}

/// Everything that is known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Image {
    /// the controller, if there is one
    pub controller: Option<i32>,
    /// brokers that are alive
    pub brokers: BTreeMap<i32, BrokerInfo>,
    /// topics by name
    pub topics: BTreeMap<String, Arc<TopicInfo>>,
}

impl Image {
    /// A topic.
    pub fn topic(&self, name: &str) -> Option<&Arc<TopicInfo>> {
        self.topics.get(name)
    }

    /// Why a broker does not serve a partition that it does not lead.
    pub fn not_led(&self, topic: &str, partition: i32) -> ResponseError {
        match self.topic(topic).is_some_and(|t| t.partitions.contains_key(&partition)) {
            true => ResponseError::NotLeaderOrFollower,
            false => ResponseError::UnknownTopicOrPartition,
        }
    }
}

fn json(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).unwrap_or(Value::Null)
}

fn number(v: &Value) -> Option<i32> {
    v.as_i64().and_then(|n| i32::try_from(n).ok())
}

fn numbers(v: &Value) -> Vec<i32> {
    v.as_array().map(|a| a.iter().filter_map(number).collect()).unwrap_or_default()
}

/// The broker in `/controller`.
pub fn parse_controller(bytes: &[u8]) -> Option<i32> {
    number(&json(bytes)["brokerid"])
}

/// The broker in a notification that a log directory has failed.
pub fn parse_log_dir_event(bytes: &[u8]) -> Option<i32> {
    number(&json(bytes)["broker"])
}

/// Parses data as everything that it could be.
pub fn parse_any(bytes: &[u8]) {
    let _ = (parse_controller(bytes), parse_broker(bytes), parse_log_dir_event(bytes), parse_config(bytes));
    if let Some(topic) = parse_topic(bytes) {
        let _ = parse_topic(&encode_topic(&topic));
    }
    if let Some(state) = PartitionState::parse(bytes) {
        let _ = PartitionState::parse(&state.encode());
    }
}

/// Field of the registration of a broker of this program. Kafka ignores it.
pub const OURS: &str = "septet";

/// A broker's registration; endpoints that do not parse are left out.
pub fn parse_broker(bytes: &[u8]) -> BrokerInfo {
    let value = json(bytes);
    let endpoint = |v: &Value| {
        let (name, rest) = v.as_str()?.split_once("://")?;
        let (host, port) = rest.rsplit_once(':')?;
        Some(Listener { name: name.to_owned(), host: host.trim_matches(['[', ']']).to_owned(), port: port.parse().ok()? })
    };
    let endpoints = value["endpoints"].as_array().map(|a| a.iter().filter_map(endpoint).collect()).unwrap_or_default();
    let ours = value[OURS].as_bool().unwrap_or(false);
    BrokerInfo { endpoints, rack: value["rack"].as_str().map(str::to_owned), ours }
}

/// A topic's znode; `None` if it is not one. A value that does not fit is left out.
pub fn parse_topic(bytes: &[u8]) -> Option<Topic> {
    let value = json(bytes);
    let partitions = value["partitions"].as_object()?;
    let of = |field: &str, number: &str| numbers(&value[field][number]);
    let partition = |(k, v): (&String, &Value)| {
        let p = Partition { replicas: numbers(v), adding: of("adding_replicas", k), removing: of("removing_replicas", k), stored: None };
        Some((k.parse().ok()?, p))
    };
    let partitions = partitions.iter().filter_map(partition).collect();
    let id = value["topic_id"].as_str().filter(|id| is_topic_id(id)).map(str::to_owned);
    Some(Topic { id, version: 0, deleting: false, partitions })
}

/// A topic's znode.
pub fn encode_topic(topic: &Topic) -> Vec<u8> {
    let map = |of: fn(&Partition) -> &Vec<i32>, all: bool| -> serde_json::Map<String, Value> {
        let some = topic.partitions.iter().filter(|(_, p)| all || !of(p).is_empty());
        some.map(|(n, p)| (n.to_string(), of(p).clone().into())).collect()
    };
    let value = serde_json::json!({
        "version": 3,
        "topic_id": topic.id,
        "partitions": map(|p| &p.replicas, true),
        "adding_replicas": map(|p| &p.adding, false),
        "removing_replicas": map(|p| &p.removing, false),
    });
    value.to_string().into_bytes()
}

/// Whether this is a topic's id: it becomes a line of a file.
fn is_topic_id(id: &str) -> bool {
    URL_SAFE_NO_PAD.decode(id).is_ok_and(|bytes| bytes.len() == 16)
}

/// The settings in a topic's znode below `/config/topics`.
pub fn parse_config(bytes: &[u8]) -> BTreeMap<String, String> {
    let value = json(bytes);
    let pairs = value["config"].as_object().into_iter().flatten();
    pairs.filter_map(|(k, v)| Some((k.clone(), v.as_str()?.to_owned()))).collect()
}

/// A partition's `state`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct PartitionState {
    pub controller_epoch: i32,
    pub leader: i32,
    pub leader_epoch: i32,
    pub isr: Vec<i32>,
}

impl PartitionState {
    /// From the znode's data.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let v = json(bytes);
        let controller_epoch = number(&v["controller_epoch"]).unwrap_or(0);
        Some(Self { controller_epoch, leader: number(&v["leader"])?, leader_epoch: number(&v["leader_epoch"])?, isr: numbers(&v["isr"]) })
    }
    /// To the znode's data.
    pub fn encode(&self) -> Vec<u8> {
        let v = serde_json::json!({
            "controller_epoch": self.controller_epoch, "leader": self.leader, "version": 1, "leader_epoch": self.leader_epoch, "isr": self.isr,
        });
        v.to_string().into_bytes()
    }
}

/// Znodes that are read at once.
const AT_ONCE: usize = 256;

/// Reads nodes; one that is gone meanwhile is left out.
pub async fn read_all(client: &zk::Client, paths: Vec<String>) -> Result<HashMap<String, (Vec<u8>, zk::Stat)>, zk::Error> {
    let mut out = HashMap::new();
    for chunk in paths.chunks(AT_ONCE) {
        let results = join_all(chunk.iter().map(|p| client.get_data(p))).await;
        for (path, result) in chunk.iter().zip(results) {
            match result {
                Ok(found) => drop(out.insert(path.clone(), found)),
                Err(zk::Error::NoNode) => {}
                Err(e) => return Err(e),
            }
        }
    }
    Ok(out)
}

/// Path of a partition's state.
pub fn state_path(topic: &str, partition: i32) -> String {
    format!("{}/{topic}/partitions/{partition}/state", path::TOPICS)
}
