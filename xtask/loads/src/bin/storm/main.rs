//! The clients of a big cluster that come back at once: each with a watch of all nodes and a stream of heartbeats, and an owner
//! who goes on calling. Prints a JSON object a line.
//!
//! Run by `cargo xtask bench storm`, which says by SIGUSR1 when there is a storm to measure.

#![allow(clippy::disallowed_methods, reason = "times are measured for the reader")]

mod client;
mod fill;
#[path = "../state-load/nodes.rs"]
#[allow(dead_code, reason = "the other half is for measuring the state")]
mod nodes;
mod owner;

use std::error::Error;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::Parser;
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;

use client::{Client, Told};
use owner::Owner;

#[derive(Parser)]
struct Arguments {
    /// A client URL of etcd: the nodes are put there, and nothing else is done.
    #[arg(long, conflicts_with = "instances")]
    fill: Option<String>,
    /// How many nodes there are.
    #[arg(long)]
    nodes: usize,
    /// How many of them watch.
    #[arg(long, default_value_t = 0)]
    watchers: usize,
    /// The addresses of the instances, among which the clients are spread.
    #[arg(long, value_delimiter = ',')]
    instances: Vec<SocketAddr>,
}

type Failure = Box<dyn Error + Send + Sync>;

/// A storm that takes longer is given up.
const PATIENCE: Duration = Duration::from_secs(180);

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let arguments = Arguments::parse();
    if let Some(etcd) = &arguments.fill {
        return fill::fill(etcd, arguments.nodes).await;
    }
    let mut asked = signal(SignalKind::user_defined1())?;
    let told = Told::default();
    let (storm, rounds) = watch::channel(0_u64);
    let mut tasks = JoinSet::new();
    let begun = Instant::now();
    for number in 0..arguments.watchers {
        let client = Client {
            number,
            nodes: arguments.nodes,
            instances: arguments.instances.clone(),
            told: told.clone(),
            rounds: rounds.clone(),
        };
        tasks.spawn(client.run());
    }
    let owner = Arc::new(Owner::new(&arguments.instances)?);
    tasks.spawn({
        let owner = owner.clone();
        async move { owner.run().await }
    });
    all_told(&told, arguments.watchers, begun, "start", &owner).await;
    while asked.recv().await.is_some() {
        // Whoever is told from now on counts.
        let round = *rounds.borrow() + 1;
        told.clear();
        owner.clear();
        storm.send_replace(round);
        println!("{}", json!({ "what": "begun" }));
        let begun = Instant::now();
        all_told(&told, arguments.watchers, begun, "storm", &owner).await;
    }
    tasks.shutdown().await;
    Ok(())
}

/// Waits until all clients have been told of all nodes, and prints how that went.
async fn all_told(told: &Told, watchers: usize, begun: Instant, what: &str, owner: &Owner) {
    let everybody = async {
        while told.complete() < watchers {
            told.changed().await;
        }
    };
    let done = tokio::time::timeout(PATIENCE, everybody).await.is_ok();
    let seconds = begun.elapsed().as_secs_f64();
    let seen = owner.seen();
    println!(
        "{}",
        json!({
            "what": what, "done": done, "complete": told.complete(), "seconds": seconds,
            "bytes": told.bytes.load(Ordering::Relaxed), "again": told.again.load(Ordering::Relaxed),
            "owner_calls": seen.calls, "owner_failed": seen.failed, "owner_p50_ms": seen.p50_ms, "owner_p99_ms": seen.p99_ms,
            "owner_longest_ms": seen.longest_ms, "owner_told": seen.told,
        })
    );
}

/// A number that many count up.
type Count = Arc<AtomicU64>;
