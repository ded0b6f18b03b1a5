//! A frame arrives as it was sent, or not at all.
#![allow(clippy::unwrap_used, missing_docs)]

mod actions;

use std::io::{self, Read};

use proptest::prelude::*;
use septet_agent_protocol::{
    Action, FileState, FrameError, HEAD_BYTES, Head, MAX_FRAME_BYTES, Outcome, PROTOCOL_VERSION, Request, Response, Status, encode,
    read_frame, write_frame,
};

/// Hands out a few bytes at a time and is interrupted between them, as a real stream is.
struct Trickle<'a> {
    bytes: &'a [u8],
    step: usize,
    interrupt: bool,
}

impl Read for Trickle<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.interrupt = !self.interrupt;
        if self.interrupt {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let n = self.step.min(into.len()).min(self.bytes.len());
        into[..n].copy_from_slice(&self.bytes[..n]);
        self.bytes = &self.bytes[n..];
        Ok(n)
    }
}

fn read(mut bytes: &[u8]) -> Result<(Request, Vec<u8>), FrameError> {
    read_frame(&mut bytes)
}

fn tail() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![Just(Vec::new()), prop::collection::vec(any::<u8>(), 0..300)]
}

fn sample() -> Request {
    let action = Action::Slurp { path: "/etc/hosts".into() };
    Request { id: 7, batch: 1, check: false, ignore_errors: false, no_log: false, action }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn every_request_arrives_as_sent(frames in prop::collection::vec((actions::request(), tail()), 1..4), step in 1..64usize) {
        let mut wire = Vec::new();
        for (request, tail) in &frames {
            write_frame(&mut wire, request, tail).unwrap();
        }
        let mut stream = Trickle { bytes: &wire, step, interrupt: false };
        for (request, tail) in &frames {
            let (got, got_tail) = read_frame::<Request>(&mut stream).unwrap();
            prop_assert_eq!(&got, request);
            prop_assert_eq!(&got_tail, tail);
        }
        prop_assert!(matches!(read_frame::<Request>(&mut stream), Err(FrameError::Closed)));
    }

    #[test]
    fn every_answer_arrives_as_sent(response in actions::response()) {
        let wire = encode(&response, &[]).unwrap();
        let (got, tail) = read_frame::<Response>(&mut wire.as_slice()).unwrap();
        prop_assert_eq!(got, response);
        prop_assert!(tail.is_empty());
    }

    /// Behind the length the checksum covers everything; the length itself is checked by what follows from it.
    #[test]
    fn a_flipped_byte_is_never_delivered(request in actions::request(), tail in tail(), at in any::<prop::sample::Index>(), flip in 1..=255u8) {
        let mut wire = encode(&request, &tail).unwrap();
        let at = at.index(wire.len());
        wire[at] ^= flip;
        let got = read(&wire);
        if at < 4 {
            let refused = matches!(got, Err(FrameError::Checksum { .. } | FrameError::Length(_) | FrameError::Torn { .. }));
            prop_assert!(refused, "length byte {at}: {got:?}");
        } else if !(8..HEAD_BYTES).contains(&at) {
            prop_assert!(matches!(got, Err(FrameError::Checksum { .. })), "byte {at}: {got:?}");
        } else {
            prop_assert!(matches!(got, Err(FrameError::Checksum { .. } | FrameError::Length(_))), "json length byte {at}: {got:?}");
        }
    }

    #[test]
    fn a_cut_frame_is_torn(request in actions::request(), tail in tail(), at in any::<prop::sample::Index>()) {
        let wire = encode(&request, &tail).unwrap();
        let at = at.index(wire.len());
        match read(&wire[..at]) {
            Err(FrameError::Closed) => prop_assert_eq!(at, 0),
            Err(FrameError::Torn { got, want }) => {
                let expected = if at < HEAD_BYTES { (at, HEAD_BYTES) } else { (at - HEAD_BYTES, wire.len() - HEAD_BYTES) };
                prop_assert_eq!((got, want), expected);
            }
            other => prop_assert!(false, "cut at {at}: {other:?}"),
        }
    }

    #[test]
    fn noise_is_never_delivered(noise in prop::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(read(&noise).is_err());
    }
}

/// Every byte of one frame, and every bit of it: small enough to leave nothing to chance.
#[test]
fn every_flipped_bit_of_a_frame_is_refused() {
    let wire = encode(&sample(), b"\x00\xff").unwrap();
    for at in 0..wire.len() {
        for bit in 0..8 {
            let mut bad = wire.clone();
            bad[at] ^= 1 << bit;
            let got = read(&bad);
            assert!(got.is_err(), "byte {at} bit {bit}: {got:?}");
        }
    }
}

#[test]
fn the_bytes_of_a_frame_do_not_change() {
    assert_eq!(PROTOCOL_VERSION, 5, "a new version needs new golden bytes");
    let json = br#"{"id":7,"batch":1,"check":false,"ignore_errors":false,"no_log":false,"action":{"do":"slurp","path":"/etc/hosts"}}"#;
    let golden = [&[0, 0, 0, 115, 0x5f, 0x50, 0xf5, 0x10, 0, 0, 0, 113], json.as_slice(), b"\x00\xff"].concat();
    assert_eq!(encode(&sample(), b"\x00\xff").unwrap(), golden);
    assert_eq!(read(&golden).unwrap(), (sample(), b"\x00\xff".to_vec()));
    let words = |action: &Action| serde_json::to_string(action).unwrap();
    assert_eq!(words(&Action::Cancel), r#"{"do":"cancel"}"#);
    let put = Action::PutBlob { digest: "d".into(), offset: 0, total: 1, private: true };
    assert_eq!(words(&put), r#"{"do":"put_blob","digest":"d","offset":0,"total":1,"private":true}"#);
    // Version 4: modes by what they change, and files that must exist.
    assert_eq!(serde_json::to_string(&FileState::Exists).unwrap(), r#""exists""#);
    assert_eq!(serde_json::to_string(&FileState::Any).unwrap(), r#""any""#);
    // Version 5: groups in a line, and a user's comment.
    let line = r#"{"do":"lineinfile","path":"/x","line":"a","regexp":null,"backrefs":true,"absent":false,"insert":"eof","create":false,"attributes":{}}"#;
    assert_eq!(words(&serde_json::from_str(line).unwrap()), line);
    // What is left out is the careful choice.
    let copy = serde_json::from_str(r#"{"do":"copy","path":"/x","content":"tail"}"#).unwrap();
    assert!(matches!(copy, Action::Copy { follow: false, .. }), "{copy:?}");
}

/// A head with a checksum that is right, over bytes that are not the message.
fn sealed(json: &[u8]) -> Vec<u8> {
    let length = (json.len() as u32).to_be_bytes();
    let crc = crc32c::crc32c_append(crc32c::crc32c(&length), json).to_be_bytes();
    [&length[..], &crc, &length, json].concat()
}

#[test]
fn what_is_not_in_the_set_is_refused() {
    let request = |action: &str| format!(r#"{{"id":1,"batch":1,"action":{action}}}"#);
    assert!(read(&sealed(request(r#"{"do":"facts"}"#).as_bytes())).is_ok());
    let cases = [
        request(r#"{"do":"format_disk"}"#),
        request(r#"{"do":"slurp"}"#),
        request(r#"{"do":"file","path":"/x","state":"gone"}"#),
        request(r#"{"do":"copy","path":"/x","content":"nowhere"}"#),
        request("{}"),
        r#"{"batch":1,"action":{"do":"facts"}}"#.into(),
        request(r#"{"do":"facts"}"#) + "x",
        "[".repeat(100_000),
        String::new(),
    ];
    for case in cases {
        let got = read(&sealed(case.as_bytes()));
        assert!(matches!(got, Err(FrameError::Json(_))), "{:.60}: {got:?}", case);
    }
}

/// Ends the test if anything is read behind the head.
struct OnlyHead([u8; HEAD_BYTES], bool);

impl Read for OnlyHead {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        assert!(!std::mem::replace(&mut self.1, true), "read on behind a head that is over the limit");
        into[..HEAD_BYTES].copy_from_slice(&self.0);
        Ok(HEAD_BYTES)
    }
}

/// The most address space that this process ever had, in KiB.
fn peak_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|l| l.starts_with("VmPeak:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn a_length_over_the_limit_is_refused_before_anything_is_allocated() {
    let max = MAX_FRAME_BYTES as u32;
    // (length, json length)
    for (length, json) in
        [(max + 1, 0), (max + 1, max + 1), (u32::MAX, 0), (u32::MAX, u32::MAX), (10, 11), (0, 1), (0, u32::MAX), (max, u32::MAX)]
    {
        let mut head = [0; HEAD_BYTES];
        head[..4].copy_from_slice(&length.to_be_bytes());
        head[8..].copy_from_slice(&json.to_be_bytes());
        assert!(matches!(Head::parse(&head), Err(FrameError::Length(_))), "{length} {json}");
        let before = peak_kib();
        let got = read_frame::<Request>(&mut OnlyHead(head, false));
        assert!(matches!(got, Err(FrameError::Length(n)) if n == length.max(json) as usize), "{length} {json}: {got:?}");
        // Other tests run beside this one; what counts is that nothing near 4 GiB was asked for.
        assert!(peak_kib() - before < 1024 * 1024, "{length} {json}: memory was taken for it");
    }
}

#[test]
fn the_largest_frame_passes_and_one_byte_more_does_not() {
    let json = serde_json::to_vec(&sample()).unwrap().len();
    let mut tail = vec![7u8; MAX_FRAME_BYTES - json];
    let wire = encode(&sample(), &tail).unwrap();
    assert_eq!(wire.len(), HEAD_BYTES + MAX_FRAME_BYTES);
    assert_eq!(read(&wire).unwrap(), (sample(), tail.clone()));
    tail.push(7);
    assert!(matches!(encode(&sample(), &tail), Err(FrameError::Length(n)) if n == MAX_FRAME_BYTES + 1));
    let mut out = Vec::new();
    assert!(write_frame(&mut out, &sample(), &tail).is_err());
    assert!(out.is_empty(), "nothing of a refused frame may be written");
}

#[test]
fn a_stream_that_fails_says_so() {
    struct Broken;
    impl Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::ErrorKind::ConnectionReset.into())
        }
    }
    assert!(matches!(read_frame::<Request>(&mut Broken), Err(FrameError::Io(e)) if e.kind() == io::ErrorKind::ConnectionReset));
}

#[test]
fn an_outcome_leaves_out_what_is_empty() {
    let cases = [
        (Outcome::ok(), r#"{"status":"ok"}"#),
        (Outcome::new(Status::NotRun).with_diff(Some(String::new())), r#"{"status":"not_run"}"#),
        (Outcome::failed("no"), r#"{"status":"failed","msg":"no"}"#),
        (Outcome::changed_if(true).with_diff(Some("d".into())).with("rc", 0), r#"{"status":"changed","diff":"d","values":{"rc":0}}"#),
    ];
    for (outcome, json) in cases {
        assert_eq!(serde_json::to_string(&outcome).unwrap(), json);
        assert_eq!(serde_json::from_str::<Outcome>(json).unwrap(), outcome);
    }
}

/// The name in messages is the word in the frame.
#[test]
fn an_actions_name_is_its_word_on_the_wire() {
    proptest!(|(request in actions::request())| {
        let json = serde_json::to_value(&request).unwrap();
        prop_assert_eq!(json["action"]["do"].as_str(), Some(request.action.name()));
    });
}
