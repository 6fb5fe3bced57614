//! What an embedder may set: its services, TLS, layers, and where connections come from.

use std::io;
use std::net::SocketAddr;
use std::os::unix::net::UnixListener as StdUnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use curator_echo::EchoService;
use curator_echo::proto::echo_client::EchoClient;
use curator_echo::proto::echo_server::EchoServer;
use curator_echo::tls::SERVER;
use curator_listener::{
    CallerAddress, IncomingConnection, ListenError, Listener, ListenerBuilder, ListenerConfig, Services, ServicesError,
    StaticStatus, Tls, ToLeader, host_name,
};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::{TcpListener, UnixStream};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tonic::service::Routes;
use tonic::transport::Channel;
use tonic::{Code, Status};
use tower::ServiceBuilder;

use crate::fixture::{Certificates, Instance, config, echo, follower_role, in_time, leader_role, say, undetermined};

const HEALTH: &str = "grpc.health.v1.Health";

fn echo_server() -> EchoServer<EchoService> {
    EchoService::new("local", 1).into_server()
}

/// Runs a listener with these services, and returns why it ended.
async fn refused(services: Services) -> ListenError {
    let listener = Listener::bind(["127.0.0.1:0".parse().unwrap()], config()).unwrap();
    let running = listener.run(StaticStatus::new(undetermined()), services, CancellationToken::new());
    in_time(running).await.expect_err("the services are refused")
}

#[tokio::test]
async fn services_with_one_name_are_refused() {
    let none = || Services::new(|_| Routes::default());
    let (_, health) = tonic_health::server::health_reporter();
    let reserved = none().local(health);
    assert_eq!(reserved.check(), Err(ServicesError::Reserved { name: HEALTH }));
    let error = refused(reserved).await;
    assert!(
        error
            .to_string()
            .contains(&format!("the listener adds the service {HEALTH} itself")),
        "{error}"
    );

    let twice = none().local(echo_server()).local(echo_server());
    let error = refused(twice).await;
    assert!(
        matches!(&error, ListenError::Services(ServicesError::Duplicate { name }) if *name == "curator.echo.v1.Echo"),
        "{error}"
    );

    // Reflection is the listener's only if there are descriptors.
    let reflection = || {
        let builder = tonic_reflection::server::Builder::configure();
        none().local(builder.build_v1().unwrap())
    };
    assert_eq!(reflection().check(), Ok(()));
    let described = reflection().describe(curator_echo::FILE_DESCRIPTOR_SET).unwrap();
    assert!(matches!(
        refused(described).await,
        ListenError::Services(ServicesError::Reserved { .. })
    ));
}

#[tokio::test]
async fn tls_without_http2_is_refused() {
    let certificates = Certificates::new();
    let mut tls = certificates.tls();
    let good = tls.server.borrow().clone();
    let mut bad = (*good).clone();
    bad.alpn_protocols.clear();
    let bad = Arc::new(bad);
    let newest = watch::Sender::new(bad.clone());
    tls.server = newest.subscribe();
    let config = |tls: &Tls| {
        let mut config = config();
        config.tls = Some(tls.clone());
        config
    };
    let Err(error) = Listener::bind(["127.0.0.1:0".parse().unwrap()], config(&tls)) else {
        panic!("a listener without h2");
    };
    assert!(matches!(error, ListenError::NoHttp2), "{error}");
    assert!(error.to_string().contains("alpn_protocols"), "{error}");

    // A later configuration is refused as well, with each handshake.
    newest.send_replace(good);
    let (role, _guard) = leader_role(1);
    let instance = Instance::with(role, config(&tls), |service| service);
    in_time(certificates.echo(instance.address).say(say(1))).await.unwrap();
    newest.send_replace(bad);
    let status = in_time(certificates.echo(instance.address).say(say(2)))
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    instance.stop().await;
}

/// A configuration for connections to the leader, with a name to verify.
struct Verified {
    config: Arc<ClientConfig>,
    name: fn(&str, &str) -> Result<ServerName<'static>, rustls::Error>,
}

impl ToLeader for Verified {
    fn config(&self, _: &str) -> Result<Arc<ClientConfig>, rustls::Error> {
        Ok(self.config.clone())
    }

    fn server_name(&self, node_id: &str, address: &str) -> Result<ServerName<'static>, rustls::Error> {
        (self.name)(node_id, address)
    }
}

/// The node id of the leader is in no certificate here: only other names let a follower forward.
#[tokio::test]
async fn the_name_to_verify_can_be_set() {
    let certificates = Certificates::new();
    let with = |to_leader: Option<Arc<dyn ToLeader>>| {
        let mut config = config();
        let mut tls = certificates.tls();
        tls.to_leader = to_leader.unwrap_or(tls.to_leader);
        config.tls = Some(tls);
        config
    };
    let (role, _guard) = leader_role(1);
    let leader = Instance::with(role, with(None), |service| service);
    let fixed = Verified {
        config: certificates.client(),
        name: |_, _| Ok(ServerName::try_from(SERVER).unwrap()),
    };
    let host = Verified {
        config: certificates.client(),
        name: |_, address| host_name(address),
    };
    let mut no_http2 = (*certificates.client()).clone();
    no_http2.alpn_protocols.clear();
    let no_http2 = Verified {
        config: Arc::new(no_http2),
        name: host.name,
    };
    for (to_leader, reaches) in [
        (Some(Arc::new(fixed) as Arc<dyn ToLeader>), true),
        (Some(Arc::new(host)), true),
        (Some(Arc::new(no_http2)), false),
        (None, false),
    ] {
        let mut config = with(to_leader);
        config.hold_cap = std::time::Duration::from_millis(300);
        let follower = Instance::with(follower_role(leader.address, 1), config, |service| service);
        if reaches {
            follower.serves(true).await;
        }
        let answer = in_time(certificates.echo(follower.address).say(say(1))).await;
        assert_eq!(answer.is_ok(), reaches, "{answer:?}");
        follower.stop().await;
    }
    leader.stop().await;
}

/// A directory that is removed at the end.
struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("listener-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A listener that leads.
struct Running {
    cancel: CancellationToken,
    ended: tokio::task::JoinHandle<Result<(), ListenError>>,
    _guard: Arc<crate::fixture::TestGuard>,
}

impl Running {
    fn start(builder: ListenerBuilder) -> Self {
        let (role, guard) = leader_role(1);
        let cancel = CancellationToken::new();
        let listener = builder.build().unwrap();
        let services = echo(|service| service, "127.0.0.1:1".parse().unwrap());
        let ended = tokio::spawn(listener.run(StaticStatus::new(role), services, cancel.clone()));
        Self {
            cancel,
            ended,
            _guard: guard,
        }
    }

    async fn stop(self) {
        self.cancel.cancel();
        in_time(self.ended).await.unwrap().unwrap();
    }
}

/// A client whose connections are made by a function.
fn through<T, F>(connect: impl Fn() -> F + Clone + Send + Sync + 'static) -> EchoClient<Channel>
where
    T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin + 'static,
    F: Future<Output = io::Result<T>> + Send,
{
    let connector = tower::service_fn(move |_: http::Uri| {
        let connect = connect.clone();
        async move { connect().await.map(TokioIo::new) }
    });
    EchoClient::new(Channel::from_static("http://any").connect_with_connector_lazy(connector))
}

fn at_path(path: &Path) -> EchoClient<Channel> {
    let path = path.to_owned();
    through(move || UnixStream::connect(path.clone()))
}

#[tokio::test]
async fn unix_socket_serves_calls_and_removes_its_file() {
    let directory = Directory::new("unix");
    let path = directory.0.join("a.sock");
    for threads in [0, 1] {
        // A process that was killed leaves its file behind.
        drop(StdUnixListener::bind(&path).unwrap());
        let mut config = config();
        config.threads = threads;
        let running = Running::start(Listener::builder(config).unix_socket(&path));
        in_time(at_path(&path).say(say(1))).await.unwrap();
        running.stop().await;
        assert!(!path.exists(), "the file is removed");
    }
}

#[tokio::test]
async fn unix_socket_of_others_is_left_alone() {
    let directory = Directory::new("others");
    let path = directory.0.join("a.sock");
    let build = || Listener::builder(config()).unix_socket(&path).build().map(drop);
    let other = StdUnixListener::bind(&path).unwrap();
    let error = build().expect_err("another process listens");
    assert!(
        matches!(&error, ListenError::BindUnix { .. }) && error.to_string().contains("a.sock"),
        "{error}"
    );
    drop(other);
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, "no socket").unwrap();
    build().expect_err("a regular file");
    assert_eq!(std::fs::read(&path).unwrap(), b"no socket");
    std::fs::remove_file(&path).unwrap();

    // The file was replaced in the meantime.
    let listener = Listener::builder(config()).unix_socket(&path).build().unwrap();
    std::fs::remove_file(&path).unwrap();
    let _newer = StdUnixListener::bind(&path).unwrap();
    drop(listener);
    assert!(path.exists(), "the file of the newer process stays");
}

/// Connections of a socket that the embedder accepts on, and of no socket at all. The listener outlives them.
#[tokio::test]
async fn connections_of_the_embedder_are_served() {
    let own = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = own.local_addr().unwrap();
    let accepted = futures::stream::unfold(own, |own| async {
        let connection = own
            .accept()
            .await
            .and_then(|(stream, _)| IncomingConnection::tcp(stream));
        Some((connection, own))
    });
    let (give, mut given) = mpsc::channel::<IncomingConnection>(1);
    let piped = futures::stream::poll_fn(move |cx| given.poll_recv(cx).map(|next| next.map(Ok)));
    // A source that fails and ends does not stop the others.
    let failing = futures::stream::iter([Err(io::Error::other("a test"))]);
    for_each_call(
        Listener::builder(config())
            .connections(futures::stream::empty())
            .connections(failing)
            .connections(accepted)
            .connections(piped),
        [
            (through(move || tokio::net::TcpStream::connect(address)), "127.0.0.1"),
            (
                through(move || {
                    let give = give.clone();
                    async move {
                        let (near, far) = tokio::io::duplex(64 << 10);
                        let peer: SocketAddr = "192.0.2.7:1".parse().map_err(io::Error::other)?;
                        let connection = IncomingConnection::new(far, peer);
                        let gone = |_| io::Error::from(io::ErrorKind::BrokenPipe);
                        give.send(connection).await.map_err(gone)?;
                        Ok(near)
                    }
                }),
                "192.0.2.7",
            ),
        ],
    )
    .await;
}

/// Makes a call with each client, and checks the address that a layer sees.
async fn for_each_call<const N: usize>(builder: ListenerBuilder, clients: [(EchoClient<Channel>, &str); N]) {
    let (role, _guard) = leader_role(1);
    let (saw, mut seen) = mpsc::unbounded_channel();
    let services = echo(|service| service, "127.0.0.1:1".parse().unwrap()).layer(
        ServiceBuilder::new()
            .map_request(move |request: http::Request<Body>| {
                let address = request
                    .extensions()
                    .get::<CallerAddress>()
                    .map(|address| address.0.to_string());
                let _ = saw.send(address);
                request
            })
            .into_inner(),
    );
    let cancel = CancellationToken::new();
    let running = tokio::spawn(
        builder
            .build()
            .unwrap()
            .run(StaticStatus::new(role), services, cancel.clone()),
    );
    for (mut client, address) in clients {
        in_time(client.say(say(1))).await.unwrap();
        assert_eq!(in_time(seen.recv()).await.unwrap().as_deref(), Some(address));
    }
    cancel.cancel();
    in_time(running).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_builder_without_sources_is_refused() {
    let built = Listener::builder(ListenerConfig::default()).build();
    assert!(matches!(built.map(drop), Err(ListenError::Nowhere)));
}

/// A forwarded call passes the layers of the leader alone; calls of local services those of the instance.
#[tokio::test]
async fn layers_see_the_calls_that_an_instance_answers() {
    let counted = |role, count: &Arc<AtomicU32>| {
        let count = count.clone();
        Instance::serving(role, config(), move |address| {
            echo(|service| service, address).layer(
                ServiceBuilder::new()
                    .map_request(move |request: http::Request<Body>| {
                        count.fetch_add(1, Ordering::SeqCst);
                        request
                    })
                    .into_inner(),
            )
        })
    };
    let (role, _guard) = leader_role(1);
    let (of_leader, of_follower) = (Arc::<AtomicU32>::default(), Arc::<AtomicU32>::default());
    let leader = counted(role, &of_leader);
    let follower = counted(follower_role(leader.address, 1), &of_follower);
    let counts = || (of_leader.load(Ordering::SeqCst), of_follower.load(Ordering::SeqCst));
    follower.serves(true).await;
    in_time(follower.client().say(say(1))).await.unwrap();
    assert_eq!(counts(), (1, 0));
    let channel = Channel::from_shared(format!("http://{}", follower.address))
        .unwrap()
        .connect_lazy();
    let mut health = tonic_health::pb::health_client::HealthClient::new(channel);
    in_time(health.check(tonic_health::pb::HealthCheckRequest::default()))
        .await
        .unwrap();
    assert_eq!(counts(), (1, 1));
}

/// A layer may refuse calls. The last one is the outermost.
#[tokio::test]
async fn errors_of_layers_become_a_status() {
    let refuse = |code: Code, of: &'static str| {
        ServiceBuilder::new()
            .filter(move |request: http::Request<Body>| {
                if request.headers().contains_key(of) {
                    return Err(Status::new(code, of));
                }
                Ok::<_, Status>(request)
            })
            .into_inner()
    };
    let (role, _guard) = leader_role(1);
    let instance = Instance::serving(role, config(), |address| {
        echo(|service| service, address)
            .layer(refuse(Code::PermissionDenied, "x-inner"))
            .layer(refuse(Code::ResourceExhausted, "x-outer"))
    });
    for (headers, code) in [
        (vec![], None),
        (vec!["x-inner"], Some(Code::PermissionDenied)),
        (vec!["x-inner", "x-outer"], Some(Code::ResourceExhausted)),
    ] {
        let mut request = tonic::Request::new(say(1));
        for header in headers {
            request.metadata_mut().insert(header, "1".parse().unwrap());
        }
        let answer = in_time(instance.client().say(request)).await;
        assert_eq!(answer.err().map(|status| status.code()), code);
    }
}
