//! Tells of this process's leases: to the parent above it, and in the runtime directory.

use std::collections::BTreeSet;
use std::fs::File;
use std::os::fd::AsFd;
use std::sync::{Mutex, PoisonError};

use curator_election::store::LeaseId;
use curator_service::LeaseWitness;
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use tokio::net::unix::pipe;
use tracing::{error, warn};

use crate::process::lease_file::LeaseFile;
use crate::process::supervisor::Report;

/// Where leases are told.
pub(crate) struct Witness {
    to_parent: bool,
    file: Option<LeaseFile>,
    leases: Mutex<BTreeSet<LeaseId>>,
}

impl Witness {
    /// To the parent through standard output, and into a file.
    ///
    /// # Errors
    /// Standard output cannot be used.
    pub(crate) fn new(to_parent: bool, file: Option<LeaseFile>) -> std::io::Result<Self> {
        if to_parent {
            // A parent that does not read must not stop the election.
            let stdout = std::io::stdout();
            fcntl_setfl(&stdout, fcntl_getfl(&stdout)? | OFlags::NONBLOCK)?;
        }
        Ok(Self {
            to_parent,
            file,
            leases: Mutex::new(BTreeSet::new()),
        })
    }

    fn tell(&self, report: Report) {
        let mut leases = self.leases.lock().unwrap_or_else(PoisonError::into_inner);
        match report {
            Report::Granted(lease) => leases.insert(lease),
            Report::Ended(lease) => leases.remove(&lease),
        };
        if self.to_parent {
            // One write for a line, which a pipe takes whole or not at all.
            let line = format!("{report}\n");
            if let Err(error) = rustix::io::write(std::io::stdout(), line.as_bytes()) {
                warn!(%error, "the parent does not hear of a lease: it will run out by itself");
            }
        }
        if let Some(Err(error)) = self.file.as_ref().map(|file| file.write(&leases)) {
            warn!(%error, "cannot note a lease: it will run out by itself");
        }
    }
}

impl LeaseWitness for Witness {
    fn granted(&self, lease: LeaseId) {
        self.tell(Report::Granted(lease));
    }

    fn ended(&self, lease: LeaseId) {
        self.tell(Report::Ended(lease));
    }
}

/// Waits until the parent, which holds our standard input open, is gone.
pub(crate) async fn parent_gone() {
    let waited = async {
        let stdin = File::from(std::io::stdin().as_fd().try_clone_to_owned()?);
        let stdin = pipe::Receiver::from_file(stdin)?;
        let mut bytes = [0; 64];
        loop {
            stdin.readable().await?;
            match stdin.try_read(&mut bytes) {
                Ok(0) => return Ok(()),
                Ok(_) => {}
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    };
    if let Err(error) = waited.await {
        let error: std::io::Error = error;
        error!(%error, "cannot tell whether the parent lives");
        std::future::pending::<()>().await;
    }
}
