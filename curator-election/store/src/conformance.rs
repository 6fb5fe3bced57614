//! The conformance suite: test cases for any implementation of [`Store`].
//!
//! A case panics if the store does not conform. The cases use keys below a given prefix, and count revisions: no other
//! client may write to the store or compact it meanwhile. [`check_two`] needs two clients of one store: what one of
//! them writes or is granted, the other can read, watch and renew. Compaction is not covered, as [`Store`] does not
//! offer it.

#![allow(clippy::unwrap_used, reason = "a store that fails a call has failed the case")]

mod fixture;
mod lease;
mod range;
mod shared;
mod txn;
mod watch;

use std::fmt;
use std::sync::Arc;

use fixture::Fixture;
use futures::future::BoxFuture;

use crate::Store;

/// One test case.
#[derive(Clone, Copy)]
pub struct Case {
    /// The name of the case.
    pub name: &'static str,
    run: fn(Fixture) -> BoxFuture<'static, ()>,
}

impl fmt::Debug for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Case").field(&self.name).finish()
    }
}

impl Case {
    /// Runs the case on keys that start with `prefix`. No such keys may exist yet.
    ///
    /// # Panics
    /// If the store does not conform.
    pub async fn check(&self, store: Arc<dyn Store>, prefix: &str) {
        (self.run)(Fixture::new(store, format!("{prefix}/{}/", self.name))).await;
    }
}

/// All cases.
#[must_use]
pub fn cases() -> Vec<Case> {
    [txn::CASES, range::CASES, lease::CASES, watch::CASES].concat()
}

/// Runs all cases in sequence on keys that start with `prefix`. No such keys may exist yet.
///
/// # Panics
/// If the store does not conform.
pub async fn check_all(store: Arc<dyn Store>, prefix: &str) {
    for case in cases() {
        tracing::debug!(case = case.name, "checking");
        case.check(store.clone(), prefix).await;
    }
}

/// Runs the cases of two clients of one store, `one` and `other`: two processes, or two connections. All keys start
/// with `prefix`, and no such keys may exist yet.
///
/// # Panics
/// If the store does not conform.
pub async fn check_two(one: Arc<dyn Store>, other: Arc<dyn Store>, prefix: &str) {
    shared::check(&one, &other, prefix).await;
    shared::check(&other, &one, &format!("{prefix}/back")).await;
}

/// The case with the name of a function.
macro_rules! case {
    ($function:ident) => {
        crate::conformance::Case {
            name: stringify!($function),
            run: |fixture| Box::pin($function(fixture)),
        }
    };
}
use case;
