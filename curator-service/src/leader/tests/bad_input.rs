//! Every field of every request with invalid values: checks the code, that the message names the field, and that
//! nothing changed.
//!
//! The fields come from the descriptors: a field that is added without a row here, or without a reason to have none,
//! fails [`every_field_has_its_row`].

use std::collections::BTreeSet;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use curator_proto::common::cluster_configuration::Kubernetes;
use curator_proto::common::cluster_configuration::kubernetes::NodeLabelsToSynchronize;
use curator_proto::common::node_cluster_networking::Prefix;
use curator_proto::common::node_roles::KubernetesWorker;
use curator_proto::common::{ClusterConfiguration, NodeClusterNetworking, NodeRoles, NodeStatus, NodeStorageSecurity};
use curator_proto::curator_api::watch_request::{Kind as WatchKind, NodeInCluster};
use curator_proto::curator_api::{
    CommitNodeRequest, IssueCertificateRequest, JoinNodeRequest, RegisterNodeRequest,
    UpdateNodeClusterNetworkingRequest, UpdateNodeStatusRequest, WatchRequest, issue_certificate_request,
};
use curator_proto::management_api::delete_node_request::{SafetyBypassHasRoles, SafetyBypassNotDecommissioned};
use curator_proto::management_api::update_node_labels_request::Pair;
use curator_proto::management_api::{
    ApproveNodeRequest, ConfigureClusterRequest, DecommissionNodeRequest, DeleteNodeRequest, EscrowRequest,
    GetNodesRequest, UpdateNodeLabelsRequest, UpdateNodeRolesRequest, decommission_node_request, delete_node_request,
    escrow_request, update_node_labels_request, update_node_roles_request,
};
use futures::TryStreamExt;
use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, Kind, MessageDescriptor, ReflectMessage, Value};
use prost_types::FieldMask;
use tonic::{Code, Status};

use crate::consensus::Membership;
use crate::leader::tests::stage::{OWNER, Stage, id, join_key, key};
use crate::state::record::ClusterRecord;

const SERVICES: [&str; 4] = [
    "metropolis.node.core.curator.proto.api.Curator",
    "metropolis.node.core.curator.proto.api.CuratorLocal",
    "metropolis.proto.api.Management",
    "metropolis.proto.api.AAA",
];

/// Method, field, value (`None` clears the field), expected code, and a text that the message must contain.
type Row = (&'static str, &'static str, Option<Value>, Code, &'static str);

/// Fields without invalid values, and the reason.
const ANY: &[(&str, &str)] = &[
    ("Watch.nodes_in_cluster", "there is nothing in it"),
    ("UpdateNodeStatus.status.timestamp", "the leader's replaces it"),
    ("UpdateNodeStatus.status.running_curator", "only its port is of use"),
    ("UpdateNodeStatus.status.version", "the text of a node is kept"),
    ("UpdateNodeStatus.status.version.release", "the same"),
    ("UpdateNodeStatus.status.version.release.major", "any number"),
    ("UpdateNodeStatus.status.version.release.minor", "any number"),
    ("UpdateNodeStatus.status.version.release.patch", "any number"),
    ("UpdateNodeStatus.status.version.git_information", "the same"),
    (
        "UpdateNodeStatus.status.version.git_information.commits_since_release",
        "any number",
    ),
    (
        "UpdateNodeStatus.status.version.git_information.build_tree_state",
        "a later node may know more states",
    ),
    (
        "RegisterNode.labels",
        "labels must not keep a node out: bad ones are left out",
    ),
    ("RegisterNode.labels.pairs", "the same"),
    ("RegisterNode.labels.pairs.key", "the same"),
    ("RegisterNode.labels.pairs.value", "the same"),
    ("UpdateNodeRoles.kubernetes_worker", "any node may be one or not"),
    (
        "ConfigureCluster.base_config.tpm_mode",
        "it cannot be in the mask, and so is not looked at",
    ),
    ("ConfigureCluster.base_config.storage_security_policy", "the same"),
    ("ConfigureCluster.base_config.cluster_domain", "the same"),
    ("ConfigureCluster.new_config.tpm_mode", "the same"),
    ("ConfigureCluster.new_config.storage_security_policy", "the same"),
    ("ConfigureCluster.new_config.cluster_domain", "the same"),
    ("Escrow.proofs", "there is none that is asked for"),
    ("Escrow.proofs.plaintext_password", "the same"),
];

fn text(text: &str) -> Option<Value> {
    Some(Value::String(text.into()))
}

fn bytes(length: usize) -> Option<Value> {
    Some(Value::Bytes(vec![9; length].into()))
}

fn texts(texts: &[&str]) -> Option<Value> {
    let texts = texts.iter().map(|text| Value::String((*text).into()));
    Some(Value::List(texts.collect()))
}

/// A list of this many messages, with one field set.
fn many(message: &str, field: &str, values: &[&str]) -> Option<Value> {
    let descriptor = pool().get_message_by_name(message).expect("a message");
    let list = values.iter().map(|value| {
        let mut element = DynamicMessage::new(descriptor.clone());
        element.set_field_by_name(field, Value::String((*value).into()));
        Value::Message(element)
    });
    Some(Value::List(list.collect()))
}

#[allow(clippy::too_many_lines, reason = "a table")]
fn rows() -> Vec<Row> {
    use Code::{FailedPrecondition, InvalidArgument, PermissionDenied, Unavailable, Unimplemented};
    let long = "x".repeat(100_000);
    let long = long.as_str();
    let mut rows: Vec<Row> = Vec::new();
    for bad in ["", "/", "a/b", "a\0b", "a\nb", &"x".repeat(256), long] {
        rows.push((
            "Watch",
            "node_in_cluster.node_id",
            text(bad),
            InvalidArgument,
            "node_in_cluster.node_id",
        ));
        for method in ["UpdateNodeRoles", "DecommissionNode", "DeleteNode", "UpdateNodeLabels"] {
            rows.push((method, "id", text(bad), InvalidArgument, "id"));
        }
    }
    rows.push(("Watch", "node_in_cluster", None, Unimplemented, "kind"));
    for method in ["UpdateNodeRoles", "DecommissionNode", "DeleteNode", "UpdateNodeLabels"] {
        rows.push((method, "id", None, InvalidArgument, "node: pubkey or id is required"));
        for length in [0, 31, 33, 100_000] {
            rows.push((method, "pubkey", bytes(length), InvalidArgument, "pubkey"));
        }
    }

    for bad in ["", "a/b", &*id(3), long] {
        rows.push(("UpdateNodeStatus", "node_id", text(bad), PermissionDenied, "node_id"));
    }
    rows.push(("UpdateNodeStatus", "status", None, InvalidArgument, "status"));
    for bad in [
        "",
        "nowhere",
        "192.0.2.1:7",
        "192.0.2.256",
        "fe80::1%eth0",
        " 192.0.2.1",
        long,
    ] {
        let field = "status.external_address";
        rows.push(("UpdateNodeStatus", field, text(bad), InvalidArgument, field));
    }
    for bad in [-1, 65_536, i32::MAX] {
        let field = "status.running_curator.port";
        rows.push(("UpdateNodeStatus", field, Some(Value::I32(bad)), InvalidArgument, field));
    }
    rows.push((
        "UpdateNodeStatus",
        "status.boot_id",
        bytes(1_025),
        InvalidArgument,
        "status.boot_id",
    ));
    let field = "status.version.git_information.commit_hash";
    rows.push(("UpdateNodeStatus", field, text(long), InvalidArgument, field));

    for length in [0, 31, 32, 34, 100_000] {
        rows.push((
            "RegisterNode",
            "register_ticket",
            bytes(length),
            PermissionDenied,
            "register_ticket",
        ));
    }
    for length in [0, 31, 33, 100_000] {
        rows.push(("RegisterNode", "join_key", bytes(length), InvalidArgument, "join_key"));
    }
    rows.push((
        "RegisterNode",
        "have_local_tpm",
        Some(Value::Bool(false)),
        PermissionDenied,
        "have_local_tpm",
    ));

    for length in [0, 31, 33, 100_000] {
        rows.push((
            "CommitNode",
            "cluster_unlock_key",
            bytes(length),
            InvalidArgument,
            "cluster_unlock_key",
        ));
    }
    for number in [0, 4, 99, -1] {
        let number = Some(Value::EnumNumber(number));
        rows.push((
            "CommitNode",
            "storage_security",
            number,
            InvalidArgument,
            "storage_security",
        ));
    }
    let weaker = Some(Value::EnumNumber(NodeStorageSecurity::Insecure.into()));
    rows.push((
        "CommitNode",
        "storage_security",
        weaker,
        FailedPrecondition,
        "storage_security",
    ));

    let field = "using_sealed_configuration";
    rows.push(("JoinNode", field, Some(Value::Bool(false)), PermissionDenied, field));

    rows.push(("IssueCertificate", "kubernetes_worker", None, InvalidArgument, "kind"));
    for field in ["kubelet_pubkey", "csi_provisioner_pubkey", "netservices_pubkey"] {
        let path: &'static str = format!("kubernetes_worker.{field}").leak();
        for length in [0, 31, 33, 100_000] {
            rows.push(("IssueCertificate", path, bytes(length), InvalidArgument, field));
        }
        rows.push(("IssueCertificate", path, bytes(32), Unavailable, "another key"));
    }

    let method = "UpdateNodeClusterNetworking";
    rows.push((method, "clusternet", None, InvalidArgument, "clusternet"));
    let field = "clusternet.wireguard_pubkey";
    for bad in [
        "",
        "!",
        &STANDARD.encode([5; 31]),
        &STANDARD.encode([5; 33]),
        &STANDARD.encode([5; 32])[..43],
        long,
    ] {
        rows.push((method, field, text(bad), InvalidArgument, field));
    }
    // The label of the first node.
    rows.push((method, field, text(&STANDARD.encode([6; 32])), InvalidArgument, field));
    for bad in [
        "",
        "10.192.0.0",
        "10.192.0.128/16",
        "10.192.0.0/10",
        "8.8.8.8/32",
        "10.192.0.0/33",
        "::/0",
        "a/b",
        long,
    ] {
        rows.push((
            method,
            "clusternet.prefixes.cidr",
            text(bad),
            InvalidArgument,
            "clusternet.prefixes.cidr",
        ));
    }
    let prefix = "metropolis.proto.common.NodeClusterNetworking.Prefix";
    let too_many = many(prefix, "cidr", &["10.192.0.0/24"; 1_025]);
    rows.push((
        method,
        "clusternet.prefixes",
        too_many,
        InvalidArgument,
        "clusternet.prefixes",
    ));

    for bad in [
        "node.",
        "(",
        "'",
        "'\\xzz'",
        "node.id == b'\\xff",
        "unknown",
        "1",
        "'maybe'",
        "null",
        "[true]",
    ] {
        rows.push(("GetNodes", "filter", text(bad), InvalidArgument, "filter"));
    }
    rows.push((
        "GetNodes",
        "filter",
        text(&" ".repeat(4_097)),
        InvalidArgument,
        "filter",
    ));
    rows.push(("GetNodes", "filter", text("1 / 0 == 1"), Unavailable, "filter"));

    for length in [0, 31, 33, 100_000] {
        rows.push(("ApproveNode", "pubkey", bytes(length), InvalidArgument, "pubkey"));
    }

    let (yes, no) = (Some(Value::Bool(true)), Some(Value::Bool(false)));
    rows.push((
        "UpdateNodeRoles",
        "kubernetes_controller",
        yes,
        FailedPrecondition,
        "kubernetes_controller",
    ));
    rows.push((
        "UpdateNodeRoles of a controller",
        "consensus_member",
        no,
        FailedPrecondition,
        "consensus_member",
    ));
    rows.push((
        "DeleteNode",
        "safety_bypass_has_roles",
        None,
        FailedPrecondition,
        "role",
    ));
    rows.push((
        "DeleteNode",
        "safety_bypass_not_decommissioned",
        None,
        FailedPrecondition,
        "not decommissioned",
    ));

    for bad in ["", "-", "a/b/c", "/a", "a/", "A.b/c", "\u{e4}", long] {
        rows.push((
            "UpdateNodeLabels",
            "upsert.key",
            text(bad),
            InvalidArgument,
            "label key",
        ));
        rows.push((
            "UpdateNodeLabels",
            "delete",
            texts(&[bad]),
            InvalidArgument,
            "label key",
        ));
    }
    for bad in ["-", "a/b", " ", "\u{e4}", long] {
        rows.push((
            "UpdateNodeLabels",
            "upsert.value",
            text(bad),
            InvalidArgument,
            "label value",
        ));
    }
    let pair = "metropolis.proto.api.UpdateNodeLabelsRequest.Pair";
    rows.push((
        "UpdateNodeLabels",
        "upsert",
        many(pair, "key", &["a", "a"]),
        InvalidArgument,
        "upsert",
    ));
    rows.push((
        "UpdateNodeLabels",
        "delete",
        texts(&["b", "b"]),
        InvalidArgument,
        "delete",
    ));
    rows.push(("UpdateNodeLabels", "delete", texts(&["a"]), InvalidArgument, "delete"));
    let names: Vec<String> = (0..129).map(|number| format!("x{number}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    rows.push((
        "UpdateNodeLabels",
        "upsert",
        many(pair, "key", &names),
        Code::OutOfRange,
        "129 labels",
    ));

    let method = "ConfigureCluster";
    rows.push((method, "update_mask", None, InvalidArgument, "update_mask"));
    for bad in [
        "",
        "nothing",
        "kubernetes",
        "cluster_domain",
        "kubernetes.node_labels_to_synchronize.regexp",
        long,
    ] {
        let mask = many_paths(&[bad]);
        rows.push((method, "update_mask", mask, InvalidArgument, "update_mask"));
    }
    rows.push((
        method,
        "update_mask",
        many_paths(&["a"; 65]),
        InvalidArgument,
        "update_mask",
    ));
    rows.push((method, "new_config", None, InvalidArgument, "new_config"));
    rows.push((
        method,
        "new_config.kubernetes",
        None,
        InvalidArgument,
        "new_config.kubernetes",
    ));
    rows.push((
        method,
        "base_config.kubernetes",
        None,
        InvalidArgument,
        "base_config.kubernetes",
    ));
    let empty = Some(Value::Message(DynamicMessage::new(
        pool()
            .get_message_by_name("metropolis.proto.common.ClusterConfiguration")
            .expect("there"),
    )));
    rows.push((method, "base_config", empty, InvalidArgument, "base_config.kubernetes"));
    let rule = "metropolis.proto.common.ClusterConfiguration.Kubernetes.NodeLabelsToSynchronize";
    let rules = "kubernetes.node_labels_to_synchronize";
    let (base, new): (&'static str, &'static str) = (
        format!("base_config.{rules}").leak(),
        format!("new_config.{rules}").leak(),
    );
    rows.push((method, base, many(rule, "regexp", &["other"]), FailedPrecondition, base));
    rows.push((method, new, many(rule, "regexp", &["x"; 257]), InvalidArgument, new));
    rows.push((
        method,
        format!("{base}.regexp").leak(),
        text("other"),
        FailedPrecondition,
        base,
    ));
    rows.push((method, format!("{new}.regexp").leak(), text(long), InvalidArgument, new));

    rows.push(("Escrow", "parameters", None, InvalidArgument, "parameters"));
    let field = "parameters.requested_identity_name";
    for bad in ["", "Owner", "owner ", long] {
        rows.push(("Escrow", field, text(bad), Unimplemented, field));
    }
    for length in [0, 31, 33, 100_000] {
        rows.push((
            "Escrow",
            "parameters.public_key",
            bytes(length),
            InvalidArgument,
            "parameters.public_key",
        ));
    }
    rows.push((
        "Escrow",
        "parameters.public_key",
        bytes(32),
        Unimplemented,
        "parameters.public_key",
    ));
    rows
}

fn many_paths(paths: &[&str]) -> Option<Value> {
    let mask = pool().get_message_by_name("google.protobuf.FieldMask").expect("there");
    let mut mask = DynamicMessage::new(mask);
    let paths = paths.iter().map(|path| Value::String((*path).into()));
    mask.set_field_by_name("paths", Value::List(paths.collect()));
    Some(Value::Message(mask))
}

fn pool() -> DescriptorPool {
    DescriptorPool::decode(curator_proto::FILE_DESCRIPTOR_SET).expect("our own")
}

/// A valid request for each method of the services in the table.
fn requests() -> Vec<(String, MessageDescriptor)> {
    let pool = pool();
    let services = SERVICES.map(|name| pool.get_service_by_name(name).expect(name));
    let methods = services
        .iter()
        .flat_map(|service| service.methods().collect::<Vec<_>>());
    methods
        .map(|method| (method.name().to_owned(), method.input()))
        .collect()
}

fn fields(of: &MessageDescriptor, before: &str, all: &mut BTreeSet<String>) {
    for field in of.fields() {
        let path = format!("{before}.{}", field.name());
        if let Kind::Message(nested) = field.kind()
            && nested.package_name() != "google.protobuf"
        {
            fields(&nested, &path, all);
        }
        all.insert(path);
    }
}

#[test]
fn every_field_has_its_row() {
    let mut all = BTreeSet::new();
    for (method, request) in requests() {
        fields(&request, &method, &mut all);
    }
    assert!(all.len() > 50, "{all:?}");
    let tried = rows().into_iter().map(|(method, field, ..)| {
        let method = method.split(' ').next().unwrap_or_default();
        format!("{method}.{field}")
    });
    let tried: BTreeSet<String> = tried.collect();
    let any: BTreeSet<String> = ANY.iter().map(|(field, _)| (*field).to_owned()).collect();
    let covered: BTreeSet<String> = tried.union(&any).cloned().collect();
    assert_eq!(all.difference(&covered).collect::<Vec<_>>(), [""; 0], "without a row");
    assert_eq!(covered.difference(&all).collect::<Vec<_>>(), [""; 0], "no such field");
    assert_eq!(
        tried.intersection(&any).collect::<Vec<_>>(),
        [""; 0],
        "has a bad value after all"
    );
}

/// A cluster in which each of the valid requests succeeds.
async fn stage() -> (Stage, Vec<u8>) {
    let stage = Stage::new().await;
    stage.up(2).await;
    stage.report(2, "192.0.2.2").await.unwrap();
    stage.report(super::stage::FIRST, "192.0.2.1").await.unwrap();
    stage
        .rewrite(&id(2), |node| {
            node.roles = Some(NodeRoles {
                kubernetes_worker: Some(KubernetesWorker {}),
                ..NodeRoles::default()
            });
        })
        .await;
    stage
        .rewrite(&id(super::stage::FIRST), |node| {
            node.clusternet = Some(NodeClusterNetworking {
                wireguard_pubkey: STANDARD.encode([6; 32]),
                prefixes: Vec::new(),
            });
        })
        .await;
    stage.register(3).await.unwrap();
    stage.register(4).await.unwrap();
    stage.approve(4).await.unwrap();
    let controller = UpdateNodeRolesRequest {
        node: Some(update_node_roles_request::Node::Id(id(3))),
        consensus_member: Some(true),
        kubernetes_controller: Some(true),
        ..UpdateNodeRolesRequest::default()
    };
    stage.leader.update_node_roles(controller).await.unwrap();
    // The Kubernetes authority is created on first use, whatever the result of the request.
    let good = good("IssueCertificate", &[]);
    call(&stage, "IssueCertificate", &good).await.unwrap();
    let ticket = stage.ticket().await;
    (stage, ticket)
}

/// A valid request.
#[allow(clippy::too_many_lines, reason = "one for each method")]
pub(super) fn good(method: &str, ticket: &[u8]) -> Vec<u8> {
    let rules = |regexp: &str| ClusterConfiguration {
        kubernetes: Some(Kubernetes {
            node_labels_to_synchronize: vec![NodeLabelsToSynchronize { regexp: regexp.into() }],
        }),
        ..ClusterConfiguration::default()
    };
    match method {
        "Watch" => WatchRequest {
            kind: Some(WatchKind::NodeInCluster(NodeInCluster { node_id: id(2) })),
        }
        .encode_to_vec(),
        "UpdateNodeStatus" => UpdateNodeStatusRequest {
            node_id: id(2),
            status: Some(NodeStatus {
                external_address: "192.0.2.9".into(),
                ..NodeStatus::default()
            }),
        }
        .encode_to_vec(),
        "RegisterNode" => RegisterNodeRequest {
            register_ticket: ticket.to_vec(),
            join_key: join_key(5).to_vec(),
            have_local_tpm: true,
            labels: None,
        }
        .encode_to_vec(),
        "CommitNode" => CommitNodeRequest {
            cluster_unlock_key: vec![1; 32],
            storage_security: NodeStorageSecurity::AuthenticatedEncrypted.into(),
        }
        .encode_to_vec(),
        "JoinNode" => JoinNodeRequest {
            using_sealed_configuration: true,
        }
        .encode_to_vec(),
        "IssueCertificate" => {
            let worker = issue_certificate_request::KubernetesWorker {
                kubelet_pubkey: vec![21; 32],
                csi_provisioner_pubkey: vec![22; 32],
                netservices_pubkey: vec![23; 32],
            };
            IssueCertificateRequest {
                kind: Some(issue_certificate_request::Kind::KubernetesWorker(worker)),
            }
            .encode_to_vec()
        }
        "UpdateNodeClusterNetworking" => UpdateNodeClusterNetworkingRequest {
            clusternet: Some(NodeClusterNetworking {
                wireguard_pubkey: STANDARD.encode([5; 32]),
                prefixes: vec![Prefix {
                    cidr: "10.192.0.0/24".into(),
                }],
            }),
        }
        .encode_to_vec(),
        "GetNodes" => GetNodesRequest { filter: "true".into() }.encode_to_vec(),
        "ApproveNode" => ApproveNodeRequest {
            pubkey: key(3).to_vec(),
        }
        .encode_to_vec(),
        "UpdateNodeRoles" => UpdateNodeRolesRequest {
            node: Some(update_node_roles_request::Node::Id(id(2))),
            kubernetes_worker: Some(true),
            ..UpdateNodeRolesRequest::default()
        }
        .encode_to_vec(),
        "UpdateNodeRoles of a controller" => UpdateNodeRolesRequest {
            node: Some(update_node_roles_request::Node::Id(id(3))),
            ..UpdateNodeRolesRequest::default()
        }
        .encode_to_vec(),
        "DecommissionNode" => DecommissionNodeRequest {
            node: Some(decommission_node_request::Node::Id(id(2))),
        }
        .encode_to_vec(),
        "DeleteNode" => DeleteNodeRequest {
            node: Some(delete_node_request::Node::Id(id(2))),
            safety_bypass_has_roles: Some(SafetyBypassHasRoles {}),
            safety_bypass_not_decommissioned: Some(SafetyBypassNotDecommissioned {}),
        }
        .encode_to_vec(),
        "UpdateNodeLabels" => UpdateNodeLabelsRequest {
            node: Some(update_node_labels_request::Node::Id(id(2))),
            upsert: vec![Pair {
                key: "a".into(),
                value: "1".into(),
            }],
            delete: vec!["b".into()],
        }
        .encode_to_vec(),
        "ConfigureCluster" => ConfigureClusterRequest {
            base_config: Some(ClusterRecord::default_configuration()),
            new_config: Some(rules("^new")),
            update_mask: Some(FieldMask {
                paths: vec!["kubernetes.node_labels_to_synchronize".into()],
            }),
        }
        .encode_to_vec(),
        "Escrow" => EscrowRequest {
            parameters: Some(escrow_request::Parameters {
                requested_identity_name: "owner".into(),
                public_key: OWNER.to_vec(),
            }),
            proofs: None,
        }
        .encode_to_vec(),
        // Requests without fields.
        _ => Vec::new(),
    }
}

fn decoded<M: Message + Default>(request: &[u8]) -> Result<M, Status> {
    // As the server's codec does it.
    M::decode(request).map_err(|error| Status::internal(error.to_string()))
}

/// Calls the leader and reads the response.
async fn call(stage: &Stage, method: &str, request: &[u8]) -> Result<(), Status> {
    let leader = &stage.leader;
    match method.split(' ').next().unwrap_or_default() {
        "Watch" => leader
            .watch(&crate::leader::tests::stage::owner(), decoded(request)?)
            .await
            .map(drop),
        "UpdateNodeStatus" => leader.update_node_status(&id(2), decoded(request)?).await.map(drop),
        "RegisterNode" => leader.register_node(Some(key(5)), decoded(request)?).await.map(drop),
        "CommitNode" => leader.commit_node(Some(key(4)), decoded(request)?).await.map(drop),
        "JoinNode" => leader.join_node(Some(join_key(2)), decoded(request)?).await.map(drop),
        "IssueCertificate" => leader.issue_certificate(&id(2), decoded(request)?).await.map(drop),
        "UpdateNodeClusterNetworking" => {
            let done = leader.update_node_cluster_networking(&id(2), decoded(request)?).await;
            done.map(drop)
        }
        "GetConsensusStatus" => leader.get_consensus_status(decoded(request)?).await.map(drop),
        "GetRegisterTicket" => leader.get_register_ticket(decoded(request)?).await.map(drop),
        "GetClusterInfo" => leader.get_cluster_info(decoded(request)?).await.map(drop),
        "GetNodes" => {
            let nodes = leader
                .get_nodes(&crate::leader::tests::stage::owner(), decoded(request)?)
                .await?;
            nodes.try_collect::<Vec<_>>().await.map(drop)
        }
        "ApproveNode" => leader.approve_node(decoded(request)?).await.map(drop),
        "UpdateNodeRoles" => leader.update_node_roles(decoded(request)?).await.map(drop),
        "DecommissionNode" => leader.decommission_node(decoded(request)?).await.map(drop),
        "DeleteNode" => leader.delete_node(decoded(request)?).await.map(drop),
        "UpdateNodeLabels" => leader.update_node_labels(decoded(request)?).await.map(drop),
        "ConfigureCluster" => leader.configure_cluster(decoded(request)?).await.map(drop),
        "Escrow" => {
            let answers = leader.escrow(Some(OWNER), Some(decoded(request)?)).await?;
            answers.try_collect::<Vec<_>>().await.map(drop)
        }
        // Methods that the instance itself serves, and an empty stream.
        "GetCurrentLeader" | "GetCACertificate" | "Heartbeat" => Ok(()),
        other => panic!("{other}: a new method"),
    }
}

/// Sets the field of this path; in a list, that of its first element.
fn set(message: &mut DynamicMessage, path: &str, to: Option<Value>) {
    let (head, rest) = path
        .split_once('.')
        .map_or((path, None), |(head, rest)| (head, Some(rest)));
    let Some(rest) = rest else {
        match to {
            Some(value) => message.set_field_by_name(head, value),
            None => message.clear_field_by_name(head),
        }
        return;
    };
    let field = message.descriptor().get_field_by_name(head).expect(path);
    let mut value = message.get_field(&field).into_owned();
    match &mut value {
        Value::Message(nested) => set(nested, rest, to),
        Value::List(list) => {
            if list.is_empty() {
                let Kind::Message(element) = field.kind() else {
                    panic!("{path}")
                };
                list.push(Value::Message(DynamicMessage::new(element)));
            }
            let Some(Value::Message(first)) = list.first_mut() else {
                panic!("{path}")
            };
            set(first, rest, to);
        }
        _ => panic!("{path}"),
    }
    message.set_field(&field, value);
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_is_refused_by_name_and_changes_nothing() {
    let (stage, ticket) = stage().await;
    let described: std::collections::BTreeMap<_, _> = requests().into_iter().collect();
    let before = (stage.all().await, stage.members.members().await.unwrap());
    for (method, field, to, code, word) in rows() {
        let descriptor = &described[method.split(' ').next().unwrap_or_default()];
        let mut request = DynamicMessage::decode(descriptor.clone(), &good(method, &ticket)[..]).unwrap();
        set(&mut request, field, to.clone());
        let shown: String = format!("{method} {field} {to:?}").chars().take(200).collect();
        let refused = call(&stage, method, &request.encode_to_vec()).await.expect_err(&shown);
        assert_eq!(refused.code(), code, "{shown}: {refused}");
        assert!(refused.message().contains(word), "{shown}: {refused}");
        // The message does not repeat the whole request.
        assert!(
            refused.message().len() < 2_000,
            "{shown}: {} bytes",
            refused.message().len()
        );
        let after = (stage.all().await, stage.members.members().await.unwrap());
        assert!(after == before, "{shown}: something has changed");
    }
}

/// The valid requests succeed; otherwise the table would prove nothing.
#[tokio::test(start_paused = true)]
async fn the_requests_are_good_but_for_the_field() {
    for (method, _) in requests() {
        let (stage, ticket) = stage().await;
        let request = good(&method, &ticket);
        call(&stage, &method, &request).await.expect(&method);
    }
}

/// A filter can build bytes that are not valid UTF-8; the error must still be reported.
#[tokio::test(start_paused = true)]
async fn a_filter_of_bytes_that_are_no_text_is_answered() {
    let (stage, _) = stage().await;
    for filter in [
        "string(b'\\xff') == node.id",
        "node.id == b'\\xff'",
        "b'\\xff\\xfe' == b'\\377\\376'",
        "'\\ud800' == ''",
    ] {
        if let Err(refused) = stage.nodes(filter).await {
            let answered = [Code::InvalidArgument, Code::Unavailable].contains(&refused.code());
            assert!(answered && refused.message().contains("filter"), "{filter}: {refused}");
        }
    }
}

/// Invalid UTF-8 in a request does not reach the leader.
#[test]
fn text_that_is_no_text_is_not_decoded() {
    for (_, request) in requests() {
        for field in request.fields().filter(|field| field.kind() == Kind::String) {
            let tag = u8::try_from((field.number() << 3) | 2).unwrap();
            DynamicMessage::decode(request.clone(), &[tag, 1, 0xff][..]).expect_err("no text");
        }
    }
    GetNodesRequest::decode(&[0x0a, 1, 0xff][..]).expect_err("no text");
}
