//! `curatorctl nodes watch`: prints all nodes and then each change.

use std::collections::BTreeMap;
use std::time::Duration;

use curator_client::Instance;
use curator_identity::retry_delay;
use curator_proto::curator_api::curator_client::CuratorClient;
use curator_proto::curator_api::watch_event::Progress;
use curator_proto::curator_api::watch_request::{Kind, NodesInCluster};
use curator_proto::curator_api::{Node, WatchRequest};
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};
use tonic::{Code, Request, Status};

use super::render::{role_names, state_name};
use crate::connect::{Cluster, client};
use crate::error::Failure;

/// How long to wait before the next watch, for example after a change of leader.
const RETRY_INTERVAL: Duration = Duration::from_millis(250);

/// Prints until interrupted. When a watch ends, the next one starts, and changes in between are printed.
pub(crate) async fn run(cluster: &Cluster, leader: Instance) -> Result<(), Failure> {
    let mut known = BTreeMap::new();
    let mut at = leader;
    loop {
        let status = watch(cluster, &at, &mut known).await?;
        match retry_delay(&status) {
            Some(wait) => sleep(wait.max(RETRY_INTERVAL)).await,
            None if is_retryable(&status) => sleep(RETRY_INTERVAL).await,
            None => return Err(Failure::of_status(&status, at.address())),
        }
        // Each search for an instance has its own timeout.
        let again = Cluster::new(crate::settings::Settings {
            endpoints: cluster.settings.endpoints.clone(),
            ca: cluster.settings.ca.clone(),
            members: cluster.settings.members.clone(),
            cert: cluster.settings.cert.clone(),
            key: cluster.settings.key.clone(),
            ..cluster.settings
        });
        at = again.leader().await?;
    }
}

/// Whether a watch that ended with this status is retried.
fn is_retryable(status: &Status) -> bool {
    matches!(status.code(), Code::Unavailable | Code::Aborted | Code::OutOfRange)
}

/// Runs one watch to its end, and returns the final status.
async fn watch(cluster: &Cluster, at: &Instance, known: &mut BTreeMap<String, Value>) -> Result<Status, Failure> {
    let mut curator = client!(CuratorClient, at);
    let request = Request::new(WatchRequest {
        kind: Some(Kind::NodesInCluster(NodesInCluster {})),
    });
    let begun = match timeout(cluster.settings.timeout, curator.watch(request)).await {
        Ok(Ok(begun)) => begun,
        Ok(Err(status)) => return Ok(status),
        Err(_) => return Ok(Status::deadline_exceeded("")),
    };
    let mut events = begun.into_inner();
    // Nodes that are not in the backlog were deleted since the last watch.
    let mut missing: Vec<String> = known.keys().cloned().collect();
    loop {
        let event = match events.message().await {
            Ok(Some(event)) => event,
            Ok(None) => return Ok(Status::unavailable("the watch ended")),
            Err(status) => return Ok(status),
        };
        for node in &event.nodes {
            missing.retain(|id| *id != node.id);
            let data = data(node);
            // A change is printed once, however often the leader changes.
            if known.get(&node.id) != Some(&data) {
                cluster.settings.output.print_one(&data, &text(&data))?;
                known.insert(node.id.clone(), data);
            }
        }
        let mut gone: Vec<_> = event.node_tombstones.iter().map(|gone| gone.node_id.clone()).collect();
        if event.progress() == Progress::LastBacklogged {
            gone.append(&mut missing);
        }
        for id in gone {
            if known.remove(&id).is_some() {
                let data = json!({"id": id, "deleted": true});
                cluster.settings.output.print_one(&data, &format!("{id} deleted"))?;
            }
        }
    }
}

fn data(node: &Node) -> Value {
    let status = node.status.as_ref();
    let labels = node.labels.iter().flat_map(|labels| &labels.pairs);
    let labels: serde_json::Map<String, Value> = labels
        .map(|pair| (pair.key.clone(), pair.value.clone().into()))
        .collect();
    json!({
        "id": node.id,
        "state": state_name(node.state()),
        "roles": role_names(node.roles.as_ref()),
        "address": status.map(|status| &status.external_address).filter(|address| !address.is_empty()),
        "labels": labels,
    })
}

fn text(data: &Value) -> String {
    let words = |value: &Value| -> String {
        let all: Vec<_> = value
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        all.join(",")
    };
    let labels: Vec<_> = data["labels"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
        .collect();
    let dash = |text: String| if text.is_empty() { "-".to_owned() } else { text };
    format!(
        "{} {} roles {} address {} labels {}",
        data["id"].as_str().unwrap_or_default(),
        data["state"].as_str().unwrap_or_default(),
        dash(words(&data["roles"])),
        data["address"].as_str().unwrap_or("-"),
        dash(labels.join(",")),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_what_a_node_is() {
        let node = Node {
            id: "metropolis-01".into(),
            state: 3,
            ..Default::default()
        };
        assert_eq!(text(&data(&node)), "metropolis-01 up roles - address - labels -");
    }

    #[test]
    fn a_watch_goes_on_through_a_change_of_leader_and_not_through_a_refusal() {
        assert!(is_retryable(&Status::unavailable("")) && is_retryable(&Status::aborted("")));
        assert!(!is_retryable(&Status::unauthenticated("")) && !is_retryable(&Status::permission_denied("")));
    }
}
