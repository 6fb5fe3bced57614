//! How much of the requests of one connection is kept, by stream.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use super::frames::{FrameVisitor, Frames};
use crate::memory::{ConnectionMemory, RoomWait};
use crate::transport::counting::ReadObserver;

/// What a frame takes beside its bytes, so that many small ones are no way around the budget.
pub(crate) const FRAME: usize = 256;

/// What of the requests of one connection is kept.
#[derive(Debug)]
pub(crate) struct Ledger {
    held: Arc<ConnectionMemory>,
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    /// By stream, of the calls that have been taken in.
    open: BTreeMap<u32, usize>,
    /// Of those that are about to be.
    early: BTreeMap<u32, usize>,
    /// The last that was taken in.
    last: u32,
    /// Of a head that is not at its end.
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

    /// A call has been taken in.
    pub(crate) fn open(&self, stream: u32) {
        let mut table = self.table();
        let early = table.early.remove(&stream).unwrap_or_default();
        table.open.insert(stream, early);
        table.last = table.last.max(stream);
    }

    /// All calls have been taken in that there are: what else has come belongs to none, and HTTP/2 has dropped it.
    pub(crate) fn settle(&self) {
        let mut table = self.table();
        if !table.early.is_empty() {
            let of_none: usize = std::mem::take(&mut table.early).into_values().sum();
            drop(table);
            self.held.give_back(of_none);
        }
    }

    /// So much of a request is kept no longer.
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

    /// Nobody reads the rest of a request. What was kept of it is still counted, and returned.
    pub(crate) fn close(&self, stream: u32) -> usize {
        self.table().open.remove(&stream).unwrap_or_default()
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        // Nothing that holds the lock can panic half-way.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A table that is being written to. What comes of it is counted at once for all that came in together.
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
            // Of a call that nobody reads any more.
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

/// What hears the socket of a connection: counts what comes in, and lets no more come while there is no room for it.
pub(crate) struct InboundCounter<L> {
    to: L,
    ledger: Arc<Ledger>,
    frames: Frames,
    turn: RoomWait,
}

impl<L> InboundCounter<L> {
    /// `to` is told as well.
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
    fn poll_ready_for_read(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.turn.poll(&self.ledger.held, cx)
    }

    fn heard(&mut self, bytes: &[u8]) {
        self.to.heard(bytes);
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
        // Before its call has been taken in, and of one that never is.
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
