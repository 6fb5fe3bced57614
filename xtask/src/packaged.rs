//! The published packages, packed by cargo and unpacked to `target/packaged`, as whoever depends on them gets them.

use std::fs;
use std::path::{Path, PathBuf};

use curator_harness::checkout::root;
use curator_harness::error::{Context, Error, Result};
use curator_harness::process::{Orphan, bound};
use curator_harness::step;

use crate::cargo::cargo;
use crate::workspace::packages;

/// What each package has besides its sources.
const REQUIRED_FILES: [&str; 3] = ["Cargo.toml", "LICENSE", "README.md"];

/// A package that is unpacked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unpacked {
    /// Its name.
    pub name: String,
    /// Its directory.
    pub directory: PathBuf,
}

/// The workspace of the unpacked packages.
pub fn directory() -> PathBuf {
    root().join("target/packaged")
}

/// Packs and unpacks all published packages, and makes one workspace of them, with the dependencies that are locked
/// here.
///
/// # Errors
/// If a package cannot be packed, or lacks a file.
pub fn unpack() -> Result<Vec<Unpacked>> {
    let names: Vec<_> = packages()?
        .into_iter()
        .filter(|package| package.published)
        .map(|package| package.name)
        .collect();
    // The packages are built from here; cargo's own verification would build each with all its dependencies.
    let mut words = vec!["package", "--offline", "--no-verify", "--allow-dirty", "--quiet"];
    for name in &names {
        words.extend(["--package", name]);
    }
    step::quiet("pack the packages", cargo(&words))?;
    let target = directory();
    fs::create_dir_all(&target).context(|| format!("cannot create {}", target.display()))?;
    let version = env!("CARGO_PKG_VERSION");
    let mut unpacked = Vec::new();
    for name in names {
        let file = root().join(format!("target/package/{name}-{version}.crate"));
        let directory = target.join(&name);
        if directory.exists() {
            fs::remove_dir_all(&directory).context(|| format!("cannot remove {}", directory.display()))?;
        }
        let mut tar = bound("tar", Orphan::Kill);
        fs::create_dir_all(&directory).context(|| format!("cannot create {}", directory.display()))?;
        tar.arg("xzf")
            .arg(&file)
            .arg("--strip-components=1")
            .arg("-C")
            .arg(&directory);
        step::quiet(&format!("unpack {name}"), tar)?;
        if let Some(missing) = REQUIRED_FILES.iter().find(|file| !is_file(&directory.join(file))) {
            return Err(Error::new(format!(
                "the package {name} has no {missing}: add the file to its folder"
            )));
        }
        unpacked.push(Unpacked { name, directory });
    }
    write(&target.join("Cargo.toml"), &manifest(&unpacked)?)?;
    let lock = target.join("Cargo.lock");
    fs::copy(root().join("Cargo.lock"), &lock).context(|| format!("cannot write {}", lock.display()))?;
    Ok(unpacked)
}

fn is_file(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|metadata| metadata.is_file() && metadata.len() > 0)
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).context(|| format!("cannot write {}", path.display()))
}

/// The manifest of a workspace of these packages. They depend on each other as they are here, whatever a registry has.
fn manifest(unpacked: &[Unpacked]) -> Result<String> {
    let text = fs::read_to_string(root().join("Cargo.toml")).context(|| "cannot read Cargo.toml".to_owned())?;
    // With the same profiles, dependencies are built once for all.
    let profiles = text
        .find("[profile.dev]")
        .zip(text.find("[profile.sim]").or_else(|| text.find("[profile.release]")))
        .and_then(|(from, to)| text.get(from..to))
        .unwrap_or_default();
    let profiles: String = profiles
        .lines()
        .filter(|line| !line.starts_with('#'))
        .flat_map(|line| [line, "\n"])
        .collect();
    let folder = |package: &Unpacked| {
        let name = package.directory.file_name().unwrap_or_default();
        name.to_string_lossy().into_owned()
    };
    let members: Vec<_> = unpacked
        .iter()
        .map(|package| format!("{:?}", folder(package)))
        .collect();
    let patches: String = unpacked
        .iter()
        .map(|package| format!("{} = {{ path = {:?} }}\n", package.name, folder(package)))
        .collect();
    Ok(format!(
        "[workspace]\nresolver = \"3\"\nmembers = [{}]\n\n[patch.crates-io]\n{patches}\n{profiles}",
        members.join(", ")
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_depend_on_each_other_as_they_are() {
        let unpacked = [Unpacked {
            name: "curator-a".into(),
            directory: PathBuf::from("/somewhere/curator-a"),
        }];
        let text = manifest(&unpacked).expect("the manifest here");
        assert!(text.contains("members = [\"curator-a\"]"), "{text}");
        assert!(
            text.contains("[patch.crates-io]\ncurator-a = { path = \"curator-a\" }"),
            "{text}"
        );
        assert!(text.contains("[profile.dev.package.tokio]"), "{text}");
    }
}
