//! The way to the cluster: the first instance that answers, and from it to the leader.
//!
//! Whether an instance answers is asked by a call that changes nothing. What changes something is then sent once, there.

use std::time::Duration;

use curator_identity::{ClientCredentials, patiently};
use curator_proto::curator_api::curator_local_client::CuratorLocalClient;
use curator_proto::curator_api::{GetCurrentLeaderRequest, GetCurrentLeaderResponse};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::time::{Instant, sleep, timeout_at};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};

use crate::failure::{Failure, transport};
use crate::settings::{Settings, is_loopback};

/// After so long without an answer from one instance, the next is asked as well.
const NEXT: Duration = Duration::from_millis(300);
/// How often a connection is asked whether it still leads anywhere, and how long it may take to answer.
const ALIVE: Duration = Duration::from_secs(10);
/// The largest answer.
const LARGEST: usize = 64 << 20;

/// A cluster, and how long everything may take.
pub(crate) struct Cluster {
    pub(crate) settings: Settings,
    deadline: Instant,
}

/// An instance that answers.
#[derive(Clone, Debug)]
pub(crate) struct Reached {
    pub(crate) address: String,
    pub(crate) channel: Channel,
    /// What it says of the leader, if it knows one.
    pub(crate) leader: Option<GetCurrentLeaderResponse>,
}

impl Cluster {
    pub(crate) fn new(settings: Settings) -> Self {
        let deadline = deadline_after(settings.timeout);
        Self { settings, deadline }
    }

    /// The deadline of everything that is done once.
    pub(crate) const fn deadline(&self) -> Instant {
        self.deadline
    }

    /// A request that is given up at the deadline, there as well as here.
    pub(crate) fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.set_timeout(self.deadline.saturating_duration_since(Instant::now()));
        request
    }

    /// A channel to an instance. Nothing is dialled yet.
    pub(crate) fn channel(&self, address: &str) -> Result<Channel, Failure> {
        match self.settings.plain {
            true => plain(address),
            false => tls(&self.settings.credentials()?, address),
        }
    }

    /// Makes a call that has a single answer, and waits for it no longer than the deadline. A call that is refused with a time to come
    /// again, of which nothing has run, is made again then.
    pub(crate) async fn call<T>(
        &self,
        reached: &Reached,
        call: impl AsyncFnMut() -> Result<T, Status>,
    ) -> Result<T, Failure> {
        let late = || Status::deadline_exceeded("");
        let answer = timeout_at(self.deadline, patiently(self.deadline, call))
            .await
            .unwrap_or_else(|_| Err(late()));
        answer.map_err(|status| Failure::of_status(&status, &reached.address))
    }

    /// The first instance that answers; one that knows the leader is preferred.
    pub(crate) async fn any(&self) -> Result<Reached, Failure> {
        let mut asked = FuturesUnordered::new();
        for (number, address) in self.settings.endpoints.iter().enumerate() {
            let channel = self.channel(address)?;
            let wait = NEXT * u32::try_from(number).unwrap_or(u32::MAX);
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
            0 | 1 => Err(failures.pop().unwrap_or_else(|| Failure::usage("no instance is named"))),
            count => {
                let each: Vec<_> = failures.iter().map(ToString::to_string).collect();
                Err(Failure::unavailable(format!(
                    "none of the {count} instances answers:\n{}",
                    each.join("\n")
                )))
            }
        }
    }

    /// The leader itself, or else an instance that forwards to it.
    pub(crate) async fn leader(&self) -> Result<Reached, Failure> {
        let any = self.any().await?;
        let Some(address) = any.leader.as_ref().and_then(leader_address) else {
            return Ok(any);
        };
        // What the cluster says of itself does not lead off this host where there is no TLS.
        if address == any.address || (self.settings.plain && !is_loopback(&address)) {
            return Ok(any);
        }
        let channel = self.channel(&address)?;
        // It may be reached by the others alone.
        match timeout_at(self.deadline.min(deadline_after(NEXT * 4)), ask_leader(channel.clone())).await {
            Ok(Ok(leader)) => Ok(Reached {
                address,
                channel,
                leader: Some(leader),
            }),
            _ => Ok(any),
        }
    }
}

/// What has no end of its own ends in a century.
fn deadline_after(time: Duration) -> Instant {
    let now = Instant::now();
    now.checked_add(time)
        .unwrap_or_else(|| now + Duration::from_secs(100 * 365 * 86_400))
}

fn plain(address: &str) -> Result<Channel, Failure> {
    if !is_loopback(address) {
        return Err(Failure::usage(format!(
            "{address} is not on this host: it is not called without TLS"
        )));
    }
    let endpoint = Endpoint::from_shared(format!("http://{address}")).map_err(|_| {
        Failure::usage(format!(
            "{address:?} is no address: give host:port, such as 127.0.0.1:7835"
        ))
    })?;
    let endpoint = endpoint.http2_keep_alive_interval(ALIVE).keep_alive_timeout(ALIVE);
    Ok(endpoint.connect_lazy())
}

pub(crate) fn tls(credentials: &ClientCredentials, address: &str) -> Result<Channel, Failure> {
    credentials
        .channel(address)
        .map_err(|error| Failure::usage(error.to_string()))
}

/// The leader as an instance knows it.
pub(crate) async fn ask_leader(channel: Channel) -> Result<GetCurrentLeaderResponse, Status> {
    let mut local = CuratorLocalClient::new(channel);
    let mut answers = local.get_current_leader(GetCurrentLeaderRequest {}).await?.into_inner();
    let first = answers.message().await?;
    first.ok_or_else(|| Status::unavailable("who leads is not said"))
}

/// Whether a refusal came from an instance, which so is there.
fn answered(status: &Status) -> bool {
    transport(status).is_none() && !matches!(status.code(), Code::DeadlineExceeded | Code::Cancelled | Code::Unknown)
}

/// Where the leader is, as host:port.
pub(crate) fn leader_address(leader: &GetCurrentLeaderResponse) -> Option<String> {
    let host = &leader.leader_host;
    match (host.is_empty(), host.contains(':')) {
        (true, _) => None,
        (false, true) => Some(format!("[{host}]:{}", leader.leader_port)),
        (false, false) => Some(format!("{host}:{}", leader.leader_port)),
    }
}

/// A client that takes large answers.
macro_rules! client {
    ($client:ident, $reached:expr) => {
        $client::new($reached.channel.clone()).max_decoding_message_size($crate::connect::largest())
    };
}
pub(crate) use client;

pub(crate) const fn largest() -> usize {
    LARGEST
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use curator_proto::curator_api::CommitNodeRequest;
    use curator_proto::curator_api::curator_client::CuratorClient;

    use super::*;
    use curator_identity::pushback::full::Full;

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

    /// An instance that has no room, and says when to come again.
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
            match done {
                true => assert!(took >= Duration::from_secs(3) && calls == 3, "{took:?}, {calls} calls"),
                false => assert!(took <= Duration::from_secs(10) && calls < 8, "{took:?}, {calls} calls"),
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
        let failure = cluster.any().await.expect_err("nobody is there");
        let text = failure.to_string();
        for endpoint in endpoints {
            assert!(text.contains(&format!("at: {endpoint}")), "{text}");
        }
        assert!(
            text.contains("none of the 2 instances answers") && text.contains("refused"),
            "{text}"
        );
    }
}
