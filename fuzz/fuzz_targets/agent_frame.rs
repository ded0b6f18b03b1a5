#![no_main]

use septet_agent_protocol::{Request, Response, read_frame};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let _ = read_frame::<Request>(&mut &data[..]);
    let _ = read_frame::<Response>(&mut &data[..]);
});
