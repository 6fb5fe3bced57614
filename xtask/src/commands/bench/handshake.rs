//! `cargo xtask bench handshake`: what connections cost, and which share of a call they are.
use std::fmt::Write;

use curator_harness::error::Result;
use curator_harness::{TempDir, signals, step};

use super::comparison::{Better, Comparison};
use super::report::{Measured, median};
use super::routes::{Route, Ways};
use super::workload::Workload;
use super::{Options, certificates, keep, measure};
use crate::workspace::{ECHO_LOAD, FRONT, build};

const CONNECT: Workload = Workload {
    name: "connect",
    title: "connections, 16 at a time",
    unit: "connection",
    latency: true,
    words: ["connect", "16", "1"],
};
const EACH: Workload = Workload {
    name: "each",
    title: "calls with a connection each, 16 at a time",
    unit: "call",
    latency: true,
    words: ["each", "16", "1"],
};
const OPEN: Workload = Workload {
    name: "open",
    title: "calls on an open connection, 16 at a time",
    unit: "call",
    latency: true,
    words: ["unary", "16", "1"],
};

/// What was measured of one way and one workload, in all rounds.
struct Line<'a> {
    way: &'a Route,
    workload: &'static Workload,
    rounds: Vec<Measured>,
}

impl Line<'_> {
    fn median(&self, pick: impl Fn(&Measured) -> f64) -> f64 {
        median(self.rounds.iter().map(pick).collect())
    }

    /// Microseconds of the processor for each.
    fn cpu(&self) -> f64 {
        self.median(|measured| measured.cpu * 1e6)
    }
}

pub(super) fn run(options: &Options) -> Result<Vec<Comparison>> {
    signals::install()?;
    let front = build(FRONT)?;
    let load = build(ECHO_LOAD)?;
    let scratch = TempDir::new("bench-handshake")?;
    let certificates = certificates(&load, &scratch)?;
    let ways = Ways::ends(&front, &scratch, &certificates)?;
    let mut lines: Vec<Line<'_>> = Vec::new();
    for way in &ways.all {
        // What nginx passes on is another matter: `bench forward`.
        let workloads: &[&Workload] = match way.name {
            "instance" => &[&CONNECT, &EACH, &OPEN],
            _ => &[&CONNECT],
        };
        lines.extend(workloads.iter().map(|workload| Line {
            way,
            workload,
            rounds: Vec::new(),
        }));
    }
    for round in 1..=options.rounds {
        step::timed(&format!("round {round} of {}", options.rounds), || {
            for line in &mut lines {
                line.rounds.push(measure(line.way, line.workload, &load, options.time)?);
            }
            Ok(())
        })?;
    }
    let text = report(&lines, options.rounds);
    step::say(&text);
    keep("handshake.md", &text)?;
    Ok(comparisons(&lines))
}

/// The same for the summary.
fn comparisons(lines: &[Line<'_>]) -> Vec<Comparison> {
    let of = |way: &str, tls: bool| {
        let line = lines.iter().find(|line| {
            line.way.name == way && line.workload.name == CONNECT.name && line.way.certificates().is_some() == tls
        });
        line.map(|line| line.rounds.iter().map(|round| round.cpu * 1e6).collect::<Vec<_>>())
    };
    [(true, "a connection with TLS"), (false, "a connection without TLS")]
        .into_iter()
        .filter_map(|(tls, what)| {
            Some(Comparison {
                part: "Connections".into(),
                what: format!("processor time of {what}"),
                unit: "us",
                better: Better::Less,
                ours: of("instance", tls)?,
                peer: of("nginx", tls).map(|nginx| ("nginx", nginx)),
            })
        })
        .collect()
}

fn report(lines: &[Line<'_>], rounds: u32) -> String {
    let mut text = format!(
        "\nConnections and calls, one thread each (medians of {rounds} rounds)\n\n\
         | what | of | TLS | a second | CPU us each | median us | p99 us |\n|---|---|---|---:|---:|---:|---:|\n"
    );
    for line in lines {
        let _ = writeln!(
            text,
            "| {} | {} | {} | {:.0} | {:.1} | {:.0} | {:.0} |",
            line.workload.title,
            line.way.name,
            if line.way.certificates().is_some() { "yes" } else { "no" },
            line.median(|measured| measured.per_second),
            line.cpu(),
            line.median(|measured| measured.median.as_secs_f64() * 1e6),
            line.median(|measured| measured.p99.as_secs_f64() * 1e6),
        );
    }
    let cpu = |way: &str, workload: &Workload, tls: bool| {
        let found = lines.iter().find(|line| {
            line.way.name == way && line.workload.name == workload.name && line.way.certificates().is_some() == tls
        });
        found.map(Line::cpu)
    };
    let ours = |workload, tls| cpu("instance", workload, tls).unwrap_or_default();
    let handshake = ours(&CONNECT, true) - ours(&CONNECT, false);
    let _ = writeln!(
        text,
        "\nA TLS handshake takes {handshake:.0} us of the instance's processor, beside {:.0} us for the connection without it.\n\
         A call with a connection of its own takes {:.0} us, of which the handshake is {:.0} %; on an open connection it takes \
         {:.1} us ({:.1} us without TLS), so a connection that is used for {:.0} calls spends as much on them as on its handshake.",
        ours(&CONNECT, false),
        ours(&EACH, true),
        100.0 * handshake / ours(&EACH, true),
        ours(&OPEN, true),
        ours(&OPEN, false),
        handshake / ours(&OPEN, true),
    );
    if let (Some(with), Some(without)) = (cpu("nginx", &CONNECT, true), cpu("nginx", &CONNECT, false)) {
        let _ = writeln!(
            text,
            "nginx takes {:.0} us for the handshake: ours is {:.2} of that; with the connection itself {:.2}.",
            with - without,
            handshake / (with - without),
            ours(&CONNECT, true) / with
        );
    }
    text
}
