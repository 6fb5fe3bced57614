//! An instance under a service manager: what it is told through the socket that it gives, and what SIGHUP does.

#![allow(clippy::unwrap_used, reason = "a scenario that cannot go on has failed")]

use std::io::ErrorKind;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::time::Duration;

use curator_harness::{CuratorOptions, CuratorProcess, Deadline, Event, Mark, TempDir};
use rustix::process::Signal;

const SOON: Duration = Duration::from_secs(20);

/// The manager's end.
struct Manager {
    socket: UnixDatagram,
    path: PathBuf,
}

impl Manager {
    fn new(scratch: &TempDir) -> Self {
        let path = scratch.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        Self { socket, path }
    }

    /// The next message, if one comes within that time.
    fn hear(&self, within: Duration) -> Option<Vec<String>> {
        let mut bytes = [0; 4_096];
        self.socket.set_read_timeout(Some(within)).unwrap();
        match self.socket.recv(&mut bytes) {
            Ok(length) => {
                let text = std::str::from_utf8(&bytes[..length]).unwrap();
                Some(text.lines().map(str::to_owned).collect())
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => None,
            Err(error) => panic!("{error}"),
        }
    }

    /// The messages up to the first with a line that is wanted, that one included.
    fn hear_until(&self, what: &str, wanted: impl Fn(&str) -> bool) -> Vec<Vec<String>> {
        let deadline = Deadline::after(SOON);
        let mut heard = Vec::new();
        while !deadline.passed() {
            let Some(message) = self.hear(SOON) else { break };
            let found = message.iter().any(|line| wanted(line));
            heard.push(message);
            if found {
                return heard;
            }
        }
        panic!("{what} is not among {heard:?}")
    }
}

/// An instance without etcd, which leads alone, with a file and more arguments.
fn start(scratch: &TempDir, config: &str, args: &[&str], env: &[(&str, &str)]) -> (CuratorProcess, PathBuf) {
    let path = scratch.path().join("curator.toml");
    std::fs::write(&path, config).unwrap();
    let state = scratch.path().join("state").display().to_string();
    let mut options = CuratorOptions::new(1, Vec::new());
    options.extra_args = ["--embedded", &state, "--config", path.to_str().unwrap()]
        .into_iter()
        .chain(args.iter().copied())
        .map(str::to_owned)
        .collect();
    options.env = env
        .iter()
        .map(|(name, value)| ((*name).into(), (*value).into()))
        .collect();
    let binary = Path::new(env!("CARGO_BIN_EXE_curator"));
    (CuratorProcess::start(binary, scratch, options).unwrap(), path)
}

fn leads(curator: &CuratorProcess) {
    curator
        .wait_for_role(Mark::START, SOON, "to lead", |role| role.is_leader())
        .unwrap();
}

/// Sends SIGHUP and waits for an event that comes of it.
fn hangup(curator: &CuratorProcess, what: &str, wanted: impl Fn(&Event) -> bool) -> (Mark, Event) {
    let mark = curator.mark();
    curator.process().signal(Signal::HUP).unwrap();
    let event = curator.wait_for(mark, SOON, what, wanted).unwrap();
    (mark, event)
}

fn says(message: &'static str) -> impl Fn(&Event) -> bool {
    move |event| event.message() == Some(message)
}

const READ: &str = "configuration reloaded";
const REFUSED: &str = "configuration rejected: the current one stays in use";
const RESTART: &str = "configuration change needs a restart";

/// Puts a file in the place of another, whole: an instance may read it at any moment.
fn replace(path: &Path, text: &str) {
    let beside = path.with_extension("new");
    std::fs::write(&beside, text).unwrap();
    std::fs::rename(beside, path).unwrap();
}

#[test]
fn sighup_takes_the_log_filter_and_says_what_needs_a_restart() {
    let scratch = TempDir::new("sighup").unwrap();
    let manager = Manager::new(&scratch);
    let env = [("NOTIFY_SOCKET", manager.path.to_str().unwrap())];
    let (curator, path) = start(&scratch, "log-filter = \"info\"\n", &[], &env);
    leads(&curator);
    hangup(&curator, "the file to be read", says(READ));
    let debug = |event: &Event| event.text_of("level") == Some("DEBUG");
    assert!(
        !curator.events_since(Mark::START).iter().any(debug),
        "nothing of it before"
    );

    // Another filter: from now on there is what there was not.
    replace(
        &path,
        "log-filter = \"info,curator=trace,curator_service=trace\"\ngrace = \"9s\"\n",
    );
    let (mark, changed) = hangup(&curator, "another filter", says("log filter changed"));
    assert_eq!(changed.text_of("from"), Some("info"));
    let restart = curator
        .wait_for(mark, SOON, "what needs a restart", says(RESTART))
        .unwrap();
    let field = |name| restart.text_of(name);
    assert_eq!(
        (field("key"), field("from"), field("to")),
        (Some("grace"), Some("5s"), Some("9s"))
    );
    curator.wait_for(mark, SOON, "the file to be read", says(READ)).unwrap();
    // It is told again as long as it is so.
    let (mark, _) = hangup(&curator, "what needs a restart, again", says(RESTART));
    curator.wait_for(mark, SOON, "the file to be read", says(READ)).unwrap();

    // What cannot be is refused, and nothing of it is taken: neither the filter nor anything else.
    for (text, reason) in [
        ("log-filter = \"off\"\ngrase = \"9s\"\n", "did you mean grace?"),
        ("log-filter = \"inof\"\n", "unknown level"),
        (
            "log-filter = \"off\"\nadvertise = \"nowhere\"\ngrace = ",
            "invalid TOML",
        ),
        (
            "log-filter = \"off\"\netcd-endpoints = \"http://127.0.0.1:1\"\n",
            "cannot be used with",
        ),
    ] {
        replace(&path, text);
        let (mark, refused) = hangup(&curator, "the refusal", says(REFUSED));
        let told = refused.text_of("reason").unwrap();
        assert!(told.contains(reason) && told.contains("curator.toml"), "{told}");
        assert!(!curator.events_since(mark).iter().any(says(READ)));
    }

    // A filter that lets little through is taken as well. That it is read is not in the log any
    // more. What was written while the old filter was in force stands before the first refusal.
    let read_silently = || {
        replace(&path, "log-filter = \"error\"\n");
        while manager.hear(Duration::from_millis(1)).is_some() {}
        curator.process().signal(Signal::HUP).unwrap();
        manager.hear_until("reloading", |line| line == "RELOADING=1");
        manager.hear_until("the file to be read", |line| line == "READY=1");
    };
    let refused = || {
        replace(&path, "log-filter = \"inof\"\n");
        hangup(&curator, "the refusal", says(REFUSED));
        curator.mark()
    };
    let before = curator.mark();
    read_silently();
    let from = refused();
    read_silently();
    refused();
    let events = curator.events_since(before);
    assert!(!events.iter().any(says(READ)), "{events:?}");
    let events = curator.events_since(from);
    assert!(!events.is_empty(), "the second refusal is one of them");
    let errors = |event: &Event| event.text_of("level") == Some("ERROR");
    assert!(events.iter().all(errors), "{events:?}");
}

#[test]
fn what_a_flag_says_stays_whatever_the_file_says() {
    let scratch = TempDir::new("sighup-flag").unwrap();
    let (curator, path) = start(&scratch, "log-filter = \"info\"\n", &["--log-filter=debug"], &[]);
    leads(&curator);
    replace(&path, "log-filter = \"error\"\nleader-ttl = \"99s\"\n");
    let (mark, _) = hangup(&curator, "the file to be read", says(READ));
    let events = curator.events_since(mark);
    assert!(!events.iter().any(says("log filter changed")), "{events:?}");
    // So does the TTL, which the harness gives as a flag.
    assert!(!events.iter().any(says(RESTART)), "{events:?}");
}

#[test]
fn what_no_key_by_itself_tells_is_refused_as_well() {
    let scratch = TempDir::new("sighup-whole").unwrap();
    let path = scratch.path().join("curator.toml");
    replace(&path, "etcd-endpoints = \"http://127.0.0.1:9\"\n");
    let mut options = CuratorOptions::new(1, Vec::new());
    options.extra_args = vec!["--config".into(), path.display().to_string()];
    let binary = Path::new(env!("CARGO_BIN_EXE_curator"));
    let curator = CuratorProcess::start(binary, &scratch, options).unwrap();
    curator
        .wait_for(Mark::START, SOON, "its start", says("starting"))
        .unwrap();
    for (text, reason) in [
        (
            "etcd-endpoints = \"127.0.0.1:9\"\nlog-filter = \"off\"\n",
            "invalid etcd endpoint",
        ),
        ("log-filter = \"off\"\n", "required arguments were not provided"),
    ] {
        replace(&path, text);
        let (_, refused) = hangup(&curator, "the refusal", says(REFUSED));
        let told = refused.text_of("reason").unwrap();
        assert!(told.contains(reason), "{told}");
    }
    std::fs::remove_file(&path).unwrap();
    let (_, refused) = hangup(&curator, "the refusal", says(REFUSED));
    assert!(refused.text_of("reason").unwrap().contains("cannot read"));
    // Nothing of it was taken: it still says what is no error.
    replace(&path, "etcd-endpoints = \"http://127.0.0.1:8\"\n");
    let (_, restart) = hangup(&curator, "what needs a restart", says(RESTART));
    assert_eq!(restart.text_of("key"), Some("etcd-endpoints"));
}

#[test]
fn the_service_manager_is_told_of_every_step() {
    let scratch = TempDir::new("notify").unwrap();
    let manager = Manager::new(&scratch);
    let env = [
        ("NOTIFY_SOCKET", manager.path.to_str().unwrap()),
        ("WATCHDOG_USEC", "200000"),
    ];
    let (curator, path) = start(&scratch, "", &[], &env);
    let heard = manager.hear_until("ready", |line| line == "READY=1");
    assert_eq!(heard.len(), 1, "nothing comes before it: {heard:?}");
    // It is served from then on.
    std::net::TcpStream::connect(curator.address()).unwrap();
    manager.hear_until("the role", |line| line.starts_with("STATUS=leader of term "));
    manager.hear_until("a sign of life", |line| line == "WATCHDOG=1");
    manager.hear_until("another one", |line| line == "WATCHDOG=1");

    // A process that is stopped gives none.
    curator.pause().unwrap();
    while manager.hear(Duration::from_millis(1)).is_some() {}
    assert_eq!(manager.hear(Duration::from_secs(1)), None);
    curator.resume().unwrap();
    manager.hear_until("a sign of life", |line| line == "WATCHDOG=1");

    for text in ["log-filter = \"info\"\n", "no such key = 1\n"] {
        replace(&path, text);
        curator.process().signal(Signal::HUP).unwrap();
        let heard = manager.hear_until("reloading", |line| line == "RELOADING=1");
        let begun = heard.last().unwrap();
        assert!(
            begun.iter().any(|line| line.starts_with("MONOTONIC_USEC=")),
            "{begun:?}"
        );
        manager.hear_until("ready again", |line| line == "READY=1");
    }

    curator.terminate().unwrap();
    manager.hear_until("stopping", |line| line == "STOPPING=1");
    assert!(curator.wait_exit(SOON).unwrap().success());
}

#[test]
fn an_instance_without_a_leader_is_ready_all_the_same() {
    let scratch = TempDir::new("notify-leaderless").unwrap();
    let manager = Manager::new(&scratch);
    let mut options = CuratorOptions::new(1, vec!["http://127.0.0.1:9".into()]);
    options.env = vec![("NOTIFY_SOCKET".into(), manager.path.display().to_string())];
    let binary = Path::new(env!("CARGO_BIN_EXE_curator"));
    let curator = CuratorProcess::start(binary, &scratch, options).unwrap();
    let heard = manager.hear_until("ready", |line| line == "READY=1");
    assert!(heard[0][1].starts_with("STATUS=undetermined: "), "{heard:?}");
    curator.terminate().unwrap();
    curator.wait_exit(SOON).unwrap();
    // Nobody has asked for signs of life.
    while let Some(message) = manager.hear(Duration::from_millis(1)) {
        assert!(!message.contains(&"WATCHDOG=1".to_owned()), "{message:?}");
    }
}

#[test]
fn under_a_parent_the_instance_tells_and_hears() {
    let scratch = TempDir::new("notify-supervised").unwrap();
    let manager = Manager::new(&scratch);
    let path = scratch.path().join("curator.toml");
    // By the file, which the instance reads as well.
    replace(&path, "supervised = true\n");
    let mut options = CuratorOptions::new(1, vec!["http://127.0.0.1:9".into()]);
    options.extra_args = vec!["--config".into(), path.display().to_string()];
    options.env = vec![
        ("NOTIFY_SOCKET".into(), manager.path.display().to_string()),
        ("WATCHDOG_USEC".into(), "200000".into()),
    ];
    let binary = Path::new(env!("CARGO_BIN_EXE_curator"));
    let curator = CuratorProcess::start(binary, &scratch, options).unwrap();
    curator
        .wait_for(Mark::START, SOON, "the parent", says("instance started"))
        .unwrap();
    manager.hear_until("ready", |line| line == "READY=1");
    manager.hear_until("a sign of life", |line| line == "WATCHDOG=1");
    replace(&path, "supervised = true\nlog-filter = \"debug\"\n");
    hangup(&curator, "another filter", says("log filter changed"));
    curator.terminate().unwrap();
    manager.hear_until("stopping", |line| line == "STOPPING=1");
    assert!(curator.wait_exit(SOON).unwrap().success());
}

/// An instance that cannot begin, for whatever passes at a time that nobody can foresee, is started again without end,
/// and not before the clock is set where something sets it.
#[test]
fn the_unit_waits_for_the_clock_and_never_gives_up() {
    let unit = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/systemd/curator.service");
    let unit = std::fs::read_to_string(unit).unwrap();
    let section = |name: &str| {
        unit.split("\n[")
            .find(|part| part.contains(&format!("{name}]\n")))
            .unwrap()
    };
    let says = |section: &str, key: &str, value: &str| {
        section
            .lines()
            .filter_map(|line| line.strip_prefix(key)?.strip_prefix('='))
            .any(|said| said.split(' ').any(|word| word == value))
    };
    // That key is one of [Unit]; elsewhere it is passed over.
    assert!(says(section("Unit"), "StartLimitIntervalSec", "0"));
    assert!(says(section("Unit"), "After", "time-sync.target"));
    assert!(says(section("Service"), "Restart", "always"));
}

/// The unit sets a runtime directory whatever the store is, and calls `curator release` at the end.
#[test]
fn the_units_runtime_directory_does_no_harm_to_an_embedded_store() {
    let scratch = TempDir::new("unit-embedded").unwrap();
    let runtime = scratch.dir("run").unwrap();
    let env = [("CURATOR_RUNTIME_DIR", runtime.to_str().unwrap())];
    let (curator, _) = start(&scratch, "", &[], &env);
    leads(&curator);
    curator.kill().unwrap();
    let mut release = std::process::Command::new(env!("CARGO_BIN_EXE_curator"));
    release
        .arg("release")
        .env("CURATOR_EMBEDDED", scratch.path().join("state"))
        .env("CURATOR_RUNTIME_DIR", &runtime);
    let released = curator_harness::process::run(release, SOON).unwrap();
    assert!(released.status.success(), "{released:?}");
    assert!(released.stdout.contains("revoked 0 leases"), "{released:?}");
}
