//! Heartbeats, which are kept only in the leader's memory, and the health derived from them.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use curator_election::clock::{Instant, SharedClock};
use curator_proto::common::NodeState;
use curator_proto::management_api::node::Health;

use crate::telemetry;

/// A node without a heartbeat for this long is unhealthy: twice the heartbeat interval.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The last heartbeats of nodes in this term.
pub(crate) struct Heartbeats {
    clock: SharedClock,
    began: Instant,
    last: Mutex<HashMap<String, Instant>>,
    heard: metrics::Counter,
}

impl Heartbeats {
    pub(in crate::leader) fn new(clock: SharedClock) -> Self {
        Self {
            began: clock.now(),
            clock,
            last: Mutex::default(),
            heard: metrics::counter!(telemetry::HEARTBEATS),
        }
    }

    /// Records a heartbeat.
    pub(crate) fn heard(&self, id: &str) {
        self.heard.increment(1);
        let now = self.clock.now();
        let mut last = self.last();
        match last.get_mut(id) {
            Some(last) => *last = now,
            None => {
                last.insert(id.to_owned(), now);
            }
        }
    }

    /// Forgets a deleted node.
    pub(in crate::leader) fn forget(&self, id: &str) {
        self.last().remove(id);
    }

    /// A snapshot of the heartbeats.
    pub(in crate::leader) fn snapshot(&self) -> Snapshot<'_> {
        Snapshot {
            now: self.clock.now(),
            began: self.began,
            last: self.last(),
        }
    }

    fn last(&self) -> MutexGuard<'_, HashMap<String, Instant>> {
        // No code panics while it holds the lock.
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(in crate::leader) struct Snapshot<'a> {
    now: Instant,
    began: Instant,
    last: MutexGuard<'a, HashMap<String, Instant>>,
}

impl Snapshot<'_> {
    /// The health of a node and the time since its last heartbeat; `None` without a heartbeat in this term.
    pub(in crate::leader) fn health(&self, id: &str, state: NodeState) -> (Health, Option<Duration>) {
        let since = self.last.get(id).map(|last| self.now.saturating_since(*last));
        (health(state, since, self.now.saturating_since(self.began)), since)
    }
}

fn health(state: NodeState, since: Option<Duration>, term: Duration) -> Health {
    match (state, since) {
        (NodeState::Up, Some(since)) if since <= TIMEOUT => Health::Healthy,
        // The previous leader may have received a heartbeat.
        (NodeState::Up, None) if term < TIMEOUT => Health::Unknown,
        (NodeState::Up, _) => Health::HeartbeatTimeout,
        _ => Health::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn health_by_state_and_heartbeat() {
        let (second, ten) = (Duration::from_secs(1), Duration::from_secs(10));
        let past = ten + Duration::from_nanos(1);
        for (state, since, term, expected) in [
            (NodeState::New, Some(second), ten, Health::Unknown),
            (NodeState::Decommissioned, None, past, Health::Unknown),
            (NodeState::Up, None, second, Health::Unknown),
            (NodeState::Up, None, ten, Health::HeartbeatTimeout),
            (NodeState::Up, Some(ten), second, Health::Healthy),
            (NodeState::Up, Some(past), past, Health::HeartbeatTimeout),
        ] {
            assert_eq!(health(state, since, term), expected, "{state:?} {since:?} {term:?}");
        }
    }
}
