//! The leader's view, fed with changes in any order.
#![no_main]

use curator_service::testing::fuzzing;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    fuzzing::view(bytes);
});
