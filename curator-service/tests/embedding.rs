//! The service embedded in another process, with services of its own for the leader.
//!
//! Every wait is for an event and has a timeout.

#![allow(clippy::unwrap_used, reason = "a scenario that cannot go on has failed")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use curator_echo::EchoService;
use curator_echo::proto::SayRequest;
use curator_echo::proto::echo_client::EchoClient;
use curator_echo::proto::echo_server::EchoServer;
use curator_election::memory::MemoryCluster;
use curator_election::store::{Keys, Op, Range, Store, Txn};
use curator_election::{ElectionStatus, Reason};
use curator_service::{
    AddServiceError, Authenticator, Config, FencedError, FixedConsensus, LeaderServices, LeaderServicesError,
    LeaderStatus, RejectAll, Service, ServiceError, StateChange, TEST_CALLER, TermContext, TermState, TestIdentity,
    Written,
};
use prost::Message;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;
use tonic::{Code, Request};

/// The maximum time for anything that should happen at once, on a busy machine.
const WAIT_TIMEOUT: Duration = Duration::from_secs(60);

async fn in_time<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(WAIT_TIMEOUT, what).await.expect("in time")
}

/// A port that is free at this moment.
fn free_address() -> SocketAddr {
    let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    socket.local_addr().unwrap()
}

struct Instance {
    address: SocketAddr,
    status: watch::Receiver<LeaderStatus>,
    cancel: CancellationToken,
    running: JoinHandle<Result<(), ServiceError>>,
}

impl Instance {
    fn start(
        node_id: &str,
        store: Arc<dyn Store>,
        authenticator: impl Authenticator,
        leader_services: LeaderServices,
    ) -> Self {
        let address = free_address();
        let mut config = Config::new(node_id, Arc::new(FixedConsensus::running(store)));
        config.listen = vec![address];
        config.authenticator = Some(Arc::new(authenticator));
        config.leader_services = leader_services;
        config.grace = Duration::from_secs(1);
        config.threads = 1;
        let service = Service::new(config).unwrap();
        let status = service.status();
        let cancel = CancellationToken::new();
        Self {
            address,
            status,
            running: tokio::spawn(service.run(cancel.clone())),
            cancel,
        }
    }

    fn client(&self) -> EchoClient<Channel> {
        let channel = Channel::from_shared(format!("http://{}", self.address)).unwrap();
        EchoClient::new(channel.connect_lazy())
    }

    /// Waits until the instance listens.
    async fn listens(&self) {
        let dial = async {
            while tokio::net::TcpStream::connect(self.address).await.is_err() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        in_time(dial).await;
    }

    async fn reaches(&mut self, such: impl FnMut(&LeaderStatus) -> bool) {
        in_time(self.status.wait_for(such)).await.unwrap();
    }

    async fn stop(self) {
        self.cancel.cancel();
        in_time(self.running).await.unwrap().unwrap();
    }
}

fn leads(status: &LeaderStatus) -> bool {
    matches!(status, ElectionStatus::Leader(_))
}

fn memory() -> (MemoryCluster, Arc<dyn Store>) {
    let cluster = MemoryCluster::new(1);
    let store = Arc::new(cluster.client(0));
    (cluster, store)
}

fn echo(term: &TermContext) -> EchoServer<EchoService> {
    EchoService::new("embedded", term.term().lock_revision().0).into_server()
}

fn annotated() -> LeaderServices {
    let described = LeaderServices::new()
        .describe(curator_echo::FILE_DESCRIPTOR_SET)
        .unwrap();
    described.add_authorized(|term| Ok(echo(term))).unwrap()
}

fn by<T>(caller: Option<&str>, message: T) -> Request<T> {
    let mut request = Request::new(message);
    if let Some(caller) = caller {
        request.metadata_mut().insert(TEST_CALLER, caller.parse().unwrap());
    }
    request
}

/// The code of a unary call, which needs `PERMISSION_READ_CLUSTER_STATUS`.
async fn say(client: &mut EchoClient<Channel>, caller: Option<&str>) -> Code {
    let answered = in_time(client.say(by(caller, SayRequest::default()))).await;
    answered.err().map_or(Code::Ok, |status| status.code())
}

/// The code of a streaming call, which needs `PERMISSION_CONFIGURE_CLUSTER`: users have it, nodes have not.
async fn sum(client: &mut EchoClient<Channel>, caller: Option<&str>) -> Code {
    let messages = tokio_stream::iter([SayRequest::default()]);
    let answered = in_time(client.sum(by(caller, messages))).await;
    answered.err().map_or(Code::Ok, |status| status.code())
}

#[tokio::test(flavor = "multi_thread")]
async fn annotated_method_is_open_to_callers_with_its_permissions_only() {
    let (_cluster, store) = memory();
    let instance = Instance::start("node-1", store, TestIdentity, annotated());
    instance.listens().await;
    let mut client = instance.client();
    assert_eq!(say(&mut client, None).await, Code::Unauthenticated);
    assert_eq!(say(&mut client, Some("user owner")).await, Code::Ok);
    assert_eq!(say(&mut client, Some("node a")).await, Code::Ok);
    assert_eq!(sum(&mut client, None).await, Code::Unauthenticated);
    assert_eq!(sum(&mut client, Some("node a")).await, Code::PermissionDenied);
    assert_eq!(sum(&mut client, Some("user owner")).await, Code::Ok);
    instance.stop().await;
}

/// Without TLS nobody has a certificate.
#[tokio::test(flavor = "multi_thread")]
async fn annotated_method_is_closed_without_certificates_and_public_service_is_open() {
    let (_cluster, store) = memory();
    let instance = Instance::start("node-1", store, RejectAll, annotated());
    instance.listens().await;
    assert_eq!(
        say(&mut instance.client(), Some("user owner")).await,
        Code::Unauthenticated
    );
    instance.stop().await;

    let (_cluster, store) = memory();
    let public = LeaderServices::new().add_public(|term| Ok(echo(term))).unwrap();
    let instance = Instance::start("node-1", store, RejectAll, public);
    instance.listens().await;
    assert_eq!(say(&mut instance.client(), None).await, Code::Ok);
    assert_eq!(sum(&mut instance.client(), None).await, Code::Ok);
    instance.stop().await;
}

/// `prost-types` knows no extensions: a set that it has decoded and encoded again has no annotations.
fn without_annotations() -> &'static [u8] {
    let decoded = prost_types::FileDescriptorSet::decode(curator_echo::FILE_DESCRIPTOR_SET).unwrap();
    Vec::leak(decoded.encode_to_vec())
}

#[test]
fn service_without_annotations_is_refused_unless_it_is_added_as_public() {
    let stripped = || LeaderServices::new().describe(without_annotations()).unwrap();
    let refused = stripped().add_authorized(|term| Ok(echo(term))).unwrap_err();
    assert!(
        matches!(&refused, AddServiceError::NoAnnotation { method } if method.starts_with("/curator.echo.v1.Echo/")),
        "{refused}"
    );
    assert!(refused.to_string().contains("add_public"), "{refused}");
    let refused = LeaderServices::new().add_authorized(|term| Ok(echo(term))).unwrap_err();
    assert!(matches!(
        refused,
        AddServiceError::NotDescribed {
            service: "curator.echo.v1.Echo"
        }
    ));
    stripped().add_public(|term| Ok(echo(term))).unwrap();
}

/// The router would panic in the first term.
#[test]
fn second_service_of_a_name_is_refused() {
    let refused = annotated().add_authorized(|term| Ok(echo(term))).unwrap_err();
    assert!(matches!(
        refused,
        AddServiceError::Duplicate {
            service: "curator.echo.v1.Echo"
        }
    ));
    let refused = annotated().add_public(|term| Ok(echo(term))).unwrap_err();
    assert!(matches!(refused, AddServiceError::Duplicate { .. }), "{refused}");
    let (_, health) = tonic_health::server::health_reporter();
    let refused = LeaderServices::new()
        .add_public(move |_| Ok(health.clone()))
        .unwrap_err();
    assert!(matches!(refused, AddServiceError::Duplicate { .. }), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn state_of_ended_term_cannot_be_written_and_the_next_term_reads_it() {
    let (_cluster, store) = memory();
    let (states, mut made) = mpsc::unbounded_channel::<(i64, TermState)>();
    let services = LeaderServices::new()
        .describe(curator_echo::FILE_DESCRIPTOR_SET)
        .unwrap()
        .add_authorized(move |term| {
            let of_term = (term.term().lock_revision().0, term.state("greetings")?);
            states.send(of_term).unwrap();
            Ok(echo(term))
        })
        .unwrap();
    let mut instance = Instance::start("node-1", store.clone(), TestIdentity, services);
    let (first, old) = in_time(made.recv()).await.unwrap();
    let put = |value: &'static str| StateChange::new().put("hello", value);
    assert!(matches!(old.write(put("one")).await.unwrap(), Written::Done(_)));

    // As if another instance led: the lock is gone, and this one has not noticed.
    instance.reaches(leads).await;
    let LeaderStatus::Leader(term) = instance.status.borrow().clone() else {
        panic!("no other candidate")
    };
    let unlock = Txn::default().then(vec![Op::delete(term.lock_key().clone())]);
    store.txn(unlock).await.unwrap();
    let refused = old.write(put("two")).await.unwrap_err();
    assert!(matches!(refused, FencedError::LostLeadership), "{refused}");

    let (second, new) = in_time(made.recv()).await.unwrap();
    assert!(second > first);
    assert_eq!(new.get("hello").await.unwrap().unwrap().value, "one");
    assert!(matches!(new.write(put("three")).await.unwrap(), Written::Done(_)));
    assert!(matches!(old.write(put("four")).await, Err(FencedError::LostLeadership)));
    let stored = store
        .range(Range::all(Keys::one("/embedded/greetings/hello")))
        .await
        .unwrap();
    assert_eq!(stored.kvs[0].value, "three");
    instance.stop().await;
}

fn failing(times: usize) -> (LeaderServices, Arc<AtomicUsize>) {
    let made = Arc::new(AtomicUsize::new(0));
    let counter = made.clone();
    let services = LeaderServices::new()
        .describe(curator_echo::FILE_DESCRIPTOR_SET)
        .unwrap()
        .add_authorized(move |term| {
            if counter.fetch_add(1, Ordering::SeqCst) < times {
                return Err(LeaderServicesError::new("the disk is full").caused_by("/var: no space"));
            }
            Ok(echo(term))
        })
        .unwrap();
    (services, made)
}

#[tokio::test(flavor = "multi_thread")]
async fn instance_whose_services_fail_steps_down_and_tries_again_later() {
    let (_cluster, store) = memory();
    let (services, made) = failing(1);
    let mut instance = Instance::start("node-1", store, TestIdentity, services);
    let barred = |status: &LeaderStatus| match status {
        ElectionStatus::Undetermined(Reason::Barred(why)) => why.contains("the disk is full"),
        _ => false,
    };
    instance.reaches(barred).await;
    assert_eq!(made.load(Ordering::SeqCst), 1);
    // The call waits for a leader with services.
    instance.listens().await;
    assert_eq!(say(&mut instance.client(), Some("user owner")).await, Code::Ok);
    assert_eq!(made.load(Ordering::SeqCst), 2);
    instance.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_instance_leads_when_services_fail() {
    let (cluster, store) = memory();
    let (services, _) = failing(usize::MAX);
    let mut broken = Instance::start("node-1", store, TestIdentity, services);
    let other = Instance::start("node-2", Arc::new(cluster.client(0)), TestIdentity, annotated());
    let follows = |status: &LeaderStatus| matches!(status, ElectionStatus::Follower(following) if following.leader.node_id == "node-2");
    broken.reaches(follows).await;
    assert_eq!(say(&mut broken.client(), Some("user owner")).await, Code::Ok);
    other.stop().await;
    broken.stop().await;
}
