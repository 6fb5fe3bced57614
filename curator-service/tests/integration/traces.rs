//! Random operations on the model of etcd and on a real etcd, side by side: both must give the same answers.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use curator_election::etcd::{EtcdConfig, EtcdStore};
use curator_election::memory::MemoryCluster;
use curator_election::store::{
    Compare, Keys, LeaseId, Op, OpResult, Ordering, Range, RefusalKind, Revision, Sort, Store, StoreError, Target, Txn,
};
use curator_harness::EtcdOptions;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::test_cluster::TestCluster;

const SEEDS: u64 = 12;
const OPERATIONS: usize = 150;

/// One store, with what its revisions and leases are called in both.
struct Side {
    store: Arc<dyn Store>,
    base: i64,
    leases: Vec<LeaseId>,
    names: HashMap<LeaseId, usize>,
}

/// An operation, with leases by number and revisions counted from the beginning of the trace.
#[derive(Clone, Debug)]
enum Action {
    Txn(Txn, Option<usize>),
    Range(Range),
    Grant(u64),
    KeepAlive(usize),
    Revoke(usize),
}

impl Side {
    async fn new(store: Arc<dyn Store>) -> Self {
        let base = store.range(Range::all(Keys::one("k"))).await.unwrap().revision.0;
        Self {
            store,
            base,
            leases: Vec::new(),
            names: HashMap::new(),
        }
    }

    fn absolute(&self, relative: Revision) -> Revision {
        if relative.0 == 0 {
            relative
        } else {
            Revision(relative.0 + self.base)
        }
    }

    /// Does it, and says what came of it in words that both sides share.
    async fn act(&mut self, action: &Action) -> String {
        match action.clone() {
            Action::Txn(mut txn, lease) => {
                let lease = lease.map(|number| self.leases[number]);
                self.fit(&mut txn, lease);
                match self.store.txn(txn.clone()).await {
                    Ok(answer) => {
                        let results = self.all_told(&txn, answer.succeeded, answer.results);
                        format!("{} {} {results:?}", answer.revision.0 - self.base, answer.succeeded)
                    }
                    Err(error) => failed(&error).into(),
                }
            }
            Action::Range(mut range) => {
                range.revision = self.absolute(range.revision);
                range.max_create_revision = self.absolute(range.max_create_revision);
                match self.store.range(range.clone()).await {
                    Ok(answer) => {
                        let result = OpResult::Range {
                            kvs: answer.kvs,
                            count: answer.count,
                        };
                        let told = self.told(&Op::Range(range), result);
                        format!("{} {told}", answer.revision.0 - self.base)
                    }
                    Err(error) => failed(&error).into(),
                }
            }
            Action::Grant(seconds) => {
                let lease = self.store.grant(Duration::from_secs(seconds)).await.unwrap();
                self.names.insert(lease.id, self.leases.len());
                self.leases.push(lease.id);
                format!("{:?}", lease.ttl)
            }
            Action::KeepAlive(number) => match self.store.keep_alive(self.leases[number], 0).await {
                Ok(ttl) => format!("{ttl:?}"),
                Err(error) => failed(&error).into(),
            },
            Action::Revoke(number) => match self.store.revoke(self.leases[number]).await {
                Ok(()) => "revoked".into(),
                Err(error) => failed(&error).into(),
            },
        }
    }

    /// Makes a transaction this side's: its revisions, and its lease.
    fn fit(&self, txn: &mut Txn, lease: Option<LeaseId>) {
        for compare in &mut txn.compares {
            if let Target::CreateRevision(revision) | Target::ModRevision(revision) = &mut compare.target {
                *revision = self.absolute(*revision);
            }
        }
        for op in txn.success.iter_mut().chain(&mut txn.failure) {
            match op {
                Op::Put { lease: at, .. } => *at = lease,
                Op::Range(range) => range.max_create_revision = self.absolute(range.max_create_revision),
                Op::Delete(_) => {}
                Op::Txn(nested) => self.fit(nested, lease),
            }
        }
    }

    fn all_told(&self, txn: &Txn, succeeded: bool, results: Vec<OpResult>) -> Vec<String> {
        let ops = if succeeded { &txn.success } else { &txn.failure };
        assert_eq!(ops.len(), results.len());
        ops.iter()
            .zip(results)
            .map(|(op, result)| self.told(op, result))
            .collect()
    }

    fn told(&self, op: &Op, result: OpResult) -> String {
        match (op, result) {
            (Op::Txn(nested), OpResult::Txn { succeeded, results }) => {
                let results = self.all_told(nested, succeeded, results);
                format!("{succeeded} {results:?}")
            }
            (Op::Range(range), OpResult::Range { kvs, count }) => {
                let kvs: Vec<String> = kvs
                    .into_iter()
                    .map(|kv| {
                        // Whether the lease comes with the keys alone differs between versions of etcd.
                        let lease = kv.lease.filter(|_| !range.keys_only).map(|id| self.names.get(&id));
                        let (created, changed) = (kv.create_revision.0 - self.base, kv.mod_revision.0 - self.base);
                        format!(
                            "{:?}={:?} {created} {changed} {} {lease:?}",
                            kv.key, kv.value, kv.version
                        )
                    })
                    .collect();
                format!("{count} {kvs:?}")
            }
            (_, other) => format!("{other:?}"),
        }
    }
}

fn failed(error: &StoreError) -> &'static str {
    match error {
        StoreError::LeaseNotFound { .. } => "no such lease",
        StoreError::Compacted { .. } => "compacted",
        StoreError::Refused {
            kind: RefusalKind::FutureRevision,
            ..
        } => "still to come",
        StoreError::Refused { .. } => "refused",
        other => panic!("a fault of the test's surroundings: {other}"),
    }
}

fn key(rng: &mut StdRng) -> String {
    format!("k/{}", rng.random_range(0..6))
}

fn keys(rng: &mut StdRng) -> Keys {
    if rng.random_bool(0.3) {
        Keys::prefix("k/")
    } else {
        Keys::one(key(rng))
    }
}

fn range(rng: &mut StdRng) -> Range {
    // Keys put by one transaction share a create revision; etcd sorts those in no order that it states. With a limit
    // the answers could then differ, so that a sorted read asks for all, and for one key a transaction there is no
    // doubt.
    let sort = [Sort::Key, Sort::CreateAscending, Sort::CreateDescending][rng.random_range(0..3)];
    Range {
        sort,
        limit: rng.random_range(0..4),
        max_create_revision: Revision(rng.random_range(0..40)),
        keys_only: rng.random_bool(0.2),
        ..Range::all(keys(rng))
    }
}

fn compare(rng: &mut StdRng) -> Compare {
    let ordering = [Ordering::Equal, Ordering::NotEqual, Ordering::Greater, Ordering::Less][rng.random_range(0..4)];
    let target = match rng.random_range(0..4) {
        0 => Target::CreateRevision(Revision(rng.random_range(0..40))),
        1 => Target::ModRevision(Revision(rng.random_range(0..40))),
        2 => Target::Version(rng.random_range(0..4)),
        _ => Target::Value(rng.random_range(0..3).to_string().into()),
    };
    Compare {
        keys: keys(rng),
        ordering,
        target,
    }
}

/// One branch: at most one put, so that no two keys are created at one revision; now and then one that etcd must
/// refuse.
fn branch(rng: &mut StdRng) -> Vec<Op> {
    let put = key(rng);
    let mut ops = vec![Op::put(put.clone(), rng.random_range(0..3).to_string())];
    if rng.random_bool(0.3) {
        ops = vec![Op::Delete(keys(rng))];
    }
    if rng.random_bool(0.05) {
        ops.push(Op::put(put, "again"));
    }
    if rng.random_bool(0.5) {
        ops.push(Op::Range(range(rng)));
    }
    if rng.random_bool(0.2) {
        ops.clear();
    }
    ops
}

/// Several transactions within one, each with a put of its own, and now and then one that etcd must refuse. Their keys
/// are apart from the others', because several are created at one revision, and etcd sorts those in no order that it
/// states.
fn nested(rng: &mut StdRng) -> Vec<Op> {
    let key = |rng: &mut StdRng| format!("n/{}", rng.random_range(0..4));
    let inner = |own: usize, rng: &mut StdRng| {
        let condition = Compare {
            keys: if rng.random_bool(0.2) {
                Keys::prefix("n/")
            } else {
                Keys::one(key(rng))
            },
            ..compare(rng)
        };
        let put = if rng.random_bool(0.05) {
            key(rng)
        } else {
            format!("n/{own}")
        };
        let mut ops = vec![Op::put(put, rng.random_range(0..3).to_string()), Op::get(key(rng))];
        if rng.random_bool(0.2) {
            ops = vec![Op::delete(format!("n/{own}"))];
        }
        Op::Txn(Txn::when(vec![condition]).then(ops).or_else(vec![Op::get(key(rng))]))
    };
    (0..rng.random_range(1..4)).map(|own| inner(own, rng)).collect()
}

fn action(rng: &mut StdRng, leases: usize, written: i64) -> Action {
    let lease = |rng: &mut StdRng| (leases > 0).then(|| rng.random_range(0..leases));
    match rng.random_range(0..10) {
        0..=5 => {
            let compares = (0..rng.random_range(0..3)).map(|_| compare(rng)).collect();
            let lease = lease(rng).filter(|_| rng.random_bool(0.4));
            if rng.random_bool(0.3) {
                return Action::Txn(Txn::when(compares).then(nested(rng)).or_else(nested(rng)), lease);
            }
            Action::Txn(Txn::when(compares).then(branch(rng)).or_else(branch(rng)), lease)
        }
        6 | 7 => {
            let mut range = range(rng);
            if rng.random_bool(0.4) {
                // The past, and now and then the future.
                range.revision = Revision(rng.random_range(1..=(written + 3).max(1)));
            }
            Action::Range(range)
        }
        8 => match lease(rng) {
            Some(number) if rng.random_bool(0.5) => Action::KeepAlive(number),
            Some(number) => Action::Revoke(number),
            None => Action::Grant(60),
        },
        _ => Action::Grant(rng.random_range(1..60)),
    }
}

#[test]
fn the_model_answers_as_etcd_does() {
    if crate::test_cluster::done_already() {
        return;
    }
    let stage = TestCluster::empty(
        "traces",
        EtcdOptions {
            members: 1,
            peer_proxies: false,
            ..EtcdOptions::default()
        },
    );
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        for seed in 0..SEEDS {
            let etcd: Arc<dyn Store> = Arc::new(EtcdStore::new(EtcdConfig::new(stage.etcd.endpoints())).unwrap());
            let empty = ["k/", "n/"].map(|prefix| Op::Delete(Keys::prefix(prefix)));
            etcd.txn(Txn::default().then(empty.into())).await.unwrap();
            let cluster = MemoryCluster::new(seed);
            let mut real = Side::new(etcd).await;
            let mut model = Side::new(Arc::new(cluster.client(0))).await;
            let mut rng = StdRng::seed_from_u64(seed);
            for number in 0..OPERATIONS {
                let written = cluster.with_model(|model, _| model.revision().0) - model.base;
                let action = action(&mut rng, model.leases.len(), written);
                let (expected, found) = (real.act(&action).await, model.act(&action).await);
                assert_eq!(
                    found, expected,
                    "the model (left) at operation {number} of seed {seed}: {action:?}"
                );
            }
        }
    });
}
