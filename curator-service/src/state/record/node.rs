//! A node's record.

use std::sync::OnceLock;

use bytes::Bytes;
use curator_proto::common::{NodeLabels, NodeRoles, NodeState, NodeTpmUsage, node_labels};
use curator_proto::{curator_api, private};
use prost::Message as _;

use crate::state::keys::{InvalidId, NODES, join_key};
use crate::state::record::{Corrupt, decode, encode};
use crate::state::tx::Tx;
use crate::validate::{cidr, label_key, label_value};

/// A stored node in normal form: `roles` and `labels` are always set, and invalid labels and prefixes are removed.
#[derive(Clone, Debug)]
pub(crate) struct NodeRecord {
    id: String,
    message: private::Node,
    /// The value that it was decoded from.
    stored: Option<Bytes>,
    /// The message for watchers.
    watched: Watched,
}

/// The message for watchers, encoded for the first of them. A clone, which may be changed, starts without it.
#[derive(Debug, Default)]
struct Watched(OnceLock<Bytes>);

impl Clone for Watched {
    fn clone(&self) -> Self {
        Self::default()
    }
}

/// A role of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NodeRoleKind {
    ConsensusMember,
    KubernetesController,
    KubernetesWorker,
}

/// Why a record was not written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SaveError {
    #[error(transparent)]
    Id(#[from] InvalidId),
    #[error("node {id} has no join key: its record cannot be written")]
    NoJoinKey { id: String },
    #[error("the join key of node {id} belongs to another node")]
    JoinKeyTaken { id: String },
}

impl NodeRecord {
    /// A node that is not stored yet.
    pub(crate) fn new(id: String, message: private::Node) -> Self {
        let message = private::Node {
            id: id.clone(),
            ..message
        };
        Self {
            id,
            message: normalized(message),
            stored: None,
            watched: Watched::default(),
        }
    }

    /// Decodes the value of node `id`.
    pub(crate) fn decode(id: &str, value: &Bytes) -> Result<Self, Corrupt> {
        let key = NODES.key(id).map_err(|error| Corrupt::new(id.as_bytes(), error))?;
        let mut message: private::Node = decode(&key, value)?;
        if message.id.is_empty() {
            // Old records have no id.
            message.id = curator_identity::node_id(&message.public_key)
                .ok_or_else(|| Corrupt::new(&key, "it has neither an id nor a public key"))?;
        }
        if message.id != id {
            return Err(Corrupt::new(&key, format!("it has the id of node {:?}", message.id)));
        }
        if let Some(member) = message.roles.as_ref().and_then(|roles| roles.consensus_member.as_ref()) {
            for (name, der) in [
                ("ca_certificate", &member.ca_certificate),
                ("peer_certificate", &member.peer_certificate),
            ] {
                if !curator_identity::is_certificate(der) {
                    return Err(Corrupt::new(
                        &key,
                        format!("its consensus member role has an invalid {name}"),
                    ));
                }
            }
            if !curator_identity::is_crl(&member.initial_crl) {
                return Err(Corrupt::new(
                    &key,
                    "its consensus member role has an invalid initial_crl",
                ));
            }
        }
        Ok(Self {
            id: id.to_owned(),
            message: normalized(message),
            stored: Some(value.clone()),
            watched: Watched::default(),
        })
    }

    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    /// The full message.
    pub(crate) const fn message(&self) -> &private::Node {
        &self.message
    }

    /// The full message, for changes. The id must not be changed.
    pub(crate) fn message_mut(&mut self) -> &mut private::Node {
        self.watched = Watched::default();
        &mut self.message
    }

    /// The message for watchers, without keys; encoded once for all of them.
    pub(crate) fn watched(&self) -> Bytes {
        let record = &self.message;
        let encode = || {
            let node = curator_api::Node {
                id: self.id.clone(),
                roles: record.roles.clone(),
                status: record.status.clone(),
                clusternet: record.clusternet.clone(),
                state: record.fsm_state,
                labels: record.labels.clone(),
            };
            node.encode_to_vec().into()
        };
        self.watched.0.get_or_init(encode).clone()
    }

    /// The size of the stored value.
    pub(crate) fn stored_bytes(&self) -> usize {
        self.stored.as_ref().map_or(0, Bytes::len)
    }

    /// The state; `Invalid` for an unknown number.
    pub(crate) fn state(&self) -> NodeState {
        NodeState::try_from(self.message.fsm_state).unwrap_or(NodeState::Invalid)
    }

    pub(crate) fn tpm_usage(&self) -> NodeTpmUsage {
        NodeTpmUsage::try_from(self.message.tpm_usage).unwrap_or(NodeTpmUsage::Invalid)
    }

    pub(crate) fn roles(&self) -> &NodeRoles {
        static NONE: NodeRoles = NodeRoles {
            kubernetes_worker: None,
            consensus_member: None,
            kubernetes_controller: None,
        };
        self.message.roles.as_ref().unwrap_or(&NONE)
    }

    pub(crate) fn roles_mut(&mut self) -> &mut NodeRoles {
        self.message_mut().roles.get_or_insert_default()
    }

    /// The first role of the node.
    pub(crate) fn any_role(&self) -> Option<NodeRoleKind> {
        let roles = self.roles();
        [
            (roles.consensus_member.is_some(), NodeRoleKind::ConsensusMember),
            (
                roles.kubernetes_controller.is_some(),
                NodeRoleKind::KubernetesController,
            ),
            (roles.kubernetes_worker.is_some(), NodeRoleKind::KubernetesWorker),
        ]
        .into_iter()
        .find_map(|(has, role)| has.then_some(role))
    }

    pub(crate) fn labels(&self) -> &[node_labels::Pair] {
        self.message.labels.as_ref().map_or(&[], |labels| &labels.pairs)
    }

    /// The reported address; empty if there is none.
    pub(crate) fn external_address(&self) -> &str {
        self.message
            .status
            .as_ref()
            .map_or("", |status| &status.external_address)
    }

    /// Writes the record and its entry in the join key index. A join key that belongs to another node is refused.
    pub(crate) fn save(self, tx: &mut Tx<'_>) -> Result<(), SaveError> {
        let key = NODES.key(&self.id)?;
        if self.message.join_key.is_empty() {
            return Err(SaveError::NoJoinKey { id: self.id });
        }
        let index = join_key(&self.message.join_key);
        match tx.get(index.clone()) {
            Some(entry) if entry.value == self.id => {}
            Some(_) => return Err(SaveError::JoinKeyTaken { id: self.id }),
            None => tx.put(index, self.id.clone()),
        }
        let value = encode(&normalized(self.message), self.stored.as_ref());
        tx.put(key, value);
        Ok(())
    }

    /// Removes the record, and its index entry if that names this node.
    pub(crate) fn delete(&self, tx: &mut Tx<'_>) -> Result<(), SaveError> {
        tx.delete(NODES.key(&self.id)?);
        let index = join_key(&self.message.join_key);
        if tx.get(index.clone()).is_some_and(|entry| entry.value == self.id) {
            tx.delete(index);
        }
        Ok(())
    }
}

impl NodeRoleKind {
    /// The role's name in the API.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::ConsensusMember => "ConsensusMember",
            Self::KubernetesController => "KubernetesController",
            Self::KubernetesWorker => "KubernetesWorker",
        }
    }
}

fn normalized(mut node: private::Node) -> private::Node {
    node.roles.get_or_insert_default();
    let labels = node.labels.get_or_insert_default();
    *labels = NodeLabels {
        pairs: valid_labels(std::mem::take(&mut labels.pairs)),
    };
    node.clusternet = node.clusternet.filter(|net| !net.wireguard_pubkey.is_empty());
    if let Some(net) = &mut node.clusternet {
        net.prefixes.retain(|prefix| cidr(&prefix.cidr).is_ok());
    }
    node
}

/// The valid labels, ordered by key; the last one wins for duplicate keys.
fn valid_labels(pairs: Vec<node_labels::Pair>) -> Vec<node_labels::Pair> {
    let valid = pairs
        .into_iter()
        .filter(|pair| label_key(&pair.key).is_ok() && label_value(&pair.value).is_ok());
    let by_key: std::collections::BTreeMap<_, _> = valid.map(|pair| (pair.key, pair.value)).collect();
    by_key
        .into_iter()
        .map(|(key, value)| node_labels::Pair { key, value })
        .collect()
}
