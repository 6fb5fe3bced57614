//! Reports leases to a witness, which may revoke them after the process has died.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use curator_election::store::{
    Keys, Lease, LeaseId, Range, RangeResult, Revision, Store, StoreError, TimeToLive, Txn, TxnResult, WatchStream,
};

/// Observes the leases of this process. Called on the path of the election: must not block.
pub trait LeaseObserver: Send + Sync + 'static {
    /// A lease was granted. Called before any key is attached to it.
    fn granted(&self, lease: LeaseId);

    /// A lease has ended.
    fn ended(&self, lease: LeaseId);
}

/// A store whose leases are reported to a witness.
pub(super) struct Witnessed {
    pub(super) store: Arc<dyn Store>,
    pub(super) witness: Arc<dyn LeaseObserver>,
}

impl Witnessed {
    fn note<T>(&self, lease: LeaseId, ends: bool, result: Result<T, StoreError>) -> Result<T, StoreError> {
        match &result {
            Ok(_) if ends => self.witness.ended(lease),
            Err(StoreError::LeaseNotFound { .. }) => self.witness.ended(lease),
            _ => {}
        }
        result
    }
}

#[async_trait]
impl Store for Witnessed {
    async fn txn(&self, txn: Txn) -> Result<TxnResult, StoreError> {
        self.store.txn(txn).await
    }

    async fn range(&self, range: Range) -> Result<RangeResult, StoreError> {
        self.store.range(range).await
    }

    async fn ranges(&self, ranges: Vec<Range>) -> Result<Vec<RangeResult>, StoreError> {
        self.store.ranges(ranges).await
    }

    async fn watch(&self, keys: Keys, from: Revision) -> Result<WatchStream, StoreError> {
        self.store.watch(keys, from).await
    }

    async fn grant(&self, ttl: Duration) -> Result<Lease, StoreError> {
        let lease = self.store.grant(ttl).await?;
        self.witness.granted(lease.id);
        Ok(lease)
    }

    async fn keep_alive(&self, lease: LeaseId, attempt: u32) -> Result<Duration, StoreError> {
        let renewed = self.store.keep_alive(lease, attempt).await;
        self.note(lease, false, renewed)
    }

    async fn time_to_live(&self, lease: LeaseId) -> Result<TimeToLive, StoreError> {
        self.store.time_to_live(lease).await
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        let revoked = self.store.revoke(lease).await;
        self.note(lease, true, revoked)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use curator_election::memory::MemoryCluster;

    use super::*;

    #[derive(Default)]
    struct Heard(Mutex<Vec<(&'static str, LeaseId)>>);

    impl LeaseObserver for Heard {
        fn granted(&self, lease: LeaseId) {
            self.0.lock().unwrap().push(("granted", lease));
        }

        fn ended(&self, lease: LeaseId) {
            self.0.lock().unwrap().push(("ended", lease));
        }
    }

    #[tokio::test]
    async fn a_lease_is_told_from_its_grant_to_its_end() {
        let heard = Arc::new(Heard::default());
        let store = Witnessed {
            store: Arc::new(MemoryCluster::new(1).client(0)),
            witness: heard.clone(),
        };
        let ttl = Duration::from_secs(10);
        let (one, two) = (store.grant(ttl).await.unwrap().id, store.grant(ttl).await.unwrap().id);
        store.keep_alive(one, 0).await.unwrap();
        store.revoke(one).await.unwrap();
        // Taken away by somebody else.
        store.store.revoke(two).await.unwrap();
        store.keep_alive(two, 0).await.unwrap_err();
        let told = [("granted", one), ("granted", two), ("ended", one), ("ended", two)];
        assert_eq!(*heard.0.lock().unwrap(), told);
    }
}
