//! Which version of the Curator this is.

/// The version, with the commit that it was built from if that is known.
pub const VERSION: &str = env!("CURATOR_VERSION");

/// The commit that it was built from; empty if that is not known.
pub const COMMIT: &str = env!("CURATOR_COMMIT");
