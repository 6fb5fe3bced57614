//! Carries out the commands of the elector's machine, and publishes the status.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::{BoxStream, FuturesUnordered};
use futures::{FutureExt, StreamExt};
use tokio::sync::{oneshot, watch};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::control::{Proclaim, pause_changed};
use super::machine::{Command, Event};
use super::{Elector, ProclaimError, Proclaimed, StepDown};
use crate::backend::{CampaignError, Elected, ElectionBackend, Observation};
use crate::challenge::{ChallengeRecord, Found, RefutationCause};
use crate::clock::{Instant, SharedClock};
use crate::liveness::LivenessProbe;
use crate::observer::{LeaderObserver, Observed};
use crate::status::{ElectionStatus, Reason};
use crate::store::{LeaseId, Revision, StoreError};
use crate::telemetry::{self, MinRemaining};
use crate::term::{Term, TermOwner, WentBack};
use crate::value::LeaderValue;

/// The maximum number of leases of ended rounds that are still to be revoked. Others expire.
const MAX_RETURNING: usize = 16;

/// Runs the elector until it is cancelled and has resigned.
pub(super) async fn run<V: LeaderValue>(elector: Elector<V>, cancel: CancellationToken) {
    let Elector {
        name: _,
        backend,
        mut controls,
        liveness,
        clock,
        mut machine,
        status,
        mut requests,
        mut suspicions,
        handle,
    } = elector;
    let own_id = handle.control.candidate_id.clone();
    drop(handle);
    telemetry::failover_limit(machine.limit());
    let mut io = Io {
        backend,
        value: controls.value.clone(),
        proclaiming: None,
        following: None,
        own_id,
        limit: machine.limit(),
        clock: clock.clone(),
        calls: FuturesUnordered::new(),
        observations: None,
        closing: None,
        returning: FuturesUnordered::new(),
        publisher: Publisher {
            status,
            term: None,
            min_remaining: MinRemaining::new(),
        },
        stepping_down: Vec::new(),
    };
    let mut shutting_down = false;
    let mut event = Event::Tick;
    loop {
        for command in machine.handle(clock.now(), event) {
            io.carry_out(command);
        }
        if machine.is_stopped() {
            return;
        }
        if !machine.is_leader() && io.closing.is_none() {
            io.answer_step_down(StepDown::Done);
        }
        let idle = machine.is_paused() && machine.is_idle() && io.closing.is_none();
        io.follow_while(idle, machine.ttl());
        controls.set_idle(idle);
        let Some(wakeup) = machine.next_wakeup() else { return };
        // The order matters: a known end of the term goes first, then the time, then other events.
        event = tokio::select! {
            biased;
            () = cancel.cancelled(), if !shutting_down => {
                shutting_down = true;
                Event::Shutdown
            }
            went_back = io.publisher.fenced_out() => went_back.map_or(Event::FencedOut, Event::WentBack),
            () = liveness_changed(liveness.as_ref(), machine.is_stuck()) => Event::Stuck(!machine.is_stuck()),
            () = pause_changed(&mut controls.paused, machine.is_paused()) => Event::Paused(!machine.is_paused()),
            () = clock.sleep_until(wakeup) => Event::Tick,
            Some(()) = maybe(&mut io.closing) => {
                io.closing = None;
                Event::Closed
            }
            Some(event) = io.calls.next(), if !io.calls.is_empty() => event,
            Some(()) = io.returning.next(), if !io.returning.is_empty() => Event::Tick,
            Ok(()) = suspicions.changed() => Event::Suspected(*suspicions.borrow_and_update()),
            Some(observation) = next_observation(&mut io.observations) => Event::Observed(observation),
            Some(observed) = next_observed(&mut io.following) => {
                io.publisher.observed(observed, &io.own_id);
                Event::Tick
            }
            Some(()) = maybe(&mut io.proclaiming) => {
                io.proclaiming = None;
                Event::Tick
            }
            Some(request) = controls.proclaims.recv(), if !shutting_down && io.proclaiming.is_none() => {
                io.proclaim(request);
                Event::Tick
            }
            Some(answer) = requests.recv(), if !shutting_down => {
                if machine.is_leader() {
                    io.stepping_down.push(answer);
                    Event::StepDown
                } else {
                    // The caller may be gone.
                    let _ = answer.send(StepDown::NotLeader);
                    Event::Tick
                }
            }
        };
    }
}

/// Completes when the liveness probe fails or recovers; never without a probe.
async fn liveness_changed(liveness: Option<&LivenessProbe>, stuck: bool) {
    match liveness {
        Some(liveness) => liveness.changed(stuck).await,
        None => std::future::pending().await,
    }
}

/// The calls in progress, and what they need.
struct Io<V> {
    backend: Arc<dyn ElectionBackend>,
    value: Arc<watch::Sender<Bytes>>,
    own_id: Arc<str>,
    /// The failover limit in effect.
    limit: Option<Duration>,
    clock: SharedClock,
    /// The observer while the candidacy is paused.
    following: Option<LeaderObserver<V>>,
    /// The write of a new value to the lock key. There is one at a time, so that the last value stays.
    proclaiming: Option<BoxFuture<'static, ()>>,
    calls: FuturesUnordered<BoxFuture<'static, Event>>,
    observations: Option<BoxStream<'static, Observation>>,
    closing: Option<BoxFuture<'static, ()>>,
    /// Leases of ended rounds that could not be revoked in time.
    returning: FuturesUnordered<BoxFuture<'static, ()>>,
    publisher: Publisher<V>,
    stepping_down: Vec<oneshot::Sender<StepDown>>,
}

impl<V: LeaderValue> Io<V> {
    fn carry_out(&mut self, command: Command<V>) {
        let backend = self.backend.clone();
        match command {
            Command::Undetermined { reason } => {
                if matches!(reason, Reason::FencedOutRepeatedly { .. }) {
                    warn!("{reason}");
                }
                self.publisher.undetermined(reason);
            }
            Command::Explain { reason } => {
                // A duplicate is already logged, with the same text.
                if !matches!(reason, Reason::Duplicate(_)) {
                    warn!(%reason, "no known leader, and this instance cannot take part in the election");
                }
                self.publisher.undetermined(reason);
            }
            Command::Follow(leader) => {
                telemetry::became_follower();
                self.publisher.publish(ElectionStatus::Follower(leader));
            }
            Command::Lead {
                key,
                revision,
                lease,
                deadline,
                confirmed,
            } => {
                // None if the store refuses the challenge key.
                telemetry::failover_limit(confirmed.and(self.limit));
                let (clock, names) = (self.clock.clone(), (backend.key_in_store(&key), telemetry::election()));
                self.publisher
                    .lead(key, revision, lease, (deadline, confirmed), clock, names);
            }
            Command::Extend { deadline } => self.publisher.extend(deadline),
            Command::Suspended => self.publisher.suspended(),
            Command::Confirm { until } => self.publisher.confirm(until, &self.clock),
            Command::ReadOwn { id, key, timeout } => {
                let clock = self.clock.clone();
                self.call(async move {
                    let began = clock.now();
                    let result = within(timeout, backend.standing(key)).await;
                    telemetry::confirmed(&result, clock.now().saturating_since(began));
                    Event::Confirmed { id, result }
                });
            }
            Command::Refute {
                id,
                cause,
                guard,
                lease,
                record,
                timeout,
            } => {
                match cause {
                    RefutationCause::Challenged => {
                        telemetry::challenge("received");
                        info!("this instance's term is challenged: refuting");
                    }
                    RefutationCause::Missing => {
                        warn!("the challenge key of this instance's term is missing: putting it");
                    }
                    RefutationCause::Foreign => {
                        warn!("the challenge key of this instance's term has another content: putting it again");
                    }
                }
                self.call(async move {
                    let result = within(timeout, backend.put_record(guard, Some(lease), record)).await;
                    Event::Refuted { id, result }
                });
            }
            Command::AskTtl { id, lease } => self.call(async move {
                let result = backend.time_to_live(lease).await;
                Event::AskedTtl { id, result }
            }),
            Command::ReadOldest { id, key } => self.call(async move {
                let result = backend.standing(key).await;
                Event::ReadOldest { id, result }
            }),
            Command::Challenge {
                id,
                guard,
                lease,
                record,
            } => self.call(async move {
                let result = backend.put_record(guard, lease, record).await;
                Event::Challenged { id, result }
            }),
            Command::Depose { id, guard } => self.call(async move {
                let key = guard.key.clone();
                let result = backend.depose(guard).await;
                // At once: the news of the deletion may arrive first, and then the target is another one.
                if matches!(result, Ok(true)) {
                    report(Found::Deposed, &key);
                }
                Event::Deposed { id, result }
            }),
            Command::Report { found, key } => report(found, &key),
            Command::WentBack(went_back) => {
                telemetry::store_went_back();
                warn!(
                    seen = went_back.seen.0,
                    found = went_back.found.0,
                    "{went_back} Later changes are lost; all state is read again"
                );
            }
            Command::List => self.call(async move { Event::Listed(backend.candidates().await) }),
            Command::Relist => self.call(async move { Event::Relisted(backend.candidates().await) }),
            Command::Duplicated { message } => {
                warn!("{message}");
                telemetry::duplicate_id(true);
            }
            Command::Alone => {
                info!("the duplicate process has left the election");
                telemetry::duplicate_id(false);
            }
            Command::Remove(stale) => self.call(async move {
                for (key, mod_revision) in stale {
                    match backend.remove(key.clone(), mod_revision).await {
                        Ok(true) => {
                            info!(
                                ?key,
                                "removed a key left behind by an earlier process of this candidate"
                            );
                        }
                        Ok(false) => debug!(?key, "stale key already deleted"),
                        Err(error) => {
                            warn!(?key, %error, "cannot remove a stale key: it expires with its lease");
                        }
                    }
                }
                Event::Removed
            }),
            Command::Grant { ttl } => {
                let clock = self.clock.clone();
                self.call(async move {
                    let sent_at = clock.now();
                    Event::Granted {
                        sent_at,
                        result: backend.grant(ttl).await,
                    }
                });
            }
            Command::Campaign { lease, record } => {
                self.observations = Some(backend.observe());
                let value = self.value.subscribe();
                self.call(async move { Event::Campaigned(campaign(backend, lease, value, record).await) });
            }
            Command::Renew { lease, attempt } => {
                let clock = self.clock.clone();
                self.call(async move {
                    let began = clock.now();
                    let result = backend.keep_alive(lease, attempt.route).await;
                    telemetry::renewed(&result, clock.now().saturating_since(began));
                    Event::Renewed { id: attempt.id, result }
                });
            }
            Command::Close {
                lease,
                until,
                keep_trying,
            } => {
                self.calls.clear();
                self.proclaiming = None;
                self.observations = None;
                if let Some(lease) = lease.filter(|_| keep_trying && self.returning.len() < MAX_RETURNING) {
                    // It goes on beside the next rounds, until the store has answered.
                    let (revoked, wait) = oneshot::channel();
                    let backend = backend.clone();
                    self.returning.push(
                        async move {
                            revoke(backend, lease).await;
                            // Nobody waits any more once the time is over.
                            let _ = revoked.send(());
                        }
                        .boxed(),
                    );
                    let overdue =
                        "cannot revoke the lease yet: this instance goes on trying until the lease has expired";
                    self.closing = Some(close(lease, wait.map(drop), until, self.clock.clone(), overdue).boxed());
                    return;
                }
                let clock = self.clock.clone();
                self.closing = Some(match lease {
                    Some(lease) => {
                        let overdue = "cannot revoke the lease: it expires after its TTL";
                        close(lease, revoke(backend, lease), until, clock, overdue).boxed()
                    }
                    None => futures::future::ready(()).boxed(),
                });
            }
        }
    }

    /// Follows the leader while the candidacy is paused.
    fn follow_while(&mut self, idle: bool, ttl: Duration) {
        if idle && self.following.is_none() {
            self.publisher.undetermined(Reason::Paused);
            self.following = Some(LeaderObserver::of(self.backend.clone(), ttl, self.clock.clone()));
        } else if !idle && self.following.take().is_some() {
            self.publisher.undetermined(Reason::Starting);
        }
    }

    /// Campaigns with another value from now on, and writes it to the lock key if there is a term.
    fn proclaim(&mut self, request: Proclaim) {
        let Proclaim { value, answer } = request;
        self.value.send_replace(value.clone());
        let term = match &*self.publisher.status.borrow() {
            // The guard on the lock key decides whether a suspended term still lasts.
            ElectionStatus::Leader(term) if !term.has_ended() => term.clone(),
            _ => {
                // The caller may be gone.
                let _ = answer.send(Ok(Proclaimed::Queued));
                return;
            }
        };
        let backend = self.backend.clone();
        let write = async move {
            let (key, revision) = (term.lock_key().clone(), term.lock_revision());
            let result = match backend.proclaim(key, revision, term.lease(), value).await {
                Ok(true) => Ok(Proclaimed::Led),
                Ok(false) => Err(ProclaimError::TermEnded),
                Err(error) => Err(error.into()),
            };
            let _ = answer.send(result);
        };
        self.proclaiming = Some(write.boxed());
    }

    fn call(&mut self, call: impl Future<Output = Event> + Send + 'static) {
        self.calls.push(call.boxed());
    }

    fn answer_step_down(&mut self, outcome: StepDown) {
        for answer in self.stepping_down.drain(..) {
            // The caller may be gone.
            let _ = answer.send(outcome);
        }
    }
}

/// Limits the duration of a call.
async fn within<T>(timeout: Duration, call: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
    let timed = tokio::time::timeout(timeout, call).await;
    timed.unwrap_or_else(|_| {
        Err(StoreError::Unknown {
            reason: format!("the store did not answer within {timeout:?}"),
        })
    })
}

fn report(found: Found, key: &Bytes) {
    match found {
        Found::Challenged => {
            telemetry::challenge("made");
            info!(?key, "the oldest candidate seems to be dead: challenged it");
        }
        Found::Refuted => {
            telemetry::challenge("refuted");
            info!(?key, "the oldest candidate is alive: it refuted the challenge");
        }
        Found::Deposed => {
            telemetry::challenge("deposed");
            warn!(
                ?key,
                "the oldest candidate did not refute the challenge in time: deposed it"
            );
        }
    }
}

/// Campaigns with the newest value: a campaign that is called again under its lease changes the value of its key, which
/// keeps its place.
async fn campaign(
    backend: Arc<dyn ElectionBackend>,
    lease: LeaseId,
    mut value: watch::Receiver<Bytes>,
    record: Option<ChallengeRecord>,
) -> Result<Elected, CampaignError> {
    loop {
        let newest = value.borrow_and_update().clone();
        tokio::select! {
            biased;
            Ok(()) = value.changed() => {}
            result = backend.campaign(lease, newest, record.clone()) => return result,
        }
    }
}

/// Revokes the lease; retries until the store replies.
async fn revoke(backend: Arc<dyn ElectionBackend>, lease: LeaseId) {
    loop {
        match backend.revoke(lease).await {
            Ok(()) | Err(StoreError::LeaseNotFound { .. }) => return,
            Err(error) => {
                debug!(%lease, %error, "revoking the lease failed, retrying");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// Waits until the lease is revoked or the time is over, which is logged as `overdue`.
async fn close(
    lease: LeaseId,
    revoke: impl Future<Output = ()>,
    until: Instant,
    clock: SharedClock,
    overdue: &'static str,
) {
    tokio::select! {
        biased;
        () = revoke => debug!(%lease, "lease revoked"),
        () = clock.sleep_until(until) => warn!(%lease, "{overdue}"),
    }
}

/// Publishes the status. The term ends before any other status is published.
struct Publisher<V> {
    status: watch::Sender<ElectionStatus<V>>,
    term: Option<TermOwner>,
    min_remaining: MinRemaining,
}

impl<V: LeaderValue> Publisher<V> {
    fn publish(&mut self, status: ElectionStatus<V>) {
        self.term = None;
        self.status.send_replace(status);
    }

    fn undetermined(&mut self, reason: Reason) {
        debug!(%reason, "role undetermined");
        telemetry::became_undetermined(reason.word());
        self.publish(ElectionStatus::Undetermined(reason));
    }

    /// Publishes what the observer of a paused candidacy has seen.
    fn observed(&mut self, observed: Observed<V>, own_id: &str) {
        match observed {
            // The own key, which is left to expire.
            Observed::Leader(info) if info.leader.candidate_id() == own_id => {
                self.undetermined(Reason::OwnEarlierKey);
            }
            Observed::Leader(info) => {
                telemetry::became_follower();
                self.publish(ElectionStatus::Follower(info));
            }
            Observed::NoLeader => self.undetermined(Reason::Paused),
            Observed::Undecodable(error) => self.undetermined(Reason::Undecodable(error)),
            Observed::Stale => self.undetermined(Reason::ObservationStale),
        }
    }

    fn lead(
        &mut self,
        key: Bytes,
        revision: Revision,
        lease: LeaseId,
        (deadline, confirmed): (Instant, Option<Instant>),
        clock: SharedClock,
        names: (Bytes, Option<String>),
    ) {
        telemetry::became_leader();
        let (owner, term) = Term::begin(key, revision, lease, deadline, clock);
        term.set_names(names.0, names.1);
        if let Some(until) = confirmed
            && !owner.confirm(until)
        {
            owner.report_over();
        }
        self.publish(ElectionStatus::Leader(term));
        self.term = Some(owner);
    }

    fn suspended(&self) {
        if let ElectionStatus::Leader(term) = &*self.status.borrow() {
            info!(
                lock_revision = term.lock_revision().0,
                "term suspended: the store did not confirm it within the failover limit; calls wait"
            );
        }
    }

    fn confirm(&self, until: Instant, clock: &SharedClock) {
        let Some(owner) = &self.term else { return };
        if let ElectionStatus::Leader(term) = &*self.status.borrow()
            && let Some(confirmed) = term.confirmed_until()
            && let suspended = clock.now().saturating_since(confirmed)
            && !suspended.is_zero()
        {
            telemetry::suspended(suspended);
            info!(
                lock_revision = term.lock_revision().0,
                ?suspended,
                "term resumed: the store confirmed it again"
            );
        }
        if !owner.confirm(until) {
            owner.report_over();
        }
    }

    fn extend(&mut self, deadline: Instant) {
        if let ElectionStatus::Leader(term) = &*self.status.borrow() {
            self.min_remaining.record(term.remaining());
        }
        if let Some(owner) = &self.term
            && !owner.extend(deadline)
        {
            // The deadline passed before this renewal: the term has ended, and its lease must be revoked.
            owner.report_over();
        }
    }

    /// Completes when an access of the current term was fenced out or found the store gone back; never without a term.
    async fn fenced_out(&self) -> Option<WentBack> {
        match &self.term {
            Some(owner) => owner.fenced_out().await,
            None => std::future::pending().await,
        }
    }
}

impl<V> Drop for Publisher<V> {
    fn drop(&mut self) {
        self.term = None;
        self.status.send_if_modified(|status| {
            let known = !matches!(status, ElectionStatus::Undetermined(_));
            if known {
                *status = ElectionStatus::Undetermined(Reason::ElectorGone);
            }
            known
        });
    }
}

async fn maybe(future: &mut Option<BoxFuture<'static, ()>>) -> Option<()> {
    match future {
        Some(future) => {
            future.await;
            Some(())
        }
        None => None,
    }
}

async fn next_observed<V: LeaderValue>(observer: &mut Option<LeaderObserver<V>>) -> Option<Observed<V>> {
    match observer {
        Some(observer) => Some(observer.next().await),
        None => None,
    }
}

async fn next_observation(observations: &mut Option<BoxStream<'static, Observation>>) -> Option<Observation> {
    match observations {
        Some(observations) => observations.next().await,
        None => None,
    }
}
