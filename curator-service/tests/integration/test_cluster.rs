//! Three etcd members, some curators, and what must hold whatever happens to them.

use std::path::Path;
use std::time::{Duration, Instant};

use curator_election::LeaderValue;
use curator_harness::curator::binary_from_env;
use curator_harness::timeline::{self, Record, Second};
use curator_harness::{
    At, CuratorOptions, CuratorProcess, EtcdBinaries, EtcdCluster, EtcdOptions, KeyValue, Mark, Recorded, Role,
    RoleChange, TempDir,
};
use curator_proto::private::LeaderElectionValue;

/// The TTL of most scenarios: the smallest that etcd grants with its own timing.
pub(crate) const TTL: Duration = Duration::from_secs(2);
/// What takes no time worth speaking of, on a machine that is busy with other tests.
pub(crate) const SOON: Duration = Duration::from_secs(20);
/// A killed leader is replaced within the granted TTL and this.
pub(crate) const SCAN: Duration = Duration::from_secs(1);
/// How far the arrival of one process's line may lag behind that of another's. A term that runs out by itself ends a
/// margin of 200 ms and more before anybody else can win, and scenarios of that kind compare without this.
const JITTER: Duration = Duration::from_millis(150);

/// Where a curator finds etcd.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Reach {
    /// Its own member first, the others after it.
    All,
    /// Its own member alone.
    Own,
}

/// A scenario's cast. Dropping it stops everything.
pub(crate) struct TestCluster {
    pub(crate) curators: Vec<CuratorProcess>,
    pub(crate) etcd: EtcdCluster,
    pub(crate) scratch: TempDir,
    /// When a process was stopped or killed: from then on it acts no more, whatever it has logged.
    silenced: Vec<(usize, Instant)>,
    label: String,
    began: Instant,
    /// What callers saw, second by second, for the picture.
    pub(crate) seconds: Vec<Second>,
}

impl TestCluster {
    /// Three members of etcd, and no curator yet.
    pub(crate) fn empty(label: &str, options: EtcdOptions) -> Self {
        let scratch = TempDir::new(label).unwrap();
        Self::within(scratch, options)
    }

    /// The members of etcd, in a directory that is there.
    pub(crate) fn within(scratch: TempDir, options: EtcdOptions) -> Self {
        let etcd = EtcdCluster::start(&EtcdBinaries::from_env().unwrap(), &scratch, options).unwrap();
        // `curator-LABEL-PID-NUMBER`.
        let directory = scratch
            .path()
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let label = directory.rsplitn(3, '-').last().unwrap_or_default();
        let label = label.strip_prefix("curator-").unwrap_or(label).to_owned();
        Self {
            curators: Vec::new(),
            etcd,
            scratch,
            silenced: Vec::new(),
            label,
            began: Instant::now(),
            seconds: Vec::new(),
        }
    }

    /// When its etcd was there.
    pub(crate) fn began(&self) -> Instant {
        self.began
    }

    /// Draws what has happened so far.
    fn draw(&self) {
        let end = Instant::now();
        let mut record = Record {
            name: format!("integration-{}-etcd-{}", self.label, self.etcd.binaries().series()),
            title: format!("Integration: {}", self.label),
            facts: vec![("etcd".to_owned(), self.etcd.binaries().version().to_owned())],
            length: timeline::ms(end - self.began),
            instances: timeline::instances(&self.curators, self.began, end),
            members: timeline::members(&self.etcd, self.began),
            seconds: self.seconds.clone(),
            wrong: std::thread::panicking().then(|| vec!["the scenario failed; its test says where".to_owned()]),
            ..Record::default()
        };
        record.faults = record.faults_of_processes();
        match timeline::write(&record) {
            Ok(page) => println!("picture: {}", page.display()),
            Err(error) => println!("no picture: {}", error.chain()),
        }
    }

    /// Three members of etcd with a curator each, and a leader that all agree on; returns who it is.
    pub(crate) fn elected(label: &str, reach: Reach, ttl: Duration, options: EtcdOptions) -> (Self, usize) {
        let mut stage = Self::empty(label, options);
        for member in 0..3 {
            stage.start(member, reach, |options| options.leader_ttl(ttl));
        }
        let leader = stage.agreed(SOON);
        (stage, leader)
    }

    /// Starts the next curator beside a member.
    pub(crate) fn start(
        &mut self,
        member: usize,
        reach: Reach,
        change: impl FnOnce(CuratorOptions) -> CuratorOptions,
    ) -> usize {
        let endpoints = self.endpoints(member, reach);
        let number = u32::try_from(self.curators.len() + 1).unwrap();
        let options = change(CuratorOptions::new(number, endpoints).leader_ttl(TTL));
        self.start_program(&binary_from_env().unwrap(), options)
    }

    /// Where a curator beside a member finds etcd.
    pub(crate) fn endpoints(&self, member: usize, reach: Reach) -> Vec<String> {
        match reach {
            Reach::Own => vec![self.etcd.client_url(member)],
            Reach::All => (0..3).map(|next| self.etcd.client_url((member + next) % 3)).collect(),
        }
    }

    /// Starts a program that takes the same arguments.
    pub(crate) fn start_program(&mut self, program: &Path, options: CuratorOptions) -> usize {
        let curator = CuratorProcess::start(program, &self.scratch, options).unwrap();
        self.curators.push(curator);
        self.curators.len() - 1
    }

    /// Waits until one leads and all others that run follow it; returns who leads.
    pub(crate) fn agreed(&self, within: Duration) -> usize {
        curator_harness::wait_until("all to agree on one leader", within, || self.leader_of_all()).unwrap_or_else(
            |error| {
                let roles: Vec<_> = self.curators.iter().map(CuratorProcess::role).collect();
                panic!("{}: {roles:?}", error.chain())
            },
        )
    }

    fn leader_of_all(&self) -> Option<usize> {
        let roles: Vec<Option<Role>> = self
            .curators
            .iter()
            .map(|curator| {
                if curator.process().is_running() {
                    Some(curator.role()?)
                } else {
                    None
                }
            })
            .collect();
        let mut leaders = (0..roles.len()).filter(|at| roles[*at].as_ref().is_some_and(Role::is_leader));
        let leader = leaders.next()?;
        let (id, revision) = (self.curators[leader].node_id(), roles[leader].as_ref()?.lock_revision());
        let others_follow = (0..roles.len())
            .filter(|at| *at != leader && self.curators[*at].process().is_running())
            .all(|at| {
                roles[at]
                    .as_ref()
                    .is_some_and(|role| role.follows() == Some(id) && role.lock_revision() == revision)
            });
        (leaders.next().is_none() && others_follow).then_some(leader)
    }

    /// All but one, by number.
    pub(crate) fn others(&self, than: usize) -> Vec<usize> {
        (0..self.curators.len()).filter(|at| *at != than).collect()
    }

    /// The marks of all journals: what is logged after now.
    pub(crate) fn marks(&self) -> Vec<Mark> {
        self.curators.iter().map(CuratorProcess::mark).collect()
    }

    /// The first of `among` to lead after the marks.
    pub(crate) fn next_leader(&self, among: &[usize], marks: &[Mark], within: Duration) -> (usize, RoleChange) {
        curator_harness::wait_until("another one to lead", within, || {
            among.iter().find_map(|at| {
                let mut roles = self.curators[*at].roles_since(marks[*at]).into_iter();
                roles.find(|change| change.role.is_leader()).map(|change| (*at, change))
            })
        })
        .unwrap_or_else(|error| {
            let roles: Vec<_> = self.curators.iter().map(CuratorProcess::role).collect();
            panic!("{}: {roles:?}", error.chain())
        })
    }

    /// The next role of one after the mark that is not leading.
    pub(crate) fn steps_down(&self, curator: usize, mark: Mark, within: Duration) -> RoleChange {
        self.curators[curator]
            .wait_for_role(mark, within, "stepping down", |role| !role.is_leader())
            .unwrap()
    }

    /// Notes that a process acts no more from now on.
    pub(crate) fn silence(&mut self, curator: usize) -> Instant {
        let now = Instant::now();
        self.silenced.push((curator, now));
        now
    }

    /// The lock revision that one leads or follows under.
    pub(crate) fn lock_revision(&self, curator: usize) -> i64 {
        self.curators[curator]
            .role()
            .and_then(|role| role.lock_revision())
            .unwrap()
    }

    /// The keys of all candidates, the oldest first.
    pub(crate) fn candidates(&self) -> Vec<KeyValue> {
        self.candidates_in("namespaced:curator")
    }

    /// The keys of all candidates of a namespace, the oldest first.
    pub(crate) fn candidates_in(&self, namespace: &str) -> Vec<KeyValue> {
        let mut found = self.etcd.get_prefix(At::Any, &format!("{namespace}//leader/")).unwrap();
        found.sort_by_key(|kv| kv.create_revision);
        found
    }

    /// Which curator a candidate is.
    pub(crate) fn curator_of(&self, candidate: &KeyValue) -> usize {
        let value = LeaderElectionValue::decode(&candidate.value).unwrap();
        let mut curators = self.curators.iter();
        curators
            .position(|curator| curator.node_id() == value.node_id)
            .unwrap_or_else(|| panic!("a stranger: {value:?}"))
    }

    /// The curators in the order in which they queue, the leader first.
    pub(crate) fn queue(&self) -> Vec<usize> {
        let candidates = self.candidates();
        candidates.iter().map(|candidate| self.curator_of(candidate)).collect()
    }

    /// Watches a key through a member, from when the key was made on: what etcd itself says of its end.
    pub(crate) fn watch_key(&self, key: &KeyValue, member: usize) -> KeyWatch {
        let revision = format!("--rev={}", key.create_revision);
        let watch = self
            .etcd
            .etcdctl_start("key-watch", member, &["watch", &revision, &key.key_text()])
            .unwrap();
        // It is told of the key's creation first, so that from here on it misses nothing.
        watch.wait_line(Mark::START, SOON, |line| line == "PUT").unwrap();
        KeyWatch(watch)
    }

    /// Makes another member than this one etcd's own leader, whose loss would stop all members for a while.
    pub(crate) fn spare_etcd_leader(&self, member: usize) {
        let to = (member + 1) % 3;
        if self.etcd.leader(SOON).unwrap() == member {
            self.make_etcd_leader(to);
        }
    }

    /// Makes a member etcd's own leader, and waits until that is without consequences: etcd's new leader gives each
    /// lease an election timeout more than its TTL, until it is renewed.
    pub(crate) fn make_etcd_leader(&self, member: usize) {
        self.etcd.move_leader(member).unwrap();
        self.etcd.wait_healthy(SOON).unwrap();
        self.agreed(SOON);
        let lease = self.candidates()[0].lease;
        curator_harness::wait_until("the lease to have no more than its TTL", SOON, || {
            // In whole seconds, rounded down: less than the TTL in them is less than it.
            let left = self.etcd.lease_time_to_live(At::Any, lease).unwrap();
            (left.remaining? < left.granted).then_some(())
        })
        .unwrap();
    }

    /// What must hold over all that was logged: no two lead at once. A term lasts from the line that tells of it to the
    /// next line of its process, or to when the process was stopped; lines may arrive a little late.
    pub(crate) fn nobody_led_beside_another(&self) {
        self.none_led_beside_another(&(0..self.curators.len()).collect::<Vec<_>>());
    }

    /// The same among some of them.
    pub(crate) fn none_led_beside_another(&self, among: &[usize]) {
        let mut terms = Vec::new();
        for (at, curator) in among.iter().map(|at| (*at, &self.curators[*at])) {
            for led in curator.led_since(Mark::START) {
                let silenced = self
                    .silenced
                    .iter()
                    .filter(|(who, when)| *who == at && *when > led.from)
                    .map(|(_, when)| *when);
                let end = led.to.into_iter().chain(silenced).min();
                terms.push((led.from, end, curator.name(), led.lock_revision));
            }
        }
        terms.sort_by_key(|(begin, ..)| *begin);
        for pair in terms.windows(2) {
            let ((_, end, ..), (begin, ..)) = (&pair[0], &pair[1]);
            assert!(
                end.is_some_and(|end| end <= *begin + JITTER),
                "two lead at once: {pair:?}"
            );
        }
        assert!(!terms.is_empty(), "nobody ever led");
        let revisions: Vec<_> = terms.iter().map(|(.., revision)| *revision).collect();
        assert!(revisions.is_sorted(), "terms went back: {revisions:?}");
    }
}

impl Drop for TestCluster {
    fn drop(&mut self) {
        if !self.curators.is_empty() {
            self.draw();
        }
    }
}

/// The watch of a key.
pub(crate) struct KeyWatch(Recorded);

impl KeyWatch {
    /// When etcd told of the key's end.
    pub(crate) fn deleted(&self, within: Duration) -> Instant {
        let told = self.0.wait_line(Mark::START, within, |line| line == "DELETE");
        told.unwrap().at
    }
}

/// Prints a time as a multiple of the TTL.
pub(crate) fn measured(what: &str, time: Duration, ttl: Duration) {
    println!(
        "measured: {what} {:.3} TTL ({time:?} of {ttl:?})",
        time.as_secs_f64() / ttl.as_secs_f64()
    );
}

/// What a process has in memory, in KiB.
pub(crate) fn resident(pid: impl std::fmt::Display) -> u64 {
    curator_harness::resident(pid).unwrap() / 1_024
}

/// Whether this is a further run over another version of etcd, for scenarios that the version has nothing to do with.
pub(crate) fn done_already() -> bool {
    let again = std::env::var(curator_harness::etcd::AGAIN).is_ok();
    if again {
        println!("SKIPPED: done on the first version of etcd");
    }
    again
}
