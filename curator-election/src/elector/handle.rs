//! A handle for people: the status at this moment, waiting for a term, work within it, pausing, and another value.

use super::{ElectorGone, ElectorHandle, ProclaimError, Proclaimed};
use crate::status::ElectionStatus;
use crate::term::Term;
use crate::value::LeaderValue;

/// What became of work within a term.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum WhileLeading<T> {
    /// The work completed within the term.
    Done(T),
    /// The term ended first, and the work was cancelled. What it had done is not undone.
    TermEnded,
}

impl<V: LeaderValue> ElectorHandle<V> {
    /// The status at this moment. It is a clone: nothing is locked while it is kept.
    ///
    /// ```compile_fail,E0308
    /// # fn handle() -> curator_election::ElectorHandle<curator_election::PlainText> { unimplemented!() }
    /// use tokio::sync::watch::Ref;
    /// // A `Ref` that is held over an await blocks the elector.
    /// let status: Ref<'_, _> = handle().current();
    /// ```
    #[must_use]
    pub fn current(&self) -> ElectionStatus<V> {
        self.status.borrow().clone()
    }

    /// Waits until this instance leads. Returns the term, which is valid at that moment.
    ///
    /// Cancellation safe.
    ///
    /// # Errors
    /// If the elector has stopped.
    pub async fn leading(&self) -> Result<Term, ElectorGone> {
        let mut status = self.status();
        let led = async {
            loop {
                match status.wait_for(|status| status.valid_term().is_some()).await {
                    Ok(status) => {
                        if let Some(term) = status.valid_term() {
                            return term.clone();
                        }
                    }
                    // Without a sender there is no elector: the other branch completes.
                    Err(_) => std::future::pending().await,
                }
            }
        };
        tokio::select! {
            biased;
            () = self.requests.closed() => Err(ElectorGone),
            term = led => Ok(term),
        }
    }

    /// Waits until this instance leads, and runs the work until it completes or the term ends, whichever is first. The
    /// work is dropped at the end of the term: at an await, so work that blocks its thread goes on.
    ///
    /// ```
    /// # use curator_election::{ElectorGone, ElectorHandle, PlainText, WhileLeading};
    /// # async fn collect_garbage() {}
    /// # async fn each_term(handle: ElectorHandle<PlainText>) -> Result<(), ElectorGone> {
    /// loop {
    ///     match handle.while_leading(|_term| collect_garbage()).await? {
    ///         WhileLeading::Done(()) => return Ok(()),
    ///         WhileLeading::TermEnded => println!("another instance may lead now"),
    ///     }
    /// }
    /// # }
    /// ```
    ///
    /// Cancellation: the work is dropped as well.
    ///
    /// # Errors
    /// If the elector has stopped before this instance led.
    pub async fn while_leading<F, W>(&self, work: F) -> Result<WhileLeading<W::Output>, ElectorGone>
    where
        F: FnOnce(Term) -> W,
        W: Future,
    {
        let term = self.leading().await?;
        let work = work(term.clone());
        tokio::select! {
            biased;
            () = term.ended() => Ok(WhileLeading::TermEnded),
            done = work => Ok(WhileLeading::Done(done)),
        }
    }

    /// Stops the candidacy until [`resume`](Self::resume): the term ends, if there is one, and the lease is revoked.
    /// Returns after that, or at once if the elector does not run yet. The status is then that of an observer:
    /// follower, or undetermined.
    ///
    /// Cancellation: the pause remains in effect.
    ///
    /// # Errors
    /// If the elector has stopped.
    pub async fn pause(&self) -> Result<(), ElectorGone> {
        self.control.set_paused(true);
        if self.requests.is_closed() {
            return Err(ElectorGone);
        }
        self.control.idle().await
    }

    /// Ends a [`pause`](Self::pause): the elector campaigns again, behind the other candidates.
    pub fn resume(&self) {
        self.control.set_paused(false);
    }

    /// Campaigns with another value of the same candidate from now on, and changes it in the own key: at once as the
    /// leader, and in its place in the queue as a candidate.
    ///
    /// Cancellation: the value may be in effect or not; calling again is safe.
    ///
    /// # Errors
    /// If the value is of another candidate, the term ended meanwhile, the store fails, or the elector has stopped.
    pub async fn proclaim(&self, value: &V) -> Result<Proclaimed, ProclaimError> {
        let (own, given) = (&*self.control.candidate_id, value.candidate_id());
        if own != given {
            return Err(ProclaimError::OtherCandidate {
                own: own.to_owned(),
                given: given.to_owned(),
            });
        }
        self.control.proclaim(value.encode().into()).await
    }
}
