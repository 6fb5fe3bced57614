//! Who is refused, with which code, through the leader as through a follower.

use std::error::Error;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use curator_harness::At;
use curator_proto::common::{NodeStatus, NodeStorageSecurity};
use curator_proto::curator_api::curator_client::CuratorClient;
use curator_proto::curator_api::{
    CommitNodeRequest, GetConsensusStatusRequest, HeartbeatRequest, JoinNodeRequest, RegisterNodeRequest,
    UpdateNodeStatusRequest,
};
use curator_proto::management_api::delete_node_request::{SafetyBypassHasRoles, SafetyBypassNotDecommissioned};
use curator_proto::management_api::management_client::ManagementClient;
use curator_proto::management_api::{DeleteNodeRequest, GetRegisterTicketRequest, delete_node_request};
use curator_service::{ClientCredentials, PrivateKey, Trust};
use hyper_util::rt::TokioIo;
use rcgen::{
    CertificateParams, DnType, ExtendedKeyUsagePurpose, Issuer, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ED25519,
};
use rustls::client::ResolvesClientCert;
use rustls::sign::CertifiedKey;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use super::cluster::{Node, TlsCluster, Who, bounded, hex};
use crate::test_cluster::SOON;

/// The authority's key is in the store. With it the tests make what the cluster would never issue.
pub(super) struct Forge(Issuer<'static, KeyPair>);

impl Forge {
    pub(super) fn of(cast: &TlsCluster) -> Self {
        let key = "namespaced:curator//cluster-pki/keys/cluster-ca-privkey.bin";
        let stored = cast.stage.etcd.get(At::Any, key).unwrap().unwrap().value;
        let key = pkcs8(&stored[..32]);
        let key = KeyPair::from_pkcs8_der_and_sign_algo(&key, &PKCS_ED25519).unwrap();
        Self(Issuer::from_ca_cert_der(&CertificateDer::from(cast.ca.clone()), key).unwrap())
    }

    /// A user's certificate with one thing changed.
    pub(super) fn user(&self, key: &KeyPair, change: impl FnOnce(&mut CertificateParams)) -> Vec<u8> {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "owner");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        change(&mut params);
        params.signed_by(key, &self.0).unwrap().der().to_vec()
    }
}

/// PKCS #8 around a seed.
fn pkcs8(seed: &[u8]) -> PrivatePkcs8KeyDer<'static> {
    let head = [
        0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20,
    ];
    [&head[..], seed].concat().into()
}

/// Shows whatever it is told to.
#[derive(Debug)]
struct Shows(Arc<CertifiedKey>);

impl ResolvesClientCert for Shows {
    fn resolve(&self, _: &[&[u8]], _: &[rustls::SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// A channel of somebody who shows these certificates, with this key, whether they go together or not.
pub(super) fn showing(cast: &TlsCluster, certificates: &[Vec<u8>], key: &KeyPair, at: SocketAddr) -> Channel {
    let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
    let key = rustls::crypto::ring::sign::any_supported_type(&key).unwrap();
    let certificates = certificates.iter().cloned().map(CertificateDer::from).collect();
    let shows = Shows(Arc::new(CertifiedKey::new(certificates, key)));
    let trust = Trust::Cluster { ca: cast.ca.clone() };
    let mut config = (*ClientCredentials::anonymous(trust).unwrap().config()).clone();
    config.client_auth_cert_resolver = Arc::new(shows);
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let connect = tower::service_fn(move |_: http::Uri| {
        let connector = connector.clone();
        async move {
            let stream = tokio::net::TcpStream::connect(at).await?;
            let name = ServerName::try_from("anybody").unwrap();
            Ok::<_, std::io::Error>(TokioIo::new(connector.connect(name, stream).await?))
        }
    });
    let _within = cast.runtime.enter();
    Endpoint::from_shared(format!("http://{at}"))
        .unwrap()
        .connect_with_connector_lazy(connect)
}

fn ask(cast: &TlsCluster, channel: Channel) -> Result<(), Status> {
    let mut curator = CuratorClient::new(channel);
    let asked = curator.get_consensus_status(bounded(GetConsensusStatusRequest {}));
    cast.runtime.block_on(asked).map(drop)
}

fn code<T>(answer: Result<T, Status>) -> Code {
    answer.map_or_else(|status| status.code(), |_| Code::Ok)
}

#[test]
fn certificates_that_prove_nothing_are_refused() {
    let cast = TlsCluster::new("tls-refusals", |options| options);
    let forge = Forge::of(&cast);
    let key = KeyPair::generate_for(&PKCS_ED25519).unwrap();
    let other_key = KeyPair::generate_for(&PKCS_ED25519).unwrap();
    let ecdsa = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    let good = forge.user(&key, |_| {});
    let now = time::OffsetDateTime::from(SystemTime::now());
    let expired = forge.user(&key, |params| params.not_after = now - Duration::from_secs(5));
    let not_yet = forge.user(&key, |params| params.not_before = now + Duration::from_secs(3_600));
    let for_nothing = forge.user(&key, |params| params.extended_key_usages.clear());
    let an_authority = forge.user(&key, |params| {
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    });
    // Longer than any of the cluster's: whoever would pass it on pays for it.
    let long = forge.user(&key, |params| {
        params.custom_extensions = vec![rcgen::CustomExtension::from_oid_content(&[1, 3, 9, 1], vec![0; 20_000])];
    });
    // Another node's name on its own key.
    let other_id = cast.nodes[0].id.clone();
    let misnamed = forge.user(&key, |params| {
        *params = CertificateParams::new(vec![other_id.clone()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, other_id.as_str());
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    });
    let wrong_ca = {
        let key = KeyPair::generate_for(&PKCS_ED25519).unwrap();
        let mut params = CertificateParams::default();
        params
            .distinguished_name
            .push(DnType::CommonName, "Metropolis Cluster CA");
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        Forge(Issuer::new(params, key)).user(&other_key, |_| {})
    };
    let self_signed = CertificateParams::default().self_signed(&key).unwrap().der().to_vec();
    let ecdsa_user = forge.user(&ecdsa, |_| {});
    for instance in cast.leader_and_follower() {
        let at = cast.address(instance);
        let refused = |what: &str, certificates: &[Vec<u8>], key: &KeyPair, contains: &str| {
            let status = ask(&cast, showing(&cast, certificates, key, at)).expect_err(what);
            assert_eq!(status.code(), Code::Unauthenticated, "{what}: {status}");
            assert!(status.message().contains(contains), "{what}: {status}");
        };
        // What is refused below is refused for the one thing that is wrong with it.
        ask(&cast, showing(&cast, std::slice::from_ref(&good), &key, at)).expect("a good one");
        // As OpenSSL sends it for a client that verifies the server.
        let chain = [good.clone(), cast.ca.clone()];
        ask(&cast, showing(&cast, &chain, &key, at)).expect("the cluster's authority behind it is no harm");
        let nobody = ask(&cast, cast.channel(Who::Nobody, at)).unwrap_err();
        assert_eq!(nobody.code(), Code::Unauthenticated, "{nobody}");
        refused(
            "wrong authority",
            std::slice::from_ref(&wrong_ca),
            &other_key,
            "not signed by the cluster",
        );
        refused("expired", std::slice::from_ref(&expired), &key, "has expired");
        refused(
            "not yet valid",
            std::slice::from_ref(&not_yet),
            &key,
            "not valid before",
        );
        refused(
            "another kind of key",
            std::slice::from_ref(&ecdsa_user),
            &ecdsa,
            "not Ed25519",
        );
        refused("two certificates", &[good.clone(), good.clone()], &key, "more than one");
        let third = [good.clone(), cast.ca.clone(), good.clone()];
        refused("one behind the authority", &third, &key, "more than one");
        refused(
            "self-signed",
            std::slice::from_ref(&self_signed),
            &key,
            "not signed by the cluster",
        );
        refused(
            "for nothing",
            std::slice::from_ref(&for_nothing),
            &key,
            "neither a node certificate nor a user certificate",
        );
        refused(
            "another node's name",
            std::slice::from_ref(&misnamed),
            &key,
            "neither a node certificate nor a user certificate",
        );
        refused(
            "an authority",
            std::slice::from_ref(&an_authority),
            &key,
            "a CA certificate cannot identify",
        );
        refused(
            "the cluster's own authority's",
            std::slice::from_ref(&cast.ca),
            &ca_key(&cast),
            "a CA certificate cannot identify",
        );
        // The owner's certificate is no secret; the key is. The handshake fails, so that nothing is answered at all.
        let stolen = ask(
            &cast,
            showing(&cast, std::slice::from_ref(&cast.owner.0), &other_key, at),
        )
        .unwrap_err();
        assert!(
            stolen.source().is_some(),
            "the connection ends, nobody answers: {stolen}"
        );
        let long = ask(&cast, showing(&cast, std::slice::from_ref(&long), &key, at)).unwrap_err();
        assert!(long.source().is_some(), "the connection ends, nobody answers: {long}");
        assert_eq!(tls12(at), [0x15, 3, 3, 0, 2, 2, 70], "a fatal alert: protocol_version");
    }
}

fn ca_key(cast: &TlsCluster) -> KeyPair {
    let key = "namespaced:curator//cluster-pki/keys/cluster-ca-privkey.bin";
    let stored = cast.stage.etcd.get(At::Any, key).unwrap().unwrap().value;
    KeyPair::from_pkcs8_der_and_sign_algo(&pkcs8(&stored[..32]), &PKCS_ED25519).unwrap()
}

/// Says hello as a client does that has TLS 1.2 and nothing newer; returns what is answered.
fn tls12(at: SocketAddr) -> Vec<u8> {
    let extensions: &[u8] = &[
        0, 10, 0, 4, 0, 2, 0, 29, // supported groups: x25519
        0, 11, 0, 2, 1, 0, // point formats: uncompressed
        0, 13, 0, 6, 0, 4, 8, 7, 4, 3, // signatures: Ed25519, ECDSA with P-256
    ];
    let mut hello = vec![3, 3];
    hello.extend([7; 32]);
    hello.push(0);
    hello.extend([0, 4, 0xc0, 0x2b, 0xc0, 0x2f, 1, 0]);
    hello.extend(u16::try_from(extensions.len()).unwrap().to_be_bytes());
    hello.extend(extensions);
    let length = u16::try_from(hello.len()).unwrap();
    let mut record = vec![0x16, 3, 1];
    record.extend((length + 4).to_be_bytes());
    record.extend([1, 0]);
    record.extend(length.to_be_bytes());
    record.extend(hello);
    let mut stream = TcpStream::connect(at).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    stream.write_all(&record).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    answer
}

#[test]
fn members_do_what_they_may_and_no_more() {
    let cast = TlsCluster::new("tls-permissions", |options| options);
    let worker = Node::new(&cast.stage.scratch, "worker");
    let at = cast.address(0);
    let registering = cast.register(&worker, at);
    cast.approve(&worker, at);
    registering.join().unwrap();
    let stranger = PrivateKey::generate().unwrap();
    let status = |id: &str| {
        bounded(UpdateNodeStatusRequest {
            node_id: id.to_owned(),
            status: Some(NodeStatus {
                external_address: "192.0.2.1".into(),
                ..NodeStatus::default()
            }),
        })
    };
    let ticket = || bounded(GetRegisterTicketRequest {});
    for instance in cast.leader_and_follower() {
        let at = cast.address(instance);
        let curator = |who| CuratorClient::new(cast.channel(who, at));
        let management = |who| ManagementClient::new(cast.channel(who, at));
        let run = &cast.runtime;
        // A node acts for itself, and has no permission of a user's.
        let own = run.block_on(curator(Who::Node(&worker)).update_node_status(status(&worker.id)));
        assert_eq!(code(own), Code::Ok);
        let others = run.block_on(curator(Who::Node(&worker)).update_node_status(status(&cast.nodes[0].id)));
        assert_eq!(code(others), Code::PermissionDenied);
        let lacking = run
            .block_on(management(Who::Node(&worker)).get_register_ticket(ticket()))
            .unwrap_err();
        assert_eq!(lacking.code(), Code::PermissionDenied);
        assert_eq!(
            lacking.message(),
            "node missing PERMISSION_GET_REGISTER_TICKET permission"
        );
        // A user may everything, and is no node.
        assert_eq!(
            code(run.block_on(management(Who::Owner).get_register_ticket(ticket()))),
            Code::Ok
        );
        let as_node = run.block_on(curator(Who::Owner).update_node_status(status(&worker.id)));
        assert_eq!(code(as_node), Code::PermissionDenied);
        let beats = bounded(tokio_stream::iter([HeartbeatRequest {}]));
        assert_eq!(
            code(run.block_on(curator(Who::Owner).heartbeat(beats))),
            Code::PermissionDenied
        );
        // A key that its holder has certified is nobody's, until the method asks for just that.
        let unknown = run.block_on(management(Who::Key(&stranger)).get_register_ticket(ticket()));
        assert_eq!(code(unknown), Code::Unauthenticated);
        let register = |ticket: &[u8]| {
            bounded(RegisterNodeRequest {
                register_ticket: ticket.to_vec(),
                join_key: stranger.public_key().to_vec(),
                ..RegisterNodeRequest::default()
            })
        };
        let without_ticket = run.block_on(curator(Who::Key(&stranger)).register_node(register(b"guess")));
        assert_eq!(code(without_ticket), Code::PermissionDenied);
        for who in [Who::Nobody, Who::Owner, Who::Node(&worker)] {
            // No key is shown by a certificate that somebody else has signed.
            assert_eq!(
                code(run.block_on(curator(who).register_node(register(&cast.ticket)))),
                Code::Unauthenticated
            );
            let commit = bounded(CommitNodeRequest {
                storage_security: NodeStorageSecurity::Insecure.into(),
                ..CommitNodeRequest::default()
            });
            assert_eq!(
                code(run.block_on(curator(who).commit_node(commit))),
                Code::Unauthenticated
            );
            let join = bounded(JoinNodeRequest::default());
            assert_eq!(code(run.block_on(curator(who).join_node(join))), Code::PermissionDenied);
        }
        // The node's key is not its join key.
        let join = bounded(JoinNodeRequest::default());
        assert_eq!(
            code(run.block_on(curator(Who::Key(&worker.key)).join_node(join))),
            Code::NotFound
        );
    }

    // The node with this id has another key now: the certificate is one of a node that is not there any more.
    let [leader, follower] = cast.leader_and_follower();
    let record = format!("namespaced:curator//nodes/{}", worker.id);
    let stored = cast.stage.etcd.get(At::Any, &record).unwrap().unwrap().value;
    let mut replaced = stored.clone();
    let key = worker.key.public_key();
    let found = stored.windows(32).position(|window| window == key).unwrap();
    replaced[found + 31] ^= 1;
    put(&cast, &record, &replaced);
    let through = |instance: usize| ask(&cast, cast.channel(Who::Node(&worker), cast.address(instance)));
    // Written behind the leader's back, so its watch brings it.
    curator_harness::wait_until("the leader to hear of it", SOON, || through(leader).err()).unwrap();
    for instance in [leader, follower] {
        let refused = through(instance).unwrap_err();
        assert_eq!(refused.code(), Code::Unauthenticated, "{refused}");
    }
    put(&cast, &record, &stored);
    curator_harness::wait_until("the leader to hear of it", SOON, || through(leader).ok()).unwrap();

    // Deleted: from the next call on, on a connection that is open.
    let channels = [leader, follower].map(|instance| cast.channel(Who::Node(&worker), cast.address(instance)));
    for channel in &channels {
        ask(&cast, channel.clone()).unwrap();
    }
    let mut beating: Vec<_> = channels
        .iter()
        .map(|channel| {
            let (beat, beats) = tokio::sync::mpsc::channel(1);
            let beats = tonic::Request::new(tokio_stream::wrappers::ReceiverStream::new(beats));
            let mut curator = CuratorClient::new(channel.clone());
            let answers = cast.runtime.block_on(async {
                beat.send(HeartbeatRequest {}).await.unwrap();
                let mut answers = curator.heartbeat(beats).await.unwrap().into_inner();
                answers.message().await.unwrap().expect("an answer");
                answers
            });
            (beat, answers)
        })
        .collect();
    let delete = DeleteNodeRequest {
        node: Some(delete_node_request::Node::Id(worker.id.clone())),
        safety_bypass_has_roles: Some(SafetyBypassHasRoles {}),
        safety_bypass_not_decommissioned: Some(SafetyBypassNotDecommissioned {}),
    };
    let mut management = ManagementClient::new(cast.channel(Who::Owner, cast.address(follower)));
    cast.runtime.block_on(management.delete_node(bounded(delete))).unwrap();
    for channel in &channels {
        let refused = ask(&cast, channel.clone()).unwrap_err();
        assert_eq!(refused.code(), Code::Unauthenticated, "{refused}");
        assert!(refused.message().contains("not a node of the cluster"), "{refused}");
    }
    // Streams that were open then get no further message.
    for (beat, answers) in &mut beating {
        let refused = cast.runtime.block_on(async {
            beat.send(HeartbeatRequest {}).await.unwrap();
            tokio::time::timeout(SOON, answers.message())
                .await
                .unwrap()
                .unwrap_err()
        });
        assert_eq!(refused.code(), Code::Unauthenticated, "{refused}");
    }
}

/// Puts bytes that are no text.
fn put(cast: &TlsCluster, key: &str, value: &[u8]) {
    use curator_election::etcd::{EtcdConfig, EtcdStore};
    use curator_election::store::{Op, Store, Txn};
    cast.runtime.block_on(async {
        let store = EtcdStore::new(EtcdConfig::new(cast.stage.etcd.endpoints())).unwrap();
        let put = Txn::default().then(vec![Op::put(key.to_owned(), value.to_vec())]);
        assert!(store.txn(put).await.unwrap().succeeded, "{}", hex(value));
    });
}
