//! An etcd cluster on the loopback address, whose members can be killed, paused, cut off and brought back one by one.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;
use std::{env, fs, io};

use super::clock::{Deadline, wait_until};
use super::hosts::Host;
use super::http;
use super::lock;
use super::peers::PeerNetwork;
use super::ports::Port;
use super::process::{Orphan, Process, ProcessSpec, bound, run};
use super::process_timeline::ProcessTimeline;
use super::proxy::{Flow, TcpProxy};
use super::temp_dir::TempDir;
use crate::error::{Context, Error, Result};
use crate::timeline::Life;

/// Set in all runs but the first: what has nothing to do with the version of etcd is tried once.
pub const AGAIN: &str = "CURATOR_INTEGRATION_AGAIN";

/// The directory that holds etcd and etcdctl, as `cargo xtask integration` passes it to the tests.
pub const DIRECTORY: &str = "CURATOR_ETCD_DIR";

/// How long a cluster may take until all members answer. A machine that builds at the same time is slow.
const START: Duration = Duration::from_secs(60);
/// Where a member listens that has a host of its own: etcd's own ports, and the one after.
const CLIENTS: u16 = 2379;
const PEERS: u16 = 2380;
const METRICS: u16 = 2381;
const PROBE: Duration = Duration::from_millis(1500);
const VERSION: Duration = Duration::from_secs(20);

/// An etcd and the etcdctl of the same version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EtcdBinaries {
    directory: PathBuf,
    version: String,
}

impl EtcdBinaries {
    /// The two in one directory.
    ///
    /// # Errors
    /// When one is missing or does not run.
    pub fn in_directory(directory: &Path) -> Result<Self> {
        for name in ["etcd", "etcdctl"] {
            if !directory.join(name).is_file() {
                return Err(Error::new(format!(
                    "there is no {name} in {}: both etcd and etcdctl must be there",
                    directory.display()
                )));
            }
        }
        let mut command = bound(directory.join("etcd"), Orphan::Kill);
        command.arg("--version");
        let text = run(command, VERSION)?.success("etcd --version")?;
        let version =
            version_in(&text).ok_or_else(|| Error::new(format!("etcd --version printed no version, but: {text}")))?;
        Ok(Self {
            directory: directory.to_owned(),
            version: version.to_owned(),
        })
    }

    /// Those that `cargo xtask integration` chose.
    ///
    /// # Errors
    /// When the variable [`DIRECTORY`] is not set, or leads nowhere.
    pub fn from_env() -> Result<Self> {
        let directory = env::var_os(DIRECTORY).ok_or_else(|| {
            Error::new(format!(
                "{DIRECTORY} is not set: start these tests through `cargo xtask integration`"
            ))
        })?;
        Self::in_directory(Path::new(&directory))
    }

    /// Such as `3.4.23`.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Such as `3.4`.
    pub fn series(&self) -> &str {
        self.version
            .match_indices('.')
            .nth(1)
            .map_or(&self.version, |(at, _)| &self.version[..at])
    }

    /// Where the two are.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The program that looks at files and not at members, such as `snapshot restore`: etcdutl, and etcdctl where there
    /// is none, as before 3.5. Since 3.6 etcdctl restores no more.
    pub fn offline(&self) -> PathBuf {
        let utl = self.directory.join("etcdutl");
        if utl.is_file() { utl } else { self.etcdctl() }
    }

    pub(super) fn etcdctl(&self) -> PathBuf {
        self.directory.join("etcdctl")
    }
}

fn copy_directory(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    // etcd refuses a directory that others may read.
    fs::set_permissions(to, fs::metadata(from)?.permissions())?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let to = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_directory(&entry.path(), &to)?;
        } else {
            fs::copy(entry.path(), to).map(drop)?;
        }
    }
    Ok(())
}

fn version_in(text: &str) -> Option<&str> {
    let version = text.lines().find_map(|line| line.strip_prefix("etcd Version:"))?.trim();
    (version.split('.').count() >= 2).then_some(version)
}

/// How a cluster is set up.
#[derive(Clone, Debug)]
pub struct EtcdOptions {
    /// What the members' names begin with. Two clusters in one scratch directory need two names.
    pub name: String,
    /// How many members.
    pub members: usize,
    /// The members' names; of those that have none here, what `name` says and their number.
    pub names: Vec<String>,
    /// How often etcd's leader calls its followers. etcd's default is 100 ms.
    pub heartbeat: Duration,
    /// How long a follower waits for that call. etcd's default is 1 s. The smallest lease TTL is 1.5 times this,
    /// rounded up to whole seconds.
    pub election_timeout: Duration,
    /// Whether the members reach each other through proxies, so that they can be cut off.
    pub peer_proxies: bool,
    /// Whether clients reach the members through proxies.
    pub client_proxies: bool,
    /// Clients may reach each member through a socket in the scratch as well.
    pub client_sockets: bool,
    /// A host for each member, with no proxies; without, all are on loopback.
    pub hosts: Vec<Host>,
    /// TLS between the members and their clients. The members speak with each other without.
    pub tls: Option<EtcdTls>,
    /// More arguments for each member.
    pub extra_args: Vec<String>,
}

/// TLS between the members and their clients: files in PEM, which are there before the cluster is.
#[derive(Clone, Debug)]
pub struct EtcdTls {
    /// The members' certificate.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// The authority that it comes from.
    pub ca: PathBuf,
    /// The authorities that clients' certificates must come from; without, clients are asked for none. Read when a
    /// member starts.
    pub client_ca: Option<PathBuf>,
    /// The certificate and the key that etcdctl shows.
    pub etcdctl: Option<(PathBuf, PathBuf)>,
}

impl Default for EtcdOptions {
    /// Three members with etcd's own timing, and proxies between them but not before them.
    fn default() -> Self {
        Self {
            name: "etcd".to_owned(),
            members: 3,
            names: Vec::new(),
            heartbeat: Duration::from_millis(100),
            election_timeout: Duration::from_secs(1),
            peer_proxies: true,
            client_proxies: false,
            hosts: Vec::new(),
            tls: None,
            client_sockets: false,
            extra_args: Vec::new(),
        }
    }
}

/// Which member is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum At {
    /// The first healthy one.
    Any,
    /// That one, whatever its state, around any proxy.
    Member(usize),
}

/// A cluster. All of it is killed when it is dropped. Members are numbered from 0.
#[derive(Debug)]
pub struct EtcdCluster {
    binaries: EtcdBinaries,
    options: EtcdOptions,
    members: Vec<Member>,
    peers: Option<PeerNetwork>,
    /// Whom etcdctl logs in as, as `name:password`.
    user: Mutex<Option<String>>,
    // After the processes, so that these have ended when the directory goes.
    scratch: TempDir,
}

#[derive(Debug)]
struct Member {
    name: String,
    spec: ProcessSpec,
    process: Mutex<Option<Arc<Process>>>,
    lives: ProcessTimeline,
    client_proxy: Option<TcpProxy>,
    client: Port,
    /// Where it says how it is, without TLS.
    metrics: Port,
    _peer: Port,
}

impl EtcdCluster {
    /// Starts a cluster and waits until all members answer.
    ///
    /// # Errors
    /// When a member cannot be started, or does not answer within a minute.
    pub fn start(binaries: &EtcdBinaries, scratch: &TempDir, options: EtcdOptions) -> Result<Self> {
        let cluster = Self::prepare(binaries, scratch, options)?;
        cluster.start_all()?;
        cluster.wait_healthy(START)?;
        Ok(cluster)
    }

    /// Sets everything up, ports and proxies included, and starts no member yet.
    ///
    /// # Errors
    /// When there are no free ports.
    pub fn prepare(binaries: &EtcdBinaries, scratch: &TempDir, options: EtcdOptions) -> Result<Self> {
        let ports = |of_host| {
            let port = |member| match options.hosts.get(member) {
                Some(host) => Ok(Port::of(host, of_host)),
                None => Port::reserve(),
            };
            (0..options.members).map(port).collect::<Result<Vec<_>>>()
        };
        let (clients, peers, metrics) = (ports(CLIENTS)?, ports(PEERS)?, ports(METRICS)?);
        let network = if options.peer_proxies {
            Some(PeerNetwork::start(
                ports(PEERS)?,
                &peers.iter().map(Port::address).collect::<Vec<_>>(),
            )?)
        } else {
            None
        };
        let peer_url = |member: usize| {
            network
                .as_ref()
                .map_or_else(|| peers[member].url(), |network| network.url(member))
        };
        let name_of = |member: usize| match options.names.get(member) {
            Some(name) => name.clone(),
            None => format!("{}-{member}", options.name),
        };
        let initial: Vec<_> = (0..options.members)
            .map(|member| format!("{}={}", name_of(member), peer_url(member)))
            .collect();
        let initial = initial.join(",");
        let millis = |duration: Duration| duration.as_millis().to_string();
        let peer_urls: Vec<_> = (0..options.members).map(peer_url).collect();
        let mut members = Vec::new();
        let own_ports = clients.into_iter().zip(peers).zip(metrics);
        for (number, (((client, peer), metrics), peer_url)) in own_ports.zip(peer_urls).enumerate() {
            let name = name_of(number);
            let client_proxy = options
                .client_proxies
                .then(|| TcpProxy::start(client.address()))
                .transpose()?;
            let advertised = client_proxy.as_ref().map_or_else(|| client.url(), TcpProxy::url);
            let tls = options.tls.as_ref();
            let data = scratch.path().join(format!("{name}.data"));
            let mut listens = of_scheme(client.url(), tls);
            if options.client_sockets {
                listens = format!("{listens},{}", socket_url(scratch, &name));
            }
            let spec = ProcessSpec::new(&name, binaries.directory.join("etcd"))
                .without_env("ETCD_")
                .args(["--name", &name, "--data-dir"])
                .args([&data])
                .args([
                    "--listen-client-urls",
                    &listens,
                    "--advertise-client-urls",
                    &of_scheme(advertised, tls),
                ])
                .args(tls.map(server_args).unwrap_or_default())
                .args(["--listen-metrics-urls", &metrics.url()])
                .args([
                    "--listen-peer-urls",
                    &peer.url(),
                    "--initial-advertise-peer-urls",
                    &peer_url,
                ])
                .args(["--initial-cluster", &initial, "--initial-cluster-state", "new"])
                .args([
                    "--initial-cluster-token",
                    &scratch.path().join(&options.name).display().to_string(),
                ])
                .args(["--heartbeat-interval", &millis(options.heartbeat)])
                .args(["--election-timeout", &millis(options.election_timeout)])
                .args(["--logger", "zap", "--log-outputs", "stderr"])
                .args(&options.extra_args)
                .on(options.hosts.get(number));
            members.push(Member {
                name,
                spec,
                process: Mutex::new(None),
                lives: ProcessTimeline::default(),
                client_proxy,
                client,
                metrics,
                _peer: peer,
            });
        }
        Ok(Self {
            binaries: binaries.clone(),
            options,
            members,
            peers: network,
            user: Mutex::new(None),
            scratch: scratch.clone(),
        })
    }

    /// The binaries that it runs.
    pub fn binaries(&self) -> &EtcdBinaries {
        &self.binaries
    }

    /// How it was set up.
    pub fn options(&self) -> &EtcdOptions {
        &self.options
    }

    /// How many members it has.
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    pub(super) fn scratch(&self) -> &TempDir {
        &self.scratch
    }

    /// Where clients of this host reach a member that has a socket for them.
    pub fn client_socket(&self, member: usize) -> String {
        socket_url(&self.scratch, &self.members[member].name)
    }

    /// Where clients reach a member: its proxy if it has one.
    pub fn client_url(&self, member: usize) -> String {
        let member = &self.members[member];
        let proxy = member.client_proxy.as_ref();
        let url = proxy.map_or_else(|| member.client.url(), TcpProxy::url);
        of_scheme(url, self.options.tls.as_ref())
    }

    /// Where a member listens for clients, around its proxy.
    pub fn direct_client_url(&self, member: usize) -> String {
        of_scheme(self.members[member].client.url(), self.options.tls.as_ref())
    }

    /// Where clients reach the members, all of them.
    pub fn endpoints(&self) -> Vec<String> {
        (0..self.len()).map(|member| self.client_url(member)).collect()
    }

    /// The proxy between a member and its clients.
    ///
    /// # Errors
    /// When the cluster was set up without them.
    pub fn client_proxy(&self, member: usize) -> Result<&TcpProxy> {
        self.members[member]
            .client_proxy
            .as_ref()
            .ok_or_else(|| Error::new("set `client_proxies` in the options of this cluster"))
    }

    /// How a member lived.
    pub fn lives(&self, member: usize) -> &ProcessTimeline {
        &self.members[member].lives
    }

    /// The process of a member.
    ///
    /// # Errors
    /// When it does not run.
    pub fn process(&self, member: usize) -> Result<Arc<Process>> {
        let member = &self.members[member];
        lock(&member.process)
            .clone()
            .ok_or_else(|| Error::new(format!("{} is not started", member.name)))
    }

    /// The number of a member's process.
    ///
    /// # Errors
    /// When it does not run.
    pub fn pid(&self, member: usize) -> Result<u32> {
        Ok(self.process(member)?.pid())
    }

    /// Starts one member, with the data that it has, and does not wait for it. Nothing happens when it runs already.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start_member(&self, member: usize) -> Result<()> {
        let this = &self.members[member];
        let mut slot = lock(&this.process);
        if slot.as_ref().is_some_and(|process| process.is_running()) {
            return Ok(());
        }
        let process = Process::start(&this.spec, &self.scratch)?;
        self.set_pid(member, Some(process.pid()));
        this.lives.becomes(Life::Up);
        *slot = Some(Arc::new(process));
        Ok(())
    }

    /// Starts all members that do not run, and does not wait for them.
    ///
    /// # Errors
    /// When one cannot be started.
    pub fn start_all(&self) -> Result<()> {
        (0..self.len()).try_for_each(|member| self.start_member(member))
    }

    /// Kills a member (SIGKILL).
    ///
    /// # Errors
    /// When it is not started.
    pub fn kill(&self, member: usize) -> Result<()> {
        let process = self.process(member)?;
        process.kill()?;
        self.forget(member);
        Ok(())
    }

    /// Asks a member to end (SIGTERM) and waits for it.
    ///
    /// # Errors
    /// When it is not started or does not end in time.
    pub fn stop(&self, member: usize, within: Duration) -> Result<ExitStatus> {
        let process = self.process(member)?;
        process.terminate()?;
        let status = process.wait_exit(within)?;
        self.forget(member);
        Ok(status)
    }

    /// Kills all members at once. Those that do not run are passed over.
    ///
    /// # Errors
    /// When the system does not let go of one.
    pub fn kill_all(&self) -> Result<()> {
        let running = || (0..self.len()).filter_map(|member| self.process(member).ok());
        for process in running() {
            // It may have ended by itself.
            let _ = process.signal(rustix::process::Signal::KILL);
        }
        (0..self.len())
            .filter(|member| self.process(*member).is_ok())
            .try_for_each(|member| self.kill(member))
    }

    /// Asks all members to end and waits for them. Those that do not run are passed over.
    ///
    /// # Errors
    /// When one does not end in time.
    pub fn stop_all(&self, within: Duration) -> Result<()> {
        let deadline = Deadline::after(within);
        let running: Vec<_> = (0..self.len())
            .filter_map(|member| Some((member, self.process(member).ok()?)))
            .collect();
        for (_, process) in &running {
            let _ = process.terminate();
        }
        for (member, process) in running {
            process.wait_exit(deadline.remaining())?;
            self.forget(member);
        }
        Ok(())
    }

    /// Copies the data of all members, none of which runs, as a backup of their disks does.
    ///
    /// # Errors
    /// When one runs, or its data cannot be copied.
    pub fn back_up(&self, to: &Path) -> Result<()> {
        self.copy_data(&|data, kept| copy_directory(data, kept), to)
    }

    /// Gives all members, none of which runs, the data of a backup instead of what they have.
    ///
    /// # Errors
    /// When one runs, or its data cannot be replaced.
    pub fn restore(&self, from: &Path) -> Result<()> {
        let replace = |data: &Path, kept: &Path| {
            fs::remove_dir_all(data)?;
            copy_directory(kept, data)
        };
        self.copy_data(&replace, from)
    }

    /// Saves a snapshot, as a member that runs has it.
    ///
    /// # Errors
    /// When the member does not answer in time.
    pub fn snapshot(&self, at: At, file: &Path) -> Result<()> {
        let file = file.display().to_string();
        self.etcdctl(at, &["snapshot", "save", &file], START).map(drop)
    }

    /// Gives a member that does not run the data of a snapshot instead of what it has, as a cluster of its own: what an
    /// operator does who restores it by itself.
    ///
    /// # Errors
    /// When it runs, or the snapshot cannot be restored.
    pub fn restore_alone(&self, member: usize, snapshot: &Path) -> Result<()> {
        let Member { name, .. } = &self.members[member];
        if self.process(member).is_ok() {
            return Err(Error::new(format!("{name} runs: stop it first")));
        }
        let data = self.scratch.path().join(format!("{name}.data"));
        fs::remove_dir_all(&data).context(|| format!("cannot remove the data of {name}"))?;
        let peer = "http://127.0.0.1:1";
        let mut command = bound(self.binaries.offline(), Orphan::Kill);
        command
            .env("ETCDCTL_API", "3")
            .args(["snapshot", "restore"])
            .arg(snapshot);
        command.args(["--name", name, "--initial-cluster", &format!("{name}={peer}")]);
        command.args(["--initial-advertise-peer-urls", peer, "--initial-cluster-token", name]);
        command.arg("--data-dir").arg(&data);
        run(command, START)?.success("snapshot restore").map(drop)
    }

    fn copy_data(&self, copy: &dyn Fn(&Path, &Path) -> io::Result<()>, backup: &Path) -> Result<()> {
        for (number, member) in self.members.iter().enumerate() {
            if self.process(number).is_ok() {
                return Err(Error::new(format!("{} runs: stop it first", member.name)));
            }
            let data = self.scratch.path().join(format!("{}.data", member.name));
            copy(&data, &backup.join(&member.name)).context(|| format!("copying the data of {}", member.name))?;
        }
        Ok(())
    }

    /// Kills a member and starts it again with its data.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn restart(&self, member: usize) -> Result<()> {
        self.kill(member)?;
        self.start_member(member)
    }

    /// Stops a member in its tracks (SIGSTOP): it accepts connections and answers nothing.
    ///
    /// # Errors
    /// When it does not run.
    pub fn pause(&self, member: usize) -> Result<()> {
        self.process(member)?.pause()?;
        self.members[member].lives.becomes(Life::Paused);
        Ok(())
    }

    /// Lets a paused member go on.
    ///
    /// # Errors
    /// When it does not run.
    pub fn resume(&self, member: usize) -> Result<()> {
        self.process(member)?.resume()?;
        self.members[member].lives.becomes(Life::Up);
        Ok(())
    }

    /// Cuts a member off from all other members, in both directions. Clients still reach it.
    ///
    /// # Errors
    /// When the cluster was set up without proxies between the members.
    pub fn isolate(&self, member: usize) -> Result<()> {
        self.network()?.isolate(member);
        self.members[member].lives.becomes(Life::CutOff);
        Ok(())
    }

    /// Switches what one member sends to another.
    ///
    /// # Errors
    /// When the cluster was set up without proxies between the members.
    pub fn set_link(&self, from: usize, to: usize, flow: Flow) -> Result<()> {
        self.network()?.set(from, to, flow);
        Ok(())
    }

    /// Lets everything between the members pass again.
    ///
    /// # Errors
    /// When the cluster was set up without proxies between the members.
    pub fn heal(&self) -> Result<()> {
        self.network()?.heal();
        for member in &self.members {
            if member.lives.now() == Some(Life::CutOff) {
                member.lives.becomes(Life::Up);
            }
        }
        Ok(())
    }

    /// The network between the members.
    ///
    /// # Errors
    /// When the cluster was set up without proxies between the members.
    pub fn network(&self) -> Result<&PeerNetwork> {
        self.peers
            .as_ref()
            .ok_or_else(|| Error::new("set `peer_proxies` in the options of this cluster"))
    }

    /// Whether a member answers a read that needs a quorum.
    pub fn is_healthy(&self, member: usize) -> bool {
        self.probe(member, PROBE)
    }

    /// Waits until all members answer reads that need a quorum.
    ///
    /// # Errors
    /// When one does not in time, or has ended.
    pub fn wait_healthy(&self, within: Duration) -> Result<()> {
        let deadline = Deadline::after(within);
        (0..self.len()).try_for_each(|member| self.wait_member_healthy(member, deadline.remaining()))
    }

    /// Waits until a member answers a read that needs a quorum.
    ///
    /// # Errors
    /// When it does not in time, or has ended.
    pub fn wait_member_healthy(&self, member: usize, within: Duration) -> Result<()> {
        let deadline = Deadline::after(within);
        let process = self.process(member)?;
        let what = format!(
            "{} to be healthy; its log is {}",
            process.name(),
            process.log().display()
        );
        wait_until(what, within, || {
            if let Some(status) = process.status() {
                return Some(Err(process.ended_early(status)));
            }
            let healthy = self.probe(member, PROBE.min(deadline.remaining()));
            if !healthy {
                thread::sleep(Duration::from_millis(20).min(deadline.remaining()));
            }
            healthy.then_some(Ok(()))
        })?
    }

    /// Waits until a member answers no read that needs a quorum.
    ///
    /// # Errors
    /// When it still does at the end.
    pub fn wait_member_unhealthy(&self, member: usize, within: Duration) -> Result<()> {
        let what = format!("{} to be unhealthy", self.members[member].name);
        wait_until(what, within, || (!self.probe(member, PROBE)).then_some(()))
    }

    /// The value of a metric of a member, by its name and labels as the member writes them.
    ///
    /// # Errors
    /// If the member does not answer, or has no such metric.
    pub fn metric(&self, member: usize, name: &str, within: Duration) -> Result<f64> {
        let (_, metrics) = http::get(self.address(member), "/metrics", within)?;
        metrics
            .lines()
            .find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
            .ok_or_else(|| Error::new(format!("etcd has no metric {name}")))
    }

    /// Waits until exactly one of the members says that it is etcd's own leader, and names it.
    ///
    /// # Errors
    /// When that does not happen in time.
    pub fn leader(&self, within: Duration) -> Result<usize> {
        wait_until("one member to lead etcd", within, || {
            let leading: Vec<_> = (0..self.len()).filter(|member| self.leads(*member)).collect();
            (leading.len() == 1).then(|| leading[0])
        })
    }

    fn leads(&self, member: usize) -> bool {
        http::get(self.address(member), "/metrics", PROBE)
            .is_ok_and(|(_, metrics)| metrics.lines().any(|line| line == "etcd_server_is_leader 1"))
    }

    fn probe(&self, member: usize, within: Duration) -> bool {
        let answer = http::get(self.address(member), "/health", within);
        answer.is_ok_and(|(status, body)| status == 200 && body.contains("true"))
    }

    fn address(&self, member: usize) -> SocketAddr {
        self.members[member].metrics.address()
    }

    /// Gives the cluster a root user and has everybody log in from now on; etcdctl does so as root.
    ///
    /// # Errors
    /// When etcd refuses, or does not answer in time.
    pub fn enable_auth(&self, root_password: &str) -> Result<()> {
        let root = format!("root:{root_password}");
        for args in [
            &["user", "add", &root][..],
            &["user", "grant-role", "root", "root"],
            &["auth", "enable"],
        ] {
            self.etcdctl(At::Any, args, START)?;
        }
        *lock(&self.user) = Some(root);
        Ok(())
    }

    /// Gives etcd a user whose only role is readwrite on all keys that begin with one of the prefixes.
    ///
    /// # Errors
    /// When etcd refuses, or does not answer in time.
    pub fn add_user(&self, name: &str, password: &str, prefixes: &[&str]) -> Result<()> {
        for args in [
            &["user", "add", &format!("{name}:{password}")][..],
            &["role", "add", name],
            &["user", "grant-role", name, name],
        ] {
            self.etcdctl(At::Any, args, START)?;
        }
        for prefix in prefixes {
            let args = ["role", "grant-permission", "--prefix=true", name, "readwrite", prefix];
            self.etcdctl(At::Any, &args, START)?;
        }
        Ok(())
    }

    /// What etcdctl is told besides what to do: with which files and as whom.
    pub(super) fn etcdctl_access(&self) -> Vec<(&'static str, String)> {
        let mut access = Vec::new();
        if let Some(tls) = &self.options.tls {
            access.push(("ETCDCTL_CACERT", tls.ca.display().to_string()));
            if let Some((certificate, key)) = &tls.etcdctl {
                access.push(("ETCDCTL_CERT", certificate.display().to_string()));
                access.push(("ETCDCTL_KEY", key.display().to_string()));
            }
        }
        access.extend(lock(&self.user).clone().map(|user| ("ETCDCTL_USER", user)));
        access
    }

    fn forget(&self, member: usize) {
        *lock(&self.members[member].process) = None;
        self.members[member].lives.becomes(Life::Down);
        self.set_pid(member, None);
    }

    fn set_pid(&self, member: usize, pid: Option<u32>) {
        if let Some(network) = &self.peers {
            network.set_pid(member, pid);
        }
    }

    /// The member that [`At`] means now.
    pub(super) fn choose(&self, at: At) -> Result<usize> {
        match at {
            At::Member(member) => Ok(member),
            At::Any => (0..self.len())
                .find(|member| self.process(*member).is_ok() && self.is_healthy(*member))
                .ok_or_else(|| Error::new("no member of this etcd cluster is healthy")),
        }
    }
}

/// The scheme that clients reach the members by.
fn socket_url(scratch: &TempDir, name: &str) -> String {
    // As the Go Curator has it: to etcd, all of it is the path.
    format!("unix://{}", scratch.path().join(format!("{name}.sock:0")).display())
}

fn of_scheme(url: String, tls: Option<&EtcdTls>) -> String {
    match tls {
        Some(_) => url.replacen("http:", "https:", 1),
        None => url,
    }
}

fn server_args(tls: &EtcdTls) -> Vec<String> {
    let mut args = vec![
        "--cert-file".to_owned(),
        tls.certificate.display().to_string(),
        "--key-file".to_owned(),
        tls.key.display().to_string(),
    ];
    if let Some(ca) = &tls.client_ca {
        args.extend([
            "--client-cert-auth".to_owned(),
            "--trusted-ca-file".to_owned(),
            ca.display().to_string(),
        ]);
    }
    args
}

impl Drop for EtcdCluster {
    fn drop(&mut self) {
        // All at once, so that no survivor spends its time on elections meanwhile.
        if let Err(error) = self.kill_all() {
            eprintln!("{}", error.chain());
        }
    }
}

/// Reads what etcdctl printed as JSON.
pub(super) fn parsed<T>(what: &str, text: &str, parse: impl FnOnce(&serde_json::Value) -> Option<T>) -> Result<T> {
    let value = serde_json::from_str(text).context(|| format!("etcdctl {what} printed no JSON, but: {text}"))?;
    parse(&value).ok_or_else(|| Error::new(format!("etcdctl {what} printed something unknown: {text}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_and_their_series_are_read() {
        let text = "etcd Version: 3.4.23\nGit SHA: Not provided\nGo Version: go1.19.8\n";
        assert_eq!(version_in(text), Some("3.4.23"));
        assert_eq!(version_in("etcd"), None);
        let series = |version: &str| {
            let version = version.to_owned();
            EtcdBinaries {
                directory: PathBuf::new(),
                version,
            }
            .series()
            .to_owned()
        };
        assert_eq!(series("3.4.23"), "3.4");
        assert_eq!(series("3.6"), "3.6");
    }
}
