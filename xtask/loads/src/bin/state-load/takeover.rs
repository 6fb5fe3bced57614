//! How long it takes until a new leader has read the state, and to export and import it, beside a plain reading of the
//! same keys.

use std::ffi::OsString;
use std::fs::File;
use std::io::BufReader;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Instant;

use curator_election::etcd::{EtcdConfig, EtcdStore};
use curator_election::namespace::Namespaced;
use curator_election::store::{Keys, Op, Range, Revision, Store, Txn};
use curator_service::testing::bench_hooks::BenchHooks;
use curator_service::{Archive, Import, export, import, wall_clock};
use serde_json::{Value, json};

use crate::nodes::{id, large};
use crate::{Failure, key, memory};

/// How many nodes, and how large the record of each is.
const SIZES: [(usize, usize); 4] = [(1_000, 1_000), (10_000, 1_000), (100_000, 1_000), (10_000, 6_800)];
/// As many bytes are written in one transaction.
const TOGETHER: usize = 1 << 20;
/// The keys of a page, as one who reads plainly would choose.
const PAGE: usize = 1_000;

pub(crate) async fn all(etcd: &str, rounds: usize) -> Result<(), Failure> {
    for (nodes, size) in SIZES {
        let store = open(etcd, &space(nodes, size))?;
        fill(&*store, nodes, size).await?;
        for round in 0..rounds {
            takeover(etcd, round, nodes, size, &*store).await?;
        }
        moved(etcd, nodes, size, &*store).await?;
        let everything = Op::Delete(Keys::prefix("/"));
        store.txn(Txn::default().then(vec![everything])).await?;
    }
    Ok(())
}

fn space(nodes: usize, size: usize) -> String {
    format!("takeover-{nodes}-{size}")
}

fn open(etcd: &str, space: &str) -> Result<Arc<dyn Store>, Failure> {
    let etcd = EtcdStore::new(EtcdConfig::new(vec![etcd.to_owned()]))?;
    Ok(Arc::new(Namespaced::with_siblings(etcd, space.parse()?)))
}

async fn fill(store: &dyn Store, nodes: usize, size: usize) -> Result<(), Failure> {
    let numbers: Vec<usize> = (0..nodes).collect();
    for chunk in numbers.chunks((TOGETHER / size).clamp(1, 100)) {
        let put = |number: &usize| Op::put(key(*number), large(*number, size));
        let ops = chunk.iter().map(put).collect();
        store.txn(Txn::default().then(ops)).await?;
    }
    let configuration = Op::put("/cluster/configuration", "measured");
    store.txn(Txn::default().then(vec![configuration])).await?;
    Ok(())
}

/// Reads all nodes by hand, as many keys at a time; how many bytes.
async fn plain(store: &dyn Store) -> Result<usize, Failure> {
    let Keys::Range { mut start, end } = Keys::prefix("/nodes/") else {
        return Err("a prefix is a range".into());
    };
    let (mut bytes, mut revision) = (0, Revision(0));
    loop {
        let range = Range {
            limit: PAGE,
            revision,
            ..Range::all(Keys::Range {
                start: start.clone(),
                end: end.clone(),
            })
        };
        let read = store.range(range).await?;
        revision = if revision == Revision(0) {
            read.revision
        } else {
            revision
        };
        bytes += read.kvs.iter().map(|kv| kv.key.len() + kv.value.len()).sum::<usize>();
        match read.kvs.last() {
            Some(last) if read.kvs.len() == PAGE => start = [&last.key[..], &[0]].concat().into(),
            _ => return Ok(bytes),
        }
    }
}

/// What is measured in a process of its own: prints how long it took, and by how much the process grew at most.
#[derive(clap::Subcommand)]
pub(crate) enum Alone {
    /// What a new leader does.
    Takeover {
        space: String,
        last: usize,
    },
    Export {
        space: String,
        file: PathBuf,
    },
    Import {
        space: String,
        file: PathBuf,
    },
}

impl Alone {
    pub(crate) async fn measure(&self, etcd: &str) -> Result<(), Failure> {
        let space = match self {
            Self::Takeover { space, .. } | Self::Export { space, .. } | Self::Import { space, .. } => space,
        };
        let store = open(etcd, space)?;
        // The connection is there.
        store.range(Range::all(Keys::one("/cluster/configuration"))).await?;
        let before = memory()?;
        let begun = Instant::now();
        match self {
            Self::Takeover { last, .. } => {
                let leader = BenchHooks::begin(store.clone(), "/leader/measured").await?;
                if !leader.read(&id(*last)).await? {
                    return Err("the last node is not there".into());
                }
                report(begun, before)?;
                drop(leader);
                let lock = Op::delete("/leader/measured");
                store.txn(Txn::default().then(vec![lock])).await?;
            }
            Self::Export { file, .. } => {
                export(&*store, &mut File::create_new(file)?, wall_clock(), |_| {}).await?;
                report(begun, before)?;
            }
            Self::Import { file, .. } => {
                let archive = Archive::read(&mut BufReader::new(File::open(file)?))?;
                import(&*store, archive, Import::Fresh, |_| {}).await?;
                report(begun, before)?;
            }
        }
        Ok(())
    }

    fn arguments(&self) -> Vec<OsString> {
        match self {
            Self::Takeover { space, last } => vec!["takeover".into(), space.into(), last.to_string().into()],
            Self::Export { space, file } => vec!["export".into(), space.into(), file.into()],
            Self::Import { space, file } => vec!["import".into(), space.into(), file.into()],
        }
    }

    /// Runs it in a process of its own: the microseconds, and the bytes.
    async fn run(&self, etcd: &str) -> Result<(f64, u64), Failure> {
        let mut command = tokio::process::Command::new(std::env::current_exe()?);
        command
            .arg("--etcd")
            .arg(etcd)
            .args(self.arguments())
            .kill_on_drop(true);
        let out = command.stderr(Stdio::inherit()).output().await?;
        let said: Value = serde_json::from_slice(&out.stdout)?;
        let (us, bytes) = (said["us"].as_f64(), said["bytes"].as_u64());
        us.zip(bytes).ok_or_else(|| format!("it says {said}").into())
    }
}

fn report(begun: Instant, before: u64) -> Result<(), Failure> {
    let us = begun.elapsed().as_secs_f64() * 1e6;
    let bytes = curator_harness::peak(std::process::id())?.saturating_sub(before);
    println!("{}", json!({ "us": us, "bytes": bytes }));
    Ok(())
}

async fn takeover(etcd: &str, round: usize, nodes: usize, size: usize, store: &dyn Store) -> Result<(), Failure> {
    let begun = Instant::now();
    let bytes = plain(store).await?;
    let plain_us = begun.elapsed().as_secs_f64() * 1e6;
    let alone = Alone::Takeover {
        space: space(nodes, size),
        last: nodes - 1,
    };
    let (ours_us, resident) = alone.run(etcd).await?;
    println!(
        "{}",
        json!({
            "what": "takeover", "round": round, "nodes": nodes, "size": size, "bytes": bytes,
            "plain_us": plain_us, "ours_us": ours_us, "resident": resident,
        })
    );
    Ok(())
}

async fn moved(etcd: &str, nodes: usize, size: usize, store: &dyn Store) -> Result<(), Failure> {
    let begun = Instant::now();
    let bytes = plain(store).await?;
    let plain_us = begun.elapsed().as_secs_f64() * 1e6;
    let file = std::env::temp_dir().join(format!("curator-state-load-{}", std::process::id()));
    let exporting = Alone::Export {
        space: space(nodes, size),
        file: file.clone(),
    };
    let importing = Alone::Import {
        space: format!("imported-{nodes}-{size}"),
        file: file.clone(),
    };
    let both = async {
        let exported = exporting.run(etcd).await?;
        Ok::<_, Failure>((exported, importing.run(etcd).await?))
    };
    let both = both.await;
    std::fs::remove_file(&file)?;
    let ((export_us, export_resident), (import_us, import_resident)) = both?;
    let to = open(etcd, &format!("imported-{nodes}-{size}"))?;
    to.txn(Txn::default().then(vec![Op::Delete(Keys::prefix("/"))])).await?;
    println!(
        "{}",
        json!({
            "what": "transfer", "nodes": nodes, "size": size, "bytes": bytes, "plain_us": plain_us,
            "export_us": export_us, "export_resident": export_resident,
            "import_us": import_us, "import_resident": import_resident,
        })
    );
    Ok(())
}
