//! What clients can make an instance spend.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use curator_echo::proto::echo_client::EchoClient;
use curator_echo::proto::{CountRequest, SayRequest};
use curator_harness::curator::embedding_from_env;
use curator_harness::{CuratorOptions, EtcdOptions, wait_until};
use tokio::runtime::Builder;
use tonic::transport::Channel;

use crate::test_cluster::{Reach, SOON, TTL, TestCluster, resident};

/// The files that a process may open in the scenario where they run out.
const FILES: usize = 96;
/// Streams that nobody reads.
const STALLED: usize = 60;
/// As much memory a process may take more of, in KiB, while its clients do not read.
const FLAT: u64 = 4 << 10;

fn client(address: SocketAddr) -> EchoClient<Channel> {
    let channel = Channel::from_shared(format!("http://{address}"))
        .unwrap()
        .connect_lazy();
    EchoClient::new(channel)
}

/// Waits until a call on a connection of its own is answered.
fn answers(address: SocketAddr) {
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    wait_until("a call to be answered", SOON, || {
        let call = async {
            let mut caller = client(address);
            tokio::time::timeout(Duration::from_secs(2), caller.say(SayRequest::default())).await
        };
        matches!(runtime.block_on(call), Ok(Ok(_))).then_some(())
    })
    .unwrap();
}

#[test]
fn an_instance_without_files_left_goes_on_once_there_are_some() {
    if crate::test_cluster::done_already() {
        return;
    }
    let mut stage = TestCluster::empty("files", EtcdOptions::default());
    let wrapper = stage.scratch.path().join("few-files");
    let program = embedding_from_env().unwrap();
    fs::write(
        &wrapper,
        format!("#!/bin/sh\nulimit -n {FILES}\nexec '{}' \"$@\"\n", program.display()),
    )
    .unwrap();
    fs::set_permissions(&wrapper, fs::Permissions::from_mode(0o755)).unwrap();
    let options = CuratorOptions::new(1, stage.endpoints(0, Reach::All)).leader_ttl(TTL);
    stage.start_program(&wrapper, options);
    stage.agreed(SOON);
    let address = stage.curators[0].address();
    answers(address);
    let mark = stage.curators[0].mark();
    let hoard: Vec<_> = (0..FILES * 2).map(|_| TcpStream::connect(address).unwrap()).collect();
    stage.curators[0]
        .wait_for(mark, SOON, "running out of files", |event| {
            event
                .message()
                .is_some_and(|message| message.contains("cannot accept connections"))
        })
        .unwrap();
    assert!(
        stage.curators[0].role().is_some_and(|role| role.is_leader()),
        "it goes on leading"
    );
    drop(hoard);
    answers(address);
    assert!(stage.curators[0].role().is_some_and(|role| role.is_leader()));
}

#[test]
fn memory_is_flat_while_clients_do_not_read() {
    if crate::test_cluster::done_already() {
        return;
    }
    let mut stage = TestCluster::empty("stalled", EtcdOptions::default());
    for member in 0..3 {
        let number = u32::try_from(member + 1).unwrap();
        let options = CuratorOptions::new(number, stage.endpoints(member, Reach::All)).leader_ttl(TTL);
        stage.start_program(&embedding_from_env().unwrap(), options);
    }
    let leader = stage.agreed(SOON);
    let follower = stage.others(leader)[0];
    let address = stage.curators[follower].address();
    answers(address);
    let empty = resident(stage.curators[follower].pid());
    let runtime = Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    // As fast as the leader can, and never read; each on a connection of its own, as the nodes have.
    let stalled: Vec<_> = (0..STALLED)
        .map(|_| {
            runtime.block_on(async {
                let mut caller = client(address);
                let request = CountRequest {
                    messages: 0,
                    size: 30_000,
                    pause_us: 0,
                };
                (caller.count(request).await.unwrap(), caller)
            })
        })
        .collect();
    // All that can be on its way is, once it grows no more.
    let mut full = resident(stage.curators[follower].pid());
    wait_until("the memory to stop growing", SOON, || {
        std::thread::sleep(Duration::from_millis(500));
        let now = resident(stage.curators[follower].pid());
        let grown = now.saturating_sub(std::mem::replace(&mut full, now));
        (grown < 64).then_some(())
    })
    .unwrap();
    std::thread::sleep(TTL);
    let later = resident(stage.curators[follower].pid());
    let stream = full.saturating_sub(empty) / u64::try_from(STALLED).unwrap();
    println!(
        "measured: a follower with {STALLED} streams that nobody reads: {empty} KiB before, {full} KiB with them, {stream} KiB a stream, {later} KiB {TTL:?} later"
    );
    assert!(later < full + FLAT, "{full} KiB became {later} KiB");
    // A quarter of a MiB from the leader, as much on the way out, and what it takes to keep them.
    assert!(stream < 1_024, "{stream} KiB a stream");
    answers(address);
    drop(stalled);
}
