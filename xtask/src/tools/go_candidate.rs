//! A candidate on Go's own election library, to be tested with and measured against: built with the current library
//! from the module proxy, else with the older one that Debian packages.
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use curator_harness::checkout::{root, tools_dir};
use curator_harness::error::{Context, Result};
use curator_harness::process::{Orphan, bound, run};
use curator_harness::step;
use curator_harness::which::{is_executable, on_path};

use super::install;

const SOURCE: &str = include_str!("../../../curator-service/tests/integration/go-candidate/main.go");
const MANIFEST: &str = include_str!("../../../curator-service/tests/integration/go-candidate/go.mod");
const LIBRARY: &str = "go.etcd.io/etcd/client/v3";
/// What it was called before 3.5.
const FORMER_LIBRARY: &str = "go.etcd.io/etcd/clientv3";
/// Where Debian's `golang-etcd-server-dev` puts Go's sources.
pub(super) const GOPATH: &str = "/usr/share/gocode";
const NAME: &str = "go-candidate";
/// It compiles all of etcd's client, on a machine that is busy.
const COMPILES: Duration = Duration::from_secs(600);

/// The program, and which library it is built with.
#[derive(Clone, Debug)]
pub struct GoCandidate {
    /// Where it is.
    pub binary: PathBuf,
    /// The library's version, for people.
    pub library: String,
}

/// Builds it, unless that is done; `None`, said aloud, where there is nothing to build it with.
///
/// # Errors
/// When Debian's library is here, and it does not build with it.
pub fn go_candidate() -> Result<Option<GoCandidate>> {
    let Some(go) = on_path("go") else {
        step::say("SKIPPED: no Go candidate, for there is no go here");
        return Ok(None);
    };
    let version = pinned(MANIFEST).unwrap_or("of its newest version");
    match install(NAME, |at| current(at, MANIFEST), |at| from_proxy(&go, at)) {
        Ok(_) => return Ok(Some(found(NAME, format!("{LIBRARY} {version}")))),
        Err(error) => step::say(format_args!(
            "the Go candidate cannot be built with {LIBRARY} {version}: {}",
            error.chain()
        )),
    }
    let library = debian_library();
    if !library.is_dir() {
        step::say(format_args!(
            "SKIPPED: no Go candidate, for there is no {} either (golang-etcd-server-dev)",
            library.display()
        ));
        return Ok(None);
    }
    let name = format!("{NAME}-debian");
    install(&name, |at| current(at, GOPATH), |at| from_debian(&go, at))?;
    Ok(Some(found(&name, format!("Debian's {FORMER_LIBRARY}"))))
}

/// Whether Debian's library is here.
pub(super) fn debian_library() -> PathBuf {
    Path::new(GOPATH).join("src").join(FORMER_LIBRARY).join("concurrency")
}

fn found(name: &str, library: String) -> GoCandidate {
    GoCandidate {
        binary: tools_dir().join(name).join(NAME),
        library,
    }
}

/// Whether a directory holds what was built of these sources.
fn current(directory: &Path, manifest: &str) -> bool {
    let same = |name, text: &str| fs::read_to_string(directory.join(name)).is_ok_and(|kept| kept == text);
    same("main.go", SOURCE) && same("go.mod", manifest) && is_executable(&directory.join(NAME))
}

fn from_proxy(go: &Path, directory: &Path) -> Result<()> {
    let mut build = bound(go, Orphan::Kill);
    build
        .args(["build", "-mod=readonly", "-buildvcs=false", "-o"])
        .arg(directory.join(NAME))
        .arg(".");
    build.current_dir(root().join("curator-service/tests/integration/go-candidate"));
    build.env("GOWORK", "off").env("GO111MODULE", "on");
    step::timed("build the Go candidate", || {
        run(build, COMPILES)?.success("go build").map(drop)
    })?;
    keep(directory, MANIFEST)
}

/// The library was called otherwise then, and is the same to us.
fn from_debian(go: &Path, directory: &Path) -> Result<()> {
    let source = directory.join("former.go");
    fs::write(&source, SOURCE.replace(LIBRARY, FORMER_LIBRARY))
        .context(|| format!("cannot write {}", source.display()))?;
    let mut build = bound(go, Orphan::Kill);
    build.args(["build", "-o"]).arg(directory.join(NAME)).arg(&source);
    build.env("GOPATH", GOPATH).env("GO111MODULE", "off");
    step::timed("build the Go candidate with Debian's library", || {
        run(build, COMPILES)?.success("go build").map(drop)
    })?;
    keep(directory, GOPATH)
}

/// Keeps what it was built of, to be compared with.
fn keep(directory: &Path, manifest: &str) -> Result<()> {
    for (name, text) in [("main.go", SOURCE), ("go.mod", manifest)] {
        let path = directory.join(name);
        fs::write(&path, text).context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

/// The version of the library that the module requires.
fn pinned(manifest: &str) -> Option<&str> {
    let (_, rest) = manifest.split_once(&format!("require {LIBRARY} v"))?;
    rest.lines().next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_source_is_for_the_library_that_the_module_pins_and_for_the_former_one() {
        let version = pinned(MANIFEST).unwrap();
        assert_eq!(version.split('.').count(), 3, "{version}");
        let former = SOURCE.replace(LIBRARY, FORMER_LIBRARY);
        for (text, library) in [(SOURCE, LIBRARY), (former.as_str(), FORMER_LIBRARY)] {
            for import in [
                format!("clientv3 \"{library}\"\n"),
                format!("\"{library}/concurrency\"\n"),
            ] {
                assert!(text.contains(&import), "{import}");
            }
        }
        assert!(!former.contains(LIBRARY));
    }
}
