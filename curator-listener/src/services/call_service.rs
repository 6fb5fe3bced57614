//! The services that answer a call, and the tower layers around them.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::StdError;
use tonic::service::Routes;
use tower::util::{BoxCloneSyncService, ServiceExt as _};
use tower::{Layer, Service};

/// The services of an instance as one tower service: what a [layer](crate::Services::layer) wraps. It is always ready.
#[derive(Clone)]
pub struct CallService(Inner);

#[derive(Clone)]
enum Inner {
    Routes(Routes),
    Layered(BoxCloneSyncService<Request<Body>, Response<Body>, StdError>),
}

impl CallService {
    pub(crate) fn new(routes: Routes) -> Self {
        Self(Inner::Routes(routes))
    }

    /// The services within a layer.
    pub(crate) fn layered<L, B>(self, layer: &L) -> Self
    where
        L: Layer<Self>,
        L::Service: Service<Request<Body>, Response = Response<B>> + Clone + Send + Sync + 'static,
        <L::Service as Service<Request<Body>>>::Error: Into<StdError>,
        <L::Service as Service<Request<Body>>>::Future: Send + 'static,
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<StdError>,
    {
        let layered = layer
            .layer(self)
            .map_response(|response: Response<B>| response.map(Body::new))
            .map_err(Into::into);
        Self(Inner::Layered(BoxCloneSyncService::new(layered)))
    }

    /// Answers a call. The error of a layer becomes a gRPC status.
    ///
    /// Cancellation: dropping the future drops the handler.
    pub(crate) async fn answer(self, request: Request<Body>) -> Response<Body> {
        match self.0 {
            Inner::Routes(mut routes) => {
                let ready = poll_fn(|cx| Service::<Request<Body>>::poll_ready(&mut routes, cx)).await;
                let answer: Result<_, Infallible> = match ready {
                    Ok(()) => routes.call(request).await,
                    Err(never) => Err(never),
                };
                let Ok(response) = answer;
                response
            }
            Inner::Layered(service) => {
                let answer = service.oneshot(request).await;
                answer.unwrap_or_else(|error| Status::from_error(error).into_http())
            }
        }
    }
}

impl std::fmt::Debug for CallService {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("CallService(..)")
    }
}

impl Service<Request<Body>> for CallService {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let service = self.clone();
        Box::pin(async move { Ok(service.answer(request).await) })
    }
}
