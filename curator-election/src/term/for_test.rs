//! Terms for the unit tests of a consumer, which need no clock.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;

use super::{Term, TermOwner};
use crate::clock::{Clock, Instant};
use crate::store::Revision;

/// A clock that stands still.
#[derive(Debug)]
struct Standing;

impl Clock for Standing {
    fn now(&self) -> Instant {
        Instant::default()
    }

    fn sleep_until(&self, _deadline: Instant) -> BoxFuture<'static, ()> {
        std::future::pending().boxed()
    }
}

impl Term {
    /// A term that is valid until the test ends it: [`TermOwner::end`], or drop the owner.
    #[must_use]
    pub fn ended_by_test(lock_key: impl Into<Bytes>, lock_revision: Revision) -> (TermOwner, Self) {
        let never = Instant::from_origin(Duration::MAX);
        Self::for_test(lock_key, lock_revision, never, Arc::new(Standing))
    }

    /// A term that no time and no owner ends. An access that is fenced out still ends it.
    #[must_use]
    pub fn unending(lock_key: impl Into<Bytes>, lock_revision: Revision) -> Self {
        let (owner, term) = Self::ended_by_test(lock_key, lock_revision);
        // Its owner lives as long as the process of the test.
        std::mem::forget(owner);
        term
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn term_of_a_test_ends_when_the_test_says_so() {
        let (owner, term) = Term::ended_by_test("/leader/1", Revision(7));
        tokio::time::advance(Duration::from_secs(100_000)).await;
        assert!(term.is_valid());
        owner.end();
        term.ended().await;
        assert!(!term.is_valid());
        let unending = Term::unending("/leader/1", Revision(7));
        tokio::time::timeout(Duration::from_secs(100_000), unending.ended())
            .await
            .expect_err("valid for ever");
        assert!(unending.is_valid());
    }
}
