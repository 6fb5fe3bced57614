//! The header of an export: the cluster, the time, the store's revision and the number of nodes.
//!
//! It is the lines that begin with `#`, after the first line. They are compared with the content when the file is read,
//! so a header cannot describe another cluster.

use std::time::SystemTime;

use bytes::Bytes;
use curator_election::store::{Keys, Op, OpResult, Range, Revision, Store, Txn};
use curator_identity::hex;
use ring::digest::{SHA256, digest};

use crate::state::export::{TransferError, unfinished};
use crate::state::keys::CLUSTER_CONFIGURATION;
use crate::state::pki_layout::Layout;
use crate::state::record::ClusterRecord;

/// The prefix of node records.
const NODES: &str = "/nodes/";

/// The header of an export.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct About {
    /// The format version.
    pub format: u32,
    /// The SHA-256 of the cluster authority's certificate, in hex, which identifies the cluster. `None` without a
    /// certificate.
    pub cluster: Option<String>,
    /// The cluster's domain, if the configuration can be decoded.
    pub domain: Option<String>,
    /// When the export was made; `None` in format 1.
    pub time: Option<SystemTime>,
    /// The store's revision; `None` in format 1.
    pub revision: Option<i64>,
    /// The version of the Curator that made the export; `None` in format 1.
    pub version: Option<String>,
    /// The number of nodes.
    pub nodes: usize,
    /// The number of keys.
    pub keys: usize,
}

impl About {
    /// The description of a store. The keys are not counted yet.
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

    /// The description of a file, from its keys and values alone.
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

    /// The header lines, with line ends.
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

    /// Parses one header line, without `# ` and line end. Unknown names, of later versions, are ignored.
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

    /// The header, checked against the content. Format 1 has no header.
    pub(super) fn checked(self, content: Self) -> Result<Self, TransferError> {
        if self.format == 1 {
            return Ok(content);
        }
        let damaged = |why: &str| Err(TransferError::Damaged(why.to_owned()));
        if self.time.is_none() || self.revision.is_none() {
            return damaged("the header has no time or no revision");
        }
        if (&self.cluster, &self.domain) != (&content.cluster, &content.domain) {
            return damaged("the header names another cluster than the content");
        }
        if self.nodes != content.nodes {
            return damaged("the header has another number of nodes than the content");
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
    // It must fit on one line.
    (!domain.contains(char::is_control)).then_some(domain)
}
