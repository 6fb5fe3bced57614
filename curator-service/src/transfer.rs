//! The state in a file, and out of it: to move a cluster from one store to another.
//!
//! A file has a line for its format, a line for each key, and a last line with their number and a digest of all before it. So
//! a file that was cut off, or damaged, is refused before anything is written.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, BufRead, Write};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use curator_election::pages;
use curator_election::store::{Compare, KeyValue, Keys, Op, Range, Store, StoreError, Txn};
use ring::digest::{Context, SHA256};

use crate::state::keys::CLUSTER_CONFIGURATION;
use curator_identity::hex;

const FORMAT: &str = "curator-export 1";
/// What is moved: the Curator's namespace, and those of the two PKIs beside it.
const PREFIXES: [&str; 3] = ["/", "@etcd-pki//pki/", "@kubernetes//kube-pki/"];
/// The election's keys belong to leases, which are not moved.
const ELECTION: &[u8] = b"/leader/";
/// etcd takes 128 operations and 1.5 MiB a transaction by default.
const MOST_OPS: usize = 100;
const MOST_BYTES: usize = 1 << 20;
/// No key is longer, nor a value.
const LONGEST_LINE: usize = 8 << 20;

/// Why nothing, or not all, was moved.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TransferError {
    /// The store does not answer.
    #[error("the store: {0}")]
    Store(#[from] StoreError),
    /// The file cannot be read or written.
    #[error("the file: {0}")]
    File(#[from] io::Error),
    /// What was to be exported is no cluster.
    #[error(
        "there is no cluster in this store, or not all of it in this namespace: {0} is missing; see --etcd-namespace, or --embedded"
    )]
    NoCluster(&'static str),
    /// The file is not one, or not whole. Nothing was written.
    #[error("this is no whole export, nothing was written: {0}")]
    Damaged(String),
    /// There is something in the store already. Nothing more was written.
    #[error(
        "{key} is in the store already: import into an empty one; or, if an import of this file was interrupted, take it up again \
         with --resume"
    )]
    NotEmpty {
        /// One of the keys that are there.
        key: String,
    },
    /// An import is to be taken up again, and what is in the store is not what it has left there. Nothing more was written.
    #[error(
        "{key} is in the store and is not what this file would have put there: this is no interrupted import of it"
    )]
    Foreign {
        /// The key.
        key: String,
    },
    /// Somebody leads on the store.
    #[error("a Curator leads on this store ({key}): stop it first")]
    Led {
        /// Its lock key.
        key: String,
    },
}

/// Writes all that is in a store, as it is at one moment; returns how many keys. It may be of any size, and is read and written a page at a
/// time. `progress` is told how many keys are written, after each.
///
/// What is written has private keys in it. Cancellation safe.
///
/// # Errors
/// The store does not answer, or the file cannot be written. [`StoreError::Compacted`] if the store has forgotten that moment before
/// all of it was read: then begin again.
pub async fn export(
    store: &dyn Store,
    out: &mut impl Write,
    mut progress: impl FnMut(usize),
) -> Result<usize, TransferError> {
    let mut digest = Context::new(&SHA256);
    let mut line = |out: &mut dyn Write, text: String| {
        digest.update(text.as_bytes());
        out.write_all(text.as_bytes())
    };
    line(out, format!("{FORMAT}\n"))?;
    let (mut count, mut is_cluster) = (0, false);
    // What belongs to a lease goes with it. Moved without one it would stay for ever: the lock of a leader that is no more.
    let stays = |kv: &KeyValue| kv.lease.is_none() && !kv.key.starts_with(ELECTION);
    pages::read(store, PREFIXES.map(Keys::prefix), |page: Vec<KeyValue>| {
        for kv in page.into_iter().filter(stays) {
            is_cluster |= kv.key == CLUSTER_CONFIGURATION;
            line(
                out,
                format!("{} {}\n", STANDARD.encode(&kv.key), STANDARD.encode(&kv.value)),
            )?;
            count += 1;
        }
        progress(count);
        Ok::<_, TransferError>(())
    })
    .await?;
    if !is_cluster {
        return Err(TransferError::NoCluster(CLUSTER_CONFIGURATION));
    }
    writeln!(out, "end {count} {}", hex(digest.finish().as_ref()))?;
    out.flush()?;
    Ok(count)
}

/// Whether an import begins, or goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Import {
    /// The store must be empty.
    Fresh,
    /// The store may have what an import of the same file has put there before it was interrupted, and nothing else.
    Resume,
}

/// Puts what was exported into a store; returns how many keys of the file are there then. `progress` is told how many are there, after each step.
///
/// The cluster's configuration comes last, so that what was begun and not ended is no cluster.
///
/// Cancellation: some of it may have been written.
///
/// # Errors
/// The file is not whole, the store is not empty or led by somebody, or it does not answer.
pub async fn import(
    store: &dyn Store,
    from: &mut impl BufRead,
    import: Import,
    mut progress: impl FnMut(usize),
) -> Result<usize, TransferError> {
    let mut all = read_all(from)?;
    all.sort_by_key(|(key, _)| key == CLUSTER_CONFIGURATION);
    check_not_led(store).await?;
    let there = match import {
        Import::Fresh => {
            check_empty(store).await?;
            BTreeSet::new()
        }
        Import::Resume => left_behind(store, &all).await?,
    };
    let mut written = there.len();
    all.retain(|(key, _)| !there.contains(key));
    let mut rest = &all[..];
    while !rest.is_empty() {
        let mut bytes = 0;
        let fits = rest
            .iter()
            .take(MOST_OPS)
            .take_while(|(key, value)| {
                bytes += key.len() + value.len();
                bytes <= MOST_BYTES
            })
            .count();
        // One that is too large for a transaction is for the store to refuse.
        let (now, later) = rest.split_at(fits.max(1));
        let conditions = now.iter().map(|(key, _)| Compare::absent(key.clone())).collect();
        let ops = now
            .iter()
            .map(|(key, value)| Op::put(key.clone(), value.clone()))
            .collect();
        if !store.txn(Txn::when(conditions).then(ops)).await?.succeeded {
            let key = String::from_utf8_lossy(&now[0].0).into_owned();
            return Err(TransferError::NotEmpty { key });
        }
        written += now.len();
        rest = later;
        progress(written);
    }
    Ok(written)
}

/// The keys that an interrupted import of the same file has put there.
async fn left_behind(store: &dyn Store, all: &[(Bytes, Bytes)]) -> Result<BTreeSet<Bytes>, TransferError> {
    let file: BTreeMap<&Bytes, &Bytes> = all.iter().map(|(key, value)| (key, value)).collect();
    let mut there = BTreeSet::new();
    pages::read(store, PREFIXES.map(Keys::prefix), |page: Vec<KeyValue>| {
        for kv in page {
            if file.get(&kv.key) != Some(&&kv.value) {
                return Err(TransferError::Foreign { key: shown(&kv) });
            }
            there.insert(kv.key);
        }
        Ok(())
    })
    .await?;
    Ok(there)
}

fn shown(kv: &KeyValue) -> String {
    String::from_utf8_lossy(&kv.key).into_owned()
}

fn one(prefix: &'static str) -> Range {
    Range {
        limit: 1,
        keys_only: true,
        ..Range::all(Keys::prefix(prefix))
    }
}

async fn check_not_led(store: &dyn Store) -> Result<(), TransferError> {
    match store.range(one("/leader/")).await?.kvs.first() {
        Some(lock) => Err(TransferError::Led { key: shown(lock) }),
        None => Ok(()),
    }
}

async fn check_empty(store: &dyn Store) -> Result<(), TransferError> {
    for prefix in PREFIXES {
        if let Some(kv) = store.range(one(prefix)).await?.kvs.first() {
            return Err(TransferError::NotEmpty { key: shown(kv) });
        }
    }
    Ok(())
}

fn read_all(from: &mut impl BufRead) -> Result<Vec<(Bytes, Bytes)>, TransferError> {
    let damaged = |why: &str| TransferError::Damaged(why.to_owned());
    let mut digest = Context::new(&SHA256);
    let mut all = Vec::new();
    let mut first = true;
    loop {
        let mut line = Vec::new();
        let read = io::Read::take(&mut *from, LONGEST_LINE as u64).read_until(b'\n', &mut line)?;
        if read == 0 {
            return Err(damaged("it ends before its last line"));
        }
        let text = std::str::from_utf8(&line).map_err(|_| damaged("it is no text"))?;
        let text = text
            .strip_suffix('\n')
            .ok_or_else(|| damaged("a line is cut off or too long"))?;
        if let Some(end) = text.strip_prefix("end ") {
            let expected = format!("{} {}", all.len(), hex(digest.finish().as_ref()));
            if end != expected {
                return Err(damaged(
                    "its number of keys or its digest is not what its last line says",
                ));
            }
            if from.fill_buf()?.is_empty() {
                return Ok(all);
            }
            return Err(damaged("there is something after its last line"));
        }
        digest.update(&line);
        if first {
            if text != FORMAT {
                return Err(damaged("its first line is not \"curator-export 1\""));
            }
            first = false;
            continue;
        }
        let decoded = text
            .split_once(' ')
            .and_then(|(key, value)| Some((STANDARD.decode(key).ok()?, STANDARD.decode(value).ok()?)));
        let (key, value) = decoded.ok_or_else(|| damaged("a line is no key and value"))?;
        let known = PREFIXES.iter().any(|prefix| key.starts_with(prefix.as_bytes()));
        if !known || key.starts_with(ELECTION) {
            return Err(damaged("it has a key that is not the Curator's"));
        }
        all.push((Bytes::from(key), Bytes::from(value)));
    }
}

#[cfg(test)]
mod tests {
    use curator_election::memory::MemoryCluster;

    use super::*;

    async fn filled() -> MemoryCluster {
        let cluster = MemoryCluster::new(1);
        let mut ops = vec![
            Op::put(CLUSTER_CONFIGURATION, "configuration"),
            Op::put("/leader/1", "me"),
            Op::put("@etcd-pki//pki/CA-crl.der", &b"\x00\xff\n"[..]),
            Op::put("@elsewhere//key", "not ours"),
        ];
        ops.extend((0..250).map(|number| Op::put(format!("/nodes/{number:03}"), vec![7; number])));
        cluster.client(0).txn(Txn::default().then(ops)).await.unwrap();
        cluster
    }

    async fn exported(cluster: &MemoryCluster) -> Vec<u8> {
        let mut file = Vec::new();
        assert_eq!(export(&cluster.client(0), &mut file, |_| {}).await.unwrap(), 252);
        file
    }

    async fn everything(cluster: &MemoryCluster) -> Vec<(Bytes, Bytes)> {
        let mut all = Vec::new();
        for prefix in PREFIXES {
            let range = Range::all(Keys::prefix(prefix));
            all.extend(cluster.client(0).range(range).await.unwrap().kvs);
        }
        all.retain(|kv| !kv.key.starts_with(ELECTION));
        all.into_iter().map(|kv| (kv.key, kv.value)).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_exported_is_imported() {
        let (from, to) = (filled().await, MemoryCluster::new(2));
        let file = exported(&from).await;
        let mut steps = Vec::new();
        let count = import(&to.client(0), &mut &file[..], Import::Fresh, |written| {
            steps.push(written);
        })
        .await;
        assert_eq!(count.unwrap(), 252);
        assert_eq!(steps, [100, 200, 252]);
        assert_eq!(everything(&to).await, everything(&from).await);
        assert_eq!(exported(&to).await, file);
        let configuration = to.with_model(|model, _| model.get(CLUSTER_CONFIGURATION.as_bytes()).cloned());
        assert_eq!(
            configuration.unwrap().mod_revision,
            to.with_model(|model, _| model.revision()),
            "last"
        );
        // A second time there is something.
        let again = import(&to.client(0), &mut &file[..], Import::Fresh, |_| {}).await;
        assert!(matches!(again, Err(TransferError::NotEmpty { .. })), "{again:?}");
    }

    /// Others hold elections in the namespace, too: the lock of one that has gone would never go.
    #[tokio::test(start_paused = true)]
    async fn what_belongs_to_a_lease_is_not_moved() {
        let cluster = filled().await;
        let store = cluster.client(0);
        let lease = store.grant(std::time::Duration::from_secs(10)).await.unwrap().id;
        let lock = Op::Put {
            key: "/kubernetes/reconciler/leader/1".into(),
            value: "me".into(),
            lease: Some(lease),
        };
        let status = Op::put("/kubernetes/reconciler/status", "fine");
        store.txn(Txn::default().then(vec![lock, status])).await.unwrap();
        let mut file = Vec::new();
        assert_eq!(
            export(&store, &mut file, |_| {}).await.unwrap(),
            253,
            "the status, and not the lock"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_not_whole_is_refused_before_anything_is_written() {
        let file = exported(&filled().await).await;
        let text = String::from_utf8(file.clone()).unwrap();
        let mut bent = file.clone();
        bent[100] = if bent[100] == b'A' { b'B' } else { b'A' };
        let without_a_line: String = text
            .lines()
            .enumerate()
            .filter(|(at, _)| *at != 7)
            .map(|(_, line)| format!("{line}\n"))
            .collect();
        for broken in [
            &b""[..],
            b"nonsense\n",
            b"curator-export 2\nend 0 00\n",
            &file[..file.len() / 2],
            &file[..file.len() - 1],
            &bent,
            without_a_line.as_bytes(),
            &[&file[..], b"more"].concat(),
        ] {
            let to = MemoryCluster::new(2);
            let refused = import(&to.client(0), &mut &broken[..], Import::Fresh, |_| {}).await;
            assert!(matches!(refused, Err(TransferError::Damaged(_))), "{refused:?}");
            assert!(everything(&to).await.is_empty());
        }
    }

    /// Its process was killed, or the store was gone for a while.
    #[tokio::test(start_paused = true)]
    async fn an_import_that_was_interrupted_is_taken_up_again() {
        let from = filled().await;
        let file = exported(&from).await;
        let to = MemoryCluster::new(2);
        let (store, mut whole) = (to.client(0), &file[..]);
        let interrupted = import(&store, &mut whole, Import::Fresh, |written| {
            if written == 100 {
                to.set_faults(
                    0,
                    curator_election::memory::Faults {
                        link: curator_election::memory::Link::Refused,
                        ..Default::default()
                    },
                );
            }
        });
        let interrupted = interrupted.await;
        assert!(matches!(interrupted, Err(TransferError::Store(_))), "{interrupted:?}");
        to.set_faults(0, curator_election::memory::Faults::default());
        let fresh = import(&to.client(0), &mut &file[..], Import::Fresh, |_| {}).await;
        assert!(matches!(fresh, Err(TransferError::NotEmpty { .. })), "{fresh:?}");

        let mut steps = Vec::new();
        let resumed = import(&to.client(0), &mut &file[..], Import::Resume, |written| {
            steps.push(written);
        })
        .await;
        assert_eq!(resumed.expect("it is the same file"), 252);
        assert_eq!(steps, [200, 252]);
        assert_eq!(everything(&to).await, everything(&from).await);
        // Once more is no harm.
        let again = import(&to.client(0), &mut &file[..], Import::Resume, |_| {}).await;
        assert_eq!(again.expect("all of it is there"), 252);
        // What has been changed since is no leftover.
        let change = Txn::default().then(vec![Op::put("/nodes/001", "changed")]);
        to.client(0).txn(change).await.expect("no faults");
        let foreign = import(&to.client(0), &mut &file[..], Import::Resume, |_| {}).await;
        assert!(matches!(foreign, Err(TransferError::Foreign { .. })), "{foreign:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_store_that_is_led_is_left_alone() {
        let file = exported(&filled().await).await;
        let to = MemoryCluster::new(2);
        let lock = Txn::default().then(vec![Op::put("/leader/1", "me")]);
        to.client(0).txn(lock).await.unwrap();
        let refused = import(&to.client(0), &mut &file[..], Import::Fresh, |_| {}).await;
        assert!(matches!(refused, Err(TransferError::Led { .. })), "{refused:?}");
    }
}
