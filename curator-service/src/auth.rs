//! Authentication and authorization: runs before the called service.
//!
//! The annotations in the `.proto` files define which permissions a method requires. A method without an annotation
//! cannot be called.

pub(crate) mod certificate;
mod request_limit;
mod revocation;
#[cfg(any(test, feature = "test-identity"))]
mod test_identity;

use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};

use curator_proto::ext::Permission;
use curator_proto::permission::{Authorization, Methods, Unauthorized};
use futures::FutureExt;
use futures::future::{BoxFuture, Either, ready};
use http::request::Parts;
use http::{Request, Response};
use tonic::Status;
use tonic::body::Body;
use tonic::server::NamedService;
use tower_service::Service;

use self::request_limit::limited;
use self::revocation::RevocableStream;
#[cfg(any(test, feature = "test-identity"))]
pub use self::test_identity::{TEST_CALLER, TestIdentity};

/// The authenticated caller, stored in the request's extensions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Caller {
    /// A node of the cluster, authenticated by its certificate.
    Node {
        /// The node's ID.
        id: String,
        /// The key that the node proved to own, which must match the node's record; `None` if no key was proved.
        public_key: Option<[u8; 32]>,
    },
    /// A user of the cluster, authenticated by a certificate.
    User {
        /// The identity in the certificate.
        identity: String,
    },
    /// An unauthenticated caller: the method requires no authentication.
    Anybody {
        /// The Ed25519 key that the caller proved to own with a self-signed certificate.
        key: Option<[u8; 32]>,
    },
}

/// Authenticates callers.
pub trait Authenticator: Send + Sync + 'static {
    /// Returns the node or user that makes a call.
    ///
    /// # Errors
    /// If the caller is neither. The text says why and is sent to the caller.
    fn authenticate(&self, request: &Parts) -> Result<Member, String>;

    /// Returns the key that the caller proved to own with a self-signed certificate.
    fn self_signed_key(&self, request: &Parts) -> Option<[u8; 32]>;
}

/// A member of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Member {
    /// A node.
    Node {
        /// The node's ID.
        id: String,
        /// The key that the node proved to own, if any.
        public_key: Option<[u8; 32]>,
    },
    /// A user.
    User {
        /// The identity in the certificate.
        identity: String,
    },
}

/// Rejects every caller. Used without TLS: methods that require authentication fail.
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

/// The permissions of every node. A user has all permissions.
const OF_NODES: [Permission; 2] = [Permission::ReadClusterStatus, Permission::UpdateNodeSelf];

/// Authenticates and authorizes a call.
fn admit(authenticator: &dyn Authenticator, methods: &Methods, request: &Parts) -> Result<Caller, Status> {
    let need = match methods.authorization(request.uri.path()) {
        Ok(Authorization::Unauthenticated) => {
            let key = authenticator.self_signed_key(request);
            return Ok(Caller::Anybody { key });
        }
        Ok(Authorization::Authenticated { need }) => need,
        Err(unknown @ Unauthorized::UnknownMethod) => return Err(Status::unimplemented(unknown.to_string())),
        Err(error @ Unauthorized::NoAnnotation) => return Err(Status::permission_denied(error.to_string())),
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

/// Looks up nodes of the cluster.
pub(crate) trait NodeDirectory: Clone + Send + Sync + Unpin + 'static {
    /// Checks that the cluster has a node with this ID and key. The error is sent to the caller.
    fn check(&self, id: &str, public_key: &[u8; 32]) -> impl Future<Output = Result<(), Status>> + Send;

    /// Whether the local view shows that the node has been removed. Cheap: called for each message of a stream.
    fn is_removed(&self, id: &str, public_key: &[u8; 32]) -> bool;
}

/// Wraps a service with authorization. The decision uses headers only: nothing is read from the body of a refused
/// request, and the body of an unauthenticated request is limited.
#[derive(Clone)]
pub(crate) struct Authorized<S, R> {
    inner: S,
    authenticator: Arc<dyn Authenticator>,
    directory: R,
    /// `None`: those of the Curator.
    methods: Option<Arc<Methods>>,
}

impl<S, R> Authorized<S, R> {
    /// A service of the Curator.
    pub(crate) const fn new(inner: S, authenticator: Arc<dyn Authenticator>, directory: R) -> Self {
        Self {
            inner,
            authenticator,
            directory,
            methods: None,
        }
    }

    /// Takes the annotations of another service.
    #[must_use]
    pub(crate) fn with_methods(mut self, methods: Arc<Methods>) -> Self {
        self.methods = Some(methods);
        self
    }

    fn methods(&self) -> &Methods {
        self.methods.as_deref().unwrap_or_else(|| Methods::of_curator())
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
        let caller = match admit(&*self.authenticator, self.methods(), &parts) {
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
        // A valid certificate does not show that its node was deleted, so the directory is checked.
        let streams = self.methods().answers_with_a_stream(request.uri().path());
        let directory = self.directory.clone();
        // The service that is ready is called; a clone takes its place.
        let clone = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, clone);
        let checked = async move {
            match directory.check(&id, &key).await {
                Ok(()) if streams => {
                    let answered = inner.call(request).await?;
                    Ok(answered.map(|body| Body::new(RevocableStream::new(body, directory, id, key))))
                }
                Ok(()) => inner.call(request).await,
                Err(refused) => Ok(refused.into_http()),
            }
        };
        Either::Right(checked.boxed())
    }
}

/// Returns the authenticated caller of a request.
pub(crate) fn caller<T>(request: &tonic::Request<T>) -> Result<&Caller, Status> {
    // Missing if the service is not wrapped in `Authorized`.
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
        admit(&TestIdentity, Methods::of_curator(), &parts(path, caller)).map_err(|status| status.code())
    }

    const WATCH: &str = "/metropolis.node.core.curator.proto.api.Curator/Watch";
    const REGISTER: &str = "/metropolis.node.core.curator.proto.api.Curator/RegisterNode";
    const APPROVE: &str = "/metropolis.proto.api.Management/ApproveNode";

    #[test]
    fn method_permissions_decide_for_nodes_and_users() {
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
    fn unauthenticated_method_ignores_certificates() {
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
    fn caller_without_tls_is_unauthenticated() {
        let refused = admit(&RejectAll, Methods::of_curator(), &parts(WATCH, Some("user owner"))).unwrap_err();
        assert_eq!(refused.code(), Code::Unauthenticated);
    }

    #[test]
    fn unknown_method_is_unimplemented() {
        let unknown = "/metropolis.proto.api.Management/Nothing";
        assert_eq!(admitted(unknown, Some("user owner")), Err(Code::Unimplemented));
    }

    /// `prost-types` knows no extensions, so that it drops the annotations.
    #[test]
    fn method_without_annotation_is_refused_to_everybody() {
        use prost::Message;
        let decoded = prost_types::FileDescriptorSet::decode(curator_proto::FILE_DESCRIPTOR_SET);
        let stripped = decoded.expect("our own descriptors").encode_to_vec();
        let methods = Methods::from_descriptors(&stripped).expect("decodable");
        for path in [WATCH, APPROVE, REGISTER] {
            for caller in [None, Some("node n"), Some("user owner")] {
                let refused = admit(&TestIdentity, &methods, &parts(path, caller)).expect_err("no annotation");
                assert_eq!(refused.code(), Code::PermissionDenied, "{path} {caller:?}");
            }
        }
    }

    /// Reads the whole request and counts its bytes.
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

    /// An endless body that counts the bytes taken from it.
    struct Endless(Arc<AtomicUsize>);

    impl http_body::Body for Endless {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            let piece = Bytes::from_static(&[0; 1_024]);
            let taken = self.0.fetch_add(piece.len(), Ordering::Relaxed);
            // Stop eventually, so that a failing test ends.
            Poll::Ready((taken < 64 << 20).then(|| Ok(Frame::data(piece))))
        }
    }

    #[tokio::test]
    async fn body_of_refused_call_is_not_read() {
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

    /// Every method that the leader serves has an annotation; without one it could not be called.
    #[test]
    fn every_method_has_an_annotation() {
        for path in Methods::of_curator().paths() {
            let refused = admitted(path, None).err();
            assert!(
                matches!(refused, None | Some(Code::Unauthenticated)),
                "{path}: {refused:?}"
            );
        }
    }
}
