//! The `curator` binary: an instance of the service, and the commands that prepare and repair one.

mod cli;
mod config;
mod process;

use std::process::ExitCode;

/// jemalloc returns memory to the system from background threads within seconds after a burst of calls. glibc returns
/// only the end of a heap, which some live object usually holds; mimalloc returns pages only when a thread allocates
/// again, so that an idle process keeps most of them.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    cli::run(std::env::args_os().collect())
}
