//! SIGHUP: the configuration is read again, and of what has changed in it that is taken which can be without a restart.
//!
//! What can: the log filter, and what is new in the files of credentials. All else is named in the log and stays as it is. Should the
//! new configuration be no good, nothing of it is taken.

use std::ffi::OsString;
use std::sync::Arc;

use curator_service::{CredentialsWatch, telemetry};
use tokio::task::spawn_blocking;
use tracing::{error, info, warn};

use crate::Command;
use crate::config::merge::{Configured, Settings, configured};
use crate::process::logging::{Filter, LogHandle};

/// The key that can change while an instance runs.
const LOG_FILTER: &str = "log-filter";

/// What an instance began with, and what of it can change.
pub(crate) struct Reload {
    argv: Vec<OsString>,
    /// At the start. What needs a restart is told again each time, as long as it is different.
    begun: Settings,
    log: Arc<LogHandle>,
    credentials: Option<CredentialsWatch>,
}

impl Reload {
    pub(crate) const fn new(
        argv: Vec<OsString>,
        begun: Settings,
        log: Arc<LogHandle>,
        credentials: Option<CredentialsWatch>,
    ) -> Self {
        Self {
            argv,
            begun,
            log,
            credentials,
        }
    }

    /// Reads everything again, and says in the log what has come of it. Not cancellation safe: a part may be taken.
    pub(crate) async fn again(&self) {
        let argv = self.argv.clone();
        // A file may be on a disk that does not answer, which is not to stop anything else.
        let (filter, settings) = match spawn_blocking(move || read(&argv)).await {
            Ok(Ok(read)) => read,
            Ok(Err(reason)) => {
                metrics::counter!(telemetry::RELOADS_FAILED, "of" => "configuration").increment(1);
                error!(
                    reason,
                    "the new configuration cannot be used: the one that there was stays in force"
                );
                return;
            }
            Err(error) => {
                error!(%error, "the configuration could not be read: the one that there was stays in force");
                return;
            }
        };
        let changed = self.begun.changed(&settings);
        for changed in changed.iter().filter(|changed| changed.name != LOG_FILTER) {
            let (key, from, to) = (&changed.name, &changed.from, &changed.to);
            warn!(key, from, to, "this change of the configuration needs a restart");
        }
        match self.log.change(&filter) {
            Ok(before) if before == filter => {}
            Ok(before) => info!(from = %before, to = %filter, "the log filter is another one from now on"),
            Err(reason) => error!(reason, "the log filter cannot be changed"),
        }
        if let Some(credentials) = self.credentials.clone() {
            match spawn_blocking(move || credentials.look()).await {
                Ok(Ok(true)) => info!("new credentials are used from now on"),
                Ok(Ok(false)) => {}
                Ok(Err(error)) => {
                    metrics::counter!(telemetry::RELOADS_FAILED, "of" => "credentials").increment(1);
                    error!(%error, "new credentials cannot be used: those that there were stay in use");
                }
                Err(error) => error!(%error, "the credentials could not be read"),
            }
        }
        info!(
            file = settings.file.as_ref().map(|path| path.display().to_string()),
            "the configuration is read again"
        );
    }
}

/// What the same command line says by now.
fn read(argv: &[OsString]) -> Result<(Filter, Settings), String> {
    let Configured { cli, settings } = configured(argv).map_err(|wrong| wrong.to_string())?;
    let Command::Serve(serve) = cli.command else {
        return Err("this is another command by now".to_owned());
    };
    serve.check().map_err(|wrong| wrong.to_string())?;
    Ok((serve.log_filter, settings))
}
