//! A Prometheus of its own, with the rules of `deploy/prometheus/alerts.yaml`, whose time goes faster.
//!
//! A scenario has seconds where operators have minutes. So each `for:` and each range in the rules is divided by one
//! number, and so is the interval between two looks; thresholds stay what they are.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use curator_harness::{Port, Process, ProcessSpec, TempDir, http, wait_until};
use serde_json::{Value, json};

use crate::test_cluster::SOON;

/// The rules, as they are delivered.
pub(super) const RULES: &str = include_str!("../../../../deploy/prometheus/alerts.yaml");

/// A Prometheus that runs.
pub(super) struct Prometheus {
    port: Port,
    targets: PathBuf,
    /// When it began to look at its first targets: before that, nobody is there.
    since: Option<Instant>,
    _process: Process,
}

impl Prometheus {
    /// Whether there is one on this host.
    pub(super) fn is_installed() -> bool {
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path).any(|directory| directory.join("prometheus").is_file())
    }

    /// Starts it, with all times of the rules divided by `by`, and waits until it is ready.
    pub(super) fn start(scratch: &TempDir, name: &str, by: u32, every: Duration) -> Self {
        let directory = scratch.dir(name).unwrap();
        let targets = directory.join("targets.json");
        fs::write(&targets, "[]").unwrap();
        fs::write(directory.join("rules.yaml"), hastened(RULES, by)).unwrap();
        let every = every.as_millis();
        let config = format!(
            "global: {{scrape_interval: {every}ms, scrape_timeout: {every}ms, evaluation_interval: {every}ms}}\n\
             rule_files: [rules.yaml]\n\
             scrape_configs:\n\
             - job_name: curator\n\
             \x20 file_sd_configs: [{{files: [targets.json], refresh_interval: 1s}}]\n"
        );
        fs::write(directory.join("prometheus.yml"), config).unwrap();
        let port = Port::reserve().unwrap();
        let spec = ProcessSpec::new(name, "prometheus").args([
            format!("--config.file={}", directory.join("prometheus.yml").display()),
            format!("--storage.tsdb.path={}", directory.join("data").display()),
            format!("--web.listen-address={}", port.address()),
        ]);
        let process = Process::start(&spec, scratch).unwrap();
        let prometheus = Self {
            port,
            targets,
            since: None,
            _process: process,
        };
        wait_until("Prometheus to be ready", SOON, || prometheus.get("/-/ready").map(drop)).unwrap();
        prometheus
    }

    /// What it looks at from now on.
    pub(super) fn looks_at(&mut self, targets: &[String]) {
        let next = self.targets.with_extension("next");
        fs::write(&next, json!([{"targets": targets}]).to_string()).unwrap();
        fs::rename(next, &self.targets).unwrap();
        wait_until("each target to be looked at", SOON, || {
            let up = self.query("up")?;
            let found = |target: &String| up.iter().any(|series| series["instance"] == **target);
            targets.iter().all(found).then_some(())
        })
        .unwrap();
        self.since.get_or_insert_with(Instant::now);
    }

    fn get(&self, path: &str) -> Option<String> {
        let answer = http::get(self.port.address(), path, Duration::from_secs(5)).ok();
        answer.filter(|(status, _)| *status == 200).map(|(_, body)| body)
    }

    /// The labels of each series of an answer.
    pub(super) fn query(&self, expression: &str) -> Option<Vec<Value>> {
        let text: String = expression.bytes().map(|byte| format!("%{byte:02x}")).collect();
        let answer: Value = serde_json::from_str(&self.get(&format!("/api/v1/query?query={text}"))?).ok()?;
        let series = answer["data"]["result"].as_array()?;
        Some(series.iter().map(|series| series["metric"].clone()).collect())
    }

    /// The alerts that have fired at any time since.
    pub(super) fn fired(&self) -> BTreeSet<String> {
        let fired = wait_until("an answer of Prometheus", SOON, || {
            let since = self.since.map(|since| since.elapsed().as_millis().max(1))?;
            self.query(&format!("count_over_time(ALERTS{{alertstate=\"firing\"}}[{since}ms])"))
        });
        let name = |labels: Value| labels["alertname"].as_str().unwrap_or_default().to_owned();
        fired.unwrap().into_iter().map(name).collect()
    }

    /// Whether an alert has fired by then.
    pub(super) fn has_fired(&self, alert: &str, within: Duration) -> bool {
        wait_until(format!("the alert {alert}"), within, || {
            self.fired().contains(alert).then_some(())
        })
        .is_ok()
    }

    /// Waits until all of these have fired.
    pub(super) fn fires(&self, alerts: &[&str]) {
        wait_until(format!("the alerts {alerts:?}"), 3 * SOON, || {
            let fired = self.fired();
            alerts.iter().all(|alert| fired.contains(*alert)).then_some(())
        })
        .unwrap_or_else(|error| panic!("{}: {:?} have", error.chain(), self.fired()));
    }
}

/// The rules with all their times divided by a number.
fn hastened(rules: &str, by: u32) -> String {
    let shorter = |text: &str| {
        let time = curator_harness::clock::parse_duration(text).or_else(|| {
            let hours: u64 = text.strip_suffix('h')?.parse().ok()?;
            Some(Duration::from_secs(hours * 3_600))
        });
        format!("{}ms", (time.unwrap() / by).as_millis())
    };
    let mut lines = Vec::new();
    for line in rules.lines() {
        if let Some((head, time)) = line.split_once(" for: ") {
            lines.push(format!("{head} for: {}", shorter(time.trim())));
            continue;
        }
        if !line.trim_start().starts_with("expr:") {
            lines.push(line.to_owned());
            continue;
        }
        let mut parts = line.split('[');
        let mut text = parts.next().unwrap_or_default().to_owned();
        for part in parts {
            let (time, rest) = part.split_once(']').unwrap();
            text.push_str(&format!("[{}]{rest}", shorter(time)));
        }
        lines.push(text);
    }
    lines.join("\n")
}

/// The names of all alerts.
pub(super) fn all_alerts() -> BTreeSet<&'static str> {
    let names = RULES.lines().filter_map(|line| line.trim().strip_prefix("- alert: "));
    names.collect()
}

/// Whether `deploy/prometheus/tests.yaml` has promtool see an alert fire.
pub(super) fn promtool_sees(alert: &str) -> bool {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/prometheus/tests.yaml");
    let tests = fs::read_to_string(tests).unwrap();
    let samples = tests.lines().filter(|line| line.contains("labels: '"));
    let named = format!("alertname=\"{alert}\"");
    samples.into_iter().any(|line| line.contains(&named))
}

#[test]
fn all_times_of_the_rules_are_divided() {
    let rules = "expr: increase(a[15m]) > 4 and b[1h] > 15\n        for: 1m\ndescription: not [this]";
    let hastened = hastened(rules, 60);
    let expected = "expr: increase(a[15000ms]) > 4 and b[60000ms] > 15\n        for: 1000ms\ndescription: not [this]";
    assert_eq!(hastened, expected);
}
