//! A request's body, of which so much is kept that it can be sent again if nothing of the call ran.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};

/// As much of a request is kept until the leader answers, in bytes. A longer one is sent once only.
const MOST_KEPT: usize = 64 << 10;

/// The body of a client's request. As a [`Body`] it starts from the beginning after each [`rewind`](Self::rewind).
#[derive(Debug)]
pub(crate) struct Source<B> {
    incoming: B,
    kept: Vec<Bytes>,
    kept_bytes: usize,
    trailers: Option<HeaderMap>,
    /// What comes next out of what is kept.
    next: usize,
    keeping: Keeping,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Keeping {
    /// All of it so far.
    All,
    /// It was too long, or nobody needs it any more.
    Nothing,
}

impl<B> Source<B>
where
    B: Body<Data = Bytes> + Unpin,
{
    pub(crate) const fn new(incoming: B) -> Self {
        Self {
            incoming,
            kept: Vec::new(),
            kept_bytes: 0,
            trailers: None,
            next: 0,
            keeping: Keeping::All,
        }
    }

    /// Starts again from the beginning, if that has been kept.
    pub(crate) fn rewind(&mut self) -> bool {
        self.next = 0;
        self.keeping == Keeping::All
    }

    /// Nobody will want to start again.
    pub(crate) fn keep_no_more(&mut self) {
        // What has been kept and not been read again since is still to come.
        if self.next >= self.kept.len() {
            self.kept = Vec::new();
            self.next = 0;
            self.keeping = Keeping::Nothing;
        }
    }

    fn keep(&mut self, data: &Bytes) {
        if self.keeping == Keeping::Nothing {
            return;
        }
        self.kept_bytes += data.len();
        if self.kept_bytes > MOST_KEPT {
            self.kept = Vec::new();
            self.next = 0;
            self.keeping = Keeping::Nothing;
        } else {
            self.kept.push(data.clone());
            self.next = self.kept.len();
        }
    }
}

impl<B> Body for Source<B>
where
    B: Body<Data = Bytes> + Unpin,
{
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = self.get_mut();
        if let Some(data) = this.kept.get(this.next) {
            this.next += 1;
            return Poll::Ready(Some(Ok(Frame::data(data.clone()))));
        }
        let Some(frame) = ready!(Pin::new(&mut this.incoming).poll_frame(cx)).transpose()? else {
            // Requests have no trailers in gRPC; should one have them, they come again as well.
            return Poll::Ready(this.trailers.take().map(|trailers| Ok(Frame::trailers(trailers))));
        };
        if let Some(data) = frame.data_ref() {
            this.keep(data);
        } else if let Some(trailers) = frame.trailers_ref()
            && this.keeping == Keeping::All
        {
            this.trailers = Some(trailers.clone());
        }
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        self.next >= self.kept.len() && self.trailers.is_none() && self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt, StreamBody};

    use super::*;

    fn source(sizes: &[usize]) -> Source<impl Body<Data = Bytes, Error = std::convert::Infallible> + Unpin> {
        let mut frames: Vec<Result<_, std::convert::Infallible>> = Vec::new();
        for (number, size) in sizes.iter().enumerate() {
            frames.push(Ok(Frame::data(Bytes::from(vec![u8::try_from(number).unwrap(); *size]))));
        }
        Source::new(StreamBody::new(futures::stream::iter(frames)))
    }

    async fn read(
        source: &mut (impl Body<Data = Bytes, Error = std::convert::Infallible> + Unpin),
        most: usize,
    ) -> Vec<u8> {
        let mut all = Vec::new();
        for _ in 0..most {
            let Some(frame) = source.frame().await else { break };
            all.extend_from_slice(&frame.unwrap().into_data().unwrap());
        }
        all
    }

    #[tokio::test]
    async fn a_body_can_be_sent_again_from_the_beginning() {
        let mut source = source(&[1, 2, 3]);
        assert_eq!(read(&mut source, 2).await, [0, 1, 1]);
        assert!(source.rewind());
        assert_eq!(read(&mut source, 1).await, [0]);
        assert!(source.rewind());
        assert_eq!(read(&mut source, 9).await, [0, 1, 1, 2, 2, 2]);
        assert!(source.rewind());
        assert_eq!(read(&mut source, 9).await, [0, 1, 1, 2, 2, 2]);
    }

    #[tokio::test]
    async fn no_more_is_kept_than_is_stated() {
        let mut source = source(&[MOST_KEPT, 1]);
        read(&mut source, 1).await;
        assert!(source.rewind());
        assert_eq!(read(&mut source, 9).await.len(), MOST_KEPT + 1);
        assert_eq!(source.kept.len(), 0);
        assert!(!source.rewind(), "it must not be sent again in part");
    }

    #[tokio::test]
    async fn what_is_not_kept_is_still_read_whole() {
        let mut source = source(&[1, 2, 3]);
        read(&mut source, 2).await;
        assert!(source.rewind());
        read(&mut source, 1).await;
        // One frame is kept that has not been read again: it must not be lost.
        source.keep_no_more();
        assert_eq!(read(&mut source, 9).await, [1, 1, 2, 2, 2]);
    }
}
