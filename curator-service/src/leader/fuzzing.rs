//! Entry points of fuzz targets: leader code that parses text and bytes from callers.

use std::time::Duration;

use curator_election::clock::{BootClock, Clock};
use curator_proto::common::cluster_configuration::Kubernetes;
use curator_proto::common::node_labels::Pair;
use curator_proto::common::{ClusterConfiguration, NodeLabels};
use curator_proto::management_api::{ConfigureClusterRequest, Node};

use crate::leader::cluster::configuration;
use crate::leader::nodes::filter as filters;

/// A merge changes only the label rules.
pub(crate) fn merge(request: &ConfigureClusterRequest) {
    let current = ClusterConfiguration {
        cluster_domain: "cluster.internal".into(),
        kubernetes: Some(Kubernetes::default()),
        ..ClusterConfiguration::default()
    };
    if let Some(merged) = configuration::merge_into(request, &current) {
        let kubernetes = current.kubernetes.clone();
        assert_eq!(ClusterConfiguration { kubernetes, ..merged }, current);
    }
}

/// A filter generated from bytes by the grammar stays within its limits of memory and time.
pub(crate) fn filter_by_grammar(tape: &[u8]) {
    let text = filters::grammar::written(tape);
    let clock = BootClock;
    let (before, began) = (peak_from_now(), clock.now());
    let pairs = (0..128).map(|number| Pair {
        key: format!("{}.example/{number}", "d".repeat(60)),
        value: "v".repeat(63),
    });
    let node = Node {
        labels: Some(NodeLabels { pairs: pairs.collect() }),
        ..Node::default()
    };
    filters::ask(&text, &node);
    let took = clock.now().saturating_since(began);
    assert!(took < MAX_TIME, "{took:?}: {text}");
    if let (Some(before), Some(after)) = (before, memory("VmHWM:")) {
        assert!(after < before + MAX_MEMORY, "{} KiB more: {text}", after - before);
    }
}

/// Maximum time for one filter on one node, in a build with all checks.
const MAX_TIME: Duration = Duration::from_secs(10);
/// Maximum additional memory, including the stack, in KiB.
const MAX_MEMORY: u64 = 64 << 10;

/// Returns the resident memory in KiB and resets the peak. `None` if the system does not report it.
fn peak_from_now() -> Option<u64> {
    std::fs::write("/proc/self/clear_refs", "5").ok()?;
    memory("VmRSS:")
}

fn memory(of: &str) -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(of))?;
    line.trim().trim_end_matches(" kB").parse().ok()
}

/// A filter gives the same result twice.
pub(crate) fn filter(text: &str) {
    let node = Node::default();
    assert_eq!(filters::ask(text, &node), filters::ask(text, &node));
}
