//! The value of the Curator's own election, a protobuf message that the Go original reads as well.

use curator_proto::private::LeaderElectionValue;
use prost::Message;

use crate::process::Process;
use crate::value::{DecodeError, LeaderValue};

impl LeaderValue for LeaderElectionValue {
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
        Message::encode_to_vec(self)
    }

    fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let value = <Self as Message>::decode(bytes).map_err(DecodeError::new)?;
        if value.node_id.is_empty() {
            return Err(DecodeError::new("node_id is empty"));
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
