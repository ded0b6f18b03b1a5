//! Asks Kafka's own controllers for their leader, again and again, while something goes on.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use kafka_protocol::{
    messages::{
        ApiKey, DescribeQuorumRequest, DescribeQuorumResponse, RequestHeader, ResponseHeader, TopicName,
        describe_quorum_request::{PartitionData, TopicData},
    },
    protocol::{Decodable, Encodable, StrBytes},
};

/// A controller answers, or is down.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(100);

/// The leader's number, as the leader itself says it. Followers do not know the quorum.
fn leader_by(controller: SocketAddr) -> Option<i32> {
    let mut stream = TcpStream::connect_timeout(&controller, ANSWER_TIMEOUT).ok()?;
    stream.set_read_timeout(Some(ANSWER_TIMEOUT)).ok()?;
    let header = RequestHeader::default()
        .with_request_api_key(ApiKey::DescribeQuorum as i16)
        .with_request_api_version(0)
        .with_correlation_id(7)
        .with_client_id(Some(StrBytes::from_static_str("test")));
    let topic = TopicData::default()
        .with_topic_name(TopicName(StrBytes::from_static_str("__cluster_metadata")))
        .with_partitions(vec![PartitionData::default().with_partition_index(0)]);
    let mut frame = BytesMut::from(&[0u8; 4][..]);
    header.encode(&mut frame, ApiKey::DescribeQuorum.request_header_version(0)).unwrap();
    DescribeQuorumRequest::default().with_topics(vec![topic]).encode(&mut frame, 0).unwrap();
    let length = u32::try_from(frame.len() - 4).unwrap();
    frame[..4].copy_from_slice(&length.to_be_bytes());
    stream.write_all(&frame).ok()?;
    let mut length = [0; 4];
    stream.read_exact(&mut length).ok()?;
    let mut body = vec![0; u32::from_be_bytes(length) as usize];
    stream.read_exact(&mut body).ok()?;
    let mut body = Bytes::from(body);
    ResponseHeader::decode(&mut body, ApiKey::DescribeQuorum.response_header_version(0)).ok()?;
    let answer = DescribeQuorumResponse::decode(&mut body, 0).ok()?;
    let partition = answer.topics.first()?.partitions.first()?;
    (answer.error_code == 0 && partition.error_code == 0 && partition.leader_id.0 >= 0).then_some(partition.leader_id.0)
}

/// What was seen.
#[derive(Debug)]
pub struct Seen {
    /// how often there was a leader
    pub led: usize,
    /// leaders, each time that another one was seen
    pub leaders: Vec<i32>,
    /// the longest time between two looks at a leader
    pub longest_without: Duration,
}

/// Asks until it is ended.
pub struct Sampler {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Seen>,
}

impl Sampler {
    pub fn start(controllers: Vec<SocketAddr>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let ended = stop.clone();
        let thread = std::thread::spawn(move || {
            let mut seen = Seen { led: 0, leaders: Vec::new(), longest_without: Duration::ZERO };
            let mut last = Instant::now();
            while !ended.load(Ordering::SeqCst) {
                let leader = controllers.iter().find_map(|c| leader_by(*c));
                let without = last.elapsed();
                seen.longest_without = seen.longest_without.max(without);
                if let Some(leader) = leader {
                    last = Instant::now();
                    seen.led += 1;
                    if seen.leaders.last() != Some(&leader) {
                        seen.leaders.push(leader);
                    }
                }
                std::thread::sleep(PAUSE);
            }
            seen
        });
        Self { stop, thread }
    }

    pub fn finish(self) -> Seen {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.join().unwrap()
    }
}
