//! Nodes as tables and as JSON.

use curator_proto::common::{NodeRoles, NodeState};
use curator_proto::management_api::Node;
use curator_proto::management_api::node::Health;
use serde_json::{Map, Value, json};

use crate::output::Table;
use crate::text::{for_people, hex, seconds, short};

pub(super) fn role_names(roles: Option<&NodeRoles>) -> Vec<&'static str> {
    let Some(roles) = roles else { return Vec::new() };
    let all = [
        (roles.consensus_member.is_some(), "consensus-member"),
        (roles.kubernetes_controller.is_some(), "kubernetes-controller"),
        (roles.kubernetes_worker.is_some(), "kubernetes-worker"),
    ];
    all.iter().filter(|(has, _)| *has).map(|(_, name)| *name).collect()
}

/// Seconds of a century; a longer time since the last heartbeat means that there was none.
const NEVER: f64 = 100.0 * 365.0 * 86_400.0;

pub(super) fn state_name(state: NodeState) -> String {
    short(state.as_str_name(), "NODE_STATE_")
}

pub(super) fn table(nodes: &[Node]) -> Table {
    let mut table = Table::new(&["NODE", "STATE", "HEALTH", "HEARTBEAT", "ROLES", "ADDRESS", "LABELS"]);
    for node in nodes {
        let labels = node.labels.iter().flat_map(|labels| &labels.pairs);
        let labels: Vec<_> = labels.map(|pair| format!("{}={}", pair.key, pair.value)).collect();
        table.row([
            node.id.clone(),
            state_name(node.state()),
            short(Health::as_str_name(&node.health()), "HEALTH_"),
            match (node.health(), since_heartbeat(node)) {
                (Health::Unknown, _) => String::new(),
                (_, Some(since)) => for_people(since),
                (_, None) => "never".to_owned(),
            },
            role_names(node.roles.as_ref()).join(","),
            node.status
                .as_ref()
                .map(|status| status.external_address.clone())
                .unwrap_or_default(),
            labels.join(","),
        ]);
    }
    table
}

/// Seconds since the last heartbeat; `None` if there was none.
fn since_heartbeat(node: &Node) -> Option<f64> {
    seconds(node.time_since_heartbeat.as_ref()).filter(|since| *since < NEVER)
}

pub(super) fn data(nodes: &[Node]) -> Value {
    nodes.iter().map(one_data).collect::<Vec<_>>().into()
}

pub(super) fn one_data(node: &Node) -> Value {
    let labels = node.labels.iter().flat_map(|labels| &labels.pairs);
    let labels: Map<String, Value> = labels
        .map(|pair| (pair.key.clone(), pair.value.clone().into()))
        .collect();
    let status = node.status.as_ref();
    json!({
        "id": node.id,
        "public_key": hex(&node.pubkey),
        "state": state_name(node.state()),
        "health": short(Health::as_str_name(&node.health()), "HEALTH_"),
        "since_heartbeat_seconds": since_heartbeat(node),
        "roles": role_names(node.roles.as_ref()),
        "tpm_usage": short(node.tpm_usage().as_str_name(), "NODE_TPM_USAGE_"),
        "address": status.map(|status| &status.external_address).filter(|address| !address.is_empty()),
        "labels": labels,
    })
}

pub(super) fn details(data: &Value) -> Table {
    let mut table = Table::new(&["FIELD", "VALUE"]);
    for (name, value) in data.as_object().into_iter().flatten() {
        let text = match value {
            Value::Null => String::new(),
            Value::String(text) => text.clone(),
            Value::Array(all) => all.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(","),
            Value::Object(all) => {
                let all: Vec<_> = all
                    .iter()
                    .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
                    .collect();
                all.join(",")
            }
            other => other.to_string(),
        };
        table.row([name.clone(), text]);
    }
    table
}

#[cfg(test)]
mod tests {
    use curator_proto::common::node_roles::{ConsensusMember, KubernetesWorker};
    use curator_proto::common::{NodeLabels, NodeStatus, node_labels};

    use super::*;
    use crate::output::Format;

    fn node() -> Node {
        Node {
            id: "metropolis-01".into(),
            pubkey: vec![1; 32],
            state: NodeState::Up.into(),
            health: Health::Healthy.into(),
            time_since_heartbeat: Some(prost_types::Duration {
                seconds: 1,
                nanos: 500_000_000,
            }),
            roles: Some(NodeRoles {
                consensus_member: Some(ConsensusMember::default()),
                kubernetes_worker: Some(KubernetesWorker {}),
                ..Default::default()
            }),
            status: Some(NodeStatus {
                external_address: "10.0.0.1".into(),
                ..Default::default()
            }),
            labels: Some(NodeLabels {
                pairs: vec![node_labels::Pair {
                    key: "rack".into(),
                    value: "r1".into(),
                }],
            }),
            ..Default::default()
        }
    }

    #[test]
    fn nodes_are_listed() {
        let text = Format::Table.render(&data(&[node()]), &table(&[node()])).expect("text");
        let cells: Vec<_> = text.lines().nth(1).expect("a row").split_whitespace().collect();
        assert_eq!(
            cells,
            [
                "metropolis-01",
                "up",
                "healthy",
                "1.5s",
                "consensus-member,kubernetes-worker",
                "10.0.0.1",
                "rack=r1"
            ]
        );
        let one = one_data(&node());
        assert_eq!(one["labels"]["rack"], "r1");
        assert_eq!(one["public_key"], "01".repeat(32));
        let text = Format::Table.render(&one, &details(&one)).expect("text");
        assert!(text.contains("rack=r1"), "{text}");
    }

    #[test]
    fn node_that_was_never_heard_of_is_said_to_be_one() {
        let mut silent = node();
        silent.health = Health::HeartbeatTimeout.into();
        silent.time_since_heartbeat = Some(prost_types::Duration {
            seconds: i64::MAX / 1_000_000_000,
            nanos: 854_775_807,
        });
        let text = Format::Table
            .render(&data(&[silent.clone()]), &table(&[silent.clone()]))
            .expect("text");
        assert!(text.contains("never"), "{text}");
        assert_eq!(one_data(&silent)["since_heartbeat_seconds"], Value::Null);
        assert_eq!(one_data(&node())["since_heartbeat_seconds"], 1.5);
    }
}
