//! How the clients reach the instances: in plaintext, as whomever they say they are, or with a certificate of the
//! cluster each.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use curator_service::{ClientCredentials, TEST_CALLER};
use tonic::Request;
use tonic::metadata::AsciiMetadataValue;
use tonic::transport::{Channel, Endpoint};

use crate::Failure;
use crate::nodes::id;

/// What callers show.
#[derive(Clone)]
pub(crate) enum Access {
    Plain,
    Certified {
        owner: ClientCredentials,
        /// Each a node's: there may be more clients than nodes.
        nodes: Arc<Vec<ClientCredentials>>,
    },
}

impl Access {
    /// The connection of a node's client.
    pub(crate) async fn node(&self, number: usize, address: SocketAddr) -> Result<Channel, Failure> {
        match self {
            Self::Plain => {
                let endpoint = Endpoint::from_shared(format!("http://{address}"))?;
                Ok(endpoint.connect_timeout(Duration::from_secs(10)).connect().await?)
            }
            Self::Certified { nodes, .. } => {
                let node = nodes
                    .get(number % nodes.len().max(1))
                    .ok_or("no node has a certificate")?;
                Ok(node.channel(&address.to_string())?)
            }
        }
    }

    /// The connection of the owner.
    pub(crate) fn owner(&self, address: SocketAddr) -> Result<Channel, Failure> {
        match self {
            Self::Plain => Ok(Endpoint::from_shared(format!("http://{address}"))?.connect_lazy()),
            Self::Certified { owner, .. } => Ok(owner.channel(&address.to_string())?),
        }
    }

    /// A call of a node.
    pub(crate) fn of_node<T>(&self, number: usize, message: T) -> Result<Request<T>, Failure> {
        self.says(&format!("node {}", id(number + 1)), message)
    }

    /// A call of the owner.
    pub(crate) fn of_owner<T>(&self, message: T) -> Result<Request<T>, Failure> {
        self.says("user owner", message)
    }

    fn says<T>(&self, caller: &str, message: T) -> Result<Request<T>, Failure> {
        let mut request = Request::new(message);
        if let Self::Plain = self {
            let caller = AsciiMetadataValue::try_from(caller.to_owned())?;
            request.metadata_mut().insert(TEST_CALLER, caller);
        }
        Ok(request)
    }
}
