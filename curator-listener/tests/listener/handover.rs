//! A leader that steps down as planned costs no call; one that stops answers what it has.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use curator_echo::proto::{CountRequest, SayRequest};
use tonic::Code;

use crate::fixture::{Instance, client, config, follower_role, in_time, leader_role, say, undetermined};

type Runs = Arc<Mutex<HashMap<u64, u32>>>;

fn recording(role: curator_listener::Role, runs: &Runs) -> Instance {
    let runs = runs.clone();
    Instance::with(role, config(), move |service| {
        let runs = runs.clone();
        service.recording(Arc::new(move |id| *runs.lock().unwrap().entry(id).or_default() += 1))
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_planned_step_down_under_load_costs_no_call() {
    let runs = Runs::default();
    let instances: Vec<_> = (0..3).map(|_| recording(undetermined(), &runs)).collect();
    let mut revision = 1;
    let mut guard = lead(&instances, 0, revision);
    for instance in &instances {
        instance.serves(true).await;
    }
    let (stop, ids) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let mut load = tokio::task::JoinSet::new();
    for number in 0..24_u64 {
        let mut client = client(instances[usize::try_from(number % 3).unwrap()].address);
        let (stop, ids) = (stop.clone(), ids.clone());
        load.spawn(async move {
            let mut done = 0;
            while !stop.load(Ordering::Relaxed) {
                let id = ids.fetch_add(1, Ordering::Relaxed);
                let request = SayRequest {
                    // Some are still running when the leader wants to go.
                    delay_ms: u32::try_from(number % 4 * 5).unwrap(),
                    ..say(id)
                };
                let answer = client
                    .say(request)
                    .await
                    .unwrap_or_else(|status| panic!("call {id}: {status}"));
                assert_eq!(answer.into_inner().id, id);
                done += 1;
            }
            done
        });
    }
    for round in 0..10 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        // As the service does it: drain, let go, and the next one is elected.
        let drained = in_time(instances[round % 3].handle.drain()).await.expect("it leads");
        assert_eq!(drained.unanswered, 0);
        guard.end();
        revision += 1;
        // Not all learn of it at the same time.
        instances[round % 3].status.set(undetermined());
        tokio::time::sleep(Duration::from_millis(5)).await;
        guard = lead(&instances, (round + 1) % 3, revision);
    }
    stop.store(true, Ordering::Relaxed);
    let mut done = 0_u64;
    while let Some(calls) = in_time(load.join_next()).await {
        done += calls.unwrap();
    }
    let runs = runs.lock().unwrap();
    assert!(done > 500, "{done} calls are no load");
    assert_eq!(u64::try_from(runs.len()).unwrap(), done, "each ran");
    assert!(runs.values().all(|runs| *runs == 1), "none ran twice");
    drop(guard);
}

/// Makes one of them the leader, and the others its followers, in no good order.
fn lead(instances: &[Instance], leader: usize, revision: i64) -> Arc<crate::fixture::TestGuard> {
    let (role, guard) = leader_role(revision);
    for (at, instance) in instances.iter().enumerate() {
        if at != leader {
            instance.status.set(follower_role(instances[leader].address, revision));
        }
    }
    instances[leader].status.set(role);
    guard
}

#[tokio::test]
async fn a_drain_waits_for_calls_and_not_for_streams_that_are_quiet() {
    let runs = Runs::default();
    let (role, _guard) = leader_role(1);
    let leader = recording(role, &runs);
    let mut client = leader.client();
    // One message, and then nothing for a minute.
    let quiet = CountRequest {
        messages: 2,
        size: 1,
        pause_us: 0,
    };
    let (sender, receiver) = tokio::sync::mpsc::channel::<SayRequest>(1);
    let requests = futures::stream::unfold(receiver, |mut receiver| async move {
        Some((receiver.recv().await?, receiver))
    });
    sender.send(say(1)).await.unwrap();
    let mut chat = in_time(client.chat(requests)).await.unwrap().into_inner();
    in_time(chat.message()).await.unwrap().unwrap();
    let mut finite = in_time(client.count(quiet)).await.unwrap().into_inner();
    while in_time(finite.message()).await.unwrap().is_some() {}

    let slow = SayRequest {
        delay_ms: 400,
        ..say(2)
    };
    let mut unary = leader.client();
    let calling = tokio::spawn(async move { unary.say(slow).await });
    let running = async {
        while runs.lock().unwrap().get(&2).is_none() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    in_time(running).await;
    let drained = in_time(leader.handle.drain()).await.expect("it leads");
    assert_eq!((drained.unanswered, drained.streams), (0, 1));
    in_time(calling).await.unwrap().expect("it was waited for");

    // Nothing is left to wait for but the stream, which does not move.
    let began = Instant::now();
    in_time(leader.handle.drain()).await.expect("it leads");
    assert!(began.elapsed() < Duration::from_millis(200), "{:?}", began.elapsed());
    drop(sender);
}

#[tokio::test]
async fn a_drain_waits_for_a_stream_that_moves_but_not_for_ever() {
    let (leader, _guard) = Instance::leading(1);
    let finite = CountRequest {
        messages: 100,
        size: 1,
        pause_us: 3_000,
    };
    let mut client = leader.client();
    let mut stream = in_time(client.count(finite)).await.unwrap().into_inner();
    for _ in 0..5 {
        in_time(stream.message()).await.unwrap().unwrap();
    }
    let drained = in_time(leader.handle.drain()).await.expect("it leads");
    assert_eq!(drained.streams, 0, "a stream that comes to its end is let go there");

    let (leader, _guard) = Instance::leading(1);
    let endless = CountRequest { messages: 0, ..finite };
    let mut client = leader.client();
    let mut stream = in_time(client.count(endless)).await.unwrap().into_inner();
    let reading = tokio::spawn(async move { while let Ok(Some(_)) = stream.message().await {} });
    let began = Instant::now();
    let drained = in_time(leader.handle.drain()).await.expect("it leads");
    assert_eq!(drained.streams, 1);
    assert!(
        began.elapsed() < config().drain_limit + Duration::from_millis(500),
        "{:?}",
        began.elapsed()
    );
    reading.abort();
}

#[tokio::test]
async fn a_stop_answers_what_is_running_and_ends_what_is_endless() {
    let (leader, _guard) = Instance::leading(1);
    let follower = Instance::following(leader.address, 1);
    follower.serves(true).await;
    let mut unary = follower.client();
    let slow = SayRequest {
        delay_ms: 300,
        ..say(1)
    };
    let endless = CountRequest {
        messages: 0,
        size: 1,
        pause_us: 1_000,
    };
    let mut streams = follower.client();
    let mut stream = in_time(streams.count(endless)).await.unwrap().into_inner();
    in_time(stream.message()).await.unwrap().unwrap();
    let calling = tokio::spawn(async move { unary.say(slow).await });
    tokio::time::sleep(Duration::from_millis(100)).await;
    let began = Instant::now();
    follower.cancel.cancel();
    in_time(calling).await.unwrap().expect("it was running");
    let status = loop {
        match in_time(stream.message()).await {
            Ok(message) => assert!(message.is_some()),
            Err(status) => break status,
        }
    };
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    in_time(follower.running).await.unwrap().unwrap();
    assert!(began.elapsed() < config().grace, "{:?}", began.elapsed());
    // Held calls are told at once.
    let held = Instance::start(undetermined());
    let mut client = held.client();
    let calling = tokio::spawn(async move { client.say(say(1)).await });
    tokio::time::sleep(Duration::from_millis(100)).await;
    held.cancel.cancel();
    let status = in_time(calling).await.unwrap().unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert!(status.message().contains("stopping"), "{status}");
    in_time(held.running).await.unwrap().unwrap();
}
