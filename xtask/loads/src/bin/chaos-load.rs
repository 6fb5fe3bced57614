//! Calls that read and write registers and node records through every instance, each told as a line of JSON when it has
//! ended.
//!
//! Run by `cargo xtask chaos` on clusters of `embed-server`. The registers are labels of nodes and the one field of the
//! configuration that can be changed, so that what is called is what managers call. SIGTERM ends it: calls that are
//! running end, then everything is read through every instance once more.

#![allow(
    clippy::disallowed_methods,
    reason = "times are measured for whoever checks the history"
)]

use std::error::Error;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use clap::Parser;
use curator_echo::proto::SayRequest;
use curator_echo::proto::echo_client::EchoClient;
use curator_proto::common::ClusterConfiguration;
use curator_proto::common::cluster_configuration::Kubernetes;
use curator_proto::common::cluster_configuration::kubernetes::NodeLabelsToSynchronize;
use curator_proto::curator_api::RegisterNodeRequest;
use curator_proto::curator_api::curator_client::CuratorClient;
use curator_proto::management_api::management_client::ManagementClient;
use curator_proto::management_api::{
    ConfigureClusterRequest, GetClusterInfoRequest, GetNodesRequest, GetRegisterTicketRequest, Node,
    UpdateNodeLabelsRequest, update_node_labels_request,
};
use curator_service::{ClientCredentials, PrivateKey, Trust, read_certificate, read_private_key, wall_clock};
use rand::RngExt;
use rustix::time::{ClockId, clock_gettime};
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};

#[derive(Parser)]
struct Arguments {
    /// Where the instances are.
    #[arg(required = true)]
    addresses: Vec<SocketAddr>,
    /// The certificate of the cluster's authority.
    #[arg(long)]
    ca: PathBuf,
    /// The owner's certificate.
    #[arg(long)]
    cert: PathBuf,
    /// The owner's private key.
    #[arg(long)]
    key: PathBuf,
}

type Failure = Box<dyn Error + Send + Sync>;

/// What each call is given. The client keeps to it itself, whoever else does not.
const DEADLINE: Duration = Duration::from_secs(4);
/// How long all takes at most that must be done before and after: a whole cluster may have to come back.
const PATIENCE: Duration = Duration::from_secs(90);
/// Between two calls of a caller, and after one that failed.
const PAUSE: Duration = Duration::from_millis(25);
const AGAIN: Duration = Duration::from_millis(60);
/// Between two nodes that are registered.
const NODE: Duration = Duration::from_secs(2);
/// Nodes with registers, and registers of each.
const NODES: u64 = 3;
const LABELS: u64 = 2;
/// The object that is the configuration.
const CONFIGURATION: &str = "configuration";

#[tokio::main(worker_threads = 2)]
async fn main() -> Result<(), Failure> {
    let arguments = Arguments::parse();
    let mut terminate = signal(SignalKind::terminate())?;
    let shared = Arc::new(Shared {
        next: AtomicU64::new(1),
        stop: AtomicBool::new(false),
        ticket: Mutex::default(),
        nodes: Mutex::default(),
    });
    let trust = Trust::Cluster {
        ca: read_certificate(&arguments.ca)?,
    };
    let certificate = read_certificate(&arguments.cert)?;
    let owner = ClientCredentials::with_certificate(trust.clone(), certificate, &read_private_key(&arguments.key)?)?;
    let instances = arguments
        .addresses
        .iter()
        .enumerate()
        .map(|(via, address)| {
            let client = (trust.clone(), owner.clone());
            Instance::new(via, *address, client, shared.clone())
        })
        .collect::<Result<Vec<_>, _>>()?;
    set_up(&instances[0], &shared).await?;
    println!("{}", json!({ "ready": true }));
    let mut callers = JoinSet::new();
    for instance in &instances {
        // Each with its own connection, so that one call that hangs stands before nobody else.
        callers.spawn(says(instance.again()?));
        callers.spawn(says(instance.again()?));
        callers.spawn(labels(instance.again()?));
        callers.spawn(labels(instance.again()?));
        callers.spawn(configuration(instance.again()?));
        callers.spawn(nodes(instance.again()?));
    }
    terminate.recv().await;
    shared.stop.store(true, Ordering::Relaxed);
    while let Some(ended) = callers.join_next().await {
        ended?;
    }
    for instance in &instances {
        read_all(instance, &shared).await?;
    }
    println!("{}", json!({ "done": true }));
    Ok(())
}

struct Shared {
    next: AtomicU64,
    stop: AtomicBool,
    ticket: Mutex<Vec<u8>>,
    /// The nodes that somebody has tried to register, by their numbers: first those that have the registers.
    nodes: Mutex<Vec<Arc<PrivateKey>>>,
}

impl Shared {
    /// The number of a node that nobody has tried to register.
    fn new_node(&self) -> Result<u64, Failure> {
        let mut nodes = locked(&self.nodes);
        nodes.push(Arc::new(PrivateKey::generate()?));
        Ok(nodes.len() as u64 - 1)
    }

    fn key(&self, node: u64) -> Result<Arc<PrivateKey>, Status> {
        let at = usize::try_from(node).unwrap_or(usize::MAX);
        let key = locked(&self.nodes).get(at).cloned();
        key.ok_or_else(|| Status::internal("there is no such node"))
    }

    fn node_id(&self, node: u64) -> Result<String, Status> {
        let key = self.key(node)?;
        let public = key.public_key();
        let hex: String = public[..16].iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(format!("metropolis-{hex}"))
    }

    fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One instance, and the calls of it.
struct Instance {
    via: usize,
    address: SocketAddr,
    /// Whom it takes for the cluster, and what it shows.
    client: (Trust, ClientCredentials),
    channel: Channel,
    shared: Arc<Shared>,
}

/// What a call was for, as it is told.
#[derive(Clone, Copy)]
enum Op {
    Say,
    Read,
    Write(u64),
    Swap { expected: u64, new: u64 },
}

/// What came of it.
enum Seen {
    /// It was answered.
    Done,
    /// It was answered in this term.
    Term(i64),
    /// It was answered, and the value was this.
    Value(u64),
    /// It was refused for another value being there.
    Differs,
}

impl Instance {
    fn new(
        via: usize,
        address: SocketAddr,
        client: (Trust, ClientCredentials),
        shared: Arc<Shared>,
    ) -> Result<Self, Failure> {
        Ok(Self {
            via,
            address,
            channel: connect(address, &client.1)?,
            client,
            shared,
        })
    }

    /// The same with another connection.
    fn again(&self) -> Result<Self, Failure> {
        Self::new(self.via, self.address, self.client.clone(), self.shared.clone())
    }

    fn management(&self) -> ManagementClient<Channel> {
        ManagementClient::new(self.channel.clone())
    }

    /// Makes a call under a number of its own, within the deadline, and tells of it.
    async fn call(
        &self,
        object: &str,
        op: impl FnOnce(u64) -> Op,
        call: impl AsyncFnOnce(u64) -> Result<Seen, Status>,
    ) -> bool {
        let id = self.shared.next.fetch_add(1, Ordering::Relaxed);
        let op = op(id);
        let began = now();
        let outcome = tokio::time::timeout(DEADLINE, call(id))
            .await
            .unwrap_or_else(|_| Err(Status::deadline_exceeded("the client waits no longer")));
        let mut line = json!({ "id": id, "via": self.via, "object": object, "began": began, "ended": now() });
        let (name, values) = match op {
            Op::Say => ("say", vec![]),
            Op::Read => ("read", vec![]),
            Op::Write(value) => ("write", vec![("value", value)]),
            Op::Swap { expected, new } => ("swap", vec![("expected", expected), ("value", new)]),
        };
        line["op"] = json!(name);
        for (field, value) in values {
            line[field] = json!(value);
        }
        let code = match &outcome {
            Ok(Seen::Differs) => Code::FailedPrecondition,
            Ok(_) => Code::Ok,
            Err(status) => status.code(),
        };
        line["code"] = json!(code as i32);
        match &outcome {
            Ok(Seen::Value(value)) => line["seen"] = json!(value),
            Ok(Seen::Term(term)) => line["term"] = json!(term),
            Ok(Seen::Differs) => line["differs"] = json!(true),
            Ok(Seen::Done) => {}
            Err(status) => line["why"] = json!(status.message().chars().take(200).collect::<String>()),
        }
        println!("{line}");
        outcome.is_ok()
    }

    async fn say(&self) -> bool {
        self.call(
            "echo",
            |_| Op::Say,
            async |id| {
                let request = SayRequest {
                    id,
                    // Some are running when something happens.
                    delay_ms: if id.is_multiple_of(3) { 50 } else { 0 },
                    ..SayRequest::default()
                };
                let answer = EchoClient::new(self.channel.clone()).say(bounded(request)).await?;
                let answer = answer.into_inner();
                if answer.id != id {
                    return Err(Status::data_loss(format!("asked {id}, answered {}", answer.id)));
                }
                Ok(Seen::Term(answer.term))
            },
        )
        .await
    }

    async fn read_label(&self, node: u64, label: u64) -> bool {
        self.call(
            &label_object(node, label),
            |_| Op::Read,
            async |_| {
                let found = self
                    .find(&format!("node.id == '{}'", self.shared.node_id(node)?))
                    .await?;
                let [node] = &found[..] else {
                    return Err(Status::not_found(format!("{} nodes have that id", found.len())));
                };
                value_of(node, label).map(Seen::Value)
            },
        )
        .await
    }

    async fn write_label(&self, node: u64, label: u64) -> bool {
        self.call(&label_object(node, label), Op::Write, async |id| {
            self.set_label(node, label, id).await?;
            Ok(Seen::Done)
        })
        .await
    }

    async fn set_label(&self, node: u64, label: u64, value: u64) -> Result<(), Status> {
        let message = UpdateNodeLabelsRequest {
            node: Some(update_node_labels_request::Node::Id(self.shared.node_id(node)?)),
            upsert: vec![update_node_labels_request::Pair {
                key: format!("register-{label}"),
                value: value.to_string(),
            }],
            delete: Vec::new(),
        };
        self.management().update_node_labels(bounded(message)).await?;
        Ok(())
    }

    async fn read_configuration(&self) -> (bool, u64) {
        let mut seen = 0;
        let done = self
            .call(
                CONFIGURATION,
                |_| Op::Read,
                async |_| {
                    let info = self
                        .management()
                        .get_cluster_info(bounded(GetClusterInfoRequest {}))
                        .await?;
                    seen = configured(info.into_inner().cluster_configuration.as_ref())?;
                    Ok(Seen::Value(seen))
                },
            )
            .await;
        (done, seen)
    }

    async fn write_configuration(&self, expected: Option<u64>) -> bool {
        let op = |id| match expected {
            Some(expected) => Op::Swap { expected, new: id },
            None => Op::Write(id),
        };
        self.call(CONFIGURATION, op, async |id| match self.configure(expected, id).await {
            Ok(()) => Ok(Seen::Done),
            Err(status) if status.code() == Code::FailedPrecondition && expected.is_some() => Ok(Seen::Differs),
            Err(status) => Err(status),
        })
        .await
    }

    async fn configure(&self, expected: Option<u64>, new: u64) -> Result<(), Status> {
        let message = ConfigureClusterRequest {
            base_config: expected.map(configuration_of),
            new_config: Some(configuration_of(new)),
            update_mask: Some(prost_types::FieldMask {
                paths: vec!["kubernetes.node_labels_to_synchronize".into()],
            }),
        };
        self.management().configure_cluster(bounded(message)).await?;
        Ok(())
    }

    /// As the node does itself, on a connection of its own.
    async fn register(&self, node: u64, ticket: Vec<u8>) -> Result<(), Status> {
        let key = self.shared.key(node)?;
        let mut join_key = key.public_key().to_vec();
        join_key.reverse();
        let message = RegisterNodeRequest {
            register_ticket: ticket,
            join_key,
            have_local_tpm: false,
            labels: None,
        };
        let credentials = ClientCredentials::with_key(self.client.0.clone(), &key, wall_clock());
        let channel = credentials
            .map_err(Failure::from)
            .and_then(|credentials| connect(self.address, &credentials))
            .map_err(|error| Status::internal(error.to_string()))?;
        CuratorClient::new(channel).register_node(bounded(message)).await?;
        Ok(())
    }

    async fn find(&self, filter: &str) -> Result<Vec<Node>, Status> {
        let message = GetNodesRequest { filter: filter.into() };
        let mut stream = self.management().get_nodes(bounded(message)).await?.into_inner();
        let mut found = Vec::new();
        while let Some(node) = stream.message().await? {
            found.push(node);
        }
        Ok(found)
    }

    async fn read_node(&self, node: u64) -> bool {
        self.call(
            &format!("node {node}"),
            |_| Op::Read,
            async |_| {
                let found = self
                    .find(&format!("node.id == '{}'", self.shared.node_id(node)?))
                    .await?;
                Ok(Seen::Value(found.len() as u64))
            },
        )
        .await
    }
}

/// Makes the nodes whose labels are the registers, and brings all registers to 0.
async fn set_up(instance: &Instance, shared: &Shared) -> Result<(), Failure> {
    let asked = insist(async || {
        let mut management = instance.management();
        let answer = management
            .get_register_ticket(bounded(GetRegisterTicketRequest {}))
            .await?;
        Ok(answer.into_inner().ticket)
    });
    let ticket = asked.await?;
    for _ in 0..NODES {
        let node = shared.new_node()?;
        insist(async || instance.register(node, ticket.clone()).await).await?;
        for label in 0..LABELS {
            insist(async || instance.set_label(node, label, 0).await).await?;
        }
    }
    insist(async || instance.configure(None, 0).await).await?;
    *locked(&shared.ticket) = ticket;
    Ok(())
}

/// Repeats what may be repeated until it is answered.
async fn insist<T>(mut call: impl AsyncFnMut() -> Result<T, Status>) -> Result<T, Failure> {
    let until = Instant::now() + PATIENCE;
    loop {
        let status = match tokio::time::timeout(DEADLINE, call()).await {
            Ok(Ok(done)) => return Ok(done),
            Ok(Err(status)) => status,
            Err(_) => Status::deadline_exceeded("the client waits no longer"),
        };
        if Instant::now() >= until {
            return Err(format!("not done within {PATIENCE:?}: {status}").into());
        }
        tokio::time::sleep(AGAIN).await;
    }
}

async fn pause(done: bool) {
    tokio::time::sleep(if done { PAUSE } else { AGAIN }).await;
}

async fn says(instance: Instance) {
    while instance.shared.goes_on() {
        pause(instance.say().await).await;
    }
}

async fn labels(instance: Instance) {
    while instance.shared.goes_on() {
        let (node, label, read) = {
            let mut random = rand::rng();
            (
                random.random_range(0..NODES),
                random.random_range(0..LABELS),
                random.random_bool(0.5),
            )
        };
        let done = if read {
            instance.read_label(node, label).await
        } else {
            instance.write_label(node, label).await
        };
        pause(done).await;
    }
}

async fn configuration(instance: Instance) {
    let mut known = 0;
    while instance.shared.goes_on() {
        let (done, seen) = instance.read_configuration().await;
        if done {
            known = seen;
        }
        pause(done).await;
        let blind = rand::rng().random_bool(0.2);
        pause(instance.write_configuration((!blind).then_some(known)).await).await;
    }
}

async fn nodes(instance: Instance) {
    let ticket = locked(&instance.shared.ticket).clone();
    let mut next = Instant::now();
    while instance.shared.goes_on() {
        if Instant::now() >= next {
            next = Instant::now() + NODE;
            let Ok(node) = instance.shared.new_node() else { continue };
            let done = instance
                .call(
                    &format!("node {node}"),
                    |_| Op::Write(1),
                    async |_| {
                        instance.register(node, ticket.clone()).await?;
                        Ok(Seen::Done)
                    },
                )
                .await;
            pause(done).await;
        }
        let node = {
            let nodes = locked(&instance.shared.nodes).len() as u64;
            // The newest above all.
            let back = rand::rng().random_range(0..(nodes - NODES).min(6));
            nodes - 1 - back
        };
        pause(instance.read_node(node).await).await;
    }
}

/// Reads everything once, and insists on it.
async fn read_all(instance: &Instance, shared: &Shared) -> Result<(), Failure> {
    let until = Instant::now() + PATIENCE;
    let nodes = locked(&shared.nodes).len() as u64;
    let mut left: Vec<(u64, Option<u64>)> = (0..NODES)
        .flat_map(|node| (0..LABELS).map(move |label| (node, Some(label))))
        .chain((NODES..nodes).map(|node| (node, None)))
        .collect();
    while let Some((node, label)) = left.last().copied() {
        let done = match label {
            Some(label) => instance.read_label(node, label).await,
            None => instance.read_node(node).await,
        };
        if done {
            left.pop();
        } else if Instant::now() >= until {
            return Err(format!("instance {} answers no reads after all is healed", instance.via).into());
        } else {
            tokio::time::sleep(AGAIN).await;
        }
    }
    while !instance.read_configuration().await.0 {
        if Instant::now() >= until {
            return Err(format!("instance {} does not tell the configuration", instance.via).into());
        }
        tokio::time::sleep(AGAIN).await;
    }
    Ok(())
}

fn label_object(node: u64, label: u64) -> String {
    format!("label {node}.{label}")
}

fn value_of(node: &Node, label: u64) -> Result<u64, Status> {
    let key = format!("register-{label}");
    let pairs = node.labels.as_ref().map(|labels| &labels.pairs[..]).unwrap_or_default();
    match pairs.iter().find(|pair| pair.key == key) {
        None => Ok(0),
        Some(pair) => number(&pair.value),
    }
}

fn configuration_of(value: u64) -> ClusterConfiguration {
    ClusterConfiguration {
        kubernetes: Some(Kubernetes {
            node_labels_to_synchronize: vec![NodeLabelsToSynchronize {
                regexp: value.to_string(),
            }],
        }),
        ..ClusterConfiguration::default()
    }
}

fn configured(configuration: Option<&ClusterConfiguration>) -> Result<u64, Status> {
    let kubernetes = configuration.and_then(|configuration| configuration.kubernetes.as_ref());
    let rules = kubernetes.map(|kubernetes| &kubernetes.node_labels_to_synchronize[..]);
    match rules.unwrap_or_default() {
        [] => Ok(0),
        [rule] => number(&rule.regexp),
        more => Err(Status::data_loss(format!("{} rules", more.len()))),
    }
}

fn number(text: &str) -> Result<u64, Status> {
    text.parse()
        .map_err(|_| Status::data_loss(format!("{text:?} is no value that was written here")))
}

fn bounded<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(DEADLINE);
    request
}

fn connect(address: SocketAddr, credentials: &ClientCredentials) -> Result<Channel, Failure> {
    Ok(Endpoint::from_shared(format!("http://{address}"))?
        .origin(format!("https://{address}").parse()?)
        .connect_timeout(Duration::from_secs(1))
        .http2_keep_alive_interval(Duration::from_secs(2))
        .keep_alive_timeout(Duration::from_secs(2))
        .connect_with_connector_lazy(credentials.connector()))
}

/// The clock that all processes of a host share, in nanoseconds.
fn now() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    u64::try_from(time.tv_sec).unwrap_or_default() * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap_or_default()
}
