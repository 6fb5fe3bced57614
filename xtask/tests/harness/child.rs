//! Runs one of the ignored tests of this program in a process of its own, so that a test can kill it or compare with
//! it.

use std::env;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, ChildStdout, Command, Stdio};

/// Set in a process that was started here. The ignored tests do nothing without it, so that running all of them is
/// harmless.
const MARK: &str = "XTASK_TEST_CHILD";

/// A process that runs one ignored test, killed when it is dropped.
pub(crate) struct TestChild {
    child: Child,
    stdout: BufReader<ChildStdout>,
}

impl TestChild {
    pub(crate) fn start(test: &str) -> Self {
        let mut child = Command::new(env::current_exe().unwrap())
            .args(["--exact", test, "--ignored", "--nocapture", "--test-threads", "1"])
            .env(MARK, "1")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        Self { child, stdout }
    }

    /// What it printed after `marker`, on the first line that holds it.
    pub(crate) fn said(&mut self, marker: &str) -> String {
        let mut line = String::new();
        loop {
            line.clear();
            assert_ne!(
                self.stdout.read_line(&mut line).unwrap(),
                0,
                "it ended without having said {marker:?}"
            );
            if let Some((_, rest)) = line.trim_end().split_once(marker) {
                return rest.to_owned();
            }
        }
    }

    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for TestChild {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) fn is_child() -> bool {
    env::var_os(MARK).is_some()
}
