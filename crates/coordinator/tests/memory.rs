//! What znodes take of the heap, counted by the allocator: alone in this process, so that no other test's memory is counted.
#![allow(clippy::unwrap_used, missing_docs)]

use septet_coordinator::{
    acl,
    protocol::{Caller, Create, Kind, Op, Write},
    tree::{Stamp, Tree},
};
use septet_mutate::PeakAlloc;

#[global_allocator]
static HEAP: PeakAlloc = PeakAlloc;

const ZNODES: usize = 50_000;

fn apply(tree: &mut Tree, op: Op, zxid: i64) {
    let stamp = Stamp { session: 1, zxid: (7 << 32) + zxid, time_ms: 1_700_000_000_000 + zxid };
    tree.apply(&Write::One(op), &Caller::default(), stamp, &mut Vec::new()).unwrap();
}

fn create(tree: &mut Tree, path: String, zxid: i64) {
    let data = Some(vec![b'x'; 100]);
    apply(tree, Op::Create(Create { path, data, acl: acl::open(), kind: Kind::Persistent, sequential: false, with_stat: false }), zxid);
}

/// Bytes of the heap by bytes of paths and data.
fn by_live_data(tree: &Tree, before: usize) -> f64 {
    (HEAP.current_usage() - before) as f64 / tree.approximate_bytes() as f64
}

#[test]
fn a_znode_takes_little_more_than_its_path_and_data() {
    let path = |i: usize| format!("/{}/n{i:09}", ["a", "b"][i % 2]);
    drop(Tree::default());
    let before = HEAP.current_usage();
    let mut tree = Tree::default();
    create(&mut tree, "/a".into(), 1);
    create(&mut tree, "/b".into(), 1);
    (0..ZNODES).for_each(|i| create(&mut tree, path(i), i as i64));
    // 1.4 when this was written; 3 when each node had a path, data and stat of its own.
    assert!(by_live_data(&tree, before) < 1.7, "{:.2}", by_live_data(&tree, before));
    let frozen = tree.freeze();
    let set = |i| Op::SetData { path: path(i), data: Some(vec![b'y'; 100]), version: -1 };
    (0..ZNODES).for_each(|i| apply(&mut tree, set(i), (ZNODES + i) as i64));
    // A view, and a tree of which everything was changed since.
    assert!(by_live_data(&tree, before) < 3.2, "{:.2}", by_live_data(&tree, before));
    drop(frozen);
    assert!(by_live_data(&tree, before) < 1.9, "{:.2}", by_live_data(&tree, before));
    let bytes = postcard::to_stdvec(&tree.freeze()).unwrap();
    let left = HEAP.current_usage();
    HEAP.reset_peak_usage();
    let read: Tree = postcard::from_bytes(&bytes).unwrap();
    assert!(read == tree);
    // A snapshot is read node by node, not into a list of all first.
    let peak = (HEAP.peak_usage() - left) as f64 / read.approximate_bytes() as f64;
    assert!(peak < 1.9, "{peak:.2}");
    (0..ZNODES).for_each(|i| apply(&mut tree, Op::Delete { path: path(i), version: -1 }, (2 * ZNODES + i) as i64));
    drop(read);
    drop(bytes);
    let left = (HEAP.current_usage() - before) as f64 / ZNODES as f64;
    assert!(left < 25.0, "{left:.1} bytes are left of each node that was deleted");
}
