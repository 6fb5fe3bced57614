//! Whether the state in a store is that of the cluster that an instance has its credentials from.

use curator_election::store::{Keys, Range, Store, StoreError};

use crate::state::export::unfinished::{Unfinished, is_marked};
use crate::state::keys::CLUSTER_CONFIGURATION;
use crate::state::pki_layout::Layout;
use curator_identity::CredentialsWatch;

/// Why an instance must not use a store.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ForeignState {
    /// Nothing of a cluster is there.
    #[error("there is no cluster in the store: is the right disk mounted, and the namespace right?")]
    NoCluster,
    /// An import into it has not ended.
    #[error(transparent)]
    Unfinished(#[from] Unfinished),
    /// The authority of the cluster that is there has not signed the credentials.
    #[error(
        "the cluster in the store has another certificate authority than these credentials: one of the two is of another cluster"
    )]
    OtherCluster,
    /// The store did not say.
    #[error("the store cannot be read: {0}")]
    Store(#[from] StoreError),
}

/// Whether no import into a store is under way, or was interrupted. Cancellation safe.
///
/// # Errors
/// One is or was, or the store does not answer.
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
/// There is no cluster, it is another one, or the store does not answer.
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
