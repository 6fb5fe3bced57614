//! What a picture is made of.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Milliseconds since the run began.
pub type Ms = u64;

/// One that wakes after its term has ended says so within this.
const WAKES: Ms = 100;

/// A run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// The name of its file.
    pub name: String,
    /// What a reader sees first.
    pub title: String,
    /// What else is to be known: the seed, the version of etcd, the TTL.
    pub facts: Vec<(String, String)>,
    /// How long it took.
    pub length: Ms,
    /// The instances.
    pub instances: Vec<Instance>,
    /// The members of etcd.
    pub members: Vec<Member>,
    /// What was done, by its beginning.
    pub faults: Vec<Span<String>>,
    /// What callers saw, second by second.
    pub seconds: Vec<Second>,
    /// What was looked at.
    pub checked: Vec<String>,
    /// What is wrong; `None` when nobody has looked.
    pub wrong: Option<Vec<String>>,
}

/// Something that lasted. Times are milliseconds but while they are gathered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Span<T, At = Ms> {
    /// From when on.
    pub from: At,
    /// Until when.
    pub to: At,
    /// What.
    pub what: T,
}

/// What a process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Life {
    /// It runs.
    Up,
    /// It does not.
    Down,
    /// It was asked to end and has not yet.
    Ending,
    /// It stands still.
    Paused,
    /// It runs and reaches no other member.
    CutOff,
}

/// What an instance is in the election.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RoleInterval {
    /// It knows no leader.
    Undetermined,
    /// It follows that instance, if it is one of ours, in this term.
    Follower {
        /// Its place among the instances.
        leader: Option<usize>,
        /// The revision of the lock key.
        term: i64,
    },
    /// It leads.
    Leader {
        /// The revision of the lock key.
        term: i64,
    },
}

/// An instance's lane.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Instance {
    /// Its name.
    pub name: String,
    /// How its process lived.
    pub lives: Vec<Span<Life>>,
    /// What it said it was.
    pub stands: Vec<Span<RoleInterval>>,
}

/// The lane of a member of etcd.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Its name.
    pub name: String,
    /// How its process lived.
    pub lives: Vec<Span<Life>>,
}

/// The calls that ended in a second.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Second {
    /// Those that were answered.
    pub answered: u32,
    /// Those that were not, by why.
    pub failed: BTreeMap<String, u32>,
    /// What those that were answered took, in microseconds: the median,
    pub p50: u64,
    /// what one in a hundred exceeds,
    pub p99: u64,
    /// and the longest.
    pub max: u64,
}

impl Second {
    /// From the calls that ended in it: what each took in microseconds, or why it was not answered.
    pub fn of(calls: &[Result<u64, String>]) -> Self {
        let mut second = Self::default();
        let mut took = Vec::new();
        for call in calls {
            match call {
                Ok(micros) => took.push(*micros),
                Err(why) => *second.failed.entry(why.clone()).or_default() += 1,
            }
        }
        took.sort_unstable();
        second.answered = u32::try_from(took.len()).unwrap_or(u32::MAX);
        let part = |of: usize| {
            took.get((took.len() * of / 100).min(took.len().saturating_sub(1)))
                .copied()
        };
        second.p50 = part(50).unwrap_or_default();
        second.p99 = part(99).unwrap_or_default();
        second.max = took.last().copied().unwrap_or_default();
        second
    }
}

/// The name of a gRPC code.
pub fn code_name(code: u32) -> String {
    let name = match code {
        1 => "CANCELLED",
        2 => "UNKNOWN",
        4 => "DEADLINE_EXCEEDED",
        5 => "NOT_FOUND",
        8 => "RESOURCE_EXHAUSTED",
        9 => "FAILED_PRECONDITION",
        10 => "ABORTED",
        13 => "INTERNAL",
        14 => "UNAVAILABLE",
        15 => "DATA_LOSS",
        16 => "UNAUTHENTICATED",
        other => return format!("code {other}"),
    };
    name.to_owned()
}

impl Record {
    /// What was done to processes, as far as their lanes show it: for runs whose faults nobody has written down.
    pub fn faults_of_processes(&self) -> Vec<Span<String>> {
        let lanes = self.instances.iter().map(|instance| (&instance.name, &instance.lives));
        let lanes = lanes.chain(self.members.iter().map(|member| (&member.name, &member.lives)));
        let mut faults = Vec::new();
        for (name, lives) in lanes {
            let mut before = Life::Up;
            for life in lives {
                let what = match life.what {
                    Life::Up => None,
                    // It was asked to end: told already.
                    Life::Down if before == Life::Ending => None,
                    Life::Down => Some("down"),
                    Life::Ending => Some("asked to end"),
                    Life::Paused => Some("paused"),
                    Life::CutOff => Some("cut off"),
                };
                before = life.what;
                faults.extend(what.map(|what| Span {
                    from: life.from,
                    to: life.to,
                    what: format!("{name} {what}"),
                }));
            }
        }
        faults.sort_by_key(|fault| fault.from);
        faults
    }

    /// When nobody led. An instance that is taken to lead while its process is down or stands still does not count, nor
    /// one that wakes only to say that it leads no more.
    pub fn gaps(&self) -> Vec<Span<()>> {
        let mut led: Vec<(Ms, Ms)> = self.instances.iter().flat_map(|instance| self.led(instance)).collect();
        led.sort_unstable();
        let (mut gaps, mut until) = (Vec::new(), 0);
        for (from, to) in led.into_iter().chain([(self.length, self.length)]) {
            if from > until {
                gaps.push(Span {
                    from: until,
                    to: from,
                    what: (),
                });
            }
            until = until.max(to);
        }
        gaps
    }

    fn led(&self, instance: &Instance) -> Vec<(Ms, Ms)> {
        let stopped: Vec<_> = instance
            .lives
            .iter()
            .filter(|span| matches!(span.what, Life::Down | Life::Paused))
            .collect();
        let leading = instance
            .stands
            .iter()
            .filter(|span| matches!(span.what, RoleInterval::Leader { .. }));
        let mut led = Vec::new();
        for term in leading {
            let mut from = term.from;
            for stop in stopped.iter().filter(|stop| stop.from < term.to && stop.to > term.from) {
                if stop.from > from {
                    led.push((from, stop.from));
                }
                from = from.max(stop.to);
            }
            let woke = from > term.from;
            if term.to > from && !(woke && term.to - from < WAKES) {
                led.push((from, term.to));
            }
        }
        led
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span<T>(from: Ms, to: Ms, what: T) -> Span<T> {
        Span { from, to, what }
    }

    #[test]
    fn gaps_are_where_nobody_leads_and_runs() {
        let one = Instance {
            stands: vec![
                span(0, 100, RoleInterval::Undetermined),
                span(100, 500, RoleInterval::Leader { term: 1 }),
            ],
            // It stands still in the middle, and dies before anybody says so.
            lives: vec![
                span(0, 200, Life::Up),
                span(200, 260, Life::Paused),
                span(400, 1_000, Life::Down),
            ],
            ..Instance::default()
        };
        let other = Instance {
            stands: vec![span(450, 1_000, RoleInterval::Leader { term: 2 })],
            ..Instance::default()
        };
        // It wakes, and says at once that it leads no more.
        let third = Instance {
            stands: vec![span(1_000, 1_050, RoleInterval::Leader { term: 3 })],
            lives: vec![span(0, 1_010, Life::Paused)],
            ..Instance::default()
        };
        let record = Record {
            length: 1_100,
            instances: vec![one, other, third],
            ..Record::default()
        };
        let gaps: Vec<_> = record.gaps().iter().map(|gap| (gap.from, gap.to)).collect();
        assert_eq!(gaps, [(0, 100), (200, 260), (400, 450), (1_000, 1_100)]);
    }

    #[test]
    fn what_was_done_to_processes_shows_in_their_lanes() {
        let record = Record {
            instances: vec![Instance {
                name: "one".to_owned(),
                lives: vec![
                    span(0, 5, Life::Up),
                    span(5, 6, Life::Ending),
                    span(6, 9, Life::Down),
                    span(9, 20, Life::Up),
                ],
                ..Instance::default()
            }],
            members: vec![Member {
                name: "etcd-0".to_owned(),
                lives: vec![span(0, 2, Life::Up), span(2, 4, Life::Down)],
            }],
            ..Record::default()
        };
        let faults = record.faults_of_processes();
        assert_eq!(
            faults,
            [
                span(2, 4, "etcd-0 down".to_owned()),
                span(5, 6, "one asked to end".to_owned())
            ]
        );
    }

    #[test]
    fn a_second_tells_medians_and_reasons() {
        let mut calls: Vec<_> = (1..=100).map(Ok).collect();
        calls.extend([Err("a".to_owned()), Err("b".to_owned()), Err("a".to_owned())]);
        let second = Second::of(&calls);
        assert_eq!(
            (second.answered, second.p50, second.p99, second.max),
            (100, 51, 100, 100)
        );
        assert_eq!(
            second.failed,
            BTreeMap::from([("a".to_owned(), 2), ("b".to_owned(), 1)])
        );
        assert_eq!(Second::of(&[]), Second::default());
    }

    #[test]
    fn a_record_comes_back_from_its_json() {
        let record = Record {
            faults: vec![span(1, 2, "fault".to_owned())],
            instances: vec![Instance {
                stands: vec![span(
                    0,
                    1,
                    RoleInterval::Follower {
                        leader: Some(1),
                        term: 7,
                    },
                )],
                ..Instance::default()
            }],
            seconds: vec![Second::of(&[Ok(1), Err("x".to_owned())])],
            wrong: Some(Vec::new()),
            ..Record::default()
        };
        let text = serde_json::to_string(&record).unwrap();
        assert_eq!(serde_json::from_str::<Record>(&text).unwrap(), record);
    }
}
