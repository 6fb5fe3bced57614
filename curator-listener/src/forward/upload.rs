//! A request's body on its way to the leader, no faster than the leader takes it.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use h2::{Reason, SendStream};
use http_body::Body;

use crate::source::Source;

/// How an upload ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Uploaded {
    /// All of it was sent.
    Whole,
    /// The leader wants no more of it, or the connection is gone: its answer says which.
    Stopped,
    /// The client is gone, so that there is no whole request: the leader is told so.
    Abandoned,
}

/// A request's body and the stream that it goes to.
pub(crate) struct Upload<B> {
    source: Source<B>,
    stream: SendStream<Bytes>,
    /// What was read and not sent yet.
    rest: Bytes,
    /// Nothing comes after the rest.
    last: bool,
    /// Nothing has been sent.
    first: bool,
}

/// The first so many bytes are handed on without asking whether the leader takes them: it has said of no stream yet that it
/// does not, and h2 can put them into one packet with the headers.
const FIRST: usize = 16 << 10;

impl<B> Upload<B>
where
    B: Body<Data = Bytes> + Unpin,
{
    pub(crate) const fn new(source: Source<B>, stream: SendStream<Bytes>) -> Self {
        Self {
            source,
            stream,
            rest: Bytes::new(),
            last: false,
            first: true,
        }
    }

    /// The body again; the stream is let go, which cancels it if it is not at its end.
    pub(crate) fn into_source(self) -> Source<B> {
        self.source
    }

    /// The leader has begun to answer, so that the request will not be sent again.
    pub(crate) fn answered(&mut self) {
        self.source.keep_no_more();
    }

    /// Sends what can be sent. Ready once there is nothing more to do; not to be polled again then.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Uploaded> {
        loop {
            if self.first && !self.rest.is_empty() && self.rest.len() <= FIRST {
                self.first = false;
                let rest = std::mem::take(&mut self.rest);
                if self.stream.send_data(rest, self.last).is_err() {
                    return Poll::Ready(Uploaded::Stopped);
                }
                if self.last {
                    return Poll::Ready(Uploaded::Whole);
                }
                continue;
            }
            if !self.rest.is_empty() {
                self.stream.reserve_capacity(self.rest.len());
                let mut capacity = self.stream.capacity();
                if capacity == 0 {
                    capacity = match self.stream.poll_capacity(cx) {
                        Poll::Ready(Some(Ok(capacity))) => capacity,
                        Poll::Ready(_) => return Poll::Ready(Uploaded::Stopped),
                        Poll::Pending => return Poll::Pending,
                    };
                }
                self.first = false;
                let piece = self.rest.split_to(capacity.min(self.rest.len()));
                let end = self.last && self.rest.is_empty();
                if self.stream.send_data(piece, end).is_err() {
                    return Poll::Ready(Uploaded::Stopped);
                }
                if end {
                    return Poll::Ready(Uploaded::Whole);
                }
                continue;
            }
            match Pin::new(&mut self.source).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => {
                        self.last = self.source.is_end_stream();
                        self.rest = data;
                        if self.rest.is_empty() && self.last {
                            return Poll::Ready(self.end());
                        }
                    }
                    Err(frame) => {
                        let Ok(trailers) = frame.into_trailers() else { continue };
                        return Poll::Ready(match self.stream.send_trailers(trailers) {
                            Ok(()) => Uploaded::Whole,
                            Err(_) => Uploaded::Stopped,
                        });
                    }
                },
                Poll::Ready(None) => return Poll::Ready(self.end()),
                Poll::Ready(Some(Err(_))) => {
                    // Not the end of the request, but of the client: the leader must not take one for the other.
                    self.stream.send_reset(Reason::CANCEL);
                    return Poll::Ready(Uploaded::Abandoned);
                }
                Poll::Pending => {
                    return match self.stream.poll_reset(cx) {
                        Poll::Ready(_) => Poll::Ready(Uploaded::Stopped),
                        Poll::Pending => Poll::Pending,
                    };
                }
            }
        }
    }

    fn end(&mut self) -> Uploaded {
        match self.stream.send_data(Bytes::new(), true) {
            Ok(()) => Uploaded::Whole,
            Err(_) => Uploaded::Stopped,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use http::Request;
    use http_body::Frame;
    use http_body_util::StreamBody;

    use super::*;
    use crate::source::Budget;

    /// Uploads these frames, and returns how that ended and what the other side saw last.
    async fn upload(frames: Vec<Result<&'static str, &'static str>>) -> (Uploaded, Vec<Bytes>, Option<h2::Error>) {
        let (near, far) = tokio::io::duplex(64 << 10);
        let (client, server) = tokio::join!(h2::client::handshake(near), h2::server::handshake(far));
        let ((mut requests, driver), mut server) = (client.unwrap(), server.unwrap());
        let driving = tokio::spawn(driver);
        let (_response, stream) = requests
            .send_request(Request::post("http://host/a.B/C").body(()).unwrap(), false)
            .unwrap();
        let frames = frames
            .into_iter()
            .map(|frame| frame.map(|text| Frame::data(Bytes::from(text))));
        let source = Source::new(StreamBody::new(futures::stream::iter(frames)), Budget::new(usize::MAX));
        let mut upload = Upload::new(source, stream);
        let (request, _respond) = server.accept().await.unwrap().unwrap();
        let serving = tokio::spawn(async move { while server.accept().await.is_some() {} });
        let uploaded = poll_fn(|cx| upload.poll(cx)).await;
        let (mut body, mut seen, mut error) = (request.into_body(), Vec::new(), None);
        while let Some(data) = body.data().await {
            match data {
                Ok(data) => seen.push(data),
                Err(wrong) => {
                    error = Some(wrong);
                    break;
                }
            }
        }
        serving.abort();
        driving.abort();
        (uploaded, seen, error)
    }

    #[tokio::test]
    async fn a_body_arrives_with_its_end() {
        let (uploaded, seen, error) = upload(vec![Ok("one"), Ok("two")]).await;
        assert_eq!(uploaded, Uploaded::Whole);
        assert_eq!(seen.concat(), b"onetwo");
        assert!(error.is_none(), "{error:?}");
    }

    #[tokio::test]
    async fn a_body_that_breaks_off_does_not_look_like_one_that_ends() {
        let (uploaded, _, error) = upload(vec![Ok("one"), Err("the client is gone")]).await;
        assert_eq!(uploaded, Uploaded::Abandoned);
        assert_eq!(error.and_then(|error| error.reason()), Some(Reason::CANCEL));
    }
}
