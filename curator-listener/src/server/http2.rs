//! The HTTP/2 side of one connection: accepts calls and dispatches each in its own task.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;

use h2::RecvStream;
use h2::server::SendResponse;
use http::Request;
use tokio::task::yield_now;
use tokio_util::sync::CancellationToken;
use tonic::Code;
use tracing::debug;

use super::accept_batch::AcceptBatch;
use super::activity::{Activity, OpenCall, unresponsive};
use super::connection::Shared;
use super::limits::Limits;
use super::response_writer::{self, Piece};
use crate::call::head;
use crate::call::refusal::Refusal;
use crate::caller::{Caller, CallerAddress, CallerCertificates};
use crate::dispatch::hold_queue;
use crate::inbound::{CallCost, InboundBody, InboundCounter, Ledger};
use crate::telemetry;
use crate::transport::Io;
use crate::transport::counting::CountingStream;

/// The memory of an open call beside its head and its messages: stream, task and their allocations.
const CALL_OVERHEAD: usize = 4 << 10;

/// The state that the calls of a connection share.
pub(super) struct Calls {
    pub(super) shared: Arc<Shared>,
    pub(super) worker: usize,
    pub(super) activity: Arc<Activity>,
    pub(super) ledger: Arc<Ledger>,
    pub(super) window: usize,
    pub(super) shown: Option<CallerCertificates>,
    pub(super) caller: Caller,
}

/// Speaks HTTP/2 with a client until one of the two ends the connection.
pub(super) async fn run(io: Io, calls: Calls, leave: &CancellationToken) {
    let config = &calls.shared.dispatcher.config;
    let socket = CountingStream::new(io, InboundCounter::new(calls.activity.clone(), calls.ledger.clone()));
    let builder = Limits::of(calls.caller.standing, config).builder();
    let mut connection = match builder.handshake::<_, Piece>(socket).await {
        Ok(connection) => connection,
        Err(error) => {
            debug!(%error, "connection ended");
            return;
        }
    };
    let mut unresponsive = pin!(unresponsive(
        connection.ping_pong(),
        calls.activity.clone(),
        config.client_ping_interval,
        config.client_ping_timeout,
    ));
    let mut leaving = pin!(leave.cancelled());
    let mut goaway_sent = false;
    let mut accept_batch = AcceptBatch::new();
    loop {
        let accepted = poll_fn(|cx| {
            if !goaway_sent && leaving.as_mut().poll(cx).is_ready() {
                goaway_sent = true;
                connection.graceful_shutdown();
            }
            if unresponsive.as_mut().poll(cx).is_ready() {
                debug!("connection closed: the client does not answer pings");
                return Poll::Ready(None);
            }
            let accepted = connection.poll_accept(cx);
            if accepted.is_pending() {
                calls.ledger.settle();
            }
            accepted
        });
        match accepted.await {
            Some(Ok((request, respond))) => {
                calls.take(request, respond);
                if accept_batch.takes(calls.activity.cancelled.load(Ordering::Relaxed)) {
                    yield_now().await;
                }
            }
            Some(Err(error)) => {
                debug!(%error, "connection ended");
                return;
            }
            None => return,
        }
    }
}

impl Calls {
    /// Accepts a call.
    fn take(&self, request: Request<RecvStream>, mut respond: SendResponse<Piece>) {
        let open = OpenCall::new(&self.activity);
        let held = self.ledger.held();
        let (mut parts, stream) = request.into_parts();
        let cost = CALL_OVERHEAD + head::length(&parts);
        let has_room = held.fits(cost);
        self.ledger.open(stream.stream_id().as_u32());
        let cost = CallCost::new(held.clone(), cost);
        let body = InboundBody::new(stream, self.ledger.clone(), cost.clone());
        if !has_room {
            let message = "memory limit of the caller reached (too many open calls or unread messages); nothing of the \
                           call ran";
            let refusal = Refusal::new(Code::ResourceExhausted, message).retry_after(hold_queue::retry_after());
            telemetry::refused(&refusal);
            // The client may be gone.
            let _ = respond.send_response(refusal.response(), true);
            return;
        }
        if let Some(shown) = &self.shown {
            parts.extensions.insert(shown.clone());
        }
        parts.extensions.insert(self.caller.clone());
        parts.extensions.insert(CallerAddress(self.activity.permit.address()));
        let request = Request::from_parts(parts, body);
        let (shared, worker, held, window) = (self.shared.clone(), self.worker, held.clone(), self.window);
        self.shared.tasks.spawn(async move {
            // Boxed at once: the future of a call is large, and is moved before it is first polled.
            let mut answering = Box::pin(shared.dispatcher.answer(request, worker));
            let answer = poll_fn(|cx| match answering.as_mut().poll(cx) {
                Poll::Ready(response) => Poll::Ready(Some(response)),
                // Reset, or the connection has ended.
                Poll::Pending => respond.poll_reset(cx).map(|_| None),
            });
            let Some(response) = answer.await else {
                open.cancelled();
                return;
            };
            drop(answering);
            cost.answered();
            if response_writer::send(respond, response, &held, window).await.is_err() {
                open.cancelled();
            }
        });
    }
}
