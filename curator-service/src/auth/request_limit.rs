//! Requests of those who need not say who they are: a little of each, and no more.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::Frame;
use tonic::Status;
use tonic::body::Body;

/// As much of a request of anybody is read, in bytes. A node that registers says a few hundred, with all labels a few thousand.
pub(super) const MOST: usize = 64 << 10;

/// A request that ends with `RESOURCE_EXHAUSTED` once it is too long.
pub(super) struct Short {
    body: Body,
    left: usize,
}

impl Short {
    pub(super) const fn new(body: Body) -> Self {
        Self { body, left: MOST }
    }
}

impl http_body::Body for Short {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let Some(frame) = ready!(Pin::new(&mut self.body).poll_frame(cx)).transpose()? else {
            return Poll::Ready(None);
        };
        let length = frame.data_ref().map_or(0, Bytes::len);
        let Some(left) = self.left.checked_sub(length) else {
            return Poll::Ready(Some(Err(Status::resource_exhausted(format!(
                "the request is longer than {MOST} bytes, which is as much as is read of a caller who shows no certificate of \
                 the cluster"
            )))));
        };
        self.left = left;
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }
}
