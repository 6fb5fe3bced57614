//! The embedded store, durable in a directory: for a single instance without etcd.

use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use curator_election::embedded::{EmbeddedError, EmbeddedStore};
use curator_election::namespace::{Namespace, Namespaced};
use curator_election::store::{Keys, Range, Store, StoreError};
use curator_proto::private::Node;
use prost::Message;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use crate::consensus::{Consensus, ConsensusStatus, FixedMembership, Member, Membership, backup};
use crate::state::keys::NODES;

/// The state in a directory, for a single instance. It is not highly available: if the host is lost, so is the cluster.
pub struct EmbeddedConsensus {
    status: watch::Sender<ConsensusStatus>,
    store: Arc<EmbeddedStore>,
    within: Arc<dyn Store>,
    namespace: Namespace,
    membership: Arc<FixedMembership>,
}

/// Opens or creates the store in a directory, within a namespace as in etcd.
///
/// # Errors
/// The store cannot be opened: it is in use by another process, or damaged.
pub fn open_embedded(directory: &Path, namespace: Namespace) -> Result<Arc<dyn Store>, EmbeddedError> {
    let store = Arc::new(EmbeddedStore::open(directory)?);
    Ok(Arc::new(Namespaced::with_siblings(store, namespace)))
}

/// Opens an existing store.
///
/// # Errors
/// There is no store, or it cannot be opened.
pub fn open_existing_embedded(directory: &Path, namespace: Namespace) -> Result<Arc<dyn Store>, EmbeddedError> {
    let store = Arc::new(EmbeddedStore::open_existing(directory)?);
    Ok(Arc::new(Namespaced::with_siblings(store, namespace)))
}

impl EmbeddedConsensus {
    /// The store in a directory, for the instance of a node.
    ///
    /// # Errors
    /// The store cannot be opened: it is in use by another process, or damaged.
    pub fn open(directory: &Path, namespace: Namespace, node_id: &str) -> Result<Self, EmbeddedError> {
        let store = Arc::new(EmbeddedStore::open(directory)?);
        let within: Arc<dyn Store> = Arc::new(Namespaced::with_siblings(store.clone(), namespace.clone()));
        let only = Member {
            id: 1,
            name: node_id.to_owned(),
            peer_urls: Vec::new(),
            learner: false,
        };
        Ok(Self {
            status: watch::Sender::new(ConsensusStatus::Running(within.clone())),
            store,
            within,
            namespace,
            membership: Arc::new(FixedMembership::new(vec![only])),
        })
    }
}

#[async_trait]
impl Consensus for EmbeddedConsensus {
    fn status(&self) -> watch::Receiver<ConsensusStatus> {
        self.status.subscribe()
    }

    fn membership(&self) -> Arc<dyn Membership> {
        self.membership.clone()
    }

    async fn run(&self, cancel: CancellationToken) {
        warn!(
            directory = %self.store.path().display(),
            "embedded store: not highly available, the state is only in this directory"
        );
        let backups = async {
            let directory = self.store.path().parent().unwrap_or(Path::new("."));
            if let Err(error) = backup::serve(directory, &self.namespace, &*self.within).await {
                warn!(%error, "cannot serve `curator export` while running");
            }
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = cancel.cancelled() => {}
            () = backups => {}
            // End the whole instance: its restart opens the store again.
            reason = self.store.stopped() => error!(
                directory = %self.store.path().display(),
                reason,
                "the store has stopped, so this instance stops: check the disk and restart the instance"
            ),
        }
    }
}

/// The id of the only node with the consensus member role in this store; `None` if there is none or there are several.
///
/// # Errors
/// The store does not answer.
pub async fn only_consensus_member(store: &dyn Store) -> Result<Option<String>, StoreError> {
    let nodes = store.range(Range::all(Keys::prefix("/nodes/"))).await?.kvs;
    let mut members = nodes.iter().filter_map(|kv| {
        let node = Node::decode(kv.value.as_ref()).ok()?;
        node.roles?.consensus_member?;
        NODES.id(&kv.key).map(str::to_owned)
    });
    let first = members.next();
    Ok(first.filter(|_| members.next().is_none()))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn a_store_that_has_stopped_ends_the_instance() {
        let directory = std::env::temp_dir().join(format!("curator-stopped-{}", std::process::id()));
        let consensus = EmbeddedConsensus::open(&directory, Namespace::root(), "node-1").unwrap();
        let store = consensus.store.clone();
        let running = tokio::spawn(async move { consensus.run(CancellationToken::new()).await });
        // As after a commit that has failed.
        tokio::task::spawn_blocking(move || store.close())
            .await
            .unwrap()
            .unwrap();
        tokio::time::timeout(Duration::from_secs(20), running)
            .await
            .expect("it ends")
            .unwrap();
        std::fs::remove_dir_all(directory).unwrap();
    }
}
