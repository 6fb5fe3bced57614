//! The trait of a store.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use crate::{Keys, Lease, LeaseId, Range, RangeResult, Revision, StoreError, Txn, TxnResult, WatchStream};

/// A linearizable key-value store with transactions, leases and watches.
///
/// Every method returns within a bound that the implementation states, also when the store accepts connections and
/// never answers; a watch ends with an error within such a bound once the store no longer answers it.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Carries out a transaction.
    ///
    /// Cancellation: the call may have been carried out or not, as after [`StoreError::Unknown`].
    async fn txn(&self, txn: Txn) -> Result<TxnResult, StoreError>;

    /// Reads, linearizably: it reflects every write acknowledged before the call began.
    ///
    /// Cancellation safe.
    async fn range(&self, range: Range) -> Result<RangeResult, StoreError>;

    /// Watches `keys` from revision `from` (inclusive); 0 is "from now on".
    ///
    /// Returns once the store has confirmed the watch, so that no later change is missed. Cancellation safe.
    ///
    /// A `from` that is compacted may be told here or by the stream's first item: etcd confirms such a watch first.
    async fn watch(&self, keys: Keys, from: Revision) -> Result<WatchStream, StoreError>;

    /// Asks for a lease of `ttl`, which is sent in whole seconds, rounded up.
    ///
    /// Cancellation, or a lost reply, leaves a lease behind that nobody renews: it is gone after its TTL.
    async fn grant(&self, ttl: Duration) -> Result<Lease, StoreError>;

    /// Renews a lease once; returns the TTL that it has from now on.
    ///
    /// Several attempts may be under way at once. `attempt` lets an implementation with several members send them to
    /// different ones: equal numbers go to the same member first. Cancellation safe, the lease may have been renewed.
    async fn keep_alive(&self, lease: LeaseId, attempt: u32) -> Result<Duration, StoreError>;

    /// Gives the lease back, and deletes the keys attached to it.
    ///
    /// Cancellation: it may have happened or not; else the lease is gone after its TTL.
    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError>;
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
}
