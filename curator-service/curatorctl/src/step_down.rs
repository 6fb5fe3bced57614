//! `curatorctl step-down`: transfers the leadership to another instance.

use std::time::Duration;

use curator_proto::admin_api::instance_client::InstanceClient;
use curator_proto::admin_api::leadership_client::LeadershipClient;
use curator_proto::admin_api::{GetInstanceStatusRequest, GetInstanceStatusResponse, Leader, StepDownRequest};
use futures::future::join_all;
use serde_json::json;
use tokio::time::{Instant, sleep, timeout_at};

use crate::connect::Cluster;
use crate::error::Failure;
use crate::output::{Format, Table, say};

/// How often the instances are polled for the next leader.
const POLL_INTERVAL: Duration = Duration::from_millis(50);
/// Timeout of one poll.
const POLL_TIMEOUT: Duration = Duration::from_secs(3);

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Node that leads next [default: the candidate that has waited longest].
    #[arg(long, value_name = "NODE")]
    to: Option<String>,
}

/// One change of leader.
pub(crate) struct Changed {
    old: Leader,
    new: Leader,
    took: Duration,
}

pub(crate) async fn run(cluster: &Cluster, args: &Args) -> Result<(), Failure> {
    let Changed { old, new, took } = step_down(cluster, args.to.as_deref()).await?;
    report(cluster.settings.output, &old, &new, took)?;
    match &args.to {
        Some(wanted) if *wanted != new.node_id => Err(Failure::failed(format!(
            "{} leads, not {wanted}: {wanted} stopped being a candidate during the transfer",
            new.node_id
        ))),
        _ => Ok(()),
    }
}

/// Makes the leader step down, in favour of a node if one is given, and waits for the next leader.
pub(crate) async fn step_down(cluster: &Cluster, to: Option<&str>) -> Result<Changed, Failure> {
    let reached = cluster.leader().await?;
    let mut instance = InstanceClient::new(reached.channel());
    let asked = async || {
        let request = cluster.request(GetInstanceStatusRequest {});
        instance.get_instance_status(request).await
    };
    let before = cluster.call(&reached, asked).await?.into_inner();
    let old = before
        .leader
        .clone()
        .ok_or_else(|| Failure::unavailable("no leader").at(reached.address()))?;
    let request = StepDownRequest {
        to_node_id: to.unwrap_or_default().to_owned(),
        // Guards against a new leader: only the term that was shown may end.
        expected_lock_revision: old.lock_revision,
    };
    let mut leadership = LeadershipClient::new(reached.channel());
    let answer = cluster
        .call(&reached, async || {
            leadership.step_down(cluster.request(request.clone())).await
        })
        .await?
        .into_inner();
    let begun = Instant::now();
    let new = next_leader(cluster, &before, answer.ending_lock_revision)
        .await
        .ok_or_else(|| {
            Failure::unavailable(format!(
                "{} is stepping down, but no new leader was elected in time",
                old.node_id
            ))
            .hint("run `curatorctl status`")
        })?;
    Ok(Changed {
        old,
        new,
        took: begun.elapsed(),
    })
}

fn report(format: Format, old: &Leader, new: &Leader, took: Duration) -> Result<(), Failure> {
    match format {
        Format::Table | Format::Wide => say(&format!(
            "leader: {} (term {}); previous leader: {} (term {})",
            new.node_id, new.lock_revision, old.node_id, old.lock_revision
        )),
        format => {
            let of = |leader: &Leader| json!({"node": leader.node_id, "term": leader.lock_revision, "address": leader.address});
            let data = json!({"before": of(old), "after": of(new), "seconds": took.as_secs_f64()});
            format.print(&data, &Table::default())
        }
    }
}

/// Waits for an instance that reports a leader of a later term.
async fn next_leader(cluster: &Cluster, before: &GetInstanceStatusResponse, ended: i64) -> Option<Leader> {
    let candidates = before.candidates.iter().map(|candidate| candidate.address.clone());
    let mut addresses: Vec<_> = cluster.settings.endpoints.iter().cloned().chain(candidates).collect();
    addresses.retain(|address| !address.is_empty());
    addresses.sort_unstable();
    addresses.dedup();
    let channels: Vec<_> = addresses
        .iter()
        .filter_map(|address| cluster.channel(address).ok())
        .collect();
    while Instant::now() < cluster.deadline() {
        let until = cluster.deadline().min(Instant::now() + POLL_TIMEOUT);
        let ask = |channel: &tonic::transport::Channel| {
            let mut instance = InstanceClient::new(channel.clone());
            async move {
                let answer = timeout_at(until, instance.get_instance_status(GetInstanceStatusRequest {})).await;
                answer.ok()?.ok()?.into_inner().leader
            }
        };
        let known = join_all(channels.iter().map(ask)).await;
        let newest = known.into_iter().flatten().max_by_key(|leader| leader.lock_revision);
        if let Some(leader) = newest.filter(|leader| leader.lock_revision > ended) {
            return Some(leader);
        }
        sleep(POLL_INTERVAL).await;
    }
    None
}
