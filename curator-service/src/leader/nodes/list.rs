//! Queries of the cluster and its nodes.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use curator_proto::common::cluster_directory::node::Address;
use curator_proto::common::node_roles::ConsensusMember;
use curator_proto::common::{ClusterDirectory, NodeLabels, NodeRoles, NodeState, cluster_directory};
use curator_proto::curator_api::get_consensus_status_response::EtcdMember;
use curator_proto::curator_api::get_consensus_status_response::etcd_member::Status as MemberStatus;
use curator_proto::curator_api::{GetConsensusStatusRequest, GetConsensusStatusResponse};
use curator_proto::management_api::node::Health;
use curator_proto::management_api::{GetClusterInfoRequest, GetClusterInfoResponse, GetNodesRequest, Node};
use futures::Stream;
use tonic::Status;
use tracing::warn;

use crate::auth::Caller;
use crate::leader::Leader;
use crate::leader::nodes::filter;
use crate::state::keys::CLUSTER_CONFIGURATION;
use crate::state::record::{ClusterRecord, NodeRecord};
use crate::state::view::View;

/// Maximum number of nodes in the cluster directory.
const DIRECTORY: usize = 15;

pub(crate) type Nodes = Pin<Box<dyn Stream<Item = Result<Node, Status>> + Send>>;

impl Leader {
    /// Lists the nodes that match the filter, sorted by ID. Invalid records are skipped.
    pub(crate) async fn get_nodes(&self, caller: &Caller, request: GetNodesRequest) -> Result<Nodes, Status> {
        // A call that waits for a turn holds no node records.
        let turn = if request.filter.is_empty() {
            None
        } else {
            Some(self.filters.next(caller).await?)
        };
        let nodes = self.state.read(readable).await?;
        // A consistent snapshot, however slowly it is read.
        let health: Vec<_> = {
            let look = self.heartbeats.snapshot();
            nodes.iter().map(|node| look.health(node.id(), node.state())).collect()
        };
        let listed: Arc<[_]> = nodes.into_iter().zip(health).collect();
        let told = |listed: Arc<[(Arc<NodeRecord>, _)]>| {
            (0..listed.len()).map(move |at| {
                let (node, (health, since)) = &listed[at];
                entry(node, *health, *since)
            })
        };
        let Some(turn) = turn else {
            let nodes = listed.len();
            return Ok(Box::pin(self.lists.begin(
                caller,
                nodes,
                Box::new(told(listed).map(Ok)),
            )?));
        };
        let clock = self.context.clock.clone();
        let (kept, ended) = filter::kept(request.filter, told(listed.clone()), clock, turn).await?;
        let kept: Arc<[_]> = kept.into_iter().map(|at| listed[at].clone()).collect();
        let nodes = kept.len();
        let items = Box::new(told(kept).map(Ok).chain(ended.map(Err)));
        Ok(Box::pin(self.lists.begin(caller, nodes, items)?))
    }

    pub(in crate::leader) async fn get_cluster_info(
        &self,
        _: GetClusterInfoRequest,
    ) -> Result<GetClusterInfoResponse, Status> {
        let authority = self.cluster_pki.authority(&self.state, self.now()).await?;
        let read = self.state.read(|view| {
            let configuration = view.get(CLUSTER_CONFIGURATION.as_bytes()).cloned();
            (readable(view), configuration)
        });
        let (mut nodes, configuration) = read.await?;
        nodes.retain(|node| node.state() == NodeState::Up);
        nodes.sort_by(|a, b| a.message().public_key.cmp(&b.message().public_key));
        let configuration = configuration.and_then(|stored| match ClusterRecord::decode(&stored.value) {
            Ok(cluster) => Some(cluster.configuration().clone()),
            Err(corrupt) => {
                warn!(%corrupt, "stored cluster configuration is invalid");
                None
            }
        });
        Ok(GetClusterInfoResponse {
            cluster_directory: Some(ClusterDirectory {
                nodes: nodes.iter().take(DIRECTORY).map(|node| in_directory(node)).collect(),
            }),
            ca_certificate: authority.certificate().to_vec(),
            cluster_configuration: configuration,
        })
    }

    pub(in crate::leader) async fn get_consensus_status(
        &self,
        _: GetConsensusStatusRequest,
    ) -> Result<GetConsensusStatusResponse, Status> {
        // The members are not in the state: the term is asked about first.
        self.state.read_barrier().await?;
        let members = self.context.membership.members().await.map_err(|error| {
            warn!(%error, "cannot read the consensus members");
            Status::internal("cannot read the consensus members")
        })?;
        let member = |member: &crate::consensus::Member| EtcdMember {
            id: member.node_id(),
            status: if member.learner {
                MemberStatus::Learner.into()
            } else {
                MemberStatus::Full.into()
            },
        };
        Ok(GetConsensusStatusResponse {
            etcd_member: members.iter().map(member).collect(),
        })
    }
}

/// The nodes with valid records. Invalid records are logged.
fn readable(view: &View) -> Vec<Arc<NodeRecord>> {
    let nodes = view.nodes().filter_map(|(_, node)| match node {
        Ok(node) => Some(node.clone()),
        Err(corrupt) => {
            warn!(%corrupt, "skipping an invalid node record");
            None
        }
    });
    nodes.collect()
}

fn entry(node: &NodeRecord, health: Health, since: Option<Duration>) -> Node {
    let record = node.message();
    let roles = node.roles();
    Node {
        pubkey: record.public_key.clone(),
        state: record.fsm_state,
        status: record.status.clone(),
        // Reports which roles the node has, without their contents.
        roles: Some(NodeRoles {
            consensus_member: roles.consensus_member.as_ref().map(|_| ConsensusMember::default()),
            ..roles.clone()
        }),
        health: health.into(),
        time_since_heartbeat: Some(since.map_or(NEVER, to_proto)),
        id: node.id().to_owned(),
        tpm_usage: record.tpm_usage,
        labels: Some(NodeLabels {
            pairs: node.labels().to_vec(),
        }),
    }
}

/// The largest number of nanoseconds in 64 bits: the original reports this for a node without a heartbeat.
const NEVER: prost_types::Duration = prost_types::Duration {
    seconds: i64::MAX / 1_000_000_000,
    nanos: 854_775_807,
};

fn to_proto(duration: Duration) -> prost_types::Duration {
    match (
        i64::try_from(duration.as_secs()),
        i32::try_from(duration.subsec_nanos()),
    ) {
        (Ok(seconds), Ok(nanos)) if seconds < NEVER.seconds => prost_types::Duration { seconds, nanos },
        _ => NEVER,
    }
}

fn in_directory(node: &NodeRecord) -> cluster_directory::Node {
    let host = node.external_address();
    cluster_directory::Node {
        id: node.id().to_owned(),
        addresses: (!host.is_empty())
            .then(|| Address { host: host.into() })
            .into_iter()
            .collect(),
    }
}
