//! Requests are checked before they are decoded: the layouts are those of the message crate, and what fits can be
//! decoded without harm.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use common::samples::{FIRST, samples};
use kafka_protocol::{
    messages::{ApiKey, RequestHeader},
    protocol::{Decodable, Encodable, StrBytes},
};
use proptest::prelude::*;
use septet_broker::{
    fuzz::decode_request as decode,
    handlers::{APIS, Api},
    wire::{MAX_ELEMENTS, fits, header_fits},
};

/// Every API with every version that is served.
fn served() -> impl Iterator<Item = (&'static Api, i16)> {
    APIS.iter().flat_map(|api| (api.served_from..=api.versions.1).map(move |v| (api, v)))
}

fn find(hay: &[u8], needle: &[u8]) -> Vec<usize> {
    (0..hay.len().saturating_sub(needle.len() - 1)).filter(|i| hay[*i..].starts_with(needle)).collect()
}

/// Where the lengths are, and how many bytes each takes: in the samples, strings begin with `A-` if their array
/// begins with them, records with `R-`, all else with `S-`; an array that begins with a number begins with `FIRST`.
fn lengths(frame: &[u8], compact: bool) -> Vec<(usize, usize)> {
    let (string, array) = if compact { (1, 1) } else { (2, 4) };
    let mut out = Vec::new();
    for p in find(frame, b"A-") {
        out.extend([(p - string, string), (p - string - array, array)]);
    }
    out.extend(find(frame, b"S-").into_iter().map(|p| (p - string, string)));
    out.extend(find(frame, b"R-").into_iter().map(|p| (p - array, array)));
    out.extend(find(frame, &FIRST.to_be_bytes()).into_iter().map(|p| (p - array, array)));
    out
}

#[test]
fn every_request_of_every_served_version_fits_and_is_decoded() {
    for (api, version) in served() {
        let all = samples(api.key, version);
        assert!(!all.is_empty());
        for frame in all {
            let what = format!("{:?} version {version}: {frame:02x?}", api.key);
            assert!(fits(&api.layout, version, &frame), "{what}");
            assert_eq!(decode(api.key, version, frame.clone()), Ok(0), "{what}: bytes that are left");
            // Not a byte less: so the layout has neither too few fields nor too short ones.
            for n in 0..frame.len() {
                assert!(!fits(&api.layout, version, &frame[..n]), "{what} cut at {n}");
            }
        }
    }
}

#[test]
fn every_length_that_is_too_large_is_refused() {
    let mut seen = 0;
    for (api, version) in served() {
        let compact = version >= api.layout.flexible;
        for frame in samples(api.key, version) {
            for (at, width) in lengths(&frame, compact) {
                let lies: &[&[u8]] = match (compact, width) {
                    (false, 2) => &[&[0x7f, 0xff], &[0x80, 0], &[0xff, 0xfe]],
                    (false, _) => &[&[0x7f, 0xff, 0xff, 0xff], &[0x80, 0, 0, 0], &[0xff, 0xff, 0xff, 0xfe], &[0, 1, 0, 0]],
                    (true, _) => {
                        &[&[0xff, 0xff, 0xff, 0xff, 0x0f], &[0xff, 0xff, 0xff, 0xff, 0x7f], &[0xff; 6], &[0xff, 0xff, 0x03], &[0xff, 0x7f]]
                    }
                };
                for lie in lies {
                    let bad = [&frame[..at], lie, &frame[at + width..]].concat();
                    assert!(!fits(&api.layout, version, &bad), "{:?} version {version}: {lie:02x?} at {at} of {frame:02x?}", api.key);
                    seen += 1;
                }
            }
        }
    }
    assert!(seen > 1000, "{seen}");
}

/// Whatever number is written over whatever is there: what still fits is decoded, or refused, without harm. (The
/// message crate would ask for gigabytes and take the process with it.)
#[test]
fn what_fits_does_no_harm() {
    let begun = Instant::now();
    for (api, version) in served() {
        for frame in samples(api.key, version) {
            for at in 0..frame.len() {
                for lie in [
                    &[0x7f, 0xff, 0xff, 0xff][..],
                    &[0xff, 0xff, 0xff, 0xff, 0x0f],
                    &[0xff, 0xff, 0xff, 0xff],
                    &[0x7f, 0xff],
                    &[0xff, 0xff],
                    &[0],
                ] {
                    let mut bad = frame.to_vec();
                    let n = lie.len().min(bad.len() - at);
                    bad[at..at + n].copy_from_slice(&lie[..n]);
                    if fits(&api.layout, version, &bad) {
                        let _ = decode(api.key, version, bad.into());
                    }
                }
            }
        }
    }
    assert!(begun.elapsed() < Duration::from_secs(20));
}

#[test]
fn tagged_fields_are_walked_too() {
    let metadata = APIS.iter().find(|a| a.key == ApiKey::Metadata).unwrap();
    // No topics, three flags, then tags.
    let body = |tags: &[u8]| [&[1, 0, 0, 0][..], tags].concat();
    for (tags, good) in [
        (&[0][..], true),
        (&[1, 5, 3, 1, 2, 3], true),
        (&[2, 5, 0, 6, 1, 9], true),
        (&[1, 5, 4, 1, 2, 3], false),
        (&[1, 5], false),
        (&[2, 5, 0], false),
        (&[1], false),
        (&[], false),
        (&[0xff, 0xff, 0xff, 0xff, 0x0f], false),
        (&[1, 5, 0xff, 0xff, 0xff, 0xff, 0x0f], false),
    ] {
        assert_eq!(fits(&metadata.layout, 9, &body(tags)), good, "{tags:?}");
    }
    // The cluster id in Fetch 12 is a string in a tag.
    let fetch = APIS.iter().find(|a| a.key == ApiKey::Fetch).unwrap();
    let mut frame = samples(ApiKey::Fetch, 12)[0].to_vec();
    assert_eq!(frame.pop(), Some(0));
    frame.extend([1, 0, 5, 0xff, 0xff, 0xff, 0xff, 0x0f]);
    assert!(!fits(&fetch.layout, 12, &frame) && decode(ApiKey::Fetch, 12, frame.into()).is_err());
}

fn header(version: i16, client_id: Option<&str>) -> Bytes {
    let h = RequestHeader::default().with_request_api_key(3).with_client_id(client_id.map(|c| StrBytes::from_string(c.to_owned())));
    let mut b = BytesMut::new();
    h.encode(&mut b, version).unwrap();
    b.freeze()
}

#[test]
fn heads_of_requests_are_checked() {
    for version in [1, 2] {
        for client_id in [None, Some(""), Some("me"), Some(&*"x".repeat(300))] {
            let head = header(version, client_id);
            assert!(header_fits(&head, version == 2), "{version} {client_id:?}");
            assert!(header_fits(&[&head[..], b"and a body"].concat(), version == 2));
            for n in 0..head.len() {
                assert!(!header_fits(&head[..n], version == 2), "{version} {client_id:?} cut at {n}");
            }
        }
    }
    for lie in [[0x7f, 0xff], [0xff, 0xfe], [0x80, 0], [0, 3]] {
        let mut head = header(1, Some("me")).to_vec();
        head[8..10].copy_from_slice(&lie);
        assert!(!header_fits(&head, false) && !header_fits(&head, true), "{lie:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), small in any::<bool>()) {
        // Small numbers pass for lengths more often.
        let bytes: Vec<u8> = bytes.into_iter().map(|b| if small { b % 5 } else { b }).collect();
        for (api, version) in served() {
            if fits(&api.layout, version, &bytes) {
                let _ = decode(api.key, version, bytes.clone().into());
            }
        }
        for version in [1, 2] {
            if header_fits(&bytes, version == 2) {
                let _ = RequestHeader::decode(&mut Bytes::from(bytes.clone()), version);
            }
        }
    }

    #[test]
    fn damaged_requests_never_panic(pick in any::<prop::sample::Index>(), damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4)) {
        for (api, version) in served() {
            let all = samples(api.key, version);
            let mut bytes = pick.get(&all).to_vec();
            if bytes.is_empty() {
                continue;
            }
            for (at, value) in &damage {
                let i = at.index(bytes.len());
                bytes[i] = *value;
            }
            if fits(&api.layout, version, &bytes) {
                let _ = decode(api.key, version, bytes.into());
            }
        }
    }
}

/// A frame of empty names is small on the wire and large in memory.
#[test]
fn a_request_has_no_more_elements_than_are_allowed() {
    let metadata = APIS.iter().find(|a| a.key == ApiKey::Metadata).unwrap();
    for (count, good) in [(MAX_ELEMENTS, true), (MAX_ELEMENTS + 1, false)] {
        let mut body = i32::try_from(count).unwrap().to_be_bytes().to_vec();
        body.resize(4 + 2 * count, 0);
        assert_eq!(fits(&metadata.layout, 0, &body), good, "{count}");
    }
}

/// The message crate reads a tagged field that it knows without a look at its length.
#[test]
fn a_tagged_field_is_as_long_as_it_says() {
    let fetch = APIS.iter().find(|a| a.key == ApiKey::Fetch).unwrap();
    // The directory's id of a partition has 16 bytes; behind it comes a list whose length would be read from elsewhere.
    let body = |version: i16, size: u8, given: usize| {
        let mut out = vec![0; 4 * 3 + 1 + 4 + 4];
        out.extend([2]);
        out.extend([0; 16]);
        out.extend([2]);
        out.extend(vec![0; 4 + 4 + 8 + 4 + 8 + 4]);
        out.extend([1, 0, size]);
        out.extend(vec![7; given]);
        // Tags of the topic, no forgotten topics, no rack, and who fetches.
        out.extend([0, 1, 1]);
        out.extend(if version >= 15 { vec![1, 1, 13, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 9, 0] } else { vec![0] });
        out
    };
    for (version, size, given, good) in
        [(17, 16, 16, true), (17, 0, 0, false), (17, 15, 15, false), (17, 17, 17, false), (16, 3, 3, true), (14, 3, 3, true)]
    {
        let frame = body(version, size, given);
        assert_eq!(fits(&fetch.layout, version, &frame), good, "version {version}, {size} bytes");
        if good {
            let known = version == 16 || version == 14;
            assert!(known || decode(ApiKey::Fetch, version, frame.into()) == Ok(0), "version {version}");
        }
    }
}
