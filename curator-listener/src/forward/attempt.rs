//! One attempt to forward a call.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;

use bytes::Bytes;
use h2::client::ResponseFuture;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, HeaderValue, Method, Request, Response, Uri};
use http_body::Body;
use tokio::time::Instant;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};
use tonic::Code;
use tracing::debug;

use super::connection::Slot;
use super::replay_body::ReplayBody;
use super::reset_queue::{AbandonedCall, RequestState, ResponseState};
use super::response_body::ForwardedBody;
use super::retry;
use super::upload::{Upload, Uploaded};
use crate::call::grpc_timeout::{self, GRPC_TIMEOUT};
use crate::call::header_size;
use crate::call::lifetime::CallLimits;
use crate::call::refusal::Refusal;
use crate::caller::CallerAddress;
use crate::headers::{self, NotRun, TermHeader};
use crate::protocol::{self, ForwardProtocol};

/// A call to forward.
pub(crate) struct ForwardRequest {
    pub(crate) method: Method,
    pub(crate) path: PathAndQuery,
    /// Without the headers that are not forwarded.
    pub(crate) headers: HeaderMap,
    /// The `:authority` that the caller used.
    pub(crate) authority: Option<HeaderValue>,
    pub(crate) deadline: Option<Instant>,
    /// The caller's certificates, if the listener uses TLS.
    pub(crate) certificate: Option<HeaderValue>,
    /// The address of the caller.
    pub(crate) address: Option<CallerAddress>,
    /// The forwarding protocol version to send.
    pub(crate) version: ForwardProtocol,
}

/// How an attempt ended.
pub(crate) enum Outcome<B> {
    /// The leader answers.
    Answered(Response<ForwardedBody>),
    /// Nothing of the call ran, for this reason; it can be retried.
    NotRun { why: String, body: ReplayBody<B> },
    /// Nothing of the call ran, because the leader does not support the protocol version. `takes` is the newest that
    /// it supports, if that can be read.
    OtherVersion {
        takes: Option<ForwardProtocol>,
        body: ReplayBody<B>,
    },
    /// Nothing of the call ran, because the leader accepts no forwarded calls from this instance.
    NoMember,
    /// The call has ended.
    Ended(Refusal),
}

/// One attempt to forward a call.
pub(crate) struct Attempt<'a> {
    pub(crate) request: ForwardRequest,
    /// The term that the leader must be in.
    pub(crate) term: &'a TermHeader,
    /// Identifies this process.
    pub(crate) instance_id: &'a HeaderValue,
    pub(crate) slot: Slot,
    pub(crate) limits: CallLimits,
    /// Runs uploads that continue after the response has begun.
    pub(crate) tasks: &'a TaskTracker,
}

enum Event {
    Response(Result<Response<h2::RecvStream>, h2::Error>),
    /// The deadline has passed or the role has ended.
    Limit(Refusal),
    ClientGone,
}

impl Attempt<'_> {
    /// Sends the call to the leader.
    ///
    /// Cancellation: dropping the future abandons the call.
    pub(crate) async fn run<B>(self, body: ReplayBody<B>) -> Outcome<B>
    where
        B: Body<Data = Bytes> + Send + Unpin + 'static,
    {
        let Self {
            request,
            term,
            instance_id,
            slot,
            mut limits,
            tasks,
        } = self;
        let request = match to_leader(request, term, instance_id, slot.authority()) {
            Ok(request) => request,
            Err(refusal) => return Outcome::Ended(refusal),
        };
        let path = request.uri().path_and_query().map_or(0, |path| path.as_str().len());
        if !header_size::fits(request.headers(), path) {
            let message = "the metadata of the call is too large to be forwarded once encoded";
            return Outcome::Ended(Refusal::new(Code::ResourceExhausted, message));
        }
        let mut sent = match Sent::send(request, body, slot) {
            Ok(sent) => sent,
            Err(outcome) => return outcome,
        };
        match sent.event(&mut limits).await {
            Event::Response(Ok(response)) => sent.on_response(response, limits, tasks),
            Event::Response(Err(error)) => sent.on_error(&error),
            // Dropping the call abandons it.
            Event::Limit(refusal) => Outcome::Ended(refusal),
            Event::ClientGone => Outcome::Ended(Refusal::new(Code::Cancelled, "the client is gone")),
        }
    }
}

/// Nothing of the call ran: it can be retried if its body has been buffered.
fn not_run<B>(why: String, mut body: ReplayBody<B>) -> Outcome<B>
where
    B: Body<Data = Bytes> + Unpin,
{
    if body.rewind() {
        Outcome::NotRun { why, body }
    } else {
        Outcome::Ended(Refusal::unavailable(format!(
            "{why}; nothing of the call ran, but the request is too long to be buffered for a retry"
        )))
    }
}

/// A call that has been sent and not answered. Dropping it abandons the call.
struct Sent<B>(Option<(ResponseFuture, Upload<B>, Slot)>)
where
    B: Body<Data = Bytes> + Unpin;

impl<B> Sent<B>
where
    B: Body<Data = Bytes> + Unpin,
{
    /// Sends the head of the request.
    #[expect(clippy::result_large_err, reason = "the outcome is what the caller returns")]
    fn send(request: Request<()>, body: ReplayBody<B>, slot: Slot) -> Result<Self, Outcome<B>> {
        let whole = body.is_end_stream();
        match slot.requests().send_request(request, whole) {
            Ok((response, stream)) => Ok(Self(Some((response, Upload::new(body, stream, whole), slot)))),
            Err(error) if error.is_io() || error.is_go_away() => {
                debug!(%error, "the connection to the leader is closing");
                slot.give_up();
                Err(Outcome::NotRun {
                    why: "the connection to the leader is closing".to_owned(),
                    body,
                })
            }
            // The error is in the request, not in the connection: a retry would fail as well.
            Err(error) => Err(Outcome::Ended(cannot_forward(&error))),
        }
    }

    /// The next event, while the request is being uploaded.
    async fn event(&mut self, limits: &mut CallLimits) -> Event {
        poll_fn(|cx| {
            let Some((response, upload, _)) = &mut self.0 else {
                return Poll::Ready(Event::ClientGone);
            };
            if !upload.is_done() && upload.poll(cx) == Poll::Ready(Uploaded::Abandoned) {
                return Poll::Ready(Event::ClientGone);
            }
            if let Poll::Ready(response) = Pin::new(response).poll(cx) {
                return Poll::Ready(Event::Response(response));
            }
            limits.poll(cx).map(Event::Limit)
        })
        .await
    }

    /// The leader has answered.
    fn on_response(
        mut self,
        mut response: Response<h2::RecvStream>,
        limits: CallLimits,
        tasks: &TaskTracker,
    ) -> Outcome<B>
    where
        B: Send + 'static,
    {
        let Some((_, mut upload, slot)) = self.0.take() else {
            return Outcome::Ended(Refusal::new(Code::Internal, "internal: the call was abandoned"));
        };
        if let Some(said) = headers::take_not_run(response.headers_mut()) {
            let (body, request) = upload.into_parts();
            slot.abandon(|slot| AbandonedCall {
                response: ResponseState::Begun(response.into_body()),
                request: request.map(RequestState::Idle),
                slot,
            });
            return on_refusal(said, body);
        }
        if upload.is_stopped() {
            slot.wears();
        }
        upload.answered();
        let upload = (!upload.is_done()).then(|| {
            // The upload continues as a task: the client may send more before it reads the answer.
            AbortOnDropHandle::new(tasks.spawn(async move { poll_fn(|cx| upload.poll(cx)).await }))
        });
        let (parts, stream) = response.into_parts();
        Outcome::Answered(Response::from_parts(
            parts,
            ForwardedBody::new(stream, limits, upload, slot),
        ))
    }

    /// The stream has ended without an answer: there is nothing to reset.
    fn on_error(mut self, error: &h2::Error) -> Outcome<B> {
        let Some((_, upload, slot)) = self.0.take() else {
            return Outcome::Ended(Refusal::new(Code::Internal, "internal: the call was abandoned"));
        };
        if retry::is_provably_unprocessed(error) {
            debug!(%error, "the leader did not process the call");
            return not_run("the leader did not process the call".to_owned(), upload.into_parts().0);
        }
        if !upload.is_done() || upload.is_stopped() {
            slot.wears();
        }
        Outcome::Ended(retry::to_refusal(error))
    }

    fn abandon(&mut self) {
        if let Some((response, upload, slot)) = self.0.take() {
            slot.abandon(|slot| AbandonedCall {
                response: ResponseState::Awaited(response),
                request: upload.into_parts().1.map(RequestState::Idle),
                slot,
            });
        }
    }
}

impl<B> Drop for Sent<B>
where
    B: Body<Data = Bytes> + Unpin,
{
    fn drop(&mut self) {
        self.abandon();
    }
}

/// The leader has refused the call before anything ran.
fn on_refusal<B>(said: NotRun, body: ReplayBody<B>) -> Outcome<B>
where
    B: Body<Data = Bytes> + Unpin,
{
    if said.why == headers::NO_MEMBER {
        return Outcome::NoMember;
    }
    match not_run(format!("the leader refused the call ({})", said.why), body) {
        Outcome::NotRun { body, .. } if said.why == protocol::REFUSED => Outcome::OtherVersion {
            takes: said.takes,
            body,
        },
        outcome => outcome,
    }
}

/// The request for the leader.
fn to_leader(
    request: ForwardRequest,
    term: &TermHeader,
    instance_id: &HeaderValue,
    authority: Authority,
) -> Result<Request<()>, Refusal> {
    let mut parts = http::uri::Parts::default();
    parts.scheme = Some(Scheme::HTTP);
    parts.authority = Some(authority);
    parts.path_and_query = Some(request.path);
    let uri = Uri::from_parts(parts).map_err(|error| cannot_forward(&error))?;
    let mut headers = request.headers;
    headers::mark_forwarded(
        &mut headers,
        request.version,
        term,
        instance_id,
        request.authority.as_ref(),
        request.certificate.as_ref(),
        request.address,
    );
    if let Some(deadline) = request.deadline {
        // Only the time that is left.
        let left = deadline.saturating_duration_since(Instant::now());
        headers.insert(GRPC_TIMEOUT, grpc_timeout::write(left));
    }
    let mut to_leader = Request::new(());
    *to_leader.method_mut() = request.method;
    *to_leader.uri_mut() = uri;
    *to_leader.version_mut() = http::Version::HTTP_2;
    *to_leader.headers_mut() = headers;
    Ok(to_leader)
}

fn cannot_forward(error: &impl std::fmt::Display) -> Refusal {
    Refusal::new(Code::Internal, format!("the call cannot be forwarded: {error}"))
}
