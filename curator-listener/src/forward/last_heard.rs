//! When the leader was last heard on a connection, and the calls that wait to hear it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use crate::transport::counting::ReadObserver;

/// A leader that was heard within this time is taken for alive. A call that is sent to a dead leader fails, since
/// nobody knows whether it ran; so a call fails that arrives within this time after its host was lost.
const RECENT: Duration = Duration::from_millis(25);

/// Any bytes from the leader, also pongs, show that it is alive.
pub(crate) struct LastHeard {
    origin: Instant,
    /// In microseconds since the origin.
    at: AtomicU64,
    has_ended: AtomicBool,
    heard: Notify,
    wanted: Notify,
}

impl LastHeard {
    /// The leader is heard now.
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            origin: Instant::now(),
            at: AtomicU64::new(0),
            has_ended: AtomicBool::new(false),
            heard: Notify::new(),
            wanted: Notify::new(),
        })
    }

    fn now(&self) -> u64 {
        u64::try_from(self.origin.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    /// Whether the leader was heard a moment ago.
    pub(crate) fn is_recent(&self) -> bool {
        let since = self.now().saturating_sub(self.at.load(Ordering::Acquire));
        Duration::from_micros(since) < RECENT
    }

    /// Completes once the leader has been silent for this long.
    pub(crate) async fn is_silent_for(&self, limit: Duration) {
        loop {
            let heard = Duration::from_micros(self.at.load(Ordering::Acquire));
            let until = self.origin + heard + limit;
            if Instant::now() >= until {
                return;
            }
            sleep_until(until).await;
        }
    }

    /// Completes when the leader is heard, or the connection has ended. Has the leader pinged, unless it was heard a
    /// moment ago.
    pub(crate) async fn hears(self: Arc<Self>) {
        let mut heard = std::pin::pin!(self.heard.notified());
        // Before the look, so that nothing is missed.
        heard.as_mut().enable();
        if self.is_recent() || self.has_ended.load(Ordering::Acquire) {
            return;
        }
        self.wanted.notify_one();
        heard.await;
    }

    /// Completes when a call waits for a ping.
    pub(crate) async fn wanted(&self) {
        self.wanted.notified().await;
    }

    /// The connection has ended: nobody waits any more.
    pub(crate) fn end(&self) {
        self.has_ended.store(true, Ordering::Release);
        self.heard.notify_waiters();
    }
}

impl ReadObserver for Arc<LastHeard> {
    fn on_read(&mut self, _: &[u8]) {
        self.at.store(self.now(), Ordering::Release);
        self.heard.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn call_waits_for_a_ping_only_if_the_leader_was_silent() {
        let heard = LastHeard::new();
        heard.clone().hears().await;
        tokio::time::advance(RECENT).await;
        assert!(!heard.is_recent());
        let waiting = tokio::spawn(heard.clone().hears());
        heard.wanted().await;
        assert!(!waiting.is_finished());
        heard.clone().on_read(b"pong");
        waiting.await.expect("completes");
        assert!(heard.is_recent());
    }

    #[tokio::test(start_paused = true)]
    async fn silence_counts_from_what_was_heard_last() {
        let (heard, limit) = (LastHeard::new(), Duration::from_millis(300));
        let began = Instant::now();
        let silent = tokio::spawn({
            let heard = heard.clone();
            async move { heard.is_silent_for(limit).await }
        });
        tokio::time::sleep(Duration::from_millis(200)).await;
        heard.clone().on_read(b"data");
        silent.await.expect("completes");
        let took = began.elapsed();
        assert!((500..510).contains(&took.as_millis()), "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn end_of_the_connection_ends_the_wait() {
        let heard = LastHeard::new();
        tokio::time::advance(RECENT).await;
        let waiting = tokio::spawn(heard.clone().hears());
        heard.wanted().await;
        heard.end();
        waiting.await.expect("completes");
        heard.hears().await;
    }
}
