//! `curator export`, `curator inspect` and `curator import`: the state in a file, what such a file is, and out of it.

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

/// May read, write or run it, beside its owner.
const OTHERS: u32 = 0o077;

/// Where from, and where to.
#[derive(Args)]
pub(crate) struct Export {
    #[command(flatten)]
    store: StoreArgs,

    /// The file, which must not be there yet. It will have the cluster's private keys in it.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

/// Where from, and where to.
#[derive(Args)]
pub(crate) struct Import {
    #[command(flatten)]
    store: StoreArgs,

    /// The file that was exported.
    #[arg(value_name = "FILE")]
    file: PathBuf,

    /// Goes on with an import of the same file that was interrupted. Without this the store must be empty.
    #[arg(long)]
    resume: bool,
}

/// Which file.
#[derive(Args)]
pub(crate) struct Inspect {
    /// The file that was exported.
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

impl Inspect {
    pub(crate) fn run(&self) -> ExitCode {
        told(self.inspect())
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

/// What a file says of itself, a line for each thing.
fn shown(about: &About) -> String {
    let unsaid = || "not said (format 1)".to_owned();
    let time = about
        .time
        .map(|time| humantime::format_rfc3339_seconds(time).to_string());
    let none = || "unknown".to_owned();
    let lines = [
        ("cluster", about.cluster.clone().unwrap_or_else(none)),
        ("domain", about.domain.clone().unwrap_or_else(none)),
        ("time", time.unwrap_or_else(unsaid)),
        (
            "revision",
            about.revision.map_or_else(unsaid, |revision| revision.to_string()),
        ),
        ("nodes", about.nodes.to_string()),
        ("keys", about.keys.to_string()),
        (
            "made by",
            about
                .version
                .clone()
                .map_or_else(unsaid, |version| format!("curator {version}")),
        ),
        ("format", about.format.to_string()),
        ("whole", "yes: its digest is that of its last line".to_owned()),
    ];
    let lines: Vec<_> = lines.iter().map(|(name, value)| format!("{name:<10}{value}")).collect();
    lines.join("\n")
}

impl Export {
    pub(crate) fn run(&self) -> ExitCode {
        told(self.export().map(|about| {
            format!(
                "exported {} keys, {} nodes among them, at revision {}; private keys are among them: keep \
                 it as you would these",
                about.keys,
                about.nodes,
                about.revision.unwrap_or_default()
            )
        }))
    }

    fn export(&self) -> Result<About, Box<dyn Error>> {
        if self.out.exists() {
            return Err(format!("{} is there already: choose another file", self.out.display()).into());
        }
        let partial = self.out.with_extension("partial");
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&partial);
        let file = file.map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => format!(
                "{} is there: another export is under way, or one was killed; if it was, remove that file and try again",
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
            // Not over one that has come meanwhile.
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
        told(self.import().map(|count| format!("imported {count} keys")))
    }

    fn import(&self) -> Result<usize, Box<dyn Error>> {
        let file = File::open(&self.file).map_err(|error| format!("{}: {error}", self.file.display()))?;
        let mode = file.metadata()?.mode();
        if mode & OTHERS != 0 {
            return Err(readable_by_others(&self.file, mode).into());
        }
        // All of it before anything is made or written.
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

/// What is wrong with a file of private keys.
fn readable_by_others(file: &Path, mode: u32) -> String {
    format!(
        "{0} has the cluster's private keys in it and may be read by others (mode {1:03o}): chmod 600 {0}, and think \
         of who may have read it",
        file.display(),
        mode & 0o777
    )
}

/// Whether another process has the store open: an instance, most likely, which can be asked.
fn is_in_use(error: &(dyn Error + 'static)) -> bool {
    matches!(error.downcast_ref(), Some(EmbeddedError::InUse { .. }))
}

/// Says how far it is, each second.
fn progress() -> impl FnMut(usize) {
    let mut last = Instant::now();
    move |keys| {
        if last.elapsed() >= Duration::from_secs(1) {
            last = Instant::now();
            eprintln!("{keys} keys");
        }
    }
}

fn told(done: Result<String, Box<dyn Error>>) -> ExitCode {
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
