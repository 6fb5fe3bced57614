//! Passing a call on to the leader as it is: headers, body and trailers, without a look inside.
//!
//! HTTP/2 is spoken through `h2` itself. That costs no task and no queue for a call on the way out, it gives back a request
//! that was not sent, and it says of a failed one whether the leader can have begun with it.

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

/// The head of a call.
pub(crate) struct ForwardRequest {
    pub(crate) method: Method,
    pub(crate) path: PathAndQuery,
    /// Stripped of what goes no further.
    pub(crate) headers: HeaderMap,
    /// What the caller asked for.
    pub(crate) authority: Option<HeaderValue>,
    pub(crate) deadline: Option<Instant>,
    /// What the caller has shown, if this instance looks at that.
    pub(crate) certificate: Option<HeaderValue>,
    /// Where the call comes from.
    pub(crate) address: Option<CallerAddress>,
    /// In which version the leader is told of it.
    pub(crate) version: ForwardProtocol,
}

/// How an attempt ended.
pub(crate) enum Outcome<B> {
    /// The leader answers.
    Answered(Response<ForwardedBody>),
    /// Nothing of the call ran, for this reason; it can be sent again.
    NotRun { why: String, body: ReplayBody<B> },
    /// Nothing of the call ran, since the leader does not take its version, and none newer than this one if that can be read.
    OtherVersion {
        takes: Option<ForwardProtocol>,
        body: ReplayBody<B>,
    },
    /// Nothing of the call ran, since the leader takes none from this instance.
    NoMember,
    /// The call is over.
    Ended(Refusal),
}

enum Event {
    ForwardedBody(Result<Response<h2::RecvStream>, h2::Error>),
    Bound(Refusal),
    Abandoned,
}

/// Sends the call to the leader.
///
/// Cancellation: dropping the future gives the call up.
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
        // Not the connection, but the request: it would fail again.
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
                // On its own from here: the client may send more before it reads any of the answer.
                AbortOnDropHandle::new(tasks.spawn(async move { poll_fn(|cx| upload.poll(cx)).await }))
            });
            let (parts, stream) = answer.into_parts();
            Outcome::Answered(Response::from_parts(
                parts,
                ForwardedBody::new(stream, limits, upload, slot),
            ))
        }
        // The stream has ended, and there is nothing to give up.
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

/// Nothing of a call ran: it can be sent again if its request has been kept.
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

/// A call that has been sent, and not been answered. Dropping it gives the call up.
struct Sent<B>(Option<(ResponseFuture, Upload<B>, Slot)>)
where
    B: Body<Data = Bytes> + Unpin;

impl<B> Sent<B>
where
    B: Body<Data = Bytes> + Unpin,
{
    /// What comes next, while the request goes out.
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

/// The request as the leader gets it.
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
        // What has been spent here is not there any more.
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
