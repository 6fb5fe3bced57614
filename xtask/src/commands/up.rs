//! `cargo xtask up`: three etcd members and three curators on this machine, and who leads them.
use std::io::{IsTerminal, Write as _};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use board::{Board, Calls, State};
use curator_harness::error::Result;
use curator_harness::process::{Capture, Process, ProcessSpec};
use curator_harness::signals;
use curator_harness::step;
use curator_harness::{CuratorOptions, CuratorProcess, Deadline, EtcdCluster, EtcdOptions, Event, Scratch};
use serde_json::Value;

use crate::args::Args;
use crate::cli::Command;
use crate::tools::etcd::{Found, Want, select};
use crate::tools::protoc;
use crate::workspace::{ECHO_CALLS, EMBED, build};

pub mod board;

/// The command.
pub const COMMAND: Command = Command {
    name: "up",
    summary: "starts three etcd members and three curators, calls them, and shows who leads and answers",
    help: "Usage: cargo xtask up [--ttl 5s] [--etcd WHICH | --embedded] [--for 20s]

Builds the service, starts three etcd members and three curators on free ports of 127.0.0.1, calls each of them all the
time, and shows who leads and who answers until ctrl-c stops all of it: a call through a follower is answered by the
leader. The curators are `embed-server`, whose leader serves `Echo`. What is missing is brought as by
`cargo xtask setup`. A curator that you kill is started again a quarter of a minute later.

  --ttl DURATION  how long the election waits for a leader that died (default 5s)
  --etcd WHICH    the version of etcd; by default the first at hand
  --embedded      no etcd: one curator alone, with its state in a directory, the quickest way in
  --for DURATION  stops by itself after that time",
    run,
};

const CURATORS: u32 = 3;
/// How long a curator may take to resign and end.
const GRACE: Duration = Duration::from_secs(8);
/// A killed curator is started again after this long: time enough to see another one take over.
const AGAIN: Duration = Duration::from_secs(15);
const TICK: Duration = Duration::from_millis(100);

fn run(mut args: Args) -> Result<()> {
    let ttl = args.duration("--ttl")?.unwrap_or(Duration::from_secs(5));
    let want = Want::read_one(args.value("--etcd")?.as_deref())?;
    let limit = args.duration("--for")?;
    let embedded = args.flag("--embedded");
    args.finish(0)?;
    if embedded && want != Want::First {
        return Err(curator_harness::Error::usage(
            "`up` runs one etcd: give `--etcd`, or `--embedded` for none",
        ));
    }
    signals::install()?;
    let found = match embedded {
        true => {
            protoc::ensure()?;
            None
        }
        false => select(&want)?.into_iter().next(),
    };
    let binary = build(EMBED)?;
    let caller = build(ECHO_CALLS)?;

    let scratch = Scratch::new("up")?;
    let outcome = (|| {
        let etcd = found.as_ref().map(|found| start_etcd(found, &scratch)).transpose()?;
        let (notify, events) = channel();
        let mut curators = Vec::new();
        for number in 1..=if etcd.is_some() { CURATORS } else { 1 } {
            let endpoints = etcd.as_ref().map(EtcdCluster::endpoints).unwrap_or_default();
            let mut options = CuratorOptions::new(number, endpoints).leader_ttl(ttl);
            if etcd.is_none() {
                let directory = scratch.path().join("state").display().to_string();
                options.extra_args = vec!["--embedded".to_owned(), directory];
            }
            options.notify = Some(notify.clone());
            curators.push(CuratorProcess::start(&binary, &scratch, options)?);
        }
        introduce(etcd.as_ref(), &curators, &scratch, ttl);
        let (told, calls) = channel();
        let addresses: Vec<_> = curators.iter().map(|curator| curator.address().to_string()).collect();
        let spec = ProcessSpec::new("calls", &caller)
            .args(&addresses)
            .capture(Capture::Stdout);
        let calling = Process::start_with(&spec, &scratch, move |line| {
            if let Some(second) = read_calls(&line.text) {
                // Nobody listens any more: then nobody needs to know.
                let _ = told.send(second);
            }
        })?;
        let shown = show(&mut curators, &events, &calls, limit);
        drop(calling);
        let stopped = stop(curators, etcd);
        shown.and(stopped)
    })();
    if outcome.is_err() && signals::received().is_none() {
        scratch.keep();
    }
    outcome
}

fn start_etcd(found: &Found, scratch: &Scratch) -> Result<EtcdCluster> {
    let options = EtcdOptions {
        peer_proxies: false,
        ..EtcdOptions::default()
    };
    let name = format!("start etcd {}, three members", found.binaries.version());
    step::timed(&name, || EtcdCluster::start(&found.binaries, scratch, options))
}

fn introduce(etcd: Option<&EtcdCluster>, curators: &[CuratorProcess], scratch: &Scratch, ttl: Duration) {
    step::say("");
    for (etcd, member) in etcd
        .into_iter()
        .flat_map(|etcd| (0..etcd.len()).map(move |member| (etcd, member)))
    {
        step::say(format_args!(
            "etcd-{member}     {}  pid {}",
            etcd.client_url(member),
            etcd.pid(member).unwrap_or_default()
        ));
    }
    for curator in curators {
        step::say(format_args!(
            "{}  http://{}  pid {}  {}",
            curator.name(),
            curator.address(),
            curator.pid(),
            curator.node_id()
        ));
    }
    step::say(format_args!("logs       {}", scratch.logs().display()));
    step::say("");
    match etcd {
        None => {
            step::say("One instance, its state in a directory: this is not highly available. In another terminal:");
            step::say("  kill -9 PID    nothing acknowledged is lost; it is started again and leads at once");
        }
        Some(etcd) => {
            step::say(format_args!(
                "Leader TTL {ttl:?}. To see a failover, in another terminal:"
            ));
            step::say("  kill -9 PID    of the leader: another one leads within the TTL and a second");
            step::say("  kill PID       of the leader: it resigns, and another one leads at once");
            step::say("  kill -STOP PID, later kill -CONT PID: it wakes up and knows that it leads no more");
            step::say(format_args!(
                "  ETCDCTL_API=3 {} --endpoints {} get --prefix namespaced:curator/",
                etcd.binaries().directory().join("etcdctl").display(),
                etcd.endpoints().join(",")
            ));
        }
    }
    step::say("Ctrl-c stops everything.");
    step::say("");
}

/// A line of the caller: whom it called, and how that went.
fn read_calls(line: &str) -> Option<(String, Calls)> {
    let value: Value = serde_json::from_str(line).ok()?;
    let text = |name: &str| value[name].as_str().map(str::to_owned);
    Some((
        text("to")?,
        Calls {
            answered: value["answered"].as_u64()?,
            failed: value["failed"].as_u64()?,
            by: text("by")?,
            slowest_ms: value["slowest_ms"].as_u64()?,
            why: text("why")?,
        },
    ))
}

/// Shows who leads until we are told to stop or the time is over.
fn show(
    curators: &mut [CuratorProcess],
    events: &Receiver<(String, Event)>,
    calls: &Receiver<(String, Calls)>,
    limit: Option<Duration>,
) -> Result<()> {
    let terminal = std::io::stdout().is_terminal();
    let started = Instant::now();
    let end = limit.map(Deadline::after);
    let mut board = Board::new(
        curators
            .iter()
            .map(|curator| (curator.name().to_owned(), curator.node_id().to_owned(), curator.pid()))
            .collect(),
        started,
    );
    let mut painter = Painter::new(terminal);
    let mut again: Vec<Option<Deadline>> = curators.iter().map(|_| None).collect();
    while signals::received().is_none() && !end.is_some_and(|end| end.passed()) {
        match events.recv_timeout(TICK) {
            Ok((name, event)) => {
                if let Some(change) = event.role_change() {
                    board.change(&name, State::Role(change.role), event.at);
                }
            }
            Err(RecvTimeoutError::Timeout) => {}
            // The curators hold the senders, so this cannot be; a pause keeps it from spinning all the same.
            Err(RecvTimeoutError::Disconnected) => thread::sleep(TICK),
        }
        for (to, second) in calls.try_iter() {
            let called = curators.iter().find(|curator| curator.address().to_string() == to);
            if let Some(curator) = called {
                board.calls(curator.name(), second, Instant::now());
            }
        }
        for curator in curators.iter() {
            board.paused(curator.name(), curator.process().is_paused(), Instant::now());
        }
        for (curator, again) in curators.iter_mut().zip(&mut again) {
            match (curator.process().status(), &again) {
                (Some(status), None) => {
                    board.change(curator.name(), State::Ended(status.to_string()), Instant::now());
                    *again = Some(Deadline::after(AGAIN));
                }
                (Some(_), Some(at)) if at.passed() => {
                    curator.restart()?;
                    board.restarted(curator.name(), curator.pid(), Instant::now());
                    *again = None;
                }
                _ => {}
            }
        }
        painter.paint(&mut board);
    }
    painter.paint(&mut board);
    match signals::received() {
        Some(signal) => println!("\n{signal}: stopping"),
        None => println!("\nthe time is over: stopping"),
    }
    Ok(())
}

/// The curators first, so that the leader can resign, then etcd. A second signal makes it quick.
fn stop(curators: Vec<CuratorProcess>, etcd: Option<EtcdCluster>) -> Result<()> {
    let seen = signals::count();
    for curator in &curators {
        // A paused one must wake up to end, and one that has ended already is just as well.
        let _ = curator.resume();
        let _ = curator.terminate();
    }
    let deadline = Deadline::after(GRACE);
    let mut late = Vec::new();
    for curator in &curators {
        while curator.process().is_running() && !deadline.passed() && signals::count() == seen {
            thread::sleep(Duration::from_millis(10));
        }
        if curator.process().is_running() {
            late.push(curator.name().to_owned());
        }
    }
    // Dropping kills what is still there. etcd is not asked: members that stop together wait long for each other, and
    // their data goes now.
    drop(curators);
    drop(etcd);
    if late.is_empty() {
        step::say("all stopped");
        return Ok(());
    }
    Err(curator_harness::Error::new(format!(
        "killed, for it did not stop within {GRACE:?}: {}",
        late.join(", ")
    )))
}

/// Puts the board on the screen: as a table that is drawn over itself, or as a line for each change.
#[derive(Debug)]
struct Painter {
    terminal: bool,
    drawn: Vec<String>,
}

impl Painter {
    fn new(terminal: bool) -> Self {
        Self {
            terminal,
            drawn: Vec::new(),
        }
    }

    fn paint(&mut self, board: &mut Board) {
        let news = board.take_news();
        let mut out = std::io::stdout().lock();
        // Nobody may be left to read it; the signal that ends us comes by another way.
        if !self.terminal {
            for line in news {
                let _ = writeln!(out, "{line}");
            }
            let _ = out.flush();
            return;
        }
        let table = board.table(Instant::now(), columns());
        if table == self.drawn && news.is_empty() {
            return;
        }
        let up = self.drawn.len();
        if up > 0 {
            // To the beginning of the table's first line, and all below it cleared.
            let _ = write!(out, "\x1b[{up}F\x1b[J");
        }
        for line in news
            .iter()
            .map(|line| cut(line, columns()))
            .chain(table.iter().cloned())
        {
            let _ = writeln!(out, "{line}");
        }
        let _ = out.flush();
        self.drawn = table;
    }
}

fn cut(line: &str, columns: usize) -> String {
    line.chars().take(columns.saturating_sub(1)).collect()
}

fn columns() -> usize {
    rustix::termios::tcgetwinsize(std::io::stdout()).map_or(80, |size| usize::from(size.ws_col.max(20)))
}
