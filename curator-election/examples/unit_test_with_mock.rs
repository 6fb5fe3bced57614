//! A component that works only while it leads, and its unit test, with the mock of the election's backend in place of
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
    use std::time::Duration;

    use curator_election::backend::Elected;
    use curator_election::store::{Lease, LeaseId, Revision};
    use curator_election::{Elector, ElectorConfig, MockElectionBackend, PlainText, StepDown};
    use futures::StreamExt;
    use tokio_util::sync::CancellationToken;

    use super::*;

    /// The first campaign is won at once, and no further one.
    fn backend() -> MockElectionBackend {
        let mut backend = MockElectionBackend::new();
        let lease = LeaseId::new(7).expect("not zero");
        backend.expect_candidates().returning(|| Ok(Vec::new()));
        backend
            .expect_grant()
            .returning(move |ttl| Ok(Lease { id: lease, ttl }));
        backend
            .expect_keep_alive()
            .returning(|_, _| Ok(Duration::from_secs(10)));
        backend
            .expect_observe()
            .returning(|| futures::stream::pending().boxed());
        backend.expect_revoke().returning(|_| Ok(()));
        backend.expect_campaign().times(1).returning(|_, _, _| {
            Ok(Elected {
                key: "/leader/7".into(),
                revision: Revision(3),
                won_at: Revision(3),
                has_challenge_key: false,
            })
        });
        backend
    }

    #[tokio::test]
    async fn it_counts_only_while_it_leads() {
        let me = PlainText("node-1".into());
        let elector = Elector::new(Arc::new(backend()), &me, ElectorConfig::default()).expect("a good configuration");
        let (handle, cancel) = (elector.handle(), CancellationToken::new());
        let mut counter = Counter {
            status: handle.status(),
            counted: 0,
        };
        assert!(!counter.count());

        let running = tokio::spawn(elector.run(cancel.clone()));
        let mut status = handle.status();
        let leads = status.wait_for(|status| status.valid_term().is_some());
        drop(leads.await.expect("the elector runs"));
        assert!(counter.count());

        assert_eq!(handle.step_down().await, Ok(StepDown::Done));
        assert!(!counter.count());
        assert_eq!(counter.counted, 1);
        cancel.cancel();
        running.await.expect("no panic");
    }
}
