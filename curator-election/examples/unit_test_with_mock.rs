//! A component that works only while it leads, and its unit test, with an election that the test drives in place of
//! etcd.
//!
//! ```console
//! $ cargo test -p curator-election --features mock --example unit_test_with_mock
//! ```

use curator_election::{ElectionStatus, LeaderValue};
use tokio::sync::watch;

/// Counts things, for as long as it leads. Its real work would ask the term before each step, and fence what it writes
/// by it.
struct Counter<V> {
    status: watch::Receiver<ElectionStatus<V>>,
    counted: u64,
}

impl<V: LeaderValue> Counter<V> {
    /// Counts one more, if this instance leads; whether it did.
    fn count(&mut self) -> bool {
        let leads = self.status.borrow().valid_term().is_some();
        self.counted += u64::from(leads);
        leads
    }
}

fn main() {
    let (_elector, status) = watch::channel(ElectionStatus::<curator_election::PlainText>::Undetermined(
        curator_election::Reason::Starting,
    ));
    let mut counter = Counter { status, counted: 0 };
    println!("nobody leads yet, so that it counts: {}", counter.count());
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use curator_election::clock::TokioClock;
    use curator_election::store::StoreError;
    use curator_election::{Elector, ElectorConfig, FakeElection, MockElectionBackend, PlainText, StepDown};
    use tokio_util::sync::CancellationToken;

    use super::*;

    /// The time is paused, so the clock is that of the runtime.
    fn config() -> ElectorConfig {
        ElectorConfig {
            clock: Arc::new(TokioClock::new()),
            ..ElectorConfig::default()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn it_counts_only_while_it_leads() {
        let fake = FakeElection::new();
        // The campaign stays pending.
        fake.hold();
        let me = PlainText("node-1".into());
        let elector = Elector::new(Arc::new(fake.clone()), &me, config()).expect("a good configuration");
        let (handle, cancel) = (elector.handle(), CancellationToken::new());
        let mut counter = Counter {
            status: handle.status(),
            counted: 0,
        };
        let running = tokio::spawn(elector.run(cancel.clone()));
        fake.queued(1).await;
        assert!(!counter.count());

        fake.release();
        handle.leading().await.expect("the elector runs");
        assert!(counter.count());

        fake.hold();
        assert_eq!(handle.step_down().await, Ok(StepDown::Done));
        assert!(!counter.count());
        assert_eq!(counter.counted, 1);
        cancel.cancel();
        running.await.expect("no panic");
    }

    /// A single call that fails is the mock's.
    #[tokio::test(start_paused = true)]
    async fn it_does_not_count_without_a_lease() {
        let mut backend = MockElectionBackend::new();
        backend.expect_candidates().returning(|| Ok(Vec::new()));
        backend
            .expect_grant()
            .returning(|_| Err(StoreError::refused("no leases")));
        let elector = Elector::new(Arc::new(backend), &PlainText("node-1".into()), config()).expect("valid");
        let (handle, cancel) = (elector.handle(), CancellationToken::new());
        let mut counter = Counter {
            status: handle.status(),
            counted: 0,
        };
        let running = tokio::spawn(elector.run(cancel.clone()));
        let mut status = handle.status();
        let failed = status.wait_for(|status| {
            matches!(
                status,
                ElectionStatus::Undetermined(curator_election::Reason::OpenFailed { .. })
            )
        });
        drop(failed.await.expect("the elector runs"));
        assert!(!counter.count());
        cancel.cancel();
        running.await.expect("no panic");
    }
}
