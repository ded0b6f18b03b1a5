#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| drop(septet_coordinator::protocol::Connect::decode(data)));
