//! What those do who mean no good: as strangers, as nodes that wait for approval, as workers and with the owner's
//! certificate.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use curator_proto::admin_api::StepDownRequest;
use curator_proto::common::{NodeLabels, NodeStatus, NodeStorageSecurity, node_labels};
use curator_proto::curator_api::watch_request::{Kind, NodesInCluster};
use curator_proto::curator_api::{
    CommitNodeRequest, IssueCertificateRequest, JoinNodeRequest, RegisterNodeRequest, UpdateNodeStatusRequest,
    WatchRequest,
};
use curator_proto::management_api::update_node_labels_request::Node as Labelled;
use curator_proto::management_api::{DeleteNodeRequest, GetNodesRequest, UpdateNodeLabelsRequest, delete_node_request};
use curator_proto::permission::Methods;
use curator_service::{ClientCredentials, PrivateKey, Trust, wall_clock};
use prost::Message;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinSet;
use tonic::transport::Channel;
use tonic::{Request, Status};

use super::raw;
use crate::test_cluster::SOON;

pub(super) const CURATOR: &str = "/metropolis.node.core.curator.proto.api.Curator";
pub(super) const MANAGEMENT: &str = "/metropolis.proto.api.Management";
/// How much lower the attackers' priority is than that of the cluster: they have machines of their own, and it is their
/// calls that count, not what it takes to make them.
const NICE: i32 = 15;

/// One kind of attack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Attack {
    Busy,
    NodeFilters,
    FilterCrowd,
    Statuses,
    UnreadWatches,
    UnreadNodes,
    LongErrors,
    Cancels,
    Deadlines,
    Mutated,
    Handshakes,
    Registrations,
    /// While nobody leads.
    Hold,
}

impl Attack {
    /// What nodes register last stays, so that comes last.
    pub(super) const ALL: [Self; 11] = [
        Self::NodeFilters,
        Self::FilterCrowd,
        Self::Statuses,
        Self::UnreadWatches,
        Self::UnreadNodes,
        Self::LongErrors,
        Self::Cancels,
        Self::Deadlines,
        Self::Mutated,
        Self::Handshakes,
        Self::Registrations,
    ];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Busy => "as many who mean well",
            Self::NodeFilters => "a node's filters that grow, loop and match, 16 at a time",
            Self::FilterCrowd => "such filters of six nodes, 8 at a time each, given up and asked again",
            Self::Statuses => "two nodes that report something else all the time, 16 at a time",
            Self::UnreadWatches => "100 watches that nobody reads, while nodes report",
            Self::UnreadNodes => "60 lists of all nodes that nobody reads",
            Self::LongErrors => "errors that would be long, of a stranger, a node and the owner",
            Self::Cancels => "64 calls at a time that are cancelled",
            Self::Deadlines => "64 calls at a time with a millisecond to go",
            Self::Mutated => "messages with bits turned, to all methods",
            Self::Handshakes => "strangers with a connection for each call, 8 at a time",
            Self::Hold => "calls of strangers that wait for a leader, 17 connections with 256 each",
            Self::Registrations => "nodes that register with the ticket and all labels, 4 at a time",
        }
    }

    /// What the leader counts of it, where a limit of its own bites within a look.
    pub(super) const fn counter(self) -> Option<&'static str> {
        match self {
            Self::NodeFilters | Self::FilterCrowd => Some("curator_filters_refused_total"),
            Self::Statuses => Some("curator_writes_paced_total"),
            _ => None,
        }
    }

    const fn lanes(self) -> usize {
        match self {
            Self::UnreadWatches => 102,
            Self::UnreadNodes => 60,
            Self::FilterCrowd => 48,
            Self::NodeFilters | Self::Statuses => 16,
            Self::Busy | Self::LongErrors | Self::Mutated | Self::Handshakes => 8,
            Self::Hold => 17,
            Self::Registrations => 4,
            Self::Cancels | Self::Deadlines => 2,
        }
    }
}

/// A party, with what it shows.
#[derive(Clone)]
pub(super) struct Party {
    pub(super) id: String,
    pub(super) credentials: ClientCredentials,
}

impl Party {
    fn channel(&self, at: SocketAddr) -> Channel {
        self.credentials.channel(&at.to_string()).unwrap()
    }
}

/// All who attack, on threads of their own.
pub(super) struct Attackers {
    runtime: Runtime,
    camp: Arc<Camp>,
}

/// What they have.
pub(super) struct Camp {
    pub(super) ca: Vec<u8>,
    pub(super) ticket: Vec<u8>,
    pub(super) owner: Party,
    pub(super) nodes: Vec<Party>,
    pub(super) stranger: Party,
    /// The leader and a follower.
    pub(super) addresses: [SocketAddr; 2],
    /// What they have done, and how much of it was refused.
    pub(super) sent: AtomicU64,
    pub(super) refused: AtomicU64,
}

impl Attackers {
    pub(super) fn new(camp: Camp) -> Self {
        Self {
            runtime: Builder::new_multi_thread()
                .worker_threads(2)
                .on_thread_start(|| {
                    let _ = rustix::process::nice(NICE);
                })
                .enable_all()
                .build()
                .unwrap(),
            camp: Arc::new(camp),
        }
    }

    pub(super) fn camp_mut(&mut self) -> &mut Camp {
        Arc::get_mut(&mut self.camp).expect("no attack is under way")
    }

    pub(super) fn camp(&self) -> &Camp {
        &self.camp
    }

    /// Begins an attack. It ends when what is returned is dropped.
    pub(super) fn begin(&self, attack: Attack) -> JoinSet<()> {
        let mut lanes = JoinSet::new();
        self.camp.sent.store(0, Ordering::Relaxed);
        self.camp.refused.store(0, Ordering::Relaxed);
        for lane in 0..attack.lanes() {
            let camp = self.camp.clone();
            let work = async move {
                let mut dice = StdRng::seed_from_u64(u64::try_from(lane).unwrap_or(0));
                loop {
                    // Whoever is refused comes again.
                    if camp.lane(attack, lane, &mut dice).await.is_err() {
                        camp.refused.fetch_add(1, Ordering::Relaxed);
                        tokio::time::sleep(Duration::from_millis(1)).await;
                    }
                }
            };
            lanes.spawn_on(work, self.runtime.handle());
        }
        lanes
    }

    /// Ends it.
    pub(super) fn end(&self, mut lanes: JoinSet<()>) {
        self.runtime.block_on(lanes.shutdown());
    }
}

fn request(message: &impl Message) -> Request<Bytes> {
    let mut request = Request::new(message.encode_to_vec().into());
    request.set_timeout(SOON);
    request
}

fn filters(dice: &mut StdRng) -> GetNodesRequest {
    let labels = "node.labels.pairs";
    let filter = match dice.random_range(0..5) {
        0 => format!(
            "size([['{}']]{}) == 1",
            "y".repeat(24),
            ".map(e,[e,e,e,e,e,e])".repeat(14)
        ),
        1 => format!("size(['{}']{}) == 1", "z".repeat(48), ".map(e,e+e+e)".repeat(16)),
        2 => vec![format!("[1,2,3,4,5,6,7,8,9].all(a,{labels}.exists(b,b.key<'a')||a>0)"); 30].join("&&"),
        3 => format!("[1,2,3,4,5,6,7,8]{}.all(a,a>0)", ".map(a,a+1)".repeat(90)),
        _ => "node.id.matches('(m|me|met)+(.*)(.*)(.*)(.*)x$')".into(),
    };
    GetNodesRequest { filter }
}

impl Camp {
    /// Attacks until something is refused, on a connection of its own.
    async fn lane(&self, attack: Attack, lane: usize, dice: &mut StdRng) -> Result<(), Status> {
        let node = &self.nodes[lane % self.nodes.len()];
        let at = self.addresses[lane % 2];
        let channel = node.channel(at);
        let nodes = format!("{MANAGEMENT}/GetNodes");
        match attack {
            Attack::Busy => loop {
                self.sent(raw::taken(channel.clone(), &nodes, request(&GetNodesRequest::default())).await);
            },
            Attack::NodeFilters => {
                let channel = self.nodes[0].channel(at);
                loop {
                    self.sent(raw::taken(channel.clone(), &nodes, request(&filters(dice))).await);
                }
            }
            Attack::FilterCrowd => loop {
                let call = raw::taken(channel.clone(), &nodes, request(&filters(dice)));
                // Those who go are as many as those who stay.
                let stays = Duration::from_millis(dice.random_range(1..800));
                match tokio::time::timeout(stays, call).await {
                    Ok(done) => self.sent(done),
                    Err(_) => self.sent(Ok(())),
                }
            },
            Attack::Statuses => self.report(&self.nodes[lane / 2 % 2], at, dice).await,
            Attack::UnreadWatches if lane < 2 => self.report(&self.nodes[lane], at, dice).await,
            Attack::UnreadWatches => {
                let kind = Some(Kind::NodesInCluster(NodesInCluster {}));
                let watch = without_end(&WatchRequest { kind });
                let _unread = raw::call(channel, &format!("{CURATOR}/Watch"), watch).await?;
                self.sent(Ok(()));
                std::future::pending().await
            }
            Attack::UnreadNodes => {
                let filter = "true".into();
                let list = without_end(&GetNodesRequest { filter });
                let _unread = raw::call(channel, &nodes, list).await?;
                self.sent(Ok(()));
                // Some come again.
                tokio::time::sleep(Duration::from_millis(dice.random_range(100..2_000))).await;
                Ok(())
            }
            Attack::LongErrors => self.long_errors(at, dice).await,
            Attack::Cancels | Attack::Deadlines => {
                let mut calls = JoinSet::new();
                loop {
                    while calls.len() < 64 {
                        let mut list = request(&GetNodesRequest::default());
                        if attack == Attack::Deadlines {
                            list.set_timeout(Duration::from_millis(1));
                        }
                        let (channel, nodes) = (channel.clone(), nodes.clone());
                        let call = async move { raw::taken(channel, &nodes, list).await };
                        let stays = Duration::from_micros(dice.random_range(0..4_000));
                        calls.spawn(async move {
                            match attack {
                                Attack::Cancels => drop(tokio::time::timeout(stays, call).await),
                                _ => drop(call.await),
                            }
                        });
                    }
                    calls.join_next().await;
                    self.sent(Ok(()));
                }
            }
            Attack::Hold => self.wait_for_a_leader(at).await,
            Attack::Mutated => self.mutated(lane, at, dice).await,
            Attack::Handshakes => loop {
                let path = format!("{CURATOR}/JoinNode");
                let call = request(&JoinNodeRequest::default());
                self.sent(raw::taken(self.stranger.channel(at), &path, call).await);
            },
            Attack::Registrations => loop {
                self.sent(self.register(at, dice).await);
            },
        }
    }

    fn sent(&self, outcome: Result<(), Status>) {
        self.sent.fetch_add(1, Ordering::Relaxed);
        if outcome.is_err() {
            self.refused.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Another status each time, as long as one may be.
    async fn report(&self, node: &Party, at: SocketAddr, dice: &mut StdRng) -> Result<(), Status> {
        let channel = node.channel(at);
        loop {
            let status = NodeStatus {
                external_address: "198.51.100.7".into(),
                boot_id: (0..1_024).map(|_| dice.random()).collect(),
                ..NodeStatus::default()
            };
            let report = UpdateNodeStatusRequest {
                node_id: node.id.clone(),
                status: Some(status),
            };
            let path = format!("{CURATOR}/UpdateNodeStatus");
            self.sent(raw::taken(channel.clone(), &path, request(&report)).await);
        }
    }

    async fn long_errors(&self, at: SocketAddr, dice: &mut StdRng) -> Result<(), Status> {
        let (owner, stranger) = (self.owner.channel(at), self.stranger.channel(at));
        let node = self.nodes[0].channel(at);
        loop {
            let long = ["ä", "%", "n", "\u{1F980}"][dice.random_range(0..4)].repeat(dice.random_range(1..60_000));
            let (channel, path, message) = match dice.random_range(0..6) {
                0 => (&node, format!("{MANAGEMENT}/GetNodes"), {
                    let filter = "(".repeat(dice.random_range(1..1_500));
                    request(&GetNodesRequest { filter })
                }),
                1 => (&owner, "/curator.admin.v1.Leadership/StepDown".into(), {
                    request(&StepDownRequest {
                        to_node_id: long,
                        expected_lock_revision: dice.random(),
                    })
                }),
                2 => (&owner, format!("{MANAGEMENT}/UpdateNodeLabels"), {
                    request(&UpdateNodeLabelsRequest {
                        node: Some(Labelled::Id(long)),
                        ..UpdateNodeLabelsRequest::default()
                    })
                }),
                3 => (&owner, format!("{MANAGEMENT}/DeleteNode"), {
                    request(&DeleteNodeRequest {
                        node: Some(delete_node_request::Node::Id(long)),
                        ..DeleteNodeRequest::default()
                    })
                }),
                4 => (
                    &stranger,
                    format!("/{}/Method", "s".repeat(dice.random_range(1..30_000))),
                    { request(&JoinNodeRequest::default()) },
                ),
                _ => (&node, format!("{CURATOR}/UpdateNodeStatus"), {
                    request(&UpdateNodeStatusRequest {
                        node_id: long,
                        status: None,
                    })
                }),
            };
            self.sent(raw::taken(channel.clone(), &path, message).await);
        }
    }

    /// As many calls as a connection takes, which anybody may make.
    async fn wait_for_a_leader(&self, at: SocketAddr) -> Result<(), Status> {
        let channel = self.stranger.channel(at);
        let mut calls = JoinSet::new();
        loop {
            while calls.len() < 256 {
                let (channel, path) = (channel.clone(), format!("{CURATOR}/JoinNode"));
                calls.spawn(async move { raw::taken(channel, &path, request(&JoinNodeRequest::default())).await });
            }
            if let Some(Ok(done)) = calls.join_next().await {
                self.sent(done);
            }
        }
    }

    /// Messages of the API with bits turned, cut short or made longer, by somebody whom the method is not for as well.
    async fn mutated(&self, lane: usize, at: SocketAddr, dice: &mut StdRng) -> Result<(), Status> {
        let parties = [&self.stranger, &self.nodes[lane % self.nodes.len()]];
        let channels = parties.map(|party| party.channel(at));
        let paths: Vec<&str> = Methods::of_curator().paths().collect();
        let labels = Some(labels(dice, 3));
        let seeds = [
            GetNodesRequest {
                filter: "node.state == NODE_STATE_UP && has(node.roles.consensus_member)".into(),
            }
            .encode_to_vec(),
            RegisterNodeRequest {
                register_ticket: vec![3; 32],
                join_key: vec![4; 32],
                have_local_tpm: true,
                labels,
            }
            .encode_to_vec(),
            CommitNodeRequest {
                cluster_unlock_key: vec![5; 32],
                storage_security: NodeStorageSecurity::Insecure.into(),
            }
            .encode_to_vec(),
            UpdateNodeStatusRequest {
                node_id: parties[1].id.clone(),
                status: Some(NodeStatus {
                    external_address: "198.51.100.9".into(),
                    ..NodeStatus::default()
                }),
            }
            .encode_to_vec(),
            IssueCertificateRequest::default().encode_to_vec(),
        ];
        loop {
            let mut bytes = seeds[dice.random_range(0..seeds.len())].clone();
            for _ in 0..dice.random_range(0..6) {
                let length = bytes.len();
                match dice.random_range(0..3) {
                    0 if length > 0 => bytes[dice.random_range(0..length)] ^= 1 << dice.random_range(0..8),
                    1 => bytes.truncate(dice.random_range(0..=length)),
                    _ => bytes.extend((0..dice.random_range(0..40)).map(|_| dice.random::<u8>())),
                }
            }
            let mut call = Request::new(Bytes::from(bytes));
            call.set_timeout(Duration::from_secs(1));
            let path = paths[dice.random_range(0..paths.len())];
            let channel = channels[dice.random_range(0..2)].clone();
            // Some of them are streams without an end.
            let taken = tokio::time::timeout(Duration::from_millis(50), raw::taken(channel, path, call)).await;
            self.sent(taken.unwrap_or(Ok(())));
        }
    }

    /// Registers a node that nobody knows, over a connection of its own.
    async fn register(&self, at: SocketAddr, dice: &mut StdRng) -> Result<(), Status> {
        let trust = Trust::Cluster { ca: self.ca.clone() };
        let key = PrivateKey::generate().map_err(|error| Status::internal(error.to_string()))?;
        let client = ClientCredentials::with_key(trust, &key, wall_clock()).unwrap();
        let registering = RegisterNodeRequest {
            register_ticket: self.ticket.clone(),
            join_key: (0..32).map(|_| dice.random()).collect(),
            have_local_tpm: false,
            labels: Some(labels(dice, 128)),
        };
        let channel = client.channel(&at.to_string()).unwrap();
        raw::taken(channel, &format!("{CURATOR}/RegisterNode"), request(&registering)).await
    }
}

/// The same without a deadline.
pub(super) fn without_end(message: &impl Message) -> Request<Bytes> {
    Request::new(message.encode_to_vec().into())
}

pub(super) fn labels(dice: &mut StdRng, number: usize) -> NodeLabels {
    let pairs = (0..number).map(|at| node_labels::Pair {
        key: format!(
            "{}{}.example/{at}",
            "e".repeat(60) + "." + &("f".repeat(60) + ".").repeat(2),
            "d".repeat(dice.random_range(40..60))
        ),
        value: "v".repeat(63),
    });
    NodeLabels { pairs: pairs.collect() }
}
