//! `cargo xtask bench election --hosts`: how soon another leads when a host, a process or a way is lost, with the
//! failover limit, without it, and with Go's election library, on hosts of their own.
use std::path::Path;
use std::time::Duration;

use curator_harness::error::{Error, Result};
use curator_harness::process::{self, Orphan, bound};
use curator_harness::{EtcdBinaries, TempDir, signals, step};

use self::case::Case;
use self::figures::{Figures, Measured, Party, What};
use self::go::GoQueue;
use self::stage::Stage;
use super::keep;
use crate::commands::chaos::cast::Programs;
use crate::tools::etcd::{Found, Want, select};
use crate::tools::go_candidate::{GoCandidate, go_candidate};
use crate::workspace::{CHAOS_LOAD, CURATOR, CURATORCTL, build, build_shipped};

mod calls;
mod case;
mod figures;
mod go;
mod slow_disk;
mod stage;

/// The flag of `curator serve` that this is about.
const LIMIT_FLAG: &str = "--failover-limit";
/// TTLs that are measured for all unless others are asked for: about ten minutes with three rounds.
const TTLS: [Duration; 2] = [Duration::from_secs(2), Duration::from_secs(5)];
/// From here on only ours with the limit is measured, unless everything is asked for: the others wait for the lease.
const LONG_TTL: Duration = Duration::from_secs(10);
/// How long a command that says what it can may take.
const HELP: Duration = Duration::from_secs(10);

/// What is to be measured.
pub(super) struct Options<'a> {
    pub(super) rounds: u32,
    pub(super) ttl: Option<Duration>,
    /// Whether everything is measured with long TTLs as well.
    pub(super) everything: bool,
    /// With programs that are built sooner.
    pub(super) quick: bool,
    /// A case alone.
    pub(super) only: Option<&'a str>,
    pub(super) etcd: Option<&'a str>,
}

pub(super) fn run(options: &Options<'_>) -> Result<()> {
    let cases = match options.only {
        Some(only) => {
            let known = || Error::usage("there is no such case; see `cargo xtask bench --help`");
            vec![Case::named(only).ok_or_else(known)?]
        }
        None => Case::ALL.to_vec(),
    };
    let ttls = options.ttl.map_or_else(|| TTLS.to_vec(), |ttl| vec![ttl]);
    let want = Want::read_one(options.etcd)?;
    signals::install()?;
    let Some(Found { binaries, .. }) = select(&want)?.into_iter().next() else {
        return Ok(());
    };
    let build = if options.quick { build } else { build_shipped };
    let curator = build(CURATOR)?;
    let programs = Programs {
        embed: curator.clone(),
        curator,
        ctl: build(CURATORCTL)?,
        load: build(CHAOS_LOAD)?,
    };
    let go = go_candidate()?;
    let has_limit = has_limit(&programs.curator)?;
    if !has_limit {
        step::say(format_args!(
            "SKIPPED: ours with the limit, for this build of curator has no {LIMIT_FLAG}"
        ));
    }
    let run = Run {
        binaries: &binaries,
        programs: &programs,
        go: go.as_ref(),
        has_limit,
        cases,
        rounds: options.rounds,
    };
    let mut figures = Figures::default();
    let measured = ttls.iter().copied().try_for_each(|ttl| {
        let all = options.everything || ttl < LONG_TTL || !has_limit;
        if has_limit {
            run.measure(Party::Limit, ttl, all, &mut figures)?;
        }
        if all {
            run.measure(Party::NoLimit, ttl, !has_limit, &mut figures)?;
        }
        Ok(())
    });
    // What was measured until something failed is shown as well.
    let text = figures.table(
        binaries.version(),
        options.rounds,
        go.as_ref().map(|go| go.library.as_str()),
    );
    step::say(&text);
    keep("failover.md", &text)?;
    measured
}

/// Whether this build knows the limit. One that does not never has it.
fn has_limit(curator: &Path) -> Result<bool> {
    let mut command = bound(curator, Orphan::Kill);
    command.args(["serve", "--help"]);
    Ok(process::run(command, HELP)?
        .success("curator serve --help")?
        .contains(LIMIT_FLAG))
}

struct Run<'a> {
    binaries: &'a EtcdBinaries,
    programs: &'a Programs,
    go: Option<&'a GoCandidate>,
    has_limit: bool,
    cases: Vec<Case>,
    rounds: u32,
}

impl Run<'_> {
    /// One of ours, and Go's beside it if it shall be.
    fn measure(&self, party: Party, ttl: Duration, with_go: bool, figures: &mut Figures) -> Result<()> {
        for hosts in [true, false] {
            let cases: Vec<_> = self
                .cases
                .iter()
                .copied()
                .filter(|case| case.on_hosts() == hosts)
                .collect();
            if cases.is_empty() {
                continue;
            }
            let scratch = TempDir::new("bench-failover")?;
            let arguments = match party {
                Party::NoLimit if self.has_limit => vec![LIMIT_FLAG.to_owned(), "off".to_owned()],
                _ => Vec::new(),
            };
            let mut stage = step::timed(&format!("start {}, TTL {ttl:?}", party.name()), || {
                Stage::start(self.binaries, self.programs, &scratch, hosts, ttl, arguments)
            })?;
            let mut measured = Measured::new(figures, party, ttl);
            if hosts {
                step::timed("idle", || stage.idle(&mut measured))?;
            }
            stage.load(self.programs, &scratch)?;
            for case in cases.iter().copied() {
                self.rounds_of(case, party, ttl, |_| stage.end_leader(case, &mut measured))?;
            }
            if hosts && self.cases.contains(&Case::SlowDisk) {
                step::timed(Case::SlowDisk.name(), || stage.slow_disk(&scratch, &mut measured))?;
            }
            let Some(go) = self.go.filter(|_| with_go) else {
                continue;
            };
            let mut queue = GoQueue::start(&go.binary, &stage.cluster, &scratch, ttl)?;
            let mut measured = Measured::new(figures, Party::Go, ttl);
            for case in cases.into_iter().filter(|case| *case != Case::SlowDisk) {
                self.rounds_of(case, Party::Go, ttl, |_| {
                    let leader = match queue.leader(&stage.cluster) {
                        Ok(leader) => leader,
                        // A candidate of Go's whose session has ended does not come back by itself.
                        Err(error) => {
                            signals::check()?;
                            step::say(format_args!("all of Go's are started anew: {error}"));
                            queue.start_anew()?;
                            queue.leader(&stage.cluster)?
                        }
                    };
                    let took = queue.end_leader(leader, case, &mut stage.cluster)?;
                    measured.add(What::Leads(case), took.as_secs_f64());
                    Ok(())
                })?;
            }
        }
        Ok(())
    }

    fn rounds_of(
        &self,
        case: Case,
        party: Party,
        ttl: Duration,
        mut round: impl FnMut(u32) -> Result<()>,
    ) -> Result<()> {
        if case == Case::SlowDisk {
            return Ok(());
        }
        for number in 1..=self.rounds {
            let name = format!(
                "{}, {}, TTL {ttl:?}, round {number} of {}",
                party.name(),
                case.name(),
                self.rounds
            );
            step::timed(&name, || round(number))?;
        }
        Ok(())
    }
}
