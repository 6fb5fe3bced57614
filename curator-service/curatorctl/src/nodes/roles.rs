//! `curatorctl nodes roles`: adds and removes roles of a node.

use clap::ValueEnum;
use curator_client::Instance;
use curator_proto::management_api::management_client::ManagementClient;
use curator_proto::management_api::{UpdateNodeRolesRequest, update_node_roles_request};

use super::{NodeArg, done};
use crate::confirm::{Answer, Confirm, Required};
use crate::connect::{Cluster, client};
use crate::error::Failure;
use crate::text::key_from_hex;

/// A role of a node.
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

pub(super) async fn run(
    cluster: &Cluster,
    leader: &Instance,
    node: &NodeArg,
    add: &[Role],
    remove: &[Role],
    confirm: &Confirm,
) -> Result<(), Failure> {
    let update = |role| role_update(role, add, remove);
    let request = UpdateNodeRolesRequest {
        consensus_member: update(Role::ConsensusMember)?,
        kubernetes_controller: update(Role::KubernetesController)?,
        kubernetes_worker: update(Role::KubernetesWorker)?,
        node: Some(match key_from_hex(&node.node) {
            Some(key) => update_node_roles_request::Node::Pubkey(key),
            None => update_node_roles_request::Node::Id(node.node.clone()),
        }),
    };
    let names = |roles: &[Role]| roles.iter().map(|role| role.name()).collect::<Vec<_>>().join(", ");
    let action = format!(
        "change the roles of {}: add [{}], remove [{}]",
        node.node,
        names(add),
        names(remove)
    );
    // Removing an etcd member can lose the quorum.
    let required = match request.consensus_member {
        Some(false) => Required::Always,
        _ => Required::Never,
    };
    if confirm.ask(required, &action)? == Answer::Stop {
        return Ok(());
    }
    let mut management = client!(ManagementClient, leader);
    let call = async || management.update_node_roles(cluster.request(request.clone())).await;
    cluster.call(leader, call).await?;
    done(cluster, &node.node, "roles updated")
}

/// Whether to add or remove a role; `None` leaves it unchanged.
fn role_update(role: Role, add: &[Role], remove: &[Role]) -> Result<Option<bool>, Failure> {
    match (add.contains(&role), remove.contains(&role)) {
        (true, true) => Err(Failure::usage("the same role is given to --add and --remove")),
        (true, false) => Ok(Some(true)),
        (false, true) => Ok(Some(false)),
        (false, false) => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_that_are_not_named_stay() {
        let (add, remove) = ([Role::ConsensusMember], [Role::KubernetesWorker]);
        assert_eq!(role_update(Role::ConsensusMember, &add, &remove), Ok(Some(true)));
        assert_eq!(role_update(Role::KubernetesWorker, &add, &remove), Ok(Some(false)));
        assert_eq!(role_update(Role::KubernetesController, &add, &remove), Ok(None));
        assert!(role_update(Role::ConsensusMember, &add, &add).is_err());
    }
}
