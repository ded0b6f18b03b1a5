//! The client protocol, byte by byte, as ZooKeeper 3.8's server and clients speak it.
#![allow(clippy::unwrap_used, missing_docs)]

use proptest::prelude::*;
use septet_coordinator::{
    jute::Writer,
    protocol::{
        Code, Connect, EventType, Header, Read, Request, Stat, Write, WriteAnswer, connected, decode, event, op, reply, valid_path,
    },
};

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(|b| !b.is_ascii_whitespace()).collect();
    digits.chunks(2).map(|d| u8::from_str_radix(std::str::from_utf8(d).unwrap(), 16).unwrap()).collect()
}

const WORLD: &str = "00000001 0000001f 00000005 776f726c64 00000006 616e796f6e65";

fn create(path: &str) -> Write {
    Write::Create { path: path.into(), data: b"hi".to_vec(), perms: 31, ephemeral: false, sequential: false, with_stat: false }
}

#[test]
fn connect_with_and_without_the_read_only_field() {
    // As zkCli of 3.8 sends it: protocol, last zxid, timeout, session, password, read-only.
    let bytes = hex("00000000 0000000000000005 00007530 0000000000000000 00000010 00000000000000000000000000000000 00");
    let want = Connect { last_zxid: 5, timeout_ms: 30_000, session: 0, password: vec![0; 16], knows_read_only: true };
    assert_eq!(Connect::decode(&bytes).unwrap(), want);
    let old = Connect::decode(&bytes[..bytes.len() - 1]).unwrap();
    assert_eq!(old, Connect { knows_read_only: false, ..want.clone() });
    // Some clients send no password for a new session.
    let bare = hex("00000000 0000000000000005 00007530 0000000000000000 ffffffff");
    assert_eq!(Connect::decode(&bare).unwrap(), Connect { knows_read_only: false, password: vec![], ..want });
    for n in 0..bare.len() {
        assert!(Connect::decode(&bare[..n]).is_err());
    }
}

#[test]
fn connected_as_zookeeper_answers() {
    let head = "00000000 00007530 0100000000000002 00000010 01010101010101010101010101010101";
    assert_eq!(connected(30_000, 0x0100_0000_0000_0002, &[1; 16], false), hex(&format!("00000024 {head}")));
    assert_eq!(connected(30_000, 0x0100_0000_0000_0002, &[1; 16], true), hex(&format!("00000025 {head} 00")));
}

#[test]
fn requests() {
    let path = "00000002 2f61";
    let table = [
        (format!("00000001 {path} 00000002 6869 {WORLD} 00000000"), Request::Write(create("/a"))),
        (format!("0000000f {path} 00000002 6869 {WORLD} 00000003"), {
            Request::Write(Write::Create {
                path: "/a".into(),
                data: b"hi".to_vec(),
                perms: 31,
                ephemeral: true,
                sequential: true,
                with_stat: true,
            })
        }),
        // null data
        (format!("00000001 {path} ffffffff {WORLD} 00000001"), {
            Request::Write(Write::Create {
                path: "/a".into(),
                data: vec![],
                perms: 31,
                ephemeral: true,
                sequential: false,
                with_stat: false,
            })
        }),
        (format!("00000002 {path} ffffffff"), Request::Write(Write::Delete { path: "/a".into(), version: -1 })),
        (format!("00000003 {path} 01"), Request::Read(Read::Exists { path: "/a".into(), watch: true })),
        (format!("00000004 {path} 00"), Request::Read(Read::Data { path: "/a".into(), watch: false })),
        (format!("00000004 {path} 01"), Request::Read(Read::Data { path: "/a".into(), watch: true })),
        (
            format!("00000005 {path} 00000001 78 00000007"),
            Request::Write(Write::SetData { path: "/a".into(), data: b"x".to_vec(), version: 7 }),
        ),
        (format!("00000006 {path}"), Request::Read(Read::Acl { path: "/a".into() })),
        (format!("00000007 {path} {WORLD} 00000002"), Request::Write(Write::SetAcl { path: "/a".into(), perms: 31, version: 2 })),
        (format!("00000008 {path} 01"), Request::Read(Read::Children { path: "/a".into(), watch: true, with_stat: false })),
        (format!("0000000c {path} 00"), Request::Read(Read::Children { path: "/a".into(), watch: false, with_stat: true })),
        (format!("00000009 {path}"), Request::Sync("/a".into())),
        ("0000000b".into(), Request::Ping),
        ("fffffff5".into(), Request::Close),
        (format!("00000065 0000000000000063 00000001 {path} 00000000 00000002 {path} 00000002 2f62"), {
            let (data, exist, child) = (vec!["/a".into()], vec![], vec!["/a".into(), "/b".into()]);
            Request::Read(Read::SetWatches { since: 99, data, exist, child })
        }),
        // Each operation of a multi has a header: type, done, error; the last says done.
        (
            format!(
                "0000000e 00000001 00 ffffffff {path} 00000002 6869 {WORLD} 00000000
                 0000000d 00 ffffffff {path} 00000000  00000002 00 ffffffff {path} ffffffff  ffffffff 01 ffffffff"
            ),
            Request::Write(Write::Multi(vec![
                create("/a"),
                Write::Check { path: "/a".into(), version: 0 },
                Write::Delete { path: "/a".into(), version: -1 },
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
        ("0000004d".into(), Code::Unimplemented),
        (format!("0000000d {path} 00000000"), Code::Unimplemented), // check outside of a multi
        (format!("00000001 {path} 00000000 {WORLD} 00000004"), Code::Unimplemented), // container
        (format!("00000001 {path} 00000000 {WORLD} 00000009"), Code::BadArguments), // no such mode
        (format!("00000001 {path} 00000000 00000000 00000000"), Code::InvalidAcl), // no ACL
        (format!("00000001 {path} 00000000 00000001 0000001f 00000006 646967657374 00000003 613a62 00000000"), Code::InvalidAcl), // digest
        (format!("00000001 {path} 00000000 {} 00000000", WORLD.replace("0000001f", "00000020")), Code::InvalidAcl), // no such permission
        ("00000001 00000001 61 00000000 00000000 00000000".into(), Code::InvalidAcl),
        (format!("00000001 00000003 2f612f 00000000 {WORLD} 00000000"), Code::BadArguments), // /a/
        ("00000002 00000001 61 ffffffff".into(), Code::BadArguments),
        ("00000003 00000000 00".into(), Code::BadArguments),
        (format!("0000000e 00000004 00 ffffffff {path} 00 ffffffff 01 ffffffff"), Code::Unimplemented), // read in a multi
        ("00000001 0000".into(), Code::MarshallingError),
        ("00000004 00000064 2f61".into(), Code::MarshallingError),
        ("00000004 00000001 ff 00".into(), Code::MarshallingError),
        ("00000065 0000000000000000 7fffffff".into(), Code::MarshallingError),
        ("00000064 00000000 00000006 646967657374 00000003 613a62".into(), Code::AuthFailed),
    ];
    for (bytes, want) in table {
        let request = decode(&hex(&format!("00000007 {bytes}"))).unwrap().1;
        assert_eq!(request, Request::Refused(want), "{bytes}");
    }
    // An operation that cannot succeed keeps its place in a multi.
    let (_, request) =
        decode(&hex(&format!("00000007 0000000e 00000001 00 ffffffff {path} 00000000 00000000 00000000 ffffffff 01 ffffffff"))).unwrap();
    assert_eq!(request, Request::Write(Write::Multi(vec![Write::Invalid { op: op::CREATE, code: Code::InvalidAcl }])));
    // Without a header there is nothing to answer.
    assert!(decode(&[0; 7]).is_err());
}

#[test]
fn a_multi_is_bounded() {
    let one = hex("00000002 00 ffffffff 00000002 2f61 ffffffff");
    let multi = |n: usize| [hex("00000007 0000000e"), one.repeat(n), hex("ffffffff 01 ffffffff")].concat();
    assert!(matches!(decode(&multi(10_000)).unwrap().1, Request::Write(Write::Multi(all)) if all.len() == 10_000));
    assert_eq!(decode(&multi(10_001)).unwrap().1, Request::Refused(Code::BadArguments));
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

fn simple_write() -> impl Strategy<Value = Write> {
    let data = || prop::collection::vec(any::<u8>(), 0..20);
    prop_oneof![
        (path(), data(), 0..32i32, any::<[bool; 3]>()).prop_map(|(path, data, perms, [ephemeral, sequential, with_stat])| {
            Write::Create { path, data, perms, ephemeral, sequential, with_stat }
        }),
        (path(), any::<i32>()).prop_map(|(path, version)| Write::Delete { path, version }),
        (path(), data(), any::<i32>()).prop_map(|(path, data, version)| Write::SetData { path, data, version }),
        (path(), any::<i32>()).prop_map(|(path, version)| Write::Check { path, version }),
    ]
}

/// As a client writes it.
fn put(w: &mut Writer, write: &Write) {
    match write {
        Write::Create { path, data, perms, ephemeral, sequential, .. } => {
            w.string(path).buffer(data).int(1).int(*perms).string("world").string("anyone");
            w.int(i32::from(*ephemeral) | i32::from(*sequential) << 1);
        }
        Write::Delete { path, version } | Write::Check { path, version } => {
            w.string(path).int(*version);
        }
        Write::SetData { path, data, version } => {
            w.string(path).buffer(data).int(*version);
        }
        Write::Multi(all) => {
            for one in all {
                w.int(one.op()).bool(false).int(-1);
                put(w, one);
            }
            w.int(-1).bool(true).int(-1);
        }
        other => panic!("{other:?} is not sent"),
    }
}

proptest! {
    #[test]
    fn writes_arrive_as_sent(all in prop::collection::vec(simple_write(), 0..6), xid in any::<i32>()) {
        for write in all.iter().cloned().chain([Write::Multi(all.clone())]) {
            let mut w = Writer::default();
            w.int(xid).int(write.op());
            put(&mut w, &write);
            let (header, request) = decode(&w.0).unwrap();
            prop_assert_eq!(header, Header { xid, op: write.op() });
            let want = if matches!(write, Write::Check { .. }) { Request::Refused(Code::Unimplemented) } else { Request::Write(write) };
            prop_assert_eq!(request, want);
        }
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
        put(&mut w, &Write::Multi(all));
        let mut bytes = w.0;
        let i = at.index(bytes.len());
        bytes[i] = byte;
        let _ = decode(&bytes);
        let _ = decode(&bytes[..cut.index(bytes.len())]);
    }
}
