//! Connecting: to the first instance that responds, and through it to the leader.
//!
//! A read-only call finds an instance that responds. Calls that change something are then sent once, to that instance.

use std::time::Duration;

use curator_identity::{ClientCredentials, with_retries};
use curator_proto::curator_api::curator_local_client::CuratorLocalClient;
use curator_proto::curator_api::{GetCurrentLeaderRequest, GetCurrentLeaderResponse};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::time::{Instant, sleep, timeout_at};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};

use crate::error::{Failure, transport};
use crate::settings::{Settings, is_loopback};

/// How long to wait for an instance before the next one is tried as well.
const HEDGE_DELAY: Duration = Duration::from_millis(300);
/// Interval and timeout of HTTP/2 keep-alive pings.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// Maximum size of a response, in bytes.
const MAX_RESPONSE_BYTES: usize = 64 << 20;

/// A cluster, and the deadline of the command.
pub(crate) struct Cluster {
    pub(crate) settings: Settings,
    deadline: Instant,
}

/// An instance that responds.
#[derive(Clone, Debug)]
pub(crate) struct Reached {
    pub(crate) address: String,
    pub(crate) channel: Channel,
    /// The leader that it reports, if it knows one.
    pub(crate) leader: Option<GetCurrentLeaderResponse>,
}

impl Cluster {
    pub(crate) fn new(settings: Settings) -> Self {
        let deadline = deadline_after(settings.timeout);
        Self { settings, deadline }
    }

    /// The deadline of the command.
    pub(crate) const fn deadline(&self) -> Instant {
        self.deadline
    }

    /// A request whose deadline is also sent to the server.
    pub(crate) fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.set_timeout(self.deadline.saturating_duration_since(Instant::now()));
        request
    }

    /// A channel to an instance. It connects on first use.
    pub(crate) fn channel(&self, address: &str) -> Result<Channel, Failure> {
        if self.settings.plain {
            plain(address)
        } else {
            tls(&self.settings.credentials()?, address)
        }
    }

    /// Makes a unary call within the deadline. A call that is refused with a retry delay has not run, and is retried
    /// after that delay.
    pub(crate) async fn call<T>(
        &self,
        reached: &Reached,
        call: impl AsyncFnMut() -> Result<T, Status>,
    ) -> Result<T, Failure> {
        let late = || Status::deadline_exceeded("");
        let answer = timeout_at(self.deadline, with_retries(self.deadline, call))
            .await
            .unwrap_or_else(|_| Err(late()));
        answer.map_err(|status| Failure::of_status(&status, &reached.address))
    }

    /// The first instance that responds; one that knows the leader is preferred.
    pub(crate) async fn any(&self) -> Result<Reached, Failure> {
        let mut asked = FuturesUnordered::new();
        for (number, address) in self.settings.endpoints.iter().enumerate() {
            let channel = self.channel(address)?;
            let wait = HEDGE_DELAY * u32::try_from(number).unwrap_or(u32::MAX);
            asked.push(async move {
                sleep(wait).await;
                let answer = timeout_at(self.deadline, ask_leader(channel.clone())).await;
                (
                    address.clone(),
                    channel,
                    answer.unwrap_or_else(|_| Err(Status::deadline_exceeded(""))),
                )
            });
        }
        let (mut leaderless, mut failures) = (None, Vec::new());
        while let Some((address, channel, answer)) = asked.next().await {
            match answer {
                Ok(leader) => {
                    return Ok(Reached {
                        address,
                        channel,
                        leader: Some(leader),
                    });
                }
                Err(status) if answered(&status) => {
                    leaderless.get_or_insert(Reached {
                        address,
                        channel,
                        leader: None,
                    });
                }
                Err(status) => failures.push(Failure::of_status(&status, &address)),
            }
        }
        if let Some(reached) = leaderless {
            return Ok(reached);
        }
        match failures.len() {
            0 | 1 => Err(failures.pop().unwrap_or_else(|| Failure::usage("no endpoint given"))),
            count => {
                let each: Vec<_> = failures.iter().map(ToString::to_string).collect();
                Err(Failure::unavailable(format!(
                    "none of the {count} instances responds:\n{}",
                    each.join("\n")
                )))
            }
        }
    }

    /// The leader, or else an instance that forwards to it.
    pub(crate) async fn leader(&self) -> Result<Reached, Failure> {
        let any = self.any().await?;
        let Some(address) = any.leader.as_ref().and_then(leader_address) else {
            return Ok(any);
        };
        // Without TLS, an address that the cluster reports is used only if it is a loopback address.
        if address == any.address || (self.settings.plain && !is_loopback(&address)) {
            return Ok(any);
        }
        let channel = self.channel(&address)?;
        // The leader may be reachable only from the other instances.
        match timeout_at(
            self.deadline.min(deadline_after(HEDGE_DELAY * 4)),
            ask_leader(channel.clone()),
        )
        .await
        {
            Ok(Ok(leader)) => Ok(Reached {
                address,
                channel,
                leader: Some(leader),
            }),
            _ => Ok(any),
        }
    }
}

/// The time after a duration; a century from now if that overflows.
fn deadline_after(time: Duration) -> Instant {
    let now = Instant::now();
    now.checked_add(time)
        .unwrap_or_else(|| now + Duration::from_secs(100 * 365 * 86_400))
}

fn plain(address: &str) -> Result<Channel, Failure> {
    if !is_loopback(address) {
        return Err(Failure::usage(format!(
            "{address} is not a loopback address: TLS is required"
        )));
    }
    let endpoint = Endpoint::from_shared(format!("http://{address}")).map_err(|_| {
        Failure::usage(format!(
            "invalid address {address:?}: expected host:port, such as 127.0.0.1:7835"
        ))
    })?;
    let endpoint = endpoint
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE);
    Ok(endpoint.connect_lazy())
}

pub(crate) fn tls(credentials: &ClientCredentials, address: &str) -> Result<Channel, Failure> {
    credentials
        .channel(address)
        .map_err(|error| Failure::usage(error.to_string()))
}

/// The leader that an instance reports.
pub(crate) async fn ask_leader(channel: Channel) -> Result<GetCurrentLeaderResponse, Status> {
    let mut local = CuratorLocalClient::new(channel);
    let mut answers = local.get_current_leader(GetCurrentLeaderRequest {}).await?.into_inner();
    let first = answers.message().await?;
    first.ok_or_else(|| Status::unavailable("the instance reported no leader"))
}

/// Whether the status came from an instance, and not from a failed connection.
fn answered(status: &Status) -> bool {
    transport(status).is_none() && !matches!(status.code(), Code::DeadlineExceeded | Code::Cancelled | Code::Unknown)
}

/// The address of the leader, as host:port.
pub(crate) fn leader_address(leader: &GetCurrentLeaderResponse) -> Option<String> {
    let host = &leader.leader_host;
    match (host.is_empty(), host.contains(':')) {
        (true, _) => None,
        (false, true) => Some(format!("[{host}]:{}", leader.leader_port)),
        (false, false) => Some(format!("{host}:{}", leader.leader_port)),
    }
}

/// A client that accepts large responses.
macro_rules! client {
    ($client:ident, $reached:expr) => {
        $client::new($reached.channel.clone()).max_decoding_message_size($crate::connect::max_response_bytes())
    };
}
pub(crate) use client;

pub(crate) const fn max_response_bytes() -> usize {
    MAX_RESPONSE_BYTES
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use curator_identity::pushback::full::Full;
    use curator_proto::curator_api::CommitNodeRequest;
    use curator_proto::curator_api::curator_client::CuratorClient;

    use super::*;

    fn cluster(endpoints: Vec<String>, timeout: Duration) -> Cluster {
        Cluster::new(Settings {
            endpoints,
            ca: None,
            members: Vec::new(),
            any_node: false,
            cert: None,
            key: None,
            plain: true,
            timeout,
            output: crate::output::Format::Table,
        })
    }

    /// An instance at its limits, which asks clients to retry.
    #[tokio::test(start_paused = true)]
    async fn a_call_is_made_again_when_it_is_said_and_within_the_timeout() {
        for (refuses, done) in [(2, true), (u32::MAX, false)] {
            let full = Full::new(refuses, "1500");
            let calls = full.calls.clone();
            let reached = Reached {
                address: "full".into(),
                channel: full.serve(),
                leader: None,
            };
            let cluster = cluster(Vec::new(), Duration::from_secs(10));
            let began = Instant::now();
            let mut curator = CuratorClient::new(reached.channel.clone());
            let call = async || curator.commit_node(cluster.request(CommitNodeRequest::default())).await;
            let answer = cluster.call(&reached, call).await;
            assert_eq!(answer.is_ok(), done);
            let (took, calls) = (began.elapsed(), calls.load(Ordering::SeqCst));
            if done {
                assert!(took >= Duration::from_secs(3) && calls == 3, "{took:?}, {calls} calls");
            } else {
                assert!(took <= Duration::from_secs(10) && calls < 8, "{took:?}, {calls} calls");
            }
        }
    }

    #[test]
    fn the_leaders_address_can_be_dialled() {
        let leader = |host: &str| GetCurrentLeaderResponse {
            leader_host: host.into(),
            leader_port: 7835,
            ..Default::default()
        };
        assert_eq!(leader_address(&leader("10.0.0.1")).as_deref(), Some("10.0.0.1:7835"));
        assert_eq!(leader_address(&leader("::1")).as_deref(), Some("[::1]:7835"));
        assert_eq!(leader_address(&leader("")), None);
    }

    #[tokio::test]
    async fn nobody_who_answers_is_told_with_each_reason() {
        let taken: Vec<_> = (0..2)
            .map(|_| std::net::TcpListener::bind("127.0.0.1:0").expect("a port"))
            .collect();
        let endpoints: Vec<_> = taken
            .iter()
            .map(|socket| socket.local_addr().expect("bound").to_string())
            .collect();
        // From here on connections are refused.
        drop(taken);
        let cluster = cluster(endpoints.clone(), Duration::from_secs(5));
        let failure = cluster.any().await.expect_err("no instance listens");
        let text = failure.to_string();
        for endpoint in endpoints {
            assert!(text.contains(&format!("at: {endpoint}")), "{text}");
        }
        assert!(
            text.contains("none of the 2 instances responds") && text.contains("refused"),
            "{text}"
        );
    }
}
