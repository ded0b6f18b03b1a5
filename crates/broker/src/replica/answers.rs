//! Answers of other brokers. The message crate allocates by the lengths that it reads, so that these are checked first, as those of
//! requests are.

use std::io;

use bytes::Bytes;
use kafka_protocol::{
    messages::{AlterPartitionResponse, FetchResponse, ListOffsetsResponse},
    protocol::Decodable,
};

use crate::wire::{self, Layout};

/// Fetch with topic ids and the follower's epoch.
pub const FETCH_VERSION: i16 = 15;
/// Version of ListOffsets.
pub const LIST_OFFSETS_VERSION: i16 = 7;
/// Version of AlterPartition.
pub const ALTER_PARTITION_VERSION: i16 = 3;

const FETCH: Layout = Layout { flexible: 12, fields: "i h i [ u [ i h l l l [ l l ] i y <0 i l > <1 i i > <2 l i > ] ]" };
const LIST_OFFSETS: Layout = Layout { flexible: 6, fields: "i [ s [ i h l l i ] ]" };
const ALTER_PARTITION: Layout = Layout { flexible: 0, fields: "i h [ u [ i h i i I b i ] ]" };

fn decode<R: Decodable>(layout: &Layout, mut body: Bytes, version: i16) -> io::Result<R> {
    let invalid = |why: String| io::Error::new(io::ErrorKind::InvalidData, why);
    if !wire::fits(layout, version, &body) {
        return Err(invalid("a length in the answer does not fit".into()));
    }
    R::decode(&mut body, version).map_err(|e| invalid(e.to_string()))
}

/// The body of an answer to Fetch.
pub fn fetch(body: Bytes) -> io::Result<FetchResponse> {
    decode(&FETCH, body, FETCH_VERSION)
}

/// The body of an answer to ListOffsets.
pub fn list_offsets(body: Bytes) -> io::Result<ListOffsetsResponse> {
    decode(&LIST_OFFSETS, body, LIST_OFFSETS_VERSION)
}

/// The body of an answer to AlterPartition.
pub fn alter_partition(body: Bytes) -> io::Result<AlterPartitionResponse> {
    decode(&ALTER_PARTITION, body, ALTER_PARTITION_VERSION)
}
