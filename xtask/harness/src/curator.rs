//! A `curator` process: its log read as events, its role as last logged, its signals.

use std::env;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::clock::Deadline;
use super::hosts::Host;
use super::http;
use super::journal::{Journal, Mark};
use super::lines::Line;
use super::ports::Port;
use super::process::{Capture, Process, ProcessSpec};
use super::process_timeline::ProcessTimeline;
use super::proxy::{Rules, TcpProxy};
use super::temp_dir::TempDir;
use crate::error::{Error, Result};
use crate::timeline::Life;

/// The path of the binary under test, as `cargo xtask integration` passes it to the tests.
pub const BINARY: &str = "CURATOR_BIN";
/// The path of `curatorctl`.
pub const CTL: &str = "CURATORCTL_BIN";
/// The path of the program that embeds the service, with a leader's service that can be called.
pub const EMBEDDING: &str = "CURATOR_EMBED_BIN";

/// The path of the same program, built from an earlier commit; `cargo xtask upgrade` builds it.
pub const EMBEDDING_BEFORE: &str = "CURATOR_EMBED_BEFORE_BIN";

/// Where it listens on a host of its own: its default port.
const PORT: u16 = 7835;

/// The target of the events that tell of a change of role.
const ROLE_TARGET: &str = "curator::role";
/// How long a wait looks away from the process itself.
const SLICE: Duration = Duration::from_millis(50);

/// The binary that `cargo xtask integration` built.
///
/// # Errors
/// When the variable [`BINARY`] is not set, or names no file.
pub fn binary_from_env() -> Result<PathBuf> {
    program_from_env(BINARY)
}

/// The `curatorctl` that `cargo xtask integration` built.
///
/// # Errors
/// When the variable [`CTL`] is not set, or names no file.
pub fn ctl_from_env() -> Result<PathBuf> {
    program_from_env(CTL)
}

/// The embedding program that `cargo xtask integration` built.
///
/// # Errors
/// When the variable [`EMBEDDING`] is not set, or names no file.
pub fn embedding_from_env() -> Result<PathBuf> {
    program_from_env(EMBEDDING)
}

/// The embedding program of an earlier commit; `None` when there is none.
///
/// # Errors
/// When the variable [`EMBEDDING_BEFORE`] names no file.
pub fn embedding_before_from_env() -> Result<Option<PathBuf>> {
    env::var_os(EMBEDDING_BEFORE)
        .map(|_| program_from_env(EMBEDDING_BEFORE))
        .transpose()
}

fn program_from_env(variable: &str) -> Result<PathBuf> {
    let path = env::var_os(variable).map(PathBuf::from).ok_or_else(|| {
        Error::new(format!(
            "{variable} is not set: start these tests through `cargo xtask integration`"
        ))
    })?;
    if path.is_file() {
        Ok(path)
    } else {
        Err(Error::new(format!("{variable} names no file: {}", path.display())))
    }
}

/// A node id of the usual form, made from a number.
pub fn node_id(number: u32) -> String {
    format!("metropolis-{number:032x}")
}

/// How an instance is started.
#[derive(Clone, Debug)]
pub struct CuratorOptions {
    /// The name of its log and in messages.
    pub name: String,
    /// `--node-id`; empty for what the certificate says.
    pub node_id: String,
    /// `--etcd-endpoints`; with none, `extra_args` say where the state is.
    pub etcd_endpoints: Vec<String>,
    /// `--etcd-namespace`.
    pub etcd_namespace: String,
    /// `--election-prefix`.
    pub election_prefix: String,
    /// `--leader-ttl`.
    pub leader_ttl: Duration,
    /// Whether others reach it through a proxy, so that they can be cut off from it: `--advertise`.
    pub behind_proxy: bool,
    /// What rules the connections of that proxy, where who opened them counts.
    pub proxy_rules: Option<Rules>,
    /// The directory of its credentials; without, `--insecure-loopback-only`.
    pub credentials: Option<PathBuf>,
    /// A host of its own; without, it is on loopback.
    pub host: Option<Host>,
    /// More arguments.
    pub extra_args: Vec<String>,
    /// More environment.
    pub env: Vec<(String, String)>,
    /// Gets each event with the name of the instance.
    pub notify: Option<Sender<(String, Event)>>,
}

impl CuratorOptions {
    /// Instance number so-and-so at these endpoints: production's namespace and prefix, a TTL of 5 s.
    pub fn new(number: u32, etcd_endpoints: Vec<String>) -> Self {
        Self {
            name: format!("curator-{number}"),
            node_id: node_id(number),
            etcd_endpoints,
            etcd_namespace: "namespaced:curator".to_owned(),
            election_prefix: "/leader".to_owned(),
            leader_ttl: Duration::from_secs(5),
            behind_proxy: false,
            proxy_rules: None,
            credentials: None,
            host: None,
            extra_args: Vec::new(),
            env: Vec::new(),
            notify: None,
        }
    }

    /// With another TTL.
    #[must_use]
    pub fn leader_ttl(mut self, ttl: Duration) -> Self {
        self.leader_ttl = ttl;
        self
    }
}

/// What an instance says it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Role {
    /// It neither leads nor knows who does.
    Undetermined,
    /// It follows another one.
    Follower {
        /// The leader's node id.
        leader: String,
        /// The leader's address, if it is known.
        leader_address: Option<String>,
        /// The key that the leader holds, as it was logged.
        lock_key: String,
        /// The revision at which that key was made.
        lock_revision: i64,
    },
    /// It leads.
    Leader {
        /// The key that it holds, as it was logged.
        lock_key: String,
        /// The revision at which that key was made.
        lock_revision: i64,
    },
}

impl Role {
    /// Whether it leads.
    pub fn is_leader(&self) -> bool {
        matches!(self, Self::Leader { .. })
    }

    /// Whether it follows, and whom.
    pub fn follows(&self) -> Option<&str> {
        match self {
            Self::Follower { leader, .. } => Some(leader),
            _ => None,
        }
    }

    /// The revision of the leader's key, as leader or follower.
    pub fn lock_revision(&self) -> Option<i64> {
        match self {
            Self::Undetermined => None,
            Self::Follower { lock_revision, .. } | Self::Leader { lock_revision, .. } => Some(*lock_revision),
        }
    }
}

/// One line of an instance's log.
#[derive(Clone, Debug)]
pub struct Event {
    /// When it was read: the moment of the event and a little more.
    pub at: Instant,
    /// How often the instance had been started by then: 1 for the first run.
    pub run: u32,
    /// The line's fields; null when the line was not JSON.
    pub fields: Value,
    /// The line.
    pub text: String,
}

/// A change of role that was logged.
#[derive(Clone, Debug)]
pub struct RoleChange {
    /// When it was read.
    pub at: Instant,
    /// In which run.
    pub run: u32,
    /// The role from then on.
    pub role: Role,
    /// Why, if that was said.
    pub reason: Option<String>,
    /// The time that the instance itself wrote.
    pub timestamp: Option<String>,
}

impl Event {
    fn read(run: u32, line: Line) -> Self {
        let fields = serde_json::from_str(&line.text).unwrap_or(Value::Null);
        Self {
            at: line.at,
            run,
            fields,
            text: line.text,
        }
    }

    /// A field that is text.
    pub fn text_of(&self, field: &str) -> Option<&str> {
        self.fields[field].as_str()
    }

    /// Where in the program it was logged.
    pub fn target(&self) -> Option<&str> {
        self.text_of("target")
    }

    /// What was logged.
    pub fn message(&self) -> Option<&str> {
        self.text_of("message")
    }

    /// The change of role that it tells of, if it does.
    pub fn role_change(&self) -> Option<RoleChange> {
        if self.target() != Some(ROLE_TARGET) {
            return None;
        }
        let text = |field| self.text_of(field).map(str::to_owned);
        let lock_key = || text("lock_key").unwrap_or_default();
        let lock_revision = || number(&self.fields["lock_revision"]).unwrap_or_default();
        let role = match self.text_of("role")? {
            "undetermined" => Role::Undetermined,
            "leader" => Role::Leader {
                lock_key: lock_key(),
                lock_revision: lock_revision(),
            },
            "follower" => Role::Follower {
                leader: text("leader")?,
                leader_address: text("leader_address"),
                lock_key: lock_key(),
                lock_revision: lock_revision(),
            },
            _ => return None,
        };
        Some(RoleChange {
            at: self.at,
            run: self.run,
            role,
            reason: text("reason"),
            timestamp: text("timestamp"),
        })
    }
}

/// A logged number, which may be written as text.
fn number(value: &Value) -> Option<i64> {
    value.as_i64().or_else(|| value.as_str()?.parse().ok())
}

/// A time in which an instance led.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Led {
    /// From when on.
    pub from: Instant,
    /// Until when, if it has ended.
    pub to: Option<Instant>,
    /// The lock revision of the term.
    pub lock_revision: i64,
}

/// A running instance. It is killed when it is dropped.
#[derive(Debug)]
pub struct CuratorProcess {
    options: CuratorOptions,
    spec: ProcessSpec,
    process: Process,
    run: u32,
    events: Arc<Journal<Event>>,
    lives: ProcessTimeline,
    port: Port,
    proxy: Option<TcpProxy>,
    scratch: TempDir,
}

impl CuratorProcess {
    /// Starts the binary on a free port.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(binary: &Path, scratch: &TempDir, options: CuratorOptions) -> Result<Self> {
        let port = match &options.host {
            Some(host) => Port::of(host, PORT),
            None => Port::reserve()?,
        };
        let address = port.address().to_string();
        let proxy = match (options.behind_proxy, &options.proxy_rules) {
            (true, None) => Some(TcpProxy::start(port.address())?),
            (true, Some(Rules { faults, choose })) => {
                let (faults, choose) = (Arc::clone(faults), Arc::clone(choose));
                Some(TcpProxy::with_chooser(
                    Port::reserve()?,
                    port.address(),
                    faults,
                    choose,
                )?)
            }
            (false, _) => None,
        };
        let advertise = proxy
            .as_ref()
            .map_or_else(|| address.clone(), |proxy| proxy.address().to_string());
        let spec = ProcessSpec::new(&options.name, binary)
            .args(["serve"])
            .args(match &options.node_id[..] {
                "" => vec![],
                id => vec!["--node-id", id],
            })
            .args(match &options.etcd_endpoints[..] {
                [] => Vec::new(),
                endpoints => vec!["--etcd-endpoints".to_owned(), endpoints.join(",")],
            })
            .args([
                "--etcd-namespace",
                &options.etcd_namespace,
                "--election-prefix",
                &options.election_prefix,
            ])
            .args([
                "--leader-ttl",
                &duration_text(options.leader_ttl),
                "--listen",
                &address,
                "--advertise",
                &advertise,
            ])
            .args(match &options.credentials {
                Some(directory) => vec!["--credentials".to_owned(), directory.display().to_string()],
                None => vec!["--insecure-loopback-only".to_owned()],
            })
            .args(["--log-format", "json"])
            .args(&options.extra_args)
            // Several run on one host, each with a port of its own.
            .env("CURATOR_OBSERVE", "127.0.0.1:0")
            .capture(Capture::Stderr);
        let spec = options
            .env
            .iter()
            .fold(spec, |spec, (name, value)| spec.env(name, value))
            .on(options.host.as_ref());
        let events = Arc::new(Journal::default());
        let process = launch(&spec, scratch, &options, &events, 1)?;
        let lives = ProcessTimeline::default();
        lives.becomes(Life::Up);
        Ok(Self {
            options,
            spec,
            process,
            run: 1,
            events,
            lives,
            port,
            proxy,
            scratch: scratch.clone(),
        })
    }

    /// Starts it again, with the same arguments and on the same port. It is killed first when it still runs.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn restart(&mut self) -> Result<()> {
        self.process.kill()?;
        self.run += 1;
        self.process = launch(&self.spec, &self.scratch, &self.options, &self.events, self.run)?;
        self.lives.becomes(Life::Up);
        Ok(())
    }

    /// Starts another program in its place, such as a newer version of it. It is killed first when it still runs.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn restart_as(&mut self, program: &Path) -> Result<()> {
        self.spec = self.spec.clone().program(program);
        self.restart()
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.options.name
    }

    /// Its node id.
    pub fn node_id(&self) -> &str {
        &self.options.node_id
    }

    /// The proxy that others reach it through.
    ///
    /// # Errors
    /// When it was started without one.
    pub fn proxy(&self) -> Result<&TcpProxy> {
        self.proxy
            .as_ref()
            .ok_or_else(|| Error::new(format!("{} was started without a proxy before it", self.name())))
    }

    /// Where it listens, and what it advertises unless it is behind a proxy.
    pub fn address(&self) -> SocketAddr {
        self.port.address()
    }

    /// Where it is looked at in this run, once it has said so.
    pub fn observe_address(&self) -> Option<SocketAddr> {
        let said = |event: &Event| event.run == self.run && event.text_of("observe").is_some();
        self.events.last(said)?.text_of("observe")?.parse().ok()
    }

    /// What it answers there at a path, such as `/status.json`: the status, and the body.
    ///
    /// # Errors
    /// It has not said where that is, or does not answer in time.
    pub fn observed(&self, path: &str, within: Duration) -> Result<(u16, String)> {
        let address = self.observe_address();
        let address =
            address.ok_or_else(|| Error::new(format!("{} does not say where it is looked at", self.name())))?;
        http::get(address, path, within)
    }

    /// How it was started.
    pub fn options(&self) -> &CuratorOptions {
        &self.options
    }

    /// The number of its process.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Its log.
    pub fn log(&self) -> &Path {
        self.process.log()
    }

    /// Its process, for signals and waits.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// Asks it to resign and end (SIGTERM).
    ///
    /// # Errors
    /// When it has ended.
    pub fn terminate(&self) -> Result<()> {
        self.process.terminate()?;
        self.lives.becomes(Life::Ending);
        Ok(())
    }

    /// Kills it (SIGKILL) and waits until it is gone.
    ///
    /// # Errors
    /// When the system does not let go of it.
    pub fn kill(&self) -> Result<ExitStatus> {
        let status = self.process.kill()?;
        self.lives.becomes(Life::Down);
        Ok(status)
    }

    /// Stops it in its tracks (SIGSTOP).
    ///
    /// # Errors
    /// When it has ended.
    pub fn pause(&self) -> Result<()> {
        self.process.pause()?;
        self.lives.becomes(Life::Paused);
        Ok(())
    }

    /// Lets it go on (SIGCONT).
    ///
    /// # Errors
    /// When it has ended.
    pub fn resume(&self) -> Result<()> {
        self.process.resume()?;
        self.lives.becomes(Life::Up);
        Ok(())
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// When it does not end in time.
    pub fn wait_exit(&self, within: Duration) -> Result<ExitStatus> {
        let status = self.process.wait_exit(within)?;
        self.lives.becomes(Life::Down);
        Ok(status)
    }

    /// How it lived.
    pub fn lives(&self) -> &ProcessTimeline {
        &self.lives
    }

    /// Where its record ends now.
    pub fn mark(&self) -> Mark {
        self.events.mark()
    }

    /// All events after the mark.
    pub fn events_since(&self, mark: Mark) -> Vec<Event> {
        self.events.since(mark)
    }

    /// All changes of role after the mark.
    pub fn roles_since(&self, mark: Mark) -> Vec<RoleChange> {
        self.events.since(mark).iter().filter_map(Event::role_change).collect()
    }

    /// The times in which it led since the mark, as far as its log tells: from the line that tells of a term, or of its
    /// resumption, to the next role or suspension.
    pub fn led_since(&self, mark: Mark) -> Vec<Led> {
        let mut led: Vec<Led> = Vec::new();
        for event in self.events.since(mark) {
            let is_open = led.last().is_some_and(|last| last.to.is_none());
            let begins = match event.role_change() {
                Some(change) => {
                    if let Some(last) = led.last_mut().filter(|_| is_open) {
                        last.to = Some(change.at);
                    }
                    change.role.lock_revision().filter(|_| change.role.is_leader())
                }
                None if event
                    .text_of("message")
                    .is_some_and(|message| message.starts_with("term suspended")) =>
                {
                    if let Some(last) = led.last_mut().filter(|_| is_open) {
                        last.to = Some(event.at);
                    }
                    None
                }
                None if event
                    .text_of("message")
                    .is_some_and(|message| message.starts_with("term resumed"))
                    && !is_open =>
                {
                    number(&event.fields["lock_revision"])
                }
                None => None,
            };
            led.extend(begins.map(|lock_revision| Led {
                from: event.at,
                to: None,
                lock_revision,
            }));
        }
        led
    }

    /// The role that it logged last, if it runs and has logged one in this run.
    pub fn role(&self) -> Option<Role> {
        if !self.process.is_running() {
            return None;
        }
        let last = self
            .events
            .last(|event| event.run == self.run && event.role_change().is_some())?;
        Some(last.role_change()?.role)
    }

    /// Waits for the first event after the mark that `wanted` picks.
    ///
    /// # Errors
    /// When there is none in time, or the process ends before.
    pub fn wait_for(&self, mark: Mark, within: Duration, what: &str, wanted: impl Fn(&Event) -> bool) -> Result<Event> {
        self.wait(mark, within, what, |event| wanted(event).then(|| event.clone()))
    }

    /// Waits for the first change of role after the mark that `wanted` picks.
    ///
    /// # Errors
    /// When there is none in time, or the process ends before.
    pub fn wait_for_role(
        &self,
        mark: Mark,
        within: Duration,
        what: &str,
        wanted: impl Fn(&Role) -> bool,
    ) -> Result<RoleChange> {
        self.wait(mark, within, what, |event| {
            event.role_change().filter(|change| wanted(&change.role))
        })
    }

    fn wait<T>(&self, mark: Mark, within: Duration, what: &str, pick: impl Fn(&Event) -> Option<T>) -> Result<T> {
        let deadline = Deadline::after(within);
        loop {
            let slice = Deadline::after(SLICE.min(deadline.remaining()));
            let ended = self.process.status();
            if ended.is_some() {
                // What it wrote last is read by then.
                self.process.wait_exit(Duration::ZERO)?;
            }
            if let Some(found) = self.events.wait(mark, slice, &pick) {
                return Ok(found);
            }
            if let Some(status) = ended {
                return Err(self.process.ended_early(status));
            }
            if deadline.passed() {
                let roles: Vec<_> = self.roles_since(mark).into_iter().map(|change| change.role).collect();
                let (name, log) = (self.name(), self.log().display());
                return Err(deadline.missed(format_args!(
                    "{what} of {name}; its roles meanwhile: {roles:?}; its log is {log}"
                )));
            }
        }
    }
}

fn launch(
    spec: &ProcessSpec,
    scratch: &TempDir,
    options: &CuratorOptions,
    events: &Arc<Journal<Event>>,
    run: u32,
) -> Result<Process> {
    let events = Arc::clone(events);
    let notify = options.notify.clone();
    let name = options.name.clone();
    Process::start_with(spec, scratch, move |line| {
        let event = Event::read(run, line);
        events.record(event.clone());
        if let Some(notify) = &notify {
            // Nobody listens any more: then nobody needs to know.
            let _ = notify.send((name.clone(), event));
        }
    })
}

fn duration_text(duration: Duration) -> String {
    match duration.subsec_millis() {
        0 => format!("{}s", duration.as_secs()),
        _ => format!("{}ms", duration.as_millis()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(text: &str) -> Event {
        Event::read(
            1,
            Line {
                at: Instant::now(),
                text: text.to_owned(),
            },
        )
    }

    #[test]
    fn roles_are_read_from_the_log() {
        let role = |text: &str| event(text).role_change().map(|change| change.role);
        assert_eq!(
            role(
                r#"{"level":"INFO","message":"role changed","role":"leader","lock_key":"k","lock_revision":42,"target":"curator::role"}"#
            ),
            Some(Role::Leader {
                lock_key: "k".to_owned(),
                lock_revision: 42
            })
        );
        let follower = role(
            r#"{"role":"follower","leader":"a","leader_address":"127.0.0.1:1","lock_key":"k","lock_revision":"7","target":"curator::role"}"#,
        );
        assert_eq!(follower.as_ref().and_then(Role::follows), Some("a"));
        assert_eq!(follower.as_ref().and_then(Role::lock_revision), Some(7));
        assert_eq!(
            role(r#"{"role":"undetermined","reason":"r","target":"curator::role"}"#),
            Some(Role::Undetermined)
        );
        assert_eq!(role(r#"{"role":"leader","target":"curator::other"}"#), None);
        assert_eq!(role("thread 'main' panicked"), None);
    }

    #[test]
    fn durations_are_written_as_the_binary_reads_them() {
        assert_eq!(duration_text(Duration::from_secs(5)), "5s");
        assert_eq!(duration_text(Duration::from_millis(1500)), "1500ms");
    }
}
