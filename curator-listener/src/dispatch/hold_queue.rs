//! The hold queue: calls that wait for a leader. Bounded in number and time, and shared fairly.
//!
//! Each class of calls ([`Class`]) has a guaranteed share, and may use what other classes leave. When the queue is
//! full, a class below its share takes a place from one above its share. Within a class, a caller with fewer waiting
//! calls takes a place from the caller with the most. So no caller can starve the others, and an owner gets a place
//! even when all nodes of a large cluster reconnect at once.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rand::RngExt;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, WaitForCancellationFuture};

use crate::call::Kind;
use crate::caller::{Caller, Party, Standing};
use crate::failpoint;
use crate::limit_alerts::{Limit, LimitAlerts};

/// A waiting call is refused this long before its deadline, so that the caller receives the reason.
const DEADLINE_MARGIN: Duration = Duration::from_millis(50);

/// Range of the retry delay, in milliseconds. An earlier retry would find the queue full as well.
const RETRY_AFTER_MILLIS: std::ops::Range<u64> = 500..2_000;

/// The queue.
#[derive(Debug)]
pub(crate) struct HoldQueue {
    limit: usize,
    limit_alerts: Arc<LimitAlerts>,
    table: Mutex<Table>,
}

/// The classes of calls that share the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    /// All calls of users.
    User,
    /// Unary calls of nodes.
    Unary,
    /// Streams of nodes. Each node has some, and reopens them at once.
    Stream,
    /// Calls of strangers. They have no guaranteed share, and give way to all others.
    Stranger,
}

impl Class {
    const ALL: [Self; 4] = [Self::User, Self::Unary, Self::Stream, Self::Stranger];

    const fn of(caller: &Caller, kind: Kind) -> Self {
        match (caller.standing, kind) {
            (Standing::User, _) => Self::User,
            (Standing::Member, Kind::Unary) => Self::Unary,
            (Standing::Member, Kind::Stream) => Self::Stream,
            (Standing::Stranger, _) => Self::Stranger,
        }
    }

    /// The guaranteed number of places out of `limit`.
    const fn share(self, limit: usize) -> usize {
        let (users, unary) = (limit / 8, limit / 4);
        match self {
            Self::User => users,
            Self::Unary => unary,
            Self::Stream => limit - users - unary,
            Self::Stranger => 0,
        }
    }
}

#[derive(Debug, Default)]
struct Table {
    /// The next number for a call or a party.
    next: u64,
    /// In the order of the classes.
    groups: [Group; Class::ALL.len()],
}

/// The waiting calls of one class.
#[derive(Debug, Default)]
struct Group {
    waiting: usize,
    numbers: HashMap<Arc<Party>, u64>,
    parties: HashMap<u64, Waiting>,
    /// The number of waiting calls of each party.
    by_weight: BTreeSet<(usize, u64)>,
}

/// The waiting calls of one party.
#[derive(Debug)]
struct Waiting {
    party: Arc<Party>,
    calls: BTreeMap<u64, CancellationToken>,
}

/// The place of a waiting call. Dropping it frees the place.
#[derive(Debug)]
pub(crate) struct HoldPermit<'a> {
    queue: &'a HoldQueue,
    class: Class,
    party: u64,
    call: u64,
    evicted: CancellationToken,
}

impl HoldQueue {
    pub(crate) fn new(limit: usize, limit_alerts: Arc<LimitAlerts>) -> Self {
        Self {
            limit,
            limit_alerts,
            table: Mutex::default(),
        }
    }

    /// Queues a call of this caller. `None` if the queue is full and no other call has to give way.
    pub(crate) fn enter(&self, caller: &Caller, kind: Kind) -> Option<HoldPermit<'_>> {
        let class = Class::of(caller, kind);
        let mut table = self.table();
        if table.waiting() >= self.limit {
            self.limit_alerts.report(Limit::HeldCalls);
            if !table.make_room(class, caller, self.limit) {
                return None;
            }
        }
        let call = table.next;
        table.next += 1;
        let (party, evicted) = table.group(class).add(caller, call);
        drop(table);
        Some(HoldPermit {
            queue: self,
            class,
            party,
            call,
            evicted,
        })
    }

    /// The maximum number of waiting calls.
    pub(crate) const fn limit(&self) -> usize {
        self.limit
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        // No panic is possible while the lock is held.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn waiting(&self) -> usize {
        self.groups.iter().map(|group| group.waiting).sum()
    }

    const fn group(&mut self, class: Class) -> &mut Group {
        &mut self.groups[class as usize]
    }

    /// Evicts a call that ranks below a new one of this class and caller.
    fn make_room(&mut self, class: Class, caller: &Caller, limit: usize) -> bool {
        if class != Class::Stranger && self.group(Class::Stranger).evict() {
            return true;
        }
        if self.group(class).waiting < class.share(limit) {
            let above = |class: &Class| self.groups[*class as usize].waiting.saturating_sub(class.share(limit));
            // The queue is full and this class is below its share, so another class is above its own.
            let fullest = Class::ALL.into_iter().max_by_key(above).unwrap_or(class);
            return self.group(fullest).evict();
        }
        let group = self.group(class);
        let own = group
            .numbers
            .get(&caller.party)
            .and_then(|number| group.parties.get(number));
        let own = own.map_or(0, |own| own.calls.len());
        let heaviest = group.by_weight.last().map_or(0, |(weight, _)| *weight);
        heaviest >= own + 2 && group.evict()
    }
}

impl Group {
    fn add(&mut self, caller: &Caller, call: u64) -> (u64, CancellationToken) {
        // A party has the number of its first call.
        let number = *self.numbers.entry(caller.party.clone()).or_insert(call);
        let waiting = self.parties.entry(number).or_insert_with(|| Waiting {
            party: caller.party.clone(),
            calls: BTreeMap::new(),
        });
        let weight = waiting.calls.len();
        let evicted = CancellationToken::new();
        waiting.calls.insert(call, evicted.clone());
        self.by_weight.remove(&(weight, number));
        self.by_weight.insert((weight + 1, number));
        self.waiting += 1;
        (number, evicted)
    }

    /// Removes a call, if it is still there.
    fn take(&mut self, number: u64, call: u64) -> Option<CancellationToken> {
        let waiting = self.parties.get_mut(&number)?;
        let weight = waiting.calls.len();
        let taken = waiting.calls.remove(&call)?;
        self.by_weight.remove(&(weight, number));
        self.waiting -= 1;
        if weight > 1 {
            self.by_weight.insert((weight - 1, number));
        } else if let Some(waiting) = self.parties.remove(&number) {
            self.numbers.remove(&waiting.party);
        }
        Some(taken)
    }

    /// Evicts the newest call of the party with the most calls, if there is one.
    fn evict(&mut self) -> bool {
        let heaviest = self.by_weight.last().map(|(_, number)| *number);
        let newest = heaviest.and_then(|number| Some((number, *self.parties.get(&number)?.calls.keys().next_back()?)));
        let evicted = newest.and_then(|(number, call)| self.take(number, call));
        evicted.is_some_and(|evicted| {
            evicted.cancel();
            true
        })
    }
}

impl HoldPermit<'_> {
    /// Completes when the call is evicted in favour of another one. Cancellation safe.
    pub(crate) fn evicted(&self) -> WaitForCancellationFuture<'_> {
        self.evicted.cancelled()
    }
}

impl Drop for HoldPermit<'_> {
    fn drop(&mut self) {
        self.queue.table().group(self.class).take(self.party, self.call);
    }
}

/// A random delay after which a refused caller may retry. Random, so that callers do not retry all at once.
pub(crate) fn retry_after() -> Duration {
    Duration::from_millis(rand::rng().random_range(RETRY_AFTER_MILLIS))
}

/// Until when a call may wait that starts to wait at `now`: at most `cap`, and until shortly before its own deadline.
pub(crate) fn until(now: Instant, cap: Duration, deadline: Option<Instant>) -> Instant {
    if failpoint::on(failpoint::HOLDS_FOREVER) {
        return now + Duration::from_secs(86_400);
    }
    let capped = now + cap;
    let Some(deadline) = deadline else { return capped };
    let left = deadline.saturating_duration_since(now);
    capped.min(deadline - DEADLINE_MARGIN.min(left / 10))
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use rustls::pki_types::CertificateDer;

    use super::*;
    use crate::caller::{CallerCertificates, Peer};
    use crate::config::ListenerConfig;

    fn queue(limit: usize) -> HoldQueue {
        HoldQueue::new(limit, Arc::new(LimitAlerts::new(&ListenerConfig::default())))
    }

    fn stranger(host: u8) -> Caller {
        Caller::showing(
            &CallerCertificates::default(),
            Standing::Stranger,
            Peer::of(IpAddr::from([192, 0, 2, host])),
        )
    }

    fn node(name: &'static [u8]) -> Caller {
        let shown = CallerCertificates([CertificateDer::from(name)].into());
        Caller::showing(&shown, Standing::Member, Peer::of(IpAddr::from([192, 0, 2, 1])))
    }

    fn owner() -> Caller {
        let shown = CallerCertificates([CertificateDer::from(&b"owner"[..])].into());
        Caller::showing(&shown, Standing::User, Peer::of(IpAddr::from([192, 0, 2, 1])))
    }

    /// Each call is of a node of its own.
    fn nodes(queue: &HoldQueue, kind: Kind, numbers: std::ops::Range<u32>) -> Vec<Option<HoldPermit<'_>>> {
        let caller = |number: u32| {
            let shown = CallerCertificates([CertificateDer::from(number.to_be_bytes().to_vec())].into());
            Caller::showing(&shown, Standing::Member, Peer::of(IpAddr::from([192, 0, 2, 1])))
        };
        numbers.map(|number| queue.enter(&caller(number), kind)).collect()
    }

    fn is_evicted(permit: &HoldPermit<'_>) -> bool {
        permit.evicted.is_cancelled()
    }

    #[test]
    fn only_so_many_wait() {
        let queue = queue(2);
        let caller = stranger(1);
        let (first, _second) = (
            queue.enter(&caller, Kind::Unary).expect("room"),
            queue.enter(&caller, Kind::Unary).expect("room"),
        );
        assert!(queue.enter(&caller, Kind::Unary).is_none());
        assert!(
            queue.enter(&caller, Kind::Unary).is_none(),
            "whoever was refused takes no room"
        );
        drop(first);
        assert!(queue.enter(&caller, Kind::Unary).is_some());
    }

    #[test]
    fn whoever_has_more_makes_room_for_those_with_less() {
        let queue = queue(10);
        let mut many: Vec<_> = (0..10)
            .map(|_| queue.enter(&stranger(1), Kind::Unary).expect("room"))
            .collect();
        let few: Vec<_> = (0..5)
            .map(|_| queue.enter(&stranger(2), Kind::Unary).expect("its share"))
            .collect();
        assert_eq!(many.iter().filter(|permit| is_evicted(permit)).count(), 5);
        assert!(many.drain(..5).all(|permit| !is_evicted(&permit)), "the newest went");
        drop(many);
        let _again: Vec<_> = (0..5)
            .map(|_| queue.enter(&stranger(1), Kind::Unary).expect("room"))
            .collect();
        assert!(queue.enter(&stranger(1), Kind::Unary).is_none() && queue.enter(&stranger(2), Kind::Unary).is_none());
        assert!(few.iter().all(|permit| !is_evicted(permit)));
    }

    #[test]
    fn nodes_go_before_strangers_and_take_turns_with_nodes() {
        let queue = queue(4);
        let strangers: Vec<_> = (0..4)
            .map(|host| queue.enter(&stranger(host), Kind::Unary).expect("room"))
            .collect();
        let one: Vec<_> = (0..4)
            .map(|_| queue.enter(&node(b"one"), Kind::Unary).expect("before strangers"))
            .collect();
        assert!(strangers.iter().all(is_evicted));
        assert!(queue.enter(&stranger(1), Kind::Unary).is_none());
        // Another node at the same address.
        let _two = [
            queue.enter(&node(b"two"), Kind::Unary),
            queue.enter(&node(b"two"), Kind::Unary),
        ]
        .map(|permit| permit.expect("its share"));
        assert_eq!(one.iter().filter(|permit| is_evicted(permit)).count(), 2);
        assert!(queue.enter(&node(b"two"), Kind::Unary).is_none());
    }

    #[test]
    fn streams_of_all_nodes_leave_room_for_what_is_short_and_for_users() {
        let queue = queue(16);
        let storm = nodes(&queue, Kind::Stream, 0..16);
        assert!(storm.iter().flatten().count() == 16, "nobody else is there");
        assert!(nodes(&queue, Kind::Stream, 16..17)[0].is_none());
        // The same nodes, each with one stream in the queue.
        let calls = nodes(&queue, Kind::Unary, 0..8);
        assert_eq!(calls.iter().flatten().count(), 4, "their share");
        let owners: Vec<_> = (0..3).map(|_| queue.enter(&owner(), Kind::Stream)).collect();
        assert_eq!(owners.iter().flatten().count(), 2, "their share");
        assert_eq!(storm.iter().flatten().filter(|permit| is_evicted(permit)).count(), 6);
        assert!(calls.iter().flatten().all(|permit| !is_evicted(permit)));
        drop(owners);
        // Others use what users leave, and give it back.
        let more = nodes(&queue, Kind::Stream, 20..30);
        assert_eq!(more.iter().flatten().count(), 2);
        let _owner = queue.enter(&owner(), Kind::Unary).expect("its share");
    }

    #[test]
    fn nothing_is_left_of_those_who_have_gone() {
        let queue = queue(2);
        let permits: Vec<_> = (0..9)
            .filter_map(|host| queue.enter(&stranger(host % 3), Kind::Unary))
            .collect();
        let _known = [
            queue.enter(&node(b"one"), Kind::Unary),
            queue.enter(&node(b"one"), Kind::Unary),
        ];
        drop(permits);
        drop(_known);
        let table = queue.table();
        assert_eq!(table.waiting(), 0);
        for group in &table.groups {
            assert_eq!((group.numbers.len(), group.parties.len()), (0, 0));
            assert!(group.by_weight.is_empty());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_waits_within_its_deadline_and_the_cap() {
        let now = Instant::now();
        let seconds = Duration::from_secs;
        assert_eq!(until(now, seconds(6), None), now + seconds(6));
        assert_eq!(until(now, seconds(6), Some(now + seconds(60))), now + seconds(6));
        assert_eq!(
            until(now, seconds(6), Some(now + seconds(2))),
            now + seconds(2) - DEADLINE_MARGIN
        );
        let short = Duration::from_millis(100);
        assert_eq!(until(now, seconds(6), Some(now + short)), now + short * 9 / 10);
    }
}
