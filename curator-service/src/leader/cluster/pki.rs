//! Certificate authorities whose keys are in the state, and the certificates that they issued: in the layout of the
//! original, with every access fenced by the term.

use std::sync::Arc;
use std::time::SystemTime;

use curator_election::store::{Compare, Keys, Range, Revision};
use curator_identity::{Authority, Subject, is_crl, public_key_of};
use tokio::sync::OnceCell;
use tonic::Status;
use tracing::{error, info};

use crate::state::pki_layout::Layout;
use crate::state::tx::Tx;
use crate::state::{State, StateError};
use curator_election::fence::{FencedError, Written};

/// Maximum attempts to create an authority when a concurrent writer has just created it.
const ATTEMPTS: usize = 4;

/// One authority's location in the store.
pub(in crate::leader) struct Pki {
    layout: Layout,
    /// Cached after the first read; it never changes.
    authority: OnceCell<Arc<Authority>>,
}

impl Pki {
    const fn new(layout: Layout) -> Self {
        Self {
            layout,
            authority: OnceCell::const_new(),
        }
    }

    pub(in crate::leader) const fn cluster() -> Self {
        Self::new(Layout::CLUSTER)
    }

    pub(in crate::leader) const fn etcd() -> Self {
        Self::new(Layout::ETCD)
    }

    pub(in crate::leader) const fn kubernetes() -> Self {
        Self::new(Layout::KUBERNETES)
    }

    pub(in crate::leader) const fn layout(&self) -> Layout {
        self.layout
    }

    /// Returns the authority. Missing parts are created in one transaction, so a crash never leaves it incomplete; an
    /// authority that another program left incomplete is completed. Cancellation safe.
    pub(in crate::leader) async fn authority(&self, state: &State, now: SystemTime) -> Result<Arc<Authority>, Status> {
        let authority = self.authority.get_or_try_init(|| self.read_or_create(state, now));
        authority.await.cloned()
    }

    async fn read_or_create(&self, state: &State, now: SystemTime) -> Result<Arc<Authority>, Status> {
        let layout = self.layout;
        let keys = layout.keys();
        for _ in 0..ATTEMPTS {
            let ranges = keys.iter().cloned().map(|key| Range::all(Keys::One(key))).collect();
            let read = state.fenced().read(ranges).await.map_err(unreachable)?;
            let mut stored = read.ranges.iter().map(|found| found.first());
            let (key, certificate, crl) = (
                stored.next().flatten(),
                stored.next().flatten(),
                stored.next().flatten(),
            );
            let (authority, ops) = layout.complete(key, certificate, crl, now).map_err(|error| {
                error!(%error, authority = layout.common_name, "stored certificate authority is invalid");
                // Details of the key and certificate are not revealed: CommitNode is called without a cluster
                // certificate.
                Status::unavailable(format!(
                    "certificate authority {:?} cannot be used; see the leader's log",
                    layout.common_name
                ))
            })?;
            if ops.is_empty() {
                return Ok(Arc::new(authority));
            }
            let conditions = keys
                .iter()
                .zip(&read.ranges)
                .map(|(key, found)| {
                    let changed = found.first().map_or(Revision(0), |kv| kv.mod_revision);
                    Compare::changed_at(key.clone(), changed)
                })
                .collect();
            if let Written::Done(_) = state.fenced().write(conditions, ops).await.map_err(unreachable)? {
                info!(
                    authority = layout.common_name,
                    "created the missing parts of the certificate authority"
                );
                return Ok(Arc::new(authority));
            }
        }
        Err(StateError::Contended.into())
    }

    /// Returns the certificate of this name: the stored one if it is for the same key, or a new one if none is stored.
    /// A certificate for another key is kept and causes an error.
    pub(in crate::leader) fn ensure(
        &self,
        tx: &mut Tx<'_>,
        authority: &Authority,
        name: &str,
        subject: &Subject,
        public_key: &[u8; 32],
        now: SystemTime,
    ) -> Result<Vec<u8>, Status> {
        if let Some(stored) = self.issued(tx, name, public_key)? {
            return Ok(stored);
        }
        self.put_new(tx, authority, name, subject, public_key, now)
    }

    /// Replaces the certificate of this name, if the existing one is for the same key.
    pub(in crate::leader) fn renew(
        &self,
        tx: &mut Tx<'_>,
        authority: &Authority,
        name: &str,
        subject: &Subject,
        public_key: &[u8; 32],
        now: SystemTime,
    ) -> Result<Vec<u8>, Status> {
        self.issued(tx, name, public_key)?;
        self.put_new(tx, authority, name, subject, public_key, now)
    }

    /// Returns the existing certificate of this name; an error if it is for another key.
    fn issued(&self, tx: &mut Tx<'_>, name: &str, public_key: &[u8; 32]) -> Result<Option<Vec<u8>>, Status> {
        match tx.get(self.layout.issued(name)) {
            None => Ok(None),
            Some(stored) if public_key_of(&stored.value) == Some(*public_key) => Ok(Some(stored.value.to_vec())),
            Some(_) => Err(Status::unavailable(format!(
                "certificate {name} is already issued for another key"
            ))),
        }
    }

    fn put_new(
        &self,
        tx: &mut Tx<'_>,
        authority: &Authority,
        name: &str,
        subject: &Subject,
        public_key: &[u8; 32],
        now: SystemTime,
    ) -> Result<Vec<u8>, Status> {
        let certificate = authority.issue(subject, public_key, now).map_err(|error| {
            error!(%error, name, "cannot issue certificate");
            Status::unavailable("cannot issue the certificate; see the leader's log")
        })?;
        tx.put(self.layout.issued(name), certificate.clone());
        Ok(certificate)
    }

    /// The certificate revocation list, which the authority has created.
    pub(in crate::leader) async fn crl(&self, state: &State) -> Result<Vec<u8>, Status> {
        let key = self.layout.crl();
        let read = state
            .fenced()
            .read(vec![Range::all(Keys::One(key))])
            .await
            .map_err(unreachable)?;
        let stored = read.ranges.into_iter().flatten().next().map(|kv| kv.value.to_vec());
        stored.filter(|crl| is_crl(crl)).ok_or_else(|| {
            Status::unavailable(format!(
                "certificate authority {:?} has no valid CRL",
                self.layout.common_name
            ))
        })
    }
}

fn unreachable(error: FencedError) -> Status {
    StateError::from(error).into()
}
