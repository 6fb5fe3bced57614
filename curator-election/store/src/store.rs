//! The trait [`Store`].

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use crate::{Keys, Lease, LeaseId, Range, RangeResult, Revision, StoreError, Txn, TxnResult, WatchStream};

/// A linearizable key-value store with transactions, leases and watches.
///
/// Every method returns within a bound that the implementation documents, even if the server accepts connections and
/// never replies. A watch ends with an error within such a bound once the server does not respond any more.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Executes a transaction.
    ///
    /// Cancellation: the call may have been executed or not, as after [`StoreError::Unknown`].
    async fn txn(&self, txn: Txn) -> Result<TxnResult, StoreError>;

    /// Reads linearizably: the result reflects every write acknowledged before the call began.
    ///
    /// Cancellation safe.
    async fn range(&self, range: Range) -> Result<RangeResult, StoreError>;

    /// Watches `keys` from revision `from` (inclusive); 0 is "from now on".
    ///
    /// Returns once the store has confirmed the watch, so that no later change is missed. Cancellation safe.
    ///
    /// A compacted `from` is reported here or by the first item of the stream: etcd may confirm such a watch first.
    async fn watch(&self, keys: Keys, from: Revision) -> Result<WatchStream, StoreError>;

    /// Grants a lease of `ttl`, rounded up to seconds.
    ///
    /// Cancellation or a lost reply may leave an unused lease, which expires after its TTL.
    async fn grant(&self, ttl: Duration) -> Result<Lease, StoreError>;

    /// Renews a lease once; returns its TTL from now on.
    ///
    /// Several attempts may be in progress. `attempt` selects the member in an implementation with several members:
    /// equal numbers go to the same member first. Cancellation safe; the lease may have been renewed.
    async fn keep_alive(&self, lease: LeaseId, attempt: u32) -> Result<Duration, StoreError>;

    /// Revokes the lease, and deletes the keys attached to it.
    ///
    /// Cancellation: the lease may have been revoked or not; otherwise it expires after its TTL.
    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError>;

    /// The full key under which `key` is in the underlying store, such as with the prefix of a namespace. A store that
    /// wraps another one and changes keys, or passes on to one that may, must override it.
    fn key_in_store(&self, key: &Bytes) -> Bytes {
        key.clone()
    }
}

#[async_trait]
impl<S: Store + ?Sized> Store for Arc<S> {
    async fn txn(&self, txn: Txn) -> Result<TxnResult, StoreError> {
        (**self).txn(txn).await
    }

    async fn range(&self, range: Range) -> Result<RangeResult, StoreError> {
        (**self).range(range).await
    }

    async fn watch(&self, keys: Keys, from: Revision) -> Result<WatchStream, StoreError> {
        (**self).watch(keys, from).await
    }

    async fn grant(&self, ttl: Duration) -> Result<Lease, StoreError> {
        (**self).grant(ttl).await
    }

    async fn keep_alive(&self, lease: LeaseId, attempt: u32) -> Result<Duration, StoreError> {
        (**self).keep_alive(lease, attempt).await
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        (**self).revoke(lease).await
    }

    fn key_in_store(&self, key: &Bytes) -> Bytes {
        (**self).key_in_store(key)
    }
}
