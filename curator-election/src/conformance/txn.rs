//! Transactions: compares, branches, atomicity and revisions.

use super::scene::{Scene, read};
use super::{Case, case};
use crate::store::{Compare, Keys, Op, OpResult, Ordering, Range, Revision, StoreError, Target, Txn};

pub(super) const CASES: &[Case] = &[
    case!(revisions_and_versions_count_changes),
    case!(a_deletion_begins_a_key_anew),
    case!(nothing_changed_is_no_revision),
    case!(compares_with_a_key_that_exists),
    case!(compares_with_a_key_that_does_not),
    case!(compares_over_a_range_hold_for_each_key),
    case!(both_branches_are_carried_out),
    case!(all_compares_must_hold),
    case!(a_transaction_is_one_revision_and_sees_itself),
    case!(a_refused_transaction_changes_nothing),
    case!(deletes_count_what_was_there),
    case!(writers_at_once_lose_nothing),
];

async fn revisions_and_versions_count_changes(scene: Scene) {
    let before = scene.revision().await;
    let first = scene.put("a", "1").await;
    assert_eq!(first, before.next());
    let second = scene.put("a", "2").await;
    assert_eq!(second, first.next());
    let kv = scene.get("a").await.unwrap();
    assert_eq!((kv.create_revision, kv.mod_revision, kv.version), (first, second, 2));
    assert_eq!((kv.key, kv.value, kv.lease), (scene.key("a"), "2".into(), None));
}

async fn a_deletion_begins_a_key_anew(scene: Scene) {
    let first = scene.put("a", "1").await;
    assert_eq!(scene.delete("a").await, first.next());
    assert_eq!(scene.get("a").await, None);
    let again = scene.put("a", "2").await;
    let kv = scene.get("a").await.unwrap();
    assert_eq!((kv.create_revision, kv.mod_revision, kv.version), (again, again, 1));
}

async fn nothing_changed_is_no_revision(scene: Scene) {
    let before = scene.put("a", "1").await;
    assert_eq!(scene.delete("b").await, before);
    assert_eq!(scene.run(vec![Op::get(scene.key("a"))]).await.revision, before);
    // The same value again is a change all the same.
    assert_eq!(scene.put("a", "1").await, before.next());
}

fn compare(keys: Keys, ordering: Ordering, target: Target) -> Compare {
    Compare { keys, ordering, target }
}

async fn compares_with_a_key_that_exists(scene: Scene) {
    use Ordering::{Equal, Greater, Less, NotEqual};
    let created = scene.put("a", "m").await;
    let changed = scene.put("a", "m").await;
    let ask = |ordering, target| scene.holds(compare(scene.one("a"), ordering, target));
    for (target, below, above) in [
        (
            Target::CreateRevision(created),
            Target::CreateRevision(Revision(created.0 - 1)),
            Target::CreateRevision(created.next()),
        ),
        (
            Target::ModRevision(changed),
            Target::ModRevision(Revision(changed.0 - 1)),
            Target::ModRevision(changed.next()),
        ),
        (Target::Version(2), Target::Version(1), Target::Version(3)),
        (
            Target::Value("m".into()),
            Target::Value("l".into()),
            Target::Value("n".into()),
        ),
    ] {
        assert!(
            ask(Equal, target.clone()).await && !ask(NotEqual, target.clone()).await,
            "{target:?}"
        );
        assert!(
            !ask(Greater, target.clone()).await && !ask(Less, target.clone()).await,
            "{target:?}"
        );
        assert!(
            ask(Greater, below.clone()).await && !ask(Less, below.clone()).await,
            "{below:?}"
        );
        assert!(
            ask(NotEqual, below.clone()).await && !ask(Equal, below.clone()).await,
            "{below:?}"
        );
        assert!(
            ask(Less, above.clone()).await && !ask(Greater, above.clone()).await,
            "{above:?}"
        );
    }
}

async fn compares_with_a_key_that_does_not(scene: Scene) {
    assert!(scene.holds(Compare::absent(scene.key("a"))).await);
    assert!(scene.holds(Compare::changed_at(scene.key("a"), Revision(0))).await);
    assert!(!scene.holds(Compare::created_at(scene.key("a"), Revision(1))).await);
    assert!(
        scene
            .holds(compare(scene.one("a"), Ordering::Less, Target::Version(1)))
            .await
    );
    for ordering in [Ordering::Equal, Ordering::NotEqual, Ordering::Less] {
        let value = compare(scene.one("a"), ordering, Target::Value("v".into()));
        assert!(!scene.holds(value).await, "{ordering:?}");
    }
    // A deleted key is one that does not exist.
    scene.put("a", "1").await;
    scene.delete("a").await;
    assert!(scene.holds(Compare::absent(scene.key("a"))).await);
}

async fn compares_over_a_range_hold_for_each_key(scene: Scene) {
    let unborn = compare(scene.all(), Ordering::Equal, Target::CreateRevision(Revision(0)));
    assert!(scene.holds(unborn.clone()).await);
    scene.put("a", "1").await;
    let once = compare(scene.all(), Ordering::Equal, Target::Version(1));
    scene.put("b", "1").await;
    assert!(scene.holds(once.clone()).await && !scene.holds(unborn).await);
    scene.put("b", "1").await;
    assert!(!scene.holds(once).await);
}

async fn both_branches_are_carried_out(scene: Scene) {
    let txn = Txn::when(vec![Compare::absent(scene.key("a"))])
        .then(vec![scene.put_op("a", "1")])
        .or_else(vec![Op::get(scene.key("a")), scene.put_op("b", "1")]);
    let first = scene.store.txn(txn.clone()).await.unwrap();
    assert!(first.succeeded);
    assert_eq!(first.results, [OpResult::Put]);
    assert_eq!(scene.get("b").await, None);
    let second = scene.store.txn(txn).await.unwrap();
    assert!(!second.succeeded);
    assert_eq!(second.revision, first.revision.next());
    assert_eq!(read(&second.results[0])[0].create_revision, first.revision);
    assert_eq!(scene.get("b").await.unwrap().create_revision, second.revision);
}

async fn all_compares_must_hold(scene: Scene) {
    scene.put("a", "1").await;
    let txn = Txn::when(vec![
        Compare::absent(scene.key("b")),
        Compare::absent(scene.key("a")),
        Compare::absent(scene.key("c")),
    ]);
    assert!(!scene.store.txn(txn).await.unwrap().succeeded);
    assert!(scene.store.txn(Txn::when(Vec::new())).await.unwrap().succeeded);
}

async fn a_transaction_is_one_revision_and_sees_itself(scene: Scene) {
    scene.put("old", "0").await;
    let ops = vec![
        scene.put_op("a", "1"),
        Op::get(scene.key("a")),
        Op::delete(scene.key("old")),
        Op::get(scene.key("old")),
        scene.put_op("b", "2"),
    ];
    let done = scene.run(ops).await;
    assert_eq!(done.results.len(), 5);
    assert_eq!(read(&done.results[1])[0].value, "1");
    assert_eq!(done.results[2], OpResult::Deleted(1));
    assert!(read(&done.results[3]).is_empty());
    for name in ["a", "b"] {
        assert_eq!(scene.get(name).await.unwrap().mod_revision, done.revision);
    }
}

async fn a_refused_transaction_changes_nothing(scene: Scene) {
    let before = scene.put("a", "0").await;
    let twice = vec![scene.put_op("b", "1"), scene.put_op("a", "1"), scene.put_op("a", "2")];
    assert!(matches!(scene.refused(twice.clone()).await, StoreError::Refused { .. }));
    let both = vec![scene.put_op("a", "1"), Op::Delete(scene.all())];
    assert!(matches!(scene.refused(both).await, StoreError::Refused { .. }));
    // Also on the branch that is not taken.
    let hidden = Txn::default().then(vec![scene.put_op("b", "1")]).or_else(twice);
    let hidden = scene.store.txn(hidden).await.unwrap_err();
    assert!(matches!(hidden, StoreError::Refused { .. }));
    assert_eq!(scene.revision().await, before);
    assert_eq!(scene.get("a").await.unwrap().value, "0");
    assert_eq!(scene.get("b").await, None);
}

async fn deletes_count_what_was_there(scene: Scene) {
    for name in ["a", "b", "c", "d"] {
        scene.put(name, "1").await;
    }
    let range = Keys::Range {
        start: scene.key("b"),
        end: scene.key("d"),
    };
    let done = scene.run(vec![Op::Delete(range.clone())]).await;
    assert_eq!(done.results, [OpResult::Deleted(2)]);
    assert_eq!(scene.names(Range::all(scene.all())).await, ["a", "d"]);
    assert_eq!(scene.run(vec![Op::Delete(range)]).await.results, [OpResult::Deleted(0)]);
    assert_eq!(
        scene.run(vec![Op::Delete(scene.all())]).await.results,
        [OpResult::Deleted(2)]
    );
}

async fn writers_at_once_lose_nothing(scene: Scene) {
    let count = |scene: &Scene| {
        let (store, key) = (scene.store.clone(), scene.key("n"));
        async move {
            loop {
                let found = store.range(Range::all(Keys::One(key.clone()))).await.unwrap().kvs;
                let at = found.first().map_or(Revision(0), |kv| kv.mod_revision);
                let txn = Txn::when(vec![Compare::changed_at(key.clone(), at)]).then(vec![Op::put(key.clone(), "n")]);
                if store.txn(txn).await.unwrap().succeeded {
                    return;
                }
            }
        }
    };
    futures::future::join_all((0..8).map(|_| count(&scene))).await;
    assert_eq!(scene.get("n").await.unwrap().version, 8);
}
