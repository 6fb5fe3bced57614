//! The services of an instance: those that every instance answers, and those of the leader.

mod call_service;

use std::collections::{BTreeSet, HashSet};
use std::convert::Infallible;
use std::error::Error;
use std::sync::Arc;

use bytes::Bytes;
use http::Request;
use prost::Message;
use prost_types::FileDescriptorSet;
use tonic::body::Body;
use tonic::codegen::StdError;
use tonic::server::NamedService;
use tonic::service::Routes;

pub use call_service::CallService;

use crate::call::Kind;
use crate::role::{LeaderTerm, TermId};

type Factory<T> = Box<dyn Fn(&LeaderTerm<T>) -> Result<Routes, LeaderServicesError> + Send + Sync>;

type AddLayer = Box<dyn Fn(CallService) -> CallService + Send + Sync>;

/// The name of the health service, which the listener adds.
pub(crate) const HEALTH: &str = "grpc.health.v1.Health";
/// The names of the reflection services, which the listener adds if it has [descriptors](Services::describe).
const REFLECTION: [&str; 2] = [
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
];

/// Why the leader's services of a term could not be made.
///
/// The reason is sent to callers, who may be strangers: it should name no files, addresses or keys. The source is
/// only logged.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{reason}")]
pub struct LeaderServicesError {
    reason: String,
    source: Option<Arc<dyn Error + Send + Sync>>,
}

impl LeaderServicesError {
    /// An error with this reason.
    pub fn new(reason: impl Into<String>) -> Self {
        Self {
            reason: reason.into(),
            source: None,
        }
    }

    /// Adds the error that caused this one.
    #[must_use]
    pub fn caused_by(mut self, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        self.source = Some(source.into().into());
        self
    }

    /// The reason, as it is sent to callers.
    #[must_use]
    pub fn reason(&self) -> &str {
        &self.reason
    }
}

/// This instance leads and cannot serve.
#[derive(Clone, Debug, thiserror::Error)]
#[error("cannot start the leader's services in the term of lock revision {}: {error}", term.lock_revision)]
pub struct LeaderFailure {
    /// The term.
    pub term: TermId,
    /// The error of the factory of the leader's services.
    pub error: LeaderServicesError,
}

/// The services of an instance. `T` is the context of a [`LeaderTerm`].
pub struct Services<T = ()> {
    local: Routes,
    local_names: Vec<&'static str>,
    leader: Factory<T>,
    descriptors: Vec<&'static [u8]>,
    set: FileDescriptorSet,
    layers: Vec<AddLayer>,
    /// The first local service that was added twice.
    duplicate: Option<&'static str>,
}

/// The services of an instance exclude each other.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ServicesError {
    /// Two local services have the same name.
    #[error("the local service {name} is added twice: add each service once")]
    Duplicate {
        /// The full gRPC name.
        name: &'static str,
    },
    /// A local service has the name of one that the listener adds.
    #[error("the listener adds the service {name} itself: do not add it with `Services::local`")]
    Reserved {
        /// The full gRPC name.
        name: &'static str,
    },
}

/// The descriptors cannot be decoded.
#[derive(Debug, thiserror::Error)]
#[error("cannot decode the descriptors as a FileDescriptorSet: {0}")]
pub struct DescriptorError(#[from] prost::DecodeError);

impl Services {
    /// Takes the leader's services. `leader` is called at the beginning of each term, and its result is dropped when
    /// the term ends. It must not block. See [`with_factory`](Self::with_factory) for services that may fail to start.
    pub fn new(leader: impl Fn(&LeaderTerm) -> Routes + Send + Sync + 'static) -> Self {
        Self::with_factory(move |term| Ok(leader(term)))
    }
}

impl<T> Services<T> {
    /// Takes the leader's services, which may fail to start. `leader` is called once at the beginning of each term, and
    /// its result is dropped when the term ends. It must not block.
    ///
    /// If it fails, the instance holds its term without services: the error is logged and counted, the health service
    /// reports NOT_SERVING, and calls wait as without a leader and then fail with `UNAVAILABLE` and the reason. The
    /// listener does not end the term: await [`leader_failed`](crate::ListenerHandle::leader_failed), and step down.
    pub fn with_factory(
        leader: impl Fn(&LeaderTerm<T>) -> Result<Routes, LeaderServicesError> + Send + Sync + 'static,
    ) -> Self {
        Self {
            local: Routes::default(),
            local_names: Vec::new(),
            leader: Box::new(leader),
            descriptors: Vec::new(),
            set: FileDescriptorSet::default(),
            layers: Vec::new(),
            duplicate: None,
        }
    }

    /// Adds a service that every instance answers itself, in every role. It takes precedence over a leader's service
    /// of the same name. A name may be added once; the listener itself adds `grpc.health.v1.Health`, and
    /// `grpc.reflection.v1.ServerReflection` and `v1alpha` if there are [descriptors](Self::describe).
    /// [`check`](Self::check) and [`Listener::run`](crate::Listener::run) refuse others.
    #[must_use]
    pub fn local<S>(mut self, service: S) -> Self
    where
        S: tower_service::Service<Request<Body>, Response = http::Response<Body>, Error = Infallible>
            + NamedService
            + Clone
            + Send
            + Sync
            + 'static,
        S::Future: Send + 'static,
    {
        if self.local_names.contains(&S::NAME) {
            // tonic panics if a name is added twice.
            self.duplicate.get_or_insert(S::NAME);
            return self;
        }
        self.local_names.push(S::NAME);
        self.local = self.local.add_service(service);
        self
    }

    /// Wraps a tower layer around all services of this instance: those of the leader, the local ones, health and
    /// reflection. The layer added last is the outermost. It sees each call that this instance answers itself, with
    /// [`CallerAddress`](crate::CallerAddress) and [`CallerCertificates`](crate::CallerCertificates) in the extensions
    /// if they are known. A call that is forwarded passes the layers of the leader alone.
    ///
    /// The layer runs within the deadline of the call and the term. It is applied at the beginning of each term and
    /// once for the local services; state that outlives a term belongs into the layer. An error becomes a gRPC status
    /// ([`tonic::Status::from_error`]).
    ///
    /// ```
    /// # use curator_listener::Services;
    /// # use tonic::service::Routes;
    /// let services = Services::new(|_| Routes::default())
    ///     .layer(tower::util::MapRequestLayer::new(|request: http::Request<tonic::body::Body>| {
    ///         println!("{}", request.uri().path());
    ///         request
    ///     }));
    /// ```
    #[must_use]
    pub fn layer<L, B>(mut self, layer: L) -> Self
    where
        L: tower::Layer<CallService> + Send + Sync + 'static,
        L::Service: tower_service::Service<Request<Body>, Response = http::Response<B>> + Clone + Send + Sync + 'static,
        <L::Service as tower_service::Service<Request<Body>>>::Error: Into<StdError>,
        <L::Service as tower_service::Service<Request<Body>>>::Future: Send + 'static,
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<StdError>,
    {
        self.layers.push(Box::new(move |service| service.layered(&layer)));
        self
    }

    /// Checks that no two services have the same name. [`Listener::run`](crate::Listener::run) does so too; this finds
    /// it before there is a listener.
    ///
    /// # Errors
    /// If a local service was added twice, or has the name of a service that the listener adds.
    pub fn check(&self) -> Result<(), ServicesError> {
        if let Some(name) = self.duplicate {
            return Err(ServicesError::Duplicate { name });
        }
        let reflects = !self.descriptors.is_empty();
        let is_reserved = |name: &str| name == HEALTH || (reflects && REFLECTION.contains(&name));
        match self.local_names.iter().find(|name| is_reserved(name)) {
            Some(name) => Err(ServicesError::Reserved { name }),
            None => Ok(()),
        }
    }

    /// Adds the layers.
    fn layered(&self, routes: Routes) -> CallService {
        let service = CallService::new(routes.prepare());
        self.layers.iter().fold(service, |service, add| add(service))
    }

    /// Adds descriptors: an encoded `google.protobuf.FileDescriptorSet`, as `prost-build` and `protox` write it.
    /// Described services are available by server reflection and in the health service, and their unary calls use
    /// other connections to the leader than streams.
    ///
    /// # Errors
    /// If `descriptors` is not an encoded `FileDescriptorSet`.
    pub fn describe(mut self, descriptors: &'static [u8]) -> Result<Self, DescriptorError> {
        self.set.file.extend(FileDescriptorSet::decode(descriptors)?.file);
        self.descriptors.push(descriptors);
        Ok(self)
    }

    pub(crate) fn leader_service(&self, term: &LeaderTerm<T>) -> Result<CallService, LeaderServicesError> {
        (self.leader)(term).map(|routes| self.layered(routes))
    }

    pub(crate) fn descriptors(&self) -> &[&'static [u8]] {
        &self.descriptors
    }

    /// The names of the local services.
    pub(crate) fn local_names(&self) -> &[&'static str] {
        &self.local_names
    }

    /// The names of all known services.
    pub(crate) fn names(&self) -> BTreeSet<String> {
        let described = self.set.file.iter().flat_map(|file| {
            file.service
                .iter()
                .map(|service| full_name(file.package(), service.name()))
        });
        described
            .chain(self.local_names.iter().map(|name| (*name).to_owned()))
            .collect()
    }

    /// Separates the local services from the rest.
    pub(crate) fn split(self) -> (LocalServices, Arc<Self>) {
        let local = LocalServices {
            service: self.layered(self.local.clone()),
            names: self.local_names.clone(),
        };
        (local, Arc::new(self))
    }

    /// The methods that are known to be unary.
    pub(crate) fn kinds(&self) -> MethodKinds {
        let mut unary = HashSet::new();
        for file in &self.set.file {
            for service in &file.service {
                let name = full_name(file.package(), service.name());
                let methods = service.method.iter();
                unary.extend(
                    methods
                        .filter(|method| !method.client_streaming() && !method.server_streaming())
                        .map(|method| format!("/{name}/{}", method.name())),
                );
            }
        }
        MethodKinds(unary)
    }
}

fn full_name(package: &str, service: &str) -> String {
    match package {
        "" => service.to_owned(),
        package => format!("{package}.{service}"),
    }
}

/// The services that every instance answers itself.
#[derive(Clone)]
pub(crate) struct LocalServices {
    service: CallService,
    names: Vec<&'static str>,
}

impl LocalServices {
    /// The service for a path, if it belongs to a local service.
    pub(crate) fn at(&self, path: &str) -> Option<&CallService> {
        let (service, _) = path.strip_prefix('/')?.rsplit_once('/')?;
        // A linear search through a handful of names is faster than a hash.
        self.names.contains(&service).then_some(&self.service)
    }
}

/// The paths of the unary methods.
pub(crate) struct MethodKinds(HashSet<String>);

impl MethodKinds {
    /// The kind of the method at this path. An unknown method may be a stream.
    pub(crate) fn of(&self, path: &str) -> Kind {
        if self.0.contains(path) {
            Kind::Unary
        } else {
            Kind::Stream
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn services() -> Services {
        let (_reporter, health) = tonic_health::server::health_reporter();
        Services::new(|_| Routes::default())
            .local(health)
            .describe(curator_echo::FILE_DESCRIPTOR_SET)
            .expect("descriptors")
    }

    #[test]
    fn unary_calls_are_told_from_streams() {
        let kinds = services().kinds();
        assert_eq!(kinds.of("/curator.echo.v1.Echo/Say"), Kind::Unary);
        for path in [
            "/curator.echo.v1.Echo/Count",
            "/curator.echo.v1.Echo/Sum",
            "/x.Y/Z",
            "",
            "/",
            "x",
        ] {
            assert_eq!(kinds.of(path), Kind::Stream, "{path}");
        }
    }

    #[test]
    fn local_services_are_told_by_their_names() {
        let (local, services) = services().split();
        assert!(local.at("/grpc.health.v1.Health/Check").is_some());
        assert!(local.at("/grpc.health.v1.Health").is_none());
        assert!(local.at("/curator.echo.v1.Echo/Say").is_none());
        let names: Vec<_> = services.names().into_iter().collect();
        assert_eq!(names, ["curator.echo.v1.Echo", "grpc.health.v1.Health"]);
    }

    #[test]
    fn descriptors_that_are_none_are_refused() {
        assert!(Services::new(|_| Routes::default()).describe(b"\xff\xff").is_err());
    }
}
