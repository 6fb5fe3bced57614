//! A write that takes place in its own term alone: `cargo run -p curator-election --features testing --example
//! fenced_write`.
//!
//! The store is the model of etcd in memory, so that it runs alone; with `EtcdStore` in its place it is a real one.

use std::sync::Arc;
use std::time::Duration;

use curator_election::memory::MemoryCluster;
use curator_election::store::{Compare, Keys, Op, Range};
use curator_election::{ElectionBuilder, Fenced, FencedError, PlainText, Written};
use tokio_util::sync::CancellationToken;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let store = Arc::new(MemoryCluster::new(1).client(0));
    let election = ElectionBuilder::new(store.clone(), "/leader").ttl(Duration::from_secs(5));
    let elector = election.build(&PlainText("node-1".into()))?;
    let handle = elector.handle();
    let cancel = CancellationToken::new();
    let running = tokio::spawn(elector.run(cancel.clone()));
    let term = handle.leading().await?;

    // Only if nobody else has created it, and only while this term lasts.
    let state = Fenced::new(store, term);
    let absent = vec![Compare::absent("/jobs/1")];
    let written = state.write(absent, vec![Op::put("/jobs/1", "mine")]).await?;
    println!("written: {written:?}");
    assert!(matches!(written, Written::Done(_)));
    let read = state.read(vec![Range::all(Keys::One("/jobs/1".into()))]).await?;
    println!("read at revision {}", read.revision);

    // Once the term has ended, nothing is written any more.
    cancel.cancel();
    running.await?;
    let late = state.write(Vec::new(), vec![Op::put("/jobs/1", "late")]).await;
    assert!(matches!(late, Err(FencedError::LostLeadership)), "{late:?}");
    println!("after the term: {}", late.expect_err("no write after the term"));
    Ok(())
}
