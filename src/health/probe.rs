//! What a broker is asked to do: a record goes through a partition that it leads and comes back, and it names its log directories.
//!
//! Invariant: records go through a topic of the check's own, never through a user's.

use std::{
    collections::BTreeMap,
    time::{SystemTime, UNIX_EPOCH},
};

use bytes::{Bytes, BytesMut};
use kafka_protocol::{
    ResponseError,
    messages::{
        ApiKey, BrokerId, CreateTopicsRequest, DescribeLogDirsRequest, FetchRequest, MetadataRequest, ProduceRequest, TopicName,
        create_topics_request::{CreatableReplicaAssignment, CreatableTopic, CreatableTopicConfig},
        fetch_request::{FetchPartition, FetchTopic},
        metadata_request::MetadataRequestTopic,
        produce_request::{PartitionProduceData, TopicProduceData},
    },
    protocol::StrBytes,
    records::{
        Compression, NO_PARTITION_LEADER_EPOCH, NO_PRODUCER_EPOCH, NO_PRODUCER_ID, Record, RecordBatchEncoder, RecordEncodeOptions,
        TimestampType,
    },
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::timeout,
};

use super::{QUESTION_TIMEOUT, kafka::Client};

/// A stream to a broker.
pub trait Duplex: AsyncRead + AsyncWrite + Unpin {}
impl<S: AsyncRead + AsyncWrite + Unpin> Duplex for S {}

/// The topic that records go through: one partition per broker. Where it was made for fewer brokers than there are, another one with
/// their number behind it takes its place.
pub const TOPIC: &str = "__septet_health";

/// Newest versions of the messages that are understood here; the oldest broker's offer decides.
pub mod newest {
    pub const METADATA: i16 = 9;
    pub const PRODUCE: i16 = 9;
    pub const FETCH: i16 = 11;
    pub const CREATE_TOPICS: i16 = 7;
    pub const DESCRIBE_CONFIGS: i16 = 4;
    pub const DESCRIBE_LOG_DIRS: i16 = 4;
}

/// Log directories that a broker does not use any more. A broker that does not tell is not asked.
pub async fn offline_dirs<S: Duplex>(client: &mut Client<S>) -> Vec<String> {
    if !client.offers(ApiKey::DescribeLogDirs) {
        return Vec::new();
    }
    let request = DescribeLogDirsRequest::default().with_topics(Some(Vec::new()));
    let ask = client.ask(ApiKey::DescribeLogDirs, newest::DESCRIBE_LOG_DIRS, &request);
    match timeout(QUESTION_TIMEOUT, ask).await {
        Ok(Ok((answer, _))) => {
            let offline = answer.results.into_iter().filter(|r| r.error_code != 0);
            offline.map(|r| format!("log directory {} is offline: {}", &*r.log_dir, error_name(r.error_code))).collect()
        }
        Ok(Err(e)) => vec![e],
        Err(_) => vec!["no answer to DescribeLogDirs in time".into()],
    }
}

pub fn topic_name(topic: &str) -> TopicName {
    TopicName(StrBytes::from_string(topic.to_owned()))
}

pub fn is_health_topic(name: &str) -> bool {
    let rest = name.strip_prefix(TOPIC);
    rest.is_some_and(|r| r.is_empty() || r.strip_prefix('-').is_some_and(|n| n.parse::<u16>().is_ok()))
}

/// Makes the topic, with partition i on broker i+1.
pub async fn create_topic<S: Duplex>(client: &mut Client<S>, topic: &str, brokers: u16) -> Result<(), String> {
    // One replica is what the check is about, whatever other topics must have.
    let least = CreatableTopicConfig::default()
        .with_name(StrBytes::from_static_str("min.insync.replicas"))
        .with_value(Some(StrBytes::from_static_str("1")));
    let assignments = (0..brokers)
        .map(|i| CreatableReplicaAssignment::default().with_partition_index(i.into()).with_broker_ids(vec![BrokerId(i32::from(i) + 1)]));
    let new = CreatableTopic::default()
        .with_name(topic_name(topic))
        .with_num_partitions(-1)
        .with_replication_factor(-1)
        .with_assignments(assignments.collect())
        .with_configs(vec![least]);
    let request = CreateTopicsRequest::default().with_topics(vec![new]).with_timeout_ms(5000);
    let (answer, _) = client.ask(ApiKey::CreateTopics, newest::CREATE_TOPICS, &request).await?;
    match answer.topics.first() {
        Some(t) if t.error_code == 0 || t.error_code == ResponseError::TopicAlreadyExists.code() => Ok(()),
        Some(t) => Err(format!(
            "topic {topic} is not made: {}",
            t.error_message.as_ref().map(|m| m.to_string()).unwrap_or_else(|| error_name(t.error_code))
        )),
        None => Err(format!("topic {topic} is not made")),
    }
}

pub fn error_name(code: i16) -> String {
    ResponseError::try_from_code(code).map_or_else(|| code.to_string(), |e| format!("{e:?}"))
}

/// Why a record did not go through a partition.
#[derive(Debug, PartialEq, Eq)]
pub struct TripError {
    /// For a person.
    pub why: String,
    /// Whether the broker may not have learned yet that it leads the partition.
    pub may_pass: bool,
}

impl TripError {
    fn of_code(what: &str, code: i16) -> Self {
        let early = [ResponseError::NotLeaderOrFollower, ResponseError::UnknownTopicOrPartition, ResponseError::UnknownTopicId];
        let may_pass = ResponseError::try_from_code(code).is_some_and(|e| early.contains(&e));
        Self { why: format!("{what}: {}", error_name(code)), may_pass }
    }
}

impl<T: Into<String>> From<T> for TripError {
    fn from(why: T) -> Self {
        Self { why: why.into(), may_pass: false }
    }
}

/// Sends a record through a partition and reads it back.
pub async fn round_trip<S: Duplex>(client: &mut Client<S>, topic: &str, partition: i32) -> Result<(), TripError> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_nanos());
    let payload = Bytes::from(format!("septet health {now} {}", std::process::id()));
    let crc = crc32c::crc32c(&payload);
    let record = Record {
        transactional: false,
        control: false,
        delete_horizon: false,
        partition_leader_epoch: NO_PARTITION_LEADER_EPOCH,
        producer_id: NO_PRODUCER_ID,
        producer_epoch: NO_PRODUCER_EPOCH,
        timestamp_type: TimestampType::Creation,
        offset: 0,
        sequence: 0,
        timestamp: (now / 1_000_000) as i64,
        key: None,
        value: Some(payload),
        headers: Default::default(),
    };
    let mut batch = BytesMut::new();
    let options = RecordEncodeOptions { version: 2, compression: Compression::None };
    RecordBatchEncoder::encode(&mut batch, &[record], &options).map_err(|e| e.to_string())?;
    let data = PartitionProduceData::default().with_index(partition).with_records(Some(batch.freeze()));
    let produced_to = TopicProduceData::default().with_name(topic_name(topic)).with_partition_data(vec![data]);
    // The partition has one replica, so its leader is all of them; a `min.insync.replicas` of the cluster does not matter.
    let request = ProduceRequest::default().with_acks(1).with_timeout_ms(5000).with_topic_data(vec![produced_to]);
    let (answer, _) = client.ask(ApiKey::Produce, newest::PRODUCE, &request).await?;
    let produced = answer.responses.first().and_then(|t| t.partition_responses.first()).ok_or("Produce: an empty answer")?;
    if produced.error_code != 0 {
        return Err(TripError::of_code("a record is rejected", produced.error_code));
    }
    let offset = produced.base_offset;
    let wanted = FetchPartition::default().with_partition(partition).with_fetch_offset(offset).with_partition_max_bytes(65536);
    let fetched_from = FetchTopic::default().with_topic(topic_name(topic)).with_partitions(vec![wanted]);
    let request = FetchRequest::default()
        .with_replica_id(BrokerId(-1))
        .with_max_wait_ms(2000)
        .with_min_bytes(1)
        .with_max_bytes(1 << 20)
        .with_session_epoch(-1)
        .with_topics(vec![fetched_from]);
    let (answer, _) = client.ask(ApiKey::Fetch, newest::FETCH, &request).await?;
    let fetched = answer.responses.first().and_then(|t| t.partitions.first()).ok_or("Fetch: an empty answer")?;
    if fetched.error_code != 0 {
        return Err(TripError::of_code("a record cannot be fetched", fetched.error_code));
    }
    let mut bytes = fetched.records.clone().unwrap_or_default();
    let sets = kafka_protocol::records::RecordBatchDecoder::decode_all(&mut bytes)
        .map_err(|e| format!("the fetched records do not decode: {e}"))?;
    let value = sets.iter().flat_map(|s| &s.records).find(|r| r.offset == offset).and_then(|r| r.value.clone());
    match value {
        Some(v) if crc32c::crc32c(&v) == crc => Ok(()),
        Some(_) => Err(format!("the record at offset {offset} was changed (CRC-32C differs)").into()),
        None => Err(format!("the record at offset {offset} was not returned").into()),
    }
}

/// Waits until the brokers know a leader of each partition of the topic.
pub async fn leaders<S: Duplex>(client: &mut Client<S>, topic: &str, count: usize) -> Result<BTreeMap<i32, i32>, String> {
    for _ in 0..40 {
        let asked = MetadataRequestTopic::default().with_name(Some(topic_name(topic)));
        let request = MetadataRequest::default().with_topics(Some(vec![asked])).with_allow_auto_topic_creation(false);
        let (answer, _) = client.ask(ApiKey::Metadata, newest::METADATA, &request).await?;
        let found: BTreeMap<i32, i32> =
            answer.topics.iter().flat_map(|t| &t.partitions).map(|p| (p.partition_index, p.leader_id.0)).collect();
        if found.len() >= count && found.values().all(|l| *l >= 0) {
            return Ok(found);
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    Err(format!("topic {topic} gets no leaders"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use kafka_protocol::{
        messages::{
            ApiVersionsResponse, DescribeLogDirsResponse, ResponseHeader, api_versions_response::ApiVersion,
            describe_log_dirs_response::DescribeLogDirsResult,
        },
        protocol::Encodable,
    };
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// Answers ApiVersions, which offers DescribeLogDirs or nothing, and then one question.
    async fn broker(mut stream: tokio::io::DuplexStream, dirs: Option<DescribeLogDirsResponse>) {
        let offer = ApiVersion::default().with_api_key(ApiKey::DescribeLogDirs as i16).with_min_version(1).with_max_version(4);
        let versions = ApiVersionsResponse::default().with_api_keys(dirs.iter().map(|_| offer.clone()).collect());
        answer(&mut stream, ApiKey::ApiVersions, 3, &versions).await;
        if let Some(dirs) = dirs {
            answer(&mut stream, ApiKey::DescribeLogDirs, newest::DESCRIBE_LOG_DIRS, &dirs).await;
        }
    }

    async fn answer(stream: &mut tokio::io::DuplexStream, key: ApiKey, version: i16, with: &impl Encodable) {
        let length = stream.read_u32().await.unwrap() as usize;
        let mut request = vec![0; length];
        stream.read_exact(&mut request).await.unwrap();
        let id = i32::from_be_bytes(request[4..8].try_into().unwrap());
        let mut body = BytesMut::new();
        ResponseHeader::default().with_correlation_id(id).encode(&mut body, key.response_header_version(version)).unwrap();
        with.encode(&mut body, version).unwrap();
        stream.write_u32(body.len() as u32).await.unwrap();
        stream.write_all(&body).await.unwrap();
    }

    async fn offline(dirs: Option<&[(&'static str, i16)]>) -> Vec<String> {
        let dir = |(path, code): &(&'static str, i16)| {
            DescribeLogDirsResult::default().with_log_dir(StrBytes::from_static_str(path)).with_error_code(*code)
        };
        let answer = dirs.map(|d| DescribeLogDirsResponse::default().with_results(d.iter().map(dir).collect()));
        let (here, there) = tokio::io::duplex(64 * 1024);
        let broker = tokio::spawn(broker(there, answer));
        let mut client = Client::open(here).await.unwrap();
        let found = offline_dirs(&mut client).await;
        broker.await.unwrap();
        found
    }

    /// KAFKA_STORAGE_ERROR is what a broker reports of a directory that failed (KIP-112, KIP-113).
    #[tokio::test]
    async fn log_directories_that_are_offline_are_named() {
        assert_eq!(offline(Some(&[("/data/a", 0), ("/data/b", 0)])).await, [""; 0]);
        let code = ResponseError::KafkaStorageError.code();
        assert_eq!(offline(Some(&[("/data/a", 0), ("/data/b", code)])).await, ["log directory /data/b is offline: KafkaStorageError"]);
        assert_eq!(offline(None).await, [""; 0], "a broker that does not offer the question is not asked");
    }
}
