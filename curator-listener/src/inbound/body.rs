//! The body of a request, accounted in the memory budget.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::{Reason, RecvStream};
use http_body::Frame;

use super::call_cost::CallCost;
use super::ledger::{FRAME, Ledger};
use super::messages::Messages;

/// How long the data that has been read counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keep {
    /// Until the message is complete: a service assembles it, here or at the leader.
    Messages,
    /// Until the service answers.
    All,
}

/// The body of a request.
#[derive(Debug)]
pub(crate) struct InboundBody {
    stream: RecvStream,
    number: u32,
    ledger: Arc<Ledger>,
    cost: Arc<CallCost>,
    keep: Keep,
    messages: Messages,
    /// Read, and still counted.
    kept: usize,
    data_ended: bool,
}

impl InboundBody {
    pub(crate) fn new(stream: RecvStream, ledger: Arc<Ledger>, cost: Arc<CallCost>) -> Self {
        let number = stream.stream_id().as_u32();
        Self {
            stream,
            number,
            ledger,
            cost,
            keep: Keep::Messages,
            messages: Messages::default(),
            kept: 0,
            data_ended: false,
        }
    }

    /// Sets how long the data counts that is read from now on.
    pub(crate) const fn keep(&mut self, keep: Keep) {
        self.keep = keep;
    }

    /// A member of the consensus has forwarded the call.
    pub(crate) fn is_forwarded(&self) {
        self.ledger.held().forwards();
    }

    fn has_read(&mut self, data: &Bytes) {
        self.kept += data.len();
        let still = match self.keep {
            Keep::Messages => self.messages.read(data),
            Keep::All => self.kept,
        };
        let released = self.kept.saturating_sub(still);
        self.kept -= released;
        self.ledger.release(self.number, released + FRAME);
    }
}

impl Drop for InboundBody {
    fn drop(&mut self) {
        let rest = self.ledger.close(self.number);
        let kept = if self.keep == Keep::All { rest.min(self.kept) } else { 0 };
        self.ledger.held().give_back(rest - kept);
        self.cost.keep(kept);
    }
}

impl http_body::Body for InboundBody {
    type Data = Bytes;
    type Error = h2::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        let this = self.get_mut();
        // The peer wants no more data (RST_STREAM with NO_ERROR), which is not an error.
        let is_end = |error: &h2::Error| error.reason() == Some(Reason::NO_ERROR);
        if !this.data_ended {
            match ready!(this.stream.poll_data(cx)) {
                Some(Ok(data)) => {
                    this.has_read(&data);
                    // The stream may be gone; the next frame reports that.
                    let _ = this.stream.flow_control().release_capacity(data.len());
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Some(Err(error)) if is_end(&error) => return Poll::Ready(None),
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => this.data_ended = true,
            }
        }
        Poll::Ready(match ready!(this.stream.poll_trailers(cx)) {
            Ok(trailers) => trailers.map(|trailers| Ok(Frame::trailers(trailers))),
            Err(error) if is_end(&error) => None,
            Err(error) => Some(Err(error)),
        })
    }

    fn is_end_stream(&self) -> bool {
        self.stream.is_end_stream()
    }
}
