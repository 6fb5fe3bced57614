//! The leader's parts one by one, for `cargo xtask bench state` and nothing else.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use curator_election::clock::{BootClock, Clock};
use curator_election::store::{Compare, Op, Revision, Store, StoreError, Txn};
use curator_election::{Term, TermOwner};
use curator_proto::common::NodeStatus;
use curator_proto::curator_api::watch_event::Progress;
use curator_proto::curator_api::watch_request::{Kind, NodesInCluster};
use curator_proto::curator_api::{UpdateNodeStatusRequest, WatchRequest};
use curator_proto::management_api::{GetNodesRequest, Node};
use futures::{Stream, StreamExt as _};
use tokio::task::JoinHandle;
use tonic::Status;

use crate::auth::Caller;
use crate::consensus::FixedMembership;
use crate::leader::{EncodedEvent, Leader, LeaderContext};
use crate::state::limits::StateLimits;
use curator_election::fence::Fenced;

/// A leader without an election, over a store.
pub struct BenchHooks {
    leader: Arc<Leader>,
    guard: Compare,
    running: JoinHandle<()>,
    _term_owner: TermOwner,
}

impl Drop for BenchHooks {
    fn drop(&mut self) {
        self.running.abort();
    }
}

impl BenchHooks {
    /// Begins a term by putting its lock key.
    ///
    /// # Errors
    /// The store does not answer.
    pub async fn begin(store: Arc<dyn Store>, lock: &'static str) -> Result<Self, StoreError> {
        let put = Txn::default().then(vec![Op::put(lock, "measured")]);
        let revision: Revision = store.txn(put).await?.revision;
        let clock = Arc::new(BootClock);
        let until = clock.now() + Duration::from_secs(24 * 3_600);
        let (term_owner, term) = Term::for_test(lock, revision, until, clock.clone());
        let guard = term.guard();
        let context = LeaderContext {
            node_id: "measured".into(),
            membership: Arc::new(FixedMembership::default()),
            succession: None,
            limits: StateLimits::default(),
            clock,
            wall: || SystemTime::UNIX_EPOCH + Duration::from_secs(1_750_000_000),
        };
        let leader = Leader::new(Fenced::new(store, term), context);
        let running = tokio::spawn(leader.clone().run());
        Ok(Self {
            leader,
            guard,
            running,
            _term_owner: term_owner,
        })
    }

    /// The condition that the term still holds.
    #[must_use]
    pub fn guard(&self) -> Compare {
        self.guard.clone()
    }

    /// One linearizable read of a node; whether it is there.
    ///
    /// # Errors
    /// Those of any call.
    pub async fn read(&self, id: &str) -> Result<bool, Status> {
        let there = self
            .leader
            .measured_state()
            .read(|view| view.node(id).is_some())
            .await?;
        Ok(there)
    }

    /// One update of a node's status, as the node makes it.
    ///
    /// # Errors
    /// Those of the call.
    pub async fn update(&self, id: &str, address: &str) -> Result<(), Status> {
        let request = UpdateNodeStatusRequest {
            node_id: id.into(),
            status: Some(NodeStatus {
                external_address: address.into(),
                ..NodeStatus::default()
            }),
        };
        self.leader.update_node_status(id, request).await.map(drop)
    }

    /// A whole `GetNodes`.
    ///
    /// # Errors
    /// Those of the call.
    pub async fn nodes(&self, filter: &str) -> Result<impl Stream<Item = Result<Node, Status>> + use<>, Status> {
        let request = GetNodesRequest { filter: filter.into() };
        self.leader.get_nodes(&owner(), request).await
    }

    /// A watch of all nodes: how many nodes each event tells of, and whether it is the last of the backlog.
    ///
    /// # Errors
    /// Those of the call.
    pub async fn watch(&self) -> Result<impl Stream<Item = Result<(usize, bool), Status>> + use<>, Status> {
        let kind = Some(Kind::NodesInCluster(NodesInCluster {}));
        let events = self.leader.watch(&owner(), WatchRequest { kind }).await?;
        let told = |event: EncodedEvent| (event.nodes.len(), event.progress() == Progress::LastBacklogged);
        Ok(events.map(move |event| event.map(told)))
    }

    /// One heartbeat of a node.
    pub fn heard(&self, id: &str) {
        self.leader.measured_heartbeats().heard(id);
    }
}

/// Who asks.
fn owner() -> Caller {
    Caller::User {
        identity: "owner".into(),
    }
}
