//! The lifetime of a role. Every call carries the lifetime of the role that it was dispatched under.

use std::fmt;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use tokio::time::{Instant, Sleep, sleep_until};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use crate::call::refusal::Refusal;
use crate::failpoint;
use crate::role::SharedGuard;

/// The lifetime of one role.
pub(crate) struct RoleLifetime {
    over: CancellationToken,
    /// The same without a lock, because it is read for each frame.
    is_over: AtomicBool,
    why: OnceLock<Refusal>,
    /// The guard of the term, if the role is leader. It is read each time, so that the term ends even if no task
    /// runs.
    guard: Option<SharedGuard>,
}

impl fmt::Debug for RoleLifetime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RoleLifetime")
            .field("why", &self.why.get())
            .finish_non_exhaustive()
    }
}

impl RoleLifetime {
    pub(crate) fn new(guard: Option<SharedGuard>) -> Arc<Self> {
        Arc::new(Self {
            over: CancellationToken::new(),
            is_over: AtomicBool::new(false),
            why: OnceLock::new(),
            guard,
        })
    }

    /// Ends the role and all its calls. The first reason is kept.
    pub(crate) fn end(&self, why: Refusal) {
        let _ = self.why.set(why);
        self.is_over.store(true, Ordering::Release);
        self.over.cancel();
    }

    /// Whether the role has ended.
    pub(crate) fn is_over(&self) -> bool {
        if failpoint::on(failpoint::ANSWERS_FOR_ENDED_TERM) {
            return false;
        }
        self.is_over.load(Ordering::Acquire) || self.guard.as_ref().is_some_and(|guard| !guard.0.is_valid())
    }

    /// Why the role ended.
    fn why(&self) -> Refusal {
        self.why.get().cloned().unwrap_or_else(Refusal::term_ended)
    }
}

/// The limits of a call: its deadline, and the lifetime of the role that it was dispatched under.
pub(crate) struct CallLimits {
    deadline: Option<Instant>,
    lifetime: Option<Arc<RoleLifetime>>,
    // Created on the first wait: many calls never wait.
    sleep: Option<Pin<Box<Sleep>>>,
    over: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
}

impl CallLimits {
    pub(crate) const fn new(deadline: Option<Instant>, lifetime: Option<Arc<RoleLifetime>>) -> Self {
        Self {
            deadline,
            lifetime,
            sleep: None,
            over: None,
        }
    }

    /// The refusal, if the role has ended. Cheap enough for each frame.
    pub(crate) fn check(&self) -> Result<(), Refusal> {
        match &self.lifetime {
            Some(lifetime) if lifetime.is_over() => Err(lifetime.why()),
            _ => Ok(()),
        }
    }

    /// Ready with the refusal once the role ends or the deadline passes. Wakes the task then.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Refusal> {
        if let Some(lifetime) = &self.lifetime {
            let over = self
                .over
                .get_or_insert_with(|| Box::pin(lifetime.over.clone().cancelled_owned()));
            let ended = over.as_mut().poll(cx).is_ready() && !failpoint::on(failpoint::ANSWERS_FOR_ENDED_TERM);
            if ended || lifetime.is_over() {
                return Poll::Ready(lifetime.why());
            }
        }
        if let Some(deadline) = self.deadline {
            let sleep = self.sleep.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
            if sleep.as_mut().poll(cx).is_ready() && !failpoint::on(failpoint::NO_DEADLINE) {
                return Poll::Ready(Refusal::deadline());
            }
        }
        Poll::Pending
    }
}
