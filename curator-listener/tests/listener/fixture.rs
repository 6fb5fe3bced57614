//! The fixture of the listener's tests: instances, roles, certificates and clients.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use curator_echo::EchoService;
use curator_echo::proto::SayRequest;
use curator_echo::proto::echo_client::EchoClient;
use curator_echo::tls::{CLIENT, Party, SERVER};
use curator_listener::{
    CallerCertificates, Forwarders, Leader, LeaderTerm, ListenError, Listener, ListenerConfig, ListenerHandle, Role,
    Services, StaticStatus, TermGuard, TermId, Tls, ToLeader,
};
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, ServerConfig};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::transport::Channel;

/// The maximum time for anything that should happen at once, on a busy machine.
pub(crate) const WAIT_TIMEOUT: Duration = Duration::from_secs(20);

/// Waits with a timeout.
pub(crate) async fn in_time<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(WAIT_TIMEOUT, what).await.expect("in time")
}

/// A running listener.
pub(crate) struct Instance {
    pub(crate) address: SocketAddr,
    pub(crate) status: Arc<StaticStatus>,
    pub(crate) handle: ListenerHandle,
    pub(crate) cancel: CancellationToken,
    pub(crate) running: JoinHandle<Result<(), ListenError>>,
}

/// A configuration with short limits.
pub(crate) fn config() -> ListenerConfig {
    let mut config = ListenerConfig::default();
    config.hold_cap = Duration::from_secs(10);
    config
}

pub(crate) fn undetermined() -> Role {
    Role::Undetermined {
        reason: "a test".into(),
    }
}

pub(crate) fn term(revision: i64) -> TermId {
    TermId {
        lock_key: "/leader/1".into(),
        lock_revision: revision,
    }
}

/// Another instance is the leader.
pub(crate) fn follower_role(address: SocketAddr, revision: i64) -> Role {
    Role::Follower(Leader {
        node_id: format!("node-{}", address.port()),
        addresses: vec![address.to_string()],
        authorizes_forwarded: true,
        term: term(revision),
    })
}

/// This instance is the leader until the guard ends.
pub(crate) fn leader_role(revision: i64) -> (Role, Arc<TestGuard>) {
    let guard = Arc::new(TestGuard {
        valid: AtomicBool::new(true),
        ended: CancellationToken::new(),
    });
    let role = Role::Leader(LeaderTerm::new(term(revision), guard.clone()));
    (role, guard)
}

pub(crate) struct TestGuard {
    valid: AtomicBool,
    ended: CancellationToken,
}

impl TestGuard {
    /// Ends the term.
    pub(crate) fn end(&self) {
        self.end_in_silence();
        self.ended.cancel();
    }

    /// Ends the term without a notification, as when the clock passes the deadline and no task has run since.
    pub(crate) fn end_in_silence(&self) {
        self.valid.store(false, Ordering::SeqCst);
    }
}

#[async_trait]
impl TermGuard for TestGuard {
    fn is_valid(&self) -> bool {
        self.valid.load(Ordering::SeqCst)
    }

    fn remaining(&self) -> Duration {
        Duration::from_secs(1)
    }

    async fn ended(&self) {
        self.ended.cancelled().await;
    }
}

/// The certificates of instances and clients.
pub(crate) struct Certificates {
    server: Party,
    client: Party,
    newest: watch::Sender<Arc<ServerConfig>>,
}

impl Certificates {
    pub(crate) fn new() -> Self {
        let (server, client) = curator_echo::tls::parties().unwrap();
        Self {
            newest: watch::Sender::new(server.server().unwrap()),
            server,
            client,
        }
    }

    /// Reads certificates from a directory.
    #[allow(dead_code, reason = "of the process that is measured")]
    pub(crate) fn read(directory: &Path) -> Self {
        let [server, client] = [SERVER, CLIENT].map(|name| Party::read(directory, name).unwrap());
        Self {
            newest: watch::Sender::new(server.server().unwrap()),
            server,
            client,
        }
    }

    /// A configuration for a listener. Every caller may forward.
    pub(crate) fn tls(&self) -> Tls {
        Tls {
            server: self.newest.subscribe(),
            to_leader: Arc::new(Known(self.server.client().unwrap())),
            forwarders: Arc::new(Anybody),
        }
    }

    pub(crate) fn client(&self) -> Arc<ClientConfig> {
        self.client.client().unwrap()
    }

    /// A configuration for a client without a certificate.
    pub(crate) fn stranger(&self) -> Arc<ClientConfig> {
        self.client.stranger().unwrap()
    }

    /// A client with its own connection and the certificate of [`client`](Self::client).
    pub(crate) fn echo(&self, address: SocketAddr) -> EchoClient<Channel> {
        let tls = TlsConnector::from(self.client());
        let connector = tower::service_fn(move |_: http::Uri| {
            let tls = tls.clone();
            async move {
                let name = curator_echo::tls::server_name()?;
                let stream = TcpStream::connect(address).await?;
                Ok::<_, std::io::Error>(TokioIo::new(tls.connect(name, stream).await?))
            }
        });
        let channel = Channel::from_shared(format!("http://{address}"))
            .unwrap()
            .connect_with_connector_lazy(connector);
        EchoClient::new(channel)
    }
}

struct Known(Arc<ClientConfig>);

impl ToLeader for Known {
    fn config(&self, _: &str) -> Result<Arc<ClientConfig>, rustls::Error> {
        Ok(self.0.clone())
    }
}

struct Anybody;

#[async_trait]
impl Forwarders for Anybody {
    async fn may_forward(&self, _: &CallerCertificates) -> bool {
        true
    }
}

/// The leader at an address, with the name in the certificates.
pub(crate) fn named(address: SocketAddr, revision: i64) -> Role {
    Role::Follower(Leader {
        node_id: SERVER.into(),
        addresses: vec![address.to_string()],
        authorizes_forwarded: true,
        term: term(revision),
    })
}

/// The echo service. It reports the port of its instance as the node.
pub(crate) fn echo(
    services: impl Fn(EchoService) -> EchoService + Send + Sync + 'static,
    node: SocketAddr,
) -> Services {
    Services::new(move |term| {
        let service = EchoService::new(node.port().to_string(), term.term.lock_revision);
        Routes::new(services(service).into_server())
    })
    .describe(curator_echo::FILE_DESCRIPTOR_SET)
    .unwrap()
}

impl Instance {
    pub(crate) fn start(role: Role) -> Self {
        Self::with(role, config(), |service| service)
    }

    pub(crate) fn with(
        role: Role,
        config: ListenerConfig,
        services: impl Fn(EchoService) -> EchoService + Send + Sync + 'static,
    ) -> Self {
        Self::serving(role, config, |address| echo(services, address))
    }

    pub(crate) fn serving(role: Role, config: ListenerConfig, services: impl FnOnce(SocketAddr) -> Services) -> Self {
        let listener = Listener::bind(["127.0.0.1:0".parse().unwrap()], config).unwrap();
        let address = listener.addresses()[0];
        let status = Arc::new(StaticStatus::new(role));
        let handle = listener.handle();
        let cancel = CancellationToken::new();
        let running = tokio::spawn(listener.run(status.clone(), services(address), cancel.clone()));
        Self {
            address,
            status,
            handle,
            cancel,
            running,
        }
    }

    /// A leader in the term of this revision.
    pub(crate) fn leading(revision: i64) -> (Self, Arc<TestGuard>) {
        let (role, guard) = leader_role(revision);
        (Self::start(role), guard)
    }

    /// A follower of the leader at this address.
    pub(crate) fn following(leader: SocketAddr, revision: i64) -> Self {
        Self::start(follower_role(leader, revision))
    }

    /// A client with its own connection.
    pub(crate) fn client(&self) -> EchoClient<Channel> {
        client(self.address)
    }

    /// The node name in its answers.
    pub(crate) fn name(&self) -> String {
        self.address.port().to_string()
    }

    /// Waits until the health service reports this state.
    pub(crate) async fn serves(&self, serving: bool) {
        let mut watch = self.handle.serving();
        in_time(watch.wait_for(|now| *now == serving)).await.unwrap();
    }

    /// Stops it without errors.
    pub(crate) async fn stop(self) {
        self.cancel.cancel();
        in_time(self.running).await.unwrap().unwrap();
    }
}

pub(crate) fn client(address: SocketAddr) -> EchoClient<Channel> {
    let channel = Channel::from_shared(format!("http://{address}"))
        .unwrap()
        .connect_lazy();
    EchoClient::new(channel)
        .max_decoding_message_size(64 << 20)
        .max_encoding_message_size(64 << 20)
}

pub(crate) fn say(id: u64) -> SayRequest {
    SayRequest {
        id,
        ..SayRequest::default()
    }
}

/// A connection from another address of this host.
pub(crate) async fn from(host: u8, to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    let host = IpAddr::V4(Ipv4Addr::new(127, 0, 0, host));
    socket.bind(SocketAddr::new(host, 0)).unwrap();
    in_time(socket.connect(to)).await.unwrap()
}

/// A gRPC message with its prefix.
pub(crate) fn message(message: &impl prost::Message) -> Bytes {
    let encoded = message.encode_to_vec();
    let mut body = vec![0];
    body.extend_from_slice(&u32::try_from(encoded.len()).unwrap().to_be_bytes());
    body.extend_from_slice(&encoded);
    body.into()
}
