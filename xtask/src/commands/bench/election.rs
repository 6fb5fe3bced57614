//! `cargo xtask bench election`: who leads after whom, and how soon, beside Go's own election library on the same etcd.
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use curator_harness::error::{Error, Result};
use curator_harness::process::{Capture, Process, ProcessSpec};
use curator_harness::{At, Deadline, EtcdCluster, EtcdOptions, Mark, TempDir, resident, signals, step, wait_until};
use serde_json::Value;

use super::candidates::{Candidate, Kind};
use super::comparison::{Better, Comparison};
use super::{cpu, figures, keep};
use crate::tools::etcd::{Found, Want, select};
use crate::tools::go_candidate::go_candidate;
use crate::workspace::{ECHO_CALLS, EMBED_RELEASE, build};

/// What takes no time worth speaking of.
const SOON: Duration = Duration::from_secs(20);
/// How long idle candidates are looked at.
const IDLE: Duration = Duration::from_secs(5);
/// etcd's members, and the candidates of each kind, one beside each.
const MEMBERS: usize = 3;

/// What is measured, in the order of the table.
const FAILOVER: &str = "failover after SIGKILL";
const HANDOVER: &str = "handover after SIGTERM";
const GAP_KILL: &str = "a client's time without service, SIGKILL";
const GAP_TERM: &str = "a client's time without service, SIGTERM";
const STEP_DOWN: &str = "cut off: until it stops to lead";
const MARGIN: &str = "cut off: from then until its key is gone";
const START: &str = "start until the leader is known";
const IDLE_CPU: &str = "processor time a second, idle";
const IDLE_MEMORY: &str = "memory, idle";

/// All that was measured: what, of whom, with which TTL.
type Figures = BTreeMap<(&'static str, Kind, u64), Vec<f64>>;

pub(super) fn run(rounds: u32, ttl: Option<Duration>, etcd: Option<&str>) -> Result<Vec<Comparison>> {
    let ttls = match ttl {
        Some(ttl) => vec![ttl],
        None => vec![Duration::from_secs(2), Duration::from_secs(5)],
    };
    let want = Want::read(etcd)?;
    signals::install()?;
    let program = build(EMBED_RELEASE)?;
    let caller = build(ECHO_CALLS)?;
    let go = go_candidate()?;
    let mut all = Vec::new();
    let mut report = String::from("# The election, measured\n");
    for Found { binaries, .. } in select(&want)? {
        let mut measured = Figures::new();
        for ttl in &ttls {
            let scratch = TempDir::new("bench-election")?;
            let options = EtcdOptions {
                members: MEMBERS,
                peer_proxies: false,
                ..EtcdOptions::default()
            };
            let etcd = EtcdCluster::start(&binaries, &scratch, options)?;
            let mut parties = vec![Kind::Ours];
            parties.extend(go.is_some().then_some(Kind::Go));
            let mut stage = Stage {
                etcd,
                ttl: *ttl,
                parties: parties.into_iter().map(|kind| (kind, Vec::new())).collect(),
                figures: &mut measured,
                calls: None,
                turn: false,
            };
            stage.start(&program, go.as_ref().map(|go| go.binary.as_path()), &scratch)?;
            stage.call(&caller, &scratch)?;
            for (what, gap, end) in [(FAILOVER, GAP_KILL, End::Kill), (HANDOVER, GAP_TERM, End::Terminate)] {
                for round in 0..rounds {
                    let name = format!("{what}, TTL {ttl:?}, round {} of {rounds}", round + 1);
                    // Where in the time between two renewals it happens decides as well: all of it is gone through.
                    let phase = *ttl / 3 * round / rounds;
                    step::timed(&name, || stage.end_leaders(what, gap, end, phase))?;
                }
            }
            stage.calls = None;
            for round in 0..rounds.min(3) {
                let name = format!("cut off from etcd, TTL {ttl:?}, round {}", round + 1);
                step::timed(&name, || stage.cut_leaders())?;
            }
            step::timed("idle", || stage.idle())?;
        }
        let table = table(&measured, &ttls, binaries.version(), rounds);
        step::say(&table);
        report.push_str(&table);
        all.extend(comparisons(&measured, &ttls, binaries.version()));
    }
    report.push_str(&match &go {
        Some(go) => format!("\nGo's library: {}.\n", go.library),
        None => "\nWithout Go's library: there is no Go here, or neither its module proxy nor Debian's golang-etcd-server-dev.\n"
            .to_owned(),
    });
    keep("election.md", &report)?;
    Ok(all)
}

/// What is measured, in the order of the table.
const ALL: [&str; 9] = [
    FAILOVER,
    HANDOVER,
    GAP_KILL,
    GAP_TERM,
    STEP_DOWN,
    MARGIN,
    START,
    IDLE_CPU,
    IDLE_MEMORY,
];

/// The unit that something is shown in, how many of it a second or a byte is, and with which digits.
fn unit(what: &str) -> (&'static str, f64, usize) {
    match what {
        IDLE_MEMORY => ("MiB", 1.0 / 1_048_576.0, 1),
        HANDOVER | START | IDLE_CPU => ("ms", 1e3, 2),
        _ => ("s", 1.0, 3),
    }
}

/// The same for the summary.
fn comparisons(measured: &Figures, ttls: &[Duration], version: &str) -> Vec<Comparison> {
    let mut all = Vec::new();
    for what in ALL {
        for ttl in ttls.iter().map(Duration::as_secs) {
            let (unit, times, _) = unit(what);
            let scaled = |numbers: &Vec<f64>| numbers.iter().map(|number| number * times).collect::<Vec<_>>();
            let Some(ours) = measured.get(&(what, Kind::Ours, ttl)) else {
                continue;
            };
            let go = measured.get(&(what, Kind::Go, ttl));
            all.push(Comparison {
                part: format!("The election, on etcd {version}"),
                what: format!("{what}, TTL {ttl} s"),
                unit,
                // More of a margin is the safer one; it may be less than none.
                better: if what == MARGIN { Better::More } else { Better::Less },
                ours: scaled(ours),
                peer: go.map(|go| ("Go's `concurrency.Election`", scaled(go))),
            });
        }
    }
    all
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Kill,
    Terminate,
}

/// The candidates of both kinds on one etcd, each kind in an election of its own.
struct Stage<'a> {
    etcd: EtcdCluster,
    ttl: Duration,
    parties: Vec<(Kind, Vec<Candidate>)>,
    figures: &'a mut Figures,
    calls: Option<Calls>,
    turn: bool,
}

/// Calls of all instances, and what they say each second.
struct Calls {
    _calling: Process,
    told: Receiver<Value>,
}

impl Calls {
    /// The longest time from one answer to the next that ended since the last look, of those who are among `addresses`.
    fn gap(&self, addresses: &[String], wait: Duration) -> Duration {
        let mut longest = 0;
        let deadline = Deadline::after(wait);
        while !deadline.passed() {
            let Ok(second) = self.told.recv_timeout(deadline.remaining()) else {
                break;
            };
            if addresses.iter().any(|address| second["to"] == *address) {
                longest = longest.max(second["gap_ms"].as_u64().unwrap_or(0));
            }
        }
        Duration::from_millis(longest)
    }
}

impl Stage<'_> {
    fn start(&mut self, program: &std::path::Path, go: Option<&std::path::Path>, scratch: &TempDir) -> Result<()> {
        for (kind, candidates) in &mut self.parties {
            for member in 0..MEMBERS {
                let began = Instant::now();
                let candidate = match (*kind, go) {
                    (Kind::Go, Some(go)) => Candidate::go(go, scratch, member, &self.etcd, self.ttl)?,
                    _ => Candidate::ours(program, scratch, member, &self.etcd, self.ttl)?,
                };
                let known = wait_until("the leader to be known", SOON, || candidate.knows_leader())?;
                self.figures
                    .entry((START, *kind, self.ttl.as_secs()))
                    .or_default()
                    .push((known - began).as_secs_f64());
                candidates.push(candidate);
            }
        }
        Ok(())
    }

    fn call(&mut self, caller: &std::path::Path, scratch: &TempDir) -> Result<()> {
        let addresses: Vec<String> = self.addresses(None);
        let (tell, told) = channel();
        let spec = ProcessSpec::new("calls", caller)
            .args(&addresses)
            .capture(Capture::Stdout);
        let calling = Process::start_with(&spec, scratch, move |line| {
            if let Ok(second) = serde_json::from_str(&line.text) {
                // Nobody listens any more: then nobody needs to know.
                let _ = tell.send(second);
            }
        })?;
        self.calls = Some(Calls {
            _calling: calling,
            told,
        });
        Ok(())
    }

    /// Where ours are called, all but one of them.
    fn addresses(&self, but: Option<usize>) -> Vec<String> {
        let ours = self.parties.iter().filter(|(kind, _)| *kind == Kind::Ours);
        ours.flat_map(|(_, candidates)| candidates.iter().enumerate())
            .filter(|(at, _)| Some(*at) != but)
            .filter_map(|(_, candidate)| candidate.address())
            .collect()
    }

    /// Waits until all of both kinds are queued behind a leader; who leads of each.
    fn agreed(&self) -> Result<Vec<usize>> {
        let mut leaders = Vec::new();
        for (kind, candidates) in &self.parties {
            leaders.push(wait_until("one to lead and all to be queued", SOON, || {
                let queued = self.etcd.get_prefix(At::Any, kind.prefix()).ok()?;
                let leader = candidates.iter().position(Candidate::leads)?;
                (queued.len() == MEMBERS).then_some(leader)
            })?);
        }
        Ok(leaders)
    }

    /// Ends both leaders and waits for the next.
    fn end_leaders(&mut self, what: &'static str, gap: &'static str, end: End, phase: Duration) -> Result<()> {
        let leaders = self.agreed()?;
        if let Some(calls) = &self.calls {
            // What went before is not to be counted.
            calls.gap(&[], Duration::from_millis(1_100));
        }
        thread::sleep(phase);
        let mut ended = vec![Instant::now(); leaders.len()];
        // Who is second has the first one's work beside its own: each of them in turn.
        self.turn = !self.turn;
        let mut order: Vec<usize> = (0..leaders.len()).collect();
        if self.turn {
            order.reverse();
        }
        for at in order {
            let process = self.parties[at].1[leaders[at]].process();
            ended[at] = Instant::now();
            match end {
                End::Kill => process.kill().map(drop)?,
                End::Terminate => process.terminate()?,
            }
        }
        for (((kind, candidates), leader), at) in self.parties.iter().zip(&leaders).zip(&ended) {
            let next = wait_until("another one to lead", SOON, || {
                let others = candidates.iter().enumerate().filter(|(other, _)| other != leader);
                others.filter_map(|(_, candidate)| candidate.led_after(*at)).min()
            })?;
            let key = (what, *kind, self.ttl.as_secs());
            self.figures.entry(key).or_default().push((next - *at).as_secs_f64());
        }
        let others = self.addresses(Some(leaders[0]));
        if let Some(calls) = &self.calls {
            // The second in which the gap ended is told once it is over.
            let longest = calls.gap(&others, Duration::from_millis(2_200));
            let key = (gap, Kind::Ours, self.ttl.as_secs());
            self.figures.entry(key).or_default().push(longest.as_secs_f64());
        }
        for ((_, candidates), leader) in self.parties.iter_mut().zip(&leaders) {
            candidates[*leader].process().wait_exit(SOON)?;
            candidates[*leader].again()?;
        }
        Ok(())
    }

    /// Cuts both leaders off from etcd: when they stop to lead, and when their keys are gone.
    fn cut_leaders(&mut self) -> Result<()> {
        let leaders = self.agreed()?;
        let mut watches = Vec::new();
        for (kind, _) in &self.parties {
            let mut queue = self.etcd.get_prefix(At::Any, kind.prefix())?;
            queue.sort_by_key(|kv| kv.create_revision);
            let key = queue.first().ok_or_else(|| Error::new("nobody leads"))?;
            let from = format!("--rev={}", key.create_revision);
            let watch =
                self.etcd
                    .etcdctl_start(&format!("watch-{}", kind.name()), 0, &["watch", &from, &key.key_text()])?;
            watch.wait_line(Mark::START, SOON, |line| line == "PUT")?;
            watches.push(watch);
        }
        let mut cut = Vec::new();
        for ((_, candidates), leader) in self.parties.iter().zip(&leaders) {
            cut.push(Instant::now());
            candidates[*leader].cut();
        }
        for ((((kind, candidates), leader), at), watch) in self.parties.iter().zip(&leaders).zip(&cut).zip(&watches) {
            let stopped = wait_until("the one that is cut off to stop leading", SOON, || {
                candidates[*leader].stopped_after(*at)
            })?;
            let gone = watch.wait_line(Mark::START, SOON, |line| line == "DELETE")?.at;
            let ttl = self.ttl.as_secs();
            let seconds = |from: Instant, to: Instant| match to.checked_duration_since(from) {
                Some(time) => time.as_secs_f64(),
                None => -(from - to).as_secs_f64(),
            };
            self.figures
                .entry((STEP_DOWN, *kind, ttl))
                .or_default()
                .push(seconds(*at, stopped));
            self.figures
                .entry((MARGIN, *kind, ttl))
                .or_default()
                .push(seconds(stopped, gone));
        }
        for ((_, candidates), leader) in self.parties.iter_mut().zip(&leaders) {
            candidates[*leader].heal()?;
            candidates[*leader].again()?;
        }
        Ok(())
    }

    /// What candidates cost that have nothing to do.
    fn idle(&mut self) -> Result<()> {
        self.agreed()?;
        let spent = |candidates: &[Candidate]| {
            candidates
                .iter()
                .map(|candidate| cpu::of_process(candidate.process().pid()))
                .collect::<Result<Vec<_>>>()
        };
        let mut before = Vec::new();
        for (_, candidates) in &self.parties {
            before.push(spent(candidates)?);
        }
        thread::sleep(IDLE);
        for ((kind, candidates), before) in self.parties.iter().zip(before) {
            let ttl = self.ttl.as_secs();
            for ((candidate, before), after) in candidates.iter().zip(before).zip(spent(candidates)?) {
                let a_second = (after - before).as_secs_f64() / IDLE.as_secs_f64();
                self.figures.entry((IDLE_CPU, *kind, ttl)).or_default().push(a_second);
                let bytes = resident(candidate.process().pid())?;
                self.figures
                    .entry((IDLE_MEMORY, *kind, ttl))
                    .or_default()
                    .push(bytes as f64);
            }
        }
        Ok(())
    }
}

fn table(measured: &Figures, ttls: &[Duration], version: &str, rounds: u32) -> String {
    let mut text = format!(
        "\nOn etcd {version}, three members, {rounds} rounds; ours and Go's `concurrency.Election` on the same etcd in the same run. \
         Medians (least to most).\n\n| what | TTL | ours | Go's | ours / Go's |\n|---|---|---|---|---|\n"
    );
    for what in ALL {
        for ttl in ttls.iter().map(Duration::as_secs) {
            let Some(ours) = measured.get(&(what, Kind::Ours, ttl)) else {
                continue;
            };
            let go = measured.get(&(what, Kind::Go, ttl));
            let ratio = go.map_or("-".to_owned(), |go| {
                format!("{:.2}", figures::median(ours) / figures::median(go))
            });
            let (unit, times, digits) = unit(what);
            let shown = |numbers: &[f64]| in_unit(numbers, times, digits, unit);
            let _ = writeln!(
                text,
                "| {what} | {ttl} s | {} | {} | {ratio} |",
                shown(ours),
                go.map_or("-".to_owned(), |go| shown(go))
            );
        }
    }
    text
}

fn in_unit(numbers: &[f64], times: f64, digits: usize, unit: &str) -> String {
    let scaled: Vec<f64> = numbers.iter().map(|number| number * times).collect();
    format!("{} {unit}", figures::spread(&scaled, digits))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_medians_and_their_ratio() {
        let mut measured = Figures::new();
        measured.insert((FAILOVER, Kind::Ours, 2), vec![1.0, 3.0, 2.0]);
        measured.insert((FAILOVER, Kind::Go, 2), vec![4.0, 4.0, 9.0]);
        measured.insert((GAP_KILL, Kind::Ours, 2), vec![1.5]);
        let text = table(&measured, &[Duration::from_secs(2)], "3.5", 3);
        assert!(
            text.contains(
                "| failover after SIGKILL | 2 s | 2.000 (1.000 to 3.000) s | 4.000 (4.000 to 9.000) s | 0.50 |"
            ),
            "{text}"
        );
        assert!(
            text.contains("SIGKILL | 2 s | 1.500 (1.500 to 1.500) s | - | - |"),
            "{text}"
        );
    }
}
