//! A leader's choice of who leads after it: it says so in its value, and the candidates before that one queue up again behind it.
//!
//! Nothing about who leads depends on it. A term still ends as it does, and whoever is the oldest candidate then leads; this only
//! changes, beforehand and by the candidates' own doing, who that is. A candidate that knows nothing of it keeps its place.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::{sleep, timeout};
use tracing::{debug, info};

use crate::backend::{Candidate, ElectionBackend};
use crate::store::StoreError;
use crate::term::Term;
use crate::value::LeaderValue;

/// How often to look at the queue.
const LOOK: Duration = Duration::from_millis(20);
/// How long taking back the wish may take.
const TAKE_BACK: Duration = Duration::from_secs(2);

/// Why a candidate has not become the next one. The queue may have changed among the others; the leader has not.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TransferError {
    /// The leader does not lead any more.
    #[error("this instance's term as leader has ended")]
    TermEnded,
    /// The candidate leads already.
    #[error("{to} leads already")]
    Leads {
        /// Who was to be next.
        to: String,
    },
    /// It is no candidate.
    #[error("{to} does not stand for election: {}", those_who_do(queued))]
    NotQueued {
        /// Who was to be next.
        to: String,
        /// Who could be.
        queued: Vec<String>,
    },
    /// It was a candidate, and has gone.
    #[error("{to} has just left the election")]
    Left {
        /// Who was to be next.
        to: String,
    },
    /// Others have not let it pass.
    #[error("{} did not let {to} pass within {within:?}: only candidates that know of transfers do", before.join(", "))]
    InTheWay {
        /// Who was to be next.
        to: String,
        /// Who is still before it.
        before: Vec<String>,
        /// How long they were waited for.
        within: Duration,
    },
    /// The leader's value has no room for the wish.
    #[error("candidates of this election cannot be told who is to lead next")]
    Unsupported,
    /// The store does not answer.
    #[error("the queue of candidates cannot be read or changed: {0}")]
    Store(#[from] StoreError),
}

fn those_who_do(queued: &[String]) -> String {
    match queued {
        [] => "nobody else does".to_owned(),
        queued => format!("{} could lead next", queued.join(", ")),
    }
}

/// Makes the candidate `to` the one that leads when `term` ends, within `within`. `own` is what the leader has said of itself
/// so far. Returns once it is next; the end of the term is the caller's to bring about.
///
/// One at a time: of two at once, with different candidates, either may be refused or overtaken.
///
/// Cancellation: the leader may go on saying whom it wants to be next, and the queue may have changed. The next call replaces
/// that, and the end of the term removes it.
///
/// # Errors
/// It is not next, and why. The leader has taken back its wish, as far as the store answers.
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
    let key = match place::<V>(&backend.candidates().await?, term, to)? {
        Place::Next => return Ok(()),
        Place::Absent { queued } => {
            return Err(TransferError::NotQueued {
                to: to.to_owned(),
                queued,
            });
        }
        Place::Behind { key, .. } => key,
    };
    let name = std::str::from_utf8(&key).map_err(|_| TransferError::Unsupported)?;
    let wish = own.with_transfer_to(Some(name)).ok_or(TransferError::Unsupported)?;
    let mut result = say(backend, term, &wish).await;
    if result.is_ok() {
        result = wait::<V>(backend, term, to, &key, within).await;
    }
    if let Err(error) = &result
        && !matches!(error, TransferError::TermEnded)
    {
        info!(to, %error, "the leadership cannot be transferred");
        match timeout(TAKE_BACK, say(backend, term, own)).await {
            Ok(Ok(())) => {}
            // It does no harm: it names one key, and whoever stands before that has given way already.
            Ok(Err(error)) => debug!(%error, "the wish cannot be taken back"),
            Err(_) => debug!("the store does not take back the wish in time"),
        }
    }
    result
}

/// Gives the leader's key this value.
async fn say<V: LeaderValue>(backend: &dyn ElectionBackend, term: &Term, value: &V) -> Result<(), TransferError> {
    term.check().map_err(|_| TransferError::TermEnded)?;
    let said = backend
        .proclaim(
            term.lock_key().clone(),
            term.lock_revision(),
            term.lease(),
            value.encode().into(),
        )
        .await?;
    said.then_some(()).ok_or(TransferError::TermEnded)
}

/// Waits until the candidate with this key is next.
async fn wait<V: LeaderValue>(
    backend: &dyn ElectionBackend,
    term: &Term,
    to: &str,
    key: &Bytes,
    within: Duration,
) -> Result<(), TransferError> {
    let mut in_the_way = Vec::new();
    let next = async {
        loop {
            match place::<V>(&backend.candidates().await?, term, to)? {
                Place::Next => return Ok(()),
                // Another key of its is one that nobody makes way for.
                Place::Behind { key: now, before } if now == *key => in_the_way = before,
                Place::Behind { .. } | Place::Absent { .. } => {
                    return Err(TransferError::Left { to: to.to_owned() });
                }
            }
            sleep(LOOK).await;
        }
    };
    let waited = timeout(within, next).await;
    waited.unwrap_or_else(|_| {
        Err(TransferError::InTheWay {
            to: to.to_owned(),
            before: in_the_way,
            within,
        })
    })
}

/// Where a candidate stands.
#[derive(Debug, PartialEq, Eq)]
enum Place {
    /// Right behind the leader.
    Next,
    /// Behind others.
    Behind {
        /// Its key.
        key: Bytes,
        /// The others.
        before: Vec<String>,
    },
    /// Nowhere.
    Absent {
        /// Who does stand behind the leader.
        queued: Vec<String>,
    },
}

/// Where `to` stands among the candidates, the oldest first. With several keys it is the newest that counts: the others are of
/// processes that have ended.
fn place<V: LeaderValue>(candidates: &[Candidate], term: &Term, to: &str) -> Result<Place, TransferError> {
    let (leader, others) = candidates.split_first().ok_or(TransferError::TermEnded)?;
    if leader.key != term.lock_key() || leader.create_revision != term.lock_revision() {
        return Err(TransferError::TermEnded);
    }
    let names = |some: &[Candidate]| some.iter().map(name_of::<V>).collect();
    Ok(match others.iter().rposition(|other| is::<V>(other, to)) {
        Some(0) => Place::Next,
        Some(at) => Place::Behind {
            key: others[at].key.clone(),
            before: names(&others[..at]),
        },
        None => Place::Absent { queued: names(others) },
    })
}

fn is<V: LeaderValue>(candidate: &Candidate, id: &str) -> bool {
    V::decode(&candidate.value).is_ok_and(|value| value.candidate_id() == id)
}

/// What people know a candidate by.
fn name_of<V: LeaderValue>(candidate: &Candidate) -> String {
    V::decode(&candidate.value).map_or_else(
        |_| String::from_utf8_lossy(&candidate.key).into_owned(),
        |value| value.candidate_id().to_owned(),
    )
}

#[cfg(test)]
mod tests;
