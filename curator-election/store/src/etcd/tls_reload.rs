//! One client per member, with the current credential files.
//!
//! New files are first tested against a member before calls to it use them. Calls and watches in progress keep the
//! client, and the connection, that they began with.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use etcd_client::{Channel, Client, ConnectOptions};
use tonic::transport::Endpoint;
use tracing::{error, info, warn};

use super::EtcdConfigError;
use super::auth::{EtcdAuth, Secrets};
use super::endpoint;
use super::errors::{Call, rejection, store_error};
use crate::StoreError;

/// HTTP/2 pings detect a dead connection within the sum of the two.
const PING_INTERVAL: Duration = Duration::from_secs(1);
const PING_TIMEOUT: Duration = Duration::from_secs(1);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// The timeout of the test of new files against a member.
const TRIAL_TIMEOUT: Duration = Duration::from_secs(2);
/// How often the files are re-read.
const RELOAD_INTERVAL: Duration = Duration::from_secs(2);

pub(super) struct Clients {
    endpoints: Vec<String>,
    access: EtcdAuth,
    /// The newest secrets that a member has accepted; initially the content of the files at start.
    secrets: Mutex<Arc<Secrets>>,
    /// Held during a reload, with the last logged error.
    reloading: tokio::sync::Mutex<Option<String>>,
    members: Vec<tokio::sync::Mutex<Option<Login>>>,
    /// Whether authentication was disabled in etcd at the last login.
    open: AtomicBool,
}

/// A client and the number of its login: each login of a member has its own token.
#[derive(Clone)]
pub(super) struct Login {
    pub(super) client: Client,
    number: u64,
    secrets: Arc<Secrets>,
}

impl Login {
    /// Whether it has a token, which may expire.
    pub(super) fn has_user(&self) -> bool {
        self.secrets.login().is_some()
    }
}

impl Clients {
    pub(super) fn new(endpoints: Vec<String>, access: EtcdAuth) -> Result<Self, EtcdConfigError> {
        access.check(&endpoints)?;
        let secrets = Arc::new(access.load()?);
        Ok(Self {
            members: endpoints.iter().map(|_| tokio::sync::Mutex::new(None)).collect(),
            endpoints,
            access,
            secrets: Mutex::new(secrets),
            reloading: tokio::sync::Mutex::new(None),
            open: AtomicBool::new(false),
        })
    }

    /// Existing clients, one for each endpoint, without files.
    #[cfg(feature = "etcd-client-0_21")]
    pub(super) fn existing(endpoints: Vec<String>, clients: Vec<Client>) -> Result<Self, EtcdConfigError> {
        let access = EtcdAuth::default();
        let secrets = Arc::new(access.load()?);
        let login = |client| Login {
            client,
            number: 0,
            secrets: secrets.clone(),
        };
        Ok(Self {
            members: clients
                .into_iter()
                .map(|client| tokio::sync::Mutex::new(Some(login(client))))
                .collect(),
            endpoints,
            access,
            secrets: Mutex::new(secrets),
            reloading: tokio::sync::Mutex::new(None),
            open: AtomicBool::new(false),
        })
    }

    /// The client of one member. Creating it opens no connection, unless a token must be requested.
    pub(super) async fn get(&self, member: usize) -> Result<Login, StoreError> {
        match self.first(member).await {
            // The password may have changed, in etcd and in the file.
            Err(StoreError::Refused { .. }) if self.access.has_files() => {
                self.reload().await;
                self.first(member).await
            }
            first => first,
        }
    }

    async fn first(&self, member: usize) -> Result<Login, StoreError> {
        // Held while a token is requested, so that it is requested once.
        let mut slot = self.members[member].lock().await;
        if let Some(login) = &*slot {
            return Ok(login.clone());
        }
        let login = self.connect(member, self.secrets(), 0).await?;
        Ok(slot.insert(login).clone())
    }

    /// Classifies an error, with a hint if the connection uses TLS.
    pub(super) fn store_error(&self, call: Call, error: &etcd_client::Error) -> StoreError {
        let error = store_error(call, error);
        match self.access.ca {
            Some(_) => rejection::add_tls_hint(error),
            None => error,
        }
    }

    /// A new client or token for a member that rejected those of `refused`.
    pub(super) async fn again(&self, member: usize, refused: &Login) -> Result<Client, StoreError> {
        self.reload().await;
        let mut slot = self.members[member].lock().await;
        let newer = slot
            .as_ref()
            .filter(|login| login.number != refused.number || !Arc::ptr_eq(&login.secrets, &refused.secrets));
        if let Some(login) = newer {
            return Ok(login.client.clone());
        }
        let Some(mut login) = slot.take() else {
            let login = self.connect(member, self.secrets(), refused.number + 1).await?;
            return Ok(slot.insert(login).client.clone());
        };
        // All clones of the client get the new token.
        let user = login
            .secrets
            .login()
            .map(|(user, password)| (user.to_owned(), password.to_owned()));
        let mut renewed = login.client.update_user(user).await;
        if renewed.as_ref().is_err_and(rejection::auth_is_disabled) {
            self.set_auth_disabled(true);
            renewed = login.client.update_user(None).await;
        } else if renewed.is_ok() {
            self.set_auth_disabled(false);
        }
        let login = slot.insert(login);
        match renewed {
            Ok(()) => {
                login.number += 1;
                Ok(login.client.clone())
            }
            Err(error) => Err(self.store_error(Call::Read, &error)),
        }
    }

    /// Re-reads the files every few seconds. Never returns.
    pub(super) async fn follow_files(&self) {
        if !self.access.has_files() {
            std::future::pending::<()>().await;
        }
        loop {
            tokio::time::sleep(RELOAD_INTERVAL).await;
            self.reload().await;
        }
    }

    /// Re-reads the files, and uses them with each member that accepts them.
    ///
    /// Cancellation safe: the next reload tries the remaining members.
    async fn reload(&self) {
        if !self.access.has_files() {
            return;
        }
        let mut last_error = self.reloading.lock().await;
        let access = self.access.clone();
        // There is no result only while the runtime shuts down.
        let Ok(loaded) = tokio::task::spawn_blocking(move || access.load()).await else {
            return;
        };
        let refused = match loaded {
            Ok(loaded) => self.take(loaded).await,
            Err(error) => vec![error.to_string()],
        };
        let reason = (!refused.is_empty()).then(|| refused.join("; "));
        if *last_error != reason
            && let Some(reason) = &reason
        {
            error!(
                reason,
                "cannot use the new etcd credential files: the previous ones stay in use"
            );
        }
        *last_error = reason;
    }

    /// Uses the secrets with each member that accepts them; returns the errors of the others.
    async fn take(&self, loaded: Secrets) -> Vec<String> {
        let known = self.secrets();
        let are_new = loaded != *known;
        let secrets = if are_new { Arc::new(loaded) } else { known };
        let mut behind = Vec::new();
        for (member, slot) in self.members.iter().enumerate() {
            let is_behind = match &*slot.lock().await {
                Some(login) => !Arc::ptr_eq(&login.secrets, &secrets),
                None => are_new,
            };
            if is_behind {
                behind.push(member);
            }
        }
        let trials = behind.iter().map(|member| self.try_out(*member, secrets.clone()));
        let mut refused = Vec::new();
        for (member, tried) in behind.iter().zip(futures::future::join_all(trials).await) {
            match tried {
                Ok(login) => {
                    *self.members[*member].lock().await = Some(login);
                    self.accept(&secrets);
                }
                Err(reason) => refused.push(format!("{}: {reason}", self.endpoints[*member])),
            }
        }
        refused
    }

    /// A client for a member that accepts the secrets.
    async fn try_out(&self, member: usize, secrets: Arc<Secrets>) -> Result<Login, String> {
        let tried = async {
            let mut login = self.connect(member, secrets, 0).await?;
            match login
                .client
                .status()
                .await
                .map_err(|error| self.store_error(Call::Read, &error))
            {
                // The member responds, so the connection works.
                Ok(_) | Err(StoreError::Refused { .. }) => Ok(login),
                Err(error) => Err(error),
            }
        };
        match tokio::time::timeout(TRIAL_TIMEOUT, tried).await {
            Ok(tried) => tried.map_err(|error| error.to_string()),
            Err(_) => Err(format!("no response within {TRIAL_TIMEOUT:?}")),
        }
    }

    fn accept(&self, secrets: &Arc<Secrets>) {
        let mut known = self.secrets.lock().unwrap_or_else(PoisonError::into_inner);
        if !Arc::ptr_eq(&known, secrets) {
            info!("etcd client reloaded its credential files");
            *known = secrets.clone();
        }
    }

    /// Logs, once per change, that authentication is disabled or enabled in etcd.
    fn set_auth_disabled(&self, open: bool) {
        match (self.open.swap(open, Ordering::Relaxed), open) {
            (false, true) => warn!(
                "etcd has authentication disabled, so the configured user is not used. Every client of etcd can read \
                 and change all data: run `etcdctl auth enable`, or remove the user from the configuration"
            ),
            (true, false) => info!("etcd has authentication enabled again, and accepted the configured user"),
            _ => {}
        }
    }

    fn secrets(&self) -> Arc<Secrets> {
        // No code panics while it holds the lock.
        self.secrets.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn connect(&self, member: usize, secrets: Arc<Secrets>, number: u64) -> Result<Login, StoreError> {
        let mut options = ConnectOptions::new()
            .with_keep_alive(PING_INTERVAL, PING_TIMEOUT)
            .with_keep_alive_while_idle(true)
            .with_connect_timeout(CONNECT_TIMEOUT)
            .with_require_leader(true)
            // `again` requests new tokens: it recognizes all the ways in which etcd reports an outdated token.
            .with_auto_token_refresh(false);
        if let Some(tls) = secrets.tls() {
            options = options.with_tls(tls.clone());
        }
        let endpoint = &self.endpoints[member];
        let connected = match secrets.login() {
            None => dial(endpoint, options).await,
            Some((user, password)) => {
                let with_user = options.clone().with_user(user, password);
                match dial(endpoint, with_user).await {
                    Err(error) if rejection::auth_is_disabled(&error) => {
                        self.set_auth_disabled(true);
                        dial(endpoint, options).await
                    }
                    connected => {
                        if connected.is_ok() {
                            self.set_auth_disabled(false);
                        }
                        connected
                    }
                }
            }
        };
        match connected {
            Ok(client) => Ok(Login {
                client,
                number,
                secrets,
            }),
            Err(error) => Err(self.store_error(Call::Read, &error)),
        }
    }
}

/// A client of one member, over TCP or a unix socket.
async fn dial(endpoint: &str, options: ConnectOptions) -> Result<Client, etcd_client::Error> {
    if !endpoint::is_unix(endpoint) {
        return Client::connect([endpoint], Some(options)).await;
    }
    let channel = Endpoint::from_shared(endpoint.to_owned())?
        .keep_alive_while_idle(true)
        .http2_keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT)
        .connect_timeout(CONNECT_TIMEOUT)
        .connect_lazy();
    Client::from_channel(Channel::Tonic(channel), Some(options)).await
}
