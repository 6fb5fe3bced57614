//! A call is sent again only if it provably did not run.

use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::net::TcpListener;

use crate::fixture::{Instance, config, follower_role, in_time};
use crate::raw::{Order, RawClient, RawLeader, Seen, goes_away_naming, pair};

fn begin(client: RawClient, body: &'static [u8]) -> tokio::task::JoinHandle<crate::raw::Answer> {
    tokio::spawn(async move { client.call("/a.B/C", &[("grpc-timeout", "15S")], body).await })
}

#[tokio::test]
async fn a_refused_stream_is_sent_again_with_its_whole_body() {
    let (mut leader, _follower, client) = pair().await;
    let calling = begin(client, b"all of it");
    for _ in 0..2 {
        let mut seen = leader.next().await;
        assert_eq!(seen.body().await.as_ref(), b"all of it");
        seen.respond.send_reset(h2::Reason::REFUSED_STREAM);
    }
    let mut seen = leader.next().await;
    assert_eq!(seen.body().await.as_ref(), b"all of it");
    seen.answer(b"done");
    let answer = in_time(calling).await.unwrap();
    assert_eq!((answer.code(), answer.body.as_ref()), (Some("0"), b"done".as_slice()));
}

#[tokio::test]
async fn what_the_receiver_says_it_did_not_run_is_sent_again() {
    let (mut leader, _follower, client) = pair().await;
    let calling = begin(client, b"all of it");
    let mut seen = leader.next().await;
    let refusal = http::Response::builder()
        .header("grpc-status", "14")
        .header("curator-not-run", "not-leader");
    seen.respond.send_response(refusal.body(()).unwrap(), true).unwrap();
    let mut seen = leader.next().await;
    assert_eq!(seen.body().await.as_ref(), b"all of it");
    seen.answer(b"done");
    assert_eq!(in_time(calling).await.unwrap().code(), Some("0"));
}

#[tokio::test]
async fn a_leader_that_is_going_away_keeps_what_it_has_and_gets_nothing_new() {
    let (mut leader, follower, client) = pair().await;
    let first = begin(client, b"first");
    let running = leader.next().await;
    let old = running.connection;
    leader.order(Order::GoAway);
    // A call that comes before or after the follower has noticed runs once, on another connection.
    let client = RawClient::connect(follower.address).await;
    let second = begin(client, b"second");
    let seen: Seen = loop {
        let mut seen = leader.next().await;
        if seen.connection != old && seen.body().await.as_ref() == b"second" {
            break seen;
        }
    };
    seen.answer(b"two");
    assert_eq!(in_time(second).await.unwrap().body.as_ref(), b"two");
    running.answer(b"one");
    assert_eq!(
        in_time(first).await.unwrap().body.as_ref(),
        b"one",
        "what was running is answered"
    );
    assert!(leader.is_quiet());
}

/// The stream id in GOAWAY decides: streams above it never ran.
async fn after_goaway(last_stream: u32) -> (tokio::task::JoinHandle<crate::raw::Answer>, RawLeader) {
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    let follower = Instance::following(address, 1);
    let client = RawClient::connect(follower.address).await;
    let calling = begin(client, b"all of it");
    assert_eq!(goes_away_naming(last_stream, &socket).await, 1);
    // The follower must live as long as the test.
    std::mem::forget(follower);
    (calling, RawLeader::on(socket))
}

#[tokio::test]
async fn a_call_above_the_last_stream_of_a_goaway_is_sent_again() {
    let (calling, mut leader) = after_goaway(0).await;
    let mut seen = leader.next().await;
    assert_eq!(seen.body().await.as_ref(), b"all of it");
    seen.answer(b"done");
    assert_eq!(in_time(calling).await.unwrap().body.as_ref(), b"done");
}

#[tokio::test]
async fn a_call_that_a_goaway_names_as_processed_is_not_sent_again() {
    let (calling, mut leader) = after_goaway(1).await;
    let answer = in_time(calling).await.unwrap();
    assert_eq!(answer.code(), Some("14"), "{answer:?}");
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(leader.is_quiet());
}

#[tokio::test]
async fn a_call_that_may_have_run_is_not_sent_again() {
    let (mut leader, _follower, client) = pair().await;
    let calling = begin(client, b"x");
    let mut seen = leader.next().await;
    seen.body().await;
    leader.order(Order::Close);
    let answer = in_time(calling).await.unwrap();
    assert_eq!(answer.code(), Some("14"), "{answer:?}");
    assert!(answer.message().replace("%20", " ").contains("not known"), "{answer:?}");
    // The connections come back, the call does not.
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(leader.is_quiet());
}

#[tokio::test]
async fn a_call_that_the_leader_broke_off_is_not_sent_again() {
    let (mut leader, _follower, client) = pair().await;
    let calling = begin(client, b"x");
    let mut seen = leader.next().await;
    seen.respond.send_reset(h2::Reason::INTERNAL_ERROR);
    assert_eq!(in_time(calling).await.unwrap().code(), Some("14"));
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(leader.is_quiet());
}

#[tokio::test]
async fn a_leader_that_dies_in_mid_stream_reads_unavailable() {
    let (mut leader, _follower, client) = pair().await;
    let calling = begin(client, b"x");
    let mut seen = leader.next().await;
    let mut stream = seen.begin();
    stream.send_data(Bytes::from_static(b"the beginning"), false).unwrap();
    // Sent before the connection ends.
    let flushed = leader.next();
    tokio::time::timeout(Duration::from_millis(100), flushed)
        .await
        .map(drop)
        .unwrap_err();
    leader.order(Order::Close);
    let answer = in_time(calling).await.unwrap();
    assert_eq!(answer.code(), Some("14"), "{answer:?}");
    assert_eq!(answer.body.as_ref(), b"the beginning");
}

#[tokio::test]
async fn a_request_too_long_to_be_kept_is_refused_rather_than_sent_in_part() {
    let (mut leader, _follower, client) = pair().await;
    let long: &'static [u8] = Box::leak(vec![1; 200_000].into_boxed_slice());
    let (response, mut upload) = client.begin("/a.B/C", &[]).await;
    upload.reserve_capacity(long.len());
    let mut rest = Bytes::from_static(long);
    let mut seen = leader.next().await;
    let uploading = tokio::spawn(async move {
        while !rest.is_empty() {
            let Some(Ok(capacity)) = std::future::poll_fn(|cx| upload.poll_capacity(cx)).await else {
                return;
            };
            let piece = rest.split_to(capacity.min(rest.len()));
            upload.send_data(piece, rest.is_empty()).unwrap();
        }
    });
    assert_eq!(seen.body().await.len(), long.len());
    in_time(uploading).await.unwrap();
    seen.respond.send_reset(h2::Reason::REFUSED_STREAM);
    let answer = crate::raw::Answer::read(in_time(response).await.unwrap()).await;
    assert_eq!(answer.code(), Some("14"));
    assert!(answer.message().contains("too"), "{answer:?}");
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(leader.is_quiet());
}

#[tokio::test]
async fn a_leader_that_does_not_listen_yet_is_waited_for() {
    let reserved = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = reserved.local_addr().unwrap();
    drop(reserved);
    let follower = Instance::following(address, 1);
    let client = RawClient::connect(follower.address).await;
    let calling = begin(client, b"x");
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(!calling.is_finished());
    let mut leader = RawLeader::on(TcpListener::bind(address).await.unwrap());
    leader.next().await.answer(b"");
    assert_eq!(in_time(calling).await.unwrap().code(), Some("0"));
}

#[tokio::test]
async fn a_leader_that_accepts_and_says_nothing_costs_no_call_its_deadline() {
    // The kernel accepts connections for a process that hangs.
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let follower = Instance::following(socket.local_addr().unwrap(), 1);
    let client = RawClient::connect(follower.address).await;
    let began = Instant::now();
    let answer = client.call("/a.B/C", &[("grpc-timeout", "700m")], b"x").await;
    assert_eq!(answer.code(), Some("14"), "{answer:?}");
    assert!(
        began.elapsed() < Duration::from_millis(700 + 100),
        "{:?}",
        began.elapsed()
    );
    let mut serving = follower.handle.serving();
    assert!(!*serving.borrow_and_update());
}

#[tokio::test]
async fn a_leader_that_hangs_is_noticed_within_the_bound() {
    let mut config = config();
    config.leader_ping_interval = Duration::from_millis(300);
    config.leader_ping_timeout = Duration::from_millis(300);
    let mut leader = RawLeader::start().await;
    let follower = Instance::with(follower_role(leader.address, 1), config, |service| service);
    follower.serves(true).await;
    let client = RawClient::connect(follower.address).await;
    // Without a deadline.
    let calling = tokio::spawn(async move { client.call("/a.B/C", &[], b"x").await });
    let _seen = leader.next().await;
    let began = Instant::now();
    leader.order(Order::Hang);
    let answer = in_time(calling).await.unwrap();
    assert_eq!(answer.code(), Some("14"), "{answer:?}");
    // Worst case: an interval without a ping, a ping that is not answered, and a margin for a busy machine.
    assert!(
        began.elapsed() < Duration::from_millis(900 + 300),
        "{:?}",
        began.elapsed()
    );
}
