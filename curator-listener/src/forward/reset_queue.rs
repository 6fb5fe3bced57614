//! Calls that are given up before the leader has answered them: their streams are reset, and never more of them at a time than the
//! leader bears.
//!
//! HTTP/2 servers end a whole connection when too many of its streams have been reset before they were looked at
//! (CVE-2023-44487). Callers share the connection, so that none of them may bring that about: by a deadline that passes, by
//! cancelling, or by breaking its own connection. How many resets the leader has not seen yet is known from its answers to
//! pings. A stream that may not be reset yet waits, with its slot on the connection, and often ends by itself meanwhile:
//! the leader knows the call's deadline as well.

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

/// As many resets may be on their way. Servers bear at least 20 that they have not looked at, a Curator 64 of any caller; those that
/// belong to a stream whose answer has begun are counted here and not there.
const MAX_RESETS_IN_FLIGHT: usize = 32;

/// How many resets the leader has not seen yet, as far as is known. Pure.
#[derive(Debug, Default)]
struct Pace {
    /// Since the last ping was answered.
    fresh: usize,
    /// Before that. A ping may overtake a reset within this host, but no reset is still here when the next one is sent.
    aging: usize,
}

impl Pace {
    /// One more, if it may be.
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

    /// A ping has been answered.
    const fn answered(&mut self) {
        self.aging = self.fresh;
        self.fresh = 0;
    }
}

/// What is left of a call at the leader. Dropping it resets the stream, unless that has ended.
pub(crate) struct AbandonedCall {
    pub(crate) answer: ResponseState,
    /// Only if the request is not at its end.
    pub(crate) request: Option<RequestState>,
    /// It counts as open until then.
    pub(crate) slot: Slot,
}

/// The stream from the leader.
pub(crate) enum ResponseState {
    /// It has not begun.
    Awaited(ResponseFuture),
    /// It has.
    Begun(RecvStream),
}

/// The stream to the leader.
pub(crate) enum RequestState {
    /// Nobody sends on it.
    Idle(#[expect(dead_code, reason = "held, so that the stream is not reset yet")] SendStream<Bytes>),
    /// A task does.
    Sending(#[expect(dead_code, reason = "held, so that the stream is not reset yet")] AbortOnDropHandle<Uploaded>),
}

impl RequestState {
    /// What a task that sends has left, if it has not sent all.
    pub(crate) fn sending(mut task: AbortOnDropHandle<Uploaded>) -> Option<Self> {
        match Pin::new(&mut task).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Ok(Uploaded::Whole)) => None,
            _ => Some(Self::Sending(task)),
        }
    }
}

impl AbandonedCall {
    /// Takes what has come of the answer, which nobody wants. Whether that was all, so that nothing is left to reset.
    fn has_ended(&mut self) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        if let ResponseState::Awaited(response) = &mut self.answer {
            match Pin::new(response).poll(&mut cx) {
                Poll::Ready(Ok(response)) => self.answer = ResponseState::Begun(response.into_body()),
                // Reset by the leader, or lost with the connection.
                Poll::Ready(Err(_)) => return true,
                Poll::Pending => return false,
            }
        }
        let ResponseState::Begun(stream) = &mut self.answer else {
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

/// The calls of one connection that are given up.
#[derive(Default)]
pub(crate) struct ResetQueue {
    state: Mutex<State>,
    /// An answer to a ping is wanted.
    wanted: Notify,
}

#[derive(Default)]
struct State {
    pace: Pace,
    /// No more than there are slots on the connection, for each has one.
    waiting: VecDeque<AbandonedCall>,
    /// The connection has ended, and all of its streams with it.
    over: bool,
}

impl ResetQueue {
    /// Gives a call up: it is reset now, or as soon as it may be.
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
        // Not under the lock: it frees a slot.
        drop(now);
        if many {
            self.wanted.notify_one();
        }
    }

    /// Completes when an answer to a ping is wanted. Cancellation safe.
    pub(crate) async fn wants_answer(&self) {
        self.wanted.notified().await;
    }

    /// The leader has answered a ping: some of what waits may be reset.
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
        // Nothing that holds the lock can panic half-way.
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
        // The first answer may be to a ping that was sent before them.
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
