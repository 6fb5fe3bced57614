//! Loads the `Echo` service at an address, and says in one line of JSON how fast it was.
//!
//! One thread, and HTTP/2 without anything around it, so that little of the machine goes to the load itself.

use std::error::Error;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use curator_echo::proto::{CountRequest, SayRequest};
use h2::client::SendRequest;
use http::{HeaderMap, HeaderValue, Request, Response};
use prost::Message;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::Instant;

const USAGE: &str = "usage: echo-load ADDRESS (unary|stream|paced) IN_FLIGHT CONNECTIONS SECONDS

Calls `curator.echo.v1.Echo` at the address with messages of 100 bytes:
  unary   IN_FLIGHT calls of Say at a time
  stream  IN_FLIGHT streams of Count, as fast as they come
  paced   IN_FLIGHT streams of Count with a message every 2 ms each
A quarter of the time more is spent before it counts.";
/// The payload of each message.
const SIZE: usize = 100;

type Failure = Box<dyn Error + Send + Sync>;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let Some(plan) = Plan::read(&words) else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: {error}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(run(plan)) {
        Ok(line) => {
            println!("{line}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

#[derive(Clone, Copy)]
struct Plan {
    address: SocketAddr,
    workload: Workload,
    in_flight: usize,
    connections: usize,
    counted: Duration,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Workload {
    Unary,
    Stream,
    Paced,
}

impl Plan {
    fn read(words: &[String]) -> Option<Self> {
        let [address, workload, in_flight, connections, seconds] = words else {
            return None;
        };
        let positive = |word: &String| word.parse().ok().filter(|number| *number > 0);
        Some(Self {
            address: address.parse().ok()?,
            workload: match workload.as_str() {
                "unary" => Workload::Unary,
                "stream" => Workload::Stream,
                "paced" => Workload::Paced,
                _ => return None,
            },
            in_flight: positive(in_flight)?,
            connections: positive(connections)?,
            counted: Duration::try_from_secs_f64(seconds.parse().ok()?).ok()?,
        })
    }
}

/// When to count.
#[derive(Clone, Copy)]
struct Window {
    from: Instant,
    to: Instant,
}

async fn run(plan: Plan) -> Result<String, Failure> {
    let mut open = Vec::new();
    let mut drivers = JoinSet::new();
    for _ in 0..plan.connections {
        let stream = TcpStream::connect(plan.address).await?;
        stream.set_nodelay(true)?;
        let (requests, connection) = h2::client::Builder::new()
            .initial_window_size(1 << 20)
            .initial_connection_window_size(64 << 20)
            .handshake::<_, Bytes>(stream)
            .await?;
        drivers.spawn(connection);
        open.push(requests);
    }
    let from = Instant::now() + plan.counted / 4;
    let window = Window {
        from,
        to: from + plan.counted,
    };
    let mut callers = JoinSet::new();
    for number in 0..plan.in_flight {
        let requests = open[number % open.len()].clone();
        match plan.workload {
            Workload::Unary => callers.spawn(unary(plan.address, requests, window)),
            Workload::Stream => callers.spawn(stream(plan.address, requests, window, 0)),
            Workload::Paced => callers.spawn(stream(plan.address, requests, window, 2_000)),
        };
    }
    let mut counted = Counted::default();
    while let Some(one) = callers.join_next().await {
        let one = one??;
        counted.count += one.count;
        counted.nanoseconds.extend(one.nanoseconds);
    }
    counted.nanoseconds.sort_unstable();
    let quantile = |q: f64| {
        let at = (counted.nanoseconds.len() as f64 * q) as usize;
        counted.nanoseconds.get(at).copied().unwrap_or_default()
    };
    Ok(format!(
        "{{\"count\":{},\"seconds\":{},\"median_ns\":{},\"p99_ns\":{}}}",
        counted.count,
        plan.counted.as_secs_f64(),
        quantile(0.5),
        quantile(0.99)
    ))
}

/// What was done within the window.
#[derive(Default)]
struct Counted {
    count: u64,
    /// Of each call, if it is calls that are counted.
    nanoseconds: Vec<u32>,
}

fn request(address: SocketAddr, method: &str) -> Result<Request<()>, Failure> {
    let mut request = Request::post(format!("http://{address}/curator.echo.v1.Echo/{method}")).body(())?;
    let headers = request.headers_mut();
    headers.insert("content-type", HeaderValue::from_static("application/grpc"));
    headers.insert("te", HeaderValue::from_static("trailers"));
    headers.insert("user-agent", HeaderValue::from_static("echo-load/1"));
    Ok(request)
}

fn framed(message: &impl Message) -> Result<Bytes, Failure> {
    let mut bytes = BytesMut::new();
    bytes.put_u8(0);
    bytes.put_u32(u32::try_from(message.encoded_len())?);
    message.encode(&mut bytes)?;
    Ok(bytes.freeze())
}

async fn unary(address: SocketAddr, requests: SendRequest<Bytes>, window: Window) -> Result<Counted, Failure> {
    let request = request(address, "Say")?;
    let body = framed(&SayRequest {
        id: 1,
        payload: Bytes::from(vec![7; SIZE]),
        ..SayRequest::default()
    })?;
    let mut counted = Counted::default();
    let mut requests = requests;
    loop {
        let began = Instant::now();
        requests = requests.ready().await?;
        let (response, mut sending) = requests.send_request(request.clone(), false)?;
        sending.send_data(body.clone(), true)?;
        let response: Response<_> = response.await?;
        let (parts, mut stream) = response.into_parts();
        let mut received = 0;
        while let Some(data) = stream.data().await {
            let data = data?;
            stream.flow_control().release_capacity(data.len())?;
            received += data.len();
        }
        check(&stream.trailers().await?.unwrap_or(parts.headers))?;
        if received < SIZE {
            return Err("an answer without its message".into());
        }
        let ended = Instant::now();
        if ended >= window.to {
            return Ok(counted);
        }
        if began >= window.from {
            counted.count += 1;
            counted
                .nanoseconds
                .push(u32::try_from((ended - began).as_nanos()).unwrap_or(u32::MAX));
        }
    }
}

async fn stream(
    address: SocketAddr,
    requests: SendRequest<Bytes>,
    window: Window,
    pause_us: u32,
) -> Result<Counted, Failure> {
    let body = framed(&CountRequest {
        messages: 0,
        size: u32::try_from(SIZE)?,
        pause_us,
    })?;
    let mut requests = requests.ready().await?;
    let (response, mut sending) = requests.send_request(request(address, "Count")?, false)?;
    sending.send_data(body, true)?;
    let mut stream = response.await?.into_body();
    let mut counted = Counted::default();
    let mut buffer = BytesMut::new();
    loop {
        let data = stream.data().await.ok_or("the stream ended")??;
        stream.flow_control().release_capacity(data.len())?;
        let now = Instant::now();
        if now >= window.to {
            return Ok(counted);
        }
        buffer.extend_from_slice(&data);
        while let [_, a, b, c, d, ..] = buffer[..] {
            let length = 5 + usize::try_from(u32::from_be_bytes([a, b, c, d]))?;
            if buffer.len() < length {
                break;
            }
            let _ = buffer.split_to(length);
            counted.count += u64::from(now >= window.from);
        }
    }
}

fn check(trailers: &HeaderMap) -> Result<(), Failure> {
    match trailers.get("grpc-status") {
        Some(status) if status == "0" => Ok(()),
        other => Err(format!("a call failed: {other:?} {:?}", trailers.get("grpc-message")).into()),
    }
}
