//! Bootstrap: writes a cluster's first node, owner, configuration and certificate authorities in one transaction.
//!
//! There is no leader yet whose term could guard the transaction. Its condition is that none of the keys exist: of two
//! concurrent attempts, one makes the cluster and the other gets an error.

use std::collections::BTreeMap;
use std::time::SystemTime;

use bytes::Bytes;
use curator_election::store::{Compare, KeyValue, Keys, Op, OpResult, Range, Revision, Store, StoreError, Txn};
use curator_identity::{AuthorityError, Subject, node_id, public_key_of};
use curator_proto::common::node_roles::{ConsensusMember, KubernetesController};
use curator_proto::common::{ClusterConfiguration, NodeLabels, NodeRoles, NodeState, NodeTpmUsage, node_labels};
use curator_proto::private;
use prost::Message;

use crate::state::export::unfinished::{MARK, Unfinished};
use crate::state::keys::{CLUSTER_CONFIGURATION, INITIAL_OWNER, NODES, join_key};
use crate::state::pki_layout::Layout;
use crate::state::record::{ClusterRecord, NodeRecord, SaveError};
use crate::state::tx::Tx;
use crate::state::view::View;
use crate::validate::{Invalid, MAX_LABELS, key32, label_key, label_value};

/// The input of a bootstrap.
#[derive(Clone, Debug, Default)]
pub struct Bootstrap {
    /// The first node's Ed25519 public key, 32 bytes.
    pub node_public_key: Vec<u8>,
    /// The Ed25519 public key with which the first node joins after a restart, 32 bytes.
    pub join_public_key: Vec<u8>,
    /// The cluster's part of the first node's disk key: 32 bytes, or empty.
    pub cluster_unlock_key: Vec<u8>,
    /// The Ed25519 public key that may get the owner's certificate, 32 bytes.
    pub owner_public_key: Vec<u8>,
    /// The first node's use of its TPM.
    pub tpm_usage: NodeTpmUsage,
    /// The first node's labels.
    pub labels: Vec<(String, String)>,
    /// The cluster's configuration. `None`: domain `cluster.internal`, TPMs required, storage encrypted and
    /// authenticated.
    pub configuration: Option<ClusterConfiguration>,
}

/// A cluster that was bootstrapped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bootstrapped {
    /// The first node's id.
    pub node_id: String,
    /// The certificate of the cluster's authority, DER.
    pub ca_certificate: Vec<u8>,
    /// The first node's certificate, DER.
    pub node_certificate: Vec<u8>,
}

/// Why no cluster was made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BootstrapError {
    /// The input is invalid.
    #[error("{0}")]
    Invalid(String),
    /// There is a cluster already. Nothing was changed.
    #[error("there is a cluster already ({key} exists): nothing was changed")]
    Exists {
        /// One of the existing keys.
        key: String,
    },
    /// The requested cluster exists already: an earlier attempt made it and its reply was lost. Nothing was changed.
    #[error(
        "this cluster, with this first node and owner, exists already: nothing was changed; the first node's \
         certificate is at /cluster-pki/issued/node-{node_id}-cert.der in the store"
    )]
    Made {
        /// The first node's id.
        node_id: String,
    },
    /// An import into the store has not finished.
    #[error(transparent)]
    Unfinished(#[from] Unfinished),
    /// The stored certificate authorities are invalid.
    #[error("invalid certificate authorities in the store: {0}")]
    Authority(String),
    /// The store failed or did not answer.
    #[error("store: {error}{doubt}", error = .0, doubt = doubt(.0))]
    Store(#[from] StoreError),
}

const fn doubt(error: &StoreError) -> &'static str {
    if error.never_ran() {
        ""
    } else {
        ": the cluster may or may not have been made; run the same command again, which is safe and reports it"
    }
}

impl From<Invalid> for BootstrapError {
    fn from(invalid: Invalid) -> Self {
        Self::Invalid(invalid.to_string())
    }
}

impl From<AuthorityError> for BootstrapError {
    fn from(error: AuthorityError) -> Self {
        Self::Authority(error.to_string())
    }
}

impl From<SaveError> for BootstrapError {
    fn from(error: SaveError) -> Self {
        Self::Invalid(error.to_string())
    }
}

/// The number of attempts while another process changes the authorities.
const ATTEMPTS: usize = 4;

/// Makes a cluster if there is none.
///
/// `now` is the start of its certificates' validity. Cancellation: the cluster may or may not be made; a repeated call
/// reports it.
///
/// # Errors
/// There is a cluster already, the input is invalid, or the store does not answer. After [`StoreError::Unknown`] the
/// cluster may have been made.
pub async fn bootstrap(
    store: &dyn Store,
    cluster: &Bootstrap,
    now: SystemTime,
) -> Result<Bootstrapped, BootstrapError> {
    let first = First::new(cluster)?;
    for _ in 0..ATTEMPTS {
        let stored = read(store, &first.keys()).await?;
        let (txn, bootstrapped) = first.plan(&stored, now)?;
        if store.txn(txn).await?.succeeded {
            return Ok(bootstrapped);
        }
        // Either there is a cluster now, which the next read shows, or another process has just made an authority.
    }
    Err(BootstrapError::Authority(
        "they are being changed by another process".into(),
    ))
}

/// The result of an earlier attempt with the same input, for a caller that did not get it; `None` if there is no such
/// cluster. Cancellation safe.
///
/// # Errors
/// The input is invalid, or the store does not answer.
pub async fn bootstrapped(store: &dyn Store, cluster: &Bootstrap) -> Result<Option<Bootstrapped>, BootstrapError> {
    let first = First::new(cluster)?;
    let stored = read(store, &first.keys()).await?;
    if !first.is_made(&stored) {
        return Ok(None);
    }
    let certificate = |key: Bytes| match stored.get(&key) {
        Some(kv) => Ok(kv.value.to_vec()),
        None => Err(BootstrapError::Authority(format!(
            "{} is missing",
            String::from_utf8_lossy(&key)
        ))),
    };
    Ok(Some(Bootstrapped {
        node_id: first.id.clone(),
        ca_certificate: certificate(Layout::CLUSTER.certificate())?,
        node_certificate: certificate(first.node_certificate())?,
    }))
}

type Stored = BTreeMap<Bytes, KeyValue>;

async fn read(store: &dyn Store, keys: &[Bytes]) -> Result<Stored, StoreError> {
    let ops = keys.iter().cloned().map(|key| Op::Range(Range::all(Keys::One(key))));
    let read = store.txn(Txn::default().then(ops.collect())).await?;
    let found = read.results.into_iter().flat_map(|result| match result {
        OpResult::Range { kvs, .. } => kvs,
        OpResult::Put | OpResult::Deleted(_) | OpResult::Txn { .. } => Vec::new(),
    });
    Ok(found.map(|kv| (kv.key.clone(), kv)).collect())
}

/// The checked input.
struct First {
    id: String,
    public_key: [u8; 32],
    node: private::Node,
    owner: private::InitialOwner,
    configuration: ClusterRecord,
}

impl First {
    fn new(asked: &Bootstrap) -> Result<Self, BootstrapError> {
        let public_key = key32("node_public_key", &asked.node_public_key)?;
        let join_key = key32("join_public_key", &asked.join_public_key)?;
        let owner = key32("owner_public_key", &asked.owner_public_key)?;
        if !matches!(asked.cluster_unlock_key.len(), 0 | 32) {
            return Err(Invalid::new("cluster_unlock_key", "it must be 32 bytes or empty").into());
        }
        if asked.labels.len() > MAX_LABELS {
            return Err(Invalid::new("labels", format!("more than {MAX_LABELS} labels")).into());
        }
        for (key, value) in &asked.labels {
            label_key(key)?;
            label_value(value)?;
        }
        let configuration = asked
            .configuration
            .clone()
            .unwrap_or_else(ClusterRecord::default_configuration);
        let id =
            node_id(&public_key).ok_or_else(|| Invalid::new("node_public_key", "not a valid Ed25519 public key"))?;
        let pairs = asked.labels.iter().map(|(key, value)| node_labels::Pair {
            key: key.clone(),
            value: value.clone(),
        });
        let node = private::Node {
            public_key: public_key.to_vec(),
            join_key: join_key.to_vec(),
            cluster_unlock_key: asked.cluster_unlock_key.clone(),
            fsm_state: NodeState::Up.into(),
            tpm_usage: asked.tpm_usage.into(),
            labels: Some(NodeLabels { pairs: pairs.collect() }),
            ..private::Node::default()
        };
        Ok(Self {
            id,
            public_key,
            node,
            owner: private::InitialOwner {
                public_key: owner.to_vec(),
            },
            configuration: ClusterRecord::new(configuration)?,
        })
    }

    fn node_certificate(&self) -> Bytes {
        Layout::CLUSTER.issued(&format!("node-{}", self.id))
    }

    fn peer_certificate(&self) -> Bytes {
        Layout::ETCD.issued(&self.id)
    }

    /// The keys that must not exist.
    fn fresh_keys(&self) -> Vec<Bytes> {
        let node = NODES.key(&self.id).ok();
        let keys = [
            Bytes::from(CLUSTER_CONFIGURATION),
            Bytes::from(INITIAL_OWNER),
            join_key(&self.node.join_key),
        ];
        node.into_iter().chain(keys).collect()
    }

    /// All keys that are read.
    fn keys(&self) -> Vec<Bytes> {
        let mut keys = self.fresh_keys();
        keys.extend(Layout::CLUSTER.keys());
        keys.extend(Layout::ETCD.keys());
        keys.extend([self.node_certificate(), self.peer_certificate(), MARK.into()]);
        keys
    }

    /// Whether there is a cluster with this first node and this owner.
    fn is_made(&self, stored: &Stored) -> bool {
        let node = NODES.key(&self.id).ok().and_then(|key| stored.get(&key));
        let node = node.and_then(|kv| private::Node::decode(kv.value.as_ref()).ok());
        let owner = stored.get(INITIAL_OWNER.as_bytes());
        let owner = owner.and_then(|kv| private::InitialOwner::decode(kv.value.as_ref()).ok());
        node.is_some_and(|node| node.public_key == self.public_key && node.join_key == self.node.join_key)
            && owner.is_some_and(|owner| owner.public_key == self.owner.public_key)
            && self.fresh_keys().iter().all(|key| stored.contains_key(key))
    }

    /// The transaction, given the stored keys.
    fn plan(&self, stored: &Stored, now: SystemTime) -> Result<(Txn, Bootstrapped), BootstrapError> {
        if stored.contains_key(MARK.as_bytes()) {
            return Err(Unfinished.into());
        }
        if self.is_made(stored) {
            return Err(BootstrapError::Made {
                node_id: self.id.clone(),
            });
        }
        if let Some(key) = self.fresh_keys().iter().find(|key| stored.contains_key(*key)) {
            return Err(BootstrapError::Exists {
                key: String::from_utf8_lossy(key).into_owned(),
            });
        }
        let conditions = self.keys().into_iter().map(|key| {
            let changed = stored.get(&key).map_or(Revision(0), |kv| kv.mod_revision);
            Compare::changed_at(key, changed)
        });
        let mut ops = Vec::new();
        let mut authority = |layout: Layout| {
            let [key, certificate, crl] = layout.keys().map(|key| stored.get(&key));
            let (authority, made) = layout.complete(key, certificate, crl, now)?;
            let crl = match crl {
                Some(stored) => stored.value.to_vec(),
                None => authority.empty_crl(now)?,
            };
            ops.extend(made);
            Ok::<_, BootstrapError>((authority, crl))
        };
        let (cluster_ca, _) = authority(Layout::CLUSTER)?;
        let (etcd_ca, initial_crl) = authority(Layout::ETCD)?;
        let mut issue = |ca: &curator_identity::Authority, key: Bytes, subject: &Subject| match stored.get(&key) {
            Some(known) if public_key_of(&known.value) == Some(self.public_key) => Ok(known.value.to_vec()),
            Some(_) => Err(BootstrapError::Authority(format!(
                "the certificate at {} is for another key",
                String::from_utf8_lossy(&key)
            ))),
            None => {
                let certificate = ca.issue(subject, &self.public_key, now)?;
                ops.push(Op::put(key, certificate.clone()));
                Ok(certificate)
            }
        };
        let node_certificate = issue(&cluster_ca, self.node_certificate(), &Subject::node(&self.id))?;
        let peer_certificate = issue(&etcd_ca, self.peer_certificate(), &Subject::etcd_peer(&self.id))?;
        let mut node = self.node.clone();
        node.roles = Some(NodeRoles {
            consensus_member: Some(ConsensusMember {
                ca_certificate: etcd_ca.certificate().to_vec(),
                peer_certificate,
                initial_crl,
                // There is no other member to join.
                peers: Vec::new(),
            }),
            kubernetes_controller: Some(KubernetesController {}),
            kubernetes_worker: None,
        });
        let nothing = View::default();
        let mut tx = Tx::new(&nothing);
        NodeRecord::new(self.id.clone(), node).save(&mut tx)?;
        tx.put(INITIAL_OWNER, self.owner.encode_to_vec());
        tx.put(CLUSTER_CONFIGURATION, self.configuration.encode());
        ops.extend(tx.into_change().map(|change| change.ops).unwrap_or_default());
        let bootstrapped = Bootstrapped {
            node_id: self.id.clone(),
            ca_certificate: cluster_ca.certificate().to_vec(),
            node_certificate,
        };
        Ok((Txn::when(conditions.collect()).then(ops), bootstrapped))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use curator_election::memory::{Faults, MemoryCluster};

    use super::*;

    fn first(number: u8) -> Bootstrap {
        Bootstrap {
            node_public_key: vec![number; 32],
            join_public_key: vec![number + 100; 32],
            owner_public_key: vec![9; 32],
            tpm_usage: NodeTpmUsage::PresentAndUsed,
            labels: vec![("rack".into(), "r1".into())],
            ..Bootstrap::default()
        }
    }

    async fn all(store: &dyn Store) -> Vec<KeyValue> {
        let mut kvs = store.range(Range::all(Keys::prefix("/"))).await.unwrap().kvs;
        kvs.extend(store.range(Range::all(Keys::prefix("@"))).await.unwrap().kvs);
        kvs
    }

    #[tokio::test(start_paused = true)]
    async fn a_cluster_is_made_at_one_revision_and_once() {
        let cluster = MemoryCluster::new(1);
        let store = cluster.client(0);
        let made = bootstrap(&store, &first(1), SystemTime::UNIX_EPOCH).await.unwrap();
        assert_eq!(made.node_id, format!("metropolis-{}", "01".repeat(16)));
        let before = all(&store).await;
        let keys: Vec<_> = before
            .iter()
            .map(|kv| String::from_utf8_lossy(&kv.key).into_owned())
            .collect();
        let id = &made.node_id;
        assert_eq!(
            keys,
            [
                "/cluster-pki/cluster-ca-crl.der".to_owned(),
                "/cluster-pki/issued/cluster-ca-cert.der".into(),
                format!("/cluster-pki/issued/node-{id}-cert.der"),
                "/cluster-pki/keys/cluster-ca-privkey.bin".into(),
                "/cluster/configuration".into(),
                "/global/initial_owner".into(),
                format!("/join_keys/{}", "65".repeat(32)),
                format!("/nodes/{id}"),
                "@etcd-pki//pki/CA-crl.der".into(),
                "@etcd-pki//pki/issued/CA-cert.der".into(),
                format!("@etcd-pki//pki/issued/{id}-cert.der"),
                "@etcd-pki//pki/keys/CA-privkey.bin".into(),
            ]
        );
        assert!(before.iter().all(|kv| kv.mod_revision == before[0].mod_revision));
        // The same once more, and others.
        let error = bootstrap(&store, &first(1), SystemTime::UNIX_EPOCH).await.unwrap_err();
        assert!(
            matches!(&error, BootstrapError::Made { node_id } if *node_id == made.node_id),
            "{error}"
        );
        let another_owner = Bootstrap {
            owner_public_key: vec![8; 32],
            ..first(1)
        };
        for again in [first(2), another_owner] {
            let error = bootstrap(&store, &again, SystemTime::UNIX_EPOCH).await.unwrap_err();
            assert!(matches!(error, BootstrapError::Exists { .. }), "{error}");
        }
        assert_eq!(all(&store).await, before);
    }

    /// Interrupted at any moment, it can be done again, and says what has become of it.
    #[tokio::test(start_paused = true)]
    async fn an_attempt_without_an_answer_can_be_repeated() {
        use curator_election::memory::Link;
        let cluster = MemoryCluster::new(2);
        let store = cluster.client(0);
        let wall = SystemTime::UNIX_EPOCH;
        // The reading passes, and the answer to the transaction does not: one at a time until it is so.
        let slow = Faults {
            delay: Duration::from_millis(100),
            ..Faults::default()
        };
        cluster.set_faults(0, slow);
        let cut = async {
            // It is made, and its answer is on its way.
            while all(&cluster.client(1)).await.is_empty() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            let lost = Faults {
                link: Link::RepliesLost,
                ..Faults::default()
            };
            cluster.set_faults(0, lost);
            cluster.close_watches(0);
        };
        let wanted = first(1);
        let attempt = bootstrap(&store, &wanted, wall);
        // Whether the answer was lost or the caller has gone: it does not know.
        let gone = tokio::select! {
            biased;
            () = cut => None,
            done = attempt => Some(done),
        };
        assert!(gone.is_none(), "{gone:?}");
        cluster.set_faults(0, Faults::default());
        let before = all(&store).await;
        let again = bootstrap(&store, &wanted, wall).await.unwrap_err();
        assert!(matches!(again, BootstrapError::Made { .. }), "{again}");
        assert_eq!(all(&store).await, before);
        // An answer that is lost is told as one.
        let lost = Faults {
            link: Link::RepliesLost,
            ..Faults::default()
        };
        cluster.set_faults(0, lost);
        let error = bootstrap(&store, &wanted, wall).await.unwrap_err();
        assert!(error.to_string().contains("run the same command again"), "{error}");
    }

    /// Its certificates were not handed out, or what has made it was killed before.
    #[tokio::test(start_paused = true)]
    async fn what_an_interrupted_attempt_has_made_is_found_again() {
        let store = MemoryCluster::new(1).client(0);
        assert_eq!(bootstrapped(&store, &first(1)).await.unwrap(), None);
        let made = bootstrap(&store, &first(1), SystemTime::UNIX_EPOCH).await.unwrap();
        assert_eq!(bootstrapped(&store, &first(1)).await.unwrap(), Some(made));
        assert_eq!(bootstrapped(&store, &first(2)).await.unwrap(), None, "another one");
    }

    #[tokio::test(start_paused = true)]
    async fn no_cluster_is_made_in_the_middle_of_an_import() {
        let store = MemoryCluster::new(1).client(0);
        let mark = Txn::default().then(vec![Op::put(MARK, "digest")]);
        store.txn(mark).await.unwrap();
        let refused = bootstrap(&store, &first(1), SystemTime::UNIX_EPOCH).await;
        assert!(matches!(refused, Err(BootstrapError::Unfinished(_))), "{refused:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn of_many_at_once_one_makes_the_cluster() {
        let cluster = MemoryCluster::new(1);
        let store = Arc::new(cluster.client(0));
        let attempts = (1..9).map(|number| {
            let store = store.clone();
            // All look before the first one writes.
            cluster.set_faults(
                0,
                Faults {
                    delay: Duration::from_millis(100),
                    ..Faults::default()
                },
            );
            tokio::spawn(async move { bootstrap(&*store, &first(number), SystemTime::UNIX_EPOCH).await })
        });
        let mut made = Vec::new();
        for attempt in futures::future::join_all(attempts).await {
            match attempt.unwrap() {
                Ok(cluster) => made.push(cluster),
                Err(BootstrapError::Exists { .. }) => {}
                Err(error) => panic!("{error}"),
            }
        }
        let [made] = &made[..] else { panic!("{made:?}") };
        let nodes = store.range(Range::all(Keys::prefix("/nodes/"))).await.unwrap().kvs;
        assert_eq!(nodes.len(), 1);
        assert!(nodes[0].key.ends_with(made.node_id.as_bytes()));
    }

    #[tokio::test(start_paused = true)]
    async fn an_authority_that_is_there_is_used() {
        let cluster = MemoryCluster::new(1);
        let store = cluster.client(0);
        // As the original leaves it when it stops between its two steps.
        let (authority, ops) = Layout::CLUSTER
            .complete(None, None, None, SystemTime::UNIX_EPOCH)
            .unwrap();
        store.txn(Txn::default().then(ops)).await.unwrap();
        let made = bootstrap(&store, &first(1), SystemTime::UNIX_EPOCH).await.unwrap();
        assert_eq!(made.ca_certificate, authority.certificate());
    }

    #[test]
    fn what_cannot_be_is_refused_by_name() {
        type Breaking = fn(&mut Bootstrap);
        let broken: [(&str, Breaking); 6] = [
            ("node_public_key", |cluster| cluster.node_public_key.truncate(31)),
            ("join_public_key", |cluster| cluster.join_public_key.clear()),
            ("owner_public_key", |cluster| cluster.owner_public_key.push(0)),
            ("cluster_unlock_key", |cluster| cluster.cluster_unlock_key = vec![1; 31]),
            ("label", |cluster| cluster.labels.push(("-".into(), String::new()))),
            ("tpm_mode", |cluster| {
                cluster.configuration = Some(ClusterConfiguration {
                    cluster_domain: "a".into(),
                    ..ClusterConfiguration::default()
                });
            }),
        ];
        for (name, breaking) in broken {
            let mut cluster = first(1);
            breaking(&mut cluster);
            let error = First::new(&cluster).map(drop).unwrap_err().to_string();
            assert!(error.contains(name), "{error}");
        }
    }
}
