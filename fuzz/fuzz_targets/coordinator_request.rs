#![no_main]

use septet_coordinator::protocol::{Offered, decode};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    for extended_types in [false, true] {
        let _ = decode(data, Offered { extended_types, reconfig: extended_types });
    }
});
