//! A leader that no other instance reaches, over TLS: what its status says, and to whom it makes way.

use std::time::Duration;

use curator_harness::Role;
use curator_proto::admin_api::GetInstanceStatusRequest;
use curator_proto::admin_api::instance_client::InstanceClient;

use super::cast::{Cast, Who, bounded};
use crate::stage::SOON;

/// Until the others say so, for as long as they have to, and with all looks in between.
const MAKES_WAY: Duration = Duration::from_secs(25);

#[test]
fn a_leader_that_is_not_reached_says_by_whom_and_makes_way_once_another_is_reached() {
    let cast = Cast::new("tls-unreached", |mut options| {
        options.behind_proxy = true;
        options
    });
    let [leader, follower] = cast.leader_and_follower();
    let marks = cast.stage.marks();
    for curator in &cast.stage.curators {
        curator.proxy().unwrap().blackhole();
    }
    cast.stage.curators[leader]
        .wait_for(marks[leader], MAKES_WAY, "that it stays", |event| {
            event
                .text
                .contains("no other instance is reachable either, so it stays")
        })
        .unwrap();
    let mut instance = InstanceClient::new(cast.channel(Who::Owner, cast.address(leader)));
    let asked = instance.get_instance_status(bounded(GetInstanceStatusRequest {}));
    let mut told = cast.runtime.block_on(asked).unwrap().into_inner().unreached_by;
    let mut others = cast.stage.others(leader);
    others.sort_by_key(|at| cast.nodes[*at].id.clone());
    let expected: Vec<_> = others.iter().map(|at| cast.nodes[*at].id.clone()).collect();
    told.sort_unstable();
    assert_eq!(told, expected);

    let mark = cast.stage.curators[follower].mark();
    cast.stage.curators[follower].proxy().unwrap().pass().unwrap();
    cast.stage.curators[follower]
        .wait_for_role(mark, SOON, "the one that is reached to lead", Role::is_leader)
        .unwrap();
    cast.stage.nobody_led_beside_another();
}
