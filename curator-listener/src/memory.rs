//! The memory budget of all callers together: requests that are not read yet, answers that are not taken, and open
//! calls.
//!
//! Shares are not fixed. A party may use half of what is free, so that one party alone gets a third of the budget and
//! two get a quarter each, and there is always room for the next one. Strangers share a quarter of the budget in the
//! same way, and one of them gets an eighth of what is free there. Memory is never taken back from a party. A party
//! without room is not read from, its answers are not requested from the services, and its calls are refused.

mod room_wait;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use crate::caller::{Caller, Party, Standing};
use crate::telemetry;
pub(crate) use room_wait::RoomWait;
use room_wait::Waiters;

/// A connection that uses no more than this is never stopped, so that a party that has used up its share on one
/// connection can still make small calls on another. The size of one HTTP/2 frame.
const MIN_CONNECTION_BYTES: usize = 16 << 10;
/// A connection is counted in the budget in units of this size, so that small calls do not all write to the same
/// counters.
const ACCOUNTING_GRAIN: usize = 8 << 10;
/// The part of the budget that strangers share.
const STRANGERS_DIVISOR: usize = 4;
/// The part of what is free of that for one stranger.
const STRANGER_DIVISOR: usize = 8;
/// The part of what is free for a known party.
const MEMBER_DIVISOR: usize = 2;

/// How often the metrics are updated.
const REPORT_INTERVAL: Duration = Duration::from_secs(5);

/// The budget.
#[derive(Debug)]
pub(crate) struct Memory {
    limit: usize,
    used: AtomicUsize,
    used_by_strangers: AtomicUsize,
    accounts: Mutex<HashMap<Arc<Party>, Weak<Account>>>,
}

/// The memory of one party, on all of its connections.
#[derive(Debug)]
pub(crate) struct Account {
    memory: Arc<Memory>,
    party: Arc<Party>,
    standing: Standing,
    used: AtomicUsize,
    waiters: Waiters,
}

/// The memory of one connection. Dropping it returns everything.
#[derive(Debug)]
pub(crate) struct ConnectionMemory {
    account: Arc<Account>,
    used: AtomicUsize,
    /// What the account has been charged: whole units, and at least what is used.
    counted: AtomicUsize,
    /// The peer is another instance, which applies the shares of its own callers.
    forwards: AtomicBool,
}

/// A part of a connection's memory. Dropping it returns the part.
#[derive(Debug)]
pub(crate) struct Charge {
    held: Arc<ConnectionMemory>,
    bytes: usize,
}

impl Memory {
    pub(crate) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self {
            limit,
            used: AtomicUsize::new(0),
            used_by_strangers: AtomicUsize::new(0),
            accounts: Mutex::default(),
        })
    }

    /// Updates the metrics periodically. Never returns.
    pub(crate) async fn report(&self) {
        loop {
            telemetry::memory(self.used.load(Ordering::Relaxed), self.limit);
            tokio::time::sleep(REPORT_INTERVAL).await;
        }
    }

    /// The memory of a new connection of this caller.
    pub(crate) fn of(self: &Arc<Self>, caller: &Caller) -> Arc<ConnectionMemory> {
        let mut accounts = self.accounts();
        let known = accounts.get(&caller.party).and_then(Weak::upgrade);
        let account = known.unwrap_or_else(|| {
            let account = Arc::new(Account {
                memory: self.clone(),
                party: caller.party.clone(),
                standing: caller.standing,
                used: AtomicUsize::new(0),
                waiters: Waiters::default(),
            });
            accounts.insert(caller.party.clone(), Arc::downgrade(&account));
            account
        });
        drop(accounts);
        Arc::new(ConnectionMemory {
            account,
            used: AtomicUsize::new(0),
            counted: AtomicUsize::new(0),
            forwards: AtomicBool::new(false),
        })
    }

    fn accounts(&self) -> MutexGuard<'_, HashMap<Arc<Party>, Weak<Account>>> {
        // No panic is possible while the lock is held.
        self.accounts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Account {
    /// How much the party may use at this moment.
    fn share(&self) -> usize {
        let free = self
            .memory
            .limit
            .saturating_sub(self.memory.used.load(Ordering::Relaxed));
        match self.standing {
            Standing::User | Standing::Member => free / MEMBER_DIVISOR,
            Standing::Stranger => {
                let theirs = self.memory.limit / STRANGERS_DIVISOR;
                let left = theirs.saturating_sub(self.memory.used_by_strangers.load(Ordering::Relaxed));
                left.min(free) / STRANGER_DIVISOR
            }
        }
    }

    fn take(&self, bytes: usize) {
        if bytes == 0 {
            return;
        }
        self.used.fetch_add(bytes, Ordering::Relaxed);
        self.memory.used.fetch_add(bytes, Ordering::Relaxed);
        if self.standing == Standing::Stranger {
            self.memory.used_by_strangers.fetch_add(bytes, Ordering::Relaxed);
        }
    }

    fn give_back(&self, bytes: usize) {
        if bytes == 0 {
            return;
        }
        self.used.fetch_sub(bytes, Ordering::Relaxed);
        self.memory.used.fetch_sub(bytes, Ordering::Relaxed);
        if self.standing == Standing::Stranger {
            self.memory.used_by_strangers.fetch_sub(bytes, Ordering::Relaxed);
        }
        self.waiters.wake_one();
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        let mut accounts = self.memory.accounts();
        // Another account of the party may have been made meanwhile.
        if accounts
            .get(&self.party)
            .is_some_and(|account| account.strong_count() == 0)
        {
            accounts.remove(&self.party);
        }
    }
}

impl ConnectionMemory {
    /// Whether the connection may use more.
    pub(crate) fn has_room(&self) -> bool {
        self.fits(1)
    }

    /// Whether the connection may use this many bytes more.
    pub(crate) fn fits(&self, bytes: usize) -> bool {
        if self.used.load(Ordering::Relaxed).saturating_add(bytes) <= MIN_CONNECTION_BYTES {
            return true;
        }
        if self.forwards.load(Ordering::Relaxed) {
            let memory = &self.account.memory;
            return memory.used.load(Ordering::Relaxed).saturating_add(bytes) <= memory.limit;
        }
        self.account.used.load(Ordering::Relaxed).saturating_add(bytes) <= self.account.share()
    }

    /// From now on the connection may use everything that is free. It carries the calls of many callers, and the
    /// forwarding instance applies their shares. Stopping it for one caller would stop all.
    pub(crate) fn forwards(&self) {
        self.forwards.store(true, Ordering::Relaxed);
    }

    /// How much the connection uses.
    #[cfg(test)]
    pub(crate) fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// Counts memory that is already in use, even above the limit.
    pub(crate) fn take(&self, bytes: usize) {
        if bytes > 0 {
            self.used.fetch_add(bytes, Ordering::SeqCst);
            self.count();
        }
    }

    /// Returns memory.
    pub(crate) fn give_back(&self, bytes: usize) {
        if bytes > 0 {
            self.used.fetch_sub(bytes, Ordering::SeqCst);
            self.count();
            // Even if the account is not changed: a connection below the minimum always has room.
            self.account.waiters.wake_one();
        }
    }

    /// Charges the account for what is used. It must be called after each change of `used`; of two concurrent calls
    /// the later one sees both changes.
    fn count(&self) {
        loop {
            let used = self.used.load(Ordering::SeqCst);
            let counted = self.counted.load(Ordering::SeqCst);
            let grains = used.next_multiple_of(ACCOUNTING_GRAIN);
            // A connection in use may keep one unit more than it needs: it will need it again.
            let enough = used <= counted && (used > 0 || counted == 0) && counted - grains <= ACCOUNTING_GRAIN;
            if enough {
                return;
            }
            // The account is charged before `counted` changes, so that it cannot underflow.
            let more = grains.saturating_sub(counted);
            self.account.take(more);
            let changed = self
                .counted
                .compare_exchange(counted, grains, Ordering::SeqCst, Ordering::SeqCst);
            self.account.give_back(match changed {
                Ok(_) => counted.saturating_sub(grains),
                Err(_) => more,
            });
        }
    }

    /// Counts the bytes as long as the returned value lives.
    pub(crate) fn charge(self: &Arc<Self>, bytes: usize) -> Charge {
        self.take(bytes);
        Charge {
            held: self.clone(),
            bytes,
        }
    }
}

impl Drop for ConnectionMemory {
    fn drop(&mut self) {
        self.account.give_back(*self.counted.get_mut());
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.held.give_back(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::net::IpAddr;
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;
    use crate::caller::{CallerCertificates, Peer};

    const PIECE: usize = 1 << 10;

    fn known(host: u8) -> Caller {
        Caller::at(Peer::of(IpAddr::from([192, 0, 2, host])))
    }

    fn stranger(host: u8) -> Caller {
        Caller::showing(
            &CallerCertificates::default(),
            Standing::Stranger,
            Peer::of(IpAddr::from([192, 0, 2, host])),
        )
    }

    /// Takes as much as there is room for.
    fn fill(held: &Arc<ConnectionMemory>) -> usize {
        let mut taken = 0;
        while held.fits(PIECE) {
            held.take(PIECE);
            taken += PIECE;
        }
        taken
    }

    /// Within one percent and one piece.
    fn about(taken: usize, expected: usize) -> bool {
        taken.abs_diff(expected) <= expected / 100 + PIECE
    }

    #[test]
    fn one_alone_has_a_third_and_there_is_always_something_for_whoever_comes_next() {
        let memory = Memory::new(63 << 20);
        let first = memory.of(&known(1));
        assert!(about(fill(&first), 21 << 20));
        let second = memory.of(&known(2));
        assert!(about(fill(&second), 14 << 20));
        // However many parties there are, there is room for one more.
        let more: Vec<_> = (3..13).map(|host| memory.of(&known(host))).collect();
        for held in &more {
            assert!(fill(held) >= MIN_CONNECTION_BYTES);
        }
        assert!(memory.used.load(Ordering::Relaxed) <= memory.limit);
        drop((first, second, more));
        assert_eq!(memory.used.load(Ordering::Relaxed), 0);
        assert!(memory.accounts().is_empty(), "nothing is left of those who have gone");
    }

    #[test]
    fn what_many_do_at_a_time_is_counted_to_the_last_byte() {
        let memory = Memory::new(63 << 20);
        let held = memory.of(&known(1));
        std::thread::scope(|scope| {
            for thread in 1..5_usize {
                let held = &held;
                scope.spawn(move || {
                    for turn in 1..20_000_usize {
                        let bytes = thread * turn % (3 * ACCOUNTING_GRAIN) + 1;
                        held.take(bytes);
                        let limit = held.account.memory.limit;
                        assert!(
                            held.account.used.load(Ordering::SeqCst) <= limit,
                            "less than nothing is counted"
                        );
                        held.give_back(bytes);
                    }
                });
            }
        });
        assert_eq!(held.used(), 0);
        assert_eq!(memory.used.load(Ordering::Relaxed), 0);
        held.take(ACCOUNTING_GRAIN + 1);
        assert_eq!(memory.used.load(Ordering::Relaxed), 2 * ACCOUNTING_GRAIN);
        held.give_back(ACCOUNTING_GRAIN);
        assert_eq!(
            memory.used.load(Ordering::Relaxed),
            2 * ACCOUNTING_GRAIN,
            "it may be back for it"
        );
        held.give_back(1);
        assert_eq!(memory.used.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn the_connections_of_a_party_share_what_it_has() {
        let memory = Memory::new(63 << 20);
        let connections: Vec<_> = (0..20).map(|_| memory.of(&known(1))).collect();
        let taken: usize = connections.iter().map(fill).sum();
        assert!(taken <= (21 << 20) + 19 * MIN_CONNECTION_BYTES, "{taken}");
        let other = memory.of(&known(2));
        assert!(other.fits(8 << 20), "what it does, it does to itself");
    }

    #[test]
    fn strangers_have_a_quarter_together_and_members_the_rest() {
        let memory = Memory::new(64 << 20);
        let first = memory.of(&stranger(1));
        let alone = fill(&first);
        assert!(about(alone, (16 << 20) / 9), "{alone}");
        let others: Vec<_> = (2..200).map(|host| memory.of(&stranger(host))).collect();
        let taken: usize = others.iter().map(fill).sum();
        assert!(taken + alone <= (16 << 20) + 200 * MIN_CONNECTION_BYTES, "{taken}");
        let member = fill(&memory.of(&known(201)));
        assert!(
            about(member, ((64 << 20) - taken - alone) / 3),
            "{member} beside {taken}"
        );
    }

    #[test]
    fn small_calls_get_through_at_another_connection() {
        let memory = Memory::new(64 << 20);
        let stalls = memory.of(&stranger(1));
        fill(&stalls);
        let other = memory.of(&stranger(1));
        assert!(other.fits(MIN_CONNECTION_BYTES));
        other.take(MIN_CONNECTION_BYTES);
        assert!(!other.has_room());
    }

    #[test]
    fn an_instance_that_forwards_has_all_that_is_free() {
        let memory = Memory::new(63 << 20);
        let held = memory.of(&known(1));
        assert!(about(fill(&held), 21 << 20));
        held.forwards();
        fill(&held);
        assert!(about(held.used(), 63 << 20));
        assert!(!held.has_room());
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_waits_goes_on_as_soon_as_its_own_is_given_back() {
        let memory = Memory::new(1 << 20);
        let held = memory.of(&known(1));
        let charge = held.charge(1 << 20);
        let mut turns: Vec<_> = (0..3).map(|_| RoomWait::default()).collect();
        for turn in &mut turns {
            let waits = timeout(Duration::from_millis(1), poll_fn(|cx| turn.poll(&held, cx))).await;
            assert!(waits.is_err());
        }
        // A waiter that leaves must not take the turn of those that stay.
        let gone = turns.remove(0);
        drop(charge);
        drop(gone);
        let began = tokio::time::Instant::now();
        for turn in &mut turns {
            poll_fn(|cx| turn.poll(&held, cx)).await;
        }
        assert_eq!(began.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_waits_goes_on_soon_after_others_give_back() {
        let memory = Memory::new(1 << 20);
        let (one, other) = (memory.of(&known(1)), memory.of(&known(2)));
        one.take(100 << 10);
        let charge = other.charge((1 << 20) - (100 << 10));
        let mut turn = RoomWait::default();
        assert!(
            timeout(Duration::from_secs(60), poll_fn(|cx| turn.poll(&one, cx)))
                .await
                .is_err()
        );
        drop(charge);
        let goes_on = timeout(Duration::from_secs(2), poll_fn(|cx| turn.poll(&one, cx))).await;
        assert!(goes_on.is_ok());
    }
}
