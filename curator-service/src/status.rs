//! The election status of an instance and its configuration as a candidate.

use std::sync::Arc;
use std::time::Duration;

use curator_election::store::Store;
use curator_election::{ElectionStatus, Process, StoreElection, Term, Validity};
use curator_proto::private::LeaderElectionValue;

/// The election status of an instance.
pub type LeaderStatus = ElectionStatus<LeaderElectionValue>;

/// The instance as a candidate.
#[derive(Clone, Debug)]
pub(crate) struct CandidateConfig {
    /// The value of its lock key.
    pub(crate) value: LeaderElectionValue,
    /// The key prefix of the election.
    pub(crate) prefix: String,
    /// The TTL that it requests.
    pub(crate) ttl: Duration,
    /// Its failover limit.
    pub(crate) failover_limit: Option<Duration>,
}

impl CandidateConfig {
    pub(crate) fn new(
        node_id: String,
        election_prefix: String,
        ttl: Duration,
        failover_limit: Option<Duration>,
        advertise: String,
    ) -> Arc<Self> {
        let Process { number, address, boot } = Process::this(advertise);
        Arc::new(Self {
            value: LeaderElectionValue {
                node_id,
                ttl: ttl.as_secs(),
                advertised_addresses: vec![address],
                transfer_to_key: String::new(),
                process: number,
                boot,
            },
            prefix: election_prefix,
            ttl,
            failover_limit,
        })
    }

    /// The election on a store.
    pub(crate) fn election(&self, store: Arc<dyn Store>) -> StoreElection<dyn Store> {
        StoreElection::new(store, self.prefix.clone(), self.ttl / 3).with_transfer::<LeaderElectionValue>()
    }

    pub(crate) fn address(&self) -> String {
        address(&self.value)
    }
}

/// Why an instance whose role is leader does not act as one, if so.
pub(crate) fn inactive_reason(term: &Term) -> Option<&'static str> {
    match term.validity() {
        Validity::Valid => None,
        Validity::Suspended => Some("the term is suspended: the store has not confirmed it within the failover limit"),
        Validity::Ended => Some("the term has just ended"),
    }
}

/// The first advertised address; empty if there is none.
pub(crate) fn address(value: &LeaderElectionValue) -> String {
    value.advertised_addresses.first().cloned().unwrap_or_default()
}
