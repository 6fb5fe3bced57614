//! A leader whose term has ended, or ends during a call: every access is refused, and nothing is left half done.

use std::sync::Arc;
use std::time::Duration;

use curator_election::memory::Faults;
use curator_proto::admin_api::{GetRegistrationsRequest, IssueOwnRequest, RotateRegisterTicketRequest};
use curator_proto::common::{NodeStatus, NodeStorageSecurity};
use curator_proto::curator_api::watch_request::{Kind, NodesInCluster};
use curator_proto::curator_api::{
    CommitNodeRequest, GetConsensusStatusRequest, IssueCertificateRequest, JoinNodeRequest, RegisterNodeRequest,
    UpdateNodeStatusRequest, WatchRequest,
};
use curator_proto::management_api::{
    ApproveNodeRequest, ConfigureClusterRequest, DecommissionNodeRequest, DeleteNodeRequest, GetClusterInfoRequest,
    GetNodesRequest, GetRegisterTicketRequest, UpdateNodeLabelsRequest, UpdateNodeRolesRequest,
    decommission_node_request, delete_node_request, update_node_labels_request, update_node_roles_request,
};
use futures::FutureExt;
use futures::future::BoxFuture;
use prost_types::FieldMask;
use tonic::{Code, Status};

use crate::consensus::Membership;
use crate::leader::Leader;
use crate::leader::tests::stage::{FIRST, Stage, id, join_key, key};

type Call = Box<dyn Fn(Arc<Leader>) -> BoxFuture<'static, Result<(), Status>>>;

/// Every call; a leader would answer each of them.
async fn calls(stage: &Stage) -> Vec<(&'static str, Call)> {
    let ticket = stage.ticket().await;
    stage.up(2).await;
    stage.register(3).await.unwrap();
    stage.register(4).await.unwrap();
    stage.approve(4).await.unwrap();
    macro_rules! calls {
        ($($name:literal: |$leader:ident| $call:expr;)*) => {
            vec![$(($name, {
                let ticket = ticket.clone();
                Box::new(move |$leader: Arc<Leader>| {
                    let ticket = ticket.clone();
                    async move { let _ = &ticket; $call.await.map(drop) }.boxed()
                }) as Call
            })),*]
        };
    }
    let mut calls = calls! {
        "ApproveNode": |leader| leader.approve_node(ApproveNodeRequest { pubkey: key(3).to_vec() });
        "ApproveNode again": |leader| leader.approve_node(ApproveNodeRequest { pubkey: key(2).to_vec() });
        "ApproveNode of nobody": |leader| leader.approve_node(ApproveNodeRequest { pubkey: key(9).to_vec() });
        "CommitNode": |leader| leader.commit_node(Some(key(4)), CommitNodeRequest {
            cluster_unlock_key: vec![1; 32],
            storage_security: NodeStorageSecurity::AuthenticatedEncrypted.into(),
        });
        "JoinNode": |leader| leader.join_node(Some(join_key(2)), JoinNodeRequest { using_sealed_configuration: true });
        "UpdateNodeStatus": |leader| leader.update_node_status(&id(2), UpdateNodeStatusRequest {
            node_id: id(2),
            status: Some(NodeStatus { external_address: "192.0.2.9".into(), ..NodeStatus::default() }),
        });
        "UpdateNodeLabels": |leader| leader.update_node_labels(UpdateNodeLabelsRequest {
            node: Some(update_node_labels_request::Node::Id(id(2))),
            ..UpdateNodeLabelsRequest::default()
        });
        "UpdateNodeRoles": |leader| leader.update_node_roles(UpdateNodeRolesRequest {
            node: Some(update_node_roles_request::Node::Id(id(2))),
            consensus_member: Some(true),
            kubernetes_worker: Some(true),
            ..UpdateNodeRolesRequest::default()
        });
        "DecommissionNode": |leader| leader.decommission_node(DecommissionNodeRequest {
            node: Some(decommission_node_request::Node::Id(id(2))),
        });
        "DeleteNode": |leader| leader.delete_node(DeleteNodeRequest {
            node: Some(delete_node_request::Node::Id(id(3))),
            ..DeleteNodeRequest::default()
        });
        "ConfigureCluster": |leader| leader.configure_cluster(ConfigureClusterRequest {
            new_config: Some(Default::default()),
            update_mask: Some(FieldMask::default()),
            ..ConfigureClusterRequest::default()
        });
        "GetNodes": |leader| leader.get_nodes(&crate::leader::tests::stage::owner(), GetNodesRequest::default());
        "GetClusterInfo": |leader| leader.get_cluster_info(GetClusterInfoRequest {});
        "GetRegisterTicket": |leader| leader.get_register_ticket(GetRegisterTicketRequest {});
        "RotateRegisterTicket": |leader| leader.rotate_register_ticket(RotateRegisterTicketRequest {});
        "GetRegistrations": |leader| leader.get_registrations(GetRegistrationsRequest::default());
        "IssueOwn": |leader| leader.issue_own(Some(super::stage::OWNER), IssueOwnRequest { anew: true });
        "GetConsensusStatus": |leader| leader.get_consensus_status(GetConsensusStatusRequest {});
        "IssueCertificate": |leader| leader.issue_certificate(&id(2), IssueCertificateRequest::default());
        "Escrow": |leader| leader.owner_certificate(&crate::leader::tests::stage::OWNER);
        "Watch": |leader| leader.watch(
            &crate::leader::tests::stage::owner(),
            WatchRequest { kind: Some(Kind::NodesInCluster(NodesInCluster {})) }
        );
        "the reconciler": |leader| leader.reconcile_once();
    };
    let register = RegisterNodeRequest {
        register_ticket: ticket,
        join_key: join_key(5).to_vec(),
        have_local_tpm: true,
        labels: None,
    };
    calls.push((
        "RegisterNode",
        Box::new(move |leader| {
            let register = register.clone();
            async move { leader.register_node(Some(key(5)), register).await.map(drop) }.boxed()
        }),
    ));
    calls
}

#[tokio::test(start_paused = true)]
async fn without_the_lock_key_every_call_is_refused_and_nothing_is_written() {
    let count = calls(&Stage::new().await).await.len();
    for at in 0..count {
        let stage = Stage::new().await;
        let (name, call) = calls(&stage).await.swap_remove(at);
        stage.unlock().await;
        let (before, members) = (stage.all().await, stage.members.members().await.unwrap());
        let refused = call(stage.leader.clone()).await.expect_err(name);
        assert_eq!(refused.code(), Code::Unavailable, "{name}: {refused}");
        assert_eq!(stage.all().await, before, "{name}");
        assert_eq!(stage.members.members().await.unwrap(), members, "{name}");
        assert!(
            !stage.leader.state.fenced().term().is_valid(),
            "{name}: the elector learns of it"
        );
    }
}

/// The store is slow, and the lock key disappears during each of a call's accesses in turn.
#[tokio::test(start_paused = true)]
async fn a_term_that_ends_in_the_middle_of_a_call_leaves_nothing_half_done() {
    const STEP: Duration = Duration::from_millis(100);
    let count = calls(&Stage::new().await).await.len();
    for at in 0..count {
        let stage = Stage::new().await;
        let (_, call) = calls(&stage).await.swap_remove(at);
        let wrong = call(stage.leader.clone()).await.err().map(|status| status.code());
        // Until the call is answered before the key disappears.
        for accesses in 0..20 {
            let stage = Stage::new().await;
            let (name, call) = calls(&stage).await.swap_remove(at);
            stage.cluster.set_faults(
                1,
                Faults {
                    delay: STEP * 2,
                    ..Faults::default()
                },
            );
            let running = tokio::spawn(call(stage.leader.clone()));
            tokio::time::sleep(STEP * accesses + STEP / 2).await;
            let answered = running.is_finished();
            stage.unlock().await;
            let unlocked = stage.all().await;
            let done = running.await.unwrap();
            // Everything written up to then was written in the term; nothing is written after.
            assert_eq!(stage.all().await, unlocked, "{name} after {accesses}");
            if answered {
                break;
            }
            if let Err(refused) = done {
                // An invalid request may be reported if the term was proved before the key disappeared.
                let as_ever = Some(refused.code()) == wrong;
                assert!(
                    as_ever || refused.code() == Code::Unavailable,
                    "{name} after {accesses}: {refused}"
                );
            }
            assert!(accesses < 19, "{name} makes more accesses than can be");
        }
    }
}

/// The older of two leaders in one process, after the newer has written: it neither returns stale data nor writes.
#[tokio::test(start_paused = true)]
async fn the_older_of_two_leaders_tells_nothing_old() {
    let stage = Stage::new().await;
    stage.report(FIRST, "192.0.2.1").await.unwrap();
    let (stage, old) = stage.succeed("/leader/2").await;
    stage.report(FIRST, "192.0.2.2").await.unwrap();
    let told = old.get_cluster_info(GetClusterInfoRequest {}).await;
    assert_eq!(told.expect_err("it is not the leader").code(), Code::Unavailable);
    let nodes = stage.nodes("").await.unwrap();
    assert_eq!(nodes[0].status.as_ref().unwrap().external_address, "192.0.2.2");
}
