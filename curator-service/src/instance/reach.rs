//! Whether the other instances reach the leader, and what becomes of one that none of them reaches.
//!
//! Who leads is etcd's to say, and etcd may be reached by a leader whom nobody else reaches: it advertises an address
//! that leads nowhere, or the network between the instances is cut and that to etcd is not. Calls through all others
//! then wait for nothing. So a follower that has not reached the leader for some seconds writes that down beside its
//! candidacy, under the same lease: it goes with it. It says which of the other candidates it reaches, too. A leader
//! whom no other candidate reaches tells of it, and steps down in favour of the candidate that most others reach, if
//! anybody reaches one.
//!
//! Followers tell, rather than the leader calling itself: from its own host its address may be reached when from others
//! it is not, and the other way round. Who is next must be reached by somebody else, or nothing would be gained. And
//! one leader of all of them makes way in a minute: a key under a lease of its own says that one has. It is written
//! under the lock key of the term.

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
use curator_listener::TermId;
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

/// Between two looks.
const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// How long a follower has not reached the leader when it says so.
const SILENT: Duration = Duration::from_secs(3);
/// How long all others say so until the leader makes way.
const STANDING: Duration = Duration::from_secs(3);
/// Within so long one leader makes way.
const STEP_DOWN_INTERVAL: Duration = Duration::from_secs(60);
/// How long an instance may take to answer whoever wants to know whether it is reached.
const PROBE: Duration = Duration::from_secs(2);
/// More candidates than these are not asked: a cluster has as many instances as etcd has members.
const MAX_CANDIDATES: usize = 16;
/// The last part of the key that says that a leader has made way.
const MADE_WAY: &str = "made-way";

/// What a follower says that does not reach the leader.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Report {
    /// The node that says it.
    node_id: String,
    /// Of the term whose leader it does not reach.
    lock_revision: i64,
    /// The nodes of the other candidates that it reaches.
    reaches: BTreeSet<String>,
}

/// Another candidate.
#[derive(Clone, Debug)]
struct Peer {
    node_id: String,
    address: String,
    lease: Option<LeaseId>,
}

/// What an instance does about it.
pub(crate) struct Reach {
    candidate: Arc<CandidateConfig>,
    probe: Arc<dyn Probe>,
    /// Those who say that they do not reach this leader, for whoever asks.
    unreached_by: watch::Sender<Vec<String>>,
    /// As a follower: what was last said, and under which candidate's key.
    said: Option<(Bytes, Report)>,
    /// As a leader: since when each of them says it.
    since: BTreeMap<LeaseId, Instant>,
    /// It was told in the log.
    told: bool,
    /// The lease that says that this instance has made way, until it is given back.
    made_way: Option<(LeaseId, Instant)>,
}

impl Reach {
    /// An instance that nobody complains about yet, and where those who do are told.
    pub(crate) fn new(candidate: Arc<CandidateConfig>, probe: Arc<dyn Probe>) -> (Self, watch::Receiver<Vec<String>>) {
        let (unreached_by, told) = watch::channel(Vec::new());
        let reach = Self {
            candidate,
            probe,
            unreached_by,
            said: None,
            since: BTreeMap::new(),
            told: false,
            made_way: None,
        };
        (reach, told)
    }

    /// Looks again and again, until cancelled.
    pub(crate) async fn run(
        mut self,
        mut consensus: watch::Receiver<ConsensusStatus>,
        status: watch::Receiver<LeaderStatus>,
        terms: TermHistory,
        office: StepDownCoordinator,
        cancel: CancellationToken,
    ) {
        let looking = async {
            loop {
                let Some(store) = running(&mut consensus).await else {
                    // It is gone, and the instance with it.
                    return std::future::pending().await;
                };
                let (now, present) = (BootClock.now(), status.borrow().clone());
                let looked = match &present {
                    ElectionStatus::Leader(term) => self.as_leader(&store, term, now, &office).await,
                    ElectionStatus::Follower(following) => {
                        self.lead_no_more();
                        self.as_follower(&store, following, terms.silent_for(now)).await
                    }
                    ElectionStatus::Undetermined(_) => {
                        self.lead_no_more();
                        Ok(())
                    }
                };
                if let Err(error) = looked {
                    debug!(%error, "who reaches the leader cannot be said or seen");
                }
                self.give_back(&store, now).await;
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

    /// Says whether this follower reaches the leader, if there is something new to say.
    async fn as_follower(
        &mut self,
        store: &Arc<dyn Store>,
        following: &LeaderInfo<LeaderElectionValue>,
        silent: Option<Duration>,
    ) -> Result<(), StoreError> {
        if silent.is_none_or(|silent| silent < SILENT) {
            return self.withdraw(store).await;
        }
        let queue = self.election(store).candidates().await?;
        let value = |value: &Bytes| <LeaderElectionValue as LeaderValue>::decode(value).ok();
        // Another process may have the same id.
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
                    "this instance does not reach the leader, and says so to it by etcd"
                );
            }
            self.said = said;
        }
        Ok(())
    }

    /// Takes back what was said.
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

    /// Where the candidate with this key says it.
    fn own_key(&self, candidate: &Bytes) -> Option<Bytes> {
        let candidate = std::str::from_utf8(candidate).ok()?;
        let last = candidate.rsplit('/').next()?;
        Some(format!("{}{last}", self.prefix()).into())
    }

    /// Which of these this instance reaches.
    async fn reached(&self, peers: &[Peer]) -> BTreeSet<String> {
        let probes = peers.iter().take(MAX_CANDIDATES).map(|peer| async {
            let reached = timeout(PROBE, self.probe.reaches(&peer.node_id, &peer.address)).await;
            reached.unwrap_or(false).then(|| peer.node_id.clone())
        });
        join_all(probes).await.into_iter().flatten().collect()
    }

    /// Hears what the others say, and makes way if it is time.
    async fn as_leader(
        &mut self,
        store: &Arc<dyn Store>,
        term: &Term,
        now: Instant,
        office: &StepDownCoordinator,
    ) -> Result<(), StoreError> {
        let Some(next) = self.successor(store, term, now).await? else {
            return Ok(());
        };
        if !self.claim(store, term, now).await? {
            return Ok(());
        }
        metrics::counter!(telemetry::MADE_WAY).increment(1);
        let id = TermId {
            lock_key: String::from_utf8_lossy(term.lock_key()).into_owned(),
            lock_revision: term.lock_revision().0,
        };
        let request = StepDownRequest {
            to_node_id: next.clone(),
            expected_lock_revision: id.lock_revision,
        };
        match office.step_down(&id, request).await {
            Ok(_) => info!(next, "this leader makes way, as no other instance reaches it"),
            Err(status) => warn!(next, reason = status.message(), "this leader cannot make way"),
        }
        Ok(())
    }

    /// Who is to lead instead; `None` if this leader stays.
    async fn successor(
        &mut self,
        store: &Arc<dyn Store>,
        term: &Term,
        now: Instant,
    ) -> Result<Option<String>, StoreError> {
        let (mut reports, mut made_way) = (BTreeMap::new(), false);
        for kv in store.range(Range::all(Keys::prefix(self.prefix()))).await?.kvs {
            made_way |= kv.key.ends_with(MADE_WAY.as_bytes());
            let report = serde_json::from_slice::<Report>(&kv.value).ok();
            // Of another term it says nothing about this one.
            let report = report.filter(|report| report.lock_revision == term.lock_revision().0);
            if let (Some(lease), Some(report)) = (kv.lease, report) {
                reports.insert(lease, report);
            }
        }
        self.since.retain(|lease, _| reports.contains_key(lease));
        for lease in reports.keys() {
            self.since.entry(*lease).or_insert(now);
        }
        self.tell(reports.values().map(|report| report.node_id.clone()).collect());
        if reports.is_empty() {
            self.told = false;
            return Ok(None);
        }
        let queue = self.election(store).candidates().await?;
        let others = queue.iter().filter(|candidate| candidate.key != term.lock_key());
        let peers: Vec<Peer> = others
            .filter_map(|candidate| peer(&candidate.value, candidate.lease))
            .collect();
        let stands = |peer: &Peer| {
            let since = peer.lease.and_then(|lease| self.since.get(&lease));
            since.is_some_and(|since| now.saturating_since(*since) >= STANDING)
        };
        if peers.is_empty() || !peers.iter().all(stands) {
            return Ok(None);
        }
        let own = self.reached(&peers).await;
        let next = best(&peers, &reports, &own);
        if !std::mem::replace(&mut self.told, true) {
            let (address, by) = (self.candidate.address(), self.unreached_by.borrow().join(", "));
            let what = match (&next, made_way) {
                (None, _) => "no other is reached either, so it stays",
                (Some(_), true) => "a leader has made way for that within the last minute, so it waits",
                (Some(_), false) => "it makes way",
            };
            warn!(
                address,
                by,
                next,
                "no other instance reaches this leader at its address: {what}; look at --advertise and at the network"
            );
        }
        Ok(next.filter(|_| !made_way))
    }

    /// Takes the one turn to make way that there is in a while. Returns whether it has it.
    async fn claim(&mut self, store: &Arc<dyn Store>, term: &Term, now: Instant) -> Result<bool, StoreError> {
        let key = Bytes::from(format!("{}{MADE_WAY}", self.prefix()));
        let lease = store.grant(STEP_DOWN_INTERVAL).await?.id;
        // Given back in any case, lest it is taken for one that a dead process has left.
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

    /// Gives the lease back once it is over.
    async fn give_back(&mut self, store: &Arc<dyn Store>, now: Instant) {
        let over = |(_, since): &(LeaseId, Instant)| now.saturating_since(*since) >= STEP_DOWN_INTERVAL;
        if let Some((lease, _)) = self.made_way.take_if(|made_way| over(made_way)) {
            // It has run out by itself.
            let _ = store.revoke(lease).await;
        }
    }

    fn lead_no_more(&mut self) {
        self.since.clear();
        self.told = false;
        self.tell(Vec::new());
    }

    fn tell(&self, mut by: Vec<String>) {
        by.sort_unstable();
        // A cluster has few instances, and a gauge has 52 bits for them.
        #[allow(clippy::cast_precision_loss, reason = "it is a handful")]
        metrics::gauge!(telemetry::UNREACHED_BY).set(by.len() as f64);
        self.unreached_by.send_if_modified(|known| {
            let changed = *known != by;
            *known = by;
            changed
        });
    }
}

/// A candidate that can be dialled. The original's say no address, and cannot say whom they reach either.
fn peer(value: &Bytes, lease: Option<LeaseId>) -> Option<Peer> {
    let value = <LeaderElectionValue as LeaderValue>::decode(value).ok()?;
    Some(Peer {
        address: value.advertised_addresses.first()?.clone(),
        node_id: value.node_id,
        lease,
    })
}

/// The candidate that most others reach, this leader among them; of several the one that is next anyhow. `None` if
/// nobody reaches any.
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
