//! Abandoned calls: their streams are reset, but only as many at a time as the leader tolerates.
//!
//! HTTP/2 servers close a connection when too many of its streams were reset before they were processed
//! (CVE-2023-44487, rapid reset). Callers share the connection, so no caller may cause that: by deadlines, by
//! cancelling, or by closing its own connection. The leader's pongs show how many resets it has not seen yet. A
//! stream that must not be reset yet waits and keeps its slot. It often ends by itself meanwhile, because the leader
//! knows the deadline of the call.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use h2::client::ResponseFuture;
use h2::{RecvStream, SendStream};
use tokio::sync::Notify;
use tokio_util::task::AbortOnDropHandle;

use crate::forward::connection::Slot;
use crate::forward::upload::Uploaded;

/// The maximum number of resets in flight. Servers tolerate at least 20 unprocessed ones, a Curator 64 of any caller.
/// Resets of streams whose answer has begun count here, but not there.
const MAX_RESETS_IN_FLIGHT: usize = 32;

/// The number of resets that the leader may not have seen yet. No I/O.
#[derive(Debug, Default)]
struct Pace {
    /// Resets since the last pong.
    fresh: usize,
    /// Resets before that. A ping may overtake a reset within this host, but no reset is still here when the next
    /// ping is sent.
    aging: usize,
}

impl Pace {
    /// Counts one more reset, if it is allowed.
    const fn take(&mut self) -> bool {
        let may = self.on_their_way() < MAX_RESETS_IN_FLIGHT;
        if may {
            self.fresh += 1;
        }
        may
    }

    const fn on_their_way(&self) -> usize {
        self.fresh + self.aging
    }

    /// A pong has arrived.
    const fn answered(&mut self) {
        self.aging = self.fresh;
        self.fresh = 0;
    }
}

/// What is left of a call at the leader. Dropping it resets the stream, unless the stream has ended.
pub(crate) struct AbandonedCall {
    pub(crate) response: ResponseState,
    /// `None` if the request has been sent completely.
    pub(crate) request: Option<RequestState>,
    /// The slot stays taken until then.
    pub(crate) slot: Slot,
}

/// The stream from the leader.
pub(crate) enum ResponseState {
    /// The response has not begun.
    Awaited(ResponseFuture),
    /// The response has begun.
    Begun(RecvStream),
}

/// The stream to the leader.
pub(crate) enum RequestState {
    /// No task sends on it.
    Idle(#[expect(dead_code, reason = "held, so that the stream is not reset yet")] SendStream<Bytes>),
    /// A task sends on it.
    Sending(#[expect(dead_code, reason = "held, so that the stream is not reset yet")] AbortOnDropHandle<Uploaded>),
}

impl RequestState {
    /// The state of an upload task; `None` if it has sent everything.
    pub(crate) fn sending(mut task: AbortOnDropHandle<Uploaded>) -> Option<Self> {
        match Pin::new(&mut task).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Ok(Uploaded::Whole)) => None,
            _ => Some(Self::Sending(task)),
        }
    }
}

impl AbandonedCall {
    /// Discards what has arrived of the answer. Returns whether the stream has ended, so that there is nothing to
    /// reset.
    fn has_ended(&mut self) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        if let ResponseState::Awaited(response) = &mut self.response {
            match Pin::new(response).poll(&mut cx) {
                Poll::Ready(Ok(response)) => self.response = ResponseState::Begun(response.into_body()),
                // Reset by the leader, or lost with the connection.
                Poll::Ready(Err(_)) => return true,
                Poll::Pending => return false,
            }
        }
        let ResponseState::Begun(stream) = &mut self.response else {
            return false;
        };
        loop {
            match stream.poll_data(&mut cx) {
                Poll::Ready(Some(Ok(data))) => {
                    if stream.flow_control().release_capacity(data.len()).is_err() {
                        return true;
                    }
                }
                Poll::Ready(Some(Err(_))) => return true,
                Poll::Ready(None) => break,
                Poll::Pending => return false,
            }
        }
        match stream.poll_trailers(&mut cx) {
            Poll::Ready(Ok(_)) => self.request.is_none(),
            Poll::Ready(Err(_)) => true,
            Poll::Pending => false,
        }
    }
}

/// The abandoned calls of one connection.
#[derive(Default)]
pub(crate) struct ResetQueue {
    state: Mutex<State>,
    /// Notified when a pong is needed.
    wanted: Notify,
}

#[derive(Default)]
struct State {
    pace: Pace,
    /// Bounded by the slots of the connection, because each call keeps its slot.
    waiting: VecDeque<AbandonedCall>,
    /// The connection has ended, and all of its streams with it.
    over: bool,
}

impl ResetQueue {
    /// Abandons a call: it is reset now, or as soon as that is allowed.
    pub(crate) fn take(&self, mut rest: AbandonedCall) {
        if rest.has_ended() {
            return;
        }
        let mut state = self.state();
        let now = if state.over || state.pace.take() {
            Some(rest)
        } else {
            state.waiting.push_back(rest);
            None
        };
        let many = state.pace.on_their_way() >= MAX_RESETS_IN_FLIGHT / 2;
        drop(state);
        // Not under the lock, because it frees a slot.
        drop(now);
        if many {
            self.wanted.notify_one();
        }
    }

    /// Completes when a pong is needed. Cancellation safe.
    pub(crate) async fn wants_answer(&self) {
        self.wanted.notified().await;
    }

    /// A pong has arrived: some of the waiting streams may be reset.
    pub(crate) fn answered(&self) {
        self.state().pace.answered();
        let mut more = true;
        while more {
            let next = {
                let mut state = self.state();
                let Some(mut rest) = state.waiting.pop_front() else {
                    return;
                };
                drop(state);
                if rest.has_ended() {
                    continue;
                }
                state = self.state();
                if state.pace.take() {
                    Some(rest)
                } else {
                    more = false;
                    state.waiting.push_front(rest);
                    None
                }
            };
            drop(next);
        }
        self.wanted.notify_one();
    }

    /// The connection has ended.
    pub(crate) fn end(&self) {
        let waiting = {
            let mut state = self.state();
            state.over = true;
            std::mem::take(&mut state.waiting)
        };
        drop(waiting);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // No panic is possible while the lock is held.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_are_on_their_way_than_a_leader_bears() {
        let mut pace = Pace::default();
        let mut taken = 0;
        while pace.take() {
            taken += 1;
        }
        assert_eq!(taken, MAX_RESETS_IN_FLIGHT);
        // The first pong may answer a ping that was sent before the resets.
        pace.answered();
        assert!(!pace.take());
        pace.answered();
        assert!(pace.take());
    }

    #[test]
    fn one_round_of_answers_lets_only_what_is_older_go() {
        let mut pace = Pace::default();
        for _ in 0..10 {
            assert!(pace.take());
        }
        pace.answered();
        for _ in 0..22 {
            assert!(pace.take());
        }
        assert!(!pace.take());
        pace.answered();
        assert_eq!(pace.on_their_way(), 22);
    }
}
