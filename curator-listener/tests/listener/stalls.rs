//! Calls whose reader has stopped: they freeze nobody else, and nothing piles up for them.

use std::time::Duration;

use bytes::Bytes;
use curator_echo::proto::CountRequest;

use crate::fixture::{Instance, client, config, in_time, say};
use crate::raw::{RawClient, RawLeader};

/// More than with gRPC's usual windows it takes to block all others.
const STALLED: usize = 150;

#[tokio::test(flavor = "multi_thread")]
async fn stalled_streams_do_not_freeze_other_callers() {
    let (leader, _guard) = Instance::leading(1);
    let follower = Instance::following(leader.address, 1);
    follower.serves(true).await;
    // Streams that are never read, all through one follower, of one client and of many.
    let fast = CountRequest {
        messages: 0,
        size: 30_000,
        pause_us: 0,
    };
    let one = client(follower.address);
    let mut stalled = Vec::new();
    for number in 0..STALLED {
        let mut caller = if number % 2 == 0 {
            one.clone()
        } else {
            client(follower.address)
        };
        stalled.push((in_time(caller.count(fast)).await.unwrap(), caller));
    }
    let mut caller = client(follower.address);
    for id in 0..50 {
        let answer = tokio::time::timeout(Duration::from_secs(5), caller.say(say(id))).await;
        answer.expect("is not frozen").unwrap();
    }
    // Nor are further streams.
    let mut stream = in_time(caller.count(CountRequest { messages: 20, ..fast }))
        .await
        .unwrap()
        .into_inner();
    let mut messages = 0;
    while in_time(stream.message()).await.unwrap().is_some() {
        messages += 1;
    }
    assert_eq!(messages, 20);
}

#[tokio::test]
async fn nothing_piles_up_behind_a_reader_that_has_stopped() {
    let mut leader = RawLeader::start().await;
    let follower = Instance::following(leader.address, 1);
    let client = RawClient::with_window(follower.address, 65_535).await;
    let (response, mut upload) = client.begin("/a.B/C", &[]).await;
    upload.send_data(Bytes::new(), true).unwrap();
    let mut seen = leader.next().await;
    let mut stream = seen.begin();
    let _unread = in_time(response).await.unwrap();
    // The leader sends whatever it is let.
    let chunk = Bytes::from(vec![1; 16 << 10]);
    let mut sent = 0;
    loop {
        stream.reserve_capacity(chunk.len());
        let capacity = std::future::poll_fn(|cx| stream.poll_capacity(cx));
        match tokio::time::timeout(Duration::from_millis(500), capacity).await {
            Ok(capacity) => {
                let capacity = capacity.unwrap().unwrap().min(chunk.len());
                stream.send_data(chunk.slice(..capacity), false).unwrap();
                sent += capacity;
            }
            Err(_) => break,
        }
    }
    // The follower's window, what it may buffer to send, and the client's window; however long it lasts.
    let most = config().stream_window as usize + (400 << 10) + 65_535 + chunk.len();
    assert!(sent <= most, "{sent} bytes of at most {most} are somewhere on the way");
    assert!(sent >= 65_535, "the test must have got as far as the stall");
}

#[tokio::test]
async fn nothing_piles_up_before_a_leader_that_does_not_read() {
    let mut leader = RawLeader::start().await;
    let follower = Instance::following(leader.address, 1);
    let client = RawClient::connect(follower.address).await;
    let (_response, mut upload) = client.begin("/a.B/C", &[]).await;
    let chunk = Bytes::from(vec![1; 16 << 10]);
    let mut sent = 0;
    let mut seen = None;
    loop {
        upload.reserve_capacity(chunk.len());
        let capacity = std::future::poll_fn(|cx| upload.poll_capacity(cx));
        match tokio::time::timeout(Duration::from_millis(500), capacity).await {
            Ok(capacity) => {
                let capacity = capacity.unwrap().unwrap().min(chunk.len());
                upload.send_data(chunk.slice(..capacity), false).unwrap();
                sent += capacity;
            }
            Err(_) => break,
        }
        if seen.is_none() {
            // Taken, and not read.
            seen = Some(leader.next().await);
        }
    }
    // The raw leader's window is 1 MiB, the follower's a quarter, and it may buffer 400 KiB.
    let most = (1 << 20) + config().stream_window as usize + (400 << 10) + chunk.len();
    assert!(sent <= most, "{sent} bytes of at most {most} are somewhere on the way");
    drop(seen);
}
