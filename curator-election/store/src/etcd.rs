//! The store that a real etcd is.
//!
//! Each member has a connection of its own, because a client that picks members by itself keeps on picking one that hangs.
//! Reads are asked of a second member when the first is slow; a write goes to one member that has just shown that it
//! answers, and is never sent twice.
//!
//! What etcd may ask of its clients, TLS with or without a certificate of theirs, and a user, is in files ([`EtcdAuth`]). They are
//! looked at again: by [`EtcdStore::follow_files`], and whenever etcd refuses a token. A token that has run out is renewed and
//! the call made again, which is safe for a write as well: etcd has refused it, so that it did not run.
//!
//! Bounds, with the default [`EtcdConfig::call_timeout`] of 2 s: every call returns within it, but for a read that no member
//! answers, which takes half a second more to find out whether they have lost their quorum; a write may take as long as such a
//! read once more for finding a member that answers; a watch ends within three [`PROGRESS_INTERVAL`]s of silence, but for one behind a proxy
//! that tells no progress, which may be silent for a minute.

mod auth;
mod cluster;
mod convert;
mod endpoint;
mod errors;
mod history;
mod identity;
mod members;
mod pin;
mod quorum;
mod tls_reload;
mod watch;

use std::collections::VecDeque;
use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use etcd_client::Client;
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;

pub use self::auth::{EtcdAuth, EtcdAuthError};
pub use self::cluster::{EndpointStatus, EtcdMember};
pub use self::endpoint::EndpointError;
use self::errors::{Call, rejection};
use self::identity::{Identity, written_elsewhere};
use self::members::Members;
pub use self::pin::ClusterFileError;
use self::tls_reload::Clients;
pub use self::watch::PROGRESS_INTERVAL;
use crate::clock::{BootClock, Clock};
use crate::{
    Keys, Lease, LeaseId, Range, RangeResult, RefusalKind, Revision, Store, StoreError, Txn, TxnResult, WatchStream,
};

/// How to reach an etcd.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct EtcdConfig {
    /// The client URLs of the members, the nearest first: `http`, `https`, or `unix://` and the absolute path of a socket.
    pub endpoints: Vec<String>,
    /// The deadline of each call.
    pub call_timeout: Duration,
    /// After how long a read is asked of the next member as well.
    pub hedge_after: Duration,
    /// What etcd asks of its clients, and where it is.
    pub access: EtcdAuth,
    /// A file that keeps the id of the etcd cluster in use, in hex: with it no other cluster is ever used, also after a restart of
    /// this process. It is made when an id is chosen for the first time. By default the id is remembered for as long as the store is.
    pub cluster_file: Option<PathBuf>,
}

impl EtcdConfig {
    /// The etcd at these endpoints, with defaults for all the rest.
    #[must_use]
    pub fn new(endpoints: Vec<String>) -> Self {
        Self {
            endpoints: endpoints.iter().map(|given| endpoint::normalized(given)).collect(),
            call_timeout: Duration::from_secs(2),
            hedge_after: Duration::from_millis(150),
            access: EtcdAuth::default(),
            cluster_file: None,
        }
    }

    /// Checks what can be without a file and without a connection; [`EtcdStore::new`] does so as well.
    ///
    /// # Errors
    /// The first thing that cannot be.
    pub fn check(&self) -> Result<(), EtcdConfigError> {
        if self.endpoints.is_empty() {
            return Err(EtcdConfigError::NoEndpoints);
        }
        for given in &self.endpoints {
            endpoint::check(given)?;
        }
        Ok(self.access.check(&self.endpoints)?)
    }
}

/// A configuration that reaches no etcd.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EtcdConfigError {
    /// No endpoints.
    #[error("no etcd endpoint configured: set at least one, for example http://127.0.0.1:2379")]
    NoEndpoints,
    /// An endpoint is none that can be used.
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
    /// The endpoints and the files for TLS and the user do not go together, or a file cannot be used.
    #[error(transparent)]
    Access(#[from] EtcdAuthError),
    /// The file for the cluster's id cannot be used.
    #[error(transparent)]
    ClusterFile(#[from] ClusterFileError),
}

/// A real etcd as a [`Store`].
pub struct EtcdStore {
    config: EtcdConfig,
    clients: Clients,
    members: Members,
    identity: Identity,
    /// A member does not tell its status to this user.
    keeps_status: AtomicBool,
    /// The TTLs of the leases that were granted here: renewals do not change them, and etcd-client does not report them.
    ttls: Mutex<VecDeque<(LeaseId, Duration)>>,
}

impl fmt::Debug for EtcdStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EtcdStore")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

/// A member whose last answer is younger than this gets a write without being asked whether it is there.
const FRESH: Duration = Duration::from_millis(1_500);
/// The largest answer to a read: ten thousand nodes of a few kilobytes fit.
const MAX_ANSWER: usize = 64 << 20;
/// How many leases' TTLs are remembered. An elector has one at a time.
const MOST_LEASES: usize = 1_024;

impl EtcdStore {
    /// The etcd of this configuration. Nothing is dialled before the first call.
    ///
    /// # Errors
    /// There is no endpoint, or one that cannot be used; or the files of [`EtcdConfig::access`] or [`EtcdConfig::cluster_file`]
    /// cannot.
    pub fn new(config: EtcdConfig) -> Result<Self, EtcdConfigError> {
        config.check()?;
        let clients = Clients::new(config.endpoints.clone(), config.access.clone())?;
        let members = Members::new(config.endpoints.len());
        let identity = Identity::new(config.endpoints.clone(), config.cluster_file.clone())?;
        Ok(Self {
            config,
            clients,
            members,
            identity,
            keeps_status: AtomicBool::new(false),
            ttls: Mutex::new(VecDeque::new()),
        })
    }

    /// Takes what is new in the files of [`EtcdConfig::access`], from within seconds of its being there, for new connections; calls
    /// and watches under way go on. What no member takes is reported, and what there was stays in use. Never returns: whoever
    /// keeps a store for long runs this beside it.
    ///
    /// Cancellation safe.
    pub async fn follow_files(&self) {
        self.clients.follow_files().await;
    }

    /// One call to one member, bounded, with what it says about the member's health. It is made a second time if the first was
    /// refused for its token.
    async fn call<R, T, F>(
        &self,
        member: usize,
        call: Call,
        request: R,
        make: impl Fn(Client, R) -> F,
    ) -> Result<T, StoreError>
    where
        R: Clone,
        F: Future<Output = Result<T, etcd_client::Error>>,
    {
        let bounded = async {
            let login = self.clients.get(member).await.map_err(never_sent)?;
            let once_more = login.has_user().then(|| request.clone());
            let made = match (make(login.client.clone(), request).await, once_more) {
                (Err(error), Some(request)) if rejection::needs_new_token(&error) => {
                    let client = self.clients.again(member, &login).await.map_err(never_sent)?;
                    make(client, request).await
                }
                (made, _) => made,
            };
            made.map_err(|error| self.clients.store_error(call, &error))
        };
        let began = BootClock.now();
        let result = tokio::time::timeout(self.config.call_timeout, bounded)
            .await
            .unwrap_or_else(|_| {
                Err(StoreError::Unknown {
                    reason: format!(
                        "{} did not respond within {:?}",
                        self.config.endpoints[member], self.config.call_timeout
                    ),
                })
            });
        let ended = BootClock.now();
        crate::telemetry::etcd_called(call.word(), &result, began, ended);
        match &result {
            Err(StoreError::Unreachable { .. } | StoreError::Unknown { .. }) => self.members.failed(member, ended),
            _ => self.members.answered(member, ended),
        }
        result
    }

    /// A read, asked of one member after the other until one has answered: what it says, be it that we may not read this.
    async fn read(&self, range: &Range) -> Result<(usize, Result<RangeResult, StoreError>), StoreError> {
        self.know_cluster().await?;
        let mut waiting = self.members.order(BootClock.now()).into_iter();
        let mut asked: FuturesUnordered<BoxFuture<'_, (usize, Result<RangeResult, StoreError>)>> =
            FuturesUnordered::new();
        let ask = |member: usize| {
            let (key, options) = convert::range(range);
            let call = self.call(
                member,
                Call::Read,
                (key, options),
                |client: Client, (key, options)| async move {
                    let mut kv = client.kv_client().max_decoding_message_size(MAX_ANSWER);
                    kv.get(key, Some(options)).await
                },
            );
            let answer = async move {
                let answer = call.await?;
                self.ours(member, answer.header())?;
                Ok(convert::range_result(answer))
            };
            Box::pin(async move { (member, answer.await) }) as BoxFuture<'_, _>
        };
        let mut last = StoreError::Unreachable {
            reason: "no etcd member configured".into(),
        };
        asked.extend(waiting.next().map(ask));
        while !asked.is_empty() {
            tokio::select! {
                biased;
                Some((member, answer)) = asked.next() => match answer {
                    Err(error @ (StoreError::Unreachable { .. } | StoreError::Unknown { .. })) => {
                        last = error;
                        asked.extend(waiting.next().map(ask));
                    }
                    answer => return Ok((member, answer)),
                },
                () = tokio::time::sleep(self.config.hedge_after), if waiting.len() > 0 => {
                    asked.extend(waiting.next().map(ask));
                }
            }
        }
        Err(self.without_answer(last).await)
    }

    /// Whether a member's answer is of the cluster in use; else the member counts as one that has failed.
    fn ours(&self, member: usize, header: Option<&etcd_client::ResponseHeader>) -> Result<(), StoreError> {
        let checked = self.identity.check(member, header);
        if checked.is_err() {
            self.members.failed(member, BootClock.now());
        }
        checked
    }

    /// Asks a member which cluster it is of, which costs no consensus.
    ///
    /// Some patches of etcd let nobody but root ask for a member's status (etcd#21663); those let users ask for the list of members. A
    /// learner answers the status alone.
    async fn confirm(&self, member: usize) -> Result<(), StoreError> {
        if !self.keeps_status.load(Ordering::Relaxed) {
            let status = self
                .call(
                    member,
                    Call::Read,
                    (),
                    |mut client, ()| async move { client.status().await },
                )
                .await;
            match status {
                Err(error) if error.refusal() == Some(RefusalKind::Permission) => {
                    self.keeps_status.store(true, Ordering::Relaxed);
                }
                status => return self.ours(member, status?.header()),
            }
        }
        let list = self
            .call(member, Call::Read, (), |mut client, ()| async move {
                client.member_list().await
            })
            .await?;
        self.ours(member, list.header())
    }

    /// Finds out which cluster to use, the first time that a call needs it.
    async fn know_cluster(&self) -> Result<(), StoreError> {
        if self.identity.is_known() {
            return Ok(());
        }
        let _deciding = self.identity.deciding().await;
        let count = self.config.endpoints.len();
        let mut asked: FuturesUnordered<_> = (0..count)
            .map(|member| async move { (member, self.confirm(member).await) })
            .collect();
        let (mut last, mut answered) = (None, None);
        while !self.identity.is_known()
            && let Some((member, said)) = asked.next().await
        {
            match said {
                Ok(()) => answered = Some(member),
                Err(error) => last = Some(error),
            }
            // The others may still make a majority.
            if let Err(error) = self.identity.choose()
                && asked.is_empty()
            {
                return Err(error);
            }
        }
        if self.identity.is_known() {
            return Ok(());
        }
        if let (Some(id), Some(member)) = (self.identity.choose()?, answered) {
            let list = self
                .call(member, Call::Read, (), |mut client, ()| async move {
                    client.member_list().await
                })
                .await?;
            let voters = list.members().iter().filter(|member| !member.is_learner()).count();
            return self.identity.vouched(id, voters);
        }
        match last {
            Some(error) => Err(error),
            // Something between answers without naming a cluster: there is nothing to compare.
            None => Ok(()),
        }
    }

    /// A member for a write: one that has answered a moment ago, else the first to answer a small read.
    async fn writable(&self) -> Result<usize, StoreError> {
        if let Some(member) = self.members.fresh(BootClock.now(), FRESH) {
            return Ok(member);
        }
        match self
            .read(&Range {
                limit: 1,
                keys_only: true,
                ..Range::all(Keys::one("/"))
            })
            .await
        {
            // A member that does not permit it has answered: the key need not be ours to read.
            Ok((member, _)) => Ok(member),
            // The write itself was never sent, whatever became of the read.
            Err(error) => Err(never_sent(error)),
        }
    }

    fn ttls(&self) -> std::sync::MutexGuard<'_, VecDeque<(LeaseId, Duration)>> {
        // Nothing that holds the lock can panic half-way.
        self.ttls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn remember(&self, lease: Lease) {
        let mut ttls = self.ttls();
        if ttls.len() == MOST_LEASES {
            ttls.pop_front();
        }
        ttls.push_back((lease.id, lease.ttl));
    }

    fn forget(&self, lease: LeaseId) {
        self.ttls().retain(|(id, _)| *id != lease);
    }
}

/// What became of the preparations of a call, told of the call itself.
fn never_sent(error: StoreError) -> StoreError {
    match error {
        StoreError::Unknown { reason } => StoreError::Unreachable { reason },
        error => error,
    }
}

#[async_trait]
impl Store for EtcdStore {
    async fn txn(&self, txn: Txn) -> Result<TxnResult, StoreError> {
        let lease = convert::lease_of(&txn);
        let etcd_txn = convert::txn(txn);
        let member = self.writable().await?;
        let answer = self
            .call(member, Call::Write(lease), etcd_txn, |client, txn| async move {
                let mut kv = client.kv_client().max_decoding_message_size(MAX_ANSWER);
                kv.txn(txn).await
            })
            .await?;
        self.ours(member, answer.header()).map_err(written_elsewhere)?;
        Ok(convert::txn_result(answer))
    }

    async fn range(&self, range: Range) -> Result<RangeResult, StoreError> {
        self.read(&range).await?.1
    }

    async fn watch(&self, keys: Keys, from: Revision) -> Result<WatchStream, StoreError> {
        let mut last = StoreError::Unreachable {
            reason: "no etcd member configured".into(),
        };
        self.know_cluster().await?;
        let now = BootClock.now();
        let mut members = self.members.order(now);
        // One that hangs costs a whole timeout here, so a member that answers is looked for first.
        let fresh = self.members.fresh(now, FRESH);
        members.sort_by_key(|member| fresh != Some(*member));
        for member in members {
            let opened = self.call(member, Call::Read, keys.clone(), |client, keys| {
                watch::open(client, keys, from, member, self.members.clone(), self.identity.clone())
            });
            match opened.await {
                // It answers, but is of another cluster.
                Ok(Err(error @ StoreError::Unreachable { .. })) => last = error,
                Ok(opened) => return opened,
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    async fn grant(&self, ttl: Duration) -> Result<Lease, StoreError> {
        let seconds = convert::seconds(ttl);
        let member = self.writable().await?;
        let granted = self
            .call(member, Call::Write(None), (), |mut client, ()| async move {
                client.lease_grant(seconds, None).await
            })
            .await?;
        self.ours(member, granted.header()).map_err(written_elsewhere)?;
        let id = LeaseId::new(granted.id()).ok_or_else(|| StoreError::refused("etcd granted a lease with id 0"))?;
        let ttl = Duration::from_secs(u64::try_from(granted.ttl()).unwrap_or(0));
        let lease = Lease { id, ttl };
        self.remember(lease);
        Ok(lease)
    }

    async fn keep_alive(&self, lease: LeaseId, attempt: u32) -> Result<Duration, StoreError> {
        let known = self.ttls().iter().find(|(id, _)| *id == lease).map(|(_, ttl)| *ttl);
        let Some(ttl) = known else {
            return Err(StoreError::LeaseNotFound { id: lease });
        };
        let member = attempt as usize % self.config.endpoints.len();
        // A stream for one renewal: nothing is queued in it, and its end says nothing about the next.
        let renewed = self
            .call(member, Call::KeepAlive(lease), (), |mut client, ()| async move {
                client.lease_keep_alive(lease.get()).await.map(drop)
            })
            .await;
        // A member that was restored as a cluster of its own may have the lease too, or not know it: what it says counts only if it is
        // of the cluster in use. etcd-client keeps the header of the answer to itself, so the member is asked.
        if matches!(renewed, Ok(()) | Err(StoreError::LeaseNotFound { .. })) {
            self.confirm(member).await?;
        }
        if let Err(StoreError::LeaseNotFound { .. }) = renewed {
            self.forget(lease);
        }
        renewed.map(|()| ttl)
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        let member = self.writable().await?;
        let revoked = self
            .call(member, Call::Write(Some(lease)), (), |mut client, ()| async move {
                client.lease_revoke(lease.get()).await.map(drop)
            })
            .await;
        if matches!(revoked, Ok(()) | Err(StoreError::LeaseNotFound { .. })) {
            self.forget(lease);
        }
        revoked
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_checked_and_explained() {
        assert!(matches!(
            EtcdStore::new(EtcdConfig::new(vec![])),
            Err(EtcdConfigError::NoEndpoints)
        ));
        let error = EtcdStore::new(EtcdConfig::new(vec!["127.0.0.1:2379".into()])).unwrap_err();
        assert!(error.to_string().contains("http://127.0.0.1:2379"), "{error}");
        EtcdStore::new(EtcdConfig::new(vec![
            "http://127.0.0.1:2379".into(),
            " HTTP://[::1]:2379".into(),
        ]))
        .unwrap();
    }

    #[tokio::test]
    async fn a_refused_connection_is_known_to_have_done_nothing() {
        // A port that was free a moment ago; whoever takes it speaks no HTTP/2.
        let port = std::net::TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let store = EtcdStore::new(EtcdConfig::new(vec![format!("http://127.0.0.1:{port}")])).unwrap();
        let error = store.txn(Txn::default()).await.unwrap_err();
        assert!(matches!(error, StoreError::Unreachable { .. }), "{error}");
    }

    /// One that is not there, and one that nobody listens on any more.
    #[tokio::test]
    async fn a_socket_of_nobody_is_known_to_have_done_nothing() {
        let path = std::env::temp_dir().join(format!("curator-nobody-{}.sock", std::process::id()));
        let endpoint = format!("unix://{}", path.display());
        for left_behind in [false, true] {
            if left_behind {
                drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
            }
            let store = EtcdStore::new(EtcdConfig::new(vec![endpoint.clone()])).unwrap();
            let error = store.txn(Txn::default()).await.unwrap_err();
            assert!(matches!(error, StoreError::Unreachable { .. }), "{error}");
        }
        std::fs::remove_file(&path).unwrap();
    }

    #[tokio::test]
    async fn a_server_that_never_answers_costs_one_timeout() {
        let hung = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut config = EtcdConfig::new(vec![format!("http://{}", hung.local_addr().unwrap())]);
        config.call_timeout = Duration::from_millis(300);
        let store = EtcdStore::new(config).unwrap();
        let begun = BootClock.now();
        let error = store.range(Range::all(Keys::one("k"))).await.unwrap_err();
        assert!(matches!(error, StoreError::Unknown { .. }), "{error}");
        assert!(BootClock.now().saturating_since(begun) < Duration::from_secs(2));
        // And a write that found nobody who answers was not sent.
        let error = store.txn(Txn::default()).await.unwrap_err();
        assert!(matches!(error, StoreError::Unreachable { .. }), "{error}");
    }
}
