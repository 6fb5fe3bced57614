//! One instance, and the leader that it reports.

use curator_identity::with_retries;
use curator_proto::curator_api::curator_local_client::CuratorLocalClient;
use curator_proto::curator_api::{GetCurrentLeaderRequest, GetCurrentLeaderResponse};
use tokio::time::{Instant, timeout_at};
use tonic::transport::Channel;
use tonic::{Status, Streaming};

use crate::error::CallError;

/// The leader, as an instance reports it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LeaderInfo {
    /// The node id of the leader.
    pub node_id: String,
    /// The address of the leader as `host:port`, if it is known.
    pub address: Option<String>,
    /// The node id of the instance that reports it.
    pub reported_by: String,
}

impl From<GetCurrentLeaderResponse> for LeaderInfo {
    fn from(response: GetCurrentLeaderResponse) -> Self {
        let (host, port) = (&response.leader_host, response.leader_port);
        let address = if host.is_empty() {
            None
        } else if host.contains(':') {
            Some(format!("[{host}]:{port}"))
        } else {
            Some(format!("{host}:{port}"))
        };
        Self {
            node_id: response.leader_node_id,
            address,
            reported_by: response.this_node_id,
        }
    }
}

/// An instance that responds.
#[derive(Clone, Debug)]
pub struct Instance {
    address: String,
    channel: Channel,
    leader: Option<LeaderInfo>,
}

impl Instance {
    /// An instance at an address.
    pub const fn new(address: String, channel: Channel, leader: Option<LeaderInfo>) -> Self {
        Self {
            address,
            channel,
            leader,
        }
    }

    /// The address, as `host:port`.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The channel. It reconnects as needed.
    #[must_use]
    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// The leader that it reported when it was found, if it knew one.
    #[must_use]
    pub const fn leader(&self) -> Option<&LeaderInfo> {
        self.leader.as_ref()
    }

    /// Makes a call to this instance until `deadline`. A call that is refused with a retry delay has not run, and is
    /// retried after that delay; no other instance is tried. Cancellation safe if the call is.
    ///
    /// # Errors
    /// If the call fails, or the deadline passes: then the call may have taken effect.
    pub async fn call<T>(
        &self,
        deadline: Instant,
        call: impl AsyncFnMut() -> Result<T, Status>,
    ) -> Result<T, CallError> {
        let late = || Err(Status::deadline_exceeded("timed out"));
        let answer = timeout_at(deadline, with_retries(deadline, call)).await;
        answer.unwrap_or_else(|_| late()).map_err(|status| CallError::Failed {
            address: self.address.clone(),
            status,
        })
    }
}

/// The open stream on which an instance reports changes of the leader.
pub(crate) type Reports = Streaming<GetCurrentLeaderResponse>;

/// The leader that an instance reports, and its further reports.
pub(crate) async fn ask_leader(channel: Channel) -> Result<(LeaderInfo, Reports), Status> {
    let mut local = CuratorLocalClient::new(channel);
    let mut reports = local.get_current_leader(GetCurrentLeaderRequest {}).await?.into_inner();
    let first = reports.message().await?;
    let first = first.ok_or_else(|| Status::unavailable("the instance reported no leader"))?;
    Ok((first.into(), reports))
}

/// The leader that an instance reports now.
///
/// # Errors
/// If the instance does not respond, or knows no leader (`UNAVAILABLE`).
pub async fn reported_leader(channel: Channel) -> Result<LeaderInfo, Status> {
    Ok(ask_leader(channel).await?.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_leaders_address_can_be_dialled() {
        let leader = |host: &str| {
            LeaderInfo::from(GetCurrentLeaderResponse {
                leader_host: host.into(),
                leader_port: 7835,
                ..Default::default()
            })
        };
        assert_eq!(leader("10.0.0.1").address.as_deref(), Some("10.0.0.1:7835"));
        assert_eq!(leader("::1").address.as_deref(), Some("[::1]:7835"));
        assert_eq!(leader("").address, None);
    }
}
