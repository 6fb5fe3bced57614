//! Which watches are told their backlog at a time.
//!
//! When all clients of a big cluster come back at once, each is to be told of all nodes. Told all at a time, they all wait for the
//! last, everybody's bytes are under way at once, and whatever else the threads have to do waits among them. So a few are told at a
//! time, first come, first served; watches of one node, which are short, do not wait. Whoever does not take what it is told makes
//! way for the next, and goes on beside it.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep};

/// As many at a time: enough that those who are slow hold up nobody, and few enough that each is done soon.
const MOST: usize = 32;
/// Who has taken nothing for so long is not waited for.
const STALLED: Duration = Duration::from_millis(500);

/// The turns of one leader.
#[derive(Debug, Default)]
pub(crate) struct Backlogs {
    turns: Mutex<Turns>,
    freed: Notify,
}

#[derive(Debug, Default)]
struct Turns {
    next: u64,
    /// When each was last seen to take something.
    moved: HashMap<u64, Instant>,
}

/// A turn. Dropping it ends it.
#[derive(Debug)]
pub(crate) struct Turn {
    backlogs: Arc<Backlogs>,
    number: u64,
}

impl Backlogs {
    /// Waits for a turn. Cancellation safe.
    pub(crate) async fn turn(self: &Arc<Self>) -> Turn {
        loop {
            let mut freed = pin!(self.freed.notified());
            // In the queue before it is looked, so that nothing is missed.
            freed.as_mut().enable();
            if let Some(number) = self.turns().take(Instant::now()) {
                let turn = Turn {
                    backlogs: self.clone(),
                    number,
                };
                return turn;
            }
            tokio::select! {
                () = freed => {}
                () = sleep(STALLED) => {}
            }
        }
    }

    fn turns(&self) -> MutexGuard<'_, Turns> {
        // Nothing that holds the lock can panic half-way.
        self.turns.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Turns {
    fn take(&mut self, now: Instant) -> Option<u64> {
        if self.moved.len() >= MOST {
            self.moved.retain(|_, moved| now.duration_since(*moved) < STALLED);
        }
        if self.moved.len() >= MOST {
            return None;
        }
        let number = self.next;
        self.next += 1;
        self.moved.insert(number, now);
        Some(number)
    }
}

impl Turn {
    /// Something was taken.
    pub(crate) fn moves(&self) {
        if let Some(moved) = self.backlogs.turns().moved.get_mut(&self.number) {
            *moved = Instant::now();
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.backlogs.turns().moved.remove(&self.number);
        self.backlogs.freed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;
    use tokio::time::timeout;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_few_have_their_turn_at_a_time_and_in_the_order_in_which_they_came() {
        let backlogs = Arc::new(Backlogs::default());
        let mut turns: Vec<_> = (0..MOST)
            .map(|_| backlogs.turn().now_or_never().expect("room"))
            .collect();
        let (mut first, mut second) = (pin!(backlogs.turn()), pin!(backlogs.turn()));
        assert!(first.as_mut().now_or_never().is_none());
        assert!(second.as_mut().now_or_never().is_none());
        drop(turns.pop());
        let _first = first.now_or_never().expect("the first that came");
        assert!(second.as_mut().now_or_never().is_none());
        drop(turns.pop());
        second.now_or_never().expect("then the next");
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_takes_nothing_is_not_waited_for_and_whoever_does_is() {
        let backlogs = Arc::new(Backlogs::default());
        let turns: Vec<_> = (0..MOST)
            .map(|_| backlogs.turn().now_or_never().expect("room"))
            .collect();
        let moving = async {
            loop {
                sleep(STALLED / 3).await;
                turns.iter().for_each(Turn::moves);
            }
        };
        let waited = async {
            tokio::select! {
                () = moving => false,
                _ = backlogs.turn() => true,
                () = sleep(STALLED * 20) => false,
            }
        };
        assert!(!waited.await, "all of them get on");
        let next = timeout(STALLED * 3, backlogs.turn()).await.expect("they stall now");
        // Those who go on nevertheless have no turn any more, and end nobody's.
        drop(turns);
        assert_eq!(backlogs.turns().moved.len(), 1);
        drop(next);
        assert!(backlogs.turns().moved.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_goes_away_while_it_waits_takes_nobodys_turn_with_it() {
        let backlogs = Arc::new(Backlogs::default());
        let mut turns: Vec<_> = (0..MOST)
            .map(|_| backlogs.turn().now_or_never().expect("room"))
            .collect();
        let mut gone = Box::pin(backlogs.turn());
        assert!(gone.as_mut().now_or_never().is_none());
        let mut stays = pin!(backlogs.turn());
        assert!(stays.as_mut().now_or_never().is_none());
        drop(turns.pop());
        drop(gone);
        stays.now_or_never().expect("what the other was told is for this one");
    }
}
