//! The addresses of the instances, and channels to them.

use std::net::IpAddr;
use std::time::Duration;

use curator_identity::{ClientCredentials, ClientError};
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use tokio::time::{Instant, sleep, timeout_at};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use crate::error::{FindError, SetupError};
use crate::instance::{Instance, Reports, ask_leader};
use crate::retry::connection_error;

/// How long to wait for an instance before the next one is tried as well.
const HEDGE_DELAY: Duration = Duration::from_millis(300);
/// How long the leader may take to respond before another instance is used.
const LEADER_TIMEOUT: Duration = Duration::from_millis(1_200);
/// Interval and timeout of HTTP/2 keep-alive pings.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// Timeout of a connection attempt without TLS.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How connections are secured.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Security {
    /// TLS with these credentials.
    Tls(ClientCredentials),
    /// No TLS, to loopback addresses only. Calls are unauthenticated.
    PlaintextOnLoopback,
}

/// The addresses of the instances.
#[derive(Clone, Debug)]
pub(crate) struct Endpoints {
    addresses: Vec<String>,
    security: Security,
}

impl Endpoints {
    pub(crate) fn new(addresses: Vec<String>, security: Security) -> Result<Self, SetupError> {
        if addresses.is_empty() {
            return Err(SetupError::NoAddress);
        }
        let endpoints = Self { addresses, security };
        for address in &endpoints.addresses {
            endpoints.check(address)?;
        }
        Ok(endpoints)
    }

    pub(crate) fn addresses(&self) -> &[String] {
        &self.addresses
    }

    /// Whether an address can be used at all.
    fn check(&self, address: &str) -> Result<(), SetupError> {
        match self.security {
            Security::Tls(_) => {
                let (_, port) = address.rsplit_once(':').ok_or_else(|| invalid(address))?;
                port.parse::<u16>().map(drop).map_err(|_| invalid(address))
            }
            Security::PlaintextOnLoopback => plaintext(address).map(drop),
        }
    }

    /// A channel to an instance. It connects on first use and reconnects as needed.
    pub(crate) fn channel(&self, address: &str) -> Result<Channel, SetupError> {
        match &self.security {
            Security::Tls(credentials) => Ok(credentials.channel(address)?),
            Security::PlaintextOnLoopback => Ok(plaintext(address)?.connect_lazy()),
        }
    }

    /// The first instance that responds; one that knows the leader is preferred.
    pub(crate) async fn any(&self, deadline: Instant) -> Result<(Instance, Option<Reports>), FindError> {
        let mut asked = FuturesUnordered::new();
        for (number, address) in self.addresses.iter().enumerate() {
            let channel = self.channel(address)?;
            let wait = HEDGE_DELAY.saturating_mul(u32::try_from(number).unwrap_or(u32::MAX));
            asked.push(async move {
                sleep(wait).await;
                let answer = timeout_at(deadline, ask_leader(channel.clone())).await;
                (address, channel, answer.unwrap_or_else(|_| Err(timed_out())))
            });
        }
        let (mut leaderless, mut failures) = (None, Vec::new());
        while let Some((address, channel, answer)) = asked.next().await {
            match answer {
                Ok((leader, reports)) => {
                    let instance = Instance::new(address.clone(), channel, Some(leader));
                    return Ok((instance, Some(reports)));
                }
                Err(status) if is_answered(&status) => {
                    leaderless.get_or_insert_with(|| Instance::new(address.clone(), channel, None));
                }
                Err(status) => failures.push((address.clone(), status)),
            }
        }
        leaderless
            .map(|instance| (instance, None))
            .ok_or(FindError::NoResponse(failures))
    }

    /// The leader, or else an instance that forwards to it.
    pub(crate) async fn leader(&self, deadline: Instant) -> Result<(Instance, Option<Reports>), FindError> {
        let (any, reports) = self.any(deadline).await?;
        let Some(address) = any.leader().and_then(|leader| leader.address.clone()) else {
            return Ok((any, reports));
        };
        // Without TLS, an address that the cluster reports is used only if it is a loopback address.
        if address == any.address() || self.check(&address).is_err() {
            return Ok((any, reports));
        }
        let channel = self.channel(&address)?;
        // The leader may be reachable only from the other instances.
        let until = deadline.min(Instant::now() + LEADER_TIMEOUT);
        match timeout_at(until, ask_leader(channel.clone())).await {
            Ok(Ok((leader, reports))) => Ok((Instance::new(address, channel, Some(leader)), Some(reports))),
            _ => Ok((any, reports)),
        }
    }
}

/// Whether the status came from an instance, and not from a failed connection.
fn is_answered(status: &Status) -> bool {
    let is_late = matches!(status.code(), Code::DeadlineExceeded | Code::Cancelled | Code::Unknown);
    connection_error(status).is_none() && !is_late
}

pub(crate) fn timed_out() -> Status {
    Status::deadline_exceeded("timed out")
}

fn invalid(address: &str) -> SetupError {
    let address = address.to_owned();
    ClientError::Address { address }.into()
}

fn plaintext(address: &str) -> Result<Endpoint, SetupError> {
    if !is_loopback(address) {
        let address = address.to_owned();
        return Err(SetupError::NotLoopback { address });
    }
    let endpoint = Endpoint::from_shared(format!("http://{address}")).map_err(|_| invalid(address))?;
    Ok(endpoint
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(KEEP_ALIVE_INTERVAL))
}

/// Whether a `host:port` is a loopback address. Names are not resolved.
#[must_use]
pub fn is_loopback(address: &str) -> bool {
    let Some((host, _)) = address.rsplit_once(':') else {
        return false;
    };
    let host = host.trim_matches(['[', ']']);
    host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_checked_when_the_client_is_made() {
        let made = |addresses: &[&str]| {
            let addresses = addresses.iter().map(|address| (*address).to_owned()).collect();
            Endpoints::new(addresses, Security::PlaintextOnLoopback)
        };
        assert!(matches!(made(&[]), Err(SetupError::NoAddress)));
        let far = made(&["127.0.0.1:1", "192.0.2.1:7835"]).expect_err("not loopback");
        assert!(
            far.to_string().contains("192.0.2.1:7835 is not a loopback address"),
            "{far}"
        );
        assert!(matches!(made(&["localhost:1"]), Err(SetupError::NotLoopback { .. })));
        made(&["127.0.0.1:1", "[::1]:1"]).expect("loopback");
    }

    #[test]
    fn loopback_is_told_without_resolving_names() {
        for (address, near) in [
            ("127.0.0.1:1", true),
            ("[::1]:1", true),
            ("localhost:1", false),
            ("10.0.0.1:1", false),
            ("127.0.0.1", false),
        ] {
            assert_eq!(is_loopback(address), near, "{address}");
        }
    }
}
