//! A client for each member, with what is in the files now.
//!
//! New files are tried on a member before any call to it depends on them, until it takes them; calls and watches under way go on with the client that
//! they began with, and so on its connection.

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

/// HTTP/2 pings find a connection that leads nowhere within the sum of the two.
const PING_INTERVAL: Duration = Duration::from_secs(1);
const PING_TIMEOUT: Duration = Duration::from_secs(1);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a member may take to show that it takes new files.
const TRIAL: Duration = Duration::from_secs(2);
/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(2);

pub(super) struct Clients {
    endpoints: Vec<String>,
    access: EtcdAuth,
    /// The newest that some member takes; before there is such a one, what was in the files at first.
    secrets: Mutex<Arc<Secrets>>,
    /// One look at a time, with what it last complained of.
    looking: tokio::sync::Mutex<Option<String>>,
    members: Vec<tokio::sync::Mutex<Option<Login>>>,
    /// Whether etcd asked for no user when last one was to be logged in, though there is one.
    open: AtomicBool,
}

/// A client, and which of a member's logins it is: each has its own token.
#[derive(Clone)]
pub(super) struct Login {
    pub(super) client: Client,
    number: u64,
    secrets: Arc<Secrets>,
}

impl Login {
    /// Whether it has a token, which may run out.
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
            looking: tokio::sync::Mutex::new(None),
            open: AtomicBool::new(false),
        })
    }

    /// The client of one member. Making it dials nothing, unless a token must be fetched for a password.
    pub(super) async fn get(&self, member: usize) -> Result<Login, StoreError> {
        match self.first(member).await {
            // The password may have been changed, in the file as well.
            Err(StoreError::Refused { .. }) if self.access.has_files() => {
                self.look().await;
                self.first(member).await
            }
            first => first,
        }
    }

    async fn first(&self, member: usize) -> Result<Login, StoreError> {
        // Held while a token is fetched, so that it is fetched once.
        let mut slot = self.members[member].lock().await;
        if let Some(login) = &*slot {
            return Ok(login.clone());
        }
        let login = self.connect(member, self.secrets(), 0).await?;
        Ok(slot.insert(login).clone())
    }

    /// What an error means, knowing whether there is TLS.
    pub(super) fn store_error(&self, call: Call, error: &etcd_client::Error) -> StoreError {
        let error = store_error(call, error);
        match self.access.ca {
            Some(_) => rejection::add_tls_hint(error),
            None => error,
        }
    }

    /// Another client or another token for a member that does not take those of `refused` (any more).
    pub(super) async fn again(&self, member: usize, refused: &Login) -> Result<Client, StoreError> {
        self.look().await;
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
        // What the others have copies of gets the new token too.
        let user = login
            .secrets
            .login()
            .map(|(user, password)| (user.to_owned(), password.to_owned()));
        let mut renewed = login.client.update_user(user).await;
        if renewed.as_ref().is_err_and(rejection::auth_is_disabled) {
            self.is_open(true);
            renewed = login.client.update_user(None).await;
        } else if renewed.is_ok() {
            self.is_open(false);
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

    /// Looks at the files every few seconds. Never returns.
    pub(super) async fn follow_files(&self) {
        if !self.access.has_files() {
            std::future::pending::<()>().await;
        }
        loop {
            tokio::time::sleep(LOOK).await;
            self.look().await;
        }
    }

    /// Takes what is new in the files, member by member as they let us in with it.
    ///
    /// Cancellation safe: who has not taken it is tried with the next look.
    async fn look(&self) {
        if !self.access.has_files() {
            return;
        }
        let mut complaint = self.looking.lock().await;
        let access = self.access.clone();
        // Only while the runtime ends is there no result.
        let Ok(loaded) = tokio::task::spawn_blocking(move || access.load()).await else {
            return;
        };
        let refused = match loaded {
            Ok(loaded) => self.take(loaded).await,
            Err(error) => vec![error.to_string()],
        };
        let reason = (!refused.is_empty()).then(|| refused.join("; "));
        if let (true, Some(reason)) = (*complaint != reason, &reason) {
            error!(
                reason,
                "new files for etcd cannot be used: what was in them before stays in use"
            );
        }
        *complaint = reason;
    }

    /// Puts secrets to use with each member that takes them; says why others do not.
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

    /// A client for a member that has shown that it lets us in.
    async fn try_out(&self, member: usize, secrets: Arc<Secrets>) -> Result<Login, String> {
        let tried = async {
            let mut login = self.connect(member, secrets, 0).await?;
            match login
                .client
                .status()
                .await
                .map_err(|error| self.store_error(Call::Read, &error))
            {
                // It speaks to us, which is what the files are for.
                Ok(_) | Err(StoreError::Refused { .. }) => Ok(login),
                Err(error) => Err(error),
            }
        };
        match tokio::time::timeout(TRIAL, tried).await {
            Ok(tried) => tried.map_err(|error| error.to_string()),
            Err(_) => Err(format!("no answer within {TRIAL:?}")),
        }
    }

    fn accept(&self, secrets: &Arc<Secrets>) {
        let mut known = self.secrets.lock().unwrap_or_else(PoisonError::into_inner);
        if !Arc::ptr_eq(&known, secrets) {
            info!("new files are used for etcd from now on");
            *known = secrets.clone();
        }
    }

    /// Tells, once, that etcd asks for no user, or does so again.
    fn is_open(&self, open: bool) {
        match (self.open.swap(open, Ordering::Relaxed), open) {
            (false, true) => warn!(
                "etcd has authentication disabled, and goes on to be used without the user that was given. Whoever reaches etcd may \
                 read and change everything: run `etcdctl auth enable`, or leave the user out"
            ),
            (true, false) => info!("etcd asks for a user again, and takes the one that was given"),
            _ => {}
        }
    }

    fn secrets(&self) -> Arc<Secrets> {
        // Nothing that holds the lock can panic half-way.
        self.secrets.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn connect(&self, member: usize, secrets: Arc<Secrets>, number: u64) -> Result<Login, StoreError> {
        let mut options = ConnectOptions::new()
            .with_keep_alive(PING_INTERVAL, PING_TIMEOUT)
            .with_keep_alive_while_idle(true)
            .with_connect_timeout(CONNECT_TIMEOUT)
            .with_require_leader(true)
            // Another token is fetched by `again`, which knows all the ways in which etcd says that it wants one.
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
                        self.is_open(true);
                        dial(endpoint, options).await
                    }
                    connected => {
                        if connected.is_ok() {
                            self.is_open(false);
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

/// A client of one member. On a socket of this host it is the same but for the way there.
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
