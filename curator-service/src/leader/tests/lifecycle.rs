//! The life of a node, from registration to deletion.

use curator_identity::public_key_of;
use curator_proto::common::cluster_configuration::{StorageSecurityPolicy, TpmMode};
use curator_proto::common::node_labels::Pair;
use curator_proto::common::node_roles::{KubernetesController, KubernetesWorker};
use curator_proto::common::{
    ClusterConfiguration, NodeLabels, NodeRoles, NodeState, NodeStorageSecurity, NodeTpmUsage,
};
use curator_proto::curator_api::{CommitNodeRequest, JoinNodeRequest, RegisterNodeRequest};
use curator_proto::management_api::delete_node_request::{Node, SafetyBypassHasRoles, SafetyBypassNotDecommissioned};
use curator_proto::management_api::{DecommissionNodeRequest, DeleteNodeRequest, decommission_node_request};
use tonic::Code;

use crate::leader::tests::stage::{FIRST, Stage, consensus_member, id, join_key, key, refused};
use crate::state::record::ClusterRecord;

#[tokio::test(start_paused = true)]
async fn a_node_registers_is_approved_commits_and_joins() {
    let stage = Stage::new().await;
    let ticket = stage.ticket().await;
    assert_eq!(ticket.len(), 34);
    assert_eq!(
        ticket[..2],
        [0x0a, 0x20],
        "the bytes of the stored message, not its fields"
    );
    assert_eq!(stage.ticket().await, ticket);

    let registered = stage.register(2).await.unwrap();
    assert_eq!(registered.tpm_usage(), NodeTpmUsage::PresentAndUsed);
    assert_eq!(
        registered.recommended_node_storage_security(),
        NodeStorageSecurity::AuthenticatedEncrypted
    );
    let configuration = registered.cluster_configuration.clone().unwrap();
    assert_eq!(configuration.cluster_domain, "cluster.internal");
    assert_eq!(stage.record(&id(2)).await.fsm_state(), NodeState::New);
    // A node that lost the response gets the same response again.
    assert_eq!(stage.register(2).await.unwrap(), registered);

    assert_eq!(refused(stage.commit(2).await), Code::PermissionDenied);
    stage.approve(2).await.unwrap();
    stage.approve(2).await.unwrap();
    assert_eq!(stage.record(&id(2)).await.fsm_state(), NodeState::Standby);
    assert_eq!(refused(stage.register(2).await), Code::FailedPrecondition);

    let committed = stage.commit(2).await.unwrap();
    assert_eq!(public_key_of(&committed.node_certificate), Some(key(2)));
    let stored = format!("/cluster-pki/issued/node-{}-cert.der", id(2));
    assert_eq!(stage.value(&stored).await.unwrap(), committed.node_certificate);
    assert_eq!(
        stage.value("/cluster-pki/issued/cluster-ca-cert.der").await.unwrap(),
        committed.ca_certificate
    );
    let record = stage.record(&id(2)).await;
    assert_eq!(record.fsm_state(), NodeState::Up);
    assert_eq!(record.cluster_unlock_key, [2; 32]);
    stage.approve(2).await.unwrap();
    assert_eq!(refused(stage.commit(2).await), Code::FailedPrecondition);

    let join = |key, sealed| {
        stage.leader.join_node(
            key,
            JoinNodeRequest {
                using_sealed_configuration: sealed,
            },
        )
    };
    let joined = join(Some(join_key(2)), true).await.unwrap();
    assert_eq!(joined.cluster_unlock_key, [2; 32]);
    assert_eq!(refused(join(Some(join_key(2)), false).await), Code::PermissionDenied);
    assert_eq!(refused(join(Some(key(2)), true).await), Code::NotFound);
    assert_eq!(refused(join(None, true).await), Code::PermissionDenied);
}

/// Unauthenticated callers may call as often as they like: nothing is written, and all get the same answer, however
/// much of the ticket they know.
#[tokio::test(start_paused = true)]
async fn who_has_no_ticket_changes_and_learns_nothing() {
    let stage = Stage::new().await;
    let ticket = stage.ticket().await;
    let before = stage.all().await;
    let tries: Vec<Vec<u8>> = (0..200)
        .map(|length| ticket.iter().copied().cycle().take(length).collect())
        .collect();
    let mut told = std::collections::BTreeSet::new();
    for (number, register_ticket) in tries.into_iter().enumerate().filter(|(_, shown)| *shown != ticket) {
        // Known nodes are not distinguishable: the key of the first node is among them.
        for key in [key(FIRST), key(u8::try_from(number % 100).unwrap() + 2)] {
            let request = RegisterNodeRequest {
                register_ticket: register_ticket.clone(),
                join_key: join_key(2).to_vec(),
                have_local_tpm: true,
                labels: None,
            };
            let refused = stage.leader.register_node(Some(key), request).await.unwrap_err();
            told.insert((i32::from(refused.code()), refused.message().to_owned()));
        }
    }
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!(stage.all().await, before);
}

#[tokio::test(start_paused = true)]
async fn what_a_node_asks_for_is_checked() {
    let stage = Stage::new().await;
    let good = RegisterNodeRequest {
        register_ticket: stage.ticket().await,
        join_key: join_key(2).to_vec(),
        have_local_tpm: true,
        labels: None,
    };
    let before = stage.all().await;
    let opaque = good.register_ticket[2..].to_vec();
    for (key, request, code) in [
        (None, good.clone(), Code::Unauthenticated),
        (
            Some(key(2)),
            RegisterNodeRequest {
                join_key: vec![1; 31],
                ..good.clone()
            },
            Code::InvalidArgument,
        ),
        (
            Some(key(2)),
            RegisterNodeRequest {
                register_ticket: Vec::new(),
                ..good.clone()
            },
            Code::PermissionDenied,
        ),
        (
            Some(key(2)),
            RegisterNodeRequest {
                register_ticket: opaque,
                ..good.clone()
            },
            Code::PermissionDenied,
        ),
        (
            Some(key(2)),
            RegisterNodeRequest {
                have_local_tpm: false,
                ..good.clone()
            },
            Code::PermissionDenied,
        ),
        // A join key belongs to one node: the first node's key is taken.
        (
            Some(key(2)),
            RegisterNodeRequest {
                join_key: join_key(FIRST).to_vec(),
                ..good.clone()
            },
            Code::AlreadyExists,
        ),
    ] {
        assert_eq!(refused(stage.leader.register_node(key, request).await), code);
    }
    assert_eq!(stage.all().await, before);
    assert_eq!(refused(stage.approve(3).await), Code::NotFound);
    assert_eq!(refused(stage.commit(3).await), Code::NotFound);

    stage.up(2).await;
    stage.register(4).await.unwrap();
    stage.approve(4).await.unwrap();
    let before = stage.all().await;
    let commit = |key, cuk: usize, security: i32| {
        stage.leader.commit_node(
            key,
            CommitNodeRequest {
                cluster_unlock_key: vec![1; cuk],
                storage_security: security,
            },
        )
    };
    let encrypted = NodeStorageSecurity::AuthenticatedEncrypted.into();
    assert_eq!(refused(commit(None, 32, encrypted).await), Code::Unauthenticated);
    for wrong in [0, 99, -1] {
        assert_eq!(refused(commit(Some(key(4)), 32, wrong).await), Code::InvalidArgument);
    }
    for wrong in [0, 31, 33, 100_000] {
        assert_eq!(
            refused(commit(Some(key(4)), wrong, encrypted).await),
            Code::InvalidArgument
        );
    }
    let weaker = NodeStorageSecurity::Encrypted.into();
    assert_eq!(
        refused(commit(Some(key(4)), 32, weaker).await),
        Code::FailedPrecondition
    );
    assert_eq!(stage.all().await, before);
}

/// Two keys with the same prefix have the same node ID: the second is not the first node.
#[tokio::test(start_paused = true)]
async fn a_key_that_begins_like_another_is_not_it() {
    let stage = Stage::new().await;
    stage.register(2).await.unwrap();
    let mut other = key(2);
    other[31] = 0;
    let request = RegisterNodeRequest {
        register_ticket: stage.ticket().await,
        join_key: join_key(3).to_vec(),
        have_local_tpm: true,
        labels: None,
    };
    let before = stage.all().await;
    assert_eq!(
        refused(stage.leader.register_node(Some(other), request).await),
        Code::FailedPrecondition
    );
    assert_eq!(stage.all().await, before);
    stage.approve(2).await.unwrap();
    let before = stage.all().await;
    let request = CommitNodeRequest {
        cluster_unlock_key: vec![1; 32],
        storage_security: NodeStorageSecurity::AuthenticatedEncrypted.into(),
    };
    assert_eq!(
        refused(stage.leader.commit_node(Some(other), request).await),
        Code::PermissionDenied
    );
    assert_eq!(stage.all().await, before);
}

#[tokio::test(start_paused = true)]
async fn the_tpm_is_used_as_the_cluster_has_it() {
    use NodeTpmUsage::{NotPresent, PresentAndUsed, PresentButUnused};
    for (mode, present, expected) in [
        (TpmMode::Required, true, Some(PresentAndUsed)),
        (TpmMode::Required, false, None),
        (TpmMode::BestEffort, true, Some(PresentAndUsed)),
        (TpmMode::BestEffort, false, Some(NotPresent)),
        (TpmMode::Disabled, true, Some(PresentButUnused)),
        (TpmMode::Disabled, false, Some(NotPresent)),
    ] {
        let stage = Stage::with(ClusterConfiguration {
            tpm_mode: mode.into(),
            ..ClusterRecord::default_configuration()
        })
        .await;
        let request = RegisterNodeRequest {
            register_ticket: stage.ticket().await,
            join_key: join_key(2).to_vec(),
            have_local_tpm: present,
            labels: None,
        };
        let registered = stage.leader.register_node(Some(key(2)), request).await;
        let Some(usage) = expected else {
            assert_eq!(refused(registered), Code::PermissionDenied);
            continue;
        };
        assert_eq!(registered.unwrap().tpm_usage(), usage, "{mode:?} {present}");
        stage.approve(2).await.unwrap();
        let join = |sealed| {
            stage.leader.join_node(
                Some(join_key(2)),
                JoinNodeRequest {
                    using_sealed_configuration: sealed,
                },
            )
        };
        let sealed = usage == PresentAndUsed;
        assert_eq!(refused(join(sealed).await), Code::FailedPrecondition, "not up yet");
        stage.commit(2).await.unwrap();
        assert_eq!(
            refused(join(!sealed).await),
            Code::PermissionDenied,
            "{mode:?} {present}"
        );
        join(sealed).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn storage_is_secured_as_the_cluster_has_it() {
    use NodeStorageSecurity::{AuthenticatedEncrypted, Encrypted, Insecure};
    for (policy, recommended, accepted) in [
        (
            StorageSecurityPolicy::Permissive,
            AuthenticatedEncrypted,
            &[Insecure, Encrypted, AuthenticatedEncrypted][..],
        ),
        (
            StorageSecurityPolicy::NeedsEncryption,
            Encrypted,
            &[Encrypted, AuthenticatedEncrypted],
        ),
        (
            StorageSecurityPolicy::NeedsEncryptionAndAuthentication,
            AuthenticatedEncrypted,
            &[AuthenticatedEncrypted],
        ),
        (StorageSecurityPolicy::NeedsInsecure, Insecure, &[Insecure]),
    ] {
        let stage = Stage::with(ClusterConfiguration {
            storage_security_policy: policy.into(),
            ..ClusterRecord::default_configuration()
        })
        .await;
        for (number, security) in [(2, Insecure), (3, Encrypted), (4, AuthenticatedEncrypted)] {
            let registered = stage.register(number).await.unwrap();
            assert_eq!(registered.recommended_node_storage_security(), recommended);
            stage.approve(number).await.unwrap();
            let request = CommitNodeRequest {
                // Without encryption no key is needed.
                cluster_unlock_key: if security == Insecure { Vec::new() } else { vec![1; 32] },
                storage_security: security.into(),
            };
            let committed = stage.leader.commit_node(Some(key(number)), request).await;
            if accepted.contains(&security) {
                drop(committed.unwrap());
            } else {
                assert_eq!(refused(committed), Code::FailedPrecondition, "{policy:?} {security:?}");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_nodes_own_labels_do_not_keep_it_out() {
    let stage = Stage::new().await;
    let pair = |key: &str, value: &str| Pair {
        key: key.into(),
        value: value.into(),
    };
    let mut pairs = vec![
        pair("b", "first"),
        pair("-", "no key"),
        pair("b", "second"),
        pair("a", ""),
        pair("c", "no/value"),
    ];
    pairs.extend((0..200).map(|number| pair(&format!("x{number:03}"), "")));
    let request = RegisterNodeRequest {
        register_ticket: stage.ticket().await,
        join_key: join_key(2).to_vec(),
        have_local_tpm: true,
        labels: Some(NodeLabels { pairs }),
    };
    stage.leader.register_node(Some(key(2)), request).await.unwrap();
    let labels = stage.record(&id(2)).await.labels.unwrap().pairs;
    assert_eq!(labels[..2], [pair("a", ""), pair("b", "first")]);
    // Of the first 128 labels, three were dropped.
    assert_eq!(labels.len(), 125);
}

fn delete(number: u8, has_roles: bool, not_decommissioned: bool) -> DeleteNodeRequest {
    DeleteNodeRequest {
        node: Some(Node::Pubkey(key(number).to_vec())),
        safety_bypass_has_roles: has_roles.then_some(SafetyBypassHasRoles {}),
        safety_bypass_not_decommissioned: not_decommissioned.then_some(SafetyBypassNotDecommissioned {}),
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_in_use_is_deleted_only_if_that_is_meant() {
    let stage = Stage::new().await;
    stage.up(2).await;
    stage.up(3).await;
    stage.register(4).await.unwrap();
    stage
        .rewrite(&id(3), |node| {
            node.roles = Some(NodeRoles {
                kubernetes_worker: Some(KubernetesWorker {}),
                ..NodeRoles::default()
            });
        })
        .await;
    for (number, has_roles, not_decommissioned) in [
        (2, false, false),
        (2, true, false),
        (3, false, true),
        (3, true, false),
        (3, false, false),
    ] {
        let request = delete(number, has_roles, not_decommissioned);
        assert_eq!(
            refused(stage.leader.delete_node(request).await),
            Code::FailedPrecondition
        );
    }
    stage.leader.delete_node(delete(2, false, true)).await.unwrap();
    stage.leader.delete_node(delete(3, true, true)).await.unwrap();
    stage.leader.delete_node(delete(4, false, false)).await.unwrap();
    assert_eq!(stage.ids("").await, [id(FIRST)]);
    assert_eq!(
        refused(stage.leader.delete_node(delete(2, true, true)).await),
        Code::NotFound
    );
    let keys: Vec<_> = stage.all().await.into_iter().map(|kv| kv.key).collect();
    let join_keys = keys.iter().filter(|key| key.starts_with(b"/join_keys/"));
    assert_eq!(join_keys.count(), 1, "only the first node's is left: {keys:?}");
    for nobody in [
        None,
        Some(Node::Pubkey(vec![1; 31])),
        Some(Node::Id("a/b".into())),
        Some(Node::Id(String::new())),
    ] {
        let request = DeleteNodeRequest {
            node: nobody,
            ..DeleteNodeRequest::default()
        };
        assert_eq!(refused(stage.leader.delete_node(request).await), Code::InvalidArgument);
    }
}

/// An index entry that another node has taken over is not deleted with the first node.
#[tokio::test(start_paused = true)]
async fn another_nodes_join_key_survives_a_deletion() {
    let stage = Stage::new().await;
    stage.register(2).await.unwrap();
    let index = format!("/join_keys/{}", curator_identity::hex(&join_key(2)));
    let revision = stage.put(&index, id(9)).await;
    stage.followed(&index, revision).await;
    stage.leader.delete_node(delete(2, false, false)).await.unwrap();
    assert_eq!(stage.value(&index).await.unwrap(), id(9));
}

/// An entry that the original, which can neither write nor delete it, may have left.
#[tokio::test(start_paused = true)]
async fn a_record_without_a_join_key_can_be_deleted() {
    let stage = Stage::new().await;
    stage.register(2).await.unwrap();
    stage.rewrite(&id(2), |node| node.join_key.clear()).await;
    assert_eq!(
        refused(stage.approve(2).await),
        Code::InvalidArgument,
        "it cannot be written"
    );
    stage.leader.delete_node(delete(2, false, false)).await.unwrap();
    assert_eq!(stage.ids("").await, [id(FIRST)]);
}

#[tokio::test(start_paused = true)]
async fn a_node_is_decommissioned_and_then_deleted() {
    let stage = Stage::new().await;
    stage.up(2).await;
    stage.register(3).await.unwrap();
    stage
        .rewrite(&id(2), |node| {
            node.roles = Some(NodeRoles {
                kubernetes_worker: Some(KubernetesWorker {}),
                kubernetes_controller: Some(KubernetesController {}),
                consensus_member: Some(consensus_member()),
            });
        })
        .await;
    let decommission = |number: u8| {
        stage.leader.decommission_node(DecommissionNodeRequest {
            node: Some(decommission_node_request::Node::Id(id(number))),
        })
    };
    assert_eq!(refused(decommission(3).await), Code::FailedPrecondition, "never up");
    assert_eq!(refused(decommission(4).await), Code::NotFound);
    assert_eq!(
        refused(decommission(2).await),
        Code::FailedPrecondition,
        "the last consensus member"
    );
    stage
        .rewrite(&id(FIRST), |node| {
            node.roles.as_mut().unwrap().consensus_member = Some(consensus_member());
        })
        .await;
    let members = stage.members.clone();
    crate::consensus::Membership::add_learner(&*members, &format!("https://{}:7834", id(2)))
        .await
        .unwrap();
    decommission(2).await.unwrap();
    decommission(2).await.unwrap();
    assert_eq!(stage.record(&id(2)).await.fsm_state(), NodeState::Up);
    let mut runs = 0;
    while stage.record(&id(2)).await.fsm_state() != NodeState::Decommissioned {
        stage.leader.reconcile_once().await.unwrap();
        runs += 1;
        assert!(runs < 10, "each run takes a step");
    }
    assert_eq!(stage.record(&id(2)).await.roles, Some(NodeRoles::default()));
    let members = crate::consensus::Membership::members(&*members).await.unwrap();
    assert_eq!(members.len(), 1, "no member any more: {members:?}");
    assert_eq!(stage.value(&format!("/decommissions/{}", id(2))).await, None);
    decommission(2).await.unwrap();
    assert_eq!(refused(stage.approve(2).await), Code::FailedPrecondition);
    stage.leader.delete_node(delete(2, false, false)).await.unwrap();
}
