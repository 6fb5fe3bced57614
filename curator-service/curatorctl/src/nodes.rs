//! `curatorctl nodes`: the nodes of the cluster.

mod labels;
mod membership;
mod query;
mod registrations;
mod render;
mod roles;
mod watch;

use clap::Subcommand;
use curator_client::Instance;
use labels::{Change, parse_change};
use membership::Bypass;
use query::{find, get, with_labels};
use registrations::registrations;
use roles::Role;
use serde_json::json;

use crate::confirm::Confirm;
use crate::connect::Cluster;
use crate::error::Failure;
use crate::output::{Format, Table, say};
use crate::text::sha256;

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Lists all nodes, or those that match a CEL expression or labels.
    List {
        /// A CEL expression, such as: node.state == NODE_STATE_NEW || has(node.roles.consensus_member)
        #[arg(long, short, value_name = "CEL", default_value = "", hide_default_value = true)]
        filter: String,
        /// Only nodes with this label: key=value, or key for any value. Repeat the flag to require several labels.
        #[arg(long, short = 'l', value_name = "LABEL")]
        label: Vec<String>,
    },
    /// Shows one node.
    Get(NodeArg),
    /// Lists the nodes that wait for approval: when and from where each one registered, and the SHA-256 of its key.
    /// `curator register` prints the same SHA-256 on the node.
    Pending,
    /// Approves a registered node. Shows when and from where it registered, and asks for confirmation on a terminal.
    Approve {
        #[command(flatten)]
        node: NodeArg,
        #[command(flatten)]
        confirm: Confirm,
    },
    /// Adds roles to a node and removes them.
    Roles {
        #[command(flatten)]
        node: NodeArg,
        /// A role to add; may be repeated.
        #[arg(long, value_enum, required_unless_present = "remove")]
        add: Vec<Role>,
        /// A role to remove; may be repeated.
        #[arg(long, value_enum)]
        remove: Vec<Role>,
        #[command(flatten)]
        confirm: Confirm,
    },
    /// Sets and removes labels of a node.
    Labels {
        #[command(flatten)]
        node: NodeArg,
        /// key=value sets a label, key- removes it.
        #[arg(required = true, value_name = "CHANGE", value_parser = parse_change)]
        changes: Vec<Change>,
    },
    /// Takes a node out of service, one role at a time, so that it can be deleted.
    Decommission {
        #[command(flatten)]
        node: NodeArg,
        #[command(flatten)]
        confirm: Confirm,
    },
    /// Deletes a node from the cluster. If the node leads, another instance takes over first.
    Delete {
        #[command(flatten)]
        node: NodeArg,
        #[command(flatten)]
        bypass: Bypass,
        #[command(flatten)]
        confirm: Confirm,
    },
    /// Prints all nodes and then each change, until interrupted.
    Watch,
}

/// The node that a command is about.
#[derive(clap::Args)]
pub(crate) struct NodeArg {
    /// The node: its id, or its public key as 64 hex digits.
    #[arg(value_name = "NODE")]
    node: String,
}

pub(crate) async fn run(cluster: &Cluster, command: Command) -> Result<(), Failure> {
    let leader = cluster.leader().await?;
    match command {
        Command::List { filter, label } => list(cluster, &leader, with_labels(filter, &label)).await,
        Command::Get(node) => show(cluster, &leader, &node).await,
        Command::Pending => pending(cluster, &leader).await,
        Command::Approve { node, confirm } => membership::approve(cluster, &leader, &node, &confirm).await,
        Command::Roles {
            node,
            add,
            remove,
            confirm,
        } => roles::run(cluster, &leader, &node, &add, &remove, &confirm).await,
        Command::Labels { node, changes } => labels::run(cluster, &leader, &node, changes).await,
        Command::Decommission { node, confirm } => membership::decommission(cluster, &leader, &node, &confirm).await,
        Command::Delete { node, bypass, confirm } => membership::delete(cluster, leader, &node, bypass, &confirm).await,
        Command::Watch => watch::run(cluster, leader).await,
    }
}

async fn list(cluster: &Cluster, leader: &Instance, filter: String) -> Result<(), Failure> {
    let nodes = get(cluster, leader, filter).await?;
    cluster
        .settings
        .output
        .print(&render::data(&nodes), &render::table(&nodes))
}

async fn show(cluster: &Cluster, leader: &Instance, node: &NodeArg) -> Result<(), Failure> {
    let node = find(cluster, leader, node).await?;
    let known = registrations(cluster, leader, &node.id).await?;
    let mut data = render::one_data(&node);
    data["key_sha256"] = sha256(&node.pubkey).into();
    data["registered_at"] = registrations::at(known.get(&node.id)).into();
    data["registered_from"] = registrations::from(known.get(&node.id)).map(str::to_owned).into();
    cluster.settings.output.print(&data, &render::details(&data))
}

async fn pending(cluster: &Cluster, leader: &Instance) -> Result<(), Failure> {
    let nodes = get(cluster, leader, "node.state == NODE_STATE_NEW".to_owned()).await?;
    let known = registrations(cluster, leader, "").await?;
    let (data, table) = registrations::pending(&nodes, &known);
    cluster.settings.output.print(&data, &table)
}

/// Reports that a change was made.
fn done(cluster: &Cluster, node: &str, what: &str) -> Result<(), Failure> {
    match cluster.settings.output {
        Format::Table | Format::Wide => say(&format!("{node} {what}")),
        format => format.print(&json!({"node": node, "done": true}), &Table::default()),
    }
}
