//! The elector's decisions, without I/O: events and the time in, commands out.
//!
//! ```text
//!            +--------- back-off -----------+
//!            v                              |
//!   Waiting ---> Opening ---> Running ---> Closing ---> Stopped
//!                (list,       (queued,     (revoke)
//!                 remove,      then
//!                 grant)       leading)
//! ```
//!
//! While a round runs, all candidates are read once per TTL, to detect a duplicate of this candidate (`duplicate.rs`).
//!
//! Each event first checks the clock: an event that arrives after the deadline finds the term ended.

mod challenges;

use std::time::Duration;

use bytes::Bytes;

use super::duplicate::{Duplicate, Own};
use super::early_end::EarlyEnds;
use super::renewal::{Attempt, Renewal};
use crate::backend::{CampaignError, Candidate, Elected, Observation, RecordGuard, Standing};
use crate::backoff::Backoff;
use crate::challenge::{
    ChallengeRecord, ChallengeState, Challenger, Confirmations, Found, Limit, Place, RefutationCause, Target,
};
use crate::clock::Instant;
use crate::failpoint;
use crate::process::Process;
use crate::status::{LeaderInfo, Reason};
use crate::store::{Lease, LeaseId, RefusalKind, Revision, StoreError, TimeToLive};
use crate::term::WentBack;
use crate::value::LeaderValue;

/// How often a candidate with a failover limit reads the queue until it knows its place.
const PLACE_INTERVAL: Duration = Duration::from_millis(500);

/// The maximum pause after a round that failed because the store did not answer, with a failover limit.
const MAX_OUTAGE_PAUSE: Duration = Duration::from_secs(1);

/// The durations that the decisions depend on.
#[derive(Clone, Debug)]
pub(crate) struct Timing {
    /// The requested TTL.
    pub(crate) ttl: Duration,
    /// The failover limit; `None` without challenges.
    pub(crate) limit: Option<Limit>,
    /// A random number of this process.
    pub(crate) nonce: u64,
    /// How long before the end of the lease a term ends; `None` for the default.
    pub(crate) margin: Option<Duration>,
    /// How long an observation of a leader is valid without a newer one.
    pub(crate) observation_ttl: Duration,
    /// The timeout of opening a round.
    pub(crate) open_timeout: Duration,
    /// The timeout of revoking the lease.
    pub(crate) close_timeout: Duration,
}

/// An input of the machine. Events of an earlier round must not be passed in.
#[derive(Debug)]
pub(crate) enum Event {
    /// Time has passed.
    Tick,
    Listed(Result<Vec<Candidate>, StoreError>),
    /// The candidates were read again during a round.
    Relisted(Result<Vec<Candidate>, StoreError>),
    /// The removal of stale keys has finished, successfully or not.
    Removed,
    Granted {
        sent_at: Instant,
        result: Result<Lease, StoreError>,
    },
    Renewed {
        id: u64,
        result: Result<Duration, StoreError>,
    },
    Campaigned(Result<Elected, CampaignError>),
    /// The own keys were read, to confirm the term.
    Confirmed {
        id: u64,
        result: Result<Standing, StoreError>,
    },
    /// A challenge of the own term was refuted, or not.
    Refuted {
        id: u64,
        result: Result<Option<Revision>, StoreError>,
    },
    /// The leader with this lock revision seems to be dead.
    Suspected(Revision),
    /// The remaining TTL of the oldest candidate.
    AskedTtl {
        id: u64,
        result: Result<TimeToLive, StoreError>,
    },
    /// The keys of the oldest candidate.
    ReadOldest {
        id: u64,
        result: Result<Standing, StoreError>,
    },
    Challenged {
        id: u64,
        result: Result<Option<Revision>, StoreError>,
    },
    Deposed {
        id: u64,
        result: Result<bool, StoreError>,
    },
    Observed(Observation),
    FencedOut,
    /// An access of the own term was answered with an older revision than the term had seen.
    WentBack(WentBack),
    StepDown,
    /// The liveness probe failed (true) or recovered (false).
    Stuck(bool),
    /// The candidacy is to pause (true) or go on (false).
    Paused(bool),
    /// The lease was revoked, or the timeout for that has passed.
    Closed,
    Shutdown,
}

/// An output of the machine: what the driver is to do.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Command<V> {
    /// Publish the role as undetermined. First end the term, if there is one.
    Undetermined { reason: Reason },
    /// Publish another reason for the role, which stays undetermined.
    Explain { reason: Reason },
    /// Publish the role as follower of this leader.
    Follow(LeaderInfo<V>),
    /// Publish the role as leader.
    Lead {
        key: Bytes,
        revision: Revision,
        lease: LeaseId,
        deadline: Instant,
        /// Until when the term is confirmed; `None` without a failover limit.
        confirmed: Option<Instant>,
    },
    /// Move the deadline of the term.
    Extend { deadline: Instant },
    /// The term is confirmed until this time.
    Confirm { until: Instant },
    /// Report that the term is suspended.
    Suspended,
    /// Read the own keys, within this time.
    ReadOwn { id: u64, key: Bytes, timeout: Duration },
    /// Put the own challenge key again, within this time.
    Refute {
        id: u64,
        cause: RefutationCause,
        guard: RecordGuard,
        lease: LeaseId,
        record: ChallengeRecord,
        timeout: Duration,
    },
    /// Ask for the remaining TTL of another candidate's lease.
    AskTtl { id: u64, lease: LeaseId },
    /// Read the keys of the oldest candidate.
    ReadOldest { id: u64, key: Bytes },
    /// Challenge the oldest candidate.
    Challenge {
        id: u64,
        guard: RecordGuard,
        lease: Option<LeaseId>,
        record: ChallengeRecord,
    },
    /// Depose the oldest candidate.
    Depose { id: u64, guard: RecordGuard },
    /// Report what came of a challenge.
    Report { found: Found, key: Bytes },
    /// Report that the store's revision went back.
    WentBack(WentBack),
    /// Read the candidates.
    List,
    /// Read the candidates again during the round.
    Relist,
    /// Report with this message that another process has the own id.
    Duplicated { message: String },
    /// Report that the other process is gone.
    Alone,
    /// Remove stale keys of this candidate, each guarded by its revision.
    Remove(Vec<(Bytes, Revision)>),
    /// Request a lease.
    Grant { ttl: Duration },
    /// Campaign under the lease, and observe the election.
    Campaign {
        lease: LeaseId,
        record: Option<ChallengeRecord>,
    },
    /// Renew the lease.
    Renew { lease: LeaseId, attempt: Attempt },
    /// Cancel all calls in progress, and revoke the lease if it may still exist, until this time at most. Then keep
    /// trying beside the next rounds, if wanted: the key blocks the other candidates.
    Close {
        lease: Option<LeaseId>,
        until: Instant,
        keep_trying: bool,
    },
}

/// The elector's state.
#[derive(Debug)]
pub(crate) struct Machine<V> {
    own: Own,
    timing: Timing,
    backoff: Backoff,
    early_ends: EarlyEnds,
    state: State,
    /// Another process with the own id.
    duplicate: Option<KnownDuplicate>,
    /// The current round ends because the other process has the older key.
    yields: bool,
    /// The last published role, so that it is not published twice.
    published: Published<V>,
    /// The kind of the last published reason.
    logged: LoggedReason,
    /// The last round failed because the store did not answer.
    is_outage: bool,
    /// The revision of the newest observation, in this round or an earlier one.
    newest: Revision,
    stopping: bool,
    /// Whether the liveness probe has failed, so that this candidate must not lead.
    stuck: bool,
    /// Whether this candidate must not campaign, by its owner's wish.
    paused: bool,
    commands: Vec<Command<V>>,
}

#[derive(Debug)]
enum State {
    Waiting {
        until: Instant,
    },
    Opening {
        give_up_at: Instant,
        /// The duplicate that prevents this process from campaigning, detected before the stale keys were removed.
        duplicate: Option<Duplicate>,
    },
    Running(Box<Running>),
    Closing {
        give_up_at: Instant,
    },
    Stopped,
}

#[derive(Debug)]
struct Running {
    lease: LeaseId,
    renewal: Renewal,
    observed_at: Instant,
    /// When to read all candidates again.
    relist_at: Instant,
    /// Whether such a read is in progress. There is one at a time.
    is_relisting: bool,
    elected: Option<Elected>,
    /// The confirmations of the term, if it has a challenge key.
    confirmations: Option<Confirmations>,
    /// Whether it was reported that the term is suspended.
    suspended: bool,
    /// The challenges of other candidates, until this one is elected.
    challenger: Option<Challenger>,
    /// The own record, if there is a failover limit.
    record: Option<ChallengeRecord>,
}

impl Running {
    /// When there is something to do for the term or for a challenge.
    fn next_challenge_wakeup(&self) -> Option<Instant> {
        let leading = self.confirmations.as_ref();
        let candidate = self.challenger.as_ref();
        [
            leading.and_then(Confirmations::next_wakeup),
            leading.and_then(Confirmations::gives_up_at),
            leading.and_then(Confirmations::deadline).filter(|_| !self.suspended),
            candidate.and_then(Challenger::next_wakeup),
        ]
        .into_iter()
        .flatten()
        .min()
    }
}

/// A duplicate and when it was first detected.
#[derive(Debug)]
struct KnownDuplicate {
    since: Instant,
    logged: Option<Duplicate>,
}

/// The kind of a reason: its word, and the word of the store's error.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct LoggedReason {
    reason: &'static str,
    error: &'static str,
}

#[derive(Debug, PartialEq)]
enum Published<V> {
    Undetermined,
    Follower(LeaderInfo<V>),
    Leader,
}

impl<V: LeaderValue> Machine<V> {
    /// A machine that starts its first round at once. The role undetermined counts as published.
    pub(crate) fn new(own_id: String, process: Process, timing: Timing, backoff: Backoff, now: Instant) -> Self {
        Self {
            own: Own::new(own_id, process),
            early_ends: EarlyEnds::new(timing.ttl),
            timing,
            backoff,
            state: State::Waiting { until: now },
            duplicate: None,
            yields: false,
            published: Published::Undetermined,
            logged: LoggedReason::default(),
            is_outage: false,
            newest: Revision(0),
            stopping: false,
            stuck: false,
            paused: false,
            commands: Vec::new(),
        }
    }

    /// When [`Event::Tick`] is due; `None` once stopped.
    pub(crate) fn next_wakeup(&self) -> Option<Instant> {
        match &self.state {
            State::Waiting { until } => Some(*until),
            State::Opening { give_up_at, .. } | State::Closing { give_up_at } => Some(*give_up_at),
            State::Running(running) => {
                let mut next = running.renewal.next_wakeup();
                if !running.is_relisting {
                    next = next.min(running.relist_at);
                }
                if let Some(at) = running.next_challenge_wakeup() {
                    next = next.min(at);
                }
                Some(match self.published {
                    Published::Follower(_) => next.min(running.observed_at + self.timing.observation_ttl),
                    _ => next,
                })
            }
            State::Stopped => None,
        }
    }

    /// The failover limit in effect.
    pub(crate) fn limit(&self) -> Option<Duration> {
        self.timing.limit.map(Limit::get)
    }

    pub(crate) const fn is_stopped(&self) -> bool {
        matches!(self.state, State::Stopped)
    }

    /// The requested TTL.
    pub(crate) const fn ttl(&self) -> Duration {
        self.timing.ttl
    }

    pub(crate) const fn is_stuck(&self) -> bool {
        self.stuck
    }

    pub(crate) const fn is_paused(&self) -> bool {
        self.paused
    }

    /// Whether there is no round, so that this candidate has no lease.
    pub(crate) const fn is_idle(&self) -> bool {
        matches!(self.state, State::Waiting { .. })
    }

    pub(crate) const fn is_leader(&self) -> bool {
        matches!(self.published, Published::Leader)
    }

    /// Handles an event. The commands must be executed in order.
    pub(crate) fn handle(&mut self, now: Instant, event: Event) -> Vec<Command<V>> {
        self.pass_time(now);
        match event {
            Event::Tick => {}
            Event::Listed(result) => self.listed(now, result),
            Event::Relisted(result) => self.relisted(now, result),
            Event::Removed => self.removed(now),
            Event::Granted { sent_at, result } => self.granted(now, sent_at, result),
            Event::Renewed { id, result } => self.renewed(now, id, result),
            Event::Campaigned(result) => self.campaigned(now, result),
            Event::Observed(observation) => self.observed(now, observation),
            Event::Confirmed { id, result } => self.confirmed(now, id, result),
            Event::Refuted { id, result } => self.refuted(now, id, result),
            Event::Suspected(leader) => self.suspected(now, leader),
            Event::AskedTtl { id, result } => {
                if let Some(challenger) = self.challenger() {
                    challenger.asked(id, now, result.ok());
                }
            }
            Event::ReadOldest { id, result } => self.read_oldest(now, id, result),
            Event::Challenged { id, result } => {
                let put = result.map_err(|_| ());
                let found = self
                    .challenger()
                    .and_then(|challenger| challenger.challenged(id, now, put));
                self.report(found);
            }
            Event::Deposed { id, result } => {
                let done = result.map_err(|_| ());
                if let Some(challenger) = self.challenger() {
                    challenger.deposed(id, now, done);
                }
            }
            Event::FencedOut => {
                if self.is_leader() {
                    let reason = self.early_ends.fenced_out(now);
                    self.end_round(now, reason);
                }
            }
            Event::WentBack(went_back) => {
                if self.is_leader() {
                    self.went_back(now, went_back);
                }
            }
            Event::StepDown => {
                if self.is_leader() {
                    self.backoff.succeeded();
                    self.early_ends.reset();
                    self.end_round(now, Reason::StepDown);
                }
            }
            Event::Stuck(stuck) => self.stuck(now, stuck),
            Event::Paused(paused) => self.pause(now, paused),
            Event::Closed => self.closed(now),
            Event::Shutdown => self.shut_down(now),
        }
        // A state that has just been entered may have a deadline that is due.
        self.pass_time(now);
        std::mem::take(&mut self.commands)
    }

    fn pass_time(&mut self, now: Instant) {
        match &mut self.state {
            // Do not campaign while the liveness probe fails or the candidacy is paused: events report the end.
            State::Waiting { until } if now >= *until && (self.stuck || self.paused) => *until = now + self.timing.ttl,
            State::Waiting { until } if now >= *until => {
                self.state = State::Opening {
                    give_up_at: now + self.timing.open_timeout,
                    duplicate: None,
                };
                self.commands.push(Command::List);
            }
            State::Opening { give_up_at, .. } if now >= *give_up_at => {
                let reason = Reason::OpenFailed {
                    word: "no_answer",
                    error: "the store did not reply in time".into(),
                };
                self.is_outage = true;
                self.fail_round(now, reason, "no_answer");
            }
            State::Running(running) => {
                if running.renewal.expired(now) {
                    self.end_round(now, Reason::LeaseExpired);
                    return;
                }
                let too_old = now >= running.observed_at + self.timing.observation_ttl;
                while let Some(attempt) = running.renewal.send_if_due(now) {
                    self.commands.push(Command::Renew {
                        lease: running.lease,
                        attempt,
                    });
                }
                if running
                    .confirmations
                    .as_ref()
                    .and_then(Confirmations::gives_up_at)
                    .is_some_and(|at| now >= at)
                {
                    self.end_round(now, Reason::NotConfirmed);
                    return;
                }
                if now >= running.relist_at && !running.is_relisting {
                    running.is_relisting = true;
                    running.relist_at = now + self.timing.ttl;
                    self.commands.push(Command::Relist);
                }
                if too_old && matches!(self.published, Published::Follower(_)) {
                    self.undetermined(Reason::ObservationStale);
                }
                self.pass_time_of_challenges(now);
            }
            State::Closing { give_up_at } if now >= *give_up_at => self.closed(now),
            _ => {}
        }
    }

    fn listed(&mut self, now: Instant, result: Result<Vec<Candidate>, StoreError>) {
        let State::Opening { duplicate, .. } = &mut self.state else {
            return;
        };
        // The removal of stale keys is optional: if the store is unavailable, the grant fails.
        let Ok(candidates) = result else {
            return self.grant();
        };
        let found = self.own.examine::<V>(candidates, None);
        duplicate.clone_from(&found.duplicate);
        if found.duplicate.is_none() {
            self.alone();
        }
        if found.stale.is_empty() {
            self.removed(now);
        } else {
            self.commands.push(Command::Remove(found.stale));
        }
    }

    /// The removal of stale keys has finished.
    fn removed(&mut self, now: Instant) {
        let State::Opening { duplicate, .. } = &mut self.state else {
            return;
        };
        match duplicate.take() {
            Some(duplicate) => self.duplicated(now, duplicate),
            None => self.grant(),
        }
    }

    fn relisted(&mut self, now: Instant, result: Result<Vec<Candidate>, StoreError>) {
        let State::Running(running) = &mut self.state else {
            return;
        };
        running.is_relisting = false;
        let Ok(candidates) = result else { return };
        if let Some(challenger) = &mut running.challenger {
            let own = candidates.iter().enumerate().skip(1);
            let own = own
                .into_iter()
                .find(|(_, candidate)| candidate.lease == Some(running.lease));
            challenger.placed(own.map(|(at, candidate)| Place {
                behind: u32::try_from(at).unwrap_or(u32::MAX),
                key: candidate.key.clone(),
                created: candidate.create_revision,
            }));
        }
        match self.own.examine::<V>(candidates, Some(running.lease)).duplicate {
            Some(duplicate) => self.duplicated(now, duplicate),
            None => self.alone(),
        }
    }

    fn alone(&mut self) {
        if self.duplicate.take().is_some() {
            self.commands.push(Command::Alone);
        }
    }

    /// Another process has the own id. Reports it, again if more is known, and ends the round if the other has the
    /// older key.
    fn duplicated(&mut self, now: Instant, found: Duplicate) {
        let known = self.duplicate.get_or_insert(KnownDuplicate {
            since: now,
            logged: None,
        });
        let outlived_its_lease = now >= known.since + self.timing.ttl;
        let duplicate = Duplicate {
            lives: found.lives || outlived_its_lease,
            ..found
        };
        let text = self.own.describe(&duplicate);
        if known.logged.as_ref() != Some(&duplicate) {
            self.commands.push(Command::Duplicated { message: text.clone() });
            known.logged = Some(duplicate.clone());
        }
        // A leader's key is the oldest: if it is not any more, the observer reports that with a revision.
        if duplicate.is_older && !self.is_leader() {
            self.yields = true;
            let word = if duplicate.lives { "lives" } else { "may_live" };
            self.fail_round(now, Reason::Duplicate(text), word);
        }
    }

    fn grant(&mut self) {
        if matches!(self.state, State::Opening { .. }) {
            self.commands.push(Command::Grant { ttl: self.timing.ttl });
        }
    }

    fn granted(&mut self, now: Instant, sent_at: Instant, result: Result<Lease, StoreError>) {
        if !matches!(self.state, State::Opening { .. }) {
            return;
        }
        match result {
            Ok(lease) => {
                self.own.granted(lease.id);
                let limit = self.timing.limit;
                let record = limit.map(|limit| ChallengeRecord {
                    limit: limit.get(),
                    process: format!("{:x}", self.timing.nonce),
                    sequence: 0,
                    state: ChallengeState::Clear,
                });
                self.state = State::Running(Box::new(Running {
                    lease: lease.id,
                    renewal: Renewal::new(sent_at, lease.ttl, self.timing.margin),
                    observed_at: now,
                    // Soon, to learn the place in the queue.
                    relist_at: now + limit.map_or(self.timing.ttl, |_| self.timing.ttl.min(PLACE_INTERVAL)),
                    is_relisting: false,
                    elected: None,
                    confirmations: None,
                    suspended: false,
                    challenger: limit.map(|limit| Challenger::new(lease.id, limit)),
                    record: record.clone(),
                }));
                self.commands.push(Command::Campaign {
                    lease: lease.id,
                    record,
                });
            }
            Err(error) => {
                self.is_outage = error.is_outage();
                let word = error.word();
                let reason = Reason::OpenFailed {
                    word,
                    error: error.to_string(),
                };
                self.fail_round(now, reason, word);
            }
        }
    }

    fn renewed(&mut self, now: Instant, id: u64, result: Result<Duration, StoreError>) {
        let State::Running(running) = &mut self.state else {
            return;
        };
        match result {
            Ok(ttl) => {
                if failpoint::on(failpoint::DEADLINE_FROM_RECEIPT) {
                    running.renewal = Renewal::new(now, ttl, self.timing.margin);
                } else {
                    running.renewal.acknowledged(id, ttl);
                }
                let deadline = running.renewal.deadline();
                // A renewed lease means that the round has not failed.
                self.succeeded(now);
                if self.is_leader() {
                    self.commands.push(Command::Extend { deadline });
                }
            }
            Err(StoreError::LeaseNotFound { .. }) => self.end_round(now, Reason::LeaseGone),
            // This instance's lock key is in another cluster than later writes would be.
            Err(
                error @ StoreError::Refused {
                    kind: RefusalKind::WrongCluster,
                    ..
                },
            ) => self.fail_round(now, Reason::WrongCluster(error.to_string()), error.word()),
            Err(_) => running.renewal.failed(id, now),
        }
    }

    fn campaigned(&mut self, now: Instant, result: Result<Elected, CampaignError>) {
        let State::Running(running) = &mut self.state else {
            return;
        };
        match result {
            Ok(elected) => {
                running.challenger = None;
                let record = running.record.clone().filter(|_| elected.has_challenge_key);
                let created = elected.revision;
                running.elected = Some(elected);
                match (self.timing.limit, record) {
                    // The term begins with its first confirmation.
                    (Some(limit), Some(record)) => {
                        let limit = if failpoint::on(failpoint::CHANGES_LIMIT) {
                            Limit::new(limit.get() * 3)
                        } else {
                            limit
                        };
                        // The next candidate looks at the remaining TTL.
                        running.renewal.renew_every(now, limit.renew_interval(self.timing.ttl));
                        running.confirmations = Some(Confirmations::new(limit, created, record, now));
                    }
                    _ => self.lead(now, None),
                }
            }
            Err(error) => {
                self.is_outage = matches!(&error, CampaignError::Store(error) if error.is_outage());
                let word = match &error {
                    CampaignError::Store(error) => error.word(),
                    CampaignError::KeyLost { .. } => "key_lost",
                };
                let reason = Reason::CampaignFailed {
                    word,
                    error: error.to_string(),
                };
                self.fail_round(now, reason, word);
            }
        }
    }

    /// This candidate leads from now on.
    fn lead(&mut self, now: Instant, confirmed: Option<Instant>) {
        let State::Running(running) = &self.state else {
            return;
        };
        let Some(elected) = &running.elected else { return };
        self.commands.push(Command::Lead {
            key: elected.key.clone(),
            revision: elected.revision,
            lease: running.lease,
            deadline: running.renewal.deadline(),
            confirmed,
        });
        self.published = Published::Leader;
        self.early_ends.began(now);
        self.succeeded(now);
    }

    /// The round succeeds, unless its terms are fenced out as soon as they begin.
    fn succeeded(&mut self, now: Instant) {
        if !self.early_ends.are_suspected(now) {
            self.backoff.succeeded();
        }
    }

    fn observed(&mut self, now: Instant, observation: Observation) {
        let State::Running(running) = &mut self.state else {
            return;
        };
        running.observed_at = now;
        let Observation { revision, leader } = observation;
        let newest = std::mem::replace(&mut self.newest, revision);
        if revision < newest {
            self.went_back(
                now,
                WentBack {
                    seen: newest,
                    found: revision,
                },
            );
        }
        let State::Running(running) = &mut self.state else {
            return;
        };
        if let Some(challenger) = &mut running.challenger {
            let target = leader.as_ref().filter(|leader| leader.lease != Some(running.lease));
            challenger.observed(
                now,
                target.map(|leader| Target {
                    key: leader.key.clone(),
                    created: leader.create_revision,
                    lease: leader.lease,
                }),
            );
        }
        if let Some(elected) = &running.elected {
            // An observation from before the election win may arrive late.
            let ours =
                leader.is_some_and(|leader| leader.key == elected.key && leader.create_revision == elected.revision);
            if revision >= elected.won_at && !ours {
                self.end_round(now, Reason::LockLost);
            } else if ours && !self.is_leader() {
                // The leader that was followed is gone, and the own term is not confirmed yet.
                self.undetermined(Reason::OwnEarlierKey);
            }
            return;
        }
        let Some(leader) = leader else {
            return self.undetermined(Reason::NoLeader);
        };
        match V::decode(&leader.value) {
            // Our own key before the campaign has returned, or one left behind by an earlier process: no leader to
            // follow.
            Ok(value) if value.candidate_id() == self.own.id() => {
                if !self.own.holds(leader.lease) {
                    running.relist_at = now;
                }
                self.undetermined(Reason::OwnEarlierKey);
            }
            Ok(value) => {
                let info = LeaderInfo {
                    leader: value,
                    key: leader.key,
                    revision: leader.create_revision,
                };
                self.follow(info);
            }
            Err(error) => {
                let reason = Reason::Undecodable(error.to_string());
                self.explain(&reason, "");
                self.undetermined(reason);
            }
        }
    }

    /// Reports it and ends the term if there is one: data that the term has read is not in the store any more.
    fn went_back(&mut self, now: Instant, went_back: WentBack) {
        self.newest = went_back.found;
        self.commands.push(Command::WentBack(went_back));
        if self.is_leader() {
            self.end_round(now, Reason::WentBack(went_back));
        }
    }

    fn follow(&mut self, info: LeaderInfo<V>) {
        let published = Published::Follower(info.clone());
        if self.published != published {
            self.published = published;
            self.commands.push(Command::Follow(info));
        }
    }

    /// Ends a round that failed for this reason, and reports the reason if its kind is new.
    fn fail_round(&mut self, now: Instant, reason: Reason, error: &'static str) {
        self.explain(&reason, error);
        self.end_round(now, reason);
    }

    /// Publishes the reason, if the role is still undetermined and the kind of the reason is new.
    fn explain(&mut self, reason: &Reason, error: &'static str) {
        let logged = LoggedReason {
            reason: reason.word(),
            error,
        };
        let is_new = std::mem::replace(&mut self.logged, logged) != logged;
        if is_new && self.published == Published::Undetermined {
            let reason = reason.clone();
            self.commands.push(Command::Explain { reason });
        }
    }

    fn undetermined(&mut self, reason: Reason) {
        if self.published != Published::Undetermined {
            self.published = Published::Undetermined;
            if self.logged.reason != reason.word() {
                self.logged = LoggedReason::default();
            }
            self.commands.push(Command::Undetermined { reason });
        }
    }

    fn end_round(&mut self, now: Instant, reason: Reason) {
        // A lease that does not exist, or was never granted, cannot be revoked.
        let lease = match &self.state {
            State::Running(running) if reason != Reason::LeaseGone && !failpoint::on(failpoint::KEEPS_LEASE) => {
                Some(running.lease)
            }
            _ => None,
        };
        self.is_outage |= matches!(reason, Reason::LeaseExpired | Reason::NotConfirmed);
        // First end the term, then revoke the lease.
        if self.published == Published::Undetermined {
            tracing::debug!(%reason, "election round ended");
        }
        self.undetermined(reason);
        let until = now + self.timing.close_timeout;
        self.state = State::Closing { give_up_at: until };
        let keep_trying = self.timing.limit.is_some() && !self.stopping;
        self.commands.push(Command::Close {
            lease,
            until,
            keep_trying,
        });
    }

    fn closed(&mut self, now: Instant) {
        if matches!(self.state, State::Closing { .. }) {
            self.state = if self.stopping {
                State::Stopped
            } else {
                let mut pause = self.backoff.failed();
                if std::mem::take(&mut self.is_outage) && self.timing.limit.is_some() {
                    // Nobody leads while the store does not answer: join the queue soon after it does.
                    pause = pause.min(MAX_OUTAGE_PAUSE);
                }
                if std::mem::take(&mut self.yields) {
                    pause = self.timing.ttl + pause.min(self.timing.ttl / 2);
                }
                State::Waiting { until: now + pause }
            };
        }
    }

    fn stuck(&mut self, now: Instant, stuck: bool) {
        self.stuck = stuck;
        match &mut self.state {
            State::Opening { .. } | State::Running(_) if stuck => self.end_round(now, Reason::Stuck),
            State::Waiting { until } if !stuck => *until = now,
            _ => {}
        }
    }

    fn pause(&mut self, now: Instant, paused: bool) {
        self.paused = paused;
        match &mut self.state {
            State::Opening { .. } | State::Running(_) if paused => {
                self.backoff.succeeded();
                self.end_round(now, Reason::Paused);
            }
            State::Waiting { until } if !paused => *until = now,
            _ => {}
        }
    }

    fn shut_down(&mut self, now: Instant) {
        self.stopping = true;
        match self.state {
            State::Waiting { .. } => self.state = State::Stopped,
            State::Opening { .. } | State::Running(_) => self.end_round(now, Reason::Shutdown),
            State::Closing { .. } | State::Stopped => {}
        }
    }
}

#[cfg(test)]
mod tests;
