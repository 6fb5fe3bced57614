//! All that was measured, and the table of it.
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use super::super::figures::{median, spread};
use super::case::Case;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Party {
    Limit,
    NoLimit,
    Go,
}

impl Party {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Limit => "ours",
            Self::NoLimit => "ours without the limit",
            Self::Go => "Go's",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum What {
    /// Seconds until another leads.
    Leads(Case),
    /// Seconds until a call of another instance is answered.
    Answered(Case),
    /// Calls that began until then, and failed.
    Failed(Case),
    /// Calls that began until then.
    Arrived(Case),
    /// Calls that were under way at the loss, and failed.
    FailedBefore(Case),
    /// Terms that began in a minute of a slow disk.
    FalseFailovers,
    /// Revisions a minute, idle.
    Revisions,
    /// Processor time of a member of etcd in a second, idle.
    EtcdCpu,
    /// That of an instance.
    OwnCpu,
}

impl What {
    fn name(self) -> String {
        match self {
            Self::Leads(case) => format!("{}: until another leads", case.name()),
            Self::Answered(case) => format!("{}: until a call is answered", case.name()),
            Self::Failed(case) => format!("{}: calls that failed until then", case.name()),
            Self::Arrived(case) => format!("{}: calls that arrived until then", case.name()),
            Self::FailedBefore(case) => format!("{}: calls under way at the loss that failed", case.name()),
            Self::FalseFailovers => "slow disk of etcd: changes of leader a minute".to_owned(),
            Self::Revisions => "idle: revisions a minute".to_owned(),
            Self::EtcdCpu => "idle: processor time of a member of etcd, a second".to_owned(),
            Self::OwnCpu => "idle: processor time of an instance, a second".to_owned(),
        }
    }

    /// The unit, how many of it are in one of what is measured, and the digits.
    const fn unit(self) -> (&'static str, f64, usize) {
        match self {
            Self::Leads(_) | Self::Answered(_) => (" s", 1.0, 2),
            Self::Failed(_) | Self::Arrived(_) | Self::FailedBefore(_) | Self::FalseFailovers | Self::Revisions => {
                ("", 1.0, 0)
            }
            Self::EtcdCpu | Self::OwnCpu => (" ms", 1e3, 2),
        }
    }
}

#[derive(Default)]
pub(super) struct Figures(BTreeMap<(What, u64, Party), Vec<f64>>);

impl Figures {
    pub(super) fn table(&self, etcd: &str, rounds: u32, library: Option<&str>) -> String {
        let mut text = format!(
            "# Failover, measured\n\nOn etcd {etcd}, three members, {rounds} rounds; each instance and its member on a \
             host of its own. Medians (least to most).\n\n| what | TTL | ours | without the limit | Go's | ours / without \
             | ours / Go's |\n|---|---|---|---|---|---|---|\n"
        );
        let mut rows: Vec<_> = self.0.keys().map(|(what, ttl, _)| (*what, *ttl)).collect();
        rows.dedup();
        for (what, ttl) in rows {
            let of = |party| self.0.get(&(what, ttl, party));
            let (unit, times, digits) = what.unit();
            let cell = |numbers: Option<&Vec<f64>>| {
                numbers.map_or("-".to_owned(), |numbers| {
                    let scaled: Vec<f64> = numbers.iter().map(|number| number * times).collect();
                    format!("{}{unit}", spread(&scaled, digits))
                })
            };
            let ratio = |other: Option<&Vec<f64>>| {
                let (ours, other) = (of(Party::Limit)?, other?);
                let ratio = median(ours) / median(other);
                ratio.is_finite().then(|| format!("{ratio:.2}"))
            };
            let shown = |ratio: Option<String>| ratio.unwrap_or_else(|| "-".to_owned());
            let _ = writeln!(
                text,
                "| {} | {ttl} s | {} | {} | {} | {} | {} |",
                what.name(),
                cell(of(Party::Limit)),
                cell(of(Party::NoLimit)),
                cell(of(Party::Go)),
                shown(ratio(of(Party::NoLimit))),
                shown(ratio(of(Party::Go))),
            );
        }
        match library {
            Some(library) => {
                let _ = writeln!(text, "\nGo's library: {library}.");
            }
            None => text.push_str("\nWithout Go's library: it cannot be built here.\n"),
        }
        text
    }
}

/// The figures of one party with one TTL.
pub(super) struct Measured<'a> {
    figures: &'a mut Figures,
    party: Party,
    ttl: u64,
}

impl<'a> Measured<'a> {
    pub(super) fn new(figures: &'a mut Figures, party: Party, ttl: Duration) -> Self {
        Self {
            figures,
            party,
            ttl: ttl.as_secs(),
        }
    }

    pub(super) fn add(&mut self, what: What, number: f64) {
        let key = (what, self.ttl, self.party);
        self.figures.0.entry(key).or_default().push(number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_a_row_for_each_ttl_and_ratios_where_both_were_measured() {
        let mut figures = Figures::default();
        let ttl = Duration::from_secs(5);
        let leads = What::Leads(Case::Host);
        for (party, numbers) in [(Party::Limit, [1.5, 1.0, 2.0]), (Party::NoLimit, [6.0, 5.0, 7.0])] {
            let mut measured = Measured::new(&mut figures, party, ttl);
            numbers.into_iter().for_each(|number| measured.add(leads, number));
        }
        Measured::new(&mut figures, Party::Go, Duration::from_secs(2)).add(What::OwnCpu, 0.001);
        let text = figures.table("3.5", 3, None);
        let rows: Vec<_> = text.lines().filter(|line| line.contains(" s | ")).collect();
        assert_eq!(
            rows,
            [
                "| host lost: until another leads | 5 s | 1.50 (1.00 to 2.00) s | 6.00 (5.00 to 7.00) s | - | 0.25 | - |",
                "| idle: processor time of an instance, a second | 2 s | - | - | 1.00 (1.00 to 1.00) ms | - | - |",
            ],
            "{text}"
        );
    }
}
