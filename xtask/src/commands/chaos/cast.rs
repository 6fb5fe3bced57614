//! The cluster that faults happen to: etcd, the instances, and what lies between any two that speak with each other.
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use curator_harness::error::{Context, Error, Result};
use curator_harness::timeline::Life;
use curator_harness::{
    At, CuratorOptions, CuratorProcess, EtcdBinaries, EtcdCluster, EtcdOptions, Role, TempDir, wait_until,
};

use super::cluster::{self, Owner};
use super::links::{Links, Networks, Proxies};
use super::schedule::{Fault, HOSTS, Who};

/// The leader's TTL: the smallest that etcd grants.
pub(super) const TTL: Duration = Duration::from_secs(2);
const SOON: Duration = Duration::from_secs(30);
/// How long an instance may take to hand over and end.
const GRACE: Duration = Duration::from_secs(20);
/// How long a member that stutters stands, and how long it then runs.
const STAND: Duration = Duration::from_millis(120);
const RUN: Duration = Duration::from_millis(60);

/// The programs that take part.
pub(crate) struct Programs {
    pub(crate) curator: PathBuf,
    pub(crate) ctl: PathBuf,
    pub(crate) embed: PathBuf,
    pub(crate) load: PathBuf,
}

/// From when until when something was done.
pub(super) type Happened = (Instant, Instant);

/// How it is started.
pub(crate) struct Setting {
    /// Whether each instance and its member of etcd have a host of their own.
    pub(crate) hosts: bool,
    /// The leader's.
    pub(crate) ttl: Duration,
    /// More arguments of each instance.
    pub(crate) arguments: Vec<String>,
}

pub(crate) struct ChaosCluster {
    pub(crate) curators: Vec<CuratorProcess>,
    pub(crate) etcd: EtcdCluster,
    /// What the callers show.
    pub(crate) owner: Owner,
    /// What the leaders ran.
    pub(super) record: PathBuf,
    /// The member that stutters, whether it stands, and since when.
    stutters: Option<(usize, bool, Instant)>,
    /// Instances that are down on purpose.
    down: [bool; HOSTS],
    /// Where a backup of etcd is kept, and when the one that is not yet restored was taken.
    backup: (PathBuf, Option<Happened>),
    /// The backups that were restored.
    restored: Vec<(Happened, Happened)>,
    // After the processes that are on it.
    pub(crate) links: Links,
}

impl ChaosCluster {
    /// Starts all, and makes a cluster; each on a host of its own if they shall be.
    pub(super) fn start(binaries: &EtcdBinaries, programs: &Programs, scratch: &TempDir, hosts: bool) -> Result<Self> {
        let record = scratch.path().join("record").display().to_string();
        let setting = Setting {
            hosts,
            ttl: TTL,
            arguments: vec!["--record".to_owned(), record],
        };
        Self::start_as(binaries, programs, scratch, &setting)
    }

    /// The same with other settings.
    pub(crate) fn start_as(
        binaries: &EtcdBinaries,
        programs: &Programs,
        scratch: &TempDir,
        setting: &Setting,
    ) -> Result<Self> {
        let made = cluster::make(&programs.curator, &programs.ctl, scratch, HOSTS)?;
        let networks = setting.hosts.then(Networks::start).transpose()?;
        let mut hosts = networks.as_ref().map_or_else(Vec::new, |all| all.hosts().to_vec());
        hosts.truncate(HOSTS);
        let options = EtcdOptions {
            names: made.ids.clone(),
            peer_proxies: hosts.is_empty(),
            hosts,
            ..EtcdOptions::default()
        };
        let etcd = EtcdCluster::start(binaries, scratch, options)?;
        cluster::import(&programs.curator, &made, &etcd.endpoints())?;
        let record = scratch.path().join("record");
        let mut links = match networks {
            Some(networks) => Links::Hosts(networks),
            None => Links::Proxies(Proxies::start(&etcd)?),
        };
        let mut curators = Vec::new();
        for own in 0..HOSTS {
            let number = u32::try_from(own + 1).unwrap_or(0);
            let mut options = CuratorOptions::new(number, Vec::new()).leader_ttl(setting.ttl);
            // Its own member first.
            let members = (0..HOSTS).map(|next| (own + next) % HOSTS);
            options.etcd_endpoints = match &links {
                Links::Proxies(proxies) => {
                    options.behind_proxy = true;
                    options.proxy_rules = Some(proxies.network.rules(own));
                    members.map(|member| proxies.store(own, member)).collect()
                }
                Links::Hosts(_) => members.map(|member| etcd.client_url(member)).collect(),
            };
            options.node_id.clone_from(&made.ids[own]);
            options.credentials = Some(made.credentials[own].clone());
            options.host = links.host(own).cloned();
            options.extra_args.clone_from(&setting.arguments);
            let curator = CuratorProcess::start(&programs.embed, scratch, options)?;
            links.set_pid(own, curator.pid());
            if let Links::Proxies(proxies) = &mut links {
                proxies.open(&curator)?;
            }
            curators.push(curator);
        }
        let cast = Self {
            curators,
            etcd,
            owner: made.owner,
            record,
            stutters: None,
            down: [false; HOSTS],
            backup: (scratch.path().join("backup"), None),
            restored: Vec::new(),
            links,
        };
        let leader = cast.agreed(SOON)?;
        let endpoint = cast.curators[leader].address().to_string();
        cluster::all_are_members(&programs.ctl, &cast.owner, endpoint, HOSTS)?;
        Ok(cast)
    }

    /// Waits until one leads and all others follow it.
    pub(crate) fn agreed(&self, within: Duration) -> Result<usize> {
        wait_until("all instances to agree on one leader", within, || self.leader_of_all())
    }

    fn leader_of_all(&self) -> Option<usize> {
        let roles: Vec<Role> = self.curators.iter().map(CuratorProcess::role).collect::<Option<_>>()?;
        let leader = roles.iter().position(Role::is_leader)?;
        let agrees = |at: usize| {
            roles[at].lock_revision() == roles[leader].lock_revision()
                && (at == leader || roles[at].follows() == Some(self.curators[leader].node_id()))
        };
        (0..roles.len()).all(agrees).then_some(leader)
    }

    /// The instance that is meant now. Without a leader, the first.
    fn find(&self, who: Who) -> usize {
        match who {
            Who::Number(number) => number,
            Who::Leader => self
                .curators
                .iter()
                .position(|curator| curator.role().is_some_and(|role| role.is_leader()))
                .unwrap_or(0),
        }
    }

    /// Does it, and returns what has to be undone, with no leader in it any more.
    pub(crate) fn begin(&mut self, fault: Fault) -> Result<Fault> {
        let fault = self.links.meant(fault.of_number(|who| self.find(who)));
        match fault {
            Fault::KillInstance(who) => self.fell(self.find(who))?,
            Fault::PauseInstance(who) => self.curators[self.find(who)].pause()?,
            Fault::StopInstance(who) => {
                let at = self.find(who);
                self.down[at] = true;
                self.curators[at].terminate()?;
            }
            Fault::KillMember(member) => self.etcd.kill(member)?,
            Fault::PauseMember(member) => {
                self.etcd.pause(member)?;
            }
            Fault::StutterMember(member) => {
                self.stutters = Some((member, false, Instant::now()));
            }
            Fault::NoQuorum(left) => {
                for member in (0..HOSTS).filter(|member| *member != left) {
                    self.etcd.kill(member)?;
                }
            }
            Fault::Everything => {
                for at in 0..HOSTS {
                    self.fell(at)?;
                    self.etcd.kill(at)?;
                }
            }
            Fault::Compact => {
                // Only where somebody can do it.
                if let Ok(revision) = self.etcd.revision(At::Any) {
                    let _ = self.etcd.compact(At::Any, revision);
                }
            }
            Fault::Restore => {
                let backup = self.backup.0.clone();
                let taken = self.stopped(|etcd| etcd.back_up(&backup))?;
                self.backup.1 = Some(taken);
            }
            cut => self.links.cut(cut, &self.etcd, &self.curators)?,
        }
        Ok(fault)
    }

    /// Undoes what [`ChaosCluster::begin`] has returned.
    pub(crate) fn end(&mut self, fault: Fault) -> Result<()> {
        match fault {
            Fault::KillInstance(who) => self.raise(self.find(who))?,
            Fault::PauseInstance(who) => self.curators[self.find(who)].resume()?,
            Fault::StopInstance(who) => {
                let at = self.find(who);
                let status = self.curators[at].wait_exit(GRACE)?;
                if !status.success() {
                    return Err(Error::new(format!(
                        "{} was asked to end and ended with {status}",
                        self.curators[at].name()
                    )));
                }
                self.raise(at)?;
            }
            Fault::KillMember(member) => self.etcd.start_member(member)?,
            Fault::PauseMember(member) => {
                self.etcd.resume(member)?;
            }
            Fault::StutterMember(member) => {
                self.stutters = None;
                // It may run just then.
                let _ = self.etcd.resume(member);
            }
            Fault::NoQuorum(left) => {
                for member in (0..HOSTS).filter(|member| *member != left) {
                    self.etcd.start_member(member)?;
                }
            }
            Fault::Everything => {
                for at in 0..HOSTS {
                    self.etcd.start_member(at)?;
                    self.raise(at)?;
                }
            }
            Fault::Compact => {}
            Fault::Restore => {
                let backup = self.backup.0.clone();
                let put_back = self.stopped(|etcd| etcd.restore(&backup))?;
                self.restored
                    .extend(self.backup.1.take().map(|taken| (taken, put_back)));
                fs::remove_dir_all(&backup).context(|| format!("cannot remove {}", backup.display()))?;
            }
            cut => self.links.heal(cut, &self.etcd, &self.curators)?,
        }
        Ok(())
    }

    /// Looks after what goes on by itself; to be called every few milliseconds.
    ///
    /// # Errors
    /// When a process ended that nobody ended.
    pub(super) fn tick(&mut self) -> Result<()> {
        if let Some((member, stands, since)) = self.stutters
            && since.elapsed() > if stands { STAND } else { RUN }
        {
            if stands {
                self.etcd.resume(member)?;
            } else {
                self.etcd.pause(member)?;
            }
            self.stutters = Some((member, !stands, Instant::now()));
        }
        for at in 0..HOSTS {
            let Some(status) = self.curators[at].process().status() else {
                continue;
            };
            if !self.down[at] {
                return Err(self.curators[at].process().ended_early(status));
            }
            // It has ended as it was asked to.
            if self.curators[at].lives().now() == Some(Life::Ending) {
                self.curators[at].wait_exit(GRACE)?;
            }
        }
        Ok(())
    }

    /// Does something while no member of etcd runs.
    fn stopped(&mut self, work: impl FnOnce(&EtcdCluster) -> Result<()>) -> Result<Happened> {
        let from = Instant::now();
        self.etcd.kill_all()?;
        work(&self.etcd)?;
        self.etcd.start_all()?;
        Ok((from, Instant::now()))
    }

    /// When the backups that were restored were taken, and when they were restored.
    pub(super) fn restored(&self) -> &[(Happened, Happened)] {
        &self.restored
    }

    fn fell(&mut self, at: usize) -> Result<()> {
        self.down[at] = true;
        self.curators[at].kill().map(drop)
    }

    fn raise(&mut self, at: usize) -> Result<()> {
        self.curators[at].restart()?;
        self.links.set_pid(at, self.curators[at].pid());
        self.down[at] = false;
        Ok(())
    }

    /// When each instance led in which term: from the line that tells of it to the next one, or to when its process was
    /// stopped.
    pub(crate) fn terms(&self) -> Vec<(usize, i64, Instant, Option<Instant>)> {
        let mut terms = Vec::new();
        for (at, curator) in self.curators.iter().enumerate() {
            for led in curator.led_since(curator_harness::Mark::START) {
                let stopped = curator
                    .lives()
                    .told()
                    .into_iter()
                    .find(|span| span.from > led.from && matches!(span.what, Life::Down | Life::Paused))
                    .map(|span| span.from);
                terms.push((at, led.lock_revision, led.from, led.to.into_iter().chain(stopped).min()));
            }
        }
        terms.sort_by_key(|(_, _, from, _)| *from);
        terms
    }
}
