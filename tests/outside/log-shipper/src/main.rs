//! A log shipper on the listener: lines go to whichever instance leads, through any of them, over TCP or a Unix socket.

use std::convert::Infallible;
use std::error::Error;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use curator_listener::{
    Leader, LeaderTerm, ListenError, Listener, ListenerConfig, Role, Services, StaticStatus, TermGuard, TermId,
    async_trait,
};
use futures::future::BoxFuture;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tonic::codegen::http;
use tonic::server::{ClientStreamingService, Grpc, NamedService};
use tonic::service::Routes;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status, Streaming};
use tonic_prost::ProstCodec;
use tower::{Service, ServiceBuilder};

/// The lines that have arrived.
#[derive(Clone, Default)]
struct Shipper(Arc<Mutex<Vec<String>>>);

impl NamedService for Shipper {
    const NAME: &'static str = "logs.Shipper";
}

impl Service<http::Request<Body>> for Shipper {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let shipper = self.clone();
        Box::pin(async move {
            let mut grpc = Grpc::new(ProstCodec::<u64, String>::default());
            Ok(grpc.client_streaming(shipper, request).await)
        })
    }
}

impl ClientStreamingService<String> for Shipper {
    type Response = u64;
    type Future = BoxFuture<'static, Result<Response<u64>, Status>>;

    fn call(&mut self, request: Request<Streaming<String>>) -> Self::Future {
        let lines = self.0.clone();
        Box::pin(async move {
            let (mut stream, mut count) = (request.into_inner(), 0);
            while let Some(line) = stream.message().await? {
                lines.lock().map_err(|_| Status::internal("poisoned"))?.push(line);
                count += 1;
            }
            Ok(Response::new(count))
        })
    }
}

/// A term until the program ends.
struct Forever;

#[async_trait]
impl TermGuard for Forever {
    fn is_valid(&self) -> bool {
        true
    }

    fn remaining(&self) -> Duration {
        Duration::MAX
    }

    async fn ended(&self) {
        std::future::pending::<()>().await;
    }
}

type Running = JoinHandle<Result<(), ListenError>>;

fn run(
    listener: Listener,
    role: Role,
    shipper: &Shipper,
    calls: &Arc<AtomicU64>,
    cancel: &CancellationToken,
) -> Running {
    let (shipper, calls) = (shipper.clone(), calls.clone());
    let count = ServiceBuilder::new().map_request(move |request: http::Request<Body>| {
        calls.fetch_add(1, Ordering::SeqCst);
        request
    });
    let services = Services::new(move |_| Routes::new(shipper.clone())).layer(count.into_inner());
    tokio::spawn(listener.run(StaticStatus::new(role), services, cancel.clone()))
}

async fn ship(channel: Channel, lines: &[&str]) -> Result<u64, Box<dyn Error>> {
    let lines: Vec<_> = lines.iter().map(|line| (*line).to_owned()).collect();
    let mut client = tonic::client::Grpc::new(channel);
    client.ready().await?;
    let path = http::uri::PathAndQuery::from_static("/logs.Shipper/Ship");
    let codec = ProstCodec::<String, u64>::default();
    let request = Request::new(futures::stream::iter(lines));
    Ok(client.client_streaming(request, path, codec).await?.into_inner())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let directory = std::env::temp_dir().join(format!("outside-log-shipper-{}", std::process::id()));
    std::fs::create_dir_all(&directory)?;
    let path = directory.join("shipper.sock");
    let (cancel, term) = (
        CancellationToken::new(),
        TermId {
            lock_key: "/logs/1".into(),
            lock_revision: 1,
        },
    );
    let (leading, following) = (Shipper::default(), Shipper::default());
    let (at_leader, at_follower) = (Arc::<AtomicU64>::default(), Arc::<AtomicU64>::default());

    let leader = Listener::bind(["127.0.0.1:0".parse()?], ListenerConfig::default())?;
    let address = leader.addresses()[0].to_string();
    let role = Role::Leader(LeaderTerm::new(term.clone(), Forever));
    let one = run(leader, role, &leading, &at_leader, &cancel);
    let follower = Listener::builder(ListenerConfig::default())
        .address("127.0.0.1:0".parse()?)
        .unix_socket(&path)
        .build()?;
    let tcp = Endpoint::from_shared(format!("http://{}", follower.addresses()[0]))?.connect_lazy();
    let role = Role::Follower(Leader {
        node_id: "one".into(),
        addresses: vec![address],
        authorizes_forwarded: true,
        term,
    });
    let two = run(follower, role, &following, &at_follower, &cancel);

    let unix = Endpoint::from_shared(format!("unix://{}", path.display()))?.connect_lazy();
    assert_eq!(ship(tcp, &["a", "b"]).await?, 2);
    assert_eq!(ship(unix, &["c"]).await?, 1);
    assert_eq!(*leading.0.lock().map_err(|_| "poisoned")?, ["a", "b", "c"]);
    assert!(
        following.0.lock().map_err(|_| "poisoned")?.is_empty(),
        "the follower forwards"
    );
    assert_eq!(at_leader.load(Ordering::SeqCst), 2, "the layer of the leader");
    assert_eq!(at_follower.load(Ordering::SeqCst), 0);

    // Two services of one name are refused, not a panic.
    let twice = Services::new(|_| Routes::default())
        .local(Shipper::default())
        .local(Shipper::default());
    assert!(twice.check().is_err());

    cancel.cancel();
    one.await??;
    two.await??;
    assert!(!path.exists());
    std::fs::remove_dir(directory)?;
    println!("log-shipper: three lines through a follower, over TCP and a Unix socket");
    Ok(())
}
