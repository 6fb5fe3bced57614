//! Readiness: the instance knows the leader and serves; a leader must also have read the state.

use std::sync::Arc;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::leader::Leader;

/// Maintains `ready` until cancelled. A leader that has not read the state answers no call, although it holds its
/// lease.
///
/// `leader` is set in each term that this instance leads.
pub(crate) async fn follow(
    mut serving: watch::Receiver<bool>,
    mut leader: watch::Receiver<Option<Arc<Leader>>>,
    ready: watch::Sender<bool>,
    cancel: CancellationToken,
) {
    loop {
        let mut read = leader.borrow_and_update().as_ref().map(|leader| leader.readiness());
        let has_read = read.as_mut().is_none_or(|read| *read.borrow_and_update());
        let is_ready = *serving.borrow_and_update() && has_read;
        ready.send_if_modified(|known| std::mem::replace(known, is_ready) != is_ready);
        let changed = tokio::select! {
            () = cancel.cancelled() => return,
            changed = serving.changed() => changed.is_ok(),
            changed = leader.changed() => changed.is_ok(),
            () = changed(read) => true,
        };
        if !changed {
            // The sender is gone, so this instance is ending.
            ready.send_replace(false);
            cancel.cancelled().await;
            return;
        }
    }
}

/// Completes when it changes; never without a receiver or after the sender is gone, since the leader is replaced then.
async fn changed(read: Option<watch::Receiver<bool>>) {
    if let Some(mut read) = read
        && read.changed().await.is_ok()
    {
        return;
    }
    std::future::pending::<()>().await;
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use curator_election::Term;
    use curator_election::clock::{Clock, TokioClock};
    use curator_election::memory::{Faults, Link, MemoryCluster};
    use curator_election::store::{Op, Store, Txn};

    use super::*;
    use crate::consensus::FixedMembership;
    use crate::leader::LeaderContext;
    use crate::state::limits::StateLimits;
    use curator_election::fence::Fenced;

    /// It holds its lease, and cannot read the state yet.
    #[tokio::test(start_paused = true)]
    async fn a_leader_is_ready_once_it_has_read_the_state() {
        let (cluster, lock) = (MemoryCluster::new(1), "/leader/1");
        let store = cluster.client(0);
        let put = Txn::default().then(vec![Op::put(lock, "me"), Op::put("/cluster/configuration", "some")]);
        let revision = store.txn(put).await.expect("no faults").revision;
        let clock = Arc::new(TokioClock::new());
        let until = clock.now() + Duration::from_secs(1_000);
        let (_keeper, term) = Term::for_test(lock, revision, until, clock.clone());
        let context = LeaderContext {
            node_id: "node-1".into(),
            membership: Arc::new(FixedMembership::default()),
            succession: None,
            limits: StateLimits::default(),
            clock,
            wall: || SystemTime::UNIX_EPOCH,
        };
        let refuses = |link| {
            let faults = Faults {
                link,
                ..Faults::default()
            };
            cluster.set_faults(0, faults);
        };
        refuses(Link::Refused);
        let leads = Leader::new(Fenced::new(Arc::new(store), term), context);
        let (serving, leader) = (watch::Sender::new(true), watch::Sender::new(None));
        let ready = watch::Sender::new(false);
        let (mut told, cancel) = (ready.subscribe(), CancellationToken::new());
        let following = tokio::spawn(follow(serving.subscribe(), leader.subscribe(), ready, cancel.clone()));
        let soon = Duration::from_secs(60);
        let mut becomes = async |wanted: bool| {
            let told = told.wait_for(|ready| *ready == wanted);
            tokio::time::timeout(soon, told).await.map(drop)
        };
        // A follower that reaches the leader.
        becomes(true).await.expect("it serves");
        leader.send_replace(Some(leads.clone()));
        becomes(false).await.expect("nothing is read");
        let running = tokio::spawn(leads.run());
        becomes(true).await.expect_err("nothing can be read");
        refuses(Link::Up);
        becomes(true).await.expect("it can be read");
        serving.send_replace(false);
        becomes(false).await.expect("it does not serve");
        running.abort();
        cancel.cancel();
        following.await.expect("it ends");
    }
}
