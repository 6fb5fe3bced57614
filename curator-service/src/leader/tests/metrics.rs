//! Every limit that takes effect is counted, so that operators can see it.

use std::sync::Arc;

use curator_election::clock::TokioClock;
use curator_proto::common::NodeStatus;
use curator_proto::curator_api::{RegisterNodeRequest, UpdateNodeStatusRequest};

use super::stage::{Stage, id, owner};
use crate::auth::Caller;
use crate::leader::nodes::filter::Turns;
use crate::leader::nodes::list_records::{Items, Lists};
use crate::leader::nodes::newcomers;
use crate::status_page::counted::Counted;
use crate::telemetry;

#[tokio::test(start_paused = true)]
async fn a_node_that_changes_faster_than_it_may_is_counted() {
    let stage = Stage::new().await;
    stage.up(2).await;
    let counted = Counted::new();
    let _counting = counted.begin();
    let mut reports = 0;
    while counted.of(telemetry::WRITES_PACED) == 0 {
        reports += 1;
        assert!(reports < 1_000, "the limit is never reached");
        let request = UpdateNodeStatusRequest {
            node_id: id(2),
            status: Some(NodeStatus {
                external_address: "203.0.113.2".into(),
                boot_id: format!("{reports:01024}").into(),
                ..NodeStatus::default()
            }),
        };
        stage.leader.report_node_status(&id(2), request).await.unwrap();
    }
    assert!(reports > 50, "it bites too soon: {reports}");
}

#[tokio::test(start_paused = true)]
async fn a_node_that_finds_too_many_before_it_is_counted() {
    let stage = Stage::new().await;
    let register_ticket = stage.ticket().await;
    let counted = Counted::new();
    let _counting = counted.begin();
    for number in 0..=newcomers::MAX_NEW_NODES {
        assert_eq!(counted.of(telemetry::NEWCOMERS_REFUSED), 0);
        let mut keys = [[77; 32], [78; 32]];
        for key in &mut keys {
            key[..8].copy_from_slice(&number.to_be_bytes());
        }
        let request = RegisterNodeRequest {
            register_ticket: register_ticket.clone(),
            join_key: keys[1].to_vec(),
            have_local_tpm: true,
            labels: None,
        };
        let done = stage.leader.register_node(Some(keys[0]), request).await;
        assert_eq!(done.is_ok(), number < newcomers::MAX_NEW_NODES);
    }
    assert_eq!(counted.of(telemetry::NEWCOMERS_REFUSED), 1);
}

#[tokio::test]
async fn a_filter_for_which_there_is_no_turn_is_counted() {
    let counted = Counted::new();
    let _counting = counted.begin();
    let metric = format!("{}{{why=\"turns\"}}", telemetry::FILTERS_REFUSED);
    let turns = Turns::default();
    let mut waiting = Vec::new();
    while counted.of(&metric) == 0 {
        assert!(waiting.len() < 1_000, "the limit is never reached");
        let mut turn = Box::pin(async { turns.next(&owner()).await });
        let _ = futures::poll!(turn.as_mut());
        waiting.push(turn);
    }
    assert!(waiting.len() > 8);
}

#[tokio::test(start_paused = true)]
async fn a_list_that_nobody_takes_and_one_without_room_are_counted() {
    let counted = Counted::new();
    let _counting = counted.begin();
    let lists = Lists::new(Arc::new(TokioClock::new()));
    let node = |number| Caller::Node {
        id: id(number),
        public_key: None,
    };
    let nothing = || -> Items { Box::new(std::iter::empty()) };
    let mut open = Vec::new();
    while let Ok(list) = lists.begin(&node(2), 100_000, nothing()) {
        open.push(list);
        assert!(open.len() < 1_000, "the limit is never reached");
    }
    let of = |metric| counted.of(metric);
    assert_eq!((of(telemetry::LISTS_REFUSED), of(telemetry::LISTS_TAKEN_BACK)), (1, 0));
    // A caller with fewer lists evicts one of another.
    lists.begin(&node(3), 100_000, nothing()).unwrap();
    assert_eq!((of(telemetry::LISTS_REFUSED), of(telemetry::LISTS_TAKEN_BACK)), (1, 1));
}
