//! Certificates, lists of revoked ones, private keys.
#![no_main]

use curator_service::testing::fuzzing;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    fuzzing::der(bytes);
});
