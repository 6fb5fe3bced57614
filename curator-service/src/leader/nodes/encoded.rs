//! Watch events that share nodes encoded once, and the method that streams them.
//!
//! On the wire, an embedded message is its bytes with a length prefix, as is a `bytes` field. So events can be
//! assembled from records that were encoded once per revision, for any number of watchers.
//! (<https://protobuf.dev/programming-guides/encoding/#submessages>)
//!
//! Each event has a buffer of its exact size, which is freed once it is sent, so an idle watch holds no buffer. Tonic's
//! encoder keeps a buffer of the size of the largest message while the stream is open, and there may be thousands of
//! streams.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{BufMut as _, Bytes, BytesMut};
use curator_proto::curator_api::watch_event::{NodeTombstone, Progress};
use curator_proto::curator_api::{WatchEvent, WatchRequest};
use futures::Stream;
use futures::future::{BoxFuture, Either, FutureExt as _};
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Request};
use http_body::Frame;
use prost::Message as _;
use tonic::body::Body;
use tonic::codec::{Codec as _, Streaming};
use tonic::codegen::http::Response;
use tonic::metadata::MetadataMap;
use tonic::server::NamedService;
use tonic::{Code, Status};
use tonic_prost::ProstCodec;
use tower_service::Service;

use crate::auth::caller;
use crate::leader::nodes::watch::Events;
use crate::leader::{LeaderHandle, MAX_MESSAGE};

/// The same wire format as [`WatchEvent`].
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct EncodedEvent {
    /// Encoded `Node` messages.
    #[prost(bytes = "bytes", repeated, tag = "1")]
    pub(crate) nodes: Vec<Bytes>,
    #[prost(enumeration = "Progress", tag = "2")]
    pub(crate) progress: i32,
    #[prost(message, repeated, tag = "3")]
    pub(crate) node_tombstones: Vec<NodeTombstone>,
}

impl EncodedEvent {
    /// Decodes the event as a client does.
    pub(crate) fn decoded(&self) -> Result<WatchEvent, Status> {
        let decoded = WatchEvent::decode(&*self.encode_to_vec());
        decoded.map_err(|error| Status::internal(error.to_string()))
    }
}

/// The path of the method that this service implements.
const WATCH: &str = "/metropolis.node.core.curator.proto.api.Curator/Watch";

/// The `Curator` service, with a `Watch` method that sends encoded events.
#[derive(Clone)]
pub(crate) struct SharedWatch<S> {
    inner: S,
    handle: LeaderHandle,
}

impl<S> SharedWatch<S> {
    pub(crate) const fn new(inner: S, handle: LeaderHandle) -> Self {
        Self { inner, handle }
    }
}

impl<S: NamedService> NamedService for SharedWatch<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> Service<Request<Body>> for SharedWatch<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Either<S::Future, BoxFuture<'static, Result<Response<Body>, Infallible>>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        if request.uri().path() != WATCH {
            return Either::Left(self.inner.call(request));
        }
        let handle = self.handle.clone();
        let answer = async move {
            let begun = begin(handle, request).await;
            Ok(begun.map_or_else(|status| status.into_http(), answer))
        };
        Either::Right(answer.boxed())
    }
}

/// The header with the compression of request messages.
const ENCODING: &str = "grpc-encoding";

/// Starts a watch: the request is a single message.
async fn begin(handle: LeaderHandle, request: Request<Body>) -> Result<Events, Status> {
    let (parts, body) = request.into_parts();
    if parts
        .headers
        .get(ENCODING)
        .is_some_and(|encoding| encoding != "identity")
    {
        return Err(Status::unimplemented("compressed requests are not supported"));
    }
    let decoder = ProstCodec::<EncodedEvent, WatchRequest>::default().decoder();
    let mut messages = Streaming::new_request(decoder, body, None, Some(MAX_MESSAGE));
    let message = messages.message().await?;
    let message = message.ok_or_else(|| Status::internal("request contains no message"))?;
    let metadata = MetadataMap::from_headers(parts.headers);
    let request = tonic::Request::from_parts(metadata, parts.extensions, message);
    let caller = caller(&request)?.clone();
    handle.leader().watch(&caller, request.into_inner()).await
}

/// The response that streams these events.
fn answer(events: Events) -> Response<Body> {
    let mut answer = Response::new(Body::new(EventBody { events, ended: false }));
    let grpc = HeaderValue::from_static("application/grpc");
    answer.headers_mut().insert(CONTENT_TYPE, grpc);
    answer
}

/// The body of a response.
struct EventBody {
    events: Events,
    ended: bool,
}

/// The prefix of a message: compression flag and length.
const HEAD: usize = 5;

impl EncodedEvent {
    /// Encodes the event with its prefix.
    fn framed(&self) -> Result<Bytes, Status> {
        let length = self.encoded_len();
        let told =
            u32::try_from(length).map_err(|_| Status::internal("watch event exceeds the maximum message length"))?;
        let mut framed = BytesMut::with_capacity(HEAD + length);
        framed.put_u8(0);
        framed.put_u32(told);
        self.encode(&mut framed)
            .map_err(|error| Status::internal(error.to_string()))?;
        Ok(framed.freeze())
    }
}

impl http_body::Body for EventBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let next = std::task::ready!(Pin::new(&mut self.events).poll_next(cx));
        let framed = next.map(|event| event.and_then(|event| event.framed()));
        let status = match framed {
            Some(Ok(framed)) => return Poll::Ready(Some(Ok(Frame::data(framed)))),
            Some(Err(status)) => status,
            None => Status::new(Code::Ok, ""),
        };
        self.ended = true;
        let mut trailers = HeaderMap::new();
        if status.add_header(&mut trailers).is_err() {
            // If the message does not fit into a header, send the code alone.
            trailers.clear();
            trailers.insert(Status::GRPC_STATUS, HeaderValue::from(i32::from(status.code())));
        }
        Poll::Ready(Some(Ok(Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        self.ended
    }
}

#[cfg(test)]
mod tests {
    use curator_proto::curator_api::Node;

    use super::*;

    #[test]
    fn it_is_the_same_on_the_wire() {
        let node = |id: &str| Node {
            id: id.to_owned(),
            state: 3,
            ..Node::default()
        };
        let gone = NodeTombstone { node_id: "c".into() };
        let plain = WatchEvent {
            nodes: vec![node("a"), Node::default(), node("b")],
            progress: Progress::LastBacklogged.into(),
            node_tombstones: vec![gone.clone()],
        };
        let encoded = EncodedEvent {
            nodes: plain.nodes.iter().map(|node| node.encode_to_vec().into()).collect(),
            progress: Progress::LastBacklogged.into(),
            node_tombstones: vec![gone],
        };
        assert_eq!(encoded.encode_to_vec(), plain.encode_to_vec());
        assert_eq!(encoded.decoded().expect("it is one"), plain);
    }

    fn frames(told: EventBody) -> Vec<Frame<Bytes>> {
        let mut told = Box::pin(told);
        let next = futures::stream::poll_fn(move |cx| http_body::Body::poll_frame(told.as_mut(), cx));
        let frames = futures::StreamExt::collect::<Vec<_>>(next).now_or_never();
        let frames = frames.expect("all frames are valid").into_iter();
        frames
            .map(|frame| frame.unwrap_or_else(|never| match never {}))
            .collect()
    }

    fn events(events: Vec<Result<EncodedEvent, Status>>) -> EventBody {
        let events: Events = Box::pin(futures::stream::iter(events));
        EventBody { events, ended: false }
    }

    /// A thousand idle watches must not keep the buffers of their last events.
    #[test]
    fn a_watch_keeps_nothing_of_what_is_sent() {
        let record = Bytes::from(vec![7; 1_000]);
        let event = EncodedEvent {
            nodes: vec![record.clone(); 64],
            ..EncodedEvent::default()
        };
        let mut told = Box::pin(events(vec![Ok(event.clone())]));
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let Poll::Ready(Some(Ok(frame))) = http_body::Body::poll_frame(told.as_mut(), &mut cx) else {
            panic!("it is there")
        };
        let framed = frame.into_data().expect("the event");
        assert_eq!(framed[..HEAD], [0, 0, 0, 0xfa, 0xc0]);
        assert_eq!(framed.len(), HEAD + event.encoded_len());
        assert_eq!(framed[HEAD..], event.encode_to_vec());
        assert!(framed.is_unique(), "the watch shares its memory");
        assert!(!record.is_unique());
        drop((framed, event));
        assert!(record.is_unique(), "the watch keeps the record");
    }

    #[test]
    fn a_watch_ends_with_its_status() {
        let ends = [
            (Vec::new(), "0"),
            (vec![Err(Status::unavailable("lost leadership"))], "14"),
            // Nothing follows the error.
            (vec![Err(Status::aborted("no")), Ok(EncodedEvent::default())], "10"),
        ];
        for (told, code) in ends {
            let mut frames = frames(events(told));
            assert_eq!(frames.len(), 1);
            let trailers = frames.remove(0).into_trailers().expect("trailers");
            assert_eq!(trailers["grpc-status"], code);
        }
    }

    #[test]
    fn path_is_that_of_the_contract() {
        use curator_proto::curator_api::curator_server::{CuratorServer, SERVICE_NAME};
        assert_eq!(WATCH, format!("/{SERVICE_NAME}/Watch"));
        assert_eq!(SharedWatch::<CuratorServer<LeaderHandle>>::NAME, SERVICE_NAME);
    }
}
