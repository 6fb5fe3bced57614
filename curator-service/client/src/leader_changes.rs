//! Following the leader: each change of it, as any instance reports it.

use std::time::Duration;

use curator_identity::retry_delay;
use tokio::time::{sleep, timeout};
use tracing::debug;

use crate::endpoints::Endpoints;
use crate::instance::{LeaderInfo, Reports, ask_leader};

/// The delay after all instances have been asked in vain.
const RETRY_INTERVAL: Duration = Duration::from_millis(250);
/// How long an instance may take to report a leader before the next one is asked.
const REPORT_TIMEOUT: Duration = Duration::from_secs(10);

/// The changes of the leader.
pub struct LeaderChanges {
    endpoints: Endpoints,
    /// The index of the address that is asked next.
    next: usize,
    reports: Option<Reports>,
    last: Option<(String, Option<String>)>,
    /// The delay after this round of addresses.
    wait: Duration,
}

impl LeaderChanges {
    pub(crate) const fn new(endpoints: Endpoints) -> Self {
        Self {
            endpoints,
            next: 0,
            reports: None,
            last: None,
            wait: RETRY_INTERVAL,
        }
    }

    /// The next leader: the current one at first, then each one with another node id or address. It waits as long as
    /// there is none, and goes on to another instance when one fails. Cancellation safe.
    pub async fn next(&mut self) -> LeaderInfo {
        loop {
            while let Some(reports) = &mut self.reports {
                match reports.message().await {
                    Ok(Some(report)) => {
                        if let Some(changed) = self.changed(report.into()) {
                            return changed;
                        }
                    }
                    Ok(None) => self.reports = None,
                    Err(status) => {
                        debug!(%status, "an instance no longer reports the leader");
                        self.reports = None;
                    }
                }
            }
            if let Some(leader) = self.ask().await
                && let Some(changed) = self.changed(leader)
            {
                return changed;
            }
        }
    }

    /// Asks the next instance.
    async fn ask(&mut self) -> Option<LeaderInfo> {
        if self.next >= self.endpoints.addresses().len() {
            sleep(self.wait).await;
            (self.next, self.wait) = (0, RETRY_INTERVAL);
        }
        let address = self.endpoints.addresses().get(self.next)?.clone();
        let answer = match self.endpoints.channel(&address) {
            Ok(channel) => timeout(REPORT_TIMEOUT, ask_leader(channel)).await,
            Err(error) => {
                debug!(address, %error, "cannot ask an instance for the leader");
                self.next += 1;
                return None;
            }
        };
        self.next += 1;
        match answer {
            Ok(Ok((leader, reports))) => {
                self.reports = Some(reports);
                Some(leader)
            }
            Ok(Err(status)) => {
                debug!(address, %status, "an instance reports no leader");
                self.wait = self.wait.max(retry_delay(&status).unwrap_or_default());
                None
            }
            Err(_) => None,
        }
    }

    /// The leader, if it is another one than before.
    fn changed(&mut self, leader: LeaderInfo) -> Option<LeaderInfo> {
        let this = Some((leader.node_id.clone(), leader.address.clone()));
        if self.last == this {
            return None;
        }
        self.last = this;
        Some(leader)
    }
}

impl std::fmt::Debug for LeaderChanges {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LeaderChanges")
            .field("last", &self.last)
            .finish_non_exhaustive()
    }
}
