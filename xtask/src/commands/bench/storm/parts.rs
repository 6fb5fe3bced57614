//! What a storm is made of, measured by itself: nodes that join at once, heartbeats and nothing else, and one change
//! with all watching.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use curator_harness::error::{Error, Result};
use curator_harness::{EtcdBinaries, peak, step, wait_until};
use rustix::process::Signal;

use super::cluster::{Cluster, Programs, told};
use super::{SOON, all_cpu, leader, most};
use crate::commands::bench::keep;

/// How long heartbeats are looked at.
const BEATS: Duration = Duration::from_secs(30);
/// How often a node is changed.
const CHANGES: usize = 20;

/// A part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Join,
    Heartbeat,
    Change,
}

impl Part {
    /// The one with this name.
    pub(super) fn named(name: &str) -> Option<Self> {
        match name {
            "join" => Some(Self::Join),
            "heartbeat" => Some(Self::Heartbeat),
            "change" => Some(Self::Change),
            _ => None,
        }
    }

    /// Measures it, and writes what was found.
    pub(super) fn run(
        self,
        binaries: &EtcdBinaries,
        programs: &Programs,
        size: (usize, usize),
        tls: bool,
    ) -> Result<()> {
        let version = binaries.version();
        let with = if tls { "with TLS" } else { "without TLS" };
        let (name, text) = match self {
            Self::Join => ("join", join(binaries, programs, size)?),
            Self::Heartbeat => ("heartbeat", heartbeat(binaries, programs, size, tls)?),
            Self::Change => ("change", change(binaries, programs, size, tls)?),
        };
        let report = format!("# The storm: {name}, {with}, etcd {version}\n\n{text}");
        step::say(&report);
        keep(&format!("storm-{name}.md"), &report)
    }
}

/// Nodes join a cluster that has others already: each registers, is approved, and commits.
fn join(binaries: &EtcdBinaries, programs: &Programs, (nodes, joining): (usize, usize)) -> Result<String> {
    // Those that join are beside those that there are, and beside those with an instance.
    let size = (nodes + joining + 3, joining);
    let cluster = Cluster::start(binaries, programs, size, true)?;
    let before = all_cpu(&cluster.curators)?;
    let generator = cluster.clients(size, "join")?;
    let joined = told(&generator, "joined", 0)?;
    let spent = all_cpu(&cluster.curators)?;
    let leads = wait_until("a leader", SOON, || leader(&cluster.curators))?;
    let took: Vec<_> = spent
        .iter()
        .zip(&before)
        .map(|(now, before)| now.saturating_sub(*before))
        .collect();
    let others: Duration = took.iter().sum::<Duration>().saturating_sub(took[leads]);
    Ok(format!(
        "| nodes there | nodes that join | all have joined after, s | leader's processor, s | the two others', s | peak, MiB (calm) \
         |\n|---|---|---|---|---|---|\n| {nodes} | {} | {:.2} | {:.2} | {:.2} | {} ({}) |\n",
        joined["nodes"],
        joined["seconds"].as_f64().unwrap_or(f64::NAN),
        took[leads].as_secs_f64(),
        others.as_secs_f64(),
        most(&cluster.curators, peak)? >> 20,
        cluster.calm >> 20,
    ))
}

/// Clients that send heartbeats, and watch nothing.
fn heartbeat(binaries: &EtcdBinaries, programs: &Programs, size: (usize, usize), tls: bool) -> Result<String> {
    let (nodes, beating) = size;
    let cluster = Cluster::start(binaries, programs, size, tls)?;
    let generator = cluster.clients(size, "heartbeat")?;
    all_done(&told(&generator, "done", 0)?)?;
    let leads = wait_until("a leader", SOON, || leader(&cluster.curators))?;
    let (before, began) = (all_cpu(&cluster.curators)?, Instant::now());
    std::thread::sleep(BEATS);
    let (spent, lasted) = (all_cpu(&cluster.curators)?, began.elapsed());
    let percent = |time: Duration| time.as_secs_f64() / lasted.as_secs_f64() * 100.0;
    let took: Vec<_> = spent
        .iter()
        .zip(&before)
        .map(|(now, before)| now.saturating_sub(*before))
        .collect();
    let others: Duration = took.iter().sum::<Duration>().saturating_sub(took[leads]);
    Ok(format!(
        "| nodes | clients, each with a heartbeat every 5 s | leader's processor, % of a core | the two others' | peak, MiB (calm) \
         |\n|---|---|---|---|---|\n| {nodes} | {beating} | {:.1} | {:.1} | {} ({}) |\n",
        percent(took[leads]),
        percent(others),
        most(&cluster.curators, peak)? >> 20,
        cluster.calm >> 20,
    ))
}

/// A node changes, and all who watch are told.
fn change(binaries: &EtcdBinaries, programs: &Programs, size: (usize, usize), tls: bool) -> Result<String> {
    let (nodes, watchers) = size;
    let cluster = Cluster::start(binaries, programs, size, tls)?;
    let generator = cluster.clients(size, "watch")?;
    all_done(&told(&generator, "done", 0)?)?;
    let (mut acknowledged, mut last) = (Vec::new(), Vec::new());
    for nth in 1..=CHANGES {
        generator.process.signal(Signal::USR2)?;
        let told = told(&generator, "done", nth)?;
        all_done(&told)?;
        for (field, times) in [("acknowledged", &mut acknowledged), ("seconds", &mut last)] {
            times.push(told[field].as_f64().unwrap_or(f64::NAN) * 1e3);
        }
    }
    let mut text = format!(
        "{CHANGES} changes, {nodes} nodes, {watchers} watchers.\n\n| until | median, ms | least | most |\n|---|---|---|---|\n"
    );
    for (what, times) in [
        ("it is acknowledged", &mut acknowledged),
        ("the last watcher is told", &mut last),
    ] {
        times.sort_by(f64::total_cmp);
        let of = |at: usize| times.get(at).copied().unwrap_or(f64::NAN);
        let _ = writeln!(
            text,
            "| {what} | {:.1} | {:.1} | {:.1} |",
            of(CHANGES / 2),
            of(0),
            of(CHANGES - 1)
        );
    }
    Ok(text)
}

fn all_done(told: &serde_json::Value) -> Result<()> {
    if told["done"] == true {
        Ok(())
    } else {
        Err(Error::new(format!("not all clients were served in time: {told}")))
    }
}
