//! `cargo xtask bench state`: the leader's state beside plain calls of etcd.
use std::collections::BTreeMap;
use std::fmt::Write;

use curator_harness::error::{Context, Error, Result};
use curator_harness::process::{Orphan, bound};
use curator_harness::{EtcdCluster, EtcdOptions, TempDir, signals, step};
use serde_json::Value;

use super::Options;
use super::comparison::{Better, Comparison};
use super::figures::{median, ratios, spread};
use super::keep;
use crate::tools::etcd::{Found, Want, select};
use crate::workspace::{STATE_LOAD, build};

const PARTS: [&str; 6] = ["reads", "writes", "nodes", "watchers", "heartbeats", "takeover"];

pub(super) fn run(options: &Options, etcd: Option<&str>) -> Result<Vec<Comparison>> {
    if let Some(only) = &options.only
        && !PARTS.contains(&only.as_str())
    {
        return Err(Error::usage(
            "there is no such workload; see `cargo xtask bench --help`",
        ));
    }
    let want = Want::read_one(etcd)?;
    signals::install()?;
    let Some(Found { binaries, .. }) = select(&want)?.into_iter().next() else {
        return Ok(Vec::new());
    };
    let load = build(STATE_LOAD)?;
    let scratch = TempDir::new("bench-state")?;
    let one = EtcdOptions {
        members: 1,
        peer_proxies: false,
        ..EtcdOptions::default()
    };
    let etcd = EtcdCluster::start(&binaries, &scratch, one)?;
    let mut command = bound(&load, Orphan::Terminate);
    command.args(["--etcd", &etcd.client_url(0)]);
    command.args(["--rounds", &options.rounds.to_string()]);
    command.args(["--time", &options.time.as_millis().to_string()]);
    if let Some(only) = &options.only {
        command.args(["--only", only]);
    }
    let name = format!("measure beside etcd {}, {} rounds", binaries.version(), options.rounds);
    let lines = step::output(&name, command)?;
    let measured = lines
        .lines()
        .map(|line| serde_json::from_str(line).context(|| format!("state-load wrote {line:?}")))
        .collect::<Result<Vec<Value>>>()?;
    let report = report(&measured, binaries.version());
    step::say(&report);
    keep("state.md", &report)?;
    Ok(comparisons(&measured, binaries.version()))
}

/// The same for the summary.
fn comparisons(measured: &[Value], version: &str) -> Vec<Comparison> {
    let part = format!("The leader's state, beside plain calls of etcd {version}");
    let mut all = Vec::new();
    for aim in &AIMS {
        let of = |way: &'static str, field| {
            let is = move |line: &Value| {
                line["what"] == aim.what && line["in_flight"] == aim.in_flight && line["way"] == way
            };
            numbers(measured, is, field)
        };
        for (field, unit, better, name) in [
            ("a_second", "1/s", Better::More, ""),
            ("median_us", "us", Better::Less, ": median latency"),
        ] {
            let (ours, plain) = (of("state", field), of("plain", field));
            if !plain.is_empty() {
                all.push(Comparison {
                    part: part.clone(),
                    what: format!("{}, {} in flight{name}", aim.what, aim.in_flight),
                    unit,
                    better,
                    ours,
                    peer: Some(("plain etcd", plain)),
                });
            }
        }
    }
    let is_takeover = |line: &&Value| line["what"] == "takeover";
    let largest = measured
        .iter()
        .filter(is_takeover)
        .max_by_key(|line| line["bytes"].as_u64());
    if let Some((nodes, size)) = largest.and_then(|line| Some((line["nodes"].as_u64()?, line["size"].as_u64()?))) {
        let is = |line: &Value| line["what"] == "takeover" && line["nodes"] == nodes && line["size"] == size;
        all.push(Comparison {
            part,
            what: format!("a new leader has read {nodes} nodes of {size} B"),
            unit: "us",
            better: Better::Less,
            ours: numbers(measured, is, "ours_us"),
            peer: Some(("plain etcd", numbers(measured, is, "plain_us"))),
        });
    }
    let mut alone = |what: &str, unit, ours: Vec<f64>| {
        if !ours.is_empty() {
            all.push(Comparison {
                part: "What many of them cost".into(),
                what: what.into(),
                unit,
                better: Better::Less,
                ours,
                peer: None,
            });
        }
    };
    for (of, what) in [
        ("nodes", "memory of the leader, per 1,000 nodes"),
        (
            "watchers",
            "memory of the leader, per 1,000 watchers within its process, without their connections",
        ),
    ] {
        let of_one = measured
            .iter()
            .filter(|line| line["what"] == "memory" && line["of"] == of);
        // The most of them say the most: what is taken in pages is spread over them.
        let most = of_one.max_by_key(|line| line["count"].as_u64());
        let bytes = most.and_then(|line| Some(line["bytes"].as_f64()? / line["count"].as_f64()?));
        alone(
            what,
            "MiB",
            bytes.map(|bytes| bytes * 1_000.0 / 1_048_576.0).into_iter().collect(),
        );
    }
    for watchers in [100_u64, 5_000] {
        let of = |what: &'static str| move |line: &Value| line["what"] == what && line["watchers"] == watchers;
        alone(
            &format!("one update, until the last of {watchers} watchers is told"),
            "us",
            numbers(measured, of("watchers"), "last_us"),
        );
        // Of few of them, what is there in any case would count for many.
        if watchers < 1_000 {
            continue;
        }
        let thousands = watchers as f64 / 1_000.0;
        let each = |numbers: Vec<f64>, times: f64| numbers.iter().map(|number| number * times / thousands).collect();
        alone(
            &format!("processor time of one update, per 1,000 of {watchers} watchers"),
            "us",
            each(numbers(measured, of("watchers"), "cpu_us"), 1.0),
        );
        alone(
            &format!("processor while nothing changes, per 1,000 of {watchers} watchers"),
            "% of a core",
            each(numbers(measured, of("idle"), "share_of_a_core"), 100.0),
        );
    }
    let beats = numbers(measured, |line| line["what"] == "heartbeats", "share_of_a_core");
    let beats = beats.iter().map(|share| share * 10.0).collect();
    alone(
        "processor for the heartbeats of 1,000 nodes, each 5 s, without their calls",
        "% of a core",
        beats,
    );
    all
}

/// What is aimed at, of the ratio of ours to the plain way.
struct Aim {
    what: &'static str,
    in_flight: u64,
    /// At least so many times the calls a second.
    throughput: f64,
    /// At most so many times the median latency.
    latency: f64,
}

const AIMS: [Aim; 4] = [
    Aim {
        what: "reads",
        in_flight: 1,
        throughput: 1.0 / 1.1,
        latency: 1.1,
    },
    Aim {
        what: "reads",
        in_flight: 64,
        throughput: 5.0,
        latency: 1.0,
    },
    Aim {
        what: "writes",
        in_flight: 1,
        throughput: 1.0 / 1.1,
        latency: 1.1,
    },
    Aim {
        what: "writes",
        in_flight: 64,
        throughput: 2.0,
        latency: 1.0,
    },
];

fn report(measured: &[Value], version: &str) -> String {
    let mut text = format!("Beside etcd {version}, one member. Medians of all rounds (least to most).\n");
    beside_plain(measured, &mut text);
    by_nodes(measured, &mut text);
    by_watchers(measured, &mut text);
    by_size(measured, &mut text);
    let beats = numbers(measured, |line| line["what"] == "heartbeats", "ns");
    if !beats.is_empty() {
        let share = numbers(measured, |line| line["what"] == "heartbeats", "share_of_a_core");
        let _ = writeln!(
            text,
            "\nA heartbeat costs {} ns in the leader's memory: 10,000 nodes each 5 s take {:.4} % of a core, without their calls.",
            spread(&beats, 0),
            median(&share) * 100.0
        );
    }
    text
}

fn beside_plain(measured: &[Value], text: &mut String) {
    let mut rows = String::new();
    for aim in &AIMS {
        let of = |way: &'static str| {
            move |line: &Value| line["what"] == aim.what && line["in_flight"] == aim.in_flight && line["way"] == way
        };
        let rate = |way| numbers(measured, of(way), "a_second");
        let latency = |way| numbers(measured, of(way), "median_us");
        let (plain, ours) = (rate("plain"), rate("state"));
        if plain.is_empty() {
            continue;
        }
        // Each round against itself: what disturbs one disturbs both.
        let faster = ratios(&ours, &plain);
        let later = ratios(&latency("state"), &latency("plain"));
        let met = median(&faster) >= aim.throughput && median(&later) <= aim.latency;
        let _ = writeln!(
            rows,
            "| {}, {} in flight | {} | {} | {} | {:.0} | {:.0} | {} | {} |",
            aim.what,
            aim.in_flight,
            spread(&plain, 0),
            spread(&ours, 0),
            spread(&faster, 2),
            median(&latency("plain")),
            median(&latency("state")),
            spread(&later, 2),
            if met { "ok" } else { "MISSED" }
        );
    }
    if !rows.is_empty() {
        text.push_str(
            "\n| what | etcd's own, a second | ours, a second | ratio | etcd's own median, us | ours | ratio | aim |\n\
             |---|---|---|---|---|---|---|---|\n",
        );
        text.push_str(&rows);
        text.push_str(
            "\nAims: at 64 in flight 5 times the reads and 2 times the writes a second, each with a lower median latency; at 1 \
             in flight within 1.1 of the plain way.\n",
        );
    }
}

fn by_nodes(measured: &[Value], text: &mut String) {
    let mut counts: BTreeMap<u64, ()> = BTreeMap::new();
    let lines = measured.iter().filter(|line| line["what"] == "nodes");
    counts.extend(lines.filter_map(|line| Some((line["nodes"].as_u64()?, ()))));
    if counts.is_empty() {
        return;
    }
    text.push_str(
        "\n| nodes | GetNodes, us | a node | with a filter, us | a node | Watch backlog, us | a node |\n|---|---|---|---|---|---|---|\n",
    );
    for nodes in counts.keys() {
        let of = |field| {
            numbers(
                measured,
                |line| line["what"] == "nodes" && line["nodes"] == *nodes,
                field,
            )
        };
        let cells: Vec<String> = ["get_us", "filter_us", "backlog_us"]
            .into_iter()
            .map(|field| {
                let took = of(field);
                format!("{} | {:.2}", spread(&took, 0), median(&took) / *nodes as f64)
            })
            .collect();
        let _ = writeln!(text, "| {nodes} | {} |", cells.join(" | "));
    }
}

fn by_watchers(measured: &[Value], text: &mut String) {
    let mut rows = String::new();
    for watchers in [100_u64, 5_000] {
        let is = |line: &Value| line["what"] == "watchers" && line["watchers"] == watchers;
        let last = numbers(measured, is, "last_us");
        if last.is_empty() {
            continue;
        }
        let _ = writeln!(
            rows,
            "| {watchers} | {} | {} | {} |",
            spread(&last, 0),
            spread(&numbers(measured, is, "cpu_us"), 0),
            spread(&numbers(measured, is, "etcd_watches"), 0)
        );
    }
    if !rows.is_empty() {
        text.push_str(
            "\n| watchers | one update: from its acknowledgement until the last is told, us | processor time, us | watches of etcd |\n\
             |---|---|---|---|\n",
        );
        text.push_str(&rows);
    }
}

/// How long a new leader takes to have read a state of some size, and what moving it takes.
fn by_size(measured: &[Value], text: &mut String) {
    let of_sizes = |what: &'static str| {
        let lines = measured.iter().filter(move |line| line["what"] == what);
        lines.filter_map(|line| Some((line["bytes"].as_u64()?, line["nodes"].as_u64()?, line["size"].as_u64()?)))
    };
    let sizes: std::collections::BTreeSet<_> = of_sizes("takeover").collect();
    if sizes.is_empty() {
        return;
    }
    text.push_str(
        "\n| state | plain reading, ms | takeover, ms | ratio | memory | export, of plain | memory | import, of plain | memory |\n\
         |---|---|---|---|---|---|---|---|---|\n",
    );
    for (bytes, nodes, size) in sizes {
        let of = |what: &'static str, field: &str| {
            let is = |line: &Value| line["what"] == what && line["nodes"] == nodes && line["size"] == size;
            numbers(measured, is, field)
        };
        let ms = |numbers: &[f64]| spread(&numbers.iter().map(|us| us / 1e3).collect::<Vec<_>>(), 0);
        let (plain, ours) = (of("takeover", "plain_us"), of("takeover", "ours_us"));
        let resident = median(&of("takeover", "resident"));
        let times = |bytes_of: f64| format!("{:.1}", bytes_of / bytes as f64);
        let moved = |field| median(&of("transfer", field));
        let _ = writeln!(
            text,
            "| {nodes} nodes, {:.1} MB | {} | {} | {} | {} | {:.1} | {} | {:.1} | {} |",
            bytes as f64 / 1e6,
            ms(&plain),
            ms(&ours),
            spread(&ratios(&ours, &plain), 2),
            times(resident),
            moved("export_us") / moved("plain_us"),
            times(moved("export_resident")),
            moved("import_us") / moved("plain_us"),
            times(moved("import_resident")),
        );
    }
    text.push_str(
        "\nA plain reading is of the same keys in pages of 1,000. Memory is by how much a process of its own grew at most, in sizes\n\
         of the state.\n",
    );
}

fn numbers(measured: &[Value], is: impl Fn(&Value) -> bool, field: &str) -> Vec<f64> {
    measured
        .iter()
        .filter(|line| is(line))
        .filter_map(|line| line[field].as_f64())
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pair(in_flight: u64, plain: (f64, f64), ours: (f64, f64)) -> [Value; 2] {
        [("plain", plain), ("state", ours)].map(|(way, (a_second, median_us))| {
            json!({ "what": "reads", "in_flight": in_flight, "way": way, "a_second": a_second, "median_us": median_us })
        })
    }

    #[test]
    fn an_aim_is_met_by_throughput_and_latency_both() {
        for (ours, met) in [
            ((5_000.0, 90.0), "ok"),
            ((4_999.0, 90.0), "MISSED"),
            ((9_000.0, 101.0), "MISSED"),
        ] {
            let text = report(&pair(64, (1_000.0, 100.0), ours), "3.4");
            let row = text.lines().find(|line| line.contains("64 in flight |")).unwrap();
            assert!(row.ends_with(&format!("| {met} |")), "{row}");
        }
    }

    #[test]
    fn ratios_are_of_the_same_round() {
        let mut rounds = pair(1, (1_000.0, 100.0), (1_000.0, 100.0)).to_vec();
        rounds.extend(pair(1, (10.0, 9_000.0), (20.0, 4_500.0)));
        let text = report(&rounds, "3.4");
        assert!(
            text.contains("1.50 (1.00 to 2.00)") && text.contains("0.75 (0.50 to 1.00)"),
            "{text}"
        );
    }
}
