//! Starting a program: it does not outlive us, and a failure names it as one could type it.

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::OnceLock;
use std::sync::mpsc::{Sender, channel};
use std::thread;

/// The signal that a child gets when we die without having stopped it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Orphan {
    /// It is killed.
    Kill,
    /// It is asked to end, because it has children of its own to look after.
    Terminate,
}

/// A command for [`spawn`] whose process does not outlive ours, even when we are killed: nothing of a run stays behind.
///
/// Needs `setpriv` of util-linux; without it the command is a plain one.
pub fn bound(program: impl AsRef<OsStr>, orphan: Orphan) -> Command {
    static SETPRIV: OnceLock<Option<PathBuf>> = OnceLock::new();
    let Some(setpriv) = SETPRIV.get_or_init(|| crate::which::on_path("setpriv")) else {
        return Command::new(program);
    };
    let mut command = Command::new(setpriv);
    let signal = match orphan {
        Orphan::Kill => "KILL",
        Orphan::Terminate => "TERM",
    };
    command.args(["--pdeathsig", signal, "--"]).arg(program);
    command
}

/// The program and arguments of a command, without what [`bound`] put before them.
pub fn unbound(command: &Command) -> Vec<&OsStr> {
    let words: Vec<_> = std::iter::once(command.get_program())
        .chain(command.get_args())
        .collect();
    if words.get(1).is_some_and(|word| *word == "--pdeathsig") {
        words[4..].to_vec()
    } else {
        words
    }
}

/// Starts a [`bound`] command.
///
/// The system sends the signal of [`bound`] when the *thread* that started the child ends. Therefore one thread, which
/// lives as long as the process, starts them all.
///
/// # Errors
/// When it cannot be started.
pub fn spawn(command: Command) -> io::Result<Child> {
    type Request = (Command, Sender<io::Result<Child>>);
    static STARTER: OnceLock<Sender<Request>> = OnceLock::new();
    let starter = STARTER.get_or_init(|| {
        let (requests, todo) = channel::<Request>();
        thread::spawn(move || {
            for (mut command, answer) in todo {
                let _ = answer.send(command.spawn());
            }
        });
        requests
    });
    let (answer, answered) = channel();
    let gone = || io::Error::other("the thread that starts processes has ended");
    starter.send((command, answer)).map_err(|_| gone())?;
    answered.recv().map_err(|_| gone())?
}

/// The command as one could type it.
pub fn typed(command: &Command) -> String {
    let mut words = Vec::new();
    for (name, value) in command.get_envs() {
        if let Some(value) = value {
            words.push(format!(
                "{}={}",
                name.to_string_lossy(),
                quoted(&value.to_string_lossy())
            ));
        }
    }
    let mut plain = unbound(command).into_iter();
    if let Some(program) = plain.next().map(Path::new) {
        // Cargo names itself to us by its full path.
        let cargo = program.file_name().filter(|name| *name == "cargo");
        words.push(quoted(&cargo.unwrap_or(program.as_os_str()).to_string_lossy()));
    }
    words.extend(plain.map(|word| quoted(&word.to_string_lossy())));
    words.join(" ")
}

fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,+@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}
