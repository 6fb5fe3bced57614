//! `curator export` from a running instance with an embedded store, which no other process can open.
//!
//! The instance serves exports on a Unix socket in the store's directory, to its own user and to root, who could read
//! the store's file anyway. The client sends the namespace and gets the lines of the export.

use std::fs::{self, File, Permissions};
use std::io::{self, BufReader, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream as Blocking;
use std::path::{Path, PathBuf};
use std::time::Duration;

use curator_election::namespace::Namespace;
use curator_election::store::Store;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use crate::state::export::{About, Archive, Exporter, GIVEN_UP, TransferError};

const NAME: &str = "export.sock";
/// The timeout for reading the request and for writing each piece.
const IO_TIMEOUT: Duration = Duration::from_secs(10);
/// The timeout of a whole export. One export is served at a time.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(600);
/// The maximum length of the request, more than any namespace has.
const MAX_HEADER_BYTES: u64 = 4 << 10;
/// The pause after a failed accept.
const ACCEPT_RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// Why a running instance did not export its state.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunningError {
    /// No instance answers on the socket.
    #[error(
        "the process that has this store open does not serve exports at {}: {source}; it is not `curator serve`, or \
         an earlier version of it",
        path.display()
    )]
    Unreachable {
        /// The socket.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The export failed, or could not be written.
    #[error("export from the running instance: {0}")]
    Transfer(#[from] TransferError),
}

/// The path of a directory's socket through the open directory, which is short even if the directory's path is long.
/// Valid while the directory is open.
fn socket(directory: &File) -> PathBuf {
    format!("/proc/self/fd/{}/{NAME}", directory.as_raw_fd()).into()
}

/// Serves exports until dropped. This process is the only user of the store's directory.
pub(super) async fn serve(directory: &Path, namespace: &Namespace, store: &dyn Store) -> io::Result<()> {
    let directory = File::open(directory)?;
    let path = socket(&directory);
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&path)?;
    fs::set_permissions(&path, Permissions::from_mode(0o600))?;
    loop {
        let asking = match listener.accept().await {
            Ok((asking, _)) => asking,
            Err(error) => {
                warn!(%error, "export socket: accept failed");
                sleep(ACCEPT_RETRY_INTERVAL).await;
                continue;
            }
        };
        let told = timeout(EXPORT_TIMEOUT, tell(asking, namespace, store)).await;
        match told.unwrap_or_else(|_| Err(late(EXPORT_TIMEOUT).into())) {
            Ok(about) => info!(keys = about.keys, revision = about.revision, "state exported"),
            Err(error) => warn!(%error, "export failed"),
        }
    }
}

fn late(within: Duration) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, format!("timed out after {within:?}"))
}

/// Whether a user may read the store's file anyway.
const fn may_read(user: u32, own: u32) -> bool {
    user == own || user == 0
}

async fn tell(mut asking: UnixStream, namespace: &Namespace, store: &dyn Store) -> Result<About, TransferError> {
    let own = rustix::process::geteuid().as_raw();
    if !may_read(asking.peer_cred()?.uid(), own) {
        return Err(io::Error::from(io::ErrorKind::PermissionDenied).into());
    }
    let done = pieces(&mut asking, namespace, store).await;
    if let Err(error) = &done {
        // The client may have gone.
        let reason = error.to_string().replace('\n', " ");
        let _ = timeout(IO_TIMEOUT, asking.write_all(format!("{GIVEN_UP}{reason}\n").as_bytes())).await;
    }
    done
}

async fn pieces(asking: &mut UnixStream, namespace: &Namespace, store: &dyn Store) -> Result<About, TransferError> {
    let mut wanted = String::new();
    let mut asked = tokio::io::BufReader::new((&mut *asking).take(MAX_HEADER_BYTES));
    let read = timeout(IO_TIMEOUT, asked.read_line(&mut wanted)).await;
    read.unwrap_or_else(|_| Err(late(IO_TIMEOUT)))?;
    if wanted.trim_end() != namespace.prefix() {
        let own = namespace.prefix();
        return Err(TransferError::GivenUp(format!(
            "this instance uses namespace {own:?}: set --etcd-namespace"
        )));
    }
    let mut export = Exporter::begin(store, curator_identity::wall_clock()).await?;
    while let Some(text) = export.next().await? {
        let written = timeout(IO_TIMEOUT, asking.write_all(text.as_bytes())).await;
        written.unwrap_or_else(|_| Err(late(IO_TIMEOUT)))?;
    }
    Ok(export.about().clone())
}

/// Writes the state of the instance that runs on the store in this directory. Blocks. The output is complete if this
/// succeeds.
///
/// # Errors
/// No instance runs on the store, or the export fails.
pub fn export_running(directory: &Path, namespace: &Namespace, out: &mut dyn Write) -> Result<About, RunningError> {
    let unreachable = |source| RunningError::Unreachable {
        path: directory.join(NAME),
        source,
    };
    let opened = File::open(directory).map_err(unreachable)?;
    let mut instance = Blocking::connect(socket(&opened)).map_err(unreachable)?;
    // Other clients may be served first.
    let limits = instance.set_read_timeout(Some(EXPORT_TIMEOUT));
    limits
        .and_then(|()| instance.set_write_timeout(Some(IO_TIMEOUT)))
        .map_err(unreachable)?;
    let ask = format!("{}\n", namespace.prefix());
    instance.write_all(ask.as_bytes()).map_err(unreachable)?;
    let archive = Archive::read(&mut BufReader::new(Tee {
        from: instance,
        to: out,
    }))?;
    Ok(archive.about().clone())
}

/// Writes down what is read.
struct Tee<'a> {
    from: Blocking,
    to: &'a mut dyn Write,
}

impl Read for Tee<'_> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let length = self.from.read(bytes)?;
        self.to.write_all(bytes.get(..length).unwrap_or_default())?;
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use curator_election::memory::MemoryCluster;
    use curator_election::store::{Op, Txn};

    use super::*;
    use crate::state::keys::CLUSTER_CONFIGURATION;

    #[test]
    fn only_who_could_read_the_store_itself_is_given_it() {
        assert!(may_read(7, 7) && may_read(0, 7));
        assert!(!may_read(8, 7) && !may_read(8, 0));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_store_that_is_in_use_is_exported_by_whoever_uses_it() {
        let directory = std::env::temp_dir().join(format!("curator-backup-{}-{}", "x".repeat(100), std::process::id()));
        fs::create_dir(&directory).unwrap();
        let store = MemoryCluster::new(1).client(0);
        // More than a socket takes at once.
        let puts = vec![
            Op::put(CLUSTER_CONFIGURATION, "c"),
            Op::put("/nodes/a", vec![1; 4 << 20]),
        ];
        store.txn(Txn::default().then(puts)).await.unwrap();
        let (namespace, other): (Namespace, Namespace) = ("one".parse().unwrap(), "other".parse().unwrap());
        let ask = |namespace: Namespace| {
            let directory = directory.clone();
            tokio::task::spawn_blocking(move || {
                let mut out = Vec::new();
                // Until it listens.
                loop {
                    match export_running(&directory, &namespace, &mut out) {
                        Err(RunningError::Unreachable { .. }) => std::thread::yield_now(),
                        done => return (done, out),
                    }
                }
            })
        };
        let asking = async { (ask(namespace.clone()).await.unwrap(), ask(other).await.unwrap()) };
        let ((done, out), (refused, _)) = tokio::select! {
            ended = serve(&directory, &namespace, &store) => panic!("{ended:?}"),
            asked = asking => asked,
        };
        assert_eq!(done.unwrap().keys, 2);
        assert_eq!(Archive::read(&mut &out[..]).unwrap().about().nodes, 1);
        let refused = refused.unwrap_err().to_string();
        assert!(refused.contains("--etcd-namespace"), "{refused}");
        // What a killed one has left is in nobody's way.
        let again = tokio::select! {
            ended = serve(&directory, &namespace, &store) => panic!("{ended:?}"),
            (done, _) = async { ask(namespace.clone()).await.unwrap() } => done,
        };
        assert_eq!(again.unwrap().keys, 2);
        fs::remove_dir_all(directory).unwrap();
    }
}
