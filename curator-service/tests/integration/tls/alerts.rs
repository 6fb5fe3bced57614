//! Each alert is fired by a real fault at a real Prometheus, and none by a calm stretch or by a rolling upgrade.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use curator_harness::curator::binary_from_env;
use curator_harness::{At, CuratorOptions, CuratorProcess, EtcdBinaries, EtcdCluster, EtcdOptions, Port, wait_until};
use curator_proto::management_api::GetRegisterTicketRequest;
use curator_proto::management_api::management_client::ManagementClient;
use curator_service::credential_names as names;

use super::cluster::{TlsCluster, Who, bounded};
use super::prometheus::{Prometheus, all_alerts, promtool_sees};
use crate::test_cluster::{Reach, SOON};

/// Longer than the margin below which an alert fires, in calm.
const TTL: Duration = Duration::from_secs(4);
/// How long nothing happens, and how long an instance is down while it is upgraded: a quarter of a minute to the rules.
/// Together that is longer than a `for:` of a minute.
const CALM: Duration = Duration::from_secs(4);
const STOPPED: Duration = Duration::from_millis(1_500);

/// The alerts that are fired by no fault of a minute, and why.
const ELSEWHERE: &[(&str, &str)] = &[
    (
        "CuratorTwoLead",
        "two that lead are what must never be; no fault that we know of makes it",
    ),
    (
        "CuratorLeaderSilent",
        "of 15 s that are in the expression, and a leader that nobody reaches makes way",
    ),
    (
        "CuratorLeaderUnreached",
        "a leader that the others do not reach makes way before the time of the alert has passed",
    ),
    (
        "CuratorCertificateEnds",
        "for an hour; certificates of the cluster run to the year 9999",
    ),
    (
        "CuratorTermSuspendedOften",
        "of more than ten suspensions in a quarter of an hour",
    ),
    (
        "CuratorFencedOut",
        "an access must come between the end of a lease and the news of it",
    ),
];

/// Does something again and again until it is dropped.
struct Again {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Again {
    fn each(pause: Duration, mut act: impl FnMut() + Send + 'static) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                act();
                thread::sleep(pause);
            }
        });
        let thread = Some(thread);
        Self { stop, thread }
    }
}

impl Drop for Again {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Whoever speaks no TLS to an instance.
fn stranger(at: SocketAddr) -> Again {
    Again::each(Duration::from_millis(50), move || {
        if let Ok(mut stream) = TcpStream::connect(at) {
            let _ = stream.write_all(b"GET / HTTP/1.0\r\n\r\n");
        }
    })
}

/// Calls of the owner, more than one a second, that nobody waits for.
fn calls(cast: &TlsCluster, instance: usize) -> Again {
    let channel = cast.channel(Who::Owner, cast.address(instance));
    let runtime = cast.runtime.handle().clone();
    Again::each(Duration::from_millis(100), move || {
        let mut management = ManagementClient::new(channel.clone());
        runtime.spawn(async move {
            let mut request = tonic::Request::new(GetRegisterTicketRequest {});
            request.set_timeout(SOON);
            let _ = management.get_register_ticket(request).await;
        });
    })
}

/// Another instance of a node, at endpoints of its own.
fn another(cast: &TlsCluster, of: usize, number: u32, endpoints: Vec<String>, observe: &Port) -> CuratorProcess {
    let mut options = CuratorOptions::new(number, endpoints).leader_ttl(TTL);
    options.node_id.clone_from(&cast.nodes[of].id);
    options.credentials = Some(cast.nodes[of].directory.clone());
    options.env = vec![("CURATOR_OBSERVE".into(), observe.address().to_string())];
    CuratorProcess::start(&binary_from_env().unwrap(), &cast.stage.scratch, options).unwrap()
}

#[test]
fn each_alert_is_fired_by_a_fault_and_none_in_calm_or_by_an_upgrade() {
    if crate::test_cluster::done_already() {
        return;
    }
    if !Prometheus::is_installed() {
        eprintln!("SKIPPED: there is no prometheus on PATH");
        return;
    }
    let pages: Vec<Port> = (0..5).map(|_| Port::reserve().unwrap()).collect();
    let addresses: Vec<String> = pages.iter().map(|page| page.address().to_string()).collect();
    let page_of: BTreeMap<String, String> = (1..4)
        .map(|number| (format!("curator-{number}"), addresses[number - 1].clone()))
        .collect();
    let mut cast = TlsCluster::new("tls-alerts", |mut options| {
        if let Some(page) = page_of.get(&options.name) {
            options.env.push(("CURATOR_OBSERVE".into(), page.clone()));
            options.extra_args.extend(["--hold-cap".into(), "1s".into()]);
        }
        options.leader_ttl(TTL)
    });
    let scratch = cast.stage.scratch.clone();
    let mut patient = Prometheus::start(&scratch, "patient", 10, Duration::from_millis(500));
    let mut hasty = Prometheus::start(&scratch, "hasty", 60, Duration::from_millis(200));
    for prometheus in [&mut patient, &mut hasty] {
        prometheus.looks_at(&addresses[..3]);
    }

    let began = Instant::now();
    thread::sleep(CALM);
    // It gives an instance a fifth of a second to be looked at, which a busy machine may not have.
    let mut hasted = hasty.fired();
    hasted.retain(|alert| !["CuratorInstanceDown", "CuratorAllDown"].contains(&&**alert));
    assert!(hasted.is_empty(), "in calm: {hasted:?}");
    // Followers first, as docs/operations.md has it, and each until calls get to a leader through it.
    let leader = cast.stage.agreed(SOON);
    let order = [(leader + 1) % 3, (leader + 2) % 3, leader];
    for instance in order {
        let curator = &mut cast.stage.curators[instance];
        curator.terminate().unwrap();
        curator.wait_exit(SOON).unwrap();
        thread::sleep(STOPPED);
        curator.restart().unwrap();
        let ready = || curator.observed("/readyz", SOON).is_ok_and(|(status, _)| status == 200);
        wait_until("an instance to be ready", SOON, || ready().then_some(())).unwrap();
    }
    let leader = cast.stage.agreed(SOON);
    assert!(
        patient.fired().is_empty(),
        "in calm or an upgrade: {:?}",
        patient.fired()
    );
    told("calm and an upgrade", began);

    // A certificate that is none, and whoever speaks no TLS: nobody else minds.
    let follower = (leader + 1) % 3;
    let certificate = cast.nodes[follower].directory.join(names::NODE);
    let good = fs::read(&certificate).unwrap();
    fs::write(&certificate, "no certificate").unwrap();
    let stranger = stranger(cast.address(follower));
    hasty.fires(&["CuratorReloadFails"]);
    fs::write(&certificate, good).unwrap();
    told("a certificate that is none", began);

    // Leases that end one after the other.
    for _ in 0..6 {
        let before = cast.stage.candidates()[0].clone();
        cast.stage.etcd.lease_revoke(At::Any, before.lease).unwrap();
        wait_until("another leader", SOON, || {
            let now = cast.stage.candidates();
            (now.first()?.create_revision != before.create_revision).then_some(())
        })
        .unwrap();
        cast.stage.agreed(SOON);
    }
    hasty.fires(&["CuratorLeaderChangesOften", "CuratorHandshakesFail"]);
    drop(stranger);
    told("leases that end, and strangers", began);

    // A disk image that was copied, and an instance with an endpoint of another cluster; neither of them at once.
    let leader = cast.stage.agreed(SOON);
    let alone = EtcdOptions {
        name: "foreign".into(),
        members: 1,
        peer_proxies: false,
        ..EtcdOptions::default()
    };
    let foreign = EtcdCluster::start(&EtcdBinaries::from_env().unwrap(), &scratch, alone).unwrap();
    let (copied, gone) = ((leader + 1) % 3, (leader + 2) % 3);
    let copy = another(&cast, copied, 4, cast.stage.endpoints(copied, Reach::All), &pages[3]);
    cast.stage.curators[gone].kill().unwrap();
    let mut endpoints = cast.stage.endpoints(gone, Reach::All);
    // The first one is asked first.
    endpoints[0] = foreign.client_url(0);
    let misled = another(&cast, gone, 5, endpoints, &pages[4]);
    hasty.looks_at(&addresses);
    hasty.fires(&[
        "CuratorInstanceDown",
        "CuratorDuplicateId",
        "CuratorForeignEtcdEndpoints",
    ]);
    drop((copy, misled, foreign));
    told("a copy, a foreign endpoint, an instance that was killed", began);

    // A node that is no member of the consensus any more.
    cast.stage.curators[gone].restart().unwrap();
    cast.stage.agreed(SOON);
    hasty.looks_at(&addresses[..3]);
    let leader = cast.stage.agreed(SOON);
    cast.give_role(&cast.nodes[gone].id, false, leader).unwrap();
    hasty.fires(&["CuratorMayNotLead"]);
    told("a node that is no member any more", began);

    // etcd goes back to a backup under a leader, whose term must outlive that: where it takes longer, it is done once
    // more.
    let members: Vec<usize> = (0..3).filter(|member| *member != gone).collect();
    let through = members[0];
    let backup = scratch.dir("backup").unwrap();
    cast.stage.etcd.kill_all().unwrap();
    cast.stage.etcd.back_up(&backup).unwrap();
    start(&cast, &members);
    let found = (0..4).any(|_| {
        // What is in no backup, and more of it than elections write afterwards. A leader's answer has seen it.
        for number in 0..10 {
            let put = ["put", "alerts-of-a-test", &number.to_string()];
            cast.stage.etcd.etcdctl(At::Member(through), &put, SOON).unwrap();
        }
        let asked = || {
            let mut management = ManagementClient::new(cast.channel(Who::Owner, cast.address(through)));
            let answered = management.get_register_ticket(bounded(GetRegisterTicketRequest {}));
            cast.runtime.block_on(answered).is_ok().then_some(())
        };
        wait_until("an answer of the leader", SOON, asked).unwrap();
        cast.stage.etcd.kill_all().unwrap();
        cast.stage.etcd.restore(&backup).unwrap();
        start(&cast, &members);
        wait_until("an answer of the leader", SOON, asked).unwrap();
        hasty.has_fired("CuratorStoreWentBack", Duration::from_secs(3))
    });
    assert!(found, "nothing has fired CuratorStoreWentBack: {:?}", hasty.fired());
    told("a backup", began);

    // etcd stands still.
    let busy = calls(&cast, through);
    for member in &members {
        cast.stage.etcd.process(*member).unwrap().pause().unwrap();
    }
    hasty.fires(&[
        "CuratorMarginSmall",
        "CuratorNobodyLeads",
        "CuratorNotReady",
        "CuratorCallsRefused",
        "CuratorEtcdSlow",
    ]);
    drop(busy);
    told("no etcd", began);

    for curator in &cast.stage.curators {
        curator.kill().unwrap();
    }
    hasty.fires(&["CuratorAllDown"]);
    told("nobody there", began);

    let fired = hasty.fired();
    for alert in all_alerts() {
        let elsewhere = ELSEWHERE.iter().any(|(name, _)| *name == alert);
        assert!(
            elsewhere || fired.contains(alert),
            "nothing has fired {alert}: {fired:?}"
        );
        assert!(!elsewhere || promtool_sees(alert), "{alert} is in no test of promtool");
    }
    for (name, _) in ELSEWHERE {
        assert!(all_alerts().contains(name), "there is no alert {name}");
    }
}

/// Starts members of etcd, and waits until they answer.
fn start(cast: &TlsCluster, members: &[usize]) {
    for member in members {
        cast.stage.etcd.start_member(*member).unwrap();
    }
    for member in members {
        cast.stage.etcd.wait_member_healthy(*member, SOON).unwrap();
    }
}

fn told(what: &str, began: Instant) {
    println!("measured: {what}: after {:.1} s", began.elapsed().as_secs_f64());
}
