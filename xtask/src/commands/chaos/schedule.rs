//! What happens when: made from a seed alone, so that one number brings the same faults back.

use std::fmt;
use std::time::Duration;

/// How many instances and how many members of etcd there are.
pub(crate) const HOSTS: usize = 3;

/// One fault, from when on and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Step {
    pub(super) at: Duration,
    pub(super) lasts: Duration,
    pub(super) fault: Fault,
}

impl Step {
    pub(super) fn until(&self) -> Duration {
        self.at + self.lasts
    }
}

/// Which instance, by number or by what it is at that moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Who {
    Number(usize),
    Leader,
}

/// What becomes of what is sent between two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LinkFault {
    /// Nothing arrives, either way.
    Drop,
    /// Requests do not arrive.
    DropRequests,
    /// Answers do not arrive.
    DropReplies,
    /// Everything arrives later.
    Slow(Duration),
    /// Connections are reset, and no new ones accepted.
    Reset,
}

/// What is done, and undone at the end of the step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// SIGKILL, and started again.
    KillInstance(Who),
    /// SIGSTOP and SIGCONT.
    PauseInstance(Who),
    /// SIGTERM, and started again.
    StopInstance(Who),
    KillMember(usize),
    PauseMember(usize),
    /// Stopped and let go on in turn, many times a second, as one whose disk does not keep up.
    StutterMember(usize),
    /// All members but this one are killed.
    NoQuorum(usize),
    /// Everything is killed, and started again.
    Everything,
    CutStore {
        instance: usize,
        member: usize,
        way: LinkFault,
    },
    /// An instance from all of etcd.
    CutOff {
        who: Who,
        way: LinkFault,
    },
    /// What one member sends to another.
    CutMembers {
        from: usize,
        to: usize,
        way: LinkFault,
    },
    /// A member from all other members.
    Isolate(usize),
    /// An instance from all other instances.
    CutInstance {
        to: Who,
        way: LinkFault,
    },
    /// What one instance sends to another.
    CutInstances {
        from: usize,
        to: usize,
        way: LinkFault,
    },
    /// An instance from its clients.
    CutClients {
        to: usize,
        way: LinkFault,
    },
    /// A host from another, or from all others of the cluster: what stands for all cuts where each has a host of its
    /// own.
    CutHost {
        host: usize,
        other: Option<usize>,
        way: LinkFault,
    },
    /// etcd forgets the past.
    Compact,
    /// A backup of etcd is taken, and restored at the end.
    Restore,
}

impl fmt::Display for LinkFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Drop => f.write_str("silent"),
            Self::DropRequests => f.write_str("requests lost"),
            Self::DropReplies => f.write_str("answers lost"),
            Self::Slow(by) => write!(f, "{} ms late", by.as_millis()),
            Self::Reset => f.write_str("reset"),
        }
    }
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => write!(f, "curator-{}", number + 1),
            Self::Leader => f.write_str("the leader"),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::KillInstance(who) => write!(f, "SIGKILL {who}"),
            Self::PauseInstance(who) => write!(f, "SIGSTOP {who}"),
            Self::StopInstance(who) => write!(f, "SIGTERM {who}"),
            Self::KillMember(member) => write!(f, "SIGKILL etcd-{member}"),
            Self::PauseMember(member) => write!(f, "SIGSTOP etcd-{member}"),
            Self::StutterMember(member) => write!(f, "etcd-{member} stutters"),
            Self::NoQuorum(left) => write!(f, "etcd without a quorum, only etcd-{left} left"),
            Self::Everything => f.write_str("everything restarted"),
            Self::CutStore { instance, member, way } => write!(f, "curator-{} to etcd-{member}: {way}", instance + 1),
            Self::CutOff { who, way } => write!(f, "{who} to etcd: {way}"),
            Self::CutMembers { from, to, way } => write!(f, "etcd-{from} to etcd-{to}: {way}"),
            Self::Isolate(member) => write!(f, "etcd-{member} cut off"),
            Self::CutInstance { to, way } => write!(f, "others to {to}: {way}"),
            Self::CutInstances { from, to, way } => write!(f, "curator-{} to curator-{}: {way}", from + 1, to + 1),
            Self::CutClients { to, way } => write!(f, "clients to curator-{}: {way}", to + 1),
            Self::CutHost { host, other, way } => {
                match other {
                    Some(other) => write!(f, "host-{} and host-{}", host + 1, other + 1)?,
                    None => write!(f, "host-{} and the others", host + 1)?,
                }
                match way {
                    LinkFault::Drop => f.write_str(": silent"),
                    LinkFault::DropRequests => f.write_str(": it hears nothing"),
                    LinkFault::DropReplies => f.write_str(": it is not heard"),
                    LinkFault::Slow(_) => f.write_str(": it sends slowly"),
                    LinkFault::Reset => f.write_str(": reset"),
                }
            }
            Self::Compact => f.write_str("compaction"),
            Self::Restore => f.write_str("a backup of etcd, restored"),
        }
    }
}

/// What no two faults may touch at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    /// The processes of the instances: which one the leader is shows only then.
    Instances,
    /// The processes of etcd and the links between them: enough members must be left.
    Etcd,
    /// The links between the instances and etcd.
    Stores,
    /// The links between the instances.
    Network,
    Clients(usize),
}

impl Fault {
    fn parts(self) -> Vec<Part> {
        match self {
            Self::KillInstance(_) | Self::PauseInstance(_) | Self::StopInstance(_) => vec![Part::Instances],
            Self::KillMember(_)
            | Self::PauseMember(_)
            | Self::StutterMember(_)
            | Self::NoQuorum(_)
            | Self::CutMembers { .. }
            | Self::Isolate(_)
            | Self::Compact
            | Self::Restore => vec![Part::Etcd],
            Self::Everything => vec![Part::Instances, Part::Etcd],
            Self::CutStore { .. } | Self::CutOff { .. } => vec![Part::Stores],
            Self::CutInstance { .. } | Self::CutInstances { .. } | Self::CutHost { .. } => vec![Part::Network],
            Self::CutClients { to, .. } => vec![Part::Clients(to)],
        }
    }
}

impl Fault {
    /// Whether it touches the members of etcd and nothing else. A restore loses terms; that is no outage.
    pub(super) const fn is_of_etcd(self) -> bool {
        matches!(
            self,
            Self::KillMember(_)
                | Self::PauseMember(_)
                | Self::StutterMember(_)
                | Self::NoQuorum(_)
                | Self::CutMembers { .. }
                | Self::Isolate(_)
                | Self::Compact
        )
    }

    /// The same with `find` asked who is meant, so that it stays the same one.
    pub(super) fn of_number(self, find: impl Fn(Who) -> usize) -> Self {
        let number = |who| Who::Number(find(who));
        match self {
            Self::KillInstance(who) => Self::KillInstance(number(who)),
            Self::PauseInstance(who) => Self::PauseInstance(number(who)),
            Self::StopInstance(who) => Self::StopInstance(number(who)),
            Self::CutOff { who, way } => Self::CutOff { who: number(who), way },
            Self::CutInstance { to, way } => Self::CutInstance { to: number(to), way },
            other => other,
        }
    }

    /// The same where each instance has a host together with its member of etcd: then what is cut is hosts.
    pub(super) fn between_hosts(self) -> Self {
        let cut = |host, other, way| Self::CutHost { host, other, way };
        match self {
            Self::CutStore { instance, member, way } => {
                // Nothing comes between those of one host.
                let other = if member == instance {
                    (instance + 1) % HOSTS
                } else {
                    member
                };
                cut(instance, Some(other), way)
            }
            Self::CutOff {
                who: Who::Number(host),
                way,
            }
            | Self::CutInstance {
                to: Who::Number(host),
                way,
            } => cut(host, None, way),
            Self::CutMembers { from, to, way } | Self::CutInstances { from, to, way } => {
                let way = match way {
                    LinkFault::Slow(_) => way,
                    LinkFault::Drop | LinkFault::DropRequests | LinkFault::DropReplies | LinkFault::Reset => {
                        LinkFault::DropReplies
                    }
                };
                cut(from, Some(to), way)
            }
            Self::Isolate(member) => cut(member, None, LinkFault::Drop),
            other => other,
        }
    }
}

/// At most as many at once.
const AT_ONCE: usize = 3;
/// Nothing happens before this, so that there is something to lose.
const QUIET: Duration = Duration::from_secs(2);

/// The faults of a run of that length, by their beginnings. All of them end before it does.
pub(super) fn schedule(seed: u64, length: Duration) -> Vec<Step> {
    let mut random = Random(seed);
    let mut steps: Vec<Step> = Vec::new();
    let mut at = QUIET;
    loop {
        at += Duration::from_millis(random.within(400, 2_600));
        let fault = fault(&mut random);
        let lasts = match fault {
            Fault::Compact => Duration::from_millis(100),
            Fault::Everything => Duration::from_millis(random.within(300, 1_500)),
            // Short, so that whoever waits for it may try again.
            Fault::CutInstance {
                way: LinkFault::Reset, ..
            } => Duration::from_millis(random.within(20, 1_000)),
            Fault::CutClients { .. } => Duration::from_millis(random.within(500, 2_500)),
            // Below and well above the TTL.
            _ => Duration::from_millis(random.within(300, 6_500)),
        };
        let step = Step { at, lasts, fault };
        if at >= length {
            return steps;
        }
        if step.until() >= length {
            continue;
        }
        let running: Vec<_> = steps.iter().filter(|other| other.until() > at).collect();
        let busy = running
            .iter()
            .any(|other| other.fault.parts().iter().any(|part| fault.parts().contains(part)));
        if !busy && running.len() < AT_ONCE {
            steps.push(step);
        }
    }
}

fn fault(random: &mut Random) -> Fault {
    // Half of all faults of instances are the leader's.
    let who = match random.below(6) {
        number @ 0..3 => Who::Number(number),
        _ => Who::Leader,
    };
    let (one, step) = (random.below(HOSTS), 1 + random.below(HOSTS - 1));
    let other = (one + step) % HOSTS;
    let way = match random.below(6) {
        0 | 1 => LinkFault::Drop,
        2 => LinkFault::DropRequests,
        3 => LinkFault::DropReplies,
        4 => LinkFault::Slow(Duration::from_millis(random.within(20, 900))),
        _ => LinkFault::Reset,
    };
    // Between two of a kind a link is held or slow, one way at a time.
    let link = match way {
        LinkFault::Slow(_) => way,
        _ => LinkFault::Drop,
    };
    match random.below(100) {
        0..10 => Fault::KillInstance(who),
        10..20 => Fault::PauseInstance(who),
        20..28 => Fault::StopInstance(who),
        28..34 => Fault::KillMember(one),
        34..40 => Fault::PauseMember(one),
        40..44 => Fault::StutterMember(one),
        44..48 => Fault::NoQuorum(one),
        48..50 => Fault::Everything,
        50..60 => Fault::CutOff { who, way },
        60..64 => Fault::CutStore {
            instance: one,
            member: random.below(HOSTS),
            way,
        },
        64..69 => Fault::CutMembers {
            from: one,
            to: other,
            way: link,
        },
        69..74 => Fault::Isolate(one),
        74..84 => Fault::CutInstance { to: who, way },
        84..88 => Fault::CutInstances {
            from: one,
            to: other,
            way: link,
        },
        88..94 => Fault::CutClients { to: one, way },
        94..97 => Fault::Compact,
        _ => Fault::Restore,
    }
}

/// SplitMix64: small, and the same for ever.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn within(&mut self, from: u64, to: u64) -> u64 {
        from + self.next() % (to - from)
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound as u64).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn a_seed_makes_one_schedule() {
        assert_eq!(schedule(7, MINUTE), schedule(7, MINUTE));
        assert_ne!(schedule(7, MINUTE), schedule(8, MINUTE));
        // A longer run begins alike, but for what would not have ended in the shorter one.
        let (short, long) = (schedule(7, MINUTE), schedule(7, 2 * MINUTE));
        assert_eq!(short[..10], long[..10]);
        // The same on every machine and in every release: seeds are written down.
        assert_eq!(Random(7).next(), 7_191_089_600_892_374_487);
    }

    #[test]
    fn faults_that_touch_the_same_never_meet_and_all_end() {
        for seed in 0..200 {
            let steps = schedule(seed, MINUTE);
            assert!(steps.len() >= 12, "seed {seed}: {}", steps.len());
            assert!(steps.is_sorted_by_key(|step| step.at));
            for (at, step) in steps.iter().enumerate() {
                assert!(step.until() < MINUTE);
                let meets = |other: &&Step| other.until() > step.at;
                let running: Vec<_> = steps[..at].iter().filter(meets).collect();
                assert!(running.len() < AT_ONCE);
                for other in running {
                    let shared = other.fault.parts().iter().any(|part| step.fault.parts().contains(part));
                    assert!(!shared, "seed {seed}: {other:?} and {step:?}");
                }
            }
        }
    }

    #[test]
    fn every_kind_of_fault_comes() {
        let name = |fault: Fault| format!("{fault:?}").split([' ', '(', '{']).next().map(str::to_owned);
        let kinds: BTreeSet<_> = (0..20)
            .flat_map(|seed| schedule(seed, MINUTE))
            .map(|step| name(step.fault))
            .collect();
        assert_eq!(kinds.len(), 17, "{kinds:?}");
        let ways: BTreeSet<_> = (0..20)
            .flat_map(|seed| schedule(seed, MINUTE))
            .filter_map(|step| match step.fault {
                Fault::CutStore { way, .. } | Fault::CutInstance { way, .. } => name_of(way),
                _ => None,
            })
            .collect();
        assert_eq!(ways.len(), 5, "{ways:?}");
    }

    fn name_of(way: LinkFault) -> Option<String> {
        format!("{way:?}").split('(').next().map(str::to_owned)
    }
}
