//! Ctrl-c, SIGTERM and SIGHUP as events, so that a command ends by stopping what it started.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering};
use std::thread;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::error::{Context, Error, Result};

static LAST: AtomicI32 = AtomicI32::new(0);
static COUNT: AtomicUsize = AtomicUsize::new(0);
static INSTALLED: OnceLock<()> = OnceLock::new();

/// From here on a signal is counted instead of ending the process.
///
/// # Errors
/// When the system refuses the handlers.
pub fn install() -> Result<()> {
    if INSTALLED.set(()).is_err() {
        return Ok(());
    }
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP]).context(|| "cannot listen for signals".to_owned())?;
    // The thread lives as long as the process: a signal may come at any time.
    thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            for signal in signals.forever() {
                LAST.store(signal, Ordering::SeqCst);
                COUNT.fetch_add(1, Ordering::SeqCst);
            }
        })
        .context(|| "cannot start the thread that listens for signals".to_owned())?;
    Ok(())
}

/// How many signals came.
pub fn count() -> usize {
    COUNT.load(Ordering::SeqCst)
}

/// Fails once a signal asked us to stop.
///
/// # Errors
/// With the name of the signal.
pub fn check() -> Result<()> {
    match received() {
        Some(signal) => Err(Error::new(format!("stopped by {signal}"))),
        None => Ok(()),
    }
}

/// The name of the last signal that asked us to stop, if one did.
pub fn received() -> Option<&'static str> {
    match LAST.load(Ordering::SeqCst) {
        0 => None,
        SIGINT => Some("ctrl-c"),
        SIGTERM => Some("SIGTERM"),
        SIGHUP => Some("SIGHUP"),
        _ => Some("a signal"),
    }
}
