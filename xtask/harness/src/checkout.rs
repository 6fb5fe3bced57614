//! Where things are in this checkout.

use std::path::{Path, PathBuf};

/// The workspace's root directory.
#[must_use]
pub fn root() -> &'static Path {
    // The manifest directory is fixed when the harness is compiled, and cargo compiles it anew when the checkout moves.
    let harness = Path::new(env!("CARGO_MANIFEST_DIR"));
    harness.ancestors().nth(2).unwrap_or(Path::new("."))
}

/// Where `cargo xtask setup` keeps what it brought. `tools/protoc` looks here as well.
#[must_use]
pub fn tools_dir() -> PathBuf {
    root().join("target").join("tools")
}

/// A path as a person wants to read it: from the root if it is beneath it.
#[must_use]
pub fn shown(path: &Path) -> String {
    path.strip_prefix(root()).unwrap_or(path).display().to_string()
}
