//! The nodes of the cluster: registration, changes, queries and deletion.

pub(crate) mod backlogs;
pub(crate) mod callers;
pub(crate) mod decommission;
pub(crate) mod delete;
pub(crate) mod encoded;
pub(crate) mod filter;
pub(crate) mod heartbeat;
pub(crate) mod labels;
pub(crate) mod list;
pub(crate) mod list_records;
pub(crate) mod lookup;
pub(crate) mod newcomers;
pub(crate) mod pace;
pub(crate) mod register;
pub(crate) mod registrations;
pub(crate) mod roles;
pub(crate) mod status;
pub(crate) mod territory;
pub(crate) mod watch;
