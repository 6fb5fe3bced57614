//! The services that an embedder adds to those of the leader.

use std::convert::Infallible;
use std::fmt;
use std::sync::Arc;

use curator_election::Term;
use curator_listener::LeaderServicesError;
use curator_proto::permission::{DescriptorError, Methods};
use http::{Request, Response};
use tonic::body::Body;
use tonic::server::NamedService;
use tonic::service::Routes;
use tower_service::Service;

use crate::auth::{Authenticator, Authorized};
use crate::leader::LeaderHandle;
use crate::state::term_state::{InvalidStateName, TermState};
use curator_election::fence::Fenced;

/// Services of every instance that the listener has itself.
const OF_LISTENER: [&str; 3] = [
    "grpc.health.v1.Health",
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
];

/// Why a service cannot be added to the leader's.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AddServiceError {
    /// The descriptors cannot be used.
    #[error(transparent)]
    Descriptors(#[from] DescriptorError),
    /// There are no descriptors of the service, so that nothing says who may call it.
    #[error(
        "no descriptors of {service}: call describe with its file descriptor set first, or add it with add_public if \
         anybody may call it"
    )]
    NotDescribed {
        /// The full name of the service.
        service: &'static str,
    },
    /// A method has no annotation, so that nothing says who may call it.
    #[error(
        "{method} has no authorization: set option (metropolis.proto.ext.authorization) on it in the .proto file, or \
         add the service with add_public if anybody may call all of its methods"
    )]
    NoAnnotation {
        /// The path of the method.
        method: String,
    },
    /// There is a service of this name already.
    #[error("{service} exists already: add each service once, and none of the Curator's own")]
    Duplicate {
        /// The full name of the service.
        service: &'static str,
    },
}

/// A term of this instance, for the services that are added to the leader's.
#[derive(Clone)]
pub struct TermContext {
    term: Term,
    fenced: Fenced,
}

impl TermContext {
    pub(crate) const fn new(term: Term, fenced: Fenced) -> Self {
        Self { term, fenced }
    }

    /// The term. The calls of a term end with it; tasks that outlive a call must check it.
    #[must_use]
    pub const fn term(&self) -> &Term {
        &self.term
    }

    /// The state of this name, fenced by the term. Services that use the same name share it.
    ///
    /// # Errors
    /// The name is empty, too long, or contains a slash or a control character.
    pub fn state(&self, name: &str) -> Result<TermState, InvalidStateName> {
        TermState::new(self.fenced.clone(), name)
    }
}

impl fmt::Debug for TermContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TermContext")
            .field("term", &self.term)
            .finish_non_exhaustive()
    }
}

/// What authorizes the calls of a term.
pub(crate) struct Gate {
    pub(crate) authenticator: Arc<dyn Authenticator>,
    pub(crate) leader: LeaderHandle,
}

/// Adds a service to the routes of a term.
type AddTo = Arc<dyn Fn(&TermContext, &Gate, Routes) -> Result<Routes, LeaderServicesError> + Send + Sync>;

/// The services that are added to the leader's.
///
/// A call is authorized as a call of the Curator's own services is: the annotation of its method in the file descriptor
/// set says who may call it. A service with a method that has none cannot be added, except by
/// [`add_public`](Self::add_public).
///
/// ```
/// # use curator_service::{AddServiceError, LeaderServices};
/// # fn example() -> Result<LeaderServices, AddServiceError> {
/// LeaderServices::new()
///     .describe(curator_echo::FILE_DESCRIPTOR_SET)?
///     .add_authorized(|term| {
///         let revision = term.term().lock_revision().0;
///         Ok(curator_echo::EchoService::new("node-1".to_owned(), revision).into_server())
///     })
/// # }
/// # example().expect("annotated");
/// ```
#[derive(Clone, Default)]
pub struct LeaderServices {
    descriptors: Vec<&'static [u8]>,
    methods: Methods,
    names: Vec<&'static str>,
    services: Vec<AddTo>,
}

impl fmt::Debug for LeaderServices {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LeaderServices")
            .field("names", &self.names)
            .finish_non_exhaustive()
    }
}

impl LeaderServices {
    /// No services.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds descriptors, for authorization, reflection and health: an encoded `google.protobuf.FileDescriptorSet`.
    ///
    /// It must be encoded by the compiler (`protoc`, `protox::Compiler::encode_file_descriptor_set`): a set that was
    /// decoded and encoded again by `prost-types` has lost the annotations.
    ///
    /// # Errors
    /// The bytes are no descriptors, or an annotation requires an unknown permission.
    pub fn describe(mut self, descriptors: &'static [u8]) -> Result<Self, AddServiceError> {
        self.methods.extend(Methods::from_descriptors(descriptors)?);
        self.descriptors.push(descriptors);
        Ok(self)
    }

    /// Adds a service whose calls are authorized by the annotations of its methods. The request's extensions have the
    /// [`Caller`](crate::Caller).
    ///
    /// `make` is called at the beginning of each term, and its result is dropped when the term ends. It must not block.
    /// If it fails, this instance leads without services, and stops leading; it stands for election again after a wait.
    ///
    /// # Errors
    /// The service is not [described](Self::describe), one of its methods has no annotation, or there is a service of
    /// this name already.
    pub fn add_authorized<S>(
        mut self,
        make: impl Fn(&TermContext) -> Result<S, LeaderServicesError> + Send + Sync + 'static,
    ) -> Result<Self, AddServiceError>
    where
        S: Service<Request<Body>, Response = Response<Body>, Error = Infallible, Future: Send + 'static>
            + NamedService
            + Clone
            + Send
            + Sync
            + 'static,
    {
        self.reserve(S::NAME)?;
        let methods = Arc::new(self.methods.of_service(S::NAME));
        let mut paths = methods.paths().peekable();
        if paths.peek().is_none() {
            return Err(AddServiceError::NotDescribed { service: S::NAME });
        }
        if let Some(method) = paths.find(|path| methods.authorization(path).is_err()) {
            return Err(AddServiceError::NoAnnotation {
                method: method.to_owned(),
            });
        }
        drop(paths);
        self.services.push(Arc::new(move |term, gate, routes| {
            let service = Authorized::new(make(term)?, gate.authenticator.clone(), gate.leader.clone());
            Ok(routes.add_service(service.with_methods(methods.clone())))
        }));
        Ok(self)
    }

    /// Adds a service that **anybody who reaches this instance may call**, whatever its annotations say: no call is
    /// authenticated or authorized, and there is no [`Caller`](crate::Caller) in the extensions. Do not add a service
    /// this way that changes something, or that shows what not everybody may know.
    ///
    /// `make` is called as for [`add_authorized`](Self::add_authorized).
    ///
    /// # Errors
    /// There is a service of this name already.
    pub fn add_public<S>(
        mut self,
        make: impl Fn(&TermContext) -> Result<S, LeaderServicesError> + Send + Sync + 'static,
    ) -> Result<Self, AddServiceError>
    where
        S: Service<Request<Body>, Response = Response<Body>, Error = Infallible, Future: Send + 'static>
            + NamedService
            + Clone
            + Send
            + Sync
            + 'static,
    {
        self.reserve(S::NAME)?;
        self.services
            .push(Arc::new(move |term, _, routes| Ok(routes.add_service(make(term)?))));
        Ok(self)
    }

    /// The router panics on a second service of a name.
    fn reserve(&mut self, service: &'static str) -> Result<(), AddServiceError> {
        let is_own = Methods::of_curator().of_service(service).paths().next().is_some();
        if is_own || OF_LISTENER.contains(&service) || self.names.contains(&service) {
            return Err(AddServiceError::Duplicate { service });
        }
        self.names.push(service);
        Ok(())
    }

    pub(crate) fn descriptors(&self) -> &[&'static [u8]] {
        &self.descriptors
    }

    /// Makes the services of a term, and adds them to the routes.
    pub(crate) fn add_to(
        &self,
        routes: Routes,
        term: &TermContext,
        gate: &Gate,
    ) -> Result<Routes, LeaderServicesError> {
        self.services
            .iter()
            .try_fold(routes, |routes, add| add(term, gate, routes))
    }
}
