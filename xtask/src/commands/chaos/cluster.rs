//! A cluster with TLS and three nodes, made by the commands that an operator gives: see `docs/running-three-nodes.md`.
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use curator_harness::error::{Context, Error, Result};
use curator_harness::process::{Orphan, Process, ProcessSpec, bound, run};
use curator_harness::{CuratorOptions, CuratorProcess, Mark, Role, TempDir, wait_until};

const SOON: Duration = Duration::from_secs(30);

/// What is left of the making of a cluster that is in no etcd yet.
pub(crate) struct Made {
    /// The ids of the nodes.
    pub(crate) ids: Vec<String>,
    /// The directories of their credentials.
    pub(crate) credentials: Vec<PathBuf>,
    /// The owner's `ca.pem`, `owner.pem` and `owner-key.pem`.
    pub(crate) owner: Owner,
    /// The directory that it was made in.
    pub(crate) embedded: PathBuf,
    /// All of its state, in a file.
    state: PathBuf,
}

/// What the owner shows.
#[derive(Clone)]
pub(crate) struct Owner {
    pub(crate) ca: PathBuf,
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
}

impl Owner {
    pub(crate) fn arguments(&self) -> Vec<String> {
        [("--ca", &self.ca), ("--cert", &self.certificate), ("--key", &self.key)]
            .into_iter()
            .flat_map(|(flag, path)| [flag.to_owned(), path.display().to_string()])
            .collect()
    }
}

fn call<S: AsRef<OsStr>>(program: &Path, args: &[S]) -> Result<String> {
    let mut command = bound(program, Orphan::Kill);
    command.args(args);
    let name = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let what = args.first().map(|arg| arg.as_ref().to_string_lossy().into_owned());
    run(command, SOON)?.success(&format!("{name} {}", what.unwrap_or_default()))
}

/// Calls `curatorctl` as the owner.
struct Ctl<'a> {
    program: &'a Path,
    endpoint: String,
    owner: &'a Owner,
}

impl Ctl<'_> {
    fn call(&self, args: &[&str]) -> Result<String> {
        let mut all: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
        all.extend(["--endpoint".to_owned(), self.endpoint.clone()]);
        all.extend(self.owner.arguments());
        call(self.program, &all)
    }

    /// The ids of the nodes that a filter holds for.
    fn nodes(&self, filter: &str) -> Result<Vec<String>> {
        let text = self.call(&["nodes", "list", "--filter", filter, "--output", "json"])?;
        let nodes: serde_json::Value =
            serde_json::from_str(&text).map_err(|error| Error::new(format!("nodes list: {error}: {text}")))?;
        let id = |node: &serde_json::Value| node["id"].as_str().map(str::to_owned);
        let ids: Option<Vec<_>> = nodes.as_array().and_then(|nodes| nodes.iter().map(id).collect());
        ids.ok_or_else(|| Error::new(format!("nodes list does not tell the ids: {text}")))
    }
}

/// Makes it with `curator` and `curatorctl`, in an instance that keeps its state in a directory, and ends that
/// instance.
pub(crate) fn make(curator: &Path, ctl: &Path, scratch: &TempDir, nodes: usize) -> Result<Made> {
    let path = |name: &str| scratch.path().join(name);
    let text = |name: &str| path(name).display().to_string();
    let credentials: Vec<_> = (1..=nodes)
        .map(|number| path(&format!("credentials-{number}")))
        .collect();
    let (embedded, first) = (text("embedded"), credentials[0].display().to_string());
    let making = ["bootstrap", "--embedded", &embedded, "--credentials", &first];
    let security = ["--tpm-mode", "best-effort", "--storage-security", "permissive"];
    call(curator, &[&making[..], &security[..]].concat())?;

    let mut options = CuratorOptions::new(0, Vec::new());
    // The certificate says it.
    options.node_id = String::new();
    options.name = "maker".to_owned();
    options.credentials = Some(credentials[0].clone());
    options.extra_args = vec!["--embedded".to_owned(), embedded.clone()];
    let maker = CuratorProcess::start(curator, scratch, options)?;
    maker.wait_for_role(Mark::START, SOON, "leading alone", Role::is_leader)?;
    let owner = Owner {
        ca: credentials[0].join("ca.pem"),
        certificate: path("owner.pem"),
        key: credentials[0].join("owner-key.pem"),
    };
    let endpoint = maker.address().to_string();
    let asked = ["cert", "owner", "--endpoint", &endpoint, "--out", &text("owner.pem")];
    let [ca, key] = [&owner.ca, &owner.key].map(|path| path.display().to_string());
    let shown = ["--ca", &ca, "--key", &key];
    call(ctl, &[&asked[..], &shown[..]].concat())?;
    let ctl = Ctl {
        program: ctl,
        endpoint: endpoint.clone(),
        owner: &owner,
    };
    let mut ids = ctl.nodes("true")?;
    let ticket = ctl.call(&["ticket"])?;
    fs::write(path("unlock-key"), [7; 32]).context(|| "cannot write the key of a disk".to_owned())?;
    // One after the other, so that each id is known to be that of its directory.
    for (number, directory) in credentials.iter().enumerate().skip(1) {
        let spec = ProcessSpec::new(format!("register-{}", number + 1), curator)
            .args(["register", "--address", &endpoint, "--ca"])
            .args([&owner.ca])
            .args(["--credentials".as_ref(), directory.as_os_str()])
            .args(["--cluster-unlock-key-file", &text("unlock-key")])
            .env("CURATOR_REGISTER_TICKET", ticket.trim());
        let registering = Process::start(&spec, scratch)?;
        let id = wait_until("a node to register", SOON, || match registering.status() {
            Some(status) => Some(Err(registering.ended_early(status))),
            None => ctl
                .nodes("node.state == NODE_STATE_NEW")
                .map(|new| new.into_iter().next())
                .transpose(),
        })??;
        ctl.call(&["nodes", "approve", &id])?;
        let status = registering.wait_exit(SOON)?;
        if !status.success() {
            return Err(registering.ended_early(status));
        }
        ids.push(id);
    }
    maker.terminate()?;
    maker.wait_exit(SOON)?;
    call(curator, &["export", "--embedded", &embedded, "--out", &text("state")])?;
    Ok(Made {
        ids,
        credentials,
        owner,
        embedded: path("embedded"),
        state: path("state"),
    })
}

/// Waits until the leader has given all nodes the role without which an instance may not forward.
pub(crate) fn all_are_members(program: &Path, owner: &Owner, endpoint: String, nodes: usize) -> Result<()> {
    let ctl = Ctl {
        program,
        endpoint,
        owner,
    };
    wait_until(
        "all nodes to have the role of a member of the consensus",
        SOON,
        || match ctl.nodes("has(node.roles.consensus_member)") {
            Ok(members) => (members.len() == nodes).then_some(()),
            // Until then an instance does not prove what it is, and is not taken for one.
            Err(_) => None,
        },
    )
}

/// Moves it to etcd.
pub(crate) fn import(curator: &Path, made: &Made, endpoints: &[String]) -> Result<()> {
    let state = made.state.display().to_string();
    call(curator, &["import", &state, "--etcd-endpoints", &endpoints.join(",")]).map(drop)
}
