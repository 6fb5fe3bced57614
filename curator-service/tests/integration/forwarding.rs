//! Calls through every instance while leaders end, hang and are cut off.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use curator_harness::curator::embedding_from_env;
use curator_harness::{CuratorOptions, EtcdOptions, Role};

use crate::load::{Call, Load, Outcome};
use crate::test_cluster::{Reach, SCAN, SOON, TTL, TestCluster, measured};

/// How long the load runs before and after what happens.
const AROUND: Duration = Duration::from_millis(700);
/// A leader that hangs is noticed by its followers within this.
const NOTICED: Duration = Duration::from_secs(3);

/// Three instances that serve `Echo` in the leader's name, each behind a proxy, and the load on them.
pub(crate) struct Show {
    pub(crate) stage: TestCluster,
    leader: usize,
    load: Load,
    record: PathBuf,
}

impl Show {
    fn open(label: &str) -> Self {
        Self::of(label, &embedding_from_env().unwrap())
    }

    /// With this program for all three.
    pub(crate) fn of(label: &str, program: &Path) -> Self {
        let options = EtcdOptions {
            client_proxies: true,
            ..EtcdOptions::default()
        };
        let mut stage = TestCluster::empty(label, options);
        let record = stage.scratch.path().join("record");
        for member in 0..3 {
            let number = u32::try_from(member + 1).unwrap();
            let mut options = CuratorOptions::new(number, stage.endpoints(member, Reach::Own)).leader_ttl(TTL);
            options.behind_proxy = true;
            options.extra_args = vec!["--record".into(), record.display().to_string()];
            stage.start_program(program, options);
        }
        let leader = stage.agreed(SOON);
        let addresses: Vec<_> = stage.curators.iter().map(|curator| curator.address()).collect();
        let load = Load::start(&addresses);
        let show = Self {
            stage,
            leader,
            load,
            record,
        };
        show.goes_on(&[0, 1, 2]);
        show
    }

    /// Waits until calls through these are answered, and a little longer.
    pub(crate) fn goes_on(&self, via: &[usize]) {
        self.load.wait_answered(via, SOON);
        std::thread::sleep(AROUND);
    }

    /// The end: what must always hold, and the time without service.
    pub(crate) fn close(mut self, what: &str, from: Instant, via: &[usize]) -> crate::load::History {
        let to = Instant::now();
        let history = self.load.stop();
        self.stage.seconds = history.by_second(self.stage.began());
        history.check(&self.record);
        self.stage.nobody_led_beside_another();
        measured(
            &format!("without service, {what}"),
            history.longest_gap(via, from, to),
            TTL,
        );
        history
    }
}

#[test]
fn rolling_restarts_cost_no_call_through_those_that_stay() {
    if crate::test_cluster::done_already() {
        return;
    }
    let mut show = Show::open("rolling");
    let from = Instant::now();
    let mut away = Vec::new();
    for _ in 0..3 {
        // The leader each time, which is the hard case.
        let leader = show.stage.agreed(SOON);
        let told = Instant::now();
        show.stage.curators[leader].terminate().unwrap();
        assert!(show.stage.curators[leader].wait_exit(SOON).unwrap().success());
        away.push((leader, told));
        show.stage.silence(leader);
        show.goes_on(&show.stage.others(leader));
        show.stage.curators[leader].restart().unwrap();
        show.stage.agreed(SOON);
        show.goes_on(&[0, 1, 2]);
    }
    let stage_others: Vec<Vec<usize>> = away.iter().map(|(leader, _)| show.stage.others(*leader)).collect();
    let until = Instant::now();
    let history = show.close(
        "rolling SIGTERM, the absence of those that restart included",
        from,
        &[0, 1, 2],
    );
    for (at, (leader, told)) in away.iter().enumerate() {
        let to = away.get(at + 1).map_or(until, |(_, told)| *told);
        measured(
            "without service, SIGTERM of the leader, through the others",
            history.longest_gap(&stage_others[at], *told, to),
            TTL,
        );
        let failed = history.failed(&stage_others[at], *told, to);
        assert!(
            failed.is_empty(),
            "planned, and {} calls failed: {failed:?}",
            failed.len()
        );
        // Those that called the one that went lost nothing but the connection, or were told so at the very end.
        for call in history.failed(&[*leader], *told, to) {
            let told = match &call.outcome {
                Outcome::NoInstance(_) => true,
                Outcome::Refused { code: 14, message } => message.contains("this instance is stopping"),
                _ => false,
            };
            assert!(told, "{call:?}");
        }
    }
}

#[test]
fn a_killed_leader_costs_a_lease() {
    if crate::test_cluster::done_already() {
        return;
    }
    let mut show = Show::open("load-sigkill");
    let leader = show.leader;
    let others = show.stage.others(leader);
    show.stage.silence(leader);
    let killed = Instant::now();
    show.stage.curators[leader].kill().unwrap();
    show.goes_on(&others);
    show.stage.curators[leader].restart().unwrap();
    show.stage.agreed(SOON);
    show.goes_on(&[0, 1, 2]);
    let until = Instant::now();
    let history = show.close("SIGKILL of the leader", killed, &others);
    assert!(history.longest_gap(&others, killed, until) < TTL + SCAN + SOON / 4);
}

#[test]
fn a_leader_that_sleeps_past_its_term_answers_nothing_when_it_wakes() {
    if crate::test_cluster::done_already() {
        return;
    }
    let mut show = Show::open("load-sigstop");
    let leader = show.leader;
    let others = show.stage.others(leader);
    let mark = show.stage.curators[leader].mark();
    show.stage.silence(leader);
    let stopped = Instant::now();
    show.stage.curators[leader].pause().unwrap();
    show.goes_on(&others);
    show.stage.curators[leader].resume().unwrap();
    show.stage.steps_down(leader, mark, SOON);
    show.stage.agreed(SOON);
    show.goes_on(&[0, 1, 2]);
    show.close("SIGSTOP of the leader past the TTL", stopped, &others);
}

#[test]
fn a_leader_cut_off_from_etcd_stops_answering_its_own_clients() {
    if crate::test_cluster::done_already() {
        return;
    }
    let show = Show::open("load-cut-etcd");
    let leader = show.leader;
    show.stage.spare_etcd_leader(leader);
    let leader = show.stage.agreed(SOON);
    let others = show.stage.others(leader);
    let mark = show.stage.curators[leader].mark();
    let cut = Instant::now();
    show.stage.etcd.client_proxy(leader).unwrap().blackhole();
    let down = show.stage.steps_down(leader, mark, SOON);
    assert_eq!(down.role, Role::Undetermined);
    show.goes_on(&others);
    let healed = Instant::now();
    show.stage.etcd.client_proxy(leader).unwrap().pass().unwrap();
    show.stage.agreed(SOON);
    show.goes_on(&[0, 1, 2]);
    let history = show.close("leader cut off from etcd", cut, &others);
    // What had been answered may arrive after the line that tells of the step down, but what began after it is not
    // answered before it follows the next one.
    let after = |call: &&Call| call.via == leader && call.began > down.at && call.ended < healed;
    let answered: Vec<_> = history
        .calls
        .iter()
        .filter(after)
        .filter(|call| call.is_answered())
        .collect();
    assert!(answered.is_empty(), "answered without a term: {answered:?}");
}

#[test]
fn followers_cut_off_from_the_leader_say_so_and_recover() {
    if crate::test_cluster::done_already() {
        return;
    }
    let show = Show::open("load-cut-leader");
    let leader = show.leader;
    let others = show.stage.others(leader);
    let marks = show.stage.marks();
    let from = Instant::now();
    for hang in [true, false] {
        let cut = Instant::now();
        let proxy = show.stage.curators[leader].proxy().unwrap();
        if hang {
            proxy.blackhole();
            std::thread::sleep(NOTICED + AROUND);
        } else {
            proxy.refuse();
            std::thread::sleep(AROUND);
        }
        // Its own clients do not notice.
        show.load.wait_answered(&[leader], SOON);
        let healed = Instant::now();
        if hang {
            proxy.pass().unwrap();
        } else {
            proxy.accept().unwrap();
        }
        show.load.wait_answered(&others, SOON);
        measured(
            &format!(
                "back after a cut of {:?}, {}",
                healed - cut,
                if hang { "silent" } else { "refused" }
            ),
            healed.elapsed(),
            TTL,
        );
        show.goes_on(&[0, 1, 2]);
    }
    for (at, mark) in marks.iter().enumerate() {
        let changes = show.stage.curators[at].roles_since(*mark);
        assert!(
            changes.is_empty(),
            "the election has nothing to do with it: {changes:?}"
        );
    }
    let to = Instant::now();
    let history = show.close("followers cut off, at the leader itself", from, &[leader]);
    assert!(history.failed(&[leader], from, to).is_empty());
}

#[test]
fn a_new_leader_that_does_not_listen_yet_is_waited_for() {
    if crate::test_cluster::done_already() {
        return;
    }
    let mut show = Show::open("load-deaf");
    let leader = show.leader;
    let others = show.stage.others(leader);
    for other in &others {
        show.stage.curators[*other].proxy().unwrap().refuse();
    }
    let marks = show.stage.marks();
    show.stage.silence(leader);
    let killed = Instant::now();
    show.stage.curators[leader].kill().unwrap();
    let (next, _) = show.stage.next_leader(&others, &marks, SOON);
    let third = others.iter().copied().find(|at| *at != next).unwrap();
    // Its own clients are answered; those of the other wait.
    show.load.wait_answered(&[next], SOON);
    let accepted = Instant::now();
    for other in &others {
        show.stage.curators[*other].proxy().unwrap().accept().unwrap();
    }
    show.load.wait_answered(&[third], SOON);
    measured("answered once the new leader listens", accepted.elapsed(), TTL);
    show.goes_on(&others);
    show.close("SIGKILL, the next leader deaf", killed, &others);
}
