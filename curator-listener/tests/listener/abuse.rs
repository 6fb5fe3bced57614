//! Clients that mean no good, or know no better: bounded in what they cost, and others are served.

use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::Code;

use crate::raw::RawClient;
use crate::stage::{Instance, client, config, local, say, soon};

/// Waits until the other side closes.
async fn closed(stream: &mut TcpStream) -> bool {
    let mut buffer = [0; 1_024];
    loop {
        match soon(stream.read(&mut buffer)).await {
            Ok(0) | Err(_) => return true,
            Ok(_) => {}
        }
    }
}

#[tokio::test]
async fn a_client_that_says_nothing_is_cut_off() {
    let mut config = config();
    config.handshake_timeout = Duration::from_millis(200);
    let instance = Instance::with(local(1).0, config, |service| service);
    for beginning in [&b""[..], b"PRI * HTTP/2.0\r\n"] {
        let mut stream = TcpStream::connect(instance.address).await.unwrap();
        stream.write_all(beginning).await.unwrap();
        assert!(closed(&mut stream).await);
    }
    // What does not speak HTTP/2 at all is cut off at once.
    let mut stream = TcpStream::connect(instance.address).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    assert!(closed(&mut stream).await);
    soon(instance.client().say(say(1))).await.unwrap();
}

#[tokio::test]
async fn a_listener_that_is_dropped_drops_its_connections() {
    for threads in [0, 2] {
        let mut config = config();
        config.threads = threads;
        let instance = Instance::with(local(1).0, config, |service| service);
        let open = RawClient::connect(instance.address).await;
        assert_eq!(open.call("/a.B/C", &[], b"").await.code(), Some("12"));
        instance.running.abort();
        let gone = async {
            while open.is_open() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        soon(gone).await;
    }
}

#[tokio::test]
async fn a_connection_without_calls_is_closed_and_one_with_a_call_is_not() {
    let mut config = config();
    config.idle_timeout = Duration::from_millis(200);
    let instance = Instance::with(local(1).0, config, |service| service);
    let idle = RawClient::connect(instance.address).await;
    let mut busy = instance.client();
    let slow = curator_echo::proto::SayRequest {
        delay_ms: 1_000,
        ..say(1)
    };
    let calling = tokio::spawn(async move { busy.say(slow).await });
    let gone = async {
        while idle.is_open() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    soon(gone).await;
    soon(calling).await.unwrap().expect("it was not idle");
}

#[tokio::test]
async fn only_so_many_connections_are_taken() {
    let mut config = config();
    config.max_connections = 5;
    let instance = Instance::with(local(1).0, config, |service| service);
    let mut open = Vec::new();
    for _ in 0..5 {
        let client = RawClient::connect(instance.address).await;
        assert_eq!(client.call("/a.B/C", &[], b"").await.code(), Some("12"));
        open.push(client);
    }
    let mut stream = TcpStream::connect(instance.address).await.unwrap();
    assert!(closed(&mut stream).await);
    open.pop();
    // There is room again once the end of one has been noticed.
    let back = async {
        while client(instance.address).say(say(1)).await.is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    soon(back).await;
}

#[tokio::test]
async fn headers_that_are_too_long_are_refused() {
    let (leader, _guard) = Instance::leading(1);
    let mut caller = leader.client();
    let mut request = tonic::Request::new(say(1));
    request
        .metadata_mut()
        .insert("x-long", "x".repeat(100 << 10).parse().unwrap());
    let status = soon(caller.say(request)).await.unwrap_err();
    assert_ne!(status.code(), Code::Ok);
    soon(leader.client().say(say(2))).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_resets_ends_the_connection_and_nobody_elses() {
    let (leader, _guard) = Instance::leading(1);
    let follower = Instance::following(leader.address, 1);
    follower.serves(true).await;
    let flooding = RawClient::connect(follower.address).await;
    let mut other = follower.client();
    let mut sent = 0_u32;
    let began = Instant::now();
    while flooding.is_open() && sent < 200_000 && began.elapsed() < Duration::from_secs(10) {
        for _ in 0..100 {
            let Some((_, mut stream)) = flooding.try_begin("/curator.echo.v1.Echo/Say") else {
                break;
            };
            stream.send_reset(h2::Reason::CANCEL);
            sent += 1;
        }
        tokio::task::yield_now().await;
        if sent.is_multiple_of(10_000) {
            soon(other.say(say(1))).await.unwrap();
        }
    }
    soon(other.say(say(1))).await.expect("others are served");
    // Whatever became of the flood, nothing of it is left at the leader.
    soon(leader.client().say(say(1))).await.unwrap();
}

#[tokio::test]
async fn more_calls_than_a_connection_may_have_wait_at_the_client() {
    let mut config = config();
    config.max_concurrent_calls = 8;
    let instance = Instance::with(local(1).0, config, |service| service);
    let mut caller = instance.client();
    // Then it knows the limit: before, it may send more, which are refused, and not begun.
    soon(caller.say(say(0))).await.unwrap();
    let mut calls = tokio::task::JoinSet::new();
    for id in 0..100 {
        let mut caller = caller.clone();
        calls.spawn(async move {
            let request = curator_echo::proto::SayRequest {
                delay_ms: 5,
                payload: Bytes::from_static(b"x"),
                ..say(id)
            };
            caller.say(request).await
        });
    }
    while let Some(answer) = soon(calls.join_next()).await {
        answer.unwrap().expect("served in its turn");
    }
}

#[tokio::test]
async fn a_follower_takes_more_calls_than_one_connection_to_the_leader_holds() {
    let mut config = config();
    config.max_concurrent_calls = 8;
    let leader = Instance::with(local(1).0, config.clone(), |service| service);
    let follower = Instance::with(crate::stage::remote(leader.address, 1), config, |service| service);
    follower.serves(true).await;
    let mut streams = Vec::new();
    for _ in 0..60 {
        // A connection of its own each, as the nodes have.
        let mut caller = follower.client();
        let endless = curator_echo::proto::CountRequest {
            messages: 0,
            size: 1,
            pause_us: 1_000,
        };
        let mut stream = soon(caller.count(endless)).await.unwrap().into_inner();
        soon(stream.message()).await.unwrap().unwrap();
        streams.push((stream, caller));
    }
    soon(follower.client().say(say(1))).await.unwrap();
}
