//! `curatorctl bootstrap`: points to `curator bootstrap`, which needs access to the store.

use crate::error::Failure;

/// Fails with a hint.
pub(crate) fn run() -> Result<(), Failure> {
    Err(
        Failure::usage("a cluster is bootstrapped at its store, not through an instance").hint(
            "run `curator bootstrap` on a host that can reach etcd, or with --embedded; see `curator bootstrap --help`",
        ),
    )
}
