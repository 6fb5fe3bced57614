//! Tells systemd, or whoever speaks its protocol, how this instance is: `Type=notify`, `WatchdogSec=`.
//!
//! It is ready once its sockets are open and each thread that serves connections has gone round its loop; whether there is a leader
//! is no part of that. The same is asked before each sign of life, so an instance whose threads are stuck is restarted. Without
//! `NOTIFY_SOCKET` nothing is told.

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

/// How long a word to the service manager may take.
const TELL: Duration = Duration::from_secs(1);

type Carry = Arc<dyn Fn(&[NotifyState<'_>]) -> std::io::Result<()> + Send + Sync>;

pub(crate) struct ServiceManager {
    /// Carries words to it; none if there is none.
    send: Option<Carry>,
    /// How often a sign of life is due.
    watchdog: Option<Duration>,
    ready: AtomicBool,
}

impl ServiceManager {
    /// The one that started this process, if there is one.
    pub(crate) fn from_env() -> Self {
        Self {
            send: std::env::var_os("NOTIFY_SOCKET").map(|_| -> Carry { Arc::new(sd_notify::notify) }),
            // Twice as often as it must be.
            watchdog: sd_notify::watchdog_enabled()
                .map(|within| within / 2)
                .filter(|every| !every.is_zero()),
            ready: AtomicBool::new(false),
        }
    }

    /// Tells that the instance is ready, once it is; then each change of its role, and that it is alive, as long as it is. Never
    /// ends.
    pub(crate) async fn follow(&self, status: watch::Receiver<LeaderStatus>, responds: impl AsyncFn()) {
        if self.send.is_some() {
            responds().await;
            let role = words(&status.borrow());
            self.tell(&[NotifyState::Ready, NotifyState::Status(&role)]).await;
            self.ready.store(true, Ordering::Relaxed);
            tokio::join!(self.tell_roles(status), self.tell_alive(&responds));
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

    async fn tell_alive(&self, responds: &impl AsyncFn()) {
        let Some(every) = self.watchdog else { return };
        let mut due = interval(every);
        due.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            due.tick().await;
            match timeout(every, responds()).await {
                Ok(()) => self.tell(&[NotifyState::Watchdog]).await,
                Err(_) => warn!(
                    within = ?every,
                    "a thread that serves connections is stuck: the service manager gets no sign of life"
                ),
            }
        }
    }

    async fn tell(&self, what: &[NotifyState<'_>]) {
        let Some(send) = self.send.clone() else { return };
        let lines: Vec<String> = what.iter().map(ToString::to_string).collect();
        // It waits if nobody reads.
        let told = spawn_blocking(move || {
            let lines: Vec<_> = lines.iter().map(|line| NotifyState::Custom(line)).collect();
            send(&lines)
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
        assert_eq!(words(&status), "follower of node-2 MAINPID=1, term 9");
    }
}
