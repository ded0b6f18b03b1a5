//! What a broker knows of the cluster, and how it is read from the coordinator.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use futures_util::future::join_all;
use kafka_protocol::ResponseError;
use serde_json::Value;
use zookeeper_client as zk;

use super::{path, topics::check_name};
use crate::config::Listener;

/// A registered broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BrokerInfo {
    /// where it can be reached, by listener
    pub endpoints: Vec<Listener>,
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
}

/// A topic.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TopicInfo {
    /// version of the topic's znode that this was read from
    pub version: i32,
    /// the topic's id: 128 bits in URL-safe base64
    pub id: Option<String>,
    /// what it was made with
    pub config: BTreeMap<String, String>,
    /// it is being deleted
    pub deleting: bool,
    /// partitions by number
    pub partitions: BTreeMap<i32, PartitionInfo>,
}

/// Everything that is known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Image {
    /// `/cluster/id`
    pub cluster_id: String,
    /// the controller, if there is one
    pub controller: Option<i32>,
    /// brokers that are alive
    pub brokers: BTreeMap<i32, BrokerInfo>,
    /// topics by name
    pub topics: BTreeMap<String, Arc<TopicInfo>>,
}

impl Image {
    /// A topic that is there, and not being deleted.
    pub fn topic(&self, name: &str) -> Option<&Arc<TopicInfo>> {
        self.topics.get(name).filter(|t| !t.deleting)
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

/// A broker's registration; endpoints that do not parse are left out.
pub fn parse_broker(bytes: &[u8]) -> BrokerInfo {
    let value = json(bytes);
    let endpoint = |v: &Value| {
        let (name, rest) = v.as_str()?.split_once("://")?;
        let (host, port) = rest.rsplit_once(':')?;
        Some(Listener { name: name.to_owned(), host: host.trim_matches(['[', ']']).to_owned(), port: port.parse().ok()? })
    };
    BrokerInfo { endpoints: value["endpoints"].as_array().map(|a| a.iter().filter_map(endpoint).collect()).unwrap_or_default() }
}

/// Assignments in a topic's znode.
pub fn parse_assignment(bytes: &[u8]) -> BTreeMap<i32, Vec<i32>> {
    let value = json(bytes);
    let Some(map) = value["partitions"].as_object() else {
        return BTreeMap::new();
    };
    map.iter().filter_map(|(k, v)| Some((k.parse().ok()?, numbers(v)))).collect()
}

/// The id in a topic's znode.
pub fn parse_topic_id(bytes: &[u8]) -> Option<String> {
    json(bytes)["topic_id"].as_str().filter(|id| is_topic_id(id)).map(str::to_owned)
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
    pub leader: i32,
    pub leader_epoch: i32,
    pub isr: Vec<i32>,
}

impl PartitionState {
    /// From the znode's data.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let v = json(bytes);
        Some(Self { leader: number(&v["leader"])?, leader_epoch: number(&v["leader_epoch"])?, isr: numbers(&v["isr"]) })
    }
    /// To the znode's data.
    pub fn encode(&self, controller_epoch: i32) -> Vec<u8> {
        let v = serde_json::json!({
            "controller_epoch": controller_epoch, "leader": self.leader, "version": 1, "leader_epoch": self.leader_epoch, "isr": self.isr,
        });
        v.to_string().into_bytes()
    }
}

/// Znodes that are read at once.
const AT_ONCE: usize = 256;

/// Reads nodes; one that is gone meanwhile is left out.
async fn read_all(client: &zk::Client, paths: Vec<String>) -> Result<HashMap<String, (Vec<u8>, zk::Stat)>, zk::Error> {
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

/// Names of children, and what is known otherwise.
#[derive(Debug)]
#[allow(missing_docs)]
pub struct Names<'a> {
    pub cluster_id: &'a str,
    pub brokers: &'a [String],
    pub topics: &'a [String],
    /// topics that are being deleted
    pub deleting: &'a [String],
    pub controller: Option<i32>,
}

/// Reads brokers and topics. Settings are read once: `before` is what was read before.
pub async fn load(client: &zk::Client, names: &Names<'_>, before: &Image) -> Result<Image, zk::Error> {
    let mut image = Image { cluster_id: names.cluster_id.to_owned(), controller: names.controller, ..Image::default() };
    let mut nodes = read_all(client, names.brokers.iter().map(|id| format!("{}/{id}", path::BROKER_IDS)).collect()).await?;
    for id in names.brokers {
        if let (Ok(number), Some((data, _))) = (id.parse(), nodes.remove(&format!("{}/{id}", path::BROKER_IDS))) {
            image.brokers.insert(number, parse_broker(&data));
        }
    }
    let nodes = read_all(client, names.topics.iter().map(|t| format!("{}/{t}", path::TOPICS)).collect()).await?;
    let mut states = Vec::new();
    let mut read = Vec::new();
    for topic in names.topics {
        // A name becomes a directory's.
        if check_name(topic).is_err() {
            continue;
        }
        if let Some((data, stat)) = nodes.get(&format!("{}/{topic}", path::TOPICS)) {
            let assignment = parse_assignment(data);
            states.extend(assignment.keys().map(|p| state_path(topic, *p)));
            read.push((topic, assignment, parse_topic_id(data), stat.version));
        }
    }
    let states = read_all(client, states).await?;
    let known = |topic: &str, id: &Option<String>| before.topics.get(topic).filter(|t| t.id.is_some() && t.id == *id);
    let config_path = |topic: &str| format!("{}/{topic}", path::CONFIG_TOPICS);
    let unknown = read.iter().filter(|(t, _, id, _)| known(t, id).is_none()).map(|(t, ..)| config_path(t));
    let configs = read_all(client, unknown.collect()).await?;
    for (topic, assignment, id, version) in read {
        let config = match known(topic, &id) {
            Some(t) => t.config.clone(),
            None => configs.get(&config_path(topic)).map(|(data, _)| parse_config(data)).unwrap_or_default(),
        };
        let mut info = TopicInfo { version, config, id, deleting: names.deleting.contains(topic), partitions: BTreeMap::new() };
        for (number, replicas) in assignment {
            let state = states.get(&state_path(topic, number)).and_then(|(data, _)| PartitionState::parse(data));
            // Until the controller has given it a state, a partition has no leader.
            let state = state.unwrap_or(PartitionState { leader: -1, leader_epoch: -1, isr: Vec::new() });
            info.partitions
                .insert(number, PartitionInfo { replicas, leader: state.leader, leader_epoch: state.leader_epoch, isr: state.isr });
        }
        image.topics.insert(topic.clone(), Arc::new(info));
    }
    Ok(image)
}

/// Path of a partition's state.
pub fn state_path(topic: &str, partition: i32) -> String {
    format!("{}/{topic}/partitions/{partition}/state", path::TOPICS)
}
