//! A cluster of one node, and its leader.

use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use curator_election::clock::{Clock, TokioClock};
use curator_election::memory::MemoryCluster;
use curator_election::store::{KeyValue, Keys, Op, Range, Revision, Store, Txn};
use curator_election::{Term, TermOwner};
use curator_proto::common::node_roles::ConsensusMember;
use curator_proto::common::{
    ClusterConfiguration, NodeRoles, NodeState, NodeStatus, NodeStorageSecurity, NodeTpmUsage,
};
use curator_proto::curator_api::{
    CommitNodeRequest, CommitNodeResponse, RegisterNodeRequest, RegisterNodeResponse, UpdateNodeStatusRequest,
};
use curator_proto::management_api::{ApproveNodeRequest, GetNodesRequest, GetRegisterTicketRequest, Node};
use curator_proto::private;
use futures::TryStreamExt;
use prost::Message;
use tokio::task::JoinHandle;
use tonic::{Code, Status};

use crate::auth::Caller;
use crate::consensus::{FixedMembership, Member, Membership, MembershipError};
use crate::leader::{Leader, LeaderContext};
use crate::state::bootstrap::{Bootstrap, bootstrap};
use crate::state::limits::StateLimits;
use crate::state::record::ClusterRecord;
use curator_election::fence::Fenced;

/// The keys of the first node: every byte has this value.
pub(super) const FIRST: u8 = 1;
pub(super) const OWNER: [u8; 32] = [99; 32];

pub(super) fn wall() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_750_000_000)
}

/// The key and the ID of a node, by number.
pub(super) fn key(number: u8) -> [u8; 32] {
    [number; 32]
}

pub(super) fn join_key(number: u8) -> [u8; 32] {
    [number + 100; 32]
}

pub(super) fn id(number: u8) -> String {
    curator_identity::node_id(&key(number)).unwrap()
}

/// An action to run right after the members were read.
type Interruption = futures::future::BoxFuture<'static, ()>;

/// A membership that may change after a caller has read it.
pub(super) struct Watched {
    members: Arc<FixedMembership>,
    interruption: Mutex<Option<Interruption>>,
    /// Whether a member may be removed.
    pub(super) removable: std::sync::atomic::AtomicBool,
    /// Whether the membership can be read.
    pub(super) answers: std::sync::atomic::AtomicBool,
}

impl Watched {
    pub(super) fn interrupt(&self, by: Interruption) {
        *self.interruption.lock().unwrap() = Some(by);
    }
}

const fn refuses() -> MembershipError {
    MembershipError::Fixed
}

#[async_trait::async_trait]
impl Membership for Watched {
    async fn members(&self) -> Result<Vec<Member>, MembershipError> {
        if !self.answers.load(std::sync::atomic::Ordering::Relaxed) {
            return Err(refuses());
        }
        let members = self.members.members().await;
        let interruption = self.interruption.lock().unwrap().take();
        if let Some(interruption) = interruption {
            interruption.await;
        }
        members
    }

    async fn add_learner(&self, peer_url: &str) -> Result<(), MembershipError> {
        self.members.add_learner(peer_url).await
    }

    async fn promote(&self, id: u64) -> Result<(), MembershipError> {
        self.members.promote(id).await
    }

    async fn remove(&self, id: u64) -> Result<(), MembershipError> {
        if self.removable.load(std::sync::atomic::Ordering::Relaxed) {
            self.members.remove(id).await
        } else {
            Err(refuses())
        }
    }
}

pub(super) struct Stage {
    pub(super) cluster: MemoryCluster,
    pub(super) store: Arc<dyn Store>,
    pub(super) members: Arc<FixedMembership>,
    pub(super) watched: Arc<Watched>,
    pub(super) leader: Arc<Leader>,
    lock: &'static str,
    pub(super) term_owner: TermOwner,
    running: JoinHandle<()>,
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.running.abort();
    }
}

impl Stage {
    /// A bootstrapped cluster whose first node has no roles, and its leader.
    pub(super) async fn new() -> Self {
        Self::with(ClusterRecord::default_configuration()).await
    }

    pub(super) async fn with(configuration: ClusterConfiguration) -> Self {
        let cluster = MemoryCluster::new(1);
        let first = Bootstrap {
            node_public_key: key(FIRST).to_vec(),
            join_public_key: join_key(FIRST).to_vec(),
            cluster_unlock_key: vec![7; 32],
            owner_public_key: OWNER.to_vec(),
            tpm_usage: NodeTpmUsage::PresentAndUsed,
            configuration: Some(configuration),
            ..Bootstrap::default()
        };
        bootstrap(&cluster.client(9), &first, wall()).await.unwrap();
        let members = Arc::new(FixedMembership::changeable(vec![member(1, &id(FIRST), false)]));
        let stage = Self::lead(cluster, members, "/leader/1").await;
        stage
            .rewrite(&id(FIRST), |node| node.roles = Some(NodeRoles::default()))
            .await;
        stage
    }

    /// Another leader of the same cluster; the previous one has not noticed.
    pub(super) async fn succeed(mut self, lock: &'static str) -> (Self, Arc<Leader>) {
        let old = self.leader.clone();
        self.unlock().await;
        let cluster = std::mem::replace(&mut self.cluster, MemoryCluster::new(2));
        (Self::lead(cluster, self.members.clone(), lock).await, old)
    }

    async fn lead(cluster: MemoryCluster, members: Arc<FixedMembership>, lock: &'static str) -> Self {
        // Each leader has its own connection to the store.
        let way = usize::from(lock.as_bytes()[lock.len() - 1] - b'0');
        let store: Arc<dyn Store> = Arc::new(cluster.client(9));
        let put = Txn::default().then(vec![Op::put(lock, "me")]);
        let revision = store.txn(put).await.unwrap().revision;
        let clock = Arc::new(TokioClock::new());
        let until = clock.now() + Duration::from_secs(1_000_000);
        let (term_owner, term) = Term::for_test(lock, revision, until, clock.clone());
        let watched = Arc::new(Watched {
            members: members.clone(),
            interruption: Mutex::default(),
            removable: true.into(),
            answers: true.into(),
        });
        let context = LeaderContext {
            node_id: id(FIRST),
            membership: watched.clone(),
            succession: None,
            limits: StateLimits::default(),
            clock,
            wall,
        };
        let leader = Leader::new(Fenced::new(Arc::new(cluster.client(way)), term), context);
        // The reconciler does not run: tests call it explicitly.
        let running = tokio::spawn(leader.state.clone().run());
        Self {
            cluster,
            store,
            members,
            watched,
            leader,
            lock,
            term_owner,
            running,
        }
    }

    /// The store confirms the term for this long.
    pub(super) fn confirm(&self, time: Duration) {
        assert!(self.term_owner.confirm(self.leader.context.clock.now() + time));
    }

    /// Deletes the lock key without the leader's knowledge.
    pub(super) async fn unlock(&self) {
        self.delete(self.lock).await;
    }

    pub(super) async fn put(&self, key: &str, value: impl Into<bytes::Bytes>) -> Revision {
        let put = Txn::default().then(vec![Op::put(key.to_owned(), value)]);
        self.store.txn(put).await.unwrap().revision
    }

    pub(super) async fn delete(&self, key: &str) {
        let delete = Txn::default().then(vec![Op::delete(key.to_owned())]);
        self.store.txn(delete).await.unwrap();
    }

    pub(super) async fn value(&self, key: &str) -> Option<bytes::Bytes> {
        let read = self.store.range(Range::all(Keys::one(key.to_owned()))).await.unwrap();
        read.kvs.into_iter().next().map(|kv| kv.value)
    }

    /// Everything that is stored, except for the election.
    pub(super) async fn all(&self) -> Vec<KeyValue> {
        let mut all = Vec::new();
        for prefix in ["/", "@"] {
            all.extend(self.store.range(Range::all(Keys::prefix(prefix))).await.unwrap().kvs);
        }
        all.retain(|kv| !kv.key.starts_with(b"/leader/"));
        all
    }

    /// A node's record as it is stored.
    pub(super) async fn record(&self, id: &str) -> private::Node {
        let value = self.value(&format!("/nodes/{id}")).await.expect("it is there");
        private::Node::decode(value).unwrap()
    }

    /// Changes a record without the leader's knowledge, and waits until the leader has observed it.
    pub(super) async fn rewrite(&self, id: &str, change: impl FnOnce(&mut private::Node)) {
        let mut node = self.record(id).await;
        change(&mut node);
        let revision = self.put(&format!("/nodes/{id}"), node.encode_to_vec()).await;
        self.followed(&format!("/nodes/{id}"), revision).await;
    }

    /// Waits until the leader's view has a key at a revision.
    pub(super) async fn followed(&self, key: &str, revision: Revision) {
        loop {
            let known = self.leader.state.view().get(key.as_bytes()).map(|entry| entry.changed);
            if known >= Some(revision) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    pub(super) async fn ticket(&self) -> Vec<u8> {
        let ticket = self.leader.get_register_ticket(GetRegisterTicketRequest {}).await;
        ticket.unwrap().ticket
    }

    pub(super) async fn register(&self, number: u8) -> Result<RegisterNodeResponse, Status> {
        let request = RegisterNodeRequest {
            register_ticket: self.ticket().await,
            join_key: join_key(number).to_vec(),
            have_local_tpm: true,
            labels: None,
        };
        self.leader.register_node(Some(key(number)), request).await
    }

    pub(super) async fn approve(&self, number: u8) -> Result<(), Status> {
        let pubkey = key(number).to_vec();
        self.leader.approve_node(ApproveNodeRequest { pubkey }).await.map(drop)
    }

    pub(super) async fn commit(&self, number: u8) -> Result<CommitNodeResponse, Status> {
        let request = CommitNodeRequest {
            cluster_unlock_key: vec![number; 32],
            storage_security: NodeStorageSecurity::AuthenticatedEncrypted.into(),
        };
        self.leader.commit_node(Some(key(number)), request).await
    }

    /// A node that is registered, approved and committed.
    pub(super) async fn up(&self, number: u8) {
        self.register(number).await.unwrap();
        self.approve(number).await.unwrap();
        self.commit(number).await.unwrap();
        assert_eq!(self.record(&id(number)).await.fsm_state(), NodeState::Up);
    }

    pub(super) async fn report(&self, number: u8, address: &str) -> Result<(), Status> {
        let request = UpdateNodeStatusRequest {
            node_id: id(number),
            status: Some(NodeStatus {
                external_address: address.into(),
                ..NodeStatus::default()
            }),
        };
        self.leader.update_node_status(&id(number), request).await.map(drop)
    }

    pub(super) async fn nodes(&self, filter: &str) -> Result<Vec<Node>, Status> {
        let request = GetNodesRequest { filter: filter.into() };
        self.leader.get_nodes(&owner(), request).await?.try_collect().await
    }

    pub(super) async fn ids(&self, filter: &str) -> Vec<String> {
        let nodes = self.nodes(filter).await.unwrap();
        nodes.into_iter().map(|node| node.id).collect()
    }
}

/// The cluster's operator.
pub(super) fn owner() -> Caller {
    Caller::User {
        identity: "owner".into(),
    }
}

pub(super) fn member(id: u64, name: &str, learner: bool) -> Member {
    Member {
        id,
        name: name.into(),
        peer_urls: vec![format!("https://{name}:7834")],
        learner,
    }
}

/// A valid role of a consensus member.
pub(super) fn consensus_member() -> ConsensusMember {
    let layout = crate::state::pki_layout::Layout::ETCD;
    let (authority, _) = layout.complete(None, None, None, wall()).unwrap();
    ConsensusMember {
        ca_certificate: authority.certificate().to_vec(),
        peer_certificate: authority.certificate().to_vec(),
        initial_crl: authority.empty_crl(wall()).unwrap(),
        peers: Vec::new(),
    }
}

/// The code of a refusal.
pub(super) fn refused<T: std::fmt::Debug>(done: Result<T, Status>) -> Code {
    done.expect_err("refused").code()
}
