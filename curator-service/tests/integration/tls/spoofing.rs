//! The metadata that followers add to calls, sent by those who are no followers: never taken for somebody else.

use std::net::SocketAddr;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use curator_harness::Role;
use curator_proto::management_api::GetRegisterTicketRequest;
use curator_proto::management_api::management_client::ManagementClient;
use curator_proto::private::LeaderElectionValue;
use curator_service::PrivateKey;
use prost::Message;
use tonic::metadata::AsciiMetadataValue;
use tonic::transport::Channel;
use tonic::{Code, Status};

use super::cluster::{Node, TlsCluster, Who, bounded};
use crate::test_cluster::SOON;

/// What a follower says of a call.
struct Hop<'a> {
    term: Option<&'a str>,
    certificate: Option<String>,
}

fn base64(certificates: &[&[u8]]) -> String {
    let all: Vec<_> = certificates.iter().map(|der| STANDARD_NO_PAD.encode(der)).collect();
    all.join(",")
}

/// Asks for what only users may have.
fn ask(cast: &TlsCluster, channel: Channel, hop: &Hop<'_>) -> Result<(), Status> {
    let mut request = bounded(GetRegisterTicketRequest {});
    let mut mark = |name: &'static str, value: &str| {
        let value = AsciiMetadataValue::try_from(value).unwrap();
        request.metadata_mut().insert(name, value);
    };
    if let Some(term) = hop.term {
        mark("curator-forwarded-term", term);
        mark("curator-forwarded-by", "somebody");
    }
    if let Some(certificate) = &hop.certificate {
        mark("curator-forwarded-certificate", certificate);
    }
    let mut management = ManagementClient::new(channel);
    cast.runtime.block_on(management.get_register_ticket(request)).map(drop)
}

fn term(cast: &TlsCluster, leader: usize) -> String {
    match cast.stage.curators[leader].role() {
        Some(Role::Leader {
            lock_key,
            lock_revision,
        }) => format!("{lock_revision}/{lock_key}"),
        other => panic!("it leads: {other:?}"),
    }
}

#[test]
fn nobody_but_a_member_of_the_consensus_says_who_calls() {
    // Who may say what is the question here, not how fast the next one leads: one term from the first call to the last.
    let cast = TlsCluster::new("tls-spoofing", |options| options.leader_ttl(Duration::from_secs(30)));
    let worker = Node::new(&cast.stage.scratch, "worker");
    let registering = cast.register(&worker, cast.address(0));
    cast.approve(&worker, cast.address(0));
    registering.join().unwrap();
    let [leader, follower] = cast.leader_and_follower();
    let third = 3 - leader - follower;
    let term = term(&cast, leader);
    let owner = || Some(base64(&[&cast.owner.0]));
    let stranger = PrivateKey::generate().unwrap();
    let through = |who: Who<'_>, at: SocketAddr, hop: &Hop<'_>| ask(&cast, cast.channel(who, at), hop);

    // What they are without pretending anything: the certificate alone is not even looked at.
    let alone = Hop {
        term: None,
        certificate: owner(),
    };
    for instance in [leader, follower] {
        let at = cast.address(instance);
        for (who, code) in [
            (Who::Nobody, Code::Unauthenticated),
            (Who::Key(&stranger), Code::Unauthenticated),
            (Who::Node(&worker), Code::PermissionDenied),
            (Who::Node(&cast.nodes[third]), Code::PermissionDenied),
        ] {
            let refused = through(who, at, &alone).unwrap_err();
            assert_eq!(refused.code(), code, "{refused}");
        }
    }
    // The whole mark, for the leader's own term.
    let whole = Hop {
        term: Some(&term),
        certificate: owner(),
    };
    let at_leader = cast.address(leader);
    for who in [Who::Nobody, Who::Key(&stranger), Who::Owner, Who::Node(&worker)] {
        let refused = through(who, at_leader, &whole).unwrap_err();
        assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
        assert!(refused.message().contains("only members of the consensus"), "{refused}");
    }
    // A member of the consensus is whom the leader listens to: the marks above were right.
    let member = Who::Node(&cast.nodes[third]);
    through(member, at_leader, &whole).expect("forwarded by a member");
    // A follower passes nothing on that has been forwarded, whoever says so.
    for who in [Who::Nobody, Who::Owner, Who::Node(&worker), member] {
        let refused = through(who, cast.address(follower), &whole).unwrap_err();
        assert_eq!(refused.code(), Code::Unavailable, "{refused}");
    }
    // What a member forwards is verified as if the caller had come by itself.
    let (cut, node) = (&cast.owner.0[..cast.owner.0.len() - 10], worker.certificate());
    let two: [&[u8]; 2] = [&cast.owner.0, &cast.owner.0];
    for (certificate, code) in [
        (None, Code::Unauthenticated),
        (Some(base64(&[cut])), Code::Unauthenticated),
        (Some(base64(&two)), Code::Unauthenticated),
        (Some(base64(&[&node])), Code::PermissionDenied),
        (Some(base64(&[])), Code::Unauthenticated),
        (Some("%%%".into()), Code::InvalidArgument),
    ] {
        let hop = Hop {
            term: Some(&term),
            certificate,
        };
        let refused = through(member, at_leader, &hop).unwrap_err();
        assert_eq!(refused.code(), code, "{refused}");
    }
    // A term that is another's is refused before anybody asks who forwards.
    let stale = Hop {
        term: Some("1/leader/0"),
        certificate: owner(),
    };
    assert_eq!(
        through(member, at_leader, &stale).unwrap_err().code(),
        Code::Unavailable
    );

    // Its role is taken away, and with the next call its word counts for nothing: its own, and what its instance
    // forwards on connections that are open.
    let plain = Hop {
        term: None,
        certificate: None,
    };
    let member_channel = cast.channel(member, at_leader);
    let owner_channel = cast.channel(Who::Owner, cast.address(third));
    ask(&cast, member_channel.clone(), &whole).unwrap();
    ask(&cast, owner_channel.clone(), &plain).unwrap();
    cast.give_role(&cast.nodes[third].id, false, leader).unwrap();
    // To the instance the leader says what it is; and it sends its own callers to another one.
    for (refused, code) in [
        (ask(&cast, member_channel, &whole), Code::PermissionDenied),
        (ask(&cast, owner_channel, &plain), Code::Unavailable),
    ] {
        let refused = refused.unwrap_err();
        assert_eq!(refused.code(), code, "{refused}");
        assert!(refused.message().contains("only members of the consensus"), "{refused}");
    }
}

#[test]
fn a_follower_calls_only_the_node_that_the_election_names() {
    let mut cast = TlsCluster::new("tls-other-node", |options| options);
    for curator in &cast.stage.curators {
        curator.kill().unwrap();
    }
    curator_harness::wait_until("the leases to run out", SOON, || {
        cast.stage.candidates().is_empty().then_some(())
    })
    .unwrap();
    // The third node leads, it says, and can be reached where the second one listens.
    let (named, listening) = (cast.nodes[2].id.clone(), cast.nodes[1].id.clone());
    let value = LeaderElectionValue {
        node_id: named.clone(),
        ttl: 2,
        advertised_addresses: vec![cast.address(1).to_string()],
        ..LeaderElectionValue::default()
    };
    // The value is no text, so that etcdctl cannot write it.
    let endpoints = cast.stage.etcd.endpoints();
    cast.runtime.block_on(async {
        let mut client = etcd_client::Client::connect(endpoints, None).await.unwrap();
        let lease = client.lease_grant(600, None).await.unwrap().id();
        let key = format!("namespaced:curator//leader/{lease:x}");
        let attached = etcd_client::PutOptions::new().with_lease(lease);
        client.put(key, value.encode_to_vec(), Some(attached)).await.unwrap();
    });
    let before = cast.stage.curators[0].mark();
    for instance in [0, 1] {
        let mark = cast.stage.curators[instance].mark();
        cast.stage.curators[instance].restart().unwrap();
        let follows = |role: &Role| role.follows() == Some(&named);
        cast.stage.curators[instance]
            .wait_for_role(mark, SOON, "following", follows)
            .unwrap();
    }
    let plain = Hop {
        term: None,
        certificate: None,
    };
    let refused = ask(&cast, cast.channel(Who::Owner, cast.address(0)), &plain).unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable, "{refused}");
    // Why is for the log: whoever calls may be a stranger.
    assert!(!refused.message().contains(&listening), "{refused}");
    let why = format!("this is not node {named}: it is {listening}");
    cast.stage.curators[0]
        .wait_for(before, SOON, "why there is no connection", |event| {
            event.text.contains(&why)
        })
        .unwrap();
}
