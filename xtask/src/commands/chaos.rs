//! `cargo xtask chaos`: real processes and real etcd under faults from a seed, and callers whose history is checked.
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use calls::{Told, by_second, judge};
use cast::{ChaosCluster, Happened, Programs, TTL};
use curator_harness::checkout::shown;
use curator_harness::error::{Context, Error, Result};
use curator_harness::process::{Capture, Process, ProcessSpec};
use curator_harness::timeline::{self, Record, Span};
use curator_harness::{Deadline, EtcdBinaries, TempDir, signals, step, wait_until};
use links::CALLERS;
use outages::Outages;
use past::{During, Restore};
use rustix::time::{ClockId, clock_gettime};
use schedule::{Fault, Step, schedule};

use crate::args::Args;
use crate::command::Command;
use crate::tools::etcd::{Found, Want, select};
use crate::workspace::{CHAOS_LOAD, CURATOR, CURATORCTL, EMBED, build_shipped};

pub(crate) mod calls;
pub(crate) mod cast;
pub(crate) mod cluster;
pub(crate) mod links;
mod outages;
mod past;
pub(crate) mod schedule;

/// The command.
pub const COMMAND: Command = Command {
    name: "chaos",
    summary: "breaks a real cluster at random, and checks what callers saw of it",
    help: "Usage: cargo xtask chaos [--seed N] [--minutes M] [--etcd WHICH] [--hosts] [--program PATH]

Makes a cluster with TLS by the commands of `docs/running-three-nodes.md`: three etcd members and three instances on
loopback, with a proxy between any two that speak with each other, and
callers that read and write registers and node records through every instance. Then come faults, as the seed has them:
processes are killed, stopped in their tracks, asked to end and started again; connections are silent, one-way, slow or
reset; etcd loses its quorum, forgets the past, or is restored from a backup of some
seconds ago; everything is restarted. In the end all is healed, calls must be
answered again, and everything is read once more.

What the callers saw must be what one honest service can have answered: each register is linearizable, no
acknowledged write is lost, no call runs twice, and none is answered by a term that has ended. A restore may lose what
was acknowledged after the backup, and nothing else. A picture of the run is
written to target/pictures, and how long nobody led, how long etcd had no quorum, and how many faults of etcd alone
changed the term. What fails says its seed, the rule, and the calls that show it; its logs are kept.

  --seed N      the same seed brings the same faults; by default another each time
  --minutes M   how long there are faults (default 1)
  --etcd WHICH  the version of etcd; by default the first at hand
  --hosts       each instance and its member of etcd on a host of their own, and the callers on another: network
                namespaces on a bridge, in which packets are lost and not proxies silent. Needs root, and iproute2
  --program P   another build of `embed-server`, such as one that was broken to see whether that is found",
    run,
};

/// Calls are answered through every instance within this after everything is healed.
const PROGRESS: Duration = Duration::from_secs(60);
/// How long the load may take until it is ready, and until it has read everything once more.
const PATIENCE: Duration = Duration::from_secs(120);
/// Between two looks at what is to be done.
const TICK: Duration = Duration::from_millis(10);
/// How far the arrival of one process's line may lag behind that of another's.
const JITTER: Duration = Duration::from_millis(500);

fn run(mut args: Args) -> Result<()> {
    let seed = match args.value("--seed")? {
        Some(text) => text
            .parse()
            .map_err(|_| Error::usage(format!("`--seed {text}` is no number")))?,
        None => clock() % 1_000_000,
    };
    let minutes = args.count("--minutes")?.unwrap_or(1);
    let want = Want::read_one(args.value("--etcd")?.as_deref())?;
    let program = args.value("--program")?.map(PathBuf::from);
    let hosts = args.switch("--hosts")?;
    args.finish(0)?;
    let play = Play {
        seed,
        length: Duration::from_secs(60) * minutes,
        hosts,
    };
    run_chaos(&want, play, program)
}

/// What is to be played.
#[derive(Clone, Copy, Debug)]
pub struct Play {
    /// What brings the faults.
    pub seed: u64,
    /// For how long.
    pub length: Duration,
    /// Whether each has a host of its own.
    pub hosts: bool,
}

/// Runs it, on `embed-server` unless another program is given.
///
/// # Errors
/// When a rule is broken, nothing is answered any more, or we are told to stop.
pub fn run_chaos(want: &Want, what: Play, program: Option<PathBuf>) -> Result<()> {
    signals::install()?;
    let Some(Found { binaries, .. }) = select(want)?.into_iter().next() else {
        return Ok(());
    };
    let programs = Programs {
        curator: build_shipped(CURATOR)?,
        ctl: build_shipped(CURATORCTL)?,
        embed: program.map_or_else(|| build_shipped(EMBED), Ok)?,
        load: build_shipped(CHAOS_LOAD)?,
    };
    let Play { seed, length, hosts } = what;
    let on_hosts = if hosts { ", on hosts of their own" } else { "" };
    let name = format!(
        "chaos, seed {seed}, {} s, etcd {}{on_hosts}",
        length.as_secs(),
        binaries.version()
    );
    step::timed(&name, || {
        let scratch = TempDir::new("chaos")?;
        let outcome = play(&binaries, &programs, &scratch, what);
        if outcome.is_err() && signals::received().is_none() {
            scratch.keep();
        }
        outcome.context(|| {
            format!(
                "chaos failed; again: cargo xtask chaos --seed {seed} --minutes {} --etcd {}{}",
                length.as_secs() / 60,
                binaries.version(),
                if hosts { " --hosts" } else { "" }
            )
        })
    })
}

/// The clock that all processes of this host share, in nanoseconds; the one of [`Instant`] as well.
pub(crate) fn clock() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    u64::try_from(time.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap_or(0)
}

/// What the load has told so far.
#[derive(Clone, Default)]
struct Heard(Arc<Mutex<Vec<String>>>);

impl Heard {
    fn hear(&self, line: String) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(line);
    }

    fn told(&self) -> Vec<Told> {
        let lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        lines
            .iter()
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect()
    }

    fn says(&self, word: &str) -> bool {
        let lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        lines.iter().rev().take(50).any(|line| line.contains(word))
    }

    /// Whether a call through that instance was answered that began after then.
    fn answered_since(&self, via: usize, began: u64) -> bool {
        let lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        lines
            .iter()
            .rev()
            .take(2_000)
            .filter_map(|line| serde_json::from_str::<Told>(line).ok())
            .any(|told| told.via == via && told.began > began && told.is_answered())
    }
}

fn play(binaries: &EtcdBinaries, programs: &Programs, scratch: &TempDir, what: Play) -> Result<()> {
    let Play { seed, length, hosts } = what;
    let mut cast = step::timed("start a cluster", || {
        ChaosCluster::start(binaries, programs, scratch, hosts)
    })?;
    let heard = Heard::default();
    let load = {
        let doors = cast.curators.iter().enumerate();
        let addresses: Vec<_> = doors
            .map(|(number, curator)| cast.links.door(curator, number).to_string())
            .collect();
        let spec = ProcessSpec::new("load", &programs.load)
            .args(cast.owner.arguments())
            .args(&addresses)
            .on(cast.links.host(CALLERS))
            .capture(Capture::Stdout);
        let heard = heard.clone();
        Process::start_with(&spec, scratch, move |line| heard.hear(line.text))?
    };
    wait_load(&load, "be ready", || heard.says("\"ready\""))?;

    let (begin, origin) = (Instant::now(), clock());
    let mut done: Vec<Span<Fault, Instant>> = Vec::new();
    let faults = inflict(&mut cast, &load, &schedule(seed, length), begin, length, &mut done);
    let progress = faults.and_then(|()| progress(&cast, &load, &heard));
    // Whatever has happened: what was seen until then is judged and drawn.
    let ended = progress.and_then(|()| {
        load.terminate()?;
        wait_load(&load, "read everything once more", || heard.says("\"done\""))
    });
    let end = Instant::now();
    signals::check()?;
    let told = heard.told();
    let runs = runs(&cast.record)?;
    let restores = restores(&cast, begin);
    let mut findings = judge(&told, &runs, origin, &restores);
    findings.wrong.extend(led_beside_another(&cast));
    if let Err(error) = &ended {
        findings.wrong.push(error.chain());
    }
    let whole = end - begin;
    let faults: Vec<_> = done.into_iter().map(|fault| timeline::since(begin, fault)).collect();
    let shown = |fault: &Span<Fault>| Span {
        from: fault.from,
        to: fault.to,
        what: fault.what.to_string(),
    };
    let mut record = Record {
        name: format!("chaos-{seed}{}", if hosts { "-hosts" } else { "" }),
        title: format!("Chaos, seed {seed}"),
        facts: vec![
            ("etcd".to_owned(), binaries.version().to_owned()),
            ("leader TTL".to_owned(), format!("{TTL:?}")),
            (
                "network".to_owned(),
                if hosts {
                    "a host for each"
                } else {
                    "proxies on loopback"
                }
                .to_owned(),
            ),
        ],
        length: timeline::ms(whole),
        instances: timeline::instances(&cast.curators, begin, end),
        members: timeline::members(&cast.etcd, begin),
        faults: faults.iter().map(shown).collect(),
        seconds: by_second(&told, origin, whole),
        checked: findings.summary.clone(),
        wrong: Some(findings.wrong.clone()),
    };
    record.checked.extend(Outages::of(&record, &faults).lines());
    let page = timeline::write(&record)?;
    tell(&record, &page);
    if findings.wrong.is_empty() {
        return Ok(());
    }
    let history = scratch.path().join("history.jsonl");
    let lines = heard.0.lock().unwrap_or_else(PoisonError::into_inner).join("\n");
    fs::write(&history, lines).context(|| format!("cannot write {}", history.display()))?;
    Err(Error::new(format!(
        "{}\nthe whole history is {}",
        findings.wrong.join("\n"),
        history.display()
    )))
}

/// Waits for the load to say something.
fn wait_load(load: &Process, what: &str, said: impl Fn() -> bool) -> Result<()> {
    wait_until(format!("the load to {what}"), PATIENCE, || {
        if said() {
            return Some(Ok(()));
        }
        load.status().map(|status| Err(load.ended_early(status)))
    })?
}

/// Does all that is to be done, each at its time, and undoes it.
fn inflict(
    cast: &mut ChaosCluster,
    load: &Process,
    steps: &[Step],
    begin: Instant,
    length: Duration,
    done: &mut Vec<Span<Fault, Instant>>,
) -> Result<()> {
    let mut waiting = steps.iter().peekable();
    // What is going on: until when, what has to be undone, and where it stands in `done`.
    let mut running: Vec<(Duration, Fault, usize)> = Vec::new();
    loop {
        let now = begin.elapsed();
        signals::check()?;
        if let Some(status) = load.status() {
            return Err(load.ended_early(status));
        }
        cast.tick()?;
        let (over, still): (Vec<_>, Vec<_>) = running.into_iter().partition(|(until, ..)| *until <= now);
        running = still;
        for (_, fault, at) in over {
            cast.end(fault)
                .context(|| format!("cannot undo what was done: {fault}"))?;
            done[at].to = Instant::now();
        }
        if let Some(step) = waiting.next_if(|step| step.at <= now) {
            let from = Instant::now();
            let fault = cast
                .begin(step.fault)
                .context(|| format!("cannot do what was to be done: {}", step.fault))?;
            step::say(format_args!(
                "{:>6.1} s  {fault}, for {:.1} s",
                now.as_secs_f64(),
                step.lasts.as_secs_f64()
            ));
            running.push((step.until(), fault, done.len()));
            done.push(Span {
                from,
                to: from + step.lasts,
                what: fault,
            });
            continue;
        }
        if now >= length && running.is_empty() {
            return Ok(());
        }
        thread::sleep(TICK);
    }
}

/// All is healed: one leads, all follow, and calls are answered through everybody.
fn progress(cast: &ChaosCluster, load: &Process, heard: &Heard) -> Result<()> {
    let deadline = Deadline::after(PROGRESS);
    let healed = clock();
    step::say("        all is healed");
    cast.agreed(deadline.remaining())?;
    for via in 0..cast.curators.len() {
        let what = format!("calls through curator-{} to be answered once all is healed", via + 1);
        wait_until(what, deadline.remaining(), || {
            if heard.answered_since(via, healed) {
                return Some(Ok(()));
            }
            load.status().map(|status| Err(load.ended_early(status)))
        })??;
    }
    Ok(())
}

/// What the leaders say that they ran: a line for each, with the call and the term.
fn runs(record: &Path) -> Result<Vec<(u64, i64)>> {
    let text = fs::read_to_string(record).context(|| format!("cannot read {}", record.display()))?;
    Ok(text
        .lines()
        .filter_map(|line| {
            let (id, term) = line.split_once(' ')?;
            Some((id.parse().ok()?, term.parse().ok()?))
        })
        .collect())
}

/// The restores of etcd, since the run began.
fn restores(cast: &ChaosCluster, begin: Instant) -> Vec<Restore> {
    let during = |(from, to): Happened| During {
        from: from.saturating_duration_since(begin),
        to: to.saturating_duration_since(begin),
    };
    let restored = cast.restored().iter();
    restored
        .map(|(taken, put_back)| Restore {
            taken: during(*taken),
            put_back: during(*put_back),
        })
        .collect()
}

/// No two lead at once, as far as their logs tell. A leader whose key a restore of etcd has lost finds that out within
/// its lease; and the revisions that were lost are given out again.
fn led_beside_another(cast: &ChaosCluster) -> Vec<String> {
    let terms = cast.terms();
    let mut wrong = Vec::new();
    for pair in terms.windows(2) {
        let ((one, term, first, end), (other, next, begin, _)) = (pair[0], pair[1]);
        let restored = cast
            .restored()
            .iter()
            .find(|(_, (from, _))| (first..begin).contains(from));
        let lasting = restored.is_some_and(|(_, (_, to))| begin < *to + TTL + JITTER);
        if one != other && !lasting && end.is_none_or(|end| end > begin + JITTER) {
            wrong.push(format!(
                "curator-{} still led in term {term} when curator-{} led in term {next}",
                one + 1,
                other + 1
            ));
        }
        // A suspended term that was resumed is the same term.
        let resumed = one == other && next == term;
        if next <= term && !resumed && restored.is_none() {
            wrong.push(format!("term {next} came after term {term}"));
        }
    }
    wrong
}

fn tell(record: &Record, page: &Path) {
    let answered: u64 = record.seconds.iter().map(|second| u64::from(second.answered)).sum();
    let failed: u64 = record
        .seconds
        .iter()
        .flat_map(|second| second.failed.values())
        .map(|count| u64::from(*count))
        .sum();
    step::say(format_args!(
        "{} faults; {answered} calls answered, {failed} not",
        record.faults.len()
    ));
    for line in &record.checked {
        step::say(line);
    }
    step::say(format_args!("picture    {}", shown(page)));
}
