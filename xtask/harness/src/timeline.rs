//! A picture of a run: who led when, what was done to whom, and what callers saw of it.
//!
//! [`Record`] is all that is shown; [`draw`] makes a page of it that needs nothing else: no script, no other file,
//! light and dark, wide and narrow. [`write()`] puts both under `target/pictures/`.

mod draw;
mod gather;
mod record;

use std::fs;
use std::path::PathBuf;

pub use draw::draw;
pub use draw::escaped;
pub use gather::{instances, members, ms, since};
pub use record::{Instance, Life, Member, Ms, Record, RoleInterval, Second, Span, code_name};

use crate::checkout::root;
use crate::error::{Context, Result};

/// Writes the page, and the record as JSON beside it. Returns where the page is.
///
/// # Errors
/// When it cannot be written.
pub fn write(record: &Record) -> Result<PathBuf> {
    let directory = root().join("target").join("pictures");
    fs::create_dir_all(&directory).context(|| format!("cannot create {}", directory.display()))?;
    let page = directory.join(format!("{}.html", record.name));
    let json = serde_json::to_string(record).context(|| "cannot write the record of the run as JSON".to_owned())?;
    for (path, text) in [(page.with_extension("json"), json), (page.clone(), draw(record))] {
        fs::write(&path, text).context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(page)
}
