//! The leader's answer on its way to the client, no faster than the client takes it.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use h2::RecvStream;
use http_body::Frame;
use tokio_util::task::AbortOnDropHandle;

use super::connection::Place;
use super::given_up::{Rest, RestOfAnswer, RestOfRequest};
use super::outcome;
use super::upload::Uploaded;
use crate::refusal::Refusal;
use crate::scope::Bounds;

/// The body of a forwarded answer. Dropping it gives the call up, unless it is at its end.
pub(crate) struct Answer {
    /// There until it is dropped.
    call: Option<Call>,
    bounds: Bounds,
    stage: Stage,
}

/// What it has at the leader.
struct Call {
    stream: RecvStream,
    /// Sends the rest of the request meanwhile.
    upload: Option<AbortOnDropHandle<Uploaded>>,
    place: Place,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Data,
    Trailers,
    Over,
}

type Polled = Poll<Option<Result<Frame<Bytes>, Infallible>>>;

impl Answer {
    pub(crate) const fn new(
        stream: RecvStream,
        bounds: Bounds,
        upload: Option<AbortOnDropHandle<Uploaded>>,
        place: Place,
    ) -> Self {
        Self {
            call: Some(Call { stream, upload, place }),
            bounds,
            stage: Stage::Data,
        }
    }

    pub(crate) fn is_end_stream(&self) -> bool {
        self.stage == Stage::Over || self.call.as_ref().is_none_or(|call| call.stream.is_end_stream())
    }

    pub(crate) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Polled {
        if self.stage == Stage::Over {
            return Poll::Ready(None);
        }
        if let Err(refusal) = self.bounds.check() {
            return self.end(&refusal);
        }
        let Some(Call { stream, .. }) = &mut self.call else {
            return Poll::Ready(None);
        };
        if self.stage == Stage::Data {
            match stream.poll_data(cx) {
                Poll::Ready(Some(Ok(data))) => {
                    // The client takes it now, so the leader may send as much again.
                    return match stream.flow_control().release_capacity(data.len()) {
                        Ok(()) => Poll::Ready(Some(Ok(Frame::data(data)))),
                        Err(error) => self.end(&outcome::lost(&error)),
                    };
                }
                Poll::Ready(Some(Err(error))) => return self.end(&outcome::lost(&error)),
                Poll::Ready(None) => self.stage = Stage::Trailers,
                Poll::Pending => return self.wait(cx),
            }
        }
        match stream.poll_trailers(cx) {
            Poll::Ready(Ok(trailers)) => {
                self.stage = Stage::Over;
                Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))))
            }
            Poll::Ready(Err(error)) => self.end(&outcome::lost(&error)),
            Poll::Pending => self.wait(cx),
        }
    }

    fn wait(&mut self, cx: &mut Context<'_>) -> Polled {
        match self.bounds.poll(cx) {
            Poll::Ready(refusal) => self.end(&refusal),
            Poll::Pending => Poll::Pending,
        }
    }

    fn end(&mut self, refusal: &Refusal) -> Polled {
        self.stage = Stage::Over;
        Poll::Ready(Some(Ok(Frame::trailers(refusal.trailers()))))
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        let Some(Call { stream, upload, place }) = self.call.take() else {
            return;
        };
        if upload.is_none() && stream.is_end_stream() {
            return;
        }
        place.abandon(|place| Rest {
            answer: RestOfAnswer::Begun(stream),
            request: upload.and_then(RestOfRequest::sending),
            place,
        });
    }
}

impl http_body::Body for Answer {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Polled {
        self.get_mut().poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.is_end_stream()
    }
}
