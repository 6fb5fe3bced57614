//! `cargo xtask bench`: what the workspace is measured at, beside its peers.
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use comparison::Comparison;
use curator_harness::checkout::{root, shown};
use curator_harness::error::{Context, Error, Result};
use curator_harness::process::{self, Orphan, bound};
use curator_harness::{TempDir, signals, step};
use report::Report;
use routes::{Route, Ways};
use workload::WORKLOADS;

use crate::args::Args;
use crate::command::Command;
use crate::workspace::{ECHO_LOAD, FRONT, build};

mod candidates;
mod comparison;
mod cpu;
mod election;
mod failover;
mod figures;
mod handshake;
mod plot;
mod report;
mod routes;
mod state;
mod storm;
mod summary;
mod workload;

/// The command.
pub const COMMAND: Command = Command {
    name: "bench",
    summary: "measures forwarding and TLS beside nginx and haproxy, the leader's state beside etcd, the election beside Go's",
    help: "Usage: cargo xtask bench [--rounds 5] [--time 2s] [--etcd all]
       cargo xtask bench forward [--rounds 5] [--time 2s] [--only WORKLOAD] [--tls]
       cargo xtask bench handshake [--rounds 5] [--time 2s]
       cargo xtask bench state [--rounds 5] [--time 2s] [--only WORKLOAD] [--etcd WHICH]
       cargo xtask bench election [--rounds 5] [--ttl 2s] [--etcd WHICH]
       cargo xtask bench election --hosts [--rounds 3] [--ttl 2s] [--only CASE] [--everything] [--quick] [--etcd WHICH]
       cargo xtask bench storm [--only NxW] [--tls] [--quick] [--etcd WHICH]
       cargo xtask bench storm --only PART [--size NxW] [--tls] [--quick] [--etcd WHICH]

Without a name all of them run, one after the other (about half an hour with the defaults), on each etcd that is at hand
where etcd makes a difference. It writes a table and a page with plots to target/bench, and the summary in
docs/performance.md anew.

forward starts one server, and calls it directly, through a follower, through nginx's grpc_pass and through haproxy, in turn in
each round; messages have 100 bytes. Prints the medians of all rounds, their ratio to the direct calls of the same round,
and the processor time that the one in between takes for each call or message. nginx and haproxy have one thread each, and
the follower one for each core. Either is left out, aloud, where it is not installed. With --tls everything is measured with TLS
1.3 on both sides as well, in turn with the rest, and what that takes off each way is said.

handshake measures what connections cost one instance with one thread, with TLS 1.3 (Ed25519, both sides show a certificate,
nothing is resumed) and without, and nginx with one thread beside it; and which share of a call they are.

state starts one etcd, and reads and writes through the leader's state and by plain calls of etcd, in turn in each round;
then it measures GetNodes and watches with 10 to 10,000 nodes, updates with 100 and 5,000 watchers, heartbeats, and how long a
new leader, an export and an import take with states of 1 to 100 MB, beside a plain reading of the same keys. It says whether what is aimed at is met.

election starts three members of etcd with three of our instances and three candidates of Go's concurrency.Election, and ends
the leaders of both at a time: by SIGKILL, by SIGTERM, and by cutting them off from etcd. It says how soon another one leads, how
long a client of ours has no answer, how long before its key is gone a leader stops, and what idle ones cost.

election --hosts has each instance and its member of etcd on a host of their own: network namespaces, as root. The leader
is killed; hangs; its host is lost, which drops all packets both ways; its host is lost together with etcd's leader; it
is cut off from etcd only. It says how soon another one leads and a call is answered, and how many of the calls that
arrive until then fail; how often the leader changes in a minute in which each fsync of etcd takes long (by strace); and
what idle ones cost. Ours is measured with its failover limit and without it, and Go's concurrency.Election beside them.

storm starts three members of etcd and three instances, and lets all clients of a big cluster come at once: at the start, after a
planned end of the leader, and after it was killed. It says how long it takes until all are told of all nodes, what that costs the
leader, how often the leader changed, and what an owner's calls see of it. With --tls each node has a certificate of the cluster,
which it gets as it joins. A part is measured by itself: join (so many nodes register, are approved and commit at once, with TLS),
heartbeat (clients send heartbeats and nothing else), change (one node changes, and all watch). It is not among those that run
without a name.

  --rounds N       how often everything is measured (default 5)
  --time DURATION  how long each measurement takes (default 2s)
  --tls            of forward: with TLS as well; of storm: with TLS
  --only WORKLOAD  of forward: one of unary-1, unary-64, unary-64x8, stream, paced;
                   of state: one of reads, writes, nodes, watchers, heartbeats, takeover;
                   of storm: the size, such as 1000x100 (nodes and clients), or one of join, heartbeat, change
                   of election --hosts: one of killed, hung, host, host-of-both, cut-off, slow-disk
  --hosts          of election: with hosts that are lost
  --everything     of election --hosts: with TTLs of ten seconds and more, measure more than ours with its limit
  --size NxW       of a part of storm: nodes and clients (default 1000x1000)
  --quick          of storm and of election --hosts: with programs that are built sooner and are slower, to try it
  --ttl DURATION   of election: this TTL alone (default: 2s and 5s)
  --etcd WHICH     the version of etcd to measure beside (default: the first at hand)",
    run,
};

fn run(mut args: Args) -> Result<()> {
    let rounds = args.count("--rounds")?;
    let time = args.duration("--time")?.unwrap_or(Duration::from_secs(2));
    let only = args.value("--only")?;
    let etcd = args.value("--etcd")?;
    let ttl = args.duration("--ttl")?;
    let tls = args.flag("--tls");
    let size = args.value("--size")?;
    let quick = args.flag("--quick");
    let hosts = args.switch("--hosts")?;
    let everything = args.switch("--everything")?;
    let what = args.finish(1)?;
    if hosts && !tls && size.is_none() && what == ["election"] {
        return failover::run(&failover::Options {
            rounds: rounds.unwrap_or(3),
            ttl,
            everything,
            quick,
            only: only.as_deref(),
            etcd: etcd.as_deref(),
        });
    }
    if hosts || everything {
        return Err(Error::usage(
            "--hosts and --everything are of `cargo xtask bench election`",
        ));
    }
    let rounds = rounds.unwrap_or(5);
    let options = Options { rounds, time, only };
    if (quick || size.is_some()) && what.first().is_none_or(|what| what != "storm") {
        return Err(Error::usage("--size and --quick are of `cargo xtask bench storm`"));
    }
    match what.first().map(String::as_str) {
        None if !tls && options.only.is_none() && ttl.is_none() => return all(&options, etcd.as_deref()),
        Some("forward") if etcd.is_none() => forward(&options, tls),
        Some("handshake") if etcd.is_none() && !tls && options.only.is_none() => handshake::run(&options),
        Some("state") if !tls => state::run(&options, etcd.as_deref()),
        Some("storm") => {
            return storm::run(&storm::Options {
                only: options.only.as_deref(),
                size: size.as_deref(),
                tls,
                quick,
                etcd: etcd.as_deref(),
            });
        }
        Some("election") if !tls => election::run(options.rounds, ttl, etcd.as_deref()),
        _ => Err(Error::usage("these do not go together; see `cargo xtask bench --help`")),
    }
    .map(drop)
}

/// All of them, and what they say together.
fn all(options: &Options, etcd: Option<&str>) -> Result<()> {
    let mut measured = election::run(options.rounds, None, etcd.or(Some("all")))?;
    // Of one etcd: what is compared is how the same calls are made.
    let one = etcd.filter(|etcd| *etcd != "all");
    measured.extend(state::run(options, one)?);
    measured.extend(forward(options, true)?);
    measured.extend(handshake::run(options)?);
    summary::write(&measured, options.rounds)
}

/// How much is measured.
struct Options {
    rounds: u32,
    time: Duration,
    only: Option<String>,
}

fn forward(options: &Options, with_tls: bool) -> Result<Vec<Comparison>> {
    let Options { rounds, time, only } = options;
    let (rounds, time) = (*rounds, *time);
    let workloads: Vec<_> = WORKLOADS
        .iter()
        .filter(|workload| only.as_deref().is_none_or(|only| only == workload.name))
        .collect();
    if workloads.is_empty() {
        return Err(Error::usage(
            "there is no such workload; see `cargo xtask bench --help`",
        ));
    }
    signals::install()?;
    let front = build(FRONT)?;
    let load = build(ECHO_LOAD)?;
    let scratch = TempDir::new("bench")?;
    let mut parts = vec![(Report::default(), Ways::start(&front, &scratch, None)?)];
    if with_tls {
        let certificates = certificates(&load, &scratch)?;
        let ways = Ways::start(&front, &scratch, Some(&certificates))?;
        parts.push((Report::with(", with TLS"), ways));
    }

    let mut kept = String::new();
    for workload in &workloads {
        for round in 1..=rounds {
            step::timed(&format!("{}, round {round} of {rounds}", workload.name), || {
                for (report, ways) in &mut parts {
                    let mut measured = Vec::new();
                    for way in &ways.all {
                        measured.push((way.name, measure(way, workload, &load, time)?));
                    }
                    report.add(workload, measured);
                }
                Ok(())
            })?;
        }
        for (report, _) in &mut parts {
            step::say(report.table(workload));
        }
        if let [(plain, _), (tls, _)] = &parts[..] {
            kept.push_str(&Report::kept(plain, tls, workload));
        }
    }
    let mut text = String::new();
    for (report, _) in &parts {
        step::say(report.verdicts());
        text.push_str(&report.markdown());
        text.push('\n');
    }
    step::say(&kept);
    text.push_str(&kept);
    keep("forward.md", &text)?;
    let all = parts.iter().flat_map(|(report, _)| report.comparisons(&workloads));
    Ok(all.collect())
}

/// Writes a report where it is found.
fn keep(name: &str, text: &str) -> Result<()> {
    let directory = root().join("target").join("bench");
    fs::create_dir_all(&directory).context(|| format!("cannot create {}", directory.display()))?;
    let file = directory.join(name);
    fs::write(&file, text).context(|| format!("cannot write {}", file.display()))?;
    step::say(format_args!("written to {}", shown(&file)));
    Ok(())
}

/// Certificates for a server and a client, in a directory of their own.
fn certificates(load: &Path, scratch: &TempDir) -> Result<PathBuf> {
    let directory = scratch.dir("certificates")?;
    let mut command = bound(load, Orphan::Kill);
    command.arg("certificates").arg(&directory);
    process::run(command, Duration::from_secs(10))?.success("the making of certificates")?;
    Ok(directory)
}

fn measure(way: &Route, workload: &workload::Workload, load: &Path, time: Duration) -> Result<report::Measured> {
    let before = way.cpu()?;
    let loaded = workload.run(load, way.address(), time, way.certificates())?;
    let spent = way.cpu()?.saturating_sub(before);
    // The load counts four fifths of its time; the first fifth costs as much.
    Ok(report::Measured {
        per_second: loaded.count as f64 / loaded.seconds,
        median: loaded.median,
        p99: loaded.p99,
        cpu: spent.mul_f64(0.8).as_secs_f64() / loaded.count.max(1) as f64,
    })
}
