//! Hosts with a network of their own. Root's alone: skipped aloud without.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use curator_harness::process::{Capture, Process, ProcessSpec};
use curator_harness::which::on_path;
use curator_harness::{Deadline, Hosts, Journal, Link, Mark, TempDir};
use rustix::process::geteuid;

const SOON: Duration = Duration::from_secs(20);
/// Answers each byte.
const ECHO: &str = "
import socket, sys, threading
server = socket.create_server((sys.argv[1], 7000))
print('ready', flush=True)
def serve(open):
    while True:
        data = open.recv(100)
        if not data: return
        open.sendall(data)
while True:
    threading.Thread(target=serve, args=(server.accept()[0],), daemon=True).start()
";
/// Sends one byte after the other, and says what became of each.
const ASK: &str = "
import socket, sys, time
peer = None
while True:
    begun = time.monotonic()
    try:
        if peer is None:
            peer = socket.create_connection((sys.argv[1], 7000), 0.5)
            peer.settimeout(0.5)
        peer.sendall(b'x')
        said = 'answered' if peer.recv(100) else 'closed'
    except TimeoutError:
        said = 'lost'
    except OSError as error:
        said = 'refused'
    if said in ('closed', 'refused'):
        peer = None
    print(said, flush=True)
    time.sleep(0.02)
";

#[test]
fn what_is_lost_is_lost_one_way_and_what_is_refused_is_told() {
    if !geteuid().is_root() || ["ip", "ss", "python3"].iter().any(|tool| on_path(tool).is_none()) {
        eprintln!("SKIPPED: network namespaces need root, ip, ss and, for this test, python3");
        return;
    }
    let scratch = TempDir::new("hosts").unwrap();
    let hosts = match Hosts::start(3) {
        Ok(hosts) => hosts,
        // Root of a container is not root of the network.
        Err(error)
            if ["not permitted", "denied", "not supported", "Unknown device type"]
                .iter()
                .any(|word| error.chain().contains(word)) =>
        {
            eprintln!("SKIPPED: {}", error.chain());
            return;
        }
        Err(error) => panic!("{}", error.chain()),
    };
    let there = hosts.all()[1].address().to_string();
    let start = |name: &str, host: usize, text: &str| {
        let said = std::sync::Arc::new(Journal::default());
        let spec = ProcessSpec::new(name, "python3")
            .args(["-c", text, &there])
            .on(Some(&hosts.all()[host]))
            .capture(Capture::Stdout);
        let journal = std::sync::Arc::clone(&said);
        let process = Process::start_with(&spec, &scratch, move |line| journal.record(line.text)).unwrap();
        (process, said)
    };
    let wait = |said: &Journal<String>, mark: Mark, word: &str| {
        let found = said.wait(mark, Deadline::after(SOON), |line| (line == word).then_some(()));
        assert!(found.is_some(), "{word} is not among {:?}", said.since(mark));
    };
    let (_server, ready) = start("server", 1, ECHO);
    wait(&ready, Mark::START, "ready");
    let (_one, one) = start("one", 0, ASK);
    let (_other, other) = start("other", 2, ASK);
    wait(&one, Mark::START, "answered");
    wait(&other, Mark::START, "answered");

    for (from, to) in [(0, 1), (1, 0)] {
        let mark = one.mark();
        hosts.set(from, to, Link::Lost).unwrap();
        wait(&one, mark, "lost");
        // We reach it still, and so does the third.
        let mut stream = TcpStream::connect_timeout(&SocketAddr::new(hosts.all()[1].address(), 7000), SOON).unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        stream.write_all(b"y").unwrap();
        stream.read_exact(&mut [0]).unwrap();
        wait(&other, other.mark(), "answered");
        let mark = one.mark();
        hosts.set(from, to, Link::Open).unwrap();
        wait(&one, mark, "answered");
    }

    let mark = one.mark();
    hosts.set(0, 1, Link::Refused).unwrap();
    hosts.set(1, 0, Link::Refused).unwrap();
    wait(&one, mark, "refused");
    let mark = one.mark();
    hosts.set(0, 1, Link::Open).unwrap();
    hosts.set(1, 0, Link::Open).unwrap();
    wait(&one, mark, "answered");

    // What is narrow still lets some of it through.
    hosts.narrow(0, Some(64_000)).unwrap();
    let mark = one.mark();
    wait(&one, mark, "answered");
    hosts.narrow(0, None).unwrap();
    let names: Vec<_> = hosts.all().iter().map(|host| host.namespace().to_owned()).collect();
    drop((hosts, _server, _one, _other));
    for name in names {
        assert!(!std::path::Path::new("/run/netns").join(name).exists());
    }
}
