//! Cases of reads: order, limits and past revisions.

use super::fixture::Fixture;
use super::{Case, case};
use crate::{Keys, Op, Range, Revision, Sort};

pub(super) const CASES: &[Case] = &[
    case!(ranges_are_half_open_and_by_key),
    case!(sorts_by_create_revision),
    case!(a_limit_does_not_lower_the_count),
    case!(keys_only_leaves_the_values_out),
    case!(the_past_can_be_read),
    case!(the_future_cannot_be_read),
    case!(keys_are_bytes),
];

async fn ranges_are_half_open_and_by_key(fixture: Fixture) {
    for name in ["c", "a", "bb", "b", "d"] {
        fixture.put(name, "1").await;
    }
    let range = Range::all(Keys::Range {
        start: fixture.key("b"),
        end: fixture.key("d"),
    });
    assert_eq!(fixture.names(range).await, ["b", "bb", "c"]);
    let empty = Range::all(Keys::Range {
        start: fixture.key("x"),
        end: fixture.key("y"),
    });
    let found = fixture.store.range(empty).await.unwrap();
    assert!(found.kvs.is_empty() && found.count == 0);
}

async fn sorts_by_create_revision(fixture: Fixture) {
    let mut created = Vec::new();
    for name in ["b", "c", "a"] {
        created.push(fixture.put(name, "1").await);
    }
    // A later change does not count.
    fixture.put("b", "2").await;
    let sorted = |sort| Range {
        sort,
        ..Range::all(fixture.all())
    };
    assert_eq!(fixture.names(sorted(Sort::CreateAscending)).await, ["b", "c", "a"]);
    assert_eq!(fixture.names(sorted(Sort::CreateDescending)).await, ["a", "c", "b"]);
    assert_eq!(fixture.names(Range::oldest(fixture.all())).await, ["b"]);
    let before = Range {
        limit: 1,
        max_create_revision: created[1],
        ..sorted(Sort::CreateDescending)
    };
    assert_eq!(fixture.names(before).await, ["c"]);
}

async fn a_limit_does_not_lower_the_count(fixture: Fixture) {
    for name in ["a", "b", "c"] {
        fixture.put(name, "1").await;
    }
    let limited = Range {
        limit: 2,
        ..Range::all(fixture.all())
    };
    let found = fixture.store.range(limited.clone()).await.unwrap();
    assert_eq!((found.kvs.len(), found.count), (2, 3));
    assert_eq!(fixture.names(limited).await, ["a", "b"]);
}

async fn keys_only_leaves_the_values_out(fixture: Fixture) {
    let put = fixture.put("a", "1").await;
    let range = Range {
        keys_only: true,
        ..Range::all(fixture.all())
    };
    let found = fixture.store.range(range).await.unwrap();
    assert!(found.kvs[0].value.is_empty());
    assert_eq!((&found.kvs[0].key, found.kvs[0].mod_revision), (&fixture.key("a"), put));
}

async fn the_past_can_be_read(fixture: Fixture) {
    let first = fixture.put("a", "1").await;
    let second = fixture
        .run(vec![fixture.put_op("a", "2"), fixture.put_op("b", "1")])
        .await
        .revision;
    let third = fixture.run(vec![Op::Delete(fixture.all())]).await.revision;
    let at = |revision| Range {
        revision,
        ..Range::all(fixture.all())
    };
    let found = fixture.store.range(at(first)).await.unwrap();
    assert_eq!((found.count, found.revision), (1, third));
    assert_eq!((&found.kvs[0].value[..], found.kvs[0].version), (&b"1"[..], 1));
    let found = fixture.store.range(at(second)).await.unwrap();
    assert_eq!((found.count, &found.kvs[0].value[..]), (2, &b"2"[..]));
    assert!(fixture.store.range(at(third)).await.unwrap().kvs.is_empty());
}

async fn the_future_cannot_be_read(fixture: Fixture) {
    let range = Range {
        revision: Revision(fixture.revision().await.0 + 1_000),
        ..Range::all(fixture.all())
    };
    fixture.store.range(range).await.unwrap_err();
}

async fn keys_are_bytes(fixture: Fixture) {
    let odd = [&fixture.key("")[..], &[0, 0xff, b'/', 0x80]].concat();
    fixture.run(vec![Op::put(odd.clone(), vec![0u8, 0xff])]).await;
    fixture.put("a", "").await;
    let found = fixture.store.range(Range::all(fixture.all())).await.unwrap();
    assert_eq!(
        (&found.kvs[0].key, &found.kvs[0].value[..]),
        (&odd.into(), &[0, 0xff][..])
    );
    assert!(found.kvs[1].value.is_empty());
}
