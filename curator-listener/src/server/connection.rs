//! One connection of a client.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Duration;

use h2::server::SendResponse;
use h2::{Ping, PingPong, RecvStream};
use http::Request;
use rand::RngExt;
use tokio::task::yield_now;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::Code;
use tracing::debug;

use crate::call::head;
use crate::call::refusal::Refusal;
use crate::caller::{Caller, CallerAddress, CallerCertificates};
use crate::dispatch::{Dispatcher, hold_queue};
use crate::inbound::frames::PREFACE;
use crate::inbound::{CallCost, InboundBody, InboundCounter, Ledger};
use crate::memory::Memory;
use crate::server::accept_batch::AcceptBatch;
use crate::server::admission::ConnectionPermit;
use crate::server::limits::Limits;
use crate::server::response_writer;
use crate::server::response_writer::Piece;
use crate::server::sockets::IncomingStream;
use crate::server::tls::{self, HandshakeLimiter};
use crate::telemetry;
use crate::transport::Io;
use crate::transport::counting::{CountingStream, ReadObserver};

/// The memory of an open call beside its head and its messages: stream, task and their allocations.
const CALL_OVERHEAD: usize = 4 << 10;
/// How often within the ping interval it is checked whether the client has sent anything. A silence is noticed at
/// most this part of the interval late.
const POLLS_PER_INTERVAL: u32 = 4;

/// The state that all connections share.
pub(crate) struct Shared {
    pub(crate) dispatcher: Arc<Dispatcher>,
    /// The memory budget of all callers.
    pub(crate) memory: Arc<Memory>,
    pub(crate) stopping: CancellationToken,
    /// Connections are not accepted any more. Cancelled later than `stopping`.
    pub(crate) stop_accepting: CancellationToken,
    pub(crate) tasks: TaskTracker,
}

/// The activity of a connection.
struct Activity {
    permit: ConnectionPermit,
    /// Bytes read, wrapping around.
    read: AtomicUsize,
    /// Calls so far.
    calls: AtomicU64,
    /// Calls that the client cancelled before it had their answer.
    cancelled: AtomicU64,
    /// Open calls.
    open: AtomicUsize,
}

impl ReadObserver for Arc<Activity> {
    fn heard(&mut self, bytes: &[u8]) {
        let before = self.read.fetch_add(bytes.len(), Ordering::Relaxed);
        if before < PREFACE && before.saturating_add(bytes.len()) >= PREFACE {
            self.permit.spoke();
        }
    }
}

/// An open call of a connection.
struct OpenCall(Arc<Activity>);

impl OpenCall {
    fn new(activity: &Arc<Activity>) -> Self {
        if activity.calls.fetch_add(1, Ordering::Relaxed) == 0 {
            activity.permit.called();
        }
        activity.open.fetch_add(1, Ordering::Relaxed);
        Self(activity.clone())
    }
}

impl OpenCall {
    /// The client has cancelled the call.
    fn cancelled(&self) {
        self.0.cancelled.fetch_add(1, Ordering::Relaxed);
    }
}

impl Drop for OpenCall {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Serves a connection until it ends or must make room for another one. Dropping the future closes it.
pub(crate) async fn serve(
    stream: IncomingStream,
    permit: ConnectionPermit,
    shared: &Arc<Shared>,
    worker: usize,
    handshakes: &HandshakeLimiter,
) {
    let stream = match stream.open() {
        Ok(stream) => stream,
        Err(error) => {
            debug!(%error, "connection gone before it was served");
            return;
        }
    };
    let config = &shared.dispatcher.config;
    let metrics = &shared.dispatcher.metrics;
    let _counted = metrics.connection();
    let (io, shown, caller) = match &config.tls {
        None => (Io::Plain(stream), None, Caller::at(permit.peer())),
        Some(tls) => tokio::select! {
            accepted = timeout(config.handshake_timeout, tls::accept(stream, tls, handshakes)) => match accepted {
                Ok(Ok((io, shown, standing))) => {
                    metrics.tls_handshake(true);
                    let caller = Caller::showing(&shown, standing, permit.peer());
                    if let Err(why) = permit.is_of(&caller) {
                        debug!(%why, "connection cut after its TLS handshake");
                        return;
                    }
                    (io, Some(shown), caller)
                }
                Ok(Err(error)) => {
                    metrics.tls_handshake(false);
                    debug!(%error, "connection ended in its TLS handshake");
                    return;
                }
                Err(_) => {
                    metrics.tls_handshake(false);
                    debug!("connection cut: its TLS handshake takes too long");
                    return;
                }
            },
            () = permit.cut() => {
                debug!("connection cut in its TLS handshake: there are too many of them");
                return;
            }
        },
    };
    let activity = Arc::new(Activity {
        permit,
        read: AtomicUsize::new(0),
        calls: AtomicU64::new(0),
        cancelled: AtomicU64::new(0),
        open: AtomicUsize::new(0),
    });
    let calls = Calls {
        shared: shared.clone(),
        worker,
        activity: activity.clone(),
        ledger: Ledger::new(shared.memory.of(&caller)),
        window: Limits::of(caller.standing, config).stream_window as usize,
        shown,
        caller,
    };
    // A client that connects while the instance is stopping knows no other address, and would reconnect at once.
    let stopping = match shared.stopping.is_cancelled() {
        true => &shared.stop_accepting,
        false => &shared.stopping,
    };
    let leave = CancellationToken::new();
    let mut talk = pin!(talk(io, calls, &leave));
    let mut idle = pin!(idle(activity.clone(), config.idle_timeout));
    let mut old = pin!(old(config.max_connection_age));
    let mut late = pin!(late(activity.clone(), config.handshake_timeout));
    loop {
        tokio::select! {
            () = &mut talk => return,
            () = &mut late => {
                debug!("connection cut: the client has not begun to speak HTTP/2");
                return;
            }
            () = activity.permit.cut() => {
                debug!("connection cut: it has made no call, and others wait for its place");
                return;
            }
            () = &mut idle, if !leave.is_cancelled() => {}
            () = &mut old, if !leave.is_cancelled() => {}
            () = stopping.cancelled(), if !leave.is_cancelled() => {}
        }
        // Send a GOAWAY, accept no new calls, and end with the last call.
        leave.cancel();
    }
}

/// The state that the calls of a connection share.
struct Calls {
    shared: Arc<Shared>,
    worker: usize,
    activity: Arc<Activity>,
    ledger: Arc<Ledger>,
    window: usize,
    shown: Option<CallerCertificates>,
    caller: Caller,
}

/// Speaks HTTP/2 with a client until one of the two ends the connection.
async fn talk(io: Io, calls: Calls, leave: &CancellationToken) {
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
    let mut alive = pin!(alive(
        connection.ping_pong(),
        calls.activity.clone(),
        config.client_ping_interval,
        config.client_ping_timeout,
    ));
    let mut leaving = pin!(leave.cancelled());
    let mut told = false;
    let mut accept_batch = AcceptBatch::new();
    loop {
        let accepted = poll_fn(|cx| {
            if !told && leaving.as_mut().poll(cx).is_ready() {
                told = true;
                connection.graceful_shutdown();
            }
            if alive.as_mut().poll(cx).is_ready() {
                debug!("connection cut: the client gives no sign of life");
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
            let message = "there is no room for more calls of the same caller: too many of them are open, or their messages wait \
                           to be taken; nothing of the call ran";
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

/// Completes when a client does not answer a ping. Any data from the client counts as a sign of life until a ping is
/// due.
async fn alive(pings: Option<PingPong>, activity: Arc<Activity>, interval: Duration, patience: Duration) {
    let Some(mut pings) = pings else {
        return std::future::pending().await;
    };
    let mut seen = activity.read.load(Ordering::Relaxed);
    let mut silent = 0;
    loop {
        sleep(interval / POLLS_PER_INTERVAL).await;
        let read = activity.read.load(Ordering::Relaxed);
        silent = if std::mem::replace(&mut seen, read) == read {
            silent + 1
        } else {
            0
        };
        if silent < POLLS_PER_INTERVAL {
            continue;
        }
        silent = 0;
        if !matches!(timeout(patience, pings.ping(Ping::opaque())).await, Ok(Ok(_))) {
            return;
        }
    }
}

/// Completes when a connection has had no call for this time, or for up to twice as long.
async fn idle(activity: Arc<Activity>, after: Duration) {
    let mut seen = activity.calls.load(Ordering::Relaxed);
    loop {
        sleep(after).await;
        let calls = activity.calls.load(Ordering::Relaxed);
        if calls == seen && activity.open.load(Ordering::Relaxed) == 0 {
            return;
        }
        seen = calls;
    }
}

/// Completes when a connection has reached its maximum age, give or take a tenth, so that connections that were
/// opened together are not closed together.
async fn old(age: Option<Duration>) {
    let Some(age) = age else {
        return std::future::pending().await;
    };
    let share = rand::rng().random_range(0.9..1.1);
    sleep(age.mul_f64(share)).await;
}

/// Completes when a client has not sent the HTTP/2 preface in time.
async fn late(activity: Arc<Activity>, after: Duration) {
    sleep(after).await;
    if activity.read.load(Ordering::Relaxed) >= PREFACE {
        std::future::pending::<()>().await;
    }
}
