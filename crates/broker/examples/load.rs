//! A raw client for `scripts/bench-broker`: it takes next to no CPU itself, so that what is measured is the broker.
//!
//! `load wait PORTS`: until each broker answers and sees all of them. `load topic PORTS NAME PARTITIONS FACTOR`. `load produce PORTS TOPIC ACKS
//! SECONDS MAX_MB`: 16 KiB requests, 8 on their way on one connection to the leader of partition 0; prints MB/s and MB. `load latency PORTS
//! TOPIC RATE SECONDS`: single records, acks=all, at a fixed rate; prints p50 and p99 in milliseconds from the time that a record was due
//! until a consumer has it. `load failover PORTS TOPIC PIDS`: kills the leader of partition 0; prints the milliseconds until the others name
//! another one, and until a record with acks=all is acknowledged. `load leader PORTS TOPIC`: prints the leader of partition 0. `load accepts PORTS
//! TOPIC`: until a record with acks=1 is acknowledged by it. PORTS and PIDS are by broker id from 1, with commas.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../tests/common/batches.rs"]
#[allow(dead_code, missing_docs)]
mod batches;

use std::{
    io::{Read, Write},
    net::TcpStream,
    sync::mpsc,
    time::{Duration, Instant},
};

use batches::Batch;
use bytes::{Bytes, BytesMut};
use kafka_protocol::{
    messages::{
        BrokerId, CreateTopicsRequest, FetchRequest, MetadataRequest, MetadataResponse, ProduceRequest, ProduceResponse, RequestHeader,
        ResponseHeader, TopicName,
        create_topics_request::CreatableTopic,
        fetch_request::{FetchPartition, FetchTopic},
        metadata_request::MetadataRequestTopic,
        produce_request::{PartitionProduceData, TopicProduceData},
    },
    protocol::{Decodable, Encodable, HeaderVersion, Request, StrBytes},
};

/// Requests on their way at once.
const IN_FLIGHT: usize = 8;
const PRODUCE: i16 = 9;

fn name(topic: &str) -> TopicName {
    TopicName(StrBytes::from_string(topic.to_owned()))
}

fn connect(port: u16) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    Ok(stream)
}

fn frame<R: Request>(version: i16, request: &R) -> Vec<u8> {
    let header = RequestHeader::default().with_request_api_key(R::KEY).with_request_api_version(version).with_correlation_id(1);
    let mut out = BytesMut::from(&[0; 4][..]);
    header.with_client_id(Some(StrBytes::from_static_str("load"))).encode(&mut out, R::header_version(version)).unwrap();
    request.encode(&mut out, version).unwrap();
    let length = (out.len() - 4) as u32;
    out[..4].copy_from_slice(&length.to_be_bytes());
    out.to_vec()
}

fn receive<R: Decodable + HeaderVersion>(stream: &mut TcpStream, version: i16) -> std::io::Result<R> {
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let mut body = vec![0; u32::from_be_bytes(length) as usize];
    stream.read_exact(&mut body)?;
    let mut body = Bytes::from(body);
    ResponseHeader::decode(&mut body, R::header_version(version)).unwrap();
    Ok(R::decode(&mut body, version).unwrap())
}

fn call<R: Request>(port: u16, version: i16, request: &R) -> std::io::Result<R::Response> {
    let mut stream = connect(port)?;
    stream.write_all(&frame(version, request))?;
    receive(&mut stream, version)
}

fn metadata(port: u16, topics: &[&str]) -> std::io::Result<MetadataResponse> {
    let topics = topics.iter().map(|t| MetadataRequestTopic::default().with_name(Some(name(t)))).collect();
    call(port, 9, &MetadataRequest::default().with_topics(Some(topics)))
}

/// Leader of partition 0, by its id.
fn leader(port: u16, topic: &str) -> Option<i32> {
    let answer = metadata(port, &[topic]).ok()?;
    let p = answer.topics.first()?.partitions.iter().find(|p| p.partition_index == 0)?;
    (p.leader_id.0 > 0).then_some(p.leader_id.0)
}

fn port_of(ports: &[u16], id: i32) -> u16 {
    ports[id as usize - 1]
}

fn until<T>(pause: Duration, mut ask: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + Duration::from_secs(300);
    loop {
        if let Some(found) = ask() {
            return found;
        }
        assert!(Instant::now() < end, "nothing within 300 s");
        std::thread::sleep(pause);
    }
}

fn produce_request(topic: &str, acks: i16, batch: Vec<u8>) -> ProduceRequest {
    let p = PartitionProduceData::default().with_index(0).with_records(Some(batch.into()));
    let t = TopicProduceData::default().with_name(name(topic)).with_partition_data(vec![p]);
    ProduceRequest::default().with_acks(acks).with_timeout_ms(30_000).with_topic_data(vec![t])
}

fn acknowledged(stream: &mut TcpStream) -> std::io::Result<i16> {
    let answer: ProduceResponse = receive(stream, PRODUCE)?;
    Ok(answer.responses[0].partition_responses[0].error_code)
}

fn wait(ports: &[u16]) {
    until(Duration::from_millis(10), || {
        let all = |p: &u16| metadata(*p, &[]).is_ok_and(|m| m.brokers.len() == ports.len() && m.controller_id.0 > 0);
        ports.iter().all(all).then_some(())
    });
}

fn topic(ports: &[u16], topic: &str, partitions: i32, factor: i16) {
    let wanted = CreatableTopic::default().with_name(name(topic)).with_num_partitions(partitions).with_replication_factor(factor);
    let request = CreateTopicsRequest::default().with_topics(vec![wanted]).with_timeout_ms(30_000);
    let at = metadata(ports[0], &[]).unwrap().controller_id.0;
    let code = call(port_of(ports, at), 7, &request).unwrap().topics[0].error_code;
    assert_eq!(code, 0, "{topic} is not made");
    let ready = |p: &u16| {
        let m = metadata(*p, &[topic]).ok()?;
        let t = m.topics.first()?;
        (t.partitions.len() == partitions as usize
            && t.partitions.iter().all(|p| p.leader_id.0 > 0 && p.isr_nodes.len() == factor as usize))
        .then_some(())
    };
    until(Duration::from_millis(20), || ports.iter().all(|p| ready(p).is_some()).then_some(()));
}

fn produce(ports: &[u16], topic: &str, acks: i16, seconds: u64, max_mb: usize) {
    let value = "x".repeat(1000);
    let records: Vec<(i64, Option<&str>, Option<&str>)> = (0..16).map(|_| (0, None, Some(value.as_str()))).collect();
    let batch = Batch::new(1_700_000_000_000).records(&records).build();
    let size = batch.len();
    let bytes = frame(PRODUCE, &produce_request(topic, acks, batch));
    let at = until(Duration::from_millis(20), || leader(ports[0], topic));
    let mut stream = connect(port_of(ports, at)).unwrap();
    let mut writer = stream.try_clone().unwrap();
    let (permit, permits) = mpsc::sync_channel::<()>(IN_FLIGHT);
    let begun = Instant::now();
    let sending = std::thread::spawn(move || {
        let mut sent = 0usize;
        while begun.elapsed() < Duration::from_secs(seconds) && sent * size < max_mb * 1_000_000 {
            if permit.send(()).is_err() {
                break;
            }
            writer.write_all(&bytes).unwrap();
            sent += 1;
        }
    });
    let mut taken = 0usize;
    while permits.recv().is_ok() {
        assert_eq!(acknowledged(&mut stream).unwrap(), 0);
        taken += 1;
    }
    let elapsed = begun.elapsed().as_secs_f64();
    sending.join().unwrap();
    let mb = (taken * size) as f64 / 1e6;
    println!("{:.1} {mb:.1}", mb / elapsed);
}

/// Where the batches of a partition end, for each record of a single-record batch.
fn fetch(stream: &mut TcpStream, topic: &str, offset: i64) -> i64 {
    let p = FetchPartition::default().with_partition(0).with_fetch_offset(offset).with_partition_max_bytes(1 << 20);
    let t = FetchTopic::default().with_topic(name(topic)).with_partitions(vec![p]);
    let request = FetchRequest::default().with_replica_id(BrokerId(-1)).with_max_wait_ms(500).with_min_bytes(1).with_max_bytes(1 << 20);
    stream.write_all(&frame(12, &request.with_topics(vec![t]))).unwrap();
    let answer: kafka_protocol::messages::FetchResponse = receive(stream, 12).unwrap();
    let p = &answer.responses[0].partitions[0];
    assert_eq!(p.error_code, 0);
    let mut rest = p.records.as_deref().unwrap_or_default();
    let mut next = offset;
    while rest.len() >= 61 {
        let length = u32::from_be_bytes(rest[8..12].try_into().unwrap()) as usize + 12;
        if rest.len() < length {
            break;
        }
        next = i64::from_be_bytes(rest[..8].try_into().unwrap()) + i64::from(u32::from_be_bytes(rest[23..27].try_into().unwrap())) + 1;
        rest = &rest[length..];
    }
    next
}

fn latency(ports: &[u16], topic: &str, rate: u64, seconds: u64) {
    let count = rate * seconds;
    let at = until(Duration::from_millis(20), || leader(ports[0], topic));
    let batch = Batch::new(1_700_000_000_000).records(&[(0, None::<&str>, Some("x".repeat(100).as_str()))]).build();
    let bytes = frame(PRODUCE, &produce_request(topic, -1, batch));
    let mut answers = connect(port_of(ports, at)).unwrap();
    let mut writer = answers.try_clone().unwrap();
    let mut consumer = connect(port_of(ports, at)).unwrap();
    // The first second warms up, and is not counted.
    let (skip, begun) = (rate, Instant::now() + Duration::from_millis(200));
    let due = move |i: u64| begun + Duration::from_nanos(i * 1_000_000_000 / rate);
    let sending = std::thread::spawn(move || {
        for i in 0..count {
            std::thread::sleep(due(i).saturating_duration_since(Instant::now()));
            writer.write_all(&bytes).unwrap();
        }
    });
    let acknowledging = std::thread::spawn(move || {
        for _ in 0..count {
            assert_eq!(acknowledged(&mut answers).unwrap(), 0);
        }
    });
    let (mut offset, mut all) = (0, Vec::new());
    while (offset as u64) < count {
        let next = fetch(&mut consumer, topic, offset);
        let now = Instant::now();
        all.extend((offset as u64..next as u64).filter(|i| *i >= skip).map(|i| now.saturating_duration_since(due(i))));
        offset = next;
    }
    sending.join().unwrap();
    acknowledging.join().unwrap();
    all.sort_unstable();
    let of = |percent: usize| all[(all.len() * percent / 100).min(all.len() - 1)].as_secs_f64() * 1e3;
    println!("{:.2} {:.2}", of(50), of(99));
}

fn failover(ports: &[u16], topic: &str, pids: &[&str]) {
    let old = until(Duration::from_millis(20), || leader(ports[0], topic));
    let other = port_of(ports, if old == 1 { 2 } else { 1 });
    let batch = Batch::new(1_700_000_000_000).values(&["x"]).build();
    let bytes = frame(PRODUCE, &produce_request(topic, -1, batch));
    assert!(std::process::Command::new("kill").args(["-9", pids[old as usize - 1]]).status().unwrap().success());
    let begun = Instant::now();
    let new = until(Duration::from_millis(2), || leader(other, topic).filter(|id| *id != old));
    let elected = begun.elapsed();
    until(Duration::from_millis(2), || {
        let mut stream = connect(port_of(ports, new)).ok()?;
        stream.write_all(&bytes).ok()?;
        (acknowledged(&mut stream).ok()? == 0).then_some(())
    });
    println!("{} {}", elected.as_millis(), begun.elapsed().as_millis());
}

fn accepts(ports: &[u16], topic: &str) {
    let batch = Batch::new(1_700_000_000_000).values(&["x"]).build();
    let bytes = frame(PRODUCE, &produce_request(topic, 1, batch));
    until(Duration::from_millis(5), || {
        let at = ports.iter().find_map(|p| leader(*p, topic))?;
        let mut stream = connect(port_of(ports, at)).ok()?;
        stream.write_all(&bytes).ok()?;
        (acknowledged(&mut stream).ok()? == 0).then_some(())
    });
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let ports: Vec<u16> = words.get(1).unwrap_or(&"").split(',').filter_map(|p| p.parse().ok()).collect();
    match words[..] {
        ["wait", _] => wait(&ports),
        ["topic", _, name, partitions, factor] => topic(&ports, name, partitions.parse().unwrap(), factor.parse().unwrap()),
        ["produce", _, topic, acks, seconds, max_mb] => {
            produce(&ports, topic, acks.parse().unwrap(), seconds.parse().unwrap(), max_mb.parse().unwrap());
        }
        ["latency", _, topic, rate, seconds] => latency(&ports, topic, rate.parse().unwrap(), seconds.parse().unwrap()),
        ["accepts", _, topic] => accepts(&ports, topic),
        ["leader", _, topic] => println!("{}", until(Duration::from_millis(20), || leader(ports[0], topic))),
        ["failover", _, topic, pids] => failover(&ports, topic, &pids.split(',').collect::<Vec<_>>()),
        _ => {
            eprintln!("load wait|topic|produce|latency|accepts|leader|failover: see examples/load.rs");
            std::process::exit(2);
        }
    }
}
