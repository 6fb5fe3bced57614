//! Steps down a leader that no other instance can reach.
//!
//! etcd decides who leads, and a leader may reach etcd although no other instance reaches the leader: its advertised
//! address is wrong, or the network between the instances is cut while that to etcd is not. Calls through the other
//! instances then wait in vain. So a follower that has not reached the leader for some seconds writes a report to etcd,
//! under the lease of its candidacy, so that both end together. The report also lists the other candidates that the
//! follower reaches. A leader that all other candidates report as unreachable logs that, and steps down in favour of
//! the candidate that most instances reach, if there is one.
//!
//! Followers report because a leader's test of its own address proves little: it may be reachable from its own host
//! only, or from everywhere else. The successor must be reachable for another instance, or nothing would be gained. At
//! most one leader per minute steps down for this reason: a key with its own lease, written under the guard of the
//! term's lock key, records it.

mod probe;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use curator_election::clock::{BootClock, Clock, Instant};
use curator_election::store::{Compare, Keys, LeaseId, Op, Range, Store, StoreError, Txn};
use curator_election::{ElectionBackend, ElectionStatus, LeaderInfo, LeaderValue, Term};
use curator_proto::admin_api::StepDownRequest;
use curator_proto::private::LeaderElectionValue;
use futures::future::join_all;
pub(crate) use probe::{Dial, Probe};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::consensus::{ConsensusStatus, running};
use crate::status::{CandidateConfig, LeaderStatus};
use crate::status_page::term_history::TermHistory;
use crate::step_down::StepDownCoordinator;
use crate::telemetry;

/// The interval of checks.
const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// A follower reports the leader after it has been unreachable for this long.
const REPORT_AFTER: Duration = Duration::from_secs(3);
/// The leader steps down after all others have reported it for this long.
const STEP_DOWN_AFTER: Duration = Duration::from_secs(3);
/// At most one leader steps down in this time.
const STEP_DOWN_INTERVAL: Duration = Duration::from_secs(60);
/// The timeout of a probe.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);
/// The maximum number of candidates that are probed: a cluster has as many instances as etcd has members.
const MAX_CANDIDATES: usize = 16;
/// The last component of the key that records that a leader stepped down.
const STEPPED_DOWN: &str = "made-way";

/// A follower's report that it does not reach the leader.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Report {
    /// The follower's node.
    node_id: String,
    /// The lock revision of the unreachable leader's term.
    lock_revision: i64,
    /// The nodes of the other candidates that the follower reaches.
    reaches: BTreeSet<String>,
}

/// Another candidate.
#[derive(Clone, Debug)]
struct Peer {
    node_id: String,
    address: String,
    lease: Option<LeaseId>,
}

/// The reachability checks of one instance.
pub(crate) struct Reach {
    candidate: Arc<CandidateConfig>,
    probe: Arc<dyn Probe>,
    /// The followers that do not reach this leader, for the instance's status.
    unreached_by: watch::Sender<Vec<String>>,
    /// As a follower: the last report, and the key of the candidate that it is attached to.
    said: Option<(Bytes, Report)>,
    /// As a leader: when each report was first seen.
    since: BTreeMap<LeaseId, Instant>,
    /// Whether the warning was logged.
    warned: bool,
    /// The lease that records that this instance stepped down, until it is revoked.
    made_way: Option<(LeaseId, Instant)>,
}

impl Reach {
    /// The checks, and a receiver of the followers that do not reach this leader.
    pub(crate) fn new(candidate: Arc<CandidateConfig>, probe: Arc<dyn Probe>) -> (Self, watch::Receiver<Vec<String>>) {
        let (unreached_by, told) = watch::channel(Vec::new());
        let reach = Self {
            candidate,
            probe,
            unreached_by,
            said: None,
            since: BTreeMap::new(),
            warned: false,
            made_way: None,
        };
        (reach, told)
    }

    /// Checks again and again, until cancelled.
    pub(crate) async fn run(
        mut self,
        mut consensus: watch::Receiver<ConsensusStatus>,
        status: watch::Receiver<LeaderStatus>,
        terms: TermHistory,
        coordinator: StepDownCoordinator,
        cancel: CancellationToken,
    ) {
        let looking = async {
            loop {
                let Some(store) = running(&mut consensus).await else {
                    // The consensus is gone, and the instance will end.
                    return std::future::pending().await;
                };
                let (now, present) = (BootClock.now(), status.borrow().clone());
                let looked = match &present {
                    ElectionStatus::Leader(term) => self.check_as_leader(&store, term, now, &coordinator).await,
                    ElectionStatus::Follower(following) => {
                        self.reset_leader();
                        self.check_as_follower(&store, following, terms.silent_for(now)).await
                    }
                    ElectionStatus::Undetermined(_) => {
                        self.reset_leader();
                        Ok(())
                    }
                };
                if let Err(error) = looked {
                    debug!(%error, "reachability check failed");
                }
                self.release_claim(&store, now).await;
                sleep(POLL_INTERVAL).await;
            }
        };
        cancel.run_until_cancelled(looking).await;
    }

    fn prefix(&self) -> String {
        format!("/reach{}/", self.candidate.prefix)
    }

    fn election(&self, store: &Arc<dyn Store>) -> impl ElectionBackend {
        self.candidate.election(store.clone())
    }

    /// Writes or updates this follower's report that it does not reach the leader.
    async fn check_as_follower(
        &mut self,
        store: &Arc<dyn Store>,
        following: &LeaderInfo<LeaderElectionValue>,
        silent: Option<Duration>,
    ) -> Result<(), StoreError> {
        if silent.is_none_or(|silent| silent < REPORT_AFTER) {
            return self.withdraw(store).await;
        }
        let queue = self.election(store).candidates().await?;
        let value = |value: &Bytes| <LeaderElectionValue as LeaderValue>::decode(value).ok();
        // Compare the whole value: another process may have the same node id.
        let own = queue
            .iter()
            .find(|candidate| value(&candidate.value).as_ref() == Some(&self.candidate.value));
        let Some((own, lease)) = own.and_then(|own| Some((own, own.lease?))) else {
            return Ok(());
        };
        let others = queue
            .iter()
            .filter(|candidate| candidate.key != own.key && candidate.key != following.key);
        let peers: Vec<Peer> = others
            .filter_map(|candidate| peer(&candidate.value, candidate.lease))
            .collect();
        let report = Report {
            node_id: self.candidate.value.node_id.clone(),
            lock_revision: following.revision.0,
            reaches: self.reached(&peers).await,
        };
        let said = Some((own.key.clone(), report));
        if self.said == said {
            return Ok(());
        }
        let (Some((_, report)), Some(key)) = (&said, self.own_key(&own.key)) else {
            return Ok(());
        };
        let Ok(value) = serde_json::to_vec(report) else {
            return Ok(());
        };
        let put = Op::Put {
            key,
            value: value.into(),
            lease: Some(lease),
        };
        let stands = Compare::created_at(own.key.clone(), own.create_revision);
        if store.txn(Txn::when(vec![stands]).then(vec![put])).await?.succeeded {
            if self.said.is_none() {
                warn!(
                    leader = following.leader.node_id,
                    leader_address = following.leader.advertised_addresses.first().map_or("", String::as_str),
                    reaches = ?report.reaches,
                    "the leader is unreachable from this instance; reported to it through etcd"
                );
            }
            self.said = said;
        }
        Ok(())
    }

    /// Deletes the report.
    async fn withdraw(&mut self, store: &Arc<dyn Store>) -> Result<(), StoreError> {
        let Some((candidate, _)) = &self.said else {
            return Ok(());
        };
        if let Some(key) = self.own_key(candidate) {
            store.txn(Txn::default().then(vec![Op::delete(key)])).await?;
        }
        self.said = None;
        Ok(())
    }

    /// The key of the report of the candidate with this key.
    fn own_key(&self, candidate: &Bytes) -> Option<Bytes> {
        let candidate = std::str::from_utf8(candidate).ok()?;
        let last = candidate.rsplit('/').next()?;
        Some(format!("{}{last}", self.prefix()).into())
    }

    /// The nodes that this instance reaches.
    async fn reached(&self, peers: &[Peer]) -> BTreeSet<String> {
        let probes = peers.iter().take(MAX_CANDIDATES).map(|peer| async {
            let reached = timeout(PROBE_TIMEOUT, self.probe.reaches(&peer.node_id, &peer.address)).await;
            reached.unwrap_or(false).then(|| peer.node_id.clone())
        });
        join_all(probes).await.into_iter().flatten().collect()
    }

    /// Reads the reports, and steps down if necessary.
    async fn check_as_leader(
        &mut self,
        store: &Arc<dyn Store>,
        term: &Term,
        now: Instant,
        coordinator: &StepDownCoordinator,
    ) -> Result<(), StoreError> {
        let Some(next) = self.successor(store, term, now).await? else {
            return Ok(());
        };
        if !self.claim(store, term, now).await? {
            return Ok(());
        }
        metrics::counter!(telemetry::MADE_WAY).increment(1);
        let request = StepDownRequest {
            to_node_id: next.clone(),
            expected_lock_revision: term.lock_revision().0,
        };
        match coordinator.step_down(term, request).await {
            Ok(_) => info!(
                next,
                "stepped down: this leader was unreachable for all other instances"
            ),
            Err(status) => warn!(next, reason = status.message(), "cannot step down"),
        }
        Ok(())
    }

    /// The node to lead instead; `None` if this leader stays.
    async fn successor(
        &mut self,
        store: &Arc<dyn Store>,
        term: &Term,
        now: Instant,
    ) -> Result<Option<String>, StoreError> {
        let (mut reports, mut made_way) = (BTreeMap::new(), false);
        for kv in store.range(Range::all(Keys::prefix(self.prefix()))).await?.kvs {
            made_way |= kv.key.ends_with(STEPPED_DOWN.as_bytes());
            let report = serde_json::from_slice::<Report>(&kv.value).ok();
            // Reports about another term do not count.
            let report = report.filter(|report| report.lock_revision == term.lock_revision().0);
            if let (Some(lease), Some(report)) = (kv.lease, report) {
                reports.insert(lease, report);
            }
        }
        self.since.retain(|lease, _| reports.contains_key(lease));
        for lease in reports.keys() {
            self.since.entry(*lease).or_insert(now);
        }
        self.publish(reports.values().map(|report| report.node_id.clone()).collect());
        if reports.is_empty() {
            self.warned = false;
            return Ok(None);
        }
        let queue = self.election(store).candidates().await?;
        let others = queue.iter().filter(|candidate| candidate.key != term.lock_key());
        let peers: Vec<Peer> = others
            .filter_map(|candidate| peer(&candidate.value, candidate.lease))
            .collect();
        let stands = |peer: &Peer| {
            let since = peer.lease.and_then(|lease| self.since.get(&lease));
            since.is_some_and(|since| now.saturating_since(*since) >= STEP_DOWN_AFTER)
        };
        if peers.is_empty() || !peers.iter().all(stands) {
            return Ok(None);
        }
        let own = self.reached(&peers).await;
        let next = best(&peers, &reports, &own);
        if !std::mem::replace(&mut self.warned, true) {
            let (address, by) = (self.candidate.address(), self.unreached_by.borrow().join(", "));
            let what = match (&next, made_way) {
                (None, _) => "no other instance is reachable either, so it stays leader",
                (Some(_), true) => "a leader has stepped down for this reason within the last minute, so it waits",
                (Some(_), false) => "it steps down",
            };
            warn!(
                address,
                by,
                next,
                "this leader is unreachable for all other instances: {what}; check --advertise and the network"
            );
        }
        Ok(next.filter(|_| !made_way))
    }

    /// Claims the only step-down in a while. Returns whether the claim succeeded.
    async fn claim(&mut self, store: &Arc<dyn Store>, term: &Term, now: Instant) -> Result<bool, StoreError> {
        let key = Bytes::from(format!("{}{STEPPED_DOWN}", self.prefix()));
        let lease = store.grant(STEP_DOWN_INTERVAL).await?.id;
        // Always revoked later, so that it is not taken for the lease of a dead process.
        self.made_way = Some((lease, now));
        let leads = Compare::created_at(term.lock_key().clone(), term.lock_revision());
        let put = Op::Put {
            key: key.clone(),
            value: self.candidate.value.node_id.clone().into(),
            lease: Some(lease),
        };
        let claimed = store
            .txn(Txn::when(vec![leads, Compare::absent(key)]).then(vec![put]))
            .await?;
        Ok(claimed.succeeded)
    }

    /// Revokes the lease of the claim at its end.
    async fn release_claim(&mut self, store: &Arc<dyn Store>, now: Instant) {
        let over = |(_, since): &(LeaseId, Instant)| now.saturating_since(*since) >= STEP_DOWN_INTERVAL;
        if let Some((lease, _)) = self.made_way.take_if(|made_way| over(made_way)) {
            // It may have expired already.
            let _ = store.revoke(lease).await;
        }
    }

    fn reset_leader(&mut self) {
        self.since.clear();
        self.warned = false;
        self.publish(Vec::new());
    }

    fn publish(&self, mut by: Vec<String>) {
        by.sort_unstable();
        // A cluster has few instances, and a float represents that number exactly.
        #[allow(clippy::cast_precision_loss, reason = "it is a handful")]
        metrics::gauge!(telemetry::UNREACHED_BY).set(by.len() as f64);
        self.unreached_by.send_if_modified(|known| {
            let changed = *known != by;
            *known = by;
            changed
        });
    }
}

/// A candidate that can be dialled. The Go Curator's candidates have no address, and cannot report either.
fn peer(value: &Bytes, lease: Option<LeaseId>) -> Option<Peer> {
    let value = <LeaderElectionValue as LeaderValue>::decode(value).ok()?;
    Some(Peer {
        address: value.advertised_addresses.first()?.clone(),
        node_id: value.node_id,
        lease,
    })
}

/// The candidate that most instances reach, including this leader; the first in the queue if several are equal. `None`
/// if no candidate is reachable.
fn best(peers: &[Peer], reports: &BTreeMap<LeaseId, Report>, own: &BTreeSet<String>) -> Option<String> {
    let reached_by = |peer: &Peer| {
        let others = reports.values().filter(|report| report.node_id != peer.node_id);
        let told = others.filter(|report| report.reaches.contains(&peer.node_id)).count();
        told + usize::from(own.contains(&peer.node_id))
    };
    let mut best: Option<(usize, &Peer)> = None;
    for peer in peers {
        let reached = reached_by(peer);
        if reached > best.map_or(0, |(most, _)| most) {
            best = Some((reached, peer));
        }
    }
    best.map(|(_, peer)| peer.node_id.clone())
}
