//! Reads what a process prints, line by line as it comes, with the moment of arrival, and copies it to a log file.

use std::fs::File;
use std::io::{self, PipeWriter, Read, Write};
use std::os::fd::AsFd;
use std::thread::{self, JoinHandle};
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, poll};

use crate::error::{Context, Result};

/// A longer line is handed on in pieces.
const LONGEST: usize = 1 << 20;

/// A line that a process printed.
#[derive(Clone, Debug)]
pub struct Line {
    /// When it was read.
    pub at: Instant,
    /// Without its end.
    pub text: String,
}

/// The thread that reads. It ends with the output, or when this is dropped: a grandchild that holds the pipe open
/// cannot keep it.
#[derive(Debug)]
pub(crate) struct LineReader {
    thread: Option<JoinHandle<()>>,
    stop: Option<PipeWriter>,
}

impl LineReader {
    /// Reads `from` on a thread of its own and hands each line to `sink`.
    pub(crate) fn start<R>(from: R, mut copy: File, mut sink: impl FnMut(Line) + Send + 'static) -> Result<Self>
    where
        R: Read + AsFd + Send + 'static,
    {
        let (stopped, stop) = io::pipe().context(|| "cannot make a pipe".to_owned())?;
        let thread = thread::Builder::new()
            .name("lines".to_owned())
            .spawn(move || {
                let mut from = from;
                let mut pending = Vec::new();
                let mut chunk = [0; 8192];
                while let Ok((readable, stopping)) = ready(&from, &stopped) {
                    if !readable {
                        if stopping {
                            break;
                        }
                        continue;
                    }
                    let count = match from.read(&mut chunk) {
                        Ok(0) | Err(_) => break,
                        Ok(count) => count,
                    };
                    let at = Instant::now();
                    // A full disk must not stop the reader, for a full pipe would stop the process.
                    let _ = copy.write_all(&chunk[..count]);
                    pending.extend_from_slice(&chunk[..count]);
                    while let Some(end) = pending.iter().position(|&byte| byte == b'\n') {
                        sink(Line {
                            at,
                            text: String::from_utf8_lossy(&pending[..end]).into_owned(),
                        });
                        pending.drain(..=end);
                    }
                    if pending.len() > LONGEST {
                        sink(Line {
                            at,
                            text: String::from_utf8_lossy(&pending).into_owned(),
                        });
                        pending.clear();
                    }
                }
                if !pending.is_empty() {
                    sink(Line {
                        at: Instant::now(),
                        text: String::from_utf8_lossy(&pending).into_owned(),
                    });
                }
            })
            .context(|| "cannot start a thread that reads a process's output".to_owned())?;
        Ok(Self {
            thread: Some(thread),
            stop: Some(stop),
        })
    }

    /// Reads what is there and ends the thread.
    pub(crate) fn finish(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            // A panic of the sink has been printed already, and a second one while dropping would abort.
            let _ = thread.join();
        }
    }
}

impl Drop for LineReader {
    fn drop(&mut self) {
        self.finish();
    }
}

/// Waits until there is something to read (or the output has ended), or the reader is to stop.
fn ready(from: &impl AsFd, stopped: &impl AsFd) -> io::Result<(bool, bool)> {
    let mut fds = [PollFd::new(from, PollFlags::IN), PollFd::new(stopped, PollFlags::IN)];
    loop {
        match poll(&mut fds, None) {
            Ok(_) => return Ok((!fds[0].revents().is_empty(), !fds[1].revents().is_empty())),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}
