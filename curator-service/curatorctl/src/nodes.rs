//! `curatorctl nodes`: the nodes of the cluster.

use clap::{Subcommand, ValueEnum};
use curator_identity::patiently;
use curator_proto::common::{NodeRoles, NodeState};
use curator_proto::management_api::delete_node_request::{SafetyBypassHasRoles, SafetyBypassNotDecommissioned};
use curator_proto::management_api::management_client::ManagementClient;
use curator_proto::management_api::node::Health;
use curator_proto::management_api::update_node_labels_request::Pair;
use curator_proto::management_api::{
    ApproveNodeRequest, DecommissionNodeRequest, DeleteNodeRequest, GetNodesRequest, Node, UpdateNodeLabelsRequest,
    UpdateNodeRolesRequest, decommission_node_request, delete_node_request, update_node_labels_request,
    update_node_roles_request,
};
use serde_json::{Map, Value, json};
use tokio::time::timeout_at;
use tonic::Status;

use crate::confirm::{Asked, Care, Go};
use crate::connect::{Cluster, Reached, client};
use crate::failure::Failure;
use crate::output::{Format, Table, say};
use crate::registered::{self, registrations};
use crate::step_down::step_down;
use crate::text::{for_people, hex, key_from_hex, seconds, sha256, short};
use crate::watch;

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Lists the nodes, or those that a CEL expression over `node` holds for.
    List {
        /// Such as: node.state == NODE_STATE_NEW || has(node.roles.consensus_member)
        #[arg(long, short, value_name = "CEL", default_value = "", hide_default_value = true)]
        filter: String,
        /// Only nodes with this label: key=value, or key for any value. May be repeated: then all of them.
        #[arg(long, short = 'l', value_name = "LABEL")]
        label: Vec<String>,
    },
    /// Shows one node.
    Get(One),
    /// Lists the nodes that wait for their approval: when and where from each has registered, and the SHA-256 of its key, which
    /// `curator register` prints there.
    Pending,
    /// Lets a node that has registered become a member. Says first when and where from it has registered, and asks if there is a
    /// terminal.
    Approve {
        #[command(flatten)]
        node: One,
        #[command(flatten)]
        care: Care,
    },
    /// Gives roles to a node, and takes them away.
    Roles {
        #[command(flatten)]
        node: One,
        /// A role that it gets; may be repeated.
        #[arg(long, value_enum, required_unless_present = "remove")]
        add: Vec<Role>,
        /// A role that it loses; may be repeated.
        #[arg(long, value_enum)]
        remove: Vec<Role>,
        #[command(flatten)]
        care: Care,
    },
    /// Changes the labels of a node.
    Labels {
        #[command(flatten)]
        node: One,
        /// key=value to set one, key- to remove one.
        #[arg(required = true, value_name = "CHANGE", value_parser = parse_change)]
        changes: Vec<Change>,
    },
    /// Takes a node out of service, role by role, so that it can be deleted.
    Decommission {
        #[command(flatten)]
        node: One,
        #[command(flatten)]
        care: Care,
    },
    /// Removes a node from the cluster.
    Delete {
        #[command(flatten)]
        node: One,
        /// Even if it has roles.
        #[arg(long)]
        bypass_has_roles: bool,
        /// Even if it has not been decommissioned.
        #[arg(long)]
        bypass_not_decommissioned: bool,
        #[command(flatten)]
        care: Care,
    },
    /// Prints all nodes, and then each change, until it is told to end.
    Watch,
}

#[derive(clap::Args)]
pub(crate) struct One {
    /// The node, by its id, or by its public key as 64 hex digits.
    #[arg(value_name = "NODE")]
    node: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Role {
    ConsensusMember,
    KubernetesController,
    KubernetesWorker,
}

impl Role {
    const fn name(self) -> &'static str {
        match self {
            Self::ConsensusMember => "consensus-member",
            Self::KubernetesController => "kubernetes-controller",
            Self::KubernetesWorker => "kubernetes-worker",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    Set(String, String),
    Remove(String),
}

fn parse_change(text: &str) -> Result<Change, String> {
    match (text.split_once('='), text.strip_suffix('-')) {
        (Some((key, value)), _) if !key.is_empty() => Ok(Change::Set(key.to_owned(), value.to_owned())),
        (None, Some(key)) if !key.is_empty() => Ok(Change::Remove(key.to_owned())),
        _ => Err("give key=value to set a label, or key- to remove one".to_owned()),
    }
}

pub(crate) async fn run(cluster: &Cluster, command: Command) -> Result<(), Failure> {
    let leader = cluster.leader().await?;
    let mut management = client!(ManagementClient, leader);
    match command {
        Command::List { filter, label } => {
            let nodes = get(cluster, &leader, with_labels(filter, &label)).await?;
            cluster.settings.output.print(&data(&nodes), &table(&nodes))
        }
        Command::Get(one) => {
            let node = find(cluster, &leader, &one).await?;
            let known = registrations(cluster, &leader, &node.id).await?;
            let mut data = one_data(&node);
            data["key_sha256"] = sha256(&node.pubkey).into();
            data["registered_at"] = registered::at(known.get(&node.id)).into();
            data["registered_from"] = registered::from(known.get(&node.id)).map(str::to_owned).into();
            cluster.settings.output.print(&data, &details(&data))
        }
        Command::Pending => {
            let nodes = get(cluster, &leader, "node.state == NODE_STATE_NEW".to_owned()).await?;
            let known = registrations(cluster, &leader, "").await?;
            let (data, table) = registered::pending(&nodes, &known);
            cluster.settings.output.print(&data, &table)
        }
        Command::Approve { node, care } => {
            // By its key alone: which node is meant is looked up once, and that one is approved or none.
            let node = find(cluster, &leader, &node).await?;
            let known = registrations(cluster, &leader, &node.id).await?;
            let what = format!("approve {}", registered::sentence(&node, known.get(&node.id)));
            if care.ask(Asked::AtTerminals, &what)? == Go::NoFurther {
                return Ok(());
            }
            let request = ApproveNodeRequest {
                pubkey: node.pubkey.clone(),
            };
            cluster
                .call(&leader, async || {
                    management.approve_node(cluster.request(request.clone())).await
                })
                .await?;
            done(cluster, &node.id, "approved")
        }
        Command::Roles {
            node,
            add,
            remove,
            care,
        } => {
            let wish = |role| wish(role, &add, &remove);
            let request = UpdateNodeRolesRequest {
                consensus_member: wish(Role::ConsensusMember)?,
                kubernetes_controller: wish(Role::KubernetesController)?,
                kubernetes_worker: wish(Role::KubernetesWorker)?,
                node: Some(match key_from_hex(&node.node) {
                    Some(key) => update_node_roles_request::Node::Pubkey(key),
                    None => update_node_roles_request::Node::Id(node.node.clone()),
                }),
            };
            let names = |roles: &[Role]| roles.iter().map(|role| role.name()).collect::<Vec<_>>().join(", ");
            let what = format!(
                "change the roles of {}: add [{}], remove [{}]",
                node.node,
                names(&add),
                names(&remove)
            );
            // A member of the consensus is one of etcd: without it a quorum may be lost.
            let asked = match request.consensus_member {
                Some(false) => Asked::Always,
                _ => Asked::Never,
            };
            if care.ask(asked, &what)? == Go::NoFurther {
                return Ok(());
            }
            cluster
                .call(&leader, async || {
                    management.update_node_roles(cluster.request(request.clone())).await
                })
                .await?;
            done(cluster, &node.node, "has the roles asked for")
        }
        Command::Labels { node, changes } => {
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
            cluster
                .call(&leader, async || {
                    management.update_node_labels(cluster.request(request.clone())).await
                })
                .await?;
            done(cluster, &node.node, "has the labels asked for")
        }
        Command::Decommission { node: one, care } => {
            let found = find(cluster, &leader, &one).await?;
            let what = format!("take {} out of service", described(&found));
            if care.ask(Asked::Always, &what)? == Go::NoFurther {
                return Ok(());
            }
            let request = DecommissionNodeRequest {
                node: Some(match key_from_hex(&one.node) {
                    Some(key) => decommission_node_request::Node::Pubkey(key),
                    None => decommission_node_request::Node::Id(one.node.clone()),
                }),
            };
            cluster
                .call(&leader, async || {
                    management.decommission_node(cluster.request(request.clone())).await
                })
                .await?;
            done(
                cluster,
                &one.node,
                "is being decommissioned: `curatorctl nodes watch` shows each role that it loses; what holds it up, the leader logs",
            )
        }
        Command::Delete {
            node,
            bypass_has_roles,
            bypass_not_decommissioned,
            care,
        } => {
            let found = find(cluster, &leader, &node).await?;
            let leads = leader
                .leader
                .as_ref()
                .is_some_and(|leader| leader.leader_node_id == found.id);
            let first = if leads {
                "make another instance lead, and then "
            } else {
                ""
            };
            let what = format!(
                "{first}delete {}, which cannot come back under its key",
                described(&found)
            );
            if care.ask(Asked::Always, &what)? == Go::NoFurther {
                return Ok(());
            }
            if leads {
                step_down(cluster, None).await?;
            }
            let leader = if leads { cluster.leader().await? } else { leader };
            let mut management = client!(ManagementClient, leader);
            let request = DeleteNodeRequest {
                safety_bypass_has_roles: bypass_has_roles.then_some(SafetyBypassHasRoles {}),
                safety_bypass_not_decommissioned: bypass_not_decommissioned.then_some(SafetyBypassNotDecommissioned {}),
                node: Some(match key_from_hex(&node.node) {
                    Some(key) => delete_node_request::Node::Pubkey(key),
                    None => delete_node_request::Node::Id(node.node.clone()),
                }),
            };
            cluster
                .call(&leader, async || {
                    management.delete_node(cluster.request(request.clone())).await
                })
                .await?;
            done(cluster, &node.node, "deleted")
        }
        Command::Watch => watch::run(cluster, leader).await,
    }
}

/// A node that something is to be done with: what state it is in, and what it does.
fn described(node: &Node) -> String {
    let roles = match role_names(node.roles.as_ref()).join(", ") {
        none if none.is_empty() => "no roles".to_owned(),
        roles => roles,
    };
    format!("{} ({}, {roles})", node.id, state_name(node.state()))
}

fn done(cluster: &Cluster, node: &str, what: &str) -> Result<(), Failure> {
    match cluster.settings.output {
        Format::Table | Format::Wide => say(&format!("{node} {what}")),
        format => format.print(&json!({"node": node, "done": true}), &Table::default()),
    }
}

/// What is wanted of a role: nothing, if it is not named.
fn wish(role: Role, add: &[Role], remove: &[Role]) -> Result<Option<bool>, Failure> {
    match (add.contains(&role), remove.contains(&role)) {
        (true, true) => Err(Failure::usage("a role can be added or removed, not both at once")),
        (true, false) => Ok(Some(true)),
        (false, true) => Ok(Some(false)),
        (false, false) => Ok(None),
    }
}

/// All nodes that the expression holds for.
async fn get(cluster: &Cluster, leader: &Reached, filter: String) -> Result<Vec<Node>, Failure> {
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
    let answer = timeout_at(cluster.deadline(), patiently(cluster.deadline(), all)).await;
    let answer = answer.unwrap_or_else(|_| Err(Status::deadline_exceeded("")));
    answer.map_err(|status| match status.message() {
        // To evaluate it may fail as well, whoever is asked and however often.
        wrong if wrong.starts_with("filter: ") => Failure::usage(wrong)
            .at(leader.address.clone())
            .hint("docs/filters.md has examples; -l key=value asks for a label"),
        _ => Failure::of_status(&status, &leader.address),
    })
}

/// The expression for these labels, and for what else is asked for.
fn with_labels(filter: String, labels: &[String]) -> String {
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
    match all.is_empty() {
        true => filter,
        false => all.join(" && "),
    }
}

/// The node that is meant. Two keys may share an id: then its key has to be given.
async fn find(cluster: &Cluster, leader: &Reached, one: &One) -> Result<Node, Failure> {
    let key = key_from_hex(&one.node);
    let mut nodes = get(cluster, leader, String::new()).await?;
    nodes.retain(|node| match &key {
        Some(key) => node.pubkey == *key,
        None => node.id == one.node,
    });
    match (nodes.pop(), nodes.is_empty()) {
        (Some(node), true) => Ok(node),
        (Some(_), false) => {
            Err(Failure::usage(format!("there are several nodes {}", one.node)).hint("name it by its key"))
        }
        (None, _) => Err(Failure::not_found(format!("there is no node {}", one.node))
            .at(leader.address.clone())
            .hint("`curatorctl nodes list` lists those that there are")),
    }
}

pub(crate) fn role_names(roles: Option<&NodeRoles>) -> Vec<&'static str> {
    let Some(roles) = roles else { return Vec::new() };
    let all = [
        (roles.consensus_member.is_some(), "consensus-member"),
        (roles.kubernetes_controller.is_some(), "kubernetes-controller"),
        (roles.kubernetes_worker.is_some(), "kubernetes-worker"),
    ];
    all.iter().filter(|(has, _)| *has).map(|(_, name)| *name).collect()
}

/// As long as nobody waits, in seconds: a century.
const NEVER: f64 = 100.0 * 365.0 * 86_400.0;

pub(crate) fn state_name(state: NodeState) -> String {
    short(state.as_str_name(), "NODE_STATE_")
}

fn table(nodes: &[Node]) -> Table {
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

/// How long ago the leader has heard of it, in seconds; `None` if it never has, which is said by the longest time that there is.
fn since_heartbeat(node: &Node) -> Option<f64> {
    seconds(node.time_since_heartbeat.as_ref()).filter(|since| *since < NEVER)
}

fn data(nodes: &[Node]) -> Value {
    nodes.iter().map(one_data).collect::<Vec<_>>().into()
}

fn one_data(node: &Node) -> Value {
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

fn details(data: &Value) -> Table {
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

    #[test]
    fn labels_are_set_and_removed() {
        assert_eq!(parse_change("a=b=c-"), Ok(Change::Set("a".into(), "b=c-".into())));
        assert_eq!(parse_change("a-"), Ok(Change::Remove("a".into())));
        for bad in ["", "a", "=b", "-"] {
            assert!(parse_change(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn roles_that_are_not_named_stay() {
        let (add, remove) = ([Role::ConsensusMember], [Role::KubernetesWorker]);
        assert_eq!(wish(Role::ConsensusMember, &add, &remove), Ok(Some(true)));
        assert_eq!(wish(Role::KubernetesWorker, &add, &remove), Ok(Some(false)));
        assert_eq!(wish(Role::KubernetesController, &add, &remove), Ok(None));
        assert!(wish(Role::ConsensusMember, &add, &add).is_err());
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
