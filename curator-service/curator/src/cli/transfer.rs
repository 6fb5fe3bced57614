//! `curator export` and `curator import`: the state in a file, and out of it.

use std::error::Error;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, BufWriter};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use rustix::fs::{CWD, RenameFlags, renameat_with};
use tokio::time::Instant;

use crate::cli::options::StoreArgs;

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

impl Export {
    pub(crate) fn run(&self) -> ExitCode {
        told(
            self.export()
                .map(|count| format!("exported {count} keys; private keys are among them")),
        )
    }

    fn export(&self) -> Result<usize, Box<dyn Error>> {
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
            let store = self.store.existing()?;
            let mut out = BufWriter::new(&file);
            let count = runtime.block_on(curator_service::export(&*store, &mut out, progress()))?;
            drop(out);
            file.sync_all()?;
            // Not over one that has come meanwhile.
            renameat_with(CWD, &partial, CWD, &self.out, RenameFlags::NOREPLACE)?;
            let directory = self.out.parent().filter(|parent| !parent.as_os_str().is_empty());
            File::open(directory.unwrap_or(Path::new(".")))?.sync_all()?;
            Ok(count)
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
        if mode & 0o077 != 0 {
            return Err(format!(
                "{0} has the cluster's private keys in it and may be read by others (mode {1:03o}): chmod 600 {0}, and think of who may \
                 have read it",
                self.file.display(),
                mode & 0o777
            )
            .into());
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let store = self.store.store()?;
        let mut file = BufReader::new(file);
        let import = if self.resume {
            curator_service::Import::Resume
        } else {
            curator_service::Import::Fresh
        };
        let imported = curator_service::import(&*store, &mut file, import, progress());
        Ok(runtime.block_on(imported)?)
    }
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
