//! The body of a response.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::Frame;

use crate::forward::ForwardedBody;
use crate::local::LeaderBody;

/// One type for all of them, so that no body is boxed.
#[derive(Default)]
pub(crate) enum Body {
    /// No body: the headers are the whole response.
    #[default]
    Empty,
    /// A text for people; empty once it has been sent.
    Text(&'static str),
    /// Of a service of this instance.
    Local(LeaderBody),
    /// Of the leader.
    Forwarded(ForwardedBody),
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.get_mut() {
            Self::Empty => Poll::Ready(None),
            Self::Text(text) => match std::mem::take(text) {
                "" => Poll::Ready(None),
                text => Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(text.as_bytes()))))),
            },
            Self::Local(body) => Pin::new(body).poll_frame(cx),
            Self::Forwarded(body) => body.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Text(text) => text.is_empty(),
            Self::Local(body) => body.is_end_stream(),
            Self::Forwarded(body) => body.is_end_stream(),
        }
    }
}
