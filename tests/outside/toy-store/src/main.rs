//! A store of somebody else against the conformance suite: one that counts what passes through it conforms, and each
//! one that is broken in one thing is found.

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use curator_store::memory::{MemoryClient, MemoryCluster};
use curator_store::{
    Keys, Lease, LeaseId, Range, RangeResult, Revision, Store, StoreError, TimeToLive, Txn, TxnResult, WatchStream,
    async_trait, conformance,
};
use futures::StreamExt;

/// What a store does wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    None,
    /// Conditions are taken for true.
    IgnoresConditions,
    /// A lease is taken for renewed, whether it exists or not.
    RenewsAnyLease,
    /// A watch begins with the changes after it, whatever revision was asked for.
    SkipsHistory,
    /// A read returns more keys than asked for.
    IgnoresLimits,
    /// A lease is revoked, and its keys stay.
    KeepsKeys,
}

/// A store that counts the calls to the one within.
struct Counting {
    inner: MemoryClient,
    fault: Fault,
    calls: Arc<AtomicU64>,
}

impl Counting {
    fn counted(&self) -> &MemoryClient {
        self.calls.fetch_add(1, Ordering::SeqCst);
        &self.inner
    }
}

#[async_trait]
impl Store for Counting {
    async fn txn(&self, mut txn: Txn) -> Result<TxnResult, StoreError> {
        if self.fault == Fault::IgnoresConditions {
            txn.compares.clear();
        }
        self.counted().txn(txn).await
    }

    async fn range(&self, mut range: Range) -> Result<RangeResult, StoreError> {
        if self.fault == Fault::IgnoresLimits {
            range.limit = 0;
        }
        self.counted().range(range).await
    }

    async fn watch(&self, keys: Keys, from: Revision) -> Result<WatchStream, StoreError> {
        let from = if self.fault == Fault::SkipsHistory {
            Revision(0)
        } else {
            from
        };
        Ok(self.counted().watch(keys, from).await?.boxed())
    }

    async fn grant(&self, ttl: Duration) -> Result<Lease, StoreError> {
        self.counted().grant(ttl).await
    }

    async fn keep_alive(&self, lease: LeaseId, attempt: u32) -> Result<Duration, StoreError> {
        let renewed = self.counted().keep_alive(lease, attempt).await;
        match self.fault {
            Fault::RenewsAnyLease => Ok(renewed.unwrap_or(Duration::from_secs(10))),
            _ => renewed,
        }
    }

    async fn time_to_live(&self, lease: LeaseId) -> Result<TimeToLive, StoreError> {
        self.counted().time_to_live(lease).await
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        match self.fault {
            Fault::KeepsKeys => Ok(()),
            _ => self.counted().revoke(lease).await,
        }
    }
}

/// The cases that find a fault, and the number of calls.
async fn found(fault: Fault) -> (Vec<&'static str>, u64) {
    let (mut found, calls) = (Vec::new(), Arc::<AtomicU64>::default());
    for case in conformance::cases() {
        let cluster = MemoryCluster::new(1);
        let store = Counting {
            inner: cluster.client(0),
            fault,
            calls: calls.clone(),
        };
        let checked = tokio::spawn(async move { case.check(Arc::new(store), "/toy").await });
        // A case of a broken store may wait for what never comes.
        match tokio::time::timeout(Duration::from_secs(600), checked).await {
            Ok(Ok(())) => {}
            _ => found.push(case.name),
        }
    }
    (found, calls.load(Ordering::SeqCst))
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    tokio::time::pause();
    let (wrong, calls) = found(Fault::None).await;
    assert!(wrong.is_empty(), "a good store fails {wrong:?}");
    assert!(calls > 100, "{calls} calls");
    // The panics of the cases are what is looked for.
    std::panic::set_hook(Box::new(|_| {}));
    for fault in [
        Fault::IgnoresConditions,
        Fault::RenewsAnyLease,
        Fault::SkipsHistory,
        Fault::IgnoresLimits,
        Fault::KeepsKeys,
    ] {
        let (cases, _) = found(fault).await;
        if cases.is_empty() {
            return Err(format!("no case finds a store that does this: {fault:?}").into());
        }
        println!("toy-store: {fault:?} is found by {}", cases.join(", "));
    }
    Ok(())
}
