//! The cluster of `cargo xtask up`: real instances with TLS, an owner, a context of `curatorctl`, and what to try with
//! it.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::mpsc::Sender;
use std::time::Duration;

use curator_harness::error::{Context, Result};
use curator_harness::process::{Orphan, bound, run};
use curator_harness::{
    CuratorOptions, CuratorProcess, EtcdBinaries, EtcdCluster, EtcdOptions, Event, Role, TempDir, step, wait_until,
};

use crate::commands::chaos::cluster;

const SOON: Duration = Duration::from_secs(60);
/// The name of the context.
const CONTEXT: &str = "up";
/// How many members of etcd and instances there are.
const NODES: usize = 3;

/// The programs, as users get them.
#[derive(Clone, Debug)]
pub struct Programs {
    /// `curator`.
    pub curator: PathBuf,
    /// `curatorctl`.
    pub ctl: PathBuf,
}

/// The cluster. Dropping it kills all of it.
#[derive(Debug)]
pub struct Running {
    /// The instances, in the order of their nodes.
    pub curators: Vec<CuratorProcess>,
    /// The members of etcd; none for an instance that keeps its state in a directory.
    pub etcd: Option<EtcdCluster>,
    programs: Programs,
    /// What is said to whoever is told of a change of leader, as it was said last.
    leader: Option<u32>,
    scratch: TempDir,
}

impl Running {
    /// Makes the cluster in the scratch directory, and waits until one instance leads and all are members of the
    /// consensus: three instances on etcd, or one without.
    ///
    /// # Errors
    /// With the first step that fails.
    pub fn start(
        programs: Programs,
        etcd: Option<&EtcdBinaries>,
        scratch: &TempDir,
        ttl: Duration,
        notify: &Sender<(String, Event)>,
    ) -> Result<Self> {
        let nodes = if etcd.is_some() { NODES } else { 1 };
        let made = step::timed("make a cluster: its authority, its owner, its nodes", || {
            cluster::make(&programs.curator, &programs.ctl, scratch, nodes)
        })?;
        let etcd = match etcd {
            None => None,
            Some(binaries) => {
                let options = EtcdOptions {
                    names: made.ids.clone(),
                    peer_proxies: false,
                    ..EtcdOptions::default()
                };
                let name = format!("start etcd {}, three members", binaries.version());
                let etcd = step::timed(&name, || EtcdCluster::start(binaries, scratch, options))?;
                cluster::import(&programs.curator, &made, &etcd.endpoints())?;
                Some(etcd)
            }
        };
        let mut curators = Vec::new();
        for (number, (id, credentials)) in (1..).zip(made.ids.iter().zip(&made.credentials)) {
            let endpoints = etcd.as_ref().map(EtcdCluster::endpoints).unwrap_or_default();
            let mut options = CuratorOptions::new(number, endpoints).leader_ttl(ttl);
            options.node_id.clone_from(id);
            options.credentials = Some(credentials.clone());
            if etcd.is_none() {
                options.extra_args = vec!["--embedded".to_owned(), made.embedded.display().to_string()];
            }
            options.notify = Some(notify.clone());
            curators.push(CuratorProcess::start(&programs.curator, scratch, options)?);
        }
        let leads = |curator: &CuratorProcess| curator.role().is_some_and(|role| role.is_leader());
        let leader = wait_until("an instance to lead", SOON, || {
            curators.iter().find(|curator| leads(curator))
        })?;
        let endpoint = leader.address().to_string();
        cluster::all_are_members(&programs.ctl, &made.owner, endpoint, nodes)?;
        let running = Self {
            curators,
            etcd,
            programs,
            leader: None,
            scratch: scratch.clone(),
        };
        running.write_context(&made.owner)?;
        Ok(running)
    }

    /// The file with the context.
    pub fn config(&self) -> PathBuf {
        self.scratch.path().join("curatorctl.toml")
    }

    /// Where the process of the instance that leads is named.
    pub fn leader_pid(&self) -> PathBuf {
        self.scratch.path().join("leader.pid")
    }

    /// The directory of everything.
    pub fn directory(&self) -> &Path {
        self.scratch.path()
    }

    /// `curatorctl`, as it was built.
    pub fn ctl(&self) -> &Path {
        &self.programs.ctl
    }

    /// The owner's context, of all instances.
    fn write_context(&self, owner: &cluster::Owner) -> Result<()> {
        let endpoints: Vec<_> = self
            .curators
            .iter()
            .map(|curator| curator.address().to_string())
            .collect();
        let mut command = bound(self.ctl(), Orphan::Kill);
        command.args(["context", "set", CONTEXT, "--endpoint", &endpoints.join(",")]);
        command.args(owner.arguments());
        command.env("CURATORCTL_CONFIG", self.config());
        // The file need not be there, and a variable of the caller's is not meant for this cluster.
        fs::write(self.config(), "").context(|| format!("cannot write {}", self.config().display()))?;
        run(command, SOON)?.success("curatorctl context set").map(drop)
    }

    /// What lets a shell find the cluster, and five commands that can be typed after that, each as it is.
    pub fn next_commands(&self) -> (String, [String; 5]) {
        let programs = self.ctl().parent().unwrap_or(Path::new("."));
        let setup = format!(
            "export PATH={}:$PATH CURATORCTL_CONFIG={}",
            quoted(programs),
            quoted(&self.config())
        );
        let kill = format!("kill -9 \"$(cat {})\"", quoted(&self.leader_pid()));
        let step_down = "curatorctl step-down".to_owned();
        let [third, fourth] = match self.etcd {
            Some(_) => [step_down, kill],
            // There is nobody to hand over to.
            None => ["curatorctl leader".to_owned(), kill],
        };
        let commands = [
            "curatorctl status".to_owned(),
            "curatorctl nodes list".to_owned(),
            third,
            fourth,
            "curatorctl status --wait".to_owned(),
        ];
        (setup, commands)
    }

    /// Names the process of the instance that leads now in its file, if that has changed.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn name_leader(&mut self) -> Result<()> {
        let leader = self.curators.iter().find(|curator| {
            let leads = curator.role().is_some_and(|role| role.is_leader());
            leads && !curator.process().is_paused()
        });
        let Some(pid) = leader.map(CuratorProcess::pid).filter(|pid| self.leader != Some(*pid)) else {
            return Ok(());
        };
        let (path, new) = (self.leader_pid(), self.scratch.path().join("leader.pid.new"));
        fs::write(&new, format!("{pid}\n"))
            .and_then(|()| fs::rename(&new, &path))
            .context(|| format!("cannot write {}", path.display()))?;
        self.leader = Some(pid);
        Ok(())
    }

    /// The node that answers what is called at an instance, as far as that one knows.
    pub fn answers_for(&self, curator: &CuratorProcess) -> String {
        match curator.role() {
            Some(Role::Leader { .. }) => curator.node_id().to_owned(),
            Some(Role::Follower { leader, .. }) => leader,
            Some(Role::Undetermined) | None => String::new(),
        }
    }
}

/// A path as a shell takes it.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    if text.chars().all(|c| c.is_ascii_alphanumeric() || "/._-+".contains(c)) {
        text
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}
