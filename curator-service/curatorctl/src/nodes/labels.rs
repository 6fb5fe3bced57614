//! `curatorctl nodes labels`: sets and removes labels of a node.

use curator_client::Instance;
use curator_proto::management_api::management_client::ManagementClient;
use curator_proto::management_api::update_node_labels_request::Pair;
use curator_proto::management_api::{UpdateNodeLabelsRequest, update_node_labels_request};

use super::{NodeArg, done};
use crate::connect::{Cluster, client};
use crate::error::Failure;
use crate::text::key_from_hex;

/// One change of a label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    Set(String, String),
    Remove(String),
}

pub(super) fn parse_change(text: &str) -> Result<Change, String> {
    match (text.split_once('='), text.strip_suffix('-')) {
        (Some((key, value)), _) if !key.is_empty() => Ok(Change::Set(key.to_owned(), value.to_owned())),
        (None, Some(key)) if !key.is_empty() => Ok(Change::Remove(key.to_owned())),
        _ => Err("expected key=value to set a label, or key- to remove it".to_owned()),
    }
}

pub(super) async fn run(
    cluster: &Cluster,
    leader: &Instance,
    node: &NodeArg,
    changes: Vec<Change>,
) -> Result<(), Failure> {
    let (mut upsert, mut delete) = (Vec::new(), Vec::new());
    for change in changes {
        match change {
            Change::Set(key, value) => upsert.push(Pair { key, value }),
            Change::Remove(key) => delete.push(key),
        }
    }
    let request = UpdateNodeLabelsRequest {
        upsert,
        delete,
        node: Some(match key_from_hex(&node.node) {
            Some(key) => update_node_labels_request::Node::Pubkey(key),
            None => update_node_labels_request::Node::Id(node.node.clone()),
        }),
    };
    let mut management = client!(ManagementClient, leader);
    let call = async || management.update_node_labels(cluster.request(request.clone())).await;
    cluster.call(leader, call).await?;
    done(cluster, &node.node, "labels updated")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_set_and_removed() {
        assert_eq!(parse_change("a=b=c-"), Ok(Change::Set("a".into(), "b=c-".into())));
        assert_eq!(parse_change("a-"), Ok(Change::Remove("a".into())));
        for bad in ["", "a", "=b", "-"] {
            assert!(parse_change(bad).is_err(), "{bad:?}");
        }
    }
}
