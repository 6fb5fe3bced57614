//! Processes that can be stopped.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

/// A process that can be stopped as by SIGSTOP: nothing in it runs, while the time goes on. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct PauseSwitch(Arc<Mutex<Stopped>>);

#[derive(Debug, Default)]
struct Stopped {
    is: bool,
    wakers: Vec<Waker>,
}

impl PauseSwitch {
    /// Nothing of the process runs from now on.
    pub fn stop(&self) {
        self.stopped().is = true;
    }

    /// All of it runs again.
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

    /// Whether it is stopped.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.stopped().is
    }

    /// The future as a part of the process.
    pub fn run<F: Future>(&self, future: F) -> Paused<F> {
        Paused {
            pause: self.clone(),
            future: Box::pin(future),
        }
    }

    fn stopped(&self) -> MutexGuard<'_, Stopped> {
        // Nothing that holds the lock can panic half-way.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What [`PauseSwitch::run`] makes of a future.
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
