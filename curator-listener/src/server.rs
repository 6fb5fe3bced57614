//! The sockets, and who answers on them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::metadata::MetadataMap;
use tonic::service::Routes;
use tonic::transport::Server;
use tonic::{Code, Status};
use tracing::debug;

use crate::role::{Role, StatusStream};

/// How long calls may take to end once the listener is told to.
const GRACE: Duration = Duration::from_secs(5);
/// HTTP/2 pings find a peer that is gone within the sum of the two.
const PING_INTERVAL: Duration = Duration::from_secs(10);
const PING_TIMEOUT: Duration = Duration::from_secs(5);
/// As many streams as one connection may have open.
const MAX_STREAMS: u32 = 1_024;

/// Sockets that are open and not served yet.
pub struct Listener {
    sockets: Vec<TcpListener>,
    addresses: Vec<SocketAddr>,
    status: Arc<dyn StatusStream>,
}

/// Why the listener cannot go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ListenError {
    /// An address cannot be listened on.
    #[error("cannot listen on {address}: {source}; choose another address, or stop what holds it")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// What the system says.
        source: std::io::Error,
    },
    /// A server failed.
    #[error("a server failed: {0}")]
    Serve(#[from] tonic::transport::Error),
    /// A server panicked.
    #[error("a server panicked: {0}")]
    Panic(#[from] tokio::task::JoinError),
}

impl Listener {
    /// Opens the sockets. Connections wait in their queues until [`run`](Self::run).
    ///
    /// # Errors
    /// One of the addresses cannot be listened on.
    pub async fn bind(
        addresses: impl IntoIterator<Item = SocketAddr>,
        status: impl StatusStream,
    ) -> Result<Self, ListenError> {
        let mut sockets = Vec::new();
        let mut bound = Vec::new();
        for address in addresses {
            let failed = |source| ListenError::Bind { address, source };
            let socket = TcpListener::bind(address).await.map_err(failed)?;
            bound.push(socket.local_addr().map_err(failed)?);
            sockets.push(socket);
        }
        Ok(Self {
            sockets,
            addresses: bound,
            status: Arc::new(status),
        })
    }

    /// The addresses that are listened on, with the ports that the system chose.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Answers calls until cancelled, then waits up to five seconds for those under way.
    ///
    /// `local` answers what every instance answers by itself. Whatever it does not know is for the leader, and is refused.
    /// Not cancellation safe: when the future is dropped, so are all connections.
    ///
    /// # Errors
    /// A server ended that should have gone on.
    pub async fn run(self, local: Routes, cancel: CancellationToken) -> Result<(), ListenError> {
        let role = self.status.subscribe();
        let routes = Routes::from(local.into_axum_router().fallback(move || {
            let refusal = refusal(&role);
            async move { refusal.into_http::<tonic::body::Body>() }
        }));
        let mut servers = JoinSet::new();
        for socket in self.sockets {
            let routes = routes.clone();
            let cancel = cancel.clone();
            servers.spawn(async move {
                let stop = cancel.clone();
                let serving = Server::builder()
                    .http2_keepalive_interval(Some(PING_INTERVAL))
                    .http2_keepalive_timeout(Some(PING_TIMEOUT))
                    .max_concurrent_streams(MAX_STREAMS)
                    .add_routes(routes)
                    .serve_with_incoming_shutdown(TcpListenerStream::new(socket), stop.cancelled_owned());
                let too_late = async {
                    cancel.cancelled().await;
                    tokio::time::sleep(GRACE).await;
                };
                tokio::select! {
                    served = serving => served,
                    () = too_late => {
                        debug!("calls still under way are cut off");
                        Ok(())
                    }
                }
            });
        }
        // The first failure ends the others, when the set is dropped.
        while let Some(served) = servers.join_next().await {
            served??;
        }
        Ok(())
    }
}

/// Why a call for the leader is not answered here, and where to turn.
fn refusal(role: &watch::Receiver<Role>) -> Status {
    let mut metadata = MetadataMap::new();
    let message = match &*role.borrow() {
        Role::Undetermined { reason } => format!("who leads is not known: {reason}"),
        Role::Local { .. } => return Status::unimplemented("there is no such service"),
        Role::Remote(leader) => {
            for (name, value) in [
                ("curator-leader-id", Some(&leader.node_id)),
                ("curator-leader-address", leader.addresses.first()),
            ] {
                // What cannot be put into a header is left out of it; the message has it in any case.
                if let Some(value) = value.and_then(|value| value.parse().ok()) {
                    metadata.insert(name, value);
                }
            }
            let address = leader.addresses.first().map_or("an unknown address", String::as_str);
            format!("this instance does not lead, {} at {address} does", leader.node_id)
        }
    };
    Status::with_metadata(Code::Unavailable, message, metadata)
}

#[cfg(test)]
mod tests {
    use std::future::IntoFuture;

    use tonic_health::pb::HealthCheckRequest;
    use tonic_health::pb::health_client::HealthClient;

    use super::*;
    use crate::role::{Leader, StaticStatus, TermId};

    struct Running {
        address: SocketAddr,
        cancel: CancellationToken,
        serving: tokio::task::JoinHandle<Result<(), ListenError>>,
    }

    async fn run(role: Role, local: Routes) -> Running {
        let listener = Listener::bind(["127.0.0.1:0".parse().unwrap()], StaticStatus::new(role))
            .await
            .expect("a free port");
        let address = listener.addresses()[0];
        let cancel = CancellationToken::new();
        let serving = tokio::spawn(listener.run(local, cancel.clone()));
        Running {
            address,
            cancel,
            serving,
        }
    }

    async fn check(address: SocketAddr) -> Result<(), Status> {
        let channel = tonic::transport::Channel::from_shared(format!("http://{address}"))
            .unwrap()
            .connect_lazy();
        let request = HealthCheckRequest { service: String::new() };
        let mut client = HealthClient::new(channel);
        tokio::time::timeout(Duration::from_secs(5), client.check(request))
            .await
            .expect("answers")
            .map(drop)
    }

    fn remote() -> Role {
        Role::Remote(Leader {
            node_id: "node-2".into(),
            addresses: vec!["127.0.0.1:9".into()],
            term: TermId {
                lock_key: "/leader/1".into(),
                lock_revision: 7,
            },
        })
    }

    #[tokio::test]
    async fn local_services_are_answered_in_every_role() {
        for role in [
            Role::Undetermined {
                reason: "a test".into(),
            },
            remote(),
        ] {
            let (_reporter, health) = tonic_health::server::health_reporter();
            let running = run(role, Routes::new(health)).await;
            check(running.address).await.expect("serving");
            running.cancel.cancel();
            running.serving.await.unwrap().unwrap();
        }
    }

    #[tokio::test]
    async fn what_is_for_the_leader_is_refused_with_its_name() {
        let running = run(remote(), Routes::default()).await;
        let status = check(running.address).await.unwrap_err();
        assert_eq!(status.code(), Code::Unavailable);
        assert!(status.message().contains("node-2"), "{status}");
        assert_eq!(status.metadata().get("curator-leader-id").unwrap(), "node-2");
        assert_eq!(status.metadata().get("curator-leader-address").unwrap(), "127.0.0.1:9");
        running.cancel.cancel();
    }

    #[tokio::test]
    async fn an_address_that_is_taken_is_named() {
        let taken = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let socket = TcpListener::bind(taken).await.unwrap();
        let status = StaticStatus::new(remote());
        let error = Listener::bind([taken], status).await.map(drop).unwrap_err();
        assert!(error.to_string().contains(&taken.to_string()), "{error}");
        drop(socket);
    }

    #[tokio::test]
    async fn an_open_connection_does_not_hold_up_the_end() {
        let (_reporter, health) = tonic_health::server::health_reporter();
        let running = run(remote(), Routes::new(health)).await;
        let channel = tonic::transport::Channel::from_shared(format!("http://{}", running.address)).unwrap();
        let mut client = HealthClient::new(channel.connect().await.unwrap());
        let mut watch = client
            .watch(HealthCheckRequest { service: String::new() })
            .await
            .unwrap()
            .into_inner();
        watch.message().await.unwrap().expect("the first answer");
        running.cancel.cancel();
        // The stream would go on for ever; the grace time is stated.
        let ended = tokio::time::timeout(GRACE + Duration::from_secs(5), running.serving.into_future()).await;
        ended.expect("ends").unwrap().unwrap();
    }
}
