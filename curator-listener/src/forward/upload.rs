//! A request body on its way to the leader, with backpressure from the leader.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use h2::SendStream;
use http_body::{Body, Frame};

use crate::forward::replay_body::ReplayBody;

/// How an upload ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Uploaded {
    /// Everything was sent.
    Whole,
    /// The leader wants no more of it, or the connection is gone. The answer shows which.
    Stopped,
    /// The client is gone, so the request is incomplete. The stream must be reset, so that the leader does not take
    /// the request for a complete one.
    Abandoned,
}

/// A request body and the stream that it is sent on.
pub(crate) struct Upload<B> {
    body: ReplayBody<B>,
    stream: SendStream<Bytes>,
    /// Read and not sent yet.
    rest: Bytes,
    /// Read after that.
    next: Option<Read>,
    /// Whether nothing follows `rest`.
    last: bool,
    /// How the upload has ended.
    ended: Option<Uploaded>,
    /// Whether nothing has been sent yet.
    first: bool,
}

/// What a body returns: a frame, the end, or an error of the client.
type Read = Option<Result<Frame<Bytes>, Gone>>;

/// The client is gone.
struct Gone;

/// Smaller chunks are merged if more data is available. A server counts small unread frames and closes the connection
/// when there are too many, and a client could send a message byte by byte.
const SMALL_CHUNK: usize = 1_024;

/// The first bytes are sent without asking for capacity: the leader has not limited the stream yet, and h2 can put
/// them into one packet with the headers.
const EAGER_BYTES: usize = 16 << 10;

impl<B> Upload<B>
where
    B: Body<Data = Bytes> + Unpin,
{
    /// `whole` if the end of the stream has been sent with the headers.
    pub(crate) const fn new(body: ReplayBody<B>, stream: SendStream<Bytes>, whole: bool) -> Self {
        Self {
            body,
            stream,
            rest: Bytes::new(),
            next: None,
            last: false,
            ended: if whole { Some(Uploaded::Whole) } else { None },
            first: true,
        }
    }

    /// The body, and the stream if it has not ended.
    pub(crate) fn into_parts(self) -> (ReplayBody<B>, Option<SendStream<Bytes>>) {
        let whole = self.ended == Some(Uploaded::Whole);
        (self.body, (!whole).then_some(self.stream))
    }

    /// The leader has begun to answer, so the request will not be sent again.
    pub(crate) fn answered(&mut self) {
        self.body.stop_buffering();
    }

    /// Whether the upload has ended.
    pub(crate) const fn is_done(&self) -> bool {
        self.ended.is_some()
    }

    /// Whether the leader did not want all of it.
    pub(crate) fn is_stopped(&self) -> bool {
        self.ended == Some(Uploaded::Stopped)
    }

    /// Sends what can be sent. Ready when the upload has ended; must not be polled again then.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Uploaded> {
        let uploaded = self.send(cx);
        if let Poll::Ready(how) = uploaded {
            self.ended = Some(how);
        }
        uploaded
    }

    fn send(&mut self, cx: &mut Context<'_>) -> Poll<Uploaded> {
        loop {
            if self.first && !self.rest.is_empty() && self.rest.len() <= EAGER_BYTES {
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
            match self.read(cx) {
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => {
                        self.last = self.body.is_end_stream();
                        self.rest = data;
                        if self.rest.len() < SMALL_CHUNK && !self.last {
                            self.gather(cx);
                        }
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
                Poll::Ready(Some(Err(Gone))) => return Poll::Ready(Uploaded::Abandoned),
                Poll::Pending => {
                    return match self.stream.poll_reset(cx) {
                        Poll::Ready(_) => Poll::Ready(Uploaded::Stopped),
                        Poll::Pending => Poll::Pending,
                    };
                }
            }
        }
    }

    fn read(&mut self, cx: &mut Context<'_>) -> Poll<Read> {
        match self.next.take() {
            Some(next) => Poll::Ready(next),
            None => Pin::new(&mut self.body)
                .poll_frame(cx)
                .map(|read| read.map(|read| read.map_err(|_| Gone))),
        }
    }

    /// Appends further available data to a small chunk, up to one frame.
    fn gather(&mut self, cx: &mut Context<'_>) {
        let mut pieces = BytesMut::new();
        while !self.last && self.rest.len() + pieces.len() < EAGER_BYTES {
            let Poll::Ready(read) = self.read(cx) else { break };
            let data = match read {
                Some(Ok(frame)) if frame.is_data() => frame.into_data().unwrap_or_default(),
                other => {
                    self.next = Some(other);
                    break;
                }
            };
            self.last = self.body.is_end_stream();
            if pieces.is_empty() {
                pieces.extend_from_slice(&std::mem::take(&mut self.rest));
            }
            pieces.extend_from_slice(&data);
        }
        if !pieces.is_empty() {
            self.rest = pieces.freeze();
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
    use crate::forward::replay_body::ReplayBudget;

    /// Uploads these frames. Returns how that ended and what the other side received last.
    async fn upload(frames: Vec<Result<&'static str, &'static str>>) -> (Uploaded, Vec<Bytes>, Option<h2::Error>) {
        let (near, far) = tokio::io::duplex(64 << 10);
        let (client, server) = tokio::join!(h2::client::handshake(near), h2::server::handshake(far));
        let ((mut requests, driver), mut server) = (client.unwrap(), server.unwrap());
        let driving = tokio::spawn(driver);
        let (response, stream) = requests
            .send_request(Request::post("http://host/a.B/C").body(()).unwrap(), false)
            .unwrap();
        let frames = frames
            .into_iter()
            .map(|frame| frame.map(|text| Frame::data(Bytes::from(text))));
        let body = ReplayBody::new(
            StreamBody::new(futures::stream::iter(frames)),
            ReplayBudget::new(usize::MAX),
        );
        let mut upload = Upload::new(body, stream, false);
        let (request, _respond) = server.accept().await.unwrap().unwrap();
        let serving = tokio::spawn(async move { while server.accept().await.is_some() {} });
        let uploaded = poll_fn(|cx| upload.poll(cx)).await;
        // Abandoning a call drops both streams.
        let _kept = (uploaded != Uploaded::Abandoned).then_some((upload, response));
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
    async fn small_pieces_are_put_together() {
        let (uploaded, seen, error) = upload([Ok("x"); 5_000].to_vec()).await;
        assert_eq!((uploaded, error.is_none()), (Uploaded::Whole, true));
        assert_eq!(seen.concat(), [b'x'; 5_000]);
        assert!(seen.len() < 3, "{} pieces", seen.len());
    }

    #[tokio::test]
    async fn a_body_that_breaks_off_does_not_look_like_one_that_ends() {
        let (uploaded, _, error) = upload(vec![Ok("one"), Err("the client is gone")]).await;
        assert_eq!(uploaded, Uploaded::Abandoned);
        assert_eq!(error.and_then(|error| error.reason()), Some(h2::Reason::CANCEL));
    }
}
