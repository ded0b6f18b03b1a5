//! Frames, changed by a seed: reading one never panics, hangs, or takes more memory than a frame may have.
#![allow(clippy::unwrap_used, missing_docs)]

use septet_agent_protocol::{Action, HEAD_BYTES, Head, Hello, MAX_FRAME_BYTES, Request, Response, encode, read_frame};
use septet_mutate::{PeakAlloc, Target, run};

#[global_allocator]
static HEAP: PeakAlloc = PeakAlloc;

/// Reads bytes as each kind of message; with a checksum that is made right too, since little else would come through.
fn read(bytes: &[u8]) {
    let mut copy = bytes.to_vec();
    if copy.len() > HEAD_BYTES {
        let body = copy.len() - HEAD_BYTES;
        copy[..4].copy_from_slice(&(body as u32).to_be_bytes());
        let crc = crc32c::crc32c(&copy[8..]);
        copy[4..8].copy_from_slice(&crc.to_be_bytes());
    }
    for b in [bytes, &copy[..]] {
        let _ = read_frame::<Hello>(&mut &b[..]);
        let _ = read_frame::<Request>(&mut &b[..]);
        let _ = read_frame::<Response>(&mut &b[..]);
        if let Some((head, body)) = b.split_first_chunk()
            && let Ok(head) = Head::parse(head)
        {
            let _ = head.decode::<Request>(body);
        }
    }
}

#[test]
fn no_frame_panics_hangs_or_takes_memory_by_a_number() {
    let times: u32 = std::env::var("SEPTET_FUZZ").ok().and_then(|v| v.parse().ok()).unwrap_or(1);
    let hello = serde_json::json!({ "version": 7, "digest": "d", "uid": 0 });
    let request = |action: Action| Request { id: 1, batch: 2, check: true, ignore_errors: false, no_log: true, action };
    let actions = [Action::Facts, Action::Hostname { name: "a-host".into() }, Action::Slurp { path: "/etc/hosts".into() }];
    let mut samples: Vec<Vec<u8>> = actions.into_iter().map(|a| encode(&request(a), b"a tail").unwrap()).collect();
    assert!(samples.iter().all(|s| read_frame::<Request>(&mut &s[..]).is_ok()));
    samples.push(encode(&hello, b"").unwrap());
    samples.push(encode(&serde_json::json!({ "id": 1, "deep": [[[[[[1, 2.5e300, "x\u{0}", null, true]]]]]] }), &[0; 100]).unwrap());
    run(&Target { name: "frame", samples, iterations: 30_000 * times, memory: 2 * MAX_FRAME_BYTES, decode: &read }, 20_261_128, &HEAP);
}
