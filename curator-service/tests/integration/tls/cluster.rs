//! A cluster whose three nodes each have an instance with credentials and a member of etcd, and an owner.
//!
//! It is born on one node without etcd, where two more nodes register; then its state moves to an etcd whose members
//! are those nodes. So nobody's role is made up: the consensus has the members that the records say.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::JoinHandle;
use std::time::Duration;

use curator_harness::curator::binary_from_env;
use curator_harness::process::{Finished, run};
use curator_harness::{CuratorOptions, CuratorProcess, EtcdBinaries, EtcdOptions, Mark, Role, TempDir};
use curator_proto::management_api::aaa_client::AaaClient;
use curator_proto::management_api::management_client::ManagementClient;
use curator_proto::management_api::{
    ApproveNodeRequest, EscrowRequest, GetRegisterTicketRequest, UpdateNodeRolesRequest, escrow_request,
    update_node_roles_request,
};
use curator_service::{
    ClientCredentials, CredentialsDirectory, PrivateKey, Trust, credential_names as names, node_id, read_certificate,
    read_private_key, wall_clock,
};
use tokio::runtime::Runtime;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

use crate::test_cluster::{Reach, SOON, TTL, TestCluster};

/// The cluster's part of each node's disk key.
pub(super) const UNLOCK_KEY: [u8; 32] = *b"the part of the cluster, no more";

/// A node of the cluster, or one that is to be.
pub(super) struct Node {
    pub(super) id: String,
    pub(super) directory: PathBuf,
    pub(super) key: PrivateKey,
    pub(super) join_key: PrivateKey,
}

impl Node {
    /// Its keys are on the disk then, and nothing else.
    pub(super) fn new(scratch: &TempDir, name: &str) -> Self {
        let directory = scratch.path().join(name);
        let credentials = CredentialsDirectory::create(&directory).unwrap();
        let key = credentials.key(names::NODE_KEY).unwrap();
        Self {
            id: node_id(key.public_key()).unwrap(),
            join_key: credentials.key(names::JOIN_KEY).unwrap(),
            key,
            directory,
        }
    }

    pub(super) fn certificate(&self) -> Vec<u8> {
        read_certificate(&self.directory.join(names::NODE)).unwrap()
    }
}

/// Who calls.
#[derive(Clone, Copy)]
pub(super) enum Who<'a> {
    Nobody,
    Owner,
    Node(&'a Node),
    /// Somebody who shows a key.
    Key(&'a PrivateKey),
}

/// Whether etcd can listen on a Unix socket by its path, as the original's does: 3.4 takes a name alone.
pub(super) fn has_sockets() -> bool {
    EtcdBinaries::from_env().unwrap().series() != "3.4"
}

/// The cluster. Dropping it stops everything.
pub(super) struct TlsCluster {
    pub(super) stage: TestCluster,
    pub(super) runtime: Runtime,
    pub(super) ca: Vec<u8>,
    pub(super) owner: (Vec<u8>, PrivateKey),
    pub(super) ticket: Vec<u8>,
    /// Those with an instance, in the order of the instances.
    pub(super) nodes: Vec<Node>,
}

/// Runs the binary.
pub(super) fn curator(args: &[&str]) -> Finished {
    let mut command = Command::new(binary_from_env().unwrap());
    command.args(args);
    run(command, 4 * SOON).unwrap()
}

pub(super) fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A request that ends.
pub(super) fn bounded<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(SOON);
    request
}

impl TlsCluster {
    /// Three instances that agree on a leader, all of them members of the consensus.
    pub(super) fn new(label: &str, change: impl Fn(CuratorOptions) -> CuratorOptions) -> Self {
        let scratch = TempDir::new(label).unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let state = scratch.path().join("state");
        let nodes: Vec<_> = (1..4)
            .map(|number| Node::new(&scratch, &format!("node-{number}")))
            .collect();
        let made = curator(&[
            "bootstrap",
            "--embedded",
            text(&state),
            "--credentials",
            text(&nodes[0].directory),
            "--tpm-mode=best-effort",
            "--storage-security=permissive",
        ]);
        assert!(made.status.success(), "{}", made.stderr);
        let ca = read_certificate(&nodes[0].directory.join(names::CA)).unwrap();
        let owner = read_private_key(&nodes[0].directory.join(names::OWNER_KEY)).unwrap();

        let mut options = CuratorOptions::new(0, Vec::new()).leader_ttl(TTL);
        options.node_id.clone_from(&nodes[0].id);
        options.credentials = Some(nodes[0].directory.clone());
        options.extra_args = vec!["--embedded".into(), text(&state).into()];
        let first = CuratorProcess::start(&binary_from_env().unwrap(), &scratch, change(options)).unwrap();
        first
            .wait_for_role(Mark::START, SOON, "leading alone", Role::is_leader)
            .unwrap();
        let at = first.address();
        let certificate = runtime.block_on(escrow(&ca, &owner, at)).unwrap();
        let mut cast = Self {
            stage: TestCluster::within(
                scratch,
                EtcdOptions {
                    names: nodes.iter().map(|node| node.id.clone()).collect(),
                    client_sockets: has_sockets(),
                    ..EtcdOptions::default()
                },
            ),
            runtime,
            ca,
            owner: (certificate, owner),
            ticket: Vec::new(),
            nodes: Vec::new(),
        };
        let mut management = ManagementClient::new(cast.channel(Who::Owner, at));
        let ticket = management.get_register_ticket(bounded(GetRegisterTicketRequest {}));
        cast.ticket = cast.runtime.block_on(ticket).unwrap().into_inner().ticket;
        let joining: Vec<_> = nodes[1..].iter().map(|node| cast.register(node, at)).collect();
        for node in &nodes[1..] {
            cast.approve(node, at);
        }
        for registered in joining {
            registered.join().unwrap();
        }
        first.terminate().unwrap();
        first.wait_exit(SOON).unwrap();
        drop(first);

        let file = cast.stage.scratch.path().join("exported");
        let endpoints = cast.stage.endpoints(0, Reach::All).join(",");
        let exported = curator(&["export", "--embedded", text(&state), "--out", text(&file)]);
        assert!(exported.status.success(), "{}", exported.stderr);
        let imported = curator(&["import", "--etcd-endpoints", &endpoints, text(&file)]);
        assert!(imported.status.success(), "{}", imported.stderr);
        for (member, node) in nodes.iter().enumerate() {
            cast.stage.start(member, Reach::All, |options| {
                let mut options = options.leader_ttl(TTL);
                options.node_id.clone_from(&node.id);
                options.credentials = Some(node.directory.clone());
                change(options)
            });
        }
        cast.nodes = nodes;
        let leader = cast.stage.agreed(SOON);
        for node in &cast.nodes[1..] {
            cast.give_role(&node.id, true, leader).unwrap();
        }
        for instance in 0..3 {
            let proves = || cast.proves(instance).then_some(());
            curator_harness::wait_until("the instance to prove what it is", SOON, proves).unwrap();
        }
        cast
    }

    /// Whether an instance proves at this moment that its node is a member of the consensus.
    pub(super) fn proves(&self, instance: usize) -> bool {
        let trust = Trust::Instances { ca: self.ca.clone() };
        let client = ClientCredentials::anonymous(trust).unwrap();
        let connector = tokio_rustls::TlsConnector::from(client.config());
        let name = client.server_name();
        self.runtime.block_on(async {
            let stream = tokio::net::TcpStream::connect(self.address(instance)).await.unwrap();
            connector.connect(name, stream).await.is_ok()
        })
    }

    pub(super) fn address(&self, instance: usize) -> SocketAddr {
        self.stage.curators[instance].address()
    }

    /// What somebody shows.
    pub(super) fn credentials(&self, who: Who<'_>) -> ClientCredentials {
        let trust = Trust::Cluster { ca: self.ca.clone() };
        match who {
            Who::Nobody => ClientCredentials::anonymous(trust),
            Who::Owner => ClientCredentials::with_certificate(trust, self.owner.0.clone(), &self.owner.1),
            Who::Node(node) => ClientCredentials::with_certificate(trust, node.certificate(), &node.key),
            Who::Key(key) => ClientCredentials::with_key(trust, key, wall_clock()),
        }
        .unwrap()
    }

    /// A channel of its own.
    pub(super) fn channel(&self, who: Who<'_>, at: SocketAddr) -> Channel {
        let _within = self.runtime.enter();
        self.credentials(who).channel(&at.to_string()).unwrap()
    }

    /// Runs `curator register` for a node, through an instance.
    pub(super) fn register(&self, node: &Node, at: SocketAddr) -> JoinHandle<()> {
        let unlock_key = self.stage.scratch.path().join("unlock-key");
        std::fs::write(&unlock_key, UNLOCK_KEY).unwrap();
        let ca = node.directory.join("given-ca.pem");
        std::fs::write(&ca, curator_service::certificate_pem(&self.ca)).unwrap();
        let mut command = Command::new(binary_from_env().unwrap());
        command
            .args(["register", "--address", &at.to_string(), "--ca", text(&ca)])
            .args(["--credentials", text(&node.directory)])
            .args(["--cluster-unlock-key-file", text(&unlock_key)])
            .env("CURATOR_REGISTER_TICKET", hex(&self.ticket));
        std::thread::spawn(move || {
            let finished = run(command, 4 * SOON).unwrap();
            assert!(finished.status.success(), "{}{}", finished.stdout, finished.stderr);
        })
    }

    /// Approves a node as soon as it has registered.
    pub(super) fn approve(&self, node: &Node, at: SocketAddr) {
        let mut management = ManagementClient::new(self.channel(Who::Owner, at));
        self.runtime.block_on(async {
            let until = tokio::time::Instant::now() + SOON;
            loop {
                let pubkey = node.key.public_key().to_vec();
                match management.approve_node(bounded(ApproveNodeRequest { pubkey })).await {
                    Ok(_) => return,
                    // Not yet registered, or a change of leader.
                    Err(status)
                        if matches!(status.code(), Code::NotFound | Code::Unavailable)
                            && tokio::time::Instant::now() < until =>
                    {
                        tokio::time::sleep(Duration::from_millis(50)).await;
                    }
                    Err(status) => panic!("{status}"),
                }
            }
        });
    }

    /// Gives or takes the role of a member of the consensus.
    pub(super) fn give_role(&self, id: &str, member: bool, instance: usize) -> Result<(), Status> {
        let mut management = ManagementClient::new(self.channel(Who::Owner, self.address(instance)));
        self.runtime.block_on(async {
            let until = tokio::time::Instant::now() + SOON;
            let of = |request| UpdateNodeRolesRequest {
                node: Some(update_node_roles_request::Node::Id(id.to_owned())),
                ..request
            };
            if !member {
                // Controllers must be members, and so go first, in a call of their own.
                let no_controller = of(UpdateNodeRolesRequest {
                    kubernetes_controller: Some(false),
                    ..UpdateNodeRolesRequest::default()
                });
                management.update_node_roles(bounded(no_controller)).await?;
            }
            loop {
                let request = of(UpdateNodeRolesRequest {
                    consensus_member: Some(member),
                    ..UpdateNodeRolesRequest::default()
                });
                match management.update_node_roles(bounded(request)).await {
                    Ok(_) => return Ok(()),
                    // etcd changes no members while it is not sure of those that there are, as after its start.
                    Err(status) if status.code() == Code::Unavailable && tokio::time::Instant::now() < until => {
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                    Err(status) => return Err(status),
                }
            }
        })
    }

    /// The instance that leads, and one that follows.
    pub(super) fn leader_and_follower(&self) -> [usize; 2] {
        let leader = self.stage.agreed(SOON);
        [leader, (leader + 1) % self.nodes.len()]
    }
}

/// The owner's certificate, by the owner's key alone.
pub(super) async fn escrow(ca: &[u8], key: &PrivateKey, at: SocketAddr) -> Result<Vec<u8>, Status> {
    let trust = Trust::Cluster { ca: ca.to_vec() };
    let client = ClientCredentials::with_key(trust, key, wall_clock()).unwrap();
    let request = EscrowRequest {
        parameters: Some(escrow_request::Parameters {
            requested_identity_name: "owner".into(),
            public_key: key.public_key().to_vec(),
        }),
        proofs: None,
    };
    let mut aaa = AaaClient::new(client.channel(&at.to_string()).unwrap());
    let mut answers = aaa.escrow(bounded(tokio_stream::once(request))).await?.into_inner();
    let answer = answers.message().await?.unwrap();
    Ok(answer.emitted_certificate)
}
