//! Finds out again and again whether the instance can serve, and tells the elector.

use std::pin::pin;
use std::sync::Arc;

use curator_election::LivenessProbe;
use curator_listener::ListenerHandle;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::leader::Leader;

/// How often within the limit the instance is asked.
const OFTEN: u32 = 4;

/// Reports liveness for as long as the threads of the listener take work and the leader, if there is one, can read; until
/// cancelled.
pub(crate) async fn watch_over(
    liveness: LivenessProbe,
    listener: ListenerHandle,
    leader: watch::Receiver<Option<Arc<Leader>>>,
    cancel: CancellationToken,
) {
    let mut well = true;
    loop {
        let mut asked = pin!(serves(&listener, &leader));
        let answered = tokio::select! {
            () = cancel.cancelled() => return,
            answered = timeout(liveness.limit() / 2, &mut asked) => answered,
        };
        let answered = match answered {
            Ok(answered) => answered,
            // A late answer is a sign of life too: whoever is asked anew each time never gives one.
            Err(_) => {
                warn_once(&mut well, "no answer", &liveness);
                tokio::select! {
                    () = cancel.cancelled() => return,
                    answered = asked => answered,
                }
            }
        };
        match answered {
            Ok(()) => {
                liveness.report_alive();
                if !std::mem::replace(&mut well, true) {
                    info!("this instance can serve again");
                }
            }
            Err(what) => warn_once(&mut well, what, &liveness),
        }
        tokio::select! {
            () = cancel.cancelled() => return,
            () = sleep(liveness.limit() / OFTEN) => {}
        }
    }
}

fn warn_once(well: &mut bool, what: &str, liveness: &LivenessProbe) {
    if std::mem::replace(well, false) {
        warn!(what, limit = ?liveness.limit(), "this instance cannot serve: it will not lead for longer than the limit");
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
