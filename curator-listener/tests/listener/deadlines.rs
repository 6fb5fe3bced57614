//! No call outlasts its deadline, wherever it is.

use std::time::{Duration, Instant};

use curator_echo::proto::{CountRequest, SayRequest};
use tonic::{Code, Request};

use crate::fixture::{Instance, in_time, say};
use crate::raw::{RawClient, RawLeader};

const DEADLINE: Duration = Duration::from_millis(400);
/// No call may be late by more.
const LATE: Duration = Duration::from_millis(100);

#[tokio::test]
async fn a_stream_ends_at_its_deadline() {
    let (leader, _) = Instance::leading(1);
    let follower = Instance::following(leader.address, 1);
    follower.serves(true).await;
    for instance in [&leader, &follower] {
        // Asked for without tonic's client, whose own timer would hide ours.
        let client = RawClient::connect(instance.address).await;
        let endless = prost::Message::encode_to_vec(&CountRequest {
            messages: 0,
            size: 1,
            pause_us: 1_000,
        });
        let mut body = vec![0];
        body.extend_from_slice(&u32::try_from(endless.len()).unwrap().to_be_bytes());
        body.extend_from_slice(&endless);
        let began = Instant::now();
        let answer = client
            .call("/curator.echo.v1.Echo/Count", &[("grpc-timeout", "400m")], &body)
            .await;
        let took = began.elapsed();
        assert_eq!(answer.code(), Some("4"), "{:?}", answer.trailers);
        assert!(!answer.body.is_empty());
        assert!(took >= DEADLINE && took < DEADLINE + LATE * 3, "{took:?}");
    }
}

#[tokio::test]
async fn a_unary_call_ends_at_its_deadline() {
    let (leader, _) = Instance::leading(1);
    let follower = Instance::following(leader.address, 1);
    follower.serves(true).await;
    for instance in [&leader, &follower] {
        let slow = SayRequest {
            delay_ms: 60_000,
            ..say(1)
        };
        let mut request = Request::new(slow);
        request.set_timeout(DEADLINE);
        let status = in_time(instance.client().say(request)).await.unwrap_err();
        // tonic's client calls its own expiry CANCELLED; either may be first.
        assert!(
            matches!(status.code(), Code::DeadlineExceeded | Code::Cancelled),
            "{status}"
        );
    }
}

#[tokio::test]
async fn the_follower_ends_a_call_whose_leader_does_not() {
    let mut leader = RawLeader::start().await;
    let follower = Instance::following(leader.address, 1);
    for begin in [false, true] {
        let client = RawClient::connect(follower.address).await;
        let calling = tokio::spawn(async move {
            let began = Instant::now();
            let answer = client.call("/a.B/C", &[("grpc-timeout", "400m")], b"x").await;
            (answer, began.elapsed())
        });
        let mut seen = leader.next().await;
        let stream = begin.then(|| seen.begin());
        let (answer, took) = in_time(calling).await.unwrap();
        assert_eq!(answer.code(), Some("4"), "{answer:?}");
        assert!(took >= DEADLINE && took < DEADLINE + LATE * 3, "{took:?}");
        // And the leader is told.
        let reset = match stream {
            Some(mut stream) => in_time(std::future::poll_fn(|cx| stream.poll_reset(cx))).await,
            None => in_time(std::future::poll_fn(|cx| seen.respond.poll_reset(cx))).await,
        };
        assert_eq!(reset.unwrap(), h2::Reason::CANCEL);
    }
}
