//! Leadership transfer: the leader names a target in its value, and the candidates before the target queue again behind
//! it.
//!
//! The safety of the election does not depend on it. A term ends as always, and then the oldest candidate leads; a
//! transfer only changes the order of the queue beforehand. A candidate without support for transfers keeps its
//! position.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::{sleep, timeout};
use tracing::{debug, info};

use crate::backend::{Candidate, ElectionBackend};
use crate::store::StoreError;
use crate::term::Term;
use crate::value::LeaderValue;

/// How often to poll the queue.
const POLL_INTERVAL: Duration = Duration::from_millis(20);
/// The timeout of withdrawing a transfer request.
const WITHDRAW_TIMEOUT: Duration = Duration::from_secs(2);

/// A failed transfer. The order of the other candidates may have changed; the leader has not.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TransferError {
    /// The leader's term has ended.
    #[error("this instance's term as leader has ended")]
    TermEnded,
    /// The target is the leader.
    #[error("{to} is already the leader")]
    Leads {
        /// The target.
        to: String,
    },
    /// The target is not a candidate.
    #[error("{to} is not a candidate: {}", describe_queue(queued))]
    NotQueued {
        /// The target.
        to: String,
        /// The candidates.
        queued: Vec<String>,
    },
    /// The target has left the election.
    #[error("{to} has left the election")]
    Left {
        /// The target.
        to: String,
    },
    /// Other candidates did not make way.
    #[error(
        "{} did not make way for {to} within {within:?}: candidates without support for transfers keep their position",
        before.join(", ")
    )]
    InTheWay {
        /// The target.
        to: String,
        /// The candidates before the target.
        before: Vec<String>,
        /// The timeout.
        within: Duration,
    },
    /// The leader's value type does not support transfers.
    #[error("this election does not support leadership transfer")]
    Unsupported,
    /// A call to the store failed.
    #[error("cannot read or change the queue of candidates: {0}")]
    Store(#[from] StoreError),
}

fn describe_queue(queued: &[String]) -> String {
    match queued {
        [] => "there are no other candidates".to_owned(),
        queued => format!("candidates are {}", queued.join(", ")),
    }
}

/// Makes the candidate `to` the next leader after `term`, within the timeout `within`. `own` is the leader's current
/// value. Returns once the candidate is next in the queue; the caller then ends the term.
///
/// Run one transfer at a time: of two concurrent ones either may fail or be overridden.
///
/// Cancellation: the request may stay in the leader's value, and the queue may have changed. The next call replaces the
/// request, and the end of the term removes it.
///
/// # Errors
/// If the candidate is not next. The request is withdrawn, if the store responds.
pub async fn transfer_leadership<V: LeaderValue>(
    backend: &dyn ElectionBackend,
    term: &Term,
    own: &V,
    to: &str,
    within: Duration,
) -> Result<(), TransferError> {
    if own.candidate_id() == to {
        return Err(TransferError::Leads { to: to.to_owned() });
    }
    let key = match position_of::<V>(&backend.candidates().await?, term, to)? {
        QueuePosition::Next => return Ok(()),
        QueuePosition::Absent { queued } => {
            return Err(TransferError::NotQueued {
                to: to.to_owned(),
                queued,
            });
        }
        QueuePosition::Behind { key, .. } => key,
    };
    let name = std::str::from_utf8(&key).map_err(|_| TransferError::Unsupported)?;
    let request = own.with_transfer_to(Some(name)).ok_or(TransferError::Unsupported)?;
    let mut result = write_value(backend, term, &request).await;
    if result.is_ok() {
        result = wait_until_next::<V>(backend, term, to, &key, within).await;
    }
    if let Err(error) = &result
        && !matches!(error, TransferError::TermEnded)
    {
        info!(to, %error, "leadership transfer failed");
        match timeout(WITHDRAW_TIMEOUT, write_value(backend, term, own)).await {
            Ok(Ok(())) => {}
            // Harmless: the request names one key, and the candidates before it have already made way.
            Ok(Err(error)) => debug!(%error, "cannot withdraw the transfer request"),
            Err(_) => debug!("timeout withdrawing the transfer request"),
        }
    }
    result
}

/// Writes this value to the leader's key.
async fn write_value<V: LeaderValue>(
    backend: &dyn ElectionBackend,
    term: &Term,
    value: &V,
) -> Result<(), TransferError> {
    // The guard on the lock key decides whether a suspended term still lasts.
    if term.has_ended() {
        return Err(TransferError::TermEnded);
    }
    let written = backend
        .proclaim(
            term.lock_key().clone(),
            term.lock_revision(),
            term.lease(),
            value.encode().into(),
        )
        .await?;
    written.then_some(()).ok_or(TransferError::TermEnded)
}

/// Waits until the candidate with this key is next.
async fn wait_until_next<V: LeaderValue>(
    backend: &dyn ElectionBackend,
    term: &Term,
    to: &str,
    key: &Bytes,
    within: Duration,
) -> Result<(), TransferError> {
    let mut blocking = Vec::new();
    let next = async {
        loop {
            match position_of::<V>(&backend.candidates().await?, term, to)? {
                QueuePosition::Next => return Ok(()),
                // The candidates do not make way for another key of the target.
                QueuePosition::Behind { key: now, before } if now == *key => blocking = before,
                QueuePosition::Behind { .. } | QueuePosition::Absent { .. } => {
                    return Err(TransferError::Left { to: to.to_owned() });
                }
            }
            sleep(POLL_INTERVAL).await;
        }
    };
    let waited = timeout(within, next).await;
    waited.unwrap_or_else(|_| {
        Err(TransferError::InTheWay {
            to: to.to_owned(),
            before: blocking,
            within,
        })
    })
}

/// The position of a candidate in the queue.
#[derive(Debug, PartialEq, Eq)]
enum QueuePosition {
    /// Directly behind the leader.
    Next,
    /// Behind other candidates.
    Behind {
        /// The candidate's key.
        key: Bytes,
        /// The other candidates.
        before: Vec<String>,
    },
    /// Not in the queue.
    Absent {
        /// The candidates behind the leader.
        queued: Vec<String>,
    },
}

/// The position of `to` among the candidates, oldest first. Of several keys the newest counts: the others are of dead
/// processes.
fn position_of<V: LeaderValue>(
    candidates: &[Candidate],
    term: &Term,
    to: &str,
) -> Result<QueuePosition, TransferError> {
    let (leader, others) = candidates.split_first().ok_or(TransferError::TermEnded)?;
    if leader.key != term.lock_key() || leader.create_revision != term.lock_revision() {
        return Err(TransferError::TermEnded);
    }
    let names = |some: &[Candidate]| some.iter().map(name_of::<V>).collect();
    Ok(match others.iter().rposition(|other| is::<V>(other, to)) {
        Some(0) => QueuePosition::Next,
        Some(at) => QueuePosition::Behind {
            key: others[at].key.clone(),
            before: names(&others[..at]),
        },
        None => QueuePosition::Absent { queued: names(others) },
    })
}

fn is<V: LeaderValue>(candidate: &Candidate, id: &str) -> bool {
    V::decode(&candidate.value).is_ok_and(|value| value.candidate_id() == id)
}

/// The name of a candidate, for messages.
fn name_of<V: LeaderValue>(candidate: &Candidate) -> String {
    V::decode(&candidate.value).map_or_else(
        |_| String::from_utf8_lossy(&candidate.key).into_owned(),
        |value| value.candidate_id().to_owned(),
    )
}

#[cfg(test)]
mod tests;
