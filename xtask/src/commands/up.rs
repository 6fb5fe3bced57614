//! `cargo xtask up`: three etcd members and three curators with TLS on this machine, and who leads them.

use std::env;
use std::fs::{self, File};
use std::io::{IsTerminal, Write as _};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use board::{Board, Calls, State};
use calls::Caller;
use curator_harness::checkout::root;
use curator_harness::error::{Context, Error, Result};
use curator_harness::{Deadline, EtcdBinaries, Event, TempDir, curator, etcd, signals, step};
use running::{Programs, Running};

use crate::args::Args;
use crate::command::Command;
use crate::tools::etcd::{Want, select};
use crate::tools::protoc;
use crate::workspace::{CURATOR, CURATORCTL, build, build_shipped};

pub mod board;
pub mod calls;
pub mod running;

/// The command.
pub const COMMAND: Command = Command {
    name: "up",
    summary: "starts three etcd members and three curators, calls them, and shows who leads and answers",
    help: "Usage: cargo xtask up [--ttl 5s] [--etcd WHICH | --embedded] [--debug] [--for 20s]

Builds curator and curatorctl as users get them, and makes a cluster in target/up: its authority, its owner, three nodes with
their certificates, three etcd members on free ports of 127.0.0.1, and a context of curatorctl in target/up/curatorctl.toml.
Then starts the three instances with TLS, prints five commands to try, calls each instance as the owner all the time, and
shows who leads and who answers until ctrl-c stops all of it: a call through a follower is answered by the leader. What is
missing is brought as by `cargo xtask setup`. A curator that you kill is started again ten seconds later.

  --ttl DURATION  how long the election waits for a leader that died (default 5s)
  --etcd WHICH    the version of etcd; by default the first at hand
  --embedded      no etcd: one curator alone, with its state in a directory, the quickest way in
  --debug         builds without optimization, which is quicker where that has been built before
  --for DURATION  stops by itself after that time

CURATOR_BIN, CURATORCTL_BIN and CURATOR_ETCD_DIR name programs that there are already, as in the integration tests.",
    run,
};

/// How long a curator may take to resign and end.
const GRACE: Duration = Duration::from_secs(8);
/// A killed curator is started again after this long: time enough to see another one take over.
const AGAIN: Duration = Duration::from_secs(10);
const TICK: Duration = Duration::from_millis(100);

fn run(mut args: Args) -> Result<()> {
    let ttl = args.duration("--ttl")?.unwrap_or(Duration::from_secs(5));
    let want = Want::read_one(args.value("--etcd")?.as_deref())?;
    let limit = args.duration("--for")?;
    let embedded = args.flag("--embedded");
    let build = if args.flag("--debug") { build } else { build_shipped };
    args.finish(0)?;
    if embedded && want != Want::First {
        return Err(Error::usage(
            "`up` runs one etcd: give `--etcd`, or `--embedded` for none",
        ));
    }
    signals::install()?;
    let etcd = match embedded {
        true => None,
        false if want == Want::First && env::var_os(etcd::DIRECTORY).is_some() => Some(EtcdBinaries::from_env()?),
        false => select(&want)?.into_iter().next().map(|found| found.binaries),
    };
    let there = env::var_os(curator::BINARY).is_some() && env::var_os(curator::CTL).is_some();
    let programs = if there {
        Programs {
            curator: curator::binary_from_env()?,
            ctl: curator::ctl_from_env()?,
        }
    } else {
        protoc::ensure()?;
        Programs {
            curator: build(CURATOR)?,
            ctl: build(CURATORCTL)?,
        }
    };
    let _alone = alone()?;
    let scratch = TempDir::anew(&root().join("target").join("up"))?;
    let outcome = (|| {
        let (notify, events) = channel();
        let mut running = Running::start(programs, etcd.as_ref(), &scratch, ttl, &notify)?;
        running.name_leader()?;
        introduce(&running, &scratch, ttl);
        let shown = play(&mut running, &events, limit);
        let stopped = stop(running);
        shown.and(stopped)
    })();
    if outcome.is_err() && signals::received().is_none() {
        scratch.keep();
    }
    outcome
}

/// Nobody else runs this in the same checkout as long as the file is held.
fn alone() -> Result<File> {
    let path = root().join("target").join("up.lock");
    let file = File::create(&path).context(|| format!("cannot create {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(fs::TryLockError::WouldBlock) => Err(Error::new("another `cargo xtask up` runs here: stop it first")),
        Err(fs::TryLockError::Error(error)) => Err(error).context(|| format!("cannot lock {}", path.display())),
    }
}

fn introduce(running: &Running, scratch: &TempDir, ttl: Duration) {
    step::say("");
    for (etcd, member) in running
        .etcd
        .iter()
        .flat_map(|etcd| (0..etcd.len()).map(move |member| (etcd, member)))
    {
        step::say(format_args!(
            "etcd-{}     {}  pid {}",
            member + 1,
            etcd.client_url(member),
            etcd.pid(member).unwrap_or_default()
        ));
    }
    for curator in &running.curators {
        let page = curator.observe_address();
        step::say(format_args!(
            "{}  {}  pid {}  {}{}",
            curator.name(),
            curator.address(),
            curator.pid(),
            curator.node_id(),
            page.map(|page| format!("  http://{page}/")).unwrap_or_default()
        ));
    }
    step::say(format_args!("logs       {}", scratch.logs().display()));
    step::say("");
    let (setup, [status, nodes, third, kill, wait]) = running.next_commands();
    let why = match running.etcd {
        Some(_) => [
            "the leader hands over, and no call fails".to_owned(),
            format!("kills the leader: another one leads within the TTL of {ttl:?} and a second"),
        ],
        None => [
            "the only instance: it is not highly available".to_owned(),
            "kills it: nothing acknowledged is lost; it is started again and leads at once".to_owned(),
        ],
    };
    let [third_does, kill_does] = &why;
    step::say("In another terminal:");
    step::say(format_args!("  {setup}"));
    for (command, does) in [
        (&status, "each instance, and what it finds"),
        (&nodes, "the nodes of the cluster"),
        (&third, third_does),
        (&kill, kill_does),
        (&wait, "waits until one leads and all answer"),
    ] {
        step::say(format_args!("  {command}    # {does}"));
    }
    step::say("Ctrl-c stops everything, and removes it.");
    step::say("");
}

/// Calls each instance, and shows how that goes, until we are told to stop or the time is over.
///
/// # Errors
/// When an instance that has ended cannot be started again.
pub fn play(running: &mut Running, events: &Receiver<(String, Event)>, limit: Option<Duration>) -> Result<()> {
    let (told, calls) = channel();
    let callers: Vec<_> = running
        .curators
        .iter()
        .map(|curator| {
            let address = curator.address().to_string();
            let (ctl, config) = (running.ctl().to_owned(), running.config());
            Caller::start(ctl, config, curator.name().to_owned(), address, told.clone())
        })
        .collect();
    let shown = show(running, events, &calls, limit);
    // While the instances are there, so that what is under way is answered.
    drop(callers);
    shown
}

/// Shows who leads until we are told to stop or the time is over.
fn show(
    running: &mut Running,
    events: &Receiver<(String, Event)>,
    calls: &Receiver<(String, Calls)>,
    limit: Option<Duration>,
) -> Result<()> {
    let terminal = std::io::stdout().is_terminal();
    let started = Instant::now();
    let end = limit.map(Deadline::after);
    let mut board = Board::new(
        running
            .curators
            .iter()
            .map(|curator| (curator.name().to_owned(), curator.node_id().to_owned(), curator.pid()))
            .collect(),
        started,
    );
    let mut painter = Painter::new(terminal);
    let mut again: Vec<Option<Deadline>> = running.curators.iter().map(|_| None).collect();
    // What they said before anybody looked is told by their role.
    while events.try_recv().is_ok() {}
    for curator in &running.curators {
        if let Some(role) = curator.role() {
            board.change(curator.name(), State::Role(role), started);
        }
    }
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
        for (name, mut second) in calls.try_iter() {
            let called = running.curators.iter().find(|curator| curator.name() == name);
            if let Some(curator) = called {
                second.by = running.answers_for(curator);
                board.calls(&name, second, Instant::now());
            }
        }
        running.name_leader()?;
        for curator in &running.curators {
            board.paused(curator.name(), curator.process().is_paused(), Instant::now());
        }
        for (curator, again) in running.curators.iter_mut().zip(&mut again) {
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
fn stop(running: Running) -> Result<()> {
    let seen = signals::count();
    for curator in &running.curators {
        // A paused one must wake up to end, and one that has ended already is just as well.
        let _ = curator.resume();
        let _ = curator.terminate();
    }
    let deadline = Deadline::after(GRACE);
    let mut late = Vec::new();
    for curator in &running.curators {
        while curator.process().is_running() && !deadline.passed() && signals::count() == seen {
            thread::sleep(Duration::from_millis(10));
        }
        if curator.process().is_running() {
            late.push(curator.name().to_owned());
        }
    }
    // Dropping kills what is still there. etcd is not asked: members that stop together wait long for each other, and
    // their data goes now.
    drop(running);
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
