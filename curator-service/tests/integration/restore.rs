//! etcd is restored from a backup under instances that run.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use curator_harness::curator::embedding_from_env;
use curator_harness::{CuratorOptions, CuratorProcess, EtcdOptions, Mark};
use curator_proto::common::NodeState;
use curator_proto::curator_api::RegisterNodeRequest;
use curator_proto::management_api::{ApproveNodeRequest, GetRegisterTicketRequest};
use tonic::Status;

use crate::cluster::{Clients, OWNER, bootstrap, id, insist, join_key, key, nodes, request, shown};
use crate::test_cluster::{Reach, SOON, TestCluster};

/// So long that nothing in a scenario comes from a lease that runs out.
const TTL: Duration = Duration::from_secs(60);

async fn register(clients: &Clients, ticket: &[u8], number: u16) {
    let register = async || {
        let message = RegisterNodeRequest {
            register_ticket: ticket.to_vec(),
            join_key: join_key(number),
            have_local_tpm: false,
            labels: None,
        };
        let message = request(message, &shown(&key(number)));
        clients.curator().register_node(message).await
    };
    let (registered, _) = insist(register).await;
    registered.expect("the ticket is the cluster's");
}

async fn approve(clients: &Clients, number: u16) -> Result<(), Status> {
    let approve = async || {
        let message = ApproveNodeRequest { pubkey: key(number) };
        clients.management().approve_node(request(message, OWNER)).await
    };
    insist(approve).await.0.map(drop)
}

async fn known(clients: &Clients) -> BTreeMap<String, NodeState> {
    let (told, _) = insist(async || nodes(clients, "").await).await;
    let told = told.expect("the owner may ask");
    told.into_iter().map(|node| (node.id.clone(), node.state())).collect()
}

/// The leader's lock key and its lease are in the backup; what was acknowledged since is not.
#[tokio::test(flavor = "multi_thread")]
async fn an_old_backup_restored_under_a_leader_is_what_everybody_is_told() {
    let mut stage = tokio::task::block_in_place(|| {
        let mut stage = TestCluster::empty("restore", EtcdOptions::default());
        assert!(bootstrap(&stage, 1).status.success());
        let program = embedding_from_env().unwrap();
        for member in 0..3 {
            let number = u32::try_from(member + 1).unwrap();
            let options = CuratorOptions::new(number, stage.endpoints(member, Reach::All)).leader_ttl(TTL);
            stage.start_program(&program, options);
        }
        stage.agreed(SOON);
        stage
    });
    let addresses: Vec<SocketAddr> = stage.curators.iter().map(CuratorProcess::address).collect();
    let clients = Clients::new(&addresses);
    let asked = async || {
        let message = GetRegisterTicketRequest {};
        clients.management().get_register_ticket(request(message, OWNER)).await
    };
    let ticket = insist(asked).await.0.expect("the owner may ask").into_inner().ticket;
    register(&clients, &ticket, 10).await;

    let backup = stage.scratch.dir("backup").unwrap();
    tokio::task::block_in_place(|| {
        stage.etcd.kill_all().unwrap();
        stage.etcd.back_up(&backup).unwrap();
        stage.etcd.start_all().unwrap();
        stage.etcd.wait_healthy(SOON).unwrap();
        stage.agreed(SOON);
    });
    let lock = stage.lock_revision(0);
    // All of this is acknowledged, and is not in the backup.
    approve(&clients, 10).await.expect("it is new");
    for number in 11..40 {
        register(&clients, &ticket, number).await;
    }
    assert_eq!(stage.lock_revision(0), lock, "the term is that of the backup");
    assert_eq!(known(&clients).await.get(&id(10)), Some(&NodeState::Standby));

    let marks: Vec<Mark> = stage.marks();
    tokio::task::block_in_place(|| {
        stage.etcd.kill_all().unwrap();
        stage.etcd.restore(&backup).unwrap();
        stage.etcd.start_all().unwrap();
        stage.etcd.wait_healthy(SOON).unwrap();
    });
    let restored = Instant::now();
    let told = known(&clients).await;
    assert_eq!(told.get(&id(10)), Some(&NodeState::New), "{told:?}");
    assert!(!told.contains_key(&id(11)), "it is in no store: {told:?}");
    approve(&clients, 10).await.expect("it is new once more");
    register(&clients, &ticket, 11).await;
    let took = restored.elapsed();
    assert!(took < SOON, "{took:?}");

    tokio::task::block_in_place(|| {
        stage.agreed(SOON);
        // Those that had not looked since the backup see nothing odd.
        let warned = |curator: &CuratorProcess, mark: &Mark| {
            curator.events_since(*mark).iter().any(|event| {
                event.text_of("level") == Some("WARN")
                    && event
                        .message()
                        .is_some_and(|told| told.contains("was it restored from a backup?"))
            })
        };
        let mut instances = stage.curators.iter().zip(&marks);
        assert!(
            instances.any(|(curator, mark)| warned(curator, mark)),
            "nobody says why"
        );
        // As docs/operations.md has it: everything is stopped meanwhile.
        for curator in &stage.curators {
            curator.terminate().unwrap();
        }
        for curator in &stage.curators {
            curator.wait_exit(SOON).unwrap();
        }
        stage.etcd.kill_all().unwrap();
        stage.etcd.restore(&backup).unwrap();
        stage.etcd.start_all().unwrap();
        stage.etcd.wait_healthy(SOON).unwrap();
    });
    // Leases of the backup begin anew, and a key that an instance has left behind is removed by its next process.
    tokio::task::block_in_place(|| {
        for curator in &mut stage.curators {
            curator.restart().unwrap();
        }
        stage.agreed(SOON);
    });
    let told = known(&clients).await;
    assert_eq!(told.get(&id(10)), Some(&NodeState::New), "{told:?}");
    assert!(!told.contains_key(&id(11)), "it is in no store: {told:?}");
    tokio::task::block_in_place(|| stage.curators.clear());
}
