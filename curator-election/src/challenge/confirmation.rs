//! The leader's side: when to confirm the term, and until when it is valid.

use std::time::Duration;

use super::limit::Limit;
use super::record::{ChallengeRecord, ChallengeState, Standing};
use crate::clock::Instant;
use crate::failpoint;
use crate::store::Revision;

/// The maximum number of concurrent reads and refutations of a term.
const MAX_IN_FLIGHT: usize = 4;
/// The wait after a failed call.
const RETRY_INTERVAL: Duration = Duration::from_millis(25);

/// The confirmations of one term.
///
/// Each acknowledged call moves the deadline by its own send time. Answers may arrive late, twice or in another order.
#[derive(Debug)]
pub(crate) struct Confirmations {
    limit: Limit,
    /// The create revision of the lock key.
    created: Revision,
    /// The own record, as last put.
    record: ChallengeRecord,
    /// Until when the term is valid; `None` before the first confirmation.
    deadline: Option<Instant>,
    next_read: Instant,
    in_flight: Vec<InFlight>,
    next_id: u64,
}

#[derive(Clone, Copy, Debug)]
struct InFlight {
    id: u64,
    sent_at: Instant,
    /// The newest revision of the store at the send time.
    newest: Revision,
}

/// What an answer means.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Outcome {
    /// Nothing: an answer too late to confirm the term or unknown, or a failed call.
    Nothing,
    /// The term is confirmed until the new [`Confirmations::deadline`].
    Confirmed,
    /// The term is challenged, or its challenge key is missing or not the own one: put the record, guarded by the mod
    /// revision of the key.
    Refute {
        id: u64,
        cause: RefutationCause,
        seen: Revision,
        record: ChallengeRecord,
    },
    /// The lock key is gone.
    Lost,
    /// The store answered with a revision lower than one from before the call.
    WentBack { seen: Revision, found: Revision },
}

/// Why the own record is put again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RefutationCause {
    /// Another candidate challenges the term.
    Challenged,
    /// There is no challenge key.
    Missing,
    /// The challenge key holds another record.
    Foreign,
}

impl Confirmations {
    /// The confirmations of the term with a lock key created at `created`; the first one is due now. `record` is the
    /// record that the candidate queued with.
    pub(crate) const fn new(limit: Limit, created: Revision, record: ChallengeRecord, now: Instant) -> Self {
        Self {
            limit,
            created,
            record,
            deadline: None,
            next_read: now,
            in_flight: Vec::new(),
            next_id: 0,
        }
    }

    /// Until when the term is valid; `None` before the first confirmation.
    pub(crate) const fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// When the term ends if nothing confirms it.
    pub(crate) fn gives_up_at(&self) -> Option<Instant> {
        Some(self.deadline? + self.limit.max_suspension())
    }

    /// The time of the next read.
    pub(crate) fn next_wakeup(&self) -> Option<Instant> {
        let oldest = self.in_flight.first().map(|call| call.sent_at + self.limit.get());
        if self.in_flight.len() >= MAX_IN_FLIGHT {
            oldest
        } else {
            Some(self.next_read)
        }
    }

    /// The limit of the duration of each call: a later answer confirms nothing.
    pub(crate) const fn call_timeout(&self) -> Duration {
        self.limit.get()
    }

    /// Starts a read if one is due. Its send time is `now`, so it must be sent after that. `newest` is the newest
    /// revision of the store that is known.
    pub(crate) fn read_if_due(&mut self, now: Instant, newest: Revision) -> Option<u64> {
        // The driver ends each call after the limit; this only ensures progress if it is late.
        self.in_flight.retain(|call| now < call.sent_at + self.limit.get());
        if now < self.next_read || self.in_flight.len() >= MAX_IN_FLIGHT {
            return None;
        }
        self.next_read = now + self.limit.poll_interval();
        Some(self.start(now, newest))
    }

    /// A read was answered.
    pub(crate) fn read(&mut self, id: u64, now: Instant, standing: &Standing) -> Outcome {
        let Some(call) = self.finish(id) else {
            return Outcome::Nothing;
        };
        if standing.revision < call.newest {
            let (seen, found) = (call.newest, standing.revision);
            return Outcome::WentBack { seen, found };
        }
        if standing.created != Some(self.created) {
            return Outcome::Lost;
        }
        let (seen, found) = match &standing.record {
            Some(record) => (record.mod_revision, ChallengeRecord::decode(&record.value).ok()),
            None => (Revision(0), None),
        };
        let own = |record: &ChallengeRecord| record.process == self.record.process && record.limit == self.record.limit;
        let is_clear = |record: &ChallengeRecord| {
            record.state == ChallengeState::Clear || failpoint::on(failpoint::CONFIRMS_WITHOUT_RECORD)
        };
        if found.as_ref().is_some_and(|record| own(record) && is_clear(record)) {
            return self.confirmed(call.sent_at, now);
        }
        if self.in_flight.len() >= MAX_IN_FLIGHT {
            self.retry(now);
            return Outcome::Nothing;
        }
        let cause = match &found {
            Some(record) if own(record) => RefutationCause::Challenged,
            None if seen == Revision(0) => RefutationCause::Missing,
            _ => RefutationCause::Foreign,
        };
        // A read is not urgent before the answer.
        let sequence = found.map_or(0, |record| record.sequence).max(self.record.sequence);
        self.record.sequence = sequence.saturating_add(1);
        Outcome::Refute {
            cause,
            id: self.start(now, call.newest),
            seen,
            record: self.record.clone(),
        }
    }

    /// A refutation was answered: it was put, or its guard did not hold.
    pub(crate) fn refuted(&mut self, id: u64, now: Instant, put: bool) -> Outcome {
        let Some(call) = self.finish(id) else {
            return Outcome::Nothing;
        };
        if put {
            self.confirmed(call.sent_at, now)
        } else {
            // The key changed since the read, by an earlier refutation or a new challenge, or the lock key is gone.
            self.next_read = now;
            Outcome::Nothing
        }
    }

    /// A call failed or was not answered in time.
    pub(crate) fn failed(&mut self, id: u64, now: Instant) {
        if self.finish(id).is_some() {
            self.retry(now);
        }
    }

    fn start(&mut self, now: Instant, newest: Revision) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        self.in_flight.push(InFlight {
            id,
            sent_at: now,
            newest,
        });
        id
    }

    fn finish(&mut self, id: u64) -> Option<InFlight> {
        let at = self.in_flight.iter().position(|call| call.id == id)?;
        Some(self.in_flight.remove(at))
    }

    fn retry(&mut self, now: Instant) {
        self.next_read = self.next_read.min(now + RETRY_INTERVAL);
    }

    /// Moves the deadline. A call of so long ago that its deadline has passed shows nothing of now.
    fn confirmed(&mut self, sent_at: Instant, now: Instant) -> Outcome {
        let from = if failpoint::on(failpoint::CONFIRMED_FROM_RECEIPT) {
            now
        } else {
            sent_at
        };
        let until = from + self.limit.validity();
        if until <= now {
            return Outcome::Nothing;
        }
        self.deadline = Some(self.deadline.map_or(until, |deadline| deadline.max(until)));
        Outcome::Confirmed
    }
}

#[cfg(test)]
mod tests;
