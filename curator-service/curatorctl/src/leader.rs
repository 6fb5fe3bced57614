//! `curatorctl leader`: prints the leader.

use curator_client::LeaderInfo;
use serde_json::{Value, json};

use crate::connect::Cluster;
use crate::error::Failure;
use crate::output::Table;

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
    let leader = reached.leader().ok_or_else(|| {
        Failure::unavailable("no leader")
            .at(reached.address())
            .hint("`curatorctl status` shows why")
    })?;
    let mut table = Table::new(&["LEADER", "ADDRESS"]);
    table.row([leader.node_id.clone(), leader.address.clone().unwrap_or_default()]);
    cluster.settings.output.print(&data(leader), &table)
}

/// Prints each leader, as reported by any instance, until interrupted.
async fn follow(cluster: &Cluster) -> Result<(), Failure> {
    let mut changes = cluster.client()?.leader_changes();
    loop {
        let leader = changes.next().await;
        let text = format!("{} {}", leader.node_id, leader.address.as_deref().unwrap_or("-"));
        cluster.settings.output.print_one(&data(&leader), &text)?;
    }
}

fn data(leader: &LeaderInfo) -> Value {
    json!({"node": leader.node_id, "address": leader.address})
}
