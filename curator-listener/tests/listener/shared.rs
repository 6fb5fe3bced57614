//! A follower carries the calls of all callers on a few connections to the leader. No caller can end a connection
//! that others use. In each scenario bystanders have calls in flight.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use curator_echo::EchoService;
use curator_echo::proto::{CountRequest, SayResponse};
use curator_listener::Services;
use futures::future::join_all;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tonic::body::Body;
use tonic::server::NamedService;
use tonic::service::Routes;
use tonic::{Request, Status, Streaming};

use crate::fixture::{
    Certificates, Instance, client, config, follower_role, from, in_time, leader_role, message, named, say,
};
use crate::raw::{RawClient, RawLeader};

const SAY: &str = "/curator.echo.v1.Echo/Say";
const COUNT: &str = "/curator.echo.v1.Echo/Count";

/// A leader whose only thread blocks for as many milliseconds as the id of a call says, if the id is one of
/// [`stand_still`].
struct Still {
    leader: Instance,
    stands: Arc<Notify>,
}

/// The id of a call that blocks the leader for this long.
fn stand_still(how_long: Duration) -> u64 {
    u64::MAX - u64::try_from(how_long.as_millis()).unwrap()
}

impl Still {
    fn with(tls: Option<&Certificates>) -> Self {
        let mut config = config();
        config.threads = 1;
        config.tls = tls.map(Certificates::tls);
        let stands = Arc::new(Notify::new());
        let told = stands.clone();
        let services = move |service: EchoService| {
            let told = told.clone();
            service.recording(Arc::new(move |id| {
                let still = Duration::from_millis(u64::MAX - id);
                if still < Duration::from_secs(60) {
                    told.notify_one();
                    std::thread::sleep(still);
                }
            }))
        };
        Self {
            leader: Instance::with(leader_role(1).0, config, services),
            stands,
        }
    }

    /// Blocks the leader with a direct call. Returns once it is blocked.
    async fn stand(&self, client: &RawClient, how_long: Duration) {
        let (response, mut body) = client.begin(SAY, &[]).await;
        body.send_data(message(&say(stand_still(how_long))), true).unwrap();
        tokio::spawn(response);
        in_time(self.stands.notified()).await;
    }
}

/// Open streams through one instance, like those of nodes.
pub(crate) struct Bystanders {
    streams: JoinSet<Result<(), Status>>,
    over: Arc<AtomicBool>,
}

impl Bystanders {
    pub(crate) async fn begin(through: &Instance, number: usize, tls: Option<&Certificates>) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let mut streams = JoinSet::new();
        for _ in 0..number {
            let mut answers = watch(through.address, tls).await;
            in_time(answers.message()).await.unwrap().unwrap();
            let over = over.clone();
            streams.spawn(async move {
                while !over.load(Ordering::Relaxed) {
                    in_time(answers.message()).await?;
                }
                Ok(())
            });
        }
        Self { streams, over }
    }

    /// How many of them have ended so far, and why the last one did.
    pub(crate) async fn broken(mut self) -> (usize, Option<Status>) {
        self.over.store(true, Ordering::Relaxed);
        let (mut broken, mut why) = (0, None);
        while let Some(ended) = in_time(self.streams.join_next()).await {
            if let Err(status) = ended.unwrap() {
                broken += 1;
                why = Some(status);
            }
        }
        (broken, why)
    }
}

/// The request of an endless stream.
pub(crate) const fn endless() -> CountRequest {
    CountRequest {
        messages: 0,
        size: 1,
        pause_us: 2_000,
    }
}

async fn watch(address: SocketAddr, tls: Option<&Certificates>) -> Streaming<SayResponse> {
    let mut client = match tls {
        None => client(address),
        Some(tls) => tls.echo(address),
    };
    in_time(client.count(endless())).await.unwrap().into_inner()
}

/// Deadlines pass while the leader is blocked, repeatedly. Calls with enough time are answered afterwards.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deadlines_that_pass_while_the_leader_stands_still_harm_nobody() {
    let still = Still::with(None);
    let follower = Instance::following(still.leader.address, 1);
    follower.serves(true).await;
    let direct = RawClient::connect(still.leader.address).await;
    still.stand(&direct, Duration::from_millis(1_500)).await;
    let timed = |seconds: f64, id: u64| {
        let mut request = Request::new(say(id));
        request.set_timeout(Duration::from_secs_f64(seconds));
        request
    };
    let mut patient = JoinSet::new();
    for id in 0..8 {
        let mut caller = follower.client();
        patient.spawn(async move { caller.say(timed(8.0, id)).await });
    }
    let mut hasty = JoinSet::new();
    for id in 0..40 {
        let mut caller = follower.client();
        hasty.spawn(async move {
            for _ in 0..4 {
                let _ = caller.say(timed(0.3, 100 + id)).await;
            }
        });
    }
    while let Some(answer) = in_time(patient.join_next()).await {
        answer.unwrap().expect("it had the time");
    }
    hasty.shutdown().await;
}

/// Bursts of calls with deadlines that cannot be kept, from a stranger without a certificate and from a caller
/// without TLS.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bursts_of_deadlines_that_cannot_be_kept_break_no_stream() {
    for tls in [None, Some(Certificates::new())] {
        let tls = tls.as_ref();
        let still = Still::with(tls);
        let mut config = config();
        config.tls = tls.map(Certificates::tls);
        let follower = Instance::with(named(still.leader.address, 1), config, |service| service);
        follower.serves(true).await;
        let bystanders = Bystanders::begin(&follower, 20, tls).await;
        let stranger = in_time(RawClient::secured(
            follower.address,
            tls.map(|tls| tls.stranger()).as_ref(),
        ))
        .await
        .unwrap();
        let direct = in_time(RawClient::secured(
            still.leader.address,
            tls.map(Certificates::client).as_ref(),
        ))
        .await
        .unwrap();
        for burst in 0..60 {
            if burst % 4 == 0 {
                // The leader is busy.
                still.stand(&direct, Duration::from_millis(20)).await;
            }
            let mut answers = Vec::new();
            for _ in 0..100 {
                let (response, mut body) = stranger.begin(COUNT, &[("grpc-timeout", "1m")]).await;
                // Its deadline may have passed.
                let _ = body.send_data(message(&endless()), true);
                answers.push(response);
            }
            in_time(join_all(answers)).await;
        }
        let (broken, why) = bystanders.broken().await;
        assert_eq!(broken, 0, "{why:?}");
    }
}

/// A caller cancels as many calls at once as its own connection tolerates.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bursts_of_cancels_break_no_stream() {
    let still = Still::with(None);
    let follower = Instance::following(still.leader.address, 1);
    follower.serves(true).await;
    let bystanders = Bystanders::begin(&follower, 20, None).await;
    let direct = RawClient::connect(still.leader.address).await;
    for _ in 0..10 {
        still.stand(&direct, Duration::from_millis(40)).await;
        let mut cancelling = JoinSet::new();
        for _ in 0..4 {
            let canceller = RawClient::connect(follower.address).await;
            cancelling.spawn(async move {
                let mut calls = Vec::new();
                for _ in 0..60 {
                    let (response, mut body) = canceller.begin(COUNT, &[]).await;
                    body.send_data(message(&endless()), true).unwrap();
                    calls.push((response, body));
                }
                // Until the follower has forwarded them.
                tokio::time::sleep(Duration::from_millis(10)).await;
                drop(calls);
                in_time(canceller.call(SAY, &[], &message(&say(1)))).await
            });
        }
        while let Some(answer) = in_time(cancelling.join_next()).await {
            assert_eq!(answer.unwrap().code(), Some("0"));
        }
    }
    let (broken, why) = bystanders.broken().await;
    assert_eq!(broken, 0, "{why:?}");
}

/// HTTP/2, byte by byte.
pub(crate) struct Bytewise(TcpStream);

impl Bytewise {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        let mut stream = in_time(TcpStream::connect(address)).await.unwrap();
        stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
        let mut this = Self(stream);
        this.frame(4, 0, 0, &[]).await;
        this
    }

    async fn frame(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let mut frame = vec![length[1], length[2], length[3], kind, flags];
        frame.extend_from_slice(&stream.to_be_bytes());
        frame.extend_from_slice(payload);
        in_time(self.0.write_all(&frame)).await.unwrap();
    }

    /// The head of a call, with literal fields without indexing.
    async fn begin(&mut self, stream: u32, path: &str) {
        self.begin_at(stream, "x", path).await;
    }

    pub(crate) async fn begin_at(&mut self, stream: u32, authority: &str, path: &str) {
        let mut block = Vec::new();
        for (name, value) in [
            (":method", "POST"),
            (":scheme", "http"),
            (":authority", authority),
            (":path", path),
            ("content-type", "application/grpc"),
            ("te", "trailers"),
        ] {
            block.extend_from_slice(&[0, u8::try_from(name.len()).unwrap()]);
            block.extend_from_slice(name.as_bytes());
            block.push(u8::try_from(value.len()).unwrap());
            block.extend_from_slice(value.as_bytes());
        }
        self.frame(1, 4, stream, &block).await;
    }

    /// Reads until the peer has reset this many streams.
    pub(crate) async fn resets(&mut self, number: usize) {
        self.frames(3, number).await;
    }

    /// Reads until a response begins.
    pub(crate) async fn answer(&mut self) {
        self.frames(1, 1).await;
    }

    /// Reads until this many frames of a type have arrived.
    async fn frames(&mut self, kind: u8, mut number: usize) {
        while number > 0 {
            let mut head = [0; 9];
            in_time(self.0.read_exact(&mut head))
                .await
                .expect("the connection lives");
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            in_time(self.0.read_exact(&mut vec![0; length as usize])).await.unwrap();
            assert_ne!(head[3], 7, "GOAWAY");
            number -= usize::from(head[3] == kind);
        }
    }
}

/// Calls that end by a window update that overflows the window, which the follower answers with its own reset.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn windows_that_are_made_too_large_break_no_stream() {
    let still = Still::with(None);
    let follower = Instance::following(still.leader.address, 1);
    follower.serves(true).await;
    let bystanders = Bystanders::begin(&follower, 20, None).await;
    let direct = RawClient::connect(still.leader.address).await;
    for _ in 0..5 {
        let mut made = Bytewise::connect(follower.address).await;
        still.stand(&direct, Duration::from_millis(100)).await;
        for number in 0..200 {
            let stream = number * 2 + 1;
            made.begin(stream, COUNT).await;
            // Two calls at a time: forwarded, and then broken.
            if number % 2 == 1 {
                tokio::time::sleep(Duration::from_micros(500)).await;
                let too_much = 0x7fff_ffff_u32.to_be_bytes();
                made.frame(8, 0, stream - 2, &too_much).await;
                made.frame(8, 0, stream, &too_much).await;
            }
        }
        made.resets(200).await;
    }
    let (broken, why) = bystanders.broken().await;
    assert_eq!(broken, 0, "{why:?}");
}

/// Metadata that HPACK makes longer: a byte that is not text takes four bytes in the Huffman code.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metadata_that_grows_on_its_way_breaks_no_stream() {
    let (leader, _guard) = Instance::leading(1);
    let follower = Instance::following(leader.address, 1);
    follower.serves(true).await;
    let bystanders = Bystanders::begin(&follower, 5, None).await;
    // Not with h2's client, which would make it as long.
    let mut caller = Bytewise::connect(follower.address).await;
    let mut block = Vec::new();
    for (name, value) in [
        (":method", "POST"),
        (":scheme", "http"),
        (":authority", "x"),
        (":path", COUNT),
        ("content-type", "application/grpc"),
    ] {
        block.extend_from_slice(&[0, u8::try_from(name.len()).unwrap()]);
        block.extend_from_slice(name.as_bytes());
        block.push(u8::try_from(value.len()).unwrap());
        block.extend_from_slice(value.as_bytes());
    }
    for name in [b'a', b'b', b'c', b'd'] {
        // 12,288 bytes: 127 and the rest in groups of seven bits.
        block.extend_from_slice(&[0, 3, b'x', b'-', name, 0x7f, 0x81, 0x5f]);
        block.extend_from_slice(&[0xfe; 12_288]);
    }
    let pieces: Vec<_> = block.chunks(16_000).collect();
    let last = pieces.len() - 1;
    for (number, piece) in pieces.into_iter().enumerate() {
        let end = u8::from(number == last) * 4;
        // HEADERS with END_STREAM, and CONTINUATION frames.
        let (kind, flags) = if number == 0 { (1, 1 | end) } else { (9, end) };
        caller.frame(kind, flags, 1, piece).await;
    }
    let mut other = follower.client();
    for id in 0..20 {
        in_time(other.say(say(id))).await.expect("is not touched by it");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let (broken, why) = bystanders.broken().await;
    assert_eq!(broken, 0, "{why:?}");
}

/// A service with very long refusals.
#[derive(Clone)]
struct Verbose;

impl NamedService for Verbose {
    const NAME: &'static str = "a.Verbose";
}

impl tower_service::Service<http::Request<Body>> for Verbose {
    type Response = http::Response<Body>;
    type Error = std::convert::Infallible;
    type Future = std::future::Ready<Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), Self::Error>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: http::Request<Body>) -> Self::Future {
        let status = Status::invalid_argument(format!("that is no name: {}", "x".repeat(1 << 20)));
        std::future::ready(Ok(status.into_http()))
    }
}

/// A refusal that quotes a long request. As trailers it would exceed the limit of a follower, which closes the
/// connection.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_without_end_breaks_no_stream() {
    let leader = Instance::serving(leader_role(1).0, config(), |address| {
        Services::new(move |_| Routes::new(EchoService::new(address.to_string(), 1).into_server()).add_service(Verbose))
    });
    let follower = Instance::following(leader.address, 1);
    follower.serves(true).await;
    let bystanders = Bystanders::begin(&follower, 5, None).await;
    let caller = RawClient::connect(follower.address).await;
    for _ in 0..3 {
        let answer = caller.call("/a.Verbose/Any", &[], &message(&say(1))).await;
        assert_eq!(answer.code(), Some("3"), "{answer:?}");
        assert!(answer.message().starts_with("that%20is%20no%20name"));
    }
    let (broken, why) = bystanders.broken().await;
    assert_eq!(broken, 0, "{why:?}");
}

/// Requests that the leader answers before they have ended may count as errors there, and a connection tolerates a
/// limited number of them. Another connection replaces it in time, and the calls on the first one go on.
#[tokio::test]
async fn a_connection_that_wears_out_is_replaced() {
    let mut leader = RawLeader::start().await;
    let follower = Instance::following(leader.address, 1);
    follower.serves(true).await;
    let caller = RawClient::connect(follower.address).await;
    let (bystander, mut request) = caller.begin(COUNT, &[]).await;
    request.send_data(Bytes::from_static(b"x"), true).unwrap();
    let first = leader.next().await;
    let mut last = first.connection;
    for _ in 0..1_000 {
        let (response, _endless) = caller.begin(COUNT, &[]).await;
        let seen = leader.next().await;
        last = seen.connection;
        seen.answer(b"x");
        in_time(response).await.unwrap();
        if last != first.connection {
            break;
        }
    }
    assert_ne!(last, first.connection);
    first.answer(b"y");
    assert_eq!(
        &crate::raw::Answer::read(in_time(bystander).await.unwrap()).await.body[..],
        b"y"
    );
}

/// A client cancels all of its calls at once, and keeps its connection.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_cancels_all_its_calls_keeps_its_own_streams() {
    let still = Still::with(None);
    let follower = Instance::following(still.leader.address, 1);
    follower.serves(true).await;
    let direct = RawClient::connect(still.leader.address).await;
    for instance in [&still.leader, &follower] {
        let caller = RawClient::connect(instance.address).await;
        let (watching, mut request) = caller.begin(COUNT, &[]).await;
        request.send_data(message(&endless()), true).unwrap();
        let mut watching = in_time(watching).await.unwrap().into_body();
        for _ in 0..5 {
            still.stand(&direct, Duration::from_millis(30)).await;
            let mut calls = Vec::new();
            for id in 0..200 {
                let (response, mut body) = caller.begin(SAY, &[]).await;
                body.send_data(message(&say(id)), true).unwrap();
                calls.push(response);
            }
            drop(calls);
        }
        for _ in 0..100 {
            let data = in_time(watching.data()).await.unwrap().expect("goes on");
            watching.flow_control().release_capacity(data.len()).unwrap();
        }
    }
}

/// A head that fits at the leader also fits through a follower, which adds headers. Larger heads are refused, without
/// other effects.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metadata_fits_through_a_follower_as_at_the_leader() {
    let certificates = Certificates::new();
    let mut config = config();
    config.tls = Some(certificates.tls());
    let leader = Instance::with(leader_role(1).0, config.clone(), |service| service);
    let follower = Instance::with(named(leader.address, 1), config, |service| service);
    follower.serves(true).await;
    for instance in [&leader, &follower] {
        let client = in_time(RawClient::secured(instance.address, Some(&certificates.client())))
            .await
            .unwrap();
        let (watching, mut request) = client.begin(COUNT, &[]).await;
        request.send_data(message(&endless()), true).unwrap();
        let mut watching = in_time(watching).await.unwrap().into_body();
        let value = |length: usize| "abcdefgh".repeat(length / 8);
        for (length, code) in [(63 << 10, "0"), (80 << 10, "8")] {
            let answer = client.call(SAY, &[("x-long", &value(length))], &message(&say(1))).await;
            assert_eq!(answer.code(), Some(code), "{length}: {}", answer.message());
        }
        in_time(watching.data()).await.unwrap().expect("goes on");
    }
}

/// Streams of minimal messages whose readers have stopped.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn small_messages_that_nobody_reads_break_no_call() {
    let mut leader = RawLeader::start().await;
    let follower = Instance::with(follower_role(leader.address, 1), config(), |service| service);
    follower.serves(true).await;
    let caller = RawClient::with_window(follower.address, 65_535).await;
    let mut stalled = Vec::new();
    for _ in 0..5 {
        let (response, mut body) = caller.begin(COUNT, &[]).await;
        body.send_data(Bytes::new(), true).unwrap();
        let mut seen = leader.next().await;
        let mut stream = seen.begin();
        let unread = in_time(response).await.unwrap();
        let small = Bytes::from_static(&[0; 5]);
        let mut sent = 0;
        // Nearly the whole window.
        while sent < 250 << 10 {
            stream.reserve_capacity(small.len());
            let capacity = std::future::poll_fn(|cx| stream.poll_capacity(cx));
            match tokio::time::timeout(Duration::from_millis(300), capacity).await {
                Ok(Some(Ok(capacity))) if capacity >= small.len() => {
                    stream.send_data(small.clone(), false).unwrap();
                    sent += small.len();
                }
                Ok(Some(Ok(_))) => {}
                _ => break,
            }
        }
        assert!(sent > 128 << 10, "{sent}");
        stalled.push((seen, stream, unread));
    }
    let (response, mut body) = caller.begin(COUNT, &[]).await;
    body.send_data(Bytes::new(), true).unwrap();
    let sixth = leader.next().await;
    sixth.answer(b"x");
    in_time(response).await.unwrap();
    for (_, stream, _) in &mut stalled {
        let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
        assert!(stream.poll_reset(&mut cx).is_pending(), "it goes on");
    }
}

/// Stalled uploads, more than the leader has room for from one caller. They come through a follower, which the leader
/// must not stop for them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn uploads_that_stall_at_the_leader_hold_up_nobody_else_at_the_follower() {
    let mut config = config();
    config.max_memory = 8 << 20;
    let leader = Instance::with(leader_role(1).0, config.clone(), |service| service);
    let follower = Instance::with(follower_role(leader.address, 1), config, |service| service);
    follower.serves(true).await;
    let bystanders = Bystanders::begin(&follower, 3, None).await;
    let stalling = RawClient::over(from(66, follower.address).await, follower.address, 65_535)
        .await
        .unwrap();
    let mut uploads = Vec::new();
    for _ in 0..40 {
        let (response, mut body) = stalling.begin(SAY, &[]).await;
        // The beginning of a message of one megabyte.
        let mut piece = vec![0, 0, 0x10, 0, 0];
        piece.resize(250 << 10, 7);
        // It is refused when there is no more room.
        let _ = body.send_data(piece.into(), false);
        uploads.push((response, body));
    }
    // For longer than a leader may be silent.
    let began = std::time::Instant::now();
    let mut caller = follower.client();
    while began.elapsed() < Duration::from_secs(5) {
        in_time(caller.say(say(1))).await.unwrap();
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let (broken, why) = bystanders.broken().await;
    assert_eq!(broken, 0, "{why:?}");
}
