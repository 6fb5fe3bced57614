//! Labels, domain names, networks, keys.
#![no_main]

use curator_service::testing::fuzzing;

libfuzzer_sys::fuzz_target!(|text: &str| {
    fuzzing::text(text);
});
