//! Whom `curator register` and `curatorctl` take for an instance: a node that proves to be a member of the consensus,
//! and no other, though each has a certificate of the cluster.

use std::net::SocketAddr;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use curator_harness::curator::{binary_from_env, ctl_from_env};
use curator_harness::process::{Finished, run};
use curator_harness::wait_until;
use curator_service::{Trust, certificate_pem, credential_names as names};
use rustls::ServerConfig;
use rustls::version::TLS13;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::cluster::{Node, TlsCluster, UNLOCK_KEY, Who, hex, text};
use crate::test_cluster::SOON;

/// A node that pretends to be an instance: it has its own certificate, and counts what it is told.
struct Pretender {
    address: SocketAddr,
    told: Arc<AtomicUsize>,
}

impl Pretender {
    fn start(cast: &TlsCluster, node: &Node) -> Self {
        let certificate = CertificateDer::from(node.certificate());
        let key = PrivateKeyDer::from_pem_file(node.directory.join(names::NODE_KEY)).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)
            .unwrap();
        config.alpn_protocols = vec![b"h2".to_vec()];
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let told = Arc::new(AtomicUsize::new(0));
        let counted = told.clone();
        let listener = cast.runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        cast.runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let Ok(mut stream) = acceptor.accept(stream).await else {
                    continue;
                };
                let mut buffer = [0; 1_024];
                while let Ok(read @ 1..) = stream.read(&mut buffer).await {
                    counted.fetch_add(read, Ordering::Relaxed);
                }
            }
        });
        Self { address, told }
    }
}

fn register(cast: &TlsCluster, node: &Node, at: SocketAddr, more: &[&str]) -> Finished {
    let unlock_key = cast.stage.scratch.path().join("unlock-key");
    std::fs::write(&unlock_key, UNLOCK_KEY).unwrap();
    let ca = node.directory.join("given-ca.pem");
    std::fs::write(&ca, certificate_pem(&cast.ca)).unwrap();
    let mut command = Command::new(binary_from_env().unwrap());
    command
        .args(["register", "--address", &at.to_string(), "--ca", text(&ca)])
        .args(["--credentials", text(&node.directory), "--wait", "2s"])
        .args(["--cluster-unlock-key-file", text(&unlock_key)])
        .args(more)
        .env("CURATOR_REGISTER_TICKET", hex(&cast.ticket));
    run(command, 4 * SOON).unwrap()
}

fn ctl(cast: &TlsCluster, at: SocketAddr, words: &[&str]) -> Finished {
    let ca = cast.stage.scratch.path().join("ca.pem");
    std::fs::write(&ca, certificate_pem(&cast.ca)).unwrap();
    let config = cast.stage.scratch.path().join("contexts.toml");
    std::fs::write(&config, "").unwrap();
    let mut command = Command::new(ctl_from_env().unwrap());
    command
        .env("CURATORCTL_CONFIG", config)
        .args(["--endpoint", &at.to_string(), "--ca", text(&ca), "--timeout", "5s"])
        .args(words);
    run(command, 2 * SOON).unwrap()
}

#[test]
fn a_node_that_is_no_member_is_told_no_secret_and_believed_nothing() {
    let cast = TlsCluster::new("tls-proof", |options| options);
    let worker = Node::new(&cast.stage.scratch, "worker");
    let registering = cast.register(&worker, cast.address(0));
    cast.approve(&worker, cast.address(0));
    registering.join().unwrap();
    let pretender = Pretender::start(&cast, &worker);

    let new = Node::new(&cast.stage.scratch, "new");
    let refused = register(&cast, &new, pretender.address, &[]);
    assert!(!refused.status.success());
    for words in ["does not prove", &worker.id, "--any-node", "--member"] {
        assert!(refused.stderr.contains(words), "{words}: {}", refused.stderr);
    }
    let refused = ctl(&cast, pretender.address, &["leader"]);
    assert_eq!(refused.status.code(), Some(4), "{}", refused.stderr);
    for words in ["does not prove", &worker.id, "--any-node"] {
        assert!(refused.stderr.contains(words), "{words}: {}", refused.stderr);
    }
    // A client has closed the connection before it said anything.
    assert_eq!(pretender.told.load(Ordering::Relaxed), 0, "it was told something");
    // Who says so is heard: that is what was refused.
    register(&cast, &new, pretender.address, &["--any-node"]);
    assert!(
        pretender.told.load(Ordering::Relaxed) > 0,
        "any node gets the ticket then"
    );

    // Each member proves it, the leader and the others, and nobody has to say anything for it.
    for instance in 0..3 {
        let leads = || {
            let told = ctl(&cast, cast.address(instance), &["leader"]);
            told.status.success().then_some(())
        };
        wait_until("the instance to prove what it is", SOON, leads).unwrap();
    }
    // Whoever asks for no proof is shown the node's own certificate, as ever.
    let plain = cast.credentials(Who::Nobody);
    let asks = curator_service::ClientCredentials::anonymous(Trust::Instances { ca: cast.ca.clone() }).unwrap();
    let shown = |client: &curator_service::ClientCredentials| {
        let connector = tokio_rustls::TlsConnector::from(client.config());
        let name = client.server_name();
        cast.runtime.block_on(async {
            let stream = tokio::net::TcpStream::connect(cast.address(0)).await.unwrap();
            let stream = connector.connect(name, stream).await.unwrap();
            stream.get_ref().1.peer_certificates().unwrap()[0].to_vec()
        })
    };
    assert_eq!(shown(&plain), cast.nodes[0].certificate());
    assert_ne!(shown(&asks), cast.nodes[0].certificate());

    // A node that loses the role has no proof soon.
    let [leader, follower] = cast.leader_and_follower();
    cast.give_role(&cast.nodes[follower].id, false, leader).unwrap();
    let refused = || {
        let told = ctl(&cast, cast.address(follower), &["leader"]);
        told.stderr.contains("does not prove").then_some(())
    };
    wait_until("the proof to be gone", 3 * SOON, refused).unwrap();
}
