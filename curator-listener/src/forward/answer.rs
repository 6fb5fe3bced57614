//! The leader's answer on its way to the client, no faster than the client takes it.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use h2::RecvStream;
use http_body::Frame;
use tokio_util::task::AbortOnDropHandle;

use super::connection::Place;
use super::outcome;
use crate::refusal::Refusal;
use crate::scope::Bounds;

/// The body of a forwarded answer. Dropping it cancels the call at the leader, unless it is at its end.
pub(crate) struct Answer {
    stream: RecvStream,
    bounds: Bounds,
    stage: Stage,
    /// Sends the rest of the request meanwhile.
    _upload: Option<AbortOnDropHandle<()>>,
    _place: Place,
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
        upload: Option<AbortOnDropHandle<()>>,
        place: Place,
    ) -> Self {
        Self {
            stream,
            bounds,
            stage: Stage::Data,
            _upload: upload,
            _place: place,
        }
    }

    pub(crate) fn is_end_stream(&self) -> bool {
        self.stage == Stage::Over || self.stream.is_end_stream()
    }

    pub(crate) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Polled {
        if self.stage == Stage::Over {
            return Poll::Ready(None);
        }
        if let Err(refusal) = self.bounds.check() {
            return self.end(&refusal);
        }
        if self.stage == Stage::Data {
            match self.stream.poll_data(cx) {
                Poll::Ready(Some(Ok(data))) => {
                    // The client takes it now, so the leader may send as much again.
                    return match self.stream.flow_control().release_capacity(data.len()) {
                        Ok(()) => Poll::Ready(Some(Ok(Frame::data(data)))),
                        Err(error) => self.end(&outcome::lost(&error)),
                    };
                }
                Poll::Ready(Some(Err(error))) => return self.end(&outcome::lost(&error)),
                Poll::Ready(None) => self.stage = Stage::Trailers,
                Poll::Pending => return self.wait(cx),
            }
        }
        match self.stream.poll_trailers(cx) {
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
