//! Changes of node labels by operators.

use std::collections::{BTreeMap, BTreeSet};

use curator_proto::common::{NodeLabels, node_labels};
use curator_proto::management_api::{UpdateNodeLabelsRequest, UpdateNodeLabelsResponse};
use tonic::Status;

use crate::leader::Leader;
use crate::leader::nodes::lookup;
use crate::validate::{MAX_LABELS, label_key, label_value};

impl Leader {
    /// Adds, replaces and removes labels of a node, all in one transaction.
    pub(in crate::leader) async fn update_node_labels(
        &self,
        request: UpdateNodeLabelsRequest,
    ) -> Result<UpdateNodeLabelsResponse, Status> {
        let id = crate::validate::Selector::id(request.node)?;
        let mut upsert = BTreeMap::new();
        for pair in &request.upsert {
            label_key(&pair.key)?;
            label_value(&pair.value)?;
            if upsert.insert(&pair.key, &pair.value).is_some() {
                return Err(Status::invalid_argument(format!(
                    "upsert: duplicate key {:?}",
                    pair.key
                )));
            }
        }
        let mut delete = BTreeSet::new();
        for key in &request.delete {
            label_key(key)?;
            if upsert.contains_key(key) {
                return Err(Status::invalid_argument(format!(
                    "delete: key {key:?} is also in upsert"
                )));
            }
            if !delete.insert(key) {
                return Err(Status::invalid_argument(format!("delete: duplicate key {key:?}")));
            }
        }
        self.state
            .transact(|tx| {
                let mut node = lookup::node(tx, &id)?;
                let mut labels: BTreeMap<String, String> = node
                    .labels()
                    .iter()
                    .map(|pair| (pair.key.clone(), pair.value.clone()))
                    .collect();
                labels.retain(|key, _| !delete.contains(key));
                labels.extend(upsert.iter().map(|(key, value)| ((*key).clone(), (*value).clone())));
                if labels.len() > MAX_LABELS {
                    return Err(Status::out_of_range(format!(
                        "node {id} would have {} labels (max {MAX_LABELS})",
                        labels.len()
                    )));
                }
                let pairs = labels.into_iter().map(|(key, value)| node_labels::Pair { key, value });
                node.message_mut().labels = Some(NodeLabels { pairs: pairs.collect() });
                lookup::save(node, tx)?;
                Ok(UpdateNodeLabelsResponse {})
            })
            .await
    }
}
