//! Medians, ratios, and how they are shown.

use std::fmt::Write as _;
use std::time::Duration;

use super::comparison::{Better, Comparison};
use super::figures;
use super::workload::Workload;

/// What was measured of one way in one round.
#[derive(Clone, Copy, Debug)]
pub(super) struct Measured {
    /// Calls or messages.
    pub(super) per_second: f64,
    pub(super) median: Duration,
    pub(super) p99: Duration,
    /// Seconds of processor time for each call or message, of the one in between.
    pub(super) cpu: f64,
}

/// A figure of one way, beside the straight one of the same round.
type Pick<'a> = &'a dyn Fn(&Measured, &Measured) -> f64;

/// The ways of one round, the straight one first.
type Round = Vec<(&'static str, Measured)>;

/// All rounds.
#[derive(Debug, Default)]
pub(super) struct Report {
    /// What is different about all of it, for the reader.
    with: &'static str,
    rounds: Vec<(&'static str, Round)>,
    tables: Vec<String>,
    verdicts: Vec<String>,
}

/// The medians of one way.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Line {
    name: &'static str,
    per_second: f64,
    /// To the straight way of the same round.
    ratio: f64,
    /// Microseconds.
    median: f64,
    added: f64,
    p99: f64,
    cpu: f64,
}

impl Report {
    /// One of what is measured so.
    pub(super) fn with(with: &'static str) -> Self {
        Self {
            with,
            ..Self::default()
        }
    }

    /// How much of the direct calls each way lets through, without TLS and with it.
    pub(super) fn kept(plain: &Self, tls: &Self, workload: &Workload) -> String {
        let (plain, tls) = (plain.lines(workload), tls.lines(workload));
        let mut text = String::new();
        for (plain, tls) in plain.iter().zip(&tls).filter(|(plain, _)| plain.name != "direct") {
            let _ = writeln!(
                text,
                "{}: of the direct calls {} lets through {:.2} without TLS and {:.2} with it ({:.2} of that), for {:.2} and {:.2} \
                 us of CPU",
                workload.title,
                plain.name,
                plain.ratio,
                tls.ratio,
                tls.ratio / plain.ratio,
                plain.cpu,
                tls.cpu,
            );
        }
        text
    }

    fn lines(&self, workload: &Workload) -> Vec<Line> {
        let rounds: Vec<&Round> = self
            .rounds
            .iter()
            .filter(|(name, _)| *name == workload.name)
            .map(|(_, round)| round)
            .collect();
        lines(&rounds)
    }

    /// Adds a round.
    pub(super) fn add(&mut self, workload: &Workload, round: Round) {
        self.rounds.push((workload.name, round));
    }

    /// The table of a workload, whose rounds are all there.
    pub(super) fn table(&mut self, workload: &Workload) -> String {
        let lines = self.lines(workload);
        let rounds = self.rounds.iter().filter(|(name, _)| *name == workload.name).count();
        let mut table = format!("\n{}{} (medians of {rounds} rounds)\n\n", workload.title, self.with);
        let _ = writeln!(
            table,
            "| way | {}s/s | of direct | CPU us a {} |{}",
            workload.unit,
            workload.unit,
            if workload.latency {
                " median us | added us | p99 us |"
            } else {
                ""
            }
        );
        let _ = writeln!(
            table,
            "|---|---:|---:|---:|{}",
            if workload.latency { "---:|---:|---:|" } else { "" }
        );
        for line in &lines {
            let cpu = if line.name == "direct" {
                "-".to_owned()
            } else {
                format!("{:.2}", line.cpu)
            };
            let _ = write!(
                table,
                "| {} | {:.0} | {:.2} | {cpu} |",
                line.name, line.per_second, line.ratio
            );
            if workload.latency {
                let _ = write!(table, " {:.1} | {:.1} | {:.1} |", line.median, line.added, line.p99);
            }
            table.push('\n');
        }
        self.verdicts.extend(verdicts(workload, self.with, &lines));
        self.tables.push(table.clone());
        table
    }

    /// The follower beside each peer, for the summary.
    pub(super) fn comparisons(&self, workloads: &[&Workload]) -> Vec<Comparison> {
        let part = format!("Forwarding{}", self.with);
        let mut all = Vec::new();
        for workload in workloads {
            let of = |way: &str, pick: Pick<'_>| -> Vec<f64> {
                let rounds = self.rounds.iter().filter(|(name, _)| *name == workload.name);
                rounds
                    .filter_map(|(_, round)| {
                        let (_, measured) = round.iter().find(|(name, _)| *name == way)?;
                        Some(pick(measured, &round.first()?.1))
                    })
                    .collect()
            };
            let micros = |duration: Duration| duration.as_secs_f64() * 1e6;
            let mut picks: Vec<(&str, &'static str, Better, Pick<'_>)> = vec![
                ("a second", "1/s", Better::More, &|measured, _| measured.per_second),
                ("processor time for each", "us", Better::Less, &|measured, _| {
                    measured.cpu * 1e6
                }),
            ];
            let added = |measured: &Measured, direct: &Measured| micros(measured.median) - micros(direct.median);
            if workload.latency {
                picks.push(("median latency added", "us", Better::Less, &added));
            }
            for (what, unit, better, pick) in picks {
                for peer in ["nginx", "haproxy"] {
                    let theirs = of(peer, pick);
                    if !theirs.is_empty() {
                        all.push(Comparison {
                            part: part.clone(),
                            what: format!("{}: {what}", workload.title),
                            unit,
                            better,
                            ours: of("follower", pick),
                            peer: Some((peer, theirs)),
                        });
                    }
                }
            }
        }
        all
    }

    /// Whether we are ahead, line by line.
    pub(super) fn verdicts(&self) -> String {
        format!("\n{}\n", self.verdicts.join("\n"))
    }

    /// Everything, to be kept.
    pub(super) fn markdown(&self) -> String {
        format!(
            "# Forwarding, measured{}\n{}\n{}",
            self.with,
            self.tables.concat(),
            self.verdicts()
        )
    }
}

fn lines(rounds: &[&Round]) -> Vec<Line> {
    let Some(first) = rounds.first() else { return Vec::new() };
    let micros = |duration: Duration| duration.as_secs_f64() * 1e6;
    (0..first.len())
        .map(|way| {
            let of = |pick: &dyn Fn(&Round) -> f64| median(rounds.iter().map(|round| pick(round)).collect());
            Line {
                name: first[way].0,
                per_second: of(&|round| round[way].1.per_second),
                ratio: of(&|round| round[way].1.per_second / round[0].1.per_second),
                median: of(&|round| micros(round[way].1.median)),
                added: of(&|round| micros(round[way].1.median) - micros(round[0].1.median)),
                p99: of(&|round| micros(round[way].1.p99)),
                cpu: of(&|round| round[way].1.cpu * 1e6),
            }
        })
        .collect()
}

/// The follower beside each peer.
fn verdicts(workload: &Workload, with: &str, lines: &[Line]) -> Vec<String> {
    let Some(follower) = lines.iter().find(|line| line.name == "follower") else {
        return Vec::new();
    };
    // One in a hundred is within what the machine does by itself.
    let ahead = |ours: f64, theirs: f64| match ours / theirs {
        level if (0.99..=1.01).contains(&level) => "level with",
        ratio if ratio > 1.0 => "ahead of",
        _ => "behind",
    };
    lines
        .iter()
        .filter(|line| !matches!(line.name, "direct" | "follower"))
        .map(|peer| {
            let mut text = format!(
                "{}{with}: the follower is {} {} in throughput ({:.2} of it), {} it in CPU a {} ({:.2} of it)",
                workload.title,
                ahead(follower.per_second, peer.per_second),
                peer.name,
                follower.per_second / peer.per_second,
                ahead(peer.cpu, follower.cpu),
                workload.unit,
                follower.cpu / peer.cpu,
            );
            if workload.latency {
                let _ = write!(
                    text,
                    ", {} it in added latency ({:.2} of it)",
                    ahead(peer.added, follower.added),
                    follower.added / peer.added
                );
            }
            text
        })
        .collect()
}

/// The median, and 0 of nothing.
pub(super) fn median(numbers: Vec<f64>) -> f64 {
    if numbers.is_empty() {
        0.0
    } else {
        figures::median(&numbers)
    }
}

#[cfg(test)]
mod tests {
    use super::super::workload::WORKLOADS;
    use super::*;

    fn measured(per_second: f64, micros: u64, cpu: f64) -> Measured {
        Measured {
            per_second,
            median: Duration::from_micros(micros),
            p99: Duration::from_micros(micros * 2),
            cpu,
        }
    }

    #[test]
    fn medians_are_in_the_middle() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), 2.5);
        assert_eq!(median(Vec::new()), 0.0);
    }

    #[test]
    fn ratios_are_of_the_same_round() {
        let mut report = Report::default();
        // The machine was half as fast in the second round.
        for speed in [2.0, 1.0] {
            let round = vec![
                ("direct", measured(100.0 * speed, 100, 0.0)),
                ("follower", measured(50.0 * speed, 150, 1e-6)),
                ("nginx", measured(40.0 * speed, 180, 2e-6)),
            ];
            report.add(&WORKLOADS[0], round);
        }
        let table = report.table(&WORKLOADS[0]);
        assert!(
            table.contains("| follower | 75 | 0.50 | 1.00 | 150.0 | 50.0 | 300.0 |"),
            "{table}"
        );
        let verdicts = report.verdicts();
        assert!(verdicts.contains("ahead of nginx in throughput (1.25 of it), ahead of it in CPU a call (0.50 of it), ahead of it in added latency (0.62"), "{verdicts}");
    }
}
