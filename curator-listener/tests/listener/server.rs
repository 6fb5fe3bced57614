//! What clients expect of a gRPC server: many calls on one connection, a status for each refusal, and an address that
//! answers until the process cannot help any more.

use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::task::JoinSet;
use tonic::Code;

use crate::fixture::{Certificates, Instance, client, config, from, in_time, leader_role, message, say, undetermined};
use crate::raw::{Answer, RawClient};
use crate::shared::{Bystanders, Bytewise, endless};

const SAY: &str = "/curator.echo.v1.Echo/Say";
const COUNT: &str = "/curator.echo.v1.Echo/Count";

/// Clients use one connection for all calls. A call above the limit waits in the client, invisibly.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_calls_fit_on_one_connection() {
    let (leader, _guard) = Instance::leading(1);
    let follower = Instance::following(leader.address, 1);
    follower.serves(true).await;
    for instance in [&leader, &follower] {
        let mut caller = client(instance.address);
        let mut streams = Vec::new();
        for _ in 0..600 {
            let quiet = curator_echo::proto::CountRequest {
                pause_us: 60_000_000,
                ..endless()
            };
            streams.push(in_time(caller.count(quiet)).await.unwrap());
        }
        in_time(caller.say(say(1))).await.unwrap();
    }
}

/// Strangers get as many calls as clients assume by default, and a few more.
#[tokio::test]
async fn strangers_have_fewer_calls_at_a_time() {
    let certificates = Certificates::new();
    let mut config = config();
    config.tls = Some(certificates.tls());
    let instance = Instance::with(undetermined(), config, |service| service);
    for (tls, calls) in [(certificates.stranger(), 128), (certificates.client(), 1_024)] {
        let client = in_time(RawClient::secured(instance.address, Some(&tls))).await.unwrap();
        // After one answer the client knows the limits.
        let health = in_time(client.try_call("/grpc.health.v1.Health/Nothing")).await;
        assert!(health.is_some());
        assert_eq!(client.most_calls(), calls);
    }
}

/// A client that cancels many calls at once, repeatedly and while the server is busy, keeps its open calls.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_that_are_given_up_at_once_cost_no_other_of_the_same_client() {
    let certificates = Certificates::new();
    for (tls, rounds) in [(None, 40), (Some(certificates.stranger()), 5)] {
        let mut config = config();
        config.tls = tls.as_ref().map(|_| certificates.tls());
        let instance = Instance::with(leader_role(1).0, config, |service| service);
        let bystanders = Bystanders::begin(&instance, 3, tls.as_ref().map(|_| &certificates)).await;
        let caller = in_time(RawClient::secured(instance.address, tls.as_ref()))
            .await
            .unwrap();
        let (watching, mut request) = caller.begin(COUNT, &[]).await;
        request.send_data(message(&endless()), true).unwrap();
        let mut watching = in_time(watching).await.unwrap().into_body();
        // Refused because of their heads, while their messages are in transit.
        let piece = Bytes::from(vec![0; 1_000]);
        for _ in 0..rounds {
            let mut calls = Vec::new();
            for _ in 0..100 {
                let (response, mut body) = caller.begin("/curator.echo.v1.Echo/Nothing", &[]).await;
                // It may have been refused.
                let _ = body.send_data(piece.clone(), false);
                calls.push((response, body));
            }
            tokio::task::yield_now().await;
            for (_, body) in &mut calls {
                let _ = body.send_data(piece.clone(), false);
            }
            drop(calls);
            let data = in_time(watching.data()).await.unwrap().expect("goes on");
            watching.flow_control().release_capacity(data.len()).unwrap();
        }
        assert!(caller.is_open());
        let (broken, why) = bystanders.broken().await;
        assert_eq!(broken, 0, "{why:?}");
    }
}

/// A call with too much metadata is refused, and the other calls of the connection go on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heads_that_are_too_long_get_a_status_on_their_stream() {
    let certificates = Certificates::new();
    let (server, known, stranger) = (certificates.tls(), certificates.client(), certificates.stranger());
    let mut encrypted = config();
    encrypted.tls = Some(server);
    let instance = Instance::with(leader_role(1).0, encrypted, |service| service);
    for (tls, longest) in [(known, 1_000 << 10), (stranger, 240 << 10)] {
        let caller = in_time(RawClient::secured(instance.address, Some(&tls))).await.unwrap();
        let (watching, mut request) = caller.begin(COUNT, &[]).await;
        request.send_data(message(&endless()), true).unwrap();
        let mut watching = in_time(watching).await.unwrap().into_body();
        for length in [100 << 10, 200 << 10, longest] {
            // Text values, as long as HTTP libraries accept.
            let values: Vec<String> = (0..length / (16 << 10)).map(|_| "abcdefgh".repeat(2 << 10)).collect();
            let names: Vec<String> = (0..values.len()).map(|number| format!("x-{number}")).collect();
            let headers: Vec<_> = names
                .iter()
                .zip(&values)
                .map(|(n, v)| (n.as_str(), v.as_str()))
                .collect();
            let answer = caller.call(SAY, &headers, &message(&say(1))).await;
            assert_eq!(answer.code(), Some("8"), "{length}: {answer:?}");
        }
        // A head above the read limit ends its own call.
        let value = "abcdefgh".repeat(longest / 8 / 4);
        let headers = ["x-1", "x-2", "x-3", "x-4", "x-5"].map(|name| (name, value.as_str()));
        let (response, mut body) = caller.begin(SAY, &headers[..]).await;
        let _ = body.send_data(message(&say(1)), true);
        let status = in_time(response).await.map(|response| response.status().as_u16());
        assert_eq!(status.ok(), Some(431));
        in_time(watching.data()).await.unwrap().expect("goes on");
    }
}

/// gRPC's C library sends its whole target as the authority if it is a list. HTTP/2 rejects such an authority, which
/// only costs the call; `docs/operations.md` says what to set.
#[tokio::test]
async fn an_authority_that_is_a_list_costs_its_call_and_no_more() {
    let (leader, _guard) = Instance::leading(1);
    let mut caller = Bytewise::connect(leader.address).await;
    for (stream, authority) in (1..)
        .step_by(2)
        .zip(["10.0.0.1:7835,10.0.0.2:7835", "10.0.0.1:7835%2C10.0.0.2:7835"])
    {
        caller.begin_at(stream, authority, SAY).await;
        caller.resets(1).await;
    }
    caller.begin_at(5, "curator", "/curator.echo.v1.Echo/Nothing").await;
    caller.answer().await;
}

/// A client that knows only one address can connect until the instance cannot help any more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_that_stops_listens_as_long_as_it_can_help() {
    let (leader, _guard) = Instance::leading(1);
    let follower = Instance::following(leader.address, 1);
    follower.serves(true).await;
    // The drain waits for it as long as it may.
    let mut stream = in_time(follower.client().count(endless())).await.unwrap().into_inner();
    in_time(stream.message()).await.unwrap().unwrap();
    follower.cancel.cancel();
    let began = Instant::now();
    let mut last = Duration::ZERO;
    loop {
        // A new connection each time, as command line tools do.
        match tokio::time::timeout(Duration::from_secs(5), client(follower.address).say(say(1))).await {
            Ok(Ok(answer)) => {
                assert_eq!(answer.into_inner().node, leader.name());
                last = began.elapsed();
            }
            Ok(Err(status)) => {
                assert_eq!(status.code(), Code::Unavailable, "{status}");
                break;
            }
            Err(_) => panic!("a call hangs"),
        }
    }
    let most = config().drain_limit;
    assert!(last > most * 3 / 4, "answered for {last:?} only");
    in_time(follower.running).await.unwrap().unwrap();
    assert!(began.elapsed() < most + Duration::from_secs(2), "{:?}", began.elapsed());
}

/// After a failover thousands of clients reopen their streams while there is no leader. Each stream is served in the
/// end or refused with a retry delay, and unary calls find room beside them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_that_are_opened_anew_by_thousands_are_served_or_told_when_to_come_again() {
    const PEERS: u8 = 50;
    const EACH: usize = 100;
    const HOLD_LIMIT: usize = 4_096;
    let mut limited = config();
    limited.hold_limit = HOLD_LIMIT;
    let instance = Instance::with(undetermined(), limited, |service| service);
    let mut answers = JoinSet::new();
    let mut clients = Vec::new();
    for peer in 0..PEERS {
        let stream = from(100 + peer, instance.address).await;
        let client = RawClient::over(stream, instance.address, 65_535).await.unwrap();
        for _ in 0..EACH {
            let (response, mut body) = client.begin(COUNT, &[]).await;
            let short = curator_echo::proto::CountRequest {
                messages: 1,
                ..endless()
            };
            body.send_data(message(&short), true).unwrap();
            answers.spawn(async move { Answer::read(response.await.unwrap()).await });
        }
        clients.push(client);
    }
    let told = |answer: &Answer| {
        let again = answer.headers["grpc-retry-pushback-ms"].to_str().unwrap();
        let again: u64 = again.parse().unwrap();
        assert!((500..2_000).contains(&again), "{again}");
    };
    // Calls above the limit are refused at once.
    let too_many = usize::from(PEERS) * EACH - HOLD_LIMIT;
    for _ in 0..too_many {
        let answer = in_time(answers.join_next()).await.unwrap().unwrap();
        assert_eq!(answer.code(), Some("8"), "{answer:?}");
        told(&answer);
    }
    // Calls of other callers find room.
    let mut others = JoinSet::new();
    for peer in 0..50 {
        let stream = from(200 + peer % 50, instance.address).await;
        let client = RawClient::over(stream, instance.address, 65_535).await.unwrap();
        others.spawn(async move { client.call(SAY, &[], &message(&say(u64::from(peer)))).await });
    }
    for _ in 0..50 {
        let answer = in_time(answers.join_next()).await.unwrap().unwrap();
        assert_eq!(answer.code(), Some("8"), "it made room: {answer:?}");
        told(&answer);
    }
    instance.status.set(leader_role(1).0);
    while let Some(answer) = in_time(others.join_next()).await {
        assert_eq!(answer.unwrap().code(), Some("0"));
    }
    let mut served = 0;
    while let Some(answer) = in_time(answers.join_next()).await {
        let answer = answer.unwrap();
        assert_eq!(answer.code(), Some("0"), "{answer:?}");
        served += 1;
    }
    assert_eq!(served, HOLD_LIMIT - 50);
    // No leader again, for longer than calls wait.
    let mut short = config();
    short.hold_cap = Duration::from_millis(100);
    let leaderless = Instance::with(undetermined(), short, |service| service);
    let client = RawClient::connect(leaderless.address).await;
    let answer = client.call(COUNT, &[], &message(&endless())).await;
    assert_eq!(answer.code(), Some("14"), "{answer:?}");
    told(&answer);
}
