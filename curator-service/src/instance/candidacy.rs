//! Whether this instance may stand for election: its node must be up, and a member of the consensus.
//!
//! Where an instance has a node's certificate, the node's record is read each second, for the leader as for all others. Whoever may
//! not lead does not stand, and goes on to follow whoever leads; a leader that may not any more hands over. What cannot be read
//! changes nothing.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use curator_election::store::{Op, OpResult, Store, Txn};
use curator_election::{ElectionBackend, ElectionStatus, LeaderInfo, LeaderValue, Reason};
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

/// Between two looks.
const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// How long a look may take.
const STORE_TIMEOUT: Duration = Duration::from_secs(3);

/// Why a node's instance may not lead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Bar {
    /// There is no such node, or not any more.
    NoNode,
    /// It is no node in service.
    NotUp(NodeState),
    /// The cluster in the store has another authority than the node's certificate.
    OtherCluster,
    /// It has not the role, and is no member of the consensus either.
    NoMember,
}

impl fmt::Display for Bar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let why = match self {
            Self::NoNode => "it is no node of this cluster, or not any more",
            Self::OtherCluster => {
                "the cluster in the store has another certificate authority than its credentials: one of the \
                 two is of another cluster"
            }
            Self::NotUp(NodeState::New) => "it is not approved yet",
            Self::NotUp(NodeState::Decommissioned) => "it is decommissioned",
            Self::NotUp(_) => "it has not committed yet",
            Self::NoMember => "it is no member of the consensus and has not the role consensus-member",
        };
        write!(f, "this instance's node may not lead: {why}")
    }
}

/// What is known of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Nothing yet.
    Unknown,
    /// It may lead.
    May,
    /// It may not.
    MayNot(Bar),
}

/// Whose candidacy it is, and where that is looked up.
#[derive(Clone)]
pub(crate) struct Candidacy {
    pub(crate) node_id: String,
    /// The certificate of the authority of the node's credentials, DER.
    pub(crate) authority: Vec<u8>,
    pub(crate) membership: Arc<dyn Membership>,
}

impl Candidacy {
    /// Looks again and again, and tells the verdict; until cancelled.
    pub(crate) async fn run(
        self,
        mut consensus: watch::Receiver<ConsensusStatus>,
        verdict: watch::Sender<Verdict>,
        cancel: CancellationToken,
    ) {
        loop {
            let look = async {
                let Some(store) = running(&mut consensus).await else {
                    // It is gone, and the instance with it.
                    return std::future::pending().await;
                };
                match timeout(STORE_TIMEOUT, self.judge(&*store)).await {
                    Ok(Ok(found)) => tell(&verdict, &found),
                    Ok(Err(error)) => debug!(error, "whether this node may lead cannot be seen"),
                    Err(_) => debug!("whether this node may lead cannot be seen in time"),
                }
                sleep(POLL_INTERVAL).await;
            };
            if cancel.run_until_cancelled(look).await.is_none() {
                return;
            }
        }
    }

    /// Looks once.
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
        // The role follows the member, by whoever leads: until then the members count, or nobody could begin.
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

fn tell(verdict: &watch::Sender<Verdict>, found: &Verdict) {
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

/// Completes once this is no instance that may lead.
pub(crate) async fn barred(verdict: Option<&mut watch::Receiver<Verdict>>) {
    let Some(verdict) = verdict else {
        return std::future::pending().await;
    };
    // What is not known bars nobody who stands already.
    told(verdict, |known| matches!(known, Verdict::MayNot(_))).await;
}

/// Completes once the verdict is such a one.
async fn told(verdict: &mut watch::Receiver<Verdict>, such: impl FnMut(&Verdict) -> bool) {
    let told = verdict.wait_for(such).await.is_ok();
    // Whoever tells it goes with the instance.
    if !told {
        std::future::pending::<()>().await;
    }
}

/// Follows whoever leads, without standing; until this instance may. News that are not confirmed for so long are dropped.
pub(crate) async fn follow(
    backend: &dyn ElectionBackend,
    own_id: &str,
    ttl: Duration,
    status: &watch::Sender<LeaderStatus>,
    verdict: &mut watch::Receiver<Verdict>,
) {
    let reason = verdict.clone();
    let nobody = || {
        LeaderStatus::Undetermined(match &*reason.borrow() {
            Verdict::MayNot(bar) => Reason::Barred(bar.to_string()),
            Verdict::Unknown | Verdict::May => Reason::Starting,
        })
    };
    let following = async {
        loop {
            let mut observations = backend.observe();
            loop {
                let news = match timeout(ttl, observations.next()).await {
                    Ok(Some(observation)) => match observation.leader.map(|leader| (decoded(&leader.value), leader)) {
                        Some((Some(value), leader)) if value.candidate_id() != own_id => {
                            ElectionStatus::Follower(LeaderInfo {
                                leader: value,
                                key: leader.key,
                                revision: leader.create_revision,
                            })
                        }
                        _ => nobody(),
                    },
                    Ok(None) => break,
                    Err(_) => ElectionStatus::Undetermined(Reason::ObservationStale),
                };
                status.send_if_modified(|known| {
                    let changed = *known != news;
                    *known = news;
                    changed
                });
            }
            sleep(POLL_INTERVAL).await;
        }
    };
    tokio::select! {
        () = following => {}
        () = told(verdict, |known| *known == Verdict::May) => {}
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
    async fn a_node_that_is_up_and_a_member_may_lead_and_no_other() {
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
    async fn nobody_leads_in_a_cluster_of_another_authority() {
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
    async fn what_cannot_be_read_changes_nothing() {
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
