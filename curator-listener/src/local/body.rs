//! The body of a response of this instance's services.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame};

use super::in_flight::InFlightCall;
use crate::call::header_size;
use crate::call::lifetime::CallLimits;
use crate::call::refusal;

/// The body of a response that is made on this instance. It ends when the term does.
pub(crate) struct LeaderBody {
    body: tonic::body::Body,
    limits: CallLimits,
    call: Option<InFlightCall>,
    over: bool,
}

impl Default for LeaderBody {
    fn default() -> Self {
        Self {
            body: tonic::body::Body::empty(),
            limits: CallLimits::new(None, None),
            call: None,
            over: true,
        }
    }
}

impl LeaderBody {
    pub(crate) const fn new(body: tonic::body::Body, limits: CallLimits, call: Option<InFlightCall>) -> Self {
        Self {
            body,
            limits,
            call,
            over: false,
        }
    }

    fn end(&mut self, trailers: http::HeaderMap) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.over = true;
        Poll::Ready(Some(Ok(Frame::trailers(trailers))))
    }
}

impl Body for LeaderBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let this = self.get_mut();
        if this.over {
            return Poll::Ready(None);
        }
        if let Err(refusal) = this.limits.check() {
            return this.end(refusal.trailers());
        }
        let frame = loop {
            let frame = Pin::new(&mut this.body).poll_frame(cx);
            // An empty frame has no effect, and HTTP/2 peers close a connection after a hundred of them.
            if !matches!(&frame, Poll::Ready(Some(Ok(frame))) if frame.data_ref().is_some_and(Bytes::is_empty)) {
                break frame;
            }
        };
        match frame {
            Poll::Ready(Some(Ok(mut frame))) => {
                if let Some(trailers) = frame.trailers_mut() {
                    refusal::corrected(trailers);
                    if !header_size::fits(trailers, 0) {
                        let short = refusal::shortened(trailers);
                        return this.end(short);
                    }
                }
                if let Some(call) = &mut this.call {
                    call.moved();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(status))) => this.end(refusal::trailers(&status)),
            Poll::Ready(None) => {
                this.over = true;
                Poll::Ready(None)
            }
            Poll::Pending => {
                if let Some(call) = &mut this.call {
                    call.waits();
                }
                match this.limits.poll(cx) {
                    Poll::Ready(refusal) => this.end(refusal.trailers()),
                    Poll::Pending => Poll::Pending,
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.over || self.body.is_end_stream()
    }
}
