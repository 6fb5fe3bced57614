//! Filters of nodes, compiled and asked.
#![no_main]

use curator_service::testing::fuzzing;

libfuzzer_sys::fuzz_target!(|text: &str| {
    fuzzing::filter(text);
});
