//! How long nobody led and etcd had no quorum, and which faults of etcd alone changed the term.
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::time::Duration;

use curator_harness::timeline::{Life, Member, Ms, Record, RoleInterval, Span};

use super::cast::TTL;
use super::schedule::{Fault, HOSTS, LinkFault};

/// A fault may change the term until this long after its end: leases that were not renewed meanwhile run out.
const AFTERMATH: Duration = TTL.saturating_mul(2);

/// How many of the longest times are listed.
const LISTED: usize = 5;

/// What the run says about the availability of the leader.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Outages {
    /// The part of the time in which nobody led.
    leaderless: f64,
    /// The part in which nobody led though etcd had a quorum.
    leaderless_with_quorum: f64,
    /// The longest times of that, the longest first.
    longest_with_quorum: Vec<Span<()>>,
    longest_gap: Ms,
    longest_without_quorum: Ms,
    /// The faults of etcd alone, and how many of them changed the term.
    of_etcd: usize,
    changed_term: usize,
    /// Those that another fault was too close to.
    mixed: usize,
}

impl Outages {
    pub(super) fn of(record: &Record, faults: &[Span<Fault>]) -> Self {
        let gaps = record.gaps();
        let longest = |spans: &[Span<()>]| spans.iter().map(|span| span.to - span.from).max().unwrap_or(0);
        let length = |spans: &[Span<()>]| spans.iter().map(|span| span.to - span.from).sum::<Ms>() as f64;
        let part = |time: f64| time / record.length.max(1) as f64;
        let without_quorum = without_quorum(&record.members, faults, record.length);
        let quorum = others(&without_quorum, record.length);
        let with_quorum = common(&gaps, &quorum);
        let mut outages = Self {
            leaderless: part(length(&gaps)),
            leaderless_with_quorum: part(length(&with_quorum)),
            longest_with_quorum: longest_first(with_quorum),
            longest_gap: longest(&gaps),
            longest_without_quorum: longest(&without_quorum),
            of_etcd: 0,
            changed_term: 0,
            mixed: 0,
        };
        let aftermath = Ms::try_from(AFTERMATH.as_millis()).unwrap_or(Ms::MAX);
        for (number, fault) in faults.iter().enumerate().filter(|(_, fault)| fault.what.is_of_etcd()) {
            let until = fault.to + aftermath;
            let others = faults.iter().enumerate().filter(|(other, _)| *other != number);
            let close = |other: &Span<Fault>| other.from < until && fault.from < other.to + aftermath;
            if others.map(|(_, other)| other).any(close) {
                outages.mixed += 1;
                continue;
            }
            outages.of_etcd += 1;
            outages.changed_term += usize::from(new_term(record, fault.from, until));
        }
        outages
    }

    pub(super) fn lines(&self) -> [String; 4] {
        let longest = self.longest_with_quorum.iter();
        let longest: Vec<_> = longest
            .map(|gap| format!("{} ms from {:.1} s on", gap.to - gap.from, gap.from as f64 / 1_000.0))
            .collect();
        [
            format!(
                "without a leader for {:.1} % of the time, {} ms at the longest, and for {:.1} % though etcd had a quorum",
                self.leaderless * 100.0,
                self.longest_gap,
                self.leaderless_with_quorum * 100.0
            ),
            format!("the longest times of the latter: {}", longest.join(", ")),
            format!(
                "etcd without a quorum for {} ms at the longest",
                self.longest_without_quorum
            ),
            format!(
                "{} of {} faults of etcd alone changed the term; {} more were too close to other faults to tell",
                self.changed_term, self.of_etcd, self.mixed
            ),
        ]
    }
}

/// The time between these spans, which are in order and apart.
fn others(spans: &[Span<()>], length: Ms) -> Vec<Span<()>> {
    let froms = [0].into_iter().chain(spans.iter().map(|span| span.to));
    let tos = spans.iter().map(|span| span.from).chain([length]);
    froms.zip(tos).map(|(from, to)| Span { from, to, what: () }).collect()
}

fn longest_first(mut spans: Vec<Span<()>>) -> Vec<Span<()>> {
    spans.sort_by_key(|span| Reverse(span.to - span.from));
    spans.truncate(LISTED);
    spans
}

/// The time that is in both. The spans of each are in order, and apart.
fn common(some: &[Span<()>], others: &[Span<()>]) -> Vec<Span<()>> {
    let pairs = some.iter().flat_map(|one| others.iter().map(move |other| (one, other)));
    pairs
        .map(|(one, other)| Span {
            from: one.from.max(other.from),
            to: one.to.min(other.to),
            what: (),
        })
        .filter(|span| span.from < span.to)
        .collect()
}

/// Whether a term begins in that time. One that was suspended, and is resumed, has begun before.
fn new_term(record: &Record, from: Ms, until: Ms) -> bool {
    let stands = record.instances.iter().flat_map(|instance| &instance.stands);
    let mut terms = BTreeMap::new();
    for stand in stands {
        if let RoleInterval::Leader { term } = stand.what {
            let began = terms.entry(term).or_insert(stand.from);
            *began = stand.from.min(*began);
        }
    }
    terms.values().any(|began| (from..until).contains(began))
}

/// When no two members ran and reached each other.
fn without_quorum(members: &[Member], faults: &[Span<Fault>], length: Ms) -> Vec<Span<()>> {
    let mut moments: Vec<Ms> = members
        .iter()
        .flat_map(|member| &member.lives)
        .flat_map(|life| [life.from, life.to])
        .chain(faults.iter().flat_map(|fault| [fault.from, fault.to]))
        .chain([0])
        .filter(|moment| *moment < length)
        .collect();
    moments.sort_unstable();
    moments.dedup();
    let ends = moments.iter().skip(1).copied().chain([length]);
    let mut spans: Vec<Span<()>> = Vec::new();
    for (from, to) in moments.iter().copied().zip(ends) {
        if has_quorum(members, faults, from) {
            continue;
        }
        match spans.last_mut() {
            Some(last) if last.to == from => last.to = to,
            _ => spans.push(Span { from, to, what: () }),
        }
    }
    spans
}

fn has_quorum(members: &[Member], faults: &[Span<Fault>], at: Ms) -> bool {
    let runs = |member: usize| {
        let lives = members.get(member).into_iter().flat_map(|member| &member.lives);
        let stopped = |life: &Span<Life>| life.from <= at && at < life.to && life.what != Life::Up;
        !lives.into_iter().any(stopped)
    };
    let reach = |one: usize, other: usize| {
        let during = |fault: &&Span<Fault>| fault.from <= at && at < fault.to;
        !faults.iter().filter(during).any(|fault| parts(fault.what, one, other))
    };
    let pairs = (0..HOSTS).flat_map(|one| (0..one).map(move |other| (one, other)));
    pairs
        .into_iter()
        .any(|(one, other)| runs(one) && runs(other) && reach(one, other))
}

/// Whether two members do not hear each other, in one direction at least.
fn parts(fault: Fault, one: usize, other: usize) -> bool {
    let pair = |a: usize, b: usize| (a, b) == (one, other) || (b, a) == (one, other);
    let lost = |way: LinkFault| !matches!(way, LinkFault::Slow(_));
    match fault {
        Fault::CutMembers { from, to, way } => lost(way) && pair(from, to),
        Fault::Isolate(member) => member == one || member == other,
        Fault::CutHost {
            host,
            other: Some(to),
            way,
        } => lost(way) && pair(host, to),
        Fault::CutHost { host, other: None, way } => lost(way) && (host == one || host == other),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use curator_harness::timeline::Instance;

    use super::*;

    fn span<T>(from: Ms, to: Ms, what: T) -> Span<T> {
        Span { from, to, what }
    }

    fn leads(from: Ms, to: Ms, term: i64) -> Instance {
        Instance {
            stands: vec![span(from, to, RoleInterval::Leader { term })],
            ..Instance::default()
        }
    }

    fn members(downs: [&[(Ms, Ms)]; HOSTS]) -> Vec<Member> {
        let lives = |downs: &&[(Ms, Ms)]| downs.iter().map(|(from, to)| span(*from, *to, Life::Down)).collect();
        downs
            .iter()
            .map(|downs| Member {
                lives: lives(downs),
                ..Member::default()
            })
            .collect()
    }

    #[test]
    fn quorum_needs_two_members_that_run_and_reach_each_other() {
        let all = members([&[], &[(100, 300)], &[]]);
        assert_eq!(without_quorum(&all, &[], 1_000), []);
        let cut = |way| {
            let host = Fault::CutHost {
                host: 0,
                other: Some(2),
                way,
            };
            [span(200, 500, host)]
        };
        assert_eq!(
            without_quorum(&all, &cut(LinkFault::DropReplies), 1_000),
            [span(200, 300, ())]
        );
        assert_eq!(without_quorum(&all, &cut(LinkFault::Slow(TTL)), 1_000), []);
        let two = members([&[(50, 400)], &[(100, 300)], &[]]);
        let isolated = [span(250, 450, Fault::Isolate(2))];
        assert_eq!(without_quorum(&two, &isolated, 1_000), [span(100, 400, ())]);
    }

    #[test]
    fn outages_count_the_faults_of_etcd_that_stand_alone() {
        let record = Record {
            length: 40_000,
            // The first term is suspended for a moment.
            instances: vec![leads(0, 2_000, 5), leads(2_100, 12_000, 5), leads(14_000, 40_000, 9)],
            members: members([&[(13_000, 13_500)], &[(12_500, 13_500)], &[]]),
            ..Record::default()
        };
        let faults = [
            span(1_000, 3_000, Fault::KillMember(0)),
            span(10_000, 13_000, Fault::PauseMember(1)),
            span(20_000, 21_000, Fault::KillMember(0)),
            span(
                24_500,
                25_000,
                Fault::CutClients {
                    to: 0,
                    way: LinkFault::Drop,
                },
            ),
        ];
        let outages = Outages::of(&record, &faults);
        let expected = Outages {
            leaderless: 0.0525,
            leaderless_with_quorum: 0.04,
            longest_with_quorum: vec![
                span(12_000, 13_000, ()),
                span(13_500, 14_000, ()),
                span(2_000, 2_100, ()),
            ],
            longest_gap: 2_000,
            longest_without_quorum: 500,
            of_etcd: 2,
            changed_term: 1,
            mixed: 1,
        };
        assert_eq!(outages, expected);
        assert_eq!(
            outages.lines()[3],
            "1 of 2 faults of etcd alone changed the term; 1 more were too close to other faults to tell"
        );
    }
}
