//! Probes whether an instance answers at its address.

use async_trait::async_trait;
use curator_identity::{ClientCredentials, CredentialsWatch};
use curator_proto::curator_api::GetCurrentLeaderRequest;
use curator_proto::curator_api::curator_local_client::CuratorLocalClient;
use tonic::transport::{Channel, Endpoint};

/// Probes whether instances are reachable.
#[async_trait]
pub(crate) trait Probe: Send + Sync + 'static {
    /// Whether the instance of this node answers at this address. Cancellation safe.
    async fn reaches(&self, node_id: &str, address: &str) -> bool;
}

/// Probes with a new connection each time: an open connection may work where no new one can be made.
pub(crate) struct Dial {
    credentials: Option<CredentialsWatch>,
}

impl Dial {
    /// With the credentials of this node, if it has any.
    pub(crate) const fn new(credentials: Option<CredentialsWatch>) -> Self {
        Self { credentials }
    }

    fn channel(&self, node_id: &str, address: &str) -> Option<Channel> {
        match &self.credentials {
            Some(credentials) => {
                let only = credentials.newest().client(node_id).ok()?;
                ClientCredentials::of(only).channel(address).ok()
            }
            None => Some(Endpoint::from_shared(format!("http://{address}")).ok()?.connect_lazy()),
        }
    }
}

#[async_trait]
impl Probe for Dial {
    async fn reaches(&self, node_id: &str, address: &str) -> bool {
        let Some(channel) = self.channel(node_id, address) else {
            return false;
        };
        let mut local = CuratorLocalClient::new(channel);
        let Ok(answers) = local.get_current_leader(GetCurrentLeaderRequest {}).await else {
            return false;
        };
        let first = answers.into_inner().message().await;
        matches!(first, Ok(Some(answer)) if answer.this_node_id == node_id)
    }
}
