//! A forwarded call is the call that was made: any method, any kind, any size, with all of its metadata.

use std::time::Duration;

use bytes::Bytes;
use curator_echo::proto::{CountRequest, SayRequest};
use futures::StreamExt;
use http::HeaderMap;
use tonic::{Code, Request};

use crate::fixture::{Instance, config, follower_role, in_time, leader_role, say};
use crate::raw::{Answer, RawClient, RawLeader};

/// A leader, and who forwards to it: called directly and through the follower.
async fn pair() -> (Instance, Instance) {
    let (leader, _) = Instance::leading(1);
    let follower = Instance::following(leader.address, 1);
    follower.serves(true).await;
    (leader, follower)
}

#[tokio::test]
async fn all_four_kinds_are_forwarded() {
    let (leader, follower) = pair().await;
    all_kinds(leader, follower).await;
}

#[tokio::test]
async fn all_four_kinds_are_forwarded_on_threads_of_their_own() {
    let mut config = config();
    config.threads = 3;
    let leader = Instance::with(leader_role(1).0, config.clone(), |service| service);
    let follower = Instance::with(follower_role(leader.address, 1), config, |service| service);
    follower.handle.reaches_leader().await;
    // Each connection is another thread's.
    for id in 0..10 {
        assert_eq!(
            in_time(follower.client().say(say(id))).await.unwrap().into_inner().id,
            id
        );
    }
    all_kinds(leader, follower).await;
}

async fn all_kinds(leader: Instance, follower: Instance) {
    for instance in [&leader, &follower] {
        let mut client = instance.client();
        let answer = in_time(client.say(say(7))).await.unwrap().into_inner();
        assert_eq!((answer.id, answer.node, answer.term), (7, leader.name(), 1));

        let request = CountRequest {
            messages: 100,
            size: 3_000,
            pause_us: 0,
        };
        let stream = in_time(client.count(request)).await.unwrap().into_inner();
        let ids: Vec<u64> = in_time(stream.map(|message| message.unwrap().id).collect()).await;
        assert_eq!(ids, (0..100).collect::<Vec<_>>());

        let messages = (0..100).map(|id| SayRequest {
            payload: Bytes::from(vec![1; 2_000]),
            ..say(id)
        });
        let sum = in_time(client.sum(futures::stream::iter(messages)))
            .await
            .unwrap()
            .into_inner();
        assert_eq!((sum.messages, sum.bytes), (100, 200_000));

        // Each message waits for the answer to the one before: nothing is batched on the way.
        let (sender, receiver) = tokio::sync::mpsc::channel::<SayRequest>(1);
        let requests = futures::stream::unfold(receiver, |mut receiver| async move {
            Some((receiver.recv().await?, receiver))
        });
        let chat = client.chat(requests);
        sender.send(say(0)).await.unwrap();
        let mut answers = in_time(chat).await.unwrap().into_inner();
        for id in 0..20 {
            assert_eq!(in_time(answers.message()).await.unwrap().unwrap().id, id);
            sender.send(say(id + 1)).await.unwrap();
        }
        drop(sender);
        assert_eq!(in_time(answers.message()).await.unwrap().unwrap().id, 20);
        assert!(
            in_time(answers.message()).await.unwrap().is_none(),
            "the end of the requests gets through"
        );
    }
    follower.stop().await;
    leader.stop().await;
}

#[tokio::test]
async fn large_messages_pass() {
    let (_leader, follower) = pair().await;
    let payload = Bytes::from((0..20_000_000_u32).map(|n| n.to_le_bytes()[1]).collect::<Vec<_>>());
    let request = SayRequest {
        payload: payload.clone(),
        ..say(1)
    };
    let answer = in_time(follower.client().say(request)).await.unwrap().into_inner();
    assert!(answer.payload == payload, "20 MB there and back");
}

#[tokio::test]
async fn metadata_and_status_details_survive() {
    let (leader, follower) = pair().await;
    let mut seen = Vec::new();
    for instance in [&leader, &follower] {
        let mut request = Request::new(say(1));
        let metadata = request.metadata_mut();
        metadata.append("x-many", "one".parse().unwrap());
        metadata.append("x-many", "two".parse().unwrap());
        metadata.append_bin(
            "x-data-bin",
            tonic::metadata::MetadataValue::from_bytes(&[0, 1, 254, 255]),
        );
        let response = in_time(instance.client().say(request)).await.unwrap();
        let many: Vec<_> = response.metadata().get_all("x-many").iter().cloned().collect();
        assert_eq!(many, ["one", "two"]);
        let data = response.metadata().get_bin("x-data-bin").unwrap();
        assert_eq!(data.to_bytes().unwrap().as_ref(), [0, 1, 254, 255]);

        let request = SayRequest { fail_with: 9, ..say(1) };
        let status = in_time(instance.client().say(request)).await.unwrap_err();
        seen.push((status.code(), status.message().to_owned(), status.details().to_vec()));
    }
    assert_eq!(seen[0], (Code::FailedPrecondition, "as asked".to_owned(), vec![8, 1]));
    assert_eq!(seen[0], seen[1]);
}

#[tokio::test]
async fn a_method_that_nobody_has_heard_of_is_forwarded_as_it_is() {
    let mut leader = RawLeader::start().await;
    let follower = Instance::following(leader.address, 1);
    let client = RawClient::connect(follower.address).await;
    // A message that is marked as compressed, in an encoding that nobody knows, with bytes that are no message.
    let body = b"\x01\x00\x00\x00\x04\xff\xfe\x00\x01";
    let headers = [
        ("grpc-encoding", "x-own"),
        ("user-agent", "one/1"),
        ("curator-not-run", "not for others"),
    ];
    let calling = tokio::spawn(async move { client.call("/who.Knows/What?x=1", &headers, body).await });

    let mut seen = leader.next().await;
    assert_eq!(seen.request.uri().path_and_query().unwrap(), "/who.Knows/What?x=1");
    assert_eq!(seen.header("grpc-encoding"), Some("x-own"));
    assert_eq!(seen.header("user-agent"), Some("one/1"), "nothing is added to it");
    assert_eq!(seen.header("te"), Some("trailers"));
    assert_eq!(seen.header("curator-forwarded-term"), Some("1//leader/1"));
    assert_eq!(
        seen.header("curator-forwarded-authority"),
        Some(follower.address.to_string().as_str())
    );
    assert_eq!(
        seen.header("curator-not-run"),
        None,
        "what is between instances a client cannot say"
    );
    assert_eq!(seen.body().await.as_ref(), body);
    let mut answer = seen.begin();
    answer
        .send_data(Bytes::from_static(b"\x01\x00\x00\x00\x01\xfe"), false)
        .unwrap();
    let mut trailers = HeaderMap::new();
    for (name, value) in [
        ("grpc-status", "77"),
        ("x-bin", "//4="),
        ("x-bin", "AA"),
        ("grpc-status-details-bin", "CAE"),
    ] {
        trailers.append(name, value.parse().unwrap());
    }
    answer.send_trailers(trailers.clone()).unwrap();

    let Answer {
        headers,
        body,
        trailers: received,
    } = in_time(calling).await.unwrap();
    assert_eq!(headers["content-type"], "application/grpc");
    assert_eq!(body.as_ref(), b"\x01\x00\x00\x00\x01\xfe");
    assert_eq!(received, trailers);
}

#[tokio::test]
async fn an_early_error_reaches_a_client_that_is_still_sending() {
    let mut leader = RawLeader::start().await;
    let follower = Instance::following(leader.address, 1);
    let client = RawClient::connect(follower.address).await;
    let (response, mut upload) = client.begin("/a.B/C", &[]).await;
    upload.send_data(Bytes::from_static(b"the beginning"), false).unwrap();
    let mut seen = leader.next().await;
    let refusal = http::Response::builder()
        .header("grpc-status", "3")
        .header("grpc-message", "not like this");
    seen.respond.send_response(refusal.body(()).unwrap(), true).unwrap();
    let answer = Answer::read(in_time(response).await.unwrap()).await;
    assert_eq!(answer.code(), Some("3"));
    assert_eq!(answer.message(), "not like this");
}

#[tokio::test]
async fn a_client_that_cancels_cancels_at_the_leader() {
    let mut leader = RawLeader::start().await;
    let follower = Instance::following(leader.address, 1);
    let client = RawClient::connect(follower.address).await;

    // Before the answer has begun.
    let (response, mut upload) = client.begin("/a.B/C", &[]).await;
    upload.send_data(Bytes::from_static(b"x"), true).unwrap();
    let mut seen = leader.next().await;
    seen.body().await;
    upload.send_reset(h2::Reason::CANCEL);
    drop(response);
    let reason = in_time(std::future::poll_fn(|cx| seen.respond.poll_reset(cx)))
        .await
        .unwrap();
    assert_eq!(reason, h2::Reason::CANCEL);

    // In the middle of the answer, while the request goes on.
    let (response, mut upload) = client.begin("/a.B/C", &[]).await;
    upload.send_data(Bytes::from_static(b"x"), false).unwrap();
    let mut seen = leader.next().await;
    let mut answer = seen.begin();
    answer.send_data(Bytes::from_static(b"y"), false).unwrap();
    let mut body = in_time(response).await.unwrap().into_body();
    assert_eq!(in_time(body.data()).await.unwrap().unwrap().as_ref(), b"y");
    drop((body, upload));
    let reason = in_time(std::future::poll_fn(|cx| answer.poll_reset(cx))).await.unwrap();
    assert_eq!(reason, h2::Reason::CANCEL);
    // What the leader reads is the same: the request was broken off.
    let stream = seen.request.body_mut();
    assert_eq!(in_time(stream.data()).await.unwrap().unwrap().as_ref(), b"x");
    assert!(in_time(stream.data()).await.unwrap().is_err());
}

#[tokio::test]
async fn a_client_that_is_gone_is_no_end_of_its_request() {
    let mut leader = RawLeader::start().await;
    let follower = Instance::following(leader.address, 1);
    for answered in [false, true] {
        let client = RawClient::connect(follower.address).await;
        let (_response, mut upload) = client.begin("/a.B/C", &[]).await;
        upload.send_data(Bytes::from_static(b"half of it"), false).unwrap();
        let mut seen = leader.next().await;
        let _answer = answered.then(|| seen.begin());
        let stream = seen.request.body_mut();
        assert_eq!(in_time(stream.data()).await.unwrap().unwrap().as_ref(), b"half of it");
        // The connection goes down, without a word.
        drop((client, upload));
        let end = in_time(stream.data()).await;
        assert!(matches!(end, Some(Err(_))), "answered: {answered}: {end:?}");
    }
}

#[tokio::test]
async fn who_does_not_want_to_be_forwarded_is_told_where_to_go() {
    let (leader, follower) = pair().await;
    let mut request = Request::new(say(1));
    request
        .metadata_mut()
        .insert("curator-no-forward", "1".parse().unwrap());
    let status = in_time(follower.client().say(request)).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    let address = status.metadata().get("curator-leader-address").unwrap();
    assert_eq!(address, leader.address.to_string().as_str());
    assert!(status.metadata().get("curator-leader-id").is_some());
}

#[tokio::test]
async fn the_time_that_was_spent_is_taken_off_the_timeout() {
    let mut leader = RawLeader::start().await;
    let follower = Instance::start(crate::fixture::undetermined());
    let client = RawClient::connect(follower.address).await;
    let calling = tokio::spawn(async move { client.call("/a.B/C", &[("grpc-timeout", "8S")], b"x").await });
    // Held for a while, most of which is after its arrival even on a machine that is busy.
    tokio::time::sleep(Duration::from_millis(500)).await;
    follower.status.set(follower_role(leader.address, 1));
    let seen = leader.next().await;
    let left = seen.header("grpc-timeout").unwrap();
    let (number, unit) = left.split_at(left.len() - 1);
    assert_eq!(unit, "u", "{left}");
    let left: u64 = number.parse().unwrap();
    assert!(left <= 7_800_000, "{left} us are left of 8 s after 500 ms");
    seen.answer(b"");
    assert_eq!(in_time(calling).await.unwrap().code(), Some("0"));
}

#[tokio::test]
async fn a_timeout_that_is_none_is_refused() {
    let (leader, follower) = pair().await;
    for instance in [&leader, &follower] {
        let client = RawClient::connect(instance.address).await;
        let answer = client
            .call("/curator.echo.v1.Echo/Say", &[("grpc-timeout", "soon")], b"\0\0\0\0\0")
            .await;
        assert_eq!(answer.code(), Some("3"), "{answer:?}");
    }
}
