//! Cases of leases: grant, renewal, revocation, expiry.

use std::time::Duration;

use super::fixture::{Fixture, revision_of};
use super::{Case, case};
use crate::{Event, MAX_LEASE_TTL, Op, Revision, StoreError};

pub(super) const CASES: &[Case] = &[
    case!(leases_are_granted_and_renewed),
    case!(revoking_deletes_the_keys_at_one_revision),
    case!(a_key_leaves_its_lease),
    case!(an_unknown_lease_is_told),
    case!(a_ttl_that_is_too_long_is_refused),
    case!(a_lease_runs_out_with_its_keys),
];

const TTL: Duration = Duration::from_secs(2);

async fn leases_are_granted_and_renewed(fixture: Fixture) {
    let before = fixture.revision().await;
    let lease = fixture.store.grant(Duration::from_secs(60)).await.unwrap();
    let other = fixture.store.grant(Duration::from_millis(59_001)).await.unwrap();
    assert_ne!(lease.id, other.id);
    assert_eq!((lease.ttl.as_secs(), other.ttl.as_secs()), (60, 60));
    assert_eq!(fixture.store.keep_alive(lease.id, 0).await.unwrap(), lease.ttl);
    assert_eq!(fixture.store.keep_alive(lease.id, 1).await.unwrap(), lease.ttl);
    for lease in [lease, other] {
        fixture.store.revoke(lease.id).await.unwrap();
    }
    // None of that changes a key.
    assert_eq!(fixture.revision().await, before);
}

async fn revoking_deletes_the_keys_at_one_revision(fixture: Fixture) {
    let lease = fixture.store.grant(Duration::from_secs(60)).await.unwrap().id;
    fixture.run(vec![fixture.leased_op("a", lease)]).await;
    let last = fixture
        .run(vec![fixture.leased_op("b", lease), fixture.put_op("c", "1")])
        .await
        .revision;
    assert_eq!(fixture.get("b").await.unwrap().lease, Some(lease));
    let mut watch = fixture.watch(fixture.all(), Revision(0)).await;
    fixture.store.revoke(lease).await.unwrap();
    assert_eq!(fixture.revision().await, last.next());
    for event in watch.next(2).await {
        assert!(matches!(event, Event::Delete { .. }), "{event:?}");
        assert_eq!(revision_of(&event), last.next());
    }
    assert!(fixture.get("a").await.is_none() && fixture.get("b").await.is_none() && fixture.get("c").await.is_some());
}

async fn a_key_leaves_its_lease(fixture: Fixture) {
    let old = fixture.store.grant(Duration::from_secs(60)).await.unwrap().id;
    let new = fixture.store.grant(Duration::from_secs(60)).await.unwrap().id;
    for name in ["none", "other", "again"] {
        fixture.run(vec![fixture.leased_op(name, old)]).await;
    }
    fixture.put("none", "1").await;
    fixture.run(vec![fixture.leased_op("other", new)]).await;
    fixture.delete("again").await;
    fixture.put("again", "1").await;
    fixture.store.revoke(old).await.unwrap();
    assert_eq!(fixture.get("none").await.unwrap().lease, None);
    assert_eq!(fixture.get("other").await.unwrap().lease, Some(new));
    assert_eq!(fixture.get("again").await.unwrap().lease, None);
    fixture.store.revoke(new).await.unwrap();
    assert_eq!(fixture.get("other").await, None);
}

async fn an_unknown_lease_is_told(fixture: Fixture) {
    let lease = fixture.store.grant(Duration::from_secs(60)).await.unwrap().id;
    fixture.store.revoke(lease).await.unwrap();
    let before = fixture.revision().await;
    let put = fixture
        .refused(vec![fixture.put_op("b", "1"), fixture.leased_op("a", lease)])
        .await;
    let renewed = fixture.store.keep_alive(lease, 0).await.unwrap_err();
    let revoked = fixture.store.revoke(lease).await.unwrap_err();
    for error in [put, renewed, revoked] {
        assert!(matches!(error, StoreError::LeaseNotFound { .. }), "{error:?}");
    }
    assert_eq!(fixture.revision().await, before);
    assert_eq!(fixture.get("b").await, None);
}

async fn a_ttl_that_is_too_long_is_refused(fixture: Fixture) {
    for ttl in [MAX_LEASE_TTL + Duration::from_secs(1), Duration::MAX] {
        let error = fixture.store.grant(ttl).await.unwrap_err();
        assert!(matches!(error, StoreError::Refused { .. }), "{ttl:?}: {error:?}");
    }
    let lease = fixture.store.grant(MAX_LEASE_TTL).await.unwrap();
    assert_eq!(lease.ttl, MAX_LEASE_TTL);
    fixture.store.revoke(lease.id).await.unwrap();
}

async fn a_lease_runs_out_with_its_keys(fixture: Fixture) {
    let lost = fixture.store.grant(TTL).await.unwrap().id;
    let kept = fixture.store.grant(Duration::from_secs(60)).await.unwrap().id;
    fixture
        .run(vec![fixture.leased_op("a", lost), fixture.leased_op("b", kept)])
        .await;
    let mut watch = fixture.watch(fixture.all(), Revision(0)).await;
    let gone = watch.next(1).await;
    assert!(
        matches!(&gone[0], Event::Delete { key, .. } if *key == fixture.key("a")),
        "{gone:?}"
    );
    assert!(fixture.get("a").await.is_none() && fixture.get("b").await.is_some());
    let renewed = fixture.store.keep_alive(lost, 0).await.unwrap_err();
    assert!(matches!(renewed, StoreError::LeaseNotFound { .. }), "{renewed:?}");
    fixture.run(vec![Op::delete(fixture.key("b"))]).await;
    fixture.store.revoke(kept).await.unwrap();
}
