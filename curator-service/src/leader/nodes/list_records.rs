//! Lists of nodes that are being told, each as the nodes were at one moment.
//!
//! A list shares its records with the state and with all other lists, and each message is made when it is asked for: whoever does not
//! read one costs a few bytes for each node. What it would cost in the end are records that have changed since, so a list that is not
//! taken in time is taken back.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use curator_election::clock::{Instant, SharedClock};
use curator_proto::management_api::Node;
use futures::Stream;
use tonic::Status;

use crate::telemetry;

/// How long it may take to be taken. In this time all nodes together change no more than what `pace` lets them.
const PATIENCE: Duration = Duration::from_secs(120);
/// How often it is looked for those that were not.
const LOOK: Duration = Duration::from_secs(10);

/// Makes the messages of a list, one after the other.
pub(in crate::leader) type Items = Box<dyn Iterator<Item = Result<Node, Status>> + Send>;

/// What is left of a list; `None` once it is taken back.
type Slot = Arc<Mutex<Option<Items>>>;

/// All lists that are being told.
pub(in crate::leader) struct Lists {
    clock: SharedClock,
    open: Arc<Mutex<Open>>,
}

#[derive(Default)]
struct Open {
    next: u64,
    lists: BTreeMap<u64, (Instant, Slot)>,
}

impl Lists {
    pub(in crate::leader) fn new(clock: SharedClock) -> Self {
        Self {
            clock,
            open: Arc::default(),
        }
    }

    /// Begins to tell one.
    pub(in crate::leader) fn tell(&self, items: Items) -> List {
        let slot: Slot = Arc::new(Mutex::new(Some(items)));
        let mut open = locked(&self.open);
        let number = open.next;
        open.next += 1;
        open.lists.insert(number, (self.clock.now() + PATIENCE, slot.clone()));
        drop(open);
        List {
            slot,
            number,
            open: self.open.clone(),
        }
    }

    /// How many are being told.
    #[cfg(test)]
    pub(in crate::leader) fn told(&self) -> usize {
        locked(&self.open).lists.len()
    }

    /// Takes back what is not taken in time. Never returns.
    pub(in crate::leader) async fn run(&self) {
        loop {
            self.clock.sleep_until(self.clock.now() + LOOK).await;
            self.take_back();
        }
    }

    fn take_back(&self) {
        let now = self.clock.now();
        let late: Vec<Slot> = {
            let mut open = locked(&self.open);
            // In the order of their ends.
            let first_in_time = open
                .lists
                .iter()
                .find(|(_, (until, _))| *until > now)
                .map(|(number, _)| *number);
            let kept = first_in_time.map_or_else(BTreeMap::new, |number| open.lists.split_off(&number));
            let late = std::mem::replace(&mut open.lists, kept);
            late.into_values().map(|(_, slot)| slot).collect()
        };
        metrics::counter!(telemetry::LISTS_TAKEN_BACK).increment(late.len() as u64);
        for slot in late {
            let items = locked(&slot).take();
            drop(items);
        }
    }
}

/// One that is being told.
pub(in crate::leader) struct List {
    slot: Slot,
    number: u64,
    open: Arc<Mutex<Open>>,
}

impl Stream for List {
    type Item = Result<Node, Status>;

    fn poll_next(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut slot = locked(&self.slot);
        let Some(items) = slot.as_mut() else {
            *slot = Some(Box::new(std::iter::empty()));
            return Poll::Ready(Some(Err(Status::aborted(format!(
                "the list was not taken within {PATIENCE:?}: ask for it again"
            )))));
        };
        Poll::Ready(items.next())
    }
}

impl Drop for List {
    fn drop(&mut self) {
        locked(&self.open).lists.remove(&self.number);
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What a message is made of cannot fail half-way.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use curator_election::clock::TokioClock;
    use futures::{FutureExt, StreamExt};
    use tonic::Code;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_list_that_nobody_takes_is_taken_back_and_one_that_is_taken_ends() {
        let lists = Lists::new(Arc::new(TokioClock::new()));
        let held = Arc::new(());
        let items = |held: Arc<()>| -> Items {
            Box::new((0..3).map(move |_| {
                let _held = &held;
                Ok(Node::default())
            }))
        };
        let mut slow = lists.tell(items(held.clone()));
        assert!(slow.next().await.is_some_and(|node| node.is_ok()));
        let quick: Vec<_> = lists.tell(items(held.clone())).collect().await;
        assert_eq!(quick.len(), 3);
        assert_eq!(Arc::strong_count(&held), 2, "what has ended holds nothing");
        let mut looks = Box::pin(lists.run());
        assert!(looks.as_mut().now_or_never().is_none());
        tokio::time::sleep(PATIENCE / 2).await;
        let mut later = lists.tell(items(held.clone()));
        assert!(looks.as_mut().now_or_never().is_none());
        assert_eq!(Arc::strong_count(&held), 3);
        tokio::time::timeout(PATIENCE / 2 + LOOK, looks)
            .await
            .expect_err("never");
        assert_eq!(Arc::strong_count(&held), 2, "the first is taken back");
        let told = slow.next().await.unwrap().unwrap_err();
        assert_eq!(told.code(), Code::Aborted);
        assert!(slow.next().await.is_none());
        assert!(later.next().await.is_some_and(|node| node.is_ok()));
        drop((slow, later));
        assert_eq!(lists.told(), 0);
        assert_eq!(Arc::strong_count(&held), 1);
    }
}
