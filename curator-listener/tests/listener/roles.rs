//! Dispatch by role: held, served, forwarded, ended.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use curator_echo::proto::{CountRequest, SayRequest};
use curator_listener::{Role, Services};
use tonic::service::Routes;
use tonic::{Code, Request, Status};

use crate::fixture::{
    Certificates, Instance, client, config, follower_role, from, in_time, leader_role, say, term, undetermined,
};
use crate::raw::{Answer, RawClient, RawLeader};

/// In-flight calls end within this of a change of role; and a bit, for a machine that is busy with other tests.
const AT_ONCE: Duration = Duration::from_millis(100 + 200);

fn endless() -> CountRequest {
    CountRequest {
        messages: 0,
        size: 1,
        pause_us: 5_000,
    }
}

fn slow() -> SayRequest {
    SayRequest {
        delay_ms: 60_000,
        ..say(1)
    }
}

#[tokio::test]
async fn a_held_call_goes_through_as_soon_as_a_leader_is_known() {
    let (leader, _) = Instance::leading(1);
    for here in [true, false] {
        let instance = Instance::start(undetermined());
        let mut client = instance.client();
        let calling = tokio::spawn(async move { client.say(say(5)).await });
        let mut stream_client = instance.client();
        let streaming = tokio::spawn(async move { stream_client.count(endless()).await });
        // Both are there before anybody leads.
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(!calling.is_finished());
        let name = if here {
            instance.status.set(leader_role(2).0);
            instance.name()
        } else {
            instance.status.set(follower_role(leader.address, 1));
            leader.name()
        };
        assert_eq!(in_time(calling).await.unwrap().unwrap().into_inner().node, name);
        let mut stream = in_time(streaming).await.unwrap().unwrap().into_inner();
        assert_eq!(in_time(stream.message()).await.unwrap().unwrap().node, name);
    }
}

#[tokio::test]
async fn a_held_call_is_refused_with_the_reason_before_its_deadline() {
    let instance = Instance::start(undetermined());
    let client = RawClient::connect(instance.address).await;
    let began = Instant::now();
    let answer = client.call("/a.B/C", &[("grpc-timeout", "500m")], b"x").await;
    assert_eq!(answer.code(), Some("14"), "{answer:?}");
    assert!(
        answer.message().contains("a%20test") || answer.message().contains("a test"),
        "{answer:?}"
    );
    assert!(began.elapsed() >= Duration::from_millis(400));
}

#[tokio::test]
async fn a_held_call_waits_no_longer_than_the_cap() {
    let mut config = config();
    config.hold_cap = Duration::from_millis(200);
    let instance = Instance::with(undetermined(), config, |service| service);
    let status = in_time(instance.client().say(say(1))).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert!(status.message().contains("nothing of the call ran"), "{status}");
}

#[tokio::test]
async fn only_so_many_calls_are_held() {
    let mut config = config();
    config.hold_limit = 10;
    let instance = Instance::with(undetermined(), config, |service| service);
    let mut calls = tokio::task::JoinSet::new();
    let mut client = instance.client();
    for id in 0..30 {
        let mut client = client.clone();
        calls.spawn(async move { client.say(say(id)).await });
    }
    for _ in 0..20 {
        let status = in_time(calls.join_next()).await.unwrap().unwrap().unwrap_err();
        assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
    }
    instance.status.set(leader_role(1).0);
    for _ in 0..10 {
        in_time(calls.join_next()).await.unwrap().unwrap().unwrap();
    }
    // The room is free again.
    instance.status.set(undetermined());
    let held = tokio::spawn(async move { client.say(say(1)).await });
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(!held.is_finished());
    instance.status.set(leader_role(2).0);
    in_time(held).await.unwrap().unwrap();
}

/// However many calls one peer makes while nobody leads, those of another one wait as well, and get through.
#[tokio::test]
async fn one_peer_does_not_take_all_the_room_of_those_who_wait() {
    let mut config = config();
    config.hold_limit = 512;
    let instance = Instance::with(undetermined(), config, |service| service);
    let mut many = Vec::new();
    let mut answers = tokio::task::JoinSet::new();
    for _ in 0..3 {
        let client = RawClient::over(from(66, instance.address).await, instance.address, 65_535)
            .await
            .unwrap();
        for _ in 0..256 {
            let (response, mut body) = client.begin("/curator.echo.v1.Echo/Say", &[]).await;
            body.send_data(Bytes::from_static(&[0; 5]), true).unwrap();
            answers.spawn(async move { Answer::read(response.await.unwrap()).await });
        }
        many.push(client);
    }
    // So many find no room at once.
    for _ in 0..256 {
        let refused = in_time(answers.join_next()).await.unwrap().unwrap();
        assert_eq!(refused.code(), Some("8"), "{refused:?}");
        let again: u64 = refused.headers["grpc-retry-pushback-ms"]
            .to_str()
            .unwrap()
            .parse()
            .unwrap();
        assert!((500..2_000).contains(&again), "{again}");
    }
    let mut others = tokio::task::JoinSet::new();
    for id in 0..100 {
        let mut caller = instance.client();
        others.spawn(async move { caller.say(say(id)).await });
    }
    // For each of them one makes room.
    for _ in 0..100 {
        let refused = in_time(answers.join_next()).await.unwrap().unwrap();
        assert_eq!(refused.code(), Some("8"), "{refused:?}");
        assert!(refused.headers.contains_key("grpc-retry-pushback-ms"));
    }
    instance.status.set(leader_role(1).0);
    while let Some(answer) = in_time(others.join_next()).await {
        answer.unwrap().expect("had its room");
    }
    while let Some(answer) = in_time(answers.join_next()).await {
        assert_eq!(answer.unwrap().code(), Some("0"));
    }
}

/// Nodes and users, whom the cluster knows, wait before strangers.
#[tokio::test]
async fn strangers_make_room_for_those_whom_the_cluster_knows() {
    let certificates = Certificates::new();
    let mut config = config();
    config.hold_limit = 64;
    config.tls = Some(certificates.tls());
    let instance = Instance::with(undetermined(), config, |service| service);
    let stranger = in_time(RawClient::secured(instance.address, Some(&certificates.stranger())))
        .await
        .unwrap();
    let known = in_time(RawClient::secured(instance.address, Some(&certificates.client())))
        .await
        .unwrap();
    let mut waiting = Vec::new();
    let mut strangers = tokio::task::JoinSet::new();
    for (client, mine) in [(&stranger, false), (&known, true)] {
        for _ in 0..64 {
            let (response, mut body) = client.begin("/curator.echo.v1.Echo/Say", &[]).await;
            body.send_data(Bytes::from_static(&[0; 5]), true).unwrap();
            if mine {
                waiting.push(response);
            } else {
                drop(strangers.spawn(async move { Answer::read(response.await.unwrap()).await }));
            }
        }
        if !mine {
            // They all wait, before the others come.
            let refused = in_time(stranger.try_call("/curator.echo.v1.Echo/Say")).await.unwrap();
            assert_eq!(refused.code(), Some("8"));
        }
    }
    while let Some(answer) = in_time(strangers.join_next()).await {
        assert_eq!(answer.unwrap().code(), Some("8"));
    }
    instance.status.set(leader_role(2).0);
    for response in waiting {
        let answer = Answer::read(in_time(response).await.unwrap()).await;
        assert_eq!(answer.code(), Some("0"), "{answer:?}");
    }
}

/// A unary call and a stream that are under way.
async fn under_way(instance: &Instance) -> (tokio::task::JoinHandle<Status>, tokio::task::JoinHandle<Status>) {
    let mut streams = instance.client();
    let mut stream = in_time(streams.count(endless())).await.unwrap().into_inner();
    in_time(stream.message()).await.unwrap().unwrap();
    let mut unary = instance.client();
    let unary = tokio::spawn(async move { unary.say(slow()).await.unwrap_err() });
    let stream = tokio::spawn(async move {
        loop {
            match stream.message().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("an end without a reason"),
                Err(status) => return status,
            }
        }
    });
    (unary, stream)
}

/// What the leader is running has begun when it says so.
async fn begun(running: &AtomicUsize, calls: usize) {
    let waiting = async {
        while running.load(Ordering::SeqCst) < calls {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    in_time(waiting).await;
}

fn recording() -> (Arc<AtomicUsize>, curator_echo::Record) {
    let running = Arc::new(AtomicUsize::new(0));
    let record = running.clone();
    (
        running,
        Arc::new(move |_| {
            record.fetch_add(1, Ordering::SeqCst);
        }),
    )
}

#[tokio::test]
async fn calls_under_way_end_with_the_role() {
    let (next, _) = Instance::leading(9);
    // At the leader itself, at a follower when the leader changes, and at a follower that becomes the leader.
    for (at_leader, becomes) in [
        (true, follower_role(next.address, 9)),
        (false, follower_role(next.address, 9)),
        (false, leader_role(9).0),
    ] {
        let (role, guard) = leader_role(1);
        let (running, record) = recording();
        let leader = Instance::with(role, config(), move |service| service.recording(record.clone()));
        let follower = Instance::following(leader.address, 1);
        let instance = if at_leader { &leader } else { &follower };
        let (unary, stream) = under_way(instance).await;
        begun(&running, 1).await;
        let began = Instant::now();
        let hinted = matches!(becomes, Role::Follower(_));
        // The news alone: a guard that ends before they are known ends calls as well, but nobody knows yet who is next.
        instance.status.set(becomes);
        for status in [in_time(unary).await.unwrap(), in_time(stream).await.unwrap()] {
            assert!(began.elapsed() < AT_ONCE, "{:?}", began.elapsed());
            assert_eq!(status.code(), Code::Unavailable, "{status}");
            assert!(status.message().contains("not known"), "it may have run: {status}");
            if hinted {
                let address = status.metadata().get("curator-leader-address").expect("where to go");
                assert_eq!(address, next.address.to_string().as_str());
            }
        }
        drop(guard);
    }
}

#[tokio::test]
async fn a_leader_that_lost_its_term_ends_its_calls_though_nobody_says_so() {
    let (role, guard) = leader_role(1);
    let (running, record) = recording();
    let leader = Instance::with(role, config(), move |service| service.recording(record.clone()));
    let (unary, stream) = under_way(&leader).await;
    begun(&running, 1).await;
    // The status still says that it leads.
    guard.end();
    for status in [in_time(unary).await.unwrap(), in_time(stream).await.unwrap()] {
        assert_eq!(status.code(), Code::Unavailable, "{status}");
    }
    let mut request = Request::new(say(2));
    request.set_timeout(Duration::from_millis(300));
    let status = in_time(leader.client().say(request)).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status}");
}

#[tokio::test]
async fn an_ended_leader_answers_nothing_even_if_its_election_hangs() {
    let (role, guard) = leader_role(1);
    let (running, record) = recording();
    let leader = Instance::with(role, config(), move |service| service.recording(record.clone()));
    let mut stream = in_time(leader.client().count(endless())).await.unwrap().into_inner();
    in_time(stream.message()).await.unwrap().unwrap();
    let mut unary = leader.client();
    let unary = tokio::spawn(async move {
        let request = SayRequest {
            delay_ms: 200,
            ..say(1)
        };
        unary.say(request).await
    });
    // An answer of headers alone: "there is no such node", say, from a leader that cannot know any more.
    let mut failing = leader.client();
    let failing = tokio::spawn(async move {
        let request = SayRequest {
            delay_ms: 200,
            fail_with: 5,
            ..say(2)
        };
        failing.say(request).await
    });
    begun(&running, 2).await;
    // Neither the status nor the guard wakes anybody: only who asks learns that the deadline has passed.
    guard.end_in_silence();
    let status = in_time(unary).await.unwrap().unwrap_err();
    assert_eq!(
        status.code(),
        Code::Unavailable,
        "an answer that was made in time and came too late: {status}"
    );
    let status = in_time(failing).await.unwrap().unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    let status = loop {
        match in_time(stream.message()).await {
            // What was on its way.
            Ok(message) => assert!(message.is_some()),
            Err(status) => break status,
        }
    };
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    // And nothing new is begun.
    let ran = running.load(Ordering::SeqCst);
    let mut request = Request::new(say(2));
    request.set_timeout(Duration::from_millis(300));
    let status = in_time(leader.client().say(request)).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    assert_eq!(running.load(Ordering::SeqCst), ran);
}

#[tokio::test]
async fn a_status_that_changes_nothing_ends_nothing() {
    let (role, _guard) = leader_role(1);
    let leader = Instance::start(role);
    let follower = Instance::following(leader.address, 1);
    let mut streams = Vec::new();
    for instance in [&leader, &follower] {
        let mut stream = in_time(instance.client().count(endless())).await.unwrap().into_inner();
        in_time(stream.message()).await.unwrap().unwrap();
        streams.push(stream);
    }
    leader.status.set(leader_role(1).0);
    follower.status.set(follower_role(leader.address, 1));
    // The same leader in the same term with one more address: new connections, and the old calls go on.
    let Role::Follower(mut same) = follower_role(leader.address, 1) else {
        unreachable!()
    };
    same.addresses.push("127.0.0.1:9".into());
    follower.status.set(Role::Follower(same));
    for stream in &mut streams {
        let began = Instant::now();
        while began.elapsed() < Duration::from_millis(300) {
            in_time(stream.message()).await.expect("goes on").expect("goes on");
        }
    }
}

#[tokio::test]
async fn the_leaders_services_are_made_once_a_term_and_dropped_at_its_end() {
    let made = Arc::new(AtomicUsize::new(0));
    let alive = Arc::new(());
    let services = {
        let (made, alive) = (made.clone(), alive.clone());
        move |address: std::net::SocketAddr| {
            Services::new(move |term| {
                made.fetch_add(1, Ordering::SeqCst);
                let alive = alive.clone();
                let record: curator_echo::Record = Arc::new(move |_| {
                    let _ = &alive;
                });
                let service = curator_echo::EchoService::new(address.port().to_string(), term.term.lock_revision);
                Routes::new(service.recording(record).into_server())
            })
        }
    };
    let (role, guard) = leader_role(1);
    let instance = Instance::serving(role, config(), services);
    let mut client = instance.client();
    for _ in 0..3 {
        in_time(client.say(say(1))).await.unwrap();
    }
    assert_eq!(made.load(Ordering::SeqCst), 1);
    guard.end();
    instance.status.set(undetermined());
    let gone = async {
        // Ours, and that of the factory.
        while Arc::strong_count(&alive) > 2 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    in_time(gone).await;
    instance.status.set(leader_role(2).0);
    assert_eq!(in_time(client.say(say(1))).await.unwrap().into_inner().term, 2);
    assert_eq!(made.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn instances_that_follow_each_other_refuse_rather_than_loop() {
    let mut config = config();
    config.hold_cap = Duration::from_millis(500);
    let first = Instance::with(undetermined(), config.clone(), |service| service);
    let second = Instance::with(follower_role(first.address, 1), config.clone(), |service| service);
    first.status.set(follower_role(second.address, 1));
    first.serves(true).await;
    let status = in_time(first.client().say(say(1))).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert!(status.message().contains("not-leader"), "{status}");
    assert!(
        !status.metadata().contains_key("curator-not-run"),
        "that is between instances"
    );

    let own = Instance::with(undetermined(), config, |service| service);
    own.status.set(follower_role(own.address, 1));
    let status = in_time(own.client().say(say(1))).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert!(status.message().contains("forwarded-to-itself"), "{status}");
}

#[tokio::test]
async fn a_leader_of_another_term_refuses_and_the_call_waits_for_the_right_one() {
    let (role, guard) = leader_role(7);
    let (running, record) = recording();
    let leader = Instance::with(role, config(), move |service| service.recording(record.clone()));
    // It has heard of a newer term of the same instance than that knows itself.
    let follower = Instance::following(leader.address, 8);
    follower.serves(true).await;
    let mut client = follower.client();
    let calling = tokio::spawn(async move { client.say(say(1)).await });
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(!calling.is_finished());
    assert_eq!(
        running.load(Ordering::SeqCst),
        0,
        "nothing runs in a term that it was not meant for"
    );
    guard.end();
    leader.status.set(leader_role(8).0);
    assert_eq!(in_time(calling).await.unwrap().unwrap().into_inner().term, 8);
    assert_eq!(running.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_forwarded_call_is_never_forwarded_again() {
    let mut leader = RawLeader::start().await;
    let follower = Instance::following(leader.address, 1);
    follower.serves(true).await;
    let client = RawClient::connect(follower.address).await;
    let answer = client
        .call("/a.B/C", &[("curator-forwarded-term", "1//leader/1")], b"x")
        .await;
    assert_eq!(answer.code(), Some("14"));
    assert_eq!(answer.headers["curator-not-run"], "not-leader");
    assert!(leader.is_quiet());
}

#[tokio::test]
async fn a_leader_without_an_address_is_waited_for_and_named() {
    let mut config = config();
    config.hold_cap = Duration::from_millis(200);
    let role = Role::Follower(curator_listener::Leader {
        node_id: "node-without".into(),
        addresses: Vec::new(),
        authorizes_forwarded: true,
        term: term(1),
    });
    let follower = Instance::with(role, config, |service| service);
    let status = in_time(follower.client().say(say(1))).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert!(status.message().contains("node-without"), "{status}");
    assert_eq!(status.metadata().get("curator-leader-id").unwrap(), "node-without");
}

#[tokio::test]
async fn leader_that_does_not_authorize_callers_is_never_dialled_and_named_to_callers() {
    let leader = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = leader.local_addr().unwrap();
    let Role::Follower(mut go) = follower_role(address, 1) else {
        panic!()
    };
    go.authorizes_forwarded = false;
    let follower = Instance::with(Role::Follower(go), config(), |service| service);
    let status = in_time(follower.client().say(say(1))).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert!(status.message().contains("call it directly"), "{status}");
    assert_eq!(
        status.metadata().get("curator-leader-address").unwrap(),
        &address.to_string()
    );
    follower.serves(false).await;
    // A connection to it would stand in the backlog: the call has been refused, and health is known.
    let dialled = futures::FutureExt::now_or_never(leader.accept());
    assert!(dialled.is_none(), "the follower has dialled it");
}

#[tokio::test]
async fn an_instance_without_election_says_so() {
    let mut status = curator_listener::MockStatusStream::new();
    let (sender, receiver) = tokio::sync::watch::channel(undetermined());
    status.expect_subscribe().return_const(receiver);
    let mut limits = config();
    limits.hold_cap = Duration::from_millis(300);
    let listener = curator_listener::Listener::bind(["127.0.0.1:0".parse().unwrap()], limits).unwrap();
    let address = listener.addresses()[0];
    let cancel = tokio_util::sync::CancellationToken::new();
    let running = tokio::spawn(listener.run(status, Services::new(|_| Routes::default()), cancel.clone()));
    drop(sender);
    let refused = in_time(client(address).say(say(1))).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable);
    assert!(refused.message().contains("the election has ended"), "{refused}");
    cancel.cancel();
    in_time(running).await.unwrap().unwrap();
}
