//! The programs that we need from outside: found on this machine, or brought as packages to a place beneath `target`.
use std::fs::{self, File};
use std::path::Path;
use std::time::Duration;

use curator_harness::checkout::{shown, tools_dir};
use curator_harness::error::{Context, Error, Result};
use curator_harness::wait_until;

pub mod clients;
pub mod etcd;
mod go;
pub mod go_candidate;
pub mod optional;
pub mod protoc;

/// How long another `setup` is waited for.
const TURN: Duration = Duration::from_secs(900);

/// Makes a file one that everyone may execute.
fn make_executable(path: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))
        .context(|| format!("cannot make {} executable", path.display()))
}

/// Fills the directory `name` beneath the tools: `fill` gets an empty one beside it, which then takes its place in one
/// step. `good` says whether a directory is as it should be. When it is already, nothing happens; another process that
/// does the same at the same time is waited for. True when it was filled now.
fn install(name: &str, good: impl Fn(&Path) -> bool, fill: impl FnOnce(&Path) -> Result<()>) -> Result<bool> {
    let tools = tools_dir();
    let target = tools.join(name);
    if good(&target) {
        return Ok(false);
    }
    fs::create_dir_all(&tools).context(|| format!("cannot create {}", tools.display()))?;
    let _turn = turn(&tools)?;
    if good(&target) {
        return Ok(false);
    }
    let beside = tools.join(format!(".{name}.new"));
    // Whoever left it there is gone, for the turn is ours.
    for stale in [&beside, &target] {
        if stale.exists() {
            fs::remove_dir_all(stale).context(|| format!("cannot remove {}", stale.display()))?;
        }
    }
    fs::create_dir(&beside).context(|| format!("cannot create {}", beside.display()))?;
    let filled = fill(&beside).and_then(|()| {
        if good(&beside) {
            Ok(())
        } else {
            Err(Error::new(format!("what was brought for {name} is not complete")))
        }
    });
    if let Err(error) = filled {
        // It is of no use; the next try removes it if this fails.
        let _ = fs::remove_dir_all(&beside);
        return Err(error);
    }
    fs::rename(&beside, &target).context(|| format!("cannot put {} in its place", shown(&target)))?;
    Ok(true)
}

/// The right to change what is beneath the tools, until it is dropped.
fn turn(tools: &Path) -> Result<File> {
    let path = tools.join(".lock");
    let file = File::create(&path).context(|| format!("cannot open {}", path.display()))?;
    let mut said = false;
    wait_until("another `cargo xtask` that is bringing tools", TURN, || {
        let locked = file.try_lock().is_ok();
        if !locked && !said {
            eprintln!("waiting for another `cargo xtask` that is bringing tools");
            said = true;
        }
        locked.then_some(())
    })?;
    Ok(file)
}

/// Copies a directory with all that is in it.
fn copy_tree(from: &Path, to: &Path) -> Result<()> {
    let what = || format!("cannot copy {} to {}", from.display(), to.display());
    fs::create_dir_all(to).context(what)?;
    for entry in fs::read_dir(from).context(what)? {
        let entry = entry.context(what)?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        if source.is_dir() {
            copy_tree(&source, &target)?;
        } else {
            fs::copy(&source, &target)
                .context(|| format!("cannot copy {} to {}", source.display(), target.display()))?;
        }
    }
    Ok(())
}
