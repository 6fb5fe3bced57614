//! `curatorctl status`: all instances in one table.

use std::collections::{BTreeMap, BTreeSet};
use std::io::IsTerminal;
use std::time::Duration;

use curator_client::{LeaderInfo, connection_error, is_loopback, reported_leader};
use curator_proto::admin_api::instance_client::InstanceClient;
use curator_proto::admin_api::{Consensus, GetInstanceStatusRequest, GetInstanceStatusResponse, Role, consensus};
use futures::future::join_all;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout_at};
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

use crate::connect::Cluster;
use crate::error::Failure;
use crate::output::{Format, Table, say};
use crate::text::{for_people, hex, parse_duration, seconds};

/// Timeout of one instance, which queries etcd meanwhile for at most half of it.
const INSTANCE_TIMEOUT: Duration = Duration::from_secs(5);

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Keep running and refresh the table.
    #[arg(long, short)]
    watch: bool,

    /// Refresh interval of --watch.
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = parse_duration)]
    interval: Duration,

    /// Wait until all known instances respond and report the same leader, for at most this long; then print the table.
    #[arg(
        long,
        value_name = "DURATION",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "1m",
        value_parser = parse_duration,
        conflicts_with = "watch"
    )]
    wait: Option<Duration>,
}

/// Poll interval of --wait.
const POLL_INTERVAL: Duration = Duration::from_millis(250);

pub(crate) async fn run(cluster: &Cluster, args: &Args) -> Result<(), Failure> {
    if let Some(wait) = args.wait {
        return settled(cluster, wait).await;
    }
    loop {
        let deadline = if args.watch {
            Instant::now() + cluster.settings.timeout
        } else {
            cluster.deadline()
        };
        let instances = gather(cluster, deadline).await?;
        let format = cluster.settings.output;
        if !args.watch {
            say(&rendered(format, &instances)?)?;
            return verdict(&instances);
        }
        let for_people = matches!(format, Format::Table | Format::Wide);
        if for_people && std::io::stdout().is_terminal() {
            // Cursor to the upper left, and clear the screen.
            say("\x1b[H\x1b[2J\x1b[3J")?;
        }
        if for_people {
            say(&rendered(format, &instances)?)?;
        } else {
            format.print_one(&data(&instances), "")?;
        }
        sleep(args.interval).await;
    }
}

/// Waits until all instances agree, and prints the table.
async fn settled(cluster: &Cluster, wait: Duration) -> Result<(), Failure> {
    let end = Instant::now() + wait;
    loop {
        let instances = gather(cluster, end.min(Instant::now() + cluster.settings.timeout)).await?;
        let verdict = verdict(&instances);
        let disagreement = disagreement(&instances);
        if verdict.is_ok() && disagreement.is_none() {
            return say(&rendered(cluster.settings.output, &instances)?);
        }
        if Instant::now() + POLL_INTERVAL >= end {
            say(&rendered(cluster.settings.output, &instances)?)?;
            verdict?;
            let why = disagreement.unwrap_or_default();
            return Err(
                Failure::unavailable(format!("after {}, {why}", for_people(wait.as_secs_f64())))
                    .hint("see the table and its notes for the state of each instance"),
            );
        }
        sleep(POLL_INTERVAL).await;
    }
}

/// Why the instances do not agree on a leader; `None` if they agree.
fn disagreement(instances: &[Instance]) -> Option<String> {
    let silent = instances
        .iter()
        .find(|instance| matches!(instance.report, InstanceReport::Unreachable(_)));
    if let Some(silent) = silent {
        return Some(format!("{} does not respond", silent.address));
    }
    let mut leaders: Vec<_> = instances.iter().map(Instance::leader).collect();
    if let Some(at) = leaders.iter().position(Option::is_none) {
        return Some(format!("{} knows no leader", instances[at].address));
    }
    leaders.dedup();
    let named: Vec<_> = leaders.iter().flatten().copied().collect();
    if named.len() > 1 {
        return Some(format!("the instances report several leaders: {}", named.join(", ")));
    }
    let leads = named.first().copied().unwrap_or_default();
    (!instances.iter().any(|instance| instance.node_id() == leads))
        .then(|| format!("the leader {leads} does not respond"))
}

/// An instance and its report.
struct Instance {
    /// The address that it was called at.
    address: String,
    report: InstanceReport,
}

enum InstanceReport {
    /// The full status.
    Status(Box<GetInstanceStatusResponse>),
    /// Only the leader, which needs no authentication, and why the status is missing.
    Leader(Option<LeaderInfo>, String),
    /// No response, and why.
    Unreachable(String),
}

impl Instance {
    fn node_id(&self) -> &str {
        match &self.report {
            InstanceReport::Status(status) => &status.node_id,
            InstanceReport::Leader(Some(leader), _) => &leader.reported_by,
            InstanceReport::Leader(None, _) | InstanceReport::Unreachable(_) => "",
        }
    }

    /// Addresses of other instances that it reports.
    fn known_addresses(&self) -> Vec<String> {
        match &self.report {
            InstanceReport::Status(status) => {
                let leader = status.leader.iter().map(|leader| leader.address.clone());
                let candidates = status.candidates.iter().map(|candidate| candidate.address.clone());
                leader.chain(candidates).filter(|address| !address.is_empty()).collect()
            }
            InstanceReport::Leader(Some(leader), _) => leader.address.iter().cloned().collect(),
            InstanceReport::Leader(None, _) | InstanceReport::Unreachable(_) => Vec::new(),
        }
    }

    /// The node id of the leader that it reports.
    fn leader(&self) -> Option<&str> {
        match &self.report {
            InstanceReport::Status(status) => status.leader.as_ref().map(|leader| &*leader.node_id),
            InstanceReport::Leader(Some(leader), _) => Some(&leader.node_id),
            InstanceReport::Leader(None, _) | InstanceReport::Unreachable(_) => None,
        }
    }

    fn knows_leader(&self) -> bool {
        match &self.report {
            InstanceReport::Status(status) => status.leader.is_some(),
            InstanceReport::Leader(leader, _) => leader.is_some(),
            InstanceReport::Unreachable(_) => false,
        }
    }
}

/// Queries the given instances and those that they report.
async fn gather(cluster: &Cluster, deadline: Instant) -> Result<Vec<Instance>, Failure> {
    let mut asked = BTreeSet::new();
    let mut found: Vec<Instance> = Vec::new();
    let mut to_ask = cluster.settings.endpoints.clone();
    // The given instances, those that they report, and one more round for instances that joined meanwhile.
    for _ in 0..3 {
        to_ask.retain(|address| {
            let may = !cluster.settings.plain || is_loopback(address);
            may && asked.insert(address.clone())
        });
        let mut asking = Vec::new();
        for address in to_ask.drain(..) {
            let channel = cluster.channel(&address)?;
            asking.push(async move {
                let report = ask(channel, deadline.min(Instant::now() + INSTANCE_TIMEOUT)).await;
                Instance { address, report }
            });
        }
        let answers = join_all(asking).await;
        to_ask = answers.iter().flat_map(Instance::known_addresses).collect();
        found.extend(answers);
        if to_ask.is_empty() {
            break;
        }
    }
    // An instance with several addresses counts once.
    let mut by_node = BTreeMap::new();
    let mut silent = Vec::new();
    for instance in found {
        match instance.node_id() {
            "" => silent.push(instance),
            id => {
                by_node.entry(id.to_owned()).or_insert(instance);
            }
        }
    }
    Ok(by_node.into_values().chain(silent).collect())
}

async fn ask(channel: Channel, deadline: Instant) -> InstanceReport {
    let mut client = InstanceClient::new(channel.clone());
    let mut request = Request::new(GetInstanceStatusRequest {});
    request.set_timeout(deadline.saturating_duration_since(Instant::now()));
    let refused = match within(deadline, client.get_instance_status(request)).await {
        Ok(status) => return InstanceReport::Status(Box::new(status.into_inner())),
        Err(refused) => refused,
    };
    // Fall back to the call that needs no authentication.
    let all = match refused.code() {
        Code::Unauthenticated | Code::PermissionDenied => "the full status needs a user certificate",
        Code::Unimplemented => "the instance runs a version without this call",
        _ => return InstanceReport::Unreachable(reason(&refused)),
    };
    match within(deadline, reported_leader(channel)).await {
        Ok(leader) => InstanceReport::Leader(Some(leader), all.to_owned()),
        Err(status) if status.code() == Code::Unavailable => InstanceReport::Leader(None, reason(&status)),
        Err(status) => InstanceReport::Unreachable(reason(&status)),
    }
}

async fn within<T>(deadline: Instant, call: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
    let answer = timeout_at(deadline, call).await;
    answer.unwrap_or_else(|_| Err(Status::deadline_exceeded("timed out")))
}

fn reason(status: &Status) -> String {
    connection_error(status).unwrap_or_else(|| status.message().to_owned())
}

/// Fails unless there is exactly one leader and one etcd cluster.
fn verdict(instances: &[Instance]) -> Result<(), Failure> {
    let silent = |instance: &Instance| matches!(instance.report, InstanceReport::Unreachable(_));
    if instances.iter().all(silent) {
        return Err(Failure::unavailable("no instance responds")
            .hint("check that they run and that --ca is the CA of their cluster"));
    }
    if !instances.iter().any(Instance::knows_leader) {
        return Err(Failure::unavailable("no leader").hint("check that a majority of the etcd members runs"));
    }
    let leads = |instance: &&Instance| matches!(&instance.report, InstanceReport::Status(status) if status.role() == Role::Leader);
    let leaders: Vec<_> = instances
        .iter()
        .filter(leads)
        .map(|instance| instance.address.as_str())
        .collect();
    if leaders.len() > 1 {
        return Err(Failure::unavailable(format!("several instances lead: {}", leaders.join(", "))).hint(
            "retry: the leader may be changing. If this persists, check that --etcd-endpoints of all instances belong to one \
             etcd cluster",
        ));
    }
    let clusters = clusters(instances);
    if clusters.len() > 1 {
        let list = clusters
            .iter()
            .map(|(id, reported_by)| format!("{id:x} ({})", reported_by.join(", ")));
        return Err(Failure::unavailable(format!(
            "the instances use {} etcd clusters: {}",
            clusters.len(),
            list.collect::<Vec<_>>().join("; ")
        ))
        .hint(
            "check whether a member was started without --initial-cluster, or restored as its own cluster; it must rejoin \
             the others",
        ));
    }
    Ok(())
}

/// The ids of the etcd clusters in use, each with the instances and endpoints that report it.
fn clusters(instances: &[Instance]) -> BTreeMap<u64, Vec<&str>> {
    let mut clusters: BTreeMap<u64, Vec<&str>> = BTreeMap::new();
    for instance in instances {
        let InstanceReport::Status(status) = &instance.report else {
            continue;
        };
        let Some(consensus) = &status.consensus else { continue };
        let endpoints = consensus
            .endpoints
            .iter()
            .map(|endpoint| (endpoint.cluster_id, &*endpoint.url));
        for (id, reported_by) in endpoints.chain([(consensus.cluster_id, &*instance.address)]) {
            let named = clusters.entry(id).or_default();
            if !named.contains(&reported_by) {
                named.push(reported_by);
            }
        }
    }
    clusters.remove(&0);
    clusters
}

fn role_name(role: Role) -> &'static str {
    match role {
        Role::Leader => "leader",
        Role::Follower => "follower",
        Role::Undetermined => "undetermined",
        Role::Unspecified => "",
    }
}

/// Renders the reports. The narrow table fits 80 columns and has the notes below it.
fn rendered(format: Format, instances: &[Instance]) -> Result<String, Failure> {
    let data = data(instances);
    if format != Format::Table {
        return format.render(&data, &table(instances));
    }
    let mut narrow = Table::new(&["NODE", "ROLE", "TERM", "LEADER", "LEFT", "CONSENSUS"]);
    let mut notes = Vec::new();
    for instance in instances {
        let [
            node,
            role,
            term,
            leader,
            _,
            _,
            left,
            _,
            _,
            address,
            _,
            _,
            consensus,
            note,
        ] = cells(instance);
        let named = if node.is_empty() { &address } else { &node };
        if !note.is_empty() {
            notes.push(wrapped(&format!(
                "{}: {note}",
                if named.is_empty() { "-" } else { named }
            )));
        }
        // The name of the preferred member is usually the name of the node.
        let health = consensus
            .split_once(' ')
            .map_or(&*consensus, |(_, health)| health)
            .to_owned();
        let leader = leader.strip_prefix("metropolis-").unwrap_or(&leader).to_owned();
        narrow.row([
            truncate(named, 19),
            role,
            term,
            truncate(&leader, 8),
            left,
            truncate(&health, 16),
        ]);
    }
    let mut text = format.render(&data, &narrow)?;
    for note in notes {
        text.push('\n');
        text.push_str(&note);
    }
    Ok(text)
}

/// The first characters of a name. `-o wide` prints all of it.
fn truncate(text: &str, max: usize) -> String {
    text.chars().take(max).collect()
}

/// Wraps a text at 80 columns and indents the lines after the first.
fn wrapped(text: &str) -> String {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let line = lines.last().map_or(0, |line| line.chars().count());
        match lines.last_mut() {
            Some(last) if line == 0 || line + 1 + word.chars().count() <= 80 => {
                if line > 0 {
                    last.push(' ');
                }
                last.push_str(word);
            }
            _ => lines.push(format!("  {word}")),
        }
    }
    lines.join("\n")
}

fn table(instances: &[Instance]) -> Table {
    let mut table = Table::new(&[
        "NODE",
        "ROLE",
        "TERM",
        "LEADER",
        "TTL",
        "FAILOVER",
        "LEFT",
        "IN ROLE",
        "CHANGES",
        "ADDRESS",
        "VERSION",
        "UP",
        "CONSENSUS",
        "NOTE",
    ]);
    for instance in instances {
        table.row(cells(instance));
    }
    table
}

fn cells(instance: &Instance) -> [String; 14] {
    let empty = String::new;
    match &instance.report {
        InstanceReport::Status(status) => {
            let people =
                |duration: Option<&prost_types::Duration>| seconds(duration).map(for_people).unwrap_or_default();
            let leader = status.leader.as_ref();
            let mut note = status.undetermined_reason.clone();
            if let Some(silent) = seconds(status.leader_silent.as_ref()).filter(|silent| *silent >= 1.0) {
                note = format!("no response from the leader for {}", for_people(silent));
            }
            if !status.unreached_by.is_empty() {
                note = format!(
                    "unreachable at {} from {}: check --advertise and the network",
                    status.address,
                    status.unreached_by.join(", ")
                );
            }
            if let Some(wrong) = status.consensus.as_ref().and_then(consensus_problem) {
                note = if note.is_empty() {
                    wrong
                } else {
                    format!("{note}; {wrong}")
                };
            }
            [
                status.node_id.clone(),
                role_name(status.role()).to_owned(),
                leader
                    .map(|leader| leader.lock_revision.to_string())
                    .unwrap_or_default(),
                leader.map(|leader| leader.node_id.clone()).unwrap_or_default(),
                people(status.ttl.as_ref()),
                failover(status),
                people(status.time_left.as_ref()),
                people(status.time_in_role.as_ref()),
                status.transitions.to_string(),
                status.address.clone(),
                status.version.clone(),
                people(status.uptime.as_ref()),
                status.consensus.as_ref().map(consensus_summary).unwrap_or_default(),
                note,
            ]
        }
        InstanceReport::Leader(leader, note) => {
            let (node, role, leads) = match leader {
                Some(leader) if leader.reported_by == leader.node_id => {
                    (leader.reported_by.clone(), "leader", leader.node_id.clone())
                }
                Some(leader) => (leader.reported_by.clone(), "follower", leader.node_id.clone()),
                None => (empty(), "undetermined", empty()),
            };
            partial_cells([node, role.to_owned(), empty(), leads], instance, note)
        }
        InstanceReport::Unreachable(why) => {
            let unreachable = [empty(), "unreachable".to_owned(), empty(), empty()];
            partial_cells(unreachable, instance, why)
        }
    }
}

/// The cells of an instance without a full status.
fn partial_cells([node, role, term, leads]: [String; 4], instance: &Instance, note: &str) -> [String; 14] {
    let mut cells: [String; 14] = Default::default();
    [cells[0], cells[1], cells[2], cells[3]] = [node, role, term, leads];
    cells[9].clone_from(&instance.address);
    note.clone_into(&mut cells[13]);
    cells
}

/// How soon the instance is replaced once it has died as leader.
fn failover(status: &GetInstanceStatusResponse) -> String {
    seconds(status.failover_limit.as_ref()).map_or_else(|| "TTL".to_owned(), for_people)
}

/// The preferred member, and how many are healthy.
fn consensus_summary(consensus: &Consensus) -> String {
    if !consensus.running {
        return "not running".to_owned();
    }
    let Some(own) = consensus.endpoints.first() else {
        return "embedded".to_owned();
    };
    let healthy = consensus
        .endpoints
        .iter()
        .filter(|endpoint| endpoint.error.is_empty())
        .count();
    let name = member_name(consensus, own);
    format!("{name} {healthy}/{} healthy", consensus.endpoints.len())
}

fn member_name<'a>(consensus: &'a Consensus, endpoint: &'a consensus::Endpoint) -> &'a str {
    let member = consensus.members.iter().find(|member| member.id == endpoint.member_id);
    member.map_or(&endpoint.url, |member| &member.name)
}

fn consensus_problem(consensus: &Consensus) -> Option<String> {
    if !consensus.running {
        return Some(consensus.not_running_reason.clone());
    }
    let bad = consensus.endpoints.iter().find(|endpoint| !endpoint.error.is_empty())?;
    Some(format!("{}: {}", bad.url, bad.error))
}

fn data(instances: &[Instance]) -> Value {
    instances.iter().map(to_json).collect::<Vec<_>>().into()
}

fn to_json(instance: &Instance) -> Value {
    match &instance.report {
        InstanceReport::Status(status) => {
            let consensus = status.consensus.clone().unwrap_or_default();
            let endpoint = |endpoint: &consensus::Endpoint| {
                json!({
                    "url": endpoint.url,
                    "healthy": endpoint.error.is_empty(),
                    "error": non_empty(&endpoint.error),
                    "member": non_empty(&member_id(endpoint.member_id)),
                    "version": non_empty(&endpoint.version),
                    "leads": endpoint.leads,
                    "database_bytes": endpoint.database_bytes,
                    "cluster": non_empty(&member_id(endpoint.cluster_id)),
                })
            };
            let member = |member: &consensus::Member| json!({"id": member_id(member.id), "name": member.name, "learner": member.learner});
            json!({
                "node": status.node_id,
                "asked_at": instance.address,
                "address": non_empty(&status.address),
                "role": role_name(status.role()),
                "reason": non_empty(&status.undetermined_reason),
                "leader": status.leader.as_ref().map(|leader| json!({
                    "node": leader.node_id,
                    "address": non_empty(&leader.address),
                    "lock_key": leader.lock_key,
                    "term": leader.lock_revision,
                })),
                "ttl_seconds": seconds(status.ttl.as_ref()),
                "failover_limit_seconds": seconds(status.failover_limit.as_ref()),
                "left_seconds": seconds(status.time_left.as_ref()),
                "unreached_by": status.unreached_by,
                "leader_silent_seconds": seconds(status.leader_silent.as_ref()),
                "in_role_seconds": seconds(status.time_in_role.as_ref()),
                "uptime_seconds": seconds(status.uptime.as_ref()),
                "transitions": status.transitions,
                "version": status.version,
                "commit": non_empty(&status.commit),
                "consensus": {
                    "running": consensus.running,
                    "reason": non_empty(&consensus.not_running_reason),
                    "endpoints": consensus.endpoints.iter().map(endpoint).collect::<Vec<_>>(),
                    "members": consensus.members.iter().map(member).collect::<Vec<_>>(),
                    "members_error": non_empty(&consensus.members_error),
                    "cluster": non_empty(&member_id(consensus.cluster_id)),
                },
                "candidates": status.candidates.iter().map(|candidate| json!({
                    "node": non_empty(&candidate.node_id),
                    "address": non_empty(&candidate.address),
                    "lock_key": candidate.lock_key,
                    "lock_revision": candidate.lock_revision,
                })).collect::<Vec<_>>(),
            })
        }
        InstanceReport::Leader(leader, note) => {
            let role = match leader {
                Some(leader) if leader.reported_by == leader.node_id => "leader",
                Some(_) => "follower",
                None => "undetermined",
            };
            json!({
                "node": non_empty(instance.node_id()),
                "asked_at": instance.address,
                "role": role,
                "reason": note,
                "leader": leader.as_ref().map(|leader| json!({
                    "node": leader.node_id,
                    "address": leader.address,
                })),
            })
        }
        InstanceReport::Unreachable(why) => {
            json!({"node": null, "asked_at": instance.address, "role": "unreachable", "reason": why})
        }
    }
}

fn member_id(id: u64) -> String {
    match id {
        0 => String::new(),
        id => hex(&id.to_be_bytes()).trim_start_matches('0').to_owned(),
    }
}

/// `None` for an empty text.
fn non_empty(text: &str) -> Option<&str> {
    Some(text).filter(|text| !text.is_empty())
}

#[cfg(test)]
mod tests {
    use curator_proto::admin_api::Leader;
    use curator_proto::curator_api::GetCurrentLeaderResponse;

    use super::*;

    fn duration(seconds: i64) -> Option<prost_types::Duration> {
        Some(prost_types::Duration { seconds, nanos: 0 })
    }

    fn instances() -> Vec<Instance> {
        let leader = Some(Leader {
            node_id: "node-1".into(),
            address: "10.0.0.1:7835".into(),
            lock_key: "/leader/1".into(),
            lock_revision: 42,
        });
        let status = GetInstanceStatusResponse {
            node_id: "node-1".into(),
            version: "0.1.0".into(),
            commit: "abc".into(),
            address: "10.0.0.1:7835".into(),
            uptime: duration(90),
            role: Role::Leader.into(),
            time_in_role: duration(60),
            transitions: 2,
            leader,
            ttl: duration(10),
            failover_limit: duration(1),
            time_left: duration(8),
            consensus: Some(Consensus {
                running: true,
                endpoints: vec![
                    consensus::Endpoint {
                        url: "http://10.0.0.1:2379".into(),
                        member_id: 0xab,
                        version: "3.5.0".into(),
                        leads: true,
                        database_bytes: 4096,
                        ..Default::default()
                    },
                    consensus::Endpoint {
                        url: "http://10.0.0.2:2379".into(),
                        error: "refused".into(),
                        ..Default::default()
                    },
                ],
                members: vec![consensus::Member {
                    id: 0xab,
                    name: "m1".into(),
                    learner: false,
                }],
                ..Default::default()
            }),
            ..Default::default()
        };
        let follower = GetCurrentLeaderResponse {
            leader_node_id: "node-1".into(),
            this_node_id: "node-2".into(),
            leader_host: "10.0.0.1".into(),
            leader_port: 7835,
        };
        vec![
            Instance {
                address: "10.0.0.1:7835".into(),
                report: InstanceReport::Status(Box::new(status)),
            },
            Instance {
                address: "10.0.0.2:7835".into(),
                report: InstanceReport::Leader(
                    Some(follower.into()),
                    "the full status needs a user certificate".into(),
                ),
            },
            Instance {
                address: "10.0.0.3:7835".into(),
                report: InstanceReport::Unreachable("refused".into()),
            },
        ]
    }

    #[test]
    fn it_is_waited_for_until_all_answer_and_name_the_same_leader() {
        let differs = |instances: &[Instance]| disagreement(instances).unwrap_or_default();
        let mut instances = instances();
        assert_eq!(differs(&instances), "10.0.0.3:7835 does not respond");
        instances.pop();
        assert_eq!(differs(&instances), "");
        let leader = |leads: &str| {
            let response = GetCurrentLeaderResponse {
                leader_node_id: leads.into(),
                this_node_id: "node-2".into(),
                ..GetCurrentLeaderResponse::default()
            };
            Some(response.into())
        };
        instances[1].report = InstanceReport::Leader(leader("node-3"), String::new());
        assert_eq!(
            differs(&instances),
            "the instances report several leaders: node-1, node-3"
        );
        assert_eq!(differs(&instances[1..]), "the leader node-3 does not respond");
        instances[1].report = InstanceReport::Leader(None, String::new());
        assert_eq!(differs(&instances), "10.0.0.2:7835 knows no leader");
    }

    #[test]
    fn all_are_shown_side_by_side() {
        let text = Format::Table
            .render(&data(&instances()), &table(&instances()))
            .expect("text");
        let lines: Vec<Vec<&str>> = text
            .lines()
            .map(|line| {
                line.split("  ")
                    .map(str::trim)
                    .filter(|cell| !cell.is_empty())
                    .collect()
            })
            .collect();
        assert_eq!(lines.len(), 4, "{text}");
        assert_eq!(
            lines[1],
            [
                "node-1",
                "leader",
                "42",
                "node-1",
                "10.0s",
                "1.0s",
                "8.0s",
                "1m0s",
                "2",
                "10.0.0.1:7835",
                "0.1.0",
                "1m30s",
                "m1 1/2 healthy",
                "http://10.0.0.2:2379: refused"
            ]
        );
        assert_eq!(lines[2][..4], ["node-2", "follower", "-", "node-1"]);
        assert_eq!(lines[3][..2], ["-", "unreachable"]);
        assert!(
            lines[3].contains(&"10.0.0.3:7835") && lines[3].contains(&"refused"),
            "{text}"
        );
    }

    #[test]
    fn what_people_see_fits_80_columns_and_wide_has_all() {
        let mut instances = instances();
        if let InstanceReport::Status(status) = &mut instances[0].report {
            status.node_id = "metropolis-0123456789abcdef0123456789abcdef".into();
            status.undetermined_reason = "a reason of many words ".repeat(20);
            let leader = status.leader.as_mut().expect("one");
            leader.node_id = status.node_id.clone();
            leader.lock_revision = 123_456_789;
        }
        let text = rendered(Format::Table, &instances).expect("text");
        for line in text.lines() {
            assert!(line.chars().count() <= 80, "{line}");
        }
        assert!(
            text.contains("metropolis-01234567") && text.contains("1/2 healthy"),
            "{text}"
        );
        assert!(text.contains("10.0.0.3:7835: refused"), "{text}");
        let wide = rendered(Format::Wide, &instances).expect("text");
        assert!(
            wide.contains("metropolis-0123456789abcdef0123456789abcdef") && wide.contains("VERSION"),
            "{wide}"
        );
    }

    #[test]
    fn programs_are_told_all() {
        let data = data(&instances());
        assert_eq!(data[0]["leader"]["term"], 42);
        assert_eq!(data[0]["consensus"]["endpoints"][1]["healthy"], false);
        assert_eq!(data[0]["consensus"]["endpoints"][0]["member"], "ab");
        assert_eq!(data[0]["left_seconds"], 8.0);
        assert_eq!(data[1]["role"], "follower");
        assert_eq!(data[2]["role"], "unreachable");
    }

    #[test]
    fn it_is_said_by_the_exit_code_as_well() {
        let mut split = instances();
        split.extend(instances());
        let told = verdict(&split).expect_err("two leaders").to_string();
        assert!(told.contains("several instances lead"), "{told}");
        let mut instances = instances();
        let name = |instances: &mut [Instance], endpoint: usize, id: u64| {
            if let InstanceReport::Status(status) = &mut instances[0].report {
                let consensus = status.consensus.as_mut().expect("it has one");
                consensus.cluster_id = 0xab;
                consensus.endpoints[endpoint].cluster_id = id;
            }
        };
        name(&mut instances, 0, 0xab);
        verdict(&instances).expect("all are of one cluster");
        name(&mut instances, 1, 0xcd);
        let failure = verdict(&instances).expect_err("two clusters");
        // As docs/operations.md has it.
        assert_eq!(failure.exit_code(), std::process::ExitCode::from(4));
        let told = failure.to_string();
        assert!(
            told.contains("2 etcd clusters: ab (http://10.0.0.1:2379, 10.0.0.1:7835); cd (http://10.0.0.2:2379)"),
            "{told}"
        );
        name(&mut instances, 1, 0);
        verdict(&instances).expect("one leader");
        instances.drain(..2);
        assert!(
            verdict(&instances)
                .expect_err("no instance responds")
                .to_string()
                .contains("no instance responds")
        );
        instances.push(Instance {
            address: "a:1".into(),
            report: InstanceReport::Leader(None, "no candidate leads".into()),
        });
        assert!(
            verdict(&instances)
                .expect_err("no leader")
                .to_string()
                .contains("no leader")
        );
    }
}
