//! Answering calls by the leader's own services, within the term.

use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{Request, Response};
use http_body::{Body, Frame};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tower_service::Service;

use crate::forward;
use crate::refusal::{self, GRPC, Refusal};
use crate::scope::Bounds;

/// A stream that has sent nothing for so long does not hold up a leader that wants to step down.
const QUIET: Duration = Duration::from_millis(50);

/// The calls that a term is running, so that a planned end can wait for them.
#[derive(Debug)]
pub(crate) struct Running {
    draining: AtomicBool,
    /// The same, to be waited for.
    drains: CancellationToken,
    /// Calls without an answer yet.
    unanswered: AtomicUsize,
    /// Answers under way.
    answering: AtomicUsize,
    /// Those of them that have something to send.
    sending: AtomicUsize,
    /// When a young stream last sent something, in milliseconds since the beginning.
    moved: AtomicU64,
    began: Instant,
    /// Streams older than this are taken for endless.
    young: Duration,
    ended: Notify,
}

/// How a drain ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drained {
    /// Calls that had not been answered when the time was over.
    pub unanswered: usize,
    /// Streams that were still open, and end with the term.
    pub streams: usize,
}

impl Running {
    pub(crate) fn new(young: Duration) -> Arc<Self> {
        Arc::new(Self {
            draining: AtomicBool::new(false),
            drains: CancellationToken::new(),
            unanswered: AtomicUsize::new(0),
            answering: AtomicUsize::new(0),
            sending: AtomicUsize::new(0),
            moved: AtomicU64::new(0),
            began: Instant::now(),
            young,
            ended: Notify::new(),
        })
    }

    /// Whether nothing new is taken.
    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::SeqCst)
    }

    /// Completes when nothing new is taken any more. Cancellation safe.
    pub(crate) async fn draining(&self) {
        self.drains.cancelled().await;
    }

    /// Counts one more call in; `None` if nothing new is taken.
    fn enter(self: &Arc<Self>) -> Option<RunningCall> {
        // First counted, then looked: whoever drains does it the other way round, so that one of the two sees the other.
        self.unanswered.fetch_add(1, Ordering::SeqCst);
        let call = RunningCall {
            running: self.clone(),
            since: Instant::now(),
            stage: Stage::Unanswered,
            frames: 0,
        };
        (!self.is_draining()).then_some(call)
    }

    /// Takes nothing new, and waits until what is running has ended: all calls that have not been answered, answers that have
    /// something to send, and streams that are young and have just sent something. Cancellation: nothing new is taken all the
    /// same.
    pub(crate) async fn drain(&self, limit: Duration) -> Drained {
        self.draining.store(true, Ordering::SeqCst);
        self.drains.cancel();
        let _ = timeout(limit, self.quiet()).await;
        Drained {
            unanswered: self.unanswered.load(Ordering::SeqCst),
            streams: self.answering.load(Ordering::SeqCst),
        }
    }

    async fn quiet(&self) {
        loop {
            let ended = self.ended.notified();
            let mut ended = pin!(ended);
            ended.as_mut().enable();
            if self.unanswered.load(Ordering::SeqCst) > 0 || self.sending.load(Ordering::SeqCst) > 0 {
                ended.await;
                continue;
            }
            if self.answering.load(Ordering::SeqCst) == 0 {
                return;
            }
            let moved = Duration::from_millis(self.moved.load(Ordering::Relaxed));
            let quiet_at = self.began + moved + QUIET;
            if Instant::now() >= quiet_at {
                return;
            }
            tokio::select! {
                () = ended => {}
                () = sleep_until(quiet_at) => {}
            }
        }
    }
}

/// One call that is running.
struct RunningCall {
    running: Arc<Running>,
    since: Instant,
    stage: Stage,
    frames: u32,
}

/// How far a running call is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// The handler has not answered.
    Unanswered,
    /// The answer has something to send, as far as is known.
    Sending,
    /// The answer goes on some time.
    Waiting,
}

impl RunningCall {
    fn answered(&mut self) {
        self.running.answering.fetch_add(1, Ordering::SeqCst);
        self.enter(Stage::Sending);
    }

    /// A frame of the answer was sent.
    fn moved(&mut self) {
        self.frames = self.frames.saturating_add(1);
        // One message and the trailers are what a unary call has, and those are at their end at once.
        if self.frames <= 2 {
            self.enter(Stage::Sending);
        } else if self.since.elapsed() < self.running.young {
            self.enter(Stage::Sending);
            let now = self.running.began.elapsed().as_millis();
            self.running
                .moved
                .store(u64::try_from(now).unwrap_or(u64::MAX), Ordering::Relaxed);
        } else {
            // Endless, as it seems: nobody waits for it.
            self.enter(Stage::Waiting);
        }
    }

    /// There is nothing to send at the moment.
    fn waits(&mut self) {
        self.enter(Stage::Waiting);
    }

    fn enter(&mut self, stage: Stage) {
        if self.stage == stage {
            return;
        }
        if stage == Stage::Sending {
            self.running.sending.fetch_add(1, Ordering::SeqCst);
        }
        self.leave();
        self.stage = stage;
    }

    fn leave(&self) {
        match self.stage {
            Stage::Unanswered => self.running.unanswered.fetch_sub(1, Ordering::SeqCst),
            Stage::Sending => self.running.sending.fetch_sub(1, Ordering::SeqCst),
            Stage::Waiting => return,
        };
        self.tell();
    }

    fn tell(&self) {
        if self.running.is_draining() {
            self.running.ended.notify_waiters();
        }
    }
}

impl Drop for RunningCall {
    fn drop(&mut self) {
        self.leave();
        if self.stage != Stage::Unanswered {
            self.running.answering.fetch_sub(1, Ordering::SeqCst);
            self.tell();
        }
    }
}

/// Answers a call; gives it back if the leader is about to step down.
///
/// Cancellation: dropping the future drops the handler.
pub(crate) async fn serve<B>(
    routes: &Routes,
    running: &Arc<Running>,
    request: Request<B>,
    mut bounds: Bounds,
) -> Result<Response<Led>, Request<B>>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<tonic::codegen::StdError>,
{
    let Some(mut call) = running.enter() else {
        return Err(request);
    };
    match run(routes, request, &mut bounds).await {
        Ok(response) => {
            call.answered();
            Ok(bounded(response).map(|body| Led::new(body, bounds, Some(call))))
        }
        Err(refusal) => Ok(refusal.response()),
    }
}

/// Answers a call by services that know no term.
pub(crate) async fn serve_local<B>(routes: &Routes, request: Request<B>, mut bounds: Bounds) -> Response<Led>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<tonic::codegen::StdError>,
{
    match run(routes, request, &mut bounds).await {
        Ok(response) => bounded(response).map(|body| Led::new(body, bounds, None)),
        Err(refusal) => refusal.response(),
    }
}

/// An answer whose head a follower takes: one that is too long would end its connection, and everybody's calls on it.
fn bounded(mut response: Response<tonic::body::Body>) -> Response<tonic::body::Body> {
    refusal::corrected(response.headers_mut());
    if forward::fits(response.headers(), 0) {
        return response;
    }
    let mut bounded = Response::new(tonic::body::Body::empty());
    *bounded.headers_mut() = refusal::shortened(response.headers());
    bounded.headers_mut().insert(CONTENT_TYPE, GRPC);
    bounded
}

async fn run<B>(
    routes: &Routes,
    request: Request<B>,
    bounds: &mut Bounds,
) -> Result<Response<tonic::body::Body>, Refusal>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<tonic::codegen::StdError>,
{
    let mut routes = routes.clone();
    let mut answering = pin!(async move {
        let request = request.map(tonic::body::Body::new);
        poll_fn(|cx| Service::<Request<tonic::body::Body>>::poll_ready(&mut routes, cx)).await?;
        routes.call(request).await
    });
    let answer: Result<_, Infallible> = poll_fn(|cx| match answering.as_mut().poll(cx) {
        Poll::Ready(answer) => Poll::Ready(Ok(answer)),
        Poll::Pending => bounds.poll(cx).map(Err),
    })
    .await?;
    let Ok(response) = answer;
    // The last moment at which this leader may speak for the cluster: what it found may be out of date after.
    bounds.check()?;
    Ok(response)
}

/// The body of an answer that was made here. It ends when the term does.
pub(crate) struct Led {
    body: tonic::body::Body,
    bounds: Bounds,
    call: Option<RunningCall>,
    over: bool,
}

impl Default for Led {
    fn default() -> Self {
        Self {
            body: tonic::body::Body::empty(),
            bounds: Bounds::new(None, None),
            call: None,
            over: true,
        }
    }
}

impl Led {
    const fn new(body: tonic::body::Body, bounds: Bounds, call: Option<RunningCall>) -> Self {
        Self {
            body,
            bounds,
            call,
            over: false,
        }
    }

    fn end(&mut self, trailers: http::HeaderMap) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.over = true;
        Poll::Ready(Some(Ok(Frame::trailers(trailers))))
    }
}

impl Body for Led {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let this = self.get_mut();
        if this.over {
            return Poll::Ready(None);
        }
        if let Err(refusal) = this.bounds.check() {
            return this.end(refusal.trailers());
        }
        let frame = loop {
            let frame = Pin::new(&mut this.body).poll_frame(cx);
            // A frame without anything in it tells nobody anything, and HTTP/2 has a connection ended for a hundred of them.
            if !matches!(&frame, Poll::Ready(Some(Ok(frame))) if frame.data_ref().is_some_and(Bytes::is_empty)) {
                break frame;
            }
        };
        match frame {
            Poll::Ready(Some(Ok(mut frame))) => {
                if let Some(trailers) = frame.trailers_mut() {
                    refusal::corrected(trailers);
                    if !forward::fits(trailers, 0) {
                        let short = refusal::shortened(trailers);
                        return this.end(short);
                    }
                }
                if let Some(call) = &mut this.call {
                    call.moved();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(status))) => this.end(refusal::trailers(&status)),
            Poll::Ready(None) => {
                this.over = true;
                Poll::Ready(None)
            }
            Poll::Pending => {
                if let Some(call) = &mut this.call {
                    call.waits();
                }
                match this.bounds.poll(cx) {
                    Poll::Ready(refusal) => this.end(refusal.trailers()),
                    Poll::Pending => Poll::Pending,
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.over || self.body.is_end_stream()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_call_that_comes_just_after_the_drain_began_is_given_back() {
        let running = Running::new(Duration::from_secs(1));
        let before = running.enter().expect("open");
        // The rules were asked before, and said to serve it.
        assert_eq!(
            running.drain(Duration::ZERO).await,
            Drained {
                unanswered: 1,
                streams: 0
            }
        );
        let request = Request::new(http_body_util::Empty::<Bytes>::new());
        let served = serve(&Routes::default(), &running, request, Bounds::new(None, None)).await;
        assert!(served.is_err(), "it can be dispatched again");
        drop(before);
        assert_eq!(running.drain(Duration::from_secs(1)).await.unanswered, 0);
    }
}
