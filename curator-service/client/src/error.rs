//! The errors of the client.

use curator_identity::ClientError;
use tonic::Status;

use crate::retry::NotRun;

/// Why there is no client or no channel.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SetupError {
    /// No address was given.
    #[error("no address of an instance: give at least one, such as 192.0.2.1:7835")]
    NoAddress,
    /// An address is invalid, or TLS cannot be set up.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// An address without TLS is not on this host.
    #[error("{address} is not a loopback address: TLS is required")]
    NotLoopback {
        /// The address.
        address: String,
    },
}

/// Why no instance was found.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FindError {
    /// No channel can be made to an address.
    #[error(transparent)]
    Setup(#[from] SetupError),
    /// None of the instances responds.
    #[error("no instance responds: {}; check the addresses, and that the instances run", each(.0))]
    NoResponse(Vec<(String, Status)>),
}

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CallError {
    /// No instance was found until the deadline. The call was not sent.
    #[error(transparent)]
    Find(#[from] FindError),
    /// The call failed.
    #[error("the call to {address} failed: {status}")]
    Failed {
        /// The address of the instance.
        address: String,
        /// The status.
        status: Status,
    },
}

impl CallError {
    /// The status of the call, if it was sent.
    #[must_use]
    pub const fn status(&self) -> Option<&Status> {
        match self {
            Self::Find(_) => None,
            Self::Failed { status, .. } => Some(status),
        }
    }

    /// Whether the call provably did not run, so that it may be made again whatever it does.
    #[must_use]
    pub fn is_provably_not_run(&self) -> bool {
        match self {
            Self::Find(_) => true,
            Self::Failed { status, .. } => NotRun::proof(status).is_some(),
        }
    }
}

fn each(failures: &[(String, Status)]) -> String {
    let each: Vec<_> = failures
        .iter()
        .map(|(address, status)| format!("{address}: {status}"))
        .collect();
    each.join("; ")
}
