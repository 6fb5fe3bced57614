//! Which certificates an authority has signed, as far as that was found out before.
//!
//! A certificate is looked at for each call, and its signature is what takes long; it stays as it is, while all else that counts (the
//! time, the node's record) is asked each time. Only what is signed is remembered, so that strangers leave nothing here.

use std::collections::HashSet;
use std::sync::{LazyLock, PoisonError, RwLock};

use ring::digest::{Context, Digest, SHA256};

/// How many are remembered. Beyond that it begins anew: whoever is forgotten is found again with its next call.
const MOST: usize = 16_384;

static GOOD: LazyLock<RwLock<HashSet<[u8; 32]>>> = LazyLock::new(RwLock::default);

/// A certificate and an authority's, as they are to the last byte.
pub(super) struct Pair([u8; 32]);

impl Pair {
    pub(super) fn of(certificate: &[u8], ca: &[u8]) -> Self {
        let mut both = Context::new(&SHA256);
        // With its length, so that no byte can belong to the other.
        both.update(&(certificate.len() as u64).to_be_bytes());
        both.update(certificate);
        both.update(ca);
        let digest: Digest = both.finish();
        let mut pair = [0; 32];
        pair.copy_from_slice(digest.as_ref());
        Self(pair)
    }
}

/// Whether the signature is known to be the authority's.
pub(super) fn is_good(pair: &Pair) -> bool {
    // Nothing that holds the lock can panic half-way.
    GOOD.read().unwrap_or_else(PoisonError::into_inner).contains(&pair.0)
}

/// It is.
pub(super) fn is_found_good(pair: Pair) {
    let mut good = GOOD.write().unwrap_or_else(PoisonError::into_inner);
    if good.len() == MOST {
        good.clear();
    }
    good.insert(pair.0);
}
