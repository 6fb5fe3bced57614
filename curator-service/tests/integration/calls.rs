//! Every service through every instance: the leader and its followers answer alike.

use std::time::Duration;

use curator_harness::EtcdOptions;
use curator_proto::curator_api::curator_client::CuratorClient;
use curator_proto::curator_api::curator_local_client::CuratorLocalClient;
use curator_proto::curator_api::{
    GetCaCertificateRequest, GetConsensusStatusRequest, HeartbeatRequest, RegisterNodeRequest,
};
use curator_proto::management_api::aaa_client::AaaClient;
use curator_proto::management_api::escrow_response::proof_request::Kind;
use curator_proto::management_api::management_client::ManagementClient;
use curator_proto::management_api::node::Health;
use curator_proto::management_api::{EscrowRequest, GetClusterInfoRequest, GetNodesRequest, escrow_request};
use curator_service::TEST_CALLER;
use tokio_stream::StreamExt;
use tonic::metadata::AsciiMetadataValue;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request};

use crate::cluster::{OWNER, bootstrap, embedding};
use crate::test_cluster::{SOON, TestCluster};

fn by<T>(message: T, caller: &str) -> Request<T> {
    let mut request = Request::new(message);
    let caller = AsciiMetadataValue::try_from(caller).unwrap();
    request.metadata_mut().insert(TEST_CALLER, caller);
    request
}

fn hex(byte: u8) -> String {
    format!("{byte:02x}").repeat(32)
}

#[test]
fn every_service_is_answered_by_every_instance() {
    if crate::test_cluster::done_already() {
        return;
    }
    let mut stage = TestCluster::empty("calls", EtcdOptions::default());
    assert!(bootstrap(&stage, 1).status.success());
    embedding(&mut stage);
    stage.agreed(SOON);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let mut told = Vec::new();
        for curator in &stage.curators {
            let endpoint = Endpoint::from_shared(format!("http://{}", curator.address())).unwrap();
            let channel = endpoint.timeout(SOON).connect().await.unwrap();
            told.push(all(channel).await);
        }
        assert!(
            told.iter().all(|each| *each == told[0]),
            "the same certificates: {told:?}"
        );
    });
}

/// Calls each service; returns what must be the same whoever is asked.
async fn all(channel: Channel) -> [Vec<u8>; 2] {
    let node = format!("metropolis-{}", &hex(1)[..32]);
    // A node's heartbeats, each answered, and its health after them.
    let mut curator = CuratorClient::new(channel.clone());
    let (beat, beats) = tokio::sync::mpsc::channel(1);
    let beats = tokio_stream::wrappers::ReceiverStream::new(beats);
    let mut answers = curator
        .heartbeat(by(beats, &format!("node {node}")))
        .await
        .unwrap()
        .into_inner();
    for _ in 0..3 {
        beat.send(HeartbeatRequest {}).await.unwrap();
        answers.message().await.unwrap().expect("an answer to each");
    }
    drop(beat);
    assert_eq!(answers.message().await.unwrap(), None, "ends well when the node does");
    let mut management = ManagementClient::new(channel.clone());
    let filter = format!("node.id == '{node}'");
    let mut nodes = management
        .get_nodes(by(GetNodesRequest { filter }, OWNER))
        .await
        .unwrap()
        .into_inner();
    let told = nodes.message().await.unwrap().expect("the first node");
    assert_eq!(told.health(), Health::Healthy);
    assert!(told.time_since_heartbeat.unwrap().seconds < 5);
    let not_a_node = by(tokio_stream::pending(), OWNER);
    assert_eq!(
        curator.heartbeat(not_a_node).await.unwrap_err().code(),
        Code::PermissionDenied
    );

    let members = curator
        .get_consensus_status(by(GetConsensusStatusRequest {}, OWNER))
        .await;
    assert_eq!(members.unwrap().into_inner().etcd_member.len(), 3);
    let unrecognized = curator.get_consensus_status(GetConsensusStatusRequest {}).await;
    assert_eq!(unrecognized.unwrap_err().code(), Code::Unauthenticated);
    let not_for_nodes = ManagementClient::new(channel.clone())
        .get_register_ticket(by(Default::default(), &format!("node {node}")))
        .await;
    assert_eq!(not_for_nodes.unwrap_err().code(), Code::PermissionDenied);
    let no_ticket = curator
        .register_node(by(RegisterNodeRequest::default(), &format!("key {}", hex(5))))
        .await;
    assert_eq!(no_ticket.unwrap_err().code(), Code::InvalidArgument);

    let info = management.get_cluster_info(by(GetClusterInfoRequest {}, OWNER)).await;
    let ca = info.unwrap().into_inner().ca_certificate;
    let mut local = CuratorLocalClient::new(channel.clone());
    let local = local.get_ca_certificate(GetCaCertificateRequest {}).await;
    assert_eq!(local.unwrap().into_inner().identity_ca_certificate, ca);

    let owner = escrow(&channel, "owner", 99, Some(99)).await.unwrap();
    for (name, asked, shown, code) in [
        ("owner", 99, None, Code::Unauthenticated),
        ("owner", 99, Some(98), Code::Unimplemented),
        ("owner", 98, Some(98), Code::PermissionDenied),
        ("other", 99, Some(99), Code::Unimplemented),
    ] {
        let refused = escrow(&channel, name, asked, shown).await;
        assert_eq!(refused, Err(code), "{name} {asked} {shown:?}");
    }
    [ca, owner]
}

/// Asks for a certificate; before an end without one, the answer says what is needed if no key is shown.
async fn escrow(channel: &Channel, name: &str, asked: u8, shown: Option<u8>) -> Result<Vec<u8>, Code> {
    let request = EscrowRequest {
        parameters: Some(escrow_request::Parameters {
            requested_identity_name: name.into(),
            public_key: vec![asked; 32],
        }),
        proofs: None,
    };
    // The stream stays open: the first request is answered without waiting for its end.
    let requests = tokio_stream::iter([request]).chain(tokio_stream::pending());
    let caller = shown.map_or_else(|| "nobody".into(), |shown| format!("key {}", hex(shown)));
    let answers = AaaClient::new(channel.clone()).escrow(by(requests, &caller)).await;
    let mut answers = answers.map_err(|status| status.code())?.into_inner();
    let first = tokio::time::timeout(Duration::from_secs(5), answers.message()).await;
    let first = first
        .expect("an answer")
        .map_err(|status| status.code())?
        .expect("an answer");
    if shown.is_none() {
        assert_eq!(first.needed[0].kind(), Kind::RefreshCertificate);
    }
    match answers.message().await {
        Ok(None) => {
            assert_eq!(first.fulfilled[0].kind(), Kind::RefreshCertificate);
            Ok(first.emitted_certificate)
        }
        Ok(Some(more)) => panic!("one answer is enough: {more:?}"),
        Err(status) => Err(status.code()),
    }
}
