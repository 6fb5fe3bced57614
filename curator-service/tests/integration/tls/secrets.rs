//! What is secret is in no log, however much is logged.

use std::fs;

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use bytes::Bytes;
use curator_harness::At;
use curator_proto::curator_api::JoinNodeRequest;
use curator_proto::curator_api::curator_client::CuratorClient;
use curator_service::PrivateKey;

use super::cluster::{TlsCluster, UNLOCK_KEY, Who, bounded, escrow, hex};
use super::spans::{TRACE, label, logged_in, traceparent};
use crate::test_cluster::SOON;

/// The ways in which bytes are written by those who write them without thinking.
fn ways(secret: &[u8]) -> Vec<String> {
    let middle = &secret[4..20];
    let list = |bytes: &[u8]| bytes.iter().map(u8::to_string).collect::<Vec<_>>().join(", ");
    let escaped = format!("{:?}", Bytes::copy_from_slice(middle));
    let inner = escaped.trim_start_matches("b\"").trim_end_matches('"').to_owned();
    let mut ways = vec![
        hex(middle),
        hex(middle).to_uppercase(),
        list(middle),
        list(middle).replace(' ', ""),
    ];
    // In JSON a backslash is written twice.
    ways.extend([inner.replace('\\', "\\\\"), inner]);
    // Base64, wherever in a triple the secret begins.
    for skipped in 0..3 {
        let whole = &middle[skipped..][..12];
        ways.push(STANDARD_NO_PAD.encode(whole));
    }
    ways
}

/// What is in a `traceparent` that is none.
const RUBBISH: &str = "0badc0ffee0badc0ffee";

/// A call that says a trace is found by it at follower and leader, and at the leader's transaction; what is no trace is
/// not.
fn follow_a_trace(cast: &TlsCluster) {
    let [leader, follower] = cast.leader_and_follower();
    label(cast, follower, "a", traceparent(true).as_bytes()).unwrap();
    let of = |instance: usize| logged_in(&cast.stage.curators[instance], TRACE);
    let told = |instance: usize, message: &str| of(instance).iter().any(|event| event.message() == Some(message));
    curator_harness::wait_until("the call to be logged by both", SOON, || {
        (told(follower, "the answer begins") && told(leader, "the answer begins")).then_some(())
    })
    .unwrap();
    assert!(told(follower, "forwarding"), "{:?}", of(follower));
    let transaction =
        |event: &curator_harness::Event| event.target() == Some("curator::etcd") && event.message() == Some("answered");
    assert!(of(leader).iter().any(transaction), "{:?}", of(leader));

    for wrong in [
        RUBBISH.into(),
        format!("{}{RUBBISH}", traceparent(true)),
        RUBBISH.repeat(2_000),
        format!("00-{RUBBISH}0000000000-00f067aa0ba902b7-01\t{RUBBISH}"),
    ] {
        label(cast, follower, "b", wrong.as_bytes()).unwrap();
    }
    let bytes = [&[0xff, 0xfe][..], RUBBISH.as_bytes()].concat();
    label(cast, follower, "c", &bytes).unwrap();
}

#[test]
fn no_secret_is_logged_at_the_finest_level() {
    let traced = |mut options: curator_harness::CuratorOptions| {
        options.env.push(("RUST_LOG".into(), "trace".into()));
        options
    };
    let cast = TlsCluster::new("tls-secrets", traced);
    for instance in 0..3 {
        let at = cast.address(instance);
        let mut joining = CuratorClient::new(cast.channel(Who::Key(&cast.nodes[1].join_key), at));
        let joined = cast.runtime.block_on(async {
            escrow(&cast.ca, &cast.owner.1, at).await.unwrap();
            joining.join_node(bounded(JoinNodeRequest::default())).await.unwrap()
        });
        assert_eq!(joined.into_inner().cluster_unlock_key, UNLOCK_KEY);
    }
    follow_a_trace(&cast);
    let authority = "namespaced:curator//cluster-pki/keys/cluster-ca-privkey.bin";
    let authority = cast.stage.etcd.get(At::Any, authority).unwrap().unwrap().value;
    let mut secrets = vec![
        ("the authority's key", authority[..32].to_vec()),
        ("the cluster's part of a disk key", UNLOCK_KEY.to_vec()),
        ("the register ticket", cast.ticket[cast.ticket.len() - 32..].to_vec()),
        ("the owner's key", seed(&cast.owner.1)),
    ];
    for node in &cast.nodes {
        secrets.push(("a node's key", seed(&node.key)));
        secrets.push(("a join key", seed(&node.join_key)));
    }
    let mut read = 0;
    for entry in fs::read_dir(cast.stage.scratch.logs()).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if !name.starts_with("curator-") {
            // etcd's own.
            continue;
        }
        let log = String::from_utf8_lossy(&fs::read(&path).unwrap()).into_owned();
        read += log.len();
        for (what, secret) in &secrets {
            for way in ways(secret) {
                assert!(!log.contains(&way), "{what} is in {name}, as {way:?}");
            }
        }
        assert!(!log.contains(RUBBISH), "{name} has what a stranger made up");
        // The search finds what is there.
        if name == "curator-1.log" {
            assert!(log.contains(&cast.nodes[0].id) && log.contains("TRACE"), "{name}");
        }
    }
    println!("measured: no secret in {read} bytes of logs");
    assert!(read > 100_000, "they were logged at the finest level");
}

/// The seed of a key, from its file.
fn seed(key: &PrivateKey) -> Vec<u8> {
    let pem = key.to_pem();
    let base64: String = pem.lines().filter(|line| !line.starts_with("-----")).collect();
    base64::engine::general_purpose::STANDARD.decode(base64).unwrap()[16..].to_vec()
}
