//! When and from where nodes registered: the data to check before an approval.

use std::collections::HashMap;

use curator_client::Instance;
use curator_proto::admin_api::registrations_client::RegistrationsClient;
use curator_proto::admin_api::{GetRegistrationsRequest, Registration};
use curator_proto::management_api::Node;
use serde_json::{Value, json};
use tonic::Code;

use crate::connect::Cluster;
use crate::error::Failure;
use crate::output::Table;
use crate::text::sha256;

/// The registration of one node, or with an empty id those of all nodes that wait for approval. Empty if the leader is
/// of a version that does not record them.
pub(crate) async fn registrations(
    cluster: &Cluster,
    leader: &Instance,
    node_id: &str,
) -> Result<HashMap<String, Registration>, Failure> {
    let mut client = RegistrationsClient::new(leader.channel());
    let asking = async || {
        let request = cluster.request(GetRegistrationsRequest {
            node_id: node_id.to_owned(),
        });
        match client.get_registrations(request).await {
            Err(status) if status.code() == Code::Unimplemented => Ok(Vec::new()),
            answer => answer.map(|answer| answer.into_inner().registrations),
        }
    };
    let found = cluster.call(leader, asking).await?;
    Ok(found.into_iter().map(|each| (each.node_id.clone(), each)).collect())
}

/// When the node registered.
pub(crate) fn at(registration: Option<&Registration>) -> Option<String> {
    registration?.registered_at.as_ref().map(ToString::to_string)
}

/// The address that the node registered from.
pub(crate) fn from(registration: Option<&Registration>) -> Option<&str> {
    registration
        .map(|each| each.registered_from.as_str())
        .filter(|from| !from.is_empty())
}

/// The nodes that wait for approval, with their registrations.
pub(crate) fn pending(nodes: &[Node], known: &HashMap<String, Registration>) -> (Value, Table) {
    let mut table = Table::new(&["NODE", "REGISTERED", "FROM", "KEY SHA-256"]);
    let mut all = Vec::new();
    for node in nodes {
        let registration = known.get(&node.id);
        let (at, from, fingerprint) = (at(registration), from(registration), sha256(&node.pubkey));
        all.push(json!({
            "id": node.id,
            "registered_at": at,
            "registered_from": from,
            "key_sha256": fingerprint,
        }));
        table.row([
            node.id.clone(),
            at.unwrap_or_default(),
            from.unwrap_or_default().to_owned(),
            fingerprint,
        ]);
    }
    (all.into(), table)
}

/// The same for one node, as a phrase.
pub(crate) fn sentence(node: &Node, registration: Option<&Registration>) -> String {
    let mut text = node.id.clone();
    if let Some(at) = at(registration) {
        text.push_str(&format!(", registered {at}"));
    }
    if let Some(from) = from(registration) {
        text.push_str(&format!(" from {from}"));
    }
    text.push_str(&format!(", key SHA-256 {}", sha256(&node.pubkey)));
    text
}
