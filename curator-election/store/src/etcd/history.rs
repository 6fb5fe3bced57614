//! How much of its history an etcd keeps, which nobody needs for long, and which only compaction takes away.

use bytes::Bytes;

use super::EtcdStore;
use crate::{Keys, Range, Revision, Store, StoreError};

impl EtcdStore {
    /// Whether etcd still has what was so `revisions` ago. It is asked for `key`, which need not be there, but has to be one that may be
    /// read.
    ///
    /// Cancellation safe.
    ///
    /// # Errors
    /// etcd does not answer, or does not let us read the key.
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
