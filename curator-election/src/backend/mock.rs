//! The `mockall` mock of the backend. A provided method of the trait is not mocked: it does what the trait says.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;

use super::{CampaignError, Candidate, Elected, ElectionBackend, Observation};
use crate::challenge::ChallengeRecord;
use crate::store::{Lease, LeaseId, Revision, StoreError};

mockall::mock! {
    /// A mock of [`ElectionBackend`]. Its calls complete at once; `FakeElection` has campaigns that stay pending.
    #[derive(Debug)]
    pub ElectionBackend {}

    #[async_trait]
    impl ElectionBackend for ElectionBackend {
        async fn candidates(&self) -> Result<Vec<Candidate>, StoreError>;
        async fn remove(&self, key: Bytes, mod_revision: Revision) -> Result<bool, StoreError>;
        async fn grant(&self, ttl: Duration) -> Result<Lease, StoreError>;
        async fn keep_alive(&self, lease: LeaseId, attempt: u32) -> Result<Duration, StoreError>;
        async fn campaign(
            &self,
            lease: LeaseId,
            value: Bytes,
            record: Option<ChallengeRecord>,
        ) -> Result<Elected, CampaignError>;
        async fn proclaim(
            &self,
            key: Bytes,
            revision: Revision,
            lease: LeaseId,
            value: Bytes,
        ) -> Result<bool, StoreError>;
        fn observe(&self) -> BoxStream<'static, Observation>;
        async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError>;
    }
}
