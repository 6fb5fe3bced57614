//! `curatorctl log-level`: reads and sets the log filter of instances.

use curator_client::Instance;
use curator_proto::admin_api::instance_client::InstanceClient;
use curator_proto::admin_api::{GetLogFilterRequest, SetLogFilterRequest};
use futures::future::join_all;
use serde_json::{Value, json};

use crate::connect::Cluster;
use crate::error::Failure;
use crate::output::Table;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// New log filter: a level (off, error, warn, info, debug or trace), TARGET=LEVEL, or several of them separated by
    /// commas, such as info,curator_election=debug. It applies until the instance reloads its configuration (SIGHUP) or
    /// restarts [default: print the current filter].
    #[arg(value_name = "FILTER")]
    filter: Option<String>,
}

/// The log filter of one instance.
struct FilterReport {
    address: String,
    filter: String,
    previous: Option<String>,
}

pub(crate) async fn run(cluster: &Cluster, args: &Args) -> Result<(), Failure> {
    let addresses = &cluster.settings.endpoints;
    let asked = addresses
        .iter()
        .map(|address| ask(cluster, address, args.filter.as_deref()));
    let (mut told, mut failures) = (Vec::new(), Vec::new());
    for outcome in join_all(asked).await {
        match outcome {
            Ok(one) => told.push(one),
            Err(failure) => failures.push(failure),
        }
    }
    // Some instances may have changed although others failed.
    if !told.is_empty() {
        let mut table = Table::new(&["INSTANCE", "FILTER", "BEFORE"]);
        for one in &told {
            table.row([
                one.address.clone(),
                one.filter.clone(),
                one.previous.clone().unwrap_or_default(),
            ]);
        }
        let data =
            |one: &FilterReport| json!({"instance": one.address, "filter": one.filter, "previous": one.previous});
        let data: Value = told.iter().map(data).collect();
        cluster.settings.output.print(&data, &table)?;
    }
    Failure::several(failures, addresses.len()).map_or(Ok(()), Err)
}

/// Asks one instance: each has its own filter.
async fn ask(cluster: &Cluster, address: &str, filter: Option<&str>) -> Result<FilterReport, Failure> {
    let reached = Instance::new(address.to_owned(), cluster.channel(address)?, None);
    let mut instance = InstanceClient::new(reached.channel());
    let told = |filter: String, previous| FilterReport {
        address: address.to_owned(),
        filter,
        previous,
    };
    match filter {
        None => {
            let asked = async || instance.get_log_filter(cluster.request(GetLogFilterRequest {})).await;
            let answer = cluster.call(&reached, asked).await?.into_inner();
            Ok(told(answer.filter, None))
        }
        Some(filter) => {
            let filter = filter.to_owned();
            let request = SetLogFilterRequest { filter: filter.clone() };
            let answer = cluster
                .call(&reached, async || {
                    instance.set_log_filter(cluster.request(request.clone())).await
                })
                .await?;
            Ok(told(filter, Some(answer.into_inner().previous)))
        }
    }
}
