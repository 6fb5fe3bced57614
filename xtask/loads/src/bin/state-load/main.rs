//! Measures the leader's state beside plain calls of etcd, in one run; prints a JSON object a line.
//!
//! Run by `cargo xtask bench state`, which makes a table of it.

#![allow(clippy::disallowed_methods, reason = "times are measured for the reader")]

mod nodes;
mod takeover;

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::Parser;
use curator_election::etcd::{EtcdConfig, EtcdStore};
use curator_election::namespace::Namespaced;
use curator_election::store::{Compare, Keys, Op, Range, Store, Txn};
use curator_proto::common::NodeStatus;
use curator_proto::private::Node;
use curator_service::testing::bench_hooks::BenchHooks;
use futures::StreamExt;
use prost::Message;
use rustix::time::{ClockId, clock_gettime};
use serde_json::json;

use nodes::{id, record};

#[derive(Parser)]
struct Arguments {
    /// The client URL of the etcd.
    #[arg(long)]
    etcd: String,
    /// How often everything is measured.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// How long each measurement takes, in milliseconds.
    #[arg(long, default_value_t = 2_000)]
    time: u64,
    /// Only this: reads, writes, nodes, watchers, heartbeats or takeover.
    #[arg(long)]
    only: Option<String>,
    /// In a process of its own, so that its memory can be told apart.
    #[command(subcommand)]
    alone: Option<takeover::Alone>,
}

type Failure = Box<dyn Error + Send + Sync>;

/// As many nodes are read and written in turn.
const NODES: usize = 256;
/// As many are there while watchers are measured.
const FEW: usize = 100;

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let arguments = Arguments::parse();
    if let Some(alone) = &arguments.alone {
        return alone.measure(&arguments.etcd).await;
    }
    let etcd = EtcdStore::new(EtcdConfig::new(vec![arguments.etcd.clone()]))?;
    let store: Arc<dyn Store> = Arc::new(Namespaced::with_siblings(etcd, "namespaced:curator".parse()?));
    put_nodes(&*store, NODES).await?;
    let configuration = Txn::default().then(vec![Op::put("/cluster/configuration", "measured")]);
    store.txn(configuration).await?;
    let leader = Arc::new(BenchHooks::begin(store.clone(), "/leader/measured").await?);
    let time = Duration::from_millis(arguments.time);
    let wanted = |what: &str| arguments.only.as_deref().is_none_or(|only| only == what);
    for round in 0..arguments.rounds {
        for in_flight in [1, 64] {
            if wanted("reads") {
                reads(round, in_flight, time, &store, &leader).await?;
            }
            if wanted("writes") {
                writes(round, in_flight, time, &store, &leader).await?;
            }
        }
        if wanted("heartbeats") {
            heartbeats(round, &leader);
        }
    }
    if wanted("watchers") {
        // Before there are many nodes: what those have taken would be used again. As few nodes as are enough.
        trim_nodes(&*store, FEW).await?;
        wait_for_nodes(&leader, FEW).await?;
        for watchers in [100, 5_000] {
            told(&arguments.etcd, watchers, arguments.rounds, &leader).await?;
        }
        put_nodes(&*store, NODES).await?;
        wait_for_nodes(&leader, NODES).await?;
    }
    if wanted("takeover") {
        takeover::all(&arguments.etcd, arguments.rounds).await?;
    }
    let mut there = NODES;
    for nodes in [10, 100, 1_000, 10_000] {
        if wanted("nodes") {
            // There are some already: the fewer first.
            trim_nodes(&*store, nodes).await?;
            wait_for_nodes(&leader, nodes.min(there)).await?;
            let before = memory()?;
            put_nodes(&*store, nodes).await?;
            wait_for_nodes(&leader, nodes).await?;
            remembered("nodes", nodes.saturating_sub(there), before)?;
            there = nodes;
        }
        if wanted("nodes") {
            for round in 0..arguments.rounds {
                all_nodes(round, nodes, &leader).await?;
            }
        }
    }
    Ok(())
}

fn key(number: usize) -> String {
    format!("/nodes/{}", id(number))
}

/// Writes the nodes and their entries in the index, sixty at a time.
async fn put_nodes(store: &dyn Store, count: usize) -> Result<(), Failure> {
    let numbers: Vec<usize> = (0..count).collect();
    for chunk in numbers.chunks(60) {
        let ops = chunk.iter().flat_map(|number| {
            let join: String = format!("{number:032}")
                .bytes()
                .map(|byte| format!("{byte:02x}"))
                .collect();
            [
                Op::put(key(*number), record(*number)),
                Op::put(format!("/join_keys/{join}"), id(*number)),
            ]
        });
        store.txn(Txn::default().then(ops.collect())).await?;
    }
    Ok(())
}

/// Removes all nodes from this number on.
async fn trim_nodes(store: &dyn Store, count: usize) -> Result<(), Failure> {
    let beyond = Keys::Range {
        start: key(count).into(),
        end: "/nodes0".into(),
    };
    store.txn(Txn::default().then(vec![Op::Delete(beyond)])).await?;
    Ok(())
}

async fn wait_for_nodes(leader: &BenchHooks, count: usize) -> Result<(), Failure> {
    loop {
        let found = leader.nodes("").await?.count().await;
        if found == count {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Calls `call` from so many tasks for a time; calls a second, and the median of what they took.
async fn run<F, R>(in_flight: usize, time: Duration, call: F) -> Result<(f64, f64), Failure>
where
    F: Fn(usize) -> R + Clone + Send + 'static,
    R: Future<Output = Result<(), Failure>> + Send,
{
    let begun = Instant::now();
    let tasks: Vec<_> = (0..in_flight)
        .map(|task| {
            let call = call.clone();
            tokio::spawn(async move {
                let mut took = Vec::new();
                let mut number = task;
                while begun.elapsed() < time {
                    let one = Instant::now();
                    call(number % NODES).await?;
                    took.push(one.elapsed());
                    number += in_flight;
                }
                Ok::<_, Failure>(took)
            })
        })
        .collect();
    let mut took = Vec::new();
    for task in tasks {
        took.extend(task.await??);
    }
    let a_second = took.len() as f64 / begun.elapsed().as_secs_f64();
    took.sort_unstable();
    let median = took.get(took.len() / 2).copied().unwrap_or_default();
    Ok((a_second, median.as_secs_f64() * 1e6))
}

fn print_pair(what: &str, round: usize, in_flight: usize, plain: (f64, f64), ours: (f64, f64)) {
    for (way, (a_second, median_us)) in [("plain", plain), ("state", ours)] {
        println!(
            "{}",
            json!({ "what": what, "round": round, "in_flight": in_flight, "way": way, "a_second": a_second, "median_us": median_us })
        );
    }
}

async fn reads(
    round: usize,
    in_flight: usize,
    time: Duration,
    store: &Arc<dyn Store>,
    leader: &Arc<BenchHooks>,
) -> Result<(), Failure> {
    let plain = {
        let store = store.clone();
        run(in_flight, time, move |number| {
            let store = store.clone();
            async move {
                let read = store.range(Range::all(Keys::one(key(number)))).await?;
                if read.kvs.is_empty() {
                    Err("not there".into())
                } else {
                    Ok(())
                }
            }
        })
        .await?
    };
    let ours = {
        let leader = leader.clone();
        run(in_flight, time, move |number| {
            let leader = leader.clone();
            async move {
                if leader.read(&id(number)).await? {
                    Ok(())
                } else {
                    Err("not there".into())
                }
            }
        })
        .await?
    };
    print_pair("reads", round, in_flight, plain, ours);
    Ok(())
}

async fn writes(
    round: usize,
    in_flight: usize,
    time: Duration,
    store: &Arc<dyn Store>,
    leader: &Arc<BenchHooks>,
) -> Result<(), Failure> {
    let plain = {
        // What each key was last written at, as whoever writes it alone knows it.
        let mut known = Vec::new();
        for number in 0..NODES {
            let read = store.range(Range::all(Keys::one(key(number)))).await?;
            known.push(AtomicU64::new(read.kvs[0].mod_revision.0.unsigned_abs()));
        }
        let (store, known, guard) = (store.clone(), Arc::new(known), leader.guard());
        run(in_flight, time, move |number| {
            let (store, known, guard) = (store.clone(), known.clone(), guard.clone());
            async move {
                let changed = i64::try_from(known[number].load(Ordering::Relaxed))?;
                let unchanged = Compare::changed_at(key(number), curator_election::store::Revision(changed));
                let mut node = Node::decode(&record(number)[..])?;
                node.status = Some(NodeStatus {
                    external_address: "192.0.2.2".into(),
                    ..NodeStatus::default()
                });
                let put = Op::put(key(number), node.encode_to_vec());
                let done = store.txn(Txn::when(vec![guard, unchanged]).then(vec![put])).await?;
                if !done.succeeded {
                    return Err("somebody else wrote it".into());
                }
                known[number].store(done.revision.0.unsigned_abs(), Ordering::Relaxed);
                Ok(())
            }
        })
        .await?
    };
    let ours = {
        let leader = leader.clone();
        run(in_flight, time, move |number| {
            let leader = leader.clone();
            async move { Ok(leader.update(&id(number), "192.0.2.3").await?) }
        })
        .await?
    };
    print_pair("writes", round, in_flight, plain, ours);
    Ok(())
}

/// This process's time on the processor.
fn cpu() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// How long watchers are looked at that are told nothing.
const IDLE: Duration = Duration::from_secs(2);

/// The memory of this process, in bytes.
fn memory() -> Result<u64, Failure> {
    Ok(curator_harness::resident(std::process::id())?)
}

/// Tells what so many more of something have taken of memory. Too few say nothing.
fn remembered(of: &str, count: usize, before: u64) -> Result<(), Failure> {
    if count >= 1_000 {
        let bytes = memory()?.saturating_sub(before);
        println!(
            "{}",
            json!({ "what": "memory", "of": of, "count": count, "bytes": bytes })
        );
    }
    Ok(())
}

fn heartbeats(round: usize, leader: &BenchHooks) {
    let ids: Vec<String> = (0..10_000).map(id).collect();
    for id in &ids {
        leader.heard(id);
    }
    let (begun, times) = (cpu(), 20_usize);
    for _ in 0..times {
        for id in &ids {
            leader.heard(id);
        }
    }
    let each = (cpu() - begun).as_secs_f64() / (times * ids.len()) as f64;
    println!(
        "{}",
        json!({ "what": "heartbeats", "round": round, "ns": each * 1e9, "share_of_a_core": each * 10_000.0 / 5.0 })
    );
}

async fn all_nodes(round: usize, nodes: usize, leader: &BenchHooks) -> Result<(), Failure> {
    let timed = async |filter: &str| {
        let begun = Instant::now();
        let count = leader.nodes(filter).await?.count().await;
        if count != nodes {
            return Err(Failure::from(format!("{count} nodes instead of {nodes}")));
        }
        Ok(begun.elapsed().as_secs_f64() * 1e6)
    };
    let plain = timed("").await?;
    let filtered = timed("node.state == NODE_STATE_UP").await?;
    let begun = Instant::now();
    let mut watch = std::pin::pin!(leader.watch().await?);
    let mut told = 0;
    while let Some(event) = watch.next().await {
        let (nodes, last) = event?;
        told += nodes;
        if last {
            break;
        }
    }
    if told != nodes {
        return Err(format!("{told} nodes instead of {nodes}").into());
    }
    let backlog = begun.elapsed().as_secs_f64() * 1e6;
    println!(
        "{}",
        json!({ "what": "nodes", "round": round, "nodes": nodes, "get_us": plain, "filter_us": filtered, "backlog_us": backlog })
    );
    Ok(())
}

/// How many watches the etcd has at the moment, by its own count.
async fn etcd_watches(etcd: &str) -> Result<u64, Failure> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let address = etcd.trim_start_matches("http://");
    let mut stream = tokio::net::TcpStream::connect(address).await?;
    // HTTP/1.0, so that the answer comes in one piece, and not in chunks that may begin in the middle of a number.
    let request = format!("GET /metrics HTTP/1.0\r\nHost: {address}\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut text = String::new();
    stream.read_to_string(&mut text).await?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("etcd_debugging_mvcc_watcher_total "));
    Ok(line
        .ok_or("etcd does not say how many watches it has")?
        .trim()
        .parse()?)
}

/// How long it takes from the acknowledgement of an update until all watchers have been told.
async fn told(etcd: &str, watchers: usize, rounds: usize, leader: &Arc<BenchHooks>) -> Result<(), Failure> {
    let before = memory()?;
    let (telling, mut told) = tokio::sync::mpsc::channel::<()>(watchers);
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..watchers {
        let mut watch = Box::pin(leader.watch().await?);
        let telling = telling.clone();
        tasks.spawn(async move {
            while let Some(Ok((nodes, last))) = watch.next().await {
                if last || nodes > 0 {
                    let _ = telling.send(()).await;
                }
            }
        });
    }
    let mut all = async || {
        for _ in 0..watchers {
            told.recv().await;
        }
    };
    all().await;
    remembered("watchers", watchers, before)?;
    let (spent, begun) = (cpu(), Instant::now());
    tokio::time::sleep(IDLE).await;
    let idle = (cpu() - spent).as_secs_f64() / begun.elapsed().as_secs_f64();
    println!(
        "{}",
        json!({ "what": "idle", "watchers": watchers, "share_of_a_core": idle })
    );
    let watches = etcd_watches(etcd).await?;
    for round in 0..rounds {
        let spent = cpu();
        // Another each time: what stays the same is no news.
        let address = format!("198.51.{}.{round}", watchers / 100);
        leader.update(&id(1), &address).await?;
        let begun = Instant::now();
        all().await;
        println!(
            "{}",
            json!({
                "what": "watchers", "round": round, "watchers": watchers, "etcd_watches": watches,
                "last_us": begun.elapsed().as_secs_f64() * 1e6, "cpu_us": (cpu() - spent).as_secs_f64() * 1e6,
            })
        );
    }
    tasks.shutdown().await;
    Ok(())
}
