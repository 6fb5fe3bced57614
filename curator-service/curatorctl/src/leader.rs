//! `curatorctl leader`: prints the leader.

use std::time::Duration;

use curator_identity::retry_delay;
use curator_proto::curator_api::curator_local_client::CuratorLocalClient;
use curator_proto::curator_api::{GetCurrentLeaderRequest, GetCurrentLeaderResponse};
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

use crate::connect::{Cluster, leader_address};
use crate::error::Failure;
use crate::output::Table;

/// How long to wait before the next poll.
const RETRY_INTERVAL: Duration = Duration::from_millis(250);

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Keep running and print each change.
    #[arg(long, short)]
    follow: bool,
}

pub(crate) async fn run(cluster: &Cluster, args: &Args) -> Result<(), Failure> {
    let reached = cluster.any().await?;
    if args.follow {
        return follow(cluster).await;
    }
    let leader = reached.leader.ok_or_else(|| {
        Failure::unavailable("no leader")
            .at(reached.address)
            .hint("`curatorctl status` shows why")
    })?;
    let mut table = Table::new(&["LEADER", "ADDRESS"]);
    table.row([
        leader.leader_node_id.clone(),
        leader_address(&leader).unwrap_or_default(),
    ]);
    cluster.settings.output.print(&data(&leader), &table)
}

/// Prints each leader, as reported by any instance, until interrupted.
async fn follow(cluster: &Cluster) -> Result<(), Failure> {
    let mut last = None;
    loop {
        let mut wait = RETRY_INTERVAL;
        for address in &cluster.settings.endpoints {
            let mut local = CuratorLocalClient::new(cluster.channel(address)?);
            let asked = local.get_current_leader(GetCurrentLeaderRequest {});
            // The timeout keeps an instance that hangs from blocking the others.
            let answers = match timeout(cluster.settings.timeout, asked).await {
                Ok(Ok(answers)) => answers,
                Ok(Err(status)) => {
                    wait = wait.max(retry_delay(&status).unwrap_or_default());
                    continue;
                }
                Err(_) => continue,
            };
            let mut answers = answers.into_inner();
            while let Ok(Some(leader)) = answers.message().await {
                let named = (leader.leader_node_id.clone(), leader_address(&leader));
                if last.as_ref() == Some(&named) {
                    continue;
                }
                let address = named.1.as_deref().unwrap_or("-");
                let text = format!("{} {address}", named.0);
                cluster.settings.output.print_one(&data(&leader), &text)?;
                last = Some(named);
            }
        }
        sleep(wait).await;
    }
}

fn data(leader: &GetCurrentLeaderResponse) -> Value {
    json!({"node": leader.leader_node_id, "address": leader_address(leader)})
}
