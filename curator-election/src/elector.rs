//! The elector: takes part in an election and publishes the status.
//!
//! The decisions are in `machine.rs`, without I/O; `driver.rs` carries them out.

mod control;
mod driver;
mod duplicate;
mod early_end;
mod handle;
mod machine;
mod renewal;

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

pub use self::control::{ProclaimError, Proclaimed};
pub use self::handle::WhileLeading;
use self::machine::{Machine, Timing};
use crate::backend::ElectionBackend;
use crate::backoff::Backoff;
use crate::challenge::{DEFAULT_FAILOVER_LIMIT, effective_limit};
use crate::clock::{BootClock, SharedClock};
use crate::failpoint;
use crate::lease_deadline::effective_ttl;
use crate::liveness::LivenessProbe;
use crate::settings::{self, ElectorError};
use crate::status::{ElectionStatus, Reason};
use crate::store::Revision;
use crate::telemetry;
use crate::value::LeaderValue;

/// The configuration of an [`Elector`]. Use `..Default::default()` for the rest.
#[derive(Clone, Debug)]
pub struct ElectorConfig {
    /// The name of the election in metrics (label `election`) and spans; `None` for none.
    pub name: Option<String>,
    /// The requested TTL of the lease, rounded down to seconds: a second or more. The store may grant more.
    pub ttl: Duration,
    /// How long before the end of the granted TTL a term ends. `None` for a tenth of the TTL, at least 100 ms.
    pub margin: Option<Duration>,
    /// The wait after a failed round. It doubles with each further failure up to `max_backoff`.
    pub initial_backoff: Duration,
    /// The maximum wait between two rounds.
    pub max_backoff: Duration,
    /// The timeout of revoking the lease; after it the lease is left to expire.
    pub close_timeout: Duration,
    /// The failover limit: how soon the other candidates may depose this one once it has died. At most half of the TTL
    /// is in effect. `None` for none: a dead leader is replaced when its lease expires. A backend without challenges
    /// ignores it.
    pub failover_limit: Option<Duration>,
    /// With a probe the elector leads only while the probe is alive; without one, for as long as it can renew its
    /// lease.
    pub liveness: Option<LivenessProbe>,
    /// The clock of the terms.
    pub clock: SharedClock,
    /// The seed of the jitter; `None` for a random one.
    pub seed: Option<u64>,
}

impl Default for ElectorConfig {
    fn default() -> Self {
        Self {
            name: None,
            ttl: crate::lease_deadline::DEFAULT_TTL,
            margin: None,
            initial_backoff: Duration::from_millis(100),
            max_backoff: Duration::from_secs(5),
            close_timeout: Duration::from_secs(2),
            failover_limit: Some(DEFAULT_FAILOVER_LIMIT),
            liveness: None,
            clock: Arc::new(BootClock),
            seed: None,
        }
    }
}

/// Takes part in an election for as long as it runs.
pub struct Elector<V> {
    name: Option<String>,
    backend: Arc<dyn ElectionBackend>,
    controls: control::Controls,
    liveness: Option<LivenessProbe>,
    clock: SharedClock,
    machine: Machine<V>,
    status: watch::Sender<ElectionStatus<V>>,
    requests: mpsc::Receiver<oneshot::Sender<StepDown>>,
    suspicions: watch::Receiver<Revision>,
    handle: ElectorHandle<V>,
}

/// The result of a request to step down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StepDown {
    /// The term has ended, and the lease is revoked or left to expire.
    Done,
    /// This instance was not the leader.
    NotLeader,
}

/// A handle of an [`Elector`]: its status, and requests to it. Cheap to clone.
#[derive(Clone, Debug)]
pub struct ElectorHandle<V> {
    status: watch::Receiver<ElectionStatus<V>>,
    requests: mpsc::Sender<oneshot::Sender<StepDown>>,
    suspicions: watch::Sender<Revision>,
    control: control::Requests,
}

/// The elector has stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the elector has stopped")]
pub struct ElectorGone;

impl<V: LeaderValue> ElectorHandle<V> {
    /// A receiver of the status.
    #[must_use]
    pub fn status(&self) -> watch::Receiver<ElectionStatus<V>> {
        self.status.clone()
    }

    /// Reports that the leader with this lock revision seems to be dead: its host does not answer, or its connections
    /// are refused or reset. Report it again for as long as it seems so.
    ///
    /// It is only a hint. The elector challenges the leader, if it has a failover limit; a leader that is alive refutes
    /// that, and is then trusted for a while.
    pub fn suspect(&self, leader: Revision) {
        self.suspicions.send_replace(leader);
    }

    /// Asks the elector to step down and waits until it has. The instance then campaigns again behind the others.
    /// An elector that does not run yet does not lead, and answers so.
    ///
    /// Cancellation: the request remains in effect.
    ///
    /// # Errors
    /// If the elector has stopped; its term, if any, has ended.
    pub async fn step_down(&self) -> Result<StepDown, ElectorGone> {
        if !self.control.has_started() {
            let gone = self.requests.is_closed();
            return if gone {
                Err(ElectorGone)
            } else {
                Ok(StepDown::NotLeader)
            };
        }
        let (answer, answered) = oneshot::channel();
        self.requests.send(answer).await.map_err(|_| ElectorGone)?;
        answered.await.map_err(|_| ElectorGone)
    }
}

impl<V: LeaderValue> Elector<V> {
    /// Creates an elector that campaigns with `value` once [`run`](Self::run) is called.
    ///
    /// # Errors
    /// If the configuration is invalid.
    pub fn new(backend: Arc<dyn ElectionBackend>, value: &V, config: ElectorConfig) -> Result<Self, ElectorError> {
        settings::check_ttl(config.ttl)?;
        let ttl = effective_ttl(config.ttl);
        settings::check_margin(config.margin, ttl)?;
        settings::check_backoff(config.initial_backoff, config.max_backoff)?;
        settings::check_name(config.name.as_deref())?;
        settings::check_clock(&config.clock)?;
        backend.check(ttl)?;
        let limit = match config.failover_limit {
            Some(limit) => Some(effective_limit(limit, ttl).ok_or(ElectorError::FailoverLimit { limit })?),
            None => None,
        };
        let seed = config
            .seed
            .unwrap_or_else(|| RandomState::new().hash_one(value.candidate_id()));
        let timing = Timing {
            ttl,
            limit,
            nonce: seed,
            margin: config.margin,
            observation_ttl: if failpoint::on(failpoint::NEWS_NEVER_TOO_OLD) {
                Duration::from_secs(86_400)
            } else {
                ttl
            },
            open_timeout: ttl.max(Duration::from_secs(5)),
            close_timeout: config.close_timeout,
        };
        let backoff = Backoff::new(config.initial_backoff, config.max_backoff, seed);
        let machine = Machine::new(
            value.candidate_id().to_owned(),
            value.process(),
            timing,
            backoff,
            config.clock.now(),
        );
        let (status, watched) = watch::channel(ElectionStatus::Undetermined(Reason::Starting));
        let (sender, requests) = mpsc::channel(8);
        let (suspicions, suspected) = watch::channel(Revision(0));
        let (controls, control) = control::new(value.candidate_id(), value.encode().into());
        Ok(Self {
            name: config.name,
            backend,
            controls,
            liveness: config.liveness,
            clock: config.clock,
            machine,
            status,
            requests,
            suspicions: suspected,
            handle: ElectorHandle {
                status: watched,
                requests: sender,
                suspicions,
                control,
            },
        })
    }

    /// Publishes the status on this channel instead of the elector's own, for an owner that keeps the channel beyond
    /// the elector's life. Invalidates handles taken before.
    #[must_use]
    pub fn publish_to(mut self, status: watch::Sender<ElectionStatus<V>>) -> Self {
        self.handle.status = status.subscribe();
        self.status = status;
        self
    }

    /// A handle of the elector.
    #[must_use]
    pub fn handle(&self) -> ElectorHandle<V> {
        self.handle.clone()
    }

    /// Takes part in the election until cancelled; then resigns and returns.
    ///
    /// All its work is in this future; it spawns no task. If the future is dropped or stuck, the term ends, at its
    /// deadline at the latest, and the lease expires. When the future is dropped, the status becomes undetermined.
    ///
    /// If the runtime's time is paused while the clock of the election counts on, as in a test with the default clock,
    /// it takes no part: it logs [`ElectorError::PausedTime`] and publishes it as the reason.
    pub async fn run(self, cancel: CancellationToken) {
        if let Err(error) = settings::check_clock(&self.clock) {
            tracing::error!("{error}");
            self.status
                .send_replace(ElectionStatus::Undetermined(Reason::Barred(error.to_string())));
            return;
        }
        let span = telemetry::span(self.name.as_deref());
        let name = self.name.clone();
        telemetry::of_election(name, driver::run(self, cancel))
            .instrument(span)
            .await;
    }
}

#[cfg(test)]
mod tests;
