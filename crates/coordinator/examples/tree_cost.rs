//! What a tree of znodes takes: memory of this process and times of single operations, without a server around it. `tree_cost [ZNODES]`
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use septet_coordinator::{
    acl,
    protocol::{Caller, Create, Kind, Op, Write},
    tree::{Stamp, Tree},
};

fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).unwrap();
    line.split_whitespace().next().unwrap().parse::<u64>().unwrap() * 1024
}

struct Rng(u64);

impl Rng {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }
}

fn apply(tree: &mut Tree, op: Op, zxid: i64) {
    let stamp = Stamp { session: 1, zxid: (1 << 32) + zxid, time_ms: 1_700_000_000_000 + zxid / 10 };
    tree.apply(&Write::One(op), &Caller::default(), stamp, &mut Vec::new()).unwrap();
}

fn create(tree: &mut Tree, path: String, zxid: i64) {
    let data = Some(vec![b'x'; 100]);
    apply(tree, Op::Create(Create { path, data, acl: acl::open(), kind: Kind::Persistent, sequential: false, with_stat: false }), zxid);
}

fn path(i: u64) -> String {
    format!("/a/n{i:09}")
}

/// Time that this thread has had a processor: another program that runs beside it counts less than on a clock.
fn processor_time() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(text.split_whitespace().next().unwrap().parse().unwrap())
}

/// Mean time of an operation, and the longest on a clock.
fn times(name: &str, count: u64, mut one: impl FnMut(u64)) {
    let (mut longest, begun) = (Duration::ZERO, processor_time());
    for i in 0..count {
        let at = Instant::now();
        one(i);
        longest = longest.max(at.elapsed());
    }
    let mean = (processor_time() - begun).as_secs_f64() * 1e6 / count as f64;
    println!("{name:<44} {mean:>9.2} us  longest {:>9.1} us", longest.as_secs_f64() * 1e6);
}

fn memory(name: &str, tree: &Tree, before: u64) {
    let (now, live) = (resident_bytes() - before, tree.approximate_bytes());
    println!(
        "{name:<44} {:>6} MiB, {:.0} bytes a znode, {:.2} of live data",
        now >> 20,
        now as f64 / tree.len() as f64,
        now as f64 / live as f64
    );
}

fn main() {
    let znodes: u64 = std::env::args().nth(1).map_or(1_000_000, |n| n.parse().unwrap());
    let before = resident_bytes();
    let mut tree = Tree::default();
    let mut rng = Rng(1);
    create(&mut tree, "/a".into(), 1);
    create(&mut tree, "/r".into(), 1);
    times("create, names in their order", znodes, |i| create(&mut tree, path(i), i as i64));
    memory("memory", &tree, before);
    times("get", 1_000_000, |_| _ = black_box(tree.get(&path(rng.below(znodes))).map(|n| n.stat())));
    times("getChildren of all", 3, |_| _ = black_box(tree.children("/a").map(str::len).sum::<usize>()));
    times("freeze", 20, |_| drop(black_box(tree.freeze())));
    let set = |path| Op::SetData { path, data: Some(vec![b'y'; 100]), version: -1 };
    times("set, random", 200_000, |i| apply(&mut tree, set(path(rng.below(znodes))), i as i64));
    let frozen = tree.freeze();
    times("set, random, while a view lives", 200_000, |i| apply(&mut tree, set(path(rng.below(znodes))), i as i64));
    memory("memory with the view", &tree, before);
    drop(frozen);
    memory("memory without it", &tree, before);
    let begun = Instant::now();
    let bytes = postcard::to_stdvec(&tree.freeze()).unwrap();
    println!("snapshot of {} MiB made in {:?}", bytes.len() >> 20, begun.elapsed());
    times("create, random names", 200_000, |i| create(&mut tree, format!("/r/{:08x}{i}", rng.below(u32::MAX.into())), i as i64));
    memory("memory with these", &tree, before);
    times("delete", 200_000, |i| apply(&mut tree, Op::Delete { path: path(i), version: -1 }, i as i64));
    drop(tree);
    let before = resident_bytes();
    let begun = Instant::now();
    let tree: Tree = postcard::from_bytes(&bytes).unwrap();
    println!("read in {:?}", begun.elapsed());
    memory("memory when it is read", &tree, before);
}
