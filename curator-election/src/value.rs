//! The value of a candidate's key.

#[cfg(feature = "proto")]
mod proto;

use crate::process::Process;

/// The value that a candidate writes to its key, and that every observer of the election reads.
///
/// Any type can implement it. The encoding is up to the component (a protobuf message, plain text, ...).
///
/// ```
/// use curator_election::{DecodeError, LeaderValue};
///
/// #[derive(Clone, Debug, PartialEq)]
/// struct Scheduler {
///     name: String,
/// }
///
/// impl LeaderValue for Scheduler {
///     fn candidate_id(&self) -> &str {
///         &self.name
///     }
///     fn encode(&self) -> Vec<u8> {
///         self.name.clone().into_bytes()
///     }
///     fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
///         let name = String::from_utf8(bytes.to_vec()).map_err(DecodeError::new)?;
///         Ok(Self { name })
///     }
/// }
/// ```
pub trait LeaderValue: Clone + std::fmt::Debug + PartialEq + Send + Sync + 'static {
    /// The id of the candidate. Only one process per candidate should run at a time: at its start a candidate removes
    /// the keys that an earlier process with its id left behind. Of two running processes the younger does not
    /// campaign.
    fn candidate_id(&self) -> &str;

    /// The process of the candidate. The more fields are set, the better a second process with the same id is
    /// distinguished from an earlier process of this candidate.
    fn process(&self) -> Process {
        Process::default()
    }

    /// Encodes the value.
    fn encode(&self) -> Vec<u8>;

    /// Decodes a stored value. Any client of the store may have written it.
    ///
    /// # Errors
    /// If the bytes are not a valid value.
    fn decode(bytes: &[u8]) -> Result<Self, DecodeError>;

    /// The lock key of the transfer target, if a leadership transfer is requested.
    fn transfer_to(&self) -> Option<&str> {
        None
    }

    /// This value with or without a transfer request; `None` if the type does not support transfers.
    #[must_use]
    fn with_transfer_to(&self, key: Option<&str>) -> Option<Self> {
        let _ = key;
        None
    }
}

/// A value that cannot be decoded.
#[derive(Debug, thiserror::Error)]
#[error("the leader's value cannot be read: {source}")]
pub struct DecodeError {
    source: Box<dyn std::error::Error + Send + Sync>,
}

impl DecodeError {
    /// Wraps the cause.
    pub fn new(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self { source: source.into() }
    }
}

/// The candidate's id in plain text, as used by `etcdctl elect`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlainText(pub String);

impl LeaderValue for PlainText {
    fn candidate_id(&self) -> &str {
        &self.0
    }

    fn encode(&self) -> Vec<u8> {
        self.0.clone().into_bytes()
    }

    fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        String::from_utf8(bytes.to_vec()).map(Self).map_err(DecodeError::new)
    }
}
