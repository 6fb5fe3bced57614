//! Reports the instance's own node: heartbeats and the node's address.
//!
//! The instance calls itself as any node would, and its listener forwards the calls to the leader. A status that an
//! agent maintains, which knows more about the node, is not overwritten.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use curator_election::store::{Keys, Range};
use curator_identity::{ClientCredentials, CredentialsWatch, retry_delay};
use curator_proto::common::{NodeStatus, node_status};
use curator_proto::curator_api::curator_client::CuratorClient;
use curator_proto::curator_api::{HeartbeatRequest, UpdateNodeStatusRequest};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;
use tonic::{Request, Status};
use tracing::debug;

use crate::consensus::ConsensusStatus;
use crate::state::keys::NODES;
use crate::state::record::NodeRecord;

/// The interval of heartbeats, as in the Go Curator. A leader considers a node lost after twice that time.
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(5);
/// The timeout of one reply.
const REPLY_TIMEOUT: Duration = Duration::from_secs(10);
/// The interval at which the address is reported.
const ADDRESS_INTERVAL: Duration = Duration::from_secs(60);

/// Why a report failed.
#[derive(Debug)]
struct Failed {
    why: String,
    /// The retry delay that the server requested.
    again: Option<Duration>,
}

impl From<String> for Failed {
    fn from(why: String) -> Self {
        Self { why, again: None }
    }
}

impl From<Status> for Failed {
    fn from(status: Status) -> Self {
        Self {
            again: retry_delay(&status),
            why: status.to_string(),
        }
    }
}

/// Reports one node.
pub(crate) struct Reporter {
    node_id: String,
    credentials: CredentialsWatch,
    consensus: watch::Receiver<ConsensusStatus>,
    /// The listen address of this instance.
    own: SocketAddr,
    /// The advertised address; `None` if it is not an IP address, or if others cannot reach it.
    advertised: Option<(IpAddr, u16)>,
}

impl Reporter {
    pub(crate) fn new(
        node_id: String,
        credentials: CredentialsWatch,
        consensus: watch::Receiver<ConsensusStatus>,
        listen: SocketAddr,
        advertise: &str,
    ) -> Self {
        Self {
            node_id,
            credentials,
            consensus,
            own: dialled(listen),
            advertised: reported(advertise),
        }
    }

    /// Reports until cancelled. Failed reports are retried.
    pub(crate) async fn run(self, cancel: CancellationToken) {
        let reporting = async {
            loop {
                let again = match self.report().await {
                    Ok(()) => None,
                    Err(failed) => {
                        debug!(error = failed.why, "node report failed");
                        failed.again
                    }
                };
                sleep(again.unwrap_or_default().max(HEARTBEAT_INTERVAL)).await;
            }
        };
        cancel.run_until_cancelled(reporting).await;
    }

    /// Reports until an error occurs; a change of leader is one.
    async fn report(&self) -> Result<(), Failed> {
        let newest = self.credentials.newest();
        let own = newest.client(&self.node_id).map_err(|error| error.to_string())?;
        let channel = ClientCredentials::of(own).channel(&self.own.to_string());
        let mut curator = CuratorClient::new(channel.map_err(|error| error.to_string())?);
        let (beats, beating) = mpsc::channel(1);
        let beating = futures::stream::unfold(beating, |mut beating| async move {
            beating.recv().await.map(|beat| (beat, beating))
        });
        let late = || format!("no answer within {REPLY_TIMEOUT:?}");
        let mut answers = None;
        let mut said: Option<Instant> = None;
        let mut beating = Some(beating);
        loop {
            beats.try_send(HeartbeatRequest {}).map_err(|error| error.to_string())?;
            if let Some(beating) = beating.take() {
                let begun = timeout(REPLY_TIMEOUT, curator.heartbeat(Request::new(beating))).await;
                let begun = begun.map_err(|_| late())?;
                answers = Some(begun?.into_inner());
            }
            let Some(answers) = &mut answers else { return Ok(()) };
            let answer = timeout(REPLY_TIMEOUT, answers.message()).await.map_err(|_| late())?;
            if answer?.is_none() {
                return Ok(());
            }
            if said.is_none_or(|said| said.elapsed() >= ADDRESS_INTERVAL) {
                self.report_address(&mut curator).await?;
                said = Some(Instant::now());
            }
            if !std::sync::Arc::ptr_eq(&newest, &self.credentials.newest()) {
                // Reconnect with the new certificate.
                return Ok(());
            }
            sleep(HEARTBEAT_INTERVAL).await;
        }
    }

    async fn report_address(&self, curator: &mut CuratorClient<Channel>) -> Result<(), Failed> {
        let Some((address, port)) = self.advertised else {
            return Ok(());
        };
        if self.has_agent().await? {
            return Ok(());
        }
        let mut request = Request::new(UpdateNodeStatusRequest {
            node_id: self.node_id.clone(),
            status: Some(NodeStatus {
                external_address: address.to_string(),
                running_curator: Some(node_status::RunningCurator { port: port.into() }),
                ..NodeStatus::default()
            }),
        });
        request.set_timeout(REPLY_TIMEOUT);
        curator.update_node_status(request).await?;
        Ok(())
    }

    /// Whether an agent maintains the node's status.
    async fn has_agent(&self) -> Result<bool, String> {
        let store = match &*self.consensus.borrow() {
            ConsensusStatus::Running(store) => store.clone(),
            ConsensusStatus::NotRunning { reason } => return Err(reason.clone()),
        };
        let key = NODES.key(&self.node_id).map_err(|error| error.to_string())?;
        let read = timeout(REPLY_TIMEOUT, store.range(Range::all(Keys::One(key)))).await;
        let read = read.map_err(|_| "the store does not answer")?;
        let read = read.map_err(|error| error.to_string())?;
        let Some(stored) = read.kvs.first() else {
            return Ok(false);
        };
        let node = NodeRecord::decode(&self.node_id, &stored.value).map_err(|corrupt| corrupt.to_string())?;
        let status = node.message().status.as_ref();
        Ok(status.is_some_and(|status| status.version.is_some() || !status.boot_id.is_empty()))
    }
}

/// The listen address to dial from this host.
pub(crate) const fn dialled(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}

/// The advertised address for the status: an IP address that others can reach.
fn reported(advertise: &str) -> Option<(IpAddr, u16)> {
    let address: SocketAddr = advertise.parse().ok()?;
    let ip = address.ip().to_canonical();
    (!ip.is_loopback() && !ip.is_unspecified()).then_some((ip, address.port()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_others_can_reach_is_reported() {
        for nothing in [
            "127.0.0.1:7835",
            "[::1]:7835",
            "[::]:7835",
            "curator.example:7835",
            "",
            "[::ffff:127.0.0.1]:1",
        ] {
            assert_eq!(reported(nothing), None, "{nothing}");
        }
        assert_eq!(reported("10.0.0.1:7835"), Some(([10, 0, 0, 1].into(), 7835)));
        assert_eq!(reported("[fd00::2]:1"), Some(("fd00::2".parse().unwrap(), 1)));
        assert_eq!(dialled("[::]:7".parse().unwrap()).to_string(), "[::1]:7");
        assert_eq!(dialled("10.0.0.1:7".parse().unwrap()).to_string(), "10.0.0.1:7");
    }
}
