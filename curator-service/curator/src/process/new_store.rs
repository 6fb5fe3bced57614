//! A store that a command fills. If the command created the store and fails, the store is removed again.

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use curator_election::embedded::{EmbeddedError, EmbeddedStore};
use curator_election::namespace::{Namespace, Namespaced};
use curator_election::store::Store;

/// The store, and the files to remove if it is not kept.
pub(crate) struct NewStore {
    store: Arc<dyn Store>,
    made: Option<Made>,
}

/// An embedded store that this process created.
struct Made {
    /// Open until its file is removed, so that no other process opens it.
    store: Arc<EmbeddedStore>,
    /// The directories that were created, innermost first.
    directories: Vec<PathBuf>,
}

impl NewStore {
    /// A store that is never removed.
    pub(crate) fn existing(store: Arc<dyn Store>) -> Self {
        Self { store, made: None }
    }

    /// The embedded store in a directory; created if it does not exist.
    pub(crate) fn embedded(directory: &Path, namespace: Namespace) -> Result<Self, Box<dyn Error>> {
        match EmbeddedStore::open_existing(directory) {
            Ok(store) => Ok(Self::existing(Arc::new(Namespaced::with_siblings(
                Arc::new(store),
                namespace,
            )))),
            Err(EmbeddedError::Missing { .. }) => {
                let missing = directory
                    .ancestors()
                    .take_while(|path| !path.as_os_str().is_empty() && !path.exists());
                let directories = missing.map(Path::to_owned).collect();
                let store = Arc::new(EmbeddedStore::open(directory)?);
                Ok(Self {
                    store: Arc::new(Namespaced::with_siblings(store.clone(), namespace)),
                    made: Some(Made { store, directories }),
                })
            }
            Err(error) => Err(error.into()),
        }
    }

    pub(crate) fn store(&self) -> &dyn Store {
        &*self.store
    }

    /// Whether this process created the store.
    pub(crate) const fn is_new(&self) -> bool {
        self.made.is_some()
    }

    /// Keeps the store.
    pub(crate) fn keep(mut self) {
        self.made = None;
    }
}

impl Drop for NewStore {
    fn drop(&mut self) {
        let Some(made) = self.made.take() else { return };
        let mut removed = fs::remove_file(made.store.path());
        for directory in &made.directories {
            removed = removed.and_then(|()| fs::remove_dir(directory));
        }
        if let Err(error) = removed {
            let path = made.store.path().display();
            eprintln!("warning: cannot remove {path}, which this attempt created: {error}");
        }
    }
}
