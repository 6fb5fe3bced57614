//! Calls `Echo` at some addresses all the time, and says each second how that went, in a line of JSON for each.

use std::error::Error;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use curator_echo::proto::SayRequest;
use curator_echo::proto::echo_client::EchoClient;
use tokio::task::JoinSet;
use tokio::time::{Instant, interval_at};
use tonic::Request;
use tonic::transport::Endpoint;

const USAGE: &str = "usage: echo-calls ADDRESS...";
/// Between two calls of one address.
const PAUSE: Duration = Duration::from_millis(20);
/// How long a call may take.
const DEADLINE: Duration = Duration::from_secs(5);
/// How often to say something.
const SECOND: Duration = Duration::from_secs(1);

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let addresses: Result<Vec<SocketAddr>, _> = std::env::args().skip(1).map(|word| word.parse()).collect();
    let addresses = match addresses {
        Ok(addresses) if !addresses.is_empty() => addresses,
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    let mut calling = JoinSet::new();
    for address in addresses {
        calling.spawn(call(address));
    }
    match calling.join_next().await {
        Some(Ok(Err(error))) => eprintln!("error: {error}"),
        Some(Err(error)) => eprintln!("error: {error}"),
        Some(Ok(Ok(()))) | None => {}
    }
    ExitCode::FAILURE
}

/// How the calls of a second went.
#[derive(Default)]
struct Second {
    answered: u32,
    failed: u32,
    by: String,
    slowest: Duration,
    /// The longest time from one answer to the next, if that came in this second.
    gap: Duration,
    why: String,
}

async fn call(address: SocketAddr) -> Result<(), Box<dyn Error + Send + Sync>> {
    let channel = Endpoint::from_shared(format!("http://{address}"))?
        .connect_timeout(SECOND)
        .connect_lazy();
    let client = EchoClient::new(channel);
    let mut seconds = interval_at(Instant::now() + SECOND, SECOND);
    let (mut second, mut id) = (Second::default(), 0_u64);
    let mut last = None;
    loop {
        let mut calls = client.clone();
        let one = async move {
            tokio::time::sleep(PAUSE).await;
            let mut request = Request::new(SayRequest {
                id,
                ..SayRequest::default()
            });
            request.set_timeout(DEADLINE);
            let began = Instant::now();
            (calls.say(request).await, began.elapsed())
        };
        let mut one = std::pin::pin!(one);
        let (answer, took) = loop {
            tokio::select! {
                done = &mut one => break done,
                _ = seconds.tick() => tell(address, std::mem::take(&mut second)),
            }
        };
        id += 1;
        second.slowest = second.slowest.max(took);
        match answer {
            Ok(answer) => {
                second.answered += 1;
                let now = Instant::now();
                second.gap = second
                    .gap
                    .max(last.replace(now).map_or(Duration::ZERO, |last| now - last));
                second.by = answer.into_inner().node;
            }
            Err(status) => {
                second.failed += 1;
                second.why = format!("{:?}: {}", status.code(), status.message());
            }
        }
    }
}

fn tell(address: SocketAddr, second: Second) {
    let Second {
        answered,
        failed,
        by,
        slowest,
        gap,
        why,
    } = second;
    println!(
        "{{\"to\":\"{address}\",\"answered\":{answered},\"failed\":{failed},\"by\":{by:?},\"slowest_ms\":{},\"gap_ms\":{},\"why\":{why:?}}}",
        slowest.as_millis(),
        gap.as_millis()
    );
}
