//! The protobuf compiler, which `tools/protoc` runs when cargo builds the workspace.
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use curator_harness::checkout::{root, shown, tools_dir};
use curator_harness::error::{Context, Error, Result};
use curator_harness::process::{Orphan, bound, run};
use curator_harness::which::{is_executable, on_path};

use super::{copy_tree, install, make_executable};

const VERSION: Duration = Duration::from_secs(20);

/// Sees to it that a build finds a protoc, and says where that is.
///
/// # Errors
/// When `PROTOC` leads nowhere, or none can be brought.
pub fn ensure() -> Result<String> {
    // Cargo sets PROTOC to our own wrapper for whatever it runs, us included.
    if let Some(path) = env::var_os("PROTOC")
        .map(PathBuf::from)
        .filter(|path| !is_wrapper(path))
    {
        let version = version(&path)
            .context(|| format!("PROTOC is {}, which does not run: correct or unset it", path.display()))?;
        return Ok(format!("{version} at {}, from PROTOC", path.display()));
    }
    let brought = match install("protoc", |directory| is_executable(&directory.join("bin/protoc")), fill) {
        Ok(brought) => brought,
        Err(error) => match on_path("protoc") {
            Some(path) => return Ok(format!("{} at {}, on PATH", version(&path)?, path.display())),
            None => {
                return Err(Error::new(
                    "there is no protoc: install one (Debian: protobuf-compiler) or set PROTOC to yours",
                )
                .because(error));
            }
        },
    };
    let path = tools_dir().join("protoc/bin/protoc");
    let version = version(&path).context(|| {
        format!(
            "{} does not run: remove target/tools/protoc and try again",
            shown(&path)
        )
    })?;
    let how = if brought {
        "brought now, from the crate protoc-bin-vendored"
    } else {
        "brought before"
    };
    Ok(format!("{version} at {}, {how}", shown(&path)))
}

fn is_wrapper(path: &Path) -> bool {
    let wrapper = root().join("tools/protoc");
    path == wrapper
        || path
            .canonicalize()
            .is_ok_and(|path| wrapper.canonicalize().is_ok_and(|wrapper| path == wrapper))
}

fn fill(directory: &Path) -> Result<()> {
    let ours =
        |error| Error::new("the crate protoc-bin-vendored has no protoc for this machine").because(format!("{error}"));
    let protoc = protoc_bin_vendored::protoc_bin_path().map_err(ours)?;
    let include = protoc_bin_vendored::include_path().map_err(ours)?;
    fs::create_dir(directory.join("bin")).context(|| format!("cannot create {}/bin", directory.display()))?;
    let target = directory.join("bin/protoc");
    fs::copy(&protoc, &target).context(|| format!("cannot copy {}", protoc.display()))?;
    make_executable(&target)?;
    copy_tree(&include, &directory.join("include"))
}

fn version(path: &Path) -> Result<String> {
    let mut command = bound(path, Orphan::Kill);
    command.arg("--version");
    Ok(run(command, VERSION)?.success("protoc --version")?.trim().to_owned())
}
