//! One client's connection.

use std::convert::Infallible;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Frame;
use hyper::body::Incoming;
use hyper::rt::Executor;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rand::RngExt;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::debug;

use super::seats::Seat;
use crate::body::Body;
use crate::call::Dispatcher;
use crate::caller::{Caller, Standing};
use crate::config::ListenerConfig;
use crate::heard::{Heard, Listening};
use crate::tls::{self, Io, Turns};

use super::sockets::Arrived;

/// The client connection preface, RFC 9113, section 3.4.
const PREFACE: usize = 24;

/// What a connection may do that HTTP/2 has it ended for.
#[derive(Clone, Copy)]
struct Limits {
    /// Streams that are reset before they are looked at (CVE-2023-44487). A client may give up all of its calls at once.
    pending_resets: usize,
    /// Errors of the client's own making, of all its calls.
    errors: usize,
}

impl Limits {
    /// A follower has the calls of many callers on one connection, so that it may do more than a stranger, and not as much as
    /// it likes.
    fn of(standing: Standing, config: &ListenerConfig) -> Self {
        let calls = usize::try_from(config.max_concurrent_calls).unwrap_or(usize::MAX);
        match standing {
            Standing::Known => Self {
                pending_resets: calls.saturating_mul(4),
                errors: 16_384,
            },
            Standing::Stranger => Self {
                pending_resets: calls,
                errors: 1_024,
            },
        }
    }
}

/// What all connections share.
pub(crate) struct Shared {
    pub(crate) dispatcher: Arc<Dispatcher>,
    pub(crate) stopping: CancellationToken,
    pub(crate) tasks: TaskTracker,
}

/// What a connection is doing.
struct Activity {
    seat: Seat,
    /// Bytes that came in.
    read: AtomicUsize,
    /// Calls so far.
    calls: AtomicU64,
    /// Calls at this moment.
    open: AtomicUsize,
}

impl Listening for Activity {
    fn heard(&self, bytes: usize) {
        let before = self.read.fetch_add(bytes, Ordering::Relaxed);
        if before < PREFACE && before.saturating_add(bytes) >= PREFACE {
            self.seat.spoke();
        }
    }
}

/// A call that is open on a connection.
struct OpenCall(Arc<Activity>);

impl OpenCall {
    fn new(activity: &Arc<Activity>) -> Self {
        if activity.calls.fetch_add(1, Ordering::Relaxed) == 0 {
            activity.seat.called();
        }
        activity.open.fetch_add(1, Ordering::Relaxed);
        Self(activity.clone())
    }
}

impl Drop for OpenCall {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Serves a connection until it ends, or must make room for another. Cut when dropped.
pub(crate) async fn serve(stream: Arrived, seat: Seat, shared: &Arc<Shared>, shard: usize, turns: &Turns) {
    let stream = match stream.open() {
        Ok(stream) => stream,
        Err(error) => {
            debug!(%error, "connection gone before it was served");
            return;
        }
    };
    let config = &shared.dispatcher.config;
    let meters = &shared.dispatcher.meters;
    let _counted = meters.connection();
    let (io, shown, caller) = match &config.tls {
        None => (Io::Plain(stream), None, Caller::at(seat.peer())),
        Some(tls) => tokio::select! {
            accepted = timeout(config.handshake_timeout, tls::accept(stream, tls, turns)) => match accepted {
                Ok(Ok((io, shown, known))) => {
                    meters.shook_hands(true);
                    let caller = Caller::showing(&shown, known, seat.peer());
                    (io, Some(shown), caller)
                }
                Ok(Err(error)) => {
                    meters.shook_hands(false);
                    debug!(%error, "connection ended in its TLS handshake");
                    return;
                }
                Err(_) => {
                    meters.shook_hands(false);
                    debug!("connection cut: its TLS handshake takes too long");
                    return;
                }
            },
            () = seat.cut() => {
                debug!("connection cut in its TLS handshake: there are too many of them");
                return;
            }
        },
    };
    let activity = Arc::new(Activity {
        seat,
        read: AtomicUsize::new(0),
        calls: AtomicU64::new(0),
        open: AtomicUsize::new(0),
    });
    let io = TokioIo::new(Heard::new(io, activity.clone()));
    let dispatcher = shared.dispatcher.clone();
    let calls = activity.clone();
    let limits = Limits::of(caller.standing, config);
    let service = service_fn(move |mut request: Request<Incoming>| {
        if let Some(shown) = &shown {
            request.extensions_mut().insert(shown.clone());
        }
        request.extensions_mut().insert(caller.clone());
        let (dispatcher, call) = (dispatcher.clone(), OpenCall::new(&calls));
        // Boxed at once: hyper moves the future several times before it first polls it.
        Box::pin(async move {
            let response = dispatcher.answer(request, shard).await;
            Ok::<Response<Counted>, Infallible>(response.map(|body| Counted { body, _call: call }))
        })
    });
    let connection = builder(config, limits, shared.tasks.clone()).serve_connection(io, service);
    let mut connection = pin!(connection);
    let mut idle = pin!(idle(activity.clone(), config.idle_timeout));
    let mut old = pin!(old(config.max_connection_age));
    let mut late = pin!(late(activity.clone(), config.handshake_timeout));
    let mut leaving = false;
    loop {
        tokio::select! {
            ended = &mut connection => {
                if let Err(error) = ended {
                    debug!(%error, "connection ended");
                }
                return;
            }
            () = &mut late => {
                debug!("connection cut: the client has not begun to speak HTTP/2");
                return;
            }
            () = activity.seat.cut() => {
                debug!("connection cut: it has made no call, and others wait for its place");
                return;
            }
            () = &mut idle, if !leaving => {}
            () = &mut old, if !leaving => {}
            () = shared.stopping.cancelled(), if !leaving => {}
        }
        // Takes nothing new, tells the client so, and ends with the last call.
        connection.as_mut().graceful_shutdown();
        leaving = true;
    }
}

fn builder(config: &ListenerConfig, limits: Limits, tasks: TaskTracker) -> http2::Builder<Tracked> {
    let mut builder = http2::Builder::new(Tracked(tasks));
    builder
        .timer(TokioTimer::new())
        .initial_stream_window_size(config.stream_window)
        .initial_connection_window_size(config.connection_window())
        .max_concurrent_streams(config.max_concurrent_calls)
        .max_header_list_size(config.most_headers())
        .max_pending_accept_reset_streams(limits.pending_resets)
        .max_local_error_reset_streams(limits.errors)
        .keep_alive_interval(config.client_ping_interval)
        .keep_alive_timeout(config.client_ping_timeout)
        // gRPC has no use for it.
        .auto_date_header(false);
    builder
}

/// Completes when a connection has had no call for so long, or up to twice as long.
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

/// Completes when a connection is so old, give or take a tenth: those that were opened together are not closed together.
async fn old(age: Option<Duration>) {
    let Some(age) = age else {
        return std::future::pending().await;
    };
    let share = rand::rng().random_range(0.9..1.1);
    sleep(age.mul_f64(share)).await;
}

/// Completes when a client has not said by then that it speaks HTTP/2, and never otherwise.
async fn late(activity: Arc<Activity>, after: Duration) {
    sleep(after).await;
    if activity.read.load(Ordering::Relaxed) >= PREFACE {
        std::future::pending::<()>().await;
    }
}

/// Runs hyper's tasks where they can be waited for.
#[derive(Clone)]
struct Tracked(TaskTracker);

impl<F> Executor<F> for Tracked
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, future: F) {
        self.0.spawn(future);
    }
}

/// A body that keeps its call open.
struct Counted {
    body: Body,
    _call: OpenCall,
}

impl http_body::Body for Counted {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }
}
