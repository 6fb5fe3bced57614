//! Failpoints of the state: the names of deliberate bugs that the simulation must find.
//!
//! See [`curator_failpoint`]: none of them can be enabled in a build for use.

pub(crate) use curator_failpoint::on;

/// Reads do not wait for a read barrier.
pub(crate) const NO_BARRIER: &str = "NoBarrier";
/// A read uses a barrier that was sent before the read began.
pub(crate) const JOINS_FENCE_UNDER_WAY: &str = "JoinsFenceUnderWay";
/// The view applies events of any revision, older or newer.
pub(crate) const VIEW_GOES_BACK: &str = "ViewGoesBack";
/// A write does not carry the records that it was decided on as conditions.
pub(crate) const WRITES_WITHOUT_CONDITIONS: &str = "WritesWithoutConditions";
/// Changes that touch the same keys share one transaction.
pub(crate) const BATCHES_WHAT_TOUCHES: &str = "BatchesWhatTouches";
/// A change whose conditions did not hold is acknowledged.
pub(crate) const ACKNOWLEDGES_CONFLICT: &str = "AcknowledgesConflict";

/// The names of all failpoints of this crate.
#[cfg(all(feature = "simulation", debug_assertions))]
pub(crate) const ALL: &[&str] = &[
    NO_BARRIER,
    JOINS_FENCE_UNDER_WAY,
    VIEW_GOES_BACK,
    WRITES_WITHOUT_CONDITIONS,
    BATCHES_WHAT_TOUCHES,
    ACKNOWLEDGES_CONFLICT,
];
