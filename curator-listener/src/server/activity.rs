//! The activity of one connection, and the timeouts that depend on it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use h2::{Ping, PingPong};
use rand::RngExt;
use tokio::time::{sleep, timeout};

use super::admission::ConnectionPermit;
use crate::inbound::frames::PREFACE;
use crate::transport::counting::ReadObserver;

/// How often within the ping interval it is checked whether the client has sent anything. A silence is noticed at
/// most this part of the interval late.
const POLLS_PER_INTERVAL: u32 = 4;

/// The activity of a connection.
pub(super) struct Activity {
    pub(super) permit: ConnectionPermit,
    /// Bytes read, wrapping around.
    pub(super) read: AtomicUsize,
    /// Calls so far.
    pub(super) calls: AtomicU64,
    /// Calls that the client cancelled before it had their answer.
    pub(super) cancelled: AtomicU64,
    /// Open calls.
    pub(super) open: AtomicUsize,
}

impl Activity {
    pub(super) fn new(permit: ConnectionPermit) -> Arc<Self> {
        Arc::new(Self {
            permit,
            read: AtomicUsize::new(0),
            calls: AtomicU64::new(0),
            cancelled: AtomicU64::new(0),
            open: AtomicUsize::new(0),
        })
    }
}

impl ReadObserver for Arc<Activity> {
    fn on_read(&mut self, bytes: &[u8]) {
        let before = self.read.fetch_add(bytes.len(), Ordering::Relaxed);
        if before < PREFACE && before.saturating_add(bytes.len()) >= PREFACE {
            self.permit.spoke();
        }
    }
}

/// An open call of a connection.
pub(super) struct OpenCall(Arc<Activity>);

impl OpenCall {
    pub(super) fn new(activity: &Arc<Activity>) -> Self {
        if activity.calls.fetch_add(1, Ordering::Relaxed) == 0 {
            activity.permit.called();
        }
        activity.open.fetch_add(1, Ordering::Relaxed);
        Self(activity.clone())
    }

    /// The client has cancelled the call.
    pub(super) fn cancelled(&self) {
        self.0.cancelled.fetch_add(1, Ordering::Relaxed);
    }
}

impl Drop for OpenCall {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Completes when a client does not answer a ping. Any data from the client counts as a sign of life until a ping is
/// due.
pub(super) async fn unresponsive(
    pings: Option<PingPong>,
    activity: Arc<Activity>,
    interval: Duration,
    ping_timeout: Duration,
) {
    let Some(mut pings) = pings else {
        return std::future::pending().await;
    };
    let mut seen = activity.read.load(Ordering::Relaxed);
    let mut silent = 0;
    loop {
        sleep(interval / POLLS_PER_INTERVAL).await;
        let read = activity.read.load(Ordering::Relaxed);
        silent = if std::mem::replace(&mut seen, read) == read {
            silent + 1
        } else {
            0
        };
        if silent < POLLS_PER_INTERVAL {
            continue;
        }
        silent = 0;
        if !matches!(timeout(ping_timeout, pings.ping(Ping::opaque())).await, Ok(Ok(_))) {
            return;
        }
    }
}

/// Completes when a connection has had no call for this time, or for up to twice as long.
pub(super) async fn idle(activity: Arc<Activity>, after: Duration) {
    let mut seen = activity.calls.load(Ordering::Relaxed);
    loop {
        sleep(after).await;
        let calls = activity.calls.load(Ordering::Relaxed);
        if calls == seen && activity.open.load(Ordering::Relaxed) == 0 {
            return;
        }
        seen = calls;
    }
}

/// Completes when a connection has reached its maximum age, give or take a tenth, so that connections that were
/// opened together are not closed together.
pub(super) async fn aged(age: Option<Duration>) {
    let Some(age) = age else {
        return std::future::pending().await;
    };
    let share = rand::rng().random_range(0.9..1.1);
    sleep(age.mul_f64(share)).await;
}

/// Completes when a client has not sent the HTTP/2 preface in time.
pub(super) async fn late(activity: Arc<Activity>, after: Duration) {
    sleep(after).await;
    if activity.read.load(Ordering::Relaxed) >= PREFACE {
        std::future::pending::<()>().await;
    }
}
