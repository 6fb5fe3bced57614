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
use crate::clock::{BootClock, SharedClock};
use crate::failpoint;
use crate::lease_deadline::effective_ttl;
use crate::liveness::LivenessProbe;
use crate::status::{ElectionStatus, Reason};
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
    pub liveness: Option<LivenessProbe>,
    /// The clock that terms are measured on.
    pub clock: SharedClock,
    /// Draws the jitter; `None` for a random one.
    pub seed: Option<u64>,
}

impl Default for ElectorConfig {
    fn default() -> Self {
        Self {
            ttl: crate::lease_deadline::DEFAULT_TTL,
            margin: None,
            backoff_first: Duration::from_millis(100),
            backoff_longest: Duration::from_secs(5),
            close_timeout: Duration::from_secs(2),
            liveness: None,
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
    liveness: Option<LivenessProbe>,
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
            liveness: config.liveness,
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
    /// All its work is in this future; it spawns no task. If the future is dropped or stuck, the term ends, at its
    /// deadline at the latest, and the lease expires. When the future is dropped, the status becomes undetermined.
    pub async fn run(self, cancel: CancellationToken) {
        driver::run(self, cancel).await;
    }
}

#[cfg(test)]
mod tests;
