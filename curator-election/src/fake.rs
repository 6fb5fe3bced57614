//! A backend for the unit tests of a consumer: an election in memory that a test drives.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use tokio::sync::watch;

use crate::backend::{CampaignError, Candidate, Elected, ElectionBackend, Observation};
use crate::challenge::ChallengeRecord;
use crate::store::{Lease, LeaseId, Revision, StoreError};

/// An election in memory. A test decides whether campaigns stay pending, who else leads, and what fails; every change
/// takes effect at once. Clones are clients of the same election.
///
/// ```
/// # #[cfg(not(feature = "mock"))] fn main() {}
/// # #[cfg(feature = "mock")]
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use std::sync::Arc;
/// use curator_election::{ElectionStatus, Elector, ElectorConfig, FakeElection, PlainText};
///
/// let fake = FakeElection::new();
/// fake.hold();
/// let elector = Elector::new(Arc::new(fake.clone()), &PlainText("me".into()), ElectorConfig::default())?;
/// let handle = elector.handle();
/// let cancel = tokio_util::sync::CancellationToken::new();
/// let running = tokio::spawn(elector.run(cancel.clone()));
/// // The campaign is pending.
/// fake.queued(1).await;
/// assert!(!matches!(handle.current(), ElectionStatus::Leader(_)));
/// fake.release();
/// let term = handle.leading().await?;
/// // All leases are gone, as after a partition.
/// fake.expire_leases();
/// term.ended().await;
/// cancel.cancel();
/// running.await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct FakeElection {
    state: Arc<Mutex<State>>,
    /// Counts the changes.
    changes: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct State {
    revision: i64,
    last_lease: i64,
    leases: BTreeMap<LeaseId, (Duration, tokio::time::Instant)>,
    queue: Vec<Candidate>,
    held: bool,
    failure: Option<StoreError>,
}

impl State {
    fn next_revision(&mut self) -> Revision {
        self.revision += 1;
        Revision(self.revision)
    }

    fn check(&self) -> Result<(), StoreError> {
        self.failure.clone().map_or(Ok(()), Err)
    }

    /// Removes candidates; each removal is a change of its own.
    fn remove_if(&mut self, gone: impl Fn(&Candidate) -> bool) -> bool {
        let before = self.queue.len();
        self.queue.retain(|candidate| !gone(candidate));
        let removed = self.queue.len() < before;
        if removed {
            self.revision += 1;
        }
        removed
    }

    fn end_lease(&mut self, lease: LeaseId) -> bool {
        self.remove_if(|candidate| candidate.lease == Some(lease));
        self.leases.remove(&lease).is_some()
    }

    fn expire(&mut self, now: tokio::time::Instant) {
        let expired: Vec<_> = self
            .leases
            .iter()
            .filter(|(_, (_, until))| *until <= now)
            .map(|(id, _)| *id)
            .collect();
        for lease in expired {
            self.end_lease(lease);
        }
    }

    /// The candidate's key, created or found, with this value.
    fn enqueue(&mut self, lease: LeaseId, value: &Bytes) -> Result<Revision, CampaignError> {
        if !self.leases.contains_key(&lease) {
            return Err(StoreError::LeaseNotFound { id: lease }.into());
        }
        if let Some(at) = self.queue.iter().position(|candidate| candidate.lease == Some(lease)) {
            if self.queue[at].value != *value {
                self.queue[at].mod_revision = self.next_revision();
                self.queue[at].value = value.clone();
            }
            return Ok(self.queue[at].create_revision);
        }
        let revision = self.next_revision();
        self.queue.push(Candidate {
            key: format!("/fake/{lease}").into(),
            value: value.clone(),
            create_revision: revision,
            mod_revision: revision,
            lease: Some(lease),
        });
        Ok(revision)
    }
}

impl Default for FakeElection {
    fn default() -> Self {
        Self::new()
    }
}

impl FakeElection {
    /// An election without candidates.
    #[must_use]
    pub fn new() -> Self {
        Self {
            state: Arc::default(),
            changes: watch::Sender::new(0),
        }
    }

    /// Lets each campaign stay pending, even that of the oldest candidate.
    pub fn hold(&self) {
        self.change(|state| state.held = true);
    }

    /// Ends [`hold`](Self::hold).
    pub fn release(&self) {
        self.change(|state| state.held = false);
    }

    /// Another candidate leads, with this value: its key is older than all others. The own term ends, if there is one.
    pub fn other_leads(&self, value: impl Into<Bytes>) {
        let value = value.into();
        self.change(|state| {
            let revision = state.next_revision();
            let other = Candidate {
                key: format!("/fake/other-{revision}").into(),
                value,
                create_revision: Revision(0),
                mod_revision: revision,
                lease: None,
            };
            state.queue.insert(0, other);
        });
    }

    /// The candidates of [`other_leads`](Self::other_leads) are gone.
    pub fn others_leave(&self) {
        self.change(|state| {
            state.remove_if(|candidate| candidate.lease.is_none());
        });
    }

    /// All leases are gone with their keys: each term ends with the next renewal or observation.
    pub fn expire_leases(&self) {
        self.change(|state| {
            for lease in state.leases.keys().copied().collect::<Vec<_>>() {
                state.end_lease(lease);
            }
        });
    }

    /// Every call fails with this error from now on, and observers hear nothing; `None` for no failure.
    pub fn fail(&self, failure: Option<StoreError>) {
        self.change(|state| state.failure = failure);
    }

    /// Completes when at least this many candidates are queued.
    pub async fn queued(&self, count: usize) {
        let mut changes = self.changes.subscribe();
        while self.state().queue.len() < count {
            // `self` holds the sender.
            let _ = changes.changed().await;
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // No code panics while it holds the lock.
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.expire(tokio::time::Instant::now());
        state
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let changed = change(&mut self.state());
        self.changes.send_modify(|count| *count += 1);
        changed
    }

    /// Waits for a change, or for the time to check the leases again.
    async fn wait(changes: &mut watch::Receiver<u64>) {
        let _ = tokio::time::timeout(Duration::from_millis(100), changes.changed()).await;
    }
}

#[async_trait]
impl ElectionBackend for FakeElection {
    async fn candidates(&self) -> Result<Vec<Candidate>, StoreError> {
        let state = self.state();
        state.check()?;
        Ok(state.queue.clone())
    }

    async fn remove(&self, key: Bytes, mod_revision: Revision) -> Result<bool, StoreError> {
        self.change(|state| {
            state.check()?;
            Ok(state.remove_if(|candidate| candidate.key == key && candidate.mod_revision == mod_revision))
        })
    }

    async fn grant(&self, ttl: Duration) -> Result<Lease, StoreError> {
        self.change(|state| {
            state.check()?;
            state.last_lease += 1;
            let id = LeaseId::new(state.last_lease).unwrap_or_else(|| unreachable!("counted from one"));
            state.leases.insert(id, (ttl, tokio::time::Instant::now() + ttl));
            Ok(Lease { id, ttl })
        })
    }

    async fn keep_alive(&self, lease: LeaseId, _attempt: u32) -> Result<Duration, StoreError> {
        self.change(|state| {
            state.check()?;
            let (ttl, until) = state
                .leases
                .get_mut(&lease)
                .ok_or(StoreError::LeaseNotFound { id: lease })?;
            *until = tokio::time::Instant::now() + *ttl;
            Ok(*ttl)
        })
    }

    async fn campaign(
        &self,
        lease: LeaseId,
        value: Bytes,
        _record: Option<ChallengeRecord>,
    ) -> Result<Elected, CampaignError> {
        let mut changes = self.changes.subscribe();
        let revision = self.change(|state| {
            state.check()?;
            state.enqueue(lease, &value)
        })?;
        let key = Bytes::from(format!("/fake/{lease}"));
        loop {
            {
                let state = self.state();
                if !state
                    .queue
                    .iter()
                    .any(|candidate| candidate.key == key && candidate.create_revision == revision)
                {
                    return Err(CampaignError::KeyLost { key });
                }
                let is_first = state.queue.first().is_some_and(|candidate| candidate.key == key);
                if is_first && !state.held && state.failure.is_none() {
                    let won_at = Revision(state.revision);
                    return Ok(Elected {
                        key,
                        revision,
                        won_at,
                        has_challenge_key: false,
                    });
                }
            }
            Self::wait(&mut changes).await;
        }
    }

    async fn proclaim(&self, key: Bytes, revision: Revision, lease: LeaseId, value: Bytes) -> Result<bool, StoreError> {
        self.change(|state| {
            state.check()?;
            let mod_revision = state.next_revision();
            let ours = |candidate: &&mut Candidate| candidate.key == key && candidate.create_revision == revision;
            let Some(candidate) = state.queue.iter_mut().find(ours) else {
                return Ok(false);
            };
            candidate.value = value;
            candidate.mod_revision = mod_revision;
            candidate.lease = Some(lease);
            Ok(true)
        })
    }

    fn observe(&self) -> BoxStream<'static, Observation> {
        let (fake, changes) = (self.clone(), self.changes.subscribe());
        let observed = futures::stream::unfold((fake, changes, None), |(fake, mut changes, mut last)| async move {
            loop {
                {
                    let state = fake.state();
                    let leader = state.queue.first().cloned();
                    let now = Some((leader.clone(), state.revision));
                    if state.failure.is_none() && now != last {
                        let revision = Revision(state.revision);
                        last = now;
                        drop(state);
                        return Some((Observation { revision, leader }, (fake, changes, last)));
                    }
                }
                Self::wait(&mut changes).await;
            }
        });
        observed.boxed()
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.change(|state| {
            state.check()?;
            state.end_lease(lease);
            Ok(())
        })
    }
}
