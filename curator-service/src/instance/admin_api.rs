//! The `Instance` service: the status of one instance, for operators.
//!
//! It is answered locally, also by followers and without quorum. The instance authenticates the caller's certificate,
//! but has no current state, so it does not know whether a node was deleted. So only users are answered.

use std::sync::Arc;
use std::time::Duration;

use curator_election::backend::Candidate as Queued;
use curator_election::clock::{BootClock, Clock};
use curator_election::store::Store;
use curator_election::{ElectionBackend, ElectionStatus, LeaderValue};
use curator_proto::admin_api::instance_server::{Instance, InstanceServer};
use curator_proto::admin_api::{
    Candidate, Consensus as ConsensusMessage, GetInstanceStatusRequest, GetInstanceStatusResponse, GetLogFilterRequest,
    GetLogFilterResponse, Leader, Role, SetLogFilterRequest, SetLogFilterResponse, consensus,
};
use curator_proto::private::LeaderElectionValue;
use tokio::sync::watch;
use tokio::time::timeout;
use tonic::{Request, Response, Status};
use tracing::info;

use crate::auth::{Authenticator, Authorized, Caller, NodeDirectory};
use crate::consensus::{Consensus, ConsensusStatus, Endpoint};
use crate::instance::leader_address::{recorded_host, with_port};
use crate::instance::role_history::RoleHistory;
use crate::log_filter::LogFilter;
use crate::status::{CandidateConfig, LeaderStatus, address, inactive_reason};
use crate::status_page::term_history::TermHistory;

/// The timeout of requests to the consensus. They add details; the status does not depend on them.
const CONSENSUS_TIMEOUT: Duration = Duration::from_millis(2_500);

/// Rejects all nodes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NoNodes;

impl NodeDirectory for NoNodes {
    async fn check(&self, _: &str, _: &[u8; 32]) -> Result<(), Status> {
        Err(only_users())
    }

    fn is_removed(&self, _: &str, _: &[u8; 32]) -> bool {
        true
    }
}

fn only_users() -> Status {
    Status::permission_denied("the Instance service requires a user certificate")
}

/// The `Instance` service of one instance.
#[derive(Clone)]
pub(crate) struct InstanceService {
    candidate: Arc<CandidateConfig>,
    consensus: Arc<dyn Consensus>,
    status: watch::Receiver<LeaderStatus>,
    history: RoleHistory,
    terms: TermHistory,
    log_filter: Option<Arc<dyn LogFilter>>,
    unreached_by: Option<watch::Receiver<Vec<String>>>,
}

impl InstanceService {
    pub(crate) fn new(
        candidate: Arc<CandidateConfig>,
        consensus: Arc<dyn Consensus>,
        status: watch::Receiver<LeaderStatus>,
        (history, terms): (RoleHistory, TermHistory),
        log_filter: Option<Arc<dyn LogFilter>>,
    ) -> Self {
        Self {
            candidate,
            consensus,
            status,
            history,
            terms,
            log_filter,
            unreached_by: None,
        }
    }

    /// Sets the source of the followers that do not reach this leader.
    pub(crate) fn unreached_by(mut self, told: watch::Receiver<Vec<String>>) -> Self {
        self.unreached_by = Some(told);
        self
    }

    fn log_filter(&self) -> Result<&dyn LogFilter, Status> {
        self.log_filter
            .as_deref()
            .ok_or_else(|| Status::failed_precondition("the log filter of this instance cannot be changed at run time"))
    }

    /// The service behind authentication.
    pub(crate) fn into_server(
        self,
        authenticator: Arc<dyn Authenticator>,
    ) -> Authorized<InstanceServer<Self>, NoNodes> {
        Authorized::new(InstanceServer::new(self), authenticator, NoNodes)
    }

    async fn answer(&self) -> GetInstanceStatusResponse {
        let store = match &*self.consensus.status().borrow() {
            ConsensusStatus::Running(store) => Ok(store.clone()),
            ConsensusStatus::NotRunning { reason } => Err(reason.clone()),
        };
        let membership = self.consensus.membership();
        let queued = async {
            match &store {
                Ok(store) => self
                    .candidate
                    .election(store.clone())
                    .candidates()
                    .await
                    .unwrap_or_default(),
                Err(_) => Vec::new(),
            }
        };
        // Independent timeouts: one request that hangs does not affect the others.
        let (endpoints, members, queued) = tokio::join!(
            timeout(CONSENSUS_TIMEOUT, self.consensus.endpoints()),
            timeout(CONSENSUS_TIMEOUT, membership.members()),
            timeout(CONSENSUS_TIMEOUT, queued),
        );
        let members = match members {
            Ok(Ok(members)) => Ok(members),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("the consensus did not answer within {CONSENSUS_TIMEOUT:?}")),
        };
        let consensus = ConsensusMessage {
            running: store.is_ok(),
            not_running_reason: store.as_ref().err().cloned().unwrap_or_default(),
            endpoints: endpoints.unwrap_or_default().into_iter().map(endpoint).collect(),
            members_error: members.as_ref().err().cloned().unwrap_or_default(),
            members: members.unwrap_or_default().into_iter().map(member).collect(),
            cluster_id: self.consensus.cluster_id().unwrap_or_default(),
        };
        // Read last: it takes no time and is as fresh as possible.
        let status = self.status.borrow().clone();
        let leader = self.leader(&status, store.ok().as_ref()).await;
        let (role, reason, time_left) = match &status {
            ElectionStatus::Leader(term) => match inactive_reason(term) {
                None => (Role::Leader, String::new(), Some(term.remaining())),
                Some(reason) => (Role::Undetermined, reason.to_owned(), None),
            },
            ElectionStatus::Follower(_) => (Role::Follower, String::new(), None),
            ElectionStatus::Undetermined(reason) => (Role::Undetermined, reason.to_string(), None),
        };
        // A leader whose store refused its challenge key has no limit.
        let failover_limit = match &status {
            ElectionStatus::Leader(term) if term.confirmed_until().is_none() => None,
            _ => self.candidate.failover_limit,
        };
        let seen = self.history.look(BootClock.now());
        GetInstanceStatusResponse {
            node_id: self.candidate.value.node_id.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            commit: crate::COMMIT.to_owned(),
            address: self.candidate.address(),
            uptime: Some(duration(seen.uptime)),
            role: role.into(),
            undetermined_reason: reason,
            time_in_role: Some(duration(seen.time_in_role)),
            transitions: seen.transitions,
            leader,
            ttl: Some(duration(self.candidate.ttl)),
            time_left: time_left.map(duration),
            failover_limit: failover_limit.map(duration),
            leader_silent: self.terms.silent_for(BootClock.now()).map(duration),
            unreached_by: match (&self.unreached_by, role) {
                (Some(told), Role::Leader) => told.borrow().clone(),
                _ => Vec::new(),
            },
            consensus: Some(consensus),
            candidates: queued.unwrap_or_default().into_iter().map(candidate).collect(),
        }
    }

    async fn leader(&self, status: &LeaderStatus, store: Option<&Arc<dyn Store>>) -> Option<Leader> {
        match status {
            ElectionStatus::Undetermined(_) => None,
            ElectionStatus::Leader(term) => term.is_valid().then(|| Leader {
                node_id: self.candidate.value.node_id.clone(),
                address: self.candidate.address(),
                lock_key: String::from_utf8_lossy(term.lock_key()).into_owned(),
                lock_revision: term.lock_revision().0,
            }),
            ElectionStatus::Follower(following) => {
                let mut address = address(&following.leader);
                if let (true, Some(store)) = (address.is_empty(), store) {
                    let recorded = recorded_host(&**store, &following.leader.node_id);
                    if let Ok(Ok(host)) = timeout(CONSENSUS_TIMEOUT, recorded).await {
                        address = with_port(&host);
                    }
                }
                Some(Leader {
                    node_id: following.leader.node_id.clone(),
                    address,
                    lock_key: String::from_utf8_lossy(&following.key).into_owned(),
                    lock_revision: following.revision.0,
                })
            }
        }
    }
}

fn candidate(queued: Queued) -> Candidate {
    let value = <LeaderElectionValue as LeaderValue>::decode(&queued.value).unwrap_or_default();
    Candidate {
        address: address(&value),
        node_id: value.node_id,
        lock_key: String::from_utf8_lossy(&queued.key).into_owned(),
        lock_revision: queued.create_revision.0,
    }
}

fn endpoint(endpoint: Endpoint) -> consensus::Endpoint {
    let Endpoint {
        url,
        cluster_id,
        status,
    } = endpoint;
    let cluster_id = cluster_id.unwrap_or_default();
    match status {
        Ok(status) => consensus::Endpoint {
            url,
            error: String::new(),
            member_id: status.member_id,
            version: status.version,
            leads: status.leads,
            database_bytes: i64::try_from(status.database_bytes).unwrap_or(i64::MAX),
            cluster_id,
        },
        Err(error) => consensus::Endpoint {
            url,
            error: error.to_string(),
            cluster_id,
            ..Default::default()
        },
    }
}

fn member(member: crate::consensus::Member) -> consensus::Member {
    consensus::Member {
        id: member.id,
        name: member.node_id(),
        learner: member.learner,
    }
}

fn duration(duration: Duration) -> prost_types::Duration {
    // Longer durations than the message can hold do not occur.
    prost_types::Duration::try_from(duration).unwrap_or_default()
}

#[tonic::async_trait]
impl Instance for InstanceService {
    async fn get_instance_status(
        &self,
        request: Request<GetInstanceStatusRequest>,
    ) -> Result<Response<GetInstanceStatusResponse>, Status> {
        user(&request)?;
        Ok(Response::new(self.answer().await))
    }

    async fn get_log_filter(
        &self,
        request: Request<GetLogFilterRequest>,
    ) -> Result<Response<GetLogFilterResponse>, Status> {
        user(&request)?;
        let filter = self.log_filter()?.current();
        Ok(Response::new(GetLogFilterResponse { filter }))
    }

    async fn set_log_filter(
        &self,
        request: Request<SetLogFilterRequest>,
    ) -> Result<Response<SetLogFilterResponse>, Status> {
        let user = user(&request)?;
        let filter = request.into_inner().filter;
        let changed = self.log_filter()?.change(&filter);
        let previous = changed.map_err(Status::invalid_argument)?;
        info!(user, from = previous, to = filter, "log filter changed");
        Ok(Response::new(SetLogFilterResponse { previous }))
    }
}

/// The calling user. A node that is authenticated in another way is rejected here too.
fn user<T>(request: &Request<T>) -> Result<String, Status> {
    match crate::auth::caller(request)? {
        Caller::User { identity } => Ok(identity.clone()),
        _ => Err(only_users()),
    }
}

#[cfg(test)]
mod tests {
    use curator_election::memory::MemoryCluster;
    use curator_election::store::{LeaseId, Revision};
    use curator_election::{LeaderInfo, Reason, Term};
    use tonic::Code;

    use super::*;
    use crate::config::Config;
    use crate::consensus::FixedConsensus;

    fn config(consensus: FixedConsensus) -> Config {
        let mut config = Config::new("node-1", Arc::new(consensus));
        config.leader_ttl = Duration::from_secs(6);
        config
    }

    fn service(config: &Config, status: LeaderStatus) -> InstanceService {
        let candidate = CandidateConfig::new(
            config.node_id.clone(),
            config.election_prefix.clone(),
            config.effective_ttl(),
            config.effective_failover_limit(),
            "127.0.0.1:1".into(),
        );
        let (_, status) = watch::channel(status);
        let history = RoleHistory::new(BootClock.now());
        InstanceService::new(
            candidate,
            config.consensus.clone(),
            status,
            (history, TermHistory::default()),
            config.log_filter.clone(),
        )
    }

    fn by(caller: Caller) -> Request<GetInstanceStatusRequest> {
        asks(caller, GetInstanceStatusRequest {})
    }

    fn asks<T>(caller: Caller, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.extensions_mut().insert(caller);
        request
    }

    /// Takes what begins with a letter.
    struct Letters(std::sync::Mutex<String>);

    impl LogFilter for Letters {
        fn current(&self) -> String {
            self.0.lock().expect("no panic").clone()
        }

        fn change(&self, filter: &str) -> Result<String, String> {
            if filter.starts_with(char::is_alphabetic) {
                Ok(std::mem::replace(
                    &mut *self.0.lock().expect("no panic"),
                    filter.to_owned(),
                ))
            } else {
                Err("give letters".to_owned())
            }
        }
    }

    #[tokio::test]
    async fn the_log_filter_is_changed_by_users_alone() {
        let mut config = config(FixedConsensus::not_running("a test"));
        let undetermined = || ElectionStatus::Undetermined(Reason::NoLeader);
        let user = || Caller::User {
            identity: "owner".into(),
        };
        let set = |filter: &str| SetLogFilterRequest { filter: filter.into() };
        let without = service(&config, undetermined());
        let refused = without
            .set_log_filter(asks(user(), set("debug")))
            .await
            .expect_err("none");
        assert_eq!(refused.code(), Code::FailedPrecondition);

        let filter = Arc::new(Letters(std::sync::Mutex::new("info".into())));
        config.log_filter = Some(filter.clone());
        let service = service(&config, undetermined());
        for caller in [
            Caller::Anybody { key: None },
            Caller::Node {
                id: "node-2".into(),
                public_key: None,
            },
        ] {
            let refused = service.set_log_filter(asks(caller.clone(), set("off"))).await;
            assert_eq!(refused.expect_err("no user").code(), Code::PermissionDenied);
            let refused = service.get_log_filter(asks(caller, GetLogFilterRequest {})).await;
            assert_eq!(refused.expect_err("no user").code(), Code::PermissionDenied);
        }
        let refused = service.set_log_filter(asks(user(), set("="))).await.expect_err("bad");
        assert_eq!(
            (refused.code(), refused.message()),
            (Code::InvalidArgument, "give letters")
        );
        assert_eq!(filter.current(), "info");

        let changed = service.set_log_filter(asks(user(), set("debug"))).await.expect("good");
        assert_eq!(changed.into_inner().previous, "info");
        let now = service
            .get_log_filter(asks(user(), GetLogFilterRequest {}))
            .await
            .expect("a user");
        assert_eq!(now.into_inner().filter, "debug");
    }

    #[tokio::test]
    async fn only_users_are_answered() {
        let config = config(FixedConsensus::not_running("a test"));
        let service = service(&config, ElectionStatus::Undetermined(Reason::NoLeader));
        let user = Caller::User {
            identity: "owner".into(),
        };
        let answer = service
            .get_instance_status(by(user))
            .await
            .expect("a user")
            .into_inner();
        assert_eq!(answer.role(), Role::Undetermined);
        assert_eq!(answer.undetermined_reason, "no candidate leads");
        assert_eq!(answer.consensus.expect("always").not_running_reason, "a test");
        for caller in [
            Caller::Anybody { key: None },
            Caller::Node {
                id: "node-2".into(),
                public_key: None,
            },
        ] {
            let refused = service.get_instance_status(by(caller)).await.expect_err("no user");
            assert_eq!(refused.code(), Code::PermissionDenied);
        }
        assert_eq!(
            NoNodes.check("node-2", &[0; 32]).await.expect_err("a node").code(),
            Code::PermissionDenied
        );
    }

    #[tokio::test]
    async fn a_follower_tells_of_its_leader_and_of_all_candidates() {
        let cluster = MemoryCluster::new(1);
        let config = config(FixedConsensus::running(Arc::new(cluster.client(0))));
        let leader = LeaderElectionValue {
            node_id: "node-2".into(),
            advertised_addresses: vec!["127.0.0.1:2".into()],
            ..Default::default()
        };
        let following = LeaderInfo {
            leader: leader.clone(),
            key: "/leader/1".into(),
            revision: Revision(2),
        };
        let service = service(&config, ElectionStatus::Follower(following));
        let election = service.candidate.election(Arc::new(cluster.client(0)));
        let lease = election.grant(Duration::from_secs(60)).await.expect("no faults").id;
        assert_eq!(Some(lease), LeaseId::new(lease.get()));
        election
            .campaign(lease, leader.encode().into(), None)
            .await
            .expect("alone");
        let answer = service.answer().await;
        assert_eq!(answer.role(), Role::Follower);
        let told = answer.leader.expect("known");
        assert_eq!(
            (told.node_id.as_str(), told.address.as_str()),
            ("node-2", "127.0.0.1:2")
        );
        assert_eq!(answer.candidates.len(), 1);
        assert_eq!(answer.candidates[0].node_id, "node-2");
        assert_eq!(answer.candidates[0].lock_key, format!("/leader/{lease}"));
        assert_eq!(answer.ttl.expect("always").seconds, 6);
        assert_eq!(answer.time_left, None, "that is the leader's to know");
    }

    #[tokio::test(start_paused = true)]
    async fn a_leader_tells_how_long_it_may_until_it_may_no_more() {
        let config = config(FixedConsensus::not_running("a test"));
        let clock = Arc::new(curator_election::clock::TokioClock::new());
        let until = clock.now() + Duration::from_secs(5);
        let (_keeper, term) = Term::for_test("/leader/a", Revision(9), until, clock);
        let service = service(&config, ElectionStatus::Leader(term));
        let answer = service.answer().await;
        assert_eq!(answer.role(), Role::Leader);
        assert_eq!(answer.time_left.expect("leads").seconds, 5);
        assert_eq!(answer.leader.expect("itself").lock_revision, 9);
        tokio::time::advance(Duration::from_secs(5)).await;
        let answer = service.answer().await;
        assert_eq!(answer.role(), Role::Undetermined);
        assert_eq!((answer.leader, answer.time_left), (None, None));
    }
}
