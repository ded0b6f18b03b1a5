//! Jute: what is written is read back; bytes from anywhere never panic and never cost more than they are.
#![allow(clippy::unwrap_used, missing_docs)]

use proptest::prelude::*;
use septet_zookeeper::jute::{JuteError, Reader, Writer};

#[derive(Debug, Clone, PartialEq)]
enum Field {
    Bool(bool),
    Int(i32),
    Long(i64),
    Buffer(Vec<u8>),
    Text(String),
    Texts(Vec<String>),
}

fn field() -> impl Strategy<Value = Field> {
    prop_oneof![
        any::<bool>().prop_map(Field::Bool),
        any::<i32>().prop_map(Field::Int),
        any::<i64>().prop_map(Field::Long),
        prop::collection::vec(any::<u8>(), 0..100).prop_map(Field::Buffer),
        any::<String>().prop_map(Field::Text),
        prop::collection::vec(".{0,10}", 0..8).prop_map(Field::Texts),
    ]
}

fn write(w: &mut Writer, field: &Field) {
    match field {
        Field::Bool(v) => w.bool(*v),
        Field::Int(v) => w.int(*v),
        Field::Long(v) => w.long(*v),
        Field::Buffer(v) => w.buffer(v),
        Field::Text(v) => w.string(v),
        Field::Texts(all) => {
            w.int(all.len() as i32);
            all.iter().fold(w, |w, v| w.string(v))
        }
    };
}

/// Reads a field of the same kind as `like`.
fn read(r: &mut Reader<'_>, like: &Field) -> Result<Field, JuteError> {
    Ok(match like {
        Field::Bool(_) => Field::Bool(r.bool()?),
        Field::Int(_) => Field::Int(r.int()?),
        Field::Long(_) => Field::Long(r.long()?),
        Field::Buffer(_) => Field::Buffer(r.buffer()?.to_vec()),
        Field::Text(_) => Field::Text(r.string()?),
        Field::Texts(_) => Field::Texts(r.vector(4, Reader::string)?),
    })
}

proptest! {
    #[test]
    fn what_is_written_is_read_back(fields in prop::collection::vec(field(), 0..12)) {
        let mut w = Writer::default();
        fields.iter().for_each(|f| write(&mut w, f));
        let mut r = Reader(&w.0);
        for f in &fields {
            prop_assert_eq!(&read(&mut r, f).unwrap(), f);
        }
        prop_assert!(r.is_empty());
    }

    #[test]
    fn a_record_cut_short_is_an_error(fields in prop::collection::vec(field(), 1..6), cut in any::<prop::sample::Index>()) {
        let mut w = Writer::default();
        fields.iter().for_each(|f| write(&mut w, f));
        let short = &w.0[..cut.index(w.0.len())];
        let mut r = Reader(short);
        prop_assert!(fields.iter().try_for_each(|f| read(&mut r, f).map(|_| ())).is_err());
    }

    #[test]
    fn garbage_never_panics_nor_grows(bytes in prop::collection::vec(any::<u8>(), 0..200), kinds in prop::collection::vec(field(), 1..20)) {
        let mut r = Reader(&bytes);
        for kind in &kinds {
            let before = r.0.len();
            let got = read(&mut r, kind);
            prop_assert!(r.0.len() <= before);
            let size = match got {
                Ok(Field::Buffer(b)) => b.len(),
                Ok(Field::Text(s)) => s.len(),
                Ok(Field::Texts(all)) => all.iter().map(|s| 4 + s.len()).sum(),
                _ => 0,
            };
            prop_assert!(size <= before);
        }
    }

    /// Lengths that real ones are near to: what is there, one more, negative, the largest.
    #[test]
    fn a_length_is_checked_before_it_is_believed(length in prop_oneof![-3..40i32, Just(i32::MIN), Just(i32::MAX), any::<i32>()], left in 0..32usize) {
        let mut bytes = length.to_be_bytes().to_vec();
        bytes.resize(4 + left, b'x');
        let buffer = Reader(&bytes).buffer().map(<[u8]>::len);
        let text = Reader(&bytes).string().map(|s| s.len());
        let mut asked = 0;
        let vector = Reader(&bytes).vector(1, |r| { asked += 1; r.bool() }).map(|v| v.len());
        let want = match length {
            -1 => Ok(0),
            n if (0..=left as i32).contains(&n) => Ok(n as usize),
            n => Err(JuteError::Length(n)),
        };
        prop_assert_eq!(buffer, want);
        prop_assert_eq!(text, Reader(&bytes).buffer().map(<[u8]>::len));
        prop_assert_eq!(vector, Reader(&bytes).buffer().map(<[u8]>::len));
        prop_assert!(asked <= left);
    }
}

#[test]
fn a_vector_of_large_elements_is_bounded_by_their_least_size() {
    // 3 elements of at least 12 bytes do not fit 35 bytes: refused before the first is read.
    let mut bytes = 3i32.to_be_bytes().to_vec();
    bytes.resize(4 + 35, 0);
    let read = Reader(&bytes).vector(12, |_| -> Result<(), JuteError> { panic!("an element was read") });
    assert_eq!(read.unwrap_err(), JuteError::Length(3));
    let huge = i32::MAX.to_be_bytes();
    assert_eq!(Reader(&huge).vector(12, Reader::string).unwrap_err(), JuteError::Length(i32::MAX));
}

#[test]
fn integers_are_big_endian_and_null_reads_as_empty() {
    let mut w = Writer::default();
    w.bool(true).int(-2).long(0x0102_0304_0506_0708).buffer(b"ab").string("é");
    assert_eq!(w.0, [&[1, 0xff, 0xff, 0xff, 0xfe, 1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0, 2][..], b"ab", &[0, 0, 0, 2, 0xc3, 0xa9]].concat());
    let null = [0xff; 4];
    assert_eq!(Reader(&null).buffer().unwrap(), b"");
    assert_eq!(Reader(&null).string().unwrap(), "");
    assert!(Reader(&null).vector(4, Reader::int).unwrap().is_empty());
}

#[test]
fn null_and_empty_are_two_things_to_those_who_ask() {
    let mut w = Writer::default();
    w.nullable(None).nullable(Some(b"")).nullable(Some(b"a")).strings(["x", "yz"].into_iter());
    assert_eq!(
        w.0,
        [&[255, 255, 255, 255, 0, 0, 0, 0, 0, 0, 0, 1][..], b"a", &[0, 0, 0, 2, 0, 0, 0, 1], b"x", &[0, 0, 0, 2], b"yz"].concat()
    );
    let mut r = Reader(&w.0);
    assert_eq!((r.nullable().unwrap(), r.nullable().unwrap(), r.nullable().unwrap()), (None, Some(&b""[..]), Some(&b"a"[..])));
    assert_eq!(r.vector(4, Reader::string).unwrap(), ["x", "yz"]);
    assert_eq!(Reader(&[255, 255, 255, 254]).nullable(), Err(JuteError::Length(-2)));
}

#[test]
fn text_must_be_utf8() {
    assert_eq!(Reader(&[0, 0, 0, 1, 0xff]).string().unwrap_err(), JuteError::Utf8);
}

#[test]
fn a_frame_carries_its_length() {
    let mut w = Writer::framed();
    w.int(7).string("abc");
    assert_eq!(w.frame(), [0, 0, 0, 11, 0, 0, 0, 7, 0, 0, 0, 3, b'a', b'b', b'c']);
    assert_eq!(Writer::framed().frame(), [0; 4]);
}
