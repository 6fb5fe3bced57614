//! Checks periodically whether the instance can serve, and reports it to the elector.

use std::pin::pin;
use std::sync::Arc;

use curator_election::LivenessProbe;
use curator_listener::ListenerHandle;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::leader::Leader;

/// The number of checks per limit.
const CHECKS_PER_LIMIT: u32 = 4;

/// Reports liveness while the listener's threads respond and the leader, if there is one, can read; until cancelled.
pub(crate) async fn run(
    liveness: LivenessProbe,
    listener: ListenerHandle,
    leader: watch::Receiver<Option<Arc<Leader>>>,
    cancel: CancellationToken,
) {
    let mut healthy = true;
    loop {
        let mut asked = pin!(serves(&listener, &leader));
        let answered = tokio::select! {
            () = cancel.cancelled() => return,
            answered = timeout(liveness.limit() / 2, &mut asked) => answered,
        };
        let answered = match answered {
            Ok(answered) => answered,
            // Wait for the late answer: a new check each time might never complete.
            Err(_) => {
                warn_once(&mut healthy, "no response", &liveness);
                tokio::select! {
                    () = cancel.cancelled() => return,
                    answered = asked => answered,
                }
            }
        };
        match answered {
            Ok(()) => {
                liveness.report_alive();
                if !std::mem::replace(&mut healthy, true) {
                    info!("this instance can serve again");
                }
            }
            Err(what) => warn_once(&mut healthy, what, &liveness),
        }
        tokio::select! {
            () = cancel.cancelled() => return,
            () = sleep(liveness.limit() / CHECKS_PER_LIMIT) => {}
        }
    }
}

fn warn_once(healthy: &mut bool, what: &str, liveness: &LivenessProbe) {
    if std::mem::replace(healthy, false) {
        warn!(what, limit = ?liveness.limit(), "this instance cannot serve: it stops leading after the limit");
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
