//! Cluster networking of a node, and the certificates of its components.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use curator_identity::public_key_of;
use curator_proto::common::node_cluster_networking::Prefix;
use curator_proto::common::node_roles::KubernetesWorker;
use curator_proto::common::{NodeClusterNetworking, NodeRoles};
use curator_proto::curator_api::{
    IssueCertificateRequest, UpdateNodeClusterNetworkingRequest, issue_certificate_request, issue_certificate_response,
};
use tonic::{Code, Status};

use crate::leader::tests::stage::{FIRST, Stage, id, refused};

fn networking(key: &[u8], prefixes: &[&str]) -> UpdateNodeClusterNetworkingRequest {
    UpdateNodeClusterNetworkingRequest {
        clusternet: Some(NodeClusterNetworking {
            wireguard_pubkey: STANDARD.encode(key),
            prefixes: prefixes.iter().map(|cidr| Prefix { cidr: (*cidr).into() }).collect(),
        }),
    }
}

async fn update(stage: &Stage, number: u8, request: UpdateNodeClusterNetworkingRequest) -> Result<(), Status> {
    let done = stage.leader.update_node_cluster_networking(&id(number), request).await;
    done.map(drop)
}

#[tokio::test(start_paused = true)]
async fn a_node_has_a_key_of_its_own_and_prefixes_that_it_may_have() {
    let stage = Stage::new().await;
    stage.up(2).await;
    let good = networking(&[5; 32], &[]);
    assert_eq!(
        refused(update(&stage, FIRST, good.clone()).await),
        Code::FailedPrecondition
    );
    stage.report(FIRST, "203.0.113.42").await.unwrap();
    stage.report(2, "203.0.113.43").await.unwrap();
    let missing = UpdateNodeClusterNetworkingRequest::default();
    for bad in [
        missing,
        networking(&[], &[]),
        networking(&[5; 31], &[]),
        networking(&[5; 32], &[""]),
        networking(&[5; 32], &["10.192.0.128/16"]),
        networking(&[5; 32], &["10.192.0.0/10"]),
        networking(&[5; 32], &["8.8.8.8/32"]),
        networking(&[5; 32], &["203.0.113.43/32"]),
        networking(&[5; 32], &["10.192.0.0/24"; 1_025]),
    ] {
        assert_eq!(refused(update(&stage, FIRST, bad).await), Code::InvalidArgument);
    }
    assert_eq!(stage.record(&id(FIRST)).await.clusternet, None);
    update(&stage, FIRST, good).await.unwrap();
    let prefixes = ["10.192.0.0/24", "10.192.0.0/11", "10.195.12.23/32", "203.0.113.42/32"];
    update(&stage, FIRST, networking(&[5; 32], &prefixes)).await.unwrap();
    let stored = stage.record(&id(FIRST)).await.clusternet.unwrap();
    let cidrs: Vec<_> = stored.prefixes.iter().map(|prefix| prefix.cidr.as_str()).collect();
    assert_eq!(cidrs, prefixes);
    assert_eq!(
        refused(update(&stage, 2, networking(&[5; 32], &[])).await),
        Code::InvalidArgument
    );
    // A key that its owner replaced is free.
    update(&stage, FIRST, networking(&[6; 32], &[])).await.unwrap();
    update(&stage, 2, networking(&[5; 32], &[])).await.unwrap();
}

/// No condition on a record can express that no other record has the same key.
#[tokio::test]
async fn of_many_nodes_at_once_one_gets_a_key() {
    let stage = Stage::new().await;
    for number in 2..10 {
        stage.up(number).await;
        stage.report(number, "203.0.113.42").await.unwrap();
    }
    let attempts = (2..10).map(|number| update(&stage, number, networking(&[5; 32], &[])));
    let got = futures::future::join_all(attempts).await;
    assert_eq!(got.iter().filter(|done| done.is_ok()).count(), 1, "{got:?}");
    let mut owners = 0;
    for number in 2..10 {
        owners += usize::from(stage.record(&id(number)).await.clusternet.is_some());
    }
    assert_eq!(owners, 1);
}

/// The first call is cancelled during its write: the outcome is unknown, so no other node may have the key.
#[tokio::test(start_paused = true)]
async fn a_key_that_may_have_been_written_is_its_nodes() {
    let stage = Stage::new().await;
    for number in [2, 3] {
        stage.up(number).await;
        stage.report(number, "203.0.113.42").await.unwrap();
    }
    let slow = curator_election::memory::Faults {
        delay: std::time::Duration::from_secs(4),
        ..Default::default()
    };
    stage.cluster.set_faults(1, slow);
    let gone = update(&stage, 2, networking(&[5; 32], &[]));
    let gone = tokio::time::timeout(std::time::Duration::from_millis(1), gone).await;
    assert!(gone.is_err(), "under way");
    let other = update(&stage, 3, networking(&[5; 32], &[])).await;
    assert_eq!(refused(other), Code::InvalidArgument);
    stage.cluster.set_faults(1, Default::default());
    // The write succeeded. The node itself may continue with the key.
    update(&stage, 2, networking(&[5; 32], &[])).await.unwrap();
    assert_eq!(stage.record(&id(3)).await.clusternet, None);
}

#[tokio::test(start_paused = true)]
async fn a_worker_gets_certificates_for_its_components_once() {
    let stage = Stage::new().await;
    stage.up(2).await;
    let issue = |keys: [&[u8]; 3]| {
        let kind = issue_certificate_request::KubernetesWorker {
            kubelet_pubkey: keys[0].to_vec(),
            csi_provisioner_pubkey: keys[1].to_vec(),
            netservices_pubkey: keys[2].to_vec(),
        };
        let request = IssueCertificateRequest {
            kind: Some(issue_certificate_request::Kind::KubernetesWorker(kind)),
        };
        let leader = stage.leader.clone();
        async move { leader.issue_certificate(&id(2), request).await }
    };
    let (kubelet, csi, net) = ([21; 32], [22; 32], [23; 32]);
    let keys: [&[u8]; 3] = [&kubelet, &csi, &net];
    assert_eq!(refused(issue(keys).await), Code::PermissionDenied, "no worker");
    stage
        .rewrite(&id(2), |node| {
            node.roles = Some(NodeRoles {
                kubernetes_worker: Some(KubernetesWorker {}),
                ..NodeRoles::default()
            });
        })
        .await;
    let Some(issue_certificate_response::Kind::KubernetesWorker(issued)) = issue(keys).await.unwrap().kind else {
        panic!()
    };
    for (certificate, key) in [
        (&issued.kubelet_server_certificate, kubelet),
        (&issued.kubelet_client_certificate, kubelet),
        (&issued.csi_provisioner_certificate, csi),
        (&issued.netservices_certificate, net),
    ] {
        assert_eq!(public_key_of(certificate), Some(key));
    }
    let stored = format!(
        "@kubernetes//kube-pki/issued/kubelet-system:node:{}-client-cert.der",
        id(2)
    );
    assert_eq!(stage.value(&stored).await.unwrap(), issued.kubelet_client_certificate);
    let again = issue(keys).await.unwrap().kind;
    assert_eq!(again, Some(issue_certificate_response::Kind::KubernetesWorker(issued)));
    let other = [24; 32];
    for changed in [
        [&other[..], &csi, &net],
        [&kubelet[..], &other, &net],
        [&kubelet[..], &csi, &other],
    ] {
        assert_eq!(refused(issue(changed).await), Code::Unavailable);
    }
    assert_eq!(refused(issue([&[1; 31], &csi, &net]).await), Code::InvalidArgument);
    let nothing = stage
        .leader
        .issue_certificate(&id(2), IssueCertificateRequest::default())
        .await;
    assert_eq!(refused(nothing), Code::InvalidArgument);
    let nobody = stage
        .leader
        .issue_certificate(&id(9), IssueCertificateRequest::default())
        .await;
    assert_eq!(refused(nobody), Code::Unavailable);
}
