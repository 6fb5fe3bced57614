//! The elector: takes part in an election and publishes the status.
//!
//! The decisions are in `machine.rs`, without I/O; `driver.rs` carries them out.

mod driver;
mod duplicate;
mod machine;
mod renewal;

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use self::machine::{Machine, Timing};
use crate::backend::ElectionBackend;
use crate::backoff::Backoff;
use crate::challenge::{DEFAULT_FAILOVER_LIMIT, MIN_FAILOVER_LIMIT, effective_limit};
use crate::clock::{BootClock, SharedClock};
use crate::failpoint;
use crate::lease_deadline::effective_ttl;
use crate::liveness::LivenessProbe;
use crate::status::{ElectionStatus, Reason};
use crate::store::Revision;
use crate::value::LeaderValue;

/// The configuration of an [`Elector`]. Use `..Default::default()` for the rest.
#[derive(Clone, Debug)]
pub struct ElectorConfig {
    /// The requested TTL of the lease, rounded down to seconds; less than one second means ten seconds. The store may
    /// grant more.
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

/// An invalid [`ElectorConfig`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ElectorError {
    /// The margin is too large for the TTL.
    #[error("margin {margin:?} too large for TTL {ttl:?}: it must be less than half of the TTL")]
    Margin {
        /// The margin.
        margin: Duration,
        /// The effective TTL.
        ttl: Duration,
    },
    /// The failover limit is too small.
    #[error("failover limit {limit:?} too small: it must be at least {MIN_FAILOVER_LIMIT:?}")]
    FailoverLimit {
        /// The failover limit.
        limit: Duration,
    },
}

/// Takes part in an election for as long as it runs.
pub struct Elector<V> {
    backend: Arc<dyn ElectionBackend>,
    value: Bytes,
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
    ///
    /// Cancellation: the request remains in effect.
    ///
    /// # Errors
    /// If the elector has stopped; its term, if any, has ended.
    pub async fn step_down(&self) -> Result<StepDown, ElectorGone> {
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
        let ttl = effective_ttl(config.ttl);
        if let Some(margin) = config.margin.filter(|margin| *margin >= ttl / 2) {
            return Err(ElectorError::Margin { margin, ttl });
        }
        let seed = config
            .seed
            .unwrap_or_else(|| RandomState::new().hash_one(value.candidate_id()));
        let limit = match config.failover_limit {
            Some(limit) => Some(effective_limit(limit, ttl).ok_or(ElectorError::FailoverLimit { limit })?),
            None => None,
        };
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
        Ok(Self {
            backend,
            value: value.encode().into(),
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
    pub async fn run(self, cancel: CancellationToken) {
        driver::run(self, cancel).await;
    }
}

#[cfg(test)]
mod tests;
