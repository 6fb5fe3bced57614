//! What comes in on one connection: counted as long as it is kept, and not read any further when its party has no room.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::{Reason, RecvStream};
use http_body::Frame;

use super::frames::{Frames, Seeing};
use crate::heard::Listening;
use crate::memory::{Held, Turn};

/// What a frame takes beside its bytes, so that many small ones are no way around the budget.
pub(super) const FRAME: usize = 256;

/// What of the requests of one connection is kept.
#[derive(Debug)]
pub(super) struct Ledger {
    held: Arc<Held>,
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
    pub(super) fn new(held: Arc<Held>) -> Arc<Self> {
        Arc::new(Self {
            held,
            table: Mutex::default(),
        })
    }

    pub(super) const fn held(&self) -> &Arc<Held> {
        &self.held
    }

    /// A call has been taken in.
    pub(super) fn open(&self, stream: u32) {
        let mut table = self.table();
        let early = table.early.remove(&stream).unwrap_or_default();
        table.open.insert(stream, early);
        table.last = table.last.max(stream);
    }

    /// All calls have been taken in that there are: what else has come belongs to none, and HTTP/2 has dropped it.
    pub(super) fn settle(&self) {
        let mut table = self.table();
        if !table.early.is_empty() {
            let of_none: usize = std::mem::take(&mut table.early).into_values().sum();
            drop(table);
            self.held.give_back(of_none);
        }
    }

    /// So much of a request is kept no longer.
    fn release(&self, stream: u32, bytes: usize) {
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
    fn close(&self, stream: u32) -> usize {
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
    held: &'a Held,
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

impl Seeing for Writing<'_> {
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
pub(super) struct Counting<L> {
    to: L,
    ledger: Arc<Ledger>,
    frames: Frames,
    turn: Turn,
}

impl<L> Counting<L> {
    /// `to` is told as well.
    pub(super) fn new(to: L, ledger: Arc<Ledger>) -> Self {
        Self {
            to,
            ledger,
            frames: Frames::default(),
            turn: Turn::default(),
        }
    }
}

impl<L: Listening> Listening for Counting<L> {
    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.turn.poll(&self.ledger.held, cx)
    }

    fn heard(&mut self, bytes: &[u8]) {
        self.to.heard(bytes);
        self.frames.read(bytes, &mut Writing::to(&self.ledger));
    }
}

/// What one call costs while it is open: itself, its head, and what its service has read and not answered yet.
#[derive(Debug)]
pub(super) struct CallCost {
    held: Arc<Held>,
    base: usize,
    kept: AtomicUsize,
    answered: AtomicBool,
}

impl CallCost {
    pub(super) fn new(held: Arc<Held>, base: usize) -> Arc<Self> {
        held.take(base);
        Arc::new(Self {
            held,
            base,
            kept: AtomicUsize::new(0),
            answered: AtomicBool::new(false),
        })
    }

    /// Its answer begins: the request is not needed any more.
    pub(super) fn answered(&self) {
        self.answered.store(true, Ordering::SeqCst);
        self.held.give_back(self.kept.swap(0, Ordering::SeqCst));
    }

    /// So much is counted already, and goes with the request.
    fn keep(&self, bytes: usize) {
        self.kept.fetch_add(bytes, Ordering::SeqCst);
        if self.answered.load(Ordering::SeqCst) {
            self.answered();
        }
    }
}

impl Drop for CallCost {
    fn drop(&mut self) {
        self.held.give_back(self.base + *self.kept.get_mut());
    }
}

/// Until when what has been read of a request counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keep {
    /// A service puts it together until a message is whole, here or at the leader.
    Messages,
    /// A service has it in hand until it answers.
    All,
}

/// The body of a request.
#[derive(Debug)]
pub(crate) struct Inflow {
    stream: RecvStream,
    number: u32,
    ledger: Arc<Ledger>,
    cost: Arc<CallCost>,
    keep: Keep,
    messages: Messages,
    /// Read, and counted still.
    kept: usize,
    data_ended: bool,
}

impl Inflow {
    pub(super) fn new(stream: RecvStream, ledger: Arc<Ledger>, cost: Arc<CallCost>) -> Self {
        let number = stream.stream_id().as_u32();
        Self {
            stream,
            number,
            ledger,
            cost,
            keep: Keep::Messages,
            messages: Messages::default(),
            kept: 0,
            data_ended: false,
        }
    }

    /// From now on what is read counts for so long.
    pub(crate) const fn keep(&mut self, keep: Keep) {
        self.keep = keep;
    }

    /// An instance has forwarded the call, and may.
    pub(crate) fn is_forwarded(&self) {
        self.ledger.held.forwards();
    }

    fn has_read(&mut self, data: &Bytes) {
        self.kept += data.len();
        let still = match self.keep {
            Keep::Messages => self.messages.read(data),
            Keep::All => self.kept,
        };
        let released = self.kept.saturating_sub(still);
        self.kept -= released;
        self.ledger.release(self.number, released + FRAME);
    }
}

impl Drop for Inflow {
    fn drop(&mut self) {
        let rest = self.ledger.close(self.number);
        let kept = if self.keep == Keep::All { rest.min(self.kept) } else { 0 };
        self.ledger.held.give_back(rest - kept);
        self.cost.keep(kept);
    }
}

impl http_body::Body for Inflow {
    type Data = Bytes;
    type Error = h2::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        let this = self.get_mut();
        // The other side wants to hear no more of it, and has nothing against what it has sent.
        let is_end = |error: &h2::Error| error.reason() == Some(Reason::NO_ERROR);
        if !this.data_ended {
            match ready!(this.stream.poll_data(cx)) {
                Some(Ok(data)) => {
                    this.has_read(&data);
                    // The stream may be gone meanwhile, which the next frame says.
                    let _ = this.stream.flow_control().release_capacity(data.len());
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Some(Err(error)) if is_end(&error) => return Poll::Ready(None),
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => this.data_ended = true,
            }
        }
        Poll::Ready(match ready!(this.stream.poll_trailers(cx)) {
            Ok(trailers) => trailers.map(|trailers| Ok(Frame::trailers(trailers))),
            Err(error) if is_end(&error) => None,
            Err(error) => Some(Err(error)),
        })
    }

    fn is_end_stream(&self) -> bool {
        self.stream.is_end_stream()
    }
}

/// Where in the messages of gRPC a body is: a flag and a length of four bytes before each.
#[derive(Debug, Default)]
struct Messages {
    head: [u8; 5],
    known: usize,
    left: usize,
    /// How much there is of the message that is not whole.
    so_far: usize,
}

impl Messages {
    /// Goes on; says how much there is of the message that is not whole yet.
    fn read(&mut self, mut data: &[u8]) -> usize {
        while !data.is_empty() {
            let wanted = if self.left > 0 {
                self.left
            } else {
                self.head.len() - self.known
            };
            let (now, rest) = data.split_at(wanted.min(data.len()));
            data = rest;
            self.so_far += now.len();
            if self.left > 0 {
                self.left -= now.len();
            } else {
                self.head[self.known..self.known + now.len()].copy_from_slice(now);
                self.known += now.len();
                if self.known < self.head.len() {
                    continue;
                }
                let [_, l0, l1, l2, l3] = self.head;
                self.left = u32::from_be_bytes([l0, l1, l2, l3]) as usize;
                self.known = 0;
            }
            if self.left == 0 {
                self.so_far = 0;
            }
        }
        self.so_far
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::caller::{Caller, Peer};
    use crate::memory::Memory;

    #[test]
    fn a_message_counts_until_it_is_whole() {
        let mut messages = Messages::default();
        let message = [&[0, 0, 0, 0, 10][..], &[7; 10]].concat();
        assert_eq!(messages.read(&message[..3]), 3);
        assert_eq!(messages.read(&message[3..9]), 9);
        assert_eq!(messages.read(&message[9..]), 0);
        // Pieces that do not end where messages do.
        let many = message.repeat(100);
        assert_eq!(messages.read(&many[..22]), 7);
        assert_eq!(messages.read(&many[22..]), 0);
        assert_eq!(messages.read(&[0; 50]), 0, "without a byte in it");
    }

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
