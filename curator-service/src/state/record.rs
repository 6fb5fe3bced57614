//! Stored messages: decoded and checked, and encoded again without losing unknown fields.

mod cluster;
mod node;
mod preserve;

use bytes::Bytes;
pub(crate) use cluster::ClusterRecord;
pub(crate) use node::{NodeRecord, NodeRoleKind, SaveError};
use prost::{Message, Name};

/// A stored value that is invalid, with its key. It is reported; other records are not affected.
#[derive(Clone, Debug, thiserror::Error)]
#[error("invalid value at {key}: {reason}")]
pub(crate) struct Corrupt {
    key: String,
    reason: String,
}

impl Corrupt {
    pub(crate) fn new(key: &[u8], reason: impl ToString) -> Self {
        Self {
            key: String::from_utf8_lossy(key).into_owned(),
            reason: reason.to_string(),
        }
    }
}

/// Decodes a stored message.
pub(crate) fn decode<M: Message + Default>(key: &[u8], value: &[u8]) -> Result<M, Corrupt> {
    M::decode(value).map_err(|error| Corrupt::new(key, error))
}

/// Encodes a message that replaces a stored one. The stored message's unknown fields are kept.
pub(crate) fn encode<M: Message + Name + Default>(message: &M, instead_of: Option<&Bytes>) -> Bytes {
    let encoded = message.encode_to_vec();
    match instead_of {
        Some(stored) => preserve::unknown_fields::<M>(stored, encoded).into(),
        None => encoded.into(),
    }
}
