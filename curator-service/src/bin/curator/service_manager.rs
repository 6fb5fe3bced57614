//! Tells systemd, or whoever speaks its protocol, how this instance is: `Type=notify`, `WatchdogSec=`.
//!
//! It is ready once its sockets are open and each thread that serves connections has gone round its loop; whether there is a leader
//! is no part of that. The same is asked before each sign of life, so an instance whose threads are stuck is restarted. Without
//! `NOTIFY_SOCKET` nothing is told.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use curator_election::ElectionStatus;
use curator_service::{LeaderStatus, Liveness};
use sd_notify::NotifyState;
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tracing::{debug, warn};

/// How long a word to the service manager may take.
const TELL: Duration = Duration::from_secs(1);

pub(crate) struct ServiceManager {
    is_there: bool,
    /// How often a sign of life is due.
    watchdog: Option<Duration>,
    ready: AtomicBool,
}

impl ServiceManager {
    /// The one that started this process, if there is one.
    pub(crate) fn from_env() -> Self {
        Self {
            is_there: std::env::var_os("NOTIFY_SOCKET").is_some(),
            // Twice as often as it must be.
            watchdog: sd_notify::watchdog_enabled()
                .map(|within| within / 2)
                .filter(|every| !every.is_zero()),
            ready: AtomicBool::new(false),
        }
    }

    /// Tells that the instance is ready, once it is; then each change of its role, and that it is alive, as long as it is. Never
    /// ends.
    pub(crate) async fn follow(&self, status: watch::Receiver<LeaderStatus>, liveness: Liveness) {
        if self.is_there {
            liveness.responds().await;
            let role = words(&status.borrow());
            self.tell(&[NotifyState::Ready, NotifyState::Status(&role)]).await;
            self.ready.store(true, Ordering::Relaxed);
            tokio::join!(self.tell_roles(status), self.tell_alive(liveness));
        }
        std::future::pending::<()>().await;
    }

    /// Tells that the configuration is being read, and then that it has been.
    pub(crate) async fn during_reload(&self, reload: impl Future<Output = ()>) {
        // One that is not ready yet does not become so by this.
        let told = self.ready.load(Ordering::Relaxed);
        if told {
            let now = NotifyState::monotonic_usec_now().ok();
            let begun: Vec<_> = [NotifyState::Reloading].into_iter().chain(now).collect();
            self.tell(&begun).await;
        }
        reload.await;
        if told {
            self.tell(&[NotifyState::Ready]).await;
        }
    }

    pub(crate) async fn stopping(&self) {
        self.tell(&[NotifyState::Stopping]).await;
    }

    async fn tell_roles(&self, mut status: watch::Receiver<LeaderStatus>) {
        loop {
            let role = words(&status.borrow_and_update());
            self.tell(&[NotifyState::Status(&role)]).await;
            if status.changed().await.is_err() {
                return;
            }
        }
    }

    async fn tell_alive(&self, liveness: Liveness) {
        let Some(every) = self.watchdog else { return };
        let mut due = interval(every);
        due.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            due.tick().await;
            match timeout(every, liveness.responds()).await {
                Ok(()) => self.tell(&[NotifyState::Watchdog]).await,
                Err(_) => warn!(
                    within = ?every,
                    "a thread that serves connections is stuck: the service manager gets no sign of life"
                ),
            }
        }
    }

    async fn tell(&self, what: &[NotifyState<'_>]) {
        if !self.is_there {
            return;
        }
        let lines: Vec<String> = what.iter().map(ToString::to_string).collect();
        // It waits if nobody reads.
        let told = spawn_blocking(move || {
            let lines: Vec<_> = lines.iter().map(|line| NotifyState::Custom(line)).collect();
            sd_notify::notify(&lines)
        });
        match timeout(TELL, told).await {
            Ok(Ok(Ok(()))) => {}
            Ok(Ok(Err(error))) => debug!(%error, "the service manager cannot be told"),
            Ok(Err(error)) => debug!(%error, "the service manager cannot be told"),
            Err(_) => debug!("the service manager does not listen"),
        }
    }
}

/// The role, on one line.
fn words(status: &LeaderStatus) -> String {
    let text = match status {
        ElectionStatus::Undetermined(reason) => format!("undetermined: {reason}"),
        ElectionStatus::Follower(following) => {
            format!("follower of {}, term {}", following.leader.node_id, following.revision)
        }
        ElectionStatus::Leader(term) => format!("leader of term {}", term.lock_revision()),
    };
    // What others say of themselves adds no lines of its own.
    text.replace(char::is_control, " ")
}

#[cfg(test)]
mod tests {
    use curator_election::Following;
    use curator_election::store::Revision;
    use curator_proto::private::LeaderElectionValue;

    use super::*;

    #[test]
    fn nobody_writes_a_line_of_their_own() {
        let status = ElectionStatus::Follower(Following {
            leader: LeaderElectionValue {
                node_id: "node-2\nMAINPID=1".into(),
                ..Default::default()
            },
            key: "/leader/a".into(),
            revision: Revision(9),
        });
        assert_eq!(words(&status), "follower of node-2 MAINPID=1, term 9");
    }
}
