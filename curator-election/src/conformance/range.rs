//! Reads: order, limits and the past.

use super::scene::Scene;
use super::{Case, case};
use crate::store::{Keys, Op, Range, Revision, Sort};

pub(super) const CASES: &[Case] = &[
    case!(ranges_are_half_open_and_by_key),
    case!(sorts_by_create_revision),
    case!(a_limit_does_not_lower_the_count),
    case!(keys_only_leaves_the_values_out),
    case!(the_past_can_be_read),
    case!(the_future_cannot_be_read),
    case!(keys_are_bytes),
];

async fn ranges_are_half_open_and_by_key(scene: Scene) {
    for name in ["c", "a", "bb", "b", "d"] {
        scene.put(name, "1").await;
    }
    let range = Range::all(Keys::Range {
        start: scene.key("b"),
        end: scene.key("d"),
    });
    assert_eq!(scene.names(range).await, ["b", "bb", "c"]);
    let empty = Range::all(Keys::Range {
        start: scene.key("x"),
        end: scene.key("y"),
    });
    let found = scene.store.range(empty).await.unwrap();
    assert!(found.kvs.is_empty() && found.count == 0);
}

async fn sorts_by_create_revision(scene: Scene) {
    let mut created = Vec::new();
    for name in ["b", "c", "a"] {
        created.push(scene.put(name, "1").await);
    }
    // A later change does not count.
    scene.put("b", "2").await;
    let sorted = |sort| Range {
        sort,
        ..Range::all(scene.all())
    };
    assert_eq!(scene.names(sorted(Sort::CreateAscending)).await, ["b", "c", "a"]);
    assert_eq!(scene.names(sorted(Sort::CreateDescending)).await, ["a", "c", "b"]);
    assert_eq!(scene.names(Range::oldest(scene.all())).await, ["b"]);
    let before = Range {
        limit: 1,
        max_create_revision: created[1],
        ..sorted(Sort::CreateDescending)
    };
    assert_eq!(scene.names(before).await, ["c"]);
}

async fn a_limit_does_not_lower_the_count(scene: Scene) {
    for name in ["a", "b", "c"] {
        scene.put(name, "1").await;
    }
    let limited = Range {
        limit: 2,
        ..Range::all(scene.all())
    };
    let found = scene.store.range(limited.clone()).await.unwrap();
    assert_eq!((found.kvs.len(), found.count), (2, 3));
    assert_eq!(scene.names(limited).await, ["a", "b"]);
}

async fn keys_only_leaves_the_values_out(scene: Scene) {
    let put = scene.put("a", "1").await;
    let range = Range {
        keys_only: true,
        ..Range::all(scene.all())
    };
    let found = scene.store.range(range).await.unwrap();
    assert!(found.kvs[0].value.is_empty());
    assert_eq!((&found.kvs[0].key, found.kvs[0].mod_revision), (&scene.key("a"), put));
}

async fn the_past_can_be_read(scene: Scene) {
    let first = scene.put("a", "1").await;
    let second = scene
        .run(vec![scene.put_op("a", "2"), scene.put_op("b", "1")])
        .await
        .revision;
    let third = scene.run(vec![Op::Delete(scene.all())]).await.revision;
    let at = |revision| Range {
        revision,
        ..Range::all(scene.all())
    };
    let found = scene.store.range(at(first)).await.unwrap();
    assert_eq!((found.count, found.revision), (1, third));
    assert_eq!((&found.kvs[0].value[..], found.kvs[0].version), (&b"1"[..], 1));
    let found = scene.store.range(at(second)).await.unwrap();
    assert_eq!((found.count, &found.kvs[0].value[..]), (2, &b"2"[..]));
    assert!(scene.store.range(at(third)).await.unwrap().kvs.is_empty());
}

async fn the_future_cannot_be_read(scene: Scene) {
    let range = Range {
        revision: Revision(scene.revision().await.0 + 1_000),
        ..Range::all(scene.all())
    };
    scene.store.range(range).await.unwrap_err();
}

async fn keys_are_bytes(scene: Scene) {
    let odd = [&scene.key("")[..], &[0, 0xff, b'/', 0x80]].concat();
    scene.run(vec![Op::put(odd.clone(), vec![0u8, 0xff])]).await;
    scene.put("a", "").await;
    let found = scene.store.range(Range::all(scene.all())).await.unwrap();
    assert_eq!(
        (&found.kvs[0].key, &found.kvs[0].value[..]),
        (&odd.into(), &[0, 0xff][..])
    );
    assert!(found.kvs[1].value.is_empty());
}
