//! Cases of watches: from now on, from a past revision, in order, without duplicates.

use super::fixture::{Fixture, revision_of};
use super::{Case, case};
use crate::{Event, Keys, Op, Revision};

pub(super) const CASES: &[Case] = &[
    case!(a_watch_from_now_reports_no_past),
    case!(a_watch_from_the_past_catches_up_in_order),
    case!(a_watch_goes_on_after_a_deletion),
    case!(a_watch_reports_its_keys_alone),
    case!(a_watch_from_the_future_waits_for_it),
    case!(a_revision_comes_whole),
    case!(many_changes_come_in_order),
];

fn values(events: &[Event]) -> Vec<String> {
    let value = |event: &Event| match event {
        Event::Put(kv) => String::from_utf8(kv.value.to_vec()).unwrap(),
        Event::Delete { .. } => "-".into(),
    };
    events.iter().map(value).collect()
}

async fn a_watch_from_now_reports_no_past(fixture: Fixture) {
    fixture.put("a", "1").await;
    let mut watch = fixture.watch(fixture.one("a"), Revision(0)).await;
    let put = fixture.put("a", "2").await;
    let events = watch.next(1).await;
    assert_eq!(events, [Event::Put(fixture.get("a").await.unwrap())]);
    assert_eq!(revision_of(&events[0]), put);
}

async fn a_watch_from_the_past_catches_up_in_order(fixture: Fixture) {
    fixture.put("a", "1").await;
    let from = fixture.put("a", "2").await;
    fixture.put("a", "3").await;
    // Inclusive.
    let mut watch = fixture.watch(fixture.one("a"), from).await;
    fixture.put("a", "4").await;
    assert_eq!(values(&watch.next(3).await), ["2", "3", "4"]);
}

async fn a_watch_goes_on_after_a_deletion(fixture: Fixture) {
    fixture.put("a", "1").await;
    let deleted = fixture.delete("a").await;
    let mut both = fixture.watch(fixture.one("a"), deleted).await;
    let mut after = fixture.watch(fixture.one("a"), deleted.next()).await;
    fixture.put("a", "2").await;
    assert_eq!(values(&both.next(2).await), ["-", "2"]);
    assert_eq!(values(&after.next(1).await), ["2"]);
}

async fn a_watch_reports_its_keys_alone(fixture: Fixture) {
    let keys = Keys::Range {
        start: fixture.key("b"),
        end: fixture.key("d"),
    };
    let mut watch = fixture.watch(keys, Revision(0)).await;
    for name in ["a", "b", "c", "d", "b"] {
        fixture.put(name, name).await;
    }
    assert_eq!(values(&watch.next(3).await), ["b", "c", "b"]);
}

async fn a_watch_from_the_future_waits_for_it(fixture: Fixture) {
    let now = fixture.revision().await;
    let mut watch = fixture.watch(fixture.all(), Revision(now.0 + 3)).await;
    for value in ["1", "2", "3", "4"] {
        fixture.put("a", value).await;
    }
    assert_eq!(values(&watch.next(2).await), ["3", "4"]);
}

async fn a_revision_comes_whole(fixture: Fixture) {
    let mut watch = fixture.watch(fixture.all(), Revision(0)).await;
    let ops = ["a", "b", "c"].map(|name| fixture.put_op(name, name)).to_vec();
    let done = fixture.run(ops).await;
    fixture.run(vec![Op::Delete(fixture.all())]).await;
    let events = watch.next(6).await;
    assert!(events[..3].iter().all(|event| revision_of(event) == done.revision));
    assert!(
        events[3..]
            .iter()
            .all(|event| revision_of(event) == done.revision.next())
    );
    assert_eq!(values(&events), ["a", "b", "c", "-", "-", "-"]);
}

async fn many_changes_come_in_order(fixture: Fixture) {
    const CHANGES: usize = 500;
    let from = fixture.put("a", "0").await;
    for number in 1..CHANGES {
        fixture.put("a", &number.to_string()).await;
    }
    let mut watch = fixture.watch(fixture.all(), from).await;
    let expected: Vec<String> = (0..CHANGES).map(|number| number.to_string()).collect();
    assert_eq!(values(&watch.next(CHANGES).await), expected);
}
