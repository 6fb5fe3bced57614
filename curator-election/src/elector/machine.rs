//! The elector's decisions, without I/O: events and the time go in, commands come out.
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
//! While a round runs, all candidates are read once a TTL: who else has the own id is in `duplicate.rs`.
//!
//! Whatever happens, the clock is asked first: an event that arrives after the deadline finds the term ended.

use std::time::Duration;

use bytes::Bytes;

use super::duplicate::{Duplicate, Own};
use super::renewal::{Attempt, Renewal};
use crate::backend::{CampaignError, Candidate, Elected, Observation};
use crate::backoff::Backoff;
use crate::clock::Instant;
use crate::failpoint;
use crate::process::Process;
use crate::status::{LeaderInfo, Reason};
use crate::store::{Lease, LeaseId, RefusalKind, Revision, StoreError};
use crate::term::WentBack;
use crate::value::LeaderValue;

/// The durations that the decisions depend on.
#[derive(Clone, Debug)]
pub(crate) struct Timing {
    /// The TTL to ask for.
    pub(crate) ttl: Duration,
    /// How long before the end of the lease to stop; `None` for the default.
    pub(crate) margin: Option<Duration>,
    /// How long the news of a leader stays good without being confirmed.
    pub(crate) observation_ttl: Duration,
    /// How long opening a round may take.
    pub(crate) open_timeout: Duration,
    /// How long giving the lease back may take.
    pub(crate) close_timeout: Duration,
}

/// What happened. Those of an earlier round must not be handed in.
#[derive(Debug)]
pub(crate) enum Event {
    /// Nothing but the passing of time.
    Tick,
    Listed(Result<Vec<Candidate>, StoreError>),
    /// The candidates were read while the round runs.
    Looked(Result<Vec<Candidate>, StoreError>),
    /// The removal was tried, whatever came of it.
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
    Observed(Observation),
    FencedOut,
    /// An access of the own term was answered from before what the term had seen.
    WentBack(WentBack),
    StepDown,
    /// What this candidate would lead for hangs, or does not any more.
    Stuck(bool),
    /// The lease was given back, or that was tried for long enough.
    Closed,
    Shutdown,
}

/// What is to be done about it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Command<V> {
    /// Publish that nothing is known, and end the term if there is one, before anything else.
    Undetermined { reason: Reason },
    /// Publish another reason: who leads has not been known before either.
    Explain { reason: Reason },
    /// Publish whom we follow.
    Follow(LeaderInfo<V>),
    /// Publish that we lead.
    Lead {
        key: Bytes,
        revision: Revision,
        lease: LeaseId,
        deadline: Instant,
    },
    /// Move the deadline of the term.
    Extend { deadline: Instant },
    /// Say that the store has lost what it knew before.
    WentBack(WentBack),
    /// Read the candidates.
    List,
    /// Read the candidates while the round runs.
    Look,
    /// Say that another process has the own id, in these words.
    Duplicated { told: String },
    /// Say that there is no such process any more.
    Alone,
    /// Remove keys that an earlier process of ours left behind, each guarded by its revision.
    Remove(Vec<(Bytes, Revision)>),
    /// Ask for a lease.
    Grant { ttl: Duration },
    /// Queue under the lease, and observe the election.
    Campaign { lease: LeaseId },
    /// Renew the lease.
    Renew { lease: LeaseId, attempt: Attempt },
    /// Drop all calls under way, and give back the lease, if it may still be there, until a point in time at most.
    Close { lease: Option<LeaseId>, until: Instant },
}

/// The elector's state.
#[derive(Debug)]
pub(crate) struct Machine<V> {
    own: Own,
    timing: Timing,
    backoff: Backoff,
    state: State,
    /// Another process with the own id.
    duplicate: Option<Seen>,
    /// The present round has ended since that one was there before.
    yields: bool,
    /// What was last published, so that the same is not published again.
    published: Published<V>,
    /// The kind of the reason that was last published.
    told: Told,
    /// The revision of the newest observation, in this round or an earlier one.
    newest: Revision,
    stopping: bool,
    /// Whether this candidate must not lead, because it could not serve.
    stuck: bool,
    commands: Vec<Command<V>>,
}

#[derive(Debug)]
enum State {
    Waiting {
        until: Instant,
    },
    Opening {
        give_up_at: Instant,
        /// Why this process is not to stand, which was found out before the stale keys were removed.
        duplicate: Option<Duplicate>,
    },
    Running(Running),
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
    /// When all candidates are to be read again.
    look_at: Instant,
    elected: Option<Elected>,
}

/// A duplicate, from when it was first found.
#[derive(Debug)]
struct Seen {
    since: Instant,
    told: Option<Duplicate>,
}

/// The kind of a reason: the word for it, and that for the store's error behind it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Told {
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
    /// A machine that begins its first round at once. Undetermined counts as published.
    pub(crate) fn new(own_id: String, process: Process, timing: Timing, backoff: Backoff, now: Instant) -> Self {
        Self {
            own: Own::new(own_id, process),
            timing,
            backoff,
            state: State::Waiting { until: now },
            duplicate: None,
            yields: false,
            published: Published::Undetermined,
            told: Told::default(),
            newest: Revision(0),
            stopping: false,
            stuck: false,
            commands: Vec::new(),
        }
    }

    /// When [`Event::Tick`] is due; `None` once stopped.
    pub(crate) fn next_wakeup(&self) -> Option<Instant> {
        match &self.state {
            State::Waiting { until } => Some(*until),
            State::Opening { give_up_at, .. } | State::Closing { give_up_at } => Some(*give_up_at),
            State::Running(running) => {
                let next = running.renewal.next_wakeup().min(running.look_at);
                Some(match self.published {
                    Published::Follower(_) => next.min(running.observed_at + self.timing.observation_ttl),
                    _ => next,
                })
            }
            State::Stopped => None,
        }
    }

    pub(crate) const fn is_stopped(&self) -> bool {
        matches!(self.state, State::Stopped)
    }

    pub(crate) const fn is_stuck(&self) -> bool {
        self.stuck
    }

    pub(crate) const fn is_leader(&self) -> bool {
        matches!(self.published, Published::Leader)
    }

    /// Decides. The commands are to be carried out in their order.
    pub(crate) fn handle(&mut self, now: Instant, event: Event) -> Vec<Command<V>> {
        self.pass_time(now);
        match event {
            Event::Tick => {}
            Event::Listed(result) => self.listed(now, result),
            Event::Looked(result) => self.looked(now, result),
            Event::Removed => self.removed(now),
            Event::Granted { sent_at, result } => self.granted(now, sent_at, result),
            Event::Renewed { id, result } => self.renewed(now, id, result),
            Event::Campaigned(result) => self.campaigned(now, result),
            Event::Observed(observation) => self.observed(now, observation),
            Event::FencedOut => {
                if self.is_leader() {
                    self.end_round(now, Reason::FencedOut);
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
                    self.end_round(now, Reason::StepDown);
                }
            }
            Event::Stuck(stuck) => self.stuck(now, stuck),
            Event::Closed => self.closed(now),
            Event::Shutdown => self.shut_down(now),
        }
        // A state that has just been entered may have something due at once.
        self.pass_time(now);
        std::mem::take(&mut self.commands)
    }

    fn pass_time(&mut self, now: Instant) {
        match &mut self.state {
            // Nothing to stand for election with; `Event::Stuck` says when there is.
            State::Waiting { until } if now >= *until && self.stuck => *until = now + self.timing.ttl,
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
                    error: "the store did not answer in time".into(),
                };
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
                if now >= running.look_at {
                    running.look_at = now + self.timing.ttl;
                    self.commands.push(Command::Look);
                }
                if too_old && matches!(self.published, Published::Follower(_)) {
                    self.undetermined(Reason::ObservationStale);
                }
            }
            State::Closing { give_up_at } if now >= *give_up_at => self.closed(now),
            _ => {}
        }
    }

    fn listed(&mut self, now: Instant, result: Result<Vec<Candidate>, StoreError>) {
        let State::Opening { duplicate, .. } = &mut self.state else {
            return;
        };
        // Reading what is left behind is a help and not a condition: if it failed, the grant will tell.
        let Ok(candidates) = result else {
            return self.grant();
        };
        let found = self.own.look::<V>(candidates, None);
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

    /// What could be removed has been.
    fn removed(&mut self, now: Instant) {
        let State::Opening { duplicate, .. } = &mut self.state else {
            return;
        };
        match duplicate.take() {
            Some(duplicate) => self.duplicated(now, duplicate),
            None => self.grant(),
        }
    }

    fn looked(&mut self, now: Instant, result: Result<Vec<Candidate>, StoreError>) {
        let (State::Running(running), Ok(candidates)) = (&self.state, result) else {
            return;
        };
        match self.own.look::<V>(candidates, Some(running.lease)).duplicate {
            Some(duplicate) => self.duplicated(now, duplicate),
            None => self.alone(),
        }
    }

    fn alone(&mut self) {
        if self.duplicate.take().is_some() {
            self.commands.push(Command::Alone);
        }
    }

    /// Another process has the own id. Tells it once, and again if more is known; gives way to one that was there before.
    fn duplicated(&mut self, now: Instant, found: Duplicate) {
        let seen = self.duplicate.get_or_insert(Seen { since: now, told: None });
        let outlived_its_lease = now >= seen.since + self.timing.ttl;
        let duplicate = Duplicate {
            lives: found.lives || outlived_its_lease,
            ..found
        };
        let text = self.own.tell(&duplicate);
        if seen.told.as_ref() != Some(&duplicate) {
            self.commands.push(Command::Duplicated { told: text.clone() });
            seen.told = Some(duplicate.clone());
        }
        // A leader's key is the oldest of all: what says otherwise is told by the observer, with its revision.
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
                self.state = State::Running(Running {
                    lease: lease.id,
                    renewal: Renewal::new(sent_at, lease.ttl, self.timing.margin),
                    observed_at: now,
                    look_at: now + self.timing.ttl,
                    elected: None,
                });
                self.commands.push(Command::Campaign { lease: lease.id });
            }
            Err(error) => {
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
                // A round in which a lease could be renewed has not failed.
                self.backoff.succeeded();
                if self.is_leader() {
                    self.commands.push(Command::Extend { deadline });
                }
            }
            Err(StoreError::LeaseNotFound { .. }) => self.end_round(now, Reason::LeaseGone),
            // What this instance leads in is not what its callers' writes would go to.
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
                self.commands.push(Command::Lead {
                    key: elected.key.clone(),
                    revision: elected.revision,
                    lease: running.lease,
                    deadline: running.renewal.deadline(),
                });
                running.elected = Some(elected);
                self.published = Published::Leader;
                self.backoff.succeeded();
            }
            Err(error) => {
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
        if let Some(elected) = &running.elected {
            // News from before the elected may still have been on its way.
            let ours =
                leader.is_some_and(|leader| leader.key == elected.key && leader.create_revision == elected.revision);
            if revision >= elected.won_at && !ours {
                self.end_round(now, Reason::LockLost);
            }
            return;
        }
        let Some(leader) = leader else {
            return self.undetermined(Reason::NoLeader);
        };
        match V::decode(&leader.value) {
            // Ours, before the campaign has returned, or left behind by an earlier process: nobody to follow.
            Ok(value) if value.candidate_id() == self.own.id() => {
                if !self.own.holds(leader.lease) {
                    running.look_at = now;
                }
                self.undetermined(Reason::OwnEarlierKey);
            }
            Ok(value) => {
                let following = LeaderInfo {
                    leader: value,
                    key: leader.key,
                    revision: leader.create_revision,
                };
                self.follow(following);
            }
            Err(error) => {
                let reason = Reason::Undecodable(error.to_string());
                self.explain(&reason, "");
                self.undetermined(reason);
            }
        }
    }

    /// Says so, and ends the term if there is one: what it has read is not what the store has.
    fn went_back(&mut self, now: Instant, went_back: WentBack) {
        self.newest = went_back.found;
        self.commands.push(Command::WentBack(went_back));
        if self.is_leader() {
            self.end_round(now, Reason::WentBack(went_back));
        }
    }

    fn follow(&mut self, following: LeaderInfo<V>) {
        let published = Published::Follower(following.clone());
        if self.published != published {
            self.published = published;
            self.commands.push(Command::Follow(following));
        }
    }

    /// Ends a round that has failed for this reason, which is told even if an earlier one has been, when it is of another kind.
    fn fail_round(&mut self, now: Instant, reason: Reason, error: &'static str) {
        self.explain(&reason, error);
        self.end_round(now, reason);
    }

    /// Tells why who leads is still not known, unless that has been told. What failed last is what an operator can mend.
    fn explain(&mut self, reason: &Reason, error: &'static str) {
        let told = Told {
            reason: reason.word(),
            error,
        };
        let is_new = std::mem::replace(&mut self.told, told) != told;
        if is_new && self.published == Published::Undetermined {
            let reason = reason.clone();
            self.commands.push(Command::Explain { reason });
        }
    }

    fn undetermined(&mut self, reason: Reason) {
        if self.published != Published::Undetermined {
            self.published = Published::Undetermined;
            if self.told.reason != reason.word() {
                self.told = Told::default();
            }
            self.commands.push(Command::Undetermined { reason });
        }
    }

    fn end_round(&mut self, now: Instant, reason: Reason) {
        // A lease that the store no longer knows, or whose grant never arrived, cannot be given back.
        let lease = match &self.state {
            State::Running(running) if reason != Reason::LeaseGone && !failpoint::on(failpoint::KEEPS_LEASE) => {
                Some(running.lease)
            }
            _ => None,
        };
        // First nobody may act any more, then the lease goes.
        if self.published == Published::Undetermined {
            tracing::debug!(%reason, "the round ended");
        }
        self.undetermined(reason);
        let until = now + self.timing.close_timeout;
        self.state = State::Closing { give_up_at: until };
        self.commands.push(Command::Close { lease, until });
    }

    fn closed(&mut self, now: Instant) {
        if matches!(self.state, State::Closing { .. }) {
            self.state = if self.stopping {
                State::Stopped
            } else {
                let mut pause = self.backoff.failed();
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
