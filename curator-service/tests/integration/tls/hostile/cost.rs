//! What an attack costs the instances and etcd: processor time, memory, and what etcd stores.

use std::time::{Duration, Instant};

use curator_harness::{At, peak};

use super::attacks::Attack;
use super::ms;
use crate::test_cluster::SOON;
use crate::tls::cluster::TlsCluster;

/// The clock ticks of a second in `/proc`: Linux has told users of a hundred since ever, whatever it counts in itself.
const TICKS: u64 = 100;

/// The most memory that the leader may ever have, in bytes, whatever is tried.
const PEAK: u64 = 192 << 20;

/// What an attack may cost, together with the honest calls beside it: what SECURITY.md says.
pub(super) struct Most {
    /// The leader's processors at a time.
    processors: f64,
    /// The processor time of both instances for each call.
    each: Duration,
    /// What etcd stores, in bytes.
    stored: u64,
}

impl Most {
    /// Of one look at this attack.
    pub(super) fn of(attack: Attack) -> Self {
        let most = |processors, millis, kib: u64| Self {
            processors,
            each: Duration::from_millis(millis),
            stored: kib << 10,
        };
        match attack {
            // One filter of a caller at a time, and its calls. A filter ends after two seconds.
            Attack::NodeFilters => most(2.0, 2_000, 256),
            // Two of all nodes.
            Attack::FilterCrowd => most(2.5, 2_000, 256),
            // Two nodes, each with its burst, and what etcd keeps beside a record.
            Attack::Statuses | Attack::UnreadWatches => most(2.0, 40, 2 << 10),
            Attack::UnreadNodes => most(2.0, 40, 256),
            // A connection and a handshake for each.
            Attack::Handshakes => most(2.0, 20, 256),
            // What those have that wait for approval, in the record and in an index of it.
            Attack::Registrations => most(2.0, 60, 24 << 10),
            Attack::Busy
            | Attack::LongErrors
            | Attack::Cancels
            | Attack::Deadlines
            | Attack::Mutated
            | Attack::Hold => most(2.0, 10, 256),
        }
    }
}

/// What has been spent up to a moment.
pub(super) struct Spent {
    at: Instant,
    /// Of the leader and a follower.
    processor: [Duration; 2],
    /// What etcd's database has in use, in bytes.
    stored: u64,
}

/// What was spent between two moments.
#[derive(Clone, Copy)]
pub(super) struct Cost {
    lasted: Duration,
    /// Of the leader and the follower.
    processor: [Duration; 2],
    stored: u64,
    /// The most memory that the leader has ever had, in bytes.
    peak: u64,
}

impl Spent {
    /// By these instances.
    pub(super) fn by(cast: &TlsCluster, instances: [usize; 2]) -> Self {
        let stored = in_use(cast);
        Self {
            processor: instances.map(|at| processor(cast.stage.curators[at].pid())),
            at: Instant::now(),
            stored,
        }
    }

    /// What was spent since then.
    pub(super) fn since(self, cast: &TlsCluster, instances: [usize; 2]) -> Cost {
        let lasted = self.at.elapsed();
        let now = Self::by(cast, instances);
        Cost {
            lasted,
            processor: [0, 1].map(|at| now.processor[at].saturating_sub(self.processor[at])),
            stored: now.stored.saturating_sub(self.stored),
            peak: peak(cast.stage.curators[instances[0]].pid()).unwrap(),
        }
    }
}

impl Cost {
    /// The processors that the leader and the follower were busy with at a time.
    fn processors(&self) -> [f64; 2] {
        self.processor
            .map(|took| took.as_secs_f64() / self.lasted.as_secs_f64())
    }

    /// What each of so many calls took of both together.
    fn each(&self, calls: u64) -> Duration {
        let all: Duration = self.processor.iter().sum();
        all / u32::try_from(calls.max(1)).unwrap_or(u32::MAX)
    }

    /// For people.
    pub(super) fn told(&self, calls: u64) -> String {
        let [leader, follower] = self.processors();
        format!(
            "{leader:.2} | {follower:.2} | {:.2} | {} | {}",
            ms(self.each(calls)),
            self.stored >> 10,
            self.peak >> 20
        )
    }

    /// What is more than it may be.
    pub(super) fn beyond(&self, most: &Most, calls: u64) -> Vec<String> {
        let [leader, _] = self.processors();
        let each = self.each(calls);
        let wrong = [
            (leader > most.processors).then(|| format!("{leader:.2} processors of the leader")),
            (each > most.each).then(|| format!("{each:?} of processor time a call")),
            (self.stored > most.stored).then(|| format!("{} KiB stored", self.stored >> 10)),
            (self.peak > PEAK).then(|| format!("{} MiB of the leader's memory", self.peak >> 20)),
        ];
        wrong.into_iter().flatten().collect()
    }
}

/// The sum of a leader's counter, over all of its labels.
pub(super) fn counted(cast: &TlsCluster, instance: usize, counter: &str) -> f64 {
    let (code, text) = cast.stage.curators[instance].observed("/metrics", SOON).unwrap();
    assert_eq!(code, 200);
    let values = text.lines().filter_map(|line| {
        let rest = line.strip_prefix(counter)?;
        let is_it = rest.starts_with([' ', '{']);
        is_it.then(|| rest.rsplit(' ').next()?.parse::<f64>().ok()).flatten()
    });
    values.sum()
}

/// The processor time of all threads of a process, also of those that have ended.
fn processor(pid: u32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    // The name may have anything in it, and ends with the last bracket.
    let (_, fields) = stat.rsplit_once(')').unwrap();
    let ticks: u64 = fields
        .split_whitespace()
        .skip(11)
        .take(2)
        .map(|ticks| ticks.parse::<u64>().unwrap())
        .sum();
    Duration::from_millis(ticks * 1_000 / TICKS)
}

/// What the database of etcd has in use, with all of its history.
fn in_use(cast: &TlsCluster) -> u64 {
    let status = cast
        .stage
        .etcd
        .etcdctl(At::Member(0), &["endpoint", "status", "-w", "json"], SOON)
        .unwrap();
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    let status = &status[0]["Status"];
    // Numbers of 64 bits are strings to some versions.
    let number = |field: &str| {
        let field = &status[field];
        field.as_u64().or_else(|| field.as_str()?.parse().ok())
    };
    number("dbSizeInUse").or_else(|| number("dbSize")).unwrap()
}
