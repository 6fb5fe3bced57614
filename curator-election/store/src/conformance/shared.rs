//! Cases of two clients of one store: no client may take for its own what is the store's.

use std::sync::Arc;
use std::time::Duration;

use super::fixture::{Fixture, revision_of};
use crate::{Event, Revision, Store, StoreError};

const TTL: Duration = Duration::from_secs(60);

pub(super) async fn check(one: &Arc<dyn Store>, other: &Arc<dyn Store>, prefix: &str) {
    let at = |name: &str| {
        let prefix = format!("{prefix}/{name}/");
        (
            Fixture::new(one.clone(), prefix.clone()),
            Fixture::new(other.clone(), prefix),
        )
    };
    let (one, other) = at("writes_are_seen");
    writes_of_one_are_seen_by_the_other(one, other).await;
    let (one, other) = at("leases_are_renewed");
    lease_of_one_is_renewed_by_the_other(one, other).await;
    let (one, other) = at("leases_are_revoked");
    lease_of_one_is_revoked_by_the_other(one, other).await;
}

async fn writes_of_one_are_seen_by_the_other(one: Fixture, other: Fixture) {
    let mut watch = other.watch(other.all(), Revision(0)).await;
    let written = one.put("a", "1").await;
    assert_eq!(other.get("a").await.unwrap().mod_revision, written);
    let events = watch.next(1).await;
    assert_eq!(revision_of(&events[0]), written);
}

async fn lease_of_one_is_renewed_by_the_other(one: Fixture, other: Fixture) {
    let lease = one.store.grant(TTL).await.unwrap();
    let renewed = other.store.keep_alive(lease.id, 0).await;
    assert_eq!(
        renewed.expect("a lease is the store's, whoever was granted it"),
        lease.ttl
    );
    assert_eq!(other.store.keep_alive(lease.id, 1).await.unwrap(), lease.ttl);
    one.store.revoke(lease.id).await.unwrap();
    for fixture in [&one, &other] {
        let error = fixture.store.keep_alive(lease.id, 0).await.unwrap_err();
        assert!(matches!(error, StoreError::LeaseNotFound { .. }), "{error:?}");
    }
}

async fn lease_of_one_is_revoked_by_the_other(one: Fixture, other: Fixture) {
    let lease = one.store.grant(TTL).await.unwrap().id;
    one.run(vec![one.leased_op("a", lease)]).await;
    let mut watch = one.watch(one.all(), Revision(0)).await;
    other.store.revoke(lease).await.unwrap();
    let events = watch.next(1).await;
    assert!(matches!(&events[0], Event::Delete { .. }), "{events:?}");
    let error = one.store.keep_alive(lease, 0).await.unwrap_err();
    assert!(matches!(error, StoreError::LeaseNotFound { .. }), "{error:?}");
}
