//! New credentials while instances run: taken up under load, with no call failed and no stream ended.

use std::fs;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use curator_harness::{Event, Mark};
use curator_proto::curator_api::curator_client::CuratorClient;
use curator_proto::curator_api::watch_event::Progress;
use curator_proto::curator_api::watch_request::{Kind, NodesInCluster};
use curator_proto::curator_api::{GetConsensusStatusRequest, WatchRequest};
use curator_proto::management_api::UpdateNodeLabelsRequest;
use curator_proto::management_api::management_client::ManagementClient;
use curator_proto::management_api::update_node_labels_request::{Node as Labelled, Pair};
use curator_service::{certificate_pem, credential_names as names};
use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, KeyPair, PKCS_ED25519};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{PrivatePkcs8KeyDer, ServerName};

use super::cluster::{TlsCluster, Who, bounded, curator, text};
use super::refusals::Forge;
use crate::test_cluster::SOON;

/// Puts a file in the place of another at once.
fn replace(path: &Path, bytes: &[u8]) {
    let next = path.with_extension("next");
    let mut options = fs::OpenOptions::new();
    let mut file = options.write(true).create_new(true).mode(0o600).open(&next).unwrap();
    std::io::Write::write_all(&mut file, bytes).unwrap();
    fs::rename(next, path).unwrap();
}

/// The certificate that an instance shows to a new connection.
fn shown(cast: &TlsCluster, instance: usize) -> Vec<u8> {
    let connector = tokio_rustls::TlsConnector::from(cast.credentials(Who::Nobody).config());
    cast.runtime.block_on(async {
        let stream = tokio::net::TcpStream::connect(cast.address(instance)).await.unwrap();
        let name = ServerName::try_from("anybody").unwrap();
        let stream = connector.connect(name, stream).await.unwrap();
        stream.get_ref().1.peer_certificates().unwrap()[0].to_vec()
    })
}

#[test]
fn new_credentials_are_taken_up_and_no_call_fails() {
    let cast = TlsCluster::new("tls-rotation", |options| options);
    let [leader, follower] = cast.leader_and_follower();
    let forge = Forge::of(&cast);

    let (stop, calls) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let callers: Vec<_> = (0..3)
        .map(|instance| {
            let (owner, at) = (cast.credentials(Who::Owner), cast.address(instance).to_string());
            let (stop, calls) = (stop.clone(), calls.clone());
            let open = cast.channel(Who::Owner, cast.address(instance));
            cast.runtime.spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    // On a connection of its own, and on one that is open all the time.
                    for channel in [owner.channel(&at).unwrap(), open.clone()] {
                        let asked = bounded(GetConsensusStatusRequest {});
                        CuratorClient::new(channel).get_consensus_status(asked).await.unwrap();
                        calls.fetch_add(1, Ordering::Relaxed);
                    }
                }
            })
        })
        .collect();
    let mut watching = CuratorClient::new(cast.channel(Who::Owner, cast.address(follower)));
    let mut events = cast.runtime.block_on(async {
        let watch = WatchRequest {
            kind: Some(Kind::NodesInCluster(NodesInCluster {})),
        };
        let mut events = watching.watch(watch).await.unwrap().into_inner();
        while events.message().await.unwrap().unwrap().progress() != Progress::LastBacklogged {}
        events
    });

    let said = |instance: usize, mark: Mark, what: &str| {
        let contains = |event: &Event| event.text.contains(what);
        cast.stage.curators[instance]
            .wait_for(mark, SOON, what, contains)
            .unwrap()
    };
    let mut renewed = Vec::new();
    for instance in [leader, follower] {
        let node = &cast.nodes[instance];
        let key = fs::read(node.directory.join(names::NODE_KEY)).unwrap();
        let key = PrivatePkcs8KeyDer::from_pem_slice(&key).unwrap();
        let key = KeyPair::from_pkcs8_der_and_sign_algo(&key, &PKCS_ED25519).unwrap();
        let certificate = forge.user(&key, |params| {
            *params = CertificateParams::new(vec![node.id.clone()]).unwrap();
            params.distinguished_name = rcgen::DistinguishedName::new();
            params.distinguished_name.push(DnType::CommonName, node.id.as_str());
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        });
        assert_eq!(shown(&cast, instance), node.certificate());
        let mark = cast.stage.curators[instance].mark();
        replace(
            &node.directory.join(names::NODE),
            certificate_pem(&certificate).as_bytes(),
        );
        said(instance, mark, "credentials reloaded");
        assert_eq!(shown(&cast, instance), certificate);
        renewed.push(certificate);
    }
    // What is no good changes nothing, and is said.
    let directory = &cast.nodes[follower].directory;
    let mark = cast.stage.curators[follower].mark();
    replace(&directory.join(names::NODE), b"nonsense");
    let complaint = said(follower, mark, "credentials rejected");
    assert_eq!(complaint.text_of("level"), Some("ERROR"));
    assert_eq!(shown(&cast, follower), renewed[1]);
    replace(&directory.join(names::NODE), certificate_pem(&renewed[1]).as_bytes());
    let key = directory.join(names::NODE_KEY);
    let mark = cast.stage.curators[follower].mark();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    said(follower, mark, "chmod 600");
    assert_eq!(shown(&cast, follower), renewed[1]);

    // The stream is the one from before.
    let mut management = ManagementClient::new(cast.channel(Who::Owner, cast.address(leader)));
    cast.runtime.block_on(async {
        let change = UpdateNodeLabelsRequest {
            node: Some(Labelled::Id(cast.nodes[0].id.clone())),
            upsert: vec![Pair {
                key: "rotated".into(),
                value: "yes".into(),
            }],
            ..UpdateNodeLabelsRequest::default()
        };
        management.update_node_labels(bounded(change)).await.unwrap();
        loop {
            let event = tokio::time::timeout(SOON, events.message())
                .await
                .unwrap()
                .unwrap()
                .unwrap();
            let labels = event
                .nodes
                .iter()
                .flat_map(|node| node.labels.iter().flat_map(|labels| &labels.pairs));
            if labels.into_iter().any(|pair| pair.key == "rotated") {
                break;
            }
        }
    });
    stop.store(true, Ordering::Relaxed);
    for caller in callers {
        cast.runtime
            .block_on(async { tokio::time::timeout(SOON, caller).await.unwrap() })
            .expect("no call fails");
    }
    let calls = calls.load(Ordering::Relaxed);
    assert!(calls > 100, "there was a load: {calls}");
    println!("measured: {calls} calls while credentials changed");

    // One that starts with such a key does not start.
    let endpoints = cast.stage.endpoints(0, crate::test_cluster::Reach::All).join(",");
    let refused = curator(&[
        "serve",
        "--etcd-endpoints",
        &endpoints,
        "--credentials",
        text(directory),
    ]);
    assert_eq!(refused.status.code(), Some(2), "{}", refused.stderr);
    assert!(refused.stderr.contains("chmod 600"), "{}", refused.stderr);
}
