//! Node roles, and the consensus membership that belongs to one of them.
//!
//! The consensus membership is not part of the state, so no transaction covers both. The membership changes first. The
//! leader's reconciler then gives the role to a member without it, and takes it from a node that is not a member, so it
//! also completes a change that a crash interrupted. Every check runs before the first change.

use curator_identity::Subject;
use curator_proto::common::NodeRoles;
use curator_proto::common::node_roles::{self, ConsensusMember, KubernetesController, KubernetesWorker};
use curator_proto::management_api::{UpdateNodeRolesRequest, UpdateNodeRolesResponse};
use tonic::Status;
use tracing::{info, warn};

use crate::consensus::{Member, MembershipError};
use crate::leader::Leader;
use crate::leader::nodes::decommission::phase;
use crate::leader::nodes::lookup;
use crate::state::record::NodeRecord;
use crate::validate::key32;

/// The consensus peer port.
const CONSENSUS_PORT: u16 = 7834;

/// The requested changes of a node's roles.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct RoleUpdate {
    consensus_member: Option<bool>,
    kubernetes_controller: Option<bool>,
    kubernetes_worker: Option<bool>,
}

impl RoleUpdate {
    /// The resulting roles; `join` is the consensus member's data.
    fn apply(self, roles: &mut NodeRoles, join: Option<&ConsensusMember>) -> Result<(), Status> {
        match self.consensus_member {
            Some(true) => roles.consensus_member = Some(join.cloned().unwrap_or_default()),
            Some(false) if roles.kubernetes_controller.is_some() => {
                return Err(Status::failed_precondition(
                    "consensus_member: the node is a Kubernetes controller, which must be a consensus member: \
                     take that role away first, in a call of its own",
                ));
            }
            Some(false) => roles.consensus_member = None,
            None => {}
        }
        match self.kubernetes_controller {
            Some(true) if roles.consensus_member.is_none() => {
                return Err(Status::failed_precondition(
                    "kubernetes_controller: requires the consensus_member role",
                ));
            }
            Some(true) => roles.kubernetes_controller = Some(KubernetesController {}),
            Some(false) => roles.kubernetes_controller = None,
            None => {}
        }
        match self.kubernetes_worker {
            Some(true) => roles.kubernetes_worker = Some(KubernetesWorker {}),
            Some(false) => roles.kubernetes_worker = None,
            None => {}
        }
        Ok(())
    }

    fn gives_a_role(self) -> bool {
        [
            self.consensus_member,
            self.kubernetes_controller,
            self.kubernetes_worker,
        ]
        .contains(&Some(true))
    }
}

impl Leader {
    /// Gives and takes roles. Roles that are not mentioned stay unchanged.
    pub(in crate::leader) async fn update_node_roles(
        &self,
        request: UpdateNodeRolesRequest,
    ) -> Result<UpdateNodeRolesResponse, Status> {
        let wish = RoleUpdate {
            consensus_member: request.consensus_member,
            kubernetes_controller: request.kubernetes_controller,
            kubernetes_worker: request.kubernetes_worker,
        };
        let id = crate::validate::Selector::id(request.node)?;
        // All checks run before the membership changes.
        let node = self.state.transact(|tx| {
            let mut node = lookup::node(tx, &id)?;
            if wish.gives_a_role() && phase(tx, &id)?.is_some() {
                return Err(Status::failed_precondition(format!(
                    "node {id} is being decommissioned"
                )));
            }
            wish.apply(node.roles_mut(), None)?;
            Ok(node)
        });
        let node = node.await?;
        let join = match wish.consensus_member {
            Some(true) => Some(self.join_consensus(&node).await?),
            Some(false) => {
                self.leave_consensus(&id).await?;
                None
            }
            None => None,
        };
        self.state
            .transact(|tx| {
                let mut node = lookup::node(tx, &id)?;
                if wish.gives_a_role() && phase(tx, &id)?.is_some() {
                    return Err(Status::failed_precondition(format!(
                        "node {id} is being decommissioned"
                    )));
                }
                wish.apply(node.roles_mut(), join.as_ref())?;
                lookup::save(node, tx)?;
                Ok(UpdateNodeRolesResponse {})
            })
            .await
    }

    /// Adds a node to the consensus, if it is not a member, and returns the data it needs to join.
    async fn join_consensus(&self, node: &NodeRecord) -> Result<ConsensusMember, Status> {
        let members = self.context.membership.members().await;
        may_join(node.id(), &members.map_err(|error| not_changed(&error))?)?;
        let join = self.join_data(node, true).await?;
        join.ok_or_else(|| Status::internal("internal: the node was added to the consensus but is not a member"))
    }

    /// Returns the data that a consensus member needs to join. A node that is not a member is added if `add` is set.
    pub(in crate::leader) async fn join_data(
        &self,
        node: &NodeRecord,
        add: bool,
    ) -> Result<Option<ConsensusMember>, Status> {
        let id = node.id();
        let key = key32("public_key of the stored node", &node.message().public_key)
            .map_err(|invalid| Status::unavailable(invalid.to_string()))?;
        let authority = self.etcd_pki.authority(&self.state, self.now()).await?;
        let stored = self.etcd_pki.layout().issued(id);
        self.state.load(&[stored]).await?;
        let now = self.now();
        let peer_certificate = self
            .state
            .transact(|tx| {
                self.etcd_pki
                    .ensure(tx, &authority, id, &Subject::etcd_peer(id), &key, now)
            })
            .await?;
        let initial_crl = self.etcd_pki.crl(&self.state).await?;
        let membership = &self.context.membership;
        let members = membership.members().await.map_err(|error| not_changed(&error))?;
        let url = format!("https://{id}:{CONSENSUS_PORT}");
        if !members.iter().any(|member| member.node_id() == id) {
            if !add {
                return Ok(None);
            }
            self.check_term().await?;
            membership
                .add_learner(&url)
                .await
                .map_err(|error| not_changed(&error))?;
            info!(node = id, "added node to the consensus as a learner");
        }
        Ok(Some(ConsensusMember {
            ca_certificate: authority.certificate().to_vec(),
            peer_certificate,
            initial_crl,
            peers: peers(&members),
        }))
    }

    /// Removes a node from the consensus, if it is a member.
    pub(in crate::leader) async fn leave_consensus(&self, id: &str) -> Result<(), Status> {
        let membership = &self.context.membership;
        let members = membership.members().await.map_err(|error| not_changed(&error))?;
        for member in members.iter().filter(|member| member.node_id() == id) {
            self.check_term().await?;
            membership
                .remove(member.id)
                .await
                .map_err(|error| not_changed(&error))?;
            info!(node = id, "removed node from the consensus");
        }
        Ok(())
    }

    /// Checks the term once more before an operation that no fence covers, and waits while it is suspended.
    pub(in crate::leader) async fn check_term(&self) -> Result<(), Status> {
        let valid = self.state.fenced().term().valid().await;
        valid.map_err(|_| Status::unavailable("lost leadership"))
    }
}

/// Whether a member added for a node would be started. Members whose peer URLs name node IDs are started by their
/// nodes. If all peer URLs are addresses, operators run the members, and a learner added here would never start.
fn may_join(id: &str, members: &[Member]) -> Result<(), Status> {
    let is_member = members.iter().any(|member| member.node_id() == id);
    let by_itself = members.iter().all(Member::is_run_by_itself);
    match members.first().and_then(|member| member.peer_urls.first()) {
        Some(url) if by_itself && !is_member => Err(Status::failed_precondition(format!(
            "consensus_member: node {id} is not an etcd member, and the Curator does not start members of this etcd \
             (peer URLs such as {url} are not node IDs); run `etcdctl member add {id} --learner --peer-urls=...`, \
             start the member, and the node gets the role automatically (see docs/etcd-members.md)"
        ))),
        _ => Ok(()),
    }
}

/// The peers that a new member contacts: all voting members.
fn peers(members: &[Member]) -> Vec<node_roles::consensus_member::Peer> {
    let peer = |member: &Member| {
        let url = member.peer_urls.first()?.clone();
        let name = member.node_id();
        Some(node_roles::consensus_member::Peer { name, url })
    };
    members
        .iter()
        .filter(|member| !member.learner)
        .filter_map(peer)
        .collect()
}

fn not_changed(error: &MembershipError) -> Status {
    warn!(%error, "cannot read or change the consensus members");
    Status::unavailable(format!("consensus membership: {error}"))
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;

    fn applied(wish: RoleUpdate, consensus: bool, controller: bool) -> Result<(bool, bool, bool), Code> {
        let mut roles = NodeRoles {
            consensus_member: consensus.then(ConsensusMember::default),
            kubernetes_controller: controller.then_some(KubernetesController {}),
            kubernetes_worker: None,
        };
        wish.apply(&mut roles, None).map_err(|status| status.code())?;
        Ok((
            roles.consensus_member.is_some(),
            roles.kubernetes_controller.is_some(),
            roles.kubernetes_worker.is_some(),
        ))
    }

    const fn wish(consensus: Option<bool>, controller: Option<bool>, worker: Option<bool>) -> RoleUpdate {
        RoleUpdate {
            consensus_member: consensus,
            kubernetes_controller: controller,
            kubernetes_worker: worker,
        }
    }

    #[test]
    fn a_controller_is_a_consensus_member() {
        let (yes, no) = (Some(true), Some(false));
        assert_eq!(applied(wish(yes, yes, None), false, false), Ok((true, true, false)));
        assert_eq!(applied(wish(None, yes, None), true, false), Ok((true, true, false)));
        for consensus in [None, no] {
            assert_eq!(
                applied(wish(consensus, yes, None), false, false),
                Err(Code::FailedPrecondition)
            );
        }
        // The role can be given in one call, but taking it away needs two.
        assert_eq!(applied(wish(no, no, None), true, true), Err(Code::FailedPrecondition));
        assert_eq!(applied(wish(None, no, None), true, true), Ok((true, false, false)));
        assert_eq!(applied(wish(no, None, None), true, false), Ok((false, false, false)));
        assert_eq!(applied(wish(no, None, None), false, false), Ok((false, false, false)));
    }

    #[test]
    fn no_learner_is_added_that_nothing_would_start() {
        let member = |name: &str, url: &str| Member {
            id: 1,
            name: name.into(),
            peer_urls: vec![url.into()],
            learner: false,
        };
        let by_node = member("a", "https://a:7834");
        let by_hand = member("b", "https://10.0.0.2:2380");
        assert!(may_join("c", std::slice::from_ref(&by_node)).is_ok());
        assert!(may_join("c", &[by_node, by_hand.clone()]).is_ok());
        assert!(may_join("c", &[]).is_ok());
        let alone = std::slice::from_ref(&by_hand);
        assert!(may_join("b", alone).is_ok(), "a member may get the role");
        let refused = may_join("c", alone).unwrap_err();
        assert_eq!(refused.code(), Code::FailedPrecondition);
        for words in ["etcdctl member add c --learner", "https://10.0.0.2:2380"] {
            assert!(refused.message().contains(words), "{refused}");
        }
    }

    #[test]
    fn what_is_not_said_stays() {
        assert_eq!(applied(RoleUpdate::default(), true, true), Ok((true, true, false)));
        assert_eq!(
            applied(wish(None, None, Some(true)), true, false),
            Ok((true, false, true))
        );
    }
}
