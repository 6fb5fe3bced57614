//! A cluster of one instance without etcd, with TLS and its owner.

use std::ffi::OsStr;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::child::{Orphan, bound};
use crate::curator::{CuratorOptions, CuratorProcess};
use crate::error::{Context, Result};
use crate::journal::Mark;
use crate::run::{Finished, run};
use crate::temp_dir::TempDir;

const TIMEOUT: Duration = Duration::from_secs(60);

/// The cluster, made by `curator bootstrap --embedded`.
pub struct SingleNode {
    instance: CuratorProcess,
    curatorctl: PathBuf,
    directory: TempDir,
}

impl SingleNode {
    /// Bootstraps the cluster, starts its instance, and gets the owner's certificate.
    ///
    /// # Errors
    /// With the first step that fails.
    pub fn start(name: &str, curator: &Path, curatorctl: &Path) -> Result<Self> {
        let directory = TempDir::new(name)?;
        let at = |name: &str| directory.path().join(name);
        let mut bootstrap = bound(curator, Orphan::Kill);
        bootstrap
            .args(["bootstrap", "--tpm-mode", "best-effort", "--embedded"])
            .arg(at("state"))
            .arg("--credentials")
            .arg(at("first"));
        run(bootstrap, TIMEOUT)?.success("curator bootstrap")?;
        let mut options = CuratorOptions::new(1, Vec::new());
        options.node_id = String::new();
        options.credentials = Some(at("first"));
        options.extra_args = vec!["--embedded".into(), at("state").display().to_string()];
        let instance = CuratorProcess::start(curator, &directory, options)?;
        instance.wait_for_role(Mark::START, TIMEOUT, "the instance to lead", |role| role.is_leader())?;
        fs::write(at("contexts"), "").context(|| "cannot write an empty list of contexts".to_owned())?;
        let node = Self {
            instance,
            curatorctl: curatorctl.to_owned(),
            directory,
        };
        let (key, out) = (node.owner_key(), node.owner_certificate());
        let words = ["cert", "owner", "--key", &key.display().to_string(), "--out"];
        let words = words.iter().map(OsStr::new).chain([out.as_os_str()]);
        node.curatorctl(words)?.success("curatorctl cert owner")?;
        Ok(node)
    }

    /// The instance.
    #[must_use]
    pub const fn instance(&self) -> &CuratorProcess {
        &self.instance
    }

    /// The path of a file of this cluster.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The certificate of the cluster's CA.
    #[must_use]
    pub fn ca(&self) -> PathBuf {
        self.path("first/ca.pem")
    }

    /// The owner's key.
    #[must_use]
    pub fn owner_key(&self) -> PathBuf {
        self.path("first/owner-key.pem")
    }

    /// The owner's certificate.
    #[must_use]
    pub fn owner_certificate(&self) -> PathBuf {
        self.path("owner.pem")
    }

    /// The address of the instance.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.instance.address()
    }

    /// Runs `curatorctl` against the instance, as the owner unless it is `cert` that is run.
    ///
    /// # Errors
    /// When it cannot be started or takes too long. That it failed is in [`Finished::status`].
    pub fn curatorctl<S: AsRef<OsStr>>(&self, words: impl IntoIterator<Item = S>) -> Result<Finished> {
        let words: Vec<_> = words.into_iter().collect();
        let mut command = bound(&self.curatorctl, Orphan::Kill);
        command.args(&words);
        command.arg("--endpoint").arg(self.address().to_string());
        command.arg("--ca").arg(self.ca());
        command.env("CURATORCTL_CONFIG", self.path("contexts"));
        if words.first().is_none_or(|word| word.as_ref() != "cert") {
            command.arg("--cert").arg(self.owner_certificate());
            command.arg("--key").arg(self.owner_key());
        }
        run(command, TIMEOUT)
    }
}
