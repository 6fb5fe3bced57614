//! How much of the requests of one connection is in memory, by stream.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use super::frames::{FrameVisitor, Frames};
use crate::memory::{ConnectionMemory, RoomWait};
use crate::transport::counting::ReadObserver;

/// The overhead of a frame, so that many small ones cannot evade the budget.
pub(crate) const FRAME: usize = 256;

/// The request data of one connection that is in memory.
#[derive(Debug)]
pub(crate) struct Ledger {
    held: Arc<ConnectionMemory>,
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    /// By stream: calls that have been accepted.
    open: BTreeMap<u32, usize>,
    /// By stream: calls that have not been accepted yet.
    early: BTreeMap<u32, usize>,
    /// The last stream that was accepted.
    last: u32,
    /// The size of a head that is not complete.
    head: usize,
}

impl Ledger {
    pub(crate) fn new(held: Arc<ConnectionMemory>) -> Arc<Self> {
        Arc::new(Self {
            held,
            table: Mutex::default(),
        })
    }

    pub(crate) const fn held(&self) -> &Arc<ConnectionMemory> {
        &self.held
    }

    /// A call has been accepted.
    pub(crate) fn open(&self, stream: u32) {
        let mut table = self.table();
        let early = table.early.remove(&stream).unwrap_or_default();
        table.open.insert(stream, early);
        table.last = table.last.max(stream);
    }

    /// All available calls have been accepted. Other data belongs to no call, and h2 has dropped it.
    pub(crate) fn settle(&self) {
        let mut table = self.table();
        if !table.early.is_empty() {
            let of_none: usize = std::mem::take(&mut table.early).into_values().sum();
            drop(table);
            self.held.give_back(of_none);
        }
    }

    /// Part of a request is no longer kept.
    pub(crate) fn release(&self, stream: u32, bytes: usize) {
        let mut table = self.table();
        let Some(kept) = table.open.get_mut(&stream) else {
            return;
        };
        let released = bytes.min(*kept);
        *kept -= released;
        drop(table);
        self.held.give_back(released);
    }

    /// The rest of a request will not be read. Returns how much of it is still counted.
    pub(crate) fn close(&self, stream: u32) -> usize {
        self.table().open.remove(&stream).unwrap_or_default()
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        // No panic is possible while the lock is held.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Updates the table for one read of the socket, and applies the total at its end.
struct Writing<'a> {
    table: MutexGuard<'a, Table>,
    held: &'a ConnectionMemory,
    taken: usize,
    given_back: usize,
}

impl<'a> Writing<'a> {
    fn to(ledger: &'a Ledger) -> Self {
        Self {
            table: ledger.table(),
            held: &ledger.held,
            taken: 0,
            given_back: 0,
        }
    }
}

impl Drop for Writing<'_> {
    fn drop(&mut self) {
        let both = self.taken.min(self.given_back);
        self.held.take(self.taken - both);
        self.held.give_back(self.given_back - both);
    }
}

impl FrameVisitor for Writing<'_> {
    fn data(&mut self, stream: u32, bytes: usize, begins: bool) {
        let table = &mut *self.table;
        let cost = bytes + if begins { FRAME } else { 0 };
        if let Some(kept) = table.open.get_mut(&stream) {
            *kept += cost;
        } else if stream > table.last {
            *table.early.entry(stream).or_default() += cost;
        } else {
            // Of a call that is not read any more.
            return;
        }
        self.taken += cost;
    }

    fn head(&mut self, bytes: usize) {
        self.table.head += bytes;
        self.taken += bytes;
    }

    fn head_ends(&mut self) {
        self.given_back += std::mem::take(&mut self.table.head);
    }
}

/// Counts what is read from the socket, and delays reads while the party has no room.
pub(crate) struct InboundCounter<L> {
    to: L,
    ledger: Arc<Ledger>,
    frames: Frames,
    turn: RoomWait,
}

impl<L> InboundCounter<L> {
    /// `to` is notified as well.
    pub(crate) fn new(to: L, ledger: Arc<Ledger>) -> Self {
        Self {
            to,
            ledger,
            frames: Frames::default(),
            turn: RoomWait::default(),
        }
    }
}

impl<L: ReadObserver> ReadObserver for InboundCounter<L> {
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.turn.poll(&self.ledger.held, cx)
    }

    fn on_read(&mut self, bytes: &[u8]) {
        self.to.on_read(bytes);
        self.frames.read(bytes, &mut Writing::to(&self.ledger));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::caller::{Caller, Peer};
    use crate::memory::Memory;

    #[test]
    fn what_belongs_to_no_call_is_not_counted_for_long() {
        let memory = Memory::new(1 << 20);
        let held = memory.of(&Caller::at(Peer::of([192, 0, 2, 1].into())));
        let ledger = Ledger::new(held.clone());
        let see = |stream, bytes| Writing::to(&ledger).data(stream, bytes, true);
        // For a call that is accepted later, and for one that never is.
        see(1, 1_000);
        see(3, 1_000);
        ledger.open(3);
        assert_eq!(held.used(), 2 * (1_000 + FRAME));
        ledger.settle();
        assert_eq!(held.used(), 1_000 + FRAME);
        ledger.release(3, 400);
        assert_eq!(held.used(), 600 + FRAME);
        held.give_back(ledger.close(3));
        see(3, 1_000);
        assert_eq!(held.used(), 0);
    }
}
