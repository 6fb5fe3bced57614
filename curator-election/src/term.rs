//! The capability to act as leader, and its end.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Notify, watch};
use tracing::debug;

use crate::clock::{Instant, SharedClock};
use crate::failpoint;
use crate::store::{Compare, LeaseId, Revision};

/// A term of leadership: the capability to act as leader, for as long as it is valid.
///
/// A term is named by its lock key and the revision at which that key was created; both together never come back, so that
/// work of one term cannot pass for work of another, not even of the same candidate.
///
/// Whether it is valid is answered afresh from the clock at each question: it needs neither the network nor the election
/// task, which may be stuck or dead. Once a term has been found ended it is never valid again.
#[derive(Clone)]
pub struct Term {
    inner: Arc<Inner>,
}

struct Inner {
    lock_key: Bytes,
    lock_revision: Revision,
    lease: LeaseId,
    clock: SharedClock,
    /// The deadline in nanoseconds since the clock's origin, or [`ENDED`].
    deadline: AtomicU64,
    /// Turns true when the term is known to have ended.
    ended: watch::Sender<bool>,
    /// Tells the elector that the store refused an access of this term, or has gone back.
    fenced_out: Notify,
    /// The store was found to have gone back.
    went_back: OnceLock<WentBack>,
}

/// The store answered with a revision that is older than one that it has given out before, to a read or write that was
/// sent after that: it has lost what came in between, as when a backup is restored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WentBack {
    /// The newest revision that was seen.
    pub seen: Revision,
    /// The older one that came after it.
    pub found: Revision,
}

impl fmt::Display for WentBack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seen, found } = self;
        write!(
            f,
            "the store is at revision {found} and was at {seen} before: was it restored from a backup?"
        )
    }
}

/// No deadline: the term has ended. It is less than any deadline that has not passed.
const ENDED: u64 = 0;

/// The term is over: nothing may be done in its name any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this instance's term as leader has ended")]
pub struct TermEnded;

impl Term {
    /// A term whose deadline the returned owner moves.
    pub(crate) fn begin(
        lock_key: Bytes,
        lock_revision: Revision,
        lease: LeaseId,
        deadline: Instant,
        clock: SharedClock,
    ) -> (TermOwner, Self) {
        let term = Self {
            inner: Arc::new(Inner {
                lock_key,
                lock_revision,
                lease,
                clock,
                deadline: AtomicU64::new(nanos(deadline)),
                ended: watch::Sender::new(false),
                fenced_out: Notify::new(),
                went_back: OnceLock::new(),
            }),
        };
        (TermOwner { term: term.clone() }, term)
    }

    /// A term for a test of a component that acts under one; the owner ends or extends it.
    #[cfg(any(test, feature = "testing", feature = "mock"))]
    #[must_use]
    pub fn for_test(
        lock_key: impl Into<Bytes>,
        lock_revision: Revision,
        deadline: Instant,
        clock: SharedClock,
    ) -> (TermOwner, Self) {
        let lease = LeaseId::new(1).unwrap_or_else(|| unreachable!("one is not zero"));
        Self::for_test_with_lease(lock_key, lock_revision, lease, deadline, clock)
    }

    /// The same, with a lease that is in the store.
    #[cfg(any(test, feature = "testing", feature = "mock"))]
    #[must_use]
    pub fn for_test_with_lease(
        lock_key: impl Into<Bytes>,
        lock_revision: Revision,
        lease: LeaseId,
        deadline: Instant,
        clock: SharedClock,
    ) -> (TermOwner, Self) {
        Self::begin(lock_key.into(), lock_revision, lease, deadline, clock)
    }

    /// The key whose existence makes the term, without the store's namespace.
    #[must_use]
    pub fn lock_key(&self) -> &Bytes {
        &self.inner.lock_key
    }

    /// The revision at which the lock key was created.
    #[must_use]
    pub fn lock_revision(&self) -> Revision {
        self.inner.lock_revision
    }

    /// The lease that the lock key is attached to.
    #[must_use]
    pub fn lease(&self) -> LeaseId {
        self.inner.lease
    }

    /// The guard of every access to state in the name of this term: holds in the store while the lock key is the one that
    /// this term began with.
    #[must_use]
    pub fn guard(&self) -> Compare {
        if failpoint::on(failpoint::GUARD_BY_VALUE) {
            // Each candidate's value at its key is the same whenever the key was created, so that is what it comes to.
            return Compare {
                ordering: crate::store::Ordering::Greater,
                ..Compare::absent(self.inner.lock_key.clone())
            };
        }
        Compare::created_at(self.inner.lock_key.clone(), self.inner.lock_revision)
    }

    /// Whether the holder may act as leader at this moment.
    ///
    /// # Errors
    /// The term has ended; it stays so.
    pub fn check(&self) -> Result<(), TermEnded> {
        let inner = &*self.inner;
        loop {
            let deadline = inner.deadline.load(Ordering::Acquire);
            if deadline == ENDED {
                return Err(TermEnded);
            }
            if nanos(inner.clock.now()) < deadline {
                return Ok(());
            }
            // Found past its deadline: latch that, lest an extension that was under way makes it valid again. If the
            // deadline has just been moved, look once more.
            if inner
                .deadline
                .compare_exchange(deadline, ENDED, Ordering::AcqRel, Ordering::Acquire)
                .is_ok()
            {
                inner.ended.send_replace(true);
                return Err(TermEnded);
            }
        }
    }

    /// Whether the holder may act as leader at this moment: [`Term::check`] as a question.
    #[must_use]
    pub fn is_valid(&self) -> bool {
        self.check().is_ok()
    }

    /// How long the term is still valid if it is not renewed; zero once it has ended.
    #[must_use]
    pub fn remaining(&self) -> Duration {
        match self.deadline() {
            Some(deadline) => deadline.saturating_since(self.inner.clock.now()),
            None => Duration::ZERO,
        }
    }

    /// The present deadline, which each renewal moves; `None` once the term is known to have ended.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        match self.inner.deadline.load(Ordering::Acquire) {
            ENDED => None,
            deadline => Some(Instant::from_origin(Duration::from_nanos(deadline))),
        }
    }

    /// Completes when the term has ended, by its deadline at the latest, also when the election task is stuck or gone.
    ///
    /// Cancellation safe.
    pub async fn ended(&self) {
        let mut ended = self.inner.ended.subscribe();
        while let Some(deadline) = self.deadline() {
            if self.check().is_err() {
                return;
            }
            tokio::select! {
                biased;
                // The sender lives in the term itself, so this cannot fail while we hold it.
                _ = ended.wait_for(|ended| *ended) => return,
                () = self.inner.clock.sleep_until(deadline) => {}
            }
        }
    }

    /// To be called when the store refused a transaction because the guard did not hold: the term ends at once, and the
    /// elector learns of it and begins a new round.
    pub fn report_fenced_out(&self) {
        crate::telemetry::fenced_out();
        self.end();
        self.inner.fenced_out.notify_one();
    }

    /// To be called when the store answered from before what this term has seen: the term ends at once, and the elector
    /// learns of it, says so and begins a new round. What is kept in memory of the store must be read anew then.
    pub fn report_went_back(&self, went_back: WentBack) {
        debug!(%went_back, "the term ends");
        // The first one is told.
        let _ = self.inner.went_back.set(went_back);
        self.end();
        self.inner.fenced_out.notify_one();
    }

    /// Completes when somebody was fenced out, or has found that the store went back.
    pub(crate) async fn fenced_out(&self) -> Option<WentBack> {
        self.inner.fenced_out.notified().await;
        self.inner.went_back.get().copied()
    }

    fn end(&self) {
        self.inner.deadline.store(ENDED, Ordering::Release);
        self.inner.ended.send_replace(true);
    }
}

/// Two terms are the same if they have the same lock key, created at the same revision.
impl PartialEq for Term {
    fn eq(&self, other: &Self) -> bool {
        self.inner.lock_revision == other.inner.lock_revision && self.inner.lock_key == other.inner.lock_key
    }
}

impl Eq for Term {}

impl fmt::Debug for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Term")
            .field("lock_key", &self.inner.lock_key)
            .field("lock_revision", &self.inner.lock_revision.0)
            .field("remaining", &self.remaining())
            .finish_non_exhaustive()
    }
}

/// The one who may move a term's deadline or end it. When dropped, the term ends.
#[derive(Debug)]
pub struct TermOwner {
    term: Term,
}

impl TermOwner {
    /// Moves the deadline to a later one. A term that has ended, or whose deadline has passed, stays ended: returns
    /// whether the term goes on.
    #[must_use]
    pub fn extend(&self, to: Instant) -> bool {
        let inner = &*self.term.inner;
        if failpoint::on(failpoint::REVIVES_ENDED_TERM) {
            inner.deadline.store(nanos(to), Ordering::Release);
            return true;
        }
        loop {
            if self.term.check().is_err() {
                return false;
            }
            let deadline = inner.deadline.load(Ordering::Acquire);
            if deadline == ENDED {
                return false;
            }
            let later = nanos(to).max(deadline);
            if inner
                .deadline
                .compare_exchange(deadline, later, Ordering::AcqRel, Ordering::Acquire)
                .is_ok()
            {
                return true;
            }
        }
    }

    /// Ends the term now.
    pub fn end(&self) {
        self.term.end();
    }

    pub(crate) async fn fenced_out(&self) -> Option<WentBack> {
        self.term.fenced_out().await
    }

    /// Tells the elector that the term is over, as a fenced-out access does.
    pub(crate) fn report_over(&self) {
        self.term.report_fenced_out();
    }
}

impl Drop for TermOwner {
    fn drop(&mut self) {
        self.end();
    }
}

fn nanos(instant: Instant) -> u64 {
    // 584 years of uptime fit.
    u64::try_from(instant.since_origin().as_nanos())
        .unwrap_or(u64::MAX)
        .max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{Clock, TokioClock};

    fn term(lasting: Duration) -> (TermOwner, Term, Arc<TokioClock>) {
        let clock = Arc::new(TokioClock::new());
        let (owner, term) = Term::for_test("/leader/1", Revision(7), clock.now() + lasting, clock.clone());
        (owner, term, clock)
    }

    #[tokio::test(start_paused = true)]
    async fn valid_until_its_deadline_and_not_at_it() {
        let (_owner, term, _) = term(Duration::from_secs(5));
        tokio::time::advance(Duration::from_millis(4_999)).await;
        assert!(term.is_valid());
        assert_eq!(term.remaining(), Duration::from_millis(1));
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!(term.check(), Err(TermEnded));
        assert_eq!(term.remaining(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn an_extension_that_comes_too_late_revives_nothing() {
        let (owner, term, clock) = term(Duration::from_secs(5));
        tokio::time::advance(Duration::from_secs(6)).await;
        // Nobody has asked in between: the extension itself must notice.
        assert!(!owner.extend(clock.now() + Duration::from_secs(100)));
        assert!(!term.is_valid());
    }

    #[tokio::test(start_paused = true)]
    async fn found_ended_once_is_ended_for_good() {
        let (owner, term, clock) = term(Duration::from_secs(5));
        assert!(owner.extend(clock.now() + Duration::from_secs(8)));
        tokio::time::advance(Duration::from_secs(8)).await;
        assert!(!term.is_valid());
        assert!(!owner.extend(clock.now() + Duration::from_secs(8)));
        assert!(!term.is_valid());
    }

    #[tokio::test(start_paused = true)]
    async fn deadlines_never_move_back() {
        let (owner, term, clock) = term(Duration::from_secs(5));
        assert!(owner.extend(clock.now() + Duration::from_secs(1)));
        assert_eq!(term.remaining(), Duration::from_secs(5));
    }

    #[tokio::test(start_paused = true)]
    async fn a_waiter_needs_no_keeper_activity_to_see_the_end() {
        let (owner, term, clock) = term(Duration::from_secs(5));
        let begun = clock.now();
        // The owner is alive and silent, as a stuck election task would be.
        tokio::time::timeout(Duration::from_secs(6), term.ended())
            .await
            .expect("ends by its own clock");
        assert!(clock.now().saturating_since(begun) >= Duration::from_secs(5));
        drop(owner);
    }

    #[tokio::test(start_paused = true)]
    async fn dropping_the_keeper_ends_the_term_at_once() {
        let (owner, term, clock) = term(Duration::from_secs(5));
        let begun = clock.now();
        let waiter = tokio::spawn({
            let term = term.clone();
            async move { term.ended().await }
        });
        tokio::task::yield_now().await;
        drop(owner);
        waiter.await.unwrap();
        assert_eq!(clock.now(), begun);
        assert!(!term.is_valid());
    }

    #[tokio::test(start_paused = true)]
    async fn being_fenced_out_ends_the_term_and_tells_the_keeper() {
        let (owner, term, _) = term(Duration::from_secs(5));
        term.report_fenced_out();
        assert!(!term.is_valid());
        tokio::time::timeout(Duration::from_secs(1), owner.fenced_out())
            .await
            .expect("told");
    }

    #[tokio::test(start_paused = true)]
    async fn terms_differ_by_revision_even_under_the_same_key() {
        let clock: SharedClock = Arc::new(TokioClock::new());
        let until = clock.now() + Duration::from_secs(1);
        let (_a, one) = Term::for_test("/leader/1", Revision(7), until, clock.clone());
        let (_b, two) = Term::for_test("/leader/1", Revision(8), until, clock.clone());
        assert_ne!(one, two);
        assert_ne!(one.guard(), two.guard());
    }
}
