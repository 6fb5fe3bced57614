//! Reload on SIGHUP: reads the configuration again and applies the changes that need no restart.
//!
//! These are the log filter and new credentials. All other changes are logged and need a restart. If the new
//! configuration is invalid, nothing changes.

use std::sync::Arc;

use curator_service::{CredentialsWatch, telemetry};
use tokio::task::spawn_blocking;
use tracing::{error, info, warn};

use crate::config::merge::Settings;
use crate::process::logging::{Filter, LogHandle};

/// The key that can change without a restart.
const LOG_FILTER: &str = "log-filter";

/// Reads the configuration again: the log filter, and all settings.
pub(crate) type Reread = Arc<dyn Fn() -> Result<(Filter, Settings), String> + Send + Sync>;

/// The configuration at the start, and the parts that can change.
pub(crate) struct Reload {
    reread: Reread,
    /// The settings at the start. A change that needs a restart is logged at each reload until then.
    initial: Settings,
    log: Arc<LogHandle>,
    credentials: Option<CredentialsWatch>,
}

impl Reload {
    pub(crate) const fn new(
        reread: Reread,
        initial: Settings,
        log: Arc<LogHandle>,
        credentials: Option<CredentialsWatch>,
    ) -> Self {
        Self {
            reread,
            initial,
            log,
            credentials,
        }
    }

    /// Reloads, and logs the result. Not cancellation safe: a part may be applied.
    pub(crate) async fn run(&self) {
        let reread = self.reread.clone();
        // On a blocking thread: the disk may hang.
        let (filter, settings) = match spawn_blocking(move || reread()).await {
            Ok(Ok(read)) => read,
            Ok(Err(reason)) => {
                metrics::counter!(telemetry::RELOADS_FAILED, "of" => "configuration").increment(1);
                error!(reason, "configuration rejected: the current one stays in use");
                return;
            }
            Err(error) => {
                error!(%error, "cannot read the configuration: the current one stays in use");
                return;
            }
        };
        let changed = self.initial.changed(&settings);
        for changed in changed.iter().filter(|changed| changed.name != LOG_FILTER) {
            let (key, from, to) = (&changed.name, &changed.from, &changed.to);
            warn!(key, from, to, "configuration change needs a restart");
        }
        match self.log.change(&filter) {
            Ok(before) if before == filter => {}
            Ok(before) => info!(from = %before, to = %filter, "log filter changed"),
            Err(reason) => error!(reason, "cannot change the log filter"),
        }
        if let Some(credentials) = self.credentials.clone() {
            match spawn_blocking(move || credentials.reload()).await {
                Ok(Ok(true)) => info!("credentials reloaded"),
                Ok(Ok(false)) => {}
                Ok(Err(error)) => {
                    metrics::counter!(telemetry::RELOADS_FAILED, "of" => "credentials").increment(1);
                    error!(%error, "credentials rejected: the current ones stay in use");
                }
                Err(error) => error!(%error, "cannot read the credentials"),
            }
        }
        info!(
            file = settings.file.as_ref().map(|path| path.display().to_string()),
            "configuration reloaded"
        );
    }
}
