//! Whether this instance may stand for election: its node must be up and a member of the consensus.
//!
//! An instance with a node's certificate reads the node's record every second, as leader or not. An instance that may
//! not lead does not stand for election and follows the leader; a leader that may no longer lead hands over. A read
//! error changes nothing.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use curator_election::store::{Op, OpResult, Store, Txn};
use curator_election::{ElectionBackend, ElectionStatus, LeaderInfo, LeaderValue, Reason};
use curator_listener::LeaderServicesError;
use curator_proto::common::NodeState;
use curator_proto::private::LeaderElectionValue;
use futures::StreamExt;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::consensus::{ConsensusStatus, Membership, running};
use crate::state::keys::NODES;
use crate::state::pki_layout::Layout;
use crate::state::record::NodeRecord;
use crate::status::LeaderStatus;
use crate::telemetry;

/// The interval of checks.
const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// The timeout of a check.
const STORE_TIMEOUT: Duration = Duration::from_secs(3);

/// Why a node's instance may not lead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Bar {
    /// The node does not exist (any more).
    NoNode,
    /// The node is not up.
    NotUp(NodeState),
    /// The cluster in the store has another certificate authority than the node's certificate.
    OtherCluster,
    /// The node has neither the role nor a member of the consensus.
    NoMember,
    /// The leader's services could not be made in the last term of this instance.
    ServicesFailed(String),
}

impl fmt::Display for Bar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let why = match self {
            Self::NoNode => "it is not a node of this cluster",
            Self::OtherCluster => {
                "the cluster in the store and its credentials have different certificate authorities: they belong to \
                 different clusters"
            }
            Self::NotUp(NodeState::New) => "it is not approved yet",
            Self::NotUp(NodeState::Decommissioned) => "it is decommissioned",
            Self::NotUp(_) => "it has not committed yet",
            Self::NoMember => "it is not a member of the consensus and does not have the role consensus-member",
            Self::ServicesFailed(reason) => {
                return write!(
                    f,
                    "this instance does not stand for election for a while: its leader services failed to start: {reason}"
                );
            }
        };
        write!(f, "this instance's node may not lead: {why}")
    }
}

/// The result of the check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// No check has succeeded yet.
    Unknown,
    /// The instance may lead.
    May,
    /// The instance may not lead.
    MayNot(Bar),
}

/// The node, and the sources of the check.
#[derive(Clone)]
pub(crate) struct Candidacy {
    pub(crate) node_id: String,
    /// The certificate of the authority of the node's credentials, DER.
    pub(crate) authority: Vec<u8>,
    pub(crate) membership: Arc<dyn Membership>,
}

impl Candidacy {
    /// Checks again and again and publishes the verdict, until cancelled.
    pub(crate) async fn run(
        self,
        mut consensus: watch::Receiver<ConsensusStatus>,
        verdict: watch::Sender<Verdict>,
        cancel: CancellationToken,
    ) {
        loop {
            let look = async {
                let Some(store) = running(&mut consensus).await else {
                    // The consensus is gone, and the instance will end.
                    return std::future::pending().await;
                };
                match timeout(STORE_TIMEOUT, self.judge(&*store)).await {
                    Ok(Ok(found)) => publish(&verdict, &found),
                    Ok(Err(error)) => debug!(error, "candidacy check failed"),
                    Err(_) => debug!("candidacy check timed out"),
                }
                sleep(POLL_INTERVAL).await;
            };
            if cancel.run_until_cancelled(look).await.is_none() {
                return;
            }
        }
    }

    /// Checks once.
    async fn judge(&self, store: &dyn Store) -> Result<Verdict, String> {
        let key = NODES.key(&self.node_id).map_err(|error| error.to_string())?;
        let ops = vec![Op::get(Layout::CLUSTER.certificate()), Op::get(key)];
        let read = store.txn(Txn::default().then(ops)).await;
        let read = read.map_err(|error| error.to_string())?;
        let mut found = read.results.into_iter().map(|result| match result {
            OpResult::Range { kvs, .. } => kvs.into_iter().next(),
            OpResult::Put | OpResult::Deleted(_) | OpResult::Txn { .. } => None,
        });
        let authority = found.next().flatten();
        if authority.is_some_and(|authority| authority.value != self.authority) {
            return Ok(Verdict::MayNot(Bar::OtherCluster));
        }
        let Some(stored) = found.next().flatten() else {
            return Ok(Verdict::MayNot(Bar::NoNode));
        };
        let node = NodeRecord::decode(&self.node_id, &stored.value).map_err(|corrupt| corrupt.to_string())?;
        if node.state() != NodeState::Up {
            return Ok(Verdict::MayNot(Bar::NotUp(node.state())));
        }
        if node.roles().consensus_member.is_some() {
            return Ok(Verdict::May);
        }
        // The leader derives the role from the member. Until then the membership counts, or no instance could ever
        // lead.
        let members = self.membership.members().await.map_err(|error| error.to_string())?;
        let votes = members
            .iter()
            .any(|member| !member.learner && member.name == self.node_id);
        Ok(if votes {
            Verdict::May
        } else {
            Verdict::MayNot(Bar::NoMember)
        })
    }
}

fn publish(verdict: &watch::Sender<Verdict>, found: &Verdict) {
    let changed = verdict.send_if_modified(|known| {
        let changed = known != found;
        known.clone_from(found);
        changed
    });
    metrics::gauge!(telemetry::MAY_LEAD).set(if *found == Verdict::May { 1.0 } else { 0.0 });
    match found {
        Verdict::MayNot(bar) if changed => warn!("{bar}; it does not stand for election"),
        Verdict::May if changed => info!("this instance's node may lead"),
        _ => {}
    }
}

/// Completes once the instance may not lead.
pub(crate) async fn barred(verdict: Option<&mut watch::Receiver<Verdict>>) {
    let Some(verdict) = verdict else {
        return std::future::pending().await;
    };
    // An unknown verdict does not end a candidacy.
    wait_for(verdict, |known| matches!(known, Verdict::MayNot(_))).await;
}

/// Completes once the verdict matches.
async fn wait_for(verdict: &mut watch::Receiver<Verdict>, such: impl FnMut(&Verdict) -> bool) {
    let has_sender = verdict.wait_for(such).await.is_ok();
    // The sender lives as long as the instance.
    if !has_sender {
        std::future::pending::<()>().await;
    }
}

/// Follows the leader without standing for election for this time, since the leader's services could not be made.
pub(crate) async fn follow_for(
    wait: Duration,
    why: &LeaderServicesError,
    backend: &dyn ElectionBackend,
    own_id: &str,
    ttl: Duration,
    status: &watch::Sender<LeaderStatus>,
) {
    let bar = Bar::ServicesFailed(why.reason().to_owned());
    let (_verdicts, mut verdict) = watch::channel(Verdict::MayNot(bar));
    // It does not end by itself, because the verdict does not change.
    let _ = timeout(wait, follow(backend, own_id, ttl, status, &mut verdict)).await;
}

/// Follows the leader without standing for election, until the instance may lead. Observations older than `ttl` are
/// discarded.
pub(crate) async fn follow(
    backend: &dyn ElectionBackend,
    own_id: &str,
    ttl: Duration,
    status: &watch::Sender<LeaderStatus>,
    verdict: &mut watch::Receiver<Verdict>,
) {
    let reason = verdict.clone();
    let no_leader = || {
        LeaderStatus::Undetermined(match &*reason.borrow() {
            Verdict::MayNot(bar) => Reason::Barred(bar.to_string()),
            Verdict::Unknown | Verdict::May => Reason::Starting,
        })
    };
    let following = async {
        loop {
            let mut observations = backend.observe();
            loop {
                let observed = match timeout(ttl, observations.next()).await {
                    Ok(Some(observation)) => match observation.leader.map(|leader| (decoded(&leader.value), leader)) {
                        Some((Some(value), leader)) if value.candidate_id() != own_id => {
                            ElectionStatus::Follower(LeaderInfo {
                                leader: value,
                                key: leader.key,
                                revision: leader.create_revision,
                            })
                        }
                        _ => no_leader(),
                    },
                    Ok(None) => break,
                    Err(_) => ElectionStatus::Undetermined(Reason::ObservationStale),
                };
                status.send_if_modified(|known| {
                    let changed = *known != observed;
                    *known = observed;
                    changed
                });
            }
            sleep(POLL_INTERVAL).await;
        }
    };
    tokio::select! {
        () = following => {}
        () = wait_for(verdict, |known| *known == Verdict::May) => {}
    }
}

fn decoded(value: &[u8]) -> Option<LeaderElectionValue> {
    <LeaderElectionValue as LeaderValue>::decode(value).ok()
}

#[cfg(test)]
mod tests {
    use curator_election::memory::MemoryCluster;
    use curator_proto::common::NodeRoles;
    use curator_proto::common::node_roles::ConsensusMember;
    use curator_proto::private;
    use prost::Message;

    use super::*;
    use crate::consensus::{FixedMembership, Member};

    const NODE: &str = "metropolis-01";

    fn candidacy(members: &[(&str, bool)]) -> Candidacy {
        let member = |(name, learner): &(&str, bool)| Member {
            id: 1,
            name: (*name).to_owned(),
            peer_urls: Vec::new(),
            learner: *learner,
        };
        Candidacy {
            node_id: NODE.to_owned(),
            authority: b"the authority's certificate".to_vec(),
            membership: Arc::new(FixedMembership::new(members.iter().map(member).collect())),
        }
    }

    async fn put(store: &dyn Store, state: NodeState, has_role: bool) {
        let (now, layout) = (
            std::time::SystemTime::UNIX_EPOCH,
            crate::state::pki_layout::Layout::ETCD,
        );
        let (authority, _) = layout.complete(None, None, None, now).expect("a new one");
        let role = ConsensusMember {
            ca_certificate: authority.certificate().to_vec(),
            peer_certificate: authority.certificate().to_vec(),
            initial_crl: authority.empty_crl(now).expect("a new one"),
            peers: Vec::new(),
        };
        let node = private::Node {
            id: NODE.to_owned(),
            public_key: vec![1; 32],
            fsm_state: state.into(),
            roles: Some(NodeRoles {
                consensus_member: has_role.then_some(role),
                ..NodeRoles::default()
            }),
            ..private::Node::default()
        };
        let put = Op::put(format!("/nodes/{NODE}"), node.encode_to_vec());
        store.txn(Txn::default().then(vec![put])).await.expect("no faults");
    }

    #[tokio::test(start_paused = true)]
    async fn only_up_consensus_member_may_lead() {
        let store = MemoryCluster::new(1).client(0);
        let (no_member, learner, voter) = (
            candidacy(&[]),
            candidacy(&[(NODE, true)]),
            candidacy(&[("other", false), (NODE, false)]),
        );
        assert_eq!(voter.judge(&store).await, Ok(Verdict::MayNot(Bar::NoNode)));
        for (state, has_role, of, verdict) in [
            (NodeState::Up, true, &no_member, Verdict::May),
            (NodeState::Up, false, &voter, Verdict::May),
            (NodeState::Up, false, &learner, Verdict::MayNot(Bar::NoMember)),
            (NodeState::Up, false, &no_member, Verdict::MayNot(Bar::NoMember)),
            (
                NodeState::New,
                true,
                &voter,
                Verdict::MayNot(Bar::NotUp(NodeState::New)),
            ),
            (
                NodeState::Standby,
                true,
                &voter,
                Verdict::MayNot(Bar::NotUp(NodeState::Standby)),
            ),
            (
                NodeState::Decommissioned,
                true,
                &voter,
                Verdict::MayNot(Bar::NotUp(NodeState::Decommissioned)),
            ),
        ] {
            put(&store, state, has_role).await;
            assert_eq!(of.judge(&store).await, Ok(verdict), "{state:?} {has_role}");
        }
    }

    /// Also where the node is known in both, as after a cluster was made anew with the keys of the one before.
    #[tokio::test(start_paused = true)]
    async fn instance_of_other_authority_may_not_lead() {
        let store = MemoryCluster::new(1).client(0);
        put(&store, NodeState::Up, true).await;
        let candidacy = candidacy(&[]);
        for (stored, verdict) in [
            (b"another".to_vec(), Verdict::MayNot(Bar::OtherCluster)),
            (candidacy.authority.clone(), Verdict::May),
        ] {
            let authority = Op::put(Layout::CLUSTER.certificate(), stored);
            store
                .txn(Txn::default().then(vec![authority]))
                .await
                .expect("no faults");
            assert_eq!(candidacy.judge(&store).await, Ok(verdict));
        }
    }

    /// What cannot be read is no reason to go: the leader of a cluster whose etcd hiccups stays.
    #[tokio::test(start_paused = true)]
    async fn read_error_keeps_the_verdict() {
        let store = Arc::new(MemoryCluster::new(1).client(0));
        put(&*store, NodeState::Up, true).await;
        let (running, consensus) = watch::channel(ConsensusStatus::Running(store.clone()));
        let (sender, mut verdict) = watch::channel(Verdict::Unknown);
        let cancel = CancellationToken::new();
        let task = tokio::spawn(candidacy(&[]).run(consensus, sender, cancel.clone()));
        verdict.wait_for(|known| *known == Verdict::May).await.unwrap();
        let garbage = Txn::default().then(vec![Op::put(format!("/nodes/{NODE}"), vec![0xff])]);
        store.txn(garbage).await.unwrap();
        running.send_replace(ConsensusStatus::Running(store.clone()));
        sleep(POLL_INTERVAL * 5).await;
        assert_eq!(*verdict.borrow(), Verdict::May);
        put(&*store, NodeState::Decommissioned, true).await;
        barred(Some(&mut verdict)).await;
        cancel.cancel();
        task.await.unwrap();
    }
}
