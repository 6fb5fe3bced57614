//! Cases of transactions: compares, branches, atomicity and revisions.

use super::fixture::{Fixture, read};
use super::{Case, case};
use crate::{Compare, Keys, Op, OpResult, Ordering, Range, Revision, StoreError, Target, Txn};

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

async fn revisions_and_versions_count_changes(fixture: Fixture) {
    let before = fixture.revision().await;
    let first = fixture.put("a", "1").await;
    assert_eq!(first, before.next());
    let second = fixture.put("a", "2").await;
    assert_eq!(second, first.next());
    let kv = fixture.get("a").await.unwrap();
    assert_eq!((kv.create_revision, kv.mod_revision, kv.version), (first, second, 2));
    assert_eq!((kv.key, kv.value, kv.lease), (fixture.key("a"), "2".into(), None));
}

async fn a_deletion_begins_a_key_anew(fixture: Fixture) {
    let first = fixture.put("a", "1").await;
    assert_eq!(fixture.delete("a").await, first.next());
    assert_eq!(fixture.get("a").await, None);
    let again = fixture.put("a", "2").await;
    let kv = fixture.get("a").await.unwrap();
    assert_eq!((kv.create_revision, kv.mod_revision, kv.version), (again, again, 1));
}

async fn nothing_changed_is_no_revision(fixture: Fixture) {
    let before = fixture.put("a", "1").await;
    assert_eq!(fixture.delete("b").await, before);
    assert_eq!(fixture.run(vec![Op::get(fixture.key("a"))]).await.revision, before);
    // A put of the same value is a change as well.
    assert_eq!(fixture.put("a", "1").await, before.next());
}

fn compare(keys: Keys, ordering: Ordering, target: Target) -> Compare {
    Compare { keys, ordering, target }
}

async fn compares_with_a_key_that_exists(fixture: Fixture) {
    use Ordering::{Equal, Greater, Less, NotEqual};
    let created = fixture.put("a", "m").await;
    let changed = fixture.put("a", "m").await;
    let ask = |ordering, target| fixture.holds(compare(fixture.one("a"), ordering, target));
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

async fn compares_with_a_key_that_does_not(fixture: Fixture) {
    assert!(fixture.holds(Compare::absent(fixture.key("a"))).await);
    assert!(fixture.holds(Compare::changed_at(fixture.key("a"), Revision(0))).await);
    assert!(!fixture.holds(Compare::created_at(fixture.key("a"), Revision(1))).await);
    assert!(
        fixture
            .holds(compare(fixture.one("a"), Ordering::Less, Target::Version(1)))
            .await
    );
    for ordering in [Ordering::Equal, Ordering::NotEqual, Ordering::Less] {
        let value = compare(fixture.one("a"), ordering, Target::Value("v".into()));
        assert!(!fixture.holds(value).await, "{ordering:?}");
    }
    // A deleted key does not exist.
    fixture.put("a", "1").await;
    fixture.delete("a").await;
    assert!(fixture.holds(Compare::absent(fixture.key("a"))).await);
}

async fn compares_over_a_range_hold_for_each_key(fixture: Fixture) {
    let unborn = compare(fixture.all(), Ordering::Equal, Target::CreateRevision(Revision(0)));
    assert!(fixture.holds(unborn.clone()).await);
    fixture.put("a", "1").await;
    let once = compare(fixture.all(), Ordering::Equal, Target::Version(1));
    fixture.put("b", "1").await;
    assert!(fixture.holds(once.clone()).await && !fixture.holds(unborn).await);
    fixture.put("b", "1").await;
    assert!(!fixture.holds(once).await);
}

async fn both_branches_are_carried_out(fixture: Fixture) {
    let txn = Txn::when(vec![Compare::absent(fixture.key("a"))])
        .then(vec![fixture.put_op("a", "1")])
        .or_else(vec![Op::get(fixture.key("a")), fixture.put_op("b", "1")]);
    let first = fixture.store.txn(txn.clone()).await.unwrap();
    assert!(first.succeeded);
    assert_eq!(first.results, [OpResult::Put]);
    assert_eq!(fixture.get("b").await, None);
    let second = fixture.store.txn(txn).await.unwrap();
    assert!(!second.succeeded);
    assert_eq!(second.revision, first.revision.next());
    assert_eq!(read(&second.results[0])[0].create_revision, first.revision);
    assert_eq!(fixture.get("b").await.unwrap().create_revision, second.revision);
}

async fn all_compares_must_hold(fixture: Fixture) {
    fixture.put("a", "1").await;
    let txn = Txn::when(vec![
        Compare::absent(fixture.key("b")),
        Compare::absent(fixture.key("a")),
        Compare::absent(fixture.key("c")),
    ]);
    assert!(!fixture.store.txn(txn).await.unwrap().succeeded);
    assert!(fixture.store.txn(Txn::when(Vec::new())).await.unwrap().succeeded);
}

async fn a_transaction_is_one_revision_and_sees_itself(fixture: Fixture) {
    fixture.put("old", "0").await;
    let ops = vec![
        fixture.put_op("a", "1"),
        Op::get(fixture.key("a")),
        Op::delete(fixture.key("old")),
        Op::get(fixture.key("old")),
        fixture.put_op("b", "2"),
    ];
    let done = fixture.run(ops).await;
    assert_eq!(done.results.len(), 5);
    assert_eq!(read(&done.results[1])[0].value, "1");
    assert_eq!(done.results[2], OpResult::Deleted(1));
    assert!(read(&done.results[3]).is_empty());
    for name in ["a", "b"] {
        assert_eq!(fixture.get(name).await.unwrap().mod_revision, done.revision);
    }
}

async fn a_refused_transaction_changes_nothing(fixture: Fixture) {
    let before = fixture.put("a", "0").await;
    let twice = vec![
        fixture.put_op("b", "1"),
        fixture.put_op("a", "1"),
        fixture.put_op("a", "2"),
    ];
    assert!(matches!(
        fixture.refused(twice.clone()).await,
        StoreError::Refused { .. }
    ));
    let both = vec![fixture.put_op("a", "1"), Op::Delete(fixture.all())];
    assert!(matches!(fixture.refused(both).await, StoreError::Refused { .. }));
    // Also on the branch that is not selected.
    let hidden = Txn::default().then(vec![fixture.put_op("b", "1")]).or_else(twice);
    let hidden = fixture.store.txn(hidden).await.unwrap_err();
    assert!(matches!(hidden, StoreError::Refused { .. }));
    assert_eq!(fixture.revision().await, before);
    assert_eq!(fixture.get("a").await.unwrap().value, "0");
    assert_eq!(fixture.get("b").await, None);
}

async fn deletes_count_what_was_there(fixture: Fixture) {
    for name in ["a", "b", "c", "d"] {
        fixture.put(name, "1").await;
    }
    let range = Keys::Range {
        start: fixture.key("b"),
        end: fixture.key("d"),
    };
    let done = fixture.run(vec![Op::Delete(range.clone())]).await;
    assert_eq!(done.results, [OpResult::Deleted(2)]);
    assert_eq!(fixture.names(Range::all(fixture.all())).await, ["a", "d"]);
    assert_eq!(
        fixture.run(vec![Op::Delete(range)]).await.results,
        [OpResult::Deleted(0)]
    );
    assert_eq!(
        fixture.run(vec![Op::Delete(fixture.all())]).await.results,
        [OpResult::Deleted(2)]
    );
}

async fn writers_at_once_lose_nothing(fixture: Fixture) {
    let count = |fixture: &Fixture| {
        let (store, key) = (fixture.store.clone(), fixture.key("n"));
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
    futures::future::join_all((0..8).map(|_| count(&fixture))).await;
    assert_eq!(fixture.get("n").await.unwrap().version, 8);
}
