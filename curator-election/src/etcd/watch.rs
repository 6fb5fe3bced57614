//! A watch on one member, which notices when the member goes silent.
//!
//! etcd sends all events of one revision in one response unless fragments are asked for, which we do not. It says nothing
//! while nothing happens, so each [`PROGRESS_INTERVAL`] of silence is answered with a request for progress; if that brings
//! nothing either, the watch ends with an error and the member is not asked for a while.

use std::time::Duration;

use etcd_client::{Client, WatchOptions, WatchRequestSender, WatchResponse, WatchResponseStream};
use futures::StreamExt;

use super::classify::{Call, store_error};
use super::identity::Identity;
use super::members::Members;
use super::{convert, denial};
use crate::clock::{BootClock, Clock};
use crate::store::{Keys, Revision, StoreError, WatchBatch, WatchStream};

/// How long a watch may be silent before its member is asked for a sign of life.
pub const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);

struct Watch {
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
    let (requests, mut responses) = client.watch(key.to_vec(), Some(options)).await?.split();
    let first = responses.message().await?;
    if let Some(response) = &first
        && let Err(foreign) = identity.check(member, response.header())
    {
        return Ok(Err(foreign));
    }
    match first {
        Some(response) if response.canceled() => {
            return match denial::of_cancelled_watch(response.cancel_reason()) {
                Some(denied) => Err(denied.into()),
                None => Ok(Err(cancelled(&response))),
            };
        }
        Some(_) => {}
        None => return Ok(Err(closed())),
    }
    let watch = Some(Watch {
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
                    self.asked_for_progress = false;
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
                    self.members.failed(self.member, BootClock.now());
                    let reason = format!("the member has been silent for {:?}", 2 * PROGRESS_INTERVAL);
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
