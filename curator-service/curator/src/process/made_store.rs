//! A store that a command fills: where the command has made it and fails, nothing of it stays.

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use curator_election::embedded::{EmbeddedError, EmbeddedStore};
use curator_election::namespace::{Namespace, Namespaced};
use curator_election::store::Store;

/// The store, and what is to be removed with it.
pub(crate) struct ToFill {
    store: Arc<dyn Store>,
    made: Option<Made>,
}

/// A store in a directory that was not there before.
struct Made {
    /// Open until its file is removed, so that no other process has it meanwhile.
    store: Arc<EmbeddedStore>,
    /// The directories that were made, the innermost first.
    directories: Vec<PathBuf>,
}

impl ToFill {
    /// One that stays, whatever becomes of the command.
    pub(crate) fn there(store: Arc<dyn Store>) -> Self {
        Self { store, made: None }
    }

    /// The one in a directory, which is made if it is not there.
    pub(crate) fn embedded(directory: &Path, namespace: Namespace) -> Result<Self, Box<dyn Error>> {
        match EmbeddedStore::open_existing(directory) {
            Ok(store) => Ok(Self::there(Arc::new(Namespaced::new(Arc::new(store), namespace)))),
            Err(EmbeddedError::Missing { .. }) => {
                let missing = directory
                    .ancestors()
                    .take_while(|path| !path.as_os_str().is_empty() && !path.exists());
                let directories = missing.map(Path::to_owned).collect();
                let store = Arc::new(EmbeddedStore::open(directory)?);
                Ok(Self {
                    store: Arc::new(Namespaced::new(store.clone(), namespace)),
                    made: Some(Made { store, directories }),
                })
            }
            Err(error) => Err(error.into()),
        }
    }

    pub(crate) fn store(&self) -> &dyn Store {
        &*self.store
    }

    /// Whether this has made it.
    pub(crate) const fn is_new(&self) -> bool {
        self.made.is_some()
    }

    /// What was to be written is there.
    pub(crate) fn keep(mut self) {
        self.made = None;
    }
}

impl Drop for ToFill {
    fn drop(&mut self) {
        let Some(made) = self.made.take() else { return };
        let mut removed = fs::remove_file(made.store.path());
        for directory in &made.directories {
            removed = removed.and_then(|()| fs::remove_dir(directory));
        }
        if let Err(error) = removed {
            let path = made.store.path().display();
            eprintln!("warning: {path} was made for this and could not be removed: {error}");
        }
    }
}
