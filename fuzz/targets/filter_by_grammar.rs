//! Filters that are well formed, made of bytes: what they take of memory and time.
#![no_main]

use curator_service::testing::fuzzing;

libfuzzer_sys::fuzz_target!(|tape: &[u8]| {
    fuzzing::filter_by_grammar(tape);
});
