//! What an export says of itself: of which cluster it is, when it was made, at which revision, and how many nodes are
//! in it.
//!
//! It stands in lines that begin with `#`, behind the first one. What stands there is compared with the content when
//! the file is read, so neither can be that of another cluster.

use std::time::SystemTime;

use bytes::Bytes;
use curator_election::store::{Keys, Op, OpResult, Range, Revision, Store, Txn};
use ring::digest::{SHA256, digest};

use crate::state::export::{TransferError, unfinished};
use crate::state::keys::CLUSTER_CONFIGURATION;
use crate::state::pki_layout::Layout;
use crate::state::record::ClusterRecord;
use curator_identity::hex;

/// The nodes' records.
const NODES: &str = "/nodes/";

/// What an export says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct About {
    /// The version of its format.
    pub format: u32,
    /// The SHA-256 of the certificate of the cluster's authority, in hex: whose state it is. `None` if there is no such
    /// certificate.
    pub cluster: Option<String>,
    /// The cluster's domain, if the configuration can be read.
    pub domain: Option<String>,
    /// When it was made; `None` in format 1.
    pub time: Option<SystemTime>,
    /// The revision of the store that it shows; `None` in format 1.
    pub revision: Option<i64>,
    /// The version of the Curator that made it; `None` in format 1.
    pub version: Option<String>,
    /// How many nodes are in it.
    pub nodes: usize,
    /// How many keys are in it.
    pub keys: usize,
}

impl About {
    /// What is in a store now. The keys are not counted yet.
    pub(super) async fn of(store: &dyn Store, format: u32, now: SystemTime) -> Result<Self, TransferError> {
        let nodes = Range {
            limit: 1,
            keys_only: true,
            ..Range::all(Keys::prefix(NODES))
        };
        let mut ops = [
            CLUSTER_CONFIGURATION.into(),
            Layout::CLUSTER.certificate(),
            unfinished::MARK.into(),
        ]
        .map(|key: Bytes| Op::get(key))
        .to_vec();
        ops.push(Op::Range(nodes));
        let read = store.txn(Txn::default().then(ops)).await?;
        let mut results = read.results.into_iter().map(|result| match result {
            OpResult::Range { kvs, count } => (kvs.into_iter().next().map(|kv| kv.value), count),
            OpResult::Put | OpResult::Deleted(_) | OpResult::Txn { .. } => (None, 0),
        });
        let mut next = || results.next().unwrap_or_default();
        let ((configuration, _), (certificate, _), (mark, _), (_, nodes)) = (next(), next(), next(), next());
        if mark.is_some() {
            return Err(unfinished::Unfinished.into());
        }
        let configuration = configuration.ok_or(TransferError::NoCluster(CLUSTER_CONFIGURATION))?;
        let Revision(revision) = read.revision;
        Ok(Self {
            format,
            cluster: certificate.as_ref().map(fingerprint),
            domain: domain(&configuration),
            time: Some(now),
            revision: Some(revision),
            version: Some(crate::VERSION.to_owned()),
            nodes: usize::try_from(nodes).unwrap_or_default(),
            keys: 0,
        })
    }

    /// What is in a file, by its keys and values alone.
    pub(super) fn of_content(format: u32, all: &[(Bytes, Bytes)]) -> Self {
        let find = |key: &[u8]| all.iter().find(|(known, _)| known == key).map(|(_, value)| value);
        Self {
            format,
            cluster: find(&Layout::CLUSTER.certificate()).map(fingerprint),
            domain: find(CLUSTER_CONFIGURATION.as_bytes()).and_then(domain),
            nodes: all.iter().filter(|(key, _)| key.starts_with(NODES.as_bytes())).count(),
            keys: all.len(),
            ..Self::default()
        }
    }

    /// The lines in the file, each with its end.
    pub(super) fn lines(&self) -> String {
        let time = self
            .time
            .map(|time| humantime::format_rfc3339_seconds(time).to_string());
        let revision = self.revision.map(|revision| revision.to_string());
        let all = [
            ("cluster", self.cluster.clone()),
            ("domain", self.domain.clone()),
            ("time", time),
            ("revision", revision),
            ("nodes", Some(self.nodes.to_string())),
            ("version", self.version.clone()),
        ];
        let said = all.into_iter().filter_map(|(name, value)| Some((name, value?)));
        said.map(|(name, value)| format!("# {name} {value}\n")).collect()
    }

    /// Takes in one of these lines, without its beginning and end. What a later version says beside is passed over.
    pub(super) fn take(&mut self, line: &str) -> Option<()> {
        let (name, value) = line.split_once(' ')?;
        match name {
            "cluster" => self.cluster = Some(value.to_owned()),
            "domain" => self.domain = Some(value.to_owned()),
            "time" => self.time = Some(humantime::parse_rfc3339(value).ok()?),
            "revision" => self.revision = Some(value.parse().ok()?),
            "nodes" => self.nodes = value.parse().ok()?,
            "version" => self.version = Some(value.to_owned()),
            _ => {}
        }
        Some(())
    }

    /// What was said, once the content is known. In format 1 nothing is said.
    pub(super) fn checked(self, content: Self) -> Result<Self, TransferError> {
        if self.format == 1 {
            return Ok(content);
        }
        let damaged = |why: &str| Err(TransferError::Damaged(why.to_owned()));
        if self.time.is_none() || self.revision.is_none() {
            return damaged("its header does not say when it was made, or at which revision");
        }
        if (&self.cluster, &self.domain) != (&content.cluster, &content.domain) {
            return damaged("its header names another cluster than its content is of");
        }
        if self.nodes != content.nodes {
            return damaged("its header says another number of nodes than there are in it");
        }
        Ok(Self {
            keys: content.keys,
            ..self
        })
    }
}

fn fingerprint(certificate: &Bytes) -> String {
    hex(digest(&SHA256, certificate).as_ref())
}

fn domain(configuration: &Bytes) -> Option<String> {
    let record = ClusterRecord::decode(configuration).ok()?;
    let domain = record.configuration().cluster_domain.clone();
    // It has a line to itself.
    (!domain.contains(char::is_control)).then_some(domain)
}
