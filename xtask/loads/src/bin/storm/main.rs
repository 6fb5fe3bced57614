//! The clients of a big cluster that come back at once: each with a watch of all nodes and a stream of heartbeats, and
//! an owner who goes on calling. Prints a JSON object a line.
//!
//! Run by `cargo xtask bench storm`, which says by SIGUSR1 when there is a storm to measure, and by SIGUSR2 when a node
//! is to be changed.

#![allow(clippy::disallowed_methods, reason = "times are measured for the reader")]

mod access;
mod client;
mod cluster;
mod fill;
#[path = "../state-load/nodes.rs"]
#[allow(dead_code, reason = "the other half is for measuring the state")]
mod nodes;
mod owner;

use std::error::Error;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use access::Access;
use clap::{Parser, ValueEnum};
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
    /// Makes the keys of a cluster with TLS in this directory, prints the ids of the nodes that are to have an
    /// instance, and does nothing else.
    #[arg(long)]
    keys: Option<PathBuf>,
    /// Makes the cluster of --tls in this etcd, and does nothing else.
    #[arg(long, requires = "tls")]
    found: Option<String>,
    /// Lets the other instances' nodes into the cluster of --tls, through the first instance, and does nothing else.
    #[arg(long, requires = "tls")]
    admit: bool,
    /// The directory of the cluster's keys: everybody has a certificate, and as many nodes as there are clients join
    /// first.
    #[arg(long)]
    tls: Option<PathBuf>,
    /// What the clients do.
    #[arg(long, value_enum, default_value_t = Kind::Watch)]
    kind: Kind,
    /// How many nodes there are.
    #[arg(long, default_value_t = 0)]
    nodes: usize,
    /// How many of them watch.
    #[arg(long, default_value_t = 0)]
    watchers: usize,
    /// The addresses of the instances, among which the clients are spread.
    #[arg(long, value_delimiter = ',')]
    instances: Vec<SocketAddr>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// They watch all nodes, and send heartbeats.
    Watch,
    /// They send heartbeats.
    Heartbeat,
    /// They join, and nothing else.
    Join,
}

type Failure = Box<dyn Error + Send + Sync>;

/// A storm that takes longer is given up.
const PATIENCE: Duration = Duration::from_secs(180);

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let arguments = Arguments::parse();
    if let Some(directory) = &arguments.keys {
        println!("{}", json!({ "what": "keys", "ids": cluster::keys(directory)? }));
        return Ok(());
    }
    let joining = arguments.tls.as_ref().map(|_| {
        // There are no more nodes than that, and several clients may be of one.
        arguments
            .watchers
            .min(arguments.nodes.saturating_sub(cluster::INSTANCES))
    });
    if let Some(etcd) = &arguments.fill {
        let there = joining.map_or(0, |joining| joining + cluster::INSTANCES);
        return fill::fill(etcd, arguments.nodes.saturating_sub(there), joining.is_some()).await;
    }
    let access = match (&arguments.tls, &arguments.found) {
        (None, _) => Access::Plain,
        (Some(directory), Some(etcd)) => return cluster::found(directory, etcd).await,
        (Some(directory), None) => {
            let first = *arguments.instances.first().ok_or("no instance is named")?;
            let owner = cluster::Owner::new(directory, first).await?;
            if arguments.admit {
                return owner.admit(directory, first).await;
            }
            join(&owner, joining.unwrap_or_default(), &arguments.instances).await?
        }
    };
    if arguments.kind == Kind::Join {
        return Ok(());
    }
    let mut asked = signal(SignalKind::user_defined1())?;
    let mut changes = signal(SignalKind::user_defined2())?;
    let told = Told::default();
    let (storm, rounds) = watch::channel(0_u64);
    let mut tasks = JoinSet::new();
    let begun = Instant::now();
    for number in 0..arguments.watchers {
        let client = Client {
            number,
            nodes: arguments.nodes,
            instances: arguments.instances.clone(),
            access: access.clone(),
            only_beats: arguments.kind == Kind::Heartbeat,
            told: told.clone(),
            rounds: rounds.clone(),
        };
        tasks.spawn(client.run());
    }
    let owner = Arc::new(Owner::new(&arguments.instances, access)?);
    tasks.spawn({
        let owner = owner.clone();
        async move {
            if let Err(error) = owner.run().await {
                eprintln!("the owner cannot call: {error}");
            }
        }
    });
    all_told(&told, arguments.watchers, begun, "start", &owner).await;
    loop {
        tokio::select! {
            asked = asked.recv() => if asked.is_none() { break },
            change = changes.recv() => {
                if change.is_none() { break }
                news(&told, arguments.watchers, &owner).await?;
                continue;
            }
        }
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

/// Lets so many nodes join at once, and prints how that went.
async fn join(owner: &cluster::Owner, nodes: usize, instances: &[SocketAddr]) -> Result<Access, Failure> {
    let begun = Instant::now();
    let joined = owner.join_all(nodes, instances, fill::SIZE).await?;
    let seconds = begun.elapsed().as_secs_f64();
    println!(
        "{}",
        json!({ "what": "joined", "nodes": joined.len(), "seconds": seconds })
    );
    Ok(Access::Certified {
        owner: owner.credentials(),
        nodes: Arc::new(joined),
    })
}

/// Changes a node, and prints how long it took until that was acknowledged, and until all who watch were told.
async fn news(told: &Told, watchers: usize, owner: &Owner) -> Result<(), Failure> {
    told.clear();
    let watchers = u64::try_from(watchers)?;
    let begun = Instant::now();
    owner.change().await?;
    let acknowledged = begun.elapsed().as_secs_f64();
    let everybody = async {
        while told.news.load(Ordering::Relaxed) < watchers {
            told.changed().await;
        }
    };
    let done = tokio::time::timeout(PATIENCE, everybody).await.is_ok();
    let seconds = begun.elapsed().as_secs_f64();
    println!(
        "{}",
        json!({ "what": "change", "done": done, "acknowledged": acknowledged, "seconds": seconds })
    );
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
