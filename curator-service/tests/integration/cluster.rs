//! The life of nodes through every instance, while leaders are killed.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use curator_harness::curator::{binary_from_env, embedding_from_env};
use curator_harness::{CuratorOptions, EtcdOptions};
use curator_proto::common::{NodeState, NodeStatus, NodeStorageSecurity};
use curator_proto::curator_api::curator_client::CuratorClient;
use curator_proto::curator_api::watch_event::Progress;
use curator_proto::curator_api::watch_request::{Kind, NodesInCluster};
use curator_proto::curator_api::{
    CommitNodeRequest, JoinNodeRequest, RegisterNodeRequest, UpdateNodeStatusRequest, WatchRequest,
};
use curator_proto::management_api::delete_node_request::{SafetyBypassHasRoles, SafetyBypassNotDecommissioned};
use curator_proto::management_api::management_client::ManagementClient;
use curator_proto::management_api::{
    ApproveNodeRequest, DeleteNodeRequest, GetNodesRequest, GetRegisterTicketRequest, UpdateNodeRolesRequest,
    delete_node_request, update_node_roles_request,
};
use curator_service::TEST_CALLER;
use rand::RngExt;
use tonic::metadata::AsciiMetadataValue;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};

use crate::test_cluster::{Reach, SOON, TTL, TestCluster};

/// How long each call is given: a change of leader fits in.
const DEADLINE: Duration = Duration::from_secs(8);

pub(crate) const OWNER: &str = "user owner";

/// Runs `curator bootstrap` for the cluster.
pub(crate) fn bootstrap(stage: &TestCluster, number: u8) -> Output {
    let hex = |byte: u8| format!("{byte:02x}").repeat(32);
    Command::new(binary_from_env().unwrap())
        .arg("bootstrap")
        .args(["--etcd-endpoints", &stage.endpoints(0, Reach::All).join(",")])
        .args(["--node-public-key", &hex(number)])
        .args(["--join-public-key", &hex(number + 100)])
        .args(["--owner-public-key", &hex(99)])
        .args(["--tpm-mode", "best-effort"])
        .output()
        .unwrap()
}

/// Starts three instances that believe who callers say they are.
pub(crate) fn embedding(stage: &mut TestCluster) {
    let program = embedding_from_env().unwrap();
    for member in 0..3 {
        let number = u32::try_from(member + 1).unwrap();
        let options = CuratorOptions::new(number, stage.endpoints(member, Reach::All)).leader_ttl(TTL);
        stage.start_program(&program, options);
    }
}

/// Clients of all instances.
#[derive(Clone)]
pub(crate) struct Clients(Vec<Channel>);

impl Clients {
    pub(crate) fn new(addresses: &[SocketAddr]) -> Self {
        let channel = |address| {
            let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
            endpoint.connect_timeout(Duration::from_secs(1)).connect_lazy()
        };
        Self(addresses.iter().map(channel).collect())
    }

    pub(crate) fn any(&self) -> Channel {
        self.0[rand::rng().random_range(0..self.0.len())].clone()
    }

    pub(crate) fn management(&self) -> ManagementClient<Channel> {
        ManagementClient::new(self.any())
    }

    pub(crate) fn curator(&self) -> CuratorClient<Channel> {
        CuratorClient::new(self.any())
    }
}

pub(crate) fn request<T>(message: T, caller: &str) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(DEADLINE);
    let caller = AsciiMetadataValue::try_from(caller).unwrap();
    request.metadata_mut().insert(TEST_CALLER, caller);
    request
}

pub(crate) fn key(number: u16) -> Vec<u8> {
    let mut key = vec![0xab; 32];
    key[..2].copy_from_slice(&number.to_be_bytes());
    key
}

pub(crate) fn join_key(number: u16) -> Vec<u8> {
    let mut key = key(number);
    key[31] = 1;
    key
}

pub(crate) fn shown(key: &[u8]) -> String {
    let hex: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("key {hex}")
}

pub(crate) fn id(number: u16) -> String {
    let hex: String = key(number)[..16].iter().map(|byte| format!("{byte:02x}")).collect();
    format!("metropolis-{hex}")
}

/// Calls until it is answered, whatever becomes of leaders and connections; returns the first answer that is not "try
/// again", and whether it was called before.
pub(crate) async fn insist<T>(mut call: impl AsyncFnMut() -> Result<T, Status>) -> (Result<T, Status>, bool) {
    let mut again = false;
    let until = Instant::now() + 4 * SOON;
    loop {
        let done = call().await;
        // The client of tonic calls it internal when a server that ends has closed the connection under a call.
        let closed =
            |status: &Status| status.code() == Code::Internal && status.message().contains("h2 protocol error");
        let transient = |status: &Status| {
            closed(status)
                || matches!(
                    status.code(),
                    Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled | Code::Unknown
                )
        };
        match done {
            Err(status) if transient(&status) => {
                assert!(Instant::now() < until, "nobody answers: {status}");
                again = true;
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            done => return (done, again),
        }
    }
}

/// One node's whole life.
async fn live(clients: &Clients, ticket: &[u8], number: u16) {
    let (registered, _) = insist(async || {
        let message = RegisterNodeRequest {
            register_ticket: ticket.to_vec(),
            join_key: join_key(number),
            have_local_tpm: false,
            labels: None,
        };
        clients
            .curator()
            .register_node(request(message, &shown(&key(number))))
            .await
    })
    .await;
    // Told the same, however often it was called: a node in NEW may ask again.
    assert!(registered.unwrap().into_inner().cluster_configuration.is_some());
    let (approved, _) = insist(async || {
        let message = ApproveNodeRequest { pubkey: key(number) };
        clients.management().approve_node(request(message, OWNER)).await
    })
    .await;
    approved.unwrap();
    let (committed, again) = insist(async || {
        let message = CommitNodeRequest {
            cluster_unlock_key: key(number),
            storage_security: NodeStorageSecurity::AuthenticatedEncrypted.into(),
        };
        clients
            .curator()
            .commit_node(request(message, &shown(&key(number))))
            .await
    })
    .await;
    match committed {
        Ok(committed) => assert!(!committed.into_inner().node_certificate.is_empty()),
        // Its answer was lost: it is not done twice, on purpose.
        Err(status) => assert!(again && status.code() == Code::FailedPrecondition, "{status}"),
    }
    let (joined, _) = insist(async || {
        let message = JoinNodeRequest {
            using_sealed_configuration: false,
        };
        clients
            .curator()
            .join_node(request(message, &shown(&join_key(number))))
            .await
    })
    .await;
    assert_eq!(joined.unwrap().into_inner().cluster_unlock_key, key(number));
    let (reported, _) = insist(async || {
        let message = UpdateNodeStatusRequest {
            node_id: id(number),
            status: Some(NodeStatus {
                external_address: "192.0.2.1".into(),
                ..NodeStatus::default()
            }),
        };
        let node = format!("node {}", id(number));
        clients.curator().update_node_status(request(message, &node)).await
    })
    .await;
    reported.unwrap();
    let (given, _) = insist(async || {
        let message = UpdateNodeRolesRequest {
            node: Some(update_node_roles_request::Node::Id(id(number))),
            kubernetes_worker: Some(true),
            ..UpdateNodeRolesRequest::default()
        };
        clients.management().update_node_roles(request(message, OWNER)).await
    })
    .await;
    given.unwrap();
    // What was acknowledged is there, whoever is asked.
    let (told, _) = insist(async || nodes(clients, &format!("node.id == '{}'", id(number))).await).await;
    let told = told.unwrap();
    let [node] = &told[..] else { panic!("{told:?}") };
    assert_eq!(node.state(), NodeState::Up);
    assert!(node.roles.as_ref().unwrap().kubernetes_worker.is_some());
    assert_eq!(node.status.as_ref().unwrap().external_address, "192.0.2.1");
    if number.is_multiple_of(3) {
        return;
    }
    let (deleted, again) = insist(async || {
        let message = DeleteNodeRequest {
            node: Some(delete_node_request::Node::Id(id(number))),
            safety_bypass_has_roles: Some(SafetyBypassHasRoles {}),
            safety_bypass_not_decommissioned: Some(SafetyBypassNotDecommissioned {}),
        };
        clients.management().delete_node(request(message, OWNER)).await
    })
    .await;
    if let Err(status) = deleted {
        assert!(again && status.code() == Code::NotFound, "{status}");
    }
    let (told, _) = insist(async || nodes(clients, &format!("node.id == '{}'", id(number))).await).await;
    assert!(told.unwrap().is_empty(), "{} is deleted", id(number));
}

pub(crate) async fn nodes(clients: &Clients, filter: &str) -> Result<Vec<curator_proto::management_api::Node>, Status> {
    let message = GetNodesRequest { filter: filter.into() };
    let mut stream = clients
        .management()
        .get_nodes(request(message, OWNER))
        .await?
        .into_inner();
    let mut nodes = Vec::new();
    while let Some(node) = stream.message().await? {
        nodes.push(node);
    }
    Ok(nodes)
}

/// Watches all nodes through one instance after the other, as a node does: what it knows in the end is what there is.
async fn watch(clients: Clients, stop: Arc<AtomicBool>, markers: Arc<AtomicUsize>) -> BTreeMap<String, NodeState> {
    let mut known = BTreeMap::new();
    'anew: loop {
        let kind = Some(Kind::NodesInCluster(NodesInCluster {}));
        let mut message = Request::new(WatchRequest { kind });
        message
            .metadata_mut()
            .insert(TEST_CALLER, AsciiMetadataValue::from_static(OWNER));
        let Ok(stream) = clients.curator().watch(message).await else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let mut stream = stream.into_inner();
        // What it was told before by another watch may be gone: the backlog says what there is.
        let mut backlog = Some(BTreeMap::new());
        loop {
            let event = match tokio::time::timeout(Duration::from_secs(1), stream.message()).await {
                Ok(Ok(Some(event))) => event,
                Ok(_) => continue 'anew,
                Err(_) if stop.load(Ordering::Relaxed) && backlog.is_none() => return known,
                Err(_) => continue,
            };
            let into = backlog.as_mut().unwrap_or(&mut known);
            for node in &event.nodes {
                into.insert(node.id.clone(), node.state());
            }
            for gone in &event.node_tombstones {
                into.remove(&gone.node_id);
            }
            if event.progress() == Progress::LastBacklogged {
                markers.fetch_add(1, Ordering::Relaxed);
                known = backlog.take().expect("one marker a watch");
            }
        }
    }
}

#[test]
fn nodes_live_through_every_instance_while_leaders_are_killed() {
    let mut stage = TestCluster::empty("cluster", EtcdOptions::default());
    // From several places at once: one of them makes the cluster.
    let made: Vec<Output> = std::thread::scope(|scope| {
        let stage = &stage;
        let attempts: Vec<_> = (1..4)
            .map(|number| scope.spawn(move || bootstrap(stage, number)))
            .collect();
        attempts.into_iter().map(|attempt| attempt.join().unwrap()).collect()
    });
    assert_eq!(made.iter().filter(|made| made.status.success()).count(), 1, "{made:?}");
    // From a fourth place; where it was made, the same command finishes what is left to do.
    let refused = bootstrap(&stage, 4);
    assert_eq!(refused.status.code(), Some(1));
    let text = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(text.contains("nothing was changed"), "{text}");

    embedding(&mut stage);
    stage.agreed(SOON);
    let addresses: Vec<_> = stage.curators.iter().map(|curator| curator.address()).collect();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let clients = {
        let _within = runtime.enter();
        Clients::new(&addresses)
    };
    let (ticket, _) = runtime.block_on(insist(async || {
        let asked = request(GetRegisterTicketRequest {}, OWNER);
        clients.management().get_register_ticket(asked).await
    }));
    let ticket = ticket.unwrap().into_inner().ticket;

    let (stop, lived) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let markers = Arc::new(AtomicUsize::new(0));
    let watching = runtime.spawn(watch(clients.clone(), stop.clone(), markers.clone()));
    // Some nodes at a time, one life after the other.
    let lives: Vec<_> = (0..6_u16)
        .map(|lane| {
            let (clients, ticket) = (clients.clone(), ticket.clone());
            let (stop, lived) = (stop.clone(), lived.clone());
            let handle = runtime.handle().clone();
            std::thread::spawn(move || {
                let mut number = lane;
                while !stop.load(Ordering::Relaxed) {
                    handle.block_on(live(&clients, &ticket, number));
                    lived.fetch_add(1, Ordering::Relaxed);
                    number += 6;
                }
                number
            })
        })
        .collect();
    let mut killed = 0;
    for round in 0..4 {
        let before = lived.load(Ordering::Relaxed);
        let progress = || (lived.load(Ordering::Relaxed) > before + 12).then_some(());
        curator_harness::wait_until("lives to go on", 4 * SOON, progress).unwrap();
        let leader = stage.agreed(SOON);
        stage.silence(leader);
        match round % 2 {
            0 => {
                stage.curators[leader].kill().unwrap();
            }
            _ => {
                stage.curators[leader].terminate().unwrap();
                stage.curators[leader].wait_exit(SOON).unwrap();
            }
        }
        killed += 1;
        stage.curators[leader].restart().unwrap();
        stage.agreed(SOON);
    }
    stop.store(true, Ordering::Relaxed);
    let mut expected = BTreeMap::new();
    for life in lives {
        let beyond = life.join().unwrap();
        let lane = beyond % 6;
        for number in (lane..beyond).step_by(6).filter(|number| number % 3 == 0) {
            expected.insert(id(number), NodeState::Up);
        }
    }
    let told = runtime.block_on(insist(async || nodes(&clients, "").await)).0.unwrap();
    let first: Vec<_> = told.iter().filter(|node| !expected.contains_key(&node.id)).collect();
    assert_eq!(first.len(), 1, "the first node, and nobody who was deleted: {first:?}");
    expected.insert(first[0].id.clone(), NodeState::Up);
    let found: BTreeMap<_, _> = told.iter().map(|node| (node.id.clone(), node.state())).collect();
    assert_eq!(found, expected);
    let known = runtime.block_on(async { tokio::time::timeout(SOON, watching).await.unwrap().unwrap() });
    assert_eq!(known, expected, "a watcher ends up with what there is");
    println!(
        "measured: {} lives of nodes, {killed} leaders killed or stopped, {} backlogs",
        lived.load(Ordering::Relaxed),
        markers.load(Ordering::Relaxed)
    );
}
