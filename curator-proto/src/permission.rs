//! Who may call which method, as the annotations in the `.proto` files say.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use prost::Message;

use crate::ext::Permission;

/// Who may call a method.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Authorization {
    /// Anybody. Callers are not identified, whatever certificate they show.
    Unauthenticated,
    /// A node or user of the cluster that has all of these permissions, which may be none.
    Authenticated {
        /// The permissions.
        need: Vec<Permission>,
    },
}

/// Why nobody may call a method.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unauthorized {
    /// There is no such method.
    #[error("there is no such method")]
    UnknownMethod,
    /// The method has no annotation, so that it must not be served.
    #[error("the method does not say who may call it")]
    NoAnnotation,
}

/// Why descriptors cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DescriptorError {
    /// They cannot be decoded.
    #[error("the descriptors cannot be decoded: {0}")]
    Decode(#[from] prost::DecodeError),
    /// An annotation names a permission that is not known.
    #[error("{method} needs a permission with the unknown number {number}")]
    UnknownPermission {
        /// The path of the method.
        method: String,
        /// The number.
        number: i32,
    },
}

/// The methods of some services, by path.
#[derive(Clone, Debug, Default)]
pub struct Methods {
    by_path: BTreeMap<String, Option<Authorization>>,
    /// Those whose answers are streams.
    streams: BTreeSet<String>,
}

impl Methods {
    /// The methods in [`FILE_DESCRIPTOR_SET`](crate::FILE_DESCRIPTOR_SET).
    #[must_use]
    pub fn of_curator() -> &'static Self {
        static METHODS: LazyLock<Methods> = LazyLock::new(|| {
            Methods::from_descriptors(crate::FILE_DESCRIPTOR_SET).expect("our own descriptors, as a test shows")
        });
        &METHODS
    }

    /// The methods in an encoded `google.protobuf.FileDescriptorSet`.
    ///
    /// # Errors
    /// The bytes are none, or an annotation asks for what is not known.
    pub fn from_descriptors(descriptors: &[u8]) -> Result<Self, DescriptorError> {
        let (mut by_path, mut streams) = (BTreeMap::new(), BTreeSet::new());
        for file in wire::FileSet::decode(descriptors)?.file {
            for service in file.service {
                for method in service.method {
                    let path = match file.package.as_str() {
                        "" => format!("/{}/{}", service.name, method.name),
                        package => format!("/{package}.{}/{}", service.name, method.name),
                    };
                    if method.server_streaming {
                        streams.insert(path.clone());
                    }
                    let annotation = method.options.and_then(|options| options.authorization);
                    let authorization = annotation
                        .map(|annotation| authorization(&path, &annotation))
                        .transpose()?;
                    by_path.insert(path, authorization);
                }
            }
        }
        Ok(Self { by_path, streams })
    }

    /// Adds the methods of other descriptors. They replace methods of the same paths.
    pub fn extend(&mut self, other: Self) {
        for path in other.by_path.keys() {
            self.streams.remove(path);
        }
        self.by_path.extend(other.by_path);
        self.streams.extend(other.streams);
    }

    /// The methods of one service, which is named `<package>.<service>`.
    #[must_use]
    pub fn of_service(&self, service: &str) -> Self {
        let is_of = |path: &str| {
            path.strip_prefix('/')
                .and_then(|path| path.rsplit_once('/'))
                .is_some_and(|(name, _)| name == service)
        };
        let by_path = self.by_path.iter().filter(|(path, _)| is_of(path));
        Self {
            by_path: by_path.map(|(path, may)| (path.clone(), may.clone())).collect(),
            streams: self.streams.iter().filter(|path| is_of(path)).cloned().collect(),
        }
    }

    /// Who may call the method at `path`, which is `/<package>.<service>/<method>`.
    ///
    /// # Errors
    /// Nobody may: the method does not exist, or does not say.
    pub fn authorization(&self, path: &str) -> Result<&Authorization, Unauthorized> {
        match self.by_path.get(path) {
            Some(Some(authorization)) => Ok(authorization),
            Some(None) => Err(Unauthorized::NoAnnotation),
            None => Err(Unauthorized::UnknownMethod),
        }
    }

    /// Whether the method at `path` answers with a stream.
    #[must_use]
    pub fn answers_with_a_stream(&self, path: &str) -> bool {
        self.streams.contains(path)
    }

    /// The paths of all methods, in order.
    pub fn paths(&self) -> impl Iterator<Item = &str> {
        self.by_path.keys().map(String::as_str)
    }
}

fn authorization(path: &str, annotation: &wire::Authorization) -> Result<Authorization, DescriptorError> {
    let need = annotation.need.iter().map(|number| {
        Permission::try_from(*number).map_err(|_| DescriptorError::UnknownPermission {
            method: path.to_owned(),
            number: *number,
        })
    });
    let need = need.collect::<Result<Vec<_>, _>>()?;
    // "Anybody" counts only if no permission is needed.
    if need.is_empty() && annotation.allow_unauthenticated {
        Ok(Authorization::Unauthenticated)
    } else {
        Ok(Authorization::Authenticated { need })
    }
}

/// As much of `google/protobuf/descriptor.proto` as is needed here. The complete messages of `prost-types` know nothing
/// of our extension of the method options.
mod wire {
    use prost::Message;

    #[derive(Clone, PartialEq, Message)]
    pub(super) struct FileSet {
        #[prost(message, repeated, tag = "1")]
        pub(super) file: Vec<File>,
    }

    #[derive(Clone, PartialEq, Message)]
    pub(super) struct File {
        #[prost(string, tag = "2")]
        pub(super) package: String,
        #[prost(message, repeated, tag = "6")]
        pub(super) service: Vec<Service>,
    }

    #[derive(Clone, PartialEq, Message)]
    pub(super) struct Service {
        #[prost(string, tag = "1")]
        pub(super) name: String,
        #[prost(message, repeated, tag = "2")]
        pub(super) method: Vec<Method>,
    }

    #[derive(Clone, PartialEq, Message)]
    pub(super) struct Method {
        #[prost(string, tag = "1")]
        pub(super) name: String,
        #[prost(message, optional, tag = "4")]
        pub(super) options: Option<Options>,
        #[prost(bool, tag = "6")]
        pub(super) server_streaming: bool,
    }

    #[derive(Clone, PartialEq, Message)]
    pub(super) struct Options {
        #[prost(message, optional, tag = "1000")]
        pub(super) authorization: Option<Authorization>,
    }

    /// Decoded by number, so that an unknown permission is found rather than dropped.
    #[derive(Clone, PartialEq, Message)]
    pub(super) struct Authorization {
        #[prost(int32, repeated, tag = "1")]
        pub(super) need: Vec<i32>,
        #[prost(bool, tag = "2")]
        pub(super) allow_unauthenticated: bool,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn methods(options: Option<wire::Options>) -> Result<Methods, DescriptorError> {
        let method = wire::Method {
            name: "M".into(),
            options,
            server_streaming: false,
        };
        let service = wire::Service {
            name: "S".into(),
            method: vec![method],
        };
        let file = wire::File {
            package: "p".into(),
            service: vec![service],
        };
        Methods::from_descriptors(&wire::FileSet { file: vec![file] }.encode_to_vec())
    }

    fn annotated(need: Vec<i32>, allow_unauthenticated: bool) -> Result<Authorization, DescriptorError> {
        let authorization = Some(wire::Authorization {
            need,
            allow_unauthenticated,
        });
        methods(Some(wire::Options { authorization })).map(|methods| methods.authorization("/p.S/M").unwrap().clone())
    }

    #[test]
    fn a_method_without_annotation_is_nobodys() {
        for options in [None, Some(wire::Options { authorization: None })] {
            assert_eq!(
                methods(options).unwrap().authorization("/p.S/M"),
                Err(Unauthorized::NoAnnotation)
            );
        }
    }

    #[test]
    fn an_empty_annotation_asks_for_anybody_of_the_cluster() {
        assert_eq!(
            annotated(vec![], false).unwrap(),
            Authorization::Authenticated { need: vec![] }
        );
        assert_eq!(annotated(vec![], true).unwrap(), Authorization::Unauthenticated);
    }

    #[test]
    fn a_needed_permission_outweighs_allowing_anybody() {
        let need = vec![Permission::ReadClusterStatus];
        assert_eq!(annotated(vec![2], true).unwrap(), Authorization::Authenticated { need });
    }

    #[test]
    fn an_unknown_permission_is_no_permission() {
        assert!(matches!(
            annotated(vec![999], false),
            Err(DescriptorError::UnknownPermission { number: 999, .. })
        ));
    }

    #[test]
    fn streams_are_told_from_single_answers() {
        let methods = Methods::of_curator();
        let curator = "/metropolis.node.core.curator.proto.api.Curator";
        for (method, streams) in [
            ("Watch", true),
            ("Heartbeat", true),
            ("RegisterNode", false),
            ("", false),
        ] {
            assert_eq!(
                methods.answers_with_a_stream(&format!("{curator}/{method}")),
                streams,
                "{method}"
            );
        }
    }

    #[test]
    fn methods_of_one_service_are_picked_by_its_full_name() {
        let all = Methods::of_curator();
        let management = all.of_service("metropolis.proto.api.Management");
        assert!(
            management
                .authorization("/metropolis.proto.api.Management/GetNodes")
                .is_ok()
        );
        assert!(management.answers_with_a_stream("/metropolis.proto.api.Management/GetNodes"));
        assert!(
            management
                .paths()
                .all(|path| path.starts_with("/metropolis.proto.api.Management/"))
        );
        assert_eq!(all.of_service("Management").paths().next(), None);
        let mut both = management;
        both.extend(methods(None).unwrap());
        assert_eq!(both.authorization("/p.S/M"), Err(Unauthorized::NoAnnotation));
        assert!(both.authorization("/metropolis.proto.api.Management/GetNodes").is_ok());
    }

    #[test]
    fn unknown_methods_and_odd_paths_are_refused() {
        let methods = Methods::of_curator();
        for path in [
            "",
            "/",
            "Watch",
            "/metropolis.proto.api.Management/",
            "/metropolis.proto.api.Management/getNodes",
        ] {
            assert_eq!(methods.authorization(path), Err(Unauthorized::UnknownMethod), "{path}");
        }
    }
}
