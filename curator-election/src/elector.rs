//! The elector: carries out what its state machine decides, and publishes the status.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::{BoxStream, FuturesUnordered};
use futures::{FutureExt, StreamExt};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::backend::{ElectionBackend, Observation};
use crate::backoff::Backoff;
use crate::clock::{BootClock, Instant, SharedClock};
use crate::deadline::effective_ttl;
use crate::failpoint;
use crate::machine::{Command, Event, Machine, Timing};
use crate::meters::{self, SmallestMargin};
use crate::pulse::Pulse;
use crate::status::{ElectionStatus, Reason};
use crate::store::{LeaseId, Revision, StoreError};
use crate::term::{Term, TermKeeper, WentBack};
use crate::value::LeaderValue;

/// How an [`Elector`] behaves. `..Default::default()` fills in what is not said.
#[derive(Clone, Debug)]
pub struct ElectorConfig {
    /// The TTL of the lease: whole seconds of it are asked for, or ten seconds if that is none. The store may grant more.
    pub ttl: Duration,
    /// How long before the end of the granted TTL a term ends by itself. `None` for a tenth of it, at least 100 ms.
    pub margin: Option<Duration>,
    /// The wait after a failed round, which doubles with each further one up to `backoff_longest`.
    pub backoff_first: Duration,
    /// The longest wait between two rounds.
    pub backoff_longest: Duration,
    /// How long giving the lease back may take before it is let go, to run out by itself.
    pub close_timeout: Duration,
    /// Without it the elector leads for as long as it can renew its lease; with it only while there are signs of life as well.
    pub pulse: Option<Pulse>,
    /// The clock that terms are measured on.
    pub clock: SharedClock,
    /// Draws the jitter; `None` for a random one.
    pub seed: Option<u64>,
}

impl Default for ElectorConfig {
    fn default() -> Self {
        Self {
            ttl: crate::deadline::DEFAULT_TTL,
            margin: None,
            backoff_first: Duration::from_millis(100),
            backoff_longest: Duration::from_secs(5),
            close_timeout: Duration::from_secs(2),
            pulse: None,
            clock: Arc::new(BootClock),
            seed: None,
        }
    }
}

/// Why an elector cannot be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ElectorError {
    /// The margin leaves nothing of the TTL.
    #[error("a margin of {margin:?} leaves too little of a TTL of {ttl:?}: it must be less than half of it")]
    Margin {
        /// The margin.
        margin: Duration,
        /// The effective TTL.
        ttl: Duration,
    },
}

/// Takes part in an election for as long as it runs.
pub struct Elector<V> {
    backend: Arc<dyn ElectionBackend>,
    value: Bytes,
    pulse: Option<Pulse>,
    clock: SharedClock,
    machine: Machine<V>,
    status: watch::Sender<ElectionStatus<V>>,
    requests: mpsc::Receiver<oneshot::Sender<StepDown>>,
    handle: ElectorHandle<V>,
}

/// What became of a request to step down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StepDown {
    /// The term has ended and the lease was given back, or let go.
    Done,
    /// This instance did not lead.
    NotLeader,
}

/// Watches and steers an [`Elector`]. Cheap to clone.
#[derive(Clone, Debug)]
pub struct ElectorHandle<V> {
    status: watch::Receiver<ElectionStatus<V>>,
    requests: mpsc::Sender<oneshot::Sender<StepDown>>,
}

/// The elector has ended: there is nobody to ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the elector does not run any more")]
pub struct ElectorGone;

impl<V: LeaderValue> ElectorHandle<V> {
    /// The status, to be looked at and waited for by as many as like.
    #[must_use]
    pub fn status(&self) -> watch::Receiver<ElectionStatus<V>> {
        self.status.clone()
    }

    /// Asks the elector to give up its leadership, and waits until it has. The instance queues up again behind the others.
    ///
    /// Cancellation: the request stands.
    ///
    /// # Errors
    /// The elector has ended, and with it any term of its own.
    pub async fn step_down(&self) -> Result<StepDown, ElectorGone> {
        let (answer, answered) = oneshot::channel();
        self.requests.send(answer).await.map_err(|_| ElectorGone)?;
        answered.await.map_err(|_| ElectorGone)
    }
}

impl<V: LeaderValue> Elector<V> {
    /// An elector that campaigns with `value`. Nothing happens before [`run`](Self::run).
    ///
    /// # Errors
    /// The configuration contradicts itself.
    pub fn new(backend: Arc<dyn ElectionBackend>, value: &V, config: ElectorConfig) -> Result<Self, ElectorError> {
        let ttl = effective_ttl(config.ttl);
        if let Some(margin) = config.margin.filter(|margin| *margin >= ttl / 2) {
            return Err(ElectorError::Margin { margin, ttl });
        }
        let timing = Timing {
            ttl,
            margin: config.margin,
            observation_ttl: match failpoint::on(failpoint::NEWS_NEVER_TOO_OLD) {
                true => Duration::from_secs(86_400),
                false => ttl,
            },
            open_timeout: ttl.max(Duration::from_secs(5)),
            close_timeout: config.close_timeout,
        };
        let seed = config
            .seed
            .unwrap_or_else(|| RandomState::new().hash_one(value.candidate_id()));
        let backoff = Backoff::new(config.backoff_first, config.backoff_longest, seed);
        let machine = Machine::new(
            value.candidate_id().to_owned(),
            value.process(),
            timing,
            backoff,
            config.clock.now(),
        );
        let (status, watched) = watch::channel(ElectionStatus::Undetermined(Reason::Starting));
        let (sender, requests) = mpsc::channel(8);
        Ok(Self {
            backend,
            value: value.encode().into(),
            pulse: config.pulse,
            clock: config.clock,
            machine,
            status,
            requests,
            handle: ElectorHandle {
                status: watched,
                requests: sender,
            },
        })
    }

    /// Publishes the status here instead of on a channel of the elector's own: for an owner whose status is there before
    /// the elector and stays after it. Handles taken before are of no use any more.
    #[must_use]
    pub fn publish_to(mut self, status: watch::Sender<ElectionStatus<V>>) -> Self {
        self.handle.status = status.subscribe();
        self.status = status;
        self
    }

    /// A handle to watch and steer the elector with.
    #[must_use]
    pub fn handle(&self) -> ElectorHandle<V> {
        self.handle.clone()
    }

    /// Takes part in the election until cancelled; then resigns and returns.
    ///
    /// All its work is in this future; it spawns nothing. If the future is dropped instead, or stuck, the term ends (at its
    /// deadline at the latest), the lease runs out by itself, and the status becomes undetermined once it is dropped.
    pub async fn run(self, cancel: CancellationToken) {
        let Self {
            backend,
            value,
            pulse,
            clock,
            mut machine,
            status,
            mut requests,
            handle,
        } = self;
        drop(handle);
        let mut io = Io {
            backend,
            value,
            clock: clock.clone(),
            calls: FuturesUnordered::new(),
            observations: None,
            closing: None,
            publisher: Publisher {
                status,
                term: None,
                smallest_margin: SmallestMargin::new(),
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
            let Some(wakeup) = machine.next_wakeup() else { return };
            // In this order: an end that is known goes before the time, and the time before whatever else has arrived.
            event = tokio::select! {
                biased;
                () = cancel.cancelled(), if !shutting_down => {
                    shutting_down = true;
                    Event::Shutdown
                }
                went_back = io.publisher.fenced_out() => went_back.map_or(Event::FencedOut, Event::WentBack),
                () = turns(pulse.as_ref(), machine.is_stuck()) => Event::Stuck(!machine.is_stuck()),
                () = clock.sleep_until(wakeup) => Event::Tick,
                Some(()) = maybe(&mut io.closing) => {
                    io.closing = None;
                    Event::Closed
                }
                Some(event) = io.calls.next(), if !io.calls.is_empty() => event,
                Some(observation) = next_observation(&mut io.observations) => Event::Observed(observation),
                Some(answer) = requests.recv(), if !shutting_down => {
                    if machine.is_leader() {
                        io.stepping_down.push(answer);
                        Event::StepDown
                    } else {
                        // Whoever asked may have gone.
                        let _ = answer.send(StepDown::NotLeader);
                        Event::Tick
                    }
                }
            };
        }
    }
}

/// Completes when the pulse stops, or begins again; never without one.
async fn turns(pulse: Option<&Pulse>, stuck: bool) {
    match pulse {
        Some(pulse) => pulse.turns(stuck).await,
        None => std::future::pending().await,
    }
}

/// The calls under way and what they need.
struct Io<V> {
    backend: Arc<dyn ElectionBackend>,
    value: Bytes,
    clock: SharedClock,
    calls: FuturesUnordered<BoxFuture<'static, Event>>,
    observations: Option<BoxStream<'static, Observation>>,
    closing: Option<BoxFuture<'static, ()>>,
    publisher: Publisher<V>,
    stepping_down: Vec<oneshot::Sender<StepDown>>,
}

impl<V: LeaderValue> Io<V> {
    fn carry_out(&mut self, command: Command<V>) {
        let backend = self.backend.clone();
        match command {
            Command::Undetermined { reason } => self.publisher.undetermined(reason),
            Command::Explain { reason } => {
                // Of a duplicate it has been told already, in these words.
                if !matches!(reason, Reason::Duplicate(_)) {
                    warn!(%reason, "nobody is known to lead, and this instance cannot take part in the election");
                }
                self.publisher.undetermined(reason);
            }
            Command::Follow(following) => {
                meters::became_follower();
                self.publisher.publish(ElectionStatus::Follower(following));
            }
            Command::Lead {
                key,
                revision,
                lease,
                deadline,
            } => {
                self.publisher.lead(key, revision, lease, deadline, self.clock.clone());
            }
            Command::Extend { deadline } => self.publisher.extend(deadline),
            Command::WentBack(went_back) => {
                meters::store_went_back();
                warn!(
                    seen = went_back.seen.0,
                    found = went_back.found.0,
                    "{went_back} What was changed in between is lost, and everything is read anew"
                );
            }
            Command::List => self.call(async move { Event::Listed(backend.candidates().await) }),
            Command::Look => self.call(async move { Event::Looked(backend.candidates().await) }),
            Command::Duplicated { told } => {
                warn!("{told}");
                meters::duplicate_id(true);
            }
            Command::Alone => {
                info!("no other process stands for election with the id of this one any more");
                meters::duplicate_id(false);
            }
            Command::Remove(stale) => self.call(async move {
                for (key, mod_revision) in stale {
                    match backend.remove(key.clone(), mod_revision).await {
                        Ok(true) => {
                            info!(
                                ?key,
                                "removed a key that an earlier process of this candidate left behind"
                            );
                        }
                        Ok(false) => debug!(?key, "a stale key was already gone"),
                        Err(error) => {
                            warn!(?key, %error, "a stale key could not be removed, it will run out by itself");
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
            Command::Campaign { lease } => {
                self.observations = Some(backend.observe());
                let value = self.value.clone();
                self.call(async move { Event::Campaigned(backend.campaign(lease, value).await) });
            }
            Command::Renew { lease, attempt } => {
                let clock = self.clock.clone();
                self.call(async move {
                    let began = clock.now();
                    let result = backend.keep_alive(lease, attempt.route).await;
                    meters::renewed(&result, clock.now().saturating_since(began));
                    Event::Renewed { id: attempt.id, result }
                });
            }
            Command::Close { lease, until } => {
                self.calls.clear();
                self.observations = None;
                self.closing = Some(close(backend, lease, until, self.clock.clone()).boxed());
            }
        }
    }

    fn call(&mut self, call: impl Future<Output = Event> + Send + 'static) {
        self.calls.push(call.boxed());
    }

    fn answer_step_down(&mut self, outcome: StepDown) {
        for answer in self.stepping_down.drain(..) {
            // Whoever asked may have gone.
            let _ = answer.send(outcome);
        }
    }
}

/// Gives the lease back, trying again until the store has answered or the time is over.
async fn close(backend: Arc<dyn ElectionBackend>, lease: Option<LeaseId>, until: Instant, clock: SharedClock) {
    let Some(lease) = lease else { return };
    let revoke = async {
        loop {
            match backend.revoke(lease).await {
                Ok(()) | Err(StoreError::LeaseNotFound { .. }) => return,
                Err(error) => {
                    debug!(%lease, %error, "the lease could not be given back yet");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    };
    tokio::select! {
        biased;
        () = revoke => debug!(%lease, "the lease was given back"),
        () = clock.sleep_until(until) => warn!(%lease, "the store did not take the lease back: it will run out by itself"),
    }
}

/// Publishes the status; the term ends before anything but itself is published.
struct Publisher<V> {
    status: watch::Sender<ElectionStatus<V>>,
    term: Option<TermKeeper>,
    smallest_margin: SmallestMargin,
}

impl<V: LeaderValue> Publisher<V> {
    fn publish(&mut self, status: ElectionStatus<V>) {
        self.term = None;
        self.status.send_replace(status);
    }

    fn undetermined(&mut self, reason: Reason) {
        debug!(%reason, "who leads is not known");
        meters::became_undetermined(&reason);
        self.publish(ElectionStatus::Undetermined(reason));
    }

    fn lead(&mut self, key: Bytes, revision: Revision, lease: LeaseId, deadline: Instant, clock: SharedClock) {
        meters::became_leader();
        let (keeper, term) = Term::begin(key, revision, lease, deadline, clock);
        self.publish(ElectionStatus::Leader(term));
        self.term = Some(keeper);
    }

    fn extend(&mut self, deadline: Instant) {
        if let ElectionStatus::Leader(term) = &*self.status.borrow() {
            self.smallest_margin.note(term.remaining());
        }
        if let Some(keeper) = &self.term
            && !keeper.extend(deadline)
        {
            // Somebody saw the deadline pass before this renewal came: the term is over, and its lease must go.
            keeper.report_over();
        }
    }

    /// Completes when somebody was fenced out of the present term, or found the store gone back; never without a term.
    async fn fenced_out(&self) -> Option<WentBack> {
        match &self.term {
            Some(keeper) => keeper.fenced_out().await,
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

async fn next_observation(observations: &mut Option<BoxStream<'static, Observation>>) -> Option<Observation> {
    match observations {
        Some(observations) => observations.next().await,
        None => None,
    }
}

#[cfg(test)]
mod tests;
