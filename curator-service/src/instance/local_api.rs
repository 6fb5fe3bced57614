//! The `CuratorLocal` service, which every instance answers locally, whatever its role.

use std::pin::Pin;
use std::sync::Arc;

use curator_election::ElectionStatus;
use curator_election::store::{Keys, Range, Store};
use curator_identity::CURATOR_PORT;
use curator_proto::curator_api::curator_local_server::{CuratorLocal, CuratorLocalServer};
use curator_proto::curator_api::{
    GetCaCertificateRequest, GetCaCertificateResponse, GetCurrentLeaderRequest, GetCurrentLeaderResponse,
};
use curator_proto::private::LeaderElectionValue;
use futures::Stream;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Response, Status};
use tracing::warn;

use crate::complaint::Complaint;
use crate::consensus::ConsensusStatus;
use crate::instance::leader_address::{NoAddress, recorded_host};
use crate::instance::role::public_reason;
use crate::state::pki_layout::Layout;
use crate::status::LeaderStatus;

/// The `CuratorLocal` service of one instance.
#[derive(Clone)]
pub struct CuratorLocalService {
    node_id: String,
    advertise: String,
    consensus: watch::Receiver<ConsensusStatus>,
    status: watch::Receiver<LeaderStatus>,
    cancel: CancellationToken,
}

impl CuratorLocalService {
    pub(crate) const fn new(
        node_id: String,
        advertise: String,
        consensus: watch::Receiver<ConsensusStatus>,
        status: watch::Receiver<LeaderStatus>,
        cancel: CancellationToken,
    ) -> Self {
        Self {
            node_id,
            advertise,
            consensus,
            status,
            cancel,
        }
    }

    pub(crate) fn into_server(self) -> CuratorLocalServer<Self> {
        CuratorLocalServer::new(self)
    }

    fn answer(&self, leader_node_id: &str, address: (String, i32)) -> GetCurrentLeaderResponse {
        let (leader_host, leader_port) = address;
        GetCurrentLeaderResponse {
            leader_node_id: leader_node_id.to_owned(),
            leader_host,
            leader_port,
            this_node_id: self.node_id.clone(),
        }
    }

    /// The current leader, or why it is unknown.
    async fn leader(&self, status: &LeaderStatus) -> Result<GetCurrentLeaderResponse, Status> {
        match status {
            ElectionStatus::Leader(term) if term.is_valid() => {
                Ok(self.answer(&self.node_id, split_address(&self.advertise)))
            }
            ElectionStatus::Leader(_) => Err(Status::unavailable("this instance's term has ended")),
            ElectionStatus::Undetermined(reason) => Err(Status::unavailable(format!(
                "the leader is unknown: {}",
                public_reason(reason)
            ))),
            ElectionStatus::Follower(following) => {
                let leader = &following.leader;
                let address = match leader.advertised_addresses.first() {
                    Some(address) => split_address(address),
                    None => (self.recorded_address(leader).await?, i32::from(CURATOR_PORT)),
                };
                Ok(self.answer(&leader.node_id, address))
            }
        }
    }

    fn store(&self) -> Result<Arc<dyn Store>, Status> {
        match &*self.consensus.borrow() {
            ConsensusStatus::Running(store) => Ok(store.clone()),
            // The address and the state of the store are not disclosed to strangers.
            ConsensusStatus::NotRunning { .. } => {
                Err(Status::unavailable("this instance is not connected to its store yet"))
            }
        }
    }

    /// The address in the leader's node record, for a leader that does not advertise one.
    async fn recorded_address(&self, leader: &LeaderElectionValue) -> Result<String, Status> {
        let store = self.store()?;
        recorded_host(&*store, &leader.node_id).await.map_err(|error| {
            // The store's errors are not disclosed to strangers.
            let code = match error {
                NoAddress::NodeId | NoAddress::NoRecord => Code::Internal,
                NoAddress::Read(_) => return Status::internal("the leader's node record could not be read"),
                NoAddress::Corrupt(_) | NoAddress::NotReported => Code::Unavailable,
            };
            Status::new(code, error.to_string())
        })
    }
}

fn split_address(address: &str) -> (String, i32) {
    match address.rsplit_once(':') {
        Some((host, port)) => {
            let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
            (host, port.parse::<u16>().map_or(i32::from(CURATOR_PORT), i32::from))
        }
        None => (address.to_owned(), i32::from(CURATOR_PORT)),
    }
}

#[tonic::async_trait]
impl CuratorLocal for CuratorLocalService {
    type GetCurrentLeaderStream = Pin<Box<dyn Stream<Item = Result<GetCurrentLeaderResponse, Status>> + Send>>;

    /// Streams the current leader and each change. Ends with `UNAVAILABLE` when the leader is unknown.
    async fn get_current_leader(
        &self,
        _request: Request<GetCurrentLeaderRequest>,
    ) -> Result<Response<Self::GetCurrentLeaderStream>, Status> {
        enum Next {
            Answer,
            Changed,
            Over,
        }
        let state = (self.clone(), Next::Answer);
        let stream = futures::stream::unfold(state, |(mut this, next)| async move {
            match next {
                Next::Over => return None,
                Next::Answer => {}
                Next::Changed => tokio::select! {
                    changed = this.status.changed() => if changed.is_err() { return None },
                    // Otherwise open streams would delay the shutdown.
                    () = this.cancel.cancelled() => {
                        return Some((Err(Status::unavailable("this instance is shutting down")), (this, Next::Over)));
                    }
                },
            }
            let status = this.status.borrow_and_update().clone();
            let answer = this.leader(&status).await;
            let next = if answer.is_ok() { Next::Changed } else { Next::Over };
            Some((answer, (this, next)))
        });
        Ok(Response::new(Box::pin(stream)))
    }

    /// The certificate of the cluster's CA from the store. It never changes, so any instance may return it.
    async fn get_ca_certificate(
        &self,
        _request: Request<GetCaCertificateRequest>,
    ) -> Result<Response<GetCaCertificateResponse>, Status> {
        let store = self.store()?;
        let read = store
            .range(Range::all(Keys::One(Layout::CLUSTER.certificate())))
            .await
            .map_err(|error| {
                static COMPLAINT: Complaint = Complaint::new();
                COMPLAINT.say(|left_out| warn!(%error, left_out, "the cluster's certificate could not be read"));
                Status::unavailable("the cluster's certificate could not be read")
            })?;
        let stored = read.kvs.into_iter().next();
        let stored = stored.ok_or_else(|| Status::failed_precondition("the cluster is not bootstrapped"))?;
        Ok(Response::new(GetCaCertificateResponse {
            identity_ca_certificate: stored.value.to_vec(),
        }))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use curator_election::clock::{Clock, TokioClock};
    use curator_election::store::Revision;
    use curator_election::{LeaderInfo, Reason, Term};

    use super::*;

    const TERM: Duration = Duration::from_secs(5);

    fn service(status: LeaderStatus) -> CuratorLocalService {
        let reason = "for a test".to_owned();
        let (_, consensus) = watch::channel(ConsensusStatus::NotRunning { reason });
        let (_, status) = watch::channel(status);
        let cancel = CancellationToken::new();
        CuratorLocalService::new("node-1".into(), "127.0.0.1:7835".into(), consensus, status, cancel)
    }

    async fn ask(status: &LeaderStatus) -> Result<GetCurrentLeaderResponse, Status> {
        service(status.clone()).leader(status).await
    }

    fn following(addresses: &[&str]) -> LeaderStatus {
        let leader = LeaderElectionValue {
            node_id: "node-2".into(),
            ttl: 10,
            advertised_addresses: addresses.iter().map(|address| (*address).to_owned()).collect(),
            ..Default::default()
        };
        ElectionStatus::Follower(LeaderInfo {
            leader,
            key: "/leader/a".into(),
            revision: Revision(9),
        })
    }

    #[tokio::test(start_paused = true)]
    async fn a_leader_names_itself_until_its_term_ends_and_no_longer() {
        let clock = Arc::new(TokioClock::new());
        let until = clock.now() + TERM;
        let (_keeper, term) = Term::for_test("/leader/a", Revision(9), until, clock);
        // The status stays as it is, as it would if the election task were stuck.
        let status = ElectionStatus::Leader(term);
        let answer = ask(&status).await.expect("it leads");
        assert_eq!((answer.leader_node_id.as_str(), answer.leader_port), ("node-1", 7835));
        assert_eq!(answer.this_node_id, "node-1");
        tokio::time::advance(TERM).await;
        assert_eq!(ask(&status).await.unwrap_err().code(), Code::Unavailable);
    }

    #[tokio::test]
    async fn the_cas_certificate_is_told_once_there_is_one() {
        use curator_election::memory::MemoryCluster;
        use curator_election::store::{Op, Txn};
        let store = MemoryCluster::new(1);
        let service = |store| {
            let (_, consensus) = watch::channel(ConsensusStatus::Running(store));
            CuratorLocalService {
                consensus,
                ..service(ElectionStatus::Undetermined(Reason::NoLeader))
            }
        };
        let ask = async || {
            let service = service(Arc::new(store.client(0)));
            service
                .get_ca_certificate(Request::new(GetCaCertificateRequest {}))
                .await
        };
        assert_eq!(ask().await.unwrap_err().code(), Code::FailedPrecondition);
        let put = Txn::default().then(vec![Op::put(Layout::CLUSTER.certificate(), "der")]);
        store.client(0).txn(put).await.expect("no faults");
        assert_eq!(ask().await.unwrap().into_inner().identity_ca_certificate, b"der");
    }

    #[tokio::test]
    async fn a_follower_names_the_leader_and_where_it_is() {
        for (address, host, port) in [("10.0.0.2:1234", "10.0.0.2", 1234), ("[::1]:7835", "::1", 7835)] {
            let answer = ask(&following(&[address])).await.expect("it follows");
            assert_eq!(answer.leader_node_id, "node-2");
            assert_eq!((answer.leader_host.as_str(), answer.leader_port), (host, port));
        }
    }

    /// A leader that does not say where it is: the row of each thing that may be wrong with its record.
    #[tokio::test(start_paused = true)]
    async fn a_leader_is_looked_up_in_its_record() {
        use curator_election::memory::{Faults, Link, MemoryCluster};
        use curator_election::store::{Op, Txn};
        use curator_proto::common::NodeStatus;
        use prost::Message;
        let record = |address: &str| {
            let status = NodeStatus {
                external_address: address.into(),
                ..NodeStatus::default()
            };
            curator_proto::private::Node {
                status: Some(status),
                ..Default::default()
            }
            .encode_to_vec()
        };
        for (node_id, stored, link, expected) in [
            ("node-2", Some(record("10.0.0.2")), Link::Up, Ok("10.0.0.2")),
            ("node-2", Some(record("")), Link::Up, Err(Code::Unavailable)),
            ("node-2", Some(Vec::new()), Link::Up, Err(Code::Unavailable)),
            ("node-2", Some(vec![0xff]), Link::Up, Err(Code::Unavailable)),
            ("node-2", None, Link::Up, Err(Code::Internal)),
            ("node-2", Some(record("10.0.0.2")), Link::Refused, Err(Code::Internal)),
            ("", Some(record("10.0.0.2")), Link::Up, Err(Code::Internal)),
            ("a/b", Some(record("10.0.0.2")), Link::Up, Err(Code::Internal)),
        ] {
            let cluster = MemoryCluster::new(1);
            if let Some(stored) = stored {
                let put = Txn::default().then(vec![Op::put("/nodes/node-2", stored)]);
                cluster.client(0).txn(put).await.expect("no faults");
            }
            let faults = Faults {
                link,
                ..Faults::default()
            };
            cluster.set_faults(0, faults);
            let store: Arc<dyn Store> = Arc::new(cluster.client(0));
            let (_, consensus) = watch::channel(ConsensusStatus::Running(store));
            let mut status = following(&[]);
            if let ElectionStatus::Follower(following) = &mut status {
                following.leader.node_id = node_id.into();
            }
            let service = CuratorLocalService {
                consensus,
                ..service(status.clone())
            };
            let answer = service.leader(&status).await;
            let told = answer.map(|answer| (answer.leader_host, answer.leader_port, answer.this_node_id));
            let expected = expected.map(|host| (host.to_owned(), i32::from(CURATOR_PORT), "node-1".to_owned()));
            assert_eq!(told.map_err(|status| status.code()), expected, "{node_id:?} {link:?}");
        }
    }

    /// One answer for each change of the status, and the end when nobody is known to lead.
    #[tokio::test(start_paused = true)]
    async fn each_change_of_the_leader_is_told() {
        use futures::StreamExt;
        let (changes, status) = watch::channel(following(&["10.0.0.2:7835"]));
        let service = CuratorLocalService {
            status,
            ..service(ElectionStatus::Undetermined(Reason::NoLeader))
        };
        let request = Request::new(GetCurrentLeaderRequest {});
        let mut answers = service
            .get_current_leader(request)
            .await
            .expect("it begins")
            .into_inner();
        let mut next = async || tokio::time::timeout(TERM, answers.next()).await;
        assert_eq!(next().await.unwrap().unwrap().unwrap().leader_host, "10.0.0.2");
        next().await.expect_err("nothing has changed");
        changes.send_replace(following(&["10.0.0.3:7835"]));
        assert_eq!(next().await.unwrap().unwrap().unwrap().leader_host, "10.0.0.3");
        changes.send_replace(ElectionStatus::Undetermined(Reason::NoLeader));
        assert_eq!(next().await.unwrap().unwrap().unwrap_err().code(), Code::Unavailable);
        assert!(next().await.unwrap().is_none());
    }

    #[tokio::test]
    async fn what_is_not_known_is_unavailable() {
        let undetermined = ElectionStatus::Undetermined(Reason::NoLeader);
        assert_eq!(ask(&undetermined).await.unwrap_err().code(), Code::Unavailable);
        // A leader that does not say where it is would be looked up, and there is nothing to look in yet.
        assert_eq!(ask(&following(&[])).await.unwrap_err().code(), Code::Unavailable);
    }
}
