//! What goes wrong between a client and the store.

use std::time::Duration;

use rand::RngExt;
use rand::rngs::StdRng;

/// What gets through between a client and the store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Link {
    /// Everything.
    #[default]
    Up,
    /// Nothing, in either direction; the client hears nothing of that.
    Cut,
    /// Replies and events only: requests never arrive.
    RequestsLost,
    /// Requests only: they are carried out, and nobody hears of it.
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

/// The faults of one client's way to the store.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Faults {
    /// What gets through at all.
    pub link: Link,
    /// The longest delay of a request or reply; each is drawn anew.
    pub delay: Duration,
    /// The part of the requests that is lost, between 0 and 1.
    pub lose_requests: f64,
    /// The part of the replies that is lost, between 0 and 1.
    pub lose_replies: f64,
    /// The longest delay of a reply, beyond that of `delay`: what is asked for is carried out in time, and told late.
    pub late_replies: Duration,
    /// The longest delay of what a watch brings, beyond that of replies.
    pub late_watches: Duration,
    /// Reads hang and watches are silent, while leases are renewed: a member that has lost touch with the others.
    pub reads_hang: bool,
}

/// What happens to one call.
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
