//! The memory that callers can make an instance use, measured from outside on its own process: the peak, and what is
//! left after the callers are gone. Honest callers are answered meanwhile.

#![allow(clippy::unwrap_used, reason = "a scenario that cannot go on has failed")]
#![allow(
    clippy::disallowed_methods,
    reason = "times are compared with bounds that the documentation states"
)]

#[path = "../listener/fixture.rs"]
#[allow(dead_code, reason = "of the other scenarios")]
mod fixture;
#[path = "../listener/raw.rs"]
#[allow(dead_code, reason = "of the other scenarios")]
mod raw;

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use curator_echo::proto::CountRequest;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;

use crate::fixture::{Certificates, Instance, config, from, in_time, leader_role, message, say, undetermined};
use crate::raw::RawClient;

/// The allocator of `curator`. glibc's does not return the memory of a burst of calls.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

const REFLECTION: &str = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";
const SAY: &str = "/curator.echo.v1.Echo/Say";
const COUNT: &str = "/curator.echo.v1.Echo/Count";
/// The role of the process, and the directory of its certificates if it uses TLS.
const ROLE: &str = "CURATOR_TEST_MEMORY_ROLE";
const CERTIFICATES: &str = "CURATOR_TEST_MEMORY_CERTIFICATES";
/// A small budget, so that the tests are short.
const BUDGET: usize = 64 << 20;
/// The maximum growth under strangers: their quarter of the budget, doubled for memory that is not counted, and forty
/// connections.
const MAX_STRANGERS_GROWTH: usize = BUDGET / 2 + (24 << 20);
/// The maximum growth under any callers.
const MAX_TOTAL_GROWTH: usize = 2 * BUDGET;
/// The maximum growth that may be left afterwards.
const MAX_REMAINING_GROWTH: usize = 16 << 20;
/// The time within which memory must be returned.
const RETURN_TIMEOUT: Duration = Duration::from_secs(60);

/// Not a test: the process that the tests measure.
#[test]
#[ignore = "it is started by the others"]
fn a_process_that_serves() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let serving = async {
        let mut config = config();
        config.threads = 2;
        config.max_memory = BUDGET;
        // Longer than the tests take.
        config.hold_cap = Duration::from_secs(300);
        let certificates = std::env::var(CERTIFICATES).ok();
        config.tls = certificates.map(|directory| Certificates::read(directory.as_ref()).tls());
        let role = if role == "leading" {
            leader_role(1).0
        } else {
            undetermined()
        };
        let instance = Instance::with(role, config, |service| service);
        println!("\nlistening on {}", instance.address);
        // Until the parent process is gone.
        let gone = tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new()));
        let _ = gone.await;
        instance.stop().await;
    };
    tokio::runtime::Runtime::new().unwrap().block_on(serving);
}

/// A process that serves. Dropping it ends the process.
struct Served {
    child: Child,
    address: SocketAddr,
}

impl Served {
    fn start(role: &str, certificates: Option<&PathBuf>) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args(["--exact", "a_process_that_serves", "--ignored", "--nocapture"])
            .env(ROLE, role)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        if let Some(directory) = certificates {
            command.env(CERTIFICATES, directory);
        }
        let mut child = command.spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let address = lines
            .find_map(|line| line.unwrap().strip_prefix("listening on ")?.parse().ok())
            .unwrap();
        std::thread::spawn(move || lines.for_each(drop));
        Self { child, address }
    }

    /// A number of bytes that the kernel reports of it.
    fn says(&self, what: &str) -> usize {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with(what)).unwrap();
        let kibibytes: usize = line.split_whitespace().nth(1).unwrap().parse().unwrap();
        kibibytes << 10
    }

    fn now(&self) -> usize {
        self.says("VmRSS:")
    }

    /// The peak so far.
    fn peak(&self) -> usize {
        self.says("VmHWM:")
    }

    /// Waits until it uses no more than this.
    async fn comes_back(&self, to: usize) {
        let began = Instant::now();
        while self.now() > to {
            assert!(
                began.elapsed() < RETURN_TIMEOUT,
                "{} MiB are left, not {}",
                self.now() >> 20,
                to >> 20
            );
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A socket that can stop reading.
struct Stalling<S> {
    socket: S,
    stalls: Arc<AtomicBool>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Stalling<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        if self.stalls.load(Ordering::SeqCst) {
            // For ever.
            return Poll::Pending;
        }
        Pin::new(&mut self.socket).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Stalling<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

/// A client that can stop reading, with maximum HTTP/2 windows.
async fn stalling(
    stream: TcpStream,
    address: SocketAddr,
    tls: Option<Arc<rustls::ClientConfig>>,
) -> (RawClient, Arc<AtomicBool>) {
    let stalls = Arc::new(AtomicBool::new(false));
    let window = 0x7fff_ffff;
    let client = match tls {
        None => {
            let socket = Stalling {
                socket: stream,
                stalls: stalls.clone(),
            };
            RawClient::over(socket, address, window).await.unwrap()
        }
        Some(tls) => {
            let name = curator_echo::tls::server_name().unwrap();
            let socket = in_time(TlsConnector::from(tls).connect(name, stream)).await.unwrap();
            let socket = Stalling {
                socket,
                stalls: stalls.clone(),
            };
            RawClient::over(socket, address, window).await.unwrap()
        }
    };
    // After one answer it knows how many calls it may make.
    in_time(client.try_call("/grpc.health.v1.Health/Nothing")).await;
    (client, stalls)
}

/// Opens this many calls with this body, if the connection accepts them. The body ends, or goes on.
async fn open_all(
    client: &RawClient,
    path: &str,
    body: &Bytes,
    (most, whole): (usize, bool),
) -> Vec<impl Sized + use<>> {
    let mut open = Vec::new();
    for _ in 0..most {
        let Some((response, mut stream)) = client.try_begin(path) else {
            break;
        };
        let _ = stream.send_data(body.clone(), whole);
        open.push((response, stream));
        tokio::task::yield_now().await;
    }
    open
}

/// Calls of an honest caller, one after the other, until stopped: each is answered.
fn means_well(
    address: SocketAddr,
    tls: Option<Arc<rustls::ClientConfig>>,
) -> (Arc<AtomicBool>, tokio::task::JoinHandle<usize>) {
    let over = Arc::new(AtomicBool::new(false));
    let done = over.clone();
    let calling = tokio::spawn(async move {
        let (client, _) = stalling(from(77, address).await, address, tls).await;
        let mut answered = 0;
        while !done.load(Ordering::SeqCst) {
            let answer = client.call(SAY, &[], &message(&say(answered as u64))).await;
            assert_eq!(answer.code(), Some("0"), "{answer:?}");
            answered += 1;
        }
        answered
    });
    (over, calling)
}

fn certificates() -> (PathBuf, Certificates) {
    let directory = std::env::temp_dir().join(format!("curator-memory-{}-{}", std::process::id(), rand_name()));
    std::fs::create_dir_all(&directory).unwrap();
    curator_echo::tls::write(&directory).unwrap();
    let certificates = Certificates::read(&directory);
    (directory, certificates)
}

fn rand_name() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(0)
}

/// Waits until the memory of a process does not grow any more.
async fn settled(served: &Served) {
    let mut before = 0;
    loop {
        let now = served.now();
        if now <= before + (64 << 10) {
            return;
        }
        before = now;
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// Strangers request the descriptors repeatedly, and take none of the answers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_who_take_no_answers_cost_little_and_hold_up_nobody() {
    let (directory, certificates) = certificates();
    let served = Served::start("leading", Some(&directory));
    let (over, calling) = means_well(served.address, Some(certificates.client()));
    let ask = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::FileContainingSymbol("curator.echo.v1.Echo".into())),
    };
    let asks = Bytes::from(message(&ask).repeat(1_500));
    settled(&served).await;
    let before = served.now();
    let mut storm = Vec::new();
    for number in 0..40_u8 {
        // From four addresses.
        let stream = from(100 + number % 4, served.address).await;
        let (client, stalls) = stalling(stream, served.address, Some(certificates.stranger())).await;
        stalls.store(true, Ordering::SeqCst);
        let open = open_all(&client, REFLECTION, &asks, (100, false)).await;
        storm.push((client, open));
    }
    settled(&served).await;
    let grown = served.peak() - before;
    println!(
        "strangers: {} MiB before, {} MiB more at most",
        before >> 20,
        grown >> 20
    );
    assert!(grown < MAX_STRANGERS_GROWTH, "{} MiB", grown >> 20);
    over.store(true, Ordering::SeqCst);
    assert!(in_time(calling).await.unwrap() > 0);
    drop(storm);
    served.comes_back(before + MAX_REMAINING_GROWTH).await;
    println!("strangers: {} MiB left", served.now() >> 20);
    let _ = std::fs::remove_dir_all(directory);
}

/// Calls wait for a leader, each with as much of its request as is accepted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_that_wait_with_long_requests_are_not_read_beyond_the_budget() {
    let served = Served::start("unknown", None);
    settled(&served).await;
    let before = served.now();
    let body = Bytes::from(vec![0; 256 << 10]);
    let mut storm = Vec::new();
    for number in 0..8_u8 {
        let (client, _) = stalling(from(100 + number % 2, served.address).await, served.address, None).await;
        let open = open_all(&client, SAY, &body, (256, false)).await;
        storm.push((client, open));
    }
    settled(&served).await;
    let grown = served.peak() - before;
    println!("held: {} MiB before, {} MiB more at most", before >> 20, grown >> 20);
    assert!(grown < MAX_TOTAL_GROWTH, "{} MiB", grown >> 20);
    // A call of another caller waits as well, and gets its reason in time.
    let (other, _) = stalling(from(99, served.address).await, served.address, None).await;
    let answer = other.call(SAY, &[("grpc-timeout", "500m")], &message(&say(1))).await;
    assert_eq!(answer.code(), Some("14"), "{answer:?}");
    drop((storm, other));
    served.comes_back(before + MAX_REMAINING_GROWTH).await;
    println!("held: {} MiB left", served.now() >> 20);
}

/// A known caller opens streams of long messages and reads none.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_who_take_no_answers_have_their_share_and_no_more() {
    let served = Served::start("leading", None);
    let (over, calling) = means_well(served.address, None);
    settled(&served).await;
    let before = served.now();
    let endless = message(&CountRequest {
        messages: 0,
        size: 30_000,
        pause_us: 0,
    });
    let mut storm = Vec::new();
    for number in 0..40_u8 {
        let stream = from(100 + number % 4, served.address).await;
        let (client, stalls) = stalling(stream, served.address, None).await;
        stalls.store(true, Ordering::SeqCst);
        let open = open_all(&client, COUNT, &endless, (128, true)).await;
        storm.push((client, open));
    }
    settled(&served).await;
    let grown = served.peak() - before;
    println!("members: {} MiB before, {} MiB more at most", before >> 20, grown >> 20);
    assert!(grown < MAX_TOTAL_GROWTH, "{} MiB", grown >> 20);
    over.store(true, Ordering::SeqCst);
    assert!(in_time(calling).await.unwrap() > 0);
    drop(storm);
    served.comes_back(before + MAX_REMAINING_GROWTH).await;
    println!("members: {} MiB left", served.now() >> 20);
}
