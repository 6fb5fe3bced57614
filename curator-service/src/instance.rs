//! One instance: its tasks, its status, and the services that every instance serves, leader or not.

pub(crate) mod admin_api;
pub(crate) mod candidacy;
pub(crate) mod certificates;
pub(crate) mod leader_address;
pub(crate) mod local_api;
mod node_report;
mod reach;
mod readiness;
pub(crate) mod role;
mod role_history;
pub(crate) mod service;
mod tasks;
mod terms;
mod watchdog;
