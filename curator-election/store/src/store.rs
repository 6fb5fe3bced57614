//! The trait [`Store`].

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use crate::{
    Keys, Lease, LeaseId, Op, OpResult, Range, RangeResult, Revision, StoreError, TimeToLive, Txn, TxnResult,
    WatchStream,
};

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

    /// Reads several ranges linearizably at one revision; one result for each range.
    ///
    /// By default one transaction without conditions. An implementation with several members should ask a second one
    /// when the first is slow, as it does for [`range`](Self::range).
    ///
    /// Cancellation safe.
    async fn ranges(&self, ranges: Vec<Range>) -> Result<Vec<RangeResult>, StoreError> {
        let reads = ranges.into_iter().map(Op::Range).collect();
        range_results(self.txn(Txn::default().then(reads)).await?)
    }

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

    /// The granted and the remaining TTL of a lease, of this client or another one.
    ///
    /// The answer is a hint, not a proof: it is not linearizable, and in etcd it is rounded to seconds. By default a
    /// refusal: the store does not report it. Cancellation safe.
    async fn time_to_live(&self, lease: LeaseId) -> Result<TimeToLive, StoreError> {
        let _ = lease;
        Err(StoreError::refused(
            "this store does not report the remaining TTL of a lease",
        ))
    }

    /// Revokes the lease, and deletes the keys attached to it.
    ///
    /// Cancellation: the lease may have been revoked or not; otherwise it expires after its TTL.
    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError>;
}

/// The results of a transaction of reads.
pub(crate) fn range_results(answer: TxnResult) -> Result<Vec<RangeResult>, StoreError> {
    let revision = answer.revision;
    let read = |result| match result {
        OpResult::Range { kvs, count } => Ok(RangeResult { revision, kvs, count }),
        _ => Err(StoreError::refused(
            "inconsistent transaction: a read was not answered by a read",
        )),
    };
    answer.results.into_iter().map(read).collect()
}

#[async_trait]
impl<S: Store + ?Sized> Store for Arc<S> {
    async fn txn(&self, txn: Txn) -> Result<TxnResult, StoreError> {
        (**self).txn(txn).await
    }

    async fn range(&self, range: Range) -> Result<RangeResult, StoreError> {
        (**self).range(range).await
    }

    async fn ranges(&self, ranges: Vec<Range>) -> Result<Vec<RangeResult>, StoreError> {
        (**self).ranges(ranges).await
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

    async fn time_to_live(&self, lease: LeaseId) -> Result<TimeToLive, StoreError> {
        (**self).time_to_live(lease).await
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        (**self).revoke(lease).await
    }
}
