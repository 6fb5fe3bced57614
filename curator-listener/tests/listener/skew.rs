//! Instances with different protocol versions: an older leader, leaders that are too old or too new, and future
//! calls.

use crate::fixture::{Instance, in_time};
use crate::raw::{RawClient, RawLeader, Seen, pair};

fn begin(client: &std::sync::Arc<RawClient>, timeout: &'static str) -> tokio::task::JoinHandle<crate::raw::Answer> {
    let client = client.clone();
    tokio::spawn(async move { client.call("/a.B/C", &[("grpc-timeout", timeout)], b"all of it").await })
}

fn refuse(mut seen: Seen, takes: Option<&str>) {
    let mut refusal = http::Response::builder()
        .header("grpc-status", "14")
        .header("curator-not-run", "version");
    if let Some(takes) = takes {
        refusal = refusal.header("curator-forwarded-version", takes);
    }
    seen.respond.send_response(refusal.body(()).unwrap(), true).unwrap();
}

/// The caller may use another instance, so it gets an answer at once, and not the leader's refusal.
#[tokio::test]
async fn an_instance_that_may_not_forward_sends_its_callers_elsewhere() {
    let (mut leader, _follower, client) = pair().await;
    let client = std::sync::Arc::new(client);
    let calling = begin(&client, "15S");
    let refusal = http::Response::builder()
        .header("grpc-status", "7")
        .header("grpc-message", "only%20members")
        .header("curator-not-run", "no-member");
    let mut seen = leader.next().await;
    seen.respond.send_response(refusal.body(()).unwrap(), true).unwrap();
    let answer = in_time(calling).await.unwrap();
    assert_eq!(answer.code(), Some("14"), "{answer:?}");
    assert!(
        !answer.headers.contains_key("curator-not-run"),
        "that is between instances"
    );
    assert!(answer.headers.contains_key("curator-leader-id"), "{answer:?}");
}

#[tokio::test]
async fn an_older_leader_is_spoken_to_in_its_own_version() {
    let (mut leader, _follower, client) = pair().await;
    let client = std::sync::Arc::new(client);
    let calling = begin(&client, "15S");
    let seen = leader.next().await;
    assert_eq!(seen.header("curator-forwarded-version"), Some("1"));
    refuse(seen, None);
    let mut seen = leader.next().await;
    assert_eq!(
        seen.header("curator-forwarded-version"),
        None,
        "as it was before there was one"
    );
    assert_eq!(seen.body().await.as_ref(), b"all of it");
    seen.answer(b"done");
    let answer = in_time(calling).await.unwrap();
    assert_eq!((answer.code(), answer.body.as_ref()), (Some("0"), b"done".as_slice()));
    // Later calls are not refused any more.
    let calling = begin(&client, "15S");
    let seen = leader.next().await;
    assert_eq!(seen.header("curator-forwarded-version"), None);
    seen.answer(b"done");
    assert_eq!(in_time(calling).await.unwrap().code(), Some("0"));
    assert!(leader.is_quiet());
}

#[tokio::test]
async fn a_leader_that_is_too_far_apart_costs_the_call_and_says_what_to_do() {
    for takes in ["3", "x"] {
        let (mut leader, _follower, client) = pair().await;
        let calling = begin(&std::sync::Arc::new(client), "300m");
        let refusing = tokio::spawn(async move {
            loop {
                let seen = leader.next().await;
                assert_eq!(seen.header("curator-forwarded-version"), Some("1"));
                refuse(seen, Some(takes));
            }
        });
        let answer = in_time(calling).await.unwrap();
        assert_eq!(answer.code(), Some("14"), "{answer:?}");
        assert!(answer.message().contains("upgrade%20the%20older") || answer.message().contains("upgrade the older"));
        assert!(
            answer.message().contains("nothing") && answer.message().contains("ran"),
            "{}",
            answer.message()
        );
        assert!(!answer.headers.contains_key("curator-forwarded-version"));
        refusing.abort();
    }
}

#[tokio::test]
async fn what_is_forwarded_in_a_version_to_come_does_not_run() {
    let leader = RawLeader::start().await;
    let instance = Instance::following(leader.address, 1);
    instance.serves(true).await;
    let client = RawClient::connect(instance.address).await;
    for version in ["2", "77", "rubbish"] {
        let marks = [
            ("curator-forwarded-term", "1//leader/1"),
            ("curator-forwarded-version", version),
        ];
        let answer = client.call("/a.B/C", &marks, b"x").await;
        assert_eq!(answer.code(), Some("14"));
        assert_eq!(answer.headers["curator-not-run"], "version");
        assert_eq!(answer.headers["curator-forwarded-version"], "1");
        assert!(answer.message().contains("upgrade"), "{}", answer.message());
    }
}
