//! A leader whose term is suspended: new calls wait for it, and what is open lives on.

use std::fmt::Debug;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use curator_listener::{LeaderSuspected, LeaderTerm, Role, TermGuard};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use crate::fixture::{Instance, config, follower_role, in_time, say, term};

/// A term that lasts, and that a test suspends.
#[derive(Clone)]
struct Suspendable {
    suspended: watch::Sender<bool>,
    /// Counts how often it was asked whether it is suspended.
    asked: Arc<AtomicUsize>,
    /// Is suspended when it is asked for the first time only: it resumes at once.
    once: bool,
}

impl Suspendable {
    fn new(suspended: bool, once: bool) -> Self {
        Self {
            suspended: watch::Sender::new(suspended),
            asked: Arc::default(),
            once,
        }
    }

    fn leading(&self) -> Instance {
        Instance::start(Role::Leader(LeaderTerm::new(term(1), self.clone())))
    }

    /// Completes when a call was found to be one for a suspended term.
    async fn is_asked(&self, times: usize) {
        while self.asked.load(Ordering::SeqCst) < times {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

#[async_trait]
impl TermGuard for Suspendable {
    fn is_valid(&self) -> bool {
        true
    }

    fn is_suspended(&self) -> bool {
        let asked = self.asked.fetch_add(1, Ordering::SeqCst);
        if self.once {
            asked == 0
        } else {
            *self.suspended.borrow()
        }
    }

    async fn resumed(&self) {
        if !self.once {
            let _ = self.suspended.subscribe().wait_for(|suspended| !*suspended).await;
        }
    }

    fn remaining(&self) -> Duration {
        Duration::from_secs(60)
    }

    async fn ended(&self) {
        std::future::pending::<()>().await;
    }
}

/// The call is not answered.
async fn is_held<T: Debug>(call: &mut JoinHandle<T>) {
    let early = tokio::time::timeout(Duration::from_millis(200), call).await;
    assert!(early.is_err(), "answered: {early:?}");
}

#[tokio::test]
async fn call_waits_while_the_term_is_suspended_and_is_served_when_it_resumes() {
    let guard = Suspendable::new(true, false);
    let leader = guard.leading();
    let mut client = leader.client();
    let mut waiting = tokio::spawn(async move { client.say(say(1)).await });
    in_time(guard.is_asked(1)).await;
    is_held(&mut waiting).await;
    guard.suspended.send_replace(false);
    in_time(waiting).await.unwrap().unwrap();
    leader.stop().await;
}

/// The term may resume between the decision to hold a call and the wait.
#[tokio::test]
async fn call_is_not_held_by_a_term_that_has_resumed_already() {
    let guard = Suspendable::new(true, true);
    let leader = guard.leading();
    // The limit of the hold is ten seconds.
    let answered = tokio::time::timeout(Duration::from_secs(5), leader.client().say(say(1))).await;
    answered.expect("served without a change of the role").unwrap();
    leader.stop().await;
}

#[tokio::test]
async fn follower_holds_a_call_that_a_suspended_leader_gives_back() {
    let guard = Suspendable::new(true, false);
    let leader = guard.leading();
    let follower = Instance::following(leader.address, 1);
    in_time(follower.serves(true)).await;
    let mut client = follower.client();
    let mut waiting = tokio::spawn(async move { client.say(say(1)).await });
    // It was given back, and sent again.
    in_time(guard.is_asked(2)).await;
    is_held(&mut waiting).await;
    guard.suspended.send_replace(false);
    in_time(waiting).await.unwrap().unwrap();
    follower.stop().await;
    leader.stop().await;
}

/// A host between a follower and its leader that passes everything on, until it is lost.
struct Host {
    address: SocketAddr,
    lost: watch::Sender<bool>,
}

impl Host {
    async fn before(leader: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, lost) = (listener.local_addr().unwrap(), watch::Sender::new(false));
        let is_lost = lost.subscribe();
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let far = TcpStream::connect(leader).await.unwrap();
                let ((near_read, near_write), (far_read, far_write)) = (near.into_split(), far.into_split());
                tokio::spawn(pass_on(near_read, far_write, is_lost.clone()));
                tokio::spawn(pass_on(far_read, near_write, is_lost.clone()));
            }
        });
        Self { address, lost }
    }
}

async fn pass_on(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, is_lost: watch::Receiver<bool>) {
    let mut bytes = vec![0; 16 << 10];
    while let Ok(read @ 1..) = from.read(&mut bytes).await {
        if *is_lost.borrow() {
            return std::future::pending().await;
        }
        to.write_all(&bytes[..read]).await.unwrap();
    }
}

/// Nobody knows whether a call that was sent to a dead leader ran, so it would fail.
#[tokio::test]
async fn call_that_arrives_after_the_host_of_the_leader_is_lost_goes_to_the_next_leader() {
    let (leader, _guard) = Instance::leading(1);
    let host = Host::before(leader.address).await;
    let (told, mut suspected) = mpsc::unbounded_channel();
    let mut config = config();
    config.leader_suspected = Some(LeaderSuspected::new(move |term| {
        let _ = told.send(term.clone());
    }));
    let follower = Instance::with(follower_role(host.address, 1), config, |service| service);
    in_time(follower.serves(true)).await;
    let mut client = follower.client();
    in_time(client.say(say(1))).await.unwrap();

    host.lost.send_replace(true);
    // Pings are answered no more: the leader was heard for the last time long ago, and is not suspected yet.
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(suspected.try_recv().is_err(), "suspected already");
    let mut waiting = tokio::spawn(async move { client.say(say(2)).await });
    assert_eq!(in_time(suspected.recv()).await, Some(term(1)));
    is_held(&mut waiting).await;
    let (next, _next_guard) = Instance::leading(2);
    follower.status.set(follower_role(next.address, 2));
    let answer = in_time(waiting).await.unwrap().unwrap();
    assert_eq!(answer.into_inner().node, next.name());
    follower.stop().await;
}

#[tokio::test]
async fn leader_that_cannot_be_connected_to_is_suspected_again_and_again_by_its_term() {
    // A port that was free a moment ago.
    let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    drop(socket);
    let (told, mut suspected) = mpsc::unbounded_channel();
    let mut config = config();
    config.leader_suspected = Some(LeaderSuspected::new(move |term| {
        let _ = told.send(term.clone());
    }));
    let follower = Instance::with(follower_role(address, 7), config, |service| service);
    for _ in 0..3 {
        assert_eq!(in_time(suspected.recv()).await, Some(term(7)));
    }
    follower.stop().await;
}
