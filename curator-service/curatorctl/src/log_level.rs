//! `curatorctl log-level`: what the named instances log.

use curator_proto::admin_api::instance_client::InstanceClient;
use curator_proto::admin_api::{GetLogFilterRequest, SetLogFilterRequest};
use futures::future::join_all;
use serde_json::{Value, json};

use crate::connect::{Cluster, Reached};
use crate::failure::Failure;
use crate::output::Table;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// A level (off, error, warn, info, debug or trace), or TARGET=LEVEL, or several with commas between them, such as
    /// info,curator_election=debug. It holds until it is changed again, the instance's configuration is read again (SIGHUP), or
    /// the instance ends [default: nothing is changed].
    #[arg(value_name = "FILTER")]
    filter: Option<String>,
}

/// What came of it at one instance.
struct Told {
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
    // Some may have changed although others have not.
    if !told.is_empty() {
        let mut table = Table::new(&["INSTANCE", "FILTER", "BEFORE"]);
        for one in &told {
            table.row([
                one.address.clone(),
                one.filter.clone(),
                one.previous.clone().unwrap_or_default(),
            ]);
        }
        let data = |one: &Told| json!({"instance": one.address, "filter": one.filter, "previous": one.previous});
        let data: Value = told.iter().map(data).collect();
        cluster.settings.output.print(&data, &table)?;
    }
    Failure::several(failures, addresses.len()).map_or(Ok(()), Err)
}

/// Asks one instance itself: each has a filter of its own.
async fn ask(cluster: &Cluster, address: &str, filter: Option<&str>) -> Result<Told, Failure> {
    let reached = Reached {
        address: address.to_owned(),
        channel: cluster.channel(address)?,
        leader: None,
    };
    let mut instance = InstanceClient::new(reached.channel.clone());
    let told = |filter: String, previous| Told {
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
