//! `curator export`, `curator inspect` and `curator import`: moves the state between stores in a file.

use std::error::Error;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, BufWriter, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use curator_election::embedded::EmbeddedError;
use curator_service::{About, Archive, export_running, wall_clock};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use tokio::time::Instant;

use crate::cli::options::StoreArgs;

/// Mode bits: group or others have any access.
const OTHERS: u32 = 0o077;

/// The store to export, and the file.
#[derive(Args)]
pub(crate) struct Export {
    #[command(flatten)]
    store: StoreArgs,

    /// Output file. It must not exist. It contains the cluster's private keys.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

/// The file to import, and the store.
#[derive(Args)]
pub(crate) struct Import {
    #[command(flatten)]
    store: StoreArgs,

    /// Exported file.
    #[arg(value_name = "FILE")]
    file: PathBuf,

    /// Continue an interrupted import of the same file. Without this flag, the store must be empty.
    #[arg(long)]
    resume: bool,
}

/// The file to inspect.
#[derive(Args)]
pub(crate) struct Inspect {
    /// Exported file.
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

impl Inspect {
    pub(crate) fn run(&self) -> ExitCode {
        report(self.inspect())
    }

    fn inspect(&self) -> Result<String, Box<dyn Error>> {
        let file = File::open(&self.file).map_err(|error| format!("{}: {error}", self.file.display()))?;
        let mode = file.metadata()?.mode();
        if mode & OTHERS != 0 {
            eprintln!("warning: {}", readable_by_others(&self.file, mode));
        }
        let archive = Archive::read(&mut BufReader::new(file));
        let archive = archive.map_err(|error| format!("{}: {error}", self.file.display()))?;
        Ok(shown(archive.about()))
    }
}

/// The metadata of a file, one line each.
fn shown(about: &About) -> String {
    let unrecorded = || "not recorded (format 1)".to_owned();
    let time = about
        .time
        .map(|time| humantime::format_rfc3339_seconds(time).to_string());
    let none = || "unknown".to_owned();
    let lines = [
        ("cluster", about.cluster.clone().unwrap_or_else(none)),
        ("domain", about.domain.clone().unwrap_or_else(none)),
        ("time", time.unwrap_or_else(unrecorded)),
        (
            "revision",
            about.revision.map_or_else(unrecorded, |revision| revision.to_string()),
        ),
        ("nodes", about.nodes.to_string()),
        ("keys", about.keys.to_string()),
        (
            "made by",
            about
                .version
                .clone()
                .map_or_else(unrecorded, |version| format!("curator {version}")),
        ),
        ("format", about.format.to_string()),
        ("whole", "yes: the digest matches".to_owned()),
    ];
    let lines: Vec<_> = lines.iter().map(|(name, value)| format!("{name:<10}{value}")).collect();
    lines.join("\n")
}

impl Export {
    pub(crate) fn run(&self) -> ExitCode {
        report(self.export().map(|about| {
            format!(
                "exported {} keys of {} nodes at revision {}; the file contains private keys: protect it like \
                 them",
                about.keys,
                about.nodes,
                about.revision.unwrap_or_default()
            )
        }))
    }

    fn export(&self) -> Result<About, Box<dyn Error>> {
        if self.out.exists() {
            return Err(format!("{} exists: choose another file", self.out.display()).into());
        }
        let partial = self.out.with_extension("partial");
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&partial);
        let file = file.map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => format!(
                "{} exists: another export is running, or was killed; if it was killed, remove the file and try again",
                partial.display()
            ),
            _ => format!("{}: {error}", partial.display()),
        })?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let written = (|| {
            let mut out = BufWriter::new(&file);
            let about = match (self.store.existing(), &self.store.embedded) {
                (Err(error), Some(directory)) if is_in_use(&*error) => {
                    export_running(directory, &self.store.etcd_namespace, &mut out)?
                }
                (store, _) => {
                    let store = store?;
                    runtime.block_on(curator_service::export(&*store, &mut out, wall_clock(), progress()))?
                }
            };
            out.flush()?;
            drop(out);
            file.sync_all()?;
            // Never replaces a file that was created meanwhile.
            renameat_with(CWD, &partial, CWD, &self.out, RenameFlags::NOREPLACE)?;
            let directory = self.out.parent().filter(|parent| !parent.as_os_str().is_empty());
            File::open(directory.unwrap_or(Path::new(".")))?.sync_all()?;
            Ok(about)
        })();
        if written.is_err() {
            fs::remove_file(&partial)?;
        }
        written
    }
}

impl Import {
    pub(crate) fn run(&self) -> ExitCode {
        if let Some(warning) = self.store.warning() {
            eprintln!("warning: {warning}");
        }
        report(self.import().map(|count| format!("imported {count} keys")))
    }

    fn import(&self) -> Result<usize, Box<dyn Error>> {
        let file = File::open(&self.file).map_err(|error| format!("{}: {error}", self.file.display()))?;
        let mode = file.metadata()?.mode();
        if mode & OTHERS != 0 {
            return Err(readable_by_others(&self.file, mode).into());
        }
        // Read completely before anything is created or written.
        let archive = Archive::read(&mut BufReader::new(file))?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let to = self.store.store_to_fill()?;
        let import = if self.resume {
            curator_service::Import::Resume
        } else {
            curator_service::Import::Fresh
        };
        let count = runtime.block_on(curator_service::import(to.store(), archive, import, progress()))?;
        to.keep();
        Ok(count)
    }
}

/// The error for an export that other users can read.
fn readable_by_others(file: &Path, mode: u32) -> String {
    format!(
        "{0} contains the cluster's private keys and is readable by other users (mode {1:03o}). Run: chmod 600 {0}; \
         treat the keys as exposed if others had access",
        file.display(),
        mode & 0o777
    )
}

/// Whether another process has the store open. It is probably an instance, which can export its state.
fn is_in_use(error: &(dyn Error + 'static)) -> bool {
    matches!(error.downcast_ref(), Some(EmbeddedError::InUse { .. }))
}

/// Prints the progress once a second.
fn progress() -> impl FnMut(usize) {
    let mut last = Instant::now();
    move |keys| {
        if last.elapsed() >= Duration::from_secs(1) {
            last = Instant::now();
            eprintln!("{keys} keys");
        }
    }
}

fn report(done: Result<String, Box<dyn Error>>) -> ExitCode {
    match done {
        Ok(text) => {
            println!("{text}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
