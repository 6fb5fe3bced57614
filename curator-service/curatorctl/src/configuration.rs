//! `curatorctl config`: the cluster configuration.

use clap::Subcommand;
use curator_client::Instance;
use curator_proto::common::ClusterConfiguration;
use curator_proto::common::cluster_configuration::kubernetes::NodeLabelsToSynchronize;
use curator_proto::common::cluster_configuration::{Kubernetes, StorageSecurityPolicy, TpmMode};
use curator_proto::management_api::management_client::ManagementClient;
use curator_proto::management_api::{ConfigureClusterRequest, GetClusterInfoRequest};
use prost_types::FieldMask;
use serde_json::{Value, json};

use crate::connect::{Cluster, client};
use crate::error::Failure;
use crate::output::Table;
use crate::text::short;

/// The only field that can be changed.
const LABELS: &str = "kubernetes.node_labels_to_synchronize";

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Prints the cluster configuration.
    Get,
    /// Changes the cluster configuration. Fails if it was changed concurrently.
    Set {
        /// Synchronize node labels to Kubernetes whose keys match this regular expression; may be repeated.
        #[arg(long, value_name = "REGEXP", required_unless_present = "no_sync_labels")]
        sync_labels: Vec<String>,
        /// Synchronize no labels.
        #[arg(long, conflicts_with = "sync_labels")]
        no_sync_labels: bool,
    },
}

pub(crate) async fn run(cluster: &Cluster, command: Command) -> Result<(), Failure> {
    let leader = cluster.leader().await?;
    let present = get(cluster, &leader).await?;
    let shown = match command {
        Command::Get => present,
        Command::Set { sync_labels, .. } => {
            let mut new = present.clone();
            let rules = sync_labels.into_iter().map(|regexp| NodeLabelsToSynchronize { regexp });
            new.kubernetes.get_or_insert_default().node_labels_to_synchronize = rules.collect();
            let request = ConfigureClusterRequest {
                base_config: Some(present),
                new_config: Some(new),
                update_mask: Some(FieldMask {
                    paths: vec![LABELS.to_owned()],
                }),
            };
            let mut management = client!(ManagementClient, leader);
            let call = async || management.configure_cluster(cluster.request(request.clone())).await;
            cluster
                .call(&leader, call)
                .await?
                .into_inner()
                .resulting_config
                .unwrap_or_default()
        }
    };
    let data = data(&shown);
    cluster.settings.output.print(&data, &table(&data))
}

async fn get(cluster: &Cluster, leader: &Instance) -> Result<ClusterConfiguration, Failure> {
    let mut management = client!(ManagementClient, leader);
    let call = async || {
        let request = cluster.request(GetClusterInfoRequest {});
        management.get_cluster_info(request).await
    };
    let info = cluster.call(leader, call).await?.into_inner();
    Ok(info.cluster_configuration.unwrap_or_default())
}

fn data(configuration: &ClusterConfiguration) -> Value {
    let rules = |kubernetes: &Kubernetes| -> Vec<String> {
        let rules = kubernetes.node_labels_to_synchronize.iter();
        rules.map(|rule| rule.regexp.clone()).collect()
    };
    json!({
        "cluster_domain": configuration.cluster_domain,
        "tpm_mode": short(TpmMode::as_str_name(&configuration.tpm_mode()), "TPM_MODE_"),
        "storage_security_policy": short(
            StorageSecurityPolicy::as_str_name(&configuration.storage_security_policy()),
            "STORAGE_SECURITY_POLICY_",
        ),
        LABELS: configuration.kubernetes.as_ref().map(rules).unwrap_or_default(),
    })
}

fn table(data: &Value) -> Table {
    let mut table = Table::new(&["FIELD", "VALUE"]);
    for (name, value) in data.as_object().into_iter().flatten() {
        let text = match value {
            Value::String(text) => text.clone(),
            Value::Array(values) => values.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(", "),
            other => other.to_string(),
        };
        table.row([name.clone(), text]);
    }
    table
}
