//! Waiting for room in the memory budget: first come, first served within a party, and polling for room that others
//! return.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::time::{Sleep, sleep};

use crate::memory::{Account, ConnectionMemory};
use crate::telemetry;

/// The first polling delay. It doubles up to the maximum.
const INITIAL_BACKOFF: Duration = Duration::from_millis(20);
const MAX_BACKOFF: Duration = Duration::from_secs(1);

/// The waiters of one party, first come, first served.
#[derive(Debug, Default)]
pub(crate) struct Waiters {
    /// The number of waiters, so that the lock is not taken while there are none.
    number: AtomicUsize,
    queue: Mutex<Queue>,
}

#[derive(Debug, Default)]
struct Queue {
    next: u64,
    wakers: BTreeMap<u64, Waker>,
}

impl Waiters {
    /// Wakes the first waiter: there may be room.
    pub(crate) fn wake_one(&self) {
        if self.number.load(Ordering::SeqCst) == 0 {
            return;
        }
        let first = self.queue().wakers.pop_first();
        if let Some((_, waker)) = first {
            self.number.fetch_sub(1, Ordering::SeqCst);
            waker.wake();
        }
    }

    /// Queues a waiter, or keeps its position.
    fn wait(&self, position: &mut Option<u64>, waker: &Waker) {
        let mut queue = self.queue();
        if let Some(known) = position.and_then(|position| queue.wakers.get_mut(&position)) {
            known.clone_from(waker);
            return;
        }
        let new = queue.next;
        queue.next += 1;
        queue.wakers.insert(new, waker.clone());
        self.number.fetch_add(1, Ordering::SeqCst);
        *position = Some(new);
    }

    /// Removes a waiter. Returns whether it had been woken.
    fn leave(&self, position: u64) -> bool {
        let left = self.queue().wakers.remove(&position).is_some();
        if left {
            self.number.fetch_sub(1, Ordering::SeqCst);
        }
        !left
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        // No panic is possible while the lock is held.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Waits for room, repeatedly.
#[derive(Debug, Default)]
pub(crate) struct RoomWait {
    waiting: Option<Waiting>,
}

#[derive(Debug)]
struct Waiting {
    account: Arc<Account>,
    position: Option<u64>,
    pause: Duration,
    again: Pin<Box<Sleep>>,
}

impl RoomWait {
    /// Ready when the connection may use more.
    pub(crate) fn poll(&mut self, held: &ConnectionMemory, cx: &mut Context<'_>) -> Poll<()> {
        if held.has_room() {
            if self.waiting.take().is_some() {
                // There may be room for another waiter.
                held.account.waiters.wake_one();
            }
            return Poll::Ready(());
        }
        let waiting = self.waiting.get_or_insert_with(|| {
            telemetry::waits_for_room();
            Waiting {
                account: held.account.clone(),
                position: None,
                pause: INITIAL_BACKOFF,
                again: Box::pin(sleep(INITIAL_BACKOFF)),
            }
        });
        loop {
            waiting.account.waiters.wait(&mut waiting.position, cx.waker());
            // Check again after queueing, so that no change is missed.
            if held.has_room() {
                self.waiting = None;
                return Poll::Ready(());
            }
            if waiting.again.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            waiting.pause = (waiting.pause * 2).min(MAX_BACKOFF);
            waiting.again = Box::pin(sleep(waiting.pause));
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        // A waiter that was woken and does not go on passes the wakeup to the next one.
        if self
            .position
            .take()
            .is_some_and(|position| self.account.waiters.leave(position))
        {
            self.account.waiters.wake_one();
        }
    }
}
