//! `curatorctl bootstrap`: a cluster is made where its state is, which instances do not let anybody reach.

use crate::failure::Failure;

/// Says what to use.
pub(crate) fn run() -> Result<(), Failure> {
    Err(
        Failure::usage("a cluster is made at its store, not through an instance").hint(
            "run `curator bootstrap` on a host that reaches etcd, or with --embedded; `curator bootstrap --help` says what it needs",
        ),
    )
}
