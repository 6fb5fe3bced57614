//! When to renew a lease, and its deadline: a pure table of attempts.

use std::time::Duration;

use crate::clock::Instant;
use crate::failpoint;
use crate::lease_deadline::{deadline, default_margin};

/// The maximum number of concurrent renewals. More would only add load to a store that does not respond.
const MAX_IN_FLIGHT: usize = 3;

/// The renewals of one lease.
///
/// A renewal is sent every third of the TTL, as etcd's own client does, or at a given interval. If its reply is late,
/// another attempt is sent concurrently, to another member if there is one. Each acknowledged attempt moves the
/// deadline by its own send time.
#[derive(Debug)]
pub(crate) struct Renewal {
    ttl: Duration,
    margin: Option<Duration>,
    /// The interval of the renewals; `None` for a third of the TTL.
    interval: Option<Duration>,
    acknowledged: Instant,
    deadline: Instant,
    next_send: Instant,
    in_flight: Vec<Attempt>,
    next_id: u64,
    /// The route of the next attempt: that of the last acknowledged one, plus one for each attempt without a reply.
    next_route: u32,
}

/// One attempt to renew the lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Attempt {
    /// Unique among the attempts of this lease.
    pub(crate) id: u64,
    /// The member to send it to: equal numbers mean the same member.
    pub(crate) route: u32,
    sent_at: Instant,
}

impl Renewal {
    /// The renewals of a lease granted by a request that was sent at `sent_at`.
    pub(crate) fn new(sent_at: Instant, ttl: Duration, margin: Option<Duration>) -> Self {
        let mut renewal = Self {
            ttl,
            margin,
            interval: None,
            acknowledged: sent_at,
            deadline: sent_at,
            next_send: sent_at,
            in_flight: Vec::new(),
            next_id: 0,
            next_route: 0,
        };
        renewal.acknowledge_from(sent_at, ttl);
        renewal
    }

    /// Renews at this interval from now on, for the first time at once.
    pub(crate) fn renew_every(&mut self, now: Instant, interval: Duration) {
        self.interval = Some(interval);
        self.next_send = now;
    }

    /// The deadline of the lease.
    pub(crate) const fn deadline(&self) -> Instant {
        self.deadline
    }

    pub(crate) fn expired(&self, now: Instant) -> bool {
        now >= self.end()
    }

    /// When the round ends without a renewal.
    fn end(&self) -> Instant {
        if failpoint::on(failpoint::REVIVES_ENDED_TERM) {
            self.deadline + self.retry_after()
        } else {
            self.deadline
        }
    }

    /// The time of the next action: sending an attempt, or ending the round.
    pub(crate) fn next_wakeup(&self) -> Instant {
        if self.in_flight.len() >= MAX_IN_FLIGHT {
            self.end()
        } else {
            self.next_send.min(self.end())
        }
    }

    /// Starts an attempt if one is due. Its send time is `now`, so it must be sent after that.
    pub(crate) fn send_if_due(&mut self, now: Instant) -> Option<Attempt> {
        if now < self.next_send || self.in_flight.len() >= MAX_IN_FLIGHT || self.expired(now) {
            return None;
        }
        let attempt = Attempt {
            id: self.next_id,
            route: self.next_route,
            sent_at: now,
        };
        self.next_id += 1;
        self.next_route = self.next_route.wrapping_add(1);
        self.in_flight.push(attempt);
        self.next_send = now + self.retry_after();
        Some(attempt)
    }

    /// The store acknowledged an attempt: the lease lasts for `ttl` from its send time. Unknown ids are ignored.
    pub(crate) fn acknowledged(&mut self, id: u64, ttl: Duration) {
        let Some(at) = self.in_flight.iter().position(|attempt| attempt.id == id) else {
            return;
        };
        let attempt = self.in_flight.remove(at);
        if attempt.sent_at < self.acknowledged {
            // A later attempt is already acknowledged.
            return;
        }
        self.next_route = attempt.route;
        self.acknowledge_from(attempt.sent_at, ttl);
    }

    /// An attempt failed: the next one follows soon, to another member.
    pub(crate) fn failed(&mut self, id: u64, now: Instant) {
        self.in_flight.retain(|attempt| attempt.id != id);
        self.next_send = self.next_send.min(now + self.retry_after() / 4);
    }

    fn acknowledge_from(&mut self, sent_at: Instant, ttl: Duration) {
        let margin = if failpoint::on(failpoint::NO_MARGIN) {
            Duration::ZERO
        } else {
            self.margin.unwrap_or_else(|| default_margin(ttl))
        };
        self.ttl = ttl;
        self.acknowledged = sent_at;
        self.deadline = self.deadline.max(deadline(sent_at, ttl, margin));
        self.next_send = sent_at + self.interval.unwrap_or(ttl / 3);
    }

    /// How long to wait for a reply before another attempt is sent.
    fn retry_after(&self) -> Duration {
        (self.ttl / 10).clamp(Duration::from_millis(50), Duration::from_secs(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_secs(6);
    const MARGIN: Duration = Duration::from_millis(600);

    fn at(ms: u64) -> Instant {
        Instant::from_origin(Duration::from_millis(ms))
    }

    fn granted_at_zero() -> Renewal {
        Renewal::new(at(0), TTL, None)
    }

    #[test]
    fn renews_each_third_of_the_ttl_by_the_member_that_answered() {
        let mut renewal = granted_at_zero();
        assert_eq!(renewal.next_wakeup(), at(2_000));
        assert_eq!(renewal.send_if_due(at(1_999)), None);
        let first = renewal.send_if_due(at(2_000)).unwrap();
        renewal.acknowledged(first.id, TTL);
        assert_eq!(renewal.next_wakeup(), at(4_000));
        let second = renewal.send_if_due(at(4_000)).unwrap();
        assert_eq!(second.route, first.route);
        assert_ne!(second.id, first.id);
    }

    #[test]
    fn renews_at_a_shorter_interval_from_now_on() {
        let mut renewal = granted_at_zero();
        renewal.renew_every(at(700), Duration::from_millis(500));
        let first = renewal.send_if_due(at(700)).unwrap();
        renewal.acknowledged(first.id, TTL);
        assert_eq!(renewal.next_wakeup(), at(1_200));
        assert_eq!(renewal.deadline(), at(700) + TTL - MARGIN);
    }

    #[test]
    fn the_deadline_counts_from_the_sending_however_late_the_answer() {
        let mut renewal = granted_at_zero();
        let sent = renewal.send_if_due(at(2_000)).unwrap();
        // The answer arrives 0.9 TTL after the sending; the lease of the grant would have ended at 5,400.
        renewal.acknowledged(sent.id, TTL);
        assert_eq!(renewal.deadline(), at(2_000) + TTL - MARGIN);
    }

    #[test]
    fn queued_answers_that_arrive_together_extend_each_by_its_own_sending() {
        let mut renewal = granted_at_zero();
        let sent: Vec<_> = [2_000, 2_600, 3_200]
            .map(|ms| renewal.send_if_due(at(ms)).unwrap())
            .into();
        for (attempt, ms) in sent.iter().zip([2_000, 2_600, 3_200]) {
            renewal.acknowledged(attempt.id, TTL);
            assert_eq!(renewal.deadline(), at(ms) + TTL - MARGIN);
        }
        // In reverse order the earlier attempts change nothing.
        let mut renewal = granted_at_zero();
        let sent: Vec<_> = [2_000, 2_600, 3_200]
            .map(|ms| renewal.send_if_due(at(ms)).unwrap())
            .into();
        for attempt in sent.iter().rev() {
            renewal.acknowledged(attempt.id, TTL);
            assert_eq!(renewal.deadline(), at(3_200) + TTL - MARGIN);
        }
    }

    #[test]
    fn a_late_answer_brings_in_another_member_and_no_more_than_three() {
        let mut renewal = granted_at_zero();
        let routes: Vec<u32> = [2_000, 2_600, 3_200]
            .iter()
            .map(|ms| renewal.send_if_due(at(*ms)).unwrap().route)
            .collect();
        assert_eq!(routes, [0, 1, 2]);
        assert_eq!(renewal.send_if_due(at(3_800)), None);
        assert_eq!(renewal.next_wakeup(), renewal.deadline());
    }

    #[test]
    fn the_member_that_answered_is_asked_next() {
        let mut renewal = granted_at_zero();
        let _hung = renewal.send_if_due(at(2_000)).unwrap();
        let healthy = renewal.send_if_due(at(2_600)).unwrap();
        renewal.acknowledged(healthy.id, TTL);
        assert_eq!(renewal.send_if_due(at(4_600)).unwrap().route, healthy.route);
    }

    #[test]
    fn a_failure_is_followed_soon_and_elsewhere() {
        let mut renewal = granted_at_zero();
        let first = renewal.send_if_due(at(2_000)).unwrap();
        renewal.failed(first.id, at(2_010));
        let again = renewal.next_wakeup();
        assert!(again <= at(2_200), "{again:?}");
        assert_ne!(renewal.send_if_due(again).unwrap().route, first.route);
    }

    #[test]
    fn nothing_is_sent_for_an_expired_lease() {
        let mut renewal = granted_at_zero();
        assert!(!renewal.expired(at(5_399)));
        assert!(renewal.expired(at(5_400)));
        assert_eq!(renewal.send_if_due(at(5_400)), None);
    }

    #[test]
    fn an_unknown_acknowledgement_changes_nothing() {
        let mut renewal = granted_at_zero();
        renewal.acknowledged(42, TTL);
        assert_eq!(renewal.deadline(), at(5_400));
    }
}
