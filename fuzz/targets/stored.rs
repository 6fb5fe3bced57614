//! Stored values: decoded or refused, and nothing lost in a rewrite.
#![no_main]

use curator_service::testing::fuzzing;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    fuzzing::stored_node(bytes);
    fuzzing::stored_message(bytes);
});
