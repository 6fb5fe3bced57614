//! Conversion between the types of this crate and those of etcd-client.

use std::time::Duration;

use etcd_client::{
    CompareOp, DeleteOptions, EventType, GetOptions, PutOptions, SortOrder, SortTarget, TxnOp, TxnOpResponse,
};

use crate::ttl::whole_seconds;
use crate::{
    Compare, Event, KeyValue, Keys, LeaseId, Op, OpResult, Ordering, Range, RangeResult, Revision, Sort, StoreError,
    Target, Txn, TxnResult,
};

pub(super) fn range(range: &Range) -> (Vec<u8>, GetOptions) {
    let mut options = GetOptions::new()
        .with_limit(i64::try_from(range.limit).unwrap_or(i64::MAX))
        .with_max_create_revision(range.max_create_revision.0)
        .with_revision(range.revision.0);
    options = match range.sort {
        // The default order of etcd.
        Sort::Key => options,
        Sort::CreateAscending => options.with_sort(SortTarget::Create, SortOrder::Ascend),
        Sort::CreateDescending => options.with_sort(SortTarget::Create, SortOrder::Descend),
    };
    if range.keys_only {
        options = options.with_keys_only();
    }
    match &range.keys {
        Keys::One(key) => (key.to_vec(), options),
        Keys::Range { start, end } => (start.to_vec(), options.with_range(end.to_vec())),
    }
}

pub(super) fn range_result(answer: etcd_client::GetResponse) -> RangeResult {
    RangeResult {
        revision: revision(answer.header()),
        kvs: answer.kvs().iter().map(key_value).collect(),
        count: answer.count(),
    }
}

pub(super) fn txn(txn: Txn) -> etcd_client::Txn {
    etcd_client::Txn::new()
        .when(txn.compares.into_iter().map(compare).collect::<Vec<_>>())
        .and_then(txn.success.into_iter().map(op).collect::<Vec<_>>())
        .or_else(txn.failure.into_iter().map(op).collect::<Vec<_>>())
}

/// The lease that a transaction attaches a key to, if any: etcd reports a missing one as `NotFound`.
pub(super) fn lease_of(txn: &Txn) -> Option<LeaseId> {
    txn.success.iter().chain(&txn.failure).find_map(|op| match op {
        Op::Put { lease, .. } => *lease,
        Op::Txn(nested) => lease_of(nested),
        Op::Range(_) | Op::Delete(_) => None,
    })
}

pub(super) fn txn_result(answer: etcd_client::TxnResponse) -> TxnResult {
    TxnResult {
        revision: revision(answer.header()),
        succeeded: answer.succeeded(),
        results: answer.op_responses().into_iter().map(op_result).collect(),
    }
}

fn op_result(response: TxnOpResponse) -> OpResult {
    match response {
        TxnOpResponse::Get(get) => {
            let RangeResult { kvs, count, .. } = range_result(get);
            OpResult::Range { kvs, count }
        }
        TxnOpResponse::Delete(delete) => OpResult::Deleted(delete.deleted()),
        TxnOpResponse::Put(_) => OpResult::Put,
        TxnOpResponse::Txn(nested) => OpResult::Txn {
            succeeded: nested.succeeded(),
            results: nested.op_responses().into_iter().map(op_result).collect(),
        },
    }
}

pub(super) fn event(event: &etcd_client::Event) -> Option<Event> {
    let kv = event.kv()?;
    Some(match event.event_type() {
        EventType::Put => Event::Put(key_value(kv)),
        EventType::Delete => Event::Delete {
            key: kv.key().to_vec().into(),
            revision: Revision(kv.mod_revision()),
        },
    })
}

pub(super) fn revision(header: Option<&etcd_client::ResponseHeader>) -> Revision {
    Revision(header.map_or(0, etcd_client::ResponseHeader::revision))
}

fn key_value(kv: &etcd_client::KeyValue) -> KeyValue {
    KeyValue {
        key: kv.key().to_vec().into(),
        value: kv.value().to_vec().into(),
        create_revision: Revision(kv.create_revision()),
        mod_revision: Revision(kv.mod_revision()),
        version: kv.version(),
        lease: LeaseId::new(kv.lease()),
    }
}

pub(super) fn compare(compare: Compare) -> etcd_client::Compare {
    let op = match compare.ordering {
        Ordering::Equal => CompareOp::Equal,
        Ordering::NotEqual => CompareOp::NotEqual,
        Ordering::Greater => CompareOp::Greater,
        Ordering::Less => CompareOp::Less,
    };
    let (key, end) = match compare.keys {
        Keys::One(key) => (key.to_vec(), None),
        Keys::Range { start, end } => (start.to_vec(), Some(end.to_vec())),
    };
    let compare = match compare.target {
        Target::CreateRevision(revision) => etcd_client::Compare::create_revision(key, op, revision.0),
        Target::ModRevision(revision) => etcd_client::Compare::mod_revision(key, op, revision.0),
        Target::Version(version) => etcd_client::Compare::version(key, op, version),
        Target::Value(value) => etcd_client::Compare::value(key, op, value.to_vec()),
    };
    match end {
        Some(end) => compare.with_range(end),
        None => compare,
    }
}

fn op(op: Op) -> TxnOp {
    match op {
        Op::Range(read) => {
            let (key, options) = range(&read);
            TxnOp::get(key, Some(options))
        }
        Op::Put { key, value, lease } => {
            let options = lease.map(|lease| PutOptions::new().with_lease(lease.get()));
            TxnOp::put(key.to_vec(), value.to_vec(), options)
        }
        Op::Delete(Keys::One(key)) => TxnOp::delete(key.to_vec(), None),
        Op::Delete(Keys::Range { start, end }) => {
            TxnOp::delete(start.to_vec(), Some(DeleteOptions::new().with_range(end.to_vec())))
        }
        Op::Txn(nested) => TxnOp::txn(txn(nested)),
    }
}

/// Whole seconds, rounded up: what etcd counts TTLs in.
///
/// # Errors
/// If etcd does not take the TTL.
pub(super) fn seconds(ttl: Duration) -> Result<i64, StoreError> {
    Ok(i64::try_from(whole_seconds(ttl)?.as_secs()).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ttls_are_rounded_up() {
        for (ms, whole) in [(1, 1), (1_000, 1), (1_001, 2), (10_000, 10)] {
            assert_eq!(seconds(Duration::from_millis(ms)).unwrap(), whole);
        }
    }

    #[test]
    fn the_lease_of_a_transaction_is_found_on_either_side() {
        let lease = LeaseId::new(5);
        let put = Op::Put {
            key: "k".into(),
            value: "v".into(),
            lease,
        };
        assert_eq!(lease_of(&Txn::default().then(vec![Op::get("k"), put.clone()])), lease);
        assert_eq!(lease_of(&Txn::default().or_else(vec![put])), lease);
        assert_eq!(lease_of(&Txn::default().then(vec![Op::put("k", "v")])), None);
    }
}
