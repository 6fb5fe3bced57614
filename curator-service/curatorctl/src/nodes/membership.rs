//! `curatorctl nodes approve`, `decommission` and `delete`: a node's way into the cluster and out of it.

use curator_client::Instance;
use curator_proto::management_api::delete_node_request::{SafetyBypassHasRoles, SafetyBypassNotDecommissioned};
use curator_proto::management_api::management_client::ManagementClient;
use curator_proto::management_api::{
    ApproveNodeRequest, DecommissionNodeRequest, DeleteNodeRequest, Node, decommission_node_request,
    delete_node_request,
};

use super::query::find;
use super::registrations::{self, registrations};
use super::render::{role_names, state_name};
use super::{NodeArg, done};
use crate::confirm::{Answer, Confirm, Required};
use crate::connect::{Cluster, client};
use crate::error::Failure;
use crate::step_down::step_down;
use crate::text::key_from_hex;

pub(super) async fn approve(
    cluster: &Cluster,
    leader: &Instance,
    node: &NodeArg,
    confirm: &Confirm,
) -> Result<(), Failure> {
    // The lookup happens once, and the request names the key, so exactly the node that was shown is approved.
    let node = find(cluster, leader, node).await?;
    let known = registrations(cluster, leader, &node.id).await?;
    let action = format!("approve {}", registrations::sentence(&node, known.get(&node.id)));
    if confirm.ask(Required::AtTerminals, &action)? == Answer::Stop {
        return Ok(());
    }
    let request = ApproveNodeRequest {
        pubkey: node.pubkey.clone(),
    };
    let mut management = client!(ManagementClient, leader);
    let call = async || management.approve_node(cluster.request(request.clone())).await;
    cluster.call(leader, call).await?;
    done(cluster, &node.id, "approved")
}

pub(super) async fn decommission(
    cluster: &Cluster,
    leader: &Instance,
    node: &NodeArg,
    confirm: &Confirm,
) -> Result<(), Failure> {
    let found = find(cluster, leader, node).await?;
    let action = format!("decommission {}", described(&found));
    if confirm.ask(Required::Always, &action)? == Answer::Stop {
        return Ok(());
    }
    let request = DecommissionNodeRequest {
        node: Some(match key_from_hex(&node.node) {
            Some(key) => decommission_node_request::Node::Pubkey(key),
            None => decommission_node_request::Node::Id(node.node.clone()),
        }),
    };
    let mut management = client!(ManagementClient, leader);
    let call = async || management.decommission_node(cluster.request(request.clone())).await;
    cluster.call(leader, call).await?;
    done(
        cluster,
        &node.node,
        "is being decommissioned: `curatorctl nodes watch` shows the roles it loses; the leader logs what blocks it",
    )
}

/// Deletes a node. If the node leads, another instance takes over first.
pub(super) async fn delete(
    cluster: &Cluster,
    leader: Instance,
    node: &NodeArg,
    bypass: Bypass,
    confirm: &Confirm,
) -> Result<(), Failure> {
    let found = find(cluster, &leader, node).await?;
    let leads = leader.leader().is_some_and(|leader| leader.node_id == found.id);
    let first = if leads { "transfer leadership, and then " } else { "" };
    let action = format!("{first}delete {}; its key can never register again", described(&found));
    if confirm.ask(Required::Always, &action)? == Answer::Stop {
        return Ok(());
    }
    if leads {
        step_down(cluster, None).await?;
    }
    let leader = if leads { cluster.leader().await? } else { leader };
    let request = DeleteNodeRequest {
        safety_bypass_has_roles: bypass.has_roles.then_some(SafetyBypassHasRoles {}),
        safety_bypass_not_decommissioned: bypass.not_decommissioned.then_some(SafetyBypassNotDecommissioned {}),
        node: Some(match key_from_hex(&node.node) {
            Some(key) => delete_node_request::Node::Pubkey(key),
            None => delete_node_request::Node::Id(node.node.clone()),
        }),
    };
    let mut management = client!(ManagementClient, leader);
    let call = async || management.delete_node(cluster.request(request.clone())).await;
    cluster.call(&leader, call).await?;
    done(cluster, &node.node, "deleted")
}

/// The safety checks of a deletion that are skipped.
#[derive(clap::Args, Clone, Copy)]
pub(crate) struct Bypass {
    /// Delete the node even if it has roles.
    #[arg(long = "bypass-has-roles")]
    has_roles: bool,
    /// Delete the node even if it is not decommissioned.
    #[arg(long = "bypass-not-decommissioned")]
    not_decommissioned: bool,
}

/// A node with its state and roles, for a confirmation prompt.
fn described(node: &Node) -> String {
    let roles = match role_names(node.roles.as_ref()).join(", ") {
        none if none.is_empty() => "no roles".to_owned(),
        roles => roles,
    };
    format!("{} ({}, {roles})", node.id, state_name(node.state()))
}
