//! Simulated processes that can be paused.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

/// Pauses a simulated process as SIGSTOP does: its futures do not run while time advances. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct PauseSwitch(Arc<Mutex<Stopped>>);

#[derive(Debug, Default)]
struct Stopped {
    is: bool,
    wakers: Vec<Waker>,
}

impl PauseSwitch {
    /// Pauses the process.
    pub fn stop(&self) {
        self.stopped().is = true;
    }

    /// Resumes the process.
    pub fn go_on(&self) {
        let wakers = {
            let mut stopped = self.stopped();
            stopped.is = false;
            std::mem::take(&mut stopped.wakers)
        };
        for waker in wakers {
            waker.wake();
        }
    }

    /// Whether the process is paused.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.stopped().is
    }

    /// Wraps a future of the process.
    pub fn run<F: Future>(&self, future: F) -> Paused<F> {
        Paused {
            pause: self.clone(),
            future: Box::pin(future),
        }
    }

    fn stopped(&self) -> MutexGuard<'_, Stopped> {
        // No code panics while it holds the lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A future that does not run while its process is paused.
#[derive(Debug)]
pub struct Paused<F> {
    pause: PauseSwitch,
    future: Pin<Box<F>>,
}

impl<F: Future> Future for Paused<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        {
            let mut stopped = self.pause.stopped();
            if stopped.is {
                stopped.wakers.push(context.waker().clone());
                return Poll::Pending;
            }
        }
        self.future.as_mut().poll(context)
    }
}
