//! `cargo xtask bench storm`: all clients of a big cluster come back at once.

use std::fmt::Write as _;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

mod cluster;
mod growth;
mod parts;
mod picture;

use cluster::{Cluster, Programs, told};
use curator_harness::error::{Error, Result};
use curator_harness::{CuratorProcess, EtcdBinaries, Mark, Recorded, Role, peak, signals, step, wait_until};
use parts::Part;

use super::{cpu, keep};
use crate::tools::etcd::{Found, Want, select};

/// How many nodes there are, and how many of them watch.
const SIZES: [(usize, usize); 5] = [
    (1_000, 100),
    (1_000, 1_000),
    (1_000, 3_000),
    (3_000, 1_000),
    (10_000, 1_000),
];
/// That of a part.
const SIZE_OF_PARTS: (usize, usize) = (1_000, 1_000);
const SOON: Duration = Duration::from_secs(30);

/// What happened before all came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Before {
    /// They come for the first time.
    Start,
    /// The leader is killed.
    Kill,
    /// The leader ends as planned.
    StepDown,
}

impl Before {
    const fn name(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Kill => "kill",
            Self::StepDown => "step-down",
        }
    }
}

/// One storm, and what it took.
struct Storm {
    nodes: usize,
    watchers: usize,
    before: Before,
    told: Value,
    /// Of the instance that led at its end.
    leader_cpu: Duration,
    /// The most that any instance had, and what they had when it was calm.
    peak: u64,
    calm: u64,
    /// Times that somebody began to lead.
    leaders: usize,
}

/// What is asked for.
pub(super) struct Options<'a> {
    /// A size, or a part.
    pub(super) only: Option<&'a str>,
    /// Of a part: how many nodes, and how many clients.
    pub(super) size: Option<&'a str>,
    pub(super) tls: bool,
    /// With programs that are built sooner.
    pub(super) quick: bool,
    pub(super) etcd: Option<&'a str>,
}

pub(super) fn run(options: &Options<'_>) -> Result<()> {
    let part = options.only.and_then(Part::named);
    let size = options.size.map(|size| size_of(size).ok_or_else(no_size)).transpose()?;
    let only = match part {
        None => options.only.map(|only| size_of(only).ok_or_else(no_size)).transpose()?,
        Some(_) => None,
    };
    match part {
        Some(Part::Join) if !options.tls => {
            return Err(Error::usage("nodes join with their keys: give --tls as well"));
        }
        None if size.is_some() => return Err(Error::usage("--size is of a part; a storm's size is what --only says")),
        _ => {}
    }
    let want = Want::read_one(options.etcd)?;
    signals::install()?;
    let Some(Found { binaries, .. }) = select(&want)?.into_iter().next() else {
        return Ok(());
    };
    let programs = Programs::build(options.quick)?;
    if let Some(part) = part {
        return part.run(&binaries, &programs, size.unwrap_or(SIZE_OF_PARTS), options.tls);
    }
    let sizes: Vec<_> = only.map_or_else(|| SIZES.to_vec(), |only| vec![only]);
    let mut storms = Vec::new();
    for (nodes, watchers) in sizes {
        let name = format!("{nodes} nodes, {watchers} of which watch");
        storms.extend(step::timed(&name, || {
            measure(&binaries, &programs, (nodes, watchers), options.tls)
        })?);
    }
    let report = report(&storms, binaries.version(), options.tls);
    step::say(&report);
    let name = if options.tls { "storm-tls" } else { "storm" };
    keep(&format!("{name}.html"), &picture::page(&storms, binaries.version()))?;
    keep(&format!("{name}.md"), &report)
}

/// A number of nodes and one of clients, such as `1000x100`.
fn size_of(text: &str) -> Option<(usize, usize)> {
    let (nodes, watchers) = text.split_once('x')?;
    let size = (nodes.parse().ok()?, watchers.parse().ok()?);
    (size.0 > 0 && size.1 > 0).then_some(size)
}

fn no_size() -> Error {
    Error::usage("there is no such size; see `cargo xtask bench --help`")
}

impl Storm {
    /// What the generator says of it.
    fn number(&self, field: &str) -> f64 {
        self.told[field].as_f64().unwrap_or(f64::NAN)
    }
}

fn measure(binaries: &EtcdBinaries, programs: &Programs, size: (usize, usize), tls: bool) -> Result<Vec<Storm>> {
    let (nodes, watchers) = size;
    let mut cluster = Cluster::start(binaries, programs, size, tls)?;
    let calm = cluster.calm;
    let before = now(&cluster.curators)?;
    let generator = cluster.clients(size, "watch")?;
    // Those with certificates join first.
    let (before_cpu, marks) = if tls {
        told(&generator, "joined", 0).and_then(|_| now(&cluster.curators))?
    } else {
        before
    };
    let mut storms = vec![finish(
        &cluster.curators,
        &generator,
        Before::Start,
        calm,
        &before_cpu,
        &marks,
    )?];
    for before in [Before::StepDown, Before::Kill] {
        let leads = wait_until("a leader", SOON, || leader(&cluster.curators))?;
        let (before_cpu, marks) = now(&cluster.curators)?;
        generator.process.signal(Signal::USR1)?;
        generator.wait_line(Mark::START, SOON, |line| line.contains("begun"))?;
        match before {
            Before::Kill => cluster.curators[leads].kill().map(drop)?,
            Before::StepDown | Before::Start => {
                cluster.curators[leads].terminate()?;
                cluster.curators[leads].wait_exit(SOON)?;
            }
        }
        storms.push(finish(
            &cluster.curators,
            &generator,
            before,
            calm,
            &before_cpu,
            &marks,
        )?);
        cluster.curators[leads].restart()?;
        wait_until("all to agree", SOON, || agreed(&cluster.curators))?;
    }
    for storm in &mut storms {
        (storm.nodes, storm.watchers) = (nodes, watchers);
        // Records of a kilobyte, less what only the leader sees of them.
        let least = 0.8 * 1_000.0 * (nodes * watchers) as f64;
        if storm.told["done"] == true && storm.number("bytes") < least {
            return Err(Error::new(
                "the watchers were told less than there is: the records are not what they should be",
            ));
        }
    }
    Ok(storms)
}

/// What the instances have taken so far, and where their logs are.
fn now(curators: &[CuratorProcess]) -> Result<(Vec<Duration>, Vec<Mark>)> {
    Ok((all_cpu(curators)?, curators.iter().map(CuratorProcess::mark).collect()))
}

/// Waits for the end of the storm, and looks at what it took.
fn finish(
    curators: &[CuratorProcess],
    generator: &Recorded,
    before: Before,
    calm: u64,
    before_cpu: &[Duration],
    marks: &[Mark],
) -> Result<Storm> {
    let count = match before {
        Before::Start => 0,
        Before::StepDown => 1,
        Before::Kill => 2,
    };
    let found = told(generator, "done", count)?;
    let leads = wait_until("a leader", SOON, || leader(curators))?;
    let took = cpu::of_process(curators[leads].pid())?.saturating_sub(before_cpu[leads]);
    let leaders = curators
        .iter()
        .zip(marks)
        .flat_map(|(curator, mark)| curator.roles_since(*mark))
        .filter(|change| change.role.is_leader())
        .count();
    Ok(Storm {
        nodes: 0,
        watchers: 0,
        before,
        told: found,
        leader_cpu: took,
        peak: most(curators, peak)?,
        calm,
        leaders,
    })
}

fn leader(curators: &[CuratorProcess]) -> Option<usize> {
    let leads = |curator: &CuratorProcess| {
        curator.process().is_running() && curator.role().is_some_and(|role| role.is_leader())
    };
    curators.iter().position(leads)
}

fn agreed(curators: &[CuratorProcess]) -> Option<()> {
    let leader = leader(curators)?;
    let term = curators[leader].role()?.lock_revision();
    let follows = |curator: &CuratorProcess| curator.role().as_ref().and_then(Role::lock_revision) == term;
    curators.iter().all(follows).then_some(())
}

fn all_cpu(curators: &[CuratorProcess]) -> Result<Vec<Duration>> {
    curators.iter().map(|curator| cpu::of_process(curator.pid())).collect()
}

fn most(curators: &[CuratorProcess], of: impl Fn(u32) -> Result<u64>) -> Result<u64> {
    let running = curators.iter().filter(|curator| curator.process().is_running());
    let each = running.map(|curator| of(curator.pid())).collect::<Result<Vec<_>>>()?;
    each.into_iter().max().ok_or_else(|| Error::new("no instance runs"))
}

fn report(storms: &[Storm], version: &str, tls: bool) -> String {
    let with = if tls { "with TLS" } else { "without TLS" };
    let mut text = format!(
        "# The storm, measured\n\nThree members of etcd {version}, three instances and all clients on one machine, {with}. Each client has a \
         watch of all nodes and a stream of heartbeats. The peak is that of a process since its start.\n\n\
         | nodes x watchers | after | told, MB | all told after, s | leaders | leader's processor, s | peak, MiB (calm) | owner: calls, failed \
         | p50, p99, longest, ms |\n|---|---|---|---|---|---|---|---|---|\n"
    );
    for storm in storms {
        let number = |field| storm.number(field);
        let done = match storm.told["done"].as_bool() {
            Some(true) => format!("{:.1}", number("seconds")),
            _ => format!(
                "not within {:.0}: {} of {}",
                number("seconds"),
                storm.told["complete"],
                storm.watchers
            ),
        };
        let _ = writeln!(
            text,
            "| {} x {} | {} | {:.0} | {done} | {} | {:.1} | {} ({}) | {}, {} | {:.0}, {:.0}, {:.0} |",
            storm.nodes,
            storm.watchers,
            storm.before.name(),
            number("bytes") / 1e6,
            storm.leaders,
            storm.leader_cpu.as_secs_f64(),
            storm.peak >> 20,
            storm.calm >> 20,
            storm.told["owner_calls"],
            storm.told["owner_failed"],
            number("owner_p50_ms"),
            number("owner_p99_ms"),
            number("owner_longest_ms"),
        );
    }
    for storm in storms {
        if let Some(told) = storm.told["owner_told"].as_str() {
            let _ = writeln!(
                text,
                "\nWhat an owner was told last, {} x {} after {}: {told}",
                storm.nodes,
                storm.watchers,
                storm.before.name()
            );
        }
    }
    text.push_str(&growth_of(storms));
    text
}

/// With what powers the costs grow in the watchers, in the nodes, and in what is told.
fn growth_of(storms: &[Storm]) -> String {
    type Size = fn(&Storm) -> f64;
    type Among = fn(&Storm) -> bool;
    let sizes: [(&str, Size, Among); 3] = [
        (
            "watchers, with 1,000 nodes",
            |storm| storm.watchers as f64,
            |storm| storm.nodes == 1_000,
        ),
        (
            "nodes, with 1,000 watchers",
            |storm| storm.nodes as f64,
            |storm| storm.watchers == 1_000,
        ),
        ("bytes told, of all", |storm| storm.number("bytes"), |_| true),
    ];
    let costs: [Size; 3] = [
        |storm| storm.leader_cpu.as_secs_f64(),
        |storm| storm.peak as f64,
        |storm| storm.number("seconds"),
    ];
    let mut text = "\nThe exponents with which costs grow:\n\n| in | the leader's processor | the peak | the time |\n|---|---|---|---|\n".to_owned();
    for (name, size, among) in sizes {
        let _ = write!(text, "| {name} |");
        for cost in costs {
            let points: Vec<_> = storms
                .iter()
                .filter(|storm| among(storm))
                .map(|storm| (size(storm), cost(storm)))
                .collect();
            match growth::exponent(&points) {
                Some(exponent) => {
                    let _ = write!(text, " {exponent:.2} |");
                }
                None => text.push_str(" - |"),
            }
        }
        text.push('\n');
    }
    text
}
