//! Whether an instance is ready: it knows who leads and serves, and if it leads itself, it has read the state.

use std::sync::Arc;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::leader::Leader;

/// Keeps `ready` right until cancelled. A leader that has not read the state answers no call, however well it holds its lease.
///
/// `leader` is there in each term that this instance leads in.
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
            // Who says so has gone: so does this instance.
            ready.send_replace(false);
            cancel.cancelled().await;
            return;
        }
    }
}

/// Completes when it changes; never without one, or when it is gone, since the leader is replaced then.
async fn changed(read: Option<watch::Receiver<bool>>) {
    if let Some(mut read) = read
        && read.changed().await.is_ok()
    {
        return;
    }
    std::future::pending::<()>().await;
}
