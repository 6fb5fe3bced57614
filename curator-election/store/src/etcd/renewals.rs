//! The stream in which the last renewal was made, kept for the next one.
//!
//! A renewal in it is one message each way: neither a new stream nor a separate request for the cluster id, which the
//! first answer in a stream of etcd-client does not show. A stream in which anything is outstanding is never kept, so
//! that an answer cannot be taken for that to a later renewal.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use etcd_client::{Client, Error, LeaseKeepAliveResponse, LeaseKeepAliveStream, LeaseKeeper};

use crate::LeaseId;
use crate::clock::{BootClock, Clock, Instant};

/// The maximum age of a kept stream. A stream stays on its connection: later ones use files that were changed since.
const MAX_STREAM_AGE: Duration = Duration::from_secs(30);

/// At most one kept stream.
#[derive(Debug, Default)]
pub(super) struct Renewals(Mutex<Option<Kept>>);

#[derive(Debug)]
struct Kept {
    lease: LeaseId,
    member: usize,
    opened_at: Instant,
    keeper: LeaseKeeper,
    stream: LeaseKeepAliveStream,
}

impl Renewals {
    /// Renews a lease at a member. `None` is the answer in a new stream, which does not show the cluster id.
    ///
    /// # Errors
    /// Those of the client.
    pub(super) async fn renew(
        &self,
        mut client: Client,
        lease: LeaseId,
        member: usize,
    ) -> Result<Option<LeaseKeepAliveResponse>, Error> {
        if let Some(mut kept) = self.take(lease, member) {
            // If the stream is broken, as after a restart of the member, a new one shows why.
            if let Ok(Some(answer)) = kept.renew().await {
                if answer.ttl() <= 0 {
                    // As etcd-client says it of the first answer in a stream.
                    return Err(Error::LeaseKeepAliveError("lease not found".to_owned()));
                }
                self.keep(kept);
                return Ok(Some(answer));
            }
        }
        let opened_at = BootClock.now();
        let (keeper, stream) = client.lease_keep_alive(lease.get()).await?;
        self.keep(Kept {
            lease,
            member,
            opened_at,
            keeper,
            stream,
        });
        Ok(None)
    }

    /// Closes the kept stream of a lease that is gone.
    pub(super) fn forget(&self, lease: LeaseId) {
        let _ = self.kept().take_if(|kept| kept.lease == lease);
    }

    /// The kept stream is taken out: a renewal that is cancelled drops it.
    fn take(&self, lease: LeaseId, member: usize) -> Option<Kept> {
        let now = BootClock.now();
        self.kept()
            .take_if(|kept| kept.lease == lease && kept.member == member)
            .filter(|kept| now.saturating_since(kept.opened_at) < MAX_STREAM_AGE)
    }

    fn keep(&self, kept: Kept) {
        *self.kept() = Some(kept);
    }

    fn kept(&self) -> std::sync::MutexGuard<'_, Option<Kept>> {
        // No code panics while it holds the lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    async fn renew(&mut self) -> Result<Option<LeaseKeepAliveResponse>, Error> {
        self.keeper.keep_alive().await?;
        self.stream.message().await
    }
}
