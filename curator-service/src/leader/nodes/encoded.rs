//! A watch's events with each node already encoded, as all watchers share it; and the method that sends them.
//!
//! On the wire a message within a message is its bytes with their length before them, and so is a field of bytes. So what a
//! watch tells may be put together from records that were encoded once, at their revision, whoever is told of them and however
//! many there are. (<https://protobuf.dev/programming-guides/encoding/#submessages>)

use std::convert::Infallible;
use std::task::{Context, Poll};

use bytes::Bytes;
use curator_proto::curator_api::watch_event::{NodeTombstone, Progress};
use curator_proto::curator_api::{WatchEvent, WatchRequest};
use futures::future::{BoxFuture, Either, FutureExt as _};
use http::Request;
use prost::Message as _;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::http::Response;
use tonic::server::{Grpc, NamedService, ServerStreamingService};
use tonic_prost::ProstCodec;
use tower_service::Service;

use crate::auth::caller;
use crate::leader::nodes::watch::Events;
use crate::leader::{MOST_MESSAGE, Seat};

/// The same on the wire as [`WatchEvent`].
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct EncodedEvent {
    /// Each a `Node`.
    #[prost(bytes = "bytes", repeated, tag = "1")]
    pub(crate) nodes: Vec<Bytes>,
    #[prost(enumeration = "Progress", tag = "2")]
    pub(crate) progress: i32,
    #[prost(message, repeated, tag = "3")]
    pub(crate) node_tombstones: Vec<NodeTombstone>,
}

impl EncodedEvent {
    /// What whoever is told of it sees.
    pub(crate) fn decoded(&self) -> Result<WatchEvent, Status> {
        let decoded = WatchEvent::decode(&*self.encode_to_vec());
        decoded.map_err(|error| Status::internal(error.to_string()))
    }
}

/// The path of the method that it takes upon itself.
const WATCH: &str = "/metropolis.node.core.curator.proto.api.Curator/Watch";

/// The `Curator` service, with `Watch` from encoded events.
#[derive(Clone)]
pub(crate) struct SharedWatch<S> {
    inner: S,
    seat: Seat,
}

impl<S> SharedWatch<S> {
    pub(crate) const fn new(inner: S, seat: Seat) -> Self {
        Self { inner, seat }
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
        let watch = Watch(self.seat.clone());
        let answer = async move {
            let codec = ProstCodec::<EncodedEvent, WatchRequest>::default();
            let mut method = Grpc::new(codec).apply_max_message_size_config(Some(MOST_MESSAGE), None);
            Ok(method.server_streaming(watch, request).await)
        };
        Either::Right(answer.boxed())
    }
}

struct Watch(Seat);

impl ServerStreamingService<WatchRequest> for Watch {
    type Response = EncodedEvent;
    type ResponseStream = Events;
    type Future = BoxFuture<'static, Result<tonic::Response<Events>, Status>>;

    fn call(&mut self, request: tonic::Request<WatchRequest>) -> Self::Future {
        let seat = self.0.clone();
        async move {
            let caller = caller(&request)?.clone();
            let events = seat.leader().await?.watch(&caller, request.into_inner()).await?;
            Ok(tonic::Response::new(events))
        }
        .boxed()
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

    #[test]
    fn path_is_that_of_the_contract() {
        use curator_proto::curator_api::curator_server::{CuratorServer, SERVICE_NAME};
        assert_eq!(WATCH, format!("/{SERVICE_NAME}/Watch"));
        assert_eq!(SharedWatch::<CuratorServer<Seat>>::NAME, SERVICE_NAME);
    }
}
