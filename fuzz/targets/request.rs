//! Requests, up to what the state is asked for.
#![no_main]

use curator_service::testing::fuzzing;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    fuzzing::request(bytes);
});
