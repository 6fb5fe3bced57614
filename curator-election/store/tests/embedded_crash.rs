//! What the embedded store has acknowledged is there after its process was killed, again and again.
//!
//! The test starts itself as the process to be killed, which an environment variable tells apart.

#![cfg(feature = "embedded")]
#![allow(clippy::unwrap_used, reason = "a failed call is a failed test")]

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use curator_store::embedded::{EmbeddedError, EmbeddedStore};
use curator_store::{Keys, LeaseId, Op, Range, Store, Txn};

const TEST: &str = "what_an_embedded_store_acknowledged_outlives_a_kill";
const CHILD_DIR: &str = "CURATOR_CRASH_DIR";
const CHILD_ROUND: &str = "CURATOR_CRASH_ROUND";
/// Before what the writer says, as the harness of the tests writes to the same output.
const MARK: &str = "writer: ";
const ROUNDS: usize = 5;
const WRITERS: usize = 8;

/// Puts keys until it is killed, and says each once it is acknowledged.
async fn write(dir: &Path, round: &str) {
    let store = Arc::new(EmbeddedStore::open(dir).unwrap());
    let lease = store.grant(Duration::from_secs(3_600)).await.unwrap().id;
    say(&format!("lease {}", lease.get()));
    let number = Arc::new(AtomicU64::new(0));
    let writers = (0..WRITERS).map(|_| {
        let (store, number, round) = (store.clone(), number.clone(), round.to_owned());
        tokio::spawn(async move {
            loop {
                let key = format!("/{round}/k{}", number.fetch_add(1, Ordering::Relaxed));
                let put = Op::Put {
                    key: key.clone().into(),
                    value: key.clone().into(),
                    lease: Some(lease),
                };
                let done = store.txn(Txn::default().then(vec![put])).await.unwrap();
                say(&format!("put {key} {}", done.revision));
            }
        })
    });
    futures::future::join_all(writers).await;
}

fn say(line: &str) {
    // As one write, so that a kill cuts off whole lines or the last one only.
    std::io::stdout()
        .write_all(format!("{MARK}{line}\n").as_bytes())
        .unwrap();
}

/// A directory that is gone in the end, also of a test that fails: its name may come again.
struct Dir(PathBuf);

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The process that writes; never outlives the test.
struct Writer {
    child: Child,
    lines: BufReader<ChildStdout>,
}

impl Writer {
    fn start(dir: &Path, round: usize) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([TEST, "--exact", "--nocapture"])
            .env(CHILD_DIR, dir)
            .env(CHILD_ROUND, round.to_string())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        Self { child, lines }
    }

    /// The next thing that it says; `None` once it is dead and everything it said has been heard.
    fn heard(&mut self) -> Option<String> {
        loop {
            let mut line = Vec::new();
            self.lines.read_until(b'\n', &mut line).unwrap();
            if line.last() != Some(&b'\n') {
                return None;
            }
            if let Some(said) = String::from_utf8(line).unwrap().trim_end().strip_prefix(MARK) {
                return Some(said.to_owned());
            }
        }
    }

    fn kill(&mut self) {
        // It may be dead already.
        let _ = self.child.kill();
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.kill();
        let _ = self.child.wait();
    }
}

/// What the writers have said so far.
#[derive(Default)]
struct Acknowledged {
    leases: Vec<LeaseId>,
    /// The revision of each key.
    keys: BTreeMap<String, i64>,
}

impl Acknowledged {
    fn note(&mut self, said: &str) {
        match said.split(' ').collect::<Vec<_>>()[..] {
            ["lease", id] => self.leases.push(LeaseId::new(id.parse().unwrap()).unwrap()),
            ["put", key, revision] => {
                self.keys.insert(key.to_owned(), revision.parse().unwrap());
            }
            _ => panic!("no writer says {said:?}"),
        }
    }

    async fn check(&self, store: &EmbeddedStore) {
        let found = store.range(Range::all(Keys::prefix("/"))).await.unwrap();
        let mut stored = BTreeMap::new();
        for kv in &found.kvs {
            assert_eq!(kv.key, kv.value);
            assert_eq!((kv.create_revision, kv.version), (kv.mod_revision, 1), "{kv:?}");
            assert!(kv.lease.is_some(), "{kv:?}");
            stored.insert(String::from_utf8(kv.key.to_vec()).unwrap(), kv.mod_revision.0);
        }
        for (key, revision) in &self.keys {
            assert_eq!(stored.get(key), Some(revision), "{key} was acknowledged");
        }
        // Each put was one revision, and the store is at the newest of them: none is missing and none is there by half.
        let revisions: BTreeSet<i64> = stored.values().copied().collect();
        assert_eq!(revisions, (2..=found.revision.0).collect());
        for lease in &self.leases {
            store.keep_alive(*lease, 0).await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_embedded_store_acknowledged_outlives_a_kill() {
    if let Some(dir) = std::env::var_os(CHILD_DIR) {
        write(&PathBuf::from(dir), &std::env::var(CHILD_ROUND).unwrap()).await;
        return;
    }
    let dir = Dir(std::env::temp_dir().join(format!("curator-crash-{}", std::process::id())));
    let mut acknowledged = Acknowledged::default();
    for round in 0..ROUNDS {
        let mut writer = Writer::start(&dir.0, round);
        for _ in 0..40 + 37 * round {
            acknowledged.note(&writer.heard().expect("it writes until it is killed"));
        }
        let refusal = EmbeddedStore::open(&dir.0).unwrap_err();
        assert!(matches!(refusal, EmbeddedError::InUse { .. }), "{refusal}");
        writer.kill();
        while let Some(said) = writer.heard() {
            acknowledged.note(&said);
        }
        drop(writer);
        let store = EmbeddedStore::open(&dir.0).unwrap();
        acknowledged.check(&store).await;
        store.close().unwrap();
    }
}
