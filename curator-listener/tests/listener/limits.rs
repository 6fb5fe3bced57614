//! Each limit of the listener that bites is counted, so that an operator sees that it does and which.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use curator_listener::ListenerConfig;
use curator_listener::telemetry::{CALLS_HELD_TOTAL, LIMITS_REACHED, WAITS_FOR_ROOM};
use metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};
use tokio::net::TcpStream;
use tonic::Code;

use crate::fixture::{Instance, config, from, in_time, leader_role, say, undetermined};
use crate::raw::RawClient;

/// Counters, by their names and labels.
#[derive(Default)]
struct Counted(Mutex<HashMap<Key, Arc<AtomicU64>>>);

impl Counted {
    fn of(&self, key: &Key) -> u64 {
        let counters = self.0.lock().unwrap();
        counters.get(key).map_or(0, |counter| counter.load(Ordering::SeqCst))
    }

    fn limit(&self, name: &'static str) -> u64 {
        self.of(&Key::from_parts(LIMITS_REACHED, &[("limit", name)]))
    }
}

impl Recorder for Counted {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        let mut counters = self.0.lock().unwrap();
        Counter::from_arc(counters.entry(key.clone()).or_default().clone())
    }

    fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::noop()
    }

    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}

/// A listener that nobody is told of a leader, on the threads of the test.
fn instance(change: impl FnOnce(&mut ListenerConfig)) -> Instance {
    let mut config = config();
    config.threads = 0;
    config.handshake_timeout = Duration::from_secs(3_600);
    change(&mut config);
    Instance::with(undetermined(), config, |service| service)
}

/// Waits until a limit has been counted.
async fn bites(counted: &Counted, limit: &'static str) {
    let bitten = async {
        while counted.limit(limit) == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    in_time(bitten).await;
}

#[tokio::test]
async fn each_limit_that_bites_is_counted_by_its_name() {
    let counted = Counted::default();
    let _counting = metrics::set_default_local_recorder(&counted);

    let holds = instance(|config| config.hold_limit = 1);
    let mut client = holds.client();
    let mut other = client.clone();
    let waits = tokio::spawn(async move { other.say(say(1)).await });
    let held = async {
        while counted.of(&Key::from_name(CALLS_HELD_TOTAL)) == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    in_time(held).await;
    assert_eq!(counted.limit("hold_limit"), 0);
    let refused = in_time(client.say(say(2))).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
    assert_eq!(counted.limit("hold_limit"), 1);
    holds.status.set(leader_role(1).0);
    in_time(waits).await.unwrap().unwrap();

    // Those that have called stay, and there is no place for one more.
    let full = instance(|config| config.max_connections = 1);
    full.status.set(leader_role(1).0);
    let open = RawClient::connect(full.address).await;
    assert_eq!(open.call("/a.B/C", &[], b"").await.code(), Some("12"));
    assert_eq!(counted.limit("max_connections"), 0);
    let _one_more = TcpStream::connect(full.address).await.unwrap();
    bites(&counted, "max_connections").await;

    let peers = instance(|config| config.max_connections_per_peer = Some(1));
    let _first = from(66, peers.address).await;
    let _other = from(67, peers.address).await;
    assert_eq!(counted.limit("max_connections_per_peer"), 0);
    let _second = from(66, peers.address).await;
    bites(&counted, "max_connections_per_peer").await;

    let silent = instance(|config| config.max_new_connections = 1);
    let _first = TcpStream::connect(silent.address).await.unwrap();
    assert_eq!(counted.limit("max_new_connections"), 0);
    let _second = TcpStream::connect(silent.address).await.unwrap();
    bites(&counted, "max_new_connections").await;
}

/// Uploads that begin and go no further, for more than the caller may have held.
#[tokio::test]
async fn a_caller_without_room_is_counted() {
    let counted = Counted::default();
    let _counting = metrics::set_default_local_recorder(&counted);
    let instance = instance(|config| config.max_memory = 1 << 20);
    instance.status.set(leader_role(1).0);
    let client = RawClient::over(from(66, instance.address).await, instance.address, 65_535)
        .await
        .unwrap();
    let waits = || counted.of(&Key::from_name(WAITS_FOR_ROOM));
    assert_eq!(waits(), 0);
    let mut uploads = Vec::new();
    let stalling = async {
        while waits() == 0 {
            if let Some((response, mut body)) = client.try_begin("/curator.echo.v1.Echo/Say") {
                // The beginning of a message of a megabyte.
                let mut piece = vec![0, 0, 0x10, 0, 0];
                piece.resize(60 << 10, 7);
                // It is refused when there is no more room.
                let _ = body.send_data(piece.into(), false);
                uploads.push((response, body));
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    in_time(stalling).await;
}
