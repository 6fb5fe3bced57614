//! What a handle asks of its elector, beside stepping down: to pause the candidacy, and to campaign with another value.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot, watch};

use super::ElectorGone;
use crate::store::StoreError;

/// The maximum number of values that wait to be proclaimed; callers beyond it wait.
const MAX_PROCLAIMS: usize = 8;

/// Where a new value is in effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Proclaimed {
    /// This instance leads, and the value is in its lock key.
    Led,
    /// This instance does not lead: the value is that of its candidacy, or of its next one.
    Queued,
}

/// Why a value was not proclaimed. Each candidacy from now on has the new value, unless it is of another candidate.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProclaimError {
    /// The value has another candidate id than the elector.
    #[error("the value is of candidate {given:?}, but this elector campaigns as {own:?}: keep the id")]
    OtherCandidate {
        /// The id of the elector's candidate.
        own: String,
        /// The id of the value.
        given: String,
    },
    /// The term ended meanwhile.
    #[error("this instance's term as leader has ended meanwhile: its next candidacy has the new value")]
    TermEnded,
    /// The store failed. After [`StoreError::Unknown`] the value may be in the lock key.
    #[error("cannot write the value to the lock key: {0}")]
    Store(#[from] StoreError),
    /// The elector has stopped.
    #[error(transparent)]
    Gone(#[from] ElectorGone),
}

/// The answer to a proclaim.
pub(super) type ProclaimResult = Result<Proclaimed, ProclaimError>;

/// A request to proclaim a value.
#[derive(Debug)]
pub(super) struct Proclaim {
    pub(super) value: Bytes,
    pub(super) answer: oneshot::Sender<ProclaimResult>,
}

/// How far the elector is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    NotStarted,
    Running,
    /// Paused, and its lease is revoked or left to expire.
    Idle,
}

/// The elector's side.
#[derive(Debug)]
pub(super) struct Controls {
    pub(super) paused: watch::Receiver<bool>,
    pub(super) proclaims: mpsc::Receiver<Proclaim>,
    /// The encoded value of the next candidacy.
    pub(super) value: Arc<watch::Sender<Bytes>>,
    progress: watch::Sender<Progress>,
}

/// The handle's side.
#[derive(Clone, Debug)]
pub(super) struct Requests {
    pub(super) candidate_id: Arc<str>,
    paused: Arc<watch::Sender<bool>>,
    proclaims: mpsc::Sender<Proclaim>,
    value: Arc<watch::Sender<Bytes>>,
    progress: watch::Receiver<Progress>,
}

/// The two sides, for a candidate with this id and value.
pub(super) fn new(candidate_id: &str, value: Bytes) -> (Controls, Requests) {
    let paused = Arc::new(watch::Sender::new(false));
    let value = Arc::new(watch::Sender::new(value));
    let (proclaims, proclaimed) = mpsc::channel(MAX_PROCLAIMS);
    let progress = watch::Sender::new(Progress::NotStarted);
    let requests = Requests {
        candidate_id: candidate_id.into(),
        paused: paused.clone(),
        proclaims,
        value: value.clone(),
        progress: progress.subscribe(),
    };
    let controls = Controls {
        paused: paused.subscribe(),
        proclaims: proclaimed,
        value,
        progress,
    };
    (controls, requests)
}

impl Controls {
    /// Records whether the elector is paused and has no lease.
    pub(super) fn set_idle(&self, idle: bool) {
        let progress = if idle { Progress::Idle } else { Progress::Running };
        self.progress
            .send_if_modified(|known| std::mem::replace(known, progress) != progress);
    }
}

/// Completes when the switch is not `paused` any more; never once all handles are gone.
pub(super) async fn pause_changed(switch: &mut watch::Receiver<bool>, paused: bool) {
    if switch.wait_for(|wanted| *wanted != paused).await.is_err() {
        std::future::pending::<()>().await;
    }
}

impl Requests {
    /// Whether the elector runs, or has run.
    pub(super) fn has_started(&self) -> bool {
        *self.progress.borrow() != Progress::NotStarted
    }

    pub(super) fn set_paused(&self, paused: bool) {
        self.paused
            .send_if_modified(|known| std::mem::replace(known, paused) != paused);
    }

    /// Completes when the elector has no lease, because it is paused or has not started.
    pub(super) async fn idle(&self) -> Result<(), ElectorGone> {
        let mut progress = self.progress.clone();
        let idle = progress.wait_for(|progress| *progress != Progress::Running).await;
        idle.map(drop).map_err(|_| ElectorGone)
    }

    pub(super) async fn proclaim(&self, value: Bytes) -> ProclaimResult {
        if !self.has_started() {
            if self.proclaims.is_closed() {
                return Err(ElectorGone.into());
            }
            self.value.send_replace(value);
            return Ok(Proclaimed::Queued);
        }
        let (answer, answered) = oneshot::channel();
        let request = Proclaim { value, answer };
        self.proclaims.send(request).await.map_err(|_| ElectorGone)?;
        match answered.await {
            Ok(result) => result,
            Err(_) if self.proclaims.is_closed() => Err(ElectorGone.into()),
            // The round ended while the value was written.
            Err(_) => Err(ProclaimError::TermEnded),
        }
    }
}
