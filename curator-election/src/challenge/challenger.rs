//! The candidate's side: whom to suspect, when to challenge, and when to depose.
//!
//! ```text
//!          suspicion               clear              acknowledged
//!   Idle -----------> Suspecting --------> Challenging ----------> Waiting ---> Deposing
//!    ^                    |                                        ^   |
//!    |                    +------ challenged by another -----------+   | refuted: back-off
//!    +-----------------------------------------------------------------+
//! ```

use std::time::Duration;

use bytes::Bytes;

use super::limit::Limit;
use super::record::{ChallengeRecord, ChallengeState, Standing};
use crate::clock::Instant;
use crate::failpoint;
use crate::store::{LeaseId, Revision, TimeToLive};

/// How often the next in the queue asks for the remaining TTL of the oldest candidate. The second asks half as often.
const ASK_INTERVAL: Duration = Duration::from_millis(500);
/// Candidates behind this place in the queue do not ask.
const MAX_ASKING_PLACE: u32 = 4;
/// How much later each further candidate challenges than the one before it.
const PLACE_DELAY: Duration = Duration::from_millis(150);
/// How often to look whether a candidate that could not be challenged now can be.
const RECHECK_INTERVAL: Duration = Duration::from_secs(10);
/// The wait after a call that failed or found something else than expected.
const RETRY_INTERVAL: Duration = Duration::from_millis(50);
/// The first wait before a candidate is suspected again after it has refuted a challenge. It doubles.
const INITIAL_TRUST: Duration = Duration::from_secs(1);
/// The maximum of that wait.
const MAX_TRUST: Duration = Duration::from_secs(60);
/// The maximum number of concurrent polls.
const MAX_POLLS: usize = 4;
/// The number of challenges in a row whose guard did not hold, after which the candidate is trusted for a while.
const MAX_ATTEMPTS: u32 = 3;

/// The oldest candidate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) key: Bytes,
    pub(crate) created: Revision,
    pub(crate) lease: Option<LeaseId>,
}

/// The own place in the queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// The number of candidates before this one: 1 for the next one.
    pub(crate) behind: u32,
    /// The own lock key.
    pub(crate) key: Bytes,
    /// Its create revision.
    pub(crate) created: Revision,
}

/// What the elector is to do for the challenger. Each step but [`Step::FindPlace`] is answered with its id.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Step {
    /// Read the queue, to learn the own place.
    FindPlace,
    /// Ask for the remaining TTL of a lease.
    AskTtl { id: u64, lease: LeaseId },
    /// Read the lock key and the challenge key of a candidate.
    Read { id: u64, key: Bytes },
    /// Put the challenge key of `target`, guarded by its mod revision `seen`.
    Challenge {
        id: u64,
        target: Target,
        seen: Revision,
        record: ChallengeRecord,
        own: Place,
    },
    /// Delete both keys of `target`, guarded by the mod revision `seen` of its challenge key.
    Depose {
        id: u64,
        target: Target,
        seen: Revision,
        own: Place,
    },
}

/// What came of a step, for logs and metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// The candidate refuted the challenge.
    Refuted,
    /// The candidate is challenged, by this candidate.
    Challenged,
    /// The candidate was deposed.
    Deposed,
}

/// The challenges of one candidate, while it is queued.
#[derive(Debug)]
pub(crate) struct Challenger {
    /// The own lease, which names the challenger.
    lease: LeaseId,
    own_limit: Limit,
    /// The own place; `None` before it is read.
    place: Option<Place>,
    target: Option<Suspect>,
    next_id: u64,
}

/// What is known of the oldest candidate.
#[derive(Debug)]
struct Suspect {
    target: Target,
    /// Its limit; `None` before the first read, or if it cannot be challenged.
    limit: Option<Limit>,
    /// When to ask for its TTL, or to read its limit.
    next_ask: Instant,
    asking: Option<u64>,
    /// Suspicions before this time are ignored.
    trusted_until: Instant,
    trust: Duration,
    attempts: u32,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    Idle,
    /// Read the keys at this time; then the read with this id is in flight.
    Suspecting {
        read_at: Instant,
        reading: Option<u64>,
        since: Instant,
    },
    Challenging {
        id: u64,
        limit: Limit,
        sent_at: Instant,
    },
    Waiting(Wait),
}

/// A challenge at revision `seen`, and the time that counts against the accused.
#[derive(Debug)]
struct Wait {
    seen: Revision,
    limit: Limit,
    since: Instant,
    counted: Duration,
    answered_at: Instant,
    next_poll: Instant,
    polls: Vec<(u64, Instant)>,
    deposing: Option<u64>,
}

impl Challenger {
    pub(crate) const fn new(lease: LeaseId, own_limit: Limit) -> Self {
        Self {
            lease,
            own_limit,
            place: None,
            target: None,
            next_id: 0,
        }
    }

    /// The oldest candidate, by the newest observation; `None` if there is none or it is this candidate.
    pub(crate) fn observed(&mut self, now: Instant, target: Option<Target>) {
        let known = self.target.as_ref().map(|suspect| &suspect.target);
        if known == target.as_ref() {
            return;
        }
        // The place changes when the oldest candidate is gone.
        if let (Some(_), Some(place)) = (known, &mut self.place) {
            place.behind = place.behind.saturating_sub(1).max(1);
        }
        self.target = target.map(|target| Suspect {
            target,
            limit: None,
            next_ask: now,
            asking: None,
            trusted_until: now,
            trust: INITIAL_TRUST,
            attempts: 0,
            stage: Stage::Idle,
        });
    }

    /// The place in the queue; `None` if the own key is not in the queue.
    pub(crate) fn placed(&mut self, place: Option<Place>) {
        self.place = place;
    }

    /// The lock key of the oldest candidate.
    pub(crate) fn target_key(&self) -> Option<Bytes> {
        self.target.as_ref().map(|suspect| suspect.target.key.clone())
    }

    /// Whether the place is known.
    pub(crate) const fn is_placed(&self) -> bool {
        self.place.is_some()
    }

    /// There is a reason to believe that the candidate with this create revision is dead. It may be wrong.
    pub(crate) fn suspect(&mut self, now: Instant, created: Revision) {
        let delay = PLACE_DELAY * self.place.as_ref().map_or(1, |place| place.behind.saturating_sub(1));
        let Some(suspect) = self.target.as_mut().filter(|suspect| suspect.target.created == created) else {
            return;
        };
        if matches!(suspect.stage, Stage::Idle) && now >= suspect.trusted_until {
            suspect.stage = Stage::Suspecting {
                read_at: now + delay,
                reading: None,
                since: now,
            };
        }
    }

    /// The time of the next step.
    pub(crate) fn next_wakeup(&self) -> Option<Instant> {
        let suspect = self.target.as_ref()?;
        match &suspect.stage {
            Stage::Idle => (suspect.asking.is_none() && self.asks()).then_some(suspect.next_ask),
            Stage::Suspecting { read_at, reading, .. } => reading.is_none().then_some(*read_at),
            Stage::Challenging { .. } => None,
            Stage::Waiting(wait) => (wait.polls.len() < MAX_POLLS).then_some(wait.next_poll),
        }
    }

    /// The steps that are due.
    pub(crate) fn due(&mut self, now: Instant) -> Vec<Step> {
        let asks = self.asks();
        let is_placed = self.is_placed();
        let mut next_id = self.next_id;
        let mut new_id = || {
            next_id += 1;
            next_id
        };
        let mut steps = Vec::new();
        if let Some(suspect) = &mut self.target {
            let key = suspect.target.key.clone();
            match &mut suspect.stage {
                Stage::Idle if asks && suspect.asking.is_none() && now >= suspect.next_ask => {
                    let id = new_id();
                    let step = match (suspect.limit, suspect.target.lease) {
                        (Some(_), Some(lease)) => Step::AskTtl { id, lease },
                        _ => Step::Read { id, key },
                    };
                    suspect.asking = Some(id);
                    steps.push(step);
                }
                Stage::Suspecting { read_at, reading, .. } if reading.is_none() && now >= *read_at => {
                    if is_placed {
                        let id = new_id();
                        *reading = Some(id);
                        steps.push(Step::Read { id, key });
                    } else {
                        *read_at = now + RETRY_INTERVAL;
                        steps.push(Step::FindPlace);
                    }
                }
                Stage::Waiting(wait) if wait.polls.len() < MAX_POLLS && now >= wait.next_poll => {
                    let id = new_id();
                    wait.polls.push((id, now));
                    wait.next_poll = wait.next_poll_after(now);
                    steps.push(Step::Read { id, key });
                }
                _ => {}
            }
        }
        self.next_id = next_id;
        steps
    }

    /// The remaining TTL of the oldest candidate; `None` if it is not known.
    pub(crate) fn asked(&mut self, id: u64, now: Instant, ttl: Option<TimeToLive>) {
        let interval = ASK_INTERVAL * self.place.as_ref().map_or(1, |place| place.behind.max(1));
        let Some(suspect) = self.target.as_mut().filter(|suspect| suspect.asking == Some(id)) else {
            return;
        };
        suspect.asking = None;
        suspect.next_ask = now + interval;
        let silence = suspect.limit.unwrap_or(self.own_limit).get();
        let created = suspect.target.created;
        if ttl.is_some_and(|ttl| is_silent(ttl, silence)) {
            self.suspect(now, created);
        }
    }

    /// The keys of the oldest candidate were read; `None` if the read failed.
    pub(crate) fn read(&mut self, id: u64, now: Instant, standing: Option<&Standing>) -> (Option<Found>, Option<Step>) {
        let Some(suspect) = &mut self.target else {
            return (None, None);
        };
        if suspect.asking == Some(id) {
            suspect.asking = None;
            if let Some(standing) = standing {
                suspect.limit = record_of(standing).map(|(_, record)| Limit::new(record.limit));
            }
            let wait = if suspect.limit.is_some() {
                ASK_INTERVAL
            } else {
                RECHECK_INTERVAL
            };
            suspect.next_ask = now + wait;
            return (None, None);
        }
        match &mut suspect.stage {
            Stage::Suspecting { reading, since, .. } if *reading == Some(id) => {
                let since = *since;
                self.inspected(now, since, standing)
            }
            Stage::Waiting(wait) => {
                let Some(at) = wait.polls.iter().position(|(poll, _)| *poll == id) else {
                    return (None, None);
                };
                wait.polls.remove(at);
                let Some(standing) = standing else {
                    wait.next_poll = wait.next_poll.min(now + RETRY_INTERVAL);
                    return (None, None);
                };
                self.polled(now, standing)
            }
            _ => (None, None),
        }
    }

    /// The challenge was answered: put at this revision, or its guard did not hold (`Ok(None)`), or nothing is known.
    pub(crate) fn challenged(&mut self, id: u64, now: Instant, put: Result<Option<Revision>, ()>) -> Option<Found> {
        let suspect = self.target.as_mut()?;
        let Stage::Challenging {
            id: own,
            limit,
            sent_at,
        } = suspect.stage
        else {
            return None;
        };
        if own != id {
            return None;
        }
        if let Ok(Some(seen)) = put {
            let since = if failpoint::on(failpoint::WAITS_FROM_SENDING) {
                sent_at
            } else {
                now
            };
            suspect.stage = Stage::Waiting(Wait::new(seen, suspect_limit(limit, self.own_limit), since, now));
            return Some(Found::Challenged);
        }
        // It may have been put: the next read finds that out, and adopts it. If the guard did not hold, the own key may
        // have changed.
        if put.is_ok() {
            suspect.attempts += 1;
            self.place = None;
        }
        if suspect.attempts >= MAX_ATTEMPTS {
            suspect.trust_again(now);
        } else {
            suspect.stage = Stage::Suspecting {
                read_at: now + RETRY_INTERVAL,
                reading: None,
                since: now,
            };
        }
        None
    }

    /// The deposing transaction was answered: executed, its guard did not hold, or nothing is known.
    pub(crate) fn deposed(&mut self, id: u64, now: Instant, done: Result<bool, ()>) {
        let Some(suspect) = &mut self.target else { return };
        let Stage::Waiting(wait) = &mut suspect.stage else {
            return;
        };
        if wait.deposing != Some(id) {
            return;
        }
        wait.deposing = None;
        if done == Ok(false) {
            self.place = None;
        }
        match done {
            Ok(true) => {
                // The next observation shows the next candidate.
                suspect.trust_again(now);
            }
            // The next poll shows why.
            Ok(false) | Err(()) => wait.next_poll = now + RETRY_INTERVAL,
        }
    }

    fn asks(&self) -> bool {
        self.place
            .as_ref()
            .is_some_and(|place| place.behind <= MAX_ASKING_PLACE)
    }

    fn inspected(
        &mut self,
        now: Instant,
        since: Instant,
        standing: Option<&Standing>,
    ) -> (Option<Found>, Option<Step>) {
        let Some(suspect) = &mut self.target else {
            return (None, None);
        };
        let again = Stage::Suspecting {
            read_at: now + RETRY_INTERVAL,
            reading: None,
            since,
        };
        let Some(standing) = standing else {
            suspect.stage = again;
            return (None, None);
        };
        if standing.created != Some(suspect.target.created) {
            // It is gone: the next observation shows that.
            suspect.stage = Stage::Idle;
            return (None, None);
        }
        let without_record = || {
            let record = ChallengeRecord {
                limit: self.own_limit.get(),
                process: String::new(),
                sequence: 0,
                state: ChallengeState::Clear,
            };
            failpoint::on(failpoint::ABSENT_IS_ZERO).then_some((Revision(0), record))
        };
        let Some((seen, record)) = record_of(standing).or_else(without_record) else {
            suspect.limit = None;
            suspect.trust_again(now);
            return (None, None);
        };
        let limit = Limit::new(record.limit);
        suspect.limit = Some(limit);
        if let ChallengeState::Challenged { .. } = record.state {
            let since = if failpoint::on(failpoint::WAITS_FROM_ASKING) {
                since
            } else {
                now
            };
            suspect.stage = Stage::Waiting(Wait::new(seen, suspect_limit(limit, self.own_limit), since, now));
            return (None, None);
        }
        let Some(own) = self.place.clone() else {
            suspect.stage = again;
            return (None, Some(Step::FindPlace));
        };
        self.next_id += 1;
        let id = self.next_id;
        suspect.stage = Stage::Challenging {
            id,
            limit,
            sent_at: now,
        };
        let state = ChallengeState::Challenged { by: self.lease };
        let step = Step::Challenge {
            id,
            target: suspect.target.clone(),
            seen,
            record: record.with_state(state),
            own,
        };
        (None, Some(step))
    }

    fn polled(&mut self, now: Instant, standing: &Standing) -> (Option<Found>, Option<Step>) {
        let Some(suspect) = &mut self.target else {
            return (None, None);
        };
        let target = suspect.target.clone();
        let Stage::Waiting(wait) = &mut suspect.stage else {
            return (None, None);
        };
        if standing.created != Some(target.created) {
            suspect.stage = Stage::Idle;
            return (None, None);
        }
        let found = record_of(standing);
        let still_challenged = found.as_ref().is_some_and(|(seen, _)| *seen == wait.seen);
        if !still_challenged && !failpoint::on(failpoint::DEPOSES_WITHOUT_COMPARE) {
            suspect.trust_again(now);
            return (Some(Found::Refuted), None);
        }
        wait.answered(now);
        if !wait.is_over(now) || wait.deposing.is_some() {
            return (None, None);
        }
        let Some(own) = self.place.clone() else {
            wait.next_poll = now + RETRY_INTERVAL;
            return (None, Some(Step::FindPlace));
        };
        self.next_id += 1;
        let id = self.next_id;
        wait.deposing = Some(id);
        let seen = wait.seen;
        (None, Some(Step::Depose { id, target, seen, own }))
    }
}

/// The limit that the wait follows: that of the accused.
fn suspect_limit(accused: Limit, own: Limit) -> Limit {
    if failpoint::on(failpoint::OWN_LIMIT) {
        own
    } else {
        accused
    }
}

impl Suspect {
    /// Does not suspect the candidate for a while, each time for longer.
    fn trust_again(&mut self, now: Instant) {
        self.stage = Stage::Idle;
        self.attempts = 0;
        self.trusted_until = now + self.trust;
        self.trust = (self.trust * 2).min(MAX_TRUST);
    }
}

impl Wait {
    const fn new(seen: Revision, limit: Limit, since: Instant, now: Instant) -> Self {
        Self {
            seen,
            limit,
            since,
            counted: Duration::ZERO,
            answered_at: now,
            next_poll: now,
            polls: Vec::new(),
            deposing: None,
        }
    }

    /// A poll was answered, and the challenge stands.
    fn answered(&mut self, now: Instant) {
        let gap = now.saturating_since(self.answered_at);
        if gap < self.limit.max_poll_gap() || failpoint::on(failpoint::COUNTS_OUTAGES) {
            self.counted += gap;
        }
        self.answered_at = now;
    }

    /// The next poll is due after the interval, or when the wait may be over.
    fn next_poll_after(&self, now: Instant) -> Instant {
        let next = now + self.limit.poll_interval();
        let over = self.since + self.limit.wait() + Duration::from_millis(1);
        if now < over { next.min(over) } else { next }
    }

    /// Whether the accused may be deposed: both its clock time and its counted time exceed the wait.
    fn is_over(&self, now: Instant) -> bool {
        let wait = self.limit.wait();
        let counted = if failpoint::on(failpoint::WAITS_FROM_SENDING) || failpoint::on(failpoint::WAITS_FROM_ASKING) {
            wait + Duration::from_millis(1)
        } else {
            self.counted
        };
        now.saturating_since(self.since) > wait && counted > wait
    }
}

/// Whether a lease was not renewed for `silence`, rounded up to seconds. etcd rounds the remaining TTL down.
fn is_silent(ttl: TimeToLive, silence: Duration) -> bool {
    let seconds = silence.as_secs() + u64::from(silence.subsec_nanos() > 0);
    ttl.remaining.as_secs() + 1 + seconds.max(1) <= ttl.granted.as_secs()
}

/// The challenge key with its mod revision, if the candidate can be challenged.
fn record_of(standing: &Standing) -> Option<(Revision, ChallengeRecord)> {
    let record = standing.record.as_ref()?;
    let decoded = ChallengeRecord::decode(&record.value).ok()?;
    Some((record.mod_revision, decoded))
}

#[cfg(test)]
mod tests;
