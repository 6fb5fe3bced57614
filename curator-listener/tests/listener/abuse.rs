//! Abusive or faulty clients: their cost is bounded, and others are served.

use std::future::poll_fn;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::Code;

use crate::fixture::{
    Certificates, Instance, client, config, follower_role, from, in_time, leader_role, named, say, undetermined,
};
use crate::raw::{Answer, RawClient};
use crate::shared::Bystanders;

/// No such method; that is answered before the body is read.
const NOTHING: &str = "/curator.echo.v1.Echo/Nothing";

/// Without TLS, and with it.
fn both() -> [Option<Certificates>; 2] {
    [None, Some(Certificates::new())]
}

/// Waits until the peer closes the connection.
async fn closed(stream: &mut TcpStream) -> bool {
    let mut buffer = [0; 1_024];
    loop {
        match in_time(stream.read(&mut buffer)).await {
            Ok(0) | Err(_) => return true,
            Ok(_) => {}
        }
    }
}

#[tokio::test]
async fn a_client_that_says_nothing_is_cut_off() {
    let mut config = config();
    config.handshake_timeout = Duration::from_millis(200);
    let instance = Instance::with(leader_role(1).0, config, |service| service);
    for beginning in [&b""[..], b"PRI * HTTP/2.0\r\n"] {
        let mut stream = TcpStream::connect(instance.address).await.unwrap();
        stream.write_all(beginning).await.unwrap();
        assert!(closed(&mut stream).await);
    }
    // A client that does not speak HTTP/2 is disconnected at once.
    let mut stream = TcpStream::connect(instance.address).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    assert!(closed(&mut stream).await);
    in_time(instance.client().say(say(1))).await.unwrap();
}

#[tokio::test]
async fn a_listener_that_is_dropped_drops_its_connections() {
    for threads in [0, 2] {
        let mut config = config();
        config.threads = threads;
        let instance = Instance::with(leader_role(1).0, config, |service| service);
        let open = RawClient::connect(instance.address).await;
        assert_eq!(open.call("/a.B/C", &[], b"").await.code(), Some("12"));
        instance.running.abort();
        let gone = async {
            while open.is_open() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        in_time(gone).await;
    }
}

#[tokio::test]
async fn a_connection_without_calls_is_closed_and_one_with_a_call_is_not() {
    let mut config = config();
    config.idle_timeout = Duration::from_millis(200);
    let instance = Instance::with(leader_role(1).0, config, |service| service);
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
    in_time(gone).await;
    in_time(calling).await.unwrap().expect("it was not idle");
}

/// A call in flight goes on, and the connection ends with it.
#[tokio::test]
async fn a_connection_that_is_old_takes_nothing_new_and_loses_nothing() {
    let mut config = config();
    config.max_connection_age = Some(Duration::from_millis(300));
    let instance = Instance::with(leader_role(1).0, config, |service| service);
    let client = RawClient::connect(instance.address).await;
    // A request that has begun and not ended.
    let (response, mut body) = client.begin("/curator.echo.v1.Echo/Say", &[]).await;
    let refused = async {
        while client.try_begin("/curator.echo.v1.Echo/Say").is_some() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    in_time(refused).await;
    assert!(client.is_open());
    body.send_data(Bytes::from_static(&[0; 5]), true).unwrap();
    let answer = Answer::read(in_time(response).await.unwrap()).await;
    assert_eq!(answer.code(), Some("0"), "{answer:?}");
    let gone = async {
        while client.is_open() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    in_time(gone).await;
    in_time(instance.client().say(say(1))).await.unwrap();
}

/// A message above the limit of its service.
#[tokio::test]
async fn a_message_that_is_too_long_exhausts_a_resource() {
    let leader = Instance::serving(leader_role(1).0, config(), |address| {
        let service = curator_echo::EchoService::new(address.to_string(), 1);
        curator_listener::Services::new(move |_| {
            tonic::service::Routes::new(curator_echo::proto::echo_server::EchoServer::new(service.clone()))
        })
        .describe(curator_echo::FILE_DESCRIPTOR_SET)
        .unwrap()
    });
    let follower = Instance::following(leader.address, 1);
    follower.serves(true).await;
    for instance in [&leader, &follower] {
        let long = curator_echo::proto::SayRequest {
            payload: Bytes::from(vec![7; 5 << 20]),
            ..say(1)
        };
        let status = in_time(instance.client().say(long)).await.unwrap_err();
        assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
    }
}

#[tokio::test]
async fn only_so_many_connections_are_taken() {
    let mut config = config();
    config.max_connections = 5;
    config.handshake_timeout = Duration::from_secs(3_600);
    let instance = Instance::with(leader_role(1).0, config, |service| service);
    let mut open = Vec::new();
    for _ in 0..5 {
        let client = RawClient::connect(instance.address).await;
        assert_eq!(client.call("/a.B/C", &[], b"").await.code(), Some("12"));
        open.push(client);
    }
    let mut stream = TcpStream::connect(instance.address).await.unwrap();
    assert!(closed(&mut stream).await);
    open.pop();
    // There is room again once the end of a call has been noticed.
    let back = async {
        while client(instance.address).say(say(1)).await.is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    in_time(back).await;
}

#[tokio::test]
async fn headers_that_are_too_long_are_refused() {
    let (leader, _guard) = Instance::leading(1);
    let mut caller = leader.client();
    let mut request = tonic::Request::new(say(1));
    request
        .metadata_mut()
        .insert("x-long", "x".repeat(100 << 10).parse().unwrap());
    let status = in_time(caller.say(request)).await.unwrap_err();
    assert_ne!(status.code(), Code::Ok);
    in_time(leader.client().say(say(2))).await.unwrap();
}

/// A request that is not gRPC is refused by a leader and by a follower.
#[tokio::test]
async fn what_is_not_grpc_is_refused_as_http() {
    let (leader, _guard) = Instance::leading(1);
    let follower = Instance::following(leader.address, 1);
    follower.serves(true).await;
    for instance in [&leader, &follower] {
        let client = RawClient::connect(instance.address).await;
        for path in ["/curator.echo.v1.Echo/Say", "/grpc.health.v1.Health/Check"] {
            for (method, content_type, status) in [
                ("GET", Some("application/grpc"), 405),
                ("PUT", Some("application/grpc"), 405),
                ("POST", Some("text/plain"), 415),
                ("POST", Some("application/grpc-web"), 415),
                ("POST", None, 415),
                ("POST", Some("application/grpc+proto"), 200),
            ] {
                let answer = client.request(method, path, content_type).await;
                assert_eq!(answer.status(), status, "{method} {content_type:?}");
                assert_eq!(answer.headers().contains_key("grpc-status"), status == 200);
                let is_text = answer.headers()["content-type"] == "text/plain";
                assert_eq!(is_text, status != 200, "people can read it");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_resets_ends_the_connection_and_nobody_elses() {
    let (leader, _guard) = Instance::leading(1);
    let follower = Instance::following(leader.address, 1);
    follower.serves(true).await;
    let bystanders = Bystanders::begin(&follower, 10, None).await;
    let flooding = RawClient::connect(follower.address).await;
    let mut other = follower.client();
    let mut sent = 0_u32;
    let began = Instant::now();
    while flooding.is_open() && sent < 200_000 && began.elapsed() < Duration::from_secs(10) {
        for _ in 0..2_000 {
            let Some((_, mut stream)) = flooding.try_begin("/curator.echo.v1.Echo/Say") else {
                break;
            };
            stream.send_reset(h2::Reason::CANCEL);
            sent += 1;
        }
        tokio::task::yield_now().await;
        if sent.is_multiple_of(10_000) {
            in_time(other.say(say(1))).await.unwrap();
        }
    }
    let ended = async {
        while flooding.is_open() {
            tokio::task::yield_now().await;
        }
    };
    in_time(ended).await;
    in_time(other.say(say(1))).await.expect("others are served");
    let (broken, why) = bystanders.broken().await;
    assert_eq!(broken, 0, "{why:?}");
    // The flood has left nothing at the leader.
    in_time(leader.client().say(say(1))).await.unwrap();
}

#[tokio::test]
async fn more_calls_than_a_connection_may_have_wait_at_the_client() {
    let mut config = config();
    config.max_concurrent_calls = 8;
    let instance = Instance::with(leader_role(1).0, config, |service| service);
    let mut caller = instance.client();
    // After one answer it knows the limit. Before, it may send more calls, which are refused.
    in_time(caller.say(say(0))).await.unwrap();
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
    while let Some(answer) = in_time(calls.join_next()).await {
        answer.unwrap().expect("served in its turn");
    }
}

#[tokio::test]
async fn a_follower_takes_more_calls_than_one_connection_to_the_leader_holds() {
    let mut config = config();
    config.max_concurrent_calls = 8;
    let leader = Instance::with(leader_role(1).0, config.clone(), |service| service);
    let follower = Instance::with(crate::fixture::follower_role(leader.address, 1), config, |service| {
        service
    });
    follower.serves(true).await;
    let mut streams = Vec::new();
    for _ in 0..60 {
        // Each with its own connection, as nodes have.
        let mut caller = follower.client();
        let endless = curator_echo::proto::CountRequest {
            messages: 0,
            size: 1,
            pause_us: 1_000,
        };
        let mut stream = in_time(caller.count(endless)).await.unwrap().into_inner();
        in_time(stream.message()).await.unwrap().unwrap();
        streams.push((stream, caller));
    }
    in_time(follower.client().say(say(1))).await.unwrap();
}

/// Streams use all connections for streams, and more of them wait. The connections for unary calls stay available.
#[tokio::test]
async fn streams_leave_the_connections_of_unary_calls_alone() {
    let mut config = config();
    config.max_concurrent_calls = 4;
    let leader = Instance::with(leader_role(1).0, config.clone(), |service| service);
    let follower = Instance::with(crate::fixture::follower_role(leader.address, 1), config, |service| {
        service
    });
    follower.serves(true).await;
    let (opened, mut opens) = tokio::sync::mpsc::unbounded_channel();
    let mut storm = tokio::task::JoinSet::new();
    // Twice the capacity of both groups of connections.
    for _ in 0..1_024 {
        let (mut caller, opened) = (follower.client(), opened.clone());
        storm.spawn(async move {
            let endless = curator_echo::proto::CountRequest {
                messages: 0,
                size: 1,
                pause_us: 60_000_000,
            };
            if let Ok(stream) = caller.count(endless).await {
                let _ = opened.send(());
                let _ = stream.into_inner().message().await;
            }
            std::future::pending::<()>().await;
        });
    }
    // As many as the connections take.
    for _ in 0..256 {
        in_time(opens.recv()).await.unwrap();
    }
    for _ in 0..8 {
        in_time(follower.client().say(say(1))).await.unwrap();
    }
}

/// Strangers open connections and stop within their first bytes, more of them than the limit, before the handshake
/// timeout. A client that goes on is served at once.
#[tokio::test]
async fn those_who_hang_keep_nobody_out() {
    for certificates in both() {
        let mut config = config();
        config.handshake_timeout = Duration::from_secs(3_600);
        config.max_connections = 64;
        config.max_new_connections = 8;
        config.tls = certificates.as_ref().map(Certificates::tls);
        let instance = Instance::with(leader_role(1).0, config, |service| service);
        let tls = certificates.as_ref().map(Certificates::client);
        let mut hanging = Vec::new();
        // The beginning of a TLS record, and of the HTTP/2 preface.
        for words in [&b""[..], &[22, 3, 1, 1, 0, 1], b"PRI * HTTP/2.0\r\n"] {
            for _ in 0..80 {
                let mut stream = from(66, instance.address).await;
                // It may be closed before it has sent anything.
                let _ = stream.write_all(words).await;
                hanging.push(stream);
            }
            let honest = in_time(RawClient::secured(instance.address, tls.as_ref()))
                .await
                .unwrap();
            let answer = in_time(honest.try_call("/curator.echo.v1.Echo/Nothing")).await.unwrap();
            assert_eq!(answer.code(), Some("12"));
        }
        // Memory is bounded by their number: all but a few have been closed.
        let mut ends = tokio::task::JoinSet::new();
        let few = hanging.len() - 8;
        for mut stream in hanging {
            ends.spawn(async move { stream.read_to_end(&mut Vec::new()).await.map(drop) });
        }
        for _ in 0..few {
            assert!(in_time(ends.join_next()).await.is_some());
        }
    }
}

#[tokio::test]
async fn a_client_that_stalls_in_its_handshake_is_cut_off() {
    let certificates = Certificates::new();
    let mut config = config();
    config.handshake_timeout = Duration::from_millis(200);
    config.tls = Some(certificates.tls());
    let instance = Instance::with(leader_role(1).0, config, |service| service);
    for beginning in [&b""[..], &[22, 3, 1, 1, 0, 1]] {
        let mut stream = TcpStream::connect(instance.address).await.unwrap();
        stream.write_all(beginning).await.unwrap();
        assert!(closed(&mut stream).await);
    }
    // Single bytes do not prolong the timeout.
    let mut stream = TcpStream::connect(instance.address).await.unwrap();
    let mut sent = 0;
    let drip = async {
        for byte in [22, 3, 1, 1, 0].into_iter().chain(std::iter::repeat(1)) {
            if stream.write_all(&[byte]).await.is_err() {
                return;
            }
            sent += 1;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    in_time(drip).await;
    assert!(sent < 200, "{sent}");
    let honest = in_time(RawClient::secured(instance.address, Some(&certificates.client())))
        .await
        .unwrap();
    assert_eq!(in_time(honest.try_call(NOTHING)).await.unwrap().code(), Some("12"));
}

/// Connections without calls are the first to be closed for others.
#[tokio::test]
async fn those_who_never_call_make_room_for_those_who_do() {
    for certificates in both() {
        let mut config = config();
        config.max_connections = 5;
        config.tls = certificates.as_ref().map(Certificates::tls);
        let instance = Instance::with(leader_role(1).0, config, |service| service);
        let tls = certificates.as_ref().map(Certificates::client);
        let connect = || async {
            in_time(RawClient::secured(instance.address, tls.as_ref()))
                .await
                .unwrap()
        };
        let busy = connect().await;
        assert_eq!(in_time(busy.try_call(NOTHING)).await.unwrap().code(), Some("12"));
        let mut silent = Vec::new();
        for _ in 0..30 {
            silent.push(connect().await);
            assert_eq!(in_time(busy.try_call(NOTHING)).await.unwrap().code(), Some("12"));
        }
        let next = connect().await;
        assert_eq!(in_time(next.try_call(NOTHING)).await.unwrap().code(), Some("12"));
        let gone = async {
            while silent.iter().filter(|client| client.is_open()).count() > 3 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        in_time(gone).await;
        assert!(busy.is_open() && next.is_open());
    }
}

#[tokio::test]
async fn one_peer_does_not_get_all_seats() {
    let mut config = config();
    config.max_connections_per_peer = Some(3);
    // Otherwise a connection that is not refused would be closed by this timeout.
    config.handshake_timeout = Duration::from_secs(3_600);
    let instance = Instance::with(leader_role(1).0, config, |service| service);
    let mut open = Vec::new();
    for _ in 0..3 {
        let client = RawClient::over(from(66, instance.address).await, instance.address, 65_535)
            .await
            .unwrap();
        assert_eq!(in_time(client.try_call(NOTHING)).await.unwrap().code(), Some("12"));
        open.push(client);
    }
    assert!(closed(&mut from(66, instance.address).await).await);
    in_time(instance.client().say(say(1)))
        .await
        .expect("another peer's are free");
    assert!(open.iter().all(RawClient::is_open));
}

/// Sends as much of an endless request as the peer accepts. Returns how much that was, and the answer.
async fn upload(client: &RawClient, path: &str) -> (usize, Answer) {
    let (response, mut stream) = client.begin(path, &[("content-type", "application/grpc")]).await;
    let response = tokio::spawn(response);
    // The prefix of a message of 4 GiB.
    let mut piece = vec![0, 0xff, 0xff, 0xff, 0xff];
    piece.resize(16 << 10, 7);
    let piece = Bytes::from(piece);
    let mut sent = 0;
    let sending = async {
        loop {
            stream.reserve_capacity(piece.len());
            match poll_fn(|cx| stream.poll_capacity(cx)).await {
                Some(Ok(0)) => {}
                Some(Ok(capacity)) => {
                    let piece = piece.slice(..capacity.min(piece.len()));
                    if stream.send_data(piece.clone(), false).is_err() {
                        return;
                    }
                    sent += piece.len();
                }
                _ => return,
            }
        }
    };
    in_time(sending).await;
    (sent, Answer::read(in_time(response).await.unwrap().unwrap()).await)
}

/// The body of a call that is refused because of its headers is not read: at most one window is accepted, here and at
/// the leader.
#[tokio::test]
async fn a_request_that_is_refused_is_not_read() {
    for certificates in both() {
        let mut config = config();
        config.tls = certificates.as_ref().map(Certificates::tls);
        let window = usize::try_from(config.stream_window).unwrap();
        let leader = Instance::with(leader_role(1).0, config.clone(), |service| service);
        let follower = Instance::with(named(leader.address, 1), config, |service| service);
        follower.serves(true).await;
        let tls = certificates.as_ref().map(Certificates::client);
        for (instance, windows) in [(&leader, 1), (&follower, 3)] {
            let client = in_time(RawClient::secured(instance.address, tls.as_ref()))
                .await
                .unwrap();
            let (sent, answer) = upload(&client, NOTHING).await;
            assert_eq!(answer.code(), Some("12"));
            assert!(sent <= windows * window, "{sent} bytes of {windows} windows");
            assert_eq!(in_time(client.try_call(NOTHING)).await.unwrap().code(), Some("12"));
        }
    }
}

/// Endless headers: HTTP/2 continues them from frame to frame.
#[tokio::test]
async fn headers_without_an_end_end_the_connection() {
    let instance = Instance::with(leader_role(1).0, config(), |service| service);
    let mut stream = TcpStream::connect(instance.address).await.unwrap();
    let frame = |kind: u8, payload: &[u8]| {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let stream = u8::from(kind != 4);
        let mut frame = vec![length[1], length[2], length[3], kind, 0, 0, 0, 0, stream];
        frame.extend_from_slice(payload);
        frame
    };
    // A literal field without indexing: name `a`, and a value of 100 bytes.
    let mut field = vec![0x00, 0x01, b'a', 100];
    field.resize(104, b'x');
    let block = field.repeat(150);
    let mut first = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    first.extend(frame(4, &[]));
    first.extend(frame(1, &block));
    stream.write_all(&first).await.unwrap();
    let continuation = frame(9, &block);
    let mut sent = 0_usize;
    let flood = async {
        while stream.write_all(&continuation).await.is_ok() {
            sent += continuation.len();
        }
    };
    in_time(flood).await;
    // Data in the kernel's buffers counts as sent.
    assert!(sent < 16 << 20, "{sent}");
    in_time(instance.client().say(say(1))).await.unwrap();
}

/// Without a retry budget, waiting calls still succeed: each is sent once.
#[tokio::test]
async fn what_is_kept_of_requests_is_bounded_and_nobody_is_refused_for_it() {
    let mut config = config();
    config.max_kept_bytes = 0;
    let (leader, _guard) = Instance::leading(1);
    let follower = Instance::with(undetermined(), config, |service| service);
    let calls: Vec<_> = (0..50)
        .map(|id| {
            let mut caller = follower.client();
            tokio::spawn(async move { caller.say(say(id)).await })
        })
        .collect();
    follower.status.set(follower_role(leader.address, 1));
    for call in calls {
        in_time(call).await.unwrap().expect("sent once, which is enough");
    }
}

/// As many simultaneous handshakes as possible, on one thread: calls go on meanwhile, and every handshake succeeds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_handshakes_does_not_stop_calls() {
    let certificates = Arc::new(Certificates::new());
    let mut config = config();
    config.threads = 1;
    config.tls = Some(certificates.tls());
    let instance = Instance::with(leader_role(1).0, config, |service| service);
    let caller = RawClient::secured(instance.address, Some(&certificates.client()))
        .await
        .unwrap();
    let mut flood = tokio::task::JoinSet::new();
    for _ in 0..300 {
        let (address, tls) = (instance.address, certificates.client());
        flood.spawn(async move { RawClient::secured(address, Some(&tls)).await.is_ok() });
    }
    let over = tokio_util::sync::CancellationToken::new();
    let calling = tokio::spawn({
        let over = over.clone();
        async move {
            let mut calls = 0;
            while !over.is_cancelled() {
                let answer = in_time(caller.try_call(NOTHING)).await.expect("an answer");
                assert_eq!(answer.code(), Some("12"));
                calls += 1;
            }
            calls
        }
    });
    while let Some(done) = in_time(flood.join_next()).await {
        assert!(done.unwrap(), "a handshake was refused");
    }
    over.cancel();
    let calls = in_time(calling).await.unwrap();
    assert!(calls > 10, "{calls} calls during the flood");
}

/// A stranger may learn who leads and where, as `CuratorLocal` reports, but no errors of the system or of TLS.
#[tokio::test]
async fn a_refusal_says_nothing_of_the_inside() {
    let [_, certificates] = both();
    let nobody = {
        let socket = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        socket.local_addr().unwrap()
    };
    // A leader without TLS.
    let plain = Instance::with(leader_role(1).0, config(), |service| service);
    for (leader, tls) in [(nobody, None), (plain.address, certificates.as_ref())] {
        let mut config = config();
        config.hold_cap = Duration::from_millis(300);
        config.tls = tls.map(Certificates::tls);
        let follower = Instance::with(named(leader, 1), config, |service| service);
        let tls = tls.map(Certificates::client);
        let client = in_time(RawClient::secured(follower.address, tls.as_ref()))
            .await
            .unwrap();
        let answer = in_time(client.try_call("/curator.echo.v1.Echo/Say")).await.unwrap();
        assert_eq!(answer.code(), Some("14"));
        let message = answer.message();
        assert!(
            message.contains("it%20cannot%20be%20connected%20to") || message.contains("it cannot be connected to"),
            "{message}"
        );
        for inside in ["os error", "efused", "certificate", "corrupt", "tls", "TLS"] {
            assert!(!message.contains(inside), "{inside}: {message}");
        }
    }
}
