//! Two instances with an election on the model of etcd and listeners on real sockets: calls go to whichever leads, and
//! a planned shutdown costs none.

#![allow(clippy::unwrap_used, reason = "a scenario that cannot go on has failed")]

use std::sync::Arc;
use std::time::Duration;

use curator_echo::EchoService;
use curator_echo::proto::SayRequest;
use curator_echo::proto::echo_client::EchoClient;
use curator_election::memory::MemoryCluster;
use curator_election::{ElectionStatus, Elector, ElectorConfig, ElectorHandle, PlainText, StoreElection};
use curator_glue::{Begun, LeaderEndpoint, Roles, hand_over, publish_roles};
use curator_listener::{ListenError, Listener, ListenerConfig, ListenerHandle, Role, Services};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::transport::Channel;

/// The maximum time for anything that should happen at once, on a busy machine.
const WAIT_TIMEOUT: Duration = Duration::from_secs(20);

async fn in_time<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(WAIT_TIMEOUT, what).await.expect("in time")
}

struct Instance {
    address: String,
    elector: ElectorHandle<PlainText>,
    listener: ListenerHandle,
    cancel: CancellationToken,
    electing: JoinHandle<()>,
    publishing: JoinHandle<()>,
    serving: JoinHandle<Result<(), ListenError>>,
}

impl Instance {
    /// With `tells`, its value in the election has its address; without, the others look it up.
    fn start(cluster: &MemoryCluster, number: usize, tells: bool) -> Self {
        let listener = Listener::bind(["127.0.0.1:0".parse().unwrap()], ListenerConfig::default()).unwrap();
        let (address, handle) = (listener.addresses()[0].to_string(), listener.handle());
        let ttl = Duration::from_secs(5);
        let store = Arc::new(cluster.client(number));
        let backend = Arc::new(StoreElection::new(store, "/echo/leader", ttl / 3));
        let config = ElectorConfig {
            ttl,
            ..ElectorConfig::default()
        };
        let elector = Elector::new(backend, &PlainText(address.clone()), config).unwrap();
        let (elector_handle, cancel) = (elector.handle(), CancellationToken::new());
        let roles = watch::Sender::new(Role::Undetermined {
            reason: "starting".into(),
        });
        let following = Roles(roles.subscribe());
        let endpoint = move |value: &PlainText| {
            let addresses = tells.then(|| value.0.clone());
            LeaderEndpoint::new(&value.0, addresses)
        };
        // The node id is the address.
        let look_up = |node_id: String| async move { node_id };
        let name = address.clone();
        let services = Services::new(move |term| {
            Routes::new(EchoService::new(name.clone(), term.term.lock_revision).into_server())
        });
        Self {
            publishing: tokio::spawn(publish_roles(elector_handle.status(), roles, endpoint, look_up, |_| {
                Ok(Begun::new(()))
            })),
            electing: tokio::spawn(elector.run(cancel.child_token())),
            serving: tokio::spawn(listener.run(following, services, cancel.clone())),
            address,
            elector: elector_handle,
            listener: handle,
            cancel,
        }
    }

    async fn is(&self, wanted: fn(&ElectionStatus<PlainText>) -> bool) {
        let mut status = self.elector.status();
        in_time(status.wait_for(wanted)).await.unwrap();
    }

    fn client(&self) -> EchoClient<Channel> {
        let channel = Channel::from_shared(format!("http://{}", self.address)).unwrap();
        EchoClient::new(channel.connect_lazy())
    }

    async fn stop(self) {
        self.listener.unready();
        hand_over(&self.listener, &self.elector, WAIT_TIMEOUT, None).await;
        self.cancel.cancel();
        in_time(self.electing).await.unwrap();
        in_time(self.serving).await.unwrap().unwrap();
        in_time(self.publishing).await.unwrap();
    }
}

async fn node(client: &mut EchoClient<Channel>) -> String {
    let answer = in_time(client.say(SayRequest::default())).await.expect("no call fails");
    answer.into_inner().node
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_follow_the_leader_and_a_planned_shutdown_costs_none() {
    for tells in [true, false] {
        let cluster = MemoryCluster::new(1);
        let one = Instance::start(&cluster, 0, tells);
        one.is(|status| matches!(status, ElectionStatus::Leader(_))).await;
        let two = Instance::start(&cluster, 1, tells);
        two.is(|status| matches!(status, ElectionStatus::Follower(_))).await;
        let mut client = two.client();
        assert_eq!(node(&mut client).await, one.address, "the follower forwards");

        let first = one.address.clone();
        let stopping = tokio::spawn(one.stop());
        // Calls go on all the time, through the one that stays.
        let mut answered_by = first.clone();
        while answered_by == first {
            answered_by = node(&mut client).await;
        }
        assert_eq!(answered_by, two.address);
        in_time(stopping).await.unwrap();
        two.cancel.cancel();
        in_time(two.serving).await.unwrap().unwrap();
        in_time(two.electing).await.unwrap();
        in_time(two.publishing).await.unwrap();
    }
}
