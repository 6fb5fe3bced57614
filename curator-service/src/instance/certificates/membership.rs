//! A proof that the node is a member of the consensus, for clients that require one before they trust an instance or
//! send it a secret.
//!
//! Every node of the cluster has a certificate with its name, even after it was deleted. Only members have the store,
//! and with it the authority's key. So an instance issues its own proof from its node's record: a short-lived
//! certificate for the node's own key that states the membership. The proof is renewed while the record says that the
//! node is up and has the role. An instance that loses the role or the store keeps its last proof until that expires.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use curator_election::store::{Keys, Range, Store};
use curator_identity::{AuthorityError, Credentials, CredentialsWatch, public_key_of};
use curator_proto::common::NodeState;
use rustls::sign::CertifiedKey;
use rustls_pki_types::CertificateDer;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::consensus::{ConsensusStatus, running};
use crate::instance::certificates::second::{NoAuthority, authority};
use crate::state::keys::NODES;
use crate::state::record::NodeRecord;
use crate::telemetry;

/// The lifetime of a proof: how long a former member can still prove membership.
const LIFETIME: Duration = Duration::from_secs(2 * 60 * 60);
/// The age at which a proof is renewed. etcd may be unavailable for the rest of its lifetime.
const RENEW_AFTER: Duration = Duration::from_secs(30 * 60);
/// The interval at which the membership is checked.
const POLL_INTERVAL: Duration = Duration::from_secs(30);
/// The retry interval while there is no proof.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);
/// The timeout of requests to the store.
const STORE_TIMEOUT: Duration = Duration::from_secs(10);

/// Why there is no proof.
#[derive(Debug, thiserror::Error)]
enum NoProof {
    #[error(transparent)]
    Authority(#[from] NoAuthority),
    #[error("the store does not answer")]
    Late,
    #[error("cannot issue it: {0}")]
    Make(#[from] AuthorityError),
    #[error(transparent)]
    Tls(#[from] rustls::Error),
}

/// An issued proof.
#[derive(Clone, Copy)]
struct Made {
    at: SystemTime,
}

impl Made {
    /// Whether to renew the proof. After the clock was set back, always.
    fn is_due(self, now: SystemTime) -> bool {
        now.duration_since(self.at).map_or(true, |age| age >= RENEW_AFTER)
    }

    fn is_over(self, now: SystemTime) -> bool {
        now.duration_since(self.at).map_or(true, |age| age >= LIFETIME)
    }
}

/// Maintains the proof while the store is available, until cancelled.
pub(crate) async fn run(
    credentials: CredentialsWatch,
    mut consensus: watch::Receiver<ConsensusStatus>,
    cancel: CancellationToken,
) {
    let (mut made, mut said) = (None::<Made>, None);
    while !cancel.is_cancelled() {
        let Some(Some(store)) = cancel.run_until_cancelled(running(&mut consensus)).await else {
            return cancel.cancelled().await;
        };
        let now = credentials.now();
        let looked = async {
            let looked = timeout(STORE_TIMEOUT, look(&credentials, &*store, made, now)).await;
            looked.unwrap_or(Err(NoProof::Late))
        };
        let Some(looked) = cancel.run_until_cancelled(looked).await else {
            return;
        };
        let text = match looked {
            Ok(Some(proof)) => {
                if made.is_none() {
                    info!("proof of consensus membership issued");
                }
                made = Some(proof);
                None
            }
            Ok(None) => {
                made = None;
                Some("according to its record, the node is not up or not a member of the consensus".to_owned())
            }
            Err(error) => {
                if made.is_some_and(|made| made.is_over(now)) {
                    made = None;
                    drop_proof(&credentials);
                }
                Some(error.to_string())
            }
        };
        if text.is_some() && said != text {
            let reason = text.as_deref().unwrap_or_default();
            warn!(reason, "cannot renew the proof of consensus membership");
        }
        let proves = credentials.newest().member().is_some();
        metrics::gauge!(telemetry::PROVES_MEMBERSHIP).set(if proves { 1.0 } else { 0.0 });
        said = text;
        let wait = if said.is_none() { POLL_INTERVAL } else { RETRY_INTERVAL };
        cancel.run_until_cancelled(credentials.changed_within(wait)).await;
    }
}

/// Issues and installs a proof if one is due and the node is a member; removes it if the node is not.
async fn look(
    credentials: &CredentialsWatch,
    store: &dyn Store,
    made: Option<Made>,
    now: SystemTime,
) -> Result<Option<Made>, NoProof> {
    let newest = credentials.newest();
    if !is_member(store, &newest).await? {
        drop_proof(credentials);
        return Ok(None);
    }
    if let Some(made) = made.filter(|made| newest.member().is_some() && !made.is_due(now)) {
        return Ok(Some(made));
    }
    let authority = authority(store).await?;
    if authority.certificate() != newest.ca() {
        return Err(NoAuthority::Other.into());
    }
    let until = now.checked_add(LIFETIME).ok_or(AuthorityError::Time)?;
    let key = public_key_of(newest.certificate()).ok_or(AuthorityError::Mismatch)?;
    let certificate = authority.issue_member(newest.node_id(), &key, now, until)?;
    let certificate = CertificateDer::from(certificate);
    let proof = CertifiedKey::new(vec![certificate], newest.certified().key.clone());
    proof.keys_match()?;
    // The new credentials are of the same node.
    credentials.update(|there| {
        let same = there.ca() == newest.ca();
        same.then(|| there.with_member(Some(Arc::new(proof)))).transpose()
    })?;
    Ok(Some(Made { at: now }))
}

fn drop_proof(credentials: &CredentialsWatch) {
    let dropped = credentials.update(|there| {
        let has = there.member().is_some();
        has.then(|| there.with_member(None)).transpose()
    });
    if let Err(error) = dropped {
        warn!(%error, "cannot remove the proof of membership before it expires");
    }
}

/// Whether the node's record is up and has the role and this key.
async fn is_member(store: &dyn Store, credentials: &Credentials) -> Result<bool, NoProof> {
    let id = credentials.node_id();
    let Ok(key) = NODES.key(id) else { return Ok(false) };
    let read = store
        .range(Range::all(Keys::One(key)))
        .await
        .map_err(NoAuthority::Read)?;
    let record = read.kvs.first().map(|kv| NodeRecord::decode(id, &kv.value));
    Ok(record.is_some_and(|record| {
        record.is_ok_and(|node| {
            node.state() == NodeState::Up
                && node.roles().consensus_member.is_some()
                && public_key_of(credentials.certificate()).is_some_and(|key| node.message().public_key == key)
        })
    }))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use curator_election::memory::MemoryCluster;
    use curator_election::store::{Op, Txn};
    use curator_identity::testing::{Directory, handshake, handshake_as, node, wall};
    use curator_identity::{Authority, ClientCredentials, Trust, wall_clock};
    use curator_proto::common::NodeRoles;
    use curator_proto::common::node_roles::ConsensusMember;
    use curator_proto::private;
    use prost::Message;

    use super::*;
    use crate::state::pki_layout::Layout;

    struct Cluster {
        _directory: Directory,
        credentials: CredentialsWatch,
        authority: Authority,
        store: MemoryCluster,
        public_key: Vec<u8>,
    }

    impl Cluster {
        async fn new(name: &str) -> Self {
            let store = MemoryCluster::new(1);
            let (authority, ops) = Layout::CLUSTER.complete(None, None, None, wall()).unwrap();
            store.client(0).txn(Txn::default().then(ops)).await.unwrap();
            let directory = Directory::new(name);
            let (key, _, certificate) = node(&authority);
            directory.write(&authority, &certificate, &key);
            Self {
                credentials: CredentialsWatch::new(directory.path().to_owned(), wall).unwrap(),
                _directory: directory,
                public_key: key.public_key().to_vec(),
                authority,
                store,
            }
        }

        /// Writes the node's record.
        async fn is(&self, state: NodeState, member: bool) {
            let id = self.credentials.newest().node_id().to_owned();
            let role = ConsensusMember {
                ca_certificate: self.authority.certificate().to_vec(),
                peer_certificate: self.authority.certificate().to_vec(),
                initial_crl: self.authority.empty_crl(wall()).unwrap(),
                ..ConsensusMember::default()
            };
            let record = private::Node {
                id: id.clone(),
                public_key: self.public_key.clone(),
                join_key: vec![1; 32],
                fsm_state: state.into(),
                roles: Some(NodeRoles {
                    consensus_member: member.then_some(role),
                    ..NodeRoles::default()
                }),
                ..private::Node::default()
            };
            let put = Op::put(NODES.key(&id).unwrap(), Bytes::from(record.encode_to_vec()));
            self.store.client(0).txn(Txn::default().then(vec![put])).await.unwrap();
        }

        async fn looks(&self, made: Option<Made>, now: SystemTime) -> Option<Made> {
            look(&self.credentials, &self.store.client(0), made, now).await.unwrap()
        }

        /// What a client that wants an instance thinks of it.
        async fn reached(&self) -> Result<(), String> {
            let ca = self.authority.certificate().to_vec();
            let client = ClientCredentials::anonymous(Trust::Instances { ca }).unwrap();
            handshake_as(
                &self.credentials.newest(),
                (*client.config()).clone(),
                client.server_name(),
            )
            .await
            .1
        }
    }

    #[tokio::test]
    async fn only_a_member_that_is_up_proves_to_be_one() {
        let cluster = Cluster::new("proof-of").await;
        let refused = cluster.reached().await.unwrap_err();
        assert!(refused.contains("does not prove"), "{refused}");
        // Without a record, as a worker, before it is up, and once it goes.
        assert!(cluster.looks(None, wall_clock()).await.is_none());
        for (state, member) in [
            (NodeState::Up, false),
            (NodeState::Standby, true),
            (NodeState::Decommissioned, true),
        ] {
            cluster.is(state, member).await;
            assert!(cluster.looks(None, wall_clock()).await.is_none(), "{state:?} {member}");
            cluster.reached().await.unwrap_err();
        }
        cluster.is(NodeState::Up, true).await;
        let made = cluster.looks(None, wall_clock()).await;
        assert!(made.is_some());
        cluster.reached().await.expect("it is one");
        // Whoever does not ask is shown what they always were.
        let ca = cluster.authority.certificate().to_vec();
        let client = ClientCredentials::anonymous(Trust::Instances { ca }).unwrap();
        let unasked = handshake(&cluster.credentials.newest(), (*client.config()).clone()).await;
        unasked.1.expect_err("it is the node's own certificate");
        // The role is taken away: with the next look the proof is.
        cluster.is(NodeState::Up, false).await;
        assert!(cluster.looks(made, wall_clock()).await.is_none());
        cluster.reached().await.unwrap_err();
    }

    /// Somebody who keeps the proof has it until it ends.
    #[tokio::test]
    async fn a_proof_that_is_not_made_anew_ends() {
        let cluster = Cluster::new("proof-ends").await;
        cluster.is(NodeState::Up, true).await;
        // Certificates are looked at by the clock of the day.
        let now = wall_clock();
        let long_ago = now - LIFETIME;
        cluster.looks(None, long_ago - Duration::from_secs(1)).await.unwrap();
        let refused = cluster.reached().await.unwrap_err();
        assert!(refused.contains("has expired"), "{refused}");
        let made = cluster.looks(None, wall_clock()).await.unwrap();
        cluster.reached().await.expect("it is new");
        let day = Duration::from_secs(24 * 60 * 60);
        assert!(!made.is_due(now + RENEW_AFTER / 2) && made.is_due(now + LIFETIME));
        assert!(made.is_due(now - day), "the clock was set back");
        assert!(!made.is_over(now + LIFETIME / 2) && made.is_over(now + 2 * LIFETIME));
        // It is the same key, so a connection is as good as with the other certificate.
        let newest = cluster.credentials.newest();
        let proof = newest.member().cloned().unwrap();
        assert_eq!(public_key_of(&proof.cert[0]), public_key_of(newest.certificate()));
    }

    /// Both are made when an instance starts, and neither takes the place of the other.
    #[tokio::test(start_paused = true)]
    async fn it_is_there_beside_the_second_certificate() {
        for round in 0..20 {
            let cluster = Cluster::new(&format!("proof-beside-{round}")).await;
            cluster.is(NodeState::Up, true).await;
            let store: Arc<dyn Store> = Arc::new(cluster.store.client(0));
            let (_consensus, status) = watch::channel(ConsensusStatus::Running(store));
            let cancel = CancellationToken::new();
            let both = async {
                tokio::join!(
                    crate::instance::certificates::second::run(
                        cluster.credentials.clone(),
                        status.clone(),
                        cancel.clone()
                    ),
                    run(cluster.credentials.clone(), status.clone(), cancel.clone())
                )
            };
            tokio::time::timeout(RETRY_INTERVAL / 2, both)
                .await
                .expect_err("they go on");
            let newest = cluster.credentials.newest();
            assert!(newest.second().is_some() && newest.member().is_some());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_there_soon_after_the_role_and_stays_with_new_credentials() {
        let cluster = Cluster::new("proof-life").await;
        cluster.is(NodeState::Up, false).await;
        let store: Arc<dyn Store> = Arc::new(cluster.store.client(0));
        let (_consensus, status) = watch::channel(ConsensusStatus::Running(store));
        let cancel = CancellationToken::new();
        let running = tokio::spawn(run(cluster.credentials.clone(), status, cancel.clone()));
        let mut newest = cluster.credentials.subscribe();
        tokio::time::timeout(POLL_INTERVAL, newest.changed())
            .await
            .expect_err("it is no member");
        cluster.is(NodeState::Up, true).await;
        newest.wait_for(|newest| newest.member().is_some()).await.unwrap();
        cluster.is(NodeState::Decommissioned, true).await;
        newest.wait_for(|newest| newest.member().is_none()).await.unwrap();
        cancel.cancel();
        running.await.unwrap();
    }
}
