//! One builder for an election: the store, the keys and the timing, checked together.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::backend::StoreElection;
use crate::clock::SharedClock;
use crate::elector::{Elector, ElectorConfig};
use crate::liveness::LivenessProbe;
use crate::settings::{self, ElectorError};
use crate::store::Store;
use crate::value::LeaderValue;

/// Builds an [`Elector`] for the election under a key prefix of a store. What contradicts itself is refused by
/// [`build`](Self::build); what is not set follows from the TTL.
///
/// ```
/// # #[cfg(not(feature = "testing"))] fn main() {}
/// # #[cfg(feature = "testing")]
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// use std::sync::Arc;
/// use std::time::Duration;
/// use curator_election::memory::MemoryCluster;
/// use curator_election::{ElectionBuilder, ElectorError, PlainText};
///
/// let store = Arc::new(MemoryCluster::new(1).client(0));
/// let election = ElectionBuilder::new(store, "/scheduler/leader").name("scheduler").ttl(Duration::from_secs(5));
/// let me = PlainText("node-1".into());
/// assert!(election.clone().build(&me).is_ok());
/// // A refresh that is longer than the TTL would make healthy followers lose their leader.
/// let refused = election.refresh(Duration::from_secs(6)).build(&me).map(drop);
/// assert!(matches!(refused, Err(ElectorError::Refresh { .. })));
/// # }
/// ```
pub struct ElectionBuilder<S: ?Sized> {
    store: Arc<S>,
    prefix: String,
    refresh: Option<Duration>,
    config: ElectorConfig,
}

impl<S: ?Sized> Clone for ElectionBuilder<S> {
    fn clone(&self) -> Self {
        Self {
            store: self.store.clone(),
            prefix: self.prefix.clone(),
            refresh: self.refresh,
            config: self.config.clone(),
        }
    }
}

impl<S: ?Sized> fmt::Debug for ElectionBuilder<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ElectionBuilder")
            .field("prefix", &self.prefix)
            .field("refresh", &self.refresh)
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

impl<S: Store + ?Sized> ElectionBuilder<S> {
    /// The election under `prefix`, such as `/scheduler/leader`; its keys start with the prefix and a slash. Only
    /// candidates may have keys there.
    pub fn new(store: Arc<S>, prefix: impl Into<String>) -> Self {
        Self {
            store,
            prefix: prefix.into(),
            refresh: None,
            config: ElectorConfig::default(),
        }
    }

    /// The name of the election in metrics (label `election`), spans and errors. Without one they have none.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.config.name = Some(name.into());
        self
    }

    /// The TTL of the lease: a second or more, in whole seconds. By default 10 s.
    #[must_use]
    pub const fn ttl(mut self, ttl: Duration) -> Self {
        self.config.ttl = ttl;
        self
    }

    /// How often to read again, independent of watches. By default a third of the TTL; at most half of it.
    #[must_use]
    pub const fn refresh(mut self, refresh: Duration) -> Self {
        self.refresh = Some(refresh);
        self
    }

    /// How long before the end of the granted TTL a term ends. By default a tenth of the TTL, at least 100 ms.
    #[must_use]
    pub const fn margin(mut self, margin: Duration) -> Self {
        self.config.margin = Some(margin);
        self
    }

    /// The failover limit: how soon the other candidates may depose this one once it has died. By default 1 s, at most
    /// half of the TTL; `None` for not before its lease expires.
    #[must_use]
    pub const fn failover_limit(mut self, limit: Option<Duration>) -> Self {
        self.config.failover_limit = limit;
        self
    }

    /// The clock of the terms. By default that of the host; in a test with paused time it must be `TokioClock`.
    #[must_use]
    pub fn clock(mut self, clock: SharedClock) -> Self {
        self.config.clock = clock;
        self
    }

    /// Leads only while the probe is alive.
    #[must_use]
    pub fn liveness(mut self, probe: LivenessProbe) -> Self {
        self.config.liveness = Some(probe);
        self
    }

    /// Changes any other setting.
    #[must_use]
    pub fn configure(mut self, change: impl FnOnce(&mut ElectorConfig)) -> Self {
        change(&mut self.config);
        self
    }

    /// The backend, for an [observer](crate::LeaderObserver) or a [transfer](crate::transfer_leadership).
    ///
    /// # Errors
    /// If the prefix or the refresh interval is invalid.
    pub fn backend<V: LeaderValue>(&self) -> Result<StoreElection<S>, ElectorError> {
        settings::check_ttl(self.config.ttl)?;
        let ttl = crate::lease_deadline::effective_ttl(self.config.ttl);
        let refresh = self.refresh.unwrap_or(ttl / 3);
        settings::check_prefix(&self.prefix)?;
        settings::check_refresh(refresh, ttl)?;
        let backend = StoreElection::new(self.store.clone(), self.prefix.clone(), refresh).with_transfer::<V>();
        Ok(match self.config.seed {
            Some(seed) => backend.with_seed(seed),
            None => backend,
        })
    }

    /// An elector that campaigns with `value` once it runs.
    ///
    /// # Errors
    /// If settings are invalid or contradict each other.
    pub fn build<V: LeaderValue>(self, value: &V) -> Result<Elector<V>, ElectorError> {
        let backend = self.backend::<V>()?;
        Elector::new(Arc::new(backend), value, self.config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::MemoryCluster;
    use crate::settings::MAX_TTL;
    use crate::status::ElectionStatus;
    use crate::value::PlainText;

    fn built(
        change: impl FnOnce(&mut ElectorConfig),
        refresh: Option<Duration>,
        prefix: &str,
    ) -> Result<(), ElectorError> {
        let store: Arc<dyn Store> = Arc::new(MemoryCluster::new(1).client(0));
        let mut election = ElectionBuilder::new(store.clone(), prefix).configure(change);
        election.refresh = refresh;
        let config = election.config.clone();
        let built = election.build(&PlainText("node-1".into())).map(drop);
        // The lower layer refuses the same.
        let lower = StoreElection::new(store, prefix, refresh.unwrap_or(Duration::from_secs(1)));
        let lower = Elector::new(Arc::new(lower), &PlainText("node-1".into()), config).map(drop);
        assert_eq!(built, lower);
        built
    }

    #[tokio::test]
    async fn contradictions_are_refused_by_the_builder_and_below_it() {
        let second = Duration::from_secs(1);
        assert_eq!(built(|_| (), None, "/leader"), Ok(()));
        assert_eq!(built(|config| config.ttl = MAX_TTL, None, "/leader"), Ok(()));
        for ttl in [Duration::ZERO, second / 2, MAX_TTL + second, Duration::MAX] {
            let error = built(|config| config.ttl = ttl, None, "/leader");
            assert_eq!(error, Err(ElectorError::Ttl { ttl }));
        }
        for refresh in [Duration::ZERO, second * 6, Duration::MAX] {
            let error = built(|_| (), Some(refresh), "/leader");
            assert!(matches!(error, Err(ElectorError::Refresh { .. })), "{error:?}");
        }
        let error = built(|config| config.margin = Some(second * 5), None, "/leader");
        assert!(matches!(error, Err(ElectorError::Margin { .. })), "{error:?}");
        let error = built(|config| config.initial_backoff = Duration::ZERO, None, "/leader");
        assert!(matches!(error, Err(ElectorError::Backoff { .. })), "{error:?}");
        for prefix in ["", "/", "/a\0"] {
            let error = built(|_| (), None, prefix);
            assert!(matches!(error, Err(ElectorError::Prefix { .. })), "{error:?}");
        }
        let error = built(|config| config.name = Some(String::new()), None, "/leader");
        assert!(matches!(error, Err(ElectorError::Name { .. })), "{error:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn default_clock_under_paused_time_is_refused_in_words() {
        let error = built(|_| (), None, "/leader").unwrap_err();
        assert!(matches!(error, ElectorError::PausedTime), "{error:?}");
        assert!(error.to_string().contains("TokioClock"), "{error}");
        let clock = Arc::new(crate::clock::TokioClock::new());
        assert_eq!(built(|config| config.clock = clock, None, "/leader"), Ok(()));
    }

    /// Time that is paused after the elector was made.
    #[tokio::test]
    async fn elector_that_runs_under_paused_time_stops_and_says_why() {
        let store = Arc::new(MemoryCluster::new(1).client(0));
        let elector = ElectionBuilder::new(store, "/leader").build(&PlainText("node-1".into()));
        let elector = elector.expect("the time is not paused yet");
        let status = elector.handle().status();
        tokio::time::pause();
        let run = elector.run(tokio_util::sync::CancellationToken::new());
        let timed = tokio::time::timeout(Duration::from_secs(60), run).await;
        timed.expect("it takes no part");
        let ElectionStatus::Undetermined(reason) = status.borrow().clone() else {
            panic!("{status:?}")
        };
        assert!(reason.to_string().contains("TokioClock"), "{reason}");
    }
}
