//! The calls that wait for a leader: a bounded number of them, each for a bounded time, with room for everybody.
//!
//! When all room is taken, a caller with fewer waiting calls than another takes a place from that one, and whom the cluster
//! knows takes it from strangers. So however many calls one caller makes, each other one has its share.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rand::RngExt;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, WaitForCancellationFuture};

use crate::caller::{Caller, Party, Standing};
use crate::sabotage::{self, Sabotage};

/// A call whose caller is about to give up is answered so much before, so that it learns the reason.
const MARGIN: Duration = Duration::from_millis(50);

/// In milliseconds. While nobody leads, a call that comes sooner finds no room either, but seldom is there none for longer.
const AGAIN: std::ops::Range<u64> = 500..2_000;

/// Where calls wait.
#[derive(Debug)]
pub(crate) struct Hold {
    limit: usize,
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    waiting: usize,
    /// Numbers calls and parties.
    next: u64,
    numbers: HashMap<Arc<Party>, u64>,
    parties: HashMap<u64, Waiting>,
    /// How many calls of each party wait, those of the known ones first.
    by_weight: BTreeSet<(Standing, usize, u64)>,
}

/// The calls of one party that wait.
#[derive(Debug)]
struct Waiting {
    party: Arc<Party>,
    standing: Standing,
    calls: BTreeMap<u64, CancellationToken>,
}

/// A waiting call. Dropping it makes room for another.
#[derive(Debug)]
pub(crate) struct Seat<'a> {
    hold: &'a Hold,
    party: u64,
    call: u64,
    lost: CancellationToken,
}

impl Hold {
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            limit,
            table: Mutex::default(),
        }
    }

    /// Lets a call of this caller wait; `None` if as many as may are waiting, and none of them makes room.
    pub(crate) fn enter(&self, caller: &Caller) -> Option<Seat<'_>> {
        let mut table = self.table();
        if table.waiting >= self.limit && !table.make_room(caller) {
            return None;
        }
        let (party, call, lost) = table.add(caller);
        drop(table);
        Some(Seat {
            hold: self,
            party,
            call,
            lost,
        })
    }

    /// How many may wait.
    pub(crate) const fn limit(&self) -> usize {
        self.limit
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        // Nothing that holds the lock can panic half-way.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn add(&mut self, caller: &Caller) -> (u64, u64, CancellationToken) {
        let call = self.next;
        self.next += 1;
        // A party has the number of its first call.
        let number = *self.numbers.entry(caller.party.clone()).or_insert(call);
        let waiting = self.parties.entry(number).or_insert_with(|| Waiting {
            party: caller.party.clone(),
            standing: caller.standing,
            calls: BTreeMap::new(),
        });
        let weight = waiting.calls.len();
        let lost = CancellationToken::new();
        waiting.calls.insert(call, lost.clone());
        self.by_weight.remove(&(waiting.standing, weight, number));
        self.by_weight.insert((waiting.standing, weight + 1, number));
        self.waiting += 1;
        (number, call, lost)
    }

    /// Takes a call out, if it is still there.
    fn take(&mut self, number: u64, call: u64) -> Option<CancellationToken> {
        let waiting = self.parties.get_mut(&number)?;
        let weight = waiting.calls.len();
        let taken = waiting.calls.remove(&call)?;
        self.by_weight.remove(&(waiting.standing, weight, number));
        self.waiting -= 1;
        if weight > 1 {
            self.by_weight.insert((waiting.standing, weight - 1, number));
        } else if let Some(waiting) = self.parties.remove(&number) {
            self.numbers.remove(&waiting.party);
        }
        Some(taken)
    }

    /// Sends away the newest call of whoever has most of those that go after this caller, or that have more than it.
    fn make_room(&mut self, caller: &Caller) -> bool {
        // Strangers are the last.
        let Some(&(standing, weight, number)) = self.by_weight.last() else {
            return false;
        };
        let own = self
            .numbers
            .get(&caller.party)
            .and_then(|number| self.parties.get(number));
        let own = own.map_or(0, |own| own.calls.len());
        if standing < caller.standing || (standing == caller.standing && weight < own + 2) {
            return false;
        }
        let newest = self
            .parties
            .get(&number)
            .and_then(|party| party.calls.keys().next_back().copied());
        let taken = newest.and_then(|call| self.take(number, call));
        taken.is_some_and(|lost| {
            lost.cancel();
            true
        })
    }
}

impl Seat<'_> {
    /// Completes when the call must make room for another's. Cancellation safe.
    pub(crate) fn lost(&self) -> WaitForCancellationFuture<'_> {
        self.lost.cancelled()
    }
}

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        self.hold.table().take(self.party, self.call);
    }
}

/// When whoever found no room may try again: not all of them at the same moment.
pub(crate) fn come_again() -> Duration {
    Duration::from_millis(rand::rng().random_range(AGAIN))
}

/// Until when a call may wait that begins to at `now`: no longer than the cap, and not quite to its own deadline.
pub(crate) fn until(now: Instant, cap: Duration, deadline: Option<Instant>) -> Instant {
    if sabotage::on(Sabotage::HoldsForever) {
        return now + Duration::from_secs(86_400);
    }
    let capped = now + cap;
    let Some(deadline) = deadline else { return capped };
    let left = deadline.saturating_duration_since(now);
    capped.min(deadline - MARGIN.min(left / 10))
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use rustls::pki_types::CertificateDer;

    use super::*;
    use crate::caller::Peer;
    use crate::tls::CallerCertificates;

    fn stranger(host: u8) -> Caller {
        Caller::showing(
            &CallerCertificates::default(),
            false,
            Peer::of(IpAddr::from([192, 0, 2, host])),
        )
    }

    fn node(name: &'static [u8]) -> Caller {
        let shown = CallerCertificates([CertificateDer::from(name)].into());
        Caller::showing(&shown, true, Peer::of(IpAddr::from([192, 0, 2, 1])))
    }

    fn lost(seat: &Seat<'_>) -> bool {
        seat.lost.is_cancelled()
    }

    #[test]
    fn only_so_many_wait() {
        let hold = Hold::new(2);
        let caller = stranger(1);
        let (first, _second) = (hold.enter(&caller).expect("room"), hold.enter(&caller).expect("room"));
        assert!(hold.enter(&caller).is_none());
        assert!(hold.enter(&caller).is_none(), "whoever was refused takes no room");
        drop(first);
        assert!(hold.enter(&caller).is_some());
    }

    #[test]
    fn whoever_has_more_makes_room_for_those_with_less() {
        let hold = Hold::new(10);
        let mut many: Vec<_> = (0..10).map(|_| hold.enter(&stranger(1)).expect("room")).collect();
        let few: Vec<_> = (0..5).map(|_| hold.enter(&stranger(2)).expect("its share")).collect();
        assert_eq!(many.iter().filter(|seat| lost(seat)).count(), 5);
        assert!(many.drain(..5).all(|seat| !lost(&seat)), "the newest went");
        drop(many);
        let _again: Vec<_> = (0..5).map(|_| hold.enter(&stranger(1)).expect("room")).collect();
        assert!(hold.enter(&stranger(1)).is_none() && hold.enter(&stranger(2)).is_none());
        assert!(few.iter().all(|seat| !lost(seat)));
    }

    #[test]
    fn nodes_go_before_strangers_and_take_turns_with_nodes() {
        let hold = Hold::new(4);
        let strangers: Vec<_> = (0..4).map(|host| hold.enter(&stranger(host)).expect("room")).collect();
        let one: Vec<_> = (0..4)
            .map(|_| hold.enter(&node(b"one")).expect("before strangers"))
            .collect();
        assert!(strangers.iter().all(lost));
        assert!(hold.enter(&stranger(1)).is_none());
        // At the same address, and another node.
        let _two = [hold.enter(&node(b"two")), hold.enter(&node(b"two"))].map(|seat| seat.expect("its share"));
        assert_eq!(one.iter().filter(|seat| lost(seat)).count(), 2);
        assert!(hold.enter(&node(b"two")).is_none());
    }

    #[test]
    fn nothing_is_left_of_those_who_have_gone() {
        let hold = Hold::new(2);
        let seats: Vec<_> = (0..9).filter_map(|host| hold.enter(&stranger(host % 3))).collect();
        let _known = [hold.enter(&node(b"one")), hold.enter(&node(b"one"))];
        drop(seats);
        drop(_known);
        let table = hold.table();
        assert_eq!((table.waiting, table.numbers.len(), table.parties.len()), (0, 0, 0));
        assert!(table.by_weight.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_waits_within_its_deadline_and_the_cap() {
        let now = Instant::now();
        let seconds = Duration::from_secs;
        assert_eq!(until(now, seconds(6), None), now + seconds(6));
        assert_eq!(until(now, seconds(6), Some(now + seconds(60))), now + seconds(6));
        assert_eq!(
            until(now, seconds(6), Some(now + seconds(2))),
            now + seconds(2) - MARGIN
        );
        let short = Duration::from_millis(100);
        assert_eq!(until(now, seconds(6), Some(now + short)), now + short * 9 / 10);
    }
}
