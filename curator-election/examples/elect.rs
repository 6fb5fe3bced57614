//! Elects a leader among the processes of a component.
//!
//! Run `cargo run -p curator-election --example elect -- http://127.0.0.1:2379 my-name` several times with different
//! names, then kill the leader.

use std::sync::Arc;
use std::time::Duration;

use curator_election::etcd::{EtcdConfig, EtcdStore};
use curator_election::namespace::{Namespace, Namespaced};
use curator_election::{ElectionBuilder, ElectionStatus, PlainText};
use tokio_util::sync::CancellationToken;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let (Some(endpoint), Some(name)) = (args.next(), args.next()) else {
        return Err("usage: elect ENDPOINT NAME, for example: elect http://127.0.0.1:2379 my-name".into());
    };
    let namespace: Namespace = "scheduler".parse()?;
    let store = Namespaced::new(EtcdStore::new(EtcdConfig::new(vec![endpoint]))?, namespace);
    let election = ElectionBuilder::new(Arc::new(store), "/leader")
        .name("elect")
        .ttl(Duration::from_secs(5));
    let elector = election.build(&PlainText(name))?;

    let handle = elector.handle();
    let mut status = handle.status();
    let cancel = CancellationToken::new();
    let running = tokio::spawn(elector.run(cancel.clone()));
    loop {
        // A clone, so that nothing is locked while it is printed.
        status.mark_unchanged();
        match handle.current() {
            ElectionStatus::Undetermined(reason) => println!("undetermined: {reason}"),
            ElectionStatus::Follower(info) => println!("following {}", info.leader.0),
            ElectionStatus::Leader(term) => println!("leading for at least {:?}", term.remaining()),
        }
        tokio::select! {
            changed = status.changed() => changed?,
            _ = tokio::signal::ctrl_c() => break,
        }
    }
    // Resigns, so that another leads at once.
    cancel.cancel();
    running.await?;
    Ok(())
}
