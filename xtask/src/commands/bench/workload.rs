//! What is called, and how often at a time.
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use curator_harness::error::{Context, Error, Result};
use curator_harness::process::{Orphan, bound, run};
use serde_json::Value;

/// One kind of load.
#[derive(Debug)]
pub(super) struct Workload {
    /// What it is called on the command line.
    pub(super) name: &'static str,
    /// For the reader.
    pub(super) title: &'static str,
    /// What is counted.
    pub(super) unit: &'static str,
    /// Whether the time of one call says something.
    pub(super) latency: bool,
    /// As `echo-load` wants it: kind, in flight, connections.
    pub(super) words: [&'static str; 3],
}

/// All of them.
pub(super) const WORKLOADS: &[Workload] = &[
    Workload {
        name: "unary-1",
        title: "unary, 1 in flight",
        unit: "call",
        latency: true,
        words: ["unary", "1", "1"],
    },
    Workload {
        name: "unary-64",
        title: "unary, 64 in flight on one connection",
        unit: "call",
        latency: true,
        words: ["unary", "64", "1"],
    },
    Workload {
        name: "unary-64x8",
        title: "unary, 64 in flight on eight connections",
        unit: "call",
        latency: true,
        words: ["unary", "64", "8"],
    },
    Workload {
        name: "stream",
        title: "four streams, messages as fast as they come",
        unit: "message",
        latency: false,
        words: ["stream", "4", "1"],
    },
    Workload {
        name: "paced",
        title: "64 streams, a message every 2 ms each",
        unit: "message",
        latency: false,
        words: ["paced", "64", "1"],
    },
];

/// What the load says.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Loaded {
    /// Calls or messages.
    pub(super) count: u64,
    /// In so many seconds.
    pub(super) seconds: f64,
    pub(super) median: Duration,
    pub(super) p99: Duration,
}

impl Workload {
    /// Runs it against an address, with TLS if there are certificates.
    pub(super) fn run(
        &self,
        load: &Path,
        address: SocketAddr,
        time: Duration,
        certificates: Option<&Path>,
    ) -> Result<Loaded> {
        let mut command = bound(load, Orphan::Kill);
        command.arg(address.to_string()).args(self.words);
        command.arg(time.as_secs_f64().to_string());
        command.args(certificates);
        let finished = run(command, time * 2 + Duration::from_secs(30))?;
        parse(&finished.success(&format!("the load {} on {address}", self.name))?)
    }
}

fn parse(line: &str) -> Result<Loaded> {
    let value: Value =
        serde_json::from_str(line.trim()).context(|| format!("the load printed no JSON but {line:?}"))?;
    let number = |name: &str| {
        value[name]
            .as_u64()
            .ok_or_else(|| Error::new(format!("the load does not say {name}: {line}")))
    };
    Ok(Loaded {
        count: number("count")?,
        seconds: value["seconds"]
            .as_f64()
            .filter(|seconds| *seconds > 0.0)
            .ok_or_else(|| Error::new(format!("the load does not say how long it took: {line}")))?,
        median: Duration::from_nanos(number("median_ns")?),
        p99: Duration::from_nanos(number("p99_ns")?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loads_line_is_read() {
        let loaded = parse("{\"count\":10,\"seconds\":2,\"median_ns\":1500,\"p99_ns\":2000}\n").unwrap();
        assert_eq!(loaded.count, 10);
        assert_eq!(loaded.median, Duration::from_nanos(1_500));
        for bad in ["", "{}", "{\"count\":10,\"seconds\":0,\"median_ns\":1,\"p99_ns\":2}"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
