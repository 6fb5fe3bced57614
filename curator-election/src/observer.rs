//! An observer of an election, without candidacy.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::BoxStream;

use crate::backend::{ElectionBackend, Observation};
use crate::clock::{Instant, SharedClock};
use crate::settings::{self, ElectorError};
use crate::status::LeaderInfo;
use crate::value::LeaderValue;

/// The wait before the observations of a backend are opened again, if their stream ends.
const REOPEN_INTERVAL: Duration = Duration::from_millis(100);

/// Who leads, as an observer knows.
#[derive(Clone, Debug, PartialEq)]
pub enum Observed<V> {
    /// This candidate leads.
    Leader(LeaderInfo<V>),
    /// There is no candidate.
    NoLeader,
    /// A candidate leads whose value cannot be decoded; the message says why.
    Undecodable(String),
    /// Nothing was heard of the election for a TTL.
    Stale,
}

/// Observes who leads, without being a candidate.
///
/// ```
/// # #[cfg(not(feature = "testing"))] fn main() {}
/// # #[cfg(feature = "testing")]
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), curator_election::ElectorError> {
/// use std::sync::Arc;
/// use curator_election::clock::BootClock;
/// use curator_election::memory::MemoryCluster;
/// use curator_election::{ElectionBuilder, LeaderObserver, Observed, PlainText};
///
/// let store = Arc::new(MemoryCluster::new(1).client(0));
/// let election = ElectionBuilder::new(store, "/scheduler/leader");
/// let ttl = std::time::Duration::from_secs(10);
/// let backend = Arc::new(election.backend::<PlainText>()?);
/// let mut observer = LeaderObserver::<PlainText>::new(backend, ttl, Arc::new(BootClock))?;
/// assert_eq!(observer.next().await, Observed::NoLeader);
/// # Ok(())
/// # }
/// ```
pub struct LeaderObserver<V> {
    backend: Arc<dyn ElectionBackend>,
    observations: BoxStream<'static, Observation>,
    clock: SharedClock,
    ttl: Duration,
    heard_at: Instant,
    last: Option<Observed<V>>,
}

impl<V: LeaderValue> LeaderObserver<V> {
    /// An observer. What it has observed is [`Stale`](Observed::Stale) if nothing confirms it for `ttl`.
    ///
    /// # Errors
    /// If the TTL is invalid or does not fit the backend, or the time of the runtime is paused without the clock.
    pub fn new(backend: Arc<dyn ElectionBackend>, ttl: Duration, clock: SharedClock) -> Result<Self, ElectorError> {
        settings::check_ttl(ttl)?;
        settings::check_clock(&clock)?;
        backend.check(ttl)?;
        Ok(Self::of(backend, ttl, clock))
    }

    /// An observer with settings that are checked already.
    pub(crate) fn of(backend: Arc<dyn ElectionBackend>, ttl: Duration, clock: SharedClock) -> Self {
        Self {
            observations: backend.observe(),
            backend,
            heard_at: clock.now(),
            clock,
            ttl,
            last: None,
        }
    }

    /// The next change of who leads; at first, who leads now. Changes in between may be skipped, but not the last one.
    ///
    /// Cancellation safe.
    pub async fn next(&mut self) -> Observed<V> {
        loop {
            let is_stale = self.last == Some(Observed::Stale);
            let observed = tokio::select! {
                biased;
                observation = self.observations.next() => match observation {
                    Some(observation) => {
                        self.heard_at = self.clock.now();
                        observed(observation)
                    }
                    None => {
                        self.observations = futures::stream::pending().boxed();
                        tokio::time::sleep(REOPEN_INTERVAL).await;
                        self.observations = self.backend.observe();
                        continue;
                    }
                },
                () = self.clock.sleep_until(self.heard_at + self.ttl), if !is_stale => Observed::Stale,
            };
            if self.last.as_ref() != Some(&observed) {
                self.last = Some(observed.clone());
                return observed;
            }
        }
    }
}

fn observed<V: LeaderValue>(observation: Observation) -> Observed<V> {
    let Some(leader) = observation.leader else {
        return Observed::NoLeader;
    };
    match V::decode(&leader.value) {
        Ok(value) => Observed::Leader(LeaderInfo {
            leader: value,
            key: leader.key,
            revision: leader.create_revision,
        }),
        Err(error) => Observed::Undecodable(error.to_string()),
    }
}

impl<V> fmt::Debug for LeaderObserver<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LeaderObserver")
            .field("ttl", &self.ttl)
            .field("heard_at", &self.heard_at)
            .finish_non_exhaustive()
    }
}
