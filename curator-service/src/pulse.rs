//! Finds out again and again whether the instance can serve, and tells the elector.

use std::sync::Arc;

use curator_election::Pulse;
use curator_listener::ListenerHandle;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::leader::Leader;

/// How often within the limit the instance is asked.
const OFTEN: u32 = 4;

/// Lets the pulse beat for as long as the threads of the listener take work and the leader, if there is one, can read; until
/// cancelled.
pub(crate) async fn watch_over(
    pulse: Pulse,
    listener: ListenerHandle,
    leader: watch::Receiver<Option<Arc<Leader>>>,
    cancel: CancellationToken,
) {
    let mut well = true;
    loop {
        let asked = tokio::select! {
            () = cancel.cancelled() => return,
            asked = timeout(pulse.limit() / 2, serves(&listener, &leader)) => asked,
        };
        match asked.unwrap_or(Err("no answer")) {
            Ok(()) => {
                pulse.beat();
                if !std::mem::replace(&mut well, true) {
                    info!("this instance can serve again");
                }
            }
            Err(what) => {
                if std::mem::replace(&mut well, false) {
                    warn!(what, limit = ?pulse.limit(), "this instance cannot serve: it will not lead for longer than the limit");
                }
            }
        }
        tokio::select! {
            () = cancel.cancelled() => return,
            () = sleep(pulse.limit() / OFTEN) => {}
        }
    }
}

async fn serves(listener: &ListenerHandle, leader: &watch::Receiver<Option<Arc<Leader>>>) -> Result<(), &'static str> {
    listener.responds().await;
    let leader = leader.borrow().clone();
    match leader {
        Some(leader) if !leader.can_read().await => Err("the leader cannot read its state"),
        _ => Ok(()),
    }
}
