//! How much of its history an etcd keeps, which nobody needs for long, and which only compaction takes away.

use bytes::Bytes;
use etcd_client::GetOptions;

use super::classify::Call;
use super::{EtcdStore, StoreError};

impl EtcdStore {
    /// Whether etcd still has what was so `revisions` ago. It is asked for `key`, which need not be there, but has to be one that may be
    /// read.
    ///
    /// Cancellation safe.
    ///
    /// # Errors
    /// etcd does not answer, or does not let us read the key.
    pub async fn keeps_more_than(&self, revisions: i64, key: Bytes) -> Result<bool, StoreError> {
        let newest = self.revision_seen_by(&key, None).await?;
        let old = newest - revisions;
        if old < 1 {
            return Ok(false);
        }
        match self.revision_seen_by(&key, Some(old)).await {
            Ok(_) => Ok(true),
            Err(StoreError::Compacted { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The newest revision, as an answer to a read at a revision says it.
    async fn revision_seen_by(&self, key: &Bytes, at: Option<i64>) -> Result<i64, StoreError> {
        let member = self.writable().await?;
        let mut options = GetOptions::new().with_limit(1).with_keys_only();
        if let Some(revision) = at {
            options = options.with_revision(revision);
        }
        let request = (key.to_vec(), options);
        let answer = self
            .call(member, Call::Read, request, |client, (key, options)| async move {
                client.kv_client().get(key, Some(options)).await
            })
            .await?;
        self.ours(member, answer.header())?;
        Ok(answer.header().map_or(0, etcd_client::ResponseHeader::revision))
    }
}
