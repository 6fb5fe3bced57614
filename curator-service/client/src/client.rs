//! The client: calls to whichever instance leads.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::FutureExt as _;
use rand::RngExt as _;
use tokio::time::{Instant, sleep_until, timeout_at};
use tonic::transport::Channel;
use tonic::{Code, Request, Status};
use tracing::debug;

use crate::endpoints::{Endpoints, Security, timed_out};
use crate::error::{CallError, FindError, SetupError};
use crate::instance::{Instance, LeaderInfo, Reports};
use crate::leader_changes::LeaderChanges;
use crate::retry::NotRun;

/// The delay before a call that did not run is sent again, if the instance gave none. It doubles up to the maximum.
const INITIAL_BACKOFF: Duration = Duration::from_millis(50);
const MAX_BACKOFF: Duration = Duration::from_secs(1);

/// A client of a cluster. Clones share their connections.
#[derive(Clone)]
pub struct Client {
    endpoints: Endpoints,
    current: Arc<Mutex<Option<Current>>>,
}

/// The instance that calls go to.
struct Current {
    instance: Instance,
    /// Its reports of the leader. Without them it is used for one call.
    reports: Option<Reports>,
}

impl Current {
    /// Whether the leader has changed, or cannot be followed here any more. Reads the reports that have arrived.
    fn is_outdated(&mut self) -> bool {
        let Some(reports) = &mut self.reports else {
            return true;
        };
        while let Some(report) = reports.message().now_or_never() {
            match report {
                Ok(Some(leader)) => {
                    let leader = LeaderInfo::from(leader);
                    let is_same =
                        |known: &LeaderInfo| known.node_id == leader.node_id && known.address == leader.address;
                    if !self.instance.leader().is_some_and(is_same) {
                        return true;
                    }
                }
                Ok(None) | Err(_) => return true,
            }
        }
        false
    }
}

/// One attempt of a call.
#[derive(Clone, Debug)]
pub struct Attempt {
    channel: Channel,
    deadline: Instant,
}

impl Attempt {
    /// The channel to send the call on.
    #[must_use]
    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// A request with the deadline of the call, which the instance respects as well.
    pub fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.set_timeout(self.deadline.saturating_duration_since(Instant::now()));
        request
    }
}

impl Client {
    /// A client of the cluster with instances at these addresses (`host:port`). It connects with the first call.
    ///
    /// # Errors
    /// If there is no address, or one of them is invalid or needs TLS.
    pub fn new(addresses: impl IntoIterator<Item = impl Into<String>>, security: Security) -> Result<Self, SetupError> {
        let addresses = addresses.into_iter().map(Into::into).collect();
        Ok(Self {
            endpoints: Endpoints::new(addresses, security)?,
            current: Arc::default(),
        })
    }

    /// A channel to one instance. It connects on first use and reconnects as needed.
    ///
    /// # Errors
    /// If the address is invalid or needs TLS.
    pub fn channel(&self, address: &str) -> Result<Channel, SetupError> {
        self.endpoints.channel(address)
    }

    /// The first instance that responds; one that knows the leader is preferred. Addresses are asked in order, the
    /// next one after 300 ms without a response. Cancellation safe.
    ///
    /// # Errors
    /// If no instance responds until `deadline`.
    pub async fn any(&self, deadline: Instant) -> Result<Instance, FindError> {
        Ok(self.endpoints.any(deadline).await?.0)
    }

    /// The leader; an instance that forwards to it if the leader is not known or cannot be reached from here.
    /// Cancellation safe.
    ///
    /// # Errors
    /// If no instance responds until `deadline`.
    pub async fn leader(&self, deadline: Instant) -> Result<Instance, FindError> {
        Ok(self.endpoints.leader(deadline).await?.0)
    }

    /// The changes of the leader, beginning with the current one.
    #[must_use]
    pub fn leader_changes(&self) -> LeaderChanges {
        LeaderChanges::new(self.endpoints.clone())
    }

    /// Makes a call to the leader until `deadline`, and sends it again if it provably did not run ([`NotRun`]): to the
    /// same instance after the delay that it asks for, or to whichever instance leads then. The next call goes to the
    /// same instance until that reports another leader or fails.
    ///
    /// `call` is given each attempt; it should build its request with [`Attempt::request`]. Dropping the future
    /// cancels the attempt, which may have taken effect.
    ///
    /// # Errors
    /// If no instance responds until the deadline, or the call fails in any other way. At the deadline the status is
    /// `DEADLINE_EXCEEDED`, and the call may have taken effect
    /// ([`is_provably_not_run`](CallError::is_provably_not_run)).
    pub async fn call<T>(
        &self,
        deadline: Instant,
        mut call: impl AsyncFnMut(Attempt) -> Result<T, Status>,
    ) -> Result<T, CallError> {
        let mut backoff = INITIAL_BACKOFF;
        loop {
            let instance = match self.current(deadline).await {
                Ok(instance) => instance,
                Err(error @ FindError::Setup(_)) => return Err(error.into()),
                Err(error) => {
                    wait(&mut backoff, deadline).await.ok_or(error)?;
                    continue;
                }
            };
            let attempt = Attempt {
                channel: instance.channel(),
                deadline,
            };
            let answer = timeout_at(deadline, call(attempt)).await;
            let status = match answer.unwrap_or_else(|_| Err(timed_out())) {
                Ok(answer) => return Ok(answer),
                Err(status) => status,
            };
            let proof = NotRun::proof(&status);
            debug!(address = instance.address(), %status, ?proof, "a call failed");
            let failed = CallError::Failed {
                address: instance.address().to_owned(),
                status,
            };
            match proof {
                Some(NotRun::Refused { after }) => {
                    let again = Instant::now() + after;
                    if again >= deadline {
                        return Err(failed);
                    }
                    sleep_until(again).await;
                }
                Some(NotRun::NotConnected | NotRun::NotProcessed) => {
                    self.forget(&instance);
                    wait(&mut backoff, deadline).await.ok_or(failed)?;
                }
                None => {
                    if failed.status().is_some_and(|status| is_of_instance(status.code())) {
                        self.forget(&instance);
                    }
                    return Err(failed);
                }
            }
        }
    }

    /// The instance that calls go to.
    async fn current(&self, deadline: Instant) -> Result<Instance, FindError> {
        if let Some(current) = &mut *self.lock()
            && !current.is_outdated()
        {
            return Ok(current.instance.clone());
        }
        let (instance, reports) = self.endpoints.leader(deadline).await?;
        *self.lock() = Some(Current {
            instance: instance.clone(),
            reports,
        });
        Ok(instance)
    }

    /// The next call looks for the leader anew.
    fn forget(&self, instance: &Instance) {
        let mut current = self.lock();
        if current
            .as_ref()
            .is_some_and(|current| current.instance.address() == instance.address())
        {
            *current = None;
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Current>> {
        // No panic is possible while the lock is held.
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client")
            .field("addresses", &self.endpoints.addresses())
            .finish_non_exhaustive()
    }
}

/// Whether a status with this code may be about the instance rather than the call.
const fn is_of_instance(code: Code) -> bool {
    matches!(
        code,
        Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled | Code::Unknown | Code::Internal
    )
}

/// Waits before the next attempt; `None` if there is no time left for one.
async fn wait(backoff: &mut Duration, deadline: Instant) -> Option<()> {
    // Jitter, so that clients do not come back at the same moment.
    let again = Instant::now() + backoff.mul_f64(rand::rng().random_range(0.5..1.0));
    *backoff = (*backoff * 2).min(MAX_BACKOFF);
    if again >= deadline {
        return None;
    }
    sleep_until(again).await;
    Some(())
}

#[cfg(test)]
mod tests;
