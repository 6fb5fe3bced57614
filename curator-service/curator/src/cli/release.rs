//! `curator release`: revokes the leases of a dead instance. Service managers run it after the instance exits.

use std::collections::BTreeSet;
use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use crate::cli::options::{ConfigArgs, StoreArgs};
use crate::process::lease_file::LeaseFile;
use crate::process::supervisor;

/// The store and the runtime directory of the instance.
#[derive(Args)]
pub(crate) struct Release {
    #[command(flatten)]
    _config: ConfigArgs,

    #[command(flatten)]
    store: StoreArgs,

    /// Runtime directory of the instance.
    #[arg(long, env = "CURATOR_RUNTIME_DIR", value_name = "DIR")]
    runtime_dir: PathBuf,
}

impl Release {
    pub(crate) fn run(&self) -> ExitCode {
        match self.release() {
            Ok(count) => {
                println!("revoked {count} leases");
                ExitCode::SUCCESS
            }
            Err(error) => {
                eprintln!("error: {error}");
                ExitCode::FAILURE
            }
        }
    }

    fn release(&self) -> Result<usize, Box<dyn Error>> {
        // Leases of an embedded store end with the instance.
        if self.store.embedded.is_some() {
            return Ok(0);
        }
        let (file, leases) = LeaseFile::of_dead(&self.runtime_dir)?;
        let count = leases.len();
        if count > 0 {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            if !runtime.block_on(supervisor::release(self.store.etcd(), leases)) {
                return Err("some leases could not be revoked; they expire after their TTL".into());
            }
            file.write(&BTreeSet::new())?;
        }
        Ok(count)
    }
}
