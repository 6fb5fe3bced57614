//! Who calls, and whether they may: asked of each call before the service that it is for.
//!
//! Who may is what the annotations in the `.proto` files say, read from the descriptors. A method without one cannot be called.

pub(crate) mod certificate;
mod request_limit;
mod revocation;
#[cfg(any(test, feature = "test-identity"))]
mod test_identity;

use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};

use self::request_limit::limited;
use self::revocation::RevocableStream;
use curator_proto::ext::Permission;
use curator_proto::permission::{Authorization, Methods, Unauthorized};
use futures::FutureExt;
use futures::future::{BoxFuture, Either, ready};
use http::request::Parts;
use http::{Request, Response};
#[cfg(any(test, feature = "test-identity"))]
pub use test_identity::{TEST_CALLER, TestIdentity};
use tonic::Status;
use tonic::body::Body;
use tonic::server::NamedService;
use tower_service::Service;

/// Who is calling, as far as the called method asks. Found in the extensions of the request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Caller {
    /// A node of the cluster, by its certificate.
    Node {
        /// Its id.
        id: String,
        /// The key that it has shown to have, which its record must have as well; `None` if nothing was shown.
        public_key: Option<[u8; 32]>,
    },
    /// A user of the cluster, by their certificate.
    User {
        /// What the certificate calls them.
        identity: String,
    },
    /// Anybody: the method does not ask who calls.
    Anybody {
        /// The Ed25519 key that the caller has shown to have, by a certificate signed by itself.
        key: Option<[u8; 32]>,
    },
}

/// How callers are recognized.
pub trait Authenticator: Send + Sync + 'static {
    /// The node or user that makes a call.
    ///
    /// # Errors
    /// The caller is neither; the text says why, and is for the caller to read.
    fn authenticate(&self, request: &Parts) -> Result<Member, String>;

    /// The key that the caller has shown to have, whoever it is.
    fn self_signed_key(&self, request: &Parts) -> Option<[u8; 32]>;
}

/// A member of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Member {
    /// A node.
    Node {
        /// Its id.
        id: String,
        /// The key that it has shown to have, if it has shown one.
        public_key: Option<[u8; 32]>,
    },
    /// A user.
    User {
        /// What their certificate calls them.
        identity: String,
    },
}

/// Without TLS nobody can be recognized: what needs that is refused.
#[derive(Clone, Copy, Debug, Default)]
pub struct RejectAll;

impl Authenticator for RejectAll {
    fn authenticate(&self, _: &Parts) -> Result<Member, String> {
        Err("connection is not TLS; the caller cannot be authenticated".into())
    }

    fn self_signed_key(&self, _: &Parts) -> Option<[u8; 32]> {
        None
    }
}

/// What a node may, whichever it is. A user may everything.
const OF_NODES: [Permission; 2] = [Permission::ReadClusterStatus, Permission::UpdateNodeSelf];

/// Who calls, if they may.
fn admit(authenticator: &dyn Authenticator, request: &Parts) -> Result<Caller, Status> {
    let need = match Methods::of_curator().authorization(request.uri.path()) {
        Ok(Authorization::Unauthenticated) => {
            let key = authenticator.self_signed_key(request);
            return Ok(Caller::Anybody { key });
        }
        Ok(Authorization::Authenticated { need }) => need,
        Err(unknown @ Unauthorized::UnknownMethod) => return Err(Status::unimplemented(unknown.to_string())),
        Err(error @ Unauthorized::NoAnnotation) => return Err(Status::internal(error.to_string())),
    };
    match authenticator.authenticate(request).map_err(Status::unauthenticated)? {
        Member::Node { id, public_key } => match need.iter().find(|permission| !OF_NODES.contains(permission)) {
            Some(missing) => Err(Status::permission_denied(format!(
                "node missing {} permission",
                missing.as_str_name()
            ))),
            None => Ok(Caller::Node { id, public_key }),
        },
        Member::User { identity } => Ok(Caller::User { identity }),
    }
}

/// Knows whether a node is still one of the cluster.
pub(crate) trait NodeDirectory: Clone + Send + Sync + Unpin + 'static {
    /// Whether the cluster has a node with this id and key at this moment; the error is for the caller.
    fn check(&self, id: &str, public_key: &[u8; 32]) -> impl Future<Output = Result<(), Status>> + Send;

    /// Whether it is known by now that the cluster has no such node any more. Cheap: asked for each message of a stream.
    fn is_removed(&self, id: &str, public_key: &[u8; 32]) -> bool;
}

/// A service that only those reach who may. Who may is decided on the headers: of the request of a caller who may not, nothing is
/// read. Of a request that anybody may make, a little is.
#[derive(Clone)]
pub(crate) struct Authorized<S, R> {
    inner: S,
    authenticator: Arc<dyn Authenticator>,
    register: R,
}

impl<S, R> Authorized<S, R> {
    pub(crate) const fn new(inner: S, authenticator: Arc<dyn Authenticator>, register: R) -> Self {
        Self {
            inner,
            authenticator,
            register,
        }
    }
}

impl<S: NamedService, R> NamedService for Authorized<S, R> {
    const NAME: &'static str = S::NAME;
}

impl<S, R> Service<Request<Body>> for Authorized<S, R>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send + 'static,
    R: NodeDirectory,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Either<S::Future, BoxFuture<'static, Result<Response<Body>, Infallible>>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let (mut parts, body) = request.into_parts();
        let caller = match admit(&*self.authenticator, &parts) {
            Ok(caller) => caller,
            Err(refused) => return Either::Right(ready(Ok(refused.into_http())).boxed()),
        };
        let shown = match &caller {
            Caller::Node {
                id,
                public_key: Some(key),
            } => Some((id.clone(), *key)),
            _ => None,
        };
        let body = match &caller {
            Caller::Anybody { .. } => limited(body),
            Caller::Node { .. } | Caller::User { .. } => body,
        };
        parts.extensions.insert(caller);
        let request = Request::from_parts(parts, body);
        let Some((id, key)) = shown else {
            return Either::Left(self.inner.call(request));
        };
        // A certificate does not say that its node has been deleted since.
        let streams = Methods::of_curator().answers_with_a_stream(request.uri().path());
        let register = self.register.clone();
        // The one that is ready is called, and a clone of it stays.
        let clone = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, clone);
        let checked = async move {
            match register.check(&id, &key).await {
                Ok(()) if streams => {
                    let answered = inner.call(request).await?;
                    Ok(answered.map(|body| Body::new(RevocableStream::new(body, register, id, key))))
                }
                Ok(()) => inner.call(request).await,
                Err(refused) => Ok(refused.into_http()),
            }
        };
        Either::Right(checked.boxed())
    }
}

/// Who makes a call.
pub(crate) fn caller<T>(request: &tonic::Request<T>) -> Result<&Caller, Status> {
    // Without it the service stands in no `Authorized`.
    let missing = || Status::internal("internal: request did not pass the auth layer");
    request.extensions().get().ok_or_else(missing)
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::pin::Pin;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use bytes::Bytes;
    use http_body::{Body as _, Frame};
    use tonic::Code;

    use super::*;

    fn parts(path: &str, caller: Option<&str>) -> Parts {
        let mut request = Request::builder().uri(path);
        if let Some(caller) = caller {
            request = request.header(TEST_CALLER, caller);
        }
        request.body(()).expect("a request").into_parts().0
    }

    fn admitted(path: &str, caller: Option<&str>) -> Result<Caller, Code> {
        admit(&TestIdentity, &parts(path, caller)).map_err(|status| status.code())
    }

    const WATCH: &str = "/metropolis.node.core.curator.proto.api.Curator/Watch";
    const REGISTER: &str = "/metropolis.node.core.curator.proto.api.Curator/RegisterNode";
    const APPROVE: &str = "/metropolis.proto.api.Management/ApproveNode";

    #[test]
    fn nodes_and_users_are_let_in_by_what_the_method_needs() {
        let node = Caller::Node {
            id: "n".into(),
            public_key: None,
        };
        let user = Caller::User {
            identity: "owner".into(),
        };
        assert_eq!(admitted(WATCH, Some("node n")), Ok(node));
        assert_eq!(admitted(WATCH, Some("user owner")), Ok(user.clone()));
        assert_eq!(admitted(APPROVE, Some("user owner")), Ok(user));
        assert_eq!(admitted(APPROVE, Some("node n")), Err(Code::PermissionDenied));
        assert_eq!(admitted(WATCH, None), Err(Code::Unauthenticated));
        assert_eq!(admitted(WATCH, Some("key 00")), Err(Code::Unauthenticated));
    }

    #[test]
    fn who_calls_is_not_asked_where_anybody_may() {
        assert_eq!(admitted(REGISTER, None), Ok(Caller::Anybody { key: None }));
        assert_eq!(
            admitted(REGISTER, Some("user owner")),
            Ok(Caller::Anybody { key: None })
        );
        let key = format!("key {}", "07".repeat(32));
        assert_eq!(
            admitted(REGISTER, Some(&key)),
            Ok(Caller::Anybody { key: Some([7; 32]) })
        );
    }

    #[test]
    fn without_tls_nobody_is_recognized() {
        let refused = admit(&RejectAll, &parts(WATCH, Some("user owner"))).unwrap_err();
        assert_eq!(refused.code(), Code::Unauthenticated);
    }

    #[test]
    fn an_unknown_method_is_nobodys() {
        let unknown = "/metropolis.proto.api.Management/Nothing";
        assert_eq!(admitted(unknown, Some("user owner")), Err(Code::Unimplemented));
    }

    /// Reads the whole request, and answers with its length.
    #[derive(Clone)]
    struct Reads(Arc<AtomicUsize>);

    impl Service<Request<Body>> for Reads {
        type Response = Response<Body>;
        type Error = Infallible;
        type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, request: Request<Body>) -> Self::Future {
            let read = self.0.clone();
            let mut body = request.into_body();
            async move {
                while let Some(frame) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
                    match frame {
                        Ok(frame) => read.fetch_add(frame.data_ref().map_or(0, Bytes::len), Ordering::Relaxed),
                        Err(status) => return Ok(status.into_http()),
                    };
                }
                Ok(Response::new(Body::empty()))
            }
            .boxed()
        }
    }

    #[derive(Clone)]
    struct Everybody;

    impl NodeDirectory for Everybody {
        async fn check(&self, _: &str, _: &[u8; 32]) -> Result<(), Status> {
            Ok(())
        }

        fn is_removed(&self, _: &str, _: &[u8; 32]) -> bool {
            false
        }
    }

    /// A body that never ends, and counts what has been taken of it.
    struct Endless(Arc<AtomicUsize>);

    impl http_body::Body for Endless {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            let piece = Bytes::from_static(&[0; 1_024]);
            let taken = self.0.fetch_add(piece.len(), Ordering::Relaxed);
            // A test that fails must not go on for ever.
            Poll::Ready((taken < 64 << 20).then(|| Ok(Frame::data(piece))))
        }
    }

    #[tokio::test]
    async fn of_what_strangers_send_nothing_is_read_or_a_little() {
        for (path, caller, most) in [
            (WATCH, None, 0),
            (APPROVE, Some("node n"), 0),
            ("/metropolis.proto.api.Management/Nothing", None, 0),
            (REGISTER, None, request_limit::MAX_REQUEST_BYTES + 1_024),
        ] {
            let (taken, read) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
            let mut service = Authorized::new(Reads(read.clone()), Arc::new(TestIdentity), Everybody);
            let request = Request::from_parts(parts(path, caller), Body::new(Endless(taken.clone())));
            let response = service.call(request).await.expect("infallible");
            assert_ne!(response.headers().get("grpc-status").expect("refused"), "0", "{path}");
            let taken = taken.load(Ordering::Relaxed);
            assert!(taken <= most, "{path}: {taken} bytes");
            assert!(
                read.load(Ordering::Relaxed) <= request_limit::MAX_REQUEST_BYTES,
                "{path}"
            );
        }
    }

    /// All methods that the leader serves have an annotation, or nobody could call them.
    #[test]
    fn every_method_says_who_may() {
        for path in Methods::of_curator().paths() {
            let refused = admitted(path, None).err();
            assert!(
                matches!(refused, None | Some(Code::Unauthenticated)),
                "{path}: {refused:?}"
            );
        }
    }
}
