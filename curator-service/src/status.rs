//! What an instance knows of its election, and what it is in it.

use std::sync::Arc;
use std::time::Duration;

use curator_election::store::Store;
use curator_election::{ElectionStatus, Process, StoreElection};
use curator_proto::private::LeaderElectionValue;

/// What an instance of the Curator knows of its election.
pub type LeaderStatus = ElectionStatus<LeaderElectionValue>;

/// What an instance is in its election.
#[derive(Clone, Debug)]
pub(crate) struct CandidateConfig {
    /// What it says of itself as a candidate.
    pub(crate) value: LeaderElectionValue,
    /// Of the election's keys.
    pub(crate) prefix: String,
    /// That it asks for.
    pub(crate) ttl: Duration,
}

impl CandidateConfig {
    pub(crate) fn new(node_id: String, election_prefix: String, ttl: Duration, advertise: String) -> Arc<Self> {
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
        })
    }

    /// The election that it stands in.
    pub(crate) fn election(&self, store: Arc<dyn Store>) -> StoreElection<dyn Store> {
        StoreElection::new(store, self.prefix.clone(), self.ttl / 3).with_transfer::<LeaderElectionValue>()
    }

    pub(crate) fn address(&self) -> String {
        address(&self.value)
    }
}

/// The preferred address, if it says one.
pub(crate) fn address(value: &LeaderElectionValue) -> String {
    value.advertised_addresses.first().cloned().unwrap_or_default()
}
