//! The file: the live keys, the leases and the revision, in tables of redb.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use redb::{Database, Durability, ReadableDatabase, ReadableTable, TableDefinition};

use crate::memory::model::{Model, Stored};
use crate::{KeyValue, LeaseId, Revision};

/// The format that this version reads and writes. Raise it with every change to the tables.
pub(super) const FORMAT: u64 = 1;

/// Create revision, revision of the last change, version, lease (0 for none), value.
type Record<'a> = (i64, i64, i64, i64, &'a [u8]);

const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
const KEYS: TableDefinition<'_, &[u8], Record<'_>> = TableDefinition::new("keys");
/// The TTL in whole seconds, by id.
const LEASES: TableDefinition<'_, i64, u64> = TableDefinition::new("leases");

const META_FORMAT: &str = "format";
const META_REVISION: &str = "revision";

/// The open file.
#[derive(Debug)]
pub(super) struct Journal {
    database: Database,
}

/// An error of loading the file.
#[derive(Debug)]
pub(super) enum LoadError {
    Database(redb::Error),
    Format(String),
    Damaged(String),
}

impl<E: Into<redb::Error>> From<E> for LoadError {
    fn from(error: E) -> Self {
        Self::Database(error.into())
    }
}

impl Journal {
    pub(super) const fn new(database: Database) -> Self {
        Self { database }
    }

    /// Creates the tables of an empty store.
    pub(super) fn initialize(&self) -> Result<(), redb::Error> {
        let mut writing = self.database.begin_write()?;
        writing.set_durability(Durability::Immediate)?;
        {
            let mut meta = writing.open_table(META)?;
            meta.insert(META_FORMAT, FORMAT)?;
            meta.insert(META_REVISION, 1)?;
            writing.open_table(KEYS)?;
            writing.open_table(LEASES)?;
        }
        writing.commit()?;
        Ok(())
    }

    /// Reads everything.
    pub(super) fn load(&self) -> Result<Stored, LoadError> {
        let reading = self.database.begin_read()?;
        // A database with other tables, or a `meta` of other types, is not an embedded store.
        let meta = match reading.open_table(META) {
            Ok(meta) => meta,
            Err(redb::TableError::Storage(error)) => return Err(error.into()),
            Err(error) => return Err(LoadError::Format(format!("unknown ({error})"))),
        };
        match meta.get(META_FORMAT)?.map(|format| format.value()) {
            Some(FORMAT) => {}
            Some(other) => return Err(LoadError::Format(other.to_string())),
            None => return Err(LoadError::Format("unknown (no format recorded)".into())),
        }
        let revision = meta.get(META_REVISION)?.map(|revision| revision.value());
        let revision = revision.and_then(|revision| i64::try_from(revision).ok());
        let revision = revision.ok_or_else(|| LoadError::Damaged("no revision recorded".into()))?;
        let mut keys = Vec::new();
        for entry in reading.open_table(KEYS)?.iter()? {
            let (key, record) = entry?;
            let (created, changed, version, lease, value) = record.value();
            keys.push(KeyValue {
                key: Bytes::copy_from_slice(key.value()),
                value: Bytes::copy_from_slice(value),
                create_revision: Revision(created),
                mod_revision: Revision(changed),
                version,
                lease: LeaseId::new(lease),
            });
        }
        let mut leases = Vec::new();
        for entry in reading.open_table(LEASES)?.iter()? {
            let (id, ttl) = entry?;
            let id = LeaseId::new(id.value()).ok_or_else(|| LoadError::Damaged("lease with id 0".into()))?;
            leases.push((id, Duration::from_secs(ttl.value())));
        }
        Ok(Stored {
            revision: Revision(revision),
            keys,
            leases,
        })
    }

    /// Writes the current state of these keys and leases of `model`, and its revision, durably and atomically.
    pub(super) fn write(
        &self,
        model: &Model,
        keys: &BTreeSet<Bytes>,
        leases: &BTreeSet<LeaseId>,
    ) -> Result<(), redb::Error> {
        let mut writing = self.database.begin_write()?;
        writing.set_durability(Durability::Immediate)?;
        {
            let mut table = writing.open_table(KEYS)?;
            for key in keys {
                if let Some(kv) = model.get(key) {
                    let lease = kv.lease.map_or(0, LeaseId::get);
                    let (created, changed) = (kv.create_revision.0, kv.mod_revision.0);
                    table.insert(key.as_ref(), (created, changed, kv.version, lease, kv.value.as_ref()))?;
                } else {
                    table.remove(key.as_ref())?;
                }
            }
            let mut table = writing.open_table(LEASES)?;
            for lease in leases {
                if let Some(ttl) = model.lease_ttl(*lease) {
                    table.insert(lease.get(), ttl.as_secs())?;
                } else {
                    table.remove(lease.get())?;
                }
            }
            let revision = u64::try_from(model.revision().0).unwrap_or_default();
            writing.open_table(META)?.insert(META_REVISION, revision)?;
        }
        writing.commit()?;
        Ok(())
    }

    /// Closes the file and reports an error, which dropping does not.
    pub(super) fn close(self) -> Result<(), redb::Error> {
        Ok(self.database.close()?)
    }
}
