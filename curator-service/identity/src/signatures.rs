//! A cache of verified signatures.
//!
//! Each call verifies a certificate. The signature is the expensive part and cannot change, so it is cached; validity
//! and the node's record are checked each time. Only valid signatures are cached, so unauthenticated peers cannot fill
//! the cache.

use std::collections::HashSet;
use std::sync::{LazyLock, PoisonError, RwLock};

use ring::digest::{Context, Digest, SHA256};

/// Maximum number of cached signatures. A full cache is cleared.
const MAX_CACHED: usize = 16_384;

static VERIFIED: LazyLock<RwLock<HashSet<[u8; 32]>>> = LazyLock::new(RwLock::default);

/// The digest of a certificate and a CA certificate.
pub(super) struct Pair([u8; 32]);

impl Pair {
    pub(super) fn of(certificate: &[u8], ca: &[u8]) -> Self {
        let mut both = Context::new(&SHA256);
        // The length separates the two certificates.
        both.update(&(certificate.len() as u64).to_be_bytes());
        both.update(certificate);
        both.update(ca);
        let digest: Digest = both.finish();
        let mut pair = [0; 32];
        pair.copy_from_slice(digest.as_ref());
        Self(pair)
    }
}

/// Whether the signature was verified before.
pub(super) fn is_verified(pair: &Pair) -> bool {
    // No holder of the lock can panic in between.
    VERIFIED
        .read()
        .unwrap_or_else(PoisonError::into_inner)
        .contains(&pair.0)
}

/// Caches a verified signature.
pub(super) fn set_verified(pair: Pair) {
    let mut verified = VERIFIED.write().unwrap_or_else(PoisonError::into_inner);
    if verified.len() == MAX_CACHED {
        verified.clear();
    }
    verified.insert(pair.0);
}
