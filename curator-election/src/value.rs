//! What a leader says of itself in the election.

use crate::process::Process;

/// The value that a candidate puts under its key, and that everybody who observes the election reads.
///
/// Any type can be elected with; the encoding is the component's own (a protobuf message, plain text, ...).
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
    /// Who this is. Two values with the same id are of the same candidate, of which only one process should run at a time:
    /// at its start a candidate removes the keys that an earlier process with its id left behind. Of two that run, the younger one
    /// does not stand for election.
    fn candidate_id(&self) -> &str;

    /// Which process of the candidate says this. The more of it is said, the better a second process with the same id is told from
    /// an earlier one of this candidate.
    fn process(&self) -> Process {
        Process::default()
    }

    /// The bytes that are stored.
    fn encode(&self) -> Vec<u8>;

    /// Reads stored bytes.
    ///
    /// # Errors
    /// The bytes, which any client of the store may have written, are not such a value.
    fn decode(bytes: &[u8]) -> Result<Self, DecodeError>;

    /// The lock key of the candidate that is to lead next, if this is the value of a leader that wants one to.
    fn transfer_to(&self) -> Option<&str> {
        None
    }

    /// This value with such a wish, or without; `None` if values of this type cannot say it.
    #[must_use]
    fn with_transfer_to(&self, key: Option<&str>) -> Option<Self> {
        let _ = key;
        None
    }
}

/// A leader's value that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("the leader's value cannot be read: {source}")]
pub struct DecodeError {
    source: Box<dyn std::error::Error + Send + Sync>,
}

impl DecodeError {
    /// Wraps the reason.
    pub fn new(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self { source: source.into() }
    }
}

/// A value that is nothing but the candidate's id in plain text, as `etcdctl elect` and many others use it.
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

impl LeaderValue for curator_proto::private::LeaderElectionValue {
    fn candidate_id(&self) -> &str {
        &self.node_id
    }

    fn process(&self) -> Process {
        Process {
            number: self.process.clone(),
            address: self.advertised_addresses.first().cloned().unwrap_or_default(),
            boot: self.boot.clone(),
        }
    }

    fn encode(&self) -> Vec<u8> {
        prost::Message::encode_to_vec(self)
    }

    fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let value = <Self as prost::Message>::decode(bytes).map_err(DecodeError::new)?;
        if value.node_id.is_empty() {
            return Err(DecodeError::new("it names no node"));
        }
        Ok(value)
    }

    fn transfer_to(&self) -> Option<&str> {
        Some(self.transfer_to_key.as_str()).filter(|key| !key.is_empty())
    }

    fn with_transfer_to(&self, key: Option<&str>) -> Option<Self> {
        let transfer_to_key = key.unwrap_or_default().to_owned();
        Some(Self {
            transfer_to_key,
            ..self.clone()
        })
    }
}
