//! A watch on one member, which detects when the member stops responding.
//!
//! etcd sends all events of one revision in one response, unless fragments are requested; they are not. It sends
//! nothing while nothing changes, so after each [`PROGRESS_INTERVAL`] of silence a progress request is sent. Without a
//! response to it the watch ends with an error, and the member goes behind the others for a while.
//!
//! Newer versions (3.5.35, 3.6, 3.7) report no progress of a watch whose first revision is in the future. While a read
//! shows that, the watch cannot have missed anything.
//!
//! etcd's gRPC proxy does not answer progress requests. So if no progress request was ever answered, a read of the
//! watched key proves that the member responds. After several unanswered requests the proxy is logged. A read does not
//! prove that the watch still delivers events, so the watch ends after [`MAX_SILENCE`] anyway, and its user reads
//! again. The first response to a progress request, even a late one of a busy member, ends this mode.

use std::time::Duration;

use etcd_client::{Client, GetOptions, WatchOptions, WatchRequestSender, WatchResponse, WatchResponseStream};
use futures::StreamExt;

use super::convert;
use super::errors::{Call, rejection, store_error};
use super::identity::Identity;
use super::members::{Members, Progress};
use crate::clock::{BootClock, Clock, Instant};
use crate::{Keys, Revision, StoreError, WatchBatch, WatchStream};

/// How long a watch may be silent before a progress request is sent.
pub const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);

/// The maximum silence of a watch on a member that reports no progress.
const MAX_SILENCE: Duration = Duration::from_secs(60);

struct Watch {
    client: Client,
    /// The watched key, and the first revision.
    key: Vec<u8>,
    from: i64,
    /// When the watch last received a response.
    last_response_at: Instant,
    requests: WatchRequestSender,
    responses: WatchResponseStream,
    member: usize,
    members: Members,
    identity: Identity,
    asked_for_progress: bool,
}

/// Opens a watch and waits until the member has confirmed it. The inner result is the member's response to the watch.
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
                    // A response without events reports progress, unless it cancels the watch.
                    if response.events().is_empty() && !response.canceled() {
                        self.members.reported_progress(self.member);
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
                    let reason = format!("etcd member silent for {silent:?}");
                    return Err(StoreError::Unknown { reason });
                }
                Err(_) => {
                    self.asked_for_progress = true;
                    // This only queues the request. It blocks if the member reads nothing, hence the timeout.
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
    /// Whether the watch may continue without progress reports: its first revision is in the future, or the member
    /// answers everything but progress requests.
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
        if self.members.progress(self.member) == Progress::Reported || silent >= MAX_SILENCE {
            return false;
        }
        if self.members.missed_progress(self.member) {
            tracing::warn!(
                "an etcd endpoint answers reads but no watch progress requests, as etcd's gRPC proxy does: a broken watch \
                 is detected after {MAX_SILENCE:?} instead of {:?}. Configure the etcd members themselves as endpoints",
                2 * PROGRESS_INTERVAL
            );
        }
        true
    }
}

fn cancelled(response: &WatchResponse) -> StoreError {
    match response.compact_revision() {
        0 => StoreError::Unknown {
            reason: format!("etcd member cancelled the watch: {}", response.cancel_reason()),
        },
        revision => StoreError::Compacted {
            revision: Revision(revision),
        },
    }
}

fn closed() -> StoreError {
    StoreError::Unknown {
        reason: "etcd member closed the watch".into(),
    }
}
