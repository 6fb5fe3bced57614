//! The client against instances on real sockets, whose leader the tests choose.

#![allow(clippy::unwrap_used, reason = "a scenario that cannot go on has failed")]

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicU32, Ordering};

use curator_identity::pushback::full::{Full, refused};
use curator_proto::curator_api::curator_client::CuratorClient;
use curator_proto::curator_api::curator_local_client::CuratorLocalClient;
use curator_proto::curator_api::curator_local_server::{CuratorLocal, CuratorLocalServer};
use curator_proto::curator_api::{
    CommitNodeRequest, GetCaCertificateRequest, GetCaCertificateResponse, GetCurrentLeaderRequest,
    GetCurrentLeaderResponse,
};
use futures::{Stream, StreamExt as _};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::{Endpoint, Server};
use tonic::{ConnectError, Response};

use super::*;

/// The maximum time for anything that should happen at once, on a busy machine.
const WAIT_TIMEOUT: Duration = Duration::from_secs(20);

async fn in_time<T>(what: impl Future<Output = T>) -> T {
    timeout(WAIT_TIMEOUT, what).await.expect("in time")
}

fn soon() -> Instant {
    Instant::now() + WAIT_TIMEOUT
}

/// An instance: it reports the leader that the test sets, and counts calls of `GetCACertificate`.
struct TestInstance {
    address: SocketAddr,
    calls: Arc<AtomicU32>,
    running: JoinHandle<()>,
}

struct Local {
    leader: watch::Receiver<Option<SocketAddr>>,
    calls: Arc<AtomicU32>,
}

type Leaders = Pin<Box<dyn Stream<Item = Result<GetCurrentLeaderResponse, Status>> + Send>>;

fn response(address: SocketAddr) -> GetCurrentLeaderResponse {
    GetCurrentLeaderResponse {
        leader_node_id: format!("node-{}", address.port()),
        leader_host: address.ip().to_string(),
        leader_port: i32::from(address.port()),
        this_node_id: "node".into(),
    }
}

#[tonic::async_trait]
impl CuratorLocal for Local {
    type GetCurrentLeaderStream = Leaders;

    async fn get_current_leader(&self, _: Request<GetCurrentLeaderRequest>) -> Result<Response<Leaders>, Status> {
        let mut leader = self.leader.clone();
        leader.mark_changed();
        if leader.borrow().is_none() {
            return Err(Status::unavailable("no leader"));
        }
        let reports = futures::stream::unfold(leader, |mut leader| async {
            leader.changed().await.ok()?;
            let address = *leader.borrow_and_update();
            Some((address, leader))
        });
        let reports = reports.filter_map(|address| async move { address.map(|address| Ok(response(address))) });
        Ok(Response::new(Box::pin(reports)))
    }

    async fn get_ca_certificate(
        &self,
        _: Request<GetCaCertificateRequest>,
    ) -> Result<Response<GetCaCertificateResponse>, Status> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        Ok(Response::new(GetCaCertificateResponse::default()))
    }
}

impl TestInstance {
    async fn start(leader: &watch::Sender<Option<SocketAddr>>) -> Self {
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, calls) = (socket.local_addr().unwrap(), Arc::<AtomicU32>::default());
        let local = CuratorLocalServer::new(Local {
            leader: leader.subscribe(),
            calls: calls.clone(),
        });
        let serving = Server::builder()
            .add_service(local)
            .serve_with_incoming(TcpListenerStream::new(socket));
        Self {
            address,
            calls,
            running: tokio::spawn(async { serving.await.unwrap() }),
        }
    }

    fn calls(&self) -> u32 {
        self.calls.load(Ordering::SeqCst)
    }
}

impl Drop for TestInstance {
    fn drop(&mut self) {
        self.running.abort();
    }
}

fn client_of(addresses: &[SocketAddr]) -> Client {
    Client::new(addresses.iter().map(ToString::to_string), Security::PlaintextOnLoopback).unwrap()
}

/// A call that the instances count.
async fn ask(client: &Client) {
    let call = async |attempt: Attempt| {
        let mut local = CuratorLocalClient::new(attempt.channel());
        local
            .get_ca_certificate(attempt.request(GetCaCertificateRequest {}))
            .await
    };
    in_time(client.call(soon(), call)).await.unwrap();
}

#[tokio::test]
async fn leader_is_found_and_followed() {
    let leader = watch::Sender::new(None);
    let (one, two) = (TestInstance::start(&leader).await, TestInstance::start(&leader).await);
    let client = client_of(&[two.address]);
    let mut changes = client.leader_changes();

    // Any instance serves while the leader is not known.
    ask(&client).await;
    assert_eq!((one.calls(), two.calls()), (0, 1));

    leader.send_replace(Some(one.address));
    ask(&client).await;
    assert_eq!(
        (one.calls(), two.calls()),
        (1, 1),
        "the leader is called, though its address was not given"
    );
    assert_eq!(in_time(changes.next()).await.address, Some(one.address.to_string()));

    leader.send_replace(Some(two.address));
    assert_eq!(in_time(changes.next()).await.address, Some(two.address.to_string()));
    // The report to the client's own stream may still be under way.
    in_time(async {
        while two.calls() == 1 {
            ask(&client).await;
        }
    })
    .await;
    let before = one.calls();
    ask(&client).await;
    assert_eq!((one.calls(), two.calls()), (before, 3), "the next leader is called");

    // It is lost, and the other one leads again.
    drop(two);
    leader.send_replace(Some(one.address));
    let client = client_of(&[one.address]);
    ask(&client).await;
    assert_eq!(one.calls(), before + 1);
}

#[tokio::test]
async fn leader_that_cannot_be_reached_is_called_through_another_instance() {
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let dead = socket.local_addr().unwrap();
    drop(socket);
    let one = TestInstance::start(&watch::Sender::new(Some(dead))).await;
    let client = client_of(&[dead, one.address]);
    ask(&client).await;
    assert_eq!(one.calls(), 1);
    // Without TLS, no address elsewhere is believed.
    let one = TestInstance::start(&watch::Sender::new(Some("192.0.2.1:7835".parse().unwrap()))).await;
    let found = in_time(client_of(&[one.address]).leader(soon())).await.unwrap();
    assert_eq!(found.address(), one.address.to_string());
}

#[tokio::test]
async fn each_failure_is_named_when_no_instance_responds() {
    let mut addresses = Vec::new();
    for _ in 0..2 {
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        addresses.push(socket.local_addr().unwrap());
    }
    let client = client_of(&addresses);
    let error = in_time(client.any(soon()))
        .await
        .expect_err("no instance listens")
        .to_string();
    for address in addresses {
        assert!(error.contains(&address.to_string()), "{error}");
    }
    let call = async |_: Attempt| Ok::<(), _>(());
    let deadline = Instant::now() + Duration::from_millis(200);
    let error = in_time(client.call(deadline, call))
        .await
        .expect_err("no instance listens");
    assert!(error.is_provably_not_run() && error.status().is_none(), "{error}");
}

/// A client that knows its instance. From here on time is paused: the calls of the tests do no I/O.
async fn paused() -> (Client, TestInstance, watch::Sender<Option<SocketAddr>>) {
    let leader = watch::Sender::new(None);
    let one = TestInstance::start(&leader).await;
    leader.send_replace(Some(one.address));
    let client = client_of(&[one.address]);
    in_time(client.current(soon())).await.unwrap();
    tokio::time::pause();
    (client, one, leader)
}

/// A client whose calls fail with these statuses in turn, and then succeed.
async fn made(statuses: Vec<Status>, within: Duration) -> (Result<(), CallError>, Duration, usize) {
    let (client, _one, _leader) = paused().await;
    let (began, count) = (Instant::now(), statuses.len());
    let mut left = statuses.into_iter();
    let answer = client
        .call(began + within, async |_| left.next().map_or(Ok(()), Err))
        .await;
    let took = began.elapsed();
    tokio::time::resume();
    (answer, took, count - left.len())
}

#[tokio::test]
async fn refused_call_is_sent_again_after_the_delay() {
    let (answer, took, failed) = made(vec![refused("1000"), refused("2000")], Duration::from_secs(60)).await;
    answer.unwrap();
    assert_eq!(failed, 2);
    assert!((3_000..4_000).contains(&took.as_millis()), "{took:?}");
}

#[tokio::test]
async fn refused_call_is_not_sent_again_without_time_for_it() {
    let (answer, took, failed) = made(vec![refused("5000"), refused("5000")], Duration::from_secs(8)).await;
    let error = answer.expect_err("no time for a third");
    assert_eq!(failed, 2);
    assert!(error.is_provably_not_run(), "{error}");
    assert!(took < Duration::from_secs(8), "{took:?}");
}

#[tokio::test]
async fn lost_call_is_not_sent_again() {
    for status in [
        Status::unavailable("the term of this leader ended during the call"),
        Status::from_error(Box::new(std::io::Error::from(std::io::ErrorKind::ConnectionReset))),
        Status::internal("a test"),
        refused("-1"),
    ] {
        let (answer, took, failed) = made(vec![status, Status::internal("sent twice")], Duration::from_secs(60)).await;
        let error = answer.expect_err("it may have run");
        assert!(!error.is_provably_not_run(), "{error}");
        assert_eq!((took, failed), (Duration::ZERO, 1), "{error}");
    }
}

/// The instance cannot be connected to any more; another one is looked for.
#[tokio::test]
async fn call_that_was_never_sent_is_sent_again() {
    let leader = watch::Sender::new(None);
    let one = TestInstance::start(&leader).await;
    leader.send_replace(Some(one.address));
    let client = client_of(&[one.address]);
    let never = || {
        let refused = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
        Status::from_error(Box::new(ConnectError(Box::new(refused))))
    };
    let mut failures = vec![never(), never()];
    let call = async |_: Attempt| failures.pop().map_or(Ok(()), Err);
    in_time(client.call(soon(), call)).await.unwrap();
    assert!(failures.is_empty());
}

#[tokio::test]
async fn call_ends_at_its_deadline() {
    let (client, _one, _leader) = paused().await;
    let began = Instant::now();
    let deadline = began + Duration::from_secs(5);
    let call = async |attempt: Attempt| {
        let request = attempt.request(());
        assert_eq!(request.metadata().get("grpc-timeout").unwrap(), "5000000u");
        std::future::pending::<Result<(), Status>>().await
    };
    let error = client.call(deadline, call).await.expect_err("late");
    assert_eq!(error.status().unwrap().code(), Code::DeadlineExceeded);
    assert!(!error.is_provably_not_run(), "it may have taken effect");
    assert_eq!(began.elapsed().as_secs(), 5);
}

/// A call to one instance is retried there alone.
#[tokio::test(start_paused = true)]
async fn instance_at_its_limits_is_called_again_when_it_says() {
    for (refuses, done) in [(2, true), (u32::MAX, false)] {
        let full = Full::new(refuses, "1500");
        let calls = full.calls.clone();
        let instance = Instance::new("full".into(), full.serve(), None);
        let mut curator = CuratorClient::new(instance.channel());
        let began = Instant::now();
        let call = async || curator.commit_node(CommitNodeRequest::default()).await;
        let answer = instance.call(began + Duration::from_secs(10), call).await;
        assert_eq!(answer.is_ok(), done);
        let (took, calls) = (began.elapsed(), calls.load(Ordering::SeqCst));
        if done {
            assert!(took >= Duration::from_secs(3) && calls == 3, "{took:?}, {calls} calls");
        } else {
            assert!(took <= Duration::from_secs(10) && calls < 8, "{took:?}, {calls} calls");
        }
    }
}

/// What HTTP/2 says of a stream, on a real connection.
#[tokio::test]
async fn http2_proves_that_a_call_was_not_processed() {
    for (reason, proof) in [
        (h2::Reason::REFUSED_STREAM, Some(NotRun::NotProcessed)),
        (h2::Reason::CANCEL, None),
        (h2::Reason::INTERNAL_ERROR, None),
    ] {
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let server = tokio::spawn(async move {
            let (stream, _) = socket.accept().await.unwrap();
            let mut connection = h2::server::handshake(stream).await.unwrap();
            let (_request, mut respond) = connection.accept().await.unwrap().unwrap();
            respond.send_reset(reason);
            // Drives the connection until the client closes it.
            while connection.accept().await.is_some() {}
        });
        let channel = Endpoint::from_shared(format!("http://{address}"))
            .unwrap()
            .connect_lazy();
        let mut local = CuratorLocalClient::new(channel.clone());
        let status = in_time(local.get_ca_certificate(GetCaCertificateRequest {}))
            .await
            .expect_err("a reset");
        assert_eq!(NotRun::proof(&status), proof, "{status:?}");
        drop((channel, local));
        in_time(server).await.unwrap();
    }

    // A connection that ends after the request proves nothing; one that was never made does.
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    let server = tokio::spawn(async move {
        let (stream, _) = socket.accept().await.unwrap();
        let mut connection = h2::server::handshake(stream).await.unwrap();
        let _request = connection.accept().await.unwrap().unwrap();
    });
    let channel = Endpoint::from_shared(format!("http://{address}"))
        .unwrap()
        .connect_lazy();
    let mut local = CuratorLocalClient::new(channel);
    for proof in [None, Some(NotRun::NotConnected)] {
        let status = in_time(local.get_ca_certificate(GetCaCertificateRequest {}))
            .await
            .expect_err("nobody answers");
        assert_eq!(NotRun::proof(&status), proof, "{status:?}");
    }
    in_time(server).await.unwrap();
}
