//! Clients: they call instances without knowing the leader, and record their calls and the replies.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use curator_election::store::Revision;
use curator_listener::testing::sim_network::SimHost;
use futures::future::BoxFuture;
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::task::spawn_local;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::body::Body;
use tonic_prost::ProstCodec;
use tower_service::Service;

use crate::testing::simulation::history::{Answer, Broken, Call, CallId};
use crate::testing::simulation::node::Node;
use crate::testing::simulation::registers::{Asked, Kind, Told, method};
use crate::testing::simulation::terms::REGISTERS;

/// The addresses of the instances.
pub(super) type Nodes = Rc<RefCell<Vec<Option<Node>>>>;

/// How long a reply may arrive after the deadline of its call.
const ANSWER: Duration = Duration::from_millis(100);

/// The record of all clients.
#[derive(Default)]
pub(super) struct Record {
    pub(super) calls: BTreeMap<CallId, Call>,
    /// The number of replies.
    pub(super) answered: u64,
    /// The number of replies through an instance other than the leader.
    pub(super) forwarded: u64,
    /// Terms that were seen to have ended, with the time.
    pub(super) ended: BTreeMap<Revision, Duration>,
    /// An invariant that a client saw violated.
    pub(super) broken: Option<Broken>,
    /// Counts the starts and ends of calls.
    place: u64,
    next: CallId,
    /// A trace for the reader, if enabled.
    pub(super) told: Option<Vec<String>>,
}

impl Record {
    /// An empty record; `all` traces each call.
    pub(super) fn new(all: bool) -> Self {
        Self {
            told: all.then(Vec::new),
            ..Self::default()
        }
    }

    fn begin(&mut self, register: usize, kind: Kind) -> Asked {
        self.next += 1;
        let begun = self.moment();
        if matches!(kind, Kind::Read | Kind::Add | Kind::Put) {
            let call = Call {
                register,
                writes: !matches!(kind, Kind::Read),
                begun,
                ended: None,
            };
            self.calls.insert(self.next, call);
        }
        Asked {
            id: self.next,
            register,
            kind,
        }
    }

    /// A position in the sequence of all starts and ends of calls.
    pub(super) fn moment(&mut self) -> u64 {
        self.place += 1;
        self.place
    }

    fn end(&mut self, id: CallId, answer: Answer) {
        let at = self.moment();
        self.answered += u64::from(answer != Answer::Unknown);
        if let Some(call) = self.calls.get_mut(&id) {
            call.ended = Some((at, answer));
        }
    }

    fn tell(&mut self, what: impl FnOnce() -> String) {
        if let Some(told) = &mut self.told {
            told.push(what());
        }
    }
}

/// How clients reach instances.
#[derive(Clone)]
pub(super) enum Access {
    /// Past the listener: only the leader answers.
    State,
    /// Through the listeners at these addresses, from the client's own address.
    Listeners { own: SimHost, nodes: Vec<SocketAddr> },
}

/// A client.
pub(super) struct Client {
    nodes: Nodes,
    record: Rc<RefCell<Record>>,
    access: Access,
    /// Open connections, by instance.
    connections: BTreeMap<usize, Connection>,
    rng: StdRng,
    /// The start of the run.
    begun: Instant,
    /// The instance that answered last.
    believed: usize,
}

impl Client {
    pub(super) fn new(nodes: Nodes, record: Rc<RefCell<Record>>, access: Access, begun: Instant, seed: u64) -> Self {
        Self {
            nodes,
            record,
            access,
            connections: BTreeMap::new(),
            rng: StdRng::seed_from_u64(seed),
            begun,
            believed: 0,
        }
    }

    /// Calls until it is stopped.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        while !stop.is_cancelled() {
            let longest = match self.access {
                Access::State => 60,
                Access::Listeners { .. } => 150,
            };
            sleep(Duration::from_millis(self.rng.random_range(2..longest))).await;
            let patience = Duration::from_millis(self.rng.random_range(200..3_000));
            let kind = match self.rng.random_range(0..16) {
                0..=6 => Kind::Read,
                7..=10 => Kind::Add,
                11..=12 => Kind::Put,
                13..=14 => Kind::Claim(self.rng.random_range(0..2)),
                _ => Kind::Release(self.rng.random_range(0..2)),
            };
            let count = self.nodes.borrow().len();
            // The leader, if only the leader answers; otherwise any instance.
            let stay = match self.access {
                Access::State => 0.7,
                Access::Listeners { .. } => 0.3,
            };
            let node = if self.rng.random_bool(stay) {
                self.believed % count
            } else {
                self.rng.random_range(0..count)
            };
            self.call(node, kind, patience).await;
        }
    }

    /// One call of one instance; returns whether it was made.
    pub(super) async fn call_once(&mut self, node: usize, patience: Duration) -> bool {
        let before = self.record.borrow().answered;
        self.call(node, Kind::Add, patience).await;
        self.record.borrow().answered > before
    }

    async fn call(&mut self, node: usize, kind: Kind, patience: Duration) {
        let register = self.rng.random_range(0..REGISTERS);
        let asked = self.record.borrow_mut().begin(register, kind);
        let begun = self.begun.elapsed();
        // A client that goes away cancels its call.
        let told = match self.access.clone() {
            Access::State => {
                let asking = self.nodes.borrow()[node].as_ref().map(|node| node.call(asked));
                match asking {
                    Some(asking) => timeout(patience, asking).await.unwrap_or(None),
                    None => None,
                }
            }
            Access::Listeners { own, nodes } => {
                let asking = self.call_listener(&own, node, nodes[node], asked, patience);
                match timeout(patience + ANSWER, asking).await {
                    Ok(told) => Some(told),
                    Err(_) => {
                        self.check_deadline(node, asked.id, begun, patience);
                        None
                    }
                }
            }
        };
        if let Some(Ok(told)) = &told {
            self.check_term(node, *told, begun);
        }
        let mut record = self.record.borrow_mut();
        record.tell(|| {
            // The retry delay is random.
            let told = told
                .as_ref()
                .map(|told| told.as_ref().map_err(|status| (status.code(), status.message())));
            format!(
                "call {} of node {node}, {kind:?} of register {register}: {told:?}",
                asked.id
            )
        });
        match told {
            Some(Ok(told)) => {
                record.forwarded += u64::from(told.node != node);
                self.believed = told.node;
                record.end(asked.id, told.answer);
            }
            Some(Err(_)) => record.end(asked.id, Answer::Unknown),
            None => {
                record.end(asked.id, Answer::Unknown);
                drop(record);
                self.believed = self.rng.random_range(0..self.nodes.borrow().len());
            }
        }
    }

    async fn call_listener(
        &mut self,
        own: &SimHost,
        node: usize,
        address: SocketAddr,
        asked: Asked,
        patience: Duration,
    ) -> Result<Told, Status> {
        let connection = match self.connections.get(&node) {
            Some(open) if !open.0.is_closed() => open.clone(),
            _ => {
                let opened = Connection::open(own, address).await?;
                self.connections.insert(node, opened.clone());
                opened
            }
        };
        let origin = http::Uri::from_static("http://simulated");
        let mut grpc = tonic::client::Grpc::with_origin(connection, origin);
        grpc.ready()
            .await
            .map_err(|error| Status::unavailable(error.to_string()))?;
        let mut request = tonic::Request::new(asked.encode());
        request.set_timeout(patience);
        let answer = grpc
            .unary(request, method(), ProstCodec::<String, String>::default())
            .await?;
        Told::decode(answer.get_ref()).ok_or_else(|| Status::internal("that is no answer"))
    }

    /// Whether the instance has been running since then.
    fn was_running(&self, node: usize, since: Duration) -> bool {
        self.nodes.borrow()[node]
            .as_ref()
            .is_some_and(|node| !node.gate.is_stopped() && node.running_since <= since)
    }

    /// A call was not answered by its deadline.
    fn check_deadline(&self, node: usize, id: CallId, begun: Duration, patience: Duration) {
        if self.was_running(node, begun) {
            let what = format!("call {id} of node {node} was not answered within {patience:?}, its deadline");
            self.record
                .borrow_mut()
                .broken
                .get_or_insert(("each call ends by its deadline", what));
        }
    }

    /// An instance that was called directly has answered.
    fn check_term(&self, node: usize, told: Told, begun: Duration) {
        // A call that started earlier may have been answered within the term.
        if told.node != node || !self.was_running(node, begun) {
            return;
        }
        let mut record = self.record.borrow_mut();
        if let Some(ended) = record.ended.get(&told.term)
            && *ended + Duration::from_millis(1) < self.begun.elapsed()
            && matches!(self.access, Access::Listeners { .. })
        {
            let what = format!(
                "node {node} has answered in the term of {}, which ended at {ended:?}",
                told.term
            );
            record.broken.get_or_insert(("nobody answers for an ended term", what));
        }
    }
}

/// A connection to an instance.
#[derive(Clone)]
struct Connection(SendRequest<Body>);

impl Connection {
    async fn open(own: &SimHost, address: SocketAddr) -> Result<Self, Status> {
        let unavailable = |error: &dyn std::error::Error| Status::unavailable(error.to_string());
        let stream = own.connect(address).await.map_err(|error| unavailable(&error))?;
        let (requests, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .map_err(|error| unavailable(&error))?;
        spawn_local(async move {
            // Calls on the connection detect its end themselves.
            let _ = connection.await;
        });
        Ok(Self(requests))
    }
}

impl Service<http::Request<Body>> for Connection {
    type Response = http::Response<Incoming>;
    type Error = hyper::Error;
    type Future = BoxFuture<'static, Result<Self::Response, hyper::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), hyper::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(self.0.send_request(request))
    }
}
