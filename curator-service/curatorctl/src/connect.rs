//! Connecting: to the first instance that responds, and through it to the leader.
//!
//! A read-only call finds an instance that responds. Calls that change something are then sent to that instance alone.

use std::time::Duration;

use curator_client::{CallError, Client, ClientCredentials, FindError, Instance, Security, SetupError};
use tokio::time::Instant;
use tonic::transport::Channel;
use tonic::{Request, Status};

use crate::error::Failure;
use crate::settings::Settings;

/// Maximum size of a response, in bytes.
const MAX_RESPONSE_BYTES: usize = 64 << 20;

/// A cluster, and the deadline of the command.
pub(crate) struct Cluster {
    pub(crate) settings: Settings,
    deadline: Instant,
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

    /// A client of the instances that the settings name.
    pub(crate) fn client(&self) -> Result<Client, Failure> {
        let security = if self.settings.plain {
            Security::PlaintextOnLoopback
        } else {
            Security::Tls(self.settings.credentials()?)
        };
        Ok(Client::new(self.settings.endpoints.iter().cloned(), security)?)
    }

    /// A channel to an instance. It connects on first use.
    pub(crate) fn channel(&self, address: &str) -> Result<Channel, Failure> {
        Ok(self.client()?.channel(address)?)
    }

    /// Makes a unary call within the deadline. A call that is refused with a retry delay has not run, and is retried
    /// after that delay.
    pub(crate) async fn call<T>(
        &self,
        instance: &Instance,
        call: impl AsyncFnMut() -> Result<T, Status>,
    ) -> Result<T, Failure> {
        Ok(instance.call(self.deadline, call).await?)
    }

    /// The first instance that responds; one that knows the leader is preferred.
    pub(crate) async fn any(&self) -> Result<Instance, Failure> {
        Ok(self.client()?.any(self.deadline).await?)
    }

    /// The leader, or else an instance that forwards to it.
    pub(crate) async fn leader(&self) -> Result<Instance, Failure> {
        Ok(self.client()?.leader(self.deadline).await?)
    }
}

impl From<SetupError> for Failure {
    fn from(error: SetupError) -> Self {
        Self::usage(error.to_string())
    }
}

impl From<FindError> for Failure {
    fn from(error: FindError) -> Self {
        let failures = match error {
            FindError::NoResponse(failures) => failures,
            FindError::Setup(error) => return error.into(),
            error => return Self::unavailable(error.to_string()),
        };
        let mut failures: Vec<_> = failures
            .iter()
            .map(|(address, status)| Self::of_status(status, address))
            .collect();
        match failures.len() {
            0 | 1 => failures.pop().unwrap_or_else(|| Self::usage("no endpoint given")),
            count => {
                let each: Vec<_> = failures.iter().map(ToString::to_string).collect();
                Self::unavailable(format!("none of the {count} instances responds:\n{}", each.join("\n")))
            }
        }
    }
}

impl From<CallError> for Failure {
    fn from(error: CallError) -> Self {
        match error {
            CallError::Find(error) => error.into(),
            CallError::Failed { address, status } => Self::of_status(&status, &address),
            error => Self::failed(error.to_string()),
        }
    }
}

/// The time after a duration; a century from now if that overflows.
fn deadline_after(time: Duration) -> Instant {
    let now = Instant::now();
    now.checked_add(time)
        .unwrap_or_else(|| now + Duration::from_secs(100 * 365 * 86_400))
}

pub(crate) fn tls(credentials: &ClientCredentials, address: &str) -> Result<Channel, Failure> {
    credentials
        .channel(address)
        .map_err(|error| Failure::usage(error.to_string()))
}

/// A client that accepts large responses.
macro_rules! client {
    ($client:ident, $instance:expr) => {
        $client::new($instance.channel()).max_decoding_message_size($crate::connect::max_response_bytes())
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
            let instance = Instance::new("full".into(), full.serve(), None);
            let cluster = cluster(Vec::new(), Duration::from_secs(10));
            let began = Instant::now();
            let mut curator = CuratorClient::new(instance.channel());
            let call = async || curator.commit_node(cluster.request(CommitNodeRequest::default())).await;
            let answer = cluster.call(&instance, call).await;
            assert_eq!(answer.is_ok(), done);
            let (took, calls) = (began.elapsed(), calls.load(Ordering::SeqCst));
            if done {
                assert!(took >= Duration::from_secs(3) && calls == 3, "{took:?}, {calls} calls");
            } else {
                assert!(took <= Duration::from_secs(10) && calls < 8, "{took:?}, {calls} calls");
            }
        }
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
