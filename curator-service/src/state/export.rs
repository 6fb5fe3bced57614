//! Export and import of the state, to move a cluster from one store to another.
//!
//! A file has a line for its format, a header that describes the cluster, a line for each key, and a last line with the
//! number of keys and a digest of all lines before it. So a truncated or damaged file is refused before anything is
//! written.

mod about;
pub(crate) mod unfinished;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, BufRead, Write};
use std::time::SystemTime;

pub use about::About;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use curator_election::pages::{self, Pages};
use curator_election::store::{Compare, KeyValue, Keys, Op, Range, RefusalKind, Revision, Store, StoreError, Txn};
use curator_identity::hex;
use ring::digest::{Context, SHA256};
pub use unfinished::Unfinished;

use crate::state::keys::CLUSTER_CONFIGURATION;

/// The start of the first line, before the format version.
const MAGIC: &str = "curator-export ";
/// The format version that is written. Version 1, without a header, can be read too.
const FORMAT: u32 = 2;
/// The start of the last line of an aborted file, before the reason.
pub(crate) const GIVEN_UP: &str = "failed ";
/// The exported prefixes: the Curator's namespace and those of the two PKIs beside it.
const PREFIXES: [&str; 3] = ["/", "@etcd-pki//pki/", "@kubernetes//kube-pki/"];
/// The election's keys belong to leases, which are not exported.
const ELECTION: &[u8] = b"/leader/";
/// etcd's default limits are 128 operations and 1.5 MiB per transaction.
const MAX_OPS: usize = 100;
const MAX_BYTES: usize = 1 << 20;
/// The maximum length of a line, far above the size of a key and a value.
const MAX_LINE_BYTES: usize = 8 << 20;

/// Why an export or import failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TransferError {
    /// The store failed or did not answer.
    #[error("store: {0}")]
    Store(#[from] StoreError),
    /// The file cannot be read or written.
    #[error("file: {0}")]
    File(#[from] io::Error),
    /// The store has no cluster.
    #[error("no complete cluster in this store and namespace: {0} is missing; check --etcd-namespace or --embedded")]
    NoCluster(&'static str),
    /// The file is not a complete export. Nothing was written.
    #[error("not a complete export, nothing was written: {0}")]
    Damaged(String),
    /// The file has a newer format. Nothing was written.
    #[error(
        "unsupported export format {found}, made by curator {made_by} (supported: 1..={FORMAT}): use that \
         version"
    )]
    Format {
        /// The format version of the file.
        found: u32,
        /// The version of the Curator that made the file, if the file has it.
        made_by: String,
    },
    /// The export was aborted, and the file says so. Nothing was written.
    #[error("the export was aborted: {0}")]
    GivenUp(String),
    /// An import into the store has not finished.
    #[error(transparent)]
    Unfinished(#[from] Unfinished),
    /// An import is to be resumed, but the store has a complete cluster. Nothing was written.
    #[error("the store has a complete cluster: there is no import to resume")]
    Whole,
    /// The store is not empty. Nothing more was written.
    #[error(
        "{key} exists in the store: import into an empty store, or resume an interrupted import of this file \
         with --resume"
    )]
    NotEmpty {
        /// One of the existing keys.
        key: String,
    },
    /// An import is to be resumed, but the store has other data than the interrupted import left. Nothing more was
    /// written.
    #[error("{key} in the store differs from this file: the store does not have an interrupted import of this file")]
    Foreign {
        /// The key.
        key: String,
    },
    /// A Curator leads on the store.
    #[error("a Curator leads on this store ({key}): stop all instances first")]
    Led {
        /// Its lock key.
        key: String,
    },
}

/// Writes the state of a store, as of one revision, and returns its description. The state may be of any size: it is
/// read and written page by page. `now` is the export's time stamp; `progress` gets the number of written keys after
/// each page.
///
/// The output contains private keys. Cancellation safe.
///
/// # Errors
/// The store does not answer, or the file cannot be written. [`StoreError::Compacted`] if the revision was compacted
/// before everything was read: start again.
pub async fn export(
    store: &dyn Store,
    out: &mut impl Write,
    now: SystemTime,
    mut progress: impl FnMut(usize),
) -> Result<About, TransferError> {
    let mut export = Exporter::begin(store, now).await?;
    while let Some(text) = export.next().await? {
        out.write_all(text.as_bytes())?;
        progress(export.about.keys);
    }
    out.flush()?;
    Ok(export.about)
}

/// An export under way, which produces the file in pieces.
pub(crate) struct Exporter<'s> {
    store: &'s dyn Store,
    about: About,
    pages: Pages,
    digest: Context,
    /// Nothing has been produced yet.
    begins: bool,
    ended: bool,
}

impl<'s> Exporter<'s> {
    pub(crate) async fn begin(store: &'s dyn Store, now: SystemTime) -> Result<Self, TransferError> {
        let about = About::of(store, FORMAT, now).await?;
        let at = Revision(about.revision.unwrap_or_default());
        Ok(Self {
            store,
            about,
            pages: Pages::new(PREFIXES.map(Keys::prefix)).at(at),
            digest: Context::new(&SHA256),
            begins: true,
            ended: false,
        })
    }

    /// The description. The number of keys is complete at the end.
    pub(crate) const fn about(&self) -> &About {
        &self.about
    }

    /// The next piece of the file; `None` after the last one. Not cancellation safe.
    pub(crate) async fn next(&mut self) -> Result<Option<String>, TransferError> {
        if self.ended {
            return Ok(None);
        }
        let mut text = String::new();
        if std::mem::take(&mut self.begins) {
            text = format!("{MAGIC}{FORMAT}\n{}", self.about.lines());
        }
        if let Some(page) = self.pages.next() {
            match self.store.range(page).await {
                Ok(read) => {
                    self.pages.answered(read.revision, &read.kvs);
                    self.put_down(&mut text, read.kvs);
                }
                Err(error) if error.refusal() == Some(RefusalKind::TooLarge) && self.pages.too_large() => {}
                Err(error) => return Err(error.into()),
            }
            self.digest.update(text.as_bytes());
        } else {
            self.digest.update(text.as_bytes());
            let digest = self.digest.clone().finish();
            text += &format!("end {} {}\n", self.about.keys, hex(digest.as_ref()));
            self.ended = true;
        }
        Ok(Some(text))
    }

    fn put_down(&mut self, text: &mut String, page: Vec<KeyValue>) {
        // Keys with a lease end with it. Without the lease they would stay for ever, for example the lock key of a
        // former leader.
        let stays = |kv: &KeyValue| kv.lease.is_none() && !kv.key.starts_with(ELECTION);
        for kv in page.into_iter().filter(stays) {
            STANDARD.encode_string(&kv.key, text);
            text.push(' ');
            STANDARD.encode_string(&kv.value, text);
            text.push('\n');
            self.about.keys += 1;
        }
    }
}

/// Whether an import starts or is resumed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Import {
    /// The store must be empty.
    Fresh,
    /// The store may have what an interrupted import of the same file wrote, and nothing else.
    Resume,
}

/// An export that was read and verified.
pub struct Archive {
    about: About,
    all: Vec<(Bytes, Bytes)>,
    /// The digest of the file without its last line.
    digest: String,
}

impl std::fmt::Debug for Archive {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The content has private keys.
        f.debug_struct("Archive")
            .field("about", &self.about)
            .finish_non_exhaustive()
    }
}

impl Archive {
    /// Reads a file and verifies that it is complete and that its header matches its content.
    ///
    /// # Errors
    /// The file is damaged, has a newer format, or cannot be read.
    pub fn read(from: &mut impl BufRead) -> Result<Self, TransferError> {
        read_all(from)
    }

    /// The header.
    #[must_use]
    pub const fn about(&self) -> &About {
        &self.about
    }
}

/// Writes an export into a store; returns the number of its keys in the store. `progress` gets that number after each
/// step.
///
/// A marker is in the store until the import is complete, so that no instance leads on it. The cluster's configuration
/// is written last, for programs that do not know the marker: without it there is no cluster.
///
/// Cancellation: some keys may have been written.
///
/// # Errors
/// The store is not empty, has a leader, or does not answer.
pub async fn import(
    store: &dyn Store,
    archive: Archive,
    import: Import,
    mut progress: impl FnMut(usize),
) -> Result<usize, TransferError> {
    let Archive { mut all, digest, .. } = archive;
    all.sort_by_key(|(key, _)| key == CLUSTER_CONFIGURATION);
    check_not_led(store).await?;
    let there = match import {
        Import::Fresh => {
            check_empty(store).await?;
            BTreeSet::new()
        }
        Import::Resume => left_behind(store, &all).await?,
    };
    let marked = unfinished::is_marked(store).await?;
    let missing = all.len() - there.len();
    if !marked && missing > 0 {
        // Leftovers of an earlier version have no marker and no configuration.
        if there.contains(CLUSTER_CONFIGURATION.as_bytes()) {
            return Err(TransferError::Whole);
        }
        let mark = Txn::when(vec![Compare::absent(unfinished::MARK)]).then(vec![Op::put(unfinished::MARK, digest)]);
        if !store.txn(mark).await?.succeeded {
            let key = unfinished::MARK.to_owned();
            return Err(TransferError::NotEmpty { key });
        }
    }
    let mut written = there.len();
    all.retain(|(key, _)| !there.contains(key));
    let mut rest = &all[..];
    while !rest.is_empty() {
        let mut bytes = 0;
        let fits = rest
            .iter()
            .take(MAX_OPS)
            .take_while(|(key, value)| {
                bytes += key.len() + value.len();
                bytes <= MAX_BYTES
            })
            .count();
        // A change that is too large for a transaction is left for the store to refuse.
        let (now, later) = rest.split_at(fits.max(1));
        let conditions = now.iter().map(|(key, _)| Compare::absent(key.clone())).collect();
        let mut ops: Vec<_> = now
            .iter()
            .map(|(key, value)| Op::put(key.clone(), value.clone()))
            .collect();
        if later.is_empty() {
            ops.push(Op::delete(unfinished::MARK));
        }
        if !store.txn(Txn::when(conditions).then(ops)).await?.succeeded {
            let key = String::from_utf8_lossy(&now[0].0).into_owned();
            return Err(TransferError::NotEmpty { key });
        }
        written += now.len();
        rest = later;
        progress(written);
    }
    if marked && missing == 0 {
        // Nothing was written that could have removed the marker.
        store
            .txn(Txn::default().then(vec![Op::delete(unfinished::MARK)]))
            .await?;
    }
    Ok(written)
}

/// The keys that an interrupted import of the same file has written.
async fn left_behind(store: &dyn Store, all: &[(Bytes, Bytes)]) -> Result<BTreeSet<Bytes>, TransferError> {
    let file: BTreeMap<&Bytes, &Bytes> = all.iter().map(|(key, value)| (key, value)).collect();
    let mut there = BTreeSet::new();
    pages::read(store, PREFIXES.map(Keys::prefix), |page: Vec<KeyValue>| {
        for kv in page.into_iter().filter(|kv| kv.key != unfinished::MARK) {
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

fn read_all(from: &mut impl BufRead) -> Result<Archive, TransferError> {
    let damaged = |why: &str| TransferError::Damaged(why.to_owned());
    let mut digest = Context::new(&SHA256);
    let mut all = Vec::new();
    let mut about = About::default();
    loop {
        let mut line = Vec::new();
        let read = io::Read::take(&mut *from, MAX_LINE_BYTES as u64).read_until(b'\n', &mut line)?;
        if read == 0 {
            return Err(damaged("the last line is missing"));
        }
        let text = std::str::from_utf8(&line).map_err(|_| damaged("not UTF-8"))?;
        let text = text
            .strip_suffix('\n')
            .ok_or_else(|| damaged("a line is truncated or too long"))?;
        if let Some(reason) = text.strip_prefix(GIVEN_UP) {
            return Err(TransferError::GivenUp(reason.to_owned()));
        }
        if about.format == 0 {
            about.format = text
                .strip_prefix(MAGIC)
                .and_then(|format| format.parse().ok())
                .filter(|format| *format > 0)
                .ok_or_else(|| damaged("the first line is not \"curator-export\" and a number"))?;
            digest.update(&line);
            continue;
        }
        let said = text.strip_prefix("# ").filter(|_| all.is_empty() && about.format > 1);
        if let Some(said) = said {
            about.take(said).ok_or_else(|| damaged("invalid header line"))?;
            digest.update(&line);
            continue;
        }
        if about.format > FORMAT {
            let made_by = about.version.unwrap_or_else(|| "of an unknown version".to_owned());
            return Err(TransferError::Format {
                found: about.format,
                made_by,
            });
        }
        if let Some(end) = text.strip_prefix("end ") {
            let digest = hex(digest.finish().as_ref());
            if end != format!("{} {digest}", all.len()) {
                return Err(damaged("the number of keys or the digest does not match the last line"));
            }
            if !from.fill_buf()?.is_empty() {
                return Err(damaged("there is data after the last line"));
            }
            let about = about.clone().checked(About::of_content(about.format, &all))?;
            return Ok(Archive { about, all, digest });
        }
        digest.update(&line);
        let decoded = text
            .split_once(' ')
            .and_then(|(key, value)| Some((STANDARD.decode(key).ok()?, STANDARD.decode(value).ok()?)));
        let (key, value) = decoded.ok_or_else(|| damaged("a line is not a key and a value"))?;
        let known = PREFIXES.iter().any(|prefix| key.starts_with(prefix.as_bytes()));
        if !known || key.starts_with(ELECTION) || key == unfinished::MARK.as_bytes() {
            return Err(damaged("it has a key outside the Curator's prefixes"));
        }
        all.push((Bytes::from(key), Bytes::from(value)));
    }
}

#[cfg(test)]
mod tests {
    use curator_election::memory::MemoryCluster;

    use super::*;
    use crate::state::pki_layout::Layout;
    use crate::state::record::ClusterRecord;

    const WHEN: SystemTime = SystemTime::UNIX_EPOCH;

    /// All but what says when and at which revision it was made.
    fn content(file: &[u8]) -> String {
        let text = std::str::from_utf8(file).expect("it is text");
        let lines = text
            .lines()
            .filter(|line| !line.starts_with('#') && !line.starts_with("end "));
        lines.map(|line| format!("{line}\n")).collect()
    }

    async fn imported(to: &MemoryCluster, file: &[u8], how: Import) -> Result<usize, TransferError> {
        import(&to.client(0), Archive::read(&mut &file[..])?, how, |_| {}).await
    }

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
        let about = export(&cluster.client(0), &mut file, WHEN, |_| {}).await.unwrap();
        assert_eq!(about.keys, 252);
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
        let archive = Archive::read(&mut &file[..]).unwrap();
        let count = import(&to.client(0), archive, Import::Fresh, |written| {
            steps.push(written);
        })
        .await;
        assert_eq!(count.unwrap(), 252);
        assert_eq!(steps, [100, 200, 252]);
        assert_eq!(everything(&to).await, everything(&from).await);
        assert_eq!(content(&exported(&to).await), content(&file));
        let configuration = to.with_model(|model, _| model.get(CLUSTER_CONFIGURATION.as_bytes()).cloned());
        assert_eq!(
            configuration.unwrap().mod_revision,
            to.with_model(|model, _| model.revision()),
            "last"
        );
        // A second time there is something.
        let again = imported(&to, &file[..], Import::Fresh).await;
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
            export(&store, &mut file, WHEN, |_| {}).await.unwrap().keys,
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
            let refused = imported(&to, broken, Import::Fresh).await;
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
        let store = to.client(0);
        let archive = || Archive::read(&mut &file[..]).unwrap();
        let interrupted = import(&store, archive(), Import::Fresh, |written| {
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
        let fresh = imported(&to, &file[..], Import::Fresh).await;
        assert!(matches!(fresh, Err(TransferError::NotEmpty { .. })), "{fresh:?}");

        let mut steps = Vec::new();
        let resumed = import(&to.client(0), archive(), Import::Resume, |written| {
            steps.push(written);
        })
        .await;
        assert_eq!(resumed.expect("it is the same file"), 252);
        assert_eq!(steps, [200, 252]);
        assert_eq!(everything(&to).await, everything(&from).await);
        // Once more is no harm.
        let again = imported(&to, &file[..], Import::Resume).await;
        assert_eq!(again.expect("all of it is there"), 252);
        // What has been changed since is no leftover.
        let change = Txn::default().then(vec![Op::put("/nodes/001", "changed")]);
        to.client(0).txn(change).await.expect("no faults");
        let foreign = imported(&to, &file[..], Import::Resume).await;
        assert!(matches!(foreign, Err(TransferError::Foreign { .. })), "{foreign:?}");
    }

    /// A file of these lines, as it ends when nobody has changed it.
    fn sealed(lines: &str, keys: usize) -> Vec<u8> {
        let digest = ring::digest::digest(&SHA256, lines.as_bytes());
        format!("{lines}end {keys} {}\n", hex(digest.as_ref())).into_bytes()
    }

    #[tokio::test(start_paused = true)]
    async fn what_an_export_says_of_itself_is_true_or_it_is_refused() {
        let from = filled().await;
        let configuration = ClusterRecord::new(ClusterRecord::default_configuration()).expect("valid");
        let certificate = Op::put(Layout::CLUSTER.certificate(), "der");
        let ops = vec![certificate, Op::put(CLUSTER_CONFIGURATION, configuration.encode())];
        let written = from.client(0).txn(Txn::default().then(ops)).await.unwrap();
        let mut file = Vec::new();
        let told = export(&from.client(0), &mut file, WHEN, |_| {}).await.unwrap();
        let archive = Archive::read(&mut &file[..]).unwrap();
        assert_eq!(archive.about(), &told);
        let digest = ring::digest::digest(&SHA256, b"der");
        let expected = About {
            format: FORMAT,
            cluster: Some(hex(digest.as_ref())),
            domain: Some("cluster.internal".into()),
            time: Some(WHEN),
            revision: Some(written.revision.0),
            version: Some(crate::VERSION.to_owned()),
            nodes: 250,
            keys: 253,
        };
        assert_eq!(told, expected);

        let text = String::from_utf8(file).unwrap();
        let (lines, _) = text.rsplit_once("end ").unwrap();
        for (from, to) in [
            ("# nodes 250", "# nodes 249"),
            ("# nodes 250", "# nodes many"),
            ("# domain cluster.internal", "# domain elsewhere"),
            ("# cluster ", "# cluster 00"),
            ("# revision ", "# rev "),
            ("# time 1970", "# when 1970"),
        ] {
            let bent = sealed(&lines.replacen(from, to, 1), 253);
            let refused = Archive::read(&mut &bent[..]).map(drop);
            assert!(matches!(refused, Err(TransferError::Damaged(_))), "{to}: {refused:?}");
        }
        // What a later version says beside does no harm.
        let more = sealed(&lines.replacen("# nodes", "# mood fine\n# nodes", 1), 253);
        assert_eq!(Archive::read(&mut &more[..]).unwrap().about(), &told);
    }

    #[tokio::test(start_paused = true)]
    async fn earlier_formats_are_read_and_later_ones_named() {
        let from = filled().await;
        let file = exported(&from).await;
        let old = sealed(&content(&file).replacen("curator-export 2", "curator-export 1", 1), 252);
        let about = Archive::read(&mut &old[..]).unwrap().about().clone();
        assert_eq!((about.format, about.keys, about.nodes, about.time), (1, 252, 250, None));
        let to = MemoryCluster::new(1);
        assert_eq!(imported(&to, &old, Import::Fresh).await.unwrap(), 252);
        assert_eq!(everything(&to).await, everything(&from).await);

        for (header, named) in [("# version 9.1.0 (abc)\n", "9.1.0 (abc)"), ("", "unknown version")] {
            let later = format!("curator-export 3\n{header}what nobody knows yet\n");
            let refused = Archive::read(&mut later.as_bytes()).expect_err("it is unknown");
            let text = refused.to_string();
            assert!(text.contains("format 3") && text.contains(named), "{text}");
        }
    }

    /// Until all is there, the store is marked, and nobody takes it for a cluster.
    #[tokio::test(start_paused = true)]
    async fn a_store_is_marked_until_the_import_into_it_has_ended() {
        let from = filled().await;
        let file = exported(&from).await;
        let to = MemoryCluster::new(1);
        let store = to.client(0);
        let mut marked = Vec::new();
        let archive = Archive::read(&mut &file[..]).unwrap();
        let mark = || to.with_model(|model, _| model.get(unfinished::MARK.as_bytes()).is_some());
        import(&store, archive, Import::Fresh, |_| marked.push(mark()))
            .await
            .unwrap();
        assert_eq!(marked, [true, true, false]);

        let half = MemoryCluster::new(1);
        let ops = vec![Op::put(unfinished::MARK, "digest"), Op::put("/nodes/001", vec![7; 1])];
        half.client(0).txn(Txn::default().then(ops)).await.unwrap();
        let mut never = Vec::new();
        let refused = export(&half.client(0), &mut never, WHEN, |_| {}).await;
        assert!(matches!(refused, Err(TransferError::Unfinished(_))), "{refused:?}");
        assert!(never.is_empty());
        assert_eq!(imported(&half, &file, Import::Resume).await.unwrap(), 252);
        assert_eq!(everything(&half).await, everything(&from).await);

        // A cluster that has gone on since is no interrupted import, although all that is left of it is in the file.
        let deleted = Txn::default().then(vec![Op::delete("/nodes/001")]);
        half.client(0).txn(deleted).await.unwrap();
        let refused = imported(&half, &file, Import::Resume).await;
        assert!(matches!(refused, Err(TransferError::Whole)), "{refused:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_store_that_is_led_is_left_alone() {
        let file = exported(&filled().await).await;
        let to = MemoryCluster::new(2);
        let lock = Txn::default().then(vec![Op::put("/leader/1", "me")]);
        to.client(0).txn(lock).await.unwrap();
        let refused = imported(&to, &file[..], Import::Fresh).await;
        assert!(matches!(refused, Err(TransferError::Led { .. })), "{refused:?}");
    }
}
