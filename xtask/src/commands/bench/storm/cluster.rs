//! The cluster that a storm comes over: three members of etcd, three instances, and the nodes that there are.

use std::path::{Path, PathBuf};
use std::time::Duration;

use curator_harness::error::{Error, Result};
use curator_harness::process::{Capture, Orphan, ProcessSpec, bound};
use curator_harness::{
    CuratorOptions, CuratorProcess, EtcdBinaries, EtcdCluster, EtcdOptions, Mark, Recorded, TempDir, resident, step,
    wait_until,
};
use serde_json::Value;

use super::{SOON, leader, most};
use crate::workspace::{EMBED, EMBED_RELEASE, STORM, STORM_QUICK, build};

/// How many instances there are.
const INSTANCES: u32 = 3;
/// A storm may take as long: the generator gives up a little sooner.
const PATIENCE: Duration = Duration::from_secs(200);

/// What is measured, and what it is measured with.
pub(super) struct Programs {
    service: PathBuf,
    generator: PathBuf,
}

impl Programs {
    /// Builds them: as users get them, or sooner and without optimization.
    pub(super) fn build(quick: bool) -> Result<Self> {
        Ok(if quick {
            Self {
                service: build(EMBED)?,
                generator: build(STORM_QUICK)?,
            }
        } else {
            Self {
                service: build(EMBED_RELEASE)?,
                generator: build(STORM)?,
            }
        })
    }
}

/// A cluster. Dropping it stops everything.
pub(super) struct Cluster {
    pub(super) curators: Vec<CuratorProcess>,
    /// What an instance had at most before any client came, in bytes.
    pub(super) calm: u64,
    tls: Option<PathBuf>,
    generator: PathBuf,
    scratch: TempDir,
    _etcd: EtcdCluster,
}

impl Cluster {
    /// Starts one with so many nodes, with TLS if that is wanted. As many of them as are to watch join later then.
    pub(super) fn start(
        binaries: &EtcdBinaries,
        programs: &Programs,
        (nodes, watchers): (usize, usize),
        tls: bool,
    ) -> Result<Self> {
        let scratch = TempDir::new("bench-storm")?;
        let tls = tls.then(|| scratch.dir("keys")).transpose()?;
        let generator = |name: &str, args: &[&str]| {
            let mut command = bound(&programs.generator, Orphan::Kill);
            command.args(args);
            if let Some(keys) = &tls {
                command.arg("--tls").arg(keys);
            }
            step::output(name, command)
        };
        let ids = match &tls {
            Some(keys) => made_keys(&programs.generator, keys)?,
            None => Vec::new(),
        };
        let options = EtcdOptions {
            peer_proxies: false,
            names: ids.clone(),
            ..EtcdOptions::default()
        };
        let etcd = EtcdCluster::start(binaries, &scratch, options)?;
        if tls.is_some() {
            generator("make the cluster", &["--found", &etcd.client_url(0)])?;
        }
        let mut cluster = Self {
            curators: Vec::new(),
            calm: 0,
            tls: tls.clone(),
            generator: programs.generator.clone(),
            scratch,
            _etcd: etcd,
        };
        let (count, watching) = (nodes.to_string(), watchers.to_string());
        let url = cluster._etcd.client_url(0);
        generator(
            "put the nodes into etcd",
            &["--fill", &url, "--nodes", &count, "--watchers", &watching],
        )?;
        for number in 1..=INSTANCES {
            // The default TTL: what a storm does to it is what is looked at.
            let endpoints = cluster._etcd.endpoints();
            let mut options = CuratorOptions::new(number, endpoints).leader_ttl(Duration::from_secs(10));
            if let (Some(keys), Some(id)) = (&tls, ids.get(number as usize - 1)) {
                options.credentials = Some(keys.join(format!("node-{number}")));
                options.node_id.clone_from(id);
            }
            let instance = CuratorProcess::start(&programs.service, &cluster.scratch, options)?;
            cluster.curators.push(instance);
            if number == 1 && tls.is_some() {
                wait_until("a leader", SOON, || leader(&cluster.curators))?;
                let first = cluster.curators[0].address().to_string();
                generator("let the other instances in", &["--admit", "--instances", &first])?;
            }
        }
        wait_until("a leader", SOON, || leader(&cluster.curators))?;
        cluster.calm = most(&cluster.curators, resident)?;
        Ok(cluster)
    }

    /// Starts the clients of so many nodes.
    pub(super) fn clients(&self, (nodes, watchers): (usize, usize), kind: &str) -> Result<Recorded> {
        let addresses: Vec<_> = self
            .curators
            .iter()
            .map(|curator| curator.address().to_string())
            .collect();
        let mut spec = ProcessSpec::new("storm", &self.generator)
            .args(["--nodes", &nodes.to_string(), "--watchers", &watchers.to_string()])
            .args(["--instances", &addresses.join(",")])
            .args(["--kind", kind])
            .capture(Capture::Stdout);
        if let Some(keys) = &self.tls {
            spec = spec.args(["--tls", &keys.to_string_lossy()]);
        }
        Recorded::start(&spec, &self.scratch)
    }
}

/// Waits for what the generator says: the `nth` time that it says whether all was done, or else that nodes have joined.
pub(super) fn told(generator: &Recorded, what: &str, nth: usize) -> Result<Value> {
    let told = |line: &str| {
        let told: Value = serde_json::from_str(line).ok()?;
        let is_it = match what {
            "done" => told["done"].is_boolean(),
            _ => told["what"] == what,
        };
        is_it.then_some(told)
    };
    wait_until("the clients to be served", PATIENCE, || {
        let lines = generator.lines.since(Mark::START);
        lines.iter().filter_map(|line| told(&line.text)).nth(nth)
    })
}

/// Makes the keys of those with an instance; their ids.
fn made_keys(generator: &Path, keys: &Path) -> Result<Vec<String>> {
    let mut command = bound(generator, Orphan::Kill);
    command.arg("--keys").arg(keys);
    let said = step::output("make keys", command)?;
    let ids: Option<Vec<String>> = serde_json::from_str::<Value>(&said).ok().and_then(|said| {
        let ids = said["ids"].as_array()?.iter();
        ids.map(|id| id.as_str().map(str::to_owned)).collect()
    });
    ids.ok_or_else(|| Error::new(format!("the generator said {said:?} of the keys that it has made")))
}
