//! Decoders of what comes from outside: valid samples, changed by a seed, make none of them panic, hang, or take memory by a length that
//! it was told. `SEPTET_FUZZ=n` multiplies the iterations.
#![allow(clippy::unwrap_used, missing_docs)]

use std::path::Path;

use septet_coordinator::{
    config::Config,
    jute::Writer,
    protocol::{Connect, Offered, decode},
};
use septet_mutate::{PeakAlloc, Target, run};

#[global_allocator]
static HEAP: PeakAlloc = PeakAlloc;

const SEED: u64 = 20_261_128;
const MIB: usize = 1 << 20;

fn record(write: impl FnOnce(&mut Writer)) -> Vec<u8> {
    let mut w = Writer::framed();
    write(&mut w);
    w.frame()[4..].to_vec()
}

fn acl(w: &mut Writer) {
    w.int(2).int(31).string("world").string("anyone").int(1).string("digest").string("a:b");
}

/// Requests as clients send them, by operation.
fn requests() -> Vec<Vec<u8>> {
    let of = |op: i32, body: &dyn Fn(&mut Writer)| {
        record(|w| {
            w.int(7).int(op);
            body(w);
        })
    };
    let create = |w: &mut Writer| {
        w.string("/a/path").nullable(Some(b"data"));
        acl(w);
        w.int(3);
    };
    let paths = |w: &mut Writer| {
        w.int(2).string("/a").string("/b");
    };
    let header = |w: &mut Writer, op: i32, done: bool| {
        w.int(op).bool(done).int(-1);
    };
    vec![
        of(1, &create),
        of(15, &create),
        of(21, &|w| {
            create(w);
            w.long(5000);
        }),
        of(2, &|w| {
            w.string("/a").int(-1);
        }),
        of(3, &|w| {
            w.string("/a").bool(true);
        }),
        of(4, &|w| {
            w.string("/a").bool(false);
        }),
        of(5, &|w| {
            w.string("/a").nullable(None).int(7);
        }),
        of(6, &|w| {
            w.string("/a");
        }),
        of(7, &|w| {
            w.string("/a");
            acl(w);
            w.int(1);
        }),
        of(8, &|w| {
            w.string("/a").bool(true);
        }),
        of(9, &|w| {
            w.string("/a");
        }),
        of(11, &|_| {}),
        of(12, &|w| {
            w.string("/a").bool(true);
        }),
        of(14, &|w| {
            header(w, 1, false);
            create(w);
            header(w, 5, false);
            w.string("/a").nullable(Some(b"x")).int(2);
            header(w, 13, false);
            w.string("/a").int(2);
            header(w, 2, false);
            w.string("/b").int(2);
            header(w, -1, true);
        }),
        of(22, &|w| {
            header(w, 4, false);
            w.string("/a").bool(false);
            header(w, 8, false);
            w.string("/a").bool(false);
            header(w, -1, true);
        }),
        of(16, &|w| {
            w.string("a").string("b").string("c").long(5);
        }),
        of(18, &|w| {
            w.string("/a").int(1);
        }),
        of(100, &|w| {
            w.int(0).string("digest").buffer(b"a:b");
        }),
        of(101, &|w| {
            w.long(5);
            (0..3).for_each(|_| paths(w));
        }),
        of(105, &|w| {
            w.long(5);
            (0..5).for_each(|_| paths(w));
        }),
        of(106, &|w| {
            w.string("/a").int(1);
        }),
        of(-11, &|_| {}),
    ]
}

#[test]
fn no_decoder_panics_hangs_or_takes_memory_by_a_number() {
    let times = std::env::var("SEPTET_FUZZ").ok().and_then(|v| v.parse().ok()).unwrap_or(1);
    let try_one = |name, samples: Vec<Vec<u8>>, iterations: u32, decode: &dyn Fn(&[u8])| {
        run(&Target { name, samples, iterations: iterations * times, memory: MIB, decode }, SEED, &HEAP);
    };
    let connect = record(|w| {
        w.int(0).long(5).int(30_000).long(9).buffer(&[1; 16]).bool(true);
    });
    try_one("connect", vec![connect[..connect.len() - 1].to_vec(), connect], 10_000, &|b| drop(Connect::decode(b)));
    // Each of them is one, or no sample is worth much.
    let all = requests();
    for request in &all {
        assert!(decode(request, Offered { extended_types: true, reconfig: true }).is_ok(), "{request:02x?}");
    }
    try_one("request", all, 60_000, &|b| {
        for extended_types in [false, true] {
            let _ = decode(b, Offered { extended_types, reconfig: extended_types });
        }
    });
    let text = "dataDir=/d\nclientPort=2181\ntickTime=2000\ninitLimit=10\nsyncLimit=5\nautopurge.snapRetainCount=3\n\
                4lw.commands.whitelist=ruok, stat\nserver.1=h1:2888:3888;2181\nserver.2=[::1]:2888:3888:observer\nmaxClientCnxns=60\n";
    try_one("zoo.cfg", vec![text.as_bytes().to_vec()], 10_000, &|b| {
        let _ = Config::parse(Path::new("zoo.cfg"), &String::from_utf8_lossy(b));
    });
}
