//! Notifications to systemd or a compatible service manager: `Type=notify`, `WatchdogSec=`.
//!
//! An instance is ready once its sockets are open and every thread that serves connections has responded, with or
//! without a leader. The threads are checked again before each watchdog notification, so an instance with a stuck
//! thread is restarted. Without `NOTIFY_SOCKET`, nothing is sent.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use curator_election::ElectionStatus;
use curator_service::LeaderStatus;
use sd_notify::NotifyState;
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tracing::{debug, warn};

/// Timeout of one notification.
const NOTIFY_TIMEOUT: Duration = Duration::from_secs(1);

/// Sends notifications.
type NotifyFn = Arc<dyn Fn(&[NotifyState<'_>]) -> std::io::Result<()> + Send + Sync>;

pub(crate) struct ServiceManager {
    /// `None` without a service manager.
    send: Option<NotifyFn>,
    /// Interval of watchdog notifications.
    watchdog: Option<Duration>,
    ready: AtomicBool,
}

impl ServiceManager {
    /// The service manager in the environment, if there is one.
    pub(crate) fn from_env() -> Self {
        Self {
            send: std::env::var_os("NOTIFY_SOCKET").map(|_| -> NotifyFn { Arc::new(sd_notify::notify) }),
            // Half of the required interval.
            watchdog: sd_notify::watchdog_enabled()
                .map(|within| within / 2)
                .filter(|every| !every.is_zero()),
            ready: AtomicBool::new(false),
        }
    }

    /// Reports that the instance is ready, then each change of its role, and the watchdog while it responds. Never
    /// returns.
    pub(crate) async fn follow(&self, status: watch::Receiver<LeaderStatus>, responds: impl AsyncFn()) {
        if self.send.is_some() {
            responds().await;
            let role = role_line(&status.borrow());
            self.notify(&[NotifyState::Ready, NotifyState::Status(&role)]).await;
            self.ready.store(true, Ordering::Relaxed);
            tokio::join!(self.report_roles(status), self.report_alive(&responds));
        }
        std::future::pending::<()>().await;
    }

    /// Reports the start and the end of a reload.
    pub(crate) async fn during_reload(&self, reload: impl Future<Output = ()>) {
        // A reload must not report an instance ready before it is.
        let ready = self.ready.load(Ordering::Relaxed);
        if ready {
            let now = NotifyState::monotonic_usec_now().ok();
            let begun: Vec<_> = [NotifyState::Reloading].into_iter().chain(now).collect();
            self.notify(&begun).await;
        }
        reload.await;
        if ready {
            self.notify(&[NotifyState::Ready]).await;
        }
    }

    pub(crate) async fn stopping(&self) {
        self.notify(&[NotifyState::Stopping]).await;
    }

    async fn report_roles(&self, mut status: watch::Receiver<LeaderStatus>) {
        loop {
            let role = role_line(&status.borrow_and_update());
            self.notify(&[NotifyState::Status(&role)]).await;
            if status.changed().await.is_err() {
                return;
            }
        }
    }

    async fn report_alive(&self, responds: &impl AsyncFn()) {
        let Some(every) = self.watchdog else { return };
        let mut due = interval(every);
        due.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            due.tick().await;
            match timeout(every, responds()).await {
                Ok(()) => self.notify(&[NotifyState::Watchdog]).await,
                Err(_) => warn!(
                    within = ?every,
                    "a thread that serves connections is stuck: no watchdog notification sent"
                ),
            }
        }
    }

    async fn notify(&self, what: &[NotifyState<'_>]) {
        let Some(send) = self.send.clone() else { return };
        let lines: Vec<String> = what.iter().map(ToString::to_string).collect();
        // Blocks if the service manager does not read.
        let sent = spawn_blocking(move || {
            let lines: Vec<_> = lines.iter().map(|line| NotifyState::Custom(line)).collect();
            send(&lines)
        });
        match timeout(NOTIFY_TIMEOUT, sent).await {
            Ok(Ok(Ok(()))) => {}
            Ok(Ok(Err(error))) => debug!(%error, "cannot notify the service manager"),
            Ok(Err(error)) => debug!(%error, "cannot notify the service manager"),
            Err(_) => debug!("notification of the service manager timed out"),
        }
    }
}

/// The role in one line.
fn role_line(status: &LeaderStatus) -> String {
    let text = match status {
        ElectionStatus::Undetermined(reason) => format!("undetermined: {reason}"),
        ElectionStatus::Follower(following) => {
            format!("follower of {}, term {}", following.leader.node_id, following.revision)
        }
        ElectionStatus::Leader(term) => format!("leader of term {}", term.lock_revision()),
    };
    // Text from other nodes must not add lines.
    text.replace(char::is_control, " ")
}

#[cfg(test)]
mod tests {
    use curator_election::store::Revision;
    use curator_election::{LeaderInfo, Reason};
    use curator_proto::private::LeaderElectionValue;
    use tokio::sync::mpsc;

    use super::*;

    /// Its words come out of the channel.
    fn manager(watchdog: Duration) -> (ServiceManager, mpsc::UnboundedReceiver<String>) {
        let (words, heard) = mpsc::unbounded_channel();
        let send = move |what: &[NotifyState<'_>]| {
            let text: Vec<_> = what.iter().map(ToString::to_string).collect();
            words.send(text.join(" ")).map_err(std::io::Error::other)
        };
        let manager = ServiceManager {
            send: Some(Arc::new(send)),
            watchdog: Some(watchdog),
            ready: AtomicBool::new(false),
        };
        (manager, heard)
    }

    #[tokio::test(start_paused = true)]
    async fn an_instance_that_does_not_respond_is_neither_ready_nor_alive() {
        let (manager, mut heard) = manager(Duration::from_secs(5));
        let (_status, role) = watch::channel(ElectionStatus::Undetermined(Reason::NoLeader));
        let (free, responds) = watch::channel(false);
        let responds = async || {
            // Whoever made it is still there.
            let _ = responds.clone().wait_for(|free| *free).await;
        };
        let mut following = std::pin::pin!(manager.follow(role, responds));
        let mut hear = async |within: u64| {
            tokio::select! {
                () = &mut following => None,
                heard = timeout(Duration::from_secs(within), heard.recv()) => heard.ok().flatten(),
            }
        };
        assert_eq!(hear(60).await, None);
        free.send_replace(true);
        let status = "STATUS=undetermined: no candidate leads";
        assert_eq!(hear(60).await, Some(format!("READY=1 {status}")));
        let mut first = [hear(1).await, hear(1).await];
        first.sort();
        assert_eq!(first, [Some(status.to_owned()), Some("WATCHDOG=1".to_owned())]);
        assert_eq!(hear(6).await.as_deref(), Some("WATCHDOG=1"));
        free.send_replace(false);
        assert_eq!(hear(60).await, None, "it is stuck");
        free.send_replace(true);
        assert_eq!(hear(11).await.as_deref(), Some("WATCHDOG=1"));
        assert_eq!(hear(6).await.as_deref(), Some("WATCHDOG=1"));
    }

    #[tokio::test]
    async fn a_reload_makes_nobody_ready_who_was_not() {
        let (manager, mut heard) = manager(Duration::from_secs(5));
        manager.during_reload(async {}).await;
        assert!(heard.try_recv().is_err());
        manager.ready.store(true, Ordering::Relaxed);
        manager.during_reload(async {}).await;
        let begun = heard.try_recv().expect("told");
        assert!(begun.starts_with("RELOADING=1 MONOTONIC_USEC="), "{begun}");
        assert_eq!(heard.try_recv().expect("told"), "READY=1");
    }

    #[test]
    fn nobody_writes_a_line_of_their_own() {
        let status = ElectionStatus::Follower(LeaderInfo {
            leader: LeaderElectionValue {
                node_id: "node-2\nMAINPID=1".into(),
                ..Default::default()
            },
            key: "/leader/a".into(),
            revision: Revision(9),
        });
        assert_eq!(role_line(&status), "follower of node-2 MAINPID=1, term 9");
    }
}
