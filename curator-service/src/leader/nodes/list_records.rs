//! Lists of nodes that are being told, each as the nodes were at one moment.
//!
//! A list shares its records with the state and with all other lists, and each message is made when it is asked for: whoever does not
//! read one costs a few bytes for each node. What it would cost in the end are records that have changed since, so a list that is not
//! taken in time is taken back. And all lists together may name so many nodes and no more: for one more, whoever has
//! most makes room.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use curator_election::clock::{Instant, SharedClock};
use curator_proto::management_api::Node;
use futures::Stream;
use tonic::Status;

use crate::auth::Caller;
use crate::leader::nodes::callers;
use crate::telemetry;
use curator_identity::pushback;

/// How many nodes all lists together may name: with 32 bytes for each that is 64 MiB.
const MOST: usize = 2 << 20;
/// How many of these those of nodes may name, so that there is always something left for users.
const OF_NODES: usize = MOST / 4 * 3;
/// A list counts as so many nodes more, for what there is of it beside them.
const EACH: usize = 16;
/// When whoever found no room may come again.
const AGAIN: Duration = Duration::from_secs(5);
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
    lists: BTreeMap<u64, Told>,
    /// How many nodes all of them keep, and those of nodes.
    size: usize,
    of_nodes: usize,
    callers: HashMap<String, Theirs>,
}

struct Told {
    until: Instant,
    slot: Slot,
    size: usize,
    caller: String,
}

/// The lists of one caller.
#[derive(Default)]
struct Theirs {
    is_user: bool,
    size: usize,
    lists: BTreeSet<u64>,
}

impl Open {
    fn insert(&mut self, told: Told, is_user: bool) -> u64 {
        let number = self.next;
        self.next += 1;
        let theirs = self.callers.entry(told.caller.clone()).or_default();
        theirs.is_user = is_user;
        theirs.size += told.size;
        theirs.lists.insert(number);
        self.size += told.size;
        self.of_nodes += if is_user { 0 } else { told.size };
        self.lists.insert(number, told);
        number
    }

    fn remove(&mut self, number: u64) -> Option<Told> {
        let told = self.lists.remove(&number)?;
        self.size -= told.size;
        if let Some(theirs) = self.callers.get_mut(&told.caller) {
            self.of_nodes -= if theirs.is_user { 0 } else { told.size };
            theirs.size -= told.size;
            theirs.lists.remove(&number);
            if theirs.lists.is_empty() {
                self.callers.remove(&told.caller);
            }
        }
        Some(told)
    }

    /// Makes room for a list of this caller, by those who have more than it would have with it: the oldest lists of whoever has most
    /// are taken back. `None` if there are no such callers.
    fn make_room(&mut self, caller: &str, is_user: bool, size: usize) -> Option<Vec<Slot>> {
        let would_have = size + self.callers.get(caller).map_or(0, |theirs| theirs.size);
        let mut taken_back = Vec::new();
        loop {
            let nodes_are_full = !is_user && self.of_nodes + size > OF_NODES;
            if !nodes_are_full && self.size + size <= MOST {
                return Some(taken_back);
            }
            let others = self
                .callers
                .values()
                .filter(|theirs| !(nodes_are_full && theirs.is_user));
            let most = others.max_by_key(|theirs| theirs.size)?;
            if most.size <= would_have {
                return None;
            }
            let oldest = *most.lists.first()?;
            taken_back.extend(self.remove(oldest).map(|told| told.slot));
        }
    }
}

impl Lists {
    pub(in crate::leader) fn new(clock: SharedClock) -> Self {
        Self {
            clock,
            open: Arc::default(),
        }
    }

    /// Begins to tell one that keeps so many nodes. Refuses if there is no room for it, and nobody who has more than this caller.
    pub(in crate::leader) fn tell(&self, caller: &Caller, nodes: usize, items: Items) -> Result<List, Status> {
        let slot: Slot = Arc::new(Mutex::new(Some(items)));
        let told = Told {
            until: self.clock.now() + PATIENCE,
            slot: slot.clone(),
            size: nodes + EACH,
            caller: callers::name(caller),
        };
        let is_user = matches!(caller, Caller::User { .. });
        let begun = {
            let mut open = locked(&self.open);
            let room = open.make_room(&told.caller, is_user, told.size);
            room.map(|taken_back| (open.insert(told, is_user), taken_back))
        };
        let Some((number, taken_back)) = begun else {
            metrics::counter!(telemetry::LISTS_REFUSED).increment(1);
            let refused = Status::resource_exhausted(
                "there is no room for another list of nodes: take those that are open, or end their calls",
            );
            return Err(pushback::with_pushback(refused, AGAIN));
        };
        take_back(taken_back);
        Ok(List {
            slot,
            number,
            open: self.open.clone(),
        })
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
            self.take_back_late();
        }
    }

    fn take_back_late(&self) {
        let now = self.clock.now();
        let late: Vec<Slot> = {
            let mut open = locked(&self.open);
            // In the order of their ends.
            let late: Vec<u64> = open
                .lists
                .iter()
                .take_while(|(_, told)| told.until <= now)
                .map(|(number, _)| *number)
                .collect();
            late.into_iter()
                .filter_map(|number| open.remove(number))
                .map(|told| told.slot)
                .collect()
        };
        take_back(late);
    }
}

/// Lets go of what these lists keep. Whoever takes one later is told so.
fn take_back(slots: Vec<Slot>) {
    metrics::counter!(telemetry::LISTS_TAKEN_BACK).increment(slots.len() as u64);
    for slot in slots {
        let items = locked(&slot).take();
        drop(items);
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
            let aborted = Status::aborted(format!(
                "the list was not taken within {PATIENCE:?}, or too many were open: ask for it again"
            ));
            return Poll::Ready(Some(Err(aborted)));
        };
        Poll::Ready(items.next())
    }
}

impl Drop for List {
    fn drop(&mut self) {
        // What it kept is let go of before there is room for another.
        drop(locked(&self.slot).take());
        locked(&self.open).remove(self.number);
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
    use curator_identity::retry_delay;

    fn node(number: usize) -> Caller {
        Caller::Node {
            id: format!("node-{number}"),
            public_key: None,
        }
    }

    fn nothing() -> Items {
        Box::new(std::iter::empty())
    }

    fn owner() -> Caller {
        Caller::User {
            identity: "owner".into(),
        }
    }

    /// As many lists of so many nodes as a caller gets.
    fn opened(lists: &Lists, caller: &Caller, nodes: usize) -> Vec<List> {
        let mut all = Vec::new();
        loop {
            match lists.tell(caller, nodes, nothing()) {
                Ok(list) => all.push(list),
                Err(refused) => {
                    assert_eq!(refused.code(), Code::ResourceExhausted);
                    assert!(retry_delay(&refused).is_some(), "it is told when to come again");
                    return all;
                }
            }
            assert!(all.len() < MOST, "without end");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn lists_that_nobody_reads_name_so_many_nodes_and_whoever_has_most_makes_room() {
        const NODES: usize = 10_000;
        let lists = Lists::new(Arc::new(TokioClock::new()));
        let sizes = |lists: &Lists| {
            let open = locked(&lists.open);
            (open.size, open.of_nodes)
        };
        let one = opened(&lists, &node(0), NODES);
        assert_eq!(one.len(), OF_NODES / (NODES + EACH));
        // Others do the same: each gets as much as those who have most, who lose it.
        let many: Vec<_> = (1..20)
            .flat_map(|number| opened(&lists, &node(number), NODES))
            .collect();
        assert!(sizes(&lists).1 <= OF_NODES);
        let honest = lists.tell(&node(20), NODES, nothing()).expect("others have more");
        let theirs: Vec<usize> = {
            let open = locked(&lists.open);
            open.callers.values().map(|theirs| theirs.lists.len()).collect()
        };
        assert_eq!(theirs.len(), 21);
        assert!(theirs.iter().all(|lists| *lists <= 9), "{theirs:?}");
        // None of that is the owner's, who has a part that is no node's.
        let mine = opened(&lists, &owner(), NODES);
        assert!(mine.len() >= (MOST - OF_NODES) / (NODES + EACH));
        let (all, _) = sizes(&lists);
        assert!(all <= MOST, "{all}");
        // Those of no nodes cost something as well.
        let empty = opened(&lists, &node(21), 0);
        assert!(!empty.is_empty() && empty.len() < MOST / EACH, "{}", empty.len());
        drop((one, many, mine, empty, honest));
        assert_eq!(sizes(&lists), (0, 0));
        assert!(
            locked(&lists.open).callers.is_empty(),
            "nothing stays of those who have gone"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_taken_back_makes_room() {
        let lists = Lists::new(Arc::new(TokioClock::new()));
        let unread = opened(&lists, &node(0), 10_000);
        assert!(lists.tell(&node(0), 10_000, nothing()).is_err());
        tokio::time::sleep(PATIENCE).await;
        lists.take_back_late();
        assert!(lists.tell(&node(0), 10_000, nothing()).is_ok());
        drop(unread);
        assert_eq!(locked(&lists.open).size, 0);
    }

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
        let tell = |items| lists.tell(&node(0), 3, items).expect("there is room");
        let mut slow = tell(items(held.clone()));
        assert!(slow.next().await.is_some_and(|node| node.is_ok()));
        let quick: Vec<_> = tell(items(held.clone())).collect().await;
        assert_eq!(quick.len(), 3);
        assert_eq!(Arc::strong_count(&held), 2, "what has ended holds nothing");
        let mut looks = Box::pin(lists.run());
        assert!(looks.as_mut().now_or_never().is_none());
        tokio::time::sleep(PATIENCE / 2).await;
        let mut later = tell(items(held.clone()));
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
