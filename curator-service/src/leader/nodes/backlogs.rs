//! Limits how many watches send their backlog at a time.
//!
//! When all clients of a large cluster reconnect, each of them receives all nodes. Sending all backlogs at once would
//! delay every one of them, buffer all of their bytes, and starve other work. So only a few backlogs are sent at a
//! time, in order of arrival. A watch of a single node does not wait. A watch that reads slowly or not at all loses its
//! turn to the next one and continues beside it. Each caller has a limited number of turns, so a caller with many
//! watches does not block others.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, OwnedSemaphorePermit};
use tokio::time::{Instant, sleep};

use crate::auth::Caller;
use crate::leader::nodes::callers::{Call, Callers};

/// Maximum backlogs at a time: enough that slow watches do not block others, few enough that each is sent quickly.
const MAX_TURNS: usize = 32;
/// Maximum backlogs of one caller at a time.
const OF_CALLER: usize = 8;
/// A turn ends when the watch has read nothing for this long.
const STALL_TIMEOUT: Duration = Duration::from_millis(500);
/// Maximum duration of a turn.
const MAX_TURN_TIME: Duration = Duration::from_secs(5);

/// The backlog turns of one leader.
#[derive(Debug)]
pub(crate) struct Backlogs {
    callers: Callers,
    turns: Mutex<Turns>,
    freed: Notify,
}

#[derive(Debug, Default)]
struct Turns {
    next: u64,
    held: HashMap<u64, Held>,
}

/// The shared state of a turn.
#[derive(Debug)]
struct Held {
    began: Instant,
    /// When the watch last read an event.
    moved: Instant,
    /// A permit of the caller's own limit.
    _own: OwnedSemaphorePermit,
}

/// A turn to send a backlog. Dropping it ends it.
#[derive(Debug)]
pub(crate) struct Turn {
    backlogs: Arc<Backlogs>,
    number: u64,
    _call: Call,
}

impl Default for Backlogs {
    fn default() -> Self {
        Self {
            callers: Callers::new(OF_CALLER),
            turns: Mutex::default(),
            freed: Notify::new(),
        }
    }
}

impl Backlogs {
    /// Waits for a turn of this caller; `None` if turns are no longer given. Cancellation safe.
    pub(crate) async fn turn(self: &Arc<Self>, caller: &Caller) -> Option<Turn> {
        // The listener limits the number of watches.
        let call = self.callers.enter(caller, usize::MAX)?;
        let mut own = pin!(call.turns().acquire_owned());
        // Take the caller's own permit first: a waiting caller then blocks no other caller.
        let own = loop {
            tokio::select! {
                own = &mut own => break own.ok()?,
                () = sleep(STALL_TIMEOUT) => self.turns().pass_over(Instant::now()),
            }
        };
        let mut own = Some(own);
        loop {
            let mut freed = pin!(self.freed.notified());
            // Register for the notification before checking, so that none is missed.
            freed.as_mut().enable();
            if let Some(number) = self.turns().take(Instant::now(), &mut own) {
                return Some(Turn {
                    backlogs: self.clone(),
                    number,
                    _call: call,
                });
            }
            tokio::select! {
                () = freed => {}
                () = sleep(STALL_TIMEOUT) => {}
            }
        }
    }

    fn turns(&self) -> MutexGuard<'_, Turns> {
        // No code panics while it holds the lock.
        self.turns.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Turns {
    /// Ends turns that stalled or took too long.
    fn pass_over(&mut self, now: Instant) {
        self.held.retain(|_, held| {
            now.duration_since(held.moved) < STALL_TIMEOUT && now.duration_since(held.began) < MAX_TURN_TIME
        });
    }

    fn take(&mut self, now: Instant, own: &mut Option<OwnedSemaphorePermit>) -> Option<u64> {
        if self.held.len() >= MAX_TURNS {
            self.pass_over(now);
        }
        if self.held.len() >= MAX_TURNS {
            return None;
        }
        let number = self.next;
        self.next += 1;
        let held = Held {
            began: now,
            moved: now,
            _own: own.take()?,
        };
        self.held.insert(number, held);
        Some(number)
    }
}

impl Turn {
    /// Records that an event was read.
    pub(crate) fn moves(&self) {
        if let Some(held) = self.backlogs.turns().held.get_mut(&self.number) {
            held.moved = Instant::now();
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.backlogs.turns().held.remove(&self.number);
        self.backlogs.freed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;
    use tokio::time::timeout;

    use super::*;

    fn node(number: usize) -> Caller {
        Caller::Node {
            id: format!("node-{number}"),
            public_key: None,
        }
    }

    /// Takes a turn for each of these nodes.
    fn turns(backlogs: &Arc<Backlogs>, nodes: std::ops::Range<usize>) -> Vec<Turn> {
        let turn = |number| backlogs.turn(&node(number)).now_or_never().expect("room");
        nodes.map(|number| turn(number).expect("not ended")).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_few_have_their_turn_at_a_time_and_in_the_order_in_which_they_came() {
        let backlogs = Arc::new(Backlogs::default());
        let mut turns = turns(&backlogs, 0..MAX_TURNS);
        let (one, other) = (node(MAX_TURNS), node(MAX_TURNS + 1));
        let (mut first, mut second) = (pin!(backlogs.turn(&one)), pin!(backlogs.turn(&other)));
        assert!(first.as_mut().now_or_never().is_none());
        assert!(second.as_mut().now_or_never().is_none());
        drop(turns.pop());
        let _first = first.now_or_never().expect("the first waiter gets the turn");
        assert!(second.as_mut().now_or_never().is_none());
        drop(turns.pop());
        second.now_or_never().expect("the next waiter gets the turn");
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_takes_nothing_is_not_waited_for_and_whoever_does_is() {
        let backlogs = Arc::new(Backlogs::default());
        let turns = turns(&backlogs, 0..MAX_TURNS);
        let next = node(MAX_TURNS);
        let moving = async {
            loop {
                sleep(STALL_TIMEOUT / 3).await;
                turns.iter().for_each(Turn::moves);
            }
        };
        let waited = async {
            tokio::select! {
                () = moving => false,
                _ = backlogs.turn(&next) => true,
                () = sleep(MAX_TURN_TIME - STALL_TIMEOUT) => false,
            }
        };
        assert!(!waited.await, "all watches progress");
        let next = timeout(STALL_TIMEOUT * 3, backlogs.turn(&next))
            .await
            .expect("stalled watches lose their turns");
        // A watch that continues without a turn does not end the turn of another.
        drop(turns);
        assert_eq!(backlogs.turns().held.len(), 1);
        drop(next);
        assert!(backlogs.turns().held.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_goes_away_while_it_waits_takes_nobodys_turn_with_it() {
        let backlogs = Arc::new(Backlogs::default());
        let mut turns = turns(&backlogs, 0..MAX_TURNS);
        let (one, other) = (node(MAX_TURNS), node(MAX_TURNS + 1));
        let mut gone = Box::pin(backlogs.turn(&one));
        assert!(gone.as_mut().now_or_never().is_none());
        let mut stays = pin!(backlogs.turn(&other));
        assert!(stays.as_mut().now_or_never().is_none());
        drop(turns.pop());
        drop(gone);
        stays
            .now_or_never()
            .expect("the notification of the cancelled waiter is passed on");
    }

    /// The caller opens many watches and reads a little from each now and then.
    #[tokio::test(start_paused = true)]
    async fn one_caller_keeps_no_other_from_its_turn() {
        let backlogs = Arc::new(Backlogs::default());
        let hog = node(0);
        let mut opened: Vec<_> = (0..1_000).map(|_| Box::pin(backlogs.turn(&hog))).collect();
        let held: Vec<_> = opened
            .iter_mut()
            .filter_map(|turn| turn.as_mut().now_or_never())
            .collect();
        assert!(!held.is_empty(), "the caller has its share");
        let others = turns(&backlogs, 1..21);
        assert_eq!(others.len(), 20, "at once");
        // Even while progressing watches hold all turns, no turn lasts indefinitely.
        let rest = turns(&backlogs, 21..21 + MAX_TURNS - held.len() - others.len());
        let last = node(MAX_TURNS);
        let moving = async {
            loop {
                sleep(STALL_TIMEOUT / 3).await;
                held.iter().flatten().chain(&others).chain(&rest).for_each(Turn::moves);
            }
        };
        tokio::select! {
            () = moving => {}
            turn = timeout(Duration::from_secs(10), backlogs.turn(&last)) => {
                turn.expect("in time").expect("not ended");
            }
        }
        drop((held, opened, others, rest));
        assert_eq!(backlogs.callers.count(), 0, "callers without calls take no memory");
    }
}
