//! One step of a command: a program that runs in front of the reader, named and timed, and stopped when we are.

use std::fmt::Display;
use std::io::{self, Read, Write as _};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::child::{spawn, typed};
use crate::error::{Context, Error, Result};
use crate::signals;

/// How long a program may take to stop when it is asked to.
const GRACE: Duration = Duration::from_secs(15);

/// Runs the program with our own output, and fails when it fails.
///
/// # Errors
/// When it cannot be started, fails, or we are told to stop. The message holds the command.
pub fn run(name: &str, command: Command) -> Result<()> {
    timed(name, || finish(name, command, false).map(drop))
}

/// As [`run`], and hands back what the program wrote to stdout.
///
/// # Errors
/// As [`run`].
pub fn output(name: &str, command: Command) -> Result<String> {
    timed(name, || finish(name, command, true))
}

/// Runs a short program without a word, unless it fails, and hands back what it wrote to stdout.
///
/// # Errors
/// As [`run`].
pub fn quiet(name: &str, command: Command) -> Result<String> {
    finish(name, command, true)
}

/// Does something of ours as a named and timed step.
///
/// # Errors
/// Whatever `work` fails with.
pub fn timed<T>(name: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    eprintln!("==> {name}");
    let started = Instant::now();
    let outcome = work();
    let word = if outcome.is_ok() { "ok" } else { "FAILED" };
    eprintln!("==> {name}: {word} after {:.1} s", started.elapsed().as_secs_f64());
    outcome
}

/// Tells the reader something. That nobody reads it is no reason to fail half-way.
pub fn say(text: impl Display) {
    let _ = writeln!(io::stdout(), "{text}");
}

fn finish(name: &str, mut command: Command, capture: bool) -> Result<String> {
    signals::install()?;
    let shown = typed(&command);
    command.stdin(Stdio::null());
    if capture {
        command.stdout(Stdio::piped());
    }
    let mut child = spawn(command).context(|| format!("{name}: cannot start `{shown}`"))?;
    let reader = child.stdout.take().map(|mut stdout| {
        thread::spawn(move || {
            let mut text = Vec::new();
            stdout
                .read_to_end(&mut text)
                .map(|_| String::from_utf8_lossy(&text).into_owned())
        })
    });
    let status = wait(name, &mut child)?;
    let text = match reader {
        None => String::new(),
        Some(reader) => match reader.join() {
            Ok(text) => text.context(|| format!("{name}: cannot read what `{shown}` printed"))?,
            Err(_) => return Err(Error::new(format!("{name}: the thread that read its output failed"))),
        },
    };
    if status.success() {
        return Ok(text);
    }
    Err(Error::new(format!(
        "{name} failed ({status}). To see it alone, run: {shown}"
    )))
}

/// Waits for the child. When we are told to stop, so is the child, and it is not waited for without end.
fn wait(name: &str, child: &mut Child) -> Result<ExitStatus> {
    let mut told: Option<(Instant, bool)> = None;
    loop {
        if let Some(status) = child
            .try_wait()
            .context(|| format!("{name}: cannot wait for its program"))?
        {
            return match signals::received() {
                Some(signal) => Err(Error::new(format!("{name}: stopped by {signal}"))),
                None => Ok(status),
            };
        }
        match told {
            None => {
                if let Some(signal) = signals::received() {
                    // Ctrl-c on a terminal has reached the child as well: a second signal would cut its own clean end
                    // short.
                    let first = signal != "ctrl-c";
                    if first {
                        signal_child(child, Signal::TERM);
                    }
                    told = Some((Instant::now(), first));
                }
            }
            Some((since, false)) if since.elapsed() > GRACE / 2 => {
                signal_child(child, Signal::TERM);
                told = Some((since, true));
            }
            Some((since, _)) if since.elapsed() > GRACE => signal_child(child, Signal::KILL),
            Some(_) => {}
        }
        thread::sleep(Duration::from_millis(10));
    }
}

fn signal_child(child: &Child, signal: Signal) {
    // The child is not reaped yet, so that its number is still its own. It may have ended: then there is nothing to do.
    let _ = kill_process(Pid::from_child(child), signal);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::child::{Orphan, bound};

    #[test]
    fn a_failure_names_its_command() {
        let mut command = bound("sh", Orphan::Kill);
        command.args(["-c", "exit 3"]).env("WHY", "a test");
        let error = quiet("the step", command).unwrap_err().to_string();
        assert!(error.contains("the step failed (exit status: 3)"), "{error}");
        assert!(error.contains("WHY='a test' sh -c 'exit 3'"), "{error}");
    }

    #[test]
    fn output_is_handed_back() {
        let mut command = bound("sh", Orphan::Kill);
        command.args(["-c", "echo one; echo two"]);
        assert_eq!(quiet("the step", command).unwrap(), "one\ntwo\n");
    }
}
