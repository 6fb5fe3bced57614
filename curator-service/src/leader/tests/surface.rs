//! A fuzzer of all calls with a model: any party makes any call with valid, mutated or random messages, several at a
//! time, and cancels some of them. An honest owner and an honest node work at the same time and check what they were
//! answered.
//!
//! A run is a function of its seed. `cargo xtask fuzz` makes as many as time allows.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use curator_election::clock::{BootClock, Clock};
use curator_proto::admin_api::RotateRegisterTicketRequest;
use curator_proto::common::{NodeState, NodeStatus};
use curator_proto::curator_api::{HeartbeatRequest, RegisterNodeRequest, UpdateNodeStatusRequest};
use curator_proto::management_api::update_node_labels_request::{Node as Labelled, Pair};
use curator_proto::management_api::{
    GetNodesRequest, GetRegisterTicketRequest, GetRegisterTicketResponse, Node, UpdateNodeLabelsRequest,
};
use curator_proto::permission::Methods;
use futures::future::join_all;
use http::Request;
use http::request::Parts;
use http_body::Body as _;
use http_body_util::Full;
use prost::Message;
use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};
use tonic::Code;
use tonic::body::Body;
use tonic::service::Routes;
use tower_service::Service;

use crate::auth::{Authenticator, Member};
use crate::leader::LeaderHandle;
use crate::leader::nodes::filter::grammar;
use crate::leader::nodes::newcomers;
use crate::leader::tests::bad_input::good;
use crate::leader::tests::stage::{FIRST, Stage, id, join_key, key};
use crate::state::limits::StateLimits;

/// The seeds of each test run, and the number of steps of each.
const SEEDS: u64 = 12;
const STEPS: usize = 60;
/// The time in seconds, and the first seed, from `cargo xtask fuzz`.
const SECONDS: &str = "CURATOR_FUZZ_SECONDS";
const FROM: &str = "CURATOR_FUZZ_SEED";
/// Maximum time of an honest call in the run's clock: writes are rate limited.
const TIMEOUT: Duration = Duration::from_secs(60);
/// Maximum length of a refusal.
const MAX_TEXT_LEN: usize = 2_000;
/// Maximum number of streams that are held and not read.
const HELD: usize = 16;
const WHO: &str = "who";
/// The honest node that joins first; no other party knows it.
const JOINS: u8 = 20;
const MAX_JOIN: u8 = 50;

/// A caller: `node 2`, `user owner` or `key 5`, by the number of the key.
struct Said;

fn said(parts: &Parts) -> Option<(&str, &str)> {
    parts.headers.get(WHO)?.to_str().ok()?.split_once(' ')
}

impl Authenticator for Said {
    fn authenticate(&self, request: &Parts) -> Result<Member, String> {
        match said(request) {
            Some(("node", number)) => {
                let number = number.parse().map_err(|_| "no number")?;
                Ok(Member::Node {
                    id: id(number),
                    public_key: Some(key(number)),
                })
            }
            Some(("user", identity)) => Ok(Member::User {
                identity: identity.into(),
            }),
            _ => Err("nobody".into()),
        }
    }

    fn self_signed_key(&self, request: &Parts) -> Option<[u8; 32]> {
        let ("key", number) = said(request)? else { return None };
        number.parse().ok().map(key)
    }
}

/// The response.
#[derive(Debug)]
struct Answer {
    code: Code,
    messages: Vec<Bytes>,
}

/// Whether the response is read to its end.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reads {
    All,
    /// Reads only what is available.
    Some,
}

type Responding = Pin<Box<dyn Future<Output = Result<http::Response<Body>, Infallible>> + Send>>;

/// Starts a call.
fn begin(routes: &Routes, who: &str, path: &str, body: Bytes) -> Responding {
    let request = Request::post(format!("http://cluster{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header(WHO, who)
        .body(Body::new(Full::new(body)))
        .expect("a request");
    let mut routes = routes.clone();
    Box::pin(async move {
        std::future::poll_fn(|cx| Service::<Request<Body>>::poll_ready(&mut routes, cx)).await?;
        routes.call(request).await
    })
}

/// Reads a response and checks how it ends.
async fn read(response: http::Response<Body>, reads: Reads) -> Answer {
    let (parts, mut body) = response.into_parts();
    let mut bytes = BytesMut::new();
    let mut trailers = parts.headers;
    let mut patience = 100;
    loop {
        let next = std::future::poll_fn(|cx| match Pin::new(&mut body).poll_frame(cx) {
            Poll::Pending if reads == Reads::Some && patience == 0 => Poll::Ready(None),
            Poll::Pending if reads == Reads::Some => {
                patience -= 1;
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            polled => polled,
        });
        let Some(frame) = next.await else { break };
        match frame {
            Ok(frame) => match frame.into_data() {
                Ok(data) => bytes.extend_from_slice(&data),
                // Trailers end the response, as on the wire.
                Err(frame) => {
                    trailers.extend(frame.into_trailers().unwrap_or_default());
                    break;
                }
            },
            Err(status) => {
                assert!(status.message().len() <= MAX_TEXT_LEN, "{status}");
                return Answer {
                    code: status.code(),
                    messages: Vec::new(),
                };
            }
        }
    }
    let code = trailers
        .get("grpc-status")
        .map_or(Code::Ok, |code| Code::from_bytes(code.as_bytes()));
    let message = trailers.get("grpc-message").map_or(0, |message| message.len());
    // As encoded on the wire: three bytes for each character that must be escaped.
    assert!(message <= 3 * MAX_TEXT_LEN, "{message} bytes: {trailers:?}");
    let mut messages = Vec::new();
    while bytes.len() >= 5 {
        let length = u32::from_be_bytes([bytes[1], bytes[2], bytes[3], bytes[4]]) as usize;
        let message = bytes.split_to(5 + length).freeze();
        messages.push(message.slice(5..));
    }
    Answer { code, messages }
}

fn framed(message: &[u8]) -> Bytes {
    let mut bytes = BytesMut::new();
    bytes.put_u8(0);
    bytes.put_u32(u32::try_from(message.len()).expect("short"));
    bytes.extend_from_slice(message);
    bytes.freeze()
}

/// A run.
struct Run {
    stage: Stage,
    routes: Routes,
    dice: StdRng,
    held: Vec<http::Response<Body>>,
    ticket: Vec<u8>,
    /// The label that was acknowledged to the owner.
    turn: u32,
    /// The honest nodes whose registration was acknowledged.
    joined: BTreeSet<String>,
}

impl Run {
    async fn new(seed: u64) -> Self {
        let stage = Stage::new().await;
        stage.up(2).await;
        stage.report(2, "192.0.2.2").await.expect("it is up");
        for number in [3, 4] {
            stage.register(number).await.expect("it is new");
        }
        stage.approve(4).await.expect("it is new");
        let authenticator: Arc<dyn Authenticator> = Arc::new(Said);
        Self {
            routes: LeaderHandle::new(stage.leader.clone()).routes(&authenticator),
            ticket: stage.ticket().await,
            stage,
            dice: StdRng::seed_from_u64(seed),
            held: Vec::new(),
            turn: 0,
            joined: BTreeSet::new(),
        }
    }

    fn one_of<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.dice.random_range(0..of.len())]
    }

    fn in_a_hundred(&mut self, percent: u32) -> bool {
        self.dice.random_range(0..100) < percent
    }

    /// A message for this method or for another one, valid or not.
    fn message(&mut self, method: &str) -> Vec<u8> {
        let methods = [
            "UpdateNodeStatus",
            "RegisterNode",
            "CommitNode",
            "IssueCertificate",
            "UpdateNodeClusterNetworking",
            "UpdateNodeRoles",
            "DeleteNode",
            "ConfigureCluster",
        ];
        let ticket = self.ticket.clone();
        let like = if self.in_a_hundred(90) {
            method
        } else {
            self.one_of(&methods)
        };
        let mut message = good(like, &ticket);
        match method {
            "GetNodes" if self.in_a_hundred(60) => {
                let mut tape = vec![0; 200];
                self.dice.fill_bytes(&mut tape);
                let filter = grammar::written(&tape);
                message = GetNodesRequest { filter }.encode_to_vec();
            }
            "UpdateNodeStatus" if self.in_a_hundred(50) => {
                let status = NodeStatus {
                    external_address: format!("192.0.2.{}", self.dice.random_range(2..250)),
                    boot_id: vec![7; self.dice.random_range(0..2_000)],
                    ..NodeStatus::default()
                };
                let node_id = id(2);
                message = UpdateNodeStatusRequest {
                    node_id,
                    status: Some(status),
                }
                .encode_to_vec();
            }
            "UpdateNodeLabels" if self.in_a_hundred(50) => {
                let upsert = (0..self.dice.random_range(0..140)).map(|at| Pair {
                    key: format!("k{at}"),
                    value: "v".repeat(self.dice.random_range(0..70)),
                });
                message = UpdateNodeLabelsRequest {
                    upsert: upsert.collect(),
                    node: Some(Labelled::Id(id(2))),
                    ..UpdateNodeLabelsRequest::default()
                }
                .encode_to_vec();
            }
            _ => {}
        }
        if self.in_a_hundred(60) {
            return message;
        }
        for _ in 0..self.dice.random_range(1..5) {
            let length = message.len();
            match self.dice.random_range(0..4) {
                0 if length > 0 => message[self.dice.random_range(0..length)] ^= 1 << self.dice.random_range(0..8),
                1 => message.truncate(self.dice.random_range(0..=length)),
                2 => message.extend_from_within(self.dice.random_range(0..=length)..),
                _ => message.extend((0..self.dice.random_range(0..50)).map(|_| self.dice.random::<u8>())),
            }
        }
        message
    }

    /// A call by any party, which may be cancelled or held.
    fn call(&mut self) -> impl Future<Output = Option<http::Response<Body>>> + use<> {
        let paths: Vec<&str> = Methods::of_curator().paths().collect();
        let path = self.one_of(&paths);
        let who = self.one_of(&[
            "",
            "key 3",
            "key 4",
            "key 5",
            "key 6",
            "node 2",
            "node 3",
            "node 9",
            "user owner",
        ]);
        let method = path.rsplit('/').next().unwrap_or_default();
        let message = self.message(method);
        let mut body = framed(&message);
        if self.in_a_hundred(3) {
            // No message at all.
            body = Bytes::from(message);
        }
        let given_up = self.in_a_hundred(15).then(|| self.dice.random_range(1..20_u32));
        let held = self.in_a_hundred(10);
        let streams = Methods::of_curator().answers_with_a_stream(path);
        let responding = begin(&self.routes, who, path, body);
        async move {
            let response = match given_up {
                None => responding.await,
                Some(polls) => within(responding, polls).await?,
            };
            let Ok(response) = response;
            if held {
                return Some(response);
            }
            read(response, if streams { Reads::Some } else { Reads::All }).await;
            None
        }
    }

    /// An honest call, which must be answered.
    async fn honest(&self, who: &str, path: &str, message: &impl Message) -> Answer {
        let call = async {
            let Ok(response) = begin(&self.routes, who, path, framed(&message.encode_to_vec())).await;
            read(response, Reads::All).await
        };
        let answered = tokio::time::timeout(TIMEOUT, call).await;
        answered.unwrap_or_else(|_| panic!("{who} is not answered by {path}"))
    }

    async fn good(&self, who: &str, path: &str, message: &impl Message) -> Vec<Bytes> {
        let answer = self.honest(who, path, message).await;
        assert_eq!(answer.code, Code::Ok, "{who} {path}: {answer:?}");
        answer.messages
    }

    /// The work of the honest parties.
    async fn mean_well(&self, turn: u32, joins: Option<u8>) {
        let label = UpdateNodeLabelsRequest {
            node: Some(Labelled::Id(id(FIRST))),
            upsert: vec![Pair {
                key: "turn".into(),
                value: turn.to_string(),
            }],
            ..UpdateNodeLabelsRequest::default()
        };
        self.good("user owner", &management("UpdateNodeLabels"), &label).await;
        let node = format!("node {FIRST}");
        let report = UpdateNodeStatusRequest {
            node_id: id(FIRST),
            status: Some(NodeStatus {
                external_address: "192.0.2.1".into(),
                ..NodeStatus::default()
            }),
        };
        self.good(&node, &curator("UpdateNodeStatus"), &report).await;
        let beats = self.good(&node, &curator("Heartbeat"), &HeartbeatRequest {}).await;
        assert_eq!(beats.len(), 1);
        let Some(number) = joins else { return };
        // Another party may rotate the ticket in between, even with a call that was cancelled.
        for _ in 0..5 {
            let told = self
                .good(
                    "user owner",
                    &management("GetRegisterTicket"),
                    &GetRegisterTicketRequest {},
                )
                .await;
            let ticket = GetRegisterTicketResponse::decode(told[0].clone()).expect("ours");
            let register = RegisterNodeRequest {
                register_ticket: ticket.ticket,
                join_key: join_key(number).to_vec(),
                have_local_tpm: true,
                labels: None,
            };
            let answer = self
                .honest(&format!("key {number}"), &curator("RegisterNode"), &register)
                .await;
            match answer.code {
                Code::Ok => return,
                Code::PermissionDenied => {}
                other => panic!("an honest node cannot register: {other:?}"),
            }
        }
        panic!("an honest node cannot register");
    }

    /// Everything acknowledged is present.
    async fn check(&self) {
        let told = self
            .good("user owner", &management("GetNodes"), &GetNodesRequest::default())
            .await;
        let nodes: Vec<Node> = told.into_iter().map(|node| Node::decode(node).expect("ours")).collect();
        let own = nodes
            .iter()
            .find(|node| node.id == id(FIRST))
            .expect("it is never deleted");
        let label = own
            .labels
            .iter()
            .flat_map(|labels| &labels.pairs)
            .find(|pair| pair.key == "turn");
        let label = label.map(|pair| pair.value.clone());
        assert_eq!(label, Some(self.turn.to_string()), "an acknowledged change is lost");
        let known: BTreeSet<&String> = nodes.iter().map(|node| &node.id).collect();
        for id in &self.joined {
            assert!(known.contains(id), "the acknowledged registration of {id} is lost");
        }
        // The store has it as well, and the state is within its limits.
        let record = self.stage.record(&id(FIRST)).await;
        let stored = record.labels.into_iter().flat_map(|labels| labels.pairs);
        assert!(
            stored
                .into_iter()
                .any(|pair| pair.key == "turn" && pair.value == self.turn.to_string())
        );
        let limits = StateLimits::default();
        let all = self.stage.all().await;
        let largest = all.iter().map(|kv| kv.value.len()).max().unwrap_or(0);
        assert!(largest <= limits.record, "{largest}");
        let new: Vec<_> = nodes.iter().filter(|node| node.state() == NodeState::New).collect();
        assert!(new.len() <= newcomers::MAX_NEW_NODES);
        let bytes: usize = new.iter().map(|node| node.encoded_len()).sum();
        assert!(bytes <= 2 * newcomers::MAX_NEW_BYTES);
    }

    async fn run(mut self) {
        for step in 0..STEPS {
            let calls: Vec<_> = (0..self.dice.random_range(1..6)).map(|_| self.call()).collect();
            let joins = u8::try_from(step / 10)
                .ok()
                .filter(|_| step % 10 == 5)
                .map(|more| JOINS + more);
            let joins = joins.filter(|number| *number < MAX_JOIN);
            let turn = self.turn + 1;
            let (held, ()) = futures::join!(join_all(calls), self.mean_well(turn, joins));
            self.turn = turn;
            self.joined.extend(joins.map(id));
            self.held.extend(held.into_iter().flatten());
            let over = self.held.len().saturating_sub(HELD);
            self.held.drain(..over);
            if self.in_a_hundred(10) {
                // A mutated action may have no permitted effect.
                let _ = self.stage.leader.reconcile_once().await;
            }
            if self.in_a_hundred(10) {
                tokio::time::advance(Duration::from_secs(self.dice.random_range(1..40))).await;
            }
            self.check().await;
        }
        // Cancelled calls leave nothing behind.
        self.held.clear();
        assert_eq!(self.stage.leader.lists.open_count(), 0);
        self.good(
            "user owner",
            "/curator.admin.v1.Tickets/RotateRegisterTicket",
            &RotateRegisterTicketRequest {},
        )
        .await;
    }
}

fn management(method: &str) -> String {
    format!("/metropolis.proto.api.Management/{method}")
}

fn curator(method: &str) -> String {
    format!("/metropolis.node.core.curator.proto.api.Curator/{method}")
}

/// Polls a call this many times, then cancels it.
async fn within<T>(mut call: Pin<Box<dyn Future<Output = T> + Send>>, polls: u32) -> Option<T> {
    for _ in 0..polls {
        let polled = std::future::poll_fn(|cx| Poll::Ready(call.as_mut().poll(cx))).await;
        if let Poll::Ready(done) = polled {
            return Some(done);
        }
        tokio::task::yield_now().await;
    }
    None
}

/// Each run has its own runtime with a paused clock, which advances only when all tasks are idle.
fn played(seed: u64) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .expect("a runtime");
    let told = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        runtime.block_on(async { Run::new(seed).await.run().await });
    }));
    if let Err(panic) = told {
        eprintln!("seed {seed} found it: {FROM}={seed} {SECONDS}=1 cargo test -p curator-service --lib surface");
        std::panic::resume_unwind(panic);
    }
}

#[test]
fn no_sequence_of_calls_harms_those_who_mean_well() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let from = number(FROM).unwrap_or(0);
    let Some(seconds) = number(SECONDS) else {
        (from..from + SEEDS).for_each(played);
        return;
    };
    let began = BootClock.now();
    let mut seeds = 0;
    while seeds == 0 || BootClock.now().saturating_since(began) < Duration::from_secs(seconds) {
        played(from + seeds);
        seeds += 1;
    }
    println!("{seeds} seeds from {from} on, with {STEPS} steps each");
}
