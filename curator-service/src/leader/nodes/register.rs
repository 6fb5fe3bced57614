//! How a node joins the cluster: registration, approval and commit, and how it rejoins after a restart.

use std::net::IpAddr;

use curator_identity::Subject;
use curator_proto::common::cluster_configuration::{StorageSecurityPolicy, TpmMode};
use curator_proto::common::{NodeLabels, NodeState, NodeStorageSecurity, NodeTpmUsage, node_labels};
use curator_proto::curator_api::{
    CommitNodeRequest, CommitNodeResponse, JoinNodeRequest, JoinNodeResponse, RegisterNodeRequest, RegisterNodeResponse,
};
use curator_proto::management_api::{ApproveNodeRequest, ApproveNodeResponse};
use curator_proto::private;
use prost::Message;
use tonic::Status;

use crate::leader::Leader;
use crate::leader::cluster::register_ticket::{is_ticket, not_the_ticket};
use crate::leader::nodes::{lookup, newcomers, registrations};
use crate::state::keys::{DELETED_NODES, join_key};
use crate::state::record::NodeRecord;
use crate::validate::{MAX_LABELS, key32, label_key, label_value};

/// Length of a cluster unlock key, in bytes.
const UNLOCK_KEY: usize = 32;

impl Leader {
    /// Registers a node whose address is unknown.
    #[cfg(test)]
    pub(in crate::leader) async fn register_node(
        &self,
        key: Option<[u8; 32]>,
        request: RegisterNodeRequest,
    ) -> Result<RegisterNodeResponse, Status> {
        self.register_node_from(None, key, request).await
    }

    /// Registers the node with the caller's key. Repeating the call for a node in state NEW returns the same result.
    pub(in crate::leader) async fn register_node_from(
        &self,
        from: Option<IpAddr>,
        key: Option<[u8; 32]>,
        request: RegisterNodeRequest,
    ) -> Result<RegisterNodeResponse, Status> {
        let key = key.ok_or_else(no_key_shown)?;
        key32("join_key", &request.join_key)?;
        let id = crate::validate::id_of_key("public key", &key)?;
        // Requests without a valid ticket are refused before the queue.
        self.check_ticket(&request.register_ticket).await?;
        let _turn = self.newcomers.turn().await;
        // The transaction may be retried; the last attempt counts.
        let mut finds_room = true;
        let done = self
            .state
            .transact(|tx| {
                finds_room = true;
                if !is_ticket(tx, &request.register_ticket) {
                    return Err(not_the_ticket());
                }
                let cluster = lookup::cluster(tx)?;
                let usage = tpm_usage(cluster.tpm_mode(), request.have_local_tpm)?;
                let response = |usage: NodeTpmUsage| RegisterNodeResponse {
                    cluster_configuration: Some(cluster.configuration().clone()),
                    tpm_usage: usage.into(),
                    recommended_node_storage_security: recommended(cluster.storage()).into(),
                };
                if let Some(known) = lookup::optional_node(tx, &id)? {
                    return match known.state() {
                        NodeState::New if known.message().public_key == key => Ok(response(known.tpm_usage())),
                        _ => Err(Status::failed_precondition(format!("node {id} is already registered"))),
                    };
                }
                if tx.get(DELETED_NODES.key(&id).map_err(lookup::invalid_id)?).is_some() {
                    return Err(Status::failed_precondition(format!(
                        "node {id} was deleted; register it again with a new key"
                    )));
                }
                let node = private::Node {
                    public_key: key.to_vec(),
                    join_key: request.join_key.clone(),
                    fsm_state: NodeState::New.into(),
                    tpm_usage: usage.into(),
                    labels: Some(lenient(request.labels.as_ref())),
                    ..private::Node::default()
                };
                let checked = newcomers::check(tx.peek(), node.encoded_len());
                finds_room = checked.is_ok();
                checked?;
                registrations::note(tx, &id, self.now(), from)?;
                lookup::save(NodeRecord::new(id.clone(), node), tx)?;
                Ok(response(usage))
            })
            .await;
        if !finds_room && done.is_err() {
            newcomers::count_refused();
        }
        done
    }

    /// Approves a registered node.
    pub(in crate::leader) async fn approve_node(
        &self,
        request: ApproveNodeRequest,
    ) -> Result<ApproveNodeResponse, Status> {
        let id = crate::validate::id_of_key("pubkey", &request.pubkey)?;
        self.state
            .transact(|tx| {
                let mut node = lookup::node(tx, &id)?;
                match node.state() {
                    NodeState::Up | NodeState::Standby => {}
                    NodeState::New => {
                        node.message_mut().fsm_state = NodeState::Standby.into();
                        lookup::save(node, tx)?;
                    }
                    state => {
                        return Err(Status::failed_precondition(format!(
                            "node {id} is {}; only a node in NODE_STATE_NEW can be approved",
                            state.as_str_name()
                        )));
                    }
                }
                Ok(ApproveNodeResponse {})
            })
            .await
    }

    /// Commits an approved node: stores its part of the disk key and issues its certificate, in one transaction.
    pub(in crate::leader) async fn commit_node(
        &self,
        key: Option<[u8; 32]>,
        request: CommitNodeRequest,
    ) -> Result<CommitNodeResponse, Status> {
        let key = key.ok_or_else(no_key_shown)?;
        let id = crate::validate::id_of_key("public key", &key)?;
        let security = NodeStorageSecurity::try_from(request.storage_security)
            .ok()
            .filter(|security| *security != NodeStorageSecurity::Invalid)
            .ok_or_else(|| Status::invalid_argument("storage_security: unknown value"))?;
        let authority = self.cluster_pki.authority(&self.state, self.now()).await;
        let now = self.now();
        self.state
            .transact(|tx| {
                let cluster = lookup::cluster(tx)?;
                if !accepted(cluster.storage()).contains(&security) {
                    return Err(Status::failed_precondition(format!(
                        "storage_security: not allowed by the cluster's policy {}",
                        cluster.storage().as_str_name()
                    )));
                }
                let mut node = lookup::node(tx, &id)?;
                match node.state() {
                    NodeState::Standby => {}
                    NodeState::New => {
                        return Err(Status::permission_denied(format!("node {id} is not approved yet")));
                    }
                    state @ (NodeState::Up | NodeState::Decommissioned) => {
                        return Err(Status::failed_precondition(format!(
                            "node {id} is {}; only a node in NODE_STATE_STANDBY can commit",
                            state.as_str_name()
                        )));
                    }
                    NodeState::Invalid => {
                        return Err(Status::internal(format!("the stored state of node {id} is invalid")));
                    }
                }
                if node.message().public_key != key {
                    return Err(Status::permission_denied(format!(
                        "the client certificate's key is not the key of node {id}"
                    )));
                }
                let length = request.cluster_unlock_key.len();
                // Without encryption the key is stored as well, if one is given.
                let good = length == UNLOCK_KEY || (security == NodeStorageSecurity::Insecure && length < UNLOCK_KEY);
                if !good {
                    return Err(unlock_key_length(&request));
                }
                let authority = authority.as_ref().map_err(Status::clone)?;
                let certificate =
                    self.cluster_pki
                        .ensure(tx, authority, &format!("node-{id}"), &Subject::node(&id), &key, now)?;
                node.message_mut()
                    .cluster_unlock_key
                    .clone_from(&request.cluster_unlock_key);
                node.message_mut().fsm_state = NodeState::Up.into();
                lookup::save(node, tx)?;
                Ok(CommitNodeResponse {
                    ca_certificate: authority.certificate().to_vec(),
                    node_certificate: certificate,
                })
            })
            .await
    }

    /// Returns a restarted node's part of the disk key. The node authenticates with its join key, since its own key is
    /// on the encrypted disk.
    pub(in crate::leader) async fn join_node(
        &self,
        key: Option<[u8; 32]>,
        request: JoinNodeRequest,
    ) -> Result<JoinNodeResponse, Status> {
        let key = key.ok_or_else(|| {
            Status::permission_denied(
                "client certificate required: connect with a self-signed certificate for the join key",
            )
        })?;
        let sealed = request.using_sealed_configuration;
        self.state
            .transact(|tx| {
                let index = tx
                    .get(join_key(&key))
                    .ok_or_else(|| Status::not_found("no node has this join key"))?;
                let id = String::from_utf8_lossy(&index.value);
                let node = lookup::node(tx, &id)?;
                let cluster = lookup::cluster(tx)?;
                if node.message().join_key != key {
                    return Err(Status::not_found("no node has this join key"));
                }
                let denied = |reason: &str| {
                    Err(Status::permission_denied(format!(
                        "using_sealed_configuration: {reason}"
                    )))
                };
                match (cluster.tpm_mode(), sealed) {
                    (TpmMode::Required, false) => return denied("the cluster requires a TPM"),
                    (TpmMode::Disabled, true) => return denied("the cluster does not use TPMs"),
                    _ => {}
                }
                match (node.tpm_usage() == NodeTpmUsage::PresentAndUsed, sealed) {
                    (true, false) => return denied("the node registered with a TPM in use"),
                    (false, true) => return denied("the node registered without a TPM in use"),
                    _ => {}
                }
                if node.state() != NodeState::Up {
                    return Err(Status::failed_precondition(format!(
                        "node {id} is {}; only a node in NODE_STATE_UP can join",
                        node.state().as_str_name()
                    )));
                }
                Ok(JoinNodeResponse {
                    cluster_unlock_key: node.message().cluster_unlock_key.clone(),
                })
            })
            .await
    }
}

fn no_key_shown() -> Status {
    Status::unauthenticated("client certificate required: connect with a self-signed certificate")
}

fn unlock_key_length(request: &CommitNodeRequest) -> Status {
    Status::invalid_argument(format!(
        "cluster_unlock_key: must be {UNLOCK_KEY} bytes long, got {}",
        request.cluster_unlock_key.len()
    ))
}

/// The TPM usage of a node under the cluster's TPM mode.
fn tpm_usage(mode: TpmMode, present: bool) -> Result<NodeTpmUsage, Status> {
    match (mode, present) {
        (TpmMode::Required | TpmMode::BestEffort, true) => Ok(NodeTpmUsage::PresentAndUsed),
        (TpmMode::Disabled, true) => Ok(NodeTpmUsage::PresentButUnused),
        (TpmMode::BestEffort | TpmMode::Disabled, false) => Ok(NodeTpmUsage::NotPresent),
        (TpmMode::Required, false) => Err(Status::permission_denied(
            "have_local_tpm: the cluster requires a TPM, and the node has none",
        )),
        (TpmMode::Invalid, _) => Err(Status::permission_denied(
            "the stored TPM mode of the cluster is invalid",
        )),
    }
}

const fn recommended(policy: StorageSecurityPolicy) -> NodeStorageSecurity {
    match policy {
        StorageSecurityPolicy::Permissive | StorageSecurityPolicy::NeedsEncryptionAndAuthentication => {
            NodeStorageSecurity::AuthenticatedEncrypted
        }
        StorageSecurityPolicy::NeedsEncryption => NodeStorageSecurity::Encrypted,
        StorageSecurityPolicy::NeedsInsecure => NodeStorageSecurity::Insecure,
        // A valid cluster record never has this value.
        StorageSecurityPolicy::Invalid => NodeStorageSecurity::Invalid,
    }
}

const fn accepted(policy: StorageSecurityPolicy) -> &'static [NodeStorageSecurity] {
    match policy {
        StorageSecurityPolicy::Permissive => &[
            NodeStorageSecurity::Insecure,
            NodeStorageSecurity::Encrypted,
            NodeStorageSecurity::AuthenticatedEncrypted,
        ],
        StorageSecurityPolicy::NeedsEncryption => &[
            NodeStorageSecurity::Encrypted,
            NodeStorageSecurity::AuthenticatedEncrypted,
        ],
        StorageSecurityPolicy::NeedsEncryptionAndAuthentication => &[NodeStorageSecurity::AuthenticatedEncrypted],
        StorageSecurityPolicy::NeedsInsecure => &[NodeStorageSecurity::Insecure],
        StorageSecurityPolicy::Invalid => &[],
    }
}

/// The node's own labels. Invalid labels are dropped, so that they do not prevent registration. Of labels with the same
/// key, the first counts.
fn lenient(labels: Option<&NodeLabels>) -> NodeLabels {
    let mut by_key = std::collections::BTreeMap::new();
    for pair in labels.iter().flat_map(|labels| &labels.pairs).take(MAX_LABELS) {
        if label_key(&pair.key).is_ok() && label_value(&pair.value).is_ok() {
            by_key.entry(&pair.key).or_insert(&pair.value);
        }
    }
    let pairs = by_key.into_iter().map(|(key, value)| node_labels::Pair {
        key: key.clone(),
        value: value.clone(),
    });
    NodeLabels { pairs: pairs.collect() }
}
