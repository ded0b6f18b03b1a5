//! Several requests of one connection under way at once, seen by a client that writes bytes itself.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::{
    cell::{Cell, RefCell},
    io::{ErrorKind, Read, Write},
    net::TcpStream,
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use common::{
    batches::{Batch, keys_and_values},
    client::{Client, fetch_request, produce_request},
    logs::batches,
    processes::{Cluster, SOON},
};
use kafka_protocol::{
    messages::{ApiVersionsRequest, FetchRequest, MetadataRequest, ProduceRequest, ProduceResponse, RequestHeader, ResponseHeader},
    protocol::{Decodable, Encodable, Request},
};
use proptest::{prelude::*, test_runner::TestRunner};

fn framed<R: Request>(correlation: i32, version: i16, request: &R) -> Vec<u8> {
    let mut out = BytesMut::from(&[0; 4][..]);
    let header = RequestHeader::default().with_request_api_key(R::KEY).with_request_api_version(version).with_correlation_id(correlation);
    header.encode(&mut out, R::header_version(version)).unwrap();
    request.encode(&mut out, version).unwrap();
    let length = out.len() as u32 - 4;
    out[..4].copy_from_slice(&length.to_be_bytes());
    out.to_vec()
}

fn open(cluster: &Cluster) -> TcpStream {
    let stream = TcpStream::connect(("127.0.0.1", cluster.nodes[0].port)).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

fn answer(stream: &mut TcpStream) -> Bytes {
    let mut length = [0; 4];
    stream.read_exact(&mut length).unwrap();
    let mut frame = vec![0; u32::from_be_bytes(length) as usize];
    stream.read_exact(&mut frame).unwrap();
    frame.into()
}

fn correlation(frame: &Bytes) -> i32 {
    i32::from_be_bytes(frame[..4].try_into().unwrap())
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    All,
    One,
    Silent,
    Metadata,
    Versions,
    Fetch,
}

fn request(kind: Kind, n: i32) -> Vec<u8> {
    let produce = |acks: i16| {
        let batch = Batch::new(1).values(&[&n.to_string()]).build();
        framed::<ProduceRequest>(n, 9, &produce_request("order", 0, &batch, acks))
    };
    match kind {
        Kind::All => produce(-1),
        Kind::One => produce(1),
        Kind::Silent => produce(0),
        Kind::Metadata => framed(n, 9, &MetadataRequest::default().with_topics(None)),
        Kind::Versions => framed(n, 3, &ApiVersionsRequest::default()),
        Kind::Fetch => framed::<FetchRequest>(n, 12, &fetch_request("order", 0, 0, Duration::ZERO)),
    }
}

#[test]
fn one_broker_and_many_requests_at_once() {
    let cluster = Cluster::start(1, "");
    cluster.create("order", 1);
    answers_and_appends_keep_their_order(&cluster);
    a_client_that_does_not_read_is_not_read_from(&cluster);
    what_came_before_a_bad_request_is_answered(&cluster);
    an_answer_does_not_wait_for_the_long_poll_behind_it(&cluster);
}

/// Any mixture of requests, written at once: each is answered in its turn, and records lie in the log in the order of requests.
fn answers_and_appends_keep_their_order(cluster: &Cluster) {
    let next = Cell::new(0);
    let produced = RefCell::new(Vec::new());
    let kind = prop::sample::select(vec![Kind::All, Kind::All, Kind::One, Kind::Silent, Kind::Metadata, Kind::Versions, Kind::Fetch]);
    let config = ProptestConfig { failure_persistence: None, cases: 20, max_shrink_iters: 0, ..ProptestConfig::default() };
    TestRunner::new(config)
        .run(&prop::collection::vec(kind, 1..200), |kinds| {
            let mut stream = open(cluster);
            let (mut bytes, mut want) = (Vec::new(), Vec::new());
            for kind in kinds {
                let n = next.get() + 1;
                next.set(n);
                bytes.extend(request(kind, n));
                if !matches!(kind, Kind::Silent) {
                    want.push((kind, n));
                }
                if matches!(kind, Kind::All | Kind::One | Kind::Silent) {
                    produced.borrow_mut().push(n.to_string());
                }
            }
            let mut writer = stream.try_clone().unwrap();
            let writing = std::thread::spawn(move || writer.write_all(&bytes).unwrap());
            let mut last = -1;
            for (kind, n) in want {
                let mut frame = answer(&mut stream);
                prop_assert_eq!(correlation(&frame), n);
                if matches!(kind, Kind::All | Kind::One) {
                    ResponseHeader::decode(&mut frame, 1).unwrap();
                    let part = ProduceResponse::decode(&mut frame, 9).unwrap().responses.remove(0).partition_responses.remove(0);
                    prop_assert_eq!(part.error_code, 0);
                    prop_assert!(part.base_offset > last);
                    last = part.base_offset;
                }
            }
            writing.join().unwrap();
            // The last ones may be without answer.
            let bytes = request(Kind::Versions, 0);
            stream.write_all(&bytes).unwrap();
            prop_assert_eq!(correlation(&answer(&mut stream)), 0);
            Ok(())
        })
        .unwrap();
    let log = cluster.client(1).fetch("order", 0, 0);
    let got: Vec<String> =
        batches(&log).iter().flat_map(|(_, b)| keys_and_values(b)).map(|(_, v)| String::from_utf8(v.unwrap()).unwrap()).collect();
    assert_eq!(got, produced.into_inner());
}

/// A client that writes and does not read: what is under way has a bound, after which nothing more is taken from it.
fn a_client_that_does_not_read_is_not_read_from(cluster: &Cluster) {
    let mut stream = open(cluster);
    stream.set_nonblocking(true).unwrap();
    let one = request(Kind::Versions, 7);
    let (mut written, mut idle) = (0, 0);
    while idle < 30 {
        match stream.write(&one[written % one.len()..]) {
            Ok(n) => (written, idle) = (written + n, 0),
            Err(e) if e.kind() == ErrorKind::WouldBlock => {
                idle += 1;
                std::thread::sleep(Duration::from_millis(20));
            }
            Err(e) => panic!("{e}"),
        }
        assert!(written < 200_000_000, "the broker goes on reading");
    }
    // Others are served meanwhile, and it is too once it reads.
    assert!(cluster.client(1).produce("order", 0, &Batch::new(1).values(&["x"]).build()) > 0);
    stream.set_nonblocking(false).unwrap();
    for _ in 0..written / one.len() {
        assert_eq!(correlation(&answer(&mut stream)), 7);
    }
}

fn what_came_before_a_bad_request_is_answered(cluster: &Cluster) {
    let mut stream = open(cluster);
    let mut bytes: Vec<u8> = (0..20).flat_map(|n| request(Kind::All, n)).collect();
    bytes.extend([0, 0, 0, 9, 0x7f, 0xff, 0, 0, 0, 0, 0, 1, 0]);
    bytes.extend(request(Kind::All, 99));
    stream.write_all(&bytes).unwrap();
    for n in 0..20 {
        assert_eq!(correlation(&answer(&mut stream)), n);
    }
    match stream.read(&mut [0; 1]) {
        Ok(n) => assert_eq!(n, 0),
        Err(e) => assert_eq!(e.kind(), ErrorKind::ConnectionReset),
    }
}

fn an_answer_does_not_wait_for_the_long_poll_behind_it(cluster: &Cluster) {
    let mut client = Client::connect(cluster.nodes[0].port);
    let end = client.list_offsets(7, "order", 0, -1).1;
    let mut stream = open(cluster);
    let poll = framed::<FetchRequest>(2, 12, &fetch_request("order", 0, end + 1, Duration::from_secs(30)));
    stream.write_all(&[request(Kind::All, 1), poll, request(Kind::Versions, 3)].concat()).unwrap();
    assert_eq!(correlation(&answer(&mut stream)), 1);
    stream.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    assert_eq!(stream.read(&mut [0; 1]).unwrap_err().kind(), ErrorKind::WouldBlock, "the long poll holds what is behind it");
    stream.set_read_timeout(Some(SOON)).unwrap();
    client.produce("order", 0, &Batch::new(1).values(&["wake"]).build());
    assert_eq!(correlation(&answer(&mut stream)), 2);
    assert_eq!(correlation(&answer(&mut stream)), 3);
}
