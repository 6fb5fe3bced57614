//! Forwarding a call to the leader: headers, body and trailers are passed on unchanged and not inspected.
//!
//! It uses `h2` directly. That takes no task and no queue for a call, returns a request that was not sent, and
//! reports for a failed one whether the leader may have started to process it.

mod connection;
mod dial;
mod pool;
pub(crate) mod replay_body;
mod reset_queue;
mod response_body;
mod retry;
mod upload;

use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;

use bytes::Bytes;
use h2::client::ResponseFuture;
use http::uri::{PathAndQuery, Scheme};
use http::{HeaderMap, HeaderValue, Method, Request, Response, Uri};
use http_body::Body;
use tokio::time::Instant;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};
use tonic::Code;
use tracing::debug;

pub(crate) use connection::Slot;
pub(crate) use pool::{Pool, Ready};
pub(crate) use response_body::ForwardedBody;

use crate::call::grpc_timeout::GRPC_TIMEOUT;
use crate::call::lifetime::CallLimits;
use crate::call::refusal::Refusal;
use crate::call::{grpc_timeout, header_size};
use crate::caller::CallerAddress;
use crate::forward::replay_body::ReplayBody;
use crate::headers::TermHeader;
use crate::protocol::ForwardProtocol;
use crate::{headers, protocol};
use reset_queue::{AbandonedCall, RequestState, ResponseState};
use upload::{Upload, Uploaded};

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

enum Event {
    ForwardedBody(Result<Response<h2::RecvStream>, h2::Error>),
    Bound(Refusal),
    Abandoned,
}

/// Sends the call to the leader.
///
/// Cancellation: dropping the future abandons the call.
pub(crate) async fn attempt<B>(
    head: ForwardRequest,
    body: ReplayBody<B>,
    term: &TermHeader,
    instance_id: &HeaderValue,
    slot: Slot,
    mut limits: CallLimits,
    tasks: &TaskTracker,
) -> Outcome<B>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
{
    let request = match request(head, term, instance_id, &slot) {
        Ok(request) => request,
        Err(refusal) => return Outcome::Ended(refusal),
    };
    let path = request.uri().path_and_query().map_or(0, |path| path.as_str().len());
    if !header_size::fits(request.headers(), path) {
        let message = "the metadata of the call is too long to be forwarded, as bytes that are not of text are sent";
        return Outcome::Ended(Refusal::new(Code::ResourceExhausted, message));
    }
    let whole = body.is_end_stream();
    let (response, stream) = match slot.requests().send_request(request, whole) {
        Ok(sent) => sent,
        Err(error) if error.is_io() || error.is_go_away() => {
            debug!(%error, "a connection to the leader is closing");
            slot.give_up();
            return Outcome::NotRun {
                why: "the connection to the leader is closing".to_owned(),
                body,
            };
        }
        // The error is in the request, not in the connection: a retry would fail as well.
        Err(error) => {
            return Outcome::Ended(Refusal::new(
                Code::Internal,
                format!("the call cannot be forwarded: {error}"),
            ));
        }
    };
    let mut sent = Sent(Some((response, Upload::new(body, stream, whole), slot)));
    let event = sent.event(&mut limits).await;
    let Some((response, upload, slot)) = sent.0.take() else {
        return Outcome::Ended(Refusal::new(Code::Internal, "the call was given up"));
    };
    match event {
        Event::ForwardedBody(Ok(mut answer)) => {
            if let Some(said) = headers::take_not_run(answer.headers_mut()) {
                let (body, request) = upload.into_parts();
                slot.abandon(|slot| AbandonedCall {
                    answer: ResponseState::Begun(answer.into_body()),
                    request: request.map(RequestState::Idle),
                    slot,
                });
                if said.why == headers::NO_MEMBER {
                    return Outcome::NoMember;
                }
                return match not_run(format!("the leader refused the call ({})", said.why), body) {
                    Outcome::NotRun { body, .. } if said.why == protocol::REFUSED => Outcome::OtherVersion {
                        takes: said.takes,
                        body,
                    },
                    ended => ended,
                };
            }
            let mut upload = upload;
            if upload.is_stopped() {
                slot.wears();
            }
            upload.answered();
            let upload = (!upload.is_done()).then(|| {
                // The upload continues as a task: the client may send more before it reads the answer.
                AbortOnDropHandle::new(tasks.spawn(async move { poll_fn(|cx| upload.poll(cx)).await }))
            });
            let (parts, stream) = answer.into_parts();
            Outcome::Answered(Response::from_parts(
                parts,
                ForwardedBody::new(stream, limits, upload, slot),
            ))
        }
        // The stream has ended: there is nothing to reset.
        Event::ForwardedBody(Err(error)) if retry::is_provably_unprocessed(&error) => {
            debug!(%error, "the leader did not take a call");
            not_run("the leader did not take the call".to_owned(), upload.into_parts().0)
        }
        Event::ForwardedBody(Err(error)) => {
            if !upload.is_done() || upload.is_stopped() {
                slot.wears();
            }
            Outcome::Ended(retry::to_refusal(&error))
        }
        Event::Bound(refusal) => {
            Sent(Some((response, upload, slot))).give_up();
            Outcome::Ended(refusal)
        }
        Event::Abandoned => {
            Sent(Some((response, upload, slot))).give_up();
            Outcome::Ended(Refusal::new(Code::Cancelled, "the client is gone"))
        }
    }
}

/// Nothing of the call ran: it can be retried if its body has been buffered.
fn not_run<B>(why: String, mut body: ReplayBody<B>) -> Outcome<B>
where
    B: Body<Data = Bytes> + Unpin,
{
    match body.rewind() {
        true => Outcome::NotRun { why, body },
        false => Outcome::Ended(Refusal::unavailable(format!(
            "{why}; nothing of the call ran, but the request is too long to be sent again from here"
        ))),
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
    /// The next event, while the request is being uploaded.
    async fn event(&mut self, limits: &mut CallLimits) -> Event {
        poll_fn(|cx| {
            let Some((response, upload, _)) = &mut self.0 else {
                return Poll::Ready(Event::Abandoned);
            };
            if !upload.is_done() && upload.poll(cx) == Poll::Ready(Uploaded::Abandoned) {
                return Poll::Ready(Event::Abandoned);
            }
            if let Poll::Ready(answer) = Pin::new(response).poll(cx) {
                return Poll::Ready(Event::ForwardedBody(answer));
            }
            limits.poll(cx).map(Event::Bound)
        })
        .await
    }

    fn give_up(&mut self) {
        if let Some((response, upload, slot)) = self.0.take() {
            slot.abandon(|slot| AbandonedCall {
                answer: ResponseState::Awaited(response),
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
        self.give_up();
    }
}

/// The request for the leader.
fn request(
    head: ForwardRequest,
    term: &TermHeader,
    instance_id: &HeaderValue,
    slot: &Slot,
) -> Result<Request<()>, Refusal> {
    let mut parts = http::uri::Parts::default();
    parts.scheme = Some(Scheme::HTTP);
    parts.authority = Some(slot.authority());
    parts.path_and_query = Some(head.path);
    let uri = Uri::from_parts(parts)
        .map_err(|error| Refusal::new(Code::Internal, format!("the call cannot be forwarded: {error}")))?;
    let mut headers = head.headers;
    headers::mark_forwarded(
        &mut headers,
        head.version,
        term,
        instance_id,
        head.authority.as_ref(),
        head.certificate.as_ref(),
        head.address,
    );
    if let Some(deadline) = head.deadline {
        // Only the time that is left.
        let left = deadline.saturating_duration_since(Instant::now());
        headers.insert(GRPC_TIMEOUT, grpc_timeout::write(left));
    }
    let mut request = Request::new(());
    *request.method_mut() = head.method;
    *request.uri_mut() = uri;
    *request.version_mut() = http::Version::HTTP_2;
    *request.headers_mut() = headers;
    Ok(request)
}
