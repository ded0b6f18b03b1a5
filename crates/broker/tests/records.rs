//! Records are checked before they are stored: as many as announced, whole, and bounded when they are decompressed.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::{
    io::Write,
    time::{Duration, Instant},
};

use common::batches::{Batch, GOLDEN};
use kafka_protocol::ResponseError;
use proptest::prelude::*;
use septet_broker::{
    batch::{HEAD_BYTES, validate},
    records::{Checked, check},
};

const MAX: usize = 1_048_588;

fn judge(batch: &[u8]) -> Result<i64, ResponseError> {
    let head = validate(batch, usize::MAX).unwrap()[0];
    check(batch, &head, MAX, false).map(|Checked { max_timestamp }| max_timestamp)
}

fn gzip(b: &[u8]) -> Vec<u8> {
    let mut e = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    e.write_all(b).unwrap();
    e.finish().unwrap()
}

fn snappy(b: &[u8]) -> Vec<u8> {
    snap::raw::Encoder::new().compress_vec(b).unwrap()
}

/// The framing of snappy-java, with blocks of 50 bytes.
fn xerial(b: &[u8]) -> Vec<u8> {
    let mut out = b"\x82SNAPPY\0\0\0\0\x01\0\0\0\x01".to_vec();
    for block in b.chunks(50) {
        let block = snappy(block);
        out.extend((block.len() as u32).to_be_bytes());
        out.extend(block);
    }
    out
}

fn lz4(b: &[u8]) -> Vec<u8> {
    let mut e = lz4_flex::frame::FrameEncoder::new(Vec::new());
    e.write_all(b).unwrap();
    e.finish().unwrap()
}

fn zstd(b: &[u8]) -> Vec<u8> {
    ruzstd::encoding::compress_to_vec(b, ruzstd::encoding::CompressionLevel::Fastest)
}

type Codec = (&'static str, i16, fn(&[u8]) -> Vec<u8>);
const CODECS: [Codec; 6] =
    [("none", 0, |b| b.to_vec()), ("gzip", 1, gzip), ("snappy", 2, snappy), ("snappy-java", 2, xerial), ("lz4", 3, lz4), ("zstd", 4, zstd)];

/// A batch with another body, that announces `count` records.
fn with_body(codec: i16, count: i32, body: &[u8]) -> Vec<u8> {
    Batch::new(1000).count(count).last_offset_delta(count - 1).attributes(codec).body(body).build()
}

fn body(records: &[(i64, Option<&str>, Option<&str>)]) -> Vec<u8> {
    Batch::new(1000).records(records).build()[HEAD_BYTES..].to_vec()
}

#[test]
fn whole_records_pass_in_every_codec() {
    assert_eq!(judge(&GOLDEN), Ok(1_700_000_000_005));
    let long = "x".repeat(100_000);
    let records = [(0, Some("key"), Some("value")), (70, None, Some(&*long)), (-5, Some(""), None)];
    for (name, codec, compress) in CODECS {
        assert_eq!(judge(&with_body(codec, 3, &compress(&body(&records)))), Ok(1070), "{name}");
    }
    // A header with a value and one without.
    let headers = [26, 0, 0, 0, 1, 1, 4, 2, b'a', 2, b'b', 2, b'c', 1];
    assert_eq!(judge(&with_body(0, 1, &headers)), Ok(1000));
    // Streams that are made of several parts.
    let (a, b) = (body(&records[..1]), body(&records)[body(&records[..1]).len()..].to_vec());
    for (name, codec, compress) in [CODECS[1], CODECS[5]] {
        assert_eq!(judge(&with_body(codec, 3, &[compress(&a), compress(&b)].concat())), Ok(1070), "{name}");
    }
}

#[test]
fn records_that_are_not_those_announced_are_refused() {
    let one = body(&[(0, Some("key"), Some("value"))]);
    let huge = [0xfe, 0xff, 0xff, 0xff, 0x0f];
    let again = [&one[..], &one].concat();
    let cases: [(&str, i32, Vec<u8>); 16] = [
        ("nothing", 1, vec![]),
        ("garbage", 1, b"garbage that goes on for a while".to_vec()),
        ("garbage that announces as many as can be", i32::MAX, b"garbage".to_vec()),
        ("one of as many as can be", i32::MAX, one.clone()),
        ("one too few", 2, one.clone()),
        ("one too many", 1, again.clone()),
        ("numbers that do not count up", 2, again),
        ("a byte behind", 1, [&one[..], &[0]].concat()),
        ("cut off", 1, one[..one.len() - 1].to_vec()),
        ("a length beyond everything", 1, [&huge[..], &[0; 40]].concat()),
        ("a negative length", 1, vec![1, 0, 0, 0, 0, 0, 0]),
        ("a key beyond the record", 1, [&[24, 0, 0, 0][..], &huge, &[0; 10]].concat()),
        ("a key of length -2", 1, vec![12, 0, 0, 0, 3, 1, 0]),
        ("headers beyond the record", 1, [&[24, 0, 0, 0, 1, 1][..], &huge, &[0; 10]].concat()),
        ("a header without a name", 1, vec![16, 0, 0, 0, 1, 1, 2, 1, 1]),
        ("more in the record than its fields", 1, vec![14, 0, 0, 0, 1, 1, 0, 0]),
    ];
    let begun = Instant::now();
    for (what, count, bytes) in &cases {
        for (name, codec, compress) in CODECS {
            let batch = with_body(codec, *count, &compress(bytes));
            assert_eq!(judge(&batch), Err(ResponseError::InvalidRecord), "{what}, {name}");
        }
    }
    for (name, codec, _) in &CODECS[1..] {
        assert_eq!(judge(&with_body(*codec, 1, b"not compressed at all")), Err(ResponseError::InvalidRecord), "{name}");
    }
    assert!(begun.elapsed() < Duration::from_secs(5));
}

#[test]
fn what_expands_without_end_is_refused() {
    // A record of 300 MB of zeros: 100 times the largest batch is allowed, which is less.
    let zeros = vec![0; 1 << 20];
    let mut e = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    let length = 300i64 << 20;
    let mut head = Vec::new();
    for mut z in [(length as u64) << 1, 0, 0, 0, 1, ((length - 20) as u64) << 1] {
        while z >= 0x80 {
            head.push(z as u8 | 0x80);
            z >>= 7;
        }
        head.push(z as u8);
    }
    e.write_all(&head).unwrap();
    (0..301).for_each(|_| e.write_all(&zeros).unwrap());
    let bomb = e.finish().unwrap();
    assert!(bomb.len() < MAX);
    let before = resident_bytes();
    assert_eq!(judge(&with_body(1, 1, &bomb)), Err(ResponseError::InvalidRecord));
    // Two gigabytes, by what a block of snappy says of itself.
    assert_eq!(judge(&with_body(2, 1, &[0xff, 0xff, 0xff, 0xff, 0x07, 0, 0])), Err(ResponseError::InvalidRecord));
    // A zstd frame with a window of 2 GB (exponent 21, mantissa 0).
    let window = [0x28, 0xb5, 0x2f, 0xfd, 0, 21 << 3, 1, 0, 0];
    assert_eq!(judge(&with_body(4, 1, &window)), Err(ResponseError::InvalidRecord));
    let grown = resident_bytes().saturating_sub(before);
    assert!(grown < 50_000_000, "{grown} bytes more");
}

fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|l| l.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_bodies_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), count in 1..4i32, small in any::<bool>()) {
        let bytes: Vec<u8> = bytes.into_iter().map(|b| if small { b % 9 } else { b }).collect();
        for codec in 0..=4 {
            let _ = judge(&with_body(codec, count, &bytes));
        }
        for (_, codec, compress) in CODECS {
            let _ = judge(&with_body(codec, count, &compress(&bytes)));
        }
    }

    #[test]
    fn damaged_streams_never_panic(at in any::<prop::sample::Index>(), value in any::<u8>(), cut in any::<prop::sample::Index>()) {
        let long = "xy".repeat(300);
        let good = body(&[(0, Some("key"), Some(&long)), (3, None, Some("v"))]);
        for (_, codec, compress) in CODECS {
            let mut bytes = compress(&good);
            let i = at.index(bytes.len());
            bytes[i] = value;
            let _ = judge(&with_body(codec, 2, &bytes));
            // The end of a stream may be missing behind the last record; half of it may not.
            bytes.truncate(cut.index(bytes.len() / 2));
            prop_assert!(judge(&with_body(codec, 2, &bytes)).is_err());
        }
    }
}
