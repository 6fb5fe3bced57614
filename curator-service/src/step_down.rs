//! The `Leadership` service: makes the leader step down, optionally in favour of a named node.
//!
//! First the successor is determined, which may be refused; then the call is answered; then a task that outlives the
//! call hands over, as at shutdown. The answer comes first because a response sent after the end of the term would be
//! discarded.

pub(crate) mod handing_over;

use std::sync::Arc;
use std::time::Duration;

use curator_election::{ElectionBackend, LeaderValue, Term, TransferError, transfer_leadership};
use curator_listener::ListenerHandle;
use curator_proto::admin_api::leadership_server::{Leadership, LeadershipServer};
use curator_proto::admin_api::{StepDownRequest, StepDownResponse};
use curator_proto::private::LeaderElectionValue;
use tokio::sync::{Mutex, OwnedMutexGuard, mpsc, watch};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Response, Status};
use tracing::info;

pub(crate) use self::handing_over::ElectorSlot;
use crate::audit::Entry;
use crate::auth::{Caller, caller};
use crate::consensus::ConsensusStatus;
use crate::status::CandidateConfig;

/// Maximum time to let the named candidate move up in the queue; also limited by the TTL.
const TRANSFER_TIMEOUT: Duration = Duration::from_secs(5);
/// Maximum length of a node ID, in bytes. The ID is repeated in error messages, which are sent in a header.
const MAX_ID_BYTES: usize = 255;

/// A request to end a term.
pub(crate) struct HandOver {
    term: Term,
    /// Prevents concurrent requests until the hand-over is done.
    _settled: OwnedMutexGuard<()>,
}

/// Creates the service of each term.
#[derive(Clone)]
pub(crate) struct StepDownCoordinator {
    candidate: Arc<CandidateConfig>,
    consensus: watch::Receiver<ConsensusStatus>,
    requests: mpsc::Sender<HandOver>,
    settling: Arc<Mutex<()>>,
}

impl StepDownCoordinator {
    /// Returns the coordinator and the receiver of its requests.
    pub(crate) fn new(
        candidate: Arc<CandidateConfig>,
        consensus: watch::Receiver<ConsensusStatus>,
    ) -> (Self, mpsc::Receiver<HandOver>) {
        let (requests, received) = mpsc::channel(1);
        let coordinator = Self {
            candidate,
            consensus,
            requests,
            settling: Arc::default(),
        };
        (coordinator, received)
    }

    /// The service of one term.
    pub(crate) fn service(self, term: Term) -> LeadershipServer<LeadershipService> {
        LeadershipServer::new(LeadershipService {
            coordinator: self,
            term,
        })
    }

    /// Ends this term, or refuses to.
    pub(crate) async fn step_down(&self, term: &Term, request: StepDownRequest) -> Result<StepDownResponse, Status> {
        if request.to_node_id.len() > MAX_ID_BYTES {
            return Err(Status::invalid_argument(format!(
                "to_node_id: must be at most {MAX_ID_BYTES} bytes"
            )));
        }
        if !term.is_valid() {
            return Err(Status::unavailable("this instance's term as leader has ended"));
        }
        let revision = term.lock_revision();
        if request.expected_lock_revision != 0 && request.expected_lock_revision != revision.0 {
            return Err(Status::failed_precondition(format!(
                "term {} has already ended; {} now leads in term {revision}",
                request.expected_lock_revision, self.candidate.value.node_id
            )));
        }
        let busy = || Status::aborted("another StepDown call is in progress");
        let settled = self.settling.clone().try_lock_owned().map_err(|_| busy())?;
        let store = match &*self.consensus.borrow() {
            ConsensusStatus::Running(store) => store.clone(),
            ConsensusStatus::NotRunning { reason } => return Err(Status::unavailable(reason.clone())),
        };
        let election = self.candidate.election(store);
        let next_node_id = match request.to_node_id.as_str() {
            "" => next_candidate(&election).await?,
            to => {
                let within = TRANSFER_TIMEOUT.min(self.candidate.ttl);
                transfer_leadership(&election, term, &self.candidate.value, to, within)
                    .await
                    .map_err(refused)?;
                to.to_owned()
            }
        };
        let hand_over = HandOver {
            term: term.clone(),
            _settled: settled,
        };
        self.requests.try_send(hand_over).map_err(|_| busy())?;
        info!(next = next_node_id, lock_revision = revision.0, "step-down accepted");
        Ok(StepDownResponse {
            ending_lock_revision: revision.0,
            next_node_id,
        })
    }
}

/// Returns the ID of the node that leads next.
async fn next_candidate(election: &dyn ElectionBackend) -> Result<String, Status> {
    let candidates = election.candidates().await.map_err(|error| refused(error.into()))?;
    let next = candidates
        .get(1)
        .ok_or_else(|| Status::failed_precondition("no other candidate is waiting to become leader"))?;
    let value = <LeaderElectionValue as LeaderValue>::decode(&next.value);
    Ok(value.map(|value| value.node_id).unwrap_or_default())
}

fn refused(error: TransferError) -> Status {
    let code = match &error {
        TransferError::TermEnded | TransferError::Store(_) => Code::Unavailable,
        TransferError::NotQueued { .. } => Code::NotFound,
        _ => Code::FailedPrecondition,
    };
    Status::new(code, error.to_string())
}

/// The service, in one term.
pub(crate) struct LeadershipService {
    coordinator: StepDownCoordinator,
    term: Term,
}

#[tonic::async_trait]
impl Leadership for LeadershipService {
    async fn step_down(&self, request: Request<StepDownRequest>) -> Result<Response<StepDownResponse>, Status> {
        let entry = Entry::of(&request);
        let done = match caller(&request) {
            Ok(Caller::User { .. }) => self.coordinator.step_down(&self.term, request.into_inner()).await,
            Ok(_) => Err(Status::permission_denied("StepDown requires a user certificate")),
            Err(status) => Err(status),
        };
        entry.close(&done);
        done.map(Response::new)
    }
}

/// Carries out hand-over requests until cancelled.
pub(crate) async fn hand_over(
    mut requests: mpsc::Receiver<HandOver>,
    listener: &ListenerHandle,
    elector: &ElectorSlot,
    limit: Duration,
    cancel: CancellationToken,
) {
    while let Some(Some(request)) = cancel.run_until_cancelled(requests.recv()).await {
        // The StepDown call itself is among the calls that are drained first.
        handing_over::hand_over(listener, elector, limit, Some(&request.term)).await;
    }
}

#[cfg(test)]
mod tests {
    use curator_election::clock::{Clock, TokioClock};
    use curator_election::memory::MemoryCluster;
    use curator_election::store::{LeaseId, Revision, Store};
    use curator_election::{CampaignError, TermOwner};
    use tokio::task::JoinHandle;

    use super::*;
    use crate::config::Config;
    use crate::consensus::FixedConsensus;

    struct Stage {
        coordinator: StepDownCoordinator,
        requests: mpsc::Receiver<HandOver>,
        term: Term,
        term_owner: Option<TermOwner>,
        _consensus: watch::Sender<ConsensusStatus>,
        campaigns: Vec<JoinHandle<Result<curator_election::backend::Elected, CampaignError>>>,
        election: Arc<curator_election::StoreElection<dyn Store>>,
    }

    /// The first node leads; the others are queued in order.
    async fn stage(names: &[&str]) -> Stage {
        let cluster = MemoryCluster::new(1);
        let store: Arc<dyn Store> = Arc::new(cluster.client(0));
        let config = Config::new(names[0], Arc::new(FixedConsensus::running(store.clone())));
        let candidate = CandidateConfig::new(
            config.node_id.clone(),
            config.election_prefix.clone(),
            config.effective_ttl(),
            config.effective_failover_limit(),
            "127.0.0.1:1".into(),
        );
        let election = Arc::new(candidate.election(store.clone()));
        let mut campaigns = Vec::new();
        let mut first: Option<(LeaseId, Revision)> = None;
        for name in names {
            let lease = election.grant(Duration::from_secs(3_600)).await.expect("no faults").id;
            let value = LeaderElectionValue {
                node_id: (*name).into(),
                ..candidate.value.clone()
            };
            let campaigning = election.clone();
            campaigns.push(tokio::spawn(async move {
                campaigning.campaign(lease, value.encode().into(), None).await
            }));
            while election.candidates().await.expect("no faults").len() < campaigns.len() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            if first.is_none() {
                let found = election.candidates().await.expect("no faults");
                first = Some((lease, found[0].create_revision));
            }
        }
        let (lease, revision) = first.expect("somebody");
        let clock = Arc::new(TokioClock::new());
        let until = clock.now() + Duration::from_secs(600);
        let key = format!("/leader/{lease}");
        let (term_owner, term) = Term::for_test_with_lease(key, revision, lease, until, clock);
        let (consensus, running) = watch::channel(ConsensusStatus::Running(store));
        let (coordinator, requests) = StepDownCoordinator::new(candidate, running);
        Stage {
            coordinator,
            requests,
            term,
            term_owner: Some(term_owner),
            _consensus: consensus,
            campaigns,
            election,
        }
    }

    fn to(node: &str) -> StepDownRequest {
        StepDownRequest {
            to_node_id: node.into(),
            expected_lock_revision: 0,
        }
    }

    impl Stage {
        async fn ask(&self, request: StepDownRequest) -> Result<StepDownResponse, (Code, String)> {
            let asked = self.coordinator.step_down(&self.term, request).await;
            asked.map_err(|status| (status.code(), status.message().to_owned()))
        }

        async fn queue(&self) -> Vec<String> {
            let candidates = self.election.candidates().await.expect("no faults");
            let id = |value| {
                <LeaderElectionValue as LeaderValue>::decode(value)
                    .expect("one")
                    .node_id
            };
            candidates.iter().map(|candidate| id(&candidate.value)).collect()
        }
    }

    impl Drop for Stage {
        fn drop(&mut self) {
            self.campaigns.iter().for_each(JoinHandle::abort);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_named_node_is_next_before_anything_is_handed_over() {
        let mut stage = stage(&["a", "b", "c"]).await;
        let answer = stage.ask(to("c")).await.expect("the candidate moves up");
        assert_eq!(answer.next_node_id, "c");
        assert_eq!(answer.ending_lock_revision, stage.term.lock_revision().0);
        assert_eq!(stage.queue().await[..2], ["a", "c"]);
        let hand_over = stage.requests.recv().await.expect("a hand-over is requested");
        assert_eq!(hand_over.term.lock_revision().0, stage.term.lock_revision().0);
    }

    /// Of two concurrent requests, one is carried out. The other is refused and does not change the queue.
    #[tokio::test(start_paused = true)]
    async fn concurrent_step_down_is_refused() {
        let mut stage = stage(&["a", "b", "c", "d"]).await;
        let (one, two) = tokio::join!(stage.ask(to("c")), stage.ask(to("d")));
        assert_eq!(one.expect("the first").next_node_id, "c");
        assert_eq!(two.expect_err("the second").0, Code::Aborted);
        // Refused until the hand-over is done.
        assert_eq!(stage.ask(to("")).await.expect_err("too late").0, Code::Aborted);
        assert_eq!(stage.queue().await[1], "c");
        drop(stage.requests.recv().await.expect("a hand-over is requested"));
        assert!(stage.requests.try_recv().is_err(), "once");
        assert_eq!(stage.ask(to("d")).await.expect("free again").next_node_id, "d");
    }

    #[tokio::test(start_paused = true)]
    async fn invalid_step_down_is_refused_without_hand_over() {
        let mut stage = stage(&["a", "b"]).await;
        let (code, message) = stage.ask(to("x")).await.expect_err("no candidate");
        assert_eq!(code, Code::NotFound);
        assert!(message.contains("candidates are b"), "{message}");
        assert_eq!(stage.ask(to("a")).await.expect_err("leads").0, Code::FailedPrecondition);
        let (code, message) = stage.ask(to(&"x".repeat(100_000))).await.expect_err("too long");
        assert!(code == Code::InvalidArgument && message.len() < 100, "{message}");
        let other_term = StepDownRequest {
            to_node_id: String::new(),
            expected_lock_revision: stage.term.lock_revision().0 - 1,
        };
        let (code, message) = stage.ask(other_term).await.expect_err("another term");
        assert_eq!(code, Code::FailedPrecondition);
        assert!(message.contains("has already ended"), "{message}");
        assert!(stage.requests.try_recv().is_err());
        let same_term = StepDownRequest {
            to_node_id: String::new(),
            expected_lock_revision: stage.term.lock_revision().0,
        };
        assert_eq!(stage.ask(same_term).await.expect("it is").next_node_id, "b");
    }

    #[tokio::test(start_paused = true)]
    async fn step_down_without_other_candidate_is_refused() {
        let mut stage = stage(&["a"]).await;
        let (code, message) = stage.ask(to("")).await.expect_err("alone");
        assert_eq!(code, Code::FailedPrecondition);
        assert!(message.contains("no other candidate"), "{message}");
        assert!(stage.requests.try_recv().is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn service_of_ended_term_refuses_to_step_down() {
        let mut stage = stage(&["a", "b"]).await;
        // The leader of the next term has a service of its own.
        drop(stage.term_owner.take());
        let (code, message) = stage.ask(to("b")).await.expect_err("the term has ended");
        assert_eq!(code, Code::Unavailable);
        assert!(message.contains("has ended"), "{message}");
        assert_eq!(stage.queue().await, ["a", "b"]);
        assert!(stage.requests.try_recv().is_err());
    }
}
