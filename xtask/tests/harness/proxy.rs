//! The faults of the TCP proxy, as the two ends see them.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use curator_harness::{Direction, Flow, TcpProxy, wait_until};

const SOON: Duration = Duration::from_secs(10);
/// How long silence is listened to. Too short a time could only make a test pass that should fail.
const SILENCE: Duration = Duration::from_millis(200);

/// Sends back what it gets, in upper case, and counts its connections and bytes.
struct Echo {
    address: SocketAddr,
    accepted: Arc<AtomicUsize>,
    received: Arc<AtomicUsize>,
    thread: Option<JoinHandle<()>>,
}

impl Echo {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (accepted, received) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let counts = (Arc::clone(&accepted), Arc::clone(&received));
        let thread = thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                if counts.0.fetch_add(1, Ordering::SeqCst) == usize::MAX / 2 {
                    return;
                }
                let received = Arc::clone(&counts.1);
                thread::spawn(move || {
                    let mut chunk = [0; 65_536];
                    while let Ok(count @ 1..) = stream.read(&mut chunk) {
                        received.fetch_add(count, Ordering::SeqCst);
                        chunk[..count].make_ascii_uppercase();
                        if stream.write_all(&chunk[..count]).is_err() {
                            break;
                        }
                    }
                });
            }
        });
        Self {
            address,
            accepted,
            received,
            thread: Some(thread),
        }
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.accepted.store(usize::MAX / 2, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
        let _ = self.thread.take().unwrap().join();
    }
}

fn connect(proxy: &TcpProxy) -> TcpStream {
    let stream = TcpStream::connect(proxy.address()).unwrap();
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    stream
}

fn read(stream: &mut TcpStream, count: usize) -> String {
    let mut bytes = vec![0; count];
    stream.read_exact(&mut bytes).unwrap();
    String::from_utf8(bytes).unwrap()
}

fn assert_silent(stream: &mut TcpStream) {
    stream.set_read_timeout(Some(SILENCE)).unwrap();
    let error = stream.read(&mut [0; 1]).unwrap_err();
    assert!(
        matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
        "{error}"
    );
    stream.set_read_timeout(Some(SOON)).unwrap();
}

#[test]
fn bytes_pass_both_ways_and_are_counted() {
    let echo = Echo::start();
    let proxy = TcpProxy::start(echo.address).unwrap();
    let mut client = connect(&proxy);
    client.write_all(b"hello").unwrap();
    assert_eq!(read(&mut client, 5), "HELLO");
    let stats = proxy.stats();
    assert_eq!(
        (stats.accepted, stats.open, stats.bytes_to_server, stats.bytes_to_client),
        (1, 1, 5, 5)
    );

    // The end of one direction is passed on, and the other end's answer comes back all the same.
    client.write_all(b"bye").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    let mut rest = String::new();
    client.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "BYE");
    wait_until("the end of the connection", SOON, || {
        (proxy.stats().open == 0).then_some(())
    })
    .unwrap();
}

#[test]
fn much_data_passes_unharmed() {
    let echo = Echo::start();
    let proxy = TcpProxy::start(echo.address).unwrap();
    let mut client = connect(&proxy);
    let sent: Vec<u8> = (0..20_000_000_u32)
        .map(|n| b'A' + (n.wrapping_mul(2_654_435_761) >> 24) as u8 % 26)
        .collect();
    let mut writing = client.try_clone().unwrap();
    let to_write = sent.clone();
    let writer = thread::spawn(move || writing.write_all(&to_write).unwrap());
    let mut received = vec![0; sent.len()];
    client.read_exact(&mut received).unwrap();
    writer.join().unwrap();
    assert!(received == sent);
}

#[test]
fn a_black_hole_accepts_and_answers_nothing_and_later_everything() {
    let echo = Echo::start();
    let proxy = TcpProxy::start(echo.address).unwrap();
    let mut old = connect(&proxy);
    old.write_all(b"a").unwrap();
    assert_eq!(read(&mut old, 1), "A");

    proxy.blackhole();
    old.write_all(b"one ").unwrap();
    old.write_all(b"two").unwrap();
    let mut new = connect(&proxy);
    new.write_all(b"three").unwrap();
    assert_silent(&mut old);
    assert_silent(&mut new);
    assert_eq!(echo.received.load(Ordering::SeqCst), 1, "something came through");
    assert_eq!(echo.accepted.load(Ordering::SeqCst), 1, "the target was connected to");

    // Whoever gives up meanwhile was never connected.
    let gone = connect(&proxy);
    drop(gone);
    wait_until("the end of the one that gave up", SOON, || {
        let stats = proxy.stats();
        (stats.accepted == 3 && stats.open == 2).then_some(())
    })
    .unwrap();

    proxy.pass().unwrap();
    assert_eq!(read(&mut old, 7), "ONE TWO");
    assert_eq!(read(&mut new, 5), "THREE");
    assert_eq!(echo.accepted.load(Ordering::SeqCst), 2);
}

#[test]
fn one_direction_is_held_alone() {
    let echo = Echo::start();
    let proxy = TcpProxy::start(echo.address).unwrap();
    let mut client = connect(&proxy);
    proxy.set(Direction::ToClient, Flow::Hold);
    client.write_all(b"hello").unwrap();
    wait_until("the bytes to arrive", SOON, || {
        (echo.received.load(Ordering::SeqCst) == 5).then_some(())
    })
    .unwrap();
    assert_silent(&mut client);
    proxy.set(Direction::ToClient, Flow::Pass);
    assert_eq!(read(&mut client, 5), "HELLO");

    proxy.set(Direction::ToServer, Flow::Hold);
    client.write_all(b"again").unwrap();
    assert_silent(&mut client);
    assert_eq!(echo.received.load(Ordering::SeqCst), 5);
    proxy.set(Direction::ToServer, Flow::Pass);
    assert_eq!(read(&mut client, 5), "AGAIN");
}

#[test]
fn each_chunk_is_delayed_from_its_own_arrival_and_in_order() {
    let echo = Echo::start();
    let proxy = TcpProxy::start(echo.address).unwrap();
    let mut client = connect(&proxy);
    let delay = Duration::from_secs(1);
    let slack = Duration::from_millis(400);
    proxy.set(Direction::ToClient, Flow::Delay(delay));
    let first = Instant::now();
    client.write_all(b"a").unwrap();
    thread::sleep(delay / 2);
    let second = Instant::now();
    client.write_all(b"b").unwrap();
    assert_eq!(read(&mut client, 1), "A");
    assert!(first.elapsed() >= delay);
    assert_eq!(read(&mut client, 1), "B");
    assert!(second.elapsed() >= delay);
    assert!(
        second.elapsed() < delay + slack,
        "the second waited for the first one's delay as well"
    );

    // A delay that is taken away holds nothing back.
    proxy.set(Direction::ToClient, Flow::Delay(Duration::from_secs(600)));
    client.write_all(b"c").unwrap();
    assert_silent(&mut client);
    proxy.set(Direction::ToClient, Flow::Pass);
    assert_eq!(read(&mut client, 1), "C");
}

#[test]
fn connections_are_closed_once_or_refused_for_long() {
    let echo = Echo::start();
    let proxy = TcpProxy::start(echo.address).unwrap();
    let mut client = connect(&proxy);
    client.write_all(b"a").unwrap();
    assert_eq!(read(&mut client, 1), "A");
    proxy.close_connections();
    assert_eq!(client.read(&mut [0; 1]).unwrap_or(0), 0);

    let mut client = connect(&proxy);
    client.write_all(b"b").unwrap();
    assert_eq!(read(&mut client, 1), "B");
    proxy.refuse();
    assert_eq!(client.read(&mut [0; 1]).unwrap_or(0), 0);
    assert_eq!(
        TcpStream::connect(proxy.address()).unwrap_err().kind(),
        ErrorKind::ConnectionRefused
    );
    proxy.accept().unwrap();
    let mut client = connect(&proxy);
    client.write_all(b"c").unwrap();
    assert_eq!(read(&mut client, 1), "C");
}

#[test]
fn a_target_that_is_not_there_closes_the_connection() {
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let proxy = TcpProxy::start(nobody).unwrap();
    assert_eq!(connect(&proxy).read(&mut [0; 1]).unwrap_or(0), 0);
}

#[test]
fn dropping_ends_everything_that_is_held() {
    let echo = Echo::start();
    let proxy = TcpProxy::start(echo.address).unwrap();
    let mut passing = connect(&proxy);
    passing.write_all(b"a").unwrap();
    assert_eq!(read(&mut passing, 1), "A");
    proxy.set(Direction::ToServer, Flow::Delay(Duration::from_secs(600)));
    passing.write_all(b"b").unwrap();
    proxy.blackhole();
    let mut held = connect(&proxy);
    held.write_all(b"c").unwrap();
    wait_until("both connections", SOON, || (proxy.stats().accepted == 2).then_some(())).unwrap();

    let started = Instant::now();
    drop(proxy);
    assert!(started.elapsed() < SOON);
    assert_eq!(passing.read(&mut [0; 1]).unwrap_or(0), 0);
    assert_eq!(held.read(&mut [0; 1]).unwrap_or(0), 0);
    assert_eq!(echo.received.load(Ordering::SeqCst), 1);
}
