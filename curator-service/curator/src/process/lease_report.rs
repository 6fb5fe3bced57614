//! Reports the leases of this process: to its supervisor, and to the lease file in the runtime directory.

use std::collections::BTreeSet;
use std::fs::File;
use std::os::fd::AsFd;
use std::sync::{Mutex, PoisonError};

use curator_election::store::LeaseId;
use curator_service::LeaseObserver;
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use tokio::net::unix::pipe;
use tracing::{error, warn};

use crate::process::lease_file::LeaseFile;
use crate::process::supervisor::Report;

/// Reports leases to the supervisor and the lease file.
pub(crate) struct LeaseReporter {
    to_supervisor: bool,
    file: Option<LeaseFile>,
    leases: Mutex<BTreeSet<LeaseId>>,
}

impl LeaseReporter {
    /// Reports on standard output, which the supervisor reads, if `to_supervisor`; and to a file, if one is given.
    ///
    /// # Errors
    /// If standard output cannot be configured.
    pub(crate) fn new(to_supervisor: bool, file: Option<LeaseFile>) -> std::io::Result<Self> {
        if to_supervisor {
            // A supervisor that does not read must not block the election.
            let stdout = std::io::stdout();
            fcntl_setfl(&stdout, fcntl_getfl(&stdout)? | OFlags::NONBLOCK)?;
        }
        Ok(Self {
            to_supervisor,
            file,
            leases: Mutex::new(BTreeSet::new()),
        })
    }

    fn report(&self, report: Report) {
        let mut leases = self.leases.lock().unwrap_or_else(PoisonError::into_inner);
        match report {
            Report::Granted(lease) => leases.insert(lease),
            Report::Ended(lease) => leases.remove(&lease),
        };
        if self.to_supervisor {
            // A pipe takes one write of a line completely or not at all.
            let line = format!("{report}\n");
            if let Err(error) = rustix::io::write(std::io::stdout(), line.as_bytes()) {
                warn!(%error, "cannot report a lease to the supervisor: it will expire after its TTL");
            }
        }
        if let Some(Err(error)) = self.file.as_ref().map(|file| file.write(&leases)) {
            warn!(%error, "cannot record a lease: it will expire after its TTL");
        }
    }
}

impl LeaseObserver for LeaseReporter {
    fn granted(&self, lease: LeaseId) {
        self.report(Report::Granted(lease));
    }

    fn ended(&self, lease: LeaseId) {
        self.report(Report::Ended(lease));
    }
}

/// Waits until the supervisor, which holds standard input open, is dead.
pub(crate) async fn supervisor_gone() {
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
        error!(%error, "cannot monitor the supervisor");
        std::future::pending::<()>().await;
    }
}
