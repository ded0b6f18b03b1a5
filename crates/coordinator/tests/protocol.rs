//! The client protocol, byte by byte, as ZooKeeper 3.8's server and clients speak it.
#![allow(clippy::unwrap_used, missing_docs)]

use proptest::prelude::*;
use septet_coordinator::{
    acl::{self, Acl, Id},
    jute::{JuteError, Writer},
    protocol::{
        Code, Connect, Create, EventType, Header, Kind, Offered, Op, Read, Request, Stat, WatchKind, WatchMode, Write, WriteAnswer,
        connected, decode as decode_with, event, op, reply, valid_path,
    },
};

fn decode(bytes: &[u8]) -> Result<(Header, Request), JuteError> {
    decode_with(bytes, Offered::default())
}

fn with_ttl(bytes: &[u8]) -> Request {
    decode_with(bytes, Offered { extended_types: true, reconfig: true }).unwrap().1
}

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(|b| !b.is_ascii_whitespace()).collect();
    digits.chunks(2).map(|d| u8::from_str_radix(std::str::from_utf8(d).unwrap(), 16).unwrap()).collect()
}

const WORLD: &str = "00000001 0000001f 00000005 776f726c64 00000006 616e796f6e65";

fn plain(path: &str) -> Create {
    Create { path: path.into(), data: Some(b"hi".to_vec()), acl: acl::open(), kind: Kind::Persistent, sequential: false, with_stat: false }
}

fn create(path: &str) -> Op {
    Op::Create(plain(path))
}

fn one(op: Op) -> Request {
    Request::Write(Write::One(op))
}

fn invalid(op: i32, code: Code) -> Request {
    one(Op::Invalid { op, code })
}

#[test]
fn connect_with_and_without_the_read_only_field() {
    // As zkCli of 3.8 sends it: protocol, last zxid, timeout, session, password, read-only.
    let bytes = hex("00000000 0000000000000005 00007530 0000000000000000 00000010 00000000000000000000000000000000 00");
    let want = Connect { last_zxid: 5, timeout_ms: 30_000, session: 0, password: vec![0; 16], read_only: Some(false) };
    assert_eq!(Connect::decode(&bytes).unwrap(), want);
    let old = Connect::decode(&bytes[..bytes.len() - 1]).unwrap();
    assert_eq!(old, Connect { read_only: None, ..want.clone() });
    // Some clients send no password for a new session.
    let bare = hex("00000000 0000000000000005 00007530 0000000000000000 ffffffff");
    assert_eq!(Connect::decode(&bare).unwrap(), Connect { read_only: None, password: vec![], ..want });
    for n in 0..bare.len() {
        assert!(Connect::decode(&bare[..n]).is_err());
    }
}

#[test]
fn connected_as_zookeeper_answers() {
    let head = "00000000 00007530 0100000000000002 00000010 01010101010101010101010101010101";
    assert_eq!(connected(30_000, 0x0100_0000_0000_0002, &[1; 16], None), hex(&format!("00000024 {head}")));
    assert_eq!(connected(30_000, 0x0100_0000_0000_0002, &[1; 16], Some(false)), hex(&format!("00000025 {head} 00")));
}

#[test]
fn requests() {
    let path = "00000002 2f61";
    let table = [
        (format!("00000001 {path} 00000002 6869 {WORLD} 00000000"), one(create("/a"))),
        (
            format!("0000000f {path} 00000002 6869 {WORLD} 00000003"),
            one(Op::Create(Create { kind: Kind::Ephemeral, sequential: true, with_stat: true, ..plain("/a") })),
        ),
        // null data is not empty data
        (
            format!("00000001 {path} ffffffff {WORLD} 00000001"),
            one(Op::Create(Create { data: None, kind: Kind::Ephemeral, ..plain("/a") })),
        ),
        (format!("00000001 {path} 00000000 {WORLD} 00000000"), one(Op::Create(Create { data: Some(vec![]), ..plain("/a") }))),
        (
            format!("00000013 {path} 00000002 6869 {WORLD} 00000004"),
            one(Op::Create(Create { kind: Kind::Container, with_stat: true, ..plain("/a") })),
        ),
        // With a container's flag `create` makes a common node, as in ZooKeeper.
        (format!("00000001 {path} 00000002 6869 {WORLD} 00000004"), one(create("/a"))),
        (
            format!(
                "00000001 {path} 00000002 6869 00000002 00000001 00000006 646967657374 00000003 613a62 0000001f 00000004 61757468 00000000 00000000"
            ),
            one(Op::Create(Create {
                acl: vec![Acl { perms: 1, id: Id::new("digest", "a:b") }, Acl { perms: 31, id: Id::new("auth", "") }],
                ..plain("/a")
            })),
        ),
        (format!("00000002 {path} ffffffff"), one(Op::Delete { path: "/a".into(), version: -1 })),
        (format!("0000000d {path} 00000000"), one(Op::Check { path: "/a".into(), version: 0 })),
        (format!("00000003 {path} 01"), Request::Read(Read::Exists { path: "/a".into(), watch: true })),
        (format!("00000004 {path} 00"), Request::Read(Read::Data { path: "/a".into(), watch: false })),
        (format!("00000004 {path} 01"), Request::Read(Read::Data { path: "/a".into(), watch: true })),
        (format!("00000005 {path} 00000001 78 00000007"), one(Op::SetData { path: "/a".into(), data: Some(b"x".to_vec()), version: 7 })),
        (format!("00000005 {path} ffffffff 00000007"), one(Op::SetData { path: "/a".into(), data: None, version: 7 })),
        (format!("00000006 {path}"), Request::Read(Read::Acl { path: "/a".into() })),
        (format!("00000007 {path} {WORLD} 00000002"), one(Op::SetAcl { path: "/a".into(), acl: acl::open(), version: 2 })),
        (format!("00000008 {path} 01"), Request::Read(Read::Children { path: "/a".into(), watch: true, with_stat: false })),
        (format!("0000000c {path} 00"), Request::Read(Read::Children { path: "/a".into(), watch: false, with_stat: true })),
        (format!("00000009 {path}"), Request::Sync("/a".into())),
        ("0000000b".into(), Request::Ping),
        ("fffffff5".into(), Request::Close),
        (format!("00000065 0000000000000063 00000001 {path} 00000000 00000002 {path} 00000002 2f62"), {
            let (data, exist, child) = (vec!["/a".into()], vec![], vec!["/a".into(), "/b".into()]);
            Request::Read(Read::SetWatches { since: 99, data, exist, child, persistent: vec![], recursive: vec![] })
        }),
        (format!("00000069 0000000000000063 00000000 00000000 00000000 00000001 {path} 00000001 {path}"), {
            let (persistent, recursive) = (vec!["/a".into()], vec!["/a".into()]);
            Request::Read(Read::SetWatches { since: 99, data: vec![], exist: vec![], child: vec![], persistent, recursive })
        }),
        (format!("0000006a {path} 00000000"), Request::Read(Read::AddWatch { path: "/a".into(), mode: WatchMode::Persistent })),
        (format!("0000006a {path} 00000001"), Request::Read(Read::AddWatch { path: "/a".into(), mode: WatchMode::Recursive })),
        (format!("00000011 {path} 00000001"), Request::Read(Read::Watches { path: "/a".into(), kind: WatchKind::Children, remove: false })),
        (format!("00000012 {path} 00000003"), Request::Read(Read::Watches { path: "/a".into(), kind: WatchKind::Any, remove: true })),
        (format!("00000067 {path}"), Request::Read(Read::Ephemerals { prefix: "/a".into() })),
        (format!("00000068 {path}"), Request::Read(Read::ChildrenNumber { path: "/a".into() })),
        ("0000006b".into(), Request::Read(Read::WhoAmI)),
        ("00000066 00000000".into(), Request::Sasl),
        (
            "00000064 00000000 00000006 646967657374 00000003 613a62".into(),
            Request::Auth { scheme: "digest".into(), credentials: b"a:b".to_vec() },
        ),
        (
            format!("00000016 00000004 00 ffffffff {path} 01 00000008 00 ffffffff {path} 00 ffffffff 01 ffffffff"),
            Request::Read(Read::Multi(vec![
                Read::Data { path: "/a".into(), watch: false },
                Read::Children { path: "/a".into(), watch: false, with_stat: false },
            ])),
        ),
        // Each operation of a multi has a header: type, done, error; the last says done.
        (
            format!(
                "0000000e 00000001 00 ffffffff {path} 00000002 6869 {WORLD} 00000000
                 0000000d 00 ffffffff {path} 00000000  00000002 00 ffffffff {path} ffffffff  ffffffff 01 ffffffff"
            ),
            Request::Write(Write::Multi(vec![
                create("/a"),
                Op::Check { path: "/a".into(), version: 0 },
                Op::Delete { path: "/a".into(), version: -1 },
            ])),
        ),
        ("0000000e ffffffff 01 ffffffff".into(), Request::Write(Write::Multi(vec![]))),
    ];
    for (bytes, want) in table {
        let (header, request) = decode(&hex(&format!("00000007 {bytes}"))).unwrap();
        assert_eq!(request, want, "{bytes}");
        assert_eq!(header.xid, 7);
    }
}

#[test]
fn what_zookeeper_answers_with_an_error_is_not_a_dropped_connection() {
    let path = "00000002 2f61";
    let table = [
        ("0000004d".into(), Request::Unknown),
        (format!("00000001 {path} 00000000 {WORLD} 00000005"), invalid(1, Code::Unimplemented)), // a TTL, and they are not offered
        (format!("00000015 {path} 00000000 {WORLD} 00000005 0000000000000001"), invalid(21, Code::Unimplemented)),
        (format!("00000001 {path} 00000000 {WORLD} 00000009"), invalid(1, Code::BadArguments)), // no such mode
        (format!("00000010 {path} {path} {path} 0000000000000000"), invalid(16, Code::ReconfigDisabled)),
        (format!("00000014 {path}"), invalid(20, Code::BadArguments)),
        (format!("0000006a {path} 00000002"), Request::Refused(Code::MarshallingError)),
        (format!("00000011 {path} 00000004"), Request::Refused(Code::MarshallingError)),
        (format!("0000000e 00000004 00 ffffffff {path} 00 ffffffff 01 ffffffff"), invalid(14, Code::MarshallingError)), // read in a multi
        (format!("00000016 00000002 00 ffffffff {path} ffffffff ffffffff 01 ffffffff"), Request::Refused(Code::MarshallingError)),
        (format!("0000000e 00000007 00 ffffffff {path} {WORLD} ffffffff ffffffff 01 ffffffff"), invalid(14, Code::MarshallingError)),
        (
            format!("0000000e 00000001 00 ffffffff {path} 00000000 {WORLD} 00000009 ffffffff 01 ffffffff"),
            invalid(14, Code::MarshallingError),
        ),
        ("00000001 0000".into(), invalid(1, Code::MarshallingError)),
        ("00000004 00000064 2f61".into(), Request::Refused(Code::MarshallingError)),
        ("00000004 00000001 ff 00".into(), Request::Refused(Code::MarshallingError)),
        ("00000065 0000000000000000 7fffffff".into(), Request::Refused(Code::MarshallingError)),
    ];
    for (bytes, want) in table {
        let request = decode(&hex(&format!("00000007 {bytes}"))).unwrap().1;
        assert_eq!(request, want, "{bytes}");
    }
    let ttl = |flags: &str, ttl: &str| with_ttl(&hex(&format!("00000007 00000015 {path} 00000002 6869 {WORLD} {flags} {ttl}")));
    assert_eq!(
        ttl("00000006", "0000000000000005"),
        one(Op::Create(Create { kind: Kind::Ttl(5), sequential: true, with_stat: true, ..plain("/a") }))
    );
    for (flags, ms) in [("00000005", "0000000000000000"), ("00000005", "0000010000000000"), ("00000000", "0000000000000005")] {
        assert_eq!(ttl(flags, ms), invalid(21, Code::BadArguments));
    }
    let reconfig = with_ttl(&hex(&format!("00000007 00000010 {path} {path} {path} 0000000000000000")));
    assert_eq!(reconfig, invalid(16, Code::Unimplemented));
    // Without a header there is nothing to answer.
    assert!(decode(&[0; 7]).is_err());
}

#[test]
fn a_multi_is_bounded() {
    let one = hex("00000002 00 ffffffff 00000002 2f61 ffffffff");
    let multi = |n: usize| [hex("00000007 0000000e"), one.repeat(n), hex("ffffffff 01 ffffffff")].concat();
    assert!(matches!(decode(&multi(10_000)).unwrap().1, Request::Write(Write::Multi(all)) if all.len() == 10_000));
    assert_eq!(decode(&multi(10_001)).unwrap().1, invalid(op::MULTI, Code::BadArguments));
}

#[test]
fn what_is_checked_before_the_tree() {
    let prepared = |create: Create| {
        let mut op = Op::Create(create);
        op.prepare(&[Id::new("ip", "127.0.0.1"), Id::new("digest", "me:x")]);
        op
    };
    let acl = |scheme: &str, id: &str| vec![Acl { perms: 31, id: Id::new(scheme, id) }];
    for (create, code) in [
        (plain("a"), Code::BadArguments),
        (plain(""), Code::BadArguments),
        (plain("/a\0"), Code::BadArguments),
        (Create { acl: vec![], ..plain("/a") }, Code::InvalidAcl),
        (Create { acl: acl("sasl", "me"), ..plain("/a") }, Code::InvalidAcl),
        (Create { acl: acl("x509", "CN=me"), ..plain("/a") }, Code::InvalidAcl),
    ] {
        assert_eq!(prepared(create), Op::Invalid { op: op::CREATE, code });
    }
    assert_eq!(prepared(Create { acl: acl("auth", ""), ..plain("/a") }), Op::Create(Create { acl: acl("digest", "me:x"), ..plain("/a") }));
    // An operation that cannot succeed keeps its place in a multi.
    let mut multi = Write::Multi(vec![Op::SetAcl { path: "/a/".into(), acl: acl::open(), version: -1 }, create("/a")]);
    multi.prepare(&[]);
    assert_eq!(multi, Write::Multi(vec![Op::Invalid { op: op::SET_ACL, code: Code::BadArguments }, create("/a")]));
}

fn sample_stat() -> Stat {
    Stat {
        czxid: 1,
        mzxid: 2,
        ctime: 3,
        mtime: 4,
        version: 5,
        cversion: 6,
        aversion: 7,
        ephemeral_owner: 8,
        data_length: 9,
        num_children: 10,
        pzxid: 11,
    }
}

const STAT: &str = "0000000000000001 0000000000000002 0000000000000003 0000000000000004 00000005 00000006 00000007
    0000000000000008 00000009 0000000a 000000000000000b";

#[test]
fn answers() {
    let head = "00000007 0000000000000063 00000000";
    let encoded = |answer: &WriteAnswer| reply(7, 99, 0, |w| answer.encode(w))[4..].to_vec();
    let created = |stat| WriteAnswer::Created("/a".into(), stat);
    assert_eq!(encoded(&created(None)), hex(&format!("{head} 00000002 2f61")));
    assert_eq!(encoded(&created(Some(sample_stat()))), hex(&format!("{head} 00000002 2f61 {STAT}")));
    assert_eq!(encoded(&WriteAnswer::Stat(sample_stat())), hex(&format!("{head} {STAT}")));
    assert_eq!(encoded(&WriteAnswer::Done), hex(head));
    let done = WriteAnswer::Multi(vec![Ok(created(None)), Ok(WriteAnswer::Done)], vec![op::CREATE, op::DELETE]);
    assert_eq!(encoded(&done), hex(&format!("{head} 00000001 00 00000000 00000002 2f61 00000002 00 00000000 ffffffff 01 ffffffff")));
    // Captured from ZooKeeper 3.8: create, setData of a node that is not there, delete.
    let failed = WriteAnswer::Multi(vec![Err(0), Err(-101), Err(-2)], vec![op::CREATE, op::SET_DATA, op::DELETE]);
    let body = "ffffffff 00 00000000 00000000  ffffffff 00 ffffff9b ffffff9b  ffffffff 00 fffffffe fffffffe  ffffffff 01 ffffffff";
    assert_eq!(encoded(&failed), hex(&format!("{head} {body}")));
    // An error has no body; an event has its own xid and no zxid.
    assert_eq!(
        reply(7, 99, -101, |w| {
            w.int(1);
        }),
        hex("00000010 00000007 0000000000000063 ffffff9b")
    );
    let deleted = "00000022 ffffffff ffffffffffffffff 00000000 00000002 00000003 00000006 2f612f622f63";
    assert_eq!(event(EventType::Deleted, "/a/b/c"), hex(deleted));
}

#[test]
fn paths() {
    // Each one was put to ZooKeeper 3.8.
    for good in ["/", "/a", "/a/b", "/a b", "/...", "/.a", "/a.", "/é", "/\u{a0}", "/\u{d7ff}", "/\u{feff}", "/zookeeper/quota", "/-_~!@"]
    {
        assert!(valid_path(good), "{good:?}");
    }
    let controls =
        ["/\0", "/\u{1}", "/\u{1f}", "/\u{7f}", "/\u{9f}", "/\u{e000}", "/\u{f8ff}", "/\u{fff0}", "/\u{ffff}", "/\u{1f600}", "/a/b\u{0}"];
    for bad in ["", "a", "a/b", "//", "/a/", "/a//b", "//a", "/.", "/..", "/a/./b", "/a/../b", "/a/.", " /a"].iter().chain(&controls) {
        assert!(!valid_path(bad), "{bad:?}");
    }
}

fn path() -> impl Strategy<Value = String> {
    "(/[a-z]{1,3}){1,3}"
}

fn simple_write() -> impl Strategy<Value = Op> {
    let data = || prop::option::of(prop::collection::vec(any::<u8>(), 0..20));
    let kind = prop_oneof![Just(Kind::Persistent), Just(Kind::Ephemeral)];
    prop_oneof![
        (path(), data(), 0..32i32, kind, any::<[bool; 2]>()).prop_map(|(path, data, perms, kind, [sequential, with_stat])| {
            Op::Create(Create { path, data, acl: vec![Acl::world(perms)], kind, sequential, with_stat })
        }),
        (path(), any::<i32>()).prop_map(|(path, version)| Op::Delete { path, version }),
        (path(), data(), any::<i32>()).prop_map(|(path, data, version)| Op::SetData { path, data, version }),
        (path(), any::<i32>()).prop_map(|(path, version)| Op::Check { path, version }),
    ]
}

/// As a client writes it.
fn put(w: &mut Writer, op: &Op) {
    match op {
        Op::Create(Create { path, data, acl, kind, sequential, .. }) => {
            w.string(path).nullable(data.as_deref()).int(1).int(acl[0].perms).string("world").string("anyone");
            w.int(i32::from(*kind == Kind::Ephemeral) | i32::from(*sequential) << 1);
        }
        Op::Delete { path, version } | Op::Check { path, version } => {
            w.string(path).int(*version);
        }
        Op::SetData { path, data, version } => {
            w.string(path).nullable(data.as_deref()).int(*version);
        }
        other => panic!("{other:?} is not sent"),
    }
}

fn put_multi(w: &mut Writer, all: &[Op]) {
    for one in all {
        w.int(one.code()).bool(false).int(-1);
        put(w, one);
    }
    w.int(-1).bool(true).int(-1);
}

proptest! {
    #[test]
    fn writes_arrive_as_sent(all in prop::collection::vec(simple_write(), 0..6), xid in any::<i32>()) {
        let request = |code: i32, body: &dyn Fn(&mut Writer)| {
            let mut w = Writer::default();
            w.int(xid).int(code);
            body(&mut w);
            decode(&w.0).unwrap()
        };
        for op in &all {
            prop_assert_eq!(request(op.code(), &|w| put(w, op)), (Header { xid, op: op.code() }, one(op.clone())));
        }
        let multi = request(op::MULTI, &|w| put_multi(w, &all));
        prop_assert_eq!(multi, (Header { xid, op: op::MULTI }, Request::Write(Write::Multi(all))));
    }

    #[test]
    fn garbage_never_panics(code in prop_oneof![-12..30i32, 100..110i32, any::<i32>()], body in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = Connect::decode(&body);
        let _ = decode(&body);
        let whole = [&1i32.to_be_bytes()[..], &code.to_be_bytes(), &body].concat();
        prop_assert_eq!(decode(&whole).unwrap().0, Header { xid: 1, op: code });
    }

    /// Nearly right is what finds the corners: a multi with one byte changed, and cut somewhere.
    #[test]
    fn a_damaged_multi_never_panics(
        all in prop::collection::vec(simple_write(), 1..5), at in any::<prop::sample::Index>(), byte in any::<u8>(), cut in any::<prop::sample::Index>(),
    ) {
        let mut w = Writer::default();
        w.int(1).int(op::MULTI);
        put_multi(&mut w, &all);
        let mut bytes = w.0;
        let i = at.index(bytes.len());
        bytes[i] = byte;
        let _ = decode(&bytes);
        let _ = decode(&bytes[..cut.index(bytes.len())]);
    }
}

/// A few bytes of `auth` stand for a long identity, in each list of a multi: what comes out must fit into a message between servers.
#[test]
fn what_identities_add_to_a_multi_is_bounded() {
    let ids = [Id::new("digest", "n".repeat(4000))];
    let acl: Vec<Acl> = (1..=200).map(|perms| Acl { perms, id: Id::new("auth", "") }).collect();
    let ops = (0..40).map(|i| Op::Create(Create { acl: acl.clone(), ..plain(&format!("/{i}")) })).collect();
    let mut write = Write::Multi(ops);
    write.prepare(&ids);
    assert!(write.bytes() < 4 << 20, "{} bytes", write.bytes());
    assert!(write.ops().iter().any(|op| matches!(op, Op::Invalid { code: Code::InvalidAcl, .. })));
    // What a usual client asks for is not touched.
    let mut usual = Write::Multi((0..100).map(|i| Op::Create(Create { acl: acl[..1].to_vec(), ..plain(&format!("/{i}")) })).collect());
    usual.prepare(&ids);
    assert!(usual.ops().iter().all(|op| matches!(op, Op::Create(c) if c.acl[0].id == ids[0])));
}
