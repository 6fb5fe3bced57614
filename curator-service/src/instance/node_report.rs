//! What an instance reports of its own node: that it lives, and where it is.
//!
//! It calls itself, as any node would, and its own listener passes that on to whoever leads. A status that somebody else keeps, who says
//! more of the node than an instance knows, is left alone.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use curator_election::store::{Keys, Range};
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
use curator_identity::ClientCredentials;
use curator_identity::CredentialsWatch;
use curator_identity::retry_delay;

/// Between two heartbeats: what nodes of the original have. A leader takes twice of it for an end.
const BEAT: Duration = Duration::from_secs(5);
/// How long one answer may take.
const ANSWER: Duration = Duration::from_secs(10);
/// How often the address is said again.
const AGAIN: Duration = Duration::from_secs(60);

/// Why a report has ended.
#[derive(Debug)]
struct Failed {
    why: String,
    /// When to come again, if that was said.
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

/// What reports of one node.
pub(crate) struct Reporter {
    node_id: String,
    credentials: CredentialsWatch,
    consensus: watch::Receiver<ConsensusStatus>,
    /// Where this instance listens itself.
    own: SocketAddr,
    /// Where others reach it; `None` if that is nothing that a status can say, or means nothing to others.
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

    /// Reports until cancelled. What is not answered is tried again.
    pub(crate) async fn run(self, cancel: CancellationToken) {
        let reporting = async {
            loop {
                let again = match self.report().await {
                    Ok(()) => None,
                    Err(failed) => {
                        debug!(error = failed.why, "this node could not be reported");
                        failed.again
                    }
                };
                sleep(again.unwrap_or_default().max(BEAT)).await;
            }
        };
        cancel.run_until_cancelled(reporting).await;
    }

    /// Reports until something goes wrong: a change of leader ends it as well.
    async fn report(&self) -> Result<(), Failed> {
        let newest = self.credentials.newest();
        let own = newest.client(&self.node_id).map_err(|error| error.to_string())?;
        let channel = ClientCredentials::of(own).channel(&self.own.to_string());
        let mut curator = CuratorClient::new(channel.map_err(|error| error.to_string())?);
        let (beats, beating) = mpsc::channel(1);
        let beating = futures::stream::unfold(beating, |mut beating| async move {
            beating.recv().await.map(|beat| (beat, beating))
        });
        let late = || format!("no answer within {ANSWER:?}");
        let mut answers = None;
        let mut said: Option<Instant> = None;
        let mut beating = Some(beating);
        loop {
            beats.try_send(HeartbeatRequest {}).map_err(|error| error.to_string())?;
            if let Some(beating) = beating.take() {
                let begun = timeout(ANSWER, curator.heartbeat(Request::new(beating))).await;
                let begun = begun.map_err(|_| late())?;
                answers = Some(begun?.into_inner());
            }
            let Some(answers) = &mut answers else { return Ok(()) };
            let answer = timeout(ANSWER, answers.message()).await.map_err(|_| late())?;
            if answer?.is_none() {
                return Ok(());
            }
            if said.is_none_or(|said| said.elapsed() >= AGAIN) {
                self.say_where(&mut curator).await?;
                said = Some(Instant::now());
            }
            if !std::sync::Arc::ptr_eq(&newest, &self.credentials.newest()) {
                // With a certificate that has taken its place.
                return Ok(());
            }
            sleep(BEAT).await;
        }
    }

    async fn say_where(&self, curator: &mut CuratorClient<Channel>) -> Result<(), Failed> {
        let Some((address, port)) = self.advertised else {
            return Ok(());
        };
        if self.is_said_by_another().await? {
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
        request.set_timeout(ANSWER);
        curator.update_node_status(request).await?;
        Ok(())
    }

    /// Whether the node's status is that of somebody who knows more of it, as an agent on the node does.
    async fn is_said_by_another(&self) -> Result<bool, String> {
        let store = match &*self.consensus.borrow() {
            ConsensusStatus::Running(store) => store.clone(),
            ConsensusStatus::NotRunning { reason } => return Err(reason.clone()),
        };
        let key = NODES.key(&self.node_id).map_err(|error| error.to_string())?;
        let read = timeout(ANSWER, store.range(Range::all(Keys::One(key)))).await;
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

/// An address of this host that is listened on.
pub(crate) const fn dialled(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}

/// The part of an advertised address that a status has: an IP address, and one that others can reach.
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
