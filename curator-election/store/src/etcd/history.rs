//! Detects an etcd whose history is never compacted.

use bytes::Bytes;

use super::EtcdStore;
use crate::{Keys, Range, Revision, Store, StoreError};

impl EtcdStore {
    /// Whether etcd still keeps the state of `revisions` revisions ago. Reads `key`, which need not exist, but must be
    /// readable for this user.
    ///
    /// Cancellation safe.
    ///
    /// # Errors
    /// If etcd does not respond, or rejects the read.
    pub async fn keeps_more_than(&self, revisions: i64, key: Bytes) -> Result<bool, StoreError> {
        let at = |revision| Range {
            limit: 1,
            keys_only: true,
            revision,
            ..Range::all(Keys::one(key.clone()))
        };
        let newest = self.range(at(Revision(0))).await?.revision;
        let old = newest.0 - revisions;
        if old < 1 {
            return Ok(false);
        }
        match self.range(at(Revision(old))).await {
            Ok(_) => Ok(true),
            Err(StoreError::Compacted { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }
}
