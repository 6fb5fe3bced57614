//! The scenario of one run, drawn from its seed before the run.

use std::fmt;
use std::time::Duration;

use curator_election::memory::{Faults, Link};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// The TTL of all leases.
pub(super) const TTL: Duration = Duration::from_secs(3);
/// Added to the seed from which restores are drawn.
const RESTORES: u64 = 0x7265_7374_6f72_6573;
const FAULTY: Duration = Duration::from_secs(20);

/// A run: its size and its faults.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// The seed of all other random choices.
    pub seed: u64,
    /// The number of instances.
    pub nodes: usize,
    /// The number of clients.
    pub clients: usize,
    /// Whether clients call through the listeners, which forward.
    pub listeners: bool,
    /// How long faults occur and clients call.
    pub faulty: Duration,
    /// The faults, with the numbers that they were drawn under.
    pub(super) faults: Vec<Planned>,
}

/// A fault and its time.
#[derive(Clone, Debug)]
pub(super) struct Planned {
    pub(super) number: usize,
    pub(super) at: Duration,
    /// The end, for faults that last.
    pub(super) until: Duration,
    pub(super) fault: Fault,
}

/// A kind of fault.
#[derive(Clone, Debug)]
pub(super) enum Fault {
    /// The connection of an instance to the store.
    Way { node: usize, faults: Faults },
    /// The watches of an instance break.
    WatchesClose { node: usize },
    /// The store is compacted.
    Compaction,
    /// A lease is revoked by another client; with an even number, that of the oldest lock key.
    LeaseRevoked { pick: usize },
    /// A lock key is deleted and put again by another client; with an even number, the oldest.
    LockReplaced { pick: usize },
    /// The store's leader changes, and all leases start anew.
    StoreFailover,
    /// A snapshot of the store is taken, and restored at the end of the fault.
    Restore,
    /// An instance is paused for a while, as by SIGSTOP.
    Stop { node: usize },
    /// An instance is killed, and restarted after a while.
    Kill { node: usize },
    /// An instance is asked to step down, in favour of another if one is named.
    StepDown { node: usize, to: Option<usize> },
    /// Traffic from one instance to another is delayed or cut; in both directions if `both`.
    Between {
        from: usize,
        to: usize,
        both: bool,
        cut: bool,
        delay: Duration,
    },
    /// The connections between two instances break.
    Reset { one: usize, other: usize },
}

impl Scenario {
    /// The scenario of a seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let nodes = rng.random_range(2..=4);
        let listeners = rng.random_bool(0.25);
        // Without listeners a call is cheaper.
        let clients = rng.random_range(2..=if listeners { 4 } else { 8 });
        let mut faults = Vec::new();
        let mut at = Duration::from_millis(rng.random_range(0..1_500));
        let mut plan = |at, until, fault| {
            faults.push(Planned {
                number: faults.len(),
                at,
                until,
                fault,
            });
        };
        while at < FAULTY {
            if rng.random_bool(0.08) {
                // A leader is replaced while all its observations are old.
                let until = at + TTL;
                let node = rng.random_range(0..nodes);
                plan(at, until, Fault::Way { node, faults: late() });
                let later = at + Duration::from_millis(rng.random_range(50..1_000));
                let pick = 0;
                plan(later, until, Fault::LeaseRevoked { pick });
            } else {
                let (fault, longest) = draw(&mut rng, nodes, listeners);
                let until = at + Duration::from_millis(rng.random_range(50..longest));
                plan(at, until, fault);
            }
            at += Duration::from_millis(rng.random_range(50..1_800));
        }
        // Drawn separately, so that the seeds' other choices do not change.
        let mut rng = StdRng::seed_from_u64(seed ^ RESTORES);
        if rng.random_bool(0.2) {
            let until = Duration::from_millis(rng.random_range(1_000..20_000));
            let age = Duration::from_millis(rng.random_range(200..8_000));
            faults.push(Planned {
                number: faults.len(),
                at: until.saturating_sub(age),
                until,
                fault: Fault::Restore,
            });
        }
        Self {
            seed,
            nodes,
            clients,
            listeners,
            faulty: FAULTY,
            faults,
        }
    }

    /// The number of faults.
    #[must_use]
    pub fn faults(&self) -> usize {
        self.faults.len()
    }

    /// The numbers of the faults.
    pub fn numbers(&self) -> impl Iterator<Item = usize> {
        self.faults.iter().map(|planned| planned.number)
    }

    /// The same scenario with these faults only.
    #[must_use]
    pub fn keeping(&self, numbers: &[usize]) -> Self {
        let mut kept = self.clone();
        kept.faults.retain(|planned| numbers.contains(&planned.number));
        kept
    }

    /// The arguments of `cargo xtask sim` for this run.
    #[must_use]
    pub fn arguments(&self) -> String {
        let whole = Self::new(self.seed);
        let mut words = format!("--seed {}", self.seed);
        if self.faults() < whole.faults() {
            let numbers: Vec<_> = self.numbers().map(|number| number.to_string()).collect();
            words += &format!(
                " --keep {}",
                if numbers.is_empty() {
                    "none".to_owned()
                } else {
                    numbers.join(",")
                }
            );
        }
        if self.nodes != whole.nodes {
            words += &format!(" --nodes {}", self.nodes);
        }
        if self.clients != whole.clients {
            words += &format!(" --clients {}", self.clients);
        }
        if self.faulty != whole.faulty {
            words += &format!(" --faulty {}", self.faulty.as_millis());
        }
        words
    }
}

/// A fault, and its maximum duration in milliseconds.
fn draw(rng: &mut StdRng, nodes: usize, listeners: bool) -> (Fault, u64) {
    let node = rng.random_range(0..nodes);
    if listeners && rng.random_bool(0.3) {
        let other = (node + rng.random_range(1..nodes)) % nodes;
        return match rng.random_range(0..4) {
            0 => (Fault::Reset { one: node, other }, 100),
            kind => {
                let between = Fault::Between {
                    from: node,
                    to: other,
                    both: rng.random_bool(0.5),
                    cut: kind < 3,
                    delay: Duration::from_millis(rng.random_range(0..400)),
                };
                (between, 6_000)
            }
        };
    }
    let way = |faults| Fault::Way { node, faults };
    match rng.random_range(0..23) {
        0..=4 => {
            let link = [Link::Cut, Link::RequestsLost, Link::RepliesLost, Link::Refused][rng.random_range(0..4)];
            let faults = Faults {
                link,
                ..Faults::default()
            };
            (way(faults), 6_000)
        }
        5..=9 => (way(slow(rng)), 5_000),
        10 => {
            let faults = Faults {
                lose_requests: rng.random_range(0.0..=0.6),
                lose_replies: rng.random_range(0.0..=0.6),
                ..Faults::default()
            };
            (way(faults), 5_000)
        }
        11 => {
            let faults = Faults {
                reads_hang: true,
                ..Faults::default()
            };
            (way(faults), 9_000)
        }
        12 => (Fault::WatchesClose { node }, 100),
        13 => (Fault::Compaction, 100),
        14 | 15 => (
            Fault::LeaseRevoked {
                pick: rng.random_range(0..64),
            },
            100,
        ),
        16 => (
            Fault::LockReplaced {
                pick: rng.random_range(0..64),
            },
            100,
        ),
        17 => (Fault::StoreFailover, 100),
        18 | 19 => (Fault::Stop { node }, 6_000),
        20 | 21 => (Fault::Kill { node }, 5_000),
        _ => {
            let to = rng
                .random_bool(0.5)
                .then(|| (node + rng.random_range(1..nodes)) % nodes);
            (Fault::StepDown { node, to }, 100)
        }
    }
}

/// Replies that are correct but old, for an instance that gets no others.
fn late() -> Faults {
    Faults {
        late_replies: TTL.mul_f64(0.4),
        late_watches: TTL,
        ..Faults::default()
    }
}

fn slow(rng: &mut StdRng) -> Faults {
    let longest = TTL.mul_f64(rng.random_range(0.0..=0.4));
    let (mut delay, mut late_replies, mut late_watches) = (Duration::ZERO, Duration::ZERO, Duration::ZERO);
    match rng.random_range(0..3) {
        0 => delay = longest,
        1 => late_replies = longest,
        _ => late_watches = longest,
    }
    Faults {
        delay,
        late_replies,
        late_watches,
        ..Faults::default()
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Way { node, faults } => {
                write!(f, "node {node}'s way to the store: {:?}", faults.link)?;
                if faults.reads_hang {
                    f.write_str(", reads hang")?;
                }
                for (what, longest) in [
                    ("delays", faults.delay),
                    ("late replies, by", faults.late_replies),
                    ("late watches, by", faults.late_watches),
                ] {
                    if !longest.is_zero() {
                        write!(f, ", {what} up to {longest:?}")?;
                    }
                }
                if faults.lose_requests > 0.0 || faults.lose_replies > 0.0 {
                    write!(
                        f,
                        ", loses {:.0} % of the requests and {:.0} % of the replies",
                        faults.lose_requests * 100.0,
                        faults.lose_replies * 100.0
                    )?;
                }
                Ok(())
            }
            Self::WatchesClose { node } => write!(f, "the watches of node {node} are closed"),
            Self::Compaction => f.write_str("the store is compacted"),
            Self::LeaseRevoked { .. } => f.write_str("a lease is revoked behind its owner's back"),
            Self::LockReplaced { .. } => f.write_str("a lock key is replaced behind its owner's back"),
            Self::StoreFailover => f.write_str("the store's own leader changes"),
            Self::Restore => f.write_str("a snapshot of the store is taken, to be restored"),
            Self::Stop { node } => write!(f, "node {node} is stopped"),
            Self::Kill { node } => write!(f, "node {node} is killed"),
            Self::StepDown { node, to: None } => write!(f, "node {node} is asked to step down"),
            Self::StepDown { node, to: Some(to) } => write!(f, "node {node} is asked to let node {to} lead"),
            Self::Between {
                from,
                to,
                both,
                cut,
                delay,
            } => {
                let ways = if *both { "and back" } else { "one way" };
                if *cut {
                    write!(f, "nothing gets from node {from} to node {to}, {ways}")
                } else {
                    write!(f, "delays of up to {delay:?} from node {from} to node {to}, {ways}")
                }
            }
            Self::Reset { one, other } => write!(f, "the connections between nodes {one} and {other} break"),
        }
    }
}
