//! The services that every instance has: health and reflection.

use std::collections::HashSet;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::ListenError;
use crate::health::{self, HealthService};
use crate::services::{HEALTH, Services};

/// Adds the services of every instance: health and reflection. No other service may have their names.
pub(super) fn add<T>(
    services: Services<T>,
    serving: watch::Receiver<bool>,
    stopping: &CancellationToken,
) -> Result<Services<T>, ListenError> {
    services.check()?;
    let mut services = services;
    if !services.descriptors().is_empty() {
        let build = || {
            let start = tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(health::FILE_DESCRIPTOR_SET);
            services
                .descriptors()
                .iter()
                .fold(start, |builder, set| builder.register_encoded_file_descriptor_set(set))
        };
        let (newer, older) = (build().build_v1()?, build().build_v1alpha()?);
        services = services.local(newer).local(older);
    }
    let mut local: HashSet<&'static str> = services.local_names().iter().copied().collect();
    local.insert(HEALTH);
    let of_leader = services
        .names()
        .into_iter()
        .filter(|name| !local.contains(name.as_str()))
        .collect();
    Ok(services.local(HealthService::server(serving, local, of_leader, stopping.clone())))
}
