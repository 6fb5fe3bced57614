//! Hosts that a guide speaks of, each a shell in a directory of its own into which blocks are put, as by somebody who
//! pastes them.
//!
//! What a guide names is moved, and nothing else of it is changed: addresses of hosts to addresses of loopback that
//! nobody else uses, and `/etc/curator` and `/var/lib/etcd` into the directory. What one host has once, the port, all
//! of them have here, so each listens at its own address.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use curator_harness::curator::{binary_from_env, ctl_from_env};
use curator_harness::process::{Orphan, bound, spawn};
use curator_harness::{EtcdBinaries, TempDir, wait_until};
use rustix::process::{Pid, Signal, kill_process_group};

/// How long a block may take.
const LONG: Duration = Duration::from_secs(120);

/// Addresses for all hosts of a guide.
pub(super) struct Place {
    network: String,
}

impl Place {
    pub(super) fn new(scratch: &TempDir) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = std::process::id() * 8 + NEXT.fetch_add(1, Ordering::Relaxed) % 8;
        fs::create_dir(scratch.path().join("bin")).unwrap();
        Self {
            network: format!("127.{}.{}.", 64 + (number / 251) % 128, 1 + number % 251),
        }
    }

    /// The address of a host.
    pub(super) fn address(&self, number: u8) -> String {
        format!("{}{number}", self.network)
    }
}

/// A host.
pub(super) struct Host {
    directory: PathBuf,
    network: String,
    own: String,
    log: PathBuf,
    child: Child,
    blocks: usize,
}

impl Host {
    /// The shell, with the programs on its path, and whoever sits there has a home of their own.
    pub(super) fn new(scratch: &TempDir, place: &Place, name: &str, number: u8) -> Self {
        let directory = scratch.dir(name).unwrap();
        for part in ["etc", "var/lib", "home", "bin"] {
            fs::create_dir_all(directory.join(part)).unwrap();
        }
        let log = scratch.log(&format!("{name}.log"));
        let own = place.address(number);
        let mut command = bound("sh", Orphan::Kill);
        // A group of its own, so that what it leaves in the background goes with it.
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let programs = [
            directory.join("bin"),
            binary_from_env().unwrap().parent().unwrap().to_owned(),
            ctl_from_env().unwrap().parent().unwrap().to_owned(),
            EtcdBinaries::from_env().unwrap().directory().to_owned(),
        ];
        let path = std::env::var("PATH").unwrap_or_default();
        let programs: Vec<_> = programs.iter().map(|path| path.display().to_string()).collect();
        for (variable, _) in std::env::vars() {
            if variable.starts_with("CURATOR") && !variable.ends_with("_BIN") && variable != "CURATOR_ETCD_DIR" {
                command.env_remove(variable);
            }
        }
        command
            .arg("-eu")
            .current_dir(&directory)
            .env("PATH", format!("{}:{path}", programs.join(":")))
            .env("HOME", directory.join("home"))
            .env_remove("XDG_CONFIG_HOME")
            .env("CURATOR_LISTEN", format!("{own}:7835"))
            .env("CURATOR_OBSERVE", format!("{own}:7836"))
            .stdin(Stdio::piped())
            .stdout(File::create(&log).unwrap())
            .stderr(File::options().append(true).open(&log).unwrap());
        let child = spawn(command).unwrap();
        Self {
            directory,
            network: place.network.clone(),
            own,
            log,
            child,
            blocks: 0,
        }
    }

    /// The programs are there: what a guide has cargo build is not built once more, and is found where cargo would put
    /// it.
    pub(super) fn builds_nothing(&self) {
        let target = self.path("target");
        fs::create_dir(&target).unwrap();
        symlink(binary_from_env().unwrap().parent().unwrap(), target.join("debug")).unwrap();
        let cargo = self.path("bin/cargo");
        fs::write(&cargo, "#!/bin/sh\n[ \"$*\" = \"build -p curator -p curatorctl\" ]\n").unwrap();
        fs::set_permissions(cargo, fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// A path on the host.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// All that was printed so far.
    pub(super) fn output(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    /// A block as it is on this host.
    fn here(&self, block: &str) -> String {
        block
            .replace("10.0.0.", &self.network)
            .replace("192.0.2.", &self.network)
            // With a port: in certificates it is where connections come from, here as well.
            .replace("127.0.0.1:", &format!("{}:", self.own))
            .replace("/etc/curator", &self.path("etc/curator").display().to_string())
            .replace("/var/lib/etcd", &self.path("var/lib/etcd").display().to_string())
    }

    /// Puts a block in, and does not wait for it.
    pub(super) fn start(&mut self, block: &str) {
        self.blocks += 1;
        let file = self.path(&format!("block-{}.sh", self.blocks));
        fs::write(&file, self.here(block)).unwrap();
        let mark = self.mark();
        // What a block reads is not what is put in next. Not with `&&`: then the block would go on after a failure.
        let words = format!(". {} </dev/null\n: > {}\n", file.display(), mark.display());
        let stdin = self.child.stdin.as_mut().unwrap();
        stdin.write_all(words.as_bytes()).unwrap();
        stdin.flush().unwrap();
    }

    fn mark(&self) -> PathBuf {
        self.path(&format!("block-{}.done", self.blocks))
    }

    /// Waits for the last block.
    pub(super) fn wait(&mut self) {
        let mark = self.mark();
        let child = &mut self.child;
        let ended = wait_until("a block of a guide", LONG, || {
            if mark.exists() {
                return Some(true);
            }
            let ended = child.try_wait().unwrap();
            ended.map(|_| mark.exists())
        });
        let file = self.path(&format!("block-{}.sh", self.blocks));
        let block = fs::read_to_string(file).unwrap();
        match ended {
            Ok(true) => {}
            Ok(false) => panic!("the block failed:\n{block}\n{}", self.output()),
            Err(error) => panic!("{}:\n{block}\n{}", error.chain(), self.output()),
        }
    }

    /// Puts a block in, and waits until it is done.
    pub(super) fn run(&mut self, block: &str) {
        self.start(block);
        self.wait();
    }

    /// Who sits there, for commands beside the blocks.
    pub(super) fn user(&self) -> User {
        User {
            home: self.path("home"),
        }
    }

    /// Brings a file from another host, under the same name.
    pub(super) fn bring(&self, from: &Path) {
        let to = self.directory.join(from.file_name().unwrap());
        fs::copy(from, to).unwrap();
    }
}

/// Somebody with a context.
#[derive(Clone)]
pub(super) struct User {
    home: PathBuf,
}

impl User {
    /// Runs `curatorctl`, and returns what it prints if it succeeds.
    pub(super) fn ask(&self, words: &[&str]) -> Result<String, String> {
        let mut command = Command::new(ctl_from_env().unwrap());
        command
            .args(words)
            .env("HOME", &self.home)
            .env_remove("XDG_CONFIG_HOME");
        match curator_harness::process::run(command, LONG) {
            Ok(finished) if finished.status.success() => Ok(finished.stdout),
            Ok(finished) => Err(finished.stderr),
            Err(error) => Err(error.chain()),
        }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // It has not been reaped, so that the group is its own.
        let _ = kill_process_group(Pid::from_child(&self.child), Signal::KILL);
        let _ = self.child.wait();
    }
}
