//! The store on etcd.
//!
//! Each member has its own connection, because a client that balances by itself keeps using a member that hangs. A read
//! is sent to a second member when the first is slow (hedging). A write goes to one member that has just responded, and
//! is never sent twice, except that a lease is revoked as a read is sent.
//!
//! TLS, client certificate and user are configured by files ([`EtcdAuth`]). The files are re-read by
//! [`EtcdStore::follow_files`], and whenever etcd rejects a token. An expired token is renewed and the call retried.
//! This is safe for a write as well: etcd rejected the first try, so it was not executed.
//!
//! Bounds, with the default [`EtcdConfig::call_timeout`] of 2 s: every call returns within that timeout, with four
//! exceptions. A read or a revocation that no member answers takes half a second more, to detect a lost quorum. A write
//! may first take as long as such a read, to find a member that responds, and so may the first renewal of a lease that
//! another client was granted. A watch ends within three [`PROGRESS_INTERVAL`]s of silence;
//! behind a proxy that reports no progress it ends within a minute.

mod auth;
#[cfg(feature = "etcd-client-0_21")]
mod clients;
mod cluster;
mod convert;
mod endpoint;
mod errors;
mod history;
mod identity;
mod members;
mod pin;
mod quorum;
mod renewals;
mod tls_reload;
mod watch;

use std::collections::VecDeque;
use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
#[cfg(feature = "etcd-client-0_21")]
pub use etcd_client;
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
use self::renewals::Renewals;
use self::tls_reload::Clients;
pub use self::watch::PROGRESS_INTERVAL;
use crate::clock::{BootClock, Clock};
use crate::store::range_results;
use crate::{
    Keys, Lease, LeaseId, Op, Range, RangeResult, RefusalKind, Revision, Store, StoreError, TimeToLive, Txn, TxnResult,
    WatchStream,
};

/// The configuration of an [`EtcdStore`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct EtcdConfig {
    /// The client URLs of the members, nearest first: `http`, `https`, or `unix://` and the absolute path of a socket.
    pub endpoints: Vec<String>,
    /// The timeout of each call.
    pub call_timeout: Duration,
    /// A read without a response for this long is sent to the next member as well.
    pub hedge_after: Duration,
    /// TLS, client certificate and user.
    pub access: EtcdAuth,
    /// The file that keeps the id of the etcd cluster in use, in hex. With it no other cluster is ever used, even after
    /// a restart. It is created when an id is first selected. By default the id is kept in memory.
    pub cluster_file: Option<PathBuf>,
}

impl EtcdConfig {
    /// The etcd at these endpoints, with defaults for everything else.
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

    /// Checks the configuration without file access or a connection; [`EtcdStore::new`] does so as well.
    ///
    /// # Errors
    /// The first invalid setting.
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

/// An invalid [`EtcdConfig`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EtcdConfigError {
    /// No endpoints.
    #[error("no etcd endpoint configured: set at least one, for example http://127.0.0.1:2379")]
    NoEndpoints,
    /// An endpoint is invalid.
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
    /// The endpoints and the authentication settings contradict each other, or a file is unusable.
    #[error(transparent)]
    Access(#[from] EtcdAuthError),
    /// The cluster id file is unusable.
    #[error(transparent)]
    ClusterFile(#[from] ClusterFileError),
}

/// A [`Store`] on etcd.
pub struct EtcdStore {
    config: EtcdConfig,
    clients: Clients,
    members: Members,
    identity: Identity,
    /// A member denied its status to this user.
    keeps_status: AtomicBool,
    /// The TTLs of the leases granted or renewed here: renewals do not change them, and etcd-client does not report
    /// them.
    ttls: Mutex<VecDeque<(LeaseId, Duration)>>,
    renewals: Renewals,
}

impl fmt::Debug for EtcdStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EtcdStore")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

/// The maximum age of a member's last response for sending it a write without probing it first.
const FRESH_AGE: Duration = Duration::from_millis(1_500);
/// The maximum size of a response: ten thousand nodes of a few kilobytes fit.
const MAX_RESPONSE_BYTES: usize = 64 << 20;
/// The maximum number of leases whose TTLs are kept. An elector has one at a time.
const MAX_LEASES: usize = 1_024;

impl EtcdStore {
    /// Creates the store. It connects with the first call.
    ///
    /// # Errors
    /// If the configuration is invalid, or a file of [`EtcdConfig::access`] or [`EtcdConfig::cluster_file`] is
    /// unusable.
    pub fn new(config: EtcdConfig) -> Result<Self, EtcdConfigError> {
        config.check()?;
        let clients = Clients::new(config.endpoints.clone(), config.access.clone())?;
        Self::with(config, clients)
    }

    fn with(config: EtcdConfig, clients: Clients) -> Result<Self, EtcdConfigError> {
        let members = Members::new(config.endpoints.len());
        let identity = Identity::new(config.endpoints.clone(), config.cluster_file.clone())?;
        Ok(Self {
            config,
            clients,
            members,
            identity,
            keeps_status: AtomicBool::new(false),
            ttls: Mutex::new(VecDeque::new()),
            renewals: Renewals::default(),
        })
    }

    /// Re-reads the files of [`EtcdConfig::access`] every few seconds and uses them for new connections; calls and
    /// watches in progress continue. If no member accepts the new files, that is logged and the old ones stay in use.
    /// Never returns: run it beside a long-lived store.
    ///
    /// Cancellation safe.
    pub async fn follow_files(&self) {
        self.clients.follow_files().await;
    }

    /// Makes one call to one member, within the timeout, and records the member's health. Retries it once if etcd
    /// rejected the token.
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
        if matches!((call, &result), (Call::Read, Ok(_))) {
            self.members.took(ended.saturating_since(began));
        }
        result
    }

    /// Asks one member after the other until one responds, the next one also when no response has come after `hedge`.
    /// The inner result is that response, which may be a rejection.
    ///
    /// A member that is overtaken counts as failed, so that the next calls, writes among them, go elsewhere first.
    async fn first_response<'a, T: 'a>(
        &'a self,
        hedge: Duration,
        ask: impl Fn(usize) -> BoxFuture<'a, Result<T, StoreError>>,
    ) -> Result<(usize, Result<T, StoreError>), StoreError> {
        self.know_cluster().await?;
        let mut waiting = self.members.order(BootClock.now()).into_iter();
        let mut pending = Vec::new();
        let mut asked = FuturesUnordered::new();
        let mut ask_next = |asked: &mut FuturesUnordered<_>, pending: &mut Vec<usize>| {
            if let Some(member) = waiting.next() {
                let answer = ask(member);
                pending.push(member);
                asked.push(async move { (member, answer.await) });
            }
            waiting.len() > 0
        };
        let mut last = StoreError::Unreachable {
            reason: "no etcd member configured".into(),
        };
        let mut more = ask_next(&mut asked, &mut pending);
        while !asked.is_empty() {
            tokio::select! {
                biased;
                Some((member, answer)) = asked.next() => {
                    pending.retain(|pending| *pending != member);
                    match answer {
                        Err(error @ (StoreError::Unreachable { .. } | StoreError::Unknown { .. })) => {
                            last = error;
                            more = ask_next(&mut asked, &mut pending);
                        }
                        answer => {
                            let now = BootClock.now();
                            pending.into_iter().for_each(|slow| self.members.failed(slow, now));
                            return Ok((member, answer));
                        }
                    }
                },
                () = tokio::time::sleep(hedge), if more => more = ask_next(&mut asked, &mut pending),
            }
        }
        Err(self.without_answer(last).await)
    }

    /// Reads from the first member that responds.
    async fn read(&self, range: &Range) -> Result<(usize, Result<RangeResult, StoreError>), StoreError> {
        let ask = |member: usize| {
            let call = self.call(
                member,
                Call::Read,
                convert::range(range),
                |client: Client, (key, options)| async move {
                    let mut kv = client.kv_client().max_decoding_message_size(MAX_RESPONSE_BYTES);
                    kv.get(key, Some(options)).await
                },
            );
            let answer = async move {
                let answer = call.await?;
                self.ours(member, answer.header())?;
                Ok(convert::range_result(answer))
            };
            Box::pin(answer) as BoxFuture<'_, _>
        };
        self.first_response(self.config.hedge_after, ask).await
    }

    /// Checks that a member's response is from the cluster in use; otherwise the member counts as failed.
    fn ours(&self, member: usize, header: Option<&etcd_client::ResponseHeader>) -> Result<(), StoreError> {
        let checked = self.identity.check(member, header);
        if checked.is_err() {
            self.members.failed(member, BootClock.now());
        }
        checked
    }

    /// Checks which cluster a member belongs to, without consensus.
    ///
    /// Some patch releases of etcd permit the status request to root only (etcd#21663); those permit the member list to
    /// users. A learner answers the status request only.
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

    /// Selects the cluster to use, when the first call needs it.
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
            // The other endpoints may still form a majority.
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
            // A proxy responds without a cluster id: there is nothing to compare.
            None => Ok(()),
        }
    }

    /// A member for a write: one with a recent response, else the first to respond to a small read.
    async fn writable(&self) -> Result<usize, StoreError> {
        if let Some(member) = self.members.fresh(BootClock.now(), FRESH_AGE) {
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
            // A rejection is a response too: this user may lack permission for the probed key.
            Ok((member, _)) => Ok(member),
            // The write itself was not sent.
            Err(error) => Err(never_sent(error)),
        }
    }

    /// The TTL of a lease that another client was granted, or that is not kept any more.
    async fn granted_ttl(&self, lease: LeaseId) -> Result<Duration, StoreError> {
        let member = self.writable().await?;
        let found = self
            .call(member, Call::KeepAlive(lease), (), |mut client, ()| async move {
                client.lease_time_to_live(lease.get(), None).await
            })
            .await?;
        self.ours(member, found.header())?;
        // etcd answers with -1 for a lease that it does not have.
        if found.ttl() < 0 {
            return Err(StoreError::LeaseNotFound { id: lease });
        }
        let ttl = Duration::from_secs(u64::try_from(found.granted_ttl()).unwrap_or(0));
        self.remember(Lease { id: lease, ttl });
        Ok(ttl)
    }

    fn ttls(&self) -> std::sync::MutexGuard<'_, VecDeque<(LeaseId, Duration)>> {
        // No code panics while it holds the lock.
        self.ttls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn remember(&self, lease: Lease) {
        let mut ttls = self.ttls();
        if ttls.len() == MAX_LEASES {
            ttls.pop_front();
        }
        ttls.push_back((lease.id, lease.ttl));
    }

    fn forget(&self, lease: LeaseId) {
        self.renewals.forget(lease);
        self.ttls().retain(|(id, _)| *id != lease);
    }
}

/// Converts an error from before a call was sent: the call was not executed.
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
                let mut kv = client.kv_client().max_decoding_message_size(MAX_RESPONSE_BYTES);
                kv.txn(txn).await
            })
            .await?;
        self.ours(member, answer.header()).map_err(written_elsewhere)?;
        Ok(convert::txn_result(answer))
    }

    async fn range(&self, range: Range) -> Result<RangeResult, StoreError> {
        self.read(&range).await?.1
    }

    async fn ranges(&self, ranges: Vec<Range>) -> Result<Vec<RangeResult>, StoreError> {
        // A transaction of reads is linearizable in etcd, as a read is.
        let reads = Txn::default().then(ranges.into_iter().map(Op::Range).collect());
        let ask = |member: usize| {
            let call = self.call(
                member,
                Call::Read,
                convert::txn(reads.clone()),
                |client: Client, txn| async move {
                    let mut kv = client.kv_client().max_decoding_message_size(MAX_RESPONSE_BYTES);
                    kv.txn(txn).await
                },
            );
            let answer = async move {
                let answer = call.await?;
                self.ours(member, answer.header())?;
                Ok(convert::txn_result(answer))
            };
            Box::pin(answer) as BoxFuture<'_, _>
        };
        let hedge = self.members.hedge_after(self.config.hedge_after);
        range_results(self.first_response(hedge, ask).await?.1?)
    }

    async fn watch(&self, keys: Keys, from: Revision) -> Result<WatchStream, StoreError> {
        let mut last = StoreError::Unreachable {
            reason: "no etcd member configured".into(),
        };
        self.know_cluster().await?;
        let now = BootClock.now();
        let mut members = self.members.order(now);
        // A member that hangs costs a whole timeout here, so a member with a recent response goes first.
        let fresh = self.members.fresh(now, FRESH_AGE);
        members.sort_by_key(|member| fresh != Some(*member));
        for member in members {
            let opened = self.call(member, Call::Read, keys.clone(), |client, keys| {
                watch::open(client, keys, from, member, self.members.clone(), self.identity.clone())
            });
            match opened.await {
                // The member responds, but belongs to another cluster.
                Ok(Err(error @ StoreError::Unreachable { .. })) => last = error,
                Ok(opened) => return opened,
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    async fn grant(&self, ttl: Duration) -> Result<Lease, StoreError> {
        let seconds = convert::seconds(ttl)?;
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
        let ttl = match known {
            Some(ttl) => ttl,
            None => self.granted_ttl(lease).await?,
        };
        let member = attempt as usize % self.config.endpoints.len();
        let renewed = self
            .call(member, Call::KeepAlive(lease), (), |client, ()| {
                self.renewals.renew(client, lease, member)
            })
            .await;
        // A member that was restored as a cluster of its own may have the lease too, or not know it: its response
        // counts only if it belongs to the cluster in use.
        match &renewed {
            Ok(Some(answer)) => self.ours(member, answer.header())?,
            // etcd-client does not expose the header of these responses, so check separately.
            Ok(None) | Err(StoreError::LeaseNotFound { .. }) => self.confirm(member).await?,
            Err(_) => {}
        }
        if let Err(StoreError::LeaseNotFound { .. }) = renewed {
            self.forget(lease);
        }
        renewed.map(|_| ttl)
    }

    async fn time_to_live(&self, lease: LeaseId) -> Result<TimeToLive, StoreError> {
        let ask = |member: usize| {
            let call = self.call(member, Call::Read, (), move |mut client: Client, ()| async move {
                client.lease_time_to_live(lease.get(), None).await
            });
            let answer = async move {
                let answer = call.await?;
                self.ours(member, answer.header())?;
                // etcd answers -1 for a lease that does not exist.
                match (u64::try_from(answer.granted_ttl()), u64::try_from(answer.ttl())) {
                    (Ok(granted), Ok(remaining)) if granted > 0 => Ok(TimeToLive {
                        granted: Duration::from_secs(granted),
                        remaining: Duration::from_secs(remaining),
                    }),
                    _ => Err(StoreError::LeaseNotFound { id: lease }),
                }
            };
            Box::pin(answer) as BoxFuture<'_, _>
        };
        self.first_response(self.config.hedge_after, ask).await?.1
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        // It may be sent to several members: a lease is revoked once, and the others answer that it does not exist.
        let asked = AtomicUsize::new(0);
        let ask = |member: usize| {
            asked.fetch_add(1, Ordering::Relaxed);
            let call = self.call(
                member,
                Call::Write(Some(lease)),
                (),
                move |mut client: Client, ()| async move { client.lease_revoke(lease.get()).await },
            );
            let answer = async move {
                let answer = call.await;
                // A member of another cluster does not know the lease either.
                if matches!(answer, Err(StoreError::LeaseNotFound { .. })) {
                    self.confirm(member).await?;
                }
                self.ours(member, answer?.header()).map_err(written_elsewhere)
            };
            Box::pin(answer) as BoxFuture<'_, _>
        };
        let revoked = match self.first_response(self.config.hedge_after, ask).await {
            // The member that was asked before may have revoked it, and not have answered.
            Ok((_, Err(StoreError::LeaseNotFound { .. }))) if asked.load(Ordering::Relaxed) > 1 => Ok(()),
            Ok((_, revoked)) => revoked,
            // One of several requests may have been executed, or still be.
            Err(StoreError::NoQuorum { reason } | StoreError::Unreachable { reason }) => {
                Err(StoreError::Unknown { reason })
            }
            Err(error) => Err(error),
        };
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
        // A port that was free a moment ago.
        let port = std::net::TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let store = EtcdStore::new(EtcdConfig::new(vec![format!("http://127.0.0.1:{port}")])).unwrap();
        let error = store.txn(Txn::default()).await.unwrap_err();
        assert!(matches!(error, StoreError::Unreachable { .. }), "{error}");
    }

    /// A missing socket, and a socket without a listener.
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
        // A write that found no responding member was not sent.
        let error = store.txn(Txn::default()).await.unwrap_err();
        assert!(matches!(error, StoreError::Unreachable { .. }), "{error}");
    }
}
