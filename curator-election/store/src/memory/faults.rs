//! Faults between a client and the store.

use std::time::Duration;

use rand::RngExt;
use rand::rngs::StdRng;

/// The state of the link between a client and the store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Link {
    /// Requests and replies are delivered.
    #[default]
    Up,
    /// Nothing is delivered in either direction, without an error for the client.
    Cut,
    /// Requests are lost; replies and events are delivered.
    RequestsLost,
    /// Requests are delivered and executed; replies are lost.
    RepliesLost,
    /// Connections are refused at once.
    Refused,
}

impl Link {
    pub(super) const fn lets_requests_through(self) -> bool {
        matches!(self, Self::Up | Self::RepliesLost)
    }

    pub(super) const fn lets_replies_through(self) -> bool {
        matches!(self, Self::Up | Self::RequestsLost)
    }
}

/// The faults between one client and the store.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Faults {
    /// The state of the link.
    pub link: Link,
    /// The maximum delay of a request or reply; drawn for each.
    pub delay: Duration,
    /// The fraction of requests lost, between 0 and 1.
    pub lose_requests: f64,
    /// The fraction of replies lost, between 0 and 1.
    pub lose_replies: f64,
    /// The maximum additional delay of a reply: the request is executed in time and answered late.
    pub late_replies: Duration,
    /// The maximum additional delay of watch events.
    pub late_watches: Duration,
    /// Reads hang and watches are silent while leases are renewed, as on a member that is partitioned from the others.
    pub reads_hang: bool,
}

/// The faults drawn for one call.
#[derive(Debug)]
pub(super) struct Fate {
    pub(super) request_delay: Duration,
    pub(super) reply_delay: Duration,
    pub(super) watch_delay: Duration,
    pub(super) request_lost: bool,
    pub(super) reply_lost: bool,
}

impl Faults {
    pub(super) fn draw(&self, rng: &mut StdRng) -> Fate {
        let request_delay = self.delay.mul_f64(rng.random_range(0.0..=1.0));
        let reply_delay = (self.delay + self.late_replies).mul_f64(rng.random_range(0.0..=1.0));
        Fate {
            request_delay,
            reply_delay,
            watch_delay: reply_delay + self.late_watches.mul_f64(rng.random_range(0.0..=1.0)),
            request_lost: rng.random_bool(self.lose_requests.clamp(0.0, 1.0)),
            reply_lost: rng.random_bool(self.lose_replies.clamp(0.0, 1.0)),
        }
    }
}
