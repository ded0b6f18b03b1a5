//! A small Kafka client: one connection, one request at a time, no cleverness.

use std::{
    io::{ErrorKind, Read, Write},
    net::TcpStream,
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use kafka_protocol::{
    messages::{
        BrokerId, CreateTopicsRequest, FetchRequest, GroupId, ListOffsetsRequest, MetadataRequest, MetadataResponse, OffsetCommitRequest,
        OffsetFetchRequest, ProduceRequest, RequestHeader, ResponseHeader, TopicName,
        create_topics_request::CreatableTopic,
        create_topics_response::CreatableTopicResult,
        fetch_request::{FetchPartition, FetchTopic},
        fetch_response::PartitionData,
        list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic},
        metadata_request::MetadataRequestTopic,
        offset_commit_request::{OffsetCommitRequestPartition, OffsetCommitRequestTopic},
        offset_fetch_request::OffsetFetchRequestTopic,
        produce_request::{PartitionProduceData, TopicProduceData},
        produce_response::PartitionProduceResponse,
    },
    protocol::{Decodable, Encodable, Request, StrBytes},
};
use uuid::Uuid;

pub fn text(s: &str) -> StrBytes {
    StrBytes::from_string(s.to_owned())
}

pub fn topic_name(s: &str) -> TopicName {
    TopicName(text(s))
}

pub fn new_topic(name: &str, partitions: i32, factor: i16) -> CreatableTopic {
    CreatableTopic::default().with_name(topic_name(name)).with_num_partitions(partitions).with_replication_factor(factor)
}

/// A connection.
pub struct Client {
    pub stream: TcpStream,
    correlation: i32,
}

impl Client {
    pub fn connect(port: u16) -> Self {
        Self::try_connect(port).unwrap_or_else(|e| panic!("port {port}: {e}"))
    }

    pub fn try_connect(port: u16) -> std::io::Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, correlation: 1000 })
    }

    /// Sends a request of any API; `body` is encoded already.
    pub fn send_body(&mut self, key: i16, version: i16, header_version: i16, body: &[u8]) -> std::io::Result<()> {
        self.correlation += 1;
        let header =
            RequestHeader::default().with_request_api_key(key).with_request_api_version(version).with_correlation_id(self.correlation);
        let mut frame = BytesMut::new();
        header.with_client_id(Some(text("test"))).encode(&mut frame, header_version).unwrap();
        frame.extend_from_slice(body);
        self.send_frame(&frame)
    }

    pub fn send_frame(&mut self, frame: &[u8]) -> std::io::Result<()> {
        self.stream.write_all(&[&(frame.len() as u32).to_be_bytes(), frame].concat())
    }

    /// Receives an answer. Its head is checked and taken off.
    pub fn receive_body(&mut self, header_version: i16) -> std::io::Result<Bytes> {
        let mut length = [0; 4];
        self.stream.read_exact(&mut length)?;
        let mut frame = vec![0; u32::from_be_bytes(length) as usize];
        self.stream.read_exact(&mut frame)?;
        let mut frame = Bytes::from(frame);
        let header = ResponseHeader::decode(&mut frame, header_version).unwrap();
        assert_eq!(header.correlation_id, self.correlation);
        Ok(frame)
    }

    pub fn send<R: Request>(&mut self, version: i16, request: &R) -> std::io::Result<()> {
        let mut body = BytesMut::new();
        request.encode(&mut body, version).unwrap();
        self.send_body(R::KEY, version, R::header_version(version), &body)
    }

    pub fn receive<R: Request>(&mut self, version: i16) -> std::io::Result<R::Response> {
        let mut body = self.receive_body(<R::Response as kafka_protocol::protocol::HeaderVersion>::header_version(version))?;
        let response = R::Response::decode(&mut body, version).unwrap();
        assert!(body.is_empty(), "bytes are left behind the answer");
        Ok(response)
    }

    pub fn try_call<R: Request>(&mut self, version: i16, request: &R) -> std::io::Result<R::Response> {
        self.send(version, request)?;
        self.receive::<R>(version)
    }

    pub fn call<R: Request>(&mut self, version: i16, request: &R) -> R::Response {
        self.try_call(version, request).unwrap()
    }

    /// Whether the broker closes the connection without another byte.
    pub fn is_closed(&mut self) -> bool {
        match self.stream.read(&mut [0; 64]) {
            Ok(0) => true,
            Ok(_) => false,
            Err(e) => e.kind() == ErrorKind::ConnectionReset,
        }
    }

    pub fn metadata(&mut self, topics: Option<&[&str]>, create: bool) -> MetadataResponse {
        let wanted = topics.map(|t| t.iter().map(|t| MetadataRequestTopic::default().with_name(Some(topic_name(t)))).collect());
        self.call(9, &MetadataRequest::default().with_topics(wanted).with_allow_auto_topic_creation(create))
    }

    pub fn create_topics(&mut self, topics: Vec<CreatableTopic>, validate_only: bool) -> Vec<CreatableTopicResult> {
        let request = CreateTopicsRequest::default().with_topics(topics).with_timeout_ms(20_000).with_validate_only(validate_only);
        self.call(7, &request).topics
    }

    pub fn produce_in(&mut self, version: i16, topic: &str, partition: i32, batch: &[u8]) -> PartitionProduceResponse {
        let request = produce_request(topic, partition, batch, -1);
        self.call(version, &request).responses.remove(0).partition_responses.remove(0)
    }

    /// Produces; there must be no error. Returns the base offset.
    pub fn produce(&mut self, topic: &str, partition: i32, batch: &[u8]) -> i64 {
        let answer = self.produce_in(9, topic, partition, batch);
        assert_eq!(answer.error_code, 0, "{topic}-{partition}: {:?}", answer.error_message);
        answer.base_offset
    }

    pub fn fetch_in(&mut self, version: i16, topic: &str, partition: i32, offset: i64, wait: Duration) -> PartitionData {
        let mut request = fetch_request(topic, partition, offset, wait);
        if version >= 13 {
            request.topics[0].topic_id = self.topic_id(topic);
            request.topics[0].topic = TopicName::default();
        }
        self.call(version, &request).responses.remove(0).partitions.remove(0)
    }

    pub fn topic_id(&mut self, topic: &str) -> Uuid {
        let wanted = vec![MetadataRequestTopic::default().with_name(Some(topic_name(topic)))];
        self.call(12, &MetadataRequest::default().with_topics(Some(wanted))).topics[0].topic_id
    }

    /// All bytes of a partition from an offset on.
    pub fn fetch(&mut self, topic: &str, partition: i32, offset: i64) -> Vec<u8> {
        let (mut offset, mut out) = (offset, Vec::new());
        loop {
            let data = self.fetch_in(12, topic, partition, offset, Duration::ZERO);
            assert_eq!(data.error_code, 0, "{topic}-{partition} from {offset}");
            let bytes = data.records.unwrap_or_default();
            out.extend_from_slice(&bytes);
            match super::logs::batches(&bytes).last() {
                Some((head, _)) => offset = head.last_offset() + 1,
                None => return out,
            }
        }
    }

    /// Error, offset and time stamp.
    pub fn list_offsets(&mut self, version: i16, topic: &str, partition: i32, timestamp: i64) -> (i16, i64, i64) {
        let p = ListOffsetsPartition::default().with_partition_index(partition).with_timestamp(timestamp);
        let t = ListOffsetsTopic::default().with_name(topic_name(topic)).with_partitions(vec![p]);
        let request = ListOffsetsRequest::default().with_replica_id(BrokerId(-1)).with_topics(vec![t]);
        let answer = self.call(version, &request).topics.remove(0).partitions.remove(0);
        (answer.error_code, answer.offset, answer.timestamp)
    }

    /// Commits offsets of partitions of a topic. Returns the error of each.
    pub fn commit(&mut self, version: i16, group: &str, topic: &str, offsets: &[(i32, i64, &str)]) -> Vec<i16> {
        let partition = |(p, o, m): &(i32, i64, &str)| {
            OffsetCommitRequestPartition::default()
                .with_partition_index(*p)
                .with_committed_offset(*o)
                .with_committed_metadata(Some(text(m)))
        };
        let t = OffsetCommitRequestTopic::default().with_name(topic_name(topic)).with_partitions(offsets.iter().map(partition).collect());
        let request =
            OffsetCommitRequest::default().with_group_id(GroupId(text(group))).with_topics(vec![t]).with_generation_id_or_member_epoch(-1);
        self.call(version, &request).topics.remove(0).partitions.iter().map(|p| p.error_code).collect()
    }

    /// Error and committed offset with its metadata.
    pub fn committed(&mut self, version: i16, group: &str, topic: &str, partition: i32) -> (i16, i64, String) {
        let t = OffsetFetchRequestTopic::default().with_name(topic_name(topic)).with_partition_indexes(vec![partition]);
        let request = OffsetFetchRequest::default().with_group_id(GroupId(text(group))).with_topics(Some(vec![t]));
        let p = self.call(version, &request).topics.remove(0).partitions.remove(0);
        (p.error_code, p.committed_offset, p.metadata.map(|m| m.to_string()).unwrap_or_default())
    }
}

pub fn produce_request(topic: &str, partition: i32, batch: &[u8], acks: i16) -> ProduceRequest {
    let p = PartitionProduceData::default().with_index(partition).with_records(Some(Bytes::copy_from_slice(batch)));
    let t = TopicProduceData::default().with_name(topic_name(topic)).with_partition_data(vec![p]);
    ProduceRequest::default().with_acks(acks).with_timeout_ms(10_000).with_topic_data(vec![t])
}

pub fn fetch_request(topic: &str, partition: i32, offset: i64, wait: Duration) -> FetchRequest {
    let p = FetchPartition::default().with_partition(partition).with_fetch_offset(offset).with_partition_max_bytes(1 << 20);
    let t = FetchTopic::default().with_topic(topic_name(topic)).with_partitions(vec![p]);
    let request = FetchRequest::default().with_replica_id(BrokerId(-1)).with_max_wait_ms(wait.as_millis() as i32);
    request.with_min_bytes(1).with_max_bytes(1 << 20).with_topics(vec![t])
}

/// Asks again until there is something, for at the most so long.
pub fn eventually<T>(what: &str, limit: Duration, mut ask: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + limit;
    loop {
        if let Some(found) = ask() {
            return found;
        }
        assert!(Instant::now() < until, "not within {limit:?}: {what}");
        std::thread::sleep(Duration::from_millis(30));
    }
}
