//! What is served: by every instance, and by the leader.

use std::collections::{BTreeSet, HashSet};
use std::convert::Infallible;
use std::sync::Arc;

use http::Request;
use prost::Message;
use prost_types::FileDescriptorSet;
use tonic::body::Body;
use tonic::server::NamedService;
use tonic::service::Routes;

use crate::call::Kind;
use crate::role::{SharedGuard, TermId};

/// A term of this instance, for the services that it is the leader with.
#[derive(Clone, Debug)]
pub struct LeaderTerm {
    /// Which one.
    pub term: TermId,
    /// Whether it is still valid. The listener drops calls when it is not; what outlives a call must ask by itself.
    pub guard: SharedGuard,
}

type Factory = Box<dyn Fn(&LeaderTerm) -> Routes + Send + Sync>;

/// The services of an instance.
pub struct Services {
    local: Routes,
    local_names: Vec<&'static str>,
    leader: Factory,
    descriptors: Vec<&'static [u8]>,
    set: FileDescriptorSet,
}

/// Descriptors that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("the descriptors are no encoded FileDescriptorSet: {0}")]
pub struct DescriptorError(#[from] prost::DecodeError);

impl Services {
    /// With what the leader serves. `leader` is called once a term, when it begins; what it returns is dropped when the term
    /// ends. It must not block.
    pub fn new(leader: impl Fn(&LeaderTerm) -> Routes + Send + Sync + 'static) -> Self {
        Self {
            local: Routes::default(),
            local_names: Vec::new(),
            leader: Box::new(leader),
            descriptors: Vec::new(),
            set: FileDescriptorSet::default(),
        }
    }

    /// Adds a service that every instance answers by itself, in every role.
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
        self.local_names.push(S::NAME);
        self.local = self.local.add_service(service);
        self
    }

    /// Describes services by an encoded `google.protobuf.FileDescriptorSet`, as `prost-build` and `protox` write it. What is
    /// described can be looked up by server reflection and asked for by the health service, and its unary calls are kept apart
    /// from streams on the way to the leader.
    ///
    /// # Errors
    /// The bytes are none.
    pub fn describe(mut self, descriptors: &'static [u8]) -> Result<Self, DescriptorError> {
        self.set.file.extend(FileDescriptorSet::decode(descriptors)?.file);
        self.descriptors.push(descriptors);
        Ok(self)
    }

    pub(crate) fn leader_routes(&self, term: &LeaderTerm) -> Routes {
        (self.leader)(term).prepare()
    }

    pub(crate) fn descriptors(&self) -> &[&'static [u8]] {
        &self.descriptors
    }

    /// The names of the services that every instance answers.
    pub(crate) fn local_names(&self) -> &[&'static str] {
        &self.local_names
    }

    /// The names of all services that are known.
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

    /// The local services apart from the rest.
    pub(crate) fn split(self) -> (Local, Arc<Self>) {
        let local = Local {
            routes: self.local.clone().prepare(),
            names: self.local_names.clone(),
        };
        (local, Arc::new(self))
    }

    /// Which calls are known to be unary.
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

/// The services that every instance answers by itself.
#[derive(Clone)]
pub(crate) struct Local {
    routes: Routes,
    names: Vec<&'static str>,
}

impl Local {
    /// The routes, if the path is that of a local service.
    pub(crate) fn routes(&self, path: &str) -> Option<&Routes> {
        let (service, _) = path.strip_prefix('/')?.rsplit_once('/')?;
        // A handful: looking at each is faster than a hash.
        self.names.contains(&service).then_some(&self.routes)
    }
}

/// The paths of the calls that are unary.
pub(crate) struct MethodKinds(HashSet<String>);

impl MethodKinds {
    /// The kind of the call at this path; what is not known may be a stream.
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
        assert!(local.routes("/grpc.health.v1.Health/Check").is_some());
        assert!(local.routes("/grpc.health.v1.Health").is_none());
        assert!(local.routes("/curator.echo.v1.Echo/Say").is_none());
        let names: Vec<_> = services.names().into_iter().collect();
        assert_eq!(names, ["curator.echo.v1.Echo", "grpc.health.v1.Health"]);
    }

    #[test]
    fn descriptors_that_are_none_are_refused() {
        assert!(Services::new(|_| Routes::default()).describe(b"\xff\xff").is_err());
    }
}
