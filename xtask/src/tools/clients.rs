//! Clients that others wrote, to be tested with: gRPC's C core in Python, grpc-js, grpc-go and grpcurl; and h2spec,
//! which tries HTTP/2 itself. Each is pinned in `tools/clients`, and brought once.
use std::fs;
use std::path::Path;
use std::time::Duration;

use curator_harness::checkout::{root, tools_dir};
use curator_harness::error::{Context, Error, Result};
use curator_harness::process::{Orphan, bound, run};
use curator_harness::step;
use curator_harness::which::on_path;

use super::{go, install};

const NETWORK: Duration = Duration::from_secs(300);
/// grpcurl has much to compile, on a machine that is busy.
const COMPILES: Duration = Duration::from_secs(600);

/// What is brought together.
struct Kit {
    /// Its directory beneath the tools, and for people.
    name: &'static str,
    /// What must be on `PATH` to bring it.
    needs: &'static str,
    /// What it is made of: a file's name, and what is in it. They lie beside what was made of them.
    sources: &'static [(&'static str, &'static str)],
    /// What must be there then.
    made: &'static [&'static str],
    fill: fn(&Path) -> Result<()>,
}

const KITS: [Kit; 3] = [
    Kit {
        name: "clients-python",
        needs: "python3",
        sources: &[
            ("client.py", include_str!("../../../tools/clients/python/client.py")),
            (
                "requirements.txt",
                include_str!("../../../tools/clients/python/requirements.txt"),
            ),
        ],
        made: &["bin/python"],
        fill: python,
    },
    Kit {
        name: "clients-node",
        needs: "npm",
        sources: &[
            ("client.js", include_str!("../../../tools/clients/node/client.js")),
            ("package.json", include_str!("../../../tools/clients/node/package.json")),
            (
                "package-lock.json",
                include_str!("../../../tools/clients/node/package-lock.json"),
            ),
        ],
        made: &[
            "node_modules/@grpc/grpc-js/package.json",
            "node_modules/@grpc/proto-loader/package.json",
        ],
        fill: node,
    },
    Kit {
        name: "clients-go",
        needs: "go",
        sources: &[
            ("main.go", include_str!("../../../tools/clients/go/main.go")),
            ("go.mod", include_str!("../../../tools/clients/go/go.mod")),
            ("go.sum", include_str!("../../../tools/clients/go/go.sum")),
        ],
        made: &["client", "grpcurl", "h2spec"],
        fill: from_go,
    },
];

impl Kit {
    fn is_in(&self, directory: &Path) -> bool {
        let same =
            |(name, text): &(&str, &str)| fs::read_to_string(directory.join(name)).is_ok_and(|kept| kept == *text);
        self.sources.iter().all(same) && self.made.iter().all(|name| directory.join(name).exists())
    }

    fn bring(&self) -> Result<bool> {
        if on_path(self.needs).is_none() {
            return Err(Error::new(format!("there is no {} here", self.needs)));
        }
        let fill = |directory: &Path| {
            for (name, text) in self.sources {
                let path = directory.join(name);
                fs::write(&path, text).context(|| format!("cannot write {}", path.display()))?;
            }
            (self.fill)(directory)
        };
        install(self.name, |directory| self.is_in(directory), fill)
    }
}

/// Brings what can be had, unless that is done, and says what cannot.
pub fn bring() {
    for kit in &KITS {
        match kit.bring() {
            Ok(true) => step::say(format_args!("{:<15} brought now", kit.name)),
            Ok(false) => {}
            Err(error) => step::say(format_args!(
                "SKIPPED: {}, which cannot be had here: {}",
                kit.name,
                error.chain()
            )),
        }
    }
}

/// Whether each is there, by its name.
pub fn report() -> Vec<(&'static str, bool)> {
    let tools = tools_dir();
    KITS.iter()
        .map(|kit| (kit.name, kit.is_in(&tools.join(kit.name))))
        .collect()
}

fn python(directory: &Path) -> Result<()> {
    let mut make = bound("python3", Orphan::Kill);
    make.args(["-m", "venv", "--copies"]).arg(directory);
    let mut fill = bound(directory.join("bin/python"), Orphan::Kill);
    fill.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"])
        .args(["--require-hashes", "--only-binary", ":all:", "-r"])
        .arg(directory.join("requirements.txt"));
    step::timed("bring gRPC's C core from PyPI", || {
        run(make, NETWORK)?.success("python3 -m venv")?;
        run(fill, NETWORK)?.success("pip install").map(drop)
    })
}

fn node(directory: &Path) -> Result<()> {
    let mut fill = bound("npm", Orphan::Kill);
    fill.args(["ci", "--ignore-scripts", "--no-audit", "--no-fund"])
        .current_dir(directory);
    step::timed("bring grpc-js from npm", || {
        run(fill, NETWORK)?.success("npm ci").map(drop)
    })
}

fn from_go(directory: &Path) -> Result<()> {
    for (program, package) in [
        ("client", "."),
        ("grpcurl", "github.com/fullstorydev/grpcurl/cmd/grpcurl"),
        ("h2spec", "github.com/summerwind/h2spec/cmd/h2spec"),
    ] {
        let module = root().join("tools/clients/go");
        let build = go::build(Path::new("go"), &module, package, &directory.join(program));
        step::timed(&format!("build {program} with Go"), || {
            run(build, COMPILES)?.success(&format!("go build {package}")).map(drop)
        })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_client_is_pinned_with_what_it_must_hash_to() {
        let text = |kit: &str, file: &str| {
            let kit = KITS.iter().find(|known| known.name == kit).unwrap();
            kit.sources.iter().find(|(name, _)| *name == file).unwrap().1
        };
        let requirements = text("clients-python", "requirements.txt");
        for line in requirements.lines().filter(|line| line.contains("==")) {
            assert!(line.ends_with('\\'), "{line} has no hash");
        }
        assert!(requirements.contains("grpcio=="));
        let lock = text("clients-node", "package-lock.json");
        assert!(
            lock.matches("\"version\"").count() <= lock.matches("\"integrity\"").count() + 1,
            "each has a hash"
        );
        let sum = text("clients-go", "go.sum");
        for module in ["github.com/fullstorydev/grpcurl v", "github.com/summerwind/h2spec v"] {
            assert!(sum.contains(module), "{module}");
        }
    }

    #[test]
    fn what_was_made_of_other_sources_is_not_taken() {
        let directory = std::env::temp_dir().join(format!("curator-clients-{}", std::process::id()));
        let kit = Kit {
            name: "kit",
            needs: "sh",
            sources: &[("source", "new")],
            made: &["made"],
            fill: |_| Ok(()),
        };
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join("made"), "").unwrap();
        fs::write(directory.join("source"), "old").unwrap();
        assert!(!kit.is_in(&directory));
        fs::write(directory.join("source"), "new").unwrap();
        assert!(kit.is_in(&directory));
        fs::remove_file(directory.join("made")).unwrap();
        assert!(!kit.is_in(&directory));
        fs::remove_dir_all(&directory).unwrap();
    }
}
