//! Leases: granted, renewed, given back, run out.

use std::time::Duration;

use super::scene::{Scene, revision_of};
use super::{Case, case};
use crate::store::{Event, Op, Revision, StoreError};

pub(super) const CASES: &[Case] = &[
    case!(leases_are_granted_and_renewed),
    case!(revoking_deletes_the_keys_at_one_revision),
    case!(a_key_leaves_its_lease),
    case!(an_unknown_lease_is_told),
    case!(a_lease_runs_out_with_its_keys),
];

const TTL: Duration = Duration::from_secs(2);

async fn leases_are_granted_and_renewed(scene: Scene) {
    let before = scene.revision().await;
    let lease = scene.store.grant(Duration::from_secs(60)).await.unwrap();
    let other = scene.store.grant(Duration::from_millis(59_001)).await.unwrap();
    assert_ne!(lease.id, other.id);
    assert_eq!((lease.ttl.as_secs(), other.ttl.as_secs()), (60, 60));
    assert_eq!(scene.store.keep_alive(lease.id, 0).await.unwrap(), lease.ttl);
    assert_eq!(scene.store.keep_alive(lease.id, 1).await.unwrap(), lease.ttl);
    for lease in [lease, other] {
        scene.store.revoke(lease.id).await.unwrap();
    }
    // None of that changes a key.
    assert_eq!(scene.revision().await, before);
}

async fn revoking_deletes_the_keys_at_one_revision(scene: Scene) {
    let lease = scene.store.grant(Duration::from_secs(60)).await.unwrap().id;
    scene.run(vec![scene.leased_op("a", lease)]).await;
    let last = scene
        .run(vec![scene.leased_op("b", lease), scene.put_op("c", "1")])
        .await
        .revision;
    assert_eq!(scene.get("b").await.unwrap().lease, Some(lease));
    let mut watch = scene.watch(scene.all(), Revision(0)).await;
    scene.store.revoke(lease).await.unwrap();
    assert_eq!(scene.revision().await, last.next());
    for event in watch.next(2).await {
        assert!(matches!(event, Event::Delete { .. }), "{event:?}");
        assert_eq!(revision_of(&event), last.next());
    }
    assert!(scene.get("a").await.is_none() && scene.get("b").await.is_none() && scene.get("c").await.is_some());
}

async fn a_key_leaves_its_lease(scene: Scene) {
    let old = scene.store.grant(Duration::from_secs(60)).await.unwrap().id;
    let new = scene.store.grant(Duration::from_secs(60)).await.unwrap().id;
    for name in ["none", "other", "again"] {
        scene.run(vec![scene.leased_op(name, old)]).await;
    }
    scene.put("none", "1").await;
    scene.run(vec![scene.leased_op("other", new)]).await;
    scene.delete("again").await;
    scene.put("again", "1").await;
    scene.store.revoke(old).await.unwrap();
    assert_eq!(scene.get("none").await.unwrap().lease, None);
    assert_eq!(scene.get("other").await.unwrap().lease, Some(new));
    assert_eq!(scene.get("again").await.unwrap().lease, None);
    scene.store.revoke(new).await.unwrap();
    assert_eq!(scene.get("other").await, None);
}

async fn an_unknown_lease_is_told(scene: Scene) {
    let lease = scene.store.grant(Duration::from_secs(60)).await.unwrap().id;
    scene.store.revoke(lease).await.unwrap();
    let before = scene.revision().await;
    let put = scene
        .refused(vec![scene.put_op("b", "1"), scene.leased_op("a", lease)])
        .await;
    let renewed = scene.store.keep_alive(lease, 0).await.unwrap_err();
    let revoked = scene.store.revoke(lease).await.unwrap_err();
    for error in [put, renewed, revoked] {
        assert!(matches!(error, StoreError::LeaseNotFound { .. }), "{error:?}");
    }
    assert_eq!(scene.revision().await, before);
    assert_eq!(scene.get("b").await, None);
}

async fn a_lease_runs_out_with_its_keys(scene: Scene) {
    let lost = scene.store.grant(TTL).await.unwrap().id;
    let kept = scene.store.grant(Duration::from_secs(60)).await.unwrap().id;
    scene
        .run(vec![scene.leased_op("a", lost), scene.leased_op("b", kept)])
        .await;
    let mut watch = scene.watch(scene.all(), Revision(0)).await;
    let gone = watch.next(1).await;
    assert!(
        matches!(&gone[0], Event::Delete { key, .. } if *key == scene.key("a")),
        "{gone:?}"
    );
    assert!(scene.get("a").await.is_none() && scene.get("b").await.is_some());
    let renewed = scene.store.keep_alive(lost, 0).await.unwrap_err();
    assert!(matches!(renewed, StoreError::LeaseNotFound { .. }), "{renewed:?}");
    scene.run(vec![Op::delete(scene.key("b"))]).await;
    scene.store.revoke(kept).await.unwrap();
}
