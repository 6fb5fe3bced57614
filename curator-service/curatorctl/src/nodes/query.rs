//! Reading nodes from the leader: by a CEL expression, by labels, or one by its id or key.

use curator_client::Instance;
use curator_identity::with_retries;
use curator_proto::management_api::management_client::ManagementClient;
use curator_proto::management_api::{GetNodesRequest, Node};
use serde_json::Value;
use tokio::time::timeout_at;
use tonic::Status;

use super::NodeArg;
use crate::connect::{Cluster, client};
use crate::error::Failure;
use crate::text::key_from_hex;

/// All nodes that match the expression.
pub(super) async fn get(cluster: &Cluster, leader: &Instance, filter: String) -> Result<Vec<Node>, Failure> {
    let mut management = client!(ManagementClient, leader);
    let all = async || {
        let filter = filter.clone();
        let mut stream = management
            .get_nodes(cluster.request(GetNodesRequest { filter }))
            .await?
            .into_inner();
        let mut nodes = Vec::new();
        while let Some(node) = stream.message().await? {
            nodes.push(node);
        }
        Ok::<_, Status>(nodes)
    };
    let answer = timeout_at(cluster.deadline(), with_retries(cluster.deadline(), all)).await;
    let answer = answer.unwrap_or_else(|_| Err(Status::deadline_exceeded("")));
    answer.map_err(|status| match status.message() {
        // An invalid expression fails at every instance; the status code alone does not tell.
        wrong if wrong.starts_with("filter: ") => Failure::usage(wrong)
            .at(leader.address())
            .hint("see docs/filters.md for examples; -l key=value selects by label"),
        _ => Failure::of_status(&status, leader.address()),
    })
}

/// A CEL expression that requires the labels and the given filter.
pub(super) fn with_labels(filter: String, labels: &[String]) -> String {
    let quoted = |text: &str| Value::from(text).to_string();
    let each = labels.iter().map(|label| match label.split_once('=') {
        Some((key, value)) => format!(
            "node.labels.pairs.exists(label, label.key == {} && label.value == {})",
            quoted(key),
            quoted(value)
        ),
        None => format!("node.labels.pairs.exists(label, label.key == {})", quoted(label)),
    });
    let all: Vec<_> = (!filter.is_empty() && !labels.is_empty())
        .then(|| format!("({filter})"))
        .into_iter()
        .chain(each)
        .collect();
    if all.is_empty() { filter } else { all.join(" && ") }
}

/// Finds one node. Two nodes may share an id; then the caller must give the key.
pub(super) async fn find(cluster: &Cluster, leader: &Instance, node: &NodeArg) -> Result<Node, Failure> {
    let key = key_from_hex(&node.node);
    let mut nodes = get(cluster, leader, String::new()).await?;
    nodes.retain(|candidate| match &key {
        Some(key) => candidate.pubkey == *key,
        None => candidate.id == node.node,
    });
    match (nodes.pop(), nodes.is_empty()) {
        (Some(found), true) => Ok(found),
        (Some(_), false) => Err(Failure::usage(format!("several nodes have the id {}", node.node))
            .hint("give the public key instead of the id")),
        (None, _) => Err(Failure::not_found(format!("node {} not found", node.node))
            .at(leader.address())
            .hint("run `curatorctl nodes list`")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_asked_for_by_an_expression() {
        assert_eq!(with_labels(String::new(), &[]), "");
        assert_eq!(with_labels("a || b".into(), &[]), "a || b");
        let labels = ["rack=r\"1".to_owned(), "ssd".to_owned()];
        assert_eq!(
            with_labels("a || b".into(), &labels),
            "(a || b) && node.labels.pairs.exists(label, label.key == \"rack\" && label.value == \"r\\\"1\") && \
             node.labels.pairs.exists(label, label.key == \"ssd\")"
        );
    }
}
