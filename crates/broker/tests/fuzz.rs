//! Decoders of what comes from outside: valid samples, changed by a seed, make none of them panic, hang, or take memory by a length that
//! it was told. `SEPTET_FUZZ=n` multiplies the iterations. The same functions are targets of libFuzzer in `fuzz/`.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::{fs, path::Path};

use bytes::{Bytes, BytesMut};
use common::{
    batches::{Batch, GOLDEN},
    samples::samples,
};
use kafka_protocol::{
    messages::{
        AlterPartitionResponse, ApiKey, BrokerId, FetchResponse, ListOffsetsResponse, RequestHeader, TopicName, alter_partition_response,
        fetch_response, list_offsets_response,
    },
    protocol::{Encodable, StrBytes},
};
use septet_broker::{
    cluster::control::{
        self, Endpoint, LeaderAndIsr, LiveBroker, LiveLeader, Origin, PartitionMetadata, PartitionState, StopPartition, StopReplica,
        TopicMetadata, TopicState, UpdateMetadata, key,
    },
    fuzz,
    handlers::APIS,
    log::{Files, Limits, Log, Recovery},
    records,
};
use septet_mutate::{PeakAlloc, Rng, Target, mutate, run};

#[global_allocator]
static HEAP: PeakAlloc = PeakAlloc;

const SEED: u64 = 20_261_128;
const MIB: usize = 1 << 20;

fn iterations(n: u32) -> u32 {
    n * std::env::var("SEPTET_FUZZ").ok().and_then(|v| v.parse().ok()).unwrap_or(1)
}

/// Requests of clients, each in every version.
fn requests() -> Vec<Vec<u8>> {
    let mut out = Vec::new();
    for api in APIS {
        for version in api.served_from..=api.versions.1 {
            for body in samples(api.key, version) {
                let header = RequestHeader::default().with_request_api_key(api.key as i16).with_request_api_version(version);
                let mut frame = BytesMut::new();
                header
                    .with_client_id(Some(StrBytes::from_static_str("me")))
                    .encode(&mut frame, api.key.request_header_version(version))
                    .unwrap();
                out.push([&frame[..], &body].concat());
            }
        }
    }
    out
}

/// What a controller sends.
fn control_bodies() -> Vec<(i16, i16, Bytes)> {
    let origin = Origin { controller_id: 3, controller_epoch: 4, broker_epoch: 5 };
    let state = |index| PartitionState {
        index,
        controller_epoch: 4,
        leader: 1,
        leader_epoch: 7,
        isr: vec![1, 2],
        partition_epoch: 9,
        replicas: vec![1, 2, 3],
        adding: vec![3],
        removing: vec![],
        is_new: true,
    };
    let metadata = |index| PartitionMetadata {
        index,
        controller_epoch: 4,
        leader: 1,
        leader_epoch: 7,
        isr: vec![1, 2],
        partition_epoch: 9,
        replicas: vec![1, 2, 3],
        offline: vec![2],
    };
    let topics = vec![TopicState { name: "t".into(), id: [7; 16], partitions: vec![state(0), state(1)] }];
    let leaders = vec![LiveLeader { id: 1, host: "h".into(), port: 9092 }];
    let assign = LeaderAndIsr { origin, full: true, topics, leaders };
    let endpoint = Endpoint { port: 9092, host: "h".into(), listener: "PLAINTEXT".into(), protocol: 0 };
    let brokers = vec![LiveBroker { id: 1, endpoints: vec![endpoint], rack: Some("r".into()) }];
    let topics = vec![TopicMetadata { name: "t".into(), id: [7; 16], partitions: vec![metadata(0), metadata(5)] }];
    let update = UpdateMetadata { origin, topics, brokers };
    let stop = StopReplica { origin, topics: vec![("t".into(), vec![StopPartition { index: 1, leader_epoch: 2, delete: true }])] };
    let mut out = vec![
        (key::CONTROLLED_SHUTDOWN, 3, control::encode_controlled_shutdown(4, 99)),
        (key::ALLOCATE_PRODUCER_IDS, 0, control::encode_controlled_shutdown(4, 99)),
    ];
    out.extend((5..=7).map(|v| (key::LEADER_AND_ISR, v, assign.encode(v))));
    out.extend((7..=8).map(|v| (key::UPDATE_METADATA, v, update.encode(v))));
    out.extend((3..=4).map(|v| (key::STOP_REPLICA, v, stop.encode(v))));
    out
}

#[test]
fn no_decoder_panics_hangs_or_takes_memory_by_a_number() {
    // One after the other: the heap is measured.
    let mut frames = requests();
    frames.extend(
        control_bodies().into_iter().map(|(key, version, body)| control::frame_request(key, version, 7, "me", &body)[4..].to_vec()),
    );
    let try_one = |name, samples: Vec<Vec<u8>>, n, memory, decode: &dyn Fn(&[u8])| {
        run(&Target { name, samples, iterations: iterations(n), memory, decode }, SEED, &HEAP);
    };
    // Of a request that fits, an element may take some hundred bytes; their number is bounded.
    try_one("request", frames, 60_000, 32 * MIB, &fuzz::request);
    try_one("answer", answers(), 30_000, 32 * MIB, &fuzz::answer);
    // What a batch decompresses to is bounded, for compaction by 64 MiB.
    try_one("batch", batches(), 8_000, 160 * MIB, &fuzz::batch);
    try_one("codec", compressed(), 20_000, 32 * MIB, &fuzz::codec);
    try_one("file", files(), 20_000, MIB, &fuzz::file);
    try_one("group record", group_records(), 20_000, MIB, &fuzz::group_record);
    try_one("znode", znodes(), 20_000, MIB, &fuzz::znode);
    let text = "broker.id=1\nlisteners=A://h:1,B://:2\nlistener.security.protocol.map=A:PLAINTEXT,B:PLAINTEXT\n\
                zookeeper.connect=z:1/x\nlog.retention.hours=3\nlog.cleanup.policy=compact,delete\nkey \\u0041\\\n  more:value\n";
    try_one("properties", vec![text.as_bytes().to_vec()], 10_000, MIB, &fuzz::properties);
    directories();
}

/// Answers between brokers, with the byte that chooses the decoder.
fn answers() -> Vec<Vec<u8>> {
    let aborted = fetch_response::AbortedTransaction::default().with_producer_id(7.into()).with_first_offset(3);
    let diverging = fetch_response::EpochEndOffset::default().with_epoch(3).with_end_offset(9);
    let part = fetch_response::PartitionData::default()
        .with_partition_index(1)
        .with_aborted_transactions(Some(vec![aborted; 2]))
        .with_diverging_epoch(diverging)
        .with_records(Some(Bytes::from_static(&GOLDEN)));
    let topic = fetch_response::FetchableTopicResponse::default().with_topic_id(uuid::Uuid::from_u128(5)).with_partitions(vec![part; 2]);
    let fetch = FetchResponse::default().with_session_id(5).with_responses(vec![topic; 2]);
    let part = list_offsets_response::ListOffsetsPartitionResponse::default().with_offset(5);
    let name = TopicName(StrBytes::from_static_str("a-topic"));
    let topic = list_offsets_response::ListOffsetsTopicResponse::default().with_name(name).with_partitions(vec![part; 2]);
    let offsets = ListOffsetsResponse::default().with_topics(vec![topic]);
    let part = alter_partition_response::PartitionData::default().with_isr(vec![BrokerId(1), BrokerId(2)]);
    let topic = alter_partition_response::TopicData::default().with_partitions(vec![part; 2]);
    let alter = AlterPartitionResponse::default().with_topics(vec![topic]);
    let entries = vec![("t".to_owned(), 1, 0), ("u".to_owned(), 2, 56)];
    let body = |kind: u8, encode: &dyn Fn(&mut BytesMut)| {
        let mut out = BytesMut::from(&[kind][..]);
        encode(&mut out);
        out.to_vec()
    };
    vec![
        body(0, &|b| fetch.encode(b, 15).unwrap()),
        body(1, &|b| offsets.encode(b, 7).unwrap()),
        body(2, &|b| alter.encode(b, 3).unwrap()),
        [&[3], &control::encode_partitions_answer(0, &entries, true)[..]].concat(),
        [&[4], &control::encode_partitions_answer(0, &entries, false)[..]].concat(),
        [&[5], &control::encode_code(11)[..]].concat(),
    ]
}

fn records() -> Batch {
    Batch::new(1_700_000_000_000).records(&[(0, Some("k1"), Some("first")), (5, None, Some("second")), (3, Some("k3"), None)])
}

/// What is behind the head of a batch.
fn body() -> Vec<u8> {
    records().build()[61..].to_vec()
}

fn batches() -> Vec<Vec<u8>> {
    let mut out = vec![GOLDEN.to_vec(), records().build(), records().attributes(0x10).producer(7, 1, 3).build()];
    let compressed = |codec: i16| records().attributes(codec).body(&records::compress(codec, body()).unwrap()).build();
    out.extend((1..=4).map(compressed));
    // Markers of transactions.
    let marker = Batch::new(5).records(&[(0, Some(&[0u8, 0, 0, 1][..]), Some(&[0u8, 0, 0, 0, 0, 9][..]))]).attributes(0x30);
    out.push(marker.producer(7, 1, -1).build());
    out
}

fn compressed() -> Vec<Vec<u8>> {
    let long: Vec<u8> = (0..20_000u32).flat_map(|i| (i / 7).to_le_bytes()).collect();
    let one = |codec: i16, body: Vec<u8>| [&[codec as u8 - 1][..], &records::compress(codec, body).unwrap()].concat();
    (1..=4).flat_map(|codec| [one(codec, body()), one(codec, long.clone())]).collect()
}

fn files() -> Vec<Vec<u8>> {
    let dir = tempfile::tempdir().unwrap();
    fill(dir.path());
    let snapshot = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().path()).find(|p| p.extension().is_some_and(|e| e == "snapshot"));
    let aborted: Vec<u8> =
        [&[0, 0][..], &7i64.to_be_bytes(), &1i64.to_be_bytes(), &5i64.to_be_bytes(), &9i64.to_be_bytes()].concat().repeat(3);
    vec![b"0\n2\na-topic 0 5\nanother 12 99\n".to_vec(), b"0\n2\n0 0\n3 17\n".to_vec(), fs::read(snapshot.unwrap()).unwrap(), aborted]
}

fn group_records() -> Vec<Vec<u8>> {
    let string = |s: &str| [&(s.len() as u16).to_be_bytes()[..], s.as_bytes()].concat();
    let bytes = |b: &[u8]| [&(b.len() as u32).to_be_bytes()[..], b].concat();
    let record = |key: Vec<u8>, value: Vec<u8>| [&(key.len() as u16).to_be_bytes()[..], &key, &value].concat();
    let offset_key = [&[0, 1][..], &string("a-group"), &string("a-topic"), &3i32.to_be_bytes()].concat();
    let offset = |version: u8| {
        let mut v = [&[0, version][..], &77i64.to_be_bytes()].concat();
        if version >= 3 {
            v.extend(5i32.to_be_bytes());
        }
        v.extend([&string("metadata")[..], &1_700_000_000_000i64.to_be_bytes()].concat());
        if version == 1 {
            v.extend(9i64.to_be_bytes());
        }
        v
    };
    let member = [
        string("m-1"),
        string("an-instance"),
        string("me"),
        string("/h"),
        30_000i32.to_be_bytes().to_vec(),
        10_000i32.to_be_bytes().to_vec(),
        bytes(b"subscription"),
        bytes(b"assignment"),
    ]
    .concat();
    let group = [
        &[0, 3][..],
        &string("consumer"),
        &4i32.to_be_bytes(),
        &string("range"),
        &string("m-1"),
        &5i64.to_be_bytes(),
        &2i32.to_be_bytes(),
        &member,
        &member,
    ]
    .concat();
    let group_key = [&[0, 2][..], &string("a-group")].concat();
    vec![
        record(offset_key.clone(), offset(3)),
        record(offset_key.clone(), offset(1)),
        record(offset_key, Vec::new()),
        record(group_key.clone(), group),
        record(group_key, Vec::new()),
    ]
}

fn znodes() -> Vec<Vec<u8>> {
    [
        r#"{"version":2,"brokerid":3,"timestamp":"1700000000000","kraftControllerEpoch":-1}"#,
        r#"{"features":{},"listener_security_protocol_map":{"PLAINTEXT":"PLAINTEXT"},"endpoints":["PLAINTEXT://h:9092","B://[::1]:1"],"jmx_port":-1,"port":9092,"host":"h","version":5,"timestamp":"1","rack":"r","septet":true}"#,
        r#"{"version":3,"topic_id":"AAAAAAAAAAAAAAAAAAAAAQ","partitions":{"0":[1,2,3],"1":[2]},"adding_replicas":{"0":[3]},"removing_replicas":{}}"#,
        r#"{"controller_epoch":4,"leader":1,"version":1,"leader_epoch":7,"isr":[1,2]}"#,
        r#"{"version":1,"config":{"retention.ms":"5","cleanup.policy":"compact"}}"#,
        r#"{"version":1,"broker":2,"event":1}"#,
    ]
    .map(|s| s.as_bytes().to_vec())
    .to_vec()
}

const LIMITS: Limits = Limits { segment_bytes: 700, index_interval_bytes: 100, segment_ms: 1 << 40 };

/// A log of some segments, with indexes, epochs and snapshots.
fn fill(dir: &Path) {
    let mut log = Log::open(dir, LIMITS).unwrap();
    for i in 0..24 {
        let mut batch = records().producer(7, 1, i * 3).build();
        let heads = septet_broker::batch::validate(&batch, MIB).unwrap();
        log.append(&mut batch, &heads, i / 8).unwrap();
    }
    log.flush().unwrap();
}

/// Directories of which one file was changed: opening one is an error or not; what is open can be read.
fn directories() {
    let model = common::tempdir();
    fill(model.path());
    let names: Vec<_> = fs::read_dir(model.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(names.len() > 8, "{names:?}");
    let files = Files::new(64);
    let mut rng = Rng::new(SEED);
    let root = common::tempdir();
    for i in 0..iterations(1500) {
        let dir = root.path().join(format!("t-{i}"));
        fs::create_dir(&dir).unwrap();
        for name in &names {
            fs::copy(model.path().join(name), dir.join(name)).unwrap();
        }
        let name = rng.pick(&names).clone();
        let good = fs::read(dir.join(&name)).unwrap();
        let bad = mutate(&[good], &mut rng);
        fs::write(dir.join(&name), &bad).unwrap();
        let point = rng.pick(&[None, Some(0), Some(40), Some(1000)]).to_owned();
        let recovery = Recovery { clean: rng.below(2) == 0, point, start: rng.below(3) as i64 * 5 };
        HEAP.reset_peak_usage();
        let before = HEAP.current_usage();
        let opened = Log::open_in(&dir, LIMITS, &files, recovery);
        let what = || format!("{name:?} of seed {SEED}, iteration {i}");
        assert!(HEAP.peak_usage().saturating_sub(before) < 4 * MIB, "{}", what());
        let Ok(log) = opened else {
            fs::remove_dir_all(&dir).unwrap();
            continue;
        };
        let mut offset = log.start_offset();
        let mut reads = 0;
        while let Ok(bytes) = log.read(offset, 300) {
            reads += 1;
            assert!(reads < 100, "{}", what());
            let Some(head) = septet_broker::batch::Head::parse(&bytes) else { break };
            if head.last_offset() < offset {
                break;
            }
            offset = head.last_offset() + 1;
        }
        let _ = log.offset_for_timestamp(1_700_000_000_003);
        drop(log);
        fs::remove_dir_all(&dir).unwrap();
    }
}

/// That [`ApiKey`]s of all samples are tried: one that is added has samples.
#[test]
fn every_api_has_samples() {
    assert!(APIS.iter().all(|a| !samples(a.key, a.served_from).is_empty()));
    assert!(APIS.iter().any(|a| a.key == ApiKey::Fetch));
}
