//! What of the leader takes text and bytes from callers.

use curator_proto::common::ClusterConfiguration;
use curator_proto::common::cluster_configuration::Kubernetes;
use curator_proto::management_api::{ConfigureClusterRequest, Node};

use super::{configure, filter as filters};

/// A merge changes the rules of labels alone.
pub(crate) fn merge(request: &ConfigureClusterRequest) {
    let current = ClusterConfiguration {
        cluster_domain: "cluster.internal".into(),
        kubernetes: Some(Kubernetes::default()),
        ..ClusterConfiguration::default()
    };
    if let Some(merged) = configure::merge_into(request, &current) {
        let kubernetes = current.kubernetes.clone();
        assert_eq!(ClusterConfiguration { kubernetes, ..merged }, current);
    }
}

/// A filter gives the same answer twice.
pub(crate) fn filter(text: &str) {
    let node = Node::default();
    assert_eq!(filters::ask(text, &node), filters::ask(text, &node));
}
