//! How long it takes until a new leader has read the state, and to export and import it, beside a plain reading of the same keys.

use std::io::{BufReader, Seek, SeekFrom, Write};
use std::sync::Arc;
use std::time::Instant;

use curator_election::etcd::{EtcdConfig, EtcdStore};
use curator_election::namespace::Namespaced;
use curator_election::store::{Keys, Op, Range, Revision, Store, Txn};
use curator_proto::common::{NodeLabels, node_labels};
use curator_proto::private::Node;
use curator_service::measure::Measured;
use curator_service::{Import, export, import};
use prost::Message;
use serde_json::json;

use crate::{Failure, id, key, memory, record};

/// How many nodes, and how large the record of each is.
const SIZES: [(usize, usize); 4] = [(1_000, 1_000), (10_000, 1_000), (100_000, 1_000), (10_000, 6_800)];
/// As many bytes are written in one transaction.
const TOGETHER: usize = 1 << 20;
/// The keys of a page, as one who reads plainly would choose.
const PAGE: usize = 1_000;

pub(crate) async fn all(etcd: &str, rounds: usize) -> Result<(), Failure> {
    for (nodes, size) in SIZES {
        let space = format!("takeover-{nodes}-{size}");
        let store = open(etcd, &space)?;
        fill(&*store, nodes, size).await?;
        for round in 0..rounds {
            takeover(round, nodes, size, &store).await?;
        }
        moved(etcd, nodes, size, &*store).await?;
        let everything = Op::Delete(Keys::prefix("/"));
        store.txn(Txn::default().then(vec![everything])).await?;
    }
    Ok(())
}

fn open(etcd: &str, space: &str) -> Result<Arc<dyn Store>, Failure> {
    let etcd = EtcdStore::new(EtcdConfig::new(vec![etcd.to_owned()]))?;
    Ok(Arc::new(Namespaced::new(etcd, space.parse()?)))
}

fn large(number: usize, size: usize) -> Result<Vec<u8>, Failure> {
    let small = record(number);
    let mut node = Node::decode(&small[..])?;
    let pairs = (0..=size.saturating_sub(small.len()) / 100).map(|label| node_labels::Pair {
        key: format!("measured-{label:04}"),
        value: "v".repeat(80),
    });
    node.labels = Some(NodeLabels { pairs: pairs.collect() });
    Ok(node.encode_to_vec())
}

async fn fill(store: &dyn Store, nodes: usize, size: usize) -> Result<(), Failure> {
    let numbers: Vec<usize> = (0..nodes).collect();
    for chunk in numbers.chunks((TOGETHER / size).clamp(1, 100)) {
        let put = |number: &usize| Ok(Op::put(key(*number), large(*number, size)?));
        let ops = chunk.iter().map(put).collect::<Result<_, Failure>>()?;
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

async fn takeover(round: usize, nodes: usize, size: usize, store: &Arc<dyn Store>) -> Result<(), Failure> {
    let begun = Instant::now();
    let bytes = plain(&**store).await?;
    let plain_us = begun.elapsed().as_secs_f64() * 1e6;
    let before = memory()?;
    let begun = Instant::now();
    let leader = Measured::begin(store.clone(), "/leader/measured").await?;
    if !leader.read(&id(nodes - 1)).await? {
        return Err("the last node is not there".into());
    }
    let ours_us = begun.elapsed().as_secs_f64() * 1e6;
    // What an earlier round has given back is taken again: the first one tells.
    let resident = memory()?.saturating_sub(before);
    drop(leader);
    let lock = Op::delete("/leader/measured");
    store.txn(Txn::default().then(vec![lock])).await?;
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
    let mut file = tempfile()?;
    let before = memory()?;
    let begun = Instant::now();
    let count = export(store, &mut file, |_| {}).await?;
    let export_us = begun.elapsed().as_secs_f64() * 1e6;
    let export_resident = memory()?.saturating_sub(before);
    file.flush()?;
    file.seek(SeekFrom::Start(0))?;
    let to = open(etcd, &format!("imported-{nodes}-{size}"))?;
    let before = memory()?;
    let begun = Instant::now();
    let imported = import(&*to, &mut BufReader::new(&mut file), Import::Fresh, |_| {}).await?;
    let import_us = begun.elapsed().as_secs_f64() * 1e6;
    let import_resident = memory()?.saturating_sub(before);
    if imported != count {
        return Err(format!("{imported} keys of {count}").into());
    }
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

/// A file that goes with its handle.
fn tempfile() -> Result<std::fs::File, Failure> {
    let path = std::env::temp_dir().join(format!("curator-state-load-{}", std::process::id()));
    let mut options = std::fs::OpenOptions::new();
    let file = options.read(true).write(true).create_new(true).open(&path)?;
    std::fs::remove_file(&path)?;
    Ok(file)
}
