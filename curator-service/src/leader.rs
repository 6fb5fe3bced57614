//! The leader's services and background work, in one term.

pub(crate) mod added_services;
mod api;
mod cluster;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod nodes;
mod reconciler;
#[cfg(test)]
mod tests;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;
use curator_election::clock::SharedClock;
use curator_identity::{CredentialsWatch, Identity, recognized};
use curator_listener::{CallerAddress, CallerCertificates, Forwarders, Standing};
use curator_proto::admin_api::certificates_server::CertificatesServer;
use curator_proto::admin_api::registrations_server::RegistrationsServer;
use curator_proto::admin_api::tickets_server::TicketsServer;
use curator_proto::common::NodeState;
use curator_proto::curator_api::curator_server::CuratorServer;
use curator_proto::management_api::aaa_server::AaaServer;
use curator_proto::management_api::management_server::ManagementServer;
use curator_proto::permission::{Authorization, Methods};
use tonic::Status;
use tonic::service::Routes;

use self::cluster::networking::KeyReservations;
use self::cluster::pki::Pki;
use self::nodes::backlogs::Backlogs;
#[cfg(feature = "measure")]
pub(crate) use self::nodes::encoded::EncodedEvent;
use self::nodes::encoded::SharedWatch;
use self::nodes::heartbeat::Heartbeats;
use self::nodes::list_records::Lists;
use self::nodes::newcomers::Newcomers;
use self::nodes::pace::Pace;
use crate::auth::{Authenticator, Authorized, Caller, NodeDirectory, caller};
use crate::consensus::Membership;
use crate::state::State;
use crate::state::limits::StateLimits;
use crate::state::record::NodeRecord;
use crate::state::view::View;
use crate::step_down::StepDownCoordinator;
use curator_election::fence::Fenced;

/// Maximum message size accepted from cluster members, in bytes. Other callers have a lower limit: see `auth`.
const MAX_MESSAGE: usize = 4 << 20;

/// What a leader needs besides the state.
#[derive(Clone)]
pub(crate) struct LeaderContext {
    /// The ID of the node that this instance runs on.
    pub(crate) node_id: String,
    /// Reads and changes the membership of the consensus.
    pub(crate) membership: Arc<dyn Membership>,
    /// Transfers leadership to another instance; `None` if this instance belongs to no node.
    pub(crate) succession: Option<StepDownCoordinator>,
    /// Limits on the size of the state.
    pub(crate) limits: StateLimits,
    pub(crate) clock: SharedClock,
    /// The wall clock, used for displayed times and for certificates.
    pub(crate) wall: fn() -> SystemTime,
}

/// The leader, in one term.
pub(crate) struct Leader {
    state: Arc<State>,
    context: LeaderContext,
    heartbeats: Heartbeats,
    claims: KeyReservations,
    /// Limits how many filters run at a time: each filter needs a thread.
    filters: nodes::filter::Turns,
    /// Limits how many watches send their backlog at a time.
    backlogs: Arc<Backlogs>,
    /// The open `GetNodes` streams.
    lists: Lists,
    /// Serializes node registrations.
    newcomers: Newcomers,
    /// Rate limits of the changes that nodes make to their records.
    pace: Pace,
    /// Serializes the assignment of prefixes.
    prefixes: tokio::sync::Mutex<()>,
    cluster_pki: Pki,
    etcd_pki: Pki,
    kubernetes_pki: Pki,
}

impl Leader {
    pub(crate) fn new(fenced: Fenced, context: LeaderContext) -> Arc<Self> {
        Arc::new(Self {
            state: State::new(fenced, context.limits),
            heartbeats: Heartbeats::new(context.clock.clone()),
            claims: KeyReservations::default(),
            filters: nodes::filter::Turns::default(),
            backlogs: Arc::default(),
            lists: Lists::new(context.clock.clone()),
            newcomers: Newcomers::default(),
            pace: Pace::new(context.clock.clone()),
            prefixes: tokio::sync::Mutex::default(),
            cluster_pki: Pki::cluster(),
            etcd_pki: Pki::etcd(),
            kubernetes_pki: Pki::kubernetes(),
            context,
        })
    }

    /// Runs the leader's background work until the term ends.
    pub(crate) async fn run(self: Arc<Self>) {
        let work = async { tokio::join!(self.state.clone().run(), reconciler::run(&self)) };
        tokio::select! {
            _ = work => {}
            () = self.lists.run() => {}
        }
    }

    /// Whether the state is loaded, so that calls can be answered.
    pub(crate) fn readiness(&self) -> tokio::sync::watch::Receiver<bool> {
        self.state.readiness()
    }

    /// Whether a fenced read succeeds, which every call requires.
    pub(crate) async fn can_read(&self) -> bool {
        match self.state.read(|_| ()).await {
            Ok(()) => true,
            // The end of the term is not a fault of this instance.
            Err(_) => !self.state.fenced().term().is_valid(),
        }
    }

    #[cfg(feature = "measure")]
    pub(crate) fn measured_state(&self) -> &State {
        &self.state
    }

    #[cfg(feature = "measure")]
    pub(crate) const fn measured_heartbeats(&self) -> &Heartbeats {
        &self.heartbeats
    }

    /// Checks that a certificate with this ID and key belongs to a node in `NODE_STATE_UP`. The certificate of a
    /// deleted node stays valid, so the record decides. A node that is not up yet makes its calls without a
    /// certificate.
    async fn check_node(&self, id: &str, public_key: &[u8; 32]) -> Result<(), Status> {
        if self.knows(id, |node| is_up(node, public_key)).await? {
            return Ok(());
        }
        match self.state.view().node(id) {
            Some(Ok(node)) if node.message().public_key == public_key => Err(Status::permission_denied(format!(
                "node {id} is {}; this method requires NODE_STATE_UP",
                node.state().as_str_name()
            ))),
            _ => Err(Status::unauthenticated(format!(
                "{id} is not a node of the cluster, or has been deleted"
            ))),
        }
    }

    /// Whether a node matches. If the view has no match, it is read again behind a fence, so that a stale view does not
    /// cause a refusal.
    async fn knows(&self, id: &str, such: impl Fn(&NodeRecord) -> bool) -> Result<bool, Status> {
        let found = |view: &View| matches!(view.node(id), Some(Ok(node)) if such(node));
        self.state.ready().await?;
        if found(&self.state.view()) {
            return Ok(true);
        }
        Ok(self.state.read(found).await?)
    }

    fn now(&self) -> SystemTime {
        (self.context.wall)()
    }
}

/// Whether the node has this key and is in `NODE_STATE_UP`.
fn is_up(node: &NodeRecord, public_key: &[u8; 32]) -> bool {
    node.message().public_key == public_key && node.state() == NodeState::Up
}

/// The leader of one term, for its gRPC services.
#[derive(Clone)]
pub(crate) struct LeaderHandle(Arc<Leader>);

impl LeaderHandle {
    pub(crate) const fn new(leader: Arc<Leader>) -> Self {
        Self(leader)
    }

    const fn leader(&self) -> &Arc<Leader> {
        &self.0
    }

    /// The gRPC services, each behind the authorization layer.
    pub(crate) fn routes(self, authenticator: &Arc<dyn Authenticator>) -> Routes {
        let curator = CuratorServer::new(self.clone()).max_decoding_message_size(MAX_MESSAGE);
        let management = ManagementServer::new(self.clone()).max_decoding_message_size(MAX_MESSAGE);
        let aaa = AaaServer::new(self.clone()).max_decoding_message_size(MAX_MESSAGE);
        let curator = SharedWatch::new(curator, self.clone());
        let tickets = TicketsServer::new(self.clone()).max_decoding_message_size(MAX_MESSAGE);
        let registrations = RegistrationsServer::new(self.clone());
        let certificates = CertificatesServer::new(self.clone());
        Routes::new(Authorized::new(curator, authenticator.clone(), self.clone()))
            .add_service(Authorized::new(management, authenticator.clone(), self.clone()))
            .add_service(Authorized::new(tickets, authenticator.clone(), self.clone()))
            .add_service(Authorized::new(registrations, authenticator.clone(), self.clone()))
            .add_service(Authorized::new(certificates, authenticator.clone(), self.clone()))
            .add_service(Authorized::new(aaa, authenticator.clone(), self))
    }
}

impl NodeDirectory for LeaderHandle {
    async fn check(&self, id: &str, public_key: &[u8; 32]) -> Result<(), Status> {
        self.0.check_node(id, public_key).await
    }

    fn is_removed(&self, id: &str, public_key: &[u8; 32]) -> bool {
        !matches!(self.0.state.view().node(id), Some(Ok(node)) if is_up(node, public_key))
    }
}

/// Accepts the forwarded caller identity only from nodes that are consensus members now.
pub(crate) struct ConsensusForwarders {
    leader: tokio::sync::watch::Receiver<Option<Arc<Leader>>>,
    credentials: CredentialsWatch,
}

impl ConsensusForwarders {
    pub(crate) const fn new(
        leader: tokio::sync::watch::Receiver<Option<Arc<Leader>>>,
        credentials: CredentialsWatch,
    ) -> Self {
        Self { leader, credentials }
    }
}

#[async_trait]
impl Forwarders for ConsensusForwarders {
    async fn may_forward(&self, shown: &CallerCertificates) -> bool {
        let mut leaders = self.leader.clone();
        let Some(leader) = leaders
            .wait_for(Option::is_some)
            .await
            .ok()
            .and_then(|leader| leader.clone())
        else {
            return false;
        };
        let recognized = recognized(&shown.0, self.credentials.newest().ca(), leader.now());
        let Ok(Identity::Node { id, public_key }) = recognized else {
            return false;
        };
        let is_member = |node: &NodeRecord| node.roles().consensus_member.is_some() && is_up(node, &public_key);
        leader.knows(&id, is_member).await.unwrap_or(false)
    }

    fn refuses(&self, path: &str, shown: &CallerCertificates) -> Option<String> {
        // Methods of other services, and methods without authentication, are judged by the leader's own services.
        let Ok(Authorization::Authenticated { .. }) = Methods::of_curator().authorization(path) else {
            return None;
        };
        let recognized = recognized(&shown.0, self.credentials.newest().ca(), curator_identity::wall_clock());
        recognized.err().map(|why| why.to_string())
    }

    fn standing(&self, shown: &CallerCertificates) -> Standing {
        match recognized(&shown.0, self.credentials.newest().ca(), curator_identity::wall_clock()) {
            Ok(Identity::User { .. }) => Standing::User,
            Ok(Identity::Node { .. }) => Standing::Member,
            Err(_) => Standing::Stranger,
        }
    }
}

/// Returns the ID of the calling node; an error if the caller is not a node.
fn calling_node<T>(request: &tonic::Request<T>) -> Result<String, Status> {
    match caller(request)? {
        Caller::Node { id, .. } => Ok(id.clone()),
        Caller::User { .. } | Caller::Anybody { .. } => {
            Err(Status::permission_denied("this method requires a node certificate"))
        }
    }
}

/// Returns the address that the call comes from, if it is known.
fn calling_address<T>(request: &tonic::Request<T>) -> Option<IpAddr> {
    request.extensions().get().map(|CallerAddress(address)| *address)
}

/// Returns the key that the caller proved to own with a self-signed certificate.
fn calling_key<T>(request: &tonic::Request<T>) -> Result<Option<[u8; 32]>, Status> {
    match caller(request)? {
        Caller::Anybody { key } => Ok(*key),
        Caller::Node { .. } | Caller::User { .. } => Ok(None),
    }
}
