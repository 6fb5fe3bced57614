//! Three nodes by their guide, and then a fourth member of etcd in the place of the first.

use std::process::Command;

use curator_harness::TempDir;

use super::blocks::Guide;
use super::readers::{Calls, filled, nodes, pending};
use super::shell::{Host, Place};

#[test]
fn three_nodes_are_made_and_a_member_of_etcd_is_replaced_as_the_guides_have_it() {
    if crate::test_cluster::done_already() {
        return;
    }
    if Command::new("openssl").arg("version").output().is_err() {
        eprintln!("SKIPPED: openssl is not installed");
        return;
    }
    let scratch = TempDir::new("three-nodes").unwrap();
    let place = Place::new(&scratch);
    let mut hosts: Vec<_> = (1..=4)
        .map(|number| Host::new(&scratch, &place, &format!("host-{number}"), number))
        .collect();
    let mut owner = Host::new(&scratch, &place, "owner", 9);
    // Somebody who has done what getting-started says before.
    owner.run("curatorctl context set demo --endpoint 127.0.0.1:1 --insecure-loopback-only\n");
    let mut guide = Guide::read("docs/running-three-nodes.md");

    hosts[0].run(guide.next("curator bootstrap"));
    for file in ["ca.pem", "owner-key.pem"] {
        owner.bring(&hosts[0].path(&format!("etc/curator/credentials/{file}")));
    }
    owner.run(guide.next("curatorctl context use home"));
    let mut ids = nodes(&owner.user(), "true");
    assert_eq!(ids.len(), 1, "{}", owner.output());
    let register = guide.next("curator register").to_owned();
    let approve = guide.next("curatorctl nodes approve").to_owned();
    for host in &mut hosts[1..3] {
        ids.push(joins(host, &owner.path("ca.pem"), &mut owner, &register, &approve));
    }

    // Where etcd's authority is kept.
    let mut safe = Host::new(&scratch, &place, "safe", 10);
    safe.run(guide.next("# etcd's certificates"));
    for (number, host) in (1..).zip(&hosts[..3]) {
        brings_certificates(&safe, host, &place.address(number));
    }
    hosts[0].run(guide.next("kill $!"));
    let member = guide.next("etcd --name").to_owned();
    let all: Vec<&str> = ids.iter().map(String::as_str).collect();
    for (own, host) in hosts[..3].iter_mut().enumerate() {
        let block = filled(&member, &[&[all[own]], &all[..]].concat());
        host.run(&block.replace("host=10.0.0.1 ", &format!("host=10.0.0.{} ", own + 1)));
    }
    hosts[0].run(guide.next("curator import"));
    assert!(hosts[0].output().contains("imported"), "{}", hosts[0].output());
    assert!(!hosts[0].path("state").exists());
    // Whoever shows etcd no certificate gets nothing.
    let without =
        "if curator export --out none --etcd-endpoints https://10.0.0.1:2379 --etcd-ca etcd-ca.pem; then exit 9; fi\n";
    hosts[0].run(without);
    assert!(!hosts[0].path("none").exists());
    let serve = guide.next("curator serve --etcd-endpoints").to_owned();
    for (own, host) in hosts[..3].iter_mut().enumerate() {
        let url = |member: usize| format!("https://10.0.0.{}:2379", member + 1);
        let first = serve.lines().next().unwrap();
        let others = (1..3).map(|next| url((own + next) % 3)).collect::<Vec<_>>().join(",");
        host.run(&serve.replace(first, &format!("own={} others={others}", url(own))));
    }
    // Tried by the unit's user in a test of its own.
    guide.next("chown -R");
    owner.run(guide.next("curatorctl step-down"));
    guide.done();
    assert_eq!(nodes(&owner.user(), "has(node.roles.consensus_member)").len(), 3);

    a_member_is_replaced(&mut hosts, &mut owner, &mut safe, &place, ids, (&register, &approve));
}

/// As docs/etcd-members.md has it, and no call fails.
fn a_member_is_replaced(
    hosts: &mut [Host],
    owner: &mut Host,
    safe: &mut Host,
    place: &Place,
    mut ids: Vec<String>,
    (register, approve): (&str, &str),
) {
    let mut guide = Guide::read("docs/etcd-members.md");
    ids.push(joins(&mut hosts[3], &owner.path("ca.pem"), owner, register, approve));
    let all: Vec<&str> = ids.iter().map(String::as_str).collect();

    // The role alone makes no learner that never comes.
    let refused = owner
        .user()
        .ask(&["nodes", "roles", all[3], "--add", "consensus-member"])
        .unwrap_err();
    assert!(refused.contains("etcdctl member add"), "{refused}");
    let members = "etcdctl member list > members && [ $(wc -l < members) = ";
    hosts[0].run(&format!("{members} 3 ]\n"));

    safe.run(guide.next("openssl req"));
    brings_certificates(safe, &hosts[3], &place.address(4));
    // Through those that stay.
    let through = [2, 3].map(|number| format!("{}:7835", place.address(number))).join(",");
    let calls = Calls::begin(owner.user(), through);
    hosts[0].run(&filled(guide.next("etcdctl member add"), &[all[3]]));
    let member = filled(guide.next("etcd --name"), &[all[3], all[0], all[1], all[2]]);
    hosts[3].run(&member);
    hosts[3].run(guide.next("curator serve"));
    owner.run(guide.next("--endpoint 10.0.0.1:7835"));
    hosts[0].run(guide.next("kill $!"));
    owner.run(&filled(guide.next("--remove consensus-member"), &[all[0]; 2]));
    let answered = calls.end();
    assert!(answered > 5, "{answered}");
    guide.done();
    let left = nodes(&owner.user(), "has(node.roles.consensus_member)");
    assert_eq!(left.len(), 3, "{left:?}");
    assert!(left.contains(&ids[3]) && !left.contains(&ids[0]), "{left:?}");
    hosts[3].run(&format!("{members} 3 ] && ! grep -q learner=true members\n"));
}

/// A host registers, and the owner approves its node; its id.
fn joins(host: &mut Host, ca: &std::path::Path, owner: &mut Host, register: &str, approve: &str) -> String {
    host.bring(ca);
    host.bring(&owner.path("ticket"));
    host.start(register);
    let id = pending(&owner.user());
    owner.run(&filled(approve, &[&id]));
    host.wait();
    id
}

fn brings_certificates(from: &Host, to: &Host, address: &str) {
    to.bring(&from.path("etcd-ca.pem"));
    for file in ["", "-key"] {
        to.bring(&from.path(&format!("etcd-{address}{file}.pem")));
    }
}
