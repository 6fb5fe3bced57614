//! Calls through every instance at all times, and what must be true of them whatever happens.
//!
//! The client speaks HTTP/2 without a timer of its own, so that a call that outlasts its deadline is seen to.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::{BufMut, Bytes, BytesMut};
use curator_echo::proto::{CountRequest, SayRequest, SayResponse};
use curator_harness::timeline::{Second, code_name};
use h2::RecvStream;
use h2::client::SendRequest;
use http::{HeaderMap, Request};
use prost::Message;
use tokio::net::TcpStream;
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinSet;

/// What each call allows.
pub(crate) const DEADLINE: Duration = Duration::from_secs(4);
/// No call may be answered later than this after its deadline; twice of what is promised, for a machine that is busy.
const LATE: Duration = Duration::from_millis(200);
/// Callers of each instance.
const CALLERS: usize = 4;
/// Streams through each instance.
const STREAMS: usize = 2;
/// Between two calls of a caller.
const PAUSE: Duration = Duration::from_millis(4);
/// Before a caller that was refused tries again.
const AGAIN: Duration = Duration::from_millis(20);

/// One call and what became of it.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) id: u64,
    /// Which instance it went to.
    pub(crate) via: usize,
    pub(crate) began: Instant,
    pub(crate) ended: Instant,
    pub(crate) outcome: Outcome,
}

/// How a call ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Answered in this term.
    Answered { term: i64 },
    /// Ended with this gRPC code and message.
    Refused { code: u32, message: String },
    /// The instance that was called was not there, or went away.
    NoInstance(String),
}

impl Call {
    pub(crate) fn is_answered(&self) -> bool {
        matches!(self.outcome, Outcome::Answered { .. })
    }
}

/// A load that is running. Dropping it stops it.
pub(crate) struct Load {
    runtime: Runtime,
    shared: Arc<Shared>,
    tasks: JoinSet<()>,
}

struct Shared {
    next: AtomicU64,
    stop: AtomicBool,
    calls: Mutex<Vec<Call>>,
    /// Each message of a stream: through which instance, when, and in which term.
    messages: Mutex<Vec<(usize, Instant, i64)>>,
    /// How streams ended.
    ends: Mutex<HashMap<String, u64>>,
}

impl Load {
    /// Begins to call all of these.
    pub(crate) fn start(instances: &[SocketAddr]) -> Self {
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let shared = Arc::new(Shared {
            next: AtomicU64::new(1),
            stop: AtomicBool::new(false),
            calls: Mutex::default(),
            messages: Mutex::default(),
            ends: Mutex::default(),
        });
        let mut tasks = JoinSet::new();
        for (via, address) in instances.iter().copied().enumerate() {
            for _ in 0..CALLERS {
                tasks.spawn_on(call(via, address, shared.clone()), runtime.handle());
            }
            for _ in 0..STREAMS {
                tasks.spawn_on(stream(via, address, shared.clone()), runtime.handle());
            }
        }
        Self { runtime, shared, tasks }
    }

    /// Waits until calls through all of these instances are answered that began after now.
    pub(crate) fn wait_answered(&self, via: &[usize], within: Duration) {
        let from = Instant::now();
        curator_harness::wait_until("calls through all instances to be answered", within, || {
            let calls = self.shared.calls.lock().unwrap();
            via.iter()
                .all(|via| {
                    calls
                        .iter()
                        .rev()
                        .take_while(|call| call.ended > from)
                        .any(|call| call.via == *via && call.began > from && call.is_answered())
                })
                .then_some(())
        })
        .unwrap_or_else(|error| {
            let calls = self.shared.calls.lock().unwrap();
            panic!(
                "{}: {:?}",
                error.chain(),
                calls.iter().rev().take(6).collect::<Vec<_>>()
            )
        });
    }

    /// Stops it, and says what happened.
    pub(crate) fn stop(mut self) -> History {
        self.shared.stop.store(true, Ordering::Relaxed);
        let last = self.runtime.block_on(async {
            tokio::time::timeout(DEADLINE + Duration::from_secs(5), async {
                while let Some(ended) = self.tasks.join_next().await {
                    ended.unwrap();
                }
            })
            .await
        });
        last.expect("all calls end by their deadline");
        History {
            calls: std::mem::take(&mut self.shared.calls.lock().unwrap()),
            messages: std::mem::take(&mut self.shared.messages.lock().unwrap()),
            ends: std::mem::take(&mut self.shared.ends.lock().unwrap()),
        }
    }
}

async fn call(via: usize, address: SocketAddr, shared: Arc<Shared>) {
    let mut connection = None;
    while !shared.stop.load(Ordering::Relaxed) {
        let id = shared.next.fetch_add(1, Ordering::Relaxed);
        let request = SayRequest {
            id,
            // Most are short, and some are still running when something happens.
            delay_ms: if id.is_multiple_of(8) { 30 } else { 0 },
            ..SayRequest::default()
        };
        let began = Instant::now();
        let outcome = say(&mut connection, address, request).await;
        let answered = matches!(outcome, Outcome::Answered { .. });
        if matches!(outcome, Outcome::NoInstance(_)) {
            connection = None;
        }
        shared.calls.lock().unwrap().push(Call {
            id,
            via,
            began,
            ended: Instant::now(),
            outcome,
        });
        tokio::time::sleep(if answered { PAUSE } else { AGAIN }).await;
    }
}

async fn say(connection: &mut Option<SendRequest<Bytes>>, address: SocketAddr, request: SayRequest) -> Outcome {
    let id = request.id;
    let answer = async {
        let response = send(connection, address, "Say", &request).await?;
        read(response).await
    };
    // A backstop that a call which hangs runs into; such a call fails the check.
    match tokio::time::timeout(DEADLINE + Duration::from_secs(3), answer).await {
        Ok(Ok((trailers, body))) => match code(&trailers) {
            Some(0) => match SayResponse::decode(body.get(5..).unwrap_or_default()) {
                Ok(answer) if answer.id == id => Outcome::Answered { term: answer.term },
                other => panic!("call {id} got a wrong answer: {other:?}"),
            },
            Some(code) => Outcome::Refused {
                code,
                message: message(&trailers),
            },
            None => Outcome::NoInstance("no status".into()),
        },
        Ok(Err(error)) => Outcome::NoInstance(error.to_string()),
        Err(_) => Outcome::NoInstance("nothing came".into()),
    }
}

async fn stream(via: usize, address: SocketAddr, shared: Arc<Shared>) {
    let mut connection = None;
    while !shared.stop.load(Ordering::Relaxed) {
        let request = CountRequest {
            messages: 0,
            size: 10,
            pause_us: 20_000,
        };
        let end = match send(&mut connection, address, "Count", &request).await {
            Err(error) => format!("instance: {error}"),
            Ok(response) => match follow(response, via, &shared).await {
                Ok(Some(trailers)) => format!("code {}: {}", code(&trailers).unwrap_or(99), message(&trailers)),
                Ok(None) => "stopped".into(),
                Err(error) => format!("instance: {error}"),
            },
        };
        if end.starts_with("instance") {
            connection = None;
        }
        *shared.ends.lock().unwrap().entry(end).or_default() += 1;
        tokio::time::sleep(AGAIN).await;
    }
}

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Reads messages until the end or the stop.
async fn follow(
    response: http::Response<RecvStream>,
    via: usize,
    shared: &Shared,
) -> Result<Option<HeaderMap>, Failure> {
    let (parts, mut stream) = response.into_parts();
    if parts.headers.contains_key("grpc-status") {
        return Ok(Some(parts.headers));
    }
    let mut buffer = BytesMut::new();
    loop {
        if shared.stop.load(Ordering::Relaxed) {
            return Ok(None);
        }
        let Ok(data) = tokio::time::timeout(Duration::from_millis(100), stream.data()).await else {
            continue;
        };
        let Some(data) = data else { break };
        let data = data?;
        stream.flow_control().release_capacity(data.len())?;
        buffer.extend_from_slice(&data);
        while buffer.len() >= 5 {
            let length = u32::from_be_bytes([buffer[1], buffer[2], buffer[3], buffer[4]]) as usize;
            if buffer.len() < 5 + length {
                break;
            }
            let message = buffer.split_to(5 + length);
            let message = SayResponse::decode(&message[5..])?;
            shared
                .messages
                .lock()
                .unwrap()
                .push((via, Instant::now(), message.term));
        }
    }
    Ok(Some(stream.trailers().await?.unwrap_or_default()))
}

async fn send(
    connection: &mut Option<SendRequest<Bytes>>,
    address: SocketAddr,
    method: &str,
    message: &impl Message,
) -> Result<http::Response<RecvStream>, Failure> {
    let mut requests = match connection {
        Some(open) => open.clone(),
        None => {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            let (requests, driver) = h2::client::handshake(stream).await?;
            // Ends with its last handle.
            tokio::spawn(driver);
            connection.insert(requests).clone()
        }
    };
    requests = requests.ready().await?;
    let request = Request::post(format!("http://{address}/curator.echo.v1.Echo/{method}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    // Streams have no deadline.
    let request = match method {
        "Say" => request.header("grpc-timeout", format!("{}m", DEADLINE.as_millis())),
        _ => request,
    };
    let (response, mut body) = requests.send_request(request.body(())?, false)?;
    let mut bytes = BytesMut::new();
    bytes.put_u8(0);
    bytes.put_u32(u32::try_from(message.encoded_len())?);
    message.encode(&mut bytes)?;
    body.send_data(bytes.freeze(), true)?;
    Ok(response.await?)
}

async fn read(response: http::Response<RecvStream>) -> Result<(HeaderMap, BytesMut), Failure> {
    let (parts, mut stream) = response.into_parts();
    let mut body = BytesMut::new();
    while let Some(data) = stream.data().await {
        let data = data?;
        stream.flow_control().release_capacity(data.len())?;
        body.extend_from_slice(&data);
    }
    let trailers = stream.trailers().await?.unwrap_or(parts.headers);
    Ok((trailers, body))
}

fn code(headers: &HeaderMap) -> Option<u32> {
    headers.get("grpc-status")?.to_str().ok()?.parse().ok()
}

fn message(headers: &HeaderMap) -> String {
    let message = headers.get("grpc-message").and_then(|message| message.to_str().ok());
    message.unwrap_or_default().replace("%20", " ").replace("%3B", ";")
}

/// All that happened.
pub(crate) struct History {
    pub(crate) calls: Vec<Call>,
    messages: Vec<(usize, Instant, i64)>,
    ends: HashMap<String, u64>,
}

impl History {
    /// What must hold whatever happened: no call outlasts its deadline, none ran twice, each that was answered ran in
    /// the term that it was answered in, and none was answered in a term after a later term had answered.
    pub(crate) fn check(&self, record: &Path) {
        let answered = self.calls.iter().filter(|call| call.is_answered()).count();
        println!(
            "{} calls, {answered} answered, {} messages",
            self.calls.len(),
            self.messages.len()
        );
        let mut refusals: HashMap<String, u64> = HashMap::new();
        for call in &self.calls {
            match &call.outcome {
                Outcome::Answered { .. } => {}
                Outcome::Refused { code, message } => {
                    *refusals.entry(format!("code {code}: {message}")).or_default() += 1;
                }
                Outcome::NoInstance(why) => *refusals.entry(format!("instance: {why}")).or_default() += 1,
            }
        }
        for (what, counts) in [("calls", &refusals), ("streams", &self.ends)] {
            let mut counts: Vec<_> = counts.iter().collect();
            counts.sort();
            for (end, count) in counts {
                println!("  {count} {what} ended: {end}");
            }
        }
        assert!(answered > 100, "that is no load");
        assert!(self.messages.len() > 20, "the streams carry something");
        for call in &self.calls {
            let took = call.ended - call.began;
            assert!(took <= DEADLINE + LATE, "outlasted its deadline: {took:?} {call:?}");
            if let Outcome::Refused { code, .. } = &call.outcome {
                assert!(matches!(code, 4 | 14), "only these two are honest: {call:?}");
            }
        }
        for end in self.ends.keys() {
            let honest = end.starts_with("code 14") || end.starts_with("instance") || end == "stopped";
            assert!(honest, "a stream ended with {end:?}");
        }
        self.check_record(record);
        self.check_terms();
    }

    fn check_record(&self, record: &Path) {
        let text = std::fs::read_to_string(record).unwrap();
        let mut ran: HashMap<u64, Vec<i64>> = HashMap::new();
        for line in text.lines() {
            let (id, term) = line.split_once(' ').unwrap_or_else(|| panic!("a torn line: {line:?}"));
            ran.entry(id.parse().unwrap()).or_default().push(term.parse().unwrap());
        }
        for (id, terms) in &ran {
            assert_eq!(terms.len(), 1, "call {id} ran in {terms:?}");
        }
        for call in &self.calls {
            if let Outcome::Answered { term } = call.outcome {
                assert_eq!(ran.get(&call.id), Some(&vec![term]), "{call:?}");
            }
        }
    }

    /// In the order of time terms only go up: an answer of an old leader after one of a new leader is one of an ended
    /// term.
    fn check_terms(&self) {
        let mut ends: Vec<(Instant, i64)> = self
            .calls
            .iter()
            .filter_map(|call| answer(call).map(|term| (call.ended, term)))
            .collect();
        ends.sort();
        // The latest term that had answered by then.
        let mut latest = i64::MIN;
        let by: Vec<(Instant, i64)> = ends
            .into_iter()
            .map(|(at, term)| {
                latest = latest.max(term);
                (at, latest)
            })
            .collect();
        for call in &self.calls {
            let Some(term) = answer(call) else { continue };
            let before = by.partition_point(|(at, _)| *at < call.began);
            if before > 0 {
                let newest = by[before - 1].1;
                assert!(
                    term >= newest,
                    "answered in term {term} after term {newest} had answered: {call:?}"
                );
            }
        }
    }

    /// The calls that went through one of these instances in this time and were not answered.
    pub(crate) fn failed(&self, via: &[usize], from: Instant, to: Instant) -> Vec<&Call> {
        let within = |call: &&Call| via.contains(&call.via) && call.ended > from && call.began < to;
        self.calls
            .iter()
            .filter(within)
            .filter(|call| !call.is_answered())
            .collect()
    }

    /// The calls by the second in which they ended, from then on.
    pub(crate) fn by_second(&self, from: Instant) -> Vec<Second> {
        let mut seconds: Vec<Vec<Result<u64, String>>> = Vec::new();
        for call in self.calls.iter().filter(|call| call.ended > from) {
            let at = usize::try_from((call.ended - from).as_secs()).unwrap();
            if seconds.len() <= at {
                seconds.resize(at + 1, Vec::new());
            }
            seconds[at].push(match &call.outcome {
                Outcome::Answered { .. } => Ok(u64::try_from((call.ended - call.began).as_micros()).unwrap()),
                Outcome::Refused { code, .. } => Err(code_name(*code)),
                Outcome::NoInstance(_) => Err("no connection".into()),
            });
        }
        seconds.iter().map(|calls| Second::of(calls)).collect()
    }

    /// The longest time between then and then in which no call through one of these instances was answered.
    pub(crate) fn longest_gap(&self, via: &[usize], from: Instant, to: Instant) -> Duration {
        let mut longest = Duration::ZERO;
        for via in via {
            let mut answers: Vec<Instant> = self
                .calls
                .iter()
                .filter(|call| call.via == *via && call.is_answered() && call.ended > from && call.ended < to)
                .map(|call| call.ended)
                .collect();
            answers.sort();
            let mut last = from;
            for at in answers {
                longest = longest.max(at - last);
                last = at;
            }
        }
        longest
    }
}

fn answer(call: &Call) -> Option<i64> {
    match call.outcome {
        Outcome::Answered { term } => Some(term),
        _ => None,
    }
}
