//! Open `GetNodes` streams, each a consistent snapshot of the nodes.
//!
//! A list shares its records with the state and with other lists, and builds each message on demand, so an unread list
//! costs a few bytes per node. Over time its cost grows with the records that have changed since, so a list that is not
//! read in time is evicted. The number of nodes in all lists together is limited; beyond that, lists of the caller with
//! the most are evicted to make room.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use curator_election::clock::{Instant, SharedClock};
use curator_identity::pushback;
use curator_proto::management_api::Node;
use futures::Stream;
use tonic::Status;

use crate::auth::Caller;
use crate::leader::nodes::callers;
use crate::telemetry;

/// Maximum number of nodes in all lists together: at 32 bytes per node, 64 MiB.
const MAX_LISTED_NODES: usize = 2 << 20;
/// Maximum number of nodes in lists of node callers, so that a share is reserved for users.
const OF_NODES: usize = MAX_LISTED_NODES / 4 * 3;
/// The fixed cost of a list, counted in nodes.
const LIST_OVERHEAD: usize = 16;
/// The retry delay sent to a refused caller.
const RETRY_AFTER: Duration = Duration::from_secs(5);
/// Maximum time to read a list. In this time the rate limits of `pace` bound how many records can change.
const READ_TIMEOUT: Duration = Duration::from_secs(120);
/// Interval of the check for lists that were not read in time.
const CHECK_INTERVAL: Duration = Duration::from_secs(10);

/// Builds the messages of a list, one by one.
pub(in crate::leader) type Items = Box<dyn Iterator<Item = Result<Node, Status>> + Send>;

/// The rest of a list; `None` once it is evicted.
type Slot = Arc<Mutex<Option<Items>>>;

/// All open lists.
pub(in crate::leader) struct Lists {
    clock: SharedClock,
    open: Arc<Mutex<Open>>,
}

#[derive(Default)]
struct Open {
    next: u64,
    lists: BTreeMap<u64, OpenList>,
    /// The number of nodes in all lists, and in those of node callers.
    size: usize,
    of_nodes: usize,
    callers: HashMap<String, CallerLists>,
}

struct OpenList {
    until: Instant,
    slot: Slot,
    size: usize,
    caller: String,
}

/// The lists of one caller.
#[derive(Default)]
struct CallerLists {
    is_user: bool,
    size: usize,
    lists: BTreeSet<u64>,
}

impl Open {
    fn insert(&mut self, told: OpenList, is_user: bool) -> u64 {
        let number = self.next;
        self.next += 1;
        self.put(number, told, is_user);
        number
    }

    fn put(&mut self, number: u64, told: OpenList, is_user: bool) {
        let theirs = self.callers.entry(told.caller.clone()).or_default();
        theirs.is_user = is_user;
        theirs.size += told.size;
        theirs.lists.insert(number);
        self.size += told.size;
        self.of_nodes += if is_user { 0 } else { told.size };
        self.lists.insert(number, told);
    }

    fn remove(&mut self, number: u64) -> Option<OpenList> {
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

    /// Makes room for a list of this caller by evicting the oldest lists of the caller with the most, as long as that
    /// caller has more than this one would have. `None` if that is not enough; then no list is evicted.
    fn make_room(&mut self, caller: &str, is_user: bool, size: usize) -> Option<Vec<Slot>> {
        let would_have = size + self.callers.get(caller).map_or(0, |theirs| theirs.size);
        let mut evicted = Vec::new();
        loop {
            let nodes_are_full = !is_user && self.of_nodes + size > OF_NODES;
            if !nodes_are_full && self.size + size <= MAX_LISTED_NODES {
                return Some(
                    evicted
                        .into_iter()
                        .map(|(_, told, _): (_, OpenList, _)| told.slot)
                        .collect(),
                );
            }
            let others = self
                .callers
                .values()
                .filter(|theirs| !(nodes_are_full && theirs.is_user));
            let most = others.max_by_key(|theirs| theirs.size);
            let most = most.filter(|most| most.size > would_have);
            let Some((oldest, of_user)) = most.and_then(|most| Some((*most.lists.first()?, most.is_user))) else {
                for (number, told, of_user) in evicted {
                    self.put(number, told, of_user);
                }
                return None;
            };
            evicted.extend(self.remove(oldest).map(|told| (oldest, told, of_user)));
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

    /// Opens a list of this many nodes. Refuses it if there is no room and no caller has more than this one.
    pub(in crate::leader) fn begin(&self, caller: &Caller, nodes: usize, items: Items) -> Result<List, Status> {
        let slot: Slot = Arc::new(Mutex::new(Some(items)));
        let told = OpenList {
            until: self.clock.now() + READ_TIMEOUT,
            slot: slot.clone(),
            size: nodes + LIST_OVERHEAD,
            caller: callers::name(caller),
        };
        let is_user = matches!(caller, Caller::User { .. });
        let begun = {
            let mut open = locked(&self.open);
            let room = open.make_room(&told.caller, is_user, told.size);
            room.map(|evicted| (open.insert(told, is_user), evicted))
        };
        let Some((number, evicted)) = begun else {
            metrics::counter!(telemetry::LISTS_REFUSED).increment(1);
            let refused =
                Status::resource_exhausted("too many open GetNodes streams; read or cancel the open ones, then retry");
            return Err(pushback::with_pushback(refused, RETRY_AFTER));
        };
        evict(evicted);
        Ok(List {
            slot,
            number,
            open: self.open.clone(),
        })
    }

    /// The number of open lists.
    #[cfg(test)]
    pub(in crate::leader) fn open_count(&self) -> usize {
        locked(&self.open).lists.len()
    }

    /// Evicts lists that are not read in time. Never returns.
    pub(in crate::leader) async fn run(&self) {
        loop {
            self.clock.sleep_until(self.clock.now() + CHECK_INTERVAL).await;
            self.take_back_late();
        }
    }

    fn take_back_late(&self) {
        let now = self.clock.now();
        let late: Vec<Slot> = {
            let mut open = locked(&self.open);
            // Sorted by deadline.
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
        evict(late);
    }
}

/// Drops the contents of evicted lists. Reading such a list returns an error.
fn evict(slots: Vec<Slot>) {
    metrics::counter!(telemetry::LISTS_TAKEN_BACK).increment(slots.len() as u64);
    for slot in slots {
        let items = locked(&slot).take();
        drop(items);
    }
}

/// An open list.
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
                "stream was not read within {READ_TIMEOUT:?}, or was evicted because too many were open; retry"
            ));
            return Poll::Ready(Some(Err(aborted)));
        };
        Poll::Ready(items.next())
    }
}

impl Drop for List {
    fn drop(&mut self) {
        // Drop the contents before another list can take the room.
        drop(locked(&self.slot).take());
        locked(&self.open).remove(self.number);
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Building a message does not panic.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use curator_election::clock::TokioClock;
    use curator_identity::retry_delay;
    use futures::{FutureExt, StreamExt};
    use tonic::Code;

    use super::*;

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

    /// Opens lists of this many nodes until one is refused.
    fn opened(lists: &Lists, caller: &Caller, nodes: usize) -> Vec<List> {
        let mut all = Vec::new();
        loop {
            match lists.begin(caller, nodes, nothing()) {
                Ok(list) => all.push(list),
                Err(refused) => {
                    assert_eq!(refused.code(), Code::ResourceExhausted);
                    assert!(retry_delay(&refused).is_some(), "the refusal has a retry delay");
                    return all;
                }
            }
            assert!(all.len() < MAX_LISTED_NODES, "the loop must end");
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
        assert_eq!(one.len(), OF_NODES / (NODES + LIST_OVERHEAD));
        // Other callers do the same: each gets an equal share, taken from the callers with the most.
        let many: Vec<_> = (1..20)
            .flat_map(|number| opened(&lists, &node(number), NODES))
            .collect();
        assert!(sizes(&lists).1 <= OF_NODES);
        let honest = lists
            .begin(&node(20), NODES, nothing())
            .expect("a caller with more makes room");
        let theirs: Vec<usize> = {
            let open = locked(&lists.open);
            open.callers.values().map(|theirs| theirs.lists.len()).collect()
        };
        assert_eq!(theirs.len(), 21);
        assert!(theirs.iter().all(|lists| *lists <= 9), "{theirs:?}");
        // Users keep their reserved share.
        let mine = opened(&lists, &owner(), NODES);
        assert!(mine.len() >= (MAX_LISTED_NODES - OF_NODES) / (NODES + LIST_OVERHEAD));
        let (all, _) = sizes(&lists);
        assert!(all <= MAX_LISTED_NODES, "{all}");
        // Empty lists have a cost as well.
        let empty = opened(&lists, &node(21), 0);
        assert!(
            !empty.is_empty() && empty.len() < MAX_LISTED_NODES / LIST_OVERHEAD,
            "{}",
            empty.len()
        );
        drop((one, many, mine, empty, honest));
        assert_eq!(sizes(&lists), (0, 0));
        assert!(
            locked(&lists.open).callers.is_empty(),
            "callers without calls take no memory"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn list_that_is_refused_takes_none_from_others() {
        const NODES: usize = 10_000;
        let lists = Lists::new(Arc::new(TokioClock::new()));
        let of_each = OF_NODES / 2 / (NODES + LIST_OVERHEAD);
        let begin = |number: usize| lists.begin(&node(number), NODES, nothing()).expect("there is room");
        let theirs: Vec<_> = (0..2 * of_each).map(|number| begin(number % 2)).collect();
        let before = locked(&lists.open).size;
        // Both have a little more than this caller would have, and a little is not enough.
        let wanted = of_each * (NODES + LIST_OVERHEAD) - NODES;
        let refused = lists.begin(&node(2), wanted, nothing());
        assert_eq!(
            refused.err().map(|refused| refused.code()),
            Some(Code::ResourceExhausted)
        );
        assert_eq!(lists.open_count(), theirs.len(), "an open list is counted no more");
        assert_eq!(locked(&lists.open).size, before);
        for list in theirs {
            assert_eq!(list.count().await, 0, "the list ends as it would have");
        }
        assert_eq!(locked(&lists.open).size, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_taken_back_makes_room() {
        let lists = Lists::new(Arc::new(TokioClock::new()));
        let unread = opened(&lists, &node(0), 10_000);
        assert!(lists.begin(&node(0), 10_000, nothing()).is_err());
        tokio::time::sleep(READ_TIMEOUT).await;
        lists.take_back_late();
        assert!(lists.begin(&node(0), 10_000, nothing()).is_ok());
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
        let tell = |items| lists.begin(&node(0), 3, items).expect("there is room");
        let mut slow = tell(items(held.clone()));
        assert!(slow.next().await.is_some_and(|node| node.is_ok()));
        let quick: Vec<_> = tell(items(held.clone())).collect().await;
        assert_eq!(quick.len(), 3);
        assert_eq!(Arc::strong_count(&held), 2, "a list that ended holds no records");
        let mut looks = Box::pin(lists.run());
        assert!(looks.as_mut().now_or_never().is_none());
        tokio::time::sleep(READ_TIMEOUT / 2).await;
        let mut later = tell(items(held.clone()));
        assert!(looks.as_mut().now_or_never().is_none());
        assert_eq!(Arc::strong_count(&held), 3);
        tokio::time::timeout(READ_TIMEOUT / 2 + CHECK_INTERVAL, looks)
            .await
            .expect_err("never");
        assert_eq!(Arc::strong_count(&held), 2, "the first list is evicted");
        let told = slow.next().await.unwrap().unwrap_err();
        assert_eq!(told.code(), Code::Aborted);
        assert!(slow.next().await.is_none());
        assert!(later.next().await.is_some_and(|node| node.is_ok()));
        drop((slow, later));
        assert_eq!(lists.open_count(), 0);
        assert_eq!(Arc::strong_count(&held), 1);
    }
}
