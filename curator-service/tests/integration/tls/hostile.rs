//! What those who mean well notice of those who do not: the same calls in calm and under attack, through a leader and a
//! follower.
//!
//! Attackers, the cluster, its etcd and those who mean well share one machine. So times are compared with the slower of
//! two: that of the calm before and after, and that beside as many callers who mean well, since work that was asked for
//! in good faith takes its time as well.

mod attacks;
mod cost;
mod honest;
mod raw;
mod stalled;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use attacks::{Attack, Attackers, Camp, Party};
use cost::{Cost, Most, Spent, counted};
use curator_proto::common::NodeStorageSecurity;
use curator_proto::curator_api::curator_client::CuratorClient;
use curator_proto::curator_api::{CommitNodeRequest, RegisterNodeRequest};
use curator_proto::management_api::ApproveNodeRequest;
use curator_proto::management_api::management_client::ManagementClient;
use curator_service::{ClientCredentials, PrivateKey, Trust, node_id};
use honest::{Honest, Times, WAYS};

use super::cluster::{Node, TlsCluster, Who, bounded};
use crate::test_cluster::{SOON, resident};

/// How long each look at those who mean well lasts, in calm and under attack.
const LOOK: Duration = Duration::from_secs(3);
/// As much longer an honest call may take.
const MOST: f64 = 2.0;
/// What is no harm: two threads of others may each be at work for a turn of the scheduler's when a call arrives, at
/// each of the four processes that it goes through.
const FLOOR: Duration = Duration::from_millis(25);
/// How often it is looked again at what was too slow: what else the machine does passes, and harm does not.
const LOOKS: u32 = 3;
/// What a failover may take in calm: the lease runs out, and whoever is next looks.
const FAILOVER: Duration = Duration::from_secs(3);
/// The nodes that attack.
const NODES: usize = 6;

/// Another node of the cluster, whose keys are nowhere but here.
fn admitted(cast: &TlsCluster, at: usize) -> Party {
    let key = PrivateKey::generate().unwrap();
    let mut unknown = CuratorClient::new(cast.channel(Who::Key(&key), cast.address(at)));
    let mut owner = ManagementClient::new(cast.channel(Who::Owner, cast.address(at)));
    let certificate = cast.runtime.block_on(async {
        let registering = RegisterNodeRequest {
            register_ticket: cast.ticket.clone(),
            join_key: PrivateKey::generate().unwrap().public_key().to_vec(),
            ..RegisterNodeRequest::default()
        };
        unknown.register_node(bounded(registering)).await.unwrap();
        let pubkey = key.public_key().to_vec();
        owner
            .approve_node(bounded(ApproveNodeRequest { pubkey }))
            .await
            .unwrap();
        let committing = CommitNodeRequest {
            cluster_unlock_key: vec![7; 32],
            storage_security: NodeStorageSecurity::AuthenticatedEncrypted.into(),
        };
        let committed = unknown.commit_node(bounded(committing)).await.unwrap();
        committed.into_inner().node_certificate
    });
    let trust = Trust::Cluster { ca: cast.ca.clone() };
    Party {
        id: node_id(key.public_key()).unwrap(),
        credentials: ClientCredentials::with_certificate(trust, certificate, &key).unwrap(),
    }
}

fn attackers(cast: &TlsCluster, [leader, follower]: [usize; 2]) -> Attackers {
    let party = |who: Who<'_>| Party {
        id: String::new(),
        credentials: cast.credentials(who),
    };
    let strange = PrivateKey::generate().unwrap();
    Attackers::new(Camp {
        ca: cast.ca.clone(),
        ticket: cast.ticket.clone(),
        owner: party(Who::Owner),
        nodes: (0..NODES).map(|_| admitted(cast, leader)).collect(),
        stranger: party(Who::Key(&strange)),
        addresses: [leader, follower].map(|at| cast.address(at)),
        sent: AtomicU64::new(0),
        refused: AtomicU64::new(0),
    })
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// What is seen beside an attack that is under way, and what it costs.
fn beside(
    cast: &TlsCluster,
    attackers: &Attackers,
    attack: Attack,
    honest: &Honest,
    instances: [usize; 2],
) -> (Times, Cost) {
    let spent = Spent::by(cast, instances);
    let lanes = attackers.begin(attack);
    let begun = || (attackers.camp().sent.load(Ordering::Relaxed) > 0).then_some(());
    curator_harness::wait_until("the attack to begin", SOON, begun).unwrap();
    let seen = honest.watch(LOOK);
    attackers.end(lanes);
    (seen, spent.since(cast, instances))
}

#[test]
fn whoever_means_well_is_served_as_in_calm() {
    if crate::test_cluster::done_already() {
        return;
    }
    let cast = TlsCluster::new("tls-hostile", |options| options.leader_ttl(Duration::from_secs(30)));
    let worker = Node::new(&cast.stage.scratch, "worker");
    let registering = cast.register(&worker, cast.address(0));
    cast.approve(&worker, cast.address(0));
    registering.join().unwrap();
    let both = cast.leader_and_follower();
    let honest = Honest::new(&cast, &worker, both);
    let attackers = attackers(&cast, both);
    honest.watch(LOOK);
    let (busy, busy_cost) = beside(&cast, &attackers, Attack::Busy, &honest, both);
    let spent = Spent::by(&cast, both);
    let mut calm = honest.watch(LOOK);
    let calm_cost = spent.since(&cast, both);
    println!(
        "measured: beside as many who mean well: p99 {:.1} ms at the leader, {:.1} ms through a follower",
        ms(busy.p99(0)),
        ms(busy.p99(1))
    );
    println!(
        "measured: | attack | done | refused | through | calm p99 ms | attacked p99 ms | ratio | longest ms | leader MiB |"
    );
    println!(
        "measured: cost | attack | calls | leader's processors | follower's | ms a call | etcd's KiB | leader's peak MiB |"
    );
    println!("measured: cost | calm | 0 | {} |", calm_cost.told(1));
    let calls = attackers.camp().sent.load(Ordering::Relaxed);
    println!(
        "measured: cost | {} | {calls} | {} |",
        Attack::Busy.name(),
        busy_cost.told(calls)
    );
    let (mut harmed, mut costly) = (Vec::new(), Vec::new());
    for attack in Attack::ALL {
        let before = attack.counter().map(|counter| counted(&cast, both[0], counter));
        for look in 1..=LOOKS {
            let (attacked, cost) = beside(&cast, &attackers, attack, &honest, both);
            let camp = attackers.camp();
            let done = [&camp.sent, &camp.refused].map(|count| count.load(Ordering::Relaxed));
            println!(
                "measured: cost | {} | {} | {} |",
                attack.name(),
                done[0],
                cost.told(done[0])
            );
            let beyond = cost.beyond(&Most::of(attack), done[0]);
            costly.extend(beyond.into_iter().map(|what| format!("{}: {what}", attack.name())));
            // What has changed because of it counts for the calm as well.
            let after = honest.watch(LOOK);
            let mut slow = Vec::new();
            for (way, name) in WAYS.iter().enumerate() {
                let before = calm.p99(way).max(after.p99(way));
                let ratio = attacked.p99(way).as_secs_f64() / before.as_secs_f64();
                println!(
                    "measured: | {} | {} | {} | {name} | {:.1} | {:.1} | {ratio:.1} | {} | {} |",
                    attack.name(),
                    done[0],
                    done[1],
                    ms(before),
                    ms(attacked.p99(way)),
                    attacked.longest(way),
                    resident(cast.stage.curators[both[0]].pid()) >> 10,
                );
                let bound = before.max(busy.p99(way)).max(FLOOR).mul_f64(MOST);
                if attacked.p99(way) > bound {
                    slow.push(format!(
                        "{}: {:?} through the {name}, of {bound:?}",
                        attack.name(),
                        attacked.p99(way)
                    ));
                }
            }
            calm = after;
            if slow.is_empty() {
                break;
            }
            if look == LOOKS {
                harmed.extend(slow);
            }
        }
        // Whoever looks after the cluster sees which limit bites.
        if let (Some(counter), Some(before)) = (attack.counter(), before) {
            let after = counted(&cast, both[0], counter);
            assert!(after > before, "{}: {counter} stays {after}", attack.name());
        }
    }
    // It was the same leader all the time.
    assert_eq!(cast.leader_and_follower(), both);
    assert!(harmed.is_empty(), "{harmed:#?}");
    assert!(costly.is_empty(), "{costly:#?}");
}

/// The slowest that those who mean well see through the two others when the leader dies, and which died.
fn failover(cast: &mut TlsCluster, honest: &Honest, leader: usize) -> [Duration; 2] {
    let marks = cast.stage.marks();
    let others = cast.stage.others(leader);
    let seen = std::thread::scope(|scope| {
        let seen = scope.spawn(|| honest.watch(3 * LOOK));
        cast.stage.curators[leader].kill().unwrap();
        cast.stage.next_leader(&others, &marks, SOON);
        seen.join().unwrap()
    });
    cast.stage.curators[leader].restart().unwrap();
    cast.stage.agreed(SOON);
    [seen.slowest(0), seen.slowest(1)]
}

#[test]
fn strangers_who_wait_for_a_leader_make_nobody_else_wait_longer() {
    if crate::test_cluster::done_already() {
        return;
    }
    let mut cast = TlsCluster::new("tls-hostile-hold", |options| options);
    let worker = Node::new(&cast.stage.scratch, "worker");
    let registering = cast.register(&worker, cast.address(0));
    cast.approve(&worker, cast.address(0));
    registering.join().unwrap();
    let [leader, follower] = cast.leader_and_follower();
    let mut attackers = attackers(&cast, [leader, follower]);
    let mut times = Vec::new();
    for attacked in [false, true] {
        let leader = cast.stage.agreed(SOON);
        let others = cast.stage.others(leader);
        let others = [others[0], others[1]];
        let honest = Honest::new(&cast, &worker, others);
        attackers.camp_mut().addresses = others.map(|at| cast.address(at));
        let lanes = attacked.then(|| attackers.begin(Attack::Hold));
        if attacked {
            let begun = || (attackers.camp().sent.load(Ordering::Relaxed) > 0).then_some(());
            curator_harness::wait_until("strangers to call", SOON, begun).unwrap();
        }
        times.push(failover(&mut cast, &honest, leader));
        if let Some(lanes) = lanes {
            attackers.end(lanes);
        }
    }
    let [calm, attacked] = [times[0], times[1]].map(|ways| ways[0].max(ways[1]));
    println!(
        "measured: the slowest honest call while the leader is replaced: {calm:?} in calm, {attacked:?} beside strangers who wait"
    );
    assert!(attacked < calm.max(FAILOVER).mul_f64(MOST), "{attacked:?} of {calm:?}");
}
