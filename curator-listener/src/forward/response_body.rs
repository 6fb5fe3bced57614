//! The leader's answer on its way to the client, with backpressure from the client.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use h2::RecvStream;
use http_body::Frame;
use tokio_util::task::AbortOnDropHandle;

use crate::call::lifetime::CallLimits;
use crate::call::refusal::Refusal;
use crate::forward::connection::Slot;
use crate::forward::reset_queue::{AbandonedCall, RequestState, ResponseState};
use crate::forward::retry;
use crate::forward::upload::Uploaded;

/// The body of a forwarded answer. Dropping it before its end abandons the call.
pub(crate) struct ForwardedBody {
    /// `Some` until it is dropped.
    call: Option<Call>,
    limits: CallLimits,
    phase: Phase,
}

/// The call at the leader.
struct Call {
    stream: RecvStream,
    /// Sends the rest of the request meanwhile.
    upload: Option<AbortOnDropHandle<Uploaded>>,
    slot: Slot,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Data,
    Trailers,
    Over,
}

type Polled = Poll<Option<Result<Frame<Bytes>, Infallible>>>;

impl ForwardedBody {
    pub(crate) const fn new(
        stream: RecvStream,
        limits: CallLimits,
        upload: Option<AbortOnDropHandle<Uploaded>>,
        slot: Slot,
    ) -> Self {
        Self {
            call: Some(Call { stream, upload, slot }),
            limits,
            phase: Phase::Data,
        }
    }

    pub(crate) fn is_end_stream(&self) -> bool {
        self.phase == Phase::Over || self.call.as_ref().is_none_or(|call| call.stream.is_end_stream())
    }

    pub(crate) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Polled {
        if self.phase == Phase::Over {
            return Poll::Ready(None);
        }
        if let Err(refusal) = self.limits.check() {
            return self.end(&refusal);
        }
        let Some(Call { stream, .. }) = &mut self.call else {
            return Poll::Ready(None);
        };
        if self.phase == Phase::Data {
            match stream.poll_data(cx) {
                Poll::Ready(Some(Ok(data))) => {
                    // The client takes the data now, so the leader may send as much again.
                    return match stream.flow_control().release_capacity(data.len()) {
                        Ok(()) => Poll::Ready(Some(Ok(Frame::data(data)))),
                        Err(error) => self.end(&retry::to_refusal(&error)),
                    };
                }
                Poll::Ready(Some(Err(error))) => return self.end(&retry::to_refusal(&error)),
                Poll::Ready(None) => self.phase = Phase::Trailers,
                Poll::Pending => return self.wait(cx),
            }
        }
        match stream.poll_trailers(cx) {
            Poll::Ready(Ok(trailers)) => {
                self.phase = Phase::Over;
                Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))))
            }
            Poll::Ready(Err(error)) => self.end(&retry::to_refusal(&error)),
            Poll::Pending => self.wait(cx),
        }
    }

    fn wait(&mut self, cx: &mut Context<'_>) -> Polled {
        match self.limits.poll(cx) {
            Poll::Ready(refusal) => self.end(&refusal),
            Poll::Pending => Poll::Pending,
        }
    }

    fn end(&mut self, refusal: &Refusal) -> Polled {
        self.phase = Phase::Over;
        Poll::Ready(Some(Ok(Frame::trailers(refusal.trailers()))))
    }
}

impl Drop for ForwardedBody {
    fn drop(&mut self) {
        let Some(Call { stream, upload, slot }) = self.call.take() else {
            return;
        };
        if upload.is_none() && stream.is_end_stream() {
            return;
        }
        slot.abandon(|slot| AbandonedCall {
            response: ResponseState::Begun(stream),
            request: upload.and_then(RequestState::sending),
            slot,
        });
    }
}

impl http_body::Body for ForwardedBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Polled {
        self.get_mut().poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.is_end_stream()
    }
}
