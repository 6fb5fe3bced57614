//! Loads the `Echo` service at an address, and says in one line of JSON how fast it was.
//!
//! One thread, and HTTP/2 without anything around it, so that little of the machine goes to the load itself.

use std::error::Error;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use curator_echo::proto::{CountRequest, SayRequest};
use curator_echo::tls::{self, Party};
use h2::client::SendRequest;
use http::{HeaderMap, HeaderValue, Request, Response};
use prost::Message;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;

const USAGE: &str = "usage: echo-load ADDRESS WORKLOAD IN_FLIGHT CONNECTIONS SECONDS [CERTIFICATES]
       echo-load certificates DIRECTORY

Calls `curator.echo.v1.Echo` at the address with messages of 100 bytes:
  unary   IN_FLIGHT calls of Say at a time
  stream  IN_FLIGHT streams of Count, as fast as they come
  paced   IN_FLIGHT streams of Count with a message every 2 ms each
  each    IN_FLIGHT calls of Say at a time, each on a connection of its own
  connect IN_FLIGHT connections at a time, until the server has spoken HTTP/2 on each, and no call
With a directory of certificates all connections are TLS 1.3; the second form makes one.
A quarter of the time more is spent before it counts.";
/// The payload of each message.
const SIZE: usize = 100;

type Failure = Box<dyn Error + Send + Sync>;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if let [word, directory] = &words[..]
        && word == "certificates"
    {
        return match tls::write(Path::new(directory)) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("error: {error}");
                ExitCode::FAILURE
            }
        };
    }
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

#[derive(Clone)]
struct Plan {
    address: SocketAddr,
    workload: Workload,
    in_flight: usize,
    connections: usize,
    counted: Duration,
    certificates: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Workload {
    Unary,
    Stream,
    Paced,
    Each,
    Connect,
}

impl Plan {
    fn read(words: &[String]) -> Option<Self> {
        let [address, workload, in_flight, connections, seconds, certificates @ ..] = words else {
            return None;
        };
        if certificates.len() > 1 {
            return None;
        }
        let positive = |word: &String| word.parse().ok().filter(|number| *number > 0);
        Some(Self {
            address: address.parse().ok()?,
            workload: match workload.as_str() {
                "unary" => Workload::Unary,
                "stream" => Workload::Stream,
                "paced" => Workload::Paced,
                "each" => Workload::Each,
                "connect" => Workload::Connect,
                _ => return None,
            },
            in_flight: positive(in_flight)?,
            connections: positive(connections)?,
            counted: Duration::try_from_secs_f64(seconds.parse().ok()?).ok()?,
            certificates: certificates.first().map(PathBuf::from),
        })
    }
}

/// When to count.
#[derive(Clone, Copy)]
struct Window {
    from: Instant,
    to: Instant,
}

/// How connections are made.
#[derive(Clone)]
struct Way {
    address: SocketAddr,
    tls: Option<TlsConnector>,
}

trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

impl Way {
    fn new(plan: &Plan) -> Result<Self, Failure> {
        let tls = match &plan.certificates {
            Some(directory) => Some(Party::read(directory, tls::CLIENT)?.client()?),
            None => None,
        };
        Ok(Self {
            address: plan.address,
            tls: tls.map(TlsConnector::from),
        })
    }

    async fn tcp(&self) -> Result<TcpStream, Failure> {
        let stream = TcpStream::connect(self.address).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    async fn shaken(&self, stream: TcpStream) -> Result<Box<dyn Io>, Failure> {
        Ok(match &self.tls {
            Some(tls) => Box::new(tls.connect(tls::server_name()?, stream).await?),
            None => Box::new(stream),
        })
    }

    async fn open(&self, drivers: &mut JoinSet<()>) -> Result<SendRequest<Bytes>, Failure> {
        async fn speak(io: impl Io + 'static, drivers: &mut JoinSet<()>) -> Result<SendRequest<Bytes>, Failure> {
            let (requests, connection) = h2::client::Builder::new()
                .initial_window_size(1 << 20)
                .initial_connection_window_size(64 << 20)
                .handshake::<_, Bytes>(io)
                .await?;
            drivers.spawn(async move {
                let _ = connection.await;
            });
            Ok(requests)
        }
        let stream = self.tcp().await?;
        match &self.tls {
            Some(tls) => speak(tls.connect(tls::server_name()?, stream).await?, drivers).await,
            None => speak(stream, drivers).await,
        }
    }
}

async fn run(plan: Plan) -> Result<String, Failure> {
    let way = Arc::new(Way::new(&plan)?);
    let mut open = Vec::new();
    let mut drivers = JoinSet::new();
    for _ in 0..plan.connections {
        open.push(way.open(&mut drivers).await?);
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
            Workload::Each => callers.spawn(each(way.clone(), window)),
            Workload::Connect => callers.spawn(connect(way.clone(), window)),
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

impl Counted {
    /// Counts one, if it is within the window; whether the window is over.
    fn add(&mut self, window: Window, began: Instant) -> bool {
        let ended = Instant::now();
        if ended >= window.to {
            return true;
        }
        if began >= window.from {
            self.count += 1;
            self.nanoseconds
                .push(u32::try_from((ended - began).as_nanos()).unwrap_or(u32::MAX));
        }
        false
    }
}

fn say() -> Result<Bytes, Failure> {
    framed(&SayRequest {
        id: 1,
        payload: Bytes::from(vec![7; SIZE]),
        ..SayRequest::default()
    })
}

/// One call of `Say`.
async fn call(requests: &mut SendRequest<Bytes>, request: &Request<()>, body: &Bytes) -> Result<(), Failure> {
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
        Err("an answer without its message".into())
    } else {
        Ok(())
    }
}

async fn unary(address: SocketAddr, requests: SendRequest<Bytes>, window: Window) -> Result<Counted, Failure> {
    let (request, body) = (request(address, "Say")?, say()?);
    let mut counted = Counted::default();
    let mut requests = requests;
    loop {
        let began = Instant::now();
        requests = requests.ready().await?;
        call(&mut requests, &request, &body).await?;
        if counted.add(window, began) {
            return Ok(counted);
        }
    }
}

/// Calls on a connection each.
async fn each(way: Arc<Way>, window: Window) -> Result<Counted, Failure> {
    let (request, body) = (request(way.address, "Say")?, say()?);
    let mut counted = Counted::default();
    loop {
        let began = Instant::now();
        let mut drivers = JoinSet::new();
        let mut requests = way.open(&mut drivers).await?.ready().await?;
        call(&mut requests, &request, &body).await?;
        drop(requests);
        if counted.add(window, began) {
            return Ok(counted);
        }
        // Ends by itself once nobody calls any more, with an ordinary farewell.
        while drivers.join_next().await.is_some() {}
    }
}

/// Connections without a call, up to the first that the server says in HTTP/2: then it has seen all of the handshake.
async fn connect(way: Arc<Way>, window: Window) -> Result<Counted, Failure> {
    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    let mut counted = Counted::default();
    loop {
        let began = Instant::now();
        let stream = way.tcp().await?;
        // The ports of connections that this side closes would be taken for a minute.
        stream.set_zero_linger()?;
        let mut io = way.shaken(stream).await?;
        tokio::io::AsyncWriteExt::write_all(&mut io, PREFACE).await?;
        let mut head = [0; 9];
        io.read_exact(&mut head).await?;
        if counted.add(window, began) {
            return Ok(counted);
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
