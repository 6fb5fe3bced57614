//! Waiting for room: in turns within a party, and by asking again now and then, since others may give back as well.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::time::{Sleep, sleep};

use super::{Account, Held};
use crate::meters;

/// The first pause before it is asked again what others have given back; it doubles up to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Those of one party that wait for room, first come, first served.
#[derive(Debug, Default)]
pub(crate) struct Waiters {
    /// How many there are, so that nobody takes the lock while there are none.
    number: AtomicUsize,
    queue: Mutex<Queue>,
}

#[derive(Debug, Default)]
struct Queue {
    next: u64,
    wakers: BTreeMap<u64, Waker>,
}

impl Waiters {
    /// Tells the first of them that there may be room.
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

    /// Queues up, or stays where it is.
    fn wait(&self, place: &mut Option<u64>, waker: &Waker) {
        let mut queue = self.queue();
        if let Some(known) = place.and_then(|place| queue.wakers.get_mut(&place)) {
            known.clone_from(waker);
            return;
        }
        let new = queue.next;
        queue.next += 1;
        queue.wakers.insert(new, waker.clone());
        self.number.fetch_add(1, Ordering::SeqCst);
        *place = Some(new);
    }

    /// Waits no longer; says whether it had been told.
    fn leave(&self, place: u64) -> bool {
        let left = self.queue().wakers.remove(&place).is_some();
        if left {
            self.number.fetch_sub(1, Ordering::SeqCst);
        }
        !left
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        // Nothing that holds the lock can panic half-way.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Waits for room, again and again.
#[derive(Debug, Default)]
pub(crate) struct Turn {
    waiting: Option<Waiting>,
}

#[derive(Debug)]
struct Waiting {
    account: Arc<Account>,
    place: Option<u64>,
    pause: Duration,
    again: Pin<Box<Sleep>>,
}

impl Turn {
    /// Ready when the connection may hold more.
    pub(crate) fn poll(&mut self, held: &Held, cx: &mut Context<'_>) -> Poll<()> {
        if held.has_room() {
            if self.waiting.take().is_some() {
                // There may be room for more than one.
                held.account.waiters.wake_one();
            }
            return Poll::Ready(());
        }
        let waiting = self.waiting.get_or_insert_with(|| {
            meters::waits_for_room();
            Waiting {
                account: held.account.clone(),
                place: None,
                pause: FIRST_PAUSE,
                again: Box::pin(sleep(FIRST_PAUSE)),
            }
        });
        loop {
            waiting.account.waiters.wait(&mut waiting.place, cx.waker());
            // Asked once more, now that no change is missed.
            if held.has_room() {
                self.waiting = None;
                return Poll::Ready(());
            }
            if waiting.again.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            waiting.pause = (waiting.pause * 2).min(LONGEST_PAUSE);
            waiting.again = Box::pin(sleep(waiting.pause));
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        // What it was told is for the next one, if it did not go on itself.
        if self.place.take().is_some_and(|place| self.account.waiters.leave(place)) {
            self.account.waiters.wake_one();
        }
    }
}
