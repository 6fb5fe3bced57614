//! Validation of labels, domain names, networks and keys, in requests and in stored records. Pure.

mod labels;
mod names;
mod network;
mod selector;

pub(crate) use labels::{MAX_LABELS, label_key, label_value};
pub(crate) use names::cluster_domain;
pub(crate) use network::{Cidr, cidr, cluster_network_prefix, wireguard_key};
pub(crate) use selector::{Selector, id_of_key};

/// A validation error: the field and the reason.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {reason}")]
pub(crate) struct Invalid {
    field: String,
    reason: String,
}

impl Invalid {
    pub(crate) fn new(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self {
            field: field.into(),
            reason: reason.into(),
        }
    }
}

impl From<Invalid> for tonic::Status {
    fn from(invalid: Invalid) -> Self {
        Self::invalid_argument(invalid.to_string())
    }
}

/// A 32-byte value, such as an Ed25519 public key.
pub(crate) fn key32(field: &str, bytes: &[u8]) -> Result<[u8; 32], Invalid> {
    bytes
        .try_into()
        .map_err(|_| Invalid::new(field, format!("must be 32 bytes long, got {}", bytes.len())))
}
