//! A test server that refuses its first calls with a pushback.

#![allow(clippy::unwrap_used, reason = "a fixture that fails is a failed test")]

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll};

use curator_proto::curator_api::{CommitNodeRequest, CommitNodeResponse};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use hyper_util::rt::TokioIo;
use tokio::io::DuplexStream;
use tokio::sync::mpsc;
use tonic::body::Body;
use tonic::server::{Grpc, NamedService};
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;
use tower_service::Service;

/// A refusal with this pushback.
pub fn refused(said: &str) -> Status {
    let mut status = Status::resource_exhausted("no room");
    status
        .metadata_mut()
        .insert("grpc-retry-pushback-ms", said.parse().expect("ASCII"));
    status
}

/// A server that refuses its first calls with a pushback.
#[derive(Clone)]
pub struct Full {
    refuses: u32,
    said: &'static str,
    /// Number of calls received.
    pub calls: Arc<AtomicU32>,
}

impl Full {
    /// Refuses this many calls, with this pushback.
    pub fn new(refuses: u32, said: &'static str) -> Self {
        Self {
            refuses,
            said,
            calls: Arc::default(),
        }
    }

    /// Serves in this process, so that paused time works.
    pub fn serve(self) -> Channel {
        let (accept, mut accepted) = mpsc::channel::<DuplexStream>(1);
        let incoming = futures::stream::poll_fn(move |cx| {
            let next = accepted.poll_recv(cx);
            next.map(|stream| stream.map(Ok::<_, std::io::Error>))
        });
        tokio::spawn(Server::builder().add_service(self).serve_with_incoming(incoming));
        let connect = move |_| {
            let accept = accept.clone();
            async move {
                let (client, server) = tokio::io::duplex(64 << 10);
                let gone = |_| std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
                accept.send(server).await.map_err(gone)?;
                Ok::<_, std::io::Error>(TokioIo::new(client))
            }
        };
        Endpoint::from_static("http://full").connect_with_connector_lazy(tower::service_fn(connect))
    }
}

impl NamedService for Full {
    const NAME: &'static str = "metropolis.node.core.curator.proto.api.Curator";
}

impl Service<http::Request<Body>> for Full {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let answer = if self.calls.fetch_add(1, Ordering::SeqCst) < self.refuses {
            Err(refused(self.said))
        } else {
            Ok(Response::new(CommitNodeResponse::default()))
        };
        async move {
            let codec = ProstCodec::<CommitNodeResponse, CommitNodeRequest>::default();
            Ok(Grpc::new(codec).unary(Always(answer), request).await)
        }
        .boxed()
    }
}

/// A service that gives one response.
struct Always(Result<Response<CommitNodeResponse>, Status>);

impl tonic::server::UnaryService<CommitNodeRequest> for Always {
    type Response = CommitNodeResponse;
    type Future = std::future::Ready<Result<Response<CommitNodeResponse>, Status>>;

    fn call(&mut self, _: Request<CommitNodeRequest>) -> Self::Future {
        let answer = std::mem::replace(&mut self.0, Err(Status::internal("asked twice")));
        std::future::ready(answer)
    }
}
