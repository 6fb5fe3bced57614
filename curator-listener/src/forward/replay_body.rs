//! A request body that buffers its beginning, so that the call can be sent again if nothing of it ran.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};

/// The maximum number of bytes that are buffered of one request until the leader answers. A longer one is sent only
/// once.
const MAX_BUFFERED_BYTES: usize = 64 << 10;
/// The overhead of each buffered chunk, so that many small chunks cannot evade the limit.
const CHUNK_OVERHEAD: usize = 64;

/// The limit of all buffered bodies together, in bytes.
#[derive(Debug)]
pub(crate) struct ReplayBudget {
    kept: AtomicUsize,
    limit: usize,
}

impl ReplayBudget {
    pub(crate) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self {
            kept: AtomicUsize::new(0),
            limit,
        })
    }

    fn take(&self, bytes: usize) -> bool {
        let room = |kept: usize| kept.checked_add(bytes).filter(|kept| *kept <= self.limit);
        self.kept
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, room)
            .is_ok()
    }

    fn give_back(&self, bytes: usize) {
        self.kept.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// The body of a client's request. As a [`Body`] it starts from the beginning after each [`rewind`](Self::rewind).
#[derive(Debug)]
pub(crate) struct ReplayBody<B> {
    incoming: B,
    kept: Vec<Bytes>,
    /// The bytes taken from the budget.
    kept_bytes: usize,
    budget: Arc<ReplayBudget>,
    trailers: Option<HeaderMap>,
    /// The index of the next buffered chunk to return.
    next: usize,
    keeping: Keeping,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Keeping {
    /// Everything read so far is buffered.
    All,
    /// The body was too long, or no retry is needed.
    Nothing,
}

impl<B> Drop for ReplayBody<B> {
    fn drop(&mut self) {
        self.budget.give_back(self.kept_bytes);
    }
}

impl<B> ReplayBody<B>
where
    B: Body<Data = Bytes> + Unpin,
{
    pub(crate) const fn new(incoming: B, budget: Arc<ReplayBudget>) -> Self {
        Self {
            incoming,
            kept: Vec::new(),
            kept_bytes: 0,
            budget,
            trailers: None,
            next: 0,
            keeping: Keeping::All,
        }
    }

    /// The wrapped body.
    pub(crate) const fn incoming(&mut self) -> &mut B {
        &mut self.incoming
    }

    /// Starts again from the beginning. `false` if it is not buffered.
    pub(crate) fn rewind(&mut self) -> bool {
        self.next = 0;
        self.keeping == Keeping::All
    }

    /// No retry will be needed.
    pub(crate) fn stop_buffering(&mut self) {
        // Chunks that were not read again since the last rewind must still be returned.
        if self.next >= self.kept.len() {
            self.forget();
        }
    }

    fn forget(&mut self) {
        self.kept = Vec::new();
        self.budget.give_back(std::mem::take(&mut self.kept_bytes));
        self.next = 0;
        self.keeping = Keeping::Nothing;
    }

    fn keep(&mut self, data: &Bytes) {
        if self.keeping == Keeping::Nothing {
            return;
        }
        let more = data.len() + CHUNK_OVERHEAD;
        if self.kept_bytes + more > MAX_BUFFERED_BYTES || !self.budget.take(more) {
            self.forget();
        } else {
            self.kept_bytes += more;
            self.kept.push(data.clone());
            self.next = self.kept.len();
        }
    }
}

impl<B> Body for ReplayBody<B>
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
            // gRPC requests have no trailers; if there are any, they are replayed as well.
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

    fn body(sizes: &[usize]) -> ReplayBody<impl Body<Data = Bytes, Error = std::convert::Infallible> + Unpin + use<>> {
        within(sizes, &ReplayBudget::new(usize::MAX))
    }

    fn within(
        sizes: &[usize],
        budget: &Arc<ReplayBudget>,
    ) -> ReplayBody<impl Body<Data = Bytes, Error = std::convert::Infallible> + Unpin + use<>> {
        let mut frames: Vec<Result<_, std::convert::Infallible>> = Vec::new();
        for (number, size) in sizes.iter().enumerate() {
            frames.push(Ok(Frame::data(Bytes::from(vec![
                u8::try_from(number % 256).unwrap();
                *size
            ]))));
        }
        ReplayBody::new(StreamBody::new(futures::stream::iter(frames)), budget.clone())
    }

    async fn read(
        body: &mut (impl Body<Data = Bytes, Error = std::convert::Infallible> + Unpin),
        most: usize,
    ) -> Vec<u8> {
        let mut all = Vec::new();
        for _ in 0..most {
            let Some(frame) = body.frame().await else { break };
            all.extend_from_slice(&frame.unwrap().into_data().unwrap());
        }
        all
    }

    #[tokio::test]
    async fn a_body_can_be_sent_again_from_the_beginning() {
        let mut body = body(&[1, 2, 3]);
        assert_eq!(read(&mut body, 2).await, [0, 1, 1]);
        assert!(body.rewind());
        assert_eq!(read(&mut body, 1).await, [0]);
        assert!(body.rewind());
        assert_eq!(read(&mut body, 9).await, [0, 1, 1, 2, 2, 2]);
        assert!(body.rewind());
        assert_eq!(read(&mut body, 9).await, [0, 1, 1, 2, 2, 2]);
    }

    #[tokio::test]
    async fn no_more_is_kept_than_is_stated() {
        let mut body = body(&[MAX_BUFFERED_BYTES - CHUNK_OVERHEAD, 1]);
        read(&mut body, 1).await;
        assert!(body.rewind());
        assert_eq!(read(&mut body, 9).await.len(), MAX_BUFFERED_BYTES - CHUNK_OVERHEAD + 1);
        assert_eq!(body.kept.len(), 0);
        assert!(!body.rewind(), "it must not be sent again in part");
    }

    #[tokio::test]
    async fn small_pieces_are_no_way_around_the_bound() {
        for size in [0, 1] {
            let mut body = body(&vec![size; 10_000]);
            read(&mut body, 5_000).await;
            assert!(body.kept.len() * CHUNK_OVERHEAD <= MAX_BUFFERED_BYTES);
            assert!(!body.rewind());
        }
    }

    #[tokio::test]
    async fn all_requests_together_are_bounded_too() {
        let budget = ReplayBudget::new(1_000);
        let mut first = within(&[700, 700], &budget);
        let mut second = within(&[700], &budget);
        read(&mut first, 1).await;
        read(&mut second, 1).await;
        assert!(first.rewind());
        assert!(!second.rewind(), "there was no room for it");
        // Above the limit of one body: its share of the budget is returned.
        read(&mut first, 9).await;
        assert!(!first.rewind());
        let mut third = within(&[700], &budget);
        read(&mut third, 1).await;
        assert!(third.rewind());
        drop((first, second, third));
        assert_eq!(budget.kept.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn what_is_not_kept_is_still_read_whole() {
        let mut body = body(&[1, 2, 3]);
        read(&mut body, 2).await;
        assert!(body.rewind());
        read(&mut body, 1).await;
        // One buffered frame has not been read again: it must not be lost.
        body.stop_buffering();
        assert_eq!(read(&mut body, 9).await, [1, 1, 2, 2, 2]);
    }
}
