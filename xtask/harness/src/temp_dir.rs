//! The temporary directory of one test: data and logs. Gone after success, kept and named after a failure.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::{env, process, thread};

use super::lock;
use crate::error::{Context, Result};

/// How much of the end of each log is printed after a failure.
const TAIL_LINES: usize = 40;
const TAIL_BYTES: u64 = 64 * 1024;

/// Set this in the environment to keep every scratch directory.
pub const KEEP: &str = "CURATOR_KEEP_SCRATCH";

/// A handle on a temporary directory. When the last one is dropped the directory goes, unless one was dropped by a
/// panic or someone called [`TempDir::keep`].
#[derive(Debug)]
pub struct TempDir(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    keep: AtomicBool,
    logs: Mutex<Vec<PathBuf>>,
}

impl TempDir {
    /// Makes a new directory beneath the system's temporary one. The label is part of its name.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn new(label: &str) -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let label: String = label
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
            .collect();
        let parent = env::temp_dir();
        let path = loop {
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            let path = parent.join(format!("curator-{label}-{}-{number}", process::id()));
            match fs::create_dir(&path) {
                Ok(()) => break path,
                // Left by a process of the same number that was killed.
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error).context(|| format!("cannot create {}", path.display())),
            }
        };
        Self::of(path)
    }

    /// This directory, made anew: what was there is removed. Nobody else may use it.
    ///
    /// # Errors
    /// When what was there cannot be removed, or it cannot be made.
    pub fn anew(path: &Path) -> Result<Self> {
        if path.exists() {
            fs::remove_dir_all(path).context(|| format!("cannot remove {}", path.display()))?;
        }
        fs::create_dir_all(path).context(|| format!("cannot create {}", path.display()))?;
        Self::of(path.to_owned())
    }

    fn of(path: PathBuf) -> Result<Self> {
        fs::create_dir(path.join("logs")).context(|| format!("cannot create {}/logs", path.display()))?;
        let keep = AtomicBool::new(env::var_os(KEEP).is_some());
        Ok(Self(Arc::new(Inner {
            path,
            keep,
            logs: Mutex::new(Vec::new()),
        })))
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// The directory of the logs.
    pub fn logs(&self) -> PathBuf {
        self.0.path.join("logs")
    }

    /// A directory of that name in here, made if it is missing.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn dir(&self, name: &str) -> Result<PathBuf> {
        let path = self.0.path.join(name);
        fs::create_dir_all(&path).context(|| format!("cannot create {}", path.display()))?;
        Ok(path)
    }

    /// The path of a log of that name. Its end is shown when the test fails.
    pub fn log(&self, name: &str) -> PathBuf {
        let path = self.logs().join(name);
        let mut logs = lock(&self.0.logs);
        if !logs.contains(&path) {
            logs.push(path.clone());
        }
        path
    }

    /// From now on the directory stays.
    pub fn keep(&self) {
        self.0.keep.store(true, Ordering::SeqCst);
    }

    /// Where everything is, and how each log ends.
    pub fn report(&self) -> String {
        self.0.report()
    }
}

impl Clone for TempDir {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        // The last handle may well be dropped on another thread, which does not panic.
        if thread::panicking() {
            self.keep();
        }
    }
}

impl Inner {
    fn report(&self) -> String {
        let mut text = format!("data and logs are kept in {}\n", self.path.display());
        for log in lock(&self.logs).iter() {
            text.push_str(&format!("---- {}, its end:\n", log.display()));
            match tail(log) {
                Ok(lines) => text.push_str(&lines),
                Err(error) => text.push_str(&format!("(cannot be read: {error})\n")),
            }
        }
        text
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if self.keep.load(Ordering::SeqCst) {
            // `eprintln` rather than stderr itself: a test runner shows it with the test that failed.
            eprintln!("{}", self.report());
        } else if let Err(error) = fs::remove_dir_all(&self.path) {
            eprintln!("cannot remove {}: {error}", self.path.display());
        }
    }
}

/// The last lines of a file.
pub(crate) fn tail(path: &Path) -> std::io::Result<String> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<_> = text.lines().collect();
    let from = lines.len().saturating_sub(TAIL_LINES);
    let mut end = String::new();
    for line in &lines[from..] {
        end.push_str(line);
        end.push('\n');
    }
    Ok(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_goes_after_success_and_stays_after_a_panic_on_any_thread() {
        let scratch = TempDir::new("unit test").unwrap();
        let path = scratch.path().to_owned();
        scratch.dir("data").unwrap();
        drop(scratch);
        assert!(!path.exists());

        let scratch = TempDir::new("unit test").unwrap();
        let path = scratch.path().to_owned();
        let lines: String = (0..100).map(|n| format!("line {n}\n")).collect();
        fs::write(scratch.log("a.log"), lines).unwrap();
        let other = scratch.clone();
        let thread = thread::spawn(move || {
            let _other = other;
            panic!("on purpose");
        });
        assert!(thread.join().is_err());
        let report = scratch.report();
        drop(scratch);
        assert!(path.exists());
        fs::remove_dir_all(&path).unwrap();
        assert!(
            report.contains("a.log") && report.contains("line 99") && report.contains("line 60"),
            "{report}"
        );
        assert!(!report.contains("line 59\n"), "{report}");
    }
}
