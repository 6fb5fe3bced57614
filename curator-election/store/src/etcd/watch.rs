//! A watch on one member, which notices when the member goes silent.
//!
//! etcd sends all events of one revision in one response unless fragments are asked for, which we do not. It says nothing
//! while nothing happens, so each [`PROGRESS_INTERVAL`] of silence is answered with a request for progress; if that brings
//! nothing either, the watch ends with an error and the member is not asked for a while.
//!
//! Newer versions (3.5.35, 3.6, 3.7) tell no progress of a watch whose first revision has not happened yet. While a read shows
//! that, there is nothing that the watch could have missed.
//!
//! etcd's gRPC proxy does not answer such requests. So where none was ever answered, a read of what is watched is the sign of life
//! instead, and after some more requests without an answer it is said that this is such a proxy. A read does not prove that the watch
//! still hears, so the watch ends after [`LONGEST_SILENCE`] all the same, and whoever uses it looks for itself. The first answer, even
//! a late one of a busy member, ends that.

use std::time::Duration;

use etcd_client::{Client, GetOptions, WatchOptions, WatchRequestSender, WatchResponse, WatchResponseStream};
use futures::StreamExt;

use super::convert;
use super::errors::{Call, rejection, store_error};
use super::identity::Identity;
use super::members::{Members, Progress};
use crate::clock::{BootClock, Clock, Instant};
use crate::{Keys, Revision, StoreError, WatchBatch, WatchStream};

/// How long a watch may be silent before its member is asked for a sign of life.
pub const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);

/// After how long a watch ends that has brought nothing, if the member tells no progress.
const LONGEST_SILENCE: Duration = Duration::from_secs(60);

struct Watch {
    client: Client,
    /// What is watched, and from which revision on.
    key: Vec<u8>,
    from: i64,
    /// When the watch itself has last brought something.
    last_response_at: Instant,
    requests: WatchRequestSender,
    responses: WatchResponseStream,
    member: usize,
    members: Members,
    identity: Identity,
    asked_for_progress: bool,
}

/// Opens a watch and waits until the member has confirmed it. The inner result is what the member says of the watch itself.
pub(super) async fn open(
    mut client: Client,
    keys: Keys,
    from: Revision,
    member: usize,
    members: Members,
    identity: Identity,
) -> Result<Result<WatchStream, StoreError>, etcd_client::Error> {
    let mut options = WatchOptions::new().with_start_revision(from.0);
    let key = match keys {
        Keys::One(key) => key,
        Keys::Range { start, end } => {
            options = options.with_range(end.to_vec());
            start
        }
    };
    let key = key.to_vec();
    let (requests, mut responses) = client.watch(key.clone(), Some(options)).await?.split();
    let first = responses.message().await?;
    if let Some(response) = &first
        && let Err(foreign) = identity.check(member, response.header())
    {
        return Ok(Err(foreign));
    }
    match first {
        Some(response) if response.canceled() => {
            return match rejection::watch_rejection(response.cancel_reason()) {
                Some(denied) => Err(denied.into()),
                None => Ok(Err(cancelled(&response))),
            };
        }
        Some(_) => {}
        None => return Ok(Err(closed())),
    }
    let watch = Some(Watch {
        client,
        key,
        from: from.0,
        last_response_at: BootClock.now(),
        requests,
        responses,
        member,
        members,
        identity,
        asked_for_progress: false,
    });
    let batches = futures::stream::unfold(watch, |watch| async {
        let mut watch = watch?;
        match watch.next().await {
            Ok(batch) => Some((Ok(batch), Some(watch))),
            Err(error) => Some((Err(error), None)),
        }
    });
    Ok(Ok(batches.boxed()))
}

impl Watch {
    async fn next(&mut self) -> Result<WatchBatch, StoreError> {
        loop {
            match tokio::time::timeout(PROGRESS_INTERVAL, self.responses.message()).await {
                Ok(Ok(Some(response))) => {
                    // What else it says without an event is that it has ended.
                    if response.events().is_empty() && !response.canceled() {
                        self.members.tells_progress(self.member);
                    }
                    self.asked_for_progress = false;
                    self.last_response_at = BootClock.now();
                    self.identity.check(self.member, response.header())?;
                    self.members.answered(self.member, BootClock.now());
                    if response.canceled() {
                        return Err(cancelled(&response));
                    }
                    let events = response.events().iter().filter_map(convert::event).collect();
                    return Ok(WatchBatch {
                        revision: convert::revision(response.header()),
                        events,
                    });
                }
                Ok(Ok(None)) => return Err(closed()),
                Ok(Err(error)) => {
                    self.members.failed(self.member, BootClock.now());
                    return Err(store_error(Call::Read, &error));
                }
                Err(_) if self.asked_for_progress => {
                    if self.may_go_on().await {
                        self.asked_for_progress = false;
                        continue;
                    }
                    self.members.failed(self.member, BootClock.now());
                    let silent = BootClock.now().saturating_since(self.last_response_at);
                    let reason = format!("the member has been silent for {silent:?}");
                    return Err(StoreError::Unknown { reason });
                }
                Err(_) => {
                    self.asked_for_progress = true;
                    // Queued only; it blocks when the member takes nothing, which the next timeout is for.
                    let ask = tokio::time::timeout(PROGRESS_INTERVAL, self.requests.request_progress()).await;
                    if let Ok(Err(error)) = ask {
                        return Err(store_error(Call::Read, &error));
                    }
                }
            }
        }
    }
}

impl Watch {
    /// Whether nothing speaks against the watch though no progress is told: nothing has happened yet that it waits for, or the
    /// member answers everything but requests for progress.
    async fn may_go_on(&mut self) -> bool {
        let options = GetOptions::new().with_limit(1).with_keys_only();
        let mut kv = self.client.kv_client();
        let read = tokio::time::timeout(PROGRESS_INTERVAL, kv.get(self.key.clone(), Some(options))).await;
        let Ok(Ok(answer)) = read else { return false };
        if self.identity.check(self.member, answer.header()).is_err() {
            return false;
        }
        if convert::revision(answer.header()).0 < self.from {
            self.last_response_at = BootClock.now();
            return true;
        }
        let silent = BootClock.now().saturating_since(self.last_response_at);
        if self.members.progress(self.member) == Progress::Told || silent >= LONGEST_SILENCE {
            return false;
        }
        if self.members.tells_no_progress(self.member) {
            tracing::warn!(
                "an etcd endpoint answers reads and tells watches nothing of their progress, as etcd's gRPC proxy does: a watch that \
                 has gone deaf is noticed after {LONGEST_SILENCE:?} there, instead of {:?}. Name the members themselves",
                2 * PROGRESS_INTERVAL
            );
        }
        true
    }
}

fn cancelled(response: &WatchResponse) -> StoreError {
    match response.compact_revision() {
        0 => StoreError::Unknown {
            reason: format!("the member cancelled the watch: {}", response.cancel_reason()),
        },
        revision => StoreError::Compacted {
            revision: Revision(revision),
        },
    }
}

fn closed() -> StoreError {
    StoreError::Unknown {
        reason: "the member closed the watch".into(),
    }
}
