//! Checks that the state in a store belongs to the cluster of the instance's credentials.

use curator_election::store::{Keys, Range, Store, StoreError};
use curator_identity::CredentialsWatch;

use crate::state::export::unfinished::{Unfinished, is_marked};
use crate::state::keys::CLUSTER_CONFIGURATION;
use crate::state::pki_layout::Layout;

/// Why an instance must not use a store.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ForeignState {
    /// The store has no cluster.
    #[error("there is no cluster in the store: check that the right disk is mounted and the namespace is correct")]
    NoCluster,
    /// An import into the store has not finished.
    #[error(transparent)]
    Unfinished(#[from] Unfinished),
    /// The cluster's authority did not sign the credentials.
    #[error(
        "the cluster in the store and these credentials have different certificate authorities: they \
         belong to different clusters"
    )]
    OtherCluster,
    /// The store could not be read.
    #[error("cannot read the store: {0}")]
    Store(#[from] StoreError),
}

/// Checks that the store has no unfinished import. Cancellation safe.
///
/// # Errors
/// There is an unfinished import, or the store does not answer.
pub async fn check_whole(store: &dyn Store) -> Result<(), ForeignState> {
    if is_marked(store).await? {
        Err(Unfinished.into())
    } else {
        Ok(())
    }
}

/// Compares the authority of the cluster in a store with that of the credentials. Cancellation safe.
///
/// # Errors
/// There is no cluster or another cluster, or the store does not answer.
pub async fn check_state(store: &dyn Store, credentials: &CredentialsWatch) -> Result<(), ForeignState> {
    let read = async |key| {
        let read = store.range(Range::all(Keys::One(key))).await?;
        read.kvs.into_iter().next().ok_or(ForeignState::NoCluster)
    };
    check_whole(store).await?;
    read(CLUSTER_CONFIGURATION.into()).await?;
    let authority = read(Layout::CLUSTER.certificate()).await?;
    if authority.value == credentials.newest().ca() {
        Ok(())
    } else {
        Err(ForeignState::OtherCluster)
    }
}
