//! The capability to act as leader, and its end.

#[cfg(feature = "etcd-client-0_21")]
mod etcd_guard;
#[cfg(any(test, feature = "testing", feature = "mock"))]
mod for_test;
mod names;

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
/// A term is identified by its lock key and that key's create revision. The pair is never reused, so work of one term
/// cannot be mistaken for work of another, not even of the same candidate.
///
/// Validity is checked against the clock each time. It needs neither the network nor the election task, which may be
/// stuck or dead. A term that has ended is never valid again. A term with a failover limit is *suspended* while the
/// store has not confirmed it within the limit: nothing may be done in its name, and it is valid again with the next
/// confirmation ([`Validity`]).
#[derive(Clone)]
pub struct Term {
    inner: Arc<Inner>,
}

struct Inner {
    lock_key: Bytes,
    lock_revision: Revision,
    lease: LeaseId,
    clock: SharedClock,
    /// The deadline of the lease in nanoseconds since the clock's origin, or [`ENDED`].
    deadline: AtomicU64,
    /// Until when the term is confirmed, in nanoseconds since the clock's origin; [`UNLIMITED`] without a failover
    /// limit.
    confirmed: AtomicU64,
    /// The number of confirmations that have resumed the term.
    resumptions: AtomicU64,
    /// Notifies of each confirmation.
    confirmations: watch::Sender<()>,
    /// True once the term has ended.
    ended: watch::Sender<bool>,
    /// Notifies the elector that the store rejected an access of this term, or has gone back.
    fenced_out: Notify,
    /// Set if the store has gone back.
    went_back: OnceLock<WentBack>,
    names: names::Names,
}

/// The store's revision went back: a call was answered with a lower revision than an earlier call, or a write of the
/// term is not in the store's history. The store has lost the changes in between, as after a restore of a backup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WentBack {
    /// The highest revision seen before.
    pub seen: Revision,
    /// The lower revision that followed; if a write is lost, the one before it.
    pub found: Revision,
}

impl fmt::Display for WentBack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seen, found } = self;
        write!(
            f,
            "the store's revision went back from {seen} to {found}: was it restored from a backup?"
        )
    }
}

/// Whether a term may act.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Validity {
    /// The holder may act as leader.
    Valid,
    /// The store has not confirmed the term within its failover limit, and nothing is known to be lost: new work waits.
    /// The term becomes valid again, or ends.
    Suspended,
    /// The term has ended. It stays ended.
    Ended,
}

/// The confirmation deadline of a term without a failover limit.
const UNLIMITED: u64 = u64::MAX;

/// The deadline of an ended term. It is less than any other deadline.
const ENDED: u64 = 0;

/// The term is not valid: no action in its name is allowed now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotValid {
    /// The term is suspended. It becomes valid again, or ends.
    #[error("this instance's term as leader is suspended: the store has not confirmed it")]
    Suspended,
    /// The term has ended. It stays ended.
    #[error(transparent)]
    Ended(#[from] TermEnded),
}

/// The term has ended: no action in its name is allowed any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this instance's term as leader has ended")]
pub struct TermEnded;

impl Term {
    /// A term, and the owner that extends or ends it.
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
                confirmed: AtomicU64::new(UNLIMITED),
                resumptions: AtomicU64::new(0),
                confirmations: watch::Sender::new(()),
                ended: watch::Sender::new(false),
                fenced_out: Notify::new(),
                went_back: OnceLock::new(),
                names: names::Names::default(),
            }),
        };
        (TermOwner { term: term.clone() }, term)
    }

    /// A term for unit tests; the owner extends or ends it.
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

    /// A term for unit tests with a given lease.
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

    /// The lock key, without the store's namespace.
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

    /// The guard of every access to state in this term: it holds in the store while the lock key exists with the create
    /// revision of this term.
    #[must_use]
    pub fn guard(&self) -> Compare {
        if failpoint::on(failpoint::GUARD_BY_VALUE) {
            // A candidate's value is the same for each of its keys, so comparing the value only checks that the key
            // exists.
            return Compare {
                ordering: crate::store::Ordering::Greater,
                ..Compare::absent(self.inner.lock_key.clone())
            };
        }
        Compare::created_at(self.inner.lock_key.clone(), self.inner.lock_revision)
    }

    /// Whether the holder may act as leader now.
    #[must_use]
    pub fn validity(&self) -> Validity {
        let inner = &*self.inner;
        loop {
            let deadline = inner.deadline.load(Ordering::Acquire);
            if deadline == ENDED {
                return Validity::Ended;
            }
            // Both deadlines only move on, and each bounds the term by itself: reading them one after the other is
            // safe.
            let confirmed = inner.confirmed.load(Ordering::Acquire);
            let now = nanos(inner.clock.now());
            if failpoint::on(failpoint::LATER_DEADLINE) && confirmed != UNLIMITED && now < deadline.max(confirmed) {
                return Validity::Valid;
            }
            if now < deadline {
                return if now < confirmed {
                    Validity::Valid
                } else {
                    Validity::Suspended
                };
            }
            // The deadline has passed. Latch that, so that a concurrent extension cannot make the term valid again. If
            // the deadline has just been moved, check again.
            if inner
                .deadline
                .compare_exchange(deadline, ENDED, Ordering::AcqRel, Ordering::Acquire)
                .is_ok()
            {
                inner.ended.send_replace(true);
                return Validity::Ended;
            }
        }
    }

    /// Checks that the holder may act as leader now. [`valid`](Self::valid) waits for that.
    ///
    /// # Errors
    /// If the term has ended, or is suspended.
    pub fn check(&self) -> Result<(), NotValid> {
        match self.validity() {
            Validity::Valid => Ok(()),
            Validity::Suspended => Err(NotValid::Suspended),
            Validity::Ended => Err(TermEnded.into()),
        }
    }

    /// Whether the holder may act as leader now; see [`Term::check`].
    #[must_use]
    pub fn is_valid(&self) -> bool {
        self.validity() == Validity::Valid
    }

    /// Whether the term has ended. A term that has not may be suspended.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.validity() == Validity::Ended
    }

    /// Completes once the term is valid: at once, unless it is suspended.
    ///
    /// Cancellation safe.
    ///
    /// # Errors
    /// If the term has ended, or ends first.
    pub async fn valid(&self) -> Result<(), TermEnded> {
        // Subscribed to before the first look, so that no confirmation is missed.
        let mut confirmations = self.inner.confirmations.subscribe();
        loop {
            match self.check() {
                Ok(()) => return Ok(()),
                Err(NotValid::Ended(ended)) => return Err(ended),
                Err(NotValid::Suspended) => {}
            }
            tokio::select! {
                biased;
                () = self.ended() => return Err(TermEnded),
                // `self` holds the sender, so this cannot fail.
                _ = confirmations.changed() => {}
            }
        }
    }

    /// The time until the deadline of the lease; zero once the term has ended.
    #[must_use]
    pub fn remaining(&self) -> Duration {
        match self.deadline() {
            Some(deadline) => deadline.saturating_since(self.inner.clock.now()),
            None => Duration::ZERO,
        }
    }

    /// Until when the store has confirmed the term; `None` without a failover limit.
    #[must_use]
    pub fn confirmed_until(&self) -> Option<Instant> {
        match self.inner.confirmed.load(Ordering::Acquire) {
            UNLIMITED => None,
            confirmed => Some(Instant::from_origin(Duration::from_nanos(confirmed))),
        }
    }

    /// The time of the clock that the term is checked against.
    pub(crate) fn now(&self) -> Instant {
        self.inner.clock.now()
    }

    /// How often the term was resumed after it had been suspended. If the term is valid at two times with the same
    /// number, it was valid all the time between.
    pub(crate) fn resumptions(&self) -> u64 {
        self.inner.resumptions.load(Ordering::Acquire)
    }

    /// The current deadline of the lease, which each renewal moves; `None` once the term has ended.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        match self.inner.deadline.load(Ordering::Acquire) {
            ENDED => None,
            deadline => Some(Instant::from_origin(Duration::from_nanos(deadline))),
        }
    }

    /// Completes when the term has ended: at its deadline at the latest, even if the election task is stuck or gone.
    ///
    /// Cancellation safe.
    pub async fn ended(&self) {
        let mut ended = self.inner.ended.subscribe();
        while let Some(deadline) = self.deadline() {
            if self.has_ended() {
                return;
            }
            tokio::select! {
                biased;
                // `self` holds the sender, so this cannot fail.
                _ = ended.wait_for(|ended| *ended) => return,
                () = self.inner.clock.sleep_until(deadline) => {}
            }
        }
    }

    /// Ends the term because the store rejected a transaction for its guard. The elector then starts a new round.
    pub fn report_fenced_out(&self) {
        crate::telemetry::fenced_out(self.election());
        self.end();
        self.inner.fenced_out.notify_one();
    }

    /// Ends the term because the store's revision went back. The elector then logs it and starts a new round. Cached
    /// data of the store must be read again.
    pub fn report_went_back(&self, went_back: WentBack) {
        debug!(%went_back, "term ended: store went back");
        // The first report is kept.
        let _ = self.inner.went_back.set(went_back);
        self.end();
        self.inner.fenced_out.notify_one();
    }

    /// Completes when an access was fenced out, or the store went back.
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

/// Extends and ends a term. The term ends when its owner is dropped.
#[derive(Debug)]
pub struct TermOwner {
    term: Term,
}

impl TermOwner {
    /// Moves the deadline to a later time. Returns false if the term has ended or its deadline has passed; it stays
    /// ended.
    #[must_use]
    pub fn extend(&self, to: Instant) -> bool {
        let inner = &*self.term.inner;
        if failpoint::on(failpoint::REVIVES_ENDED_TERM) {
            inner.deadline.store(nanos(to), Ordering::Release);
            return true;
        }
        loop {
            if self.term.has_ended() {
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

    /// Moves the deadline of the confirmation to a later time, which resumes a suspended term. The first call gives the
    /// term a failover limit. Returns false if the term has ended; it stays ended.
    #[must_use]
    pub fn confirm(&self, until: Instant) -> bool {
        let inner = &*self.term.inner;
        // Before the deadline moves: who finds the term valid again finds it counted.
        if inner.confirmed.load(Ordering::Acquire) <= nanos(inner.clock.now()) {
            inner.resumptions.fetch_add(1, Ordering::AcqRel);
        }
        let until = nanos(until);
        let moved = inner
            .confirmed
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |confirmed| {
                (confirmed == UNLIMITED || confirmed < until).then_some(until)
            });
        if moved.is_ok() {
            inner.confirmations.send_replace(());
        }
        !self.term.has_ended()
    }

    /// Ends the term now.
    pub fn end(&self) {
        self.term.end();
    }

    pub(crate) async fn fenced_out(&self) -> Option<WentBack> {
        self.term.fenced_out().await
    }

    /// Notifies the elector that the term has ended, as a fenced-out access does.
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
        assert_eq!(term.check(), Err(NotValid::Ended(TermEnded)));
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
    async fn without_a_confirmation_a_term_is_suspended_and_resumes_with_the_next() {
        let (owner, term, clock) = term(Duration::from_secs(5));
        assert_eq!((term.validity(), term.confirmed_until()), (Validity::Valid, None));
        assert!(owner.confirm(clock.now() + Duration::from_millis(900)));
        tokio::time::advance(Duration::from_millis(899)).await;
        assert_eq!(term.validity(), Validity::Valid);
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!(term.validity(), Validity::Suspended);
        assert_eq!((term.check(), term.has_ended()), (Err(NotValid::Suspended), false));
        assert!(!term.is_valid());
        let waiting = tokio::spawn({
            let term = term.clone();
            async move { term.valid().await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        assert_eq!(term.resumptions(), 0);
        assert!(owner.confirm(clock.now() + Duration::from_millis(900)));
        assert_eq!(waiting.await.unwrap(), Ok(()));
        assert!(term.is_valid());
        assert_eq!(term.resumptions(), 1);
        // A confirmation that was sent earlier and arrives later does not move the deadline back.
        assert!(owner.confirm(clock.now() + Duration::from_millis(1)));
        tokio::time::advance(Duration::from_millis(899)).await;
        assert!(term.is_valid());
    }

    #[tokio::test(start_paused = true)]
    async fn the_earlier_of_the_two_deadlines_counts() {
        let (owner, term, clock) = term(Duration::from_secs(5));
        assert!(owner.confirm(clock.now() + Duration::from_secs(60)));
        tokio::time::advance(Duration::from_secs(5)).await;
        assert_eq!(term.validity(), Validity::Ended);
        assert!(
            !owner.confirm(clock.now() + Duration::from_secs(60)),
            "a late confirmation resumes nothing"
        );
        assert_eq!(term.validity(), Validity::Ended);
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_for_a_suspended_term_ends_with_the_term() {
        let (owner, term, clock) = term(Duration::from_secs(5));
        assert!(owner.confirm(clock.now() + Duration::from_millis(1)));
        tokio::time::advance(Duration::from_millis(1)).await;
        let begun = clock.now();
        // The owner is alive and silent: the deadline of the lease ends the wait.
        assert_eq!(term.valid().await, Err(TermEnded));
        assert!(clock.now().saturating_since(begun) >= Duration::from_millis(4_999));
        drop(owner);
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
