//! Accounting of the calls in flight of a term, so that a planned step-down can wait for them.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

/// A stream that has sent nothing for this long does not delay a step-down.
const STREAM_QUIET_TIMEOUT: Duration = Duration::from_millis(50);

/// The calls in flight of a term.
#[derive(Debug)]
pub(crate) struct InFlight {
    draining: AtomicBool,
    /// The same as a signal.
    drains: CancellationToken,
    /// Calls without an answer yet.
    unanswered: AtomicUsize,
    /// Responses in progress.
    answering: AtomicUsize,
    /// Responses in progress that have something to send.
    sending: AtomicUsize,
    /// When a young stream last sent something, in milliseconds since `began`.
    moved: AtomicU64,
    began: Instant,
    /// Streams older than this count as endless.
    young: Duration,
    ended: Notify,
}

/// The result of a drain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Drained {
    /// Calls without an answer when the time was over.
    pub unanswered: usize,
    /// Streams that were still open. They end with the term.
    pub streams: usize,
}

impl InFlight {
    pub(crate) fn new(young: Duration) -> Arc<Self> {
        Arc::new(Self {
            draining: AtomicBool::new(false),
            drains: CancellationToken::new(),
            unanswered: AtomicUsize::new(0),
            answering: AtomicUsize::new(0),
            sending: AtomicUsize::new(0),
            moved: AtomicU64::new(0),
            began: Instant::now(),
            young,
            ended: Notify::new(),
        })
    }

    /// Whether no new calls are accepted.
    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::SeqCst)
    }

    /// Completes when no new calls are accepted any more. Cancellation safe.
    pub(crate) async fn draining(&self) {
        self.drains.cancelled().await;
    }

    /// Counts one more call; `None` if no new calls are accepted.
    pub(crate) fn enter(self: &Arc<Self>) -> Option<InFlightCall> {
        // First count, then check: a drain does it in the opposite order, so that one of the two sees the other.
        self.unanswered.fetch_add(1, Ordering::SeqCst);
        let call = InFlightCall {
            in_flight: self.clone(),
            since: Instant::now(),
            phase: Phase::Unanswered,
            frames: 0,
        };
        (!self.is_draining()).then_some(call)
    }

    /// Stops accepting calls, and waits for the calls in flight: all calls without an answer, responses that have
    /// something to send, and young streams that have just sent something. Cancellation: no new calls are accepted
    /// afterwards either.
    pub(crate) async fn drain(&self, limit: Duration) -> Drained {
        self.draining.store(true, Ordering::SeqCst);
        self.drains.cancel();
        let _ = timeout(limit, self.quiet()).await;
        Drained {
            unanswered: self.unanswered.load(Ordering::SeqCst),
            streams: self.answering.load(Ordering::SeqCst),
        }
    }

    async fn quiet(&self) {
        loop {
            let ended = self.ended.notified();
            let mut ended = pin!(ended);
            ended.as_mut().enable();
            if self.unanswered.load(Ordering::SeqCst) > 0 || self.sending.load(Ordering::SeqCst) > 0 {
                ended.await;
                continue;
            }
            if self.answering.load(Ordering::SeqCst) == 0 {
                return;
            }
            let moved = Duration::from_millis(self.moved.load(Ordering::Relaxed));
            let quiet_at = self.began + moved + STREAM_QUIET_TIMEOUT;
            if Instant::now() >= quiet_at {
                return;
            }
            tokio::select! {
                () = ended => {}
                () = sleep_until(quiet_at) => {}
            }
        }
    }
}

/// One call in flight.
pub(crate) struct InFlightCall {
    in_flight: Arc<InFlight>,
    since: Instant,
    phase: Phase,
    frames: u32,
}

/// The phase of a call in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The handler has not answered.
    Unanswered,
    /// The response has something to send, as far as is known.
    Sending,
    /// The response has nothing to send at the moment.
    Waiting,
}

impl InFlightCall {
    pub(crate) fn answered(&mut self) {
        self.in_flight.answering.fetch_add(1, Ordering::SeqCst);
        self.enter(Phase::Sending);
    }

    /// A frame of the response was sent.
    pub(crate) fn moved(&mut self) {
        self.frames = self.frames.saturating_add(1);
        // A unary response has one message and trailers, and ends at once.
        if self.frames <= 2 {
            self.enter(Phase::Sending);
        } else if self.since.elapsed() < self.in_flight.young {
            self.enter(Phase::Sending);
            let now = self.in_flight.began.elapsed().as_millis();
            self.in_flight
                .moved
                .store(u64::try_from(now).unwrap_or(u64::MAX), Ordering::Relaxed);
        } else {
            // It seems endless: a drain does not wait for it.
            self.enter(Phase::Waiting);
        }
    }

    /// There is nothing to send at the moment.
    pub(crate) fn waits(&mut self) {
        self.enter(Phase::Waiting);
    }

    fn enter(&mut self, phase: Phase) {
        if self.phase == phase {
            return;
        }
        if phase == Phase::Sending {
            self.in_flight.sending.fetch_add(1, Ordering::SeqCst);
        }
        self.leave();
        self.phase = phase;
    }

    fn leave(&self) {
        match self.phase {
            Phase::Unanswered => self.in_flight.unanswered.fetch_sub(1, Ordering::SeqCst),
            Phase::Sending => self.in_flight.sending.fetch_sub(1, Ordering::SeqCst),
            Phase::Waiting => return,
        };
        self.tell();
    }

    fn tell(&self) {
        if self.in_flight.is_draining() {
            self.in_flight.ended.notify_waiters();
        }
    }
}

impl Drop for InFlightCall {
    fn drop(&mut self) {
        self.leave();
        if self.phase != Phase::Unanswered {
            self.in_flight.answering.fetch_sub(1, Ordering::SeqCst);
            self.tell();
        }
    }
}
