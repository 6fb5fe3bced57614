//! Which watches are told their backlog at a time.
//!
//! When all clients of a big cluster come back at once, each is to be told of all nodes. Told all at a time, they all wait for the
//! last, everybody's bytes are under way at once, and whatever else the threads have to do waits among them. So a few are told at a
//! time, first come, first served; watches of one node, which are short, do not wait. Whoever does not take what it is told, or takes
//! it slowly, makes way for the next, and goes on beside it. One caller has a part of the turns, and waits for its own beyond that: so
//! however many watches it opens, others have theirs.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, OwnedSemaphorePermit};
use tokio::time::{Instant, sleep};

use crate::auth::Caller;
use crate::leader::nodes::callers::{Call, Callers};

/// As many at a time: enough that those who are slow hold up nobody, and few enough that each is done soon.
const MAX_TURNS: usize = 32;
/// And of one caller.
const OF_CALLER: usize = 8;
/// Who has taken nothing for so long is not waited for ...
const STALLED: Duration = Duration::from_millis(500);
/// ... nor who has had its turn for so long.
const MAX_TURN_TIME: Duration = Duration::from_secs(5);

/// The turns of one leader.
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

/// A turn as the others see it.
#[derive(Debug)]
struct Held {
    began: Instant,
    /// When it was last seen to take something.
    moved: Instant,
    /// Of its caller's turns.
    _own: OwnedSemaphorePermit,
}

/// A turn. Dropping it ends it.
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
    /// Waits for a turn of this caller; `None` if there are none any more. Cancellation safe.
    pub(crate) async fn turn(self: &Arc<Self>, caller: &Caller) -> Option<Turn> {
        // How many watches there are, the listener bounds.
        let call = self.callers.enter(caller, usize::MAX)?;
        let mut own = pin!(call.turns().acquire_owned());
        // The own ones first: who waits for them stands in nobody's way.
        let own = loop {
            tokio::select! {
                own = &mut own => break own.ok()?,
                () = sleep(STALLED) => self.turns().pass_over(Instant::now()),
            }
        };
        let mut own = Some(own);
        loop {
            let mut freed = pin!(self.freed.notified());
            // In the queue before it is looked, so that nothing is missed.
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
    /// Ends the turns of those who are not waited for.
    fn pass_over(&mut self, now: Instant) {
        self.held.retain(|_, held| {
            now.duration_since(held.moved) < STALLED && now.duration_since(held.began) < MAX_TURN_TIME
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
    /// Something was taken.
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

    /// A turn for each of so many nodes.
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
        let _first = first.now_or_never().expect("the first that came");
        assert!(second.as_mut().now_or_never().is_none());
        drop(turns.pop());
        second.now_or_never().expect("then the next");
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_takes_nothing_is_not_waited_for_and_whoever_does_is() {
        let backlogs = Arc::new(Backlogs::default());
        let turns = turns(&backlogs, 0..MAX_TURNS);
        let next = node(MAX_TURNS);
        let moving = async {
            loop {
                sleep(STALLED / 3).await;
                turns.iter().for_each(Turn::moves);
            }
        };
        let waited = async {
            tokio::select! {
                () = moving => false,
                _ = backlogs.turn(&next) => true,
                () = sleep(MAX_TURN_TIME - STALLED) => false,
            }
        };
        assert!(!waited.await, "all of them get on");
        let next = timeout(STALLED * 3, backlogs.turn(&next))
            .await
            .expect("they stall now");
        // Those who go on nevertheless have no turn any more, and end nobody's.
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
        stays.now_or_never().expect("what the other was told is for this one");
    }

    /// It opens many, and takes a little of each now and then.
    #[tokio::test(start_paused = true)]
    async fn one_caller_keeps_no_other_from_its_turn() {
        let backlogs = Arc::new(Backlogs::default());
        let hog = node(0);
        let mut opened: Vec<_> = (0..1_000).map(|_| Box::pin(backlogs.turn(&hog))).collect();
        let held: Vec<_> = opened
            .iter_mut()
            .filter_map(|turn| turn.as_mut().now_or_never())
            .collect();
        assert!(!held.is_empty(), "it has its part");
        let others = turns(&backlogs, 1..21);
        assert_eq!(others.len(), 20, "at once");
        // And with all turns taken, by those who get on, none of them has one without end.
        let rest = turns(&backlogs, 21..21 + MAX_TURNS - held.len() - others.len());
        let last = node(MAX_TURNS);
        let moving = async {
            loop {
                sleep(STALLED / 3).await;
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
        assert_eq!(backlogs.callers.count(), 0, "nothing stays of those who have gone");
    }
}
