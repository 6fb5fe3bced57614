//! The messages and services of the Curator, and who may call them.
//!
//! Names, numbers and types are those of the original, written in Go: its clients and candidates work with these
//! messages, and records that either has stored are read by the other. Two fields are ours alone, in
//! [`LeaderElectionValue`](private::LeaderElectionValue): where a candidate can be reached, and whom a leader wants to
//! lead after it. So is the package [`admin_api`], for those who run the instances.
//!
//! Fields that are not known here are dropped when a message is decoded. Whoever rewrites a stored record that a newer
//! version may have written has to carry them over by other means.
//!
//! ```
//! use curator_proto::permission::{Authorization, Methods};
//! use curator_proto::private::LeaderElectionValue;
//! use prost::Message;
//!
//! let value = LeaderElectionValue { node_id: "n".into(), ttl: 10, ..Default::default() };
//! assert_eq!(value.encode_to_vec(), [0x0a, 1, b'n', 0x10, 10]);
//!
//! let methods = Methods::of_curator();
//! let path = "/metropolis.node.core.curator.proto.api.CuratorLocal/GetCurrentLeader";
//! assert_eq!(methods.authorization(path).unwrap(), &Authorization::Unauthenticated);
//! ```

#![cfg_attr(docsrs, feature(doc_cfg))]

pub mod permission;

/// Generated code, with the lints that it does not keep.
#[allow(
    missing_docs,
    unreachable_pub,
    rust_2018_idioms,
    clippy::all,
    clippy::use_self,
    clippy::semicolon_if_nothing_returned
)]
mod generated {
    pub mod curator {
        pub mod admin {
            pub mod v1 {
                tonic::include_proto!("curator.admin.v1");
            }
        }
        pub mod storage {
            pub mod v1 {
                tonic::include_proto!("curator.storage.v1");
            }
        }
    }
    pub mod metropolis {
        pub mod node {
            pub mod core {
                pub mod curator {
                    pub mod proto {
                        pub mod api {
                            tonic::include_proto!("metropolis.node.core.curator.proto.api");
                        }
                        pub mod private {
                            tonic::include_proto!("metropolis.node.core.curator.proto.private");
                        }
                    }
                }
            }
        }
        pub mod proto {
            pub mod api {
                tonic::include_proto!("metropolis.proto.api");
            }
            pub mod common {
                tonic::include_proto!("metropolis.proto.common");
            }
            pub mod ext {
                tonic::include_proto!("metropolis.proto.ext");
            }
        }
    }
    pub mod osbase {
        pub mod logtree {
            pub mod proto {
                tonic::include_proto!("osbase.logtree.proto");
            }
        }
    }
    pub mod version {
        pub mod spec {
            tonic::include_proto!("version.spec");
        }
    }
}

/// `curator.admin.v1`: an instance's own status, and its leadership. Not in the original.
pub use generated::curator::admin::v1 as admin_api;
/// `curator.storage.v1`: what is stored beside the records of the original. Not in the original.
pub use generated::curator::storage::v1 as storage;
pub use generated::metropolis::node::core::curator::proto::{api as curator_api, private};
/// `metropolis.proto.api`: the services for those who manage the cluster, and for users.
pub use generated::metropolis::proto::api as management_api;
pub use generated::metropolis::proto::{common, ext};
pub use generated::osbase::logtree::proto as logtree;
pub use generated::version::spec as version;

/// All `.proto` files and what they import, as an encoded `google.protobuf.FileDescriptorSet`: for server reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
