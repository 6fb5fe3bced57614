//! Counts and logs when calls or connections reach a limit of the listener.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use metrics::Counter;
use tokio::time::Instant;
use tracing::warn;

use crate::config::ListenerConfig;
use crate::telemetry::LIMITS_REACHED;

/// Minimum interval between two log lines about the same limit.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

/// A limit of [`ListenerConfig`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Limit {
    /// A waiting call is refused.
    HeldCalls,
    /// A connection is refused, or one without calls is closed for it.
    Connections,
    /// A connection is refused.
    ConnectionsPerPeer,
    /// A connection is closed before its client has sent anything.
    NewConnections,
}

impl Limit {
    const ALL: [Self; 4] = [
        Self::HeldCalls,
        Self::Connections,
        Self::ConnectionsPerPeer,
        Self::NewConnections,
    ];

    /// The name of the setting.
    const fn name(self) -> &'static str {
        match self {
            Self::HeldCalls => "hold_limit",
            Self::Connections => "max_connections",
            Self::ConnectionsPerPeer => "max_connections_per_peer",
            Self::NewConnections => "max_new_connections",
        }
    }

    fn is(self, config: &ListenerConfig) -> usize {
        match self {
            Self::HeldCalls => config.hold_limit,
            Self::Connections => config.max_connections,
            Self::ConnectionsPerPeer => config.connections_per_peer(),
            Self::NewConnections => config.max_new_connections,
        }
    }

    const fn effect(self) -> &'static str {
        match self {
            Self::HeldCalls => "calls that wait for a leader are refused with a retry delay",
            Self::Connections => "connections are refused, or closed for others if they have made no call",
            Self::ConnectionsPerPeer => "connections of one peer are refused",
            Self::NewConnections => "connections are closed before their client has sent anything",
        }
    }
}

/// The state of all limits.
#[derive(Debug)]
pub(crate) struct LimitAlerts([LimitState; Limit::ALL.len()]);

#[derive(Debug)]
struct LimitState {
    is: usize,
    counter: Counter,
    last_log: Mutex<LastLog>,
}

#[derive(Debug, Default)]
struct LastLog {
    at: Option<Instant>,
    times: u64,
}

impl LimitAlerts {
    pub(crate) fn new(config: &ListenerConfig) -> Self {
        Self(Limit::ALL.map(|limit| {
            let counter = metrics::counter!(LIMITS_REACHED, "limit" => limit.name());
            // So that the counter exists before the first event.
            counter.increment(0);
            LimitState {
                is: limit.is(config),
                counter,
                last_log: Mutex::default(),
            }
        }))
    }

    /// Counts that the limit is reached, and logs it if the last log line is old enough.
    pub(crate) fn report(&self, limit: Limit) {
        let state = &self.0[limit as usize];
        state.counter.increment(1);
        // No panic is possible while the lock is held.
        let mut last = state.last_log.lock().unwrap_or_else(PoisonError::into_inner);
        last.times += 1;
        if last.at.is_some_and(|at| at.elapsed() < LOG_INTERVAL) {
            return;
        }
        last.at = Some(Instant::now());
        let times = std::mem::take(&mut last.times);
        drop(last);
        warn!(
            limit = limit.name(),
            value = state.is,
            times,
            "limit reached: {}; logged at most once a minute",
            limit.effect()
        );
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn however_often_a_limit_bites_it_is_said_once_a_minute() {
        let limit_alerts = LimitAlerts::new(&ListenerConfig::default());
        let waits = |limit: Limit| limit_alerts.0[limit as usize].last_log.lock().expect("no panic").times;
        for _ in 0..100 {
            limit_alerts.report(Limit::HeldCalls);
        }
        assert_eq!(waits(Limit::HeldCalls), 99, "the first was said");
        limit_alerts.report(Limit::NewConnections);
        assert_eq!(waits(Limit::NewConnections), 0, "another limit is said by itself");
        advance(LOG_INTERVAL).await;
        limit_alerts.report(Limit::HeldCalls);
        assert_eq!(waits(Limit::HeldCalls), 0, "all that were left out are told of");
    }
}
