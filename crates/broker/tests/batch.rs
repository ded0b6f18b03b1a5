//! Record batches: what a producer sent is taken only if it is whole.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use common::batches::{Batch, GOLDEN};
use kafka_protocol::ResponseError;
use proptest::prelude::*;
use septet_broker::batch::{HEAD_BYTES, Head, place, validate};

const NO_LIMIT: usize = usize::MAX;

#[test]
fn a_batch_of_kafka_is_read() {
    let head = Head {
        base_offset: 0,
        size: 97,
        leader_epoch: -1,
        magic: 2,
        crc: 0x3dbb_7a41,
        attributes: 0,
        last_offset_delta: 2,
        base_timestamp: 1_700_000_000_000,
        max_timestamp: 1_700_000_000_005,
        producer_id: -1,
        producer_epoch: -1,
        base_sequence: -1,
        count: 3,
    };
    assert_eq!(GOLDEN.len(), 97);
    assert_eq!(Head::parse(&GOLDEN), Some(head));
    assert_eq!((head.last_offset(), head.codec()), (2, 0));
    assert!(head.crc_ok(&GOLDEN));
    assert_eq!(validate(&GOLDEN, NO_LIMIT), Ok(vec![head]));
    // The maker of batches for these tests makes the same bytes.
    let records = [(0, Some("k1"), Some("first")), (5, None, Some("second")), (3, Some("k3"), None)];
    assert_eq!(Batch::new(1_700_000_000_000).records(&records).build(), GOLDEN);
}

#[test]
fn two_batches_are_two_heads() {
    let two = [&GOLDEN[..], &Batch::new(5).values(&["x"]).build()].concat();
    let heads = validate(&two, NO_LIMIT).unwrap();
    assert_eq!(heads.iter().map(|h| (h.size, h.count)).collect::<Vec<_>>(), [(97, 3), (two.len() - 97, 1)]);
    for cut in 98..two.len() {
        assert!(validate(&two[..cut], NO_LIMIT).is_err(), "cut at {cut}");
    }
}

#[test]
fn every_flipped_bit_behind_the_leader_epoch_is_noticed() {
    for byte in (8..12).chain(16..GOLDEN.len()) {
        for bit in 0..8 {
            let mut b = GOLDEN;
            b[byte] ^= 1 << bit;
            let want = if byte == 16 { ResponseError::UnsupportedForMessageFormat } else { ResponseError::CorruptMessage };
            assert_eq!(validate(&b, NO_LIMIT), Err(want), "byte {byte} bit {bit}");
        }
    }
    // Base offset and leader epoch are the broker's to set.
    for byte in (0..8).chain(12..16) {
        let mut b = GOLDEN;
        b[byte] ^= 0x11;
        assert_eq!(validate(&b, NO_LIMIT).unwrap().len(), 1, "byte {byte}");
    }
}

#[test]
fn every_truncation_is_noticed() {
    assert_eq!(validate(&[], NO_LIMIT), Err(ResponseError::InvalidRecord));
    for n in 1..GOLDEN.len() {
        assert_eq!(validate(&GOLDEN[..n], NO_LIMIT), Err(ResponseError::CorruptMessage), "{n} bytes");
        if n < HEAD_BYTES {
            assert_eq!(Head::parse(&GOLDEN[..n]), None, "{n} bytes");
        }
    }
    let longer = [&GOLDEN[..], &[0]].concat();
    assert_eq!(validate(&longer, NO_LIMIT), Err(ResponseError::CorruptMessage));
}

#[test]
fn lengths_that_cannot_be_are_refused() {
    for length in [i32::MIN, -1, 0, 48, 86, i32::MAX] {
        let mut b = GOLDEN;
        b[8..12].copy_from_slice(&length.to_be_bytes());
        assert_eq!(validate(&b, NO_LIMIT), Err(ResponseError::CorruptMessage), "{length}");
    }
}

#[test]
fn rules_that_a_right_checksum_does_not_satisfy() {
    use ResponseError::{InvalidRecord, MessageTooLarge, UnsupportedCompressionType, UnsupportedForMessageFormat};
    let one = || Batch::new(1).values(&["a", "b"]);
    let size = one().build().len();
    // (what, batch, largest size, error)
    let cases = [
        ("as large as may be", one().build(), size, None),
        ("too large", one().build(), size - 1, Some(MessageTooLarge)),
        ("no record", one().count(0).last_offset_delta(-1).build(), NO_LIMIT, Some(InvalidRecord)),
        ("negative count", one().count(-1).last_offset_delta(-2).build(), NO_LIMIT, Some(InvalidRecord)),
        ("smallest count", one().count(i32::MIN).last_offset_delta(i32::MAX).build(), NO_LIMIT, Some(InvalidRecord)),
        ("count above delta", one().count(3).build(), NO_LIMIT, Some(InvalidRecord)),
        ("delta above count", one().last_offset_delta(2).build(), NO_LIMIT, Some(InvalidRecord)),
        ("negative delta", one().last_offset_delta(-1).build(), NO_LIMIT, Some(InvalidRecord)),
        ("transactional", one().attributes(0x10).build(), NO_LIMIT, Some(InvalidRecord)),
        ("control", one().attributes(0x20).build(), NO_LIMIT, Some(InvalidRecord)),
        ("time of the log", one().attributes(0x08).build(), NO_LIMIT, None),
        ("gzip", one().attributes(1).build(), NO_LIMIT, None),
        ("snappy", one().attributes(2).build(), NO_LIMIT, None),
        ("lz4", one().attributes(3).build(), NO_LIMIT, None),
        ("zstd", one().attributes(4).build(), NO_LIMIT, None),
        ("codec 5", one().attributes(5).build(), NO_LIMIT, Some(UnsupportedCompressionType)),
        ("codec 7", one().attributes(7).build(), NO_LIMIT, Some(UnsupportedCompressionType)),
        ("magic 0", one().magic(0).build(), NO_LIMIT, Some(UnsupportedForMessageFormat)),
        ("magic 1", one().magic(1).build(), NO_LIMIT, Some(UnsupportedForMessageFormat)),
        ("magic 3", one().magic(3).build(), NO_LIMIT, Some(UnsupportedForMessageFormat)),
        ("second one bad", [one().build(), one().count(9).build()].concat(), NO_LIMIT, Some(InvalidRecord)),
    ];
    for (what, bytes, max, error) in cases {
        assert_eq!(validate(&bytes, max).err(), error, "{what}");
    }
}

#[test]
fn a_message_set_of_old_is_told_from_damage() {
    // Offset, size, CRC, magic 1, attributes, time stamp, key and value: a record as Kafka 0.10 wrote it.
    let mut old = Vec::new();
    old.extend(0i64.to_be_bytes());
    old.extend(27i32.to_be_bytes());
    old.extend(0x1234_5678i32.to_be_bytes());
    old.extend([1, 0]);
    old.extend(1_400_000_000_000i64.to_be_bytes());
    old.extend((-1i32).to_be_bytes());
    old.extend(5i32.to_be_bytes());
    old.extend(b"hello");
    assert_eq!(validate(&old, NO_LIMIT), Err(ResponseError::UnsupportedForMessageFormat));
}

#[test]
fn placing_needs_no_new_checksum() {
    let mut b = GOLDEN;
    place(&mut b, 0x0102_0304_0506_0708, 77);
    let head = Head::parse(&b).unwrap();
    assert_eq!((head.base_offset, head.leader_epoch, head.last_offset()), (0x0102_0304_0506_0708, 77, 0x0102_0304_0506_070a));
    assert!(head.crc_ok(&b));
    assert_eq!((&b[8..12], &b[16..]), (&GOLDEN[8..12], &GOLDEN[16..]));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_bytes_are_no_batch(mut bytes in prop::collection::vec(any::<u8>(), 0..300), magic in any::<bool>()) {
        if magic && bytes.len() > 16 {
            bytes[16] = 2;
        }
        prop_assert!(validate(&bytes, NO_LIMIT).is_err());
        let _ = Head::parse(&bytes).map(|h| h.crc_ok(&bytes));
    }

    #[test]
    fn any_head_with_a_right_checksum_is_judged(head in any::<[u8; 40]>(), records in prop::collection::vec(any::<u8>(), 0..60), max in any::<usize>()) {
        let mut b = vec![0; 21];
        b[16] = 2;
        b.extend(head);
        b.extend(records);
        let length = b.len() as i32 - 12;
        b[8..12].copy_from_slice(&length.to_be_bytes());
        let crc = crc32c::crc32c(&b[21..]);
        b[17..21].copy_from_slice(&crc.to_be_bytes());
        if let Ok(heads) = validate(&b, max) {
            prop_assert_eq!(heads.len(), 1);
            prop_assert!(heads[0].count > 0 && heads[0].last_offset_delta == heads[0].count - 1 && heads[0].size <= max);
        }
    }
}
